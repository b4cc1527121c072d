"""The calendar of the model: its own arithmetic, for UTC and one zone with summer time.

It shares no code with the library.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

HOUR = timedelta(hours=1)
MONTH_DAYS = (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
BERLIN = "Europe/Berlin"


def begin(anchor: datetime, every: str, zone: str, number: int) -> datetime | None:
    """The moment at which the period of this number begins. `None` if it never begins."""
    if number == 0:
        return anchor
    if every == "once":
        return None
    local = anchor + offset(anchor, zone)
    if every in {"day", "week"}:
        local += number * timedelta(days=7 if every == "week" else 1)
    else:
        months = local.month - 1 + number * (12 if every == "year" else 1)
        year, month = local.year + months // 12, months % 12
        day = min(local.day, MONTH_DAYS[month] + (1 if month == 1 and is_leap(year) else 0))
        local = local.replace(year, month + 1, day)
    summer = local - 2 * HOUR
    if zone == BERLIN and is_summer(summer) and is_summer(local - HOUR):
        return summer
    return local - (HOUR if zone == BERLIN else timedelta(0))


def is_leap(year: int) -> bool:
    return year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)


def offset(moment: datetime, zone: str) -> timedelta:
    """The time that the clocks of a zone are ahead of UTC."""
    if zone != BERLIN:
        return timedelta(0)
    return 2 * HOUR if is_summer(moment) else HOUR


def is_summer(moment: datetime) -> bool:
    """True between the last Sundays of March and October, at one o'clock UTC."""
    return last_sunday(moment.year, 3) <= moment < last_sunday(moment.year, 10)


def last_sunday(year: int, month: int) -> datetime:
    end = datetime(year, month, 31, 1, tzinfo=UTC)
    return end - timedelta(days=(end.weekday() + 1) % 7)
