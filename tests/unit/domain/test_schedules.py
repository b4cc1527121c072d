"""Schedules: the values, the request, and the plans."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from uuid import UUID

import pytest
from attrs import evolve

from cogni_billing import GrantSchedule, Rollover, Schedule, UnknownSchedule, credits
from cogni_billing.domain.grants import Grant, GrantRequest, plan_grant
from cogni_billing.domain.schedules import (
    ScheduleRequest,
    derived_id,
    plan_schedule,
    waiting_grant,
)
from cogni_billing.domain.timestamps import Expiry
from cogni_billing.testing.base import ALICE

JANUARY = datetime(2026, 1, 31, 12, tzinfo=UTC)
FEBRUARY = datetime(2026, 2, 28, 12, tzinfo=UTC)
MARCH = datetime(2026, 3, 31, 12, tzinfo=UTC)
APRIL = datetime(2026, 4, 30, 12, tzinfo=UTC)
ONE, TWO = UUID(int=1), UUID(int=2)
TERMS = GrantSchedule("plan", credits(100), every="month", rollover=Rollover(credits(30), 2))


def planned(terms: GrantSchedule = TERMS, schedule_id: UUID = ONE) -> Schedule:
    request = ScheduleRequest(
        tenant=ALICE, schedule=terms, reference="r", replaces=None, metadata={"a": 1}
    )
    return plan_schedule(request, at=JANUARY, schedule_id=schedule_id).opened(JANUARY)


def test_a_schedule_has_its_moments_in_utc() -> None:
    berlin = timezone(timedelta(hours=1))
    terms = GrantSchedule(
        "plan",
        credits(100),
        every="month",
        anchor=datetime(2026, 1, 31, 13, tzinfo=berlin),
        until=datetime(2026, 3, 31, 13, tzinfo=berlin),
    )

    assert (terms.anchor, terms.until) == (JANUARY, MARCH)
    assert (terms.anchor or JANUARY).tzinfo is UTC


def test_the_request_of_a_schedule_is_text_that_no_version_changes() -> None:
    plain = planned(GrantSchedule("plan", credits(100), every="month"))
    full = GrantSchedule(
        "plan",
        credits(100),
        every="year",
        anchor=JANUARY,
        zone="Europe/Berlin",
        until=MARCH,
        priority=7,
        rollover=Rollover(credits(30)),
    )

    assert dict(plain.request) == {
        "amount": "100 CREDIT",
        "source": "plan",
        "priority": "100",
        "every": "month",
        "anchor": "the call",
        "zone": "UTC",
        "until": "never",
        "rollover": "none",
        "replaces": "none",
    }
    assert dict(evolve(planned(full), replaces=TWO).request) == {
        "amount": "100 CREDIT",
        "source": "plan",
        "priority": "7",
        "every": "year",
        "anchor": "2026-01-31T12:00:00+00:00",
        "zone": "Europe/Berlin",
        "until": "2026-03-31T12:00:00+00:00",
        "rollover": "30 CREDIT for 1 periods",
        "replaces": str(TWO),
    }


def test_a_period_has_a_grant_that_ends_with_it_and_one_that_is_carried() -> None:
    schedule = planned()

    ends, carried = schedule.grants(0, JANUARY)

    assert [(each.reference, each.amount) for each in (ends, carried)] == [
        (f"{ONE} 0", credits(70)),
        (f"{ONE} 0 carried", credits(30)),
    ]
    assert ends.terms is not None
    assert carried.terms is not None
    assert (ends.terms.expires_at, carried.terms.expires_at) == (FEBRUARY, APRIL)
    assert (ends.terms.expires_in, ends.terms.effective_from) == (None, None)
    assert ends.id == derived_id(ends.reference) != carried.id
    assert ends.metadata == {"a": 1}


@pytest.mark.parametrize("cap", [100, 101])
def test_a_cap_of_the_whole_amount_makes_one_grant(cap: int) -> None:
    schedule = planned(evolve(TERMS, rollover=Rollover(credits(cap))))

    (grant,) = schedule.grants(0, JANUARY)

    assert (grant.reference, grant.amount) == (f"{ONE} 0", credits(100))
    assert grant.terms is not None
    assert grant.terms.expires_at == MARCH


def test_until_ends_the_periods_and_not_the_life_of_a_grant() -> None:
    schedule = planned(evolve(TERMS, until=FEBRUARY))

    assert (schedule.number, schedule.next_at) == (0, JANUARY)
    begun = schedule.moved_on()
    assert (begun.number, begun.next_at) == (1, None)
    ends, _ = schedule.grants(0, JANUARY)
    assert ends.terms is not None
    assert ends.terms.expires_at == FEBRUARY


def test_a_schedule_keeps_its_first_end() -> None:
    ended = planned().ended(FEBRUARY)

    assert (ended.next_at, ended.ended_at) == (None, FEBRUARY)
    assert ended.ended(MARCH) == ended


def grant(transaction_id: UUID, remaining: int) -> Grant:
    return Grant(
        id=transaction_id,
        amount=credits(100),
        source="plan",
        priority=100,
        expires_at=None,
        granted_at=JANUARY,
        remaining=credits(remaining),
    )


def test_a_replacement_voids_the_grants_of_the_latest_period() -> None:
    old, new = planned().moved_on().moved_on(), planned(schedule_id=TWO)
    ends, carried = old.grants(1, FEBRUARY)
    first = {each.id: grant(each.id, 30) for each in old.grants(0, JANUARY)}
    left = first | {ends.id: grant(ends.id, 0), carried.id: grant(carried.id, 12)}

    spent, void = new.voids(old, left, MARCH)

    assert (spent.reference, spent.amount) == (f"{TWO} 1", credits(0))
    assert (void.reference, void.amount) == (f"{TWO} 1 carried", credits(-12))
    assert (void.subject, void.at, void.reason) == (carried.id, MARCH, None)
    over = {key: evolve(each, expires_at=MARCH) for key, each in left.items()}
    assert new.voids(old, over, MARCH) == ()
    assert void.id not in {each.id for each in new.grants(1, MARCH)}


def test_a_replacement_of_a_schedule_that_has_not_begun_voids_nothing() -> None:
    later = planned(evolve(TERMS, anchor=APRIL))

    assert planned(schedule_id=TWO).voids(later, {}, MARCH) == ()


def test_a_waiting_grant_is_a_schedule_that_makes_the_grant_as_it_was_asked() -> None:
    request = GrantRequest(
        tenant=ALICE,
        amount=credits(5),
        source="gift",
        reference="g",
        expiry=Expiry.given(None, timedelta(hours=1)),
        effective_from=APRIL,
        priority=7,
        metadata={"a": 1},
    )
    asked = plan_grant(request, at=JANUARY, transaction_id=ONE)

    waiting = waiting_grant(asked)

    assert (waiting.terms.every, waiting.number, waiting.next_at) == ("once", 0, APRIL)
    assert waiting.expires_at == APRIL + timedelta(hours=1)
    assert waiting.grants(0, APRIL) == (evolve(asked, at=APRIL),)
    assert waiting.grants(0, APRIL)[0].request == asked.request
    assert (waiting.moved_on().number, waiting.moved_on().next_at) == (1, None)


def test_the_request_of_a_grant_has_its_beginning_only_if_it_is_given() -> None:
    request = GrantRequest(
        tenant=ALICE,
        amount=credits(5),
        source="gift",
        reference="g",
        expiry=Expiry(),
        priority=7,
        metadata=None,
    )
    plain = plan_grant(request, at=JANUARY, transaction_id=ONE)
    later = plan_grant(evolve(request, effective_from=APRIL), at=JANUARY, transaction_id=ONE)

    assert "effective_from" not in plain.request
    assert later.request["effective_from"] == "2026-04-30T12:00:00+00:00"


def test_the_message_of_an_unknown_schedule_has_its_id() -> None:
    assert UnknownSchedule(ONE).schedule_id == ONE
