"""Contract: totals of refunds, and refunds that failed at the bank."""

from __future__ import annotations

from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from attrs import evolve

from cogni_billing import (
    SYSTEM_TENANT_ID,
    AccountId,
    Billing,
    BillingError,
    Difference,
    IdempotencyConflict,
    InsufficientCredits,
    InvalidAmount,
    InvalidInput,
    InvalidReference,
    RefundExceedsPayment,
    Shortfall,
    UnitMismatch,
    UnknownAccount,
    UnknownPayment,
    UnknownRefund,
    credits,
    usd,
)
from cogni_billing.domain.identity import BREAKAGE, SHORTFALL
from cogni_billing.testing.base import (
    ALICE,
    NOON,
    Contract,
    NewBilling,
    SteppingClock,
    Totals,
)
from cogni_billing.testing.contracts.refunds import EVERYONE, PAYMENT, PaymentContract, policy
from cogni_billing.testing.racing import at_once

HOUR = timedelta(hours=1)


def failed(billing: Billing, refund: str = "re_1", reference: str = "failed-1") -> Any:
    return billing.refund_failed(ALICE, payment=PAYMENT, refund=refund, reference=reference)


class RefundTotalContract(PaymentContract):
    """A refund up to a total takes back what is missing to it."""

    def test_totals_that_grow_take_back_the_difference(
        self, billing: Billing, totals: Totals
    ) -> None:
        refund = partial(billing.refund, ALICE, payment=PAYMENT)
        first = refund(total=usd("0.30"), reference="re_1")
        second = refund(total=usd("1.00"), reference="re_2")

        assert (first.refunded, second.refunded) == (usd("0.30"), usd("0.70"))
        assert second.total_refunded == usd("1.00")
        assert set(totals().values()) == {0}
        assert billing.verify().violations == ()

    @pytest.mark.parametrize("late", ["0.30", "0.70"])
    def test_a_total_that_is_reached_already_records_a_refund_of_zero(
        self, billing: Billing, late: str
    ) -> None:
        refund = partial(billing.refund, ALICE, payment=PAYMENT)
        refund(total=usd("0.70"), reference="re_2")
        before = self.posted(billing)

        receipt = refund(total=usd(late), reference="re_1")

        assert (receipt.refunded, receipt.total_refunded) == (usd("0.00"), usd("0.70"))
        assert receipt.taken == receipt.shortfall == credits(0)
        assert refund(total=usd(late), reference="re_1") == evolve(receipt, replayed=True)
        assert self.posted(billing) == before
        assert billing.verify().violations == ()

    def test_a_total_counts_refunds_by_amount(self, billing: Billing) -> None:
        refund = partial(billing.refund, ALICE, payment=PAYMENT)
        refund(amount=usd("0.40"), reference="re_1")

        assert refund(total=usd("0.50"), reference="re_2").refunded == usd("0.10")

    def test_a_total_counts_no_refund_that_failed(self, billing: Billing) -> None:
        refund = partial(billing.refund, ALICE, payment=PAYMENT)
        refund(total=usd("0.40"), reference="re_1")
        failed(billing)

        assert refund(total=usd("0.40"), reference="re_2").refunded == usd("0.40")
        assert billing.verify().violations == ()

    def test_a_total_counts_no_lost_dispute(self, billing: Billing, totals: Totals) -> None:
        """The processor counts refunds and disputes apart. Together they return the payment."""
        billing.open_dispute(ALICE, payment=PAYMENT, amount=usd("0.60"), reference="dp_1")
        billing.lose_dispute(ALICE, payment=PAYMENT, reference="dp_1")

        receipt = billing.refund(ALICE, payment=PAYMENT, total=usd("0.70"), reference="re_1")

        assert (receipt.refunded, receipt.total_refunded) == (usd("0.40"), usd("1.00"))
        assert set(totals().values()) == {0}
        billing.win_dispute(ALICE, payment=PAYMENT, reference="dp_1")
        assert self.posted(billing) == [3_000_000, 750_000, 300_000]
        assert billing.verify().violations == ()

    def test_a_total_and_an_amount_under_one_key_conflict(self, billing: Billing) -> None:
        billing.refund(ALICE, payment=PAYMENT, total=usd("0.40"), reference="re_1")

        with pytest.raises(IdempotencyConflict) as caught:
            billing.refund(ALICE, payment=PAYMENT, amount=usd("0.40"), reference="re_1")

        assert caught.value.differences == (
            Difference("amount", "absent", "0.40 USD"),
            Difference("total", "0.40 USD", "absent"),
        )

    @pytest.mark.parametrize(
        ("given", "error"),
        [
            ({"total": usd("0.40"), "amount": usd("0.40")}, InvalidInput),
            ({"total": usd("0.00")}, InvalidAmount),
            ({"total": credits(5)}, UnitMismatch),
            ({"total": usd("1.01")}, RefundExceedsPayment),
        ],
    )
    def test_an_invalid_total_is_refused_and_takes_nothing(
        self, billing: Billing, given: dict[str, Any], error: type[BillingError]
    ) -> None:
        with pytest.raises(error):
            billing.refund(ALICE, payment=PAYMENT, reference="re_1", **given)

        assert self.posted(billing) == [10_000_000, 2_500_000, 1_000_000]


class DisputedRefundContract(PaymentContract):
    """A refund lowers what open disputes set aside, the undisputed rest first."""

    def test_a_refund_takes_the_undisputed_rest_before_the_newest_dispute(
        self, billing: Billing
    ) -> None:
        dispute = partial(billing.open_dispute, ALICE, payment=PAYMENT)
        dispute(amount=usd("0.40"), reference="dp_1")
        dispute(amount=usd("0.40"), reference="dp_2")

        billing.refund(ALICE, payment=PAYMENT, amount=usd("0.30"), reference="re_1")

        assert dispute(amount=usd("0.40"), reference="dp_1").set_aside == credits(4_000_000)
        assert dispute(amount=usd("0.40"), reference="dp_2").set_aside == credits(3_000_000)
        assert self.posted(billing) == self.held(billing) == [7_000_000, 1_750_000, 700_000]
        assert billing.verify().violations == ()

    def test_a_full_refund_leaves_nothing_disputed(self, billing: Billing, totals: Totals) -> None:
        billing.open_dispute(ALICE, payment=PAYMENT, reference="dp_1")

        receipt = billing.refund(ALICE, payment=PAYMENT, reference="re_1")

        assert receipt.taken == credits(10_000_000)
        assert self.held(billing) == [0, 0, 0]
        assert set(totals().values()) == {0}
        lost = billing.lose_dispute(ALICE, payment=PAYMENT, reference="dp_1")
        assert (lost.refunded, lost.taken) == (usd("0.00"), credits(0))
        assert set(totals().values()) == {0}
        assert billing.verify().violations == ()

    def test_a_clamped_refund_may_take_the_credits_that_it_frees(self, billing: Billing) -> None:
        self.frees(billing, Shortfall.CLAMP)

    def test_a_refund_that_refuses_a_debt_may_take_the_credits_that_it_frees(
        self, billing: Billing
    ) -> None:
        self.frees(billing, Shortfall.REFUSE)

    def frees(self, billing: Billing, shortfall: Shortfall) -> None:
        billing.open_dispute(ALICE, payment=PAYMENT, reference="dp_1")

        receipt = billing.refund(
            ALICE, payment=PAYMENT, amount=usd("0.40"), reference="re_1", shortfall=shortfall
        )

        assert (receipt.taken, receipt.shortfall) == (credits(4_000_000), credits(0))
        assert billing.balance(ALICE).available == credits(0)
        assert billing.verify().violations == ()

    def test_a_refused_refund_frees_nothing(self, billing: Billing) -> None:
        billing.open_dispute(ALICE, payment=PAYMENT, amount=usd("0.80"), reference="dp_1")
        billing.charge(ALICE, credits(2_000_000), reference="run-1")

        with pytest.raises(InsufficientCredits) as caught:
            billing.refund(
                ALICE,
                payment=PAYMENT,
                amount=usd("0.30"),
                reference="re_1",
                shortfall=Shortfall.REFUSE,
            )

        assert caught.value.available == credits(1_000_000)
        assert self.held(billing) == [8_000_000, 2_000_000, 800_000]
        assert billing.verify().violations == ()

    def test_an_error_names_the_lost_disputes(self, billing: Billing) -> None:
        billing.open_dispute(ALICE, payment=PAYMENT, amount=usd("0.60"), reference="dp_1")
        billing.open_dispute(ALICE, payment=PAYMENT, amount=usd("0.10"), reference="dp_2")
        billing.lose_dispute(ALICE, payment=PAYMENT, reference="dp_1")

        with pytest.raises(RefundExceedsPayment) as caught:
            billing.refund(ALICE, payment=PAYMENT, amount=usd("0.41"), reference="re_1")

        assert (caught.value.remaining, caught.value.disputes) == (usd("0.40"), ("dp_1",))


class FailedRefundContract(PaymentContract):
    """A refund that failed is undone exactly, once."""

    @pytest.mark.parametrize("shortfall", [Shortfall.DEBT, Shortfall.CLAMP])
    def test_a_failed_refund_leaves_every_account_as_before_it(
        self, billing: Billing, totals: Totals, shortfall: Shortfall
    ) -> None:
        billing.charge(ALICE, credits(9_000_000), reference="run-1")
        billing.grant(ALICE, credits(500_000), source="promo:a", reference="g")
        before, grants = totals(), billing.grants(ALICE)
        refund = billing.refund(
            ALICE, payment=PAYMENT, amount=usd("0.90"), reference="re_1", shortfall=shortfall
        )

        receipt = failed(billing)

        assert {SHORTFALL: 0, **totals()} == {SHORTFALL: 0, **before}
        assert billing.grants(ALICE) == grants
        assert (receipt.payment, receipt.refund) == (PAYMENT, "re_1")
        assert (receipt.reinstated, receipt.total_refunded) == (usd("0.90"), usd("0.00"))
        assert (receipt.credited, receipt.shares) == (refund.taken, refund.shares)
        assert (receipt.shortfall, receipt.lapsed) == (refund.shortfall, credits(0))
        assert receipt.draws == refund.draws
        assert billing.verify().violations == ()

    def test_expired_credits_go_back_to_breakage(
        self, billing: Billing, totals: Totals, clock: SteppingClock
    ) -> None:
        billing.confirm_purchase(ALICE, usd("1.00"), payment="stripe:pi_2", expires_in=HOUR)
        clock.moment = NOON + 2 * HOUR
        billing.sweep()
        before = totals()
        billing.refund(ALICE, payment="stripe:pi_2", reference="re_1")
        assert totals()[BREAKAGE] == 0

        receipt = billing.refund_failed(
            ALICE, payment="stripe:pi_2", refund="re_1", reference="failed-1"
        )

        assert receipt.lapsed == credits(10_000_000)
        assert totals() == before
        again = billing.refund(ALICE, payment="stripe:pi_2", reference="re_2")
        assert again.lapsed == credits(10_000_000)
        assert billing.verify().violations == ()

    def test_credits_go_back_to_the_purchase_and_expire_with_it(
        self, billing: Billing, clock: SteppingClock
    ) -> None:
        billing.confirm_purchase(ALICE, usd("0.10"), payment="stripe:pi_2", expires_in=HOUR)
        before = billing.lots(ALICE)
        billing.refund(ALICE, payment="stripe:pi_2", reference="re_1")
        billing.refund_failed(ALICE, payment="stripe:pi_2", refund="re_1", reference="f")

        assert billing.lots(ALICE) == before
        clock.moment = NOON + 2 * HOUR
        assert billing.balance(ALICE).posted == credits(10_000_000)
        assert billing.verify().violations == ()

    def test_credits_of_a_grant_that_expired_since_expire_at_once(
        self, billing: Billing, clock: SteppingClock
    ) -> None:
        billing.charge(ALICE, credits(10_000_000), reference="run-1")
        billing.grant(ALICE, credits(50), source="a", reference="g", expires_in=HOUR)
        billing.refund(ALICE, payment=PAYMENT, amount=usd("0.10"), reference="re_1")
        assert billing.grants(ALICE) == ()
        clock.moment = NOON + 2 * HOUR

        receipt = failed(billing)

        assert receipt.balance == credits(50)
        assert billing.balance(ALICE).posted == credits(0)
        assert billing.statement(ALICE).lines[0].kind == "expiry"
        assert billing.verify().violations == ()

    def test_the_absorbed_part_of_the_failed_refund_goes_back_first(
        self, billing: Billing, totals: Totals
    ) -> None:
        """The other refund keeps what it took, although the failed one came first."""
        refund = partial(billing.refund, ALICE, payment=PAYMENT, shortfall=Shortfall.CLAMP)
        billing.charge(ALICE, credits(8_000_000), reference="run-1")
        refund(amount=usd("0.50"), reference="re_1")
        billing.grant(ALICE, credits(3_000_000), source="a", reference="g")
        refund(amount=usd("0.20"), reference="re_2")
        assert totals()[SHORTFALL] == -3_000_000

        receipt = failed(billing)

        assert (receipt.credited, receipt.shortfall) == (credits(2_000_000), credits(3_000_000))
        assert totals()[SHORTFALL] == 0
        assert billing.balance(ALICE).posted == credits(3_000_000)
        assert billing.verify().violations == ()

    def test_a_failed_refund_sets_a_disputed_part_aside_again(self, billing: Billing) -> None:
        billing.open_dispute(ALICE, payment=PAYMENT, amount=usd("0.80"), reference="dp_1")
        billing.refund(ALICE, payment=PAYMENT, amount=usd("0.50"), reference="re_1")
        assert self.held(billing) == [5_000_000, 1_250_000, 500_000]

        failed(billing)

        assert self.held(billing) == [8_000_000, 2_000_000, 800_000]
        assert self.posted(billing) == [10_000_000, 2_500_000, 1_000_000]
        assert billing.verify().violations == ()

    def test_a_refund_fails_once(self, billing: Billing) -> None:
        billing.refund(ALICE, payment=PAYMENT, amount=usd("0.30"), reference="re_1")
        receipt = failed(billing)
        before = self.posted(billing)

        assert failed(billing) == evolve(receipt, replayed=True)
        assert failed(billing, reference="event-2") == evolve(receipt, replayed=True)
        assert self.posted(billing) == before

    def test_the_refund_of_a_failed_one_stays_a_replay(self, billing: Billing) -> None:
        first = billing.refund(ALICE, payment=PAYMENT, reference="re_1")
        failed(billing)

        assert billing.refund(ALICE, payment=PAYMENT, reference="re_1") == evolve(
            first, replayed=True
        )
        assert self.posted(billing) == [10_000_000, 2_500_000, 1_000_000]
        again = billing.refund(ALICE, payment=PAYMENT, reference="re_2")
        assert (again.refunded, again.total_refunded) == (usd("1.00"), usd("1.00"))
        assert billing.verify().violations == ()

    def test_another_failed_refund_under_the_same_reference_conflicts(
        self, billing: Billing
    ) -> None:
        for reference in ("re_1", "re_2"):
            billing.refund(ALICE, payment=PAYMENT, amount=usd("0.10"), reference=reference)
        failed(billing)

        with pytest.raises(IdempotencyConflict) as caught:
            failed(billing, refund="re_2")

        assert caught.value.differences == (Difference("refund", "re_1", "re_2"),)

    @pytest.mark.parametrize("refund", ["re_9", "dp_1", "re_2", "stripe:pi_1"])
    def test_an_unknown_refund_is_refused_and_may_come_again(
        self, billing: Billing, refund: str
    ) -> None:
        """So is a dispute, another payment's refund, and a payment."""
        billing.confirm_purchase(ALICE, usd("0.10"), payment="stripe:pi_2")
        billing.refund(ALICE, payment="stripe:pi_2", reference="re_2")
        billing.open_dispute(ALICE, payment=PAYMENT, amount=usd("0.10"), reference="dp_1")
        billing.lose_dispute(ALICE, payment=PAYMENT, reference="dp_1")
        before = self.posted(billing)

        with pytest.raises(UnknownRefund) as caught:
            failed(billing, refund=refund)

        assert (caught.value.reference, caught.value.payment) == (refund, PAYMENT)
        assert self.posted(billing) == before

    @pytest.mark.parametrize(
        ("given", "error"),
        [
            ({"payment": "stripe:pi_9"}, UnknownPayment),
            ({"tenant": SYSTEM_TENANT_ID}, UnknownPayment),
            ({"refund": ""}, InvalidReference),
            ({"reference": "a b"}, InvalidReference),
        ],
    )
    def test_an_invalid_failure_is_refused(
        self, billing: Billing, given: dict[str, Any], error: type[BillingError]
    ) -> None:
        billing.refund(ALICE, payment=PAYMENT, amount=usd("0.10"), reference="re_1")
        asked: dict[str, Any] = {"tenant": ALICE, "payment": PAYMENT, "refund": "re_1"}

        with pytest.raises(error):
            billing.refund_failed(**asked | {"reference": "f"} | given)

    def test_a_failure_for_a_tenant_without_an_account_is_refused(
        self, new_billing: NewBilling
    ) -> None:
        with pytest.raises(UnknownAccount):
            failed(new_billing())

    def test_a_reinstatement_is_found_and_is_on_every_statement(self, billing: Billing) -> None:
        billing.refund(ALICE, payment=PAYMENT, amount=usd("0.40"), reference="re_1")

        receipt = billing.refund_failed(
            ALICE, payment=PAYMENT, refund="re_1", reference="f", metadata={"by": "anna"}
        )

        found = billing.find(ALICE, kind="reinstatement", reference="f")
        assert found == billing.transaction(ALICE, receipt.transaction_id)
        assert found is not None
        assert found.metadata == {"by": "anna"}
        assert [int(share.amount.value) for share in found.shares] == [1_000_000, 400_000]
        lines = [billing.statement(t).lines[0] for t in EVERYONE]
        assert [line.kind for line in lines] == ["reinstatement"] * 3
        assert [line.reference for line in lines] == ["f", None, None]
        assert [int(line.amount.value) for line in lines] == [4_000_000, 1_000_000, 400_000]


class FailedRefundRaces(Contract):
    """Concurrent failures of a refund undo it once."""

    def test_concurrent_failures_of_one_refund_undo_it_once(
        self, new_billing: NewBilling, totals: Totals
    ) -> None:
        billing = new_billing(policy=policy())
        billing.confirm_purchase(ALICE, usd("1.00"), payment=PAYMENT)
        billing.refund(ALICE, payment=PAYMENT, reference="re_1")

        references = [f"event-{number}" for number in range(6)]
        receipts = at_once([partial(failed, billing, "re_1", each) for each in references])

        assert [receipt.replayed for receipt in receipts].count(False) == 1
        assert totals()[AccountId(ALICE)] == 10_000_000
        assert billing.verify().violations == ()
