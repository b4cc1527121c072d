"""Concurrent calls that start together."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Barrier
from typing import Final, TypeVar

Result = TypeVar("Result")

HURRY_S: Final = 1e-6


def at_once(calls: Sequence[Callable[[], Result]]) -> list[Result]:
    """Run each of *calls* in a thread of its own, started together, and return their results."""
    barrier = Barrier(len(calls))

    def started(call: Callable[[], Result]) -> Result:
        barrier.wait()
        return call()

    with _hurried(), ThreadPoolExecutor(len(calls)) as threads:
        return list(threads.map(started, calls))


@contextmanager
def _hurried() -> Iterator[None]:
    """Switch threads so often that no call completes before the others have begun."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(HURRY_S)
    try:
        yield
    finally:
        sys.setswitchinterval(before)
