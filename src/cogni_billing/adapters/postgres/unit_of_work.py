"""Engine to scope: who waits for whom, and what is done again."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from typing import Final, TypeVar

from attrs import define
from sqlalchemy import Connection, Engine
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from cogni_billing.adapters.postgres.contexts import Context, checked_key
from cogni_billing.adapters.postgres.failures import DISTURBED, translated
from cogni_billing.adapters.postgres.scopes import (
    DRIVERS,
    PostgresScope,
    require_open_transaction,
    savepoint,
    transaction,
)
from cogni_billing.adapters.rights import service_refused
from cogni_billing.adapters.system import SystemClock, Uuid7Source
from cogni_billing.domain.errors import InvalidInput, LedgerUnavailable, OutcomeUnknown, shown
from cogni_billing.domain.identity import TenantId, tenant_id

TRIES_MAX: Final = 5
_PAUSE_MAX_S: Final = 0.01
# Work across tenants waits for locks, and must see what their holders did before.
_SERVICE_ISOLATION: Final = "READ COMMITTED"

Result = TypeVar("Result")
Work = Callable[[PostgresScope], Result]


class PostgresUnitOfWork:
    """A ledger in PostgreSQL, under row-level security. Safe to share between threads.

    Args:
        engine: A SQLAlchemy engine on psycopg 3 that connects as `app_user`, or as the spender,
            with a pool of the host's choosing. Behind a pooler in transaction mode create it with
            `connect_args={"prepare_threshold": None}`.
        service: One that connects as `app_service`, for what spans tenants; without it such a
            call raises `PrivilegeRequired`. Webhooks and back offices have one, request handlers
            do not.
        signing_key: The key of signed contexts, where the database asks for them; see
            `sign_contexts`.

    Raises:
        InvalidInput: *engine*, *service* or *signing_key* is something else.
    """

    def __init__(
        self, engine: Engine, *, service: Engine | None = None, signing_key: bytes | None = None
    ) -> None:
        _require_engine("engine", engine, Engine)
        if service is not None:
            _require_engine("service", service, Engine)
        self.clock = SystemClock()
        self.ids = Uuid7Source()
        self._context = _context(signing_key)
        self._engine = engine
        self._service = service and service.execution_options(isolation_level=_SERVICE_ISOLATION)

    @staticmethod
    def joining(connection: Connection, *, signing_key: bytes | None = None) -> JoinedUnitOfWork:
        """A unit of work inside the transaction that its host has open on *connection*.

        Each scope is a savepoint: it sets its tenant, restores what was set before, and never
        commits the host's work. Nothing is done again here when another transaction disturbs it,
        because the host's whole transaction would have to be.

        Raises:
            InvalidInput: *connection* has no transaction open, or autocommits.
        """
        return JoinedUnitOfWork(connection, signing_key=signing_key)

    @contextmanager
    def scope(self, tenant: TenantId, /) -> Iterator[PostgresScope]:
        """One transaction: the context is set first, and dies with it."""
        owner = tenant_id(tenant)
        with (
            _connected(self._engine) as connection,
            transaction(connection, owner, self._context) as scope,
        ):
            yield scope

    def run(self, tenant: TenantId, work: Work[Result], /) -> Result:
        """Do *work* in a scope; up to five times where other transactions disturb it."""
        return self._run(self._engine, tenant_id(tenant), work)

    def run_service(self, tenant: TenantId, work: Work[Result], /) -> Result:
        """Do *work* in a scope of the service role."""
        return self._run(_privileged(self._service), tenant_id(tenant), work)

    def _run(self, engine: Engine, tenant: TenantId, work: Work[Result]) -> Result:
        tries = _Tries()
        while True:
            try:
                with (
                    _connected(engine) as connection,
                    transaction(connection, tenant, self._context) as scope,
                ):
                    return work(scope)
            except LedgerUnavailable as error:
                pause = tries.pause_after(error)
            time.sleep(pause)


class AsyncPostgresUnitOfWork:
    """`PostgresUnitOfWork` for asyncio, on psycopg's async mode. Safe to share between tasks.

    Its scopes are those of `PostgresUnitOfWork`: SQLAlchemy lets them await inside, in the same
    task and without a thread. A task that is cancelled there loses its connection, which is
    closed and never used again, so nothing is left half done and no tenant is left behind.

    Args:
        engine: A SQLAlchemy async engine on psycopg 3 that connects as `app_user`, or as the
            spender.
        service: One that connects as `app_service`, for what spans tenants.
        signing_key: As for `PostgresUnitOfWork`.

    Raises:
        InvalidInput: *engine*, *service* or *signing_key* is something else.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        *,
        service: AsyncEngine | None = None,
        signing_key: bytes | None = None,
    ) -> None:
        _require_engine("engine", engine, AsyncEngine)
        if service is not None:
            _require_engine("service", service, AsyncEngine)
        self.clock = SystemClock()
        self.ids = Uuid7Source()
        self._context = _context(signing_key)
        self._engine = engine
        self._service = service and service.execution_options(isolation_level=_SERVICE_ISOLATION)

    @staticmethod
    def joining(
        connection: AsyncConnection, *, signing_key: bytes | None = None
    ) -> AsyncJoinedUnitOfWork:
        """A unit of work inside the transaction that its host has open on *connection*.

        See `PostgresUnitOfWork.joining`.
        """
        return AsyncJoinedUnitOfWork(connection, signing_key=signing_key)

    async def run_async(self, tenant: TenantId, work: Work[Result], /) -> Result:
        """Do *work* in a scope; up to five times where other transactions disturb it."""
        return await self._run(self._engine, tenant_id(tenant), work)

    async def run_service_async(self, tenant: TenantId, work: Work[Result], /) -> Result:
        """Do *work* in a scope of the service role."""
        return await self._run(_privileged(self._service), tenant_id(tenant), work)

    async def _run(self, engine: AsyncEngine, tenant: TenantId, work: Work[Result]) -> Result:
        def scoped(connection: Connection) -> Result:
            with transaction(connection, tenant, self._context) as scope:
                return work(scope)

        tries = _Tries()
        while True:
            try:
                async with AsyncExitStack() as stack:
                    with translated():
                        connection = await stack.enter_async_context(engine.connect())
                    return await connection.run_sync(scoped)
            except LedgerUnavailable as error:
                pause = tries.pause_after(error)
            await asyncio.sleep(pause)


class JoinedUnitOfWork:
    """Scopes inside a host's transaction; made by `PostgresUnitOfWork.joining`."""

    def __init__(self, connection: Connection, *, signing_key: bytes | None = None) -> None:
        require_open_transaction(connection)
        self.clock = SystemClock()
        self.ids = Uuid7Source()
        self._context = _context(signing_key)
        self._connection = connection

    @contextmanager
    def scope(self, tenant: TenantId, /) -> Iterator[PostgresScope]:
        """One savepoint, released when the block ends well."""
        with savepoint(self._connection, tenant_id(tenant), self._context) as scope:
            yield scope

    def run(self, tenant: TenantId, work: Work[Result], /) -> Result:
        """Do *work* in a scope."""
        with self.scope(tenant) as scope:
            return work(scope)

    def run_service(self, _tenant: TenantId, _work: Work[Result], /) -> Result:
        """Refuse: what spans tenants has transactions of its own."""
        raise service_refused()


class AsyncJoinedUnitOfWork:
    """Scopes inside a host's transaction; made by `AsyncPostgresUnitOfWork.joining`."""

    def __init__(self, connection: AsyncConnection, *, signing_key: bytes | None = None) -> None:
        if not isinstance(connection, AsyncConnection):
            raise InvalidInput("connection", shown(connection), "an AsyncConnection")
        require_open_transaction(connection.sync_connection)
        self.clock = SystemClock()
        self.ids = Uuid7Source()
        self._context = _context(signing_key)
        self._connection = connection

    async def run_async(self, tenant: TenantId, work: Work[Result], /) -> Result:
        """Do *work* in a scope."""
        owner = tenant_id(tenant)

        def scoped(connection: Connection) -> Result:
            with savepoint(connection, owner, self._context) as scope:
                return work(scope)

        return await self._connection.run_sync(scoped)

    async def run_service_async(self, _tenant: TenantId, _work: Work[Result], /) -> Result:
        """Refuse: what spans tenants has transactions of its own."""
        raise service_refused()


def _context(key: bytes | None) -> Context:
    return Context() if key is None else Context(checked_key(key))


def _privileged(service: _Engine | None) -> _Engine:
    if service is None:
        raise service_refused()
    return service


_Engine = TypeVar("_Engine")


def _require_engine(field: str, given: object, kind: type[Engine | AsyncEngine]) -> None:
    if not isinstance(given, kind) or given.dialect.driver not in DRIVERS:
        raise InvalidInput(field, shown(given), f"an {kind.__name__} on postgresql+psycopg")


@contextmanager
def _connected(engine: Engine) -> Iterator[Connection]:
    with translated():
        connection = engine.connect()
    try:
        yield connection
    finally:
        connection.close()


@define
class _Tries:
    """How often work is done again, and after what pause."""

    _made: int = 1

    def pause_after(self, error: LedgerUnavailable) -> float:
        """Seconds to wait before the next try; raises *error* where there is none."""
        again = error.sqlstate in DISTURBED and not isinstance(error, OutcomeUnknown)
        if not again or self._made == TRIES_MAX:
            raise error
        self._made += 1
        # Jitter, so that those who met do not meet again.
        return random.uniform(0, _PAUSE_MAX_S * 2**self._made)  # noqa: S311
