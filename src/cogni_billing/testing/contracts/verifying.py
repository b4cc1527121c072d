"""Contract: `verify`."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

from cogni_billing import (
    SYSTEM_TENANT_ID,
    Billing,
    InvalidInput,
    OpeningGrant,
    Overrun,
    Shortfall,
    TenantId,
    Verification,
    credits,
    usd,
)
from cogni_billing.testing.base import ALICE, BOB, NOON, Contract, SteppingClock

HOUR = timedelta(hours=1)
CAROL = TenantId(UUID(int=2**70))
DAVE = TenantId(UUID(int=2**71))


def live(billing: Billing, clock: SteppingClock) -> None:
    """Record transactions of every kind."""
    billing.confirm_purchase(ALICE, usd("0.10"), payment="stripe:pi_1")
    billing.confirm_purchase(BOB, usd("0.03"), payment="stripe:pi_2")
    billing.confirm_purchase(SYSTEM_TENANT_ID, usd("0.01"), payment="stripe:pi_3")
    billing.grant(ALICE, credits(500), source="promo:a", reference="a", expires_at=NOON + HOUR)
    billing.grant(ALICE, credits(300), source="promo:b", reference="b", priority=1)
    billing.charge(ALICE, credits(350), reference="run-1")
    captured = billing.hold(ALICE, credits(100), reference="run-2")
    billing.capture(ALICE, captured.id, credits(60), reference="run-2")
    billing.release(ALICE, billing.hold(ALICE, credits(10), reference="run-3").id)
    billing.hold(ALICE, credits(50), reference="run-4")
    billing.hold(ALICE, credits(20), reference="run-5", expires_at=NOON + HOUR)
    billing.charge(BOB, credits(400_000), reference="run-1", allow_overdraft=True)
    billing.charge(SYSTEM_TENANT_ID, credits(7), reference="run-1")
    brought(billing)
    billing.fold()
    clock.moment = NOON + 2 * HOUR
    billing.charge(ALICE, credits(3), reference="run-6")
    billing.reverse(ALICE, charge="run-6", amount=credits(2), reference="back-1")
    billing.reverse(ALICE, charge="run-1", amount=credits(60), reference="back-2")
    billing.confirm_purchase(BOB, usd("0.03"), payment="stripe:pi_4")
    returned(billing)
    billing.adjust(BOB, credits(-900), reason="billed twice", reference="ticket-1")
    billing.adjust(BOB, credits(40), reason="sorry", reference="ticket-2")


def brought(billing: Billing) -> None:
    """Record an opening of Carol: a debt, and two grants."""
    grants = [
        OpeningGrant(amount=credits(size), source="promo:o", granted_at=NOON - 2 * HOUR)
        for size in (30, 20)
    ]
    billing.opening(CAROL, purchased=credits(-40), grants=grants, as_of=NOON - HOUR)


def returned(billing: Billing) -> None:
    """Record a payment of Bob that is reversed in parts."""
    paid_by = "stripe:pi_5"
    billing.confirm_purchase(BOB, usd("1.00"), payment=paid_by)
    billing.refund(BOB, payment=paid_by, amount=usd("0.25"), reference="re_1")
    for number in (1, 2, 3):
        billing.open_dispute(BOB, payment=paid_by, amount=usd("0.20"), reference=f"dp_{number}")
    billing.lose_dispute(BOB, payment=paid_by, reference="dp_1")
    billing.win_dispute(BOB, payment=paid_by, reference="dp_3")
    billing.charge(BOB, credits(3_000_000), reference="run-2")
    rest = usd("0.35")  # all that is not disputed
    billing.refund(BOB, payment=paid_by, amount=rest, reference="re_2", shortfall=Shortfall.CLAMP)


def changed(billing: Billing) -> None:
    """Record a hold of Alice that is changed in each way, and stays open."""
    billing.grant(ALICE, credits(25), source="promo:d", reference="d")
    hold = billing.hold(ALICE, credits(40), reference="run-7")
    billing.capture(ALICE, hold.id, credits(10), reference="run-7", final=False)
    billing.grant(ALICE, credits(5), source="promo:e", reference="e")
    billing.extend(ALICE, hold.id, credits(20), reference="run-7")
    billing.release(ALICE, hold.id, credits(33), reference="run-7")
    billing.capture(
        ALICE, hold.id, credits(20), reference="run-8", final=False, overrun=Overrun.AVAILABLE
    )
    billing.extend(ALICE, hold.id, credits(7), reference="run-8")


def expiring(billing: Billing, clock: SteppingClock) -> None:
    """Record purchases of Dave that expire: one refunded in parts, one disputed, one unspent."""
    billing.confirm_purchase(DAVE, usd("0.10"), payment="stripe:x_1", expires_in=HOUR)
    billing.charge(DAVE, credits(300_000), reference="run-x")
    billing.refund(DAVE, payment="stripe:x_1", amount=usd("0.02"), reference="re_x1")
    clock.moment += HOUR
    billing.refund(DAVE, payment="stripe:x_1", amount=usd("0.04"), reference="re_x2")
    billing.confirm_purchase(DAVE, usd("0.10"), payment="stripe:x_2", expires_in=HOUR)
    billing.confirm_purchase(DAVE, usd("0.01"), payment="stripe:x_3", expires_in=HOUR)
    billing.open_dispute(DAVE, payment="stripe:x_2", amount=usd("0.01"), reference="dp_x")


def undone(billing: Billing) -> None:
    """Record a refund of Bob that failed, and disputes that changed."""
    paid_by = "stripe:pi_6"
    billing.confirm_purchase(BOB, usd("0.07"), payment=paid_by)
    for reference in ("re_3", "re_4"):
        billing.refund(
            BOB,
            payment=paid_by,
            amount=usd("0.03"),
            reference=reference,
            shortfall=Shortfall.CLAMP,
        )
    billing.open_dispute(BOB, payment=paid_by, amount=usd("0.05"), reference="dp_4")
    billing.refund_failed(BOB, payment=paid_by, refund="re_3", reference="failed-1")
    billing.lose_dispute(BOB, payment=paid_by, reference="dp_4", amount=usd("0.02"))
    billing.win_dispute(BOB, payment=paid_by, reference="dp_4")
    billing.lose_dispute(BOB, payment=paid_by, reference="dp_4")
    billing.update_dispute(BOB, payment=paid_by, reference="dp_4", amount=usd("0.01"))


class VerifyingContract(Contract):
    def test_an_empty_ledger_has_no_violations(self, billing: Billing) -> None:
        assert billing.verify() == Verification(violations=(), transactions=0, postings=0)

    def test_a_ledger_with_every_kind_of_record_has_no_violations(
        self, billing: Billing, clock: SteppingClock
    ) -> None:
        live(billing, clock)

        found = billing.verify()

        assert found.violations == ()
        assert found.ok
        # 5 purchases, 4 grants, an opening, 5 charges, a capture, an expiry, 2 refunds, a
        # chargeback, 2 adjustments and 2 reversals. Seven transactions have a share, one has an
        # absorbed shortfall, and one has expired credits.
        assert (found.transactions, found.postings) == (24, 24 * 2 + 9)

    def test_a_ledger_with_undone_reversals_has_no_violations(
        self, billing: Billing, clock: SteppingClock
    ) -> None:
        live(billing, clock)
        undone(billing)

        assert billing.verify().violations == ()

    def test_a_ledger_with_a_changed_hold_has_no_violations(
        self, billing: Billing, clock: SteppingClock
    ) -> None:
        live(billing, clock)
        changed(billing)

        assert billing.verify().violations == ()

    def test_a_ledger_with_purchases_that_expire_has_no_violations(
        self, billing: Billing, clock: SteppingClock
    ) -> None:
        expiring(billing, clock)

        assert billing.verify().violations == ()

    @pytest.mark.parametrize("limit", [0, -1, 100_001, True, "5", None])
    def test_an_invalid_limit_of_violations_is_refused(self, billing: Billing, limit: Any) -> None:
        with pytest.raises(InvalidInput):
            billing.verify(limit=limit)


Falsify = Callable[[UUID], None]
"""Adds one credit to a posting of the transaction, below the adapter."""


class FindingContract(Contract):
    """Needs a ledger whose records can be falsified below the adapter.

    A subclass has one more fixture, `falsify`.
    """

    def test_a_falsified_transaction_is_found(self, billing: Billing, falsify: Falsify) -> None:
        made = [billing.confirm_purchase(ALICE, usd(1), payment=f"stripe:{n}") for n in range(3)]
        for receipt in made[1:]:
            falsify(receipt.transaction_id)

        found = billing.verify()
        first = billing.verify(limit=1)

        assert not found.ok
        accused = {violation.where.get("transaction") for violation in found.violations}
        assert accused >= {str(receipt.transaction_id) for receipt in made[1:]}
        assert str(made[0].transaction_id) not in accused
        rules = [violation.invariant for violation in first.violations]
        assert len(rules) == len(set(rules)) < len(found.violations)

    def test_what_was_falsified_after_it_was_sealed_breaks_its_seal(
        self, billing: Billing, falsify: Falsify
    ) -> None:
        key = b"k" * 32
        made = [billing.confirm_purchase(ALICE, usd(1), payment=f"stripe:{n}") for n in range(3)]
        seals = billing.seal(key=key)
        falsify(billing.confirm_purchase(ALICE, usd(1), payment="stripe:3").transaction_id)
        assert billing.verify_seals(seals, key=key) == ()

        falsify(made[1].transaction_id)

        (violation,) = billing.verify_seals(seals, key=key)
        assert violation.where == {"tenant": str(ALICE), "positions": "1-3"}
