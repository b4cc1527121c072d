"""Contract: the limit of a tenant's overdrafts."""

from __future__ import annotations

from datetime import timedelta
from functools import partial

import pytest
from attrs import evolve

from cogni_billing import (
    Billing,
    InsufficientCredits,
    Overrun,
    credits,
    usd,
)
from cogni_billing.testing.base import ALICE, BOB, Contract, NewBilling, SteppingClock, Totals
from cogni_billing.testing.racing import at_once


def overdrawn(billing: Billing, amount: int, reference: str = "run-1") -> int:
    """The available credits after a charge that allows an overdraft."""
    billing.charge(ALICE, credits(amount), reference=reference, allow_overdraft=True)
    return int(billing.balance(ALICE).available.value)


class OverdraftLimitContract(Contract):
    """Calls that allow an overdraft take the available credits no further below zero."""

    @pytest.fixture
    def few(self, billing: Billing) -> Billing:
        """Alice has seven credits, and may overdraw five."""
        billing.grant(ALICE, credits(7), source="promo:a", reference="a")
        billing.set_overdraft_limit(ALICE, credits(5))
        return billing

    def test_a_limit_is_shown_by_the_account_until_it_is_removed(self, billing: Billing) -> None:
        account = billing.open_account(ALICE)
        limited = evolve(account, overdraft_limit=credits(5))

        assert account.overdraft_limit is None
        assert billing.set_overdraft_limit(ALICE, credits(5)) == limited
        assert billing.set_overdraft_limit(ALICE, credits(5)) == limited
        assert billing.open_account(ALICE) == limited
        assert billing.open_account(BOB).overdraft_limit is None
        assert billing.set_overdraft_limit(ALICE, None) == account

    def test_an_account_overdraws_without_a_limit_at_first(self, billing: Billing) -> None:
        billing.open_account(ALICE)

        assert overdrawn(billing, 10**20) == -(10**20)

    def test_an_overdraft_goes_to_the_limit_and_not_one_credit_further(self, few: Billing) -> None:
        assert overdrawn(few, 12) == -5

        with pytest.raises(InsufficientCredits) as caught:
            overdrawn(few, 1, "run-2")

        refused = caught.value
        assert (refused.required, refused.available) == (credits(1), credits(-5))
        assert (refused.held, refused.overdraft_limit) == (None, credits(5))
        assert few.balance(ALICE).posted == credits(-5)
        assert few.verify().violations == ()

    def test_a_refused_overdraft_leaves_its_reference_free(
        self, few: Billing, totals: Totals
    ) -> None:
        before = totals()

        with pytest.raises(InsufficientCredits):
            overdrawn(few, 13)

        assert totals() == before
        assert overdrawn(few, 12) == -5
        assert few.charge(ALICE, credits(12), reference="run-1", allow_overdraft=True).replayed

    def test_a_limit_of_zero_allows_no_overdraft(self, few: Billing) -> None:
        few.set_overdraft_limit(ALICE, credits(0))

        with pytest.raises(InsufficientCredits) as caught:
            overdrawn(few, 8)

        assert caught.value.overdraft_limit == credits(0)
        assert overdrawn(few, 7) == 0

    def test_a_removed_limit_limits_no_overdraft(self, few: Billing) -> None:
        few.set_overdraft_limit(ALICE, None)

        assert overdrawn(few, 100) == -93
        assert few.verify().violations == ()

    def test_calls_without_an_overdraft_name_no_limit(self, few: Billing) -> None:
        with pytest.raises(InsufficientCredits) as charging:
            few.charge(ALICE, credits(8), reference="run-1")
        with pytest.raises(InsufficientCredits) as holding:
            few.hold(ALICE, credits(8), reference="run-1")

        assert charging.value.overdraft_limit is None
        assert holding.value.overdraft_limit is None
        assert few.charge(ALICE, credits(9), reference="run-2", at_most=True).charged == credits(7)

    def test_held_credits_count_as_spent(self, few: Billing) -> None:
        few.hold(ALICE, credits(7), reference="h")

        with pytest.raises(InsufficientCredits):
            overdrawn(few, 6)

        assert overdrawn(few, 5) == -5

    def test_a_capture_overdraws_to_the_limit(self, few: Billing) -> None:
        hold = few.hold(ALICE, credits(4), reference="h")

        with pytest.raises(InsufficientCredits) as caught:
            few.capture(ALICE, hold.id, credits(13), reference="c", overrun=Overrun.OVERDRAFT)

        refused = caught.value
        assert (refused.required, refused.held) == (credits(13), credits(4))
        assert (refused.available, refused.overdraft_limit) == (credits(3), credits(5))
        captured = few.capture(
            ALICE, hold.id, credits(12), reference="c", overrun=Overrun.OVERDRAFT
        )
        assert captured.balance == credits(-5)
        assert few.verify().violations == ()

    def test_a_capture_within_its_hold_is_never_refused(self, few: Billing) -> None:
        hold = few.hold(ALICE, credits(7), reference="h")
        few.adjust(ALICE, credits(-50), reason="billed too little", reference="t")

        captured = few.capture(ALICE, hold.id, credits(7), reference="c", overrun=Overrun.OVERDRAFT)

        assert captured.balance == credits(-50)
        assert few.verify().violations == ()

    def test_a_capture_that_allows_no_overdraft_names_no_limit(self, few: Billing) -> None:
        hold = few.hold(ALICE, credits(4), reference="h")

        for overrun in (Overrun.REFUSE, Overrun.AVAILABLE):
            with pytest.raises(InsufficientCredits) as caught:
                few.capture(ALICE, hold.id, credits(12), reference="c", overrun=overrun)
            assert caught.value.overdraft_limit is None

    def test_free_work_is_recorded_beyond_the_limit(self, few: Billing) -> None:
        overdrawn(few, 12)
        few.set_overdraft_limit(ALICE, credits(0))

        assert overdrawn(few, 0, "free") == -5
        assert few.verify().violations == ()

    def test_losses_against_the_will_of_the_tenant_have_no_limit(
        self, few: Billing, clock: SteppingClock
    ) -> None:
        few.confirm_purchase(ALICE, usd("0.02"), payment="stripe:pi_1")
        few.grant(ALICE, credits(3), source="a", reference="b", expires_in=timedelta(hours=1))
        few.open_dispute(ALICE, payment="stripe:pi_1", amount=usd("0.01"), reference="dp")
        overdrawn(few, 100_000)
        clock.moment += timedelta(hours=2)

        few.lose_dispute(ALICE, payment="stripe:pi_1", reference="dp")
        few.refund(ALICE, payment="stripe:pi_1", reference="re")
        few.adjust(ALICE, credits(-9), reason="billed too little", reference="t")

        assert few.balance(ALICE).available < credits(-90_000)
        with pytest.raises(InsufficientCredits):
            overdrawn(few, 1, "run-2")
        assert few.verify().violations == ()

    def test_a_lower_limit_keeps_the_debt_and_stops_more(self, few: Billing) -> None:
        overdrawn(few, 12)

        assert few.set_overdraft_limit(ALICE, credits(2)).overdraft_limit == credits(2)

        assert few.balance(ALICE).posted == credits(-5)
        with pytest.raises(InsufficientCredits):
            overdrawn(few, 1, "run-2")
        few.confirm_purchase(ALICE, usd("0.01"), payment="stripe:pi_1")
        assert overdrawn(few, 99_997, "run-3") == -2
        assert few.verify().violations == ()

    def test_a_charge_beyond_the_limit_is_refused_alone_in_a_batch(self, few: Billing) -> None:
        outcomes = few.charge_many(
            {
                "tenant": ALICE,
                "amount": credits(amount),
                "reference": f"run-{amount}",
                "allow_overdraft": True,
            }
            for amount in (10, 3, 2)
        )

        assert [type(outcome.error) for outcome in outcomes] == [
            type(None),
            InsufficientCredits,
            type(None),
        ]
        assert few.balance(ALICE).posted == credits(-5)

    def test_a_replay_is_answered_below_a_lower_limit(self, few: Billing) -> None:
        overdrawn(few, 12)
        few.set_overdraft_limit(ALICE, credits(0))

        assert few.charge(ALICE, credits(12), reference="run-1", allow_overdraft=True).replayed


class OverdraftLimitRaces(Contract):
    def test_concurrent_overdrafts_stay_within_the_limit(self, new_billing: NewBilling) -> None:
        billing = new_billing()
        billing.open_account(ALICE)
        billing.set_overdraft_limit(ALICE, credits(50))

        def charge(n: int) -> int:
            try:
                billing.charge(ALICE, credits(10), reference=f"run-{n}", allow_overdraft=True)
            except InsufficientCredits:
                return 0
            return 1

        assert sum(at_once([partial(charge, n) for n in range(20)])) == 5
        assert billing.balance(ALICE).posted == credits(-50)
        assert billing.verify().violations == ()
