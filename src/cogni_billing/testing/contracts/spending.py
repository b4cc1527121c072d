"""Contract: a role that may spend credits but not create them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest

from cogni_billing import Billing, GrantSchedule, PrivilegeRequired, credits, usd
from cogni_billing.testing.base import ALICE, BOB, NOON, Contract, NewBilling, SteppingClock, Totals

PAYMENT = "stripe:pi_1"
PLAN = GrantSchedule("plan", credits(5), every="month")
MINTING: dict[str, Callable[[Billing], object]] = {
    "a purchase": lambda billing: billing.confirm_purchase(BOB, usd("1.00"), payment="stripe:b"),
    "a purchase again": lambda billing: billing.confirm_purchase(
        ALICE, usd("1.00"), payment=PAYMENT
    ),
    "a grant": lambda billing: billing.grant(BOB, credits(5), source="promo:b", reference="b"),
    "a grant again": lambda billing: billing.grant(
        ALICE, credits(70), source="promo:a", reference="a"
    ),
    "a void": lambda billing: billing.void_grant(ALICE, billing.grants(ALICE)[0].id, reference="v"),
    "an extension": lambda billing: billing.extend_grant(
        ALICE, billing.grants(ALICE)[0].id, reference="e", expires_in=timedelta(days=5)
    ),
    "a schedule": lambda billing: billing.schedule_grants(ALICE, PLAN, reference="s"),
    "the end of a schedule": lambda billing: billing.end_schedule(ALICE, ALICE),
}
ACROSS: dict[str, Callable[[Billing], object]] = {
    "a refund": lambda billing: billing.refund(ALICE, payment=PAYMENT, reference="re_1"),
    "a dispute": lambda billing: billing.open_dispute(ALICE, payment=PAYMENT, reference="dp_1"),
    "a verification": lambda billing: billing.verify(),
    "a seal": lambda billing: billing.seal(key=b"k" * 32),
}


class SpendingContract(Contract):
    """Needs a ledger that can be opened by a role that may only spend.

    A subclass has one more fixture, `new_spender`: a `NewBilling` over the same ledger that may
    read and spend, and no more.
    """

    @pytest.fixture
    def billing(self, new_billing: NewBilling, clock: SteppingClock) -> Billing:
        """All rights. Alice has bought a dollar's worth of credits, and has a grant of 70."""
        billing = new_billing(clock=clock)
        billing.confirm_purchase(ALICE, usd("1.00"), payment=PAYMENT)
        billing.grant(
            ALICE, credits(70), source="promo:a", reference="a", expires_at=NOON + timedelta(days=1)
        )
        return billing

    @pytest.fixture
    def spender(self, billing: Billing, new_spender: NewBilling, clock: SteppingClock) -> Billing:
        return new_spender(clock=clock)

    def test_a_spender_can_spend_and_read(self, spender: Billing, billing: Billing) -> None:
        spender.open_account(BOB)
        spender.charge(ALICE, credits(20), reference="run-1")
        hold = spender.hold(ALICE, credits(10), reference="run-2")
        spender.capture(ALICE, hold.id, credits(4), reference="run-2")
        spender.release(ALICE, spender.hold(ALICE, credits(3), reference="run-3").id)
        outcomes = spender.charge_many(
            {"tenant": ALICE, "amount": credits(n), "reference": f"batch-{n}"} for n in (1, 2)
        )

        assert all(outcome.error is None for outcome in outcomes)
        assert spender.balance(ALICE) == billing.balance(ALICE)
        assert spender.balance(ALICE).available == credits(10_000_070 - 27)
        assert spender.statement(ALICE) == billing.statement(ALICE)
        assert spender.grants(ALICE) == billing.grants(ALICE)
        assert spender.find(ALICE, kind="charge", reference="run-1") is not None
        assert billing.verify().violations == ()

    def test_a_call_of_a_spender_posts_due_expirations(
        self, spender: Billing, billing: Billing, clock: SteppingClock
    ) -> None:
        clock.moment = NOON + timedelta(days=2)

        receipt = spender.charge(ALICE, credits(1), reference="run-1")

        assert receipt.balance == credits(9_999_999)
        assert billing.verify().violations == ()

    def test_a_call_of_a_spender_posts_the_periods_that_have_begun(
        self, spender: Billing, billing: Billing, clock: SteppingClock
    ) -> None:
        billing.schedule_grants(ALICE, PLAN, reference="s")
        clock.moment = NOON + timedelta(days=40)
        assert spender.balance(ALICE).posted == credits(10_000_005)

        receipt = spender.charge(ALICE, credits(1), reference="run-1")

        assert receipt.balance == credits(10_000_004)
        assert spender.schedules(ALICE) == billing.schedules(ALICE)
        assert billing.schedules(ALICE)[0].number == 2
        assert billing.verify().violations == ()

    @pytest.mark.parametrize("call", MINTING)
    def test_a_spender_cannot_mint(self, spender: Billing, totals: Totals, call: str) -> None:
        before = totals()

        with pytest.raises(PrivilegeRequired) as caught:
            MINTING[call](spender)

        assert "creating credits" in caught.value.operation
        assert totals() == before

    @pytest.mark.parametrize("all_or_nothing", [False, True])
    @pytest.mark.parametrize("count", [1, 2, 3])
    def test_a_spender_cannot_mint_in_a_batch(
        self, spender: Billing, totals: Totals, count: int, all_or_nothing: bool
    ) -> None:
        """The first purchase was confirmed before."""
        before = totals()
        purchases = [
            {"tenant": ALICE, "amount": usd("1.00"), "payment": payment}
            for payment in (PAYMENT, "stripe:pi_2", "stripe:pi_3")
        ]

        outcomes = spender.confirm_purchases(purchases[:count], all_or_nothing=all_or_nothing)

        assert [type(outcome.error) for outcome in outcomes] == [PrivilegeRequired] * count
        assert totals() == before

    def test_a_refused_call_of_a_spender_leaves_its_key_free(
        self, spender: Billing, billing: Billing
    ) -> None:
        for call in ("a purchase", "a grant"):
            with pytest.raises(PrivilegeRequired):
                MINTING[call](spender)

        assert not billing.confirm_purchase(BOB, usd("1.00"), payment="stripe:b").replayed
        assert not billing.grant(BOB, credits(5), source="promo:b", reference="b").replayed

    @pytest.mark.parametrize("call", ACROSS)
    def test_a_spender_cannot_work_across_tenants(
        self, spender: Billing, totals: Totals, call: str
    ) -> None:
        before = totals()

        with pytest.raises(PrivilegeRequired) as caught:
            ACROSS[call](spender)

        assert "across tenants" in caught.value.operation
        assert totals() == before
