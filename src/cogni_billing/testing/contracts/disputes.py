"""Contract: disputes."""

from __future__ import annotations

from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from attrs import evolve

from cogni_billing import (
    SYSTEM_ACCOUNT_ID,
    SYSTEM_TENANT_ID,
    AccountId,
    Billing,
    BillingError,
    Difference,
    DisputeState,
    IdempotencyConflict,
    InsufficientCredits,
    InvalidAmount,
    InvalidReference,
    RefundExceedsPayment,
    Share,
    Shortfall,
    UnitMismatch,
    UnknownAccount,
    UnknownDispute,
    UnknownHold,
    UnknownPayment,
    credits,
    usd,
)
from cogni_billing.domain.identity import SHORTFALL
from cogni_billing.testing.base import (
    ALICE,
    BOB,
    NOON,
    Contract,
    CountingIds,
    NewBilling,
    SteppingClock,
    Totals,
)
from cogni_billing.testing.contracts.refunds import EVERYONE, PAYMENT, PaymentContract, policy
from cogni_billing.testing.racing import at_once

HOUR = timedelta(hours=1)


class DisputeContract(PaymentContract):
    """A dispute sets credits and shares aside, and releases or takes exactly these."""

    def test_opening_a_dispute_sets_all_legs_aside_without_a_posting(
        self, billing: Billing, totals: Totals
    ) -> None:
        before = totals()

        dispute = billing.open_dispute(ALICE, payment=PAYMENT, reference="dp_1")

        assert (dispute.amount, dispute.set_aside) == (usd("1.00"), credits(10_000_000))
        assert dispute.shares == (
            Share(SYSTEM_ACCOUNT_ID, credits(2_500_000)),
            Share(AccountId(BOB), credits(1_000_000)),
        )
        assert (dispute.state, dispute.replayed) == (DisputeState.OPEN, False)
        assert self.held(billing) == [10_000_000, 2_500_000, 1_000_000]
        assert totals() == before
        with pytest.raises(InsufficientCredits):
            billing.charge(SYSTEM_TENANT_ID, credits(1), reference="run-1")
        assert billing.verify().violations == ()

    def test_a_dispute_sets_aside_more_than_is_available(self, billing: Billing) -> None:
        billing.charge(ALICE, credits(9_000_000), reference="run-1")

        billing.open_dispute(ALICE, payment=PAYMENT, reference="dp_1")

        assert billing.balance(ALICE).available == credits(-9_000_000)
        assert billing.verify().violations == ()

    def test_winning_a_dispute_releases_exactly_its_credits(
        self, billing: Billing, totals: Totals
    ) -> None:
        before = totals()
        billing.open_dispute(ALICE, payment=PAYMENT, amount=usd("0.33"), reference="dp_1")
        assert self.held(billing) == [3_300_000, 825_000, 330_000]

        won = billing.win_dispute(ALICE, payment=PAYMENT, reference="dp_1")

        assert (won.state, won.replayed) == (DisputeState.WON, False)
        assert self.held(billing) == [0, 0, 0]
        assert totals() == before
        assert billing.refund(ALICE, payment=PAYMENT, reference="re_1").refunded == usd("1.00")
        assert billing.verify().violations == ()

    def test_losing_a_dispute_reverses_like_a_refund(
        self, billing: Billing, totals: Totals
    ) -> None:
        dispute = billing.open_dispute(ALICE, payment=PAYMENT, reference="dp_1")

        receipt = billing.lose_dispute(ALICE, payment=PAYMENT, reference="dp_1")

        assert receipt.dispute_id == dispute.id
        assert (receipt.refunded, receipt.taken) == (usd("1.00"), credits(10_000_000))
        assert self.held(billing) == [0, 0, 0]
        assert set(totals().values()) == {0}
        assert billing.statement(ALICE).lines[0].kind == "chargeback"
        assert billing.verify().violations == ()

    def test_a_lost_dispute_can_be_clamped(self, billing: Billing, totals: Totals) -> None:
        billing.charge(ALICE, credits(9_000_000), reference="run-1")
        billing.open_dispute(ALICE, payment=PAYMENT, reference="dp_1")

        receipt = billing.lose_dispute(
            ALICE, payment=PAYMENT, reference="dp_1", shortfall=Shortfall.CLAMP
        )

        assert (receipt.taken, receipt.shortfall) == (credits(1_000_000), credits(9_000_000))
        assert totals()[SHORTFALL] == -9_000_000
        assert billing.verify().violations == ()

    def test_disputes_and_refunds_share_one_payment(self, billing: Billing, totals: Totals) -> None:
        open_dispute = partial(billing.open_dispute, ALICE, payment=PAYMENT)
        open_dispute(amount=usd("0.30"), reference="dp_1")
        open_dispute(amount=usd("0.30"), reference="dp_2")
        billing.refund(ALICE, payment=PAYMENT, amount=usd("0.30"), reference="re_1")
        assert open_dispute(reference="dp_3").amount == usd("0.10")
        assert open_dispute(reference="dp_4").amount == usd("0.00")
        assert self.held(billing) == [7_000_000, 1_750_000, 700_000]
        with pytest.raises(RefundExceedsPayment) as caught:
            billing.refund(ALICE, payment=PAYMENT, amount=usd("0.71"), reference="re_2")
        assert caught.value.remaining == usd("0.70")

        billing.win_dispute(ALICE, payment=PAYMENT, reference="dp_1")
        billing.lose_dispute(ALICE, payment=PAYMENT, reference="dp_2")
        billing.refund(ALICE, payment=PAYMENT, reference="re_2")

        assert set(totals().values()) == {0}
        assert self.held(billing) == [0, 0, 0]
        assert billing.verify().violations == ()

    def test_dispute_events_received_twice_have_no_effect(self, billing: Billing) -> None:
        billing.confirm_purchase(ALICE, usd("1.00"), payment="stripe:pi_2")
        opened = billing.open_dispute(ALICE, payment=PAYMENT, reference="dp_1")
        reopened = billing.open_dispute(ALICE, payment=PAYMENT, reference="dp_1")
        assert reopened == evolve(opened, replayed=True)
        assert self.held(billing) == [10_000_000, 2_500_000, 1_000_000]

        billing.win_dispute(ALICE, payment=PAYMENT, reference="dp_1")
        assert billing.win_dispute(ALICE, payment=PAYMENT, reference="dp_1").replayed
        reopened = billing.open_dispute(ALICE, payment=PAYMENT, reference="dp_1")
        assert (reopened.replayed, reopened.state) == (True, DisputeState.WON)
        assert self.held(billing) == [0, 0, 0]

        billing.open_dispute(ALICE, payment="stripe:pi_2", reference="dp_2")
        lost = billing.lose_dispute(ALICE, payment="stripe:pi_2", reference="dp_2")
        again = billing.lose_dispute(ALICE, payment="stripe:pi_2", reference="dp_2")
        assert again == evolve(lost, replayed=True)
        assert self.posted(billing) == [10_000_000, 2_500_000, 1_000_000]

    @pytest.mark.parametrize("event", ["win_dispute", "lose_dispute"])
    def test_an_event_before_the_opening_is_refused_and_may_come_again(
        self, billing: Billing, event: str
    ) -> None:
        end = partial(getattr(billing, event), ALICE, payment=PAYMENT, reference="dp_1")
        with pytest.raises(UnknownDispute):
            end()
        assert self.posted(billing) == [10_000_000, 2_500_000, 1_000_000]

        billing.open_dispute(ALICE, payment=PAYMENT, reference="dp_1")

        assert not end().replayed

    def test_a_dispute_opens_the_account_of_a_beneficiary(
        self, new_billing: NewBilling, clock: SteppingClock
    ) -> None:
        """The share needs a wallet on which it is set aside."""
        billing = new_billing(policy=policy(), clock=clock, ids=CountingIds())
        billing.confirm_purchase(ALICE, usd("1.00"), payment=PAYMENT)

        dispute = billing.open_dispute(ALICE, payment=PAYMENT, reference="dp_1")

        assert self.held(billing) == [10_000_000, 2_500_000, 1_000_000]
        assert billing.open_account(BOB).opened_at == dispute.opened_at
        billing.win_dispute(ALICE, payment=PAYMENT, reference="dp_1")
        assert self.held(billing) == [0, 0, 0]

    def test_a_dispute_of_another_tenant_is_unknown(self, billing: Billing) -> None:
        dispute = billing.open_dispute(ALICE, payment=PAYMENT, reference="dp_1")
        billing.confirm_purchase(ALICE, usd("0.10"), payment="stripe:pi_2")

        for tenant, payment in ((BOB, PAYMENT), (ALICE, "stripe:pi_2"), (ALICE, "stripe:pi_9")):
            with pytest.raises(UnknownDispute):
                billing.win_dispute(tenant, payment=payment, reference="dp_1")
        with pytest.raises(UnknownHold):
            billing.release(ALICE, dispute.id)

        assert self.held(billing) == [10_000_000, 2_500_000, 1_000_000]

    def test_the_same_reference_is_free_for_a_hold(self, billing: Billing) -> None:
        billing.open_dispute(ALICE, payment=PAYMENT, amount=usd("0.10"), reference="same")

        assert not billing.hold(ALICE, credits(5), reference="same").replayed

    def test_another_dispute_under_the_same_reference_conflicts(self, billing: Billing) -> None:
        billing.open_dispute(ALICE, payment=PAYMENT, amount=usd("0.10"), reference="dp_1")

        with pytest.raises(IdempotencyConflict) as caught:
            billing.open_dispute(ALICE, payment=PAYMENT, amount=usd("0.20"), reference="dp_1")

        assert caught.value.reference == "dp_1"
        assert caught.value.differences == (Difference("amount", "0.10 USD", "0.20 USD"),)
        with pytest.raises(IdempotencyConflict) as caught:
            billing.open_dispute(ALICE, payment="stripe:pi_9", reference="dp_1")
        assert caught.value.differences == (
            Difference("amount", "0.10 USD", "what remains"),
            Difference("payment", PAYMENT, "stripe:pi_9"),
        )

    @pytest.mark.parametrize(
        ("given", "error"),
        [
            ({"payment": "stripe:pi_9"}, UnknownPayment),
            ({"payment": "two words"}, InvalidReference),
            ({"reference": ""}, InvalidReference),
            ({"amount": usd("0.00")}, InvalidAmount),
            ({"amount": credits(5)}, UnitMismatch),
            ({"tenant": SYSTEM_TENANT_ID}, UnknownPayment),
        ],
    )
    def test_an_invalid_dispute_is_refused_and_sets_nothing_aside(
        self, billing: Billing, given: dict[str, Any], error: type[BillingError]
    ) -> None:
        asked: dict[str, Any] = {"tenant": ALICE, "payment": PAYMENT, "reference": "dp_1"} | given

        with pytest.raises(error):
            billing.open_dispute(**asked)

        assert self.held(billing) == [0, 0, 0]

    def test_a_dispute_of_a_tenant_without_an_account_is_refused(
        self, new_billing: NewBilling
    ) -> None:
        billing = new_billing()
        for call in (billing.open_dispute, billing.win_dispute, billing.lose_dispute):
            with pytest.raises(UnknownAccount):
                call(ALICE, payment=PAYMENT, reference="dp_1")

    def test_a_past_balance_includes_disputed_credits(
        self, billing: Billing, clock: SteppingClock
    ) -> None:
        billing.open_dispute(ALICE, payment=PAYMENT, reference="dp_1")
        during = clock.moment
        clock.moment = NOON + HOUR
        billing.win_dispute(ALICE, payment=PAYMENT, reference="dp_1")

        for tenant, aside in zip(EVERYONE, (10_000_000, 2_500_000, 1_000_000), strict=True):
            assert billing.balance(tenant, at=during).held == credits(aside)
            assert billing.balance(tenant, at=NOON).held == credits(0)
            assert billing.balance(tenant, at=NOON + 2 * HOUR).held == credits(0)

    def test_credits_expire_while_a_dispute_is_open(
        self, billing: Billing, clock: SteppingClock
    ) -> None:
        billing.grant(BOB, credits(50), source="a", reference="a", expires_at=NOON + HOUR)
        billing.open_dispute(ALICE, payment=PAYMENT, reference="dp_1")
        clock.moment = NOON + 2 * HOUR
        billing.win_dispute(ALICE, payment=PAYMENT, reference="dp_1")

        assert billing.balance(BOB, at=NOON + HOUR).posted == credits(1_000_000)
        billing.sweep()
        assert billing.balance(BOB, at=NOON + HOUR).posted == credits(1_000_000)
        assert billing.verify().violations == ()


class DisputeRaces(Contract):
    """Concurrent calls on a dispute have the outcome of some order."""

    def test_concurrent_wins_and_losses_have_the_outcome_of_the_last(
        self, new_billing: NewBilling, totals: Totals
    ) -> None:
        billing = new_billing(policy=policy())
        billing.confirm_purchase(ALICE, usd("1.00"), payment=PAYMENT)
        billing.open_dispute(ALICE, payment=PAYMENT, reference="dp_1")

        def end(name: str) -> None:
            getattr(billing, name)(ALICE, payment=PAYMENT, reference="dp_1")

        at_once([partial(end, name) for name in ["win_dispute", "lose_dispute"] * 3])

        state = billing.open_dispute(ALICE, payment=PAYMENT, reference="dp_1").state
        lost = state is DisputeState.LOST
        assert totals()[AccountId(ALICE)] == (0 if lost else 10_000_000)
        assert billing.balance(ALICE).held == credits(0)
        assert billing.verify().violations == ()

    def test_disputes_of_partners_that_bought_from_each_other_do_not_deadlock(
        self, new_billing: NewBilling
    ) -> None:
        """Each dispute locks its own wallet, and the other's for the share."""
        ours = new_billing(policy=policy())  # a tenth for Bob
        theirs = new_billing(policy=policy(beneficiary=ALICE))
        for tenant in (ALICE, BOB):
            ours.open_account(tenant)
        for number in range(6):
            ours.confirm_purchase(ALICE, usd("0.10"), payment=f"a:{number}")
            theirs.confirm_purchase(BOB, usd("0.10"), payment=f"b:{number}")

        def dispute(tenant: Any, payment: str) -> None:
            ours.open_dispute(tenant, payment=payment, reference=payment)
            ours.lose_dispute(tenant, payment=payment, reference=payment)

        at_once(
            [partial(dispute, ALICE, f"a:{number}") for number in range(6)]
            + [partial(dispute, BOB, f"b:{number}") for number in range(6)]
        )

        for balance in map(ours.balance, EVERYONE):
            assert (balance.posted, balance.held) == (credits(0), credits(0))
        assert ours.verify().violations == ()
