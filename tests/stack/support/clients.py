"""Hosts of every make: blocking or async, with group commit or without."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

from attrs import field, frozen
from sqlalchemy import URL, Engine, TextClause, create_engine, event, text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from cogni_billing import AsyncBilling, Billing
from cogni_billing.adapters.postgres import (
    AsyncPostgresUnitOfWork,
    GroupCommit,
    PostgresUnitOfWork,
)
from cogni_billing.testing import blocking

POOL: Final = 4


@frozen
class Make:
    """The way in which a host connects."""

    awaited: bool = False
    options: Mapping[str, Any] = field(factory=dict)
    """Options of its engines."""
    group_commit: GroupCommit | None = None


PRE_PING: Final = {"pool_pre_ping": True}
MAKES: Final = {
    "blocking": Make(),
    "blocking, pinging": Make(options=PRE_PING),
    "blocking, grouped": Make(group_commit=GroupCommit()),
    "awaited": Make(awaited=True),
    "awaited, pinging": Make(awaited=True, options=PRE_PING),
    "awaited, grouped": Make(awaited=True, group_commit=GroupCommit()),
}


@frozen
class Client:
    """A host with an engine for the user and one for the service role."""

    billing: Billing
    lost: list[str]
    """The role of each connection that an engine discarded."""
    _engines: list[Engine | AsyncEngine]
    _loop: asyncio.AbstractEventLoop | None = None

    def fill_pools(self, statement: str = "SELECT 1") -> None:
        """Open every connection of the pools, and leave all of them idle after *statement*."""
        for engine in self._engines:
            if isinstance(engine, AsyncEngine):
                assert self._loop is not None
                filled = _fill_awaited(engine, text(statement))
                asyncio.run_coroutine_threadsafe(filled, self._loop).result()
            else:
                _fill(engine, text(statement))


@contextmanager
def client(
    make: Make, user: URL, service: URL, loop: asyncio.AbstractEventLoop, **options: Any
) -> Iterator[Client]:
    """Build a host of this make. *options* are of its unit of work."""
    options |= {"group_commit": make.group_commit}
    pooled: Any = {"pool_size": POOL, "max_overflow": 0, **make.options}
    if make.awaited:
        one, other = (create_async_engine(url, **pooled) for url in (user, service))
        awaited = AsyncPostgresUnitOfWork(one, service=other, **options)
        billing = blocking(AsyncBilling(awaited), loop)
        try:
            yield Client(billing, _noted(one.sync_engine, other.sync_engine), [one, other], loop)
        finally:
            for each in (one, other):
                asyncio.run_coroutine_threadsafe(each.dispose(), loop).result()
    else:
        engines = [create_engine(url, **pooled) for url in (user, service)]
        unit_of_work = PostgresUnitOfWork(engines[0], service=engines[1], **options)
        try:
            yield Client(Billing(unit_of_work), _noted(*engines), [*engines])
        finally:
            for engine in engines:
                engine.dispose()


def _noted(*engines: Engine) -> list[str]:
    """Return a list that gets the role of each connection that an engine discards."""
    lost: list[str] = []
    for engine in engines:
        role = str(engine.url.username)
        event.listen(engine, "invalidate", lambda *_, role=role: lost.append(role))
    return lost


def _fill(engine: Engine, statement: TextClause) -> None:
    held = [engine.connect() for _ in range(POOL)]
    for connection in held:
        connection.execute(statement)
        connection.commit()
        connection.close()


async def _fill_awaited(engine: AsyncEngine, statement: TextClause) -> None:
    held = [await engine.connect() for _ in range(POOL)]
    for connection in held:
        await connection.execute(statement)
        await connection.commit()
        await connection.close()
