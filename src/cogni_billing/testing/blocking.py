"""Sync doors over async ones, so that one test covers both."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from typing import Any, Self, cast

from attrs import frozen

from cogni_billing import (
    AsyncBilling,
    AsyncMetered,
    AsyncPaymentAttempts,
    Billing,
    PaymentAttempts,
)


@contextmanager
def running_loop() -> Iterator[asyncio.AbstractEventLoop]:
    """An event loop that runs in a thread of its own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield loop
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@frozen
class _Blocking:
    _awaited: AsyncBilling | AsyncPaymentAttempts | AsyncMetered
    _loop: asyncio.AbstractEventLoop

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._awaited, name)
        if not callable(method):
            return method

        def call(*args: Any, **kwargs: Any) -> object:
            async def awaited() -> object:
                called: Awaitable[object] | AsyncMetered = method(*args, **kwargs)
                if isinstance(called, AsyncMetered):
                    return _Blocking(called, self._loop)
                return await called

            return asyncio.run_coroutine_threadsafe(awaited(), self._loop).result()

        return call

    def __enter__(self) -> Self:
        self.__getattr__("__aenter__")()
        return self

    def __exit__(self, *error: object) -> None:
        self.__getattr__("__aexit__")(*error)


def blocking(billing: AsyncBilling, loop: asyncio.AbstractEventLoop) -> Billing:
    """*billing* with the sync methods of `Billing`. Call it outside the thread of *loop*."""
    return cast("Billing", _Blocking(billing, loop))


def blocking_attempts(
    attempts: AsyncPaymentAttempts, loop: asyncio.AbstractEventLoop
) -> PaymentAttempts:
    """*attempts* with the sync methods of `PaymentAttempts`."""
    return cast("PaymentAttempts", _Blocking(attempts, loop))
