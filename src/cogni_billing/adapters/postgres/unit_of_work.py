"""Units of work on an engine. Each scope is a statement or a transaction, retried if that helps."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from datetime import timedelta
from typing import Any, Final, TypeGuard, TypeVar

import psycopg
from attrs import define, evolve, field
from sqlalchemy import Connection, Engine
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlalchemy.util import await_only, greenlet_spawn

from cogni_billing.adapters.postgres.answers import MORE_DUE, door_of, posted
from cogni_billing.adapters.postgres.calls import Calls, decoded, statement_of
from cogni_billing.adapters.postgres.connections import (
    checked_engine,
    run_statement,
    run_statement_async,
)
from cogni_billing.adapters.postgres.contexts import Context
from cogni_billing.adapters.postgres.failures import DISTURBED, connecting, is_lost
from cogni_billing.adapters.postgres.grouping import (
    AsyncLanes,
    Batch,
    GroupCommit,
    Lanes,
    is_groupable,
)
from cogni_billing.adapters.postgres.joining import AsyncJoinedUnitOfWork, JoinedUnitOfWork
from cogni_billing.adapters.postgres.rows import movement
from cogni_billing.adapters.postgres.scopes import (
    PostgresScope,
    PostgresServiceScope,
    single_call,
    transaction,
)
from cogni_billing.adapters.rights import service_refused
from cogni_billing.adapters.system import SystemClock, Uuid7Source
from cogni_billing.domain.errors import InvalidInput, LedgerUnavailable, OutcomeUnknown, shown
from cogni_billing.domain.identity import TenantId, tenant_id
from cogni_billing.domain.transactions import Recorded, Transaction

TRIES_MAX: Final = 5
_PAUSE_MAX_S: Final = 0.01
_RETRY_PAUSE_MAX_S: Final = 0.2
RETRY_FOR: Final = timedelta(seconds=2)
# Work across tenants waits for locks, and must see the changes of their former holders.
_SERVICE_ISOLATION: Final = "READ COMMITTED"

Result = TypeVar("Result")
Work = Callable[[PostgresServiceScope], Result]
SingleWork = Callable[[PostgresScope], Result]


class PostgresUnitOfWork:
    """A ledger in PostgreSQL, under row-level security.

    Safe to share between threads, and with processes that are forked later.

    Args:
        engine: A SQLAlchemy engine on psycopg 3 that connects as `app_user`, or as the spender. The
            host chooses its pool. Behind a pooler in transaction mode create it with
            `connect_args={"prepare_threshold": None}`.
        service: An engine that connects as `app_service`, for work across tenants. Without it such
            a call raises `PrivilegeRequired`. Webhooks and back offices have one, request handlers
            do not.
        signing_key: The key of signed contexts, if the database requires them. See
            `sign_contexts`.
        retry_for: How long a call is retried after its connection was lost. Calls have keys, so
            the retried call returns the first outcome. Zero turns it off.
        group_commit: Lets purchases, grants, charges and captures of many callers share calls and
            commits. See `GroupCommit`. Without it each has its own.

    Raises:
        InvalidInput: an argument has another type or is out of its range.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        service: Engine | None = None,
        signing_key: bytes | None = None,
        retry_for: timedelta = RETRY_FOR,
        group_commit: GroupCommit | None = None,
    ) -> None:
        self.clock = SystemClock()
        self.ids = Uuid7Source()
        self._engine = checked_engine("engine", engine, Engine)
        self._service = service and checked_engine(
            "service", service, Engine, isolation_level=_SERVICE_ISOLATION
        )
        self._context = Context.of(signing_key)
        self._retry_for = _checked_span(retry_for)
        self._lanes = Lanes(group_commit, self._send) if _groups(group_commit) else None

    @staticmethod
    def joining(
        connection: Connection | psycopg.Connection[Any], *, signing_key: bytes | None = None
    ) -> JoinedUnitOfWork:
        """Return a unit of work inside the transaction that its host has open on *connection*.

        The connection is of SQLAlchemy or psycopg.

        Each scope is a savepoint: it restores the tenant that was set before, and never commits the
        host's work. No call is retried here after a conflict with a concurrent transaction, because
        the host would have to retry its whole transaction.

        Raises:
            InvalidInput: *connection* is of another driver, or has no open transaction.
            LedgerUnavailable: the connection was lost.
        """
        return JoinedUnitOfWork(connection, signing_key=signing_key)

    @contextmanager
    def scope(self, tenant: TenantId, /) -> Iterator[PostgresServiceScope]:
        """Open a transaction. The tenant is set for this transaction only."""
        owner = tenant_id(tenant)
        with (
            _connected(self._engine) as connection,
            transaction(connection, owner, self._context) as scope,
        ):
            yield scope

    def post(self, transaction: Transaction, /) -> Recorded:
        """Record *transaction* with one statement, in one round trip."""
        if self._lanes is not None and is_groupable(transaction):
            answer = self._lanes.post(transaction)
            if answer is not None:
                return posted(transaction, answer)
            return self._post(transaction, repeated=True)
        return self._post(transaction)

    def _send(self, transactions: Sequence[Transaction]) -> list[Any]:
        batch = Batch(transactions)
        return batch.answers(self._told(*batch.statement(self._context)))

    def _told(self, statement: str, parameters: tuple[object, ...]) -> str:
        return run_statement(self._engine, statement, parameters, prepare=self._context.prepare)

    def _post(self, transaction: Transaction, *, repeated: bool = False) -> Recorded:
        tries = _Tries(self._retry_for, keyed=True)
        while True:
            statement, parameters = _posting(transaction, self._context)
            try:
                told = self._told(statement, parameters)
                [answer] = decoded(told)
                if answer["outcome"] != MORE_DUE:
                    return posted(transaction, answer, repeated=repeated)
                continue
            except LedgerUnavailable as error:
                pause = tries.pause_after(error)
                repeated = True
            time.sleep(pause)

    def single(self, tenant: TenantId, work: SingleWork[Result], /) -> Result:
        """Run *work*, whose only call is a statement, in one round trip."""
        calls = Calls(self._told, self._context)
        tries = _Tries(self._retry_for, keyed=True)
        while True:
            try:
                with single_call(calls, tenant_id(tenant)) as scope:
                    return work(scope)
            except LedgerUnavailable as error:
                pause = tries.pause_after(error)
                calls = evolve(calls, repeated=True)
            time.sleep(pause)

    def run(self, tenant: TenantId, work: Work[Result], /) -> Result:
        """Run *work* in a scope, up to five times after conflicts with concurrent transactions."""
        return self._run(self._engine, tenant_id(tenant), work)

    def run_service(self, tenant: TenantId, work: Work[Result], /) -> Result:
        """Run *work* in a scope of the service role."""
        return self._run(_privileged(self._service), tenant_id(tenant), work)

    def _run(self, engine: Engine, tenant: TenantId, work: Work[Result]) -> Result:
        tries = _Tries(self._retry_for)
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

    Its scopes are those of `PostgresUnitOfWork`. SQLAlchemy lets them await inside, in the same
    task and without a thread. A task that is cancelled there loses its connection, which is closed
    and never used again. So no transaction stays open and no tenant stays set.

    Args:
        engine: A SQLAlchemy async engine on psycopg 3 that connects as `app_user`, or as the
            spender.
        service: An async engine that connects as `app_service`, for work across tenants.
        signing_key: As for `PostgresUnitOfWork`.
        retry_for: As for `PostgresUnitOfWork`.
        group_commit: As for `PostgresUnitOfWork`.

    Raises:
        InvalidInput: an argument has another type or is out of its range.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        *,
        service: AsyncEngine | None = None,
        signing_key: bytes | None = None,
        retry_for: timedelta = RETRY_FOR,
        group_commit: GroupCommit | None = None,
    ) -> None:
        self.clock = SystemClock()
        self.ids = Uuid7Source()
        self._engine = checked_engine("engine", engine, AsyncEngine)
        self._service = service and checked_engine(
            "service", service, AsyncEngine, isolation_level=_SERVICE_ISOLATION
        )
        self._context = Context.of(signing_key)
        self._retry_for = _checked_span(retry_for)
        self._lanes = AsyncLanes(group_commit, self._send) if _groups(group_commit) else None

    @staticmethod
    def joining(
        connection: AsyncConnection | psycopg.AsyncConnection[Any],
        *,
        signing_key: bytes | None = None,
    ) -> AsyncJoinedUnitOfWork:
        """Return a unit of work inside the transaction that its host has open on *connection*.

        See `PostgresUnitOfWork.joining`.
        """
        return AsyncJoinedUnitOfWork(connection, signing_key=signing_key)

    async def post_async(self, transaction: Transaction, /) -> Recorded:
        """Record *transaction* with one statement, in one round trip."""
        if self._lanes is not None and is_groupable(transaction):
            answer = await self._lanes.post(transaction)
            if answer is not None:
                return posted(transaction, answer)
            return await self._post(transaction, repeated=True)
        return await self._post(transaction)

    async def _send(self, transactions: Sequence[Transaction]) -> list[Any]:
        batch = Batch(transactions)
        statement, parameters = batch.statement(self._context)
        return batch.answers(await self._told(statement, parameters))

    async def _told(self, statement: str, parameters: tuple[object, ...]) -> str:
        prepare = self._context.prepare
        return await run_statement_async(self._engine, statement, parameters, prepare=prepare)

    async def _post(self, transaction: Transaction, *, repeated: bool = False) -> Recorded:
        tries = _Tries(self._retry_for, keyed=True)
        while True:
            statement, parameters = _posting(transaction, self._context)
            try:
                told = await self._told(statement, parameters)
                [answer] = decoded(told)
                if answer["outcome"] != MORE_DUE:
                    return posted(transaction, answer, repeated=repeated)
                continue
            except LedgerUnavailable as error:
                pause = tries.pause_after(error)
                repeated = True
            await asyncio.sleep(pause)

    async def single_async(self, tenant: TenantId, work: SingleWork[Result], /) -> Result:
        """Run *work*, whose only call is a statement, in one round trip."""
        calls = Calls(self._awaited, self._context)

        def scoped() -> Result:
            with single_call(calls, tenant_id(tenant)) as scope:
                return work(scope)

        tries = _Tries(self._retry_for, keyed=True)
        while True:
            try:
                return await greenlet_spawn(scoped)
            except LedgerUnavailable as error:
                pause = tries.pause_after(error)
                calls = evolve(calls, repeated=True)
            await asyncio.sleep(pause)

    def _awaited(self, statement: str, parameters: tuple[object, ...]) -> str:
        return await_only(self._told(statement, parameters))

    async def run_async(self, tenant: TenantId, work: Work[Result], /) -> Result:
        """Run *work* in a scope, up to five times after conflicts with concurrent transactions."""
        return await self._run(self._engine, tenant_id(tenant), work)

    async def run_service_async(self, tenant: TenantId, work: Work[Result], /) -> Result:
        """Run *work* in a scope of the service role."""
        return await self._run(_privileged(self._service), tenant_id(tenant), work)

    async def _run(self, engine: AsyncEngine, tenant: TenantId, work: Work[Result]) -> Result:
        def scoped(connection: Connection) -> Result:
            with transaction(connection, tenant, self._context) as scope:
                return work(scope)

        tries = _Tries(self._retry_for)
        while True:
            try:
                async with AsyncExitStack() as stack:
                    with connecting():
                        connection = await stack.enter_async_context(engine.connect())
                    return await connection.run_sync(scoped)
            except LedgerUnavailable as error:
                pause = tries.pause_after(error)
            await asyncio.sleep(pause)


def _posting(transaction: Transaction, context: Context) -> tuple[str, tuple[object, ...]]:
    """Build the statement that records *transaction*, and its parameters."""
    door, movements = door_of(transaction.kind), [movement(transaction)]
    return statement_of(door, transaction.tenant, context, movements)


def _checked_span(given: object) -> timedelta:
    if not isinstance(given, timedelta) or given < timedelta(0):
        raise InvalidInput("retry_for", shown(given), "a timedelta of zero or more")
    return given


def _groups(given: object) -> TypeGuard[GroupCommit]:
    if given is not None and not isinstance(given, GroupCommit):
        raise InvalidInput("group_commit", shown(given), "a GroupCommit, or None")
    return given is not None


_Engine = TypeVar("_Engine")


def _privileged(service: _Engine | None) -> _Engine:
    if service is None:
        raise service_refused()
    return service


@contextmanager
def _connected(engine: Engine) -> Iterator[Connection]:
    with connecting():
        connection = engine.connect()
    try:
        yield connection
    finally:
        connection.close()


@define
class _Tries:
    """Retries of a call: their number, their time, and the pause before each."""

    _retry_for: timedelta
    _keyed: bool = field(default=False, kw_only=True)
    """True if a repeated call returns the first outcome."""
    _made: int = 1
    _began: float = field(factory=time.monotonic)

    def pause_after(self, error: LedgerUnavailable) -> float:
        """Return the seconds to wait before the next try.

        Raises:
            LedgerUnavailable: *error*, if no try is left.
        """
        unknown = isinstance(error, OutcomeUnknown)
        if error.sqlstate in DISTURBED and not unknown:
            if self._made >= TRIES_MAX:
                raise error
        elif not (self._keyed if unknown else is_lost(error)) or self._is_late():
            raise error
        self._made += 1
        # Jitter, so that callers that collided do not collide again.
        pause = min(_PAUSE_MAX_S * 2**self._made, _RETRY_PAUSE_MAX_S)
        return random.uniform(0, pause)  # noqa: S311

    def _is_late(self) -> bool:
        return time.monotonic() - self._began >= self._retry_for.total_seconds()
