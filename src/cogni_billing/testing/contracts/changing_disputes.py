"""Contract: disputes that change, and banks that change their minds."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import permutations
from typing import Any

import pytest
from attrs import evolve

from cogni_billing import (
    SYSTEM_ACCOUNT_ID,
    AccountId,
    Amount,
    Billing,
    BillingError,
    Difference,
    DisputeState,
    IdempotencyConflict,
    InvalidAmount,
    Shortfall,
    UnitMismatch,
    UnknownDispute,
    credits,
    usd,
)
from cogni_billing.domain.amounts import USDC
from cogni_billing.domain.identity import SHORTFALL
from cogni_billing.testing.base import ALICE, CountingIds, NewBilling, SteppingClock, Totals
from cogni_billing.testing.contracts.refunds import PAYMENT, PaymentContract, policy


class ChangingDisputeContract(PaymentContract):
    """The last event decides where the credits are."""

    def opened(self, billing: Billing, amount: Amount | None = None) -> Any:
        return billing.open_dispute(ALICE, payment=PAYMENT, amount=amount, reference="dp_1")

    def win(self, billing: Billing) -> Any:
        return billing.win_dispute(ALICE, payment=PAYMENT, reference="dp_1")

    def lose(self, billing: Billing, amount: Amount | None = None) -> Any:
        return billing.lose_dispute(ALICE, payment=PAYMENT, reference="dp_1", amount=amount)

    def update(self, billing: Billing, amount: Amount) -> Any:
        return billing.update_dispute(ALICE, payment=PAYMENT, reference="dp_1", amount=amount)

    def test_a_lost_dispute_that_is_won_gives_everything_back(
        self, billing: Billing, totals: Totals
    ) -> None:
        before = totals()
        self.opened(billing)
        self.lose(billing)

        won = self.win(billing)

        assert (won.state, won.replayed) == (DisputeState.WON, False)
        assert totals() == before
        assert self.held(billing) == [0, 0, 0]
        assert billing.statement(ALICE).lines[0].kind == "reinstatement"
        assert billing.verify().violations == ()

    def test_a_won_dispute_gives_the_absorbed_part_back_to_the_platform(
        self, billing: Billing, totals: Totals
    ) -> None:
        billing.charge(ALICE, credits(9_000_000), reference="run-1")
        before = totals()
        self.opened(billing)
        billing.lose_dispute(ALICE, payment=PAYMENT, reference="dp_1", shortfall=Shortfall.CLAMP)
        assert totals()[SHORTFALL] == -9_000_000

        self.win(billing)

        assert totals() == {**before, SHORTFALL: 0}
        assert billing.verify().violations == ()

    def test_a_won_dispute_that_is_lost_takes_everything_again(
        self, billing: Billing, totals: Totals
    ) -> None:
        self.opened(billing)
        self.win(billing)

        receipt = self.lose(billing)

        assert (receipt.taken, receipt.replayed) == (credits(10_000_000), False)
        assert set(totals().values()) == {0}
        assert billing.verify().violations == ()

    def test_a_dispute_that_is_lost_twice_has_two_chargebacks(
        self, billing: Billing, totals: Totals
    ) -> None:
        self.opened(billing)
        first = self.lose(billing)
        self.win(billing)

        second = self.lose(billing)

        assert not second.replayed
        assert second.transaction_id != first.transaction_id
        assert self.lose(billing) == evolve(second, replayed=True)
        assert set(totals().values()) == {0}
        kinds = [line.kind for line in billing.statement(ALICE).lines]
        assert kinds == ["chargeback", "reinstatement", "chargeback", "purchase"]
        assert billing.verify().violations == ()

    def test_the_keys_of_later_transactions_belong_to_the_ledger(self, billing: Billing) -> None:
        """A caller who uses the dispute's reference elsewhere is not in the way."""
        billing.refund(ALICE, payment=PAYMENT, amount=usd("0.10"), reference="dp_1")
        dispute = self.opened(billing)
        billing.refund_failed(ALICE, payment=PAYMENT, refund="dp_1", reference="dp_1")
        self.lose(billing)
        self.win(billing)

        found = billing.statement(ALICE).lines[0]

        assert found.reference is not None
        assert found.reference.startswith(f"{dispute.id}/")
        assert billing.verify().violations == ()

    def test_a_part_can_be_lost_and_the_rest_is_released(self, billing: Billing) -> None:
        self.opened(billing, usd("0.80"))

        receipt = self.lose(billing, usd("0.30"))

        assert (receipt.refunded, receipt.taken) == (usd("0.30"), credits(3_000_000))
        assert self.held(billing) == [0, 0, 0]
        assert self.posted(billing) == [7_000_000, 1_750_000, 700_000]
        assert self.lose(billing, usd("0.30")) == evolve(receipt, replayed=True)
        assert billing.verify().violations == ()

    @pytest.mark.parametrize(
        ("given", "difference"),
        [
            ({"amount": usd("0.30")}, Difference("amount", "what remains", "0.30 USD")),
            ({"shortfall": Shortfall.CLAMP}, Difference("shortfall", "debt", "clamp")),
        ],
    )
    def test_another_loss_of_a_lost_dispute_conflicts(
        self, billing: Billing, given: dict[str, Any], difference: Difference
    ) -> None:
        self.opened(billing)
        self.lose(billing)

        with pytest.raises(IdempotencyConflict) as caught:
            billing.lose_dispute(ALICE, payment=PAYMENT, reference="dp_1", **given)

        assert caught.value.differences == (difference,)
        assert self.posted(billing) == [0, 0, 0]

    def test_the_disputed_amount_of_an_open_dispute_changes(self, billing: Billing) -> None:
        self.opened(billing, usd("0.80"))

        less = self.update(billing, usd("0.30"))

        assert (less.amount, less.set_aside) == (usd("0.30"), credits(3_000_000))
        assert (less.state, less.replayed) == (DisputeState.OPEN, False)
        assert self.held(billing) == [3_000_000, 750_000, 300_000]
        assert self.update(billing, usd("0.30")) == evolve(less, replayed=True)
        self.update(billing, usd("1.00"))
        assert self.held(billing) == [10_000_000, 2_500_000, 1_000_000]
        assert self.opened(billing, usd("0.80")).amount == usd("1.00")
        assert self.lose(billing).refunded == usd("1.00")
        assert billing.verify().violations == ()

    @pytest.mark.parametrize(("amount", "left"), [("0.30", 7_000_000), ("0.90", 1_000_000)])
    def test_the_amount_of_a_lost_dispute_changes(
        self, billing: Billing, amount: str, left: int
    ) -> None:
        self.opened(billing, usd("0.60"))
        self.lose(billing)

        changed = self.update(billing, usd(amount))

        assert (changed.state, changed.amount) == (DisputeState.LOST, usd(amount))
        assert self.posted(billing) == [left, left // 4, left // 10]
        self.win(billing)
        assert self.posted(billing) == [10_000_000, 2_500_000, 1_000_000]
        assert billing.verify().violations == ()

    @pytest.mark.parametrize("end", ["win", "lose a part"])
    def test_the_amount_of_another_ended_dispute_moves_no_credits(
        self, billing: Billing, end: str
    ) -> None:
        self.opened(billing, usd("0.60"))
        if end == "win":
            self.win(billing)
        else:
            self.lose(billing, usd("0.20"))
        before = self.posted(billing)

        assert self.update(billing, usd("0.90")).amount == usd("0.90")

        assert self.posted(billing) == before
        assert billing.verify().violations == ()

    def test_of_a_dispute_beyond_the_payment_what_remains_is_set_aside(
        self, billing: Billing
    ) -> None:
        billing.refund(ALICE, payment=PAYMENT, amount=usd("0.60"), reference="re_1")

        dispute = self.opened(billing, usd("1.20"))

        assert (dispute.amount, dispute.set_aside) == (usd("1.20"), credits(4_000_000))
        assert self.held(billing) == [4_000_000, 1_000_000, 400_000]
        assert billing.verify().violations == ()

    def test_a_dispute_of_a_refunded_payment_sets_nothing_aside_and_its_events_answer(
        self, billing: Billing, totals: Totals
    ) -> None:
        billing.refund(ALICE, payment=PAYMENT, reference="re_1")

        dispute = self.opened(billing, usd("1.00"))

        assert (dispute.set_aside, dispute.state) == (credits(0), DisputeState.OPEN)
        assert self.opened(billing, usd("1.00")) == evolve(dispute, replayed=True)
        assert self.update(billing, usd("0.50")).set_aside == credits(0)
        receipt = self.lose(billing)
        assert (receipt.refunded, receipt.taken) == (usd("0.00"), credits(0))
        assert self.win(billing).state is DisputeState.WON
        assert set(totals().values()) == {0}
        assert billing.verify().violations == ()

    def test_a_failed_refund_of_a_lost_payment_gives_nothing_back(
        self, billing: Billing, totals: Totals
    ) -> None:
        """The dispute stands. When it is won, all goes back."""
        billing.refund(ALICE, payment=PAYMENT, reference="re_1")
        self.opened(billing, usd("1.00"))
        self.lose(billing)

        receipt = billing.refund_failed(ALICE, payment=PAYMENT, refund="re_1", reference="f")

        assert (receipt.reinstated, receipt.credited) == (usd("0.00"), credits(0))
        assert set(totals().values()) == {0}
        self.win(billing)
        assert self.posted(billing) == [10_000_000, 2_500_000, 1_000_000]
        assert billing.verify().violations == ()

    @pytest.mark.parametrize(
        ("amount", "error"), [(usd("0.00"), InvalidAmount), (credits(5), UnitMismatch)]
    )
    def test_an_invalid_amount_is_refused_and_changes_nothing(
        self, billing: Billing, amount: Amount, error: type[BillingError]
    ) -> None:
        self.opened(billing)
        for call in (self.update, self.lose):
            with pytest.raises(error):
                call(billing, amount)
        assert self.held(billing) == [10_000_000, 2_500_000, 1_000_000]

    def test_an_update_before_the_opening_is_refused_and_may_come_again(
        self, billing: Billing
    ) -> None:
        with pytest.raises(UnknownDispute):
            self.update(billing, usd("0.30"))
        self.opened(billing)
        assert not self.update(billing, usd("0.30")).replayed

    def test_the_past_shows_each_change(self, billing: Billing, clock: SteppingClock) -> None:
        self.opened(billing, usd("0.80"))
        opened = clock.moment
        self.update(billing, usd("0.30"))
        updated = clock.moment
        self.win(billing)

        held = [int(billing.balance(ALICE, at=at).held.value) for at in (opened, updated)]
        assert held == [8_000_000, 3_000_000]
        assert self.held(billing) == [0, 0, 0]


class EventOrderContract(PaymentContract):
    """In any order of its events a payment ends where the final state says, to the credit."""

    def test_parts_end_at_the_same_credits_in_any_order(
        self, new_billing: NewBilling, clock: SteppingClock, totals: Totals
    ) -> None:
        """A seventh of the platform's 17 credits is no whole number."""
        billing = new_billing(policy=policy(), clock=clock, ids=CountingIds())
        for number, order in enumerate(permutations(range(4))):
            payment = f"base:{number}"
            before = totals()
            billing.confirm_purchase(ALICE, Amount("0.000007", USDC), payment=payment)
            on: dict[str, Any] = {"payment": payment}
            billing.open_dispute(
                ALICE, amount=Amount("0.000003", USDC), reference=f"dp_{number}", **on
            )
            part = Amount("0.000001", USDC)
            events: list[Callable[[], object]] = [
                partial(billing.lose_dispute, ALICE, reference=f"dp_{number}", **on),
                partial(billing.refund, ALICE, amount=part, reference=f"a_{number}", **on),
                partial(billing.refund, ALICE, amount=part, reference=f"b_{number}", **on),
                partial(billing.win_dispute, ALICE, reference=f"dp_{number}", **on),
            ]
            for place in order:
                events[place]()
            billing.refund_failed(ALICE, refund=f"a_{number}", reference=f"f_{number}", **on)
            lost = order.index(0) > order.index(3)
            returned = 4 if lost else 1
            after = totals()
            for account, leg in ((AccountId(ALICE), 70), (SYSTEM_ACCOUNT_ID, 17)):
                left = after[account] - before.get(account, 0)
                assert left == leg - leg * returned // 7, order
            assert billing.balance(ALICE).held == credits(0)
        assert billing.verify().violations == ()
