"""Moments in time: timezone-aware, in UTC, within the years that every component can store."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from cogni_billing.domain.errors import InvalidTime, shown

EARLIEST: Final = datetime(1970, 1, 1, tzinfo=UTC)
LATEST: Final = datetime(9998, 12, 31, 23, 59, 59, 999999, tzinfo=UTC)
"""One year before the maximum of Python, so that a session's time zone cannot exceed it."""


def utc(given: object, field: str) -> datetime:
    """*given* in UTC.

    Raises:
        InvalidTime: *given* is no `datetime`, is naive, or lies outside 1970 to 9998.
    """
    if isinstance(given, datetime) and given.utcoffset() is not None:
        if not EARLIEST <= given <= LATEST:
            raise InvalidTime(field, shown(str(given)), "a moment in the years 1970 to 9998")
        return given.astimezone(UTC)
    given_text = shown(str(given)) if isinstance(given, datetime) else shown(given)
    raise InvalidTime(field, given_text, "a timezone-aware datetime")


def expiry(given: object) -> datetime | None:
    """*given* as an expiry in UTC. `None` is for never.

    Raises:
        InvalidTime: *given* is no timezone-aware moment from 1970 to 9998.
    """
    return None if given is None else utc(given, "expires_at")


def expiry_text(expires_at: datetime | None) -> str:
    """An expiry as the text that a request stores."""
    return "never" if expires_at is None else expires_at.isoformat()


def require_unexpired(expires_at: datetime | None, moment: datetime) -> None:
    """Return if *expires_at* is after *moment*, or is `None`.

    Raises:
        InvalidTime: *expires_at* is not after *moment*.
    """
    if expires_at is not None and expires_at <= moment:
        raise InvalidTime("expires_at", str(expires_at), f"a moment after {moment}")
