"""Periods of local calendar time: days, weeks, months or years in a time zone."""

from __future__ import annotations

from calendar import monthrange
from datetime import UTC, datetime, timedelta
from typing import Final, Literal, TypeAlias
from zoneinfo import ZoneInfo

from attrs import frozen

from cogni_billing.domain.timestamps import LATEST

Every: TypeAlias = Literal["day", "week", "month", "year"]
ONCE: Final = "once"
"""The period of a single grant that begins later."""
DAYS: Final = {"day": 1, "week": 7}
MONTHS: Final = {"month": 1, "year": 12}
_LOCAL_END: Final = datetime(9999, 1, 3)  # noqa: DTZ001 (local: after LATEST in every zone)


@frozen
class Periods:
    """Consecutive periods of equal length in the local time of a zone.

    The first period, number 0, begins at the anchor. Each period is counted from the anchor, so a
    short month does not move later ones: 31 January, 28 February, 31 March.
    """

    anchor: datetime
    every: str
    zone: str

    def begin(self, number: int) -> datetime | None:
        """The moment at which the period of this number begins. `None` if it never begins.

        A local time that a clock change skips moves forward by the length of the change. A local
        time that occurs twice is the second one.
        """
        if number == 0:
            return self.anchor
        local = self._local(number)
        if local is None or local >= _LOCAL_END:
            return None
        zone = ZoneInfo(self.zone)
        # The smaller offset is the one before a skipped hour, and the one after a repeated hour.
        begins = local - min(_offset(local, zone, 0), _offset(local, zone, 1))
        return begins.replace(tzinfo=UTC) if begins.replace(tzinfo=UTC) <= LATEST else None

    def number_at(self, moment: datetime) -> int:
        """The number of the last period that begins at or before *moment*, or 0."""
        start, present = self._to_local(self.anchor), self._to_local(moment)
        if self.every in DAYS:
            passed = (present - start).days // DAYS[self.every]
        else:
            months = 12 * (present.year - start.year) + present.month - start.month
            passed = months // MONTHS[self.every]
        number = max(passed + 2, 0)
        while number > 0 and ((begins := self.begin(number)) is None or begins > moment):
            number -= 1
        return number

    def _local(self, number: int) -> datetime | None:
        """The local time at which a later period begins, if the calendar has it."""
        start = self._to_local(self.anchor)
        if self.every in DAYS:
            days = number * DAYS[self.every]
            return start + timedelta(days) if days <= (_LOCAL_END - start).days else None
        if self.every not in MONTHS:
            return None
        months = 12 * start.year + start.month - 1 + number * MONTHS[self.every]
        year, month = months // 12, months % 12 + 1
        if year > _LOCAL_END.year:
            return None
        return start.replace(year, month, min(start.day, monthrange(year, month)[1]))

    def _to_local(self, moment: datetime) -> datetime:
        return moment.astimezone(ZoneInfo(self.zone)).replace(tzinfo=None)


def _offset(local: datetime, zone: ZoneInfo, fold: int) -> timedelta:
    return local.replace(tzinfo=zone, fold=fold).utcoffset() or timedelta(0)
