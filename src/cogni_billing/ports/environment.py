"""Sources of time and of identifiers."""

from __future__ import annotations

from datetime import datetime
from typing import Protocol
from uuid import UUID


class Clock(Protocol):
    """A source of time."""

    def now(self) -> datetime:
        """The present moment, timezone-aware."""
        ...


class IdSource(Protocol):
    """A source of identifiers."""

    def new(self) -> UUID:
        """A new, unique identifier. Ids roughly increase, so that indexes stay dense."""
        ...
