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


def expiry(given: object) -> datetime | None:
    """*given* as a moment to expire at, in UTC; `None` for never.

    Raises:
        InvalidTime: it is no aware moment.
    """
    return None if given is None else utc(given, "expires_at")


def expiry_text(expires_at: datetime | None) -> str:
    """A moment to expire at, as a request records it."""
    return "never" if expires_at is None else expires_at.isoformat()


def require_unexpired(expires_at: datetime | None, moment: datetime) -> None:
    """Return when what expires then is still there at *moment*.

    Raises:
        InvalidTime: it would have expired.
    """
    if expires_at is not None and expires_at <= moment:
        raise InvalidTime("expires_at", str(expires_at), f"a moment after {moment}")
