"""The system clock, and UUIDv7 identifiers."""

from __future__ import annotations

import secrets
import threading
import time
from datetime import UTC, datetime
from uuid import UUID

_VERSION_7 = 0x7 << 76
_VARIANT = 0b10 << 62
_RANDOM_BITS = 74


class SystemClock:
    """The system clock."""

    def now(self) -> datetime:
        return datetime.now(UTC)  # noqa: TID251 (this is the clock port)


class Uuid7Source:
    """UUIDv7 (RFC 9562): milliseconds, then random bits that count up within a millisecond.

    The ids of one source strictly increase, even if the system clock is set back.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last = 0

    def new(self) -> UUID:
        fresh = (time.time_ns() // 1_000_000 << _RANDOM_BITS) | secrets.randbits(_RANDOM_BITS)
        with self._lock:
            self._last = fresh if fresh > self._last else self._last + 1
            number = self._last
        millis, random = divmod(number, 1 << _RANDOM_BITS)
        high, low = divmod(random, 1 << 62)
        return UUID(int=millis << 80 | _VERSION_7 | high << 64 | _VARIANT | low)
