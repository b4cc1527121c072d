"""Moments in time: timezone-aware, in UTC, within the years that every component can store."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Final, Self

from attrs import field, frozen

from cogni_billing.domain.errors import InvalidTime, shown

EARLIEST: Final = datetime(1970, 1, 1, tzinfo=UTC)
REPORTED_WITHIN: Final = timedelta(days=35)
"""The longest time after which usage can be told: a month of billing, and days to close it."""
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


def lifetime(given: object, field: str) -> timedelta:
    """*given* as a time that something lasts.

    Raises:
        InvalidTime: *given* is no `timedelta` above zero.
    """
    if not isinstance(given, timedelta) or given <= timedelta(0):
        given_text = shown(str(given) if isinstance(given, timedelta) else given)
        raise InvalidTime(field, given_text, "a timedelta above zero")
    return timedelta(given.days, given.seconds, given.microseconds)


def optional_lifetime(given: object) -> timedelta | None:
    """*given* as the `expires_in` of a call. `None` is for never.

    Raises:
        InvalidTime: *given* is no `timedelta` above zero.
    """
    return None if given is None else lifetime(given, "expires_in")


@frozen
class Expiry:
    """An expiry as the caller gave it: a moment, a lifetime, or neither of them.

    A request compares the value as given. So a retry with the same lifetime is the same request,
    although its moment differs.
    """

    at: datetime | None = field(default=None, converter=expiry)
    expires_in: timedelta | None = field(default=None, converter=optional_lifetime)

    @classmethod
    def given(cls, expires_at: object, expires_in: object) -> Self:
        """Validate the two arguments of a call.

        Raises:
            InvalidTime: an argument is invalid, or both are given.
        """
        made = cls(expires_at, expires_in)
        if made.at is not None and made.expires_in is not None:
            raise InvalidTime("expires_in", str(made.expires_in), "None beside expires_at")
        return made

    @classmethod
    def stored(cls, expires_at: datetime | None, expires_in: timedelta | None) -> Self:
        """The expiry as the caller gave it, from a stored moment and lifetime."""
        return cls(expires_at) if expires_in is None else cls(expires_in=expires_in)

    @property
    def is_given(self) -> bool:
        return self.at is not None or self.expires_in is not None

    def starting(self, start: datetime) -> datetime | None:
        """The moment of the expiry, if a lifetime begins at *start*. `None` for never.

        Raises:
            InvalidTime: the moment is after the year 9998.
        """
        if self.expires_in is None:
            return self.at
        if self.expires_in > LATEST - start:
            raise InvalidTime(
                "expires_in", str(self.expires_in), "a lifetime that ends by the year 9998"
            )
        return start + self.expires_in

    @property
    def request(self) -> Mapping[str, str]:
        """The field of a request, as text that no version may change."""
        if self.expires_in is None:
            return {"expires_at": expiry_text(self.at)}
        seconds, rest = divmod(self.expires_in, timedelta(seconds=1))
        fraction = f".{rest.microseconds:06}".rstrip("0") if rest else ""
        return {"expires_in": f"{seconds}{fraction} s"}


def require_recent(occurred_at: datetime, opened_at: datetime, at: datetime) -> None:
    """Return if usage of *occurred_at* can be told at *at*, on an account opened at *opened_at*.

    Raises:
        InvalidTime: it is in the future, too long ago, or before the account was opened.
    """
    earliest = max(opened_at, at - REPORTED_WITHIN)
    if not earliest <= occurred_at <= at:
        raise InvalidTime("occurred_at", str(occurred_at), f"a moment from {earliest} to {at}")


def require_unexpired(expires_at: datetime | None, moment: datetime) -> None:
    """Return if *expires_at* is after *moment*, or is `None`.

    Raises:
        InvalidTime: *expires_at* is not after *moment*.
    """
    if expires_at is not None and expires_at <= moment:
        raise InvalidTime("expires_at", str(expires_at), f"a moment after {moment}")
