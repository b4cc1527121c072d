"""Contract: holds."""

from __future__ import annotations

from datetime import datetime, timedelta
from functools import partial
from uuid import UUID

import pytest
from attrs import evolve

from cogni_billing import (
    SYSTEM_TENANT_ID,
    AccountId,
    Amount,
    Billing,
    BillingError,
    CaptureReceipt,
    Difference,
    Hold,
    HoldClosed,
    HoldPage,
    HoldState,
    IdempotencyConflict,
    InsufficientCredits,
    InvalidAmount,
    InvalidInput,
    InvalidMetadata,
    InvalidReference,
    InvalidTime,
    UnitMismatch,
    UnknownAccount,
    UnknownHold,
    credits,
    usd,
)
from cogni_billing.domain.identity import USAGE
from cogni_billing.testing.base import (
    ALICE,
    BOB,
    NOON,
    Contract,
    MovableClock,
    NewBilling,
    SteppingClock,
    Totals,
)
from cogni_billing.testing.racing import at_once

HOUR = timedelta(hours=1)
MILLION = credits(1_000_000)


class HoldContract(Contract):
    """Held credits can be captured, and not spent otherwise."""

    @pytest.fixture
    def rich(self, billing: Billing) -> Billing:
        """Alice has 1 000 000 credits."""
        billing.confirm_purchase(ALICE, usd("0.10"), payment="stripe:pi_1")
        return billing

    @pytest.fixture
    def hold(self, rich: Billing) -> Hold:
        """A hold of 600 000 credits for an hour."""
        return rich.hold(ALICE, credits(600_000), reference="run-1", expires_at=NOON + HOUR)

    def available(self, billing: Billing) -> Amount:
        return billing.balance(ALICE).available

    def test_a_hold_sets_credits_aside_without_a_posting(
        self, rich: Billing, totals: Totals
    ) -> None:
        before = totals()

        hold = rich.hold(
            ALICE, credits(5000), reference="run-1", expires_at=NOON + HOUR, metadata={"a": [1]}
        )

        assert hold == Hold(
            id=UUID(int=2),
            tenant=ALICE,
            reference="run-1",
            amount=credits(5000),
            opened_at=NOON + timedelta(seconds=2),
            expires_at=NOON + HOUR,
            metadata={"a": (1,)},
        )
        assert hold.request == {
            "amount": "5000 CREDIT",
            "expires_at": "2026-11-23T13:00:00.123456+00:00",
        }
        balance = rich.balance(ALICE)
        assert (balance.posted, balance.held) == (MILLION, credits(5000))
        assert balance.available == credits(995_000)
        assert totals() == before

    def test_an_ended_hold_does_not_expire(self, new_billing: NewBilling) -> None:
        clock = MovableClock()
        billing = new_billing(clock=clock)
        billing.confirm_purchase(ALICE, usd("1.00"), payment="stripe:pi_1")
        soon = NOON + timedelta(minutes=5)
        hold = billing.hold(ALICE, credits(7), reference="h", expires_at=soon)
        billing.capture(ALICE, hold.id, credits(7), reference="h")
        clock.move(timedelta(minutes=11))
        assert billing.sweep() == 0
        clock.move(-timedelta(minutes=10))

        billing.charge(ALICE, credits(1), reference="c")

        assert billing.statement(ALICE).lines[0].at == NOON + timedelta(minutes=1)

    def test_held_credits_cannot_be_spent_otherwise(self, rich: Billing, hold: Hold) -> None:
        with pytest.raises(InsufficientCredits) as charged:
            rich.charge(ALICE, credits(400_001), reference="run-2")
        with pytest.raises(InsufficientCredits) as held:
            rich.hold(ALICE, credits(400_001), reference="run-2")

        assert charged.value.available == held.value.available == credits(400_000)
        rich.hold(ALICE, credits(400_000), reference="run-2")
        assert self.available(rich) == credits(0)

    def test_a_capture_takes_its_amount_and_frees_the_rest(
        self, rich: Billing, hold: Hold, totals: Totals
    ) -> None:
        receipt = rich.capture(ALICE, hold.id, credits(31_000), reference="run-1")

        assert receipt == CaptureReceipt(
            transaction_id=UUID(int=3),
            hold_id=hold.id,
            captured=credits(31_000),
            balance=credits(969_000),
            replayed=False,
        )
        balance = rich.balance(ALICE)
        assert (balance.posted, balance.held) == (credits(969_000), credits(0))
        assert totals()[USAGE] == 31_000

    def test_a_capture_may_take_the_whole_hold_and_not_one_credit_more(
        self, rich: Billing, hold: Hold
    ) -> None:
        with pytest.raises(InsufficientCredits) as caught:
            rich.capture(ALICE, hold.id, credits(600_001), reference="run-1")

        refused = caught.value
        assert (refused.required, refused.held) == (credits(600_001), credits(600_000))
        assert refused.available == credits(400_000)
        assert rich.balance(ALICE).held == credits(600_000)
        rich.capture(ALICE, hold.id, credits(600_000), reference="run-1")
        assert rich.balance(ALICE).posted == credits(400_000)

    def test_a_release_frees_the_whole_hold(self, rich: Billing, hold: Hold) -> None:
        released = rich.release(ALICE, hold.id)

        assert released.state is HoldState.RELEASED
        assert released.ended_at is not None
        assert self.available(rich) == MILLION

    def test_a_second_release_has_no_effect(self, rich: Billing, hold: Hold) -> None:
        first = rich.release(ALICE, hold.id)

        assert rich.release(ALICE, hold.id) == evolve(first, replayed=True)

    def test_a_second_release_leaves_the_time_of_the_wallet(self, new_billing: NewBilling) -> None:
        clock = MovableClock()
        billing = new_billing(clock=clock)
        billing.confirm_purchase(ALICE, usd("1.00"), payment="stripe:pi_1")
        hold = billing.hold(ALICE, credits(7), reference="h")
        billing.release(ALICE, hold.id)
        clock.move(HOUR)
        assert billing.release(ALICE, hold.id).replayed
        clock.move(-HOUR / 2)

        billing.charge(ALICE, credits(1), reference="c")

        assert billing.statement(ALICE).lines[0].at == NOON + HOUR / 2

    def test_a_hold_ends_once(self, rich: Billing, hold: Hold) -> None:
        other = rich.hold(ALICE, credits(5), reference="run-2")
        rich.capture(ALICE, hold.id, credits(1), reference="run-1")
        rich.release(ALICE, other.id)

        for call, closed, state in (
            (partial(rich.capture, ALICE, hold.id, credits(1), reference="r"), hold, "captured"),
            (partial(rich.release, ALICE, hold.id), hold, "captured"),
            (partial(rich.capture, ALICE, other.id, credits(1), reference="r"), other, "released"),
        ):
            with pytest.raises(HoldClosed) as caught:
                call()
            assert (caught.value.hold_id, caught.value.state) == (closed.id, state)
        assert self.available(rich) == credits(999_999)

    def test_an_expired_hold_frees_its_credits_by_itself(
        self, rich: Billing, hold: Hold, clock: SteppingClock
    ) -> None:
        clock.moment = NOON + HOUR - timedelta(seconds=2)
        assert self.available(rich) == credits(400_000)

        assert self.available(rich) == MILLION
        assert rich.charge(ALICE, MILLION, reference="run-2").balance == credits(0)

    @pytest.mark.parametrize("used", [False, True])
    def test_an_expired_hold_is_closed(
        self, rich: Billing, hold: Hold, clock: SteppingClock, used: bool
    ) -> None:
        clock.moment = NOON + 2 * HOUR
        if used:
            rich.charge(ALICE, credits(5), reference="run-2")

        with pytest.raises(HoldClosed) as captured:
            rich.capture(ALICE, hold.id, credits(1), reference="run-1")
        with pytest.raises(HoldClosed) as released:
            rich.release(ALICE, hold.id)

        assert captured.value.state == released.value.state == "expired"

    def test_a_hold_that_expired_stays_expired_when_a_clock_goes_back(
        self, rich: Billing, hold: Hold, clock: SteppingClock
    ) -> None:
        clock.moment = NOON + 2 * HOUR
        rich.charge(ALICE, credits(900_000), reference="run-2")
        clock.moment = NOON

        with pytest.raises(HoldClosed):
            rich.capture(ALICE, hold.id, credits(600_000), reference="run-1")

        assert self.available(rich) == credits(100_000)

    def test_a_hold_without_an_expiry_stays(self, rich: Billing, clock: SteppingClock) -> None:
        hold = rich.hold(ALICE, credits(5), reference="run-1")
        clock.moment = NOON.replace(year=9000)

        assert rich.balance(ALICE).held == credits(5)
        assert rich.release(ALICE, hold.id).expires_at is None

    def asked_again(self, billing: Billing) -> Hold:
        """The request of `hold`, once more."""
        return billing.hold(ALICE, credits(600_000), reference="run-1", expires_at=NOON + HOUR)

    def test_a_replay_of_an_open_hold_finds_it(self, rich: Billing, hold: Hold) -> None:
        assert self.asked_again(rich) == evolve(hold, replayed=True)

    @pytest.mark.parametrize("state", ["captured", "released", "expired"])
    def test_a_replay_of_an_ended_hold_is_refused_with_its_state(
        self, rich: Billing, hold: Hold, clock: SteppingClock, state: str
    ) -> None:
        if state == "captured":
            rich.capture(ALICE, hold.id, credits(5), reference="run-1")
        elif state == "released":
            rich.release(ALICE, hold.id)
        else:
            clock.moment = NOON + 2 * HOUR
        before = rich.balance(ALICE)

        with pytest.raises(HoldClosed) as caught:
            self.asked_again(rich)

        assert (caught.value.hold_id, caught.value.state) == (hold.id, state)
        assert rich.balance(ALICE) == before

    def test_a_conflict_with_an_ended_hold_is_a_conflict(self, rich: Billing, hold: Hold) -> None:
        rich.release(ALICE, hold.id)

        with pytest.raises(IdempotencyConflict):
            rich.hold(ALICE, credits(5), reference="run-1", expires_at=NOON + HOUR)

    def test_a_lifetime_starts_at_the_call_and_is_compared_as_given(
        self, rich: Billing, clock: SteppingClock
    ) -> None:
        hold = rich.hold(ALICE, credits(5), reference="run-1", expires_in=HOUR)
        assert hold.expires_at == clock.moment + HOUR
        clock.moment += HOUR / 2

        again = rich.hold(ALICE, credits(5), reference="run-1", expires_in=HOUR)

        assert again == evolve(hold, replayed=True)
        for given in ({"expires_in": 2 * HOUR}, {"expires_at": hold.expires_at}, {}):
            with pytest.raises(IdempotencyConflict):
                rich.hold(ALICE, credits(5), reference="run-1", **given)
        clock.moment = hold.expires_at
        assert rich.balance(ALICE).held == credits(0)

    def test_a_hold_is_found_by_its_reference_in_any_state(
        self, rich: Billing, hold: Hold, clock: SteppingClock
    ) -> None:
        assert rich.find_hold(ALICE, "run-1") == hold
        assert rich.find_hold(ALICE, "run-2") is None
        rich.capture(ALICE, hold.id, credits(31_000), reference="run-1")
        rich.hold(ALICE, credits(5), reference="run-2", expires_at=NOON + HOUR)
        clock.moment = NOON + 2 * HOUR

        captured, expired = rich.find_hold(ALICE, "run-1"), rich.find_hold(ALICE, "run-2")

        assert captured is not None
        assert (captured.state, captured.captured) == (HoldState.CAPTURED, credits(31_000))
        assert (captured.released, captured.held) == (credits(569_000), credits(0))
        assert expired is not None
        assert (expired.state, expired.ended_at) == (HoldState.EXPIRED, NOON + HOUR)
        assert (expired.released, expired.held) == (credits(5), credits(0))

    @pytest.mark.parametrize("limit", [1, 2, 3, 4, 50])
    def test_pages_of_open_holds_have_each_once_newest_first(
        self, rich: Billing, clock: SteppingClock, limit: int
    ) -> None:
        ends = [rich.hold(ALICE, credits(1), reference=f"ended-{n}") for n in range(3)]
        made = [rich.hold(ALICE, credits(1), reference=f"run-{n}") for n in range(5)]
        rich.capture(ALICE, ends[0].id, credits(1), reference="c")
        rich.release(ALICE, ends[1].id)
        rich.extend(ALICE, ends[2].id, expires_at=NOON + HOUR, reference="e")
        rich.confirm_purchase(BOB, usd("0.10"), payment="stripe:pi_2")
        rich.hold(BOB, credits(1), reference="run-9")
        clock.moment = NOON + HOUR

        page = rich.holds(ALICE, limit=limit)
        found = [*page.holds]
        while page.next is not None:
            assert len(page.holds) == limit
            rich.hold(ALICE, credits(1), reference=f"new-{page.next}")
            page = rich.holds(ALICE, limit=limit, after=page.next)
            found += page.holds

        assert found == made[::-1]

    def test_a_page_without_more_holds_is_the_last(self, rich: Billing) -> None:
        assert rich.holds(ALICE) == HoldPage((), None)
        held = rich.hold(ALICE, credits(1), reference="run-1")
        assert rich.holds(ALICE, limit=1) == HoldPage((held,), None)

    @pytest.mark.parametrize(
        ("changed", "difference"),
        [
            ({"amount": credits(5)}, Difference("amount", "600000 CREDIT", "5 CREDIT")),
            (
                {"expires_at": None},
                Difference("expires_at", "2026-11-23T13:00:00.123456+00:00", "never"),
            ),
        ],
    )
    def test_another_hold_under_the_same_reference_conflicts(
        self, rich: Billing, hold: Hold, changed: dict[str, object], difference: Difference
    ) -> None:
        asked = {"amount": credits(600_000), "expires_at": NOON + HOUR} | changed

        with pytest.raises(IdempotencyConflict) as caught:
            rich.hold(ALICE, reference="run-1", **asked)  # type: ignore[arg-type]

        assert caught.value.differences == (difference,)

    def test_a_capture_is_replayed_by_its_reference(self, rich: Billing, hold: Hold) -> None:
        first = rich.capture(ALICE, hold.id, credits(31_000), reference="run-1")
        rich.charge(ALICE, credits(5), reference="run-2")

        again = rich.capture(ALICE, hold.id, credits(31_000), reference="run-1")

        assert again == evolve(first, replayed=True)
        with pytest.raises(IdempotencyConflict) as caught:
            rich.capture(ALICE, UUID(int=99), credits(31_001), reference="run-1")
        assert caught.value.differences == (
            Difference("amount", "31000 CREDIT", "31001 CREDIT"),
            Difference("hold", str(hold.id), str(UUID(int=99))),
        )

    def test_a_hold_of_another_tenant_or_with_an_unused_id_is_unknown(
        self, rich: Billing, hold: Hold
    ) -> None:
        rich.confirm_purchase(BOB, usd("1.00"), payment="stripe:pi_2")

        for tenant, hold_id in ((BOB, hold.id), (ALICE, UUID(int=99))):
            with pytest.raises(UnknownHold) as caught:
                rich.capture(tenant, hold_id, credits(1), reference="run-9")
            assert caught.value.hold_id == hold_id
            with pytest.raises(UnknownHold) as caught:
                rich.release(tenant, hold_id)
            assert caught.value.hold_id == hold_id

        assert rich.balance(ALICE).held == credits(600_000)

    def test_a_hold_for_a_tenant_without_an_account_is_refused(self, billing: Billing) -> None:
        with pytest.raises(UnknownAccount) as caught:
            billing.hold(ALICE, credits(1), reference="run-1")
        assert caught.value.tenant == ALICE
        with pytest.raises(UnknownAccount):
            billing.capture(ALICE, UUID(int=9), credits(1), reference="run-1")
        for call in (
            partial(billing.release, ALICE, UUID(int=9)),
            partial(billing.release, ALICE, UUID(int=9), credits(1), reference="r"),
            partial(billing.extend, ALICE, UUID(int=9), credits(1), reference="r"),
            partial(billing.find_hold, ALICE, "run-1"),
            partial(billing.holds, ALICE),
        ):
            with pytest.raises(UnknownAccount):
                call()

    @pytest.mark.parametrize(
        ("given", "error"),
        [
            ({"amount": credits(0)}, InvalidAmount),
            ({"amount": 5}, InvalidAmount),
            ({"amount": usd("1.00")}, UnitMismatch),
            ({"reference": ""}, InvalidReference),
            ({"expires_at": datetime(2027, 1, 1)}, InvalidTime),
            ({"expires_at": NOON}, InvalidTime),
            ({"expires_at": "2027"}, InvalidTime),
            ({"expires_in": timedelta(0)}, InvalidTime),
            ({"expires_in": timedelta.max}, InvalidTime),
            ({"expires_in": HOUR, "expires_at": NOON + HOUR}, InvalidTime),
            ({"metadata": {"a": float("nan")}}, InvalidMetadata),
        ],
    )
    def test_bad_arguments_are_refused_and_hold_nothing(
        self, rich: Billing, given: dict[str, object], error: type[BillingError]
    ) -> None:
        arguments = {"amount": credits(5), "reference": "run-1"} | given

        with pytest.raises(error):
            rich.hold(ALICE, **arguments)  # type: ignore[arg-type]

        assert self.available(rich) == MILLION
        assert not rich.hold(ALICE, credits(7), reference="run-1").replayed

    def test_a_hold_may_not_have_expired_by_the_wallets_time(
        self, rich: Billing, clock: SteppingClock
    ) -> None:
        clock.moment = NOON + 2 * HOUR
        rich.charge(ALICE, credits(1), reference="run-1")
        clock.moment = NOON

        with pytest.raises(InvalidTime):
            rich.hold(ALICE, credits(5), reference="run-1", expires_at=NOON + HOUR)

        assert rich.balance(ALICE).held == credits(0)

    @pytest.mark.parametrize("hold_id", [None, str(UUID(int=2)), 2])
    def test_a_hold_is_named_by_its_id(self, rich: Billing, hold: Hold, hold_id: UUID) -> None:
        with pytest.raises(InvalidInput):
            rich.capture(ALICE, hold_id, credits(1), reference="run-1")
        with pytest.raises(InvalidInput):
            rich.release(ALICE, hold_id)

    def test_an_overdraft_does_not_take_held_credits(self, rich: Billing, hold: Hold) -> None:
        rich.charge(ALICE, MILLION, reference="run-2", allow_overdraft=True)
        assert self.available(rich) == credits(-600_000)

        receipt = rich.capture(ALICE, hold.id, credits(600_000), reference="run-1")

        assert receipt.balance == credits(-600_000)
        assert self.available(rich) == credits(-600_000)

    def test_the_system_tenant_can_hold_credits(self, rich: Billing) -> None:
        hold = rich.hold(SYSTEM_TENANT_ID, credits(250_000), reference="run-1")
        with pytest.raises(InsufficientCredits):
            rich.charge(SYSTEM_TENANT_ID, credits(1), reference="run-2")
        rich.confirm_purchase(ALICE, usd("0.10"), payment="stripe:pi_2")
        rich.charge(SYSTEM_TENANT_ID, credits(250_000), reference="run-3")

        receipt = rich.capture(SYSTEM_TENANT_ID, hold.id, credits(250_000), reference="run-1")

        assert receipt.balance == credits(0)

    def test_a_past_balance_includes_held_credits(self, rich: Billing, hold: Hold) -> None:
        rich.capture(ALICE, hold.id, credits(100_000), reference="run-1")
        other = rich.hold(ALICE, credits(50), reference="run-2", expires_at=NOON + HOUR)
        rich.release(ALICE, other.id)
        rich.hold(ALICE, credits(7), reference="run-3", expires_at=NOON + HOUR)

        held = [
            int(rich.balance(ALICE, at=NOON + timedelta(seconds=seconds)).held.value)
            for seconds in (0, 1, 2, 3, 4, 5, 6, 3599, 3600)
        ]

        assert held == [0, 0, 600_000, 0, 50, 0, 7, 7, 0]


class HoldRaces(Contract):
    """Concurrent calls set each credit aside once."""

    def test_concurrent_holds_never_hold_more_than_is_available(
        self, new_billing: NewBilling
    ) -> None:
        billing = new_billing()
        billing.confirm_purchase(ALICE, usd("0.01"), payment="stripe:pi_1")

        def hold(number: int) -> bool:
            try:
                billing.hold(ALICE, credits(7_000), reference=f"run-{number}")
            except InsufficientCredits:
                return False
            return True

        outcomes = at_once([partial(hold, number) for number in range(25)])

        assert sum(outcomes) == 14
        assert billing.balance(ALICE).available == credits(2_000)

    def test_concurrent_captures_and_releases_end_a_hold_once(
        self, new_billing: NewBilling, totals: Totals
    ) -> None:
        billing = new_billing()
        billing.confirm_purchase(ALICE, usd("0.01"), payment="stripe:pi_1")
        hold = billing.hold(ALICE, credits(100), reference="run-1")

        def capture(number: int) -> str | None:
            try:
                billing.capture(ALICE, hold.id, credits(60), reference=f"run-{number}")
            except HoldClosed:
                return None
            return "captured"

        def release(_: int) -> str | None:
            try:
                return None if billing.release(ALICE, hold.id).replayed else "released"
            except HoldClosed:
                return None

        calls = [partial(call, number) for number in range(8) for call in (capture, release)]
        winners = [outcome for outcome in at_once(calls) if outcome]

        assert len(winners) == 1
        assert billing.balance(ALICE).held == credits(0)
        taken = 60 if winners == ["captured"] else 0
        assert totals()[AccountId(ALICE)] == 100_000 - taken
