"""Scope guard: decides if a scope accepts calls. Every adapter uses it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from cogni_billing.domain.errors import ScopeClosed


class ScopeGuard:
    """Accepts calls until one fails or the scope ends.

    A failed call may have rolled back the earlier ones, so no later call can count. Without the
    guard, a block that swallows the error would end as if it had succeeded.

    Args:
        calls: The number of calls that the scope accepts. `None` for any number.
    """

    def __init__(self, *, calls: int | None = None) -> None:
        self._closed: str | None = None
        self._used = False
        self._calls_left = calls
        self._limit = calls

    @contextmanager
    def call(self) -> Iterator[None]:
        """A context for one call on a repository of the scope.

        Raises:
            ScopeClosed: the scope has ended, a call failed, or this call exceeds the limit.
        """
        self.require_open()
        if self._calls_left is not None:
            if self._calls_left == 0:
                raise ScopeClosed(f"it takes {self._limit} call; use a scope for several")
            self._calls_left -= 1
        self._used = True
        try:
            yield
        except BaseException:
            self._closed = "a call in it failed; open a new scope"
            raise

    def require_open(self) -> None:
        """Return if the scope accepts calls.

        Raises:
            ScopeClosed: the scope has ended, or a call failed.
        """
        if self._closed is not None:
            raise ScopeClosed(self._closed)

    @property
    def is_used(self) -> bool:
        """True if a call was made."""
        return self._used

    @property
    def is_single(self) -> bool:
        """True if the scope accepts one call only."""
        return self._limit == 1

    def close(self) -> None:
        """Accept no further call."""
        self._closed = "it has ended; open a new scope"
