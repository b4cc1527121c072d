"""Contract: schedules of grants."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from uuid import UUID

import pytest
from attrs import evolve

from cogni_billing import (
    SYSTEM_TENANT_ID,
    AccountFrozen,
    Billing,
    GrantSchedule,
    IdempotencyConflict,
    InsufficientCredits,
    InvalidInput,
    Rollover,
    Schedule,
    TenantId,
    UnknownAccount,
    UnknownGrant,
    UnknownSchedule,
    credits,
    usd,
)
from cogni_billing.domain.identity import BREAKAGE, ISSUANCE
from cogni_billing.domain.wallets import DueWallet
from cogni_billing.ports.scope import UnitOfWork
from cogni_billing.testing.base import ALICE, BOB, Contract, MovableClock, NewBilling, Totals
from cogni_billing.testing.contracts.grants import left
from cogni_billing.testing.contracts.sealing import KEY
from cogni_billing.testing.racing import at_once

START = datetime(2026, 1, 31, 12, tzinfo=UTC)
FEBRUARY = datetime(2026, 2, 28, 12, tzinfo=UTC)
MARCH = datetime(2026, 3, 31, 12, tzinfo=UTC)
APRIL = datetime(2026, 4, 30, 12, tzinfo=UTC)
SECOND = timedelta(seconds=1)
DAY = timedelta(days=1)
MONTHLY = GrantSchedule("plan", credits(100), every="month")
UNKNOWN = UUID(int=2**100)


def lines(billing: Billing, tenant: TenantId = ALICE) -> list[tuple[str, int, int]]:
    """The kind, the amount and the days since the start of each line, oldest first."""
    found = reversed(billing.statement(tenant).lines)
    return [(line.kind.value, int(line.amount.value), (line.at - START).days) for line in found]


def posted(billing: Billing, at: datetime | None = None, tenant: TenantId = ALICE) -> int:
    return int(billing.balance(tenant, at=at).posted.value)


class Scheduling(Contract):
    """A clock that stands still at noon on 31 January, until a test moves it."""

    @pytest.fixture
    def clock(self) -> MovableClock:
        return MovableClock(START)

    def verified(self, billing: Billing) -> None:
        assert billing.verify().violations == ()


class ScheduleContract(Scheduling):
    """Each period grants its credits when it begins, and they expire when it ends."""

    @pytest.fixture
    def plan(self, billing: Billing) -> Schedule:
        """Alice gets 100 credits on the last day of each month."""
        return billing.schedule_grants(ALICE, MONTHLY, reference="plan", metadata={"a": 1})

    def test_a_schedule_opens_the_account_and_grants_its_first_period(
        self, billing: Billing, totals: Totals
    ) -> None:
        schedule = billing.schedule_grants(ALICE, MONTHLY, reference="plan", metadata={"a": 1})

        assert schedule == Schedule(
            id=schedule.id,
            tenant=ALICE,
            reference="plan",
            terms=MONTHLY,
            created_at=START,
            begins=START,
            number=1,
            next_at=FEBRUARY,
            metadata={"a": 1},
        )
        assert billing.schedules(ALICE) == (schedule,)
        assert posted(billing) == 100
        assert totals()[ISSUANCE] == -100
        (grant,) = billing.grants(ALICE)
        assert (grant.source, grant.priority) == ("plan", 100)
        assert (grant.granted_at, grant.expires_at) == (START, FEBRUARY)
        (line,) = billing.statement(ALICE).lines
        assert (line.kind, line.reference) == ("grant", f"{schedule.id} 0")
        view = billing.transaction(ALICE, grant.id)
        assert view is not None
        assert (view.reference, view.actor) == (line.reference, None)
        assert line.metadata == view.metadata == {"a": 1}
        self.verified(billing)

    def test_each_period_grants_and_expires_in_its_time_without_a_job(
        self, billing: Billing, clock: MovableClock, plan: Schedule, totals: Totals
    ) -> None:
        billing.charge(ALICE, credits(30), reference="run-1")
        clock.moment = MARCH + DAY

        billing.charge(ALICE, credits(10), reference="run-2")

        assert lines(billing) == [
            ("grant", 100, 0),
            ("charge", -30, 0),
            ("expiry", -70, 28),
            ("grant", 100, 28),
            ("expiry", -100, 59),
            ("grant", 100, 59),
            ("charge", -10, 60),
        ]
        references = [line.reference for line in billing.statement(ALICE, kind="grant").lines]
        assert references == [f"{plan.id} {number}" for number in (2, 1, 0)]
        assert totals()[BREAKAGE] == 170
        (present,) = billing.schedules(ALICE)
        assert present == evolve(plan, number=3, next_at=APRIL)
        self.verified(billing)

    def test_reads_take_periods_into_account_before_they_are_posted(
        self, billing: Billing, clock: MovableClock, plan: Schedule
    ) -> None:
        billing.charge(ALICE, credits(30), reference="run-1")
        moments = [
            START + n * timedelta(days=2, hours=12, microseconds=n % 2) for n in range(-1, 60)
        ]
        foreseen = [billing.balance(ALICE, at=moment) for moment in moments]
        clock.moment = APRIL + DAY
        seen = [billing.balance(ALICE, at=moment) for moment in moments]
        statement, schedules = billing.statement(ALICE), billing.schedules(ALICE)
        grants, every = billing.grants(ALICE), billing.grants(ALICE, spent=True)
        within = billing.statement(ALICE, since=FEBRUARY, until=APRIL, kind="grant", limit=1)
        assert posted(billing) == 100

        assert billing.sweep() == 1
        assert billing.sweep() == 0

        assert [billing.balance(ALICE, at=moment) for moment in moments] == foreseen == seen
        assert billing.statement(ALICE) == statement
        assert billing.statement(ALICE, since=FEBRUARY, until=APRIL, kind="grant", limit=1) == (
            within
        )
        assert [grant.granted_at for grant in every] == [APRIL, MARCH, FEBRUARY, START]
        assert (billing.grants(ALICE), billing.grants(ALICE, spent=True)) == (grants, every)
        assert billing.schedules(ALICE) == schedules
        assert posted(billing) == 100

    def test_pages_of_grants_go_on_from_a_period_that_is_not_posted(
        self, billing: Billing, clock: MovableClock, plan: Schedule
    ) -> None:
        clock.moment = APRIL
        every = billing.grants(ALICE, spent=True)

        pages = list(billing.grants(ALICE, spent=True, limit=1))
        while page := billing.grants(ALICE, spent=True, limit=1, after=pages[-1].id):
            pages += page

        assert tuple(pages) == every
        assert len(pages) == 4

    def test_a_schedule_with_a_later_anchor_grants_nothing_until_then(
        self, billing: Billing, clock: MovableClock
    ) -> None:
        later = evolve(MONTHLY, anchor=MARCH)

        schedule = billing.schedule_grants(ALICE, later, reference="plan")

        assert (schedule.number, schedule.next_at, schedule.begins) == (0, MARCH, MARCH)
        assert schedule.terms.anchor == MARCH
        assert (posted(billing), lines(billing)) == (0, [])
        clock.moment = MARCH - SECOND
        assert billing.sweep() == 0
        clock.moment = MARCH
        assert posted(billing) == 100
        assert billing.sweep() == 1
        assert lines(billing) == [("grant", 100, 59)]
        self.verified(billing)

    def test_a_schedule_with_an_earlier_anchor_grants_the_present_period_in_full(
        self, billing: Billing, clock: MovableClock
    ) -> None:
        clock.moment = FEBRUARY + DAY

        schedule = billing.schedule_grants(ALICE, evolve(MONTHLY, anchor=START), reference="plan")

        assert (schedule.first_number, schedule.number, schedule.next_at) == (1, 2, MARCH)
        assert (schedule.created_at, schedule.begins) == (clock.moment, START)
        (grant,) = billing.grants(ALICE)
        assert (grant.granted_at, grant.expires_at) == (clock.moment, MARCH)
        assert lines(billing) == [("grant", 100, 29)]
        self.verified(billing)

    def test_no_period_begins_at_or_after_until(
        self, billing: Billing, clock: MovableClock
    ) -> None:
        """A term of a year with credits each month has twelve periods."""
        term = evolve(MONTHLY, anchor=START, until=datetime(2027, 1, 31, 12, tzinfo=UTC))
        billing.schedule_grants(ALICE, term, reference="plan")
        clock.moment = datetime(2027, 1, 31, 12, tzinfo=UTC) - SECOND
        assert posted(billing) == 100
        clock.moment += SECOND
        assert posted(billing) == 0

        billing.sweep()

        (schedule,) = billing.schedules(ALICE)
        assert (schedule.number, schedule.next_at, schedule.ended_at) == (12, None, None)
        assert len(billing.grants(ALICE, spent=True)) == 12
        clock.moment += 400 * DAY
        assert billing.sweep() == 0
        assert billing.schedule_grants(ALICE, term, reference="plan").replayed
        late = billing.schedule_grants(ALICE, term, reference="late")
        assert (late.next_at, posted(billing)) == (None, 0)
        self.verified(billing)

    @pytest.mark.parametrize(("spent", "carried"), [(0, 30), (60, 30), (80, 20), (100, 0)])
    def test_a_rollover_carries_unused_credits_up_to_its_cap(
        self, billing: Billing, clock: MovableClock, spent: int, carried: int
    ) -> None:
        plan = evolve(MONTHLY, rollover=Rollover(credits(30)))
        schedule = billing.schedule_grants(ALICE, plan, reference="plan")
        assert left(billing) == {"plan": 30}  # both have one source; the last is the carried one
        assert [
            (line.reference, int(line.amount.value)) for line in billing.statement(ALICE).lines
        ] == [(f"{schedule.id} 0 carried", 30), (f"{schedule.id} 0", 70)]
        if spent:
            billing.charge(ALICE, credits(spent), reference="run-1")
        clock.moment = FEBRUARY

        assert posted(billing) == 100 + carried

        billing.charge(ALICE, credits(carried + 5), reference="run-2")
        ends = [(int(grant.remaining.value), grant.expires_at) for grant in billing.grants(ALICE)]
        assert ends == [(65, MARCH), (30, APRIL)]
        clock.moment = MARCH
        assert posted(billing) == 130
        assert billing.sweep() == 1
        self.verified(billing)

    def test_a_rollover_of_everything_makes_one_grant_that_lives_longer(
        self, billing: Billing, clock: MovableClock
    ) -> None:
        plan = evolve(MONTHLY, rollover=Rollover(credits(100), periods=2))

        schedule = billing.schedule_grants(ALICE, plan, reference="plan")

        (grant,) = billing.grants(ALICE)
        assert (grant.amount, grant.expires_at) == (credits(100), APRIL)
        assert billing.statement(ALICE).lines[0].reference == f"{schedule.id} 0"
        assert posted(billing, MARCH) == 300
        assert posted(billing, APRIL) == 300
        clock.moment = APRIL
        assert billing.sweep() == 1
        assert posted(billing) == 300
        self.verified(billing)

    def test_a_schedule_is_replayed_by_its_reference_as_it_is_now(
        self, billing: Billing, clock: MovableClock, plan: Schedule
    ) -> None:
        clock.moment = MARCH + DAY
        asked = partial(billing.schedule_grants, ALICE, MONTHLY, reference="plan")
        now = evolve(plan, number=3, next_at=APRIL, replayed=True)

        assert asked() == now
        assert asked(metadata={"b": 2}) == now
        billing.end_schedule(ALICE, plan.id)
        assert asked() == evolve(now, next_at=None, ended_at=clock.moment)
        assert len(billing.schedules(ALICE)) == 1
        other = billing.schedule_grants(BOB, MONTHLY, reference="plan")
        assert not other.replayed

    @pytest.mark.parametrize(
        ("given", "field"),
        [
            ({"source": "plan:b"}, "source"),
            ({"amount": credits(101)}, "amount"),
            ({"every": "week"}, "every"),
            ({"anchor": START}, "anchor"),
            ({"zone": "Europe/Berlin"}, "zone"),
            ({"until": APRIL}, "until"),
            ({"priority": 1}, "priority"),
            ({"rollover": Rollover(credits(1))}, "rollover"),
        ],
    )
    def test_another_schedule_under_the_same_reference_is_a_conflict(
        self,
        billing: Billing,
        plan: Schedule,
        totals: Totals,
        given: dict[str, Any],
        field: str,
    ) -> None:
        before = totals()
        with pytest.raises(IdempotencyConflict) as caught:
            billing.schedule_grants(ALICE, evolve(MONTHLY, **given), reference="plan")
        assert [each.field for each in caught.value.differences] == [field]
        with pytest.raises(IdempotencyConflict) as caught:
            billing.schedule_grants(ALICE, MONTHLY, reference="plan", replaces=plan.id)
        assert [each.field for each in caught.value.differences] == ["replaces"]
        assert billing.schedules(ALICE) == (plan,)
        assert totals() == before

    def test_schedules_and_grants_have_keys_of_their_own(
        self, billing: Billing, plan: Schedule
    ) -> None:
        receipt = billing.grant(ALICE, credits(5), source="a", reference="plan")

        assert not receipt.replayed
        found = billing.find(ALICE, reference="plan", kind="grant")
        assert found is not None
        assert found.id == receipt.transaction_id

    def test_two_schedules_go_on_beside_each_other(
        self, billing: Billing, clock: MovableClock, plan: Schedule
    ) -> None:
        clock.moment += 10 * DAY
        pack = GrantSchedule("pack", credits(7), every="week", priority=1)
        second = billing.schedule_grants(ALICE, pack, reference="pack")
        clock.moment = FEBRUARY

        assert left(billing) == {"pack": 7, "plan": 100}
        assert billing.schedules(ALICE) == (
            evolve(second, number=3, next_at=START + 31 * DAY),
            evolve(plan, number=2, next_at=MARCH),
        )
        billing.sweep()
        assert lines(billing) == [
            *(("grant", 100, 0), ("grant", 7, 10), ("expiry", -7, 17), ("grant", 7, 17)),
            *(("expiry", -7, 24), ("grant", 7, 24), ("expiry", -100, 28), ("grant", 100, 28)),
        ]
        self.verified(billing)

    def test_starts_of_one_moment_come_in_the_order_of_their_schedules(
        self, billing: Billing, clock: MovableClock
    ) -> None:
        plan = evolve(MONTHLY, rollover=Rollover(credits(30)))
        first = billing.schedule_grants(ALICE, plan, reference="a")
        second = billing.schedule_grants(ALICE, MONTHLY, reference="b")
        clock.moment = FEBRUARY
        due = billing.statement(ALICE)

        billing.sweep()

        assert billing.statement(ALICE) == due
        begun = [(line.kind.value, line.reference) for line in due.lines if line.at == FEBRUARY]
        assert begun[:3] == [
            ("grant", f"{second.id} 1"),
            ("grant", f"{first.id} 1 carried"),
            ("grant", f"{first.id} 1"),
        ]
        assert {kind for kind, _ in begun[3:]} == {"expiry"}

    def test_a_replacement_ends_the_schedule_and_voids_its_period(
        self, billing: Billing, clock: MovableClock, plan: Schedule
    ) -> None:
        billing.charge(ALICE, credits(30), reference="run-1")
        clock.moment += 10 * DAY
        bigger = evolve(MONTHLY, amount=credits(500), source="plan:b")

        new = billing.schedule_grants(ALICE, bigger, reference="b", replaces=plan.id)

        assert (new.replaces, new.begins, new.number) == (plan.id, clock.moment, 1)
        assert lines(billing) == [
            *(("grant", 100, 0), ("charge", -30, 0)),
            *(("void", -70, 10), ("grant", 500, 10)),
        ]
        void = billing.statement(ALICE).lines[1]
        assert void.reference == f"{new.id} 0"
        view = billing.transaction(ALICE, void.transaction_id)
        assert view is not None
        assert (view.reason, view.kind) == (None, "void")
        ended = evolve(plan, next_at=None, ended_at=clock.moment)
        assert billing.schedules(ALICE) == (new, ended)
        clock.moment = APRIL
        assert left(billing) == {"plan:b": 500}
        again = billing.schedule_grants(ALICE, bigger, reference="b", replaces=plan.id)
        assert (again.id, again.replayed) == (new.id, True)
        self.verified(billing)

    def test_a_replacement_keeps_credits_that_earlier_periods_carried(
        self, billing: Billing, clock: MovableClock
    ) -> None:
        terms = evolve(MONTHLY, rollover=Rollover(credits(30), periods=2))
        plan = billing.schedule_grants(ALICE, terms, reference="a")
        clock.moment = FEBRUARY
        billing.charge(ALICE, credits(5), reference="run-1")
        before = billing.grants(ALICE)

        new = billing.schedule_grants(
            ALICE, evolve(MONTHLY, source="b"), reference="b", replaces=plan.id
        )

        voids = [(line.reference, int(line.amount.value)) for line in self.voids(billing)]
        assert voids == [(f"{new.id} 1 carried", -30), (f"{new.id} 1", -65)]
        assert [(grant.source, int(grant.remaining.value)) for grant in billing.grants(ALICE)] == [
            ("b", 100),
            ("plan", 30),
        ]
        assert before[1].granted_at == START
        assert billing.grants(ALICE)[1] == before[1]
        self.verified(billing)

    def voids(self, billing: Billing) -> Any:
        return billing.statement(ALICE, kind="void").lines

    def test_a_replacement_of_a_spent_period_takes_no_credits(
        self, billing: Billing, clock: MovableClock, plan: Schedule
    ) -> None:
        billing.charge(ALICE, credits(100), reference="run-1")
        second = billing.schedule_grants(ALICE, MONTHLY, reference="b", replaces=plan.id)
        later = evolve(MONTHLY, anchor=MARCH)
        third = billing.schedule_grants(ALICE, later, reference="c", replaces=second.id)

        fourth = billing.schedule_grants(ALICE, MONTHLY, reference="d", replaces=third.id)
        again = billing.schedule_grants(ALICE, MONTHLY, reference="e", replaces=plan.id)

        voids = [(line.reference, int(line.amount.value)) for line in self.voids(billing)]
        assert voids == [(f"{third.id} 0", -100), (f"{second.id} 0", 0)]
        ended = [each.ended_at for each in billing.schedules(ALICE)]
        assert ended == [None, None, START, START, START]
        assert [fourth.number, again.number] == [1, 1]
        assert posted(billing) == 200
        self.verified(billing)

    def test_credits_given_back_to_a_replaced_period_expire(
        self, billing: Billing, plan: Schedule
    ) -> None:
        billing.charge(ALICE, credits(40), reference="run-1")
        hold = billing.hold(ALICE, credits(60), reference="run-2")
        billing.schedule_grants(ALICE, MONTHLY, reference="b", replaces=plan.id)

        billing.release(ALICE, hold.id)
        given_back = billing.reverse(ALICE, charge="run-1", reference="back")

        assert given_back.expired == credits(40)
        assert billing.balance(ALICE).available == credits(100)
        self.verified(billing)

    def test_a_replacement_of_an_unknown_schedule_is_refused(
        self, billing: Billing, plan: Schedule, totals: Totals
    ) -> None:
        waiting = billing.grant(ALICE, credits(5), source="a", reference="a", effective_from=APRIL)
        bobs = billing.schedule_grants(BOB, MONTHLY, reference="plan")
        before = totals()

        for unknown in (UNKNOWN, bobs.id, waiting.transaction_id):
            with pytest.raises(UnknownSchedule) as caught:
                billing.schedule_grants(ALICE, MONTHLY, reference="b", replaces=unknown)
            assert caught.value.schedule_id == unknown
        carol = TenantId(UUID(int=2**90))
        with pytest.raises(UnknownSchedule):
            billing.schedule_grants(carol, MONTHLY, reference="b", replaces=plan.id)

        assert totals() == before
        assert len(billing.schedules(ALICE)) == 2
        with pytest.raises(UnknownAccount):
            billing.balance(carol)

    def test_an_ended_schedule_keeps_its_credits_and_begins_no_period(
        self, billing: Billing, clock: MovableClock, plan: Schedule
    ) -> None:
        clock.moment = FEBRUARY + DAY

        ended = billing.end_schedule(ALICE, plan.id)

        assert ended == evolve(plan, number=2, next_at=None, ended_at=clock.moment)
        assert lines(billing) == [("grant", 100, 0), ("expiry", -100, 28), ("grant", 100, 28)]
        clock.moment += DAY
        assert billing.end_schedule(ALICE, plan.id) == evolve(ended, replayed=True)
        clock.moment = MARCH - SECOND
        assert posted(billing) == 100
        clock.moment = APRIL
        assert posted(billing) == 0
        assert billing.sweep() == 1
        assert billing.schedules(ALICE) == (ended,)
        self.verified(billing)

    def test_an_unknown_schedule_is_not_ended(self, billing: Billing, plan: Schedule) -> None:
        waiting = billing.grant(ALICE, credits(5), source="a", reference="a", effective_from=APRIL)
        bobs = billing.schedule_grants(BOB, MONTHLY, reference="plan")

        for unknown in (UNKNOWN, bobs.id, waiting.transaction_id):
            with pytest.raises(UnknownSchedule) as caught:
                billing.end_schedule(ALICE, unknown)
            assert caught.value.schedule_id == unknown
        with pytest.raises(UnknownAccount):
            billing.end_schedule(TenantId(UUID(int=2**90)), plan.id)
        with pytest.raises(UnknownGrant):
            billing.void_grant(ALICE, plan.id, reference="v")

        assert billing.schedules(ALICE)[-1] == plan

    def test_schedules_come_page_by_page_newest_first(
        self, billing: Billing, clock: MovableClock
    ) -> None:
        made = []
        for number in range(4):
            clock.moment += SECOND * (number % 2)  # two of one moment
            made.append(billing.schedule_grants(ALICE, MONTHLY, reference=str(number)).id)
        billing.grant(ALICE, credits(5), source="a", reference="a", effective_from=APRIL)

        every = billing.schedules(ALICE)
        assert [each.id for each in every[1:]] == made[::-1]
        assert every[0].terms.every == "once"
        pages = list(billing.schedules(ALICE, limit=2))
        while page := billing.schedules(ALICE, limit=2, after=pages[-1].id):
            pages += page
        assert tuple(pages) == every
        assert billing.schedules(ALICE, after=UNKNOWN) == ()
        with pytest.raises(UnknownAccount):
            billing.schedules(BOB)

    def test_a_waiting_grant_is_no_schedule_to_repeat(self, billing: Billing) -> None:
        billing.grant(ALICE, credits(5), source="a", reference="a", effective_from=APRIL)
        (waiting,) = billing.schedules(ALICE)

        with pytest.raises(InvalidInput):
            billing.schedule_grants(ALICE, waiting.terms, reference="b")

    def test_a_period_repays_the_debt_of_its_beginning(
        self, billing: Billing, clock: MovableClock, plan: Schedule
    ) -> None:
        billing.charge(ALICE, credits(250), reference="run-1", allow_overdraft=True)
        clock.moment = APRIL

        assert left(billing) == {"plan": 100}
        assert posted(billing, FEBRUARY) == -50
        assert posted(billing, MARCH) == 50
        billing.sweep()

        assert lines(billing)[2:] == [
            *(("grant", 100, 28), ("grant", 100, 59)),
            *(("expiry", -50, 89), ("grant", 100, 89)),
        ]
        view = billing.transaction(
            ALICE, billing.statement(ALICE, kind="grant").lines[1].transaction_id
        )
        assert view is not None
        assert [int(draw.amount.value) for draw in view.draws] == [50]
        granted = [int(line.granted.value) for line in billing.statement(ALICE, kind="grant").lines]
        assert granted == [100, 50, 0, 100]
        self.verified(billing)

    def test_a_period_repays_a_debt_that_later_arrivals_would_have_repaid(
        self, billing: Billing, clock: MovableClock
    ) -> None:
        """The credits of another tenant's purchase arrive after the period began."""
        billing.charge(SYSTEM_TENANT_ID, credits(60), reference="run-1", allow_overdraft=True)
        later = evolve(MONTHLY, anchor=FEBRUARY)
        billing.schedule_grants(SYSTEM_TENANT_ID, later, reference="plan")
        clock.moment = FEBRUARY + DAY
        billing.confirm_purchase(ALICE, usd("0.01"), payment="stripe:pi_1")
        read = billing.statement(SYSTEM_TENANT_ID)

        billing.sweep()

        (grant,) = billing.grants(SYSTEM_TENANT_ID)
        assert grant.remaining == credits(40)
        clock.moment = MARCH
        assert posted(billing, tenant=SYSTEM_TENANT_ID) == 25_000 + 100
        assert sum(int(line.amount.value) for line in read.lines) == 25_040
        self.verified(billing)

    def test_a_frozen_account_gets_its_periods(
        self, billing: Billing, clock: MovableClock, plan: Schedule
    ) -> None:
        billing.freeze(ALICE, "under review")
        clock.moment = FEBRUARY

        assert posted(billing) == 100
        with pytest.raises(AccountFrozen):
            billing.charge(ALICE, credits(1), reference="run-1")
        assert lines(billing)[1:] == [("expiry", -100, 28), ("grant", 100, 28)]
        billing.schedule_grants(ALICE, MONTHLY, reference="b")
        self.verified(billing)

    def test_a_hold_over_the_end_of_a_period_gives_back_to_the_period_it_took_from(
        self, billing: Billing, clock: MovableClock, plan: Schedule
    ) -> None:
        hold = billing.hold(ALICE, credits(60), reference="run-1")
        billing.hold(ALICE, credits(10), reference="run-2", expires_at=MARCH)
        clock.moment = FEBRUARY + DAY
        assert posted(billing) == 170
        billing.capture(ALICE, hold.id, credits(20), reference="run-1")

        assert billing.balance(ALICE).available == credits(100)
        clock.moment = MARCH + DAY
        billing.sweep()
        assert lines(billing)[1:] == [
            *(("expiry", -30, 28), ("grant", 100, 28), ("capture", -20, 29)),
            *(("expiry", -40, 29), ("expiry", -10, 59), ("expiry", -100, 59), ("grant", 100, 59)),
        ]
        self.verified(billing)

    def test_a_refused_charge_leaves_the_begun_periods_recorded(
        self, billing: Billing, clock: MovableClock, plan: Schedule
    ) -> None:
        clock.moment = FEBRUARY

        with pytest.raises(InsufficientCredits) as caught:
            billing.charge(ALICE, credits(101), reference="run-1")

        assert caught.value.available == credits(100)
        assert billing.sweep() == 0
        assert lines(billing)[1:] == [("expiry", -100, 28), ("grant", 100, 28)]

    @pytest.mark.parametrize("all_or_nothing", [False, True])
    def test_a_batch_spends_the_credits_of_the_present_period(
        self, billing: Billing, clock: MovableClock, plan: Schedule, all_or_nothing: bool
    ) -> None:
        clock.moment = MARCH
        asked = [
            {"tenant": ALICE, "amount": credits(amount), "reference": f"run-{amount}"}
            for amount in (40, 101, 60)
        ]

        outcomes = billing.charge_many(asked, all_or_nothing=all_or_nothing)

        refused = [outcome.error is not None for outcome in outcomes]
        assert refused == [all_or_nothing, True, all_or_nothing]
        assert posted(billing) == (100 if all_or_nothing else 0)
        assert billing.sweep() == 0
        self.verified(billing)

    def test_grants_of_a_schedule_are_voided_and_extended_like_others(
        self, billing: Billing, clock: MovableClock, plan: Schedule
    ) -> None:
        (grant,) = billing.grants(ALICE)
        billing.extend_grant(ALICE, grant.id, reference="e", expires_at=MARCH)
        clock.moment = FEBRUARY
        assert posted(billing) == 200
        (_, second) = billing.grants(ALICE)
        assert billing.void_grant(ALICE, second.id, reference="v").voided == credits(100)

        clock.moment = MARCH
        assert left(billing) == {"plan": 100}
        billing.sweep()
        self.verified(billing)

    def test_a_voided_period_is_not_voided_again_by_a_replacement(
        self, billing: Billing, clock: MovableClock, plan: Schedule
    ) -> None:
        (grant,) = billing.grants(ALICE)
        billing.void_grant(ALICE, grant.id, reference="v")

        billing.schedule_grants(ALICE, MONTHLY, reference="b", replaces=plan.id)

        assert [line.reference for line in self.voids(billing)] == ["v"]
        self.verified(billing)

    def test_a_clock_that_is_behind_the_wallet_schedules_at_the_wallets_time(
        self, billing: Billing, clock: MovableClock
    ) -> None:
        billing.grant(ALICE, credits(5), source="a", reference="a")
        clock.moment = START - 40 * DAY

        schedule = billing.schedule_grants(ALICE, MONTHLY, reference="plan")

        assert (schedule.begins, schedule.number) == (clock.moment, 2)
        last = billing.statement(ALICE).lines[0]
        assert (last.at, last.amount) == (START, credits(100))
        ended = billing.end_schedule(ALICE, schedule.id)
        assert ended.ended_at == START
        self.verified(billing)

    def test_due_wallets_have_the_moment_of_the_next_period(
        self, unit_of_work: UnitOfWork, billing: Billing, plan: Schedule
    ) -> None:
        billing.charge(ALICE, credits(100), reference="run-1")

        def due(now: datetime) -> tuple[DueWallet, ...]:
            return unit_of_work.run_service(
                SYSTEM_TENANT_ID, lambda scope: scope.books.due(now, None)
            )

        assert due(FEBRUARY - SECOND) == ()
        assert due(MARCH) == (DueWallet(at=FEBRUARY, tenant=ALICE),)
        billing.end_schedule(ALICE, plan.id)
        assert due(MARCH) == ()

    def test_a_due_period_lowers_what_a_refund_may_take_of_purchased_credits(
        self, billing: Billing, clock: MovableClock, plan: Schedule
    ) -> None:
        billing.confirm_purchase(ALICE, usd("0.01"), payment="stripe:pi_1")
        billing.charge(ALICE, credits(100 + 40_000), reference="run-1")
        clock.moment = FEBRUARY

        receipt = billing.refund(ALICE, payment="stripe:pi_1", reference="r")

        assert receipt.taken == credits(100_000)
        assert (receipt.purchased, posted(billing)) == (credits(99_900), -39_900)
        self.verified(billing)

    def test_forget_erases_the_texts_of_schedules_and_changes_no_answer(
        self, billing: Billing, clock: MovableClock, plan: Schedule
    ) -> None:
        later = partial(
            billing.grant, ALICE, credits(5), source="gift:ada", reference="a", effective_from=APRIL
        )
        later(metadata={"name": "Ada"})
        before = billing.balance(ALICE, at=APRIL)
        seals = billing.seal(key=KEY)

        # The source and the metadata of the schedule, of its grant, and of the waiting grant.
        assert billing.forget(ALICE) == 6
        assert billing.forget(ALICE) == 0

        waiting, present = billing.schedules(ALICE)
        assert (waiting.metadata, present.metadata) == ({}, {})
        assert "plan" not in present.terms.source
        assert "ada" not in waiting.terms.source
        assert billing.schedule_grants(ALICE, MONTHLY, reference="plan").replayed
        assert later().replayed
        with pytest.raises(IdempotencyConflict) as caught:
            billing.schedule_grants(ALICE, evolve(MONTHLY, source="b"), reference="plan")
        assert [each.field for each in caught.value.differences] == ["source"]
        clock.moment = APRIL
        billing.sweep()
        assert billing.balance(ALICE) == before
        assert all("plan" not in grant.source for grant in billing.grants(ALICE, spent=True))
        assert billing.forget(ALICE) == 0
        assert later().replayed
        assert billing.verify_seals(seals, key=KEY) == ()
        self.verified(billing)


class ScheduleRaces(Scheduling):
    """Concurrent calls begin each period once."""

    def test_concurrent_calls_after_the_beginning_of_a_period_grant_it_once(
        self, new_billing: NewBilling, clock: MovableClock, totals: Totals
    ) -> None:
        billing = new_billing(clock=clock)
        billing.schedule_grants(ALICE, MONTHLY, reference="plan")
        clock.moment = MARCH

        at_once(
            [
                partial(billing.charge, ALICE, credits(1), reference=f"run-{number}")
                for number in range(20)
            ]
        )

        assert posted(billing) == 80
        assert totals()[BREAKAGE] == 200
        self.verified(billing)

    def test_concurrent_calls_with_one_reference_make_one_schedule(
        self, new_billing: NewBilling, clock: MovableClock
    ) -> None:
        billing = new_billing(clock=clock)

        made = at_once(
            [partial(billing.schedule_grants, ALICE, MONTHLY, reference="plan") for _ in range(8)]
        )

        assert sorted(each.replayed for each in made) == [False] + 7 * [True]
        assert len({each.id for each in made}) == 1
        assert posted(billing) == 100

    def test_concurrent_replacements_void_the_period_once(
        self, new_billing: NewBilling, clock: MovableClock
    ) -> None:
        billing = new_billing(clock=clock)
        plan = billing.schedule_grants(ALICE, MONTHLY, reference="plan")

        at_once(
            [
                partial(billing.schedule_grants, ALICE, MONTHLY, reference=str(n), replaces=plan.id)
                for n in range(6)
            ]
        )

        assert len(billing.statement(ALICE, kind="void").lines) == 1
        assert posted(billing) == 600
        self.verified(billing)
