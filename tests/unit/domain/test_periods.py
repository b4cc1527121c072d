"""Periods of local calendar time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cogni_billing.domain.periods import Periods
from cogni_billing.domain.timestamps import EARLIEST, LATEST
from cogni_billing.testing import model_periods

MICROSECOND = timedelta(microseconds=1)
ZONES = st.sampled_from(
    [
        *("UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu"),
        *("Pacific/Kiritimati", "Etc/GMT+12", "America/Santiago"),
    ]
)
EVERY = st.sampled_from(["day", "week", "month", "year"])


def moments(first: int, last: int) -> st.SearchStrategy[datetime]:
    return st.datetimes(datetime(first, 1, 1), datetime(last, 12, 31), timezones=st.just(UTC))


@given(moments(1970, 2100), EVERY, ZONES, st.integers(1, 2000))
def test_a_later_period_begins_at_the_local_time_of_the_anchor_or_in_a_clock_change(
    anchor: datetime, every: str, zone: str, number: int
) -> None:
    begins = Periods(anchor, every, zone).begin(number)

    assert begins is not None
    first, later = (each.astimezone(ZoneInfo(zone)) for each in (anchor, begins))
    if later.time() != first.time():  # the local time does not exist on that day
        wanted = later.replace(hour=first.hour, minute=first.minute, second=first.second, fold=0)
        assert wanted.astimezone(UTC).astimezone(ZoneInfo(zone)).time() != first.time()
    if every in {"day", "week"}:
        assert (later.date() - first.date()).days == number * (1 if every == "day" else 7)
    else:
        months = 12 * (later.year - first.year) + later.month - first.month
        assert months == number * (1 if every == "month" else 12)
        tomorrow = later + timedelta(days=1)
        assert later.day == first.day or (later.day < first.day and tomorrow.day == 1)


@given(moments(2000, 2100), EVERY, ZONES, st.integers(0, 3000))
def test_the_number_of_a_moment_is_the_one_of_the_period_that_contains_it(
    anchor: datetime, every: str, zone: str, number: int
) -> None:
    periods = Periods(anchor, every, zone)
    begins, ends = periods.begin(number), periods.begin(number + 1)
    assert begins is not None
    assert ends is not None
    assert begins < ends

    assert periods.number_at(begins) == number
    assert periods.number_at(ends - MICROSECOND) == number
    assert periods.number_at(begins - MICROSECOND) == max(number - 1, 0)


@given(moments(1970, 9998), EVERY, ZONES, st.integers(1, 10**30))
def test_a_period_beyond_the_last_moment_never_begins(
    anchor: datetime, every: str, zone: str, number: int
) -> None:
    begins = Periods(anchor, every, zone).begin(number)

    assert begins is None or EARLIEST <= begins <= LATEST


@pytest.mark.parametrize("every", ["day", "week", "month", "year"])
@pytest.mark.parametrize("zone", ["Pacific/Kiritimati", "Etc/GMT+12", "America/New_York"])
def test_the_last_period_of_all_has_no_next_one(every: str, zone: str) -> None:
    periods = Periods(datetime(2026, 1, 31, 12, tzinfo=UTC), every, zone)

    last = periods.number_at(LATEST)

    begins = periods.begin(last)
    assert begins is not None
    assert begins.year == 9998
    assert periods.begin(last + 1) is None


def test_no_period_begins_after_the_last_moment() -> None:
    periods = Periods(LATEST - timedelta(days=1), "day", "UTC")

    assert (periods.begin(1), periods.begin(2)) == (LATEST, None)


def test_a_single_period_begins_once() -> None:
    periods = Periods(LATEST, "once", "UTC")

    assert (periods.begin(0), periods.begin(1)) == (LATEST, None)


def test_the_number_of_a_moment_before_the_anchor_is_zero() -> None:
    periods = Periods(datetime(2026, 1, 31, tzinfo=UTC), "day", "UTC")

    assert periods.number_at(datetime(2025, 1, 1, tzinfo=UTC)) == 0


@given(moments(2000, 2100), EVERY, st.sampled_from(["UTC", "Europe/Berlin"]), st.integers(0, 500))
def test_the_calendar_of_the_model_has_the_same_periods(
    anchor: datetime, every: str, zone: str, number: int
) -> None:
    begins = Periods(anchor, every, zone).begin(number)

    assert model_periods.begin(anchor, every, zone, number) == begins
