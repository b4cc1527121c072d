"""Contract: captures in parts, overruns, extensions and releases of a part."""

from __future__ import annotations

from datetime import timedelta
from functools import partial
from uuid import UUID

import pytest
from attrs import evolve

from cogni_billing import (
    AccountId,
    Amount,
    Billing,
    BillingError,
    Difference,
    Hold,
    HoldClosed,
    HoldState,
    IdempotencyConflict,
    InsufficientCredits,
    InvalidAmount,
    InvalidInput,
    InvalidReference,
    InvalidTime,
    Overrun,
    UnknownHold,
    credits,
    usd,
)
from cogni_billing.domain.identity import USAGE
from cogni_billing.testing.base import ALICE, BOB, NOON, Contract, NewBilling, SteppingClock, Totals
from cogni_billing.testing.racing import at_once

HOUR = timedelta(hours=1)
SECOND = timedelta(seconds=1)


class HoldChangeContract(Contract):
    """The credits of a hold were captured or released, or are held."""

    @pytest.fixture
    def hold(self, billing: Billing) -> Hold:
        """A hold of 600 credits for an hour. Alice has 1 000: 500 of a grant, 500 purchased."""
        billing.confirm_purchase(ALICE, usd("0.01"), payment="stripe:pi_1")
        billing.charge(ALICE, credits(99_500), reference="before")
        billing.grant(ALICE, credits(500), source="promo:a", reference="a")
        return billing.hold(ALICE, credits(600), reference="run-1", expires_at=NOON + HOUR)

    def found(self, billing: Billing) -> Hold:
        """The hold, of which no credit is lost."""
        hold = billing.find_hold(ALICE, "run-1")
        assert hold is not None
        assert hold.amount == hold.captured + hold.released + hold.held
        assert billing.verify().violations == ()
        return hold

    def credits_of(self, billing: Billing) -> tuple[int, int, int]:
        """Alice's posted, held and granted credits."""
        balance = billing.balance(ALICE)
        granted = sum(int(grant.remaining.value) for grant in billing.grants(ALICE))
        return int(balance.posted.value), int(balance.held.value), granted

    # Captures in parts ----------------------------------------------------------------------------

    def test_captures_in_parts_leave_the_hold_open_until_the_final_one(
        self, billing: Billing, hold: Hold, totals: Totals
    ) -> None:
        part = partial(billing.capture, ALICE, hold.id)
        receipt = part(credits(200), reference="1", final=False)
        assert (receipt.captured, receipt.balance) == (credits(200), credits(800))
        assert self.credits_of(billing) == (800, 400, 0)
        part(credits(350), reference="2", final=False)
        found = self.found(billing)
        assert (found.state, found.captured, found.held) == (
            HoldState.OPEN,
            credits(550),
            credits(50),
        )

        part(credits(20), reference="3")

        found = self.found(billing)
        assert (found.state, found.captured) == (HoldState.CAPTURED, credits(570))
        assert (found.released, found.held) == (credits(30), credits(0))
        assert self.credits_of(billing) == (430, 0, 0)
        assert totals()[USAGE] == 99_500 + 570

    def test_a_capture_in_part_takes_granted_credits_first(
        self, billing: Billing, hold: Hold
    ) -> None:
        billing.capture(ALICE, hold.id, credits(200), reference="1", final=False)

        billing.release(ALICE, hold.id)

        assert self.credits_of(billing) == (800, 0, 300)
        assert self.found(billing).captured == credits(200)

    def test_a_capture_in_part_is_replayed_and_compared_with_its_rules(
        self, billing: Billing, hold: Hold
    ) -> None:
        asked = partial(billing.capture, ALICE, hold.id, credits(200), reference="1")
        first = asked(final=False)

        assert asked(final=False) == evolve(first, replayed=True)
        with pytest.raises(IdempotencyConflict) as final:
            asked()
        with pytest.raises(IdempotencyConflict) as overrun:
            asked(final=False, overrun=Overrun.AVAILABLE)

        assert final.value.differences == (Difference("final", "False", "True"),)
        assert overrun.value.differences == (Difference("overrun", "refuse", "available"),)
        assert self.found(billing).captured == credits(200)

    def test_a_capture_of_all_in_parts_leaves_an_open_hold_of_nothing(
        self, billing: Billing, hold: Hold
    ) -> None:
        billing.capture(ALICE, hold.id, credits(600), reference="1", final=False)
        assert self.found(billing).is_open

        assert billing.release(ALICE, hold.id).state is HoldState.RELEASED
        assert self.credits_of(billing) == (400, 0, 0)

    @pytest.mark.parametrize("final", [True, False])
    def test_a_capture_of_zero_has_a_line_and_keeps_its_key(
        self, billing: Billing, hold: Hold, final: bool
    ) -> None:
        asked = partial(billing.capture, ALICE, hold.id, credits(0), reference="1", final=final)

        receipt = asked()

        assert (receipt.captured, receipt.balance) == (credits(0), credits(1000))
        (line, *_) = billing.statement(ALICE).lines
        assert (line.transaction_id, line.amount) == (receipt.transaction_id, credits(0))
        assert self.found(billing).is_open is not final
        assert billing.balance(ALICE).held == credits(0 if final else 600)
        assert asked() == evolve(receipt, replayed=True)
        with pytest.raises(IdempotencyConflict):
            billing.capture(ALICE, hold.id, credits(1), reference="1", final=final)

    # Overruns -------------------------------------------------------------------------------------

    def test_a_refused_overrun_says_how_much_is_held_and_how_much_is_free(
        self, billing: Billing, hold: Hold
    ) -> None:
        billing.capture(ALICE, hold.id, credits(100), reference="1", final=False)

        with pytest.raises(InsufficientCredits) as caught:
            billing.capture(ALICE, hold.id, credits(501), reference="2")

        refused = caught.value
        assert (refused.required, refused.held, refused.available) == (
            credits(501),
            credits(500),
            credits(400),
        )
        assert self.found(billing).held == credits(500)

    @pytest.mark.parametrize("final", [True, False])
    def test_an_overrun_takes_available_credits_and_not_one_more(
        self, billing: Billing, hold: Hold, final: bool
    ) -> None:
        asked = partial(
            billing.capture, ALICE, hold.id, final=final, overrun=Overrun.AVAILABLE, reference="1"
        )
        with pytest.raises(InsufficientCredits) as caught:
            asked(credits(1001))
        assert (caught.value.held, caught.value.available) == (credits(600), credits(400))

        receipt = asked(credits(1000))

        assert receipt.balance == credits(0)
        found = self.found(billing)
        assert (found.amount, found.captured) == (credits(1000), credits(1000))
        assert found.is_open is not final
        assert asked(credits(1000)) == evolve(receipt, replayed=True)

    @pytest.mark.parametrize("final", [True, False])
    def test_an_overrun_into_an_overdraft_is_never_refused(
        self, billing: Billing, hold: Hold, final: bool
    ) -> None:
        receipt = billing.capture(
            ALICE, hold.id, credits(1300), reference="1", final=final, overrun=Overrun.OVERDRAFT
        )

        assert receipt.balance == credits(-300)
        assert self.found(billing).amount == credits(1300)

    def test_an_overrun_takes_granted_credits_first(self, billing: Billing, hold: Hold) -> None:
        billing.grant(ALICE, credits(50), source="promo:b", reference="b")

        billing.capture(
            ALICE, hold.id, credits(620), reference="1", final=False, overrun=Overrun.AVAILABLE
        )

        assert self.credits_of(billing) == (430, 0, 30)
        self.found(billing)

    def test_an_ended_hold_is_closed_before_its_amount_matters(
        self, billing: Billing, hold: Hold
    ) -> None:
        billing.release(ALICE, hold.id)

        with pytest.raises(HoldClosed) as caught:
            billing.capture(ALICE, hold.id, credits(10_000), reference="1")

        assert caught.value.state == "released"

    # Extensions -----------------------------------------------------------------------------------

    def test_an_extension_sets_more_credits_aside(self, billing: Billing, hold: Hold) -> None:
        extended = billing.extend(ALICE, hold.id, credits(400), reference="e")

        assert extended == evolve(hold, amount=credits(1000))
        assert self.found(billing) == extended
        assert self.credits_of(billing) == (1000, 1000, 0)
        with pytest.raises(InsufficientCredits) as caught:
            billing.extend(ALICE, hold.id, credits(1), reference="e2")
        assert (caught.value.required, caught.value.available) == (credits(1), credits(0))

    def test_an_extension_takes_granted_credits_first(self, billing: Billing, hold: Hold) -> None:
        billing.grant(ALICE, credits(50), source="promo:b", reference="b")

        billing.extend(ALICE, hold.id, credits(20), reference="e")

        assert self.credits_of(billing) == (1050, 620, 30)
        billing.release(ALICE, hold.id)
        assert self.credits_of(billing) == (1050, 0, 550)
        self.found(billing)

    def test_an_extension_moves_the_expiry(
        self, billing: Billing, hold: Hold, clock: SteppingClock
    ) -> None:
        extended = billing.extend(ALICE, hold.id, expires_at=NOON + 3 * HOUR, reference="e")

        assert extended == evolve(hold, expires_at=NOON + 3 * HOUR)
        clock.moment = NOON + 2 * HOUR
        assert billing.balance(ALICE).held == credits(600)
        lasting = billing.extend(ALICE, hold.id, expires_in=2 * HOUR, reference="e2")
        assert lasting.expires_at == clock.moment + 2 * HOUR
        clock.moment = NOON + 5 * HOUR
        assert billing.balance(ALICE).held == credits(0)

    def test_an_extension_can_end_a_hold_earlier(
        self, billing: Billing, hold: Hold, clock: SteppingClock
    ) -> None:
        billing.extend(ALICE, hold.id, expires_in=SECOND, reference="e")
        clock.moment += SECOND

        assert billing.balance(ALICE).held == credits(0)
        with pytest.raises(HoldClosed):
            billing.capture(ALICE, hold.id, credits(1), reference="1")

    def test_an_extension_is_replayed_as_it_was_given(
        self, billing: Billing, hold: Hold, clock: SteppingClock
    ) -> None:
        asked = partial(billing.extend, ALICE, hold.id, credits(100), reference="e")
        first = asked(expires_in=HOUR)
        clock.moment += HOUR / 2

        assert asked(expires_in=HOUR) == evolve(first, replayed=True)
        with pytest.raises(IdempotencyConflict) as caught:
            billing.extend(ALICE, hold.id, expires_in=2 * HOUR, reference="e")
        assert caught.value.differences == (
            Difference("amount", "100 CREDIT", "unchanged"),
            Difference("expires_in", "3600 s", "7200 s"),
        )
        assert self.credits_of(billing) == (1000, 700, 0)

    def test_a_replay_of_a_hold_compares_its_request_without_extensions(
        self, billing: Billing, hold: Hold
    ) -> None:
        extended = billing.extend(
            ALICE, hold.id, credits(100), expires_at=NOON + 2 * HOUR, reference="e"
        )

        again = billing.hold(ALICE, credits(600), reference="run-1", expires_at=NOON + HOUR)

        assert again == evolve(extended, replayed=True)

    def test_an_ended_hold_cannot_be_extended_also_by_a_replay(
        self, billing: Billing, hold: Hold
    ) -> None:
        billing.extend(ALICE, hold.id, credits(100), reference="e")
        billing.release(ALICE, hold.id)

        for reference in ("e", "new"):
            with pytest.raises(HoldClosed):
                billing.extend(ALICE, hold.id, credits(100), reference=reference)

        assert self.credits_of(billing) == (1000, 0, 500)

    # Releases of a part ---------------------------------------------------------------------------

    def test_a_release_of_a_part_frees_purchased_credits_first(
        self, billing: Billing, hold: Hold
    ) -> None:
        part = billing.release(ALICE, hold.id, credits(80), reference="p1")
        assert (part.state, part.released, part.held) == (
            HoldState.OPEN,
            credits(80),
            credits(520),
        )
        assert self.credits_of(billing) == (1000, 520, 0)

        billing.release(ALICE, hold.id, credits(120), reference="p2")

        assert self.credits_of(billing) == (1000, 400, 100)
        assert self.found(billing).released == credits(200)

    def test_a_release_of_a_part_is_replayed_by_its_key(self, billing: Billing, hold: Hold) -> None:
        asked = partial(billing.release, ALICE, hold.id, credits(80), reference="p")
        first = asked()

        assert asked() == evolve(first, replayed=True)
        with pytest.raises(IdempotencyConflict) as caught:
            billing.release(ALICE, hold.id, reference="p")
        assert caught.value.differences == (Difference("amount", "80 CREDIT", "what remains"),)
        billing.capture(ALICE, hold.id, credits(1), reference="c")
        assert asked().state is HoldState.CAPTURED

    @pytest.mark.parametrize("amount", [credits(600), None])
    def test_a_release_of_all_by_a_key_ends_the_hold(
        self, billing: Billing, hold: Hold, amount: Amount | None
    ) -> None:
        released = billing.release(ALICE, hold.id, amount, reference="p")

        assert (released.state, released.released) == (HoldState.RELEASED, credits(600))
        assert released.ended_at is not None
        assert self.found(billing) == released
        assert self.credits_of(billing) == (1000, 0, 500)
        assert billing.release(ALICE, hold.id).replayed
        with pytest.raises(HoldClosed):
            billing.release(ALICE, hold.id, credits(1), reference="p2")

    def test_a_release_of_more_than_is_held_is_refused(self, billing: Billing, hold: Hold) -> None:
        with pytest.raises(InsufficientCredits) as caught:
            billing.release(ALICE, hold.id, credits(601), reference="p")

        refused = caught.value
        assert (refused.required, refused.held, refused.available) == (
            credits(601),
            credits(600),
            credits(400),
        )
        assert self.found(billing).held == credits(600)

    # All of them ----------------------------------------------------------------------------------

    def test_an_expired_hold_gives_back_the_part_that_no_capture_took(
        self, billing: Billing, hold: Hold, clock: SteppingClock
    ) -> None:
        billing.capture(ALICE, hold.id, credits(200), reference="1", final=False)
        clock.moment = NOON + HOUR
        assert self.credits_of(billing) == (800, 0, 300)

        billing.charge(ALICE, credits(1), reference="after")

        assert self.credits_of(billing) == (799, 0, 299)
        found = self.found(billing)
        assert (found.state, found.captured, found.released) == (
            HoldState.EXPIRED,
            credits(200),
            credits(400),
        )

    def test_a_past_balance_includes_the_changes_of_a_hold_until_then(
        self, billing: Billing, hold: Hold, clock: SteppingClock
    ) -> None:
        clock.moment = NOON + timedelta(seconds=9)
        billing.extend(ALICE, hold.id, credits(100), reference="e")  # 10
        billing.capture(ALICE, hold.id, credits(50), reference="1", final=False)  # 11
        billing.release(ALICE, hold.id, credits(25), reference="p")  # 12
        billing.capture(
            ALICE, hold.id, credits(630), reference="2", final=False, overrun=Overrun.AVAILABLE
        )  # 13
        billing.extend(ALICE, hold.id, credits(9), reference="e2")  # 14
        billing.capture(ALICE, hold.id, credits(2), reference="3")  # 15

        held = [
            int(billing.balance(ALICE, at=NOON + SECOND * at).held.value) for at in range(9, 16)
        ]

        assert held == [600, 700, 650, 625, 0, 9, 0]
        self.found(billing)

    def test_a_hold_of_another_tenant_or_with_an_unused_id_cannot_be_changed(
        self, billing: Billing, hold: Hold
    ) -> None:
        billing.confirm_purchase(BOB, usd("1.00"), payment="stripe:pi_2")

        for tenant, hold_id in ((BOB, hold.id), (ALICE, UUID(int=99))):
            with pytest.raises(UnknownHold):
                billing.extend(tenant, hold_id, credits(1), reference="r")
            with pytest.raises(UnknownHold):
                billing.release(tenant, hold_id, credits(1), reference="r")
            with pytest.raises(UnknownHold):
                billing.capture(tenant, hold_id, credits(1), reference="r", final=False)

        assert self.found(billing).held == credits(600)

    @pytest.mark.parametrize(
        ("given", "error"),
        [
            ({}, InvalidInput),
            ({"amount": credits(0)}, InvalidAmount),
            ({"expires_at": NOON}, InvalidTime),
            ({"expires_in": timedelta(0)}, InvalidTime),
            ({"expires_in": HOUR, "expires_at": NOON + HOUR}, InvalidTime),
        ],
    )
    def test_bad_arguments_of_an_extension_are_refused(
        self, billing: Billing, hold: Hold, given: dict[str, object], error: type[BillingError]
    ) -> None:
        with pytest.raises(error):
            billing.extend(ALICE, hold.id, reference="e", **given)  # type: ignore[arg-type]

        assert self.found(billing) == hold

    def test_a_release_of_a_part_without_a_key_is_refused(
        self, billing: Billing, hold: Hold
    ) -> None:
        with pytest.raises(InvalidReference):
            billing.release(ALICE, hold.id, credits(1))

        assert self.found(billing) == hold


class HoldChangeRaces(Contract):
    """Concurrent changes of a hold take each credit once."""

    def test_concurrent_captures_in_parts_never_take_more_than_is_held(
        self, new_billing: NewBilling, totals: Totals
    ) -> None:
        billing = new_billing()
        billing.confirm_purchase(ALICE, usd("0.01"), payment="stripe:pi_1")
        hold = billing.hold(ALICE, credits(100), reference="run-1")

        def capture(number: int) -> int:
            try:
                billing.capture(ALICE, hold.id, credits(9), reference=f"c-{number}", final=False)
            except InsufficientCredits:
                return 0
            return 9

        def release(number: int) -> int:
            try:
                billing.release(ALICE, hold.id, credits(7), reference=f"r-{number}")
            except InsufficientCredits:
                return 0
            return 7

        calls = [partial(call, number) for number in range(10) for call in (capture, release)]
        taken = at_once(calls)

        found = billing.find_hold(ALICE, "run-1")
        assert found is not None
        assert found.captured.value == sum(part for part in taken if part == 9)
        assert found.released.value == sum(part for part in taken if part == 7)
        assert 0 <= found.held.value < 9
        assert totals()[AccountId(ALICE)] == 100_000 - found.captured.value

    def test_concurrent_extensions_by_one_key_extend_once(self, new_billing: NewBilling) -> None:
        billing = new_billing()
        billing.confirm_purchase(ALICE, usd("0.01"), payment="stripe:pi_1")
        hold = billing.hold(ALICE, credits(100), reference="run-1")
        extend = partial(billing.extend, ALICE, hold.id, credits(5), reference="e")

        answers = at_once([extend] * 10)

        assert [answer.replayed for answer in answers].count(False) == 1
        assert billing.balance(ALICE).held == credits(105)
