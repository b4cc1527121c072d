"""Whether a scope may still be used: the same rule on every adapter."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from cogni_billing.domain.errors import ScopeClosed


class ScopeGuard:
    """Lets calls through until one fails or the scope ends.

    A failed call may have undone what the store held so far, so nothing after it can count. A
    block that swallows its error would otherwise end as if all were well.
    """

    def __init__(self) -> None:
        self._closed: str | None = None

    @contextmanager
    def call(self) -> Iterator[None]:
        """One call on a repository of the scope."""
        self.require_open()
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

    def close(self) -> None:
        """Let no further call through."""
        self._closed = "it has ended"
