"""Moments in time: aware, in UTC, within the years that every part of the stack can hold."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from cogni_billing.domain.errors import InvalidTime, shown

EARLIEST: Final = datetime(1970, 1, 1, tzinfo=UTC)
LATEST: Final = datetime(9998, 12, 31, 23, 59, 59, 999999, tzinfo=UTC)
"""A year short of Python's last, so that no session's time zone pushes it over when read back."""


def utc(given: object, field: str) -> datetime:
    """*given* in UTC.

    Raises:
        InvalidTime: it is no `datetime`, is naive, or lies outside 1970 to 9998.
    """
    if isinstance(given, datetime) and given.utcoffset() is not None:
        if not EARLIEST <= given <= LATEST:
            raise InvalidTime(field, shown(str(given)), "a moment in the years 1970 to 9998")
        return given.astimezone(UTC)
    given_text = shown(str(given)) if isinstance(given, datetime) else shown(given)
    raise InvalidTime(field, given_text, "a timezone-aware datetime")
