"""Contract: metered runs, whose cost comes in small parts."""

from __future__ import annotations

from datetime import timedelta

import pytest

from cogni_billing import (
    Amount,
    Billing,
    Hold,
    HoldClosed,
    HoldState,
    InsufficientCredits,
    InvalidAmount,
    Line,
    Metered,
    RunInProgress,
    ScopeClosed,
    UnitMismatch,
    credits,
    usd,
)
from cogni_billing.testing.base import ALICE, Contract, MovableClock, NewBilling

TTL = timedelta(minutes=3)
SECOND = timedelta(seconds=1)


class MeteringContract(Contract):
    """The credits of a run are charged, pending, or available again."""

    @pytest.fixture
    def clock(self) -> MovableClock:
        return MovableClock()

    @pytest.fixture
    def billing(self, new_billing: NewBilling, clock: MovableClock) -> Billing:
        """Alice has 10 000 credits."""
        billing = new_billing(clock=clock)
        billing.grant(ALICE, credits(10_000), source="promo:a", reference="g")
        return billing

    def run(self, billing: Billing, every: int = 100) -> Metered:
        return billing.metered(
            ALICE, limit=credits(1_000), reference="run-1", ttl=TTL, every=credits(every)
        )

    def fail_after(self, run: Metered, cost: Amount) -> None:
        with run:
            run.add(cost)
            raise KeyError("the model failed")

    def held(self, billing: Billing) -> Hold:
        hold = billing.find_hold(ALICE, "run-1")
        assert hold is not None
        return hold

    def captures(self, billing: Billing) -> list[Line]:
        return list(reversed(billing.statement(ALICE, kind="capture").lines))

    def test_entering_holds_the_limit_and_leaving_releases_the_rest(self, billing: Billing) -> None:
        with self.run(billing) as run:
            assert billing.balance(ALICE).available == credits(9_000)
            run.add(credits(30))
            assert (run.charged, run.pending, run.remaining) == (
                credits(0),
                credits(30),
                credits(970),
            )

        assert billing.balance(ALICE).available == credits(9_970)
        assert (run.charged, run.pending) == (credits(30), credits(0))
        assert self.held(billing).state is HoldState.CAPTURED
        assert billing.verify().violations == ()

    def test_a_run_without_costs_records_no_line(self, billing: Billing) -> None:
        with self.run(billing):
            pass

        assert self.captures(billing) == []
        assert self.held(billing).state is HoldState.RELEASED
        assert billing.balance(ALICE).available == credits(10_000)

    def test_costs_are_captured_together_at_every_so_many_credits(self, billing: Billing) -> None:
        with self.run(billing, every=100) as run:
            for _ in range(25):
                run.add(credits(10))

        lines = self.captures(billing)
        assert [line.amount for line in lines] == [credits(-100), credits(-100), credits(-50)]
        assert [line.reference for line in lines] == ["run-1/1", "run-1/2", "run-1/3"]

    def test_costs_are_captured_together_at_every_so_many_seconds(
        self, billing: Billing, clock: MovableClock
    ) -> None:
        with billing.metered(
            ALICE, limit=credits(1_000), reference="run-1", ttl=TTL, every=5 * SECOND
        ) as run:
            for _ in range(4):
                run.add(credits(1))
                clock.move(2 * SECOND)
            assert (run.charged, run.pending) == (credits(4), credits(0))
            run.add(credits(0))
            assert len(self.captures(billing)) == 1

    def test_an_exception_leaves_the_costs_charged_and_the_rest_available(
        self, billing: Billing
    ) -> None:
        run = self.run(billing)
        with pytest.raises(KeyError):
            self.fail_after(run, credits(42))

        assert billing.balance(ALICE).available == credits(9_958)
        assert self.held(billing).held == credits(0)

    def test_a_cost_above_the_limit_is_refused_and_not_added(self, billing: Billing) -> None:
        with self.run(billing) as run:
            run.add(credits(990))
            with pytest.raises(InsufficientCredits) as caught:
                run.add(credits(11))
            run.add(credits(10))

        assert (caught.value.required, caught.value.available) == (credits(11), credits(10))
        assert run.charged == credits(1_000)

    def test_a_bad_cost_is_refused_and_not_added(self, billing: Billing) -> None:
        with self.run(billing) as run:
            with pytest.raises(InvalidAmount):
                run.add(credits(-1))
            with pytest.raises(UnitMismatch):
                run.add(usd(1))

        assert run.charged == credits(0)

    def test_add_renews_the_hold_for_the_whole_time(
        self, billing: Billing, clock: MovableClock
    ) -> None:
        with self.run(billing) as run:
            for _ in range(5):
                clock.move(timedelta(minutes=2))
                run.add(credits(0))
            assert self.held(billing).expires_at == clock.now() + TTL
            run.add(credits(7))

        assert billing.balance(ALICE).available == credits(9_993)

    def test_the_hold_of_a_killed_run_expires_by_itself(
        self, billing: Billing, clock: MovableClock
    ) -> None:
        run = self.run(billing)
        run.__enter__()
        run.add(credits(150))
        run.add(credits(20))
        clock.move(TTL)

        assert billing.balance(ALICE).available == credits(9_850)
        assert self.held(billing).state is HoldState.EXPIRED
        with pytest.raises(HoldClosed) as caught:
            run.__exit__(None, None, None)
        assert caught.value.state == HoldState.EXPIRED
        assert run.pending == credits(20)

    def test_an_idle_run_whose_costs_are_captured_ends_without_an_error(
        self, billing: Billing, clock: MovableClock
    ) -> None:
        with self.run(billing) as run:
            run.add(credits(100))
            clock.move(TTL)

        assert billing.balance(ALICE).available == credits(9_900)

    def test_a_second_run_of_a_reference_is_refused_and_leaves_the_first_alone(
        self, billing: Billing
    ) -> None:
        with self.run(billing) as run:
            with pytest.raises(RunInProgress) as caught, self.run(billing):
                pass
            run.add(credits(5))

        assert caught.value.hold_id == self.held(billing).id
        with pytest.raises(HoldClosed), self.run(billing):
            pass
        assert run.charged == credits(5)

    def test_more_than_the_balance_is_refused_on_entering(self, billing: Billing) -> None:
        run = billing.metered(ALICE, limit=credits(10_001), reference="run-1", ttl=TTL)

        with pytest.raises(InsufficientCredits), run:
            pass

        assert billing.balance(ALICE).available == credits(10_000)

    def test_add_outside_of_the_with_statement_is_refused(self, billing: Billing) -> None:
        run = self.run(billing)
        with pytest.raises(ScopeClosed):
            run.add(credits(1))
        with run:
            run.add(credits(1))
        with pytest.raises(ScopeClosed):
            run.add(credits(1))

        assert run.charged == credits(1)
