"""Contract: purchased credits that expire."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

from cogni_billing import (
    Billing,
    Draw,
    IdempotencyConflict,
    InsufficientCredits,
    Lot,
    OutcomeState,
    Purchase,
    RevenueSharePolicy,
    ShareMode,
    ShareRule,
    Shortfall,
    UnknownAccount,
    UnknownGrant,
    credits,
    usd,
)
from cogni_billing.domain.identity import BREAKAGE, SHORTFALL, SYSTEM_ACCOUNT_ID
from cogni_billing.testing.base import (
    ALICE,
    BOB,
    NOON,
    Contract,
    CountingIds,
    MovableClock,
    NewBilling,
    Totals,
)

HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
CENT = usd("0.01")
PAYMENT = "stripe:pi_1"


class _ExpiringContract(Contract):
    @pytest.fixture
    def moving(self) -> MovableClock:
        return MovableClock()

    @pytest.fixture
    def billing(self, new_billing: NewBilling, moving: MovableClock) -> Billing:
        return new_billing(clock=moving, ids=CountingIds())

    def buy(self, billing: Billing, payment: str = PAYMENT, lasts: timedelta | None = HOUR) -> UUID:
        """Alice pays a cent, which is 100 000 credits."""
        receipt = billing.confirm_purchase(ALICE, CENT, payment=payment, expires_in=lasts)
        return receipt.transaction_id

    def charge(self, billing: Billing, amount: int, reference: str = "run-1", **how: Any) -> Any:
        return billing.charge(ALICE, credits(amount), reference=reference, **how)

    def refund(
        self, billing: Billing, reference: str = "re_1", part: str | None = None, **how: Any
    ) -> Any:
        """Refund Alice's payment, or *part* of it, in dollars."""
        amount = None if part is None else usd(part)
        return billing.refund(ALICE, payment=PAYMENT, amount=amount, reference=reference, **how)

    def left(self, billing: Billing) -> list[int]:
        return [int(lot.remaining.value) for lot in billing.lots(ALICE)]

    def lots(self, billing: Billing) -> list[tuple[object, int]]:
        return [(lot.expires_at, int(lot.remaining.value)) for lot in billing.lots(ALICE)]

    def posted(self, billing: Billing) -> int:
        return int(billing.balance(ALICE).posted.value)


class ExpiringPurchaseContract(_ExpiringContract):
    """Purchased credits expire at the end of their lifetime. They are spent after all grants."""

    def test_a_purchase_with_a_lifetime_tells_when_its_credits_expire(
        self, billing: Billing, moving: MovableClock
    ) -> None:
        bought = billing.confirm_purchase(ALICE, CENT, payment=PAYMENT, expires_in=HOUR)
        forever = billing.confirm_purchase(ALICE, CENT, payment="stripe:pi_2")

        view = billing.find(ALICE, reference=PAYMENT, kind="purchase")
        assert view is not None
        assert (bought.expires_at, view.expires_at, forever.expires_at) == (
            NOON + HOUR,
            NOON + HOUR,
            None,
        )
        assert (bought.credited, bought.balance, view.draws) == (
            credits(100_000),
            credits(100_000),
            (),
        )
        assert billing.lots(ALICE) == (
            Lot(
                id=bought.transaction_id,
                payment=PAYMENT,
                amount=credits(100_000),
                expires_at=NOON + HOUR,
                bought_at=NOON,
                remaining=credits(100_000),
            ),
        )
        assert billing.grants(ALICE) == billing.grants(ALICE, spent=True) == ()
        moving.move(HOUR)
        assert billing.lots(ALICE) == ()
        assert billing.verify().violations == ()

    def test_the_lots_of_a_tenant_without_an_account_are_unknown(self, billing: Billing) -> None:
        self.buy(billing)

        with pytest.raises(UnknownAccount):
            billing.lots(BOB)

    def test_the_first_lot_to_expire_is_spent_after_all_grants_and_before_other_credits(
        self, billing: Billing
    ) -> None:
        self.buy(billing, "stripe:forever", None)
        late, early = self.buy(billing, "stripe:late", DAY), self.buy(billing, "stripe:early", HOUR)
        grant = billing.grant(
            ALICE, credits(10), source="promo", reference="g", priority=1_000_000
        ).transaction_id

        receipt = self.charge(billing, 250_010)

        assert receipt.draws == (
            Draw(grant, credits(10)),
            Draw(early, credits(100_000), purchased=True),
            Draw(late, credits(100_000), purchased=True),
        )
        assert receipt.purchased == credits(250_000)
        [line, *_] = billing.statement(ALICE).lines
        assert (line.granted, line.purchased) == (credits(-10), credits(-250_000))
        view = billing.find(ALICE, reference="run-1", kind="charge")
        assert view is not None
        assert view.draws == receipt.draws
        assert self.charge(billing, 250_010).draws == receipt.draws
        assert billing.lots(ALICE) == ()
        assert billing.verify().violations == ()

    def test_the_rest_expires_at_the_end_and_goes_to_breakage(
        self, billing: Billing, moving: MovableClock, totals: Totals
    ) -> None:
        bought = self.buy(billing)
        self.charge(billing, 30_000)
        moving.move(HOUR)

        due = billing.statement(ALICE).lines[0]
        assert self.posted(billing) == 0
        assert billing.sweep() == 1
        [expiry, *_] = billing.statement(ALICE).lines
        for line in (due, expiry):
            assert (line.kind, line.amount, line.reference) == (
                "expiry",
                credits(-70_000),
                f"{bought}@1",
            )
            assert (line.granted, line.purchased) == (credits(0), credits(-70_000))
            assert line.at == NOON + HOUR
        assert totals()[BREAKAGE] == 70_000
        assert billing.balance(ALICE, at=NOON).posted == credits(70_000)
        assert billing.verify().violations == ()

    def test_the_credits_repay_a_debt_first(self, billing: Billing, moving: MovableClock) -> None:
        billing.open_account(ALICE)
        self.charge(billing, 30_000, allow_overdraft=True)

        bought = self.buy(billing)

        view = billing.transaction(ALICE, bought)
        assert view is not None
        assert view.draws == (Draw(bought, credits(30_000), purchased=True),)
        [line, *_] = billing.statement(ALICE).lines
        assert (line.granted, line.purchased) == (credits(0), credits(100_000))
        assert self.left(billing) == [70_000]
        moving.move(HOUR)
        assert self.posted(billing) == 0
        assert billing.verify().violations == ()

    def test_a_replay_of_the_same_lifetime_keeps_the_first_expiry(
        self, billing: Billing, moving: MovableClock
    ) -> None:
        first = billing.confirm_purchase(ALICE, CENT, payment=PAYMENT, expires_in=HOUR)
        moving.move(2 * HOUR)

        again = billing.confirm_purchase(ALICE, CENT, payment=PAYMENT, expires_in=HOUR)

        assert again.replayed
        assert again.expires_at == first.expires_at == NOON + HOUR

    @pytest.mark.parametrize(
        ("first", "second", "was", "asked"),
        [
            (HOUR, DAY, "3600 s", "86400 s"),
            (None, HOUR, "absent", "3600 s"),
            (HOUR, None, "3600 s", "absent"),
        ],
    )
    def test_a_payment_with_another_lifetime_conflicts(
        self,
        billing: Billing,
        first: timedelta | None,
        second: timedelta | None,
        was: str,
        asked: str,
    ) -> None:
        self.buy(billing, lasts=first)

        with pytest.raises(IdempotencyConflict) as conflict:
            self.buy(billing, lasts=second)

        [difference] = conflict.value.differences
        assert (difference.field, difference.stored, difference.requested) == (
            "expires_in",
            was,
            asked,
        )

    def test_a_lifetime_is_compared_also_while_no_policy_is_in_force(
        self, billing: Billing, new_billing: NewBilling, moving: MovableClock
    ) -> None:
        self.buy(billing)
        rules = (ShareRule(SYSTEM_ACCOUNT_ID, "0.25"),)
        future = RevenueSharePolicy("v2", NOON + DAY, ShareMode.BONUS, rules)
        early = new_billing(policy=future, clock=moving, ids=CountingIds(100))

        assert early.confirm_purchase(ALICE, CENT, payment=PAYMENT, expires_in=HOUR).replayed
        with pytest.raises(IdempotencyConflict):
            early.confirm_purchase(ALICE, CENT, payment=PAYMENT)

    def test_purchases_of_a_batch_have_their_own_lifetimes(self, billing: Billing) -> None:
        outcomes = billing.confirm_purchases(
            [
                Purchase(tenant=ALICE, amount=CENT, payment="stripe:1", expires_in=DAY),
                {"tenant": ALICE, "amount": CENT, "payment": "stripe:2", "expires_in": HOUR},
                {"tenant": ALICE, "amount": CENT, "payment": "stripe:3"},
                {"tenant": ALICE, "amount": CENT, "payment": "stripe:4", "expires_in": -HOUR},
            ]
        )

        assert [outcome.state for outcome in outcomes] == [*[OutcomeState.DONE] * 3, "refused"]
        assert [lot.payment for lot in billing.lots(ALICE)] == ["stripe:2", "stripe:1"]

    def test_a_purchase_that_leaves_nothing_to_the_customer_has_an_expiry(
        self, new_billing: NewBilling, moving: MovableClock
    ) -> None:
        rules = (ShareRule(SYSTEM_ACCOUNT_ID, "1"),)
        split = RevenueSharePolicy("v1", NOON, ShareMode.SPLIT, rules)
        billing = new_billing(policy=split, clock=moving, ids=CountingIds())

        receipt = billing.confirm_purchase(ALICE, CENT, payment=PAYMENT, expires_in=HOUR)

        assert (receipt.credited, receipt.expires_at) == (credits(0), NOON + HOUR)
        moving.move(HOUR)
        assert billing.sweep() == 0
        assert self.refund(billing).taken == credits(0)
        assert billing.verify().violations == ()

    def test_a_capture_tells_the_purchases_and_the_grants_that_its_hold_had_pinned(
        self, billing: Billing
    ) -> None:
        bought = self.buy(billing)
        hold = billing.hold(ALICE, credits(40_000), reference="h")
        grant = billing.grant(ALICE, credits(5), source="promo", reference="g").transaction_id
        billing.extend(ALICE, hold.id, credits(10), reference="e")

        receipt = billing.capture(ALICE, hold.id, credits(40_010), reference="c")

        assert receipt.draws == (
            Draw(bought, credits(40_005), purchased=True),
            Draw(grant, credits(5)),
        )
        assert receipt.purchased == credits(40_005)
        [line, *_] = billing.statement(ALICE).lines
        assert (line.granted, line.purchased) == (credits(-5), credits(-40_005))
        assert billing.verify().violations == ()

    def test_held_credits_expire_when_their_hold_gives_them_back_too_late(
        self, billing: Billing, moving: MovableClock, totals: Totals
    ) -> None:
        self.buy(billing)
        hold = billing.hold(ALICE, credits(40_000), reference="h")
        moving.move(HOUR)
        assert self.posted(billing) == 40_000

        billing.capture(ALICE, hold.id, credits(10_000), reference="c")

        assert self.posted(billing) == 0
        assert billing.sweep() == 1
        assert totals()[BREAKAGE] == 90_000
        assert billing.verify().violations == ()

    def test_a_reversal_of_a_charge_gives_expired_credits_back_to_expire_once_more(
        self, billing: Billing, moving: MovableClock, totals: Totals
    ) -> None:
        bought = self.buy(billing)
        self.charge(billing, 30_000)
        moving.move(HOUR)

        receipt = billing.reverse(ALICE, charge="run-1", reference="back")

        assert (receipt.credited, receipt.expired) == (credits(30_000), credits(0))
        assert receipt.draws == (Draw(bought, credits(30_000), purchased=True),)
        assert receipt.purchased == credits(30_000)
        assert self.posted(billing) == 0
        refund = self.refund(billing)
        assert (refund.taken, refund.lapsed) == (credits(0), credits(100_000))
        assert set(totals().values()) == {0}
        assert billing.verify().violations == ()

    def test_a_purchase_is_no_grant_to_void_or_to_extend(self, billing: Billing) -> None:
        bought = self.buy(billing)

        with pytest.raises(UnknownGrant):
            billing.void_grant(ALICE, bought, reference="v")
        with pytest.raises(UnknownGrant):
            billing.extend_grant(ALICE, bought, expires_in=DAY, reference="e")
        assert self.left(billing) == [100_000]

    def test_an_adjustment_takes_the_last_lot_to_expire_before_grants(
        self, billing: Billing
    ) -> None:
        self.buy(billing, "stripe:late", DAY)
        self.buy(billing, "stripe:early", HOUR)
        self.buy(billing, "stripe:forever", None)
        billing.grant(ALICE, credits(10), source="promo", reference="g")

        billing.adjust(ALICE, credits(-100_001), reason="a mistake", reference="a")
        assert self.left(billing) == [100_000, 99_999]
        billing.adjust(ALICE, credits(-200_000), reason="a mistake", reference="b")
        [line, *_] = billing.statement(ALICE).lines
        assert (line.granted, line.purchased) == (credits(-1), credits(-199_999))
        billing.adjust(ALICE, credits(7), reason="a mistake", reference="c")

        assert billing.verify().violations == ()

    def test_the_lots_of_a_forgotten_tenant_stay_as_they_are(self, billing: Billing) -> None:
        self.buy(billing)
        before = billing.lots(ALICE)

        assert billing.forget(ALICE) == 0
        assert billing.lots(ALICE) == before


class ExpiringRefundContract(_ExpiringContract):
    """A refund takes the purchase's own credits first. Those that expired are not owed."""

    def test_a_refund_takes_its_own_credits_first(self, billing: Billing) -> None:
        own = self.buy(billing, lasts=DAY)
        self.buy(billing, "stripe:early", HOUR)
        self.buy(billing, "stripe:late", 2 * DAY)
        self.buy(billing, "stripe:forever", None)
        billing.grant(ALICE, credits(10), source="promo", reference="g")

        receipt = self.refund(billing)

        assert receipt.draws == (Draw(own, credits(100_000), purchased=True),)
        assert (receipt.taken, receipt.purchased) == (credits(100_000), credits(100_000))
        [line, *_] = billing.statement(ALICE).lines
        assert (line.granted, line.purchased) == (credits(0), credits(-100_000))
        assert [lot.payment for lot in billing.lots(ALICE)] == ["stripe:early", "stripe:late"]
        assert self.left(billing) == [100_000, 100_000]
        assert billing.verify().violations == ()

    def test_a_refund_of_spent_credits_takes_those_that_never_expire_then_lots_then_grants(
        self, billing: Billing
    ) -> None:
        self.buy(billing)
        self.charge(billing, 100_000)
        early, late = self.buy(billing, "stripe:early", DAY), self.buy(billing, "late:1", 2 * DAY)
        billing.confirm_purchase(ALICE, usd("0.02"), payment="stripe:forever")
        grant = billing.grant(ALICE, credits(10), source="promo", reference="g").transaction_id
        billing.refund(ALICE, payment="stripe:forever", amount=CENT, reference="re_0")

        first = self.refund(billing, "re_1", "0.01")
        assert (first.draws, self.left(billing)) == ((), [100_000, 100_000])
        # The credits that never expire are spent now.
        second = billing.refund(ALICE, payment="stripe:forever", reference="re_2")
        assert second.draws == (Draw(late, credits(100_000), purchased=True),)
        self.charge(billing, 50_000, "run-2")
        third = billing.refund(ALICE, payment="late:1", reference="re_3")

        assert third.draws == (Draw(early, credits(50_010), purchased=True),)
        assert grant not in {draw.grant_id for draw in third.draws}
        assert billing.balance(ALICE).posted == credits(-49_990)
        assert billing.verify().violations == ()

    def test_a_full_refund_after_the_expiry_leaves_every_leg_at_zero(
        self, billing: Billing, moving: MovableClock, totals: Totals
    ) -> None:
        self.buy(billing)
        moving.move(HOUR)

        receipt = self.refund(billing)

        assert (receipt.taken, receipt.lapsed, receipt.shortfall) == (
            credits(0),
            credits(100_000),
            credits(0),
        )
        assert set(totals().values()) == {0}
        assert self.refund(billing).lapsed == credits(100_000)
        assert billing.verify().violations == ()

    def test_expired_credits_are_taken_before_spent_ones(
        self, billing: Billing, moving: MovableClock, totals: Totals
    ) -> None:
        billing.confirm_purchase(ALICE, usd("0.10"), payment=PAYMENT, expires_in=HOUR)
        self.charge(billing, 300_000)
        first = self.refund(billing, "re_1", "0.02")
        moving.move(HOUR)

        second = self.refund(billing, "re_2", "0.04")
        third = self.refund(billing, "re_3", "0.03")
        fourth = self.refund(billing, "re_4")

        parts = [(int(r.taken.value), int(r.lapsed.value)) for r in (first, second, third, fourth)]
        assert parts == [(200_000, 0), (0, 400_000), (200_000, 100_000), (100_000, 0)]
        assert self.posted(billing) == -300_000
        assert totals()[BREAKAGE] == 0
        assert billing.verify().violations == ()

    def test_a_clamped_refund_absorbs_no_expired_credits(
        self, billing: Billing, moving: MovableClock, totals: Totals
    ) -> None:
        self.buy(billing)
        self.charge(billing, 30_000)
        moving.move(HOUR)

        receipt = self.refund(billing, shortfall=Shortfall.CLAMP)

        assert (receipt.taken, receipt.lapsed, receipt.shortfall) == (
            credits(0),
            credits(70_000),
            credits(30_000),
        )
        assert totals()[BREAKAGE] == 0
        assert totals()[SHORTFALL] == -30_000
        assert billing.verify().violations == ()

    def test_a_refund_that_refuses_a_debt_needs_no_expired_credits(
        self, billing: Billing, moving: MovableClock, totals: Totals
    ) -> None:
        self.buy(billing)
        self.charge(billing, 30_000)
        moving.move(HOUR)

        with pytest.raises(InsufficientCredits) as refused:
            self.refund(billing, shortfall=Shortfall.REFUSE)
        assert (refused.value.required, refused.value.available) == (credits(30_000), credits(0))
        self.buy(billing, "stripe:pi_2", None)
        receipt = self.refund(billing, shortfall=Shortfall.REFUSE)

        assert (receipt.taken, receipt.lapsed) == (credits(30_000), credits(70_000))
        assert totals()[BREAKAGE] == 0
        assert billing.verify().violations == ()

    def test_held_credits_of_a_refunded_purchase_never_expire(
        self, billing: Billing, moving: MovableClock, totals: Totals
    ) -> None:
        bought = self.buy(billing)
        hold = billing.hold(ALICE, credits(30_000), reference="h")

        receipt = self.refund(billing)
        assert receipt.draws == (Draw(bought, credits(70_000), purchased=True),)
        assert billing.balance(ALICE).available == credits(-30_000)
        billing.release(ALICE, hold.id)
        moving.move(HOUR)

        assert billing.sweep() == 0
        assert self.lots(billing) == [(None, 30_000)]
        assert self.posted(billing) == 0
        assert set(totals().values()) == {0}
        assert billing.verify().violations == ()

    def test_a_reversed_charge_of_a_refunded_purchase_leaves_no_debt(
        self, billing: Billing, moving: MovableClock, totals: Totals
    ) -> None:
        self.buy(billing)
        self.charge(billing, 30_000)
        moving.move(HOUR)
        self.refund(billing)
        assert self.posted(billing) == -30_000

        billing.reverse(ALICE, charge="run-1", reference="back")
        moving.move(HOUR)

        assert self.posted(billing) == 0
        assert set(totals().values()) == {0}
        assert billing.verify().violations == ()

    def test_a_dispute_ends_the_expiry(
        self, billing: Billing, moving: MovableClock, totals: Totals
    ) -> None:
        self.buy(billing)
        dispute = billing.open_dispute(ALICE, payment=PAYMENT, reference="dp_1")
        assert (dispute.set_aside, dispute.lapsed) == (credits(100_000), credits(0))
        moving.move(HOUR)

        billing.win_dispute(ALICE, payment=PAYMENT, reference="dp_1")

        assert self.lots(billing) == [(None, 100_000)]
        assert billing.balance(ALICE).available == credits(100_000)
        view = billing.find(ALICE, reference=PAYMENT, kind="purchase")
        assert view is not None
        assert view.expires_at == NOON + HOUR
        assert billing.verify().violations == ()
        assert self.refund(billing).taken == credits(100_000)
        assert set(totals().values()) == {0}

    @pytest.mark.parametrize("swept", [True, False])
    def test_a_dispute_sets_no_expired_credits_aside(
        self, billing: Billing, moving: MovableClock, totals: Totals, swept: bool
    ) -> None:
        self.buy(billing)
        self.charge(billing, 30_000)
        moving.move(HOUR)
        if swept:
            billing.sweep()

        dispute = billing.open_dispute(ALICE, payment=PAYMENT, reference="dp_1")

        assert (dispute.set_aside, dispute.lapsed) == (credits(30_000), credits(70_000))
        assert billing.open_dispute(ALICE, payment=PAYMENT, reference="dp_1").lapsed == credits(
            70_000
        )
        assert billing.balance(ALICE).available == credits(-30_000)
        assert billing.verify().violations == ()
        receipt = billing.lose_dispute(ALICE, payment=PAYMENT, reference="dp_1")
        assert (receipt.taken, receipt.lapsed) == (credits(30_000), credits(70_000))
        assert self.posted(billing) == -30_000
        assert totals()[BREAKAGE] == 0
        assert billing.verify().violations == ()
