"""Contract: the periods of a schedule begin by local calendar time, counted from the anchor."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from cogni_billing import Billing, GrantSchedule, credits
from cogni_billing.testing.base import ALICE, Contract, MovableClock

NEW_YORK = "America/New_York"
SPAN = {"day": 3, "week": 9, "month": 63, "year": 4 * 366}
"""The days in which at least the expected periods begin."""


def moment(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


class PeriodContract(Contract):
    """Short months, leap years, and the changes of the clocks."""

    @pytest.fixture
    def clock(self) -> MovableClock:
        return MovableClock()

    @pytest.mark.parametrize(
        ("every", "zone", "begins"),
        [
            ("day", "UTC", ["2026-02-27T12:00", "2026-02-28T12:00", "2026-03-01T12:00"]),
            ("week", "UTC", ["2026-12-25T00:00", "2027-01-01T00:00"]),
            (
                "month",
                "UTC",
                ["2026-01-31T12:00", "2026-02-28T12:00", "2026-03-31T12:00"],
            ),
            ("month", "UTC", ["2024-01-30T12:00", "2024-02-29T12:00", "2024-03-30T12:00"]),
            ("month", "UTC", ["2026-11-30T12:00", "2026-12-30T12:00", "2027-01-30T12:00"]),
            (
                "year",
                "UTC",
                [
                    *("2024-02-29T12:00", "2025-02-28T12:00", "2026-02-28T12:00"),
                    *("2027-02-28T12:00", "2028-02-29T12:00"),
                ],
            ),
            # The local day decides the month: 1 February in Tokyo.
            ("month", "Asia/Tokyo", ["2026-01-31T23:30", "2026-02-28T23:30", "2026-03-31T23:30"]),
            # Noon stays noon, in winter and in summer.
            ("week", "Europe/Berlin", ["2026-03-25T11:00", "2026-04-01T10:00"]),
            ("month", NEW_YORK, ["2026-02-28T17:00", "2026-03-28T16:00", "2026-04-28T16:00"]),
            # 02:30 does not exist on 8 March: the period begins at 03:30.
            ("day", NEW_YORK, ["2026-03-07T07:30", "2026-03-08T07:30", "2026-03-09T06:30"]),
            # 01:30 occurs twice on 1 November: the period begins at the second one.
            ("day", NEW_YORK, ["2026-10-31T05:30", "2026-11-01T06:30", "2026-11-02T06:30"]),
            # An anchor in the first of the two is kept as it is given.
            ("day", NEW_YORK, ["2026-11-01T05:30", "2026-11-02T06:30", "2026-11-03T06:30"]),
            ("day", NEW_YORK, ["2026-11-01T06:30", "2026-11-02T06:30", "2026-11-03T06:30"]),
            # A change by half an hour, and one at midnight.
            (
                "day",
                "Australia/Lord_Howe",
                ["2026-10-02T15:45", "2026-10-03T15:45", "2026-10-04T15:15"],
            ),
            (
                "day",
                "Australia/Lord_Howe",
                ["2026-04-03T14:45", "2026-04-04T15:15", "2026-04-05T15:15"],
            ),
            (
                "day",
                "America/Santiago",
                ["2025-09-06T04:00", "2025-09-07T04:00", "2025-09-08T03:00"],
            ),
        ],
    )
    def test_periods_begin_at_the_local_time_of_the_anchor(
        self, billing: Billing, clock: MovableClock, every: Any, zone: str, begins: list[str]
    ) -> None:
        moments = [moment(each) for each in begins]
        clock.moment = moments[0]
        schedule = GrantSchedule("plan", credits(5), every=every, zone=zone, anchor=moments[0])

        given = billing.schedule_grants(ALICE, schedule, reference="s")

        assert given.begins == moments[0]
        clock.moment += timedelta(days=SPAN[every])
        begun = [line.at for line in billing.statement(ALICE, kind="grant").lines]
        assert begun[::-1][: len(moments)] == moments
        assert billing.sweep() == 1
        assert [line.at for line in billing.statement(ALICE, kind="grant").lines] == begun
        expiries = [line.at for line in billing.statement(ALICE, kind="expiry").lines]
        assert expiries == begun[:-1]
        assert billing.verify().violations == ()

    def begins(
        self, billing: Billing, clock: MovableClock, schedule: GrantSchedule, count: int
    ) -> list[datetime]:
        """The moments at which the first periods of a schedule begin."""
        assert schedule.anchor is not None
        clock.moment = schedule.anchor
        billing.schedule_grants(ALICE, schedule, reference="s")
        clock.moment += timedelta(days=SPAN[schedule.every])
        lines = reversed(billing.statement(ALICE, kind="grant").lines)
        return [line.at for line in lines][:count]

    def test_a_short_month_does_not_move_later_periods(
        self, billing: Billing, clock: MovableClock
    ) -> None:
        anchor = moment("2026-01-31T12:00")
        schedule = GrantSchedule("plan", credits(5), every="month", anchor=anchor)

        assert self.begins(billing, clock, schedule, 3)[2] == moment("2026-03-31T12:00")

    def test_a_local_time_that_does_not_exist_moves_forward(
        self, billing: Billing, clock: MovableClock
    ) -> None:
        anchor = moment("2026-03-28T01:30")  # 02:30 in Berlin
        schedule = GrantSchedule(
            "plan", credits(5), every="day", anchor=anchor, zone="Europe/Berlin"
        )

        assert self.begins(billing, clock, schedule, 3) == [
            anchor,
            moment("2026-03-29T01:30"),  # 03:30 in Berlin
            moment("2026-03-30T00:30"),
        ]

    def test_a_local_time_that_occurs_twice_is_the_second_one(
        self, billing: Billing, clock: MovableClock
    ) -> None:
        anchor = moment("2026-10-24T00:30")  # 02:30 in Berlin
        schedule = GrantSchedule(
            "plan", credits(5), every="day", anchor=anchor, zone="Europe/Berlin"
        )

        assert self.begins(billing, clock, schedule, 2) == [anchor, moment("2026-10-25T01:30")]

    @pytest.mark.parametrize(
        ("every", "anchor", "number", "began", "next_at"),
        [
            ("month", "2025-08-31T12:00", 6, "2026-02-28T12:00", "2026-03-31T12:00"),
            ("month", "2026-03-14T12:00", 0, "2026-03-14T12:00", "2026-04-14T12:00"),
            ("month", "2026-02-15T12:00", 0, "2026-02-15T12:00", "2026-03-15T12:00"),
            ("week", "2026-03-01T00:00", 1, "2026-03-08T00:00", "2026-03-15T00:00"),
            ("day", "1970-01-01T13:00", 20_525, "2026-03-13T13:00", "2026-03-14T13:00"),
            ("year", "2024-02-29T12:00", 2, "2026-02-28T12:00", "2027-02-28T12:00"),
            ("year", "2020-03-14T12:00", 6, "2026-03-14T12:00", "2027-03-14T12:00"),
            ("year", "2020-03-15T12:00", 5, "2025-03-15T12:00", "2026-03-15T12:00"),
        ],
    )
    def test_the_period_that_contains_the_present_is_granted_at_once(
        self,
        billing: Billing,
        clock: MovableClock,
        every: Any,
        anchor: str,
        number: int,
        began: str,
        next_at: str,
    ) -> None:
        clock.moment = moment("2026-03-14T12:00")
        schedule = GrantSchedule("plan", credits(5), every=every, anchor=moment(anchor))

        given = billing.schedule_grants(ALICE, schedule, reference="s")

        assert moment(began) <= clock.moment < moment(next_at)
        assert (given.first_number, given.number) == (number, number + 1)
        assert given.next_at == moment(next_at)
        (grant,) = billing.grants(ALICE)
        assert (grant.granted_at, grant.expires_at) == (clock.moment, moment(next_at))
        assert billing.verify().violations == ()

    def test_no_period_begins_after_the_last_moment(
        self, billing: Billing, clock: MovableClock
    ) -> None:
        clock.moment = moment("9997-06-01T00:00")
        schedule = GrantSchedule("plan", credits(5), every="year", anchor=clock.moment)
        first = billing.schedule_grants(ALICE, schedule, reference="s")
        clock.moment = moment("9998-06-01T00:00")
        assert first.next_at == clock.moment

        billing.sweep()

        (last,) = billing.schedules(ALICE)
        assert (last.number, last.next_at, last.ended_at) == (2, None, None)
        (grant,) = billing.grants(ALICE)
        assert (grant.granted_at, grant.expires_at) == (clock.moment, None)
        assert billing.verify().violations == ()
