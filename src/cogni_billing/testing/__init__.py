"""The conformance kit: the promises of every adapter as tests, for adapters written elsewhere.

Also helpers for a host's own tests: `cogni_billing.testing.plugin` has fixtures, and
`cogni_billing.testing.strategies` has Hypothesis strategies. Needs the extra `testing`.
"""

import pytest

# Must come before the imports, so that failed assertions in these modules show their values.
pytest.register_assert_rewrite("cogni_billing.testing.contracts", "cogni_billing.testing.machine")

from cogni_billing.testing.base import (  # noqa: E402
    ALICE,
    BOB,
    NOON,
    Contract,
    CountingIds,
    Fixtures,
    MovableClock,
    NewAttempts,
    NewBilling,
    NewUnitOfWork,
    Reached,
    SteppingClock,
    Totals,
    reaching,
)
from cogni_billing.testing.blocking import blocking, blocking_attempts, running_loop  # noqa: E402
from cogni_billing.testing.conformance import (  # noqa: E402
    DurableConformance,
    IsolatedConformance,
    MemoryConformance,
    TransactionalConformance,
)
from cogni_billing.testing.contracts.breaking_off import BreakingOffContract, BreakOff, Call  # noqa: E402
from cogni_billing.testing.contracts.restarting import Restart, RestartContract  # noqa: E402
from cogni_billing.testing.contracts.spending import SpendingContract  # noqa: E402
from cogni_billing.testing.contracts.verifying import Falsify, FindingContract  # noqa: E402
from cogni_billing.testing.processors import (  # noqa: E402
    FakeDispute,
    FakePayment,
    FakeProcessor,
    FakeRefund,
)
from cogni_billing.testing.verifiers import FakeVerifier, paid  # noqa: E402

__all__ = [
    "ALICE",
    "BOB",
    "NOON",
    "BreakOff",
    "BreakingOffContract",
    "Call",
    "Contract",
    "CountingIds",
    "DurableConformance",
    "FakeDispute",
    "FakePayment",
    "FakeProcessor",
    "FakeRefund",
    "FakeVerifier",
    "Falsify",
    "FindingContract",
    "Fixtures",
    "IsolatedConformance",
    "MemoryConformance",
    "MovableClock",
    "NewAttempts",
    "NewBilling",
    "NewUnitOfWork",
    "Reached",
    "Restart",
    "RestartContract",
    "SpendingContract",
    "SteppingClock",
    "Totals",
    "TransactionalConformance",
    "blocking",
    "blocking_attempts",
    "paid",
    "reaching",
    "running_loop",
]
