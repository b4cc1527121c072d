"""Contract: payment events are applied once, in any order, and none is dropped."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import timedelta
from functools import partial
from itertools import permutations
from typing import Any, Final, TypeVar
from uuid import UUID

import pytest
from attrs import evolve

from cogni_billing import (
    AttemptStatus,
    Billing,
    DisputeChanged,
    DisputeState,
    EventState,
    FraudWarned,
    IdempotencyConflict,
    InboxEntry,
    Intent,
    InvalidInput,
    InvalidPage,
    PaymentAttempts,
    PaymentCanceled,
    PaymentDeclined,
    PaymentEvent,
    PaymentRefunded,
    PaymentSucceeded,
    RefundFailed,
    RefundMade,
    credits,
    usd,
)
from cogni_billing.testing.base import (
    ALICE,
    BOB,
    NOON,
    CountingIds,
    MovableClock,
    NewAttempts,
    NewBilling,
    Reached,
    Totals,
    purchase_totals,
)
from cogni_billing.testing.contracts.attempt_base import CARD, Attempting
from cogni_billing.testing.racing import at_once
from cogni_billing.testing.verifiers import FakeVerifier

Event = TypeVar("Event", bound=PaymentEvent)
PAYMENT: Final = "stripe:pi_1"
OPEN, WON, LOST = DisputeState.OPEN, DisputeState.WON, DisputeState.LOST
APPLIED, IGNORED = EventState.APPLIED, EventState.IGNORED
UNMATCHED, WAITING = EventState.UNMATCHED, EventState.WAITING
STRANGER: Final = UUID(int=99)
DOLLAR: Final = 10_000_000
"""The credits of a dollar."""
CALLERS: Final = 8
OPTIONS: Final = {"confirm_without_attempt": True}


def event(kind: type[Event], name: str, second: int = 0, **fields: Any) -> Event:
    """The event of this name, some seconds after noon."""
    at = NOON + timedelta(seconds=second)
    common: dict[str, Any] = {"id": f"stripe:evt_{name}", "payment": PAYMENT, "at": at}
    return kind(**common | fields)


def success(intent: Intent | None, cents: int = 1000, **fields: Any) -> PaymentSucceeded:
    owned = {"tenant": intent.tenant, "attempt_id": intent.attempt_id} if intent else {}
    paid: dict[str, Any] = {"raw_amount": cents, "currency": "usd", "recipient": "acct_1"}
    return event(PaymentSucceeded, "paid", **owned | paid | fields)


def refund(name: str, cents: int, second: int = 10, **fields: Any) -> RefundMade:
    money = {"raw_amount": cents, "currency": "usd", "reference": name}
    return event(RefundMade, name, second, **money | fields)


def failure(name: str, cents: int, second: int) -> RefundFailed:
    money = {"raw_amount": cents, "currency": "usd", "reference": name}
    return event(RefundFailed, f"{name}_failed", second, **money)


def numbered(each: Event, number: int) -> Event:
    """*each* with ids of its own."""
    ours = evolve(each, id=f"{each.id}_{number}", payment=f"stripe:pi_{number}")
    if isinstance(ours, (RefundMade, RefundFailed)):
        return evolve(ours, reference=f"{ours.reference}_{number}")
    return ours


def refunded(cents: int, second: int = 10, charged: int = 1000) -> PaymentRefunded:
    money = {"raw_amount": cents, "currency": "usd", "charged": charged}
    return event(PaymentRefunded, f"total_{cents}", second, **money)


def dispute(state: DisputeState, second: int, cents: int = 1000) -> DisputeChanged:
    money = {"raw_amount": cents, "currency": "usd", "reference": "du_1"}
    return event(DisputeChanged, f"{state}_{second}", second, state=state, **money)


class Receiving(Attempting):
    """Fixtures for payment events."""

    @pytest.fixture
    def attempts(
        self, new_attempts: NewAttempts, moving: MovableClock, verifier: FakeVerifier
    ) -> PaymentAttempts:
        return new_attempts(
            verifier=verifier, destinations=CARD, clock=moving, ids=CountingIds(1000)
        )

    @pytest.fixture
    def billing(self, new_billing: NewBilling, moving: MovableClock) -> Billing:
        return new_billing(clock=moving, ids=CountingIds())

    @pytest.fixture
    def intent(self, attempts: PaymentAttempts) -> Intent:
        """Alice intends to pay ten dollars."""
        return attempts.create_intent(ALICE, usd("10.00"))

    @pytest.fixture
    def process(self, attempts: PaymentAttempts) -> Callable[..., list[EventState]]:
        """Deliver events, and return their states."""

        def process(*events: PaymentEvent, **options: bool) -> list[EventState]:
            return [attempts.process(each, **options).state for each in events]

        return process


Process = Callable[..., list[EventState]]


def left(billing: Billing) -> int:
    """The dollars' worth of credits that Alice has available."""
    return int(billing.balance(ALICE).available.value) // DOLLAR


def only(attempts: PaymentAttempts, state: EventState) -> InboxEntry:
    (entry,) = attempts.inbox(state).entries
    return entry


class InboxContract(Receiving):
    def test_a_success_credits_its_attempt_once(
        self, attempts: PaymentAttempts, intent: Intent, totals: Totals
    ) -> None:
        first, again = attempts.process(success(intent)), attempts.process(success(intent))

        assert (first.state, first.tenant, first.payment) == (APPLIED, ALICE, PAYMENT)
        assert again == evolve(first, replayed=True)
        assert attempts.status(ALICE, intent.attempt_id).status is AttemptStatus.CONFIRMED
        assert totals() == purchase_totals(ALICE, 10 * DOLLAR, 25_000_000)

    def test_a_success_replaces_the_session_that_was_submitted(
        self, attempts: PaymentAttempts, intent: Intent
    ) -> None:
        attempts.submit(ALICE, intent.attempt_id, "stripe:cs_1")

        entry = attempts.process(success(intent, aliases=("stripe:cs_1",)))

        assert (entry.state, entry.payment) == (APPLIED, PAYMENT)

    def test_a_second_payment_of_an_attempt_is_unmatched(
        self, process: Process, intent: Intent, totals: Totals
    ) -> None:
        second = success(intent, id="stripe:evt_second", payment="stripe:pi_2")

        assert process(success(intent), second) == [APPLIED, UNMATCHED]
        assert totals() == purchase_totals(ALICE, 10 * DOLLAR, 25_000_000)

    def test_an_event_is_kept_with_all_that_it_told(
        self, attempts: PaymentAttempts, intent: Intent, moving: MovableClock
    ) -> None:
        told = success(intent, sender="cus_1", aliases=("stripe:cs_1", "stripe:ch_1"))
        attempts.process(told)

        kept = only(attempts, APPLIED)
        assert (kept.event, kept.received_at) == (told, moving.now())

    def test_a_success_without_a_tenant_is_unmatched(
        self, attempts: PaymentAttempts, totals: Totals
    ) -> None:
        entry = attempts.process(success(None))

        assert (entry.state, entry.tenant) == (UNMATCHED, None)
        assert entry.note is not None
        assert only(attempts, UNMATCHED) == entry
        assert totals() == {}

    def test_an_unmatched_success_is_applied_once_its_purchase_is_confirmed(
        self, attempts: PaymentAttempts, billing: Billing
    ) -> None:
        attempts.process(success(None))
        assert attempts.sweep_inbox() == 0

        billing.confirm_purchase(BOB, usd("10.00"), payment=PAYMENT)

        assert attempts.sweep_inbox() == 1
        assert (only(attempts, APPLIED).tenant, attempts.inbox().entries) == (BOB, ())

    def test_a_success_without_an_attempt_is_credited_only_if_the_host_says_so(
        self, process: Process, totals: Totals
    ) -> None:
        told = success(None, tenant=ALICE)

        assert process(told) == [UNMATCHED]
        assert totals() == {}
        assert process(told, told, confirm_without_attempt=True) == [APPLIED, APPLIED]
        assert totals() == purchase_totals(ALICE, 10 * DOLLAR, 25_000_000)

    def test_a_success_by_a_second_event_is_applied_to_the_same_purchase(
        self, process: Process, intent: Intent, totals: Totals
    ) -> None:
        session = success(None, id="stripe:evt_session", aliases=("stripe:cs_1",))

        assert process(session, success(intent), session) == [UNMATCHED, APPLIED, APPLIED]
        assert totals() == purchase_totals(ALICE, 10 * DOLLAR, 25_000_000)

    @pytest.mark.parametrize(
        ("fields", "note"),
        [({"cents": 999}, "INSUFFICIENT_AMOUNT"), ({"currency": "eur"}, "INVALID_TOKEN")],
    )
    def test_a_success_that_does_not_fit_its_attempt_is_unmatched(
        self, attempts: PaymentAttempts, intent: Intent, fields: dict[str, Any], note: str
    ) -> None:
        entry = attempts.process(success(intent, **fields))

        assert (entry.state, entry.tenant) == (UNMATCHED, ALICE)
        assert note in (entry.note or "")
        assert attempts.status(ALICE, intent.attempt_id).status is AttemptStatus.FAILED

    def test_a_success_in_another_currency_is_not_confirmed(
        self, attempts: PaymentAttempts, totals: Totals
    ) -> None:
        told = success(None, tenant=ALICE, currency="eur")
        entry = attempts.process(told, confirm_without_attempt=True)

        assert (entry.state, entry.tenant) == (UNMATCHED, ALICE)
        assert "unit_mismatch" in (entry.note or "")
        assert totals() == {}

    def test_a_success_of_an_unknown_attempt_is_unmatched_and_not_swept(
        self, attempts: PaymentAttempts, billing: Billing
    ) -> None:
        told = success(None, tenant=ALICE, attempt_id=STRANGER)
        assert attempts.process(told).state is UNMATCHED

        billing.confirm_purchase(ALICE, usd("10.00"), payment=PAYMENT)

        assert attempts.sweep_inbox() == 0
        assert "unknown_attempt" in (only(attempts, UNMATCHED).note or "")

    def test_a_success_of_another_tenants_payment_is_unmatched(
        self, attempts: PaymentAttempts, billing: Billing, intent: Intent, totals: Totals
    ) -> None:
        billing.confirm_purchase(BOB, usd("10.00"), payment=PAYMENT)
        before = totals()

        entry = attempts.process(success(intent))

        assert entry.state is UNMATCHED
        assert "payment_already_claimed" in (entry.note or "")
        assert totals() == before

    def test_a_success_of_less_than_was_credited_is_unmatched(
        self, process: Process, billing: Billing
    ) -> None:
        billing.confirm_purchase(ALICE, usd("10.00"), payment=PAYMENT)

        assert process(success(None, 999)) == [UNMATCHED]

    def test_a_cancellation_ends_its_attempt(
        self, attempts: PaymentAttempts, process: Process, intent: Intent
    ) -> None:
        named: dict[str, Any] = {"tenant": ALICE, "attempt_id": intent.attempt_id}
        told = event(PaymentCanceled, "canceled", **named)

        assert process(told, told) == [APPLIED, APPLIED]
        assert attempts.status(ALICE, intent.attempt_id).status is AttemptStatus.FAILED

    def test_events_without_an_effect_are_kept_and_ignored(
        self, attempts: PaymentAttempts, process: Process, intent: Intent, totals: Totals
    ) -> None:
        process(success(intent))
        before = totals()
        events = (
            event(PaymentCanceled, "canceled"),
            event(PaymentDeclined, "declined", tenant=ALICE, attempt_id=intent.attempt_id),
            event(FraudWarned, "warned", reference="issfr_1"),
        )

        assert process(*events) == [IGNORED] * 3
        assert tuple(each.event for each in attempts.inbox(IGNORED).entries) == events
        assert totals() == before

    def test_a_refund_waits_for_its_purchase(
        self, attempts: PaymentAttempts, process: Process, billing: Billing, totals: Totals
    ) -> None:
        assert process(refund("re_1", 400), refund("re_1", 400)) == [WAITING, WAITING]
        assert totals() == {}
        assert attempts.sweep_inbox() == 0

        billing.confirm_purchase(ALICE, usd("10.00"), payment=PAYMENT)

        assert attempts.sweep_inbox() == 1
        assert (left(billing), attempts.sweep_inbox()) == (6, 0)

    def test_waiting_events_are_applied_with_the_success(
        self, attempts: PaymentAttempts, process: Process, billing: Billing, intent: Intent
    ) -> None:
        process(refund("re_1", 400), dispute(OPEN, 20, 600))

        assert process(success(intent)) == [APPLIED]
        assert (left(billing), attempts.inbox(WAITING).entries) == (0, ())
        assert len(attempts.inbox(APPLIED).entries) == 3

    def test_a_recorded_refund_has_the_reference_of_the_processor(
        self, process: Process, billing: Billing, intent: Intent
    ) -> None:
        process(success(intent), refund("re_1", 400))
        made = billing.find(ALICE, reference="re_1", kind="refund")

        assert made is not None
        assert dict(made.metadata) == {"event": "stripe:evt_re_1"}

    def test_a_refund_that_the_host_recorded_is_not_recorded_again(
        self, process: Process, billing: Billing, intent: Intent
    ) -> None:
        process(success(intent))
        billing.refund(ALICE, payment=PAYMENT, amount=usd("4.00"), reference="re_1")

        assert process(refund("re_1", 400), refunded(400)) == [APPLIED, APPLIED]
        assert left(billing) == 6

    def test_refunds_in_any_order_come_to_the_same_total(
        self, attempts: PaymentAttempts, billing: Billing, process: Process
    ) -> None:
        told = (refunded(400), refund("re_1", 400), refunded(700, 20), refund("re_2", 300, 20))
        for number, order in enumerate(permutations(told)):
            payment = f"stripe:pi_{number}"
            ours = [evolve(each, id=f"{each.id}_{number}", payment=payment) for each in order]
            billing.confirm_purchase(ALICE, usd("10.00"), payment=payment)

            assert set(process(*ours, *reversed(ours))) == {APPLIED}

            found = billing.find_payment(payment)
            assert found is not None
            assert found.refunded == usd("7.00"), [each.id for each in ours]
        assert billing.verify().violations == ()

    def test_a_refund_that_failed_gives_its_credits_back_in_any_order(
        self, billing: Billing, process: Process
    ) -> None:
        told = (refund("re_1", 400), refund("re_2", 300, 20), failure("re_1", 400, 30))
        for number, order in enumerate(permutations((refunded(400), *told))):
            payment = f"stripe:pi_{number}"
            ours = [numbered(each, number) for each in order]
            billing.confirm_purchase(ALICE, usd("10.00"), payment=payment)

            process(*ours, *reversed(ours))

            found = billing.find_payment(payment)
            assert found is not None
            assert found.refunded == usd("3.00"), [each.id for each in ours]
        assert billing.verify().violations == ()

    def test_a_failure_of_a_part_of_a_reported_total_gives_that_part_back(
        self, process: Process, billing: Billing, intent: Intent
    ) -> None:
        states = process(success(intent), refunded(700), failure("re_1", 400, 30))

        assert (states, left(billing)) == ([APPLIED] * 3, 7)

    def test_a_failure_of_a_refund_that_the_host_recorded_is_unmatched(
        self, process: Process, billing: Billing, intent: Intent
    ) -> None:
        process(success(intent))
        billing.refund(ALICE, payment=PAYMENT, amount=usd("4.00"), reference="ours")

        states = process(refund("re_1", 400), failure("re_1", 400, 30))

        assert (states, left(billing)) == ([APPLIED, UNMATCHED], 6)

    def test_a_bank_that_decides_again_is_followed(
        self, process: Process, billing: Billing, intent: Intent
    ) -> None:
        process(success(intent), dispute(OPEN, 10, 600), dispute(LOST, 20, 600))
        assert left(billing) == 4

        process(dispute(WON, 30, 600))
        assert left(billing) == 10

        process(dispute(LOST, 40, 600))
        assert (left(billing), billing.balance(ALICE).posted) == (4, credits(4 * DOLLAR))
        assert billing.verify().violations == ()

    def test_a_dispute_of_another_amount_sets_that_aside(
        self, process: Process, billing: Billing, intent: Intent
    ) -> None:
        process(success(intent), dispute(OPEN, 10, 600), dispute(OPEN, 20, 800))
        assert left(billing) == 2

        process(dispute(OPEN, 30, 300))
        assert left(billing) == 7

    def test_amounts_with_tax_are_scaled_to_the_purchase(
        self, process: Process, billing: Billing, intent: Intent
    ) -> None:
        process(success(intent, 1200), refund("re_1", 600))
        assert left(billing) == 5

        process(refunded(1200, 20, charged=1200))
        assert left(billing) == 0

    def test_a_refund_in_another_currency_is_unmatched(
        self, attempts: PaymentAttempts, process: Process, billing: Billing, intent: Intent
    ) -> None:
        told = refund("re_1", 400, currency="eur")

        assert process(success(intent), told, told) == [APPLIED, UNMATCHED, UNMATCHED]
        assert (left(billing), attempts.sweep_inbox()) == (10, 0)

    @pytest.mark.parametrize(
        ("end", "available", "posted"), [(OPEN, 4, 10), (WON, 10, 10), (LOST, 4, 4)]
    )
    def test_a_dispute_in_any_order_ends_in_its_last_state(
        self, process: Process, billing: Billing, end: DisputeState, available: int, posted: int
    ) -> None:
        told = (dispute(OPEN, 10, 600), dispute(OPEN, 20, 600), dispute(end, 30, 600))
        for number, order in enumerate(permutations((*told, success(None)))):
            tenant, payment = UUID(int=number + 1000), f"stripe:pi_{number}"
            given = (evolve(each, id=f"{each.id}_{number}", payment=payment) for each in order)
            ours = [
                evolve(each, tenant=tenant) if isinstance(each, PaymentSucceeded) else each
                for each in given
            ]
            for _ in range(2):
                process(*ours, confirm_without_attempt=True)

            balance = billing.balance(tenant)
            assert balance.available == credits(available * DOLLAR), [each.id for each in ours]
            assert balance.posted == credits(posted * DOLLAR)
        assert billing.verify().violations == ()

    def test_a_dispute_that_was_won_is_not_opened_late(
        self, process: Process, billing: Billing, intent: Intent
    ) -> None:
        process(success(intent), dispute(WON, 30), dispute(OPEN, 10))

        assert billing.balance(ALICE).held == credits(0)

    def test_a_dispute_that_ends_in_the_second_it_opens_is_ended(
        self, process: Process, billing: Billing, intent: Intent
    ) -> None:
        process(success(intent), dispute(LOST, 10), evolve(dispute(OPEN, 10), id="stripe:evt_o"))

        assert billing.balance(ALICE).posted == credits(0)

    def test_a_dispute_that_was_never_opened_is_won_without_an_effect(
        self, process: Process, billing: Billing, intent: Intent
    ) -> None:
        assert process(success(intent), dispute(WON, 10)) == [APPLIED, APPLIED]

        found = billing.find_payment(PAYMENT)
        assert found is not None
        assert found.disputes == ()

    def test_a_dispute_of_more_than_the_rest_sets_the_rest_aside(
        self, process: Process, billing: Billing, intent: Intent
    ) -> None:
        states = process(success(intent), refund("re_1", 400), dispute(OPEN, 20, 1000))

        assert (states, left(billing)) == ([APPLIED] * 3, 0)
        assert billing.balance(ALICE).held == credits(6 * DOLLAR)

    def test_an_event_finds_a_purchase_by_an_alias(
        self, process: Process, billing: Billing
    ) -> None:
        billing.confirm_purchase(ALICE, usd("10.00"), payment="stripe:cs_1")
        session = success(None, aliases=("stripe:cs_1",))

        assert process(refund("re_1", 400), session) == [WAITING, APPLIED]
        assert left(billing) == 6

    def test_another_event_under_the_same_id_is_a_conflict(
        self, attempts: PaymentAttempts, intent: Intent, totals: Totals
    ) -> None:
        attempts.process(success(intent))
        before = totals()

        with pytest.raises(IdempotencyConflict) as caught:
            attempts.process(success(intent, 2000, sender="cus_1"))

        assert [each.field for each in caught.value.differences] == ["raw_amount", "sender"]
        assert totals() == before

    def test_pages_of_the_inbox_go_on_after_each_other(
        self, attempts: PaymentAttempts, process: Process
    ) -> None:
        told = [refund(f"re_{number}", 100) for number in range(5)]
        process(*reversed(told))  # at one moment: the ids decide

        first = attempts.inbox(WAITING, limit=3)
        second = attempts.inbox(WAITING, limit=3, after=first.next)

        assert [each.event for each in (*first.entries, *second.entries)] == told
        assert (second.next, attempts.inbox(WAITING, after="stripe:evt_9").entries) == (None, ())

    def test_the_first_delivery_keeps_its_time(
        self, attempts: PaymentAttempts, moving: MovableClock, intent: Intent
    ) -> None:
        attempts.process(refund("re_1", 400))
        first = moving.now()
        moving.move(timedelta(minutes=5))
        attempts.process(success(intent))

        times = [each.received_at for each in attempts.inbox(APPLIED).entries]
        assert times == [first, moving.now()]

    @pytest.mark.parametrize("given", [None, 7, "evt_1", {}, object(), b""])
    def test_an_event_of_another_type_is_refused_before_the_store_is_reached(
        self, attempts: PaymentAttempts, reached: Reached, given: Any
    ) -> None:
        before = reached()
        with pytest.raises(InvalidInput) as caught:
            attempts.process(given)

        assert (caught.value.field, reached()) == ("event", before)

    def test_invalid_options_are_refused_before_the_store_is_reached(
        self, attempts: PaymentAttempts, reached: Reached, intent: Intent
    ) -> None:
        before = reached()
        given: Any
        for given in (None, 1, "yes"):
            with pytest.raises(InvalidInput):
                attempts.process(success(intent), confirm_without_attempt=given)
        for given in (None, "waiting", 7):
            with pytest.raises(InvalidInput):
                attempts.inbox(given)
        for given in (0, -1, True, "5", 1001):
            with pytest.raises(InvalidPage):
                attempts.inbox(limit=given)
        for given in (7, "", "a b"):
            with pytest.raises(InvalidInput):
                attempts.inbox(after=given)

        assert reached() == before


class InboxRaces(Receiving):
    def test_an_event_that_is_delivered_many_times_at_once_is_applied_once(
        self, attempts: PaymentAttempts, billing: Billing, intent: Intent
    ) -> None:
        for told in (success(intent), refund("re_1", 400), dispute(OPEN, 20, 600)):
            at_once([partial(attempts.process, told)] * CALLERS)

        assert (left(billing), billing.balance(ALICE).held) == (0, credits(6 * DOLLAR))
        assert len(attempts.inbox(APPLIED).entries) == 3
        assert billing.verify().violations == ()

    def test_events_that_come_at_once_leave_none_waiting(
        self, attempts: PaymentAttempts, billing: Billing
    ) -> None:
        for number in range(CALLERS):
            tenant, payment = UUID(int=number + 1000), f"stripe:pi_{number}"
            told: Iterable[PaymentEvent] = (
                success(None, tenant=tenant),
                refund("re_1", 400),
                refunded(400),
                dispute(LOST, 20, 600),
            )
            ours = [evolve(each, id=f"{each.id}_{number}", payment=payment) for each in told]
            at_once([partial(attempts.process, each, **OPTIONS) for each in ours])

            assert attempts.inbox(WAITING).entries == ()
            assert billing.balance(tenant).posted == credits(0)
        assert billing.verify().violations == ()
