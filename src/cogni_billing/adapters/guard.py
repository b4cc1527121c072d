"""Decides whether a scope may still be used. Every adapter follows this rule."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from cogni_billing.domain.errors import ScopeClosed


class ScopeGuard:
    """Lets calls through until one fails or the scope ends.

    A failed call may have undone what the store held so far, so nothing after it can count. A
    block that swallows its error would otherwise end as if all were well.

    Args:
        calls: The number of calls that the scope takes. `None` for any number.
    """

    def __init__(self, *, calls: int | None = None) -> None:
        self._closed: str | None = None
        self._used = False
        self._calls_left = calls
        self._limit = calls

    @contextmanager
    def call(self) -> Iterator[None]:
        """One call on a repository of the scope.

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
            self._closed = "a call in it failed, so nothing of it is kept"
            raise

    def require_open(self) -> None:
        """Return while calls are let through.

        Raises:
            ScopeClosed: they are not.
        """
        if self._closed is not None:
            raise ScopeClosed(self._closed)

    @property
    def is_used(self) -> bool:
        """Whether a call was made."""
        return self._used

    @property
    def is_single(self) -> bool:
        """Whether the scope takes one call only."""
        return self._limit == 1

    def close(self) -> None:
        """Let no further call through."""
        self._closed = "it has ended"
