"""Contract: every kind of transaction follows its rules."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Final
from uuid import UUID

import pytest

from cogni_billing import AccountId, Billing, TenantId, TransactionKind, credits, usd
from cogni_billing.testing.base import (
    ALICE,
    Contract,
    CountingIds,
    MovableClock,
    NewBilling,
    Totals,
)

HOUR: Final = timedelta(hours=1)
CAROL: Final = TenantId(UUID(int=2**70))
Record = Callable[[Billing, MovableClock], str]
"""Records a transaction of Alice, and returns its reference."""


def purchase(billing: Billing, clock: MovableClock) -> str:
    billing.confirm_purchase(ALICE, usd("0.10"), payment="stripe:pi_2")
    return "stripe:pi_2"


def charge(billing: Billing, clock: MovableClock) -> str:
    billing.charge(ALICE, credits(5), reference="r")
    return "r"


def capture(billing: Billing, clock: MovableClock) -> str:
    held = billing.hold(ALICE, credits(5), reference="h")
    billing.capture(ALICE, held.id, credits(5), reference="r")
    return "r"


def grant(billing: Billing, clock: MovableClock) -> str:
    billing.grant(ALICE, credits(5), source="promo:a", reference="r")
    return "r"


def expiry(billing: Billing, clock: MovableClock) -> str:
    ends = clock.moment + HOUR
    granted = billing.grant(ALICE, credits(5), source="promo:a", reference="r", expires_at=ends)
    clock.move(HOUR)
    assert billing.sweep() == 1
    return f"{granted.transaction_id}@1"


def void(billing: Billing, clock: MovableClock) -> str:
    granted = billing.grant(ALICE, credits(5), source="promo:a", reference="a")
    billing.void_grant(ALICE, granted.transaction_id, reference="r")
    # The void undoes the grant, so another one changes the contra account.
    billing.grant(ALICE, credits(5), source="promo:a", reference="b")
    return "r"


def refund(billing: Billing, clock: MovableClock) -> str:
    billing.refund(ALICE, payment="stripe:pi_1", amount=usd("0.05"), reference="r")
    return "r"


def chargeback(billing: Billing, clock: MovableClock) -> str:
    billing.open_dispute(ALICE, payment="stripe:pi_1", reference="r")
    billing.lose_dispute(ALICE, payment="stripe:pi_1", reference="r")
    return "r"


def reinstatement(billing: Billing, clock: MovableClock) -> str:
    for reference in ("a", "r"):
        billing.refund(ALICE, payment="stripe:pi_1", amount=usd("0.05"), reference=reference)
    # It undoes a refund, so another one changes the contra account.
    billing.refund_failed(ALICE, payment="stripe:pi_1", refund="a", reference="r")
    return "r"


def adjustment(billing: Billing, clock: MovableClock) -> str:
    billing.adjust(ALICE, credits(-5), reason="billed twice", reference="r")
    return "r"


def reversal(billing: Billing, clock: MovableClock) -> str:
    billing.charge(ALICE, credits(5), reference="r")
    billing.reverse(ALICE, charge="r", amount=credits(3), reference="r")
    return "r"


def opening(billing: Billing, clock: MovableClock) -> str:
    billing.opening(CAROL, purchased=credits(5), as_of=clock.moment)
    return "opening"


RECORDS: Final[Mapping[TransactionKind, Record]] = {
    TransactionKind.PURCHASE: purchase,
    TransactionKind.CHARGE: charge,
    TransactionKind.CAPTURE: capture,
    TransactionKind.GRANT: grant,
    TransactionKind.EXPIRY: expiry,
    TransactionKind.VOID: void,
    TransactionKind.REFUND: refund,
    TransactionKind.CHARGEBACK: chargeback,
    TransactionKind.REINSTATEMENT: reinstatement,
    TransactionKind.REVERSAL: reversal,
    TransactionKind.ADJUSTMENT: adjustment,
    TransactionKind.OPENING: opening,
}
"""Records each kind. A kind without an entry fails the contract."""


def tenant_of(kind: TransactionKind) -> TenantId:
    """The tenant of the transaction that `RECORDS` records."""
    return CAROL if kind.opens_balance else ALICE


class KindContract(Contract):
    """A transaction of each kind can be recorded, and has the postings of its kind."""

    @pytest.mark.parametrize("kind", TransactionKind)
    def test_a_transaction_of_each_kind_is_recorded_by_its_rules(
        self, new_billing: NewBilling, totals: Totals, kind: TransactionKind
    ) -> None:
        clock = MovableClock()
        billing = new_billing(clock=clock, ids=CountingIds())
        billing.confirm_purchase(ALICE, usd("0.10"), payment="stripe:pi_1")
        before = totals()

        reference = RECORDS[kind](billing, clock)

        owner = tenant_of(kind)
        found = billing.find(owner, reference=reference, kind=kind)
        assert found is not None
        assert (found.kind, found.reference) == (kind, reference)
        (own,) = found.postings
        assert own.account == AccountId(owner)
        assert own.amount.is_positive is (kind.is_credit or kind.opens_balance)
        assert bool(found.shares) is kind.has_shares
        (line,) = billing.statement(owner, kind=kind, limit=1).lines
        assert (line.transaction_id, line.amount) == (found.id, own.amount)
        after = totals()
        assert after.get(kind.contra, 0) != before.get(kind.contra, 0)
        assert sum(after.values()) == 0
        assert billing.verify().violations == ()
