"""Contract: the service role finds a payment by the processor's id."""

from __future__ import annotations

import pytest

from cogni_billing import Billing, DisputeState, FoundPayment, usd
from cogni_billing.testing.base import ALICE, BOB, Contract

PAYMENT = "stripe:pi_1"


def found(billing: Billing) -> FoundPayment:
    payment = billing.find_payment(PAYMENT)
    assert payment is not None
    return payment


class FindPaymentContract(Contract):
    def test_a_payment_without_a_purchase_is_not_found(self, billing: Billing) -> None:
        billing.confirm_purchase(ALICE, usd("10.00"), payment="stripe:pi_2")

        assert billing.find_payment(PAYMENT) is None

    def test_a_payment_is_found_with_its_tenant(self, billing: Billing) -> None:
        billing.confirm_purchase(ALICE, usd("3.00"), payment="stripe:pi_0")
        receipt = billing.confirm_purchase(BOB, usd("10.00"), payment=PAYMENT)
        purchase = billing.transaction(BOB, receipt.transaction_id)

        assert purchase is not None
        assert found(billing) == FoundPayment(
            tenant=BOB,
            payment=PAYMENT,
            transaction_id=receipt.transaction_id,
            at=purchase.at,
            paid=usd("10.00"),
            refunded=usd(0),
            disputed=usd(0),
            disputes=(),
        )

    def test_refunds_and_disputes_are_told_apart(self, billing: Billing) -> None:
        billing.confirm_purchase(ALICE, usd("10.00"), payment=PAYMENT)
        billing.refund(ALICE, payment=PAYMENT, amount=usd("1.00"), reference="re_1")
        for name, cents in (("dp_1", 200), ("dp_2", 300), ("dp_3", 400)):
            billing.open_dispute(
                ALICE, payment=PAYMENT, amount=usd(f"{cents // 100}.00"), reference=name
            )
        billing.lose_dispute(ALICE, payment=PAYMENT, reference="dp_1")
        billing.win_dispute(ALICE, payment=PAYMENT, reference="dp_2")

        payment = found(billing)

        assert (payment.refunded, payment.disputed) == (usd("1.00"), usd("4.00"))
        assert [(each.reference, each.state) for each in payment.disputes] == [
            ("dp_1", DisputeState.LOST),
            ("dp_2", DisputeState.WON),
            ("dp_3", DisputeState.OPEN),
        ]
        assert [each.reference for each in payment.open_disputes] == ["dp_3"]

    @pytest.mark.parametrize("other", ["stripe:pi_10", "stripe:pi_", "stripe:PI_1", "paypal:pi_1"])
    def test_another_id_is_another_payment(self, billing: Billing, other: str) -> None:
        billing.confirm_purchase(ALICE, usd("10.00"), payment=PAYMENT)

        assert billing.find_payment(other) is None
