"""Metered runs in memory while the ledger cannot be reached."""

from __future__ import annotations

from datetime import timedelta

import pytest

from cogni_billing import Billing, LedgerUnavailable, credits
from cogni_billing.adapters.memory import InMemoryUnitOfWork
from cogni_billing.domain.transactions import Recorded, Transaction
from cogni_billing.testing import ALICE


class Interrupted(InMemoryUnitOfWork):
    """It records no transaction while it is down."""

    down = False

    def post(self, transaction: Transaction) -> Recorded:
        if self.down:
            raise LedgerUnavailable("the server is down", "57P03")
        return super().post(transaction)


def test_a_cost_whose_capture_failed_is_captured_once_later() -> None:
    ledger = Interrupted()
    billing = Billing(ledger)
    billing.grant(ALICE, credits(100), source="promo:a", reference="g")

    with billing.metered(
        ALICE,
        limit=credits(50),
        reference="run-1",
        ttl=timedelta(hours=1),
        every=credits(10),
    ) as run:
        ledger.down = True
        with pytest.raises(LedgerUnavailable):
            run.add(credits(10))
        assert (run.charged, run.pending) == (credits(0), credits(10))
        ledger.down = False
        run.add(credits(3))
        assert (run.charged, run.pending) == (credits(10), credits(3))

    assert run.charged == credits(13)
    assert billing.balance(ALICE).available == credits(87)
