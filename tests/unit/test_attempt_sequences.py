"""In any order of submissions, findings and polls, a payment is credited at most once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta
from decimal import Decimal
from itertools import pairwise
from typing import Final

from hypothesis import given, settings
from hypothesis import strategies as st

from cogni_billing import (
    SYSTEM_ACCOUNT_ID,
    AttemptState,
    Billing,
    FailureCode,
    IdempotencyConflict,
    PaymentAlreadyClaimed,
    PaymentAttempts,
    PaymentFailed,
    PaymentPending,
    TenantId,
    usd,
)
from cogni_billing.adapters.memory import InMemoryUnitOfWork
from cogni_billing.domain.attempts import TRANSITIONS
from cogni_billing.testing import ALICE, BOB, CountingIds, FakeVerifier, MovableClock, paid
from cogni_billing.testing.contracts.attempt_base import CARD, STRANGER
from cogni_billing.testing.verifiers import Answer, paid_but

OWNERS: Final = (ALICE, ALICE, BOB)
"""The tenants of the three attempts."""
PAYMENTS: Final = ("stripe:a", "stripe:a", "stripe:b")
"""The same payment is drawn more often."""
ANSWERS: Final[tuple[Answer, ...]] = (
    *(paid, paid, paid),
    PaymentPending(),
    PaymentPending(FailureCode.RPC_ERROR),
    PaymentFailed(FailureCode.TX_REVERTED),
    paid_but(recipient=STRANGER),
    paid_but(raw_amount=1),
)
EXPECTED: Final = (PaymentAlreadyClaimed, IdempotencyConflict)

attempt = st.integers(0, len(OWNERS) - 1)
steps = st.one_of(
    st.tuples(st.just("submit"), attempt, st.sampled_from(PAYMENTS)),
    st.tuples(st.just("report"), attempt, st.sampled_from(PAYMENTS)),
    st.tuples(st.just("status"), attempt),
    st.tuples(st.just("tell"), st.sampled_from(PAYMENTS), st.sampled_from(ANSWERS)),
    st.tuples(st.just("wait"), st.sampled_from([10, 10, 1, 1_800, 86_400])),
    st.tuples(st.just("purchase"), st.sampled_from(OWNERS), st.sampled_from(PAYMENTS)),
)


class Trial:
    """Three intents on an empty in-memory ledger."""

    def __init__(self) -> None:
        unit_of_work = InMemoryUnitOfWork()
        ids = CountingIds()
        self.clock, self.verifier = MovableClock(), FakeVerifier()
        self.totals = unit_of_work.totals
        self.billing = Billing(unit_of_work, clock=self.clock, ids=ids)
        self.attempts = PaymentAttempts(
            unit_of_work, verifier=self.verifier, destinations=CARD, clock=self.clock, ids=ids
        )
        made = (self.attempts.create_intent(owner, usd("2.00")) for owner in OWNERS)
        self.ids = [intent.attempt_id for intent in made]
        self.purchased: dict[str, TenantId] = {}

    def take(self, step: tuple[str, object, object]) -> None:
        name, *given = step
        with suppress(*EXPECTED):
            getattr(self, name)(*given)

    def submit(self, number: int, payment: str) -> None:
        self.attempts.submit(OWNERS[number], self.ids[number], payment)

    def report(self, number: int, payment: str) -> None:
        """A verified payment is never too late."""
        asked = OWNERS[number], self.ids[number]
        intent = self.attempts.status(*asked).intent
        attempt = self.attempts.report(*asked, payment, paid(intent))
        assert attempt.state in {AttemptState.CREDITED, AttemptState.REJECTED}

    def status(self, number: int) -> None:
        self.attempts.status(OWNERS[number], self.ids[number])

    def tell(self, payment: str, answer: Answer) -> None:
        self.verifier.tell(payment, answer)

    def wait(self, seconds: int) -> None:
        self.clock.move(timedelta(seconds=seconds))

    def purchase(self, tenant: TenantId, payment: str) -> None:
        self.billing.confirm_purchase(tenant, usd("2.00"), payment=payment)
        self.purchased.setdefault(payment, tenant)

    def check(self) -> None:
        found = [
            self.attempts.history(owner, id_) for owner, id_ in zip(OWNERS, self.ids, strict=True)
        ]
        for history in found:
            states = [event.state for event in history]
            assert all(after in TRANSITIONS[before] for before, after in pairwise(states))
            assert [event.at for event in history] == sorted(event.at for event in history)
        credited = Counter(
            history[-2].evidence for history in found if history[-1].state is AttemptState.CREDITED
        )
        assert set(credited.values()) <= {1}
        payments = set(credited) | set(self.purchased)
        assert self.totals().get(SYSTEM_ACCOUNT_ID, Decimal(0)) == 5_000_000 * len(payments)
        assert self.billing.verify().violations == ()


@settings(max_examples=settings().max_examples * 3)
@given(st.lists(steps, min_size=6, max_size=25))
def test_a_payment_is_credited_once_or_never(taken: Sequence[tuple[str, object, object]]) -> None:
    trial = Trial()
    for step in taken:
        trial.take(step)
    trial.check()
