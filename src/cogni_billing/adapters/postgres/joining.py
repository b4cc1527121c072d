"""Scopes inside a host's transaction. Each is a savepoint. The host commits or rolls back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

import psycopg
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.util import greenlet_spawn

from cogni_billing.adapters.guard import ScopeGuard
from cogni_billing.adapters.postgres.calls import Calls
from cogni_billing.adapters.postgres.contexts import Before, Context
from cogni_billing.adapters.postgres.failures import translated
from cogni_billing.adapters.postgres.hosts import EXPECTED, HostConnection, host_connection
from cogni_billing.adapters.postgres.scopes import PostgresScope, opened, require_sound
from cogni_billing.adapters.rights import service_refused
from cogni_billing.adapters.system import SystemClock, Uuid7Source
from cogni_billing.domain.errors import InvalidInput, shown
from cogni_billing.domain.identity import TenantId, tenant_id
from cogni_billing.domain.transactions import Recorded, Transaction

Result = TypeVar("Result")
Work = Callable[[PostgresScope], Result]


class JoinedUnitOfWork:
    """Scopes inside a host's transaction, made by `PostgresUnitOfWork.joining`."""

    def __init__(self, connection: object, *, signing_key: bytes | None = None) -> None:
        if isinstance(connection, psycopg.AsyncConnection):
            raise InvalidInput("connection", shown(connection), f"{EXPECTED}, not an async one")
        self.clock = SystemClock()
        self.ids = Uuid7Source()
        self._context = Context.of(signing_key)
        self._host = host_connection(connection)

    @contextmanager
    def scope(self, tenant: TenantId, /) -> Iterator[PostgresScope]:
        """Open a savepoint, released if the block succeeds."""
        with _scope(self._host, tenant_id(tenant), self._context) as scope:
            yield scope

    def run(self, tenant: TenantId, work: Work[Result], /) -> Result:
        """Run *work* in a scope."""
        with self.scope(tenant) as scope:
            return work(scope)

    def post(self, transaction: Transaction, /) -> Recorded:
        """Record *transaction* in a scope."""
        return self.run(transaction.tenant, lambda scope: scope.ledger.post(transaction))

    def single(self, tenant: TenantId, work: Work[Result], /) -> Result:
        """Run *work* in a scope."""
        return self.run(tenant, work)

    def run_service(self, _tenant: TenantId, _work: Callable[[Any], Result], /) -> Result:
        """Refuse the call: work across tenants needs transactions of its own."""
        raise service_refused()


class AsyncJoinedUnitOfWork:
    """Scopes inside a host's transaction, made by `AsyncPostgresUnitOfWork.joining`."""

    def __init__(self, connection: object, *, signing_key: bytes | None = None) -> None:
        if not isinstance(connection, (AsyncConnection, psycopg.AsyncConnection)):
            raise InvalidInput("connection", shown(connection), f"{EXPECTED}, and an async one")
        self.clock = SystemClock()
        self.ids = Uuid7Source()
        self._context = Context.of(signing_key)
        self._host = host_connection(
            connection.sync_connection if isinstance(connection, AsyncConnection) else connection
        )

    async def run_async(self, tenant: TenantId, work: Work[Result], /) -> Result:
        """Run *work* in a scope."""
        owner = tenant_id(tenant)

        def scoped() -> Result:
            with _scope(self._host, owner, self._context) as scope:
                return work(scope)

        return await greenlet_spawn(scoped)

    async def post_async(self, transaction: Transaction, /) -> Recorded:
        """Record *transaction* in a scope."""
        return await self.run_async(
            transaction.tenant, lambda scope: scope.ledger.post(transaction)
        )

    async def single_async(self, tenant: TenantId, work: Work[Result], /) -> Result:
        """Run *work* in a scope."""
        return await self.run_async(tenant, work)

    async def run_service_async(
        self, _tenant: TenantId, _work: Callable[[Any], Result], /
    ) -> Result:
        """Refuse the call: work across tenants needs transactions of its own."""
        raise service_refused()


@contextmanager
def _scope(host: HostConnection, tenant: TenantId, context: Context) -> Iterator[PostgresScope]:
    host.require_open_transaction()
    calls = Calls(partial(host.execute, prepare=context.prepare), context)
    guard = ScopeGuard()
    with host.used():
        with translated():
            before = Before.read(host.execute)
        with host.savepoint():
            with opened(calls, tenant, guard) as scope:
                yield scope
            require_sound(host.status, guard)
            with translated():
                # Releasing a savepoint keeps the settings made in it. Rolling back does not.
                before.restore(host.execute)
