"""Contract: published faults of other ledgers."""

from __future__ import annotations

import pytest

from cogni_billing import (
    SYSTEM_ACCOUNT_ID,
    SYSTEM_TENANT_ID,
    IdempotencyConflict,
    RevenueSharePolicy,
    ShareMode,
    ShareRule,
    credits,
    usd,
)
from cogni_billing.ports.scope import Scope, UnitOfWork
from cogni_billing.testing.base import ALICE, NOON, Contract, NewBilling, Totals
from cogni_billing.testing.contracts.purchases import planned

PAYMENT = "stripe:pi_1"


class CrashError(Exception):
    """Stands for the end of the process."""


class KnownFaultContract(Contract):
    def test_no_share_is_lost_between_two_writes(
        self, unit_of_work: UnitOfWork, new_billing: NewBilling, totals: Totals
    ) -> None:
        """Credit and share were two transactions, and a crash between them lost the share."""

        def crash(scope: Scope) -> None:
            scope.ledger.post(planned())
            raise CrashError

        with pytest.raises(CrashError):
            unit_of_work.run(ALICE, crash)
        assert totals() == {}

        receipt = new_billing().confirm_purchase(ALICE, usd("10.00"), payment=PAYMENT)

        assert not receipt.replayed
        assert totals()[SYSTEM_ACCOUNT_ID] == 25_000_000

    def test_a_won_dispute_releases_everything(
        self, new_billing: NewBilling, totals: Totals
    ) -> None:
        """Opening a dispute took credits, and winning it did not return them."""
        billing = new_billing()
        billing.confirm_purchase(ALICE, usd("1.00"), payment=PAYMENT)
        before = totals()

        billing.open_dispute(ALICE, payment=PAYMENT, reference="dp_1")
        billing.win_dispute(ALICE, payment=PAYMENT, reference="dp_1")

        assert totals() == before
        assert billing.charge(ALICE, credits(10_000_000), reference="r").balance == credits(0)
        assert billing.balance(SYSTEM_TENANT_ID).available == credits(2_500_000)

    def test_no_share_stays_after_a_refund(self, new_billing: NewBilling) -> None:
        """A refund took the customer's credits, and the platform kept its share."""
        billing = new_billing()
        billing.confirm_purchase(ALICE, usd("1.00"), payment=PAYMENT)

        billing.refund(ALICE, payment=PAYMENT, reference="re_1")

        assert billing.balance(SYSTEM_TENANT_ID).posted == credits(0)

    def test_a_share_that_does_not_divide_is_taken_back_to_the_credit(
        self, new_billing: NewBilling
    ) -> None:
        """Taking back a third of an odd share failed, or left a remainder."""
        odd = ShareRule(SYSTEM_ACCOUNT_ID, "0.333336")
        billing = new_billing(policy=RevenueSharePolicy("v1", NOON, ShareMode.BONUS, (odd,)))
        billing.confirm_purchase(ALICE, usd("0.03"), payment=PAYMENT)
        left = []
        for number in range(3):
            billing.refund(ALICE, payment=PAYMENT, amount=usd("0.01"), reference=f"re_{number}")
            left.append(int(billing.balance(SYSTEM_TENANT_ID).posted.value))

        assert left == [66_667, 33_334, 0]

    def test_a_refund_reported_twice_is_recorded_once(self, new_billing: NewBilling) -> None:
        """A webhook came twice, and credits were taken twice."""
        billing = new_billing()
        billing.confirm_purchase(ALICE, usd("1.00"), payment=PAYMENT)

        for _ in range(2):
            billing.refund(ALICE, payment=PAYMENT, amount=usd("0.40"), reference="re_1")

        assert billing.balance(ALICE).posted == credits(6_000_000)

    def test_a_payment_confirmed_with_another_amount_conflicts(
        self, new_billing: NewBilling
    ) -> None:
        """A payment with another amount was answered like a replay."""
        billing = new_billing()
        billing.confirm_purchase(ALICE, usd("1.00"), payment=PAYMENT)

        with pytest.raises(IdempotencyConflict):
            billing.confirm_purchase(ALICE, usd("2.00"), payment=PAYMENT)

        assert billing.balance(ALICE).posted == credits(10_000_000)
