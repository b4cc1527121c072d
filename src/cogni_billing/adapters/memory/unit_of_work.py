"""Scopes over the in-memory tables."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from attrs import frozen

from cogni_billing.adapters.guard import ScopeGuard
from cogni_billing.adapters.memory.repositories import MemoryBooks, MemoryLedger, MemoryTenants
from cogni_billing.adapters.memory.store import Store
from cogni_billing.adapters.system import SystemClock, Uuid7Source
from cogni_billing.domain.errors import PrivilegeRequired
from cogni_billing.domain.identity import TenantId, tenant_id

Result = TypeVar("Result")


@frozen
class MemoryScope:
    """One open unit of work over the in-memory tables."""

    tenants: MemoryTenants
    ledger: MemoryLedger
    books: MemoryBooks


class InMemoryUnitOfWork:
    """A ledger in this process's memory, for `Billing` and `AsyncBilling` alike; safe to share
    between threads and tasks.

    Scopes run one after another: a scope waits for the one before it to end, and a second one
    opened by the same thread raises `LedgerUnavailable` instead of waiting for itself.

    Args:
        service: Whether calls that span tenants are allowed, as where a `PostgresUnitOfWork` has a
            service engine; without it they raise `PrivilegeRequired`.
    """

    def __init__(self, *, service: bool = True) -> None:
        self._has_service = service
        self.clock = SystemClock()
        self.ids = Uuid7Source()
        self._store = Store()

    @contextmanager
    def scope(self, tenant: TenantId, /) -> Iterator[MemoryScope]:
        """A scope that keeps its work when the block ends, and nothing when it raises."""
        owner = tenant_id(tenant)
        with self._store.transaction():
            guard = ScopeGuard()
            try:
                yield MemoryScope(
                    MemoryTenants(self._store, owner, guard),
                    MemoryLedger(self._store, owner, guard),
                    MemoryBooks(self._store, guard),
                )
                guard.require_open()
            finally:
                guard.close()

    def run(self, tenant: TenantId, work: Callable[[MemoryScope], Result], /) -> Result:
        """Do *work* in a scope and return its result."""
        with self.scope(tenant) as scope:
            return work(scope)

    def run_service(self, tenant: TenantId, work: Callable[[MemoryScope], Result], /) -> Result:
        """Do *work* in a scope that may also open the books of all tenants."""
        if not self._has_service:
            raise PrivilegeRequired("what spans tenants needs a unit of work with service=True")
        return self.run(tenant, work)

    async def run_service_async(
        self, tenant: TenantId, work: Callable[[MemoryScope], Result], /
    ) -> Result:
        """Do *work* in a scope that may also open the books of all tenants."""
        return self.run_service(tenant, work)

    async def run_async(self, tenant: TenantId, work: Callable[[MemoryScope], Result], /) -> Result:
        """Do *work* in a scope and return its result; nothing in it ever waits for I/O."""
        return self.run(tenant, work)
