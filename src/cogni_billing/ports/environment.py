"""Time and identifiers, which the core never makes itself."""

from __future__ import annotations

from datetime import datetime
from typing import Protocol
from uuid import UUID


class Clock(Protocol):
    """Tells the time."""

    def now(self) -> datetime:
        """The present moment, timezone-aware."""
        ...


class IdSource(Protocol):
    """Makes identifiers."""

    def new(self) -> UUID:
        """A new identifier, never given before; roughly increasing, so that indexes stay dense."""
        ...
