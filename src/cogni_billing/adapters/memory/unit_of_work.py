"""Scopes over the in-memory tables."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from decimal import Decimal
from typing import TypeVar

from attrs import frozen

from cogni_billing.adapters.guard import ScopeGuard
from cogni_billing.adapters.memory.attempts import MemoryAttempts
from cogni_billing.adapters.memory.books import MemoryBooks
from cogni_billing.adapters.memory.ledger import MemoryLedger
from cogni_billing.adapters.memory.store import Store
from cogni_billing.adapters.memory.tenants import MemoryTenants
from cogni_billing.adapters.rights import service_refused
from cogni_billing.adapters.system import SystemClock, Uuid7Source
from cogni_billing.domain.amounts import CREDIT, total
from cogni_billing.domain.identity import AccountId, TenantId, tenant_id
from cogni_billing.domain.transactions import Recorded, Transaction

Result = TypeVar("Result")


@frozen
class MemoryScope:
    """One open unit of work over the in-memory tables."""

    tenants: MemoryTenants
    ledger: MemoryLedger
    attempts: MemoryAttempts
    books: MemoryBooks


class InMemoryUnitOfWork:
    """A ledger in this process's memory, for `Billing` and `AsyncBilling` alike; safe to share
    between threads and tasks.

    Scopes run one after another: a scope waits for the one before it to end, and a second one
    opened by the same thread raises `LedgerUnavailable` instead of waiting for itself.

    Args:
        service: Whether calls that span tenants are allowed, as where a `PostgresUnitOfWork` has a
            service engine; without it they raise `PrivilegeRequired`.
        minting: Whether purchases can be confirmed and credits granted, as where it does not
            connect as the spender; without it these calls raise `PrivilegeRequired`.
    """

    def __init__(self, *, service: bool = True, minting: bool = True) -> None:
        self._has_service = service
        self._may_mint = minting
        self.clock = SystemClock()
        self.ids = Uuid7Source()
        self._store = Store()

    def limited(self, *, service: bool = False, minting: bool = False) -> InMemoryUnitOfWork:
        """The same ledger with other rights, as over another connection."""
        other = InMemoryUnitOfWork(service=service, minting=minting)
        other._store = self._store
        return other

    def totals(self) -> dict[AccountId, Decimal]:
        """What the lines of each account sum to, in credits: between scopes, for tests."""
        with self._store.transaction():
            return {
                account: total((line.amount for line in lines), CREDIT).value
                for account, lines in self._store.lines.items()
            }

    @contextmanager
    def scope(self, tenant: TenantId, /) -> Iterator[MemoryScope]:
        """A scope that keeps its work when the block ends, and nothing when it raises."""
        with self._opened(tenant, ScopeGuard()) as scope:
            yield scope

    @contextmanager
    def _opened(self, tenant: TenantId, guard: ScopeGuard) -> Iterator[MemoryScope]:
        owner = tenant_id(tenant)
        with self._store.transaction():
            try:
                yield MemoryScope(
                    MemoryTenants(self._store, owner, guard),
                    MemoryLedger(self._store, owner, guard, may_mint=self._may_mint),
                    MemoryAttempts(self._store, owner, guard, may_mint=self._may_mint),
                    MemoryBooks(self._store, guard),
                )
                guard.require_open()
            finally:
                guard.close()

    def run(self, tenant: TenantId, work: Callable[[MemoryScope], Result], /) -> Result:
        """Do *work* in a scope and return its result."""
        with self.scope(tenant) as scope:
            return work(scope)

    def post(self, transaction: Transaction, /) -> Recorded:
        """Record *transaction* in a scope of its own, for its tenant."""
        return self.single(transaction.tenant, lambda scope: scope.ledger.post(transaction))

    def single(self, tenant: TenantId, work: Callable[[MemoryScope], Result], /) -> Result:
        """Do *work*, one call on a repository, and return its result.

        If the wallet's state refuses the call, everything that was due on the wallet stays
        recorded. A second call raises `ScopeClosed`.
        """
        with self._opened(tenant, ScopeGuard(calls=1)) as scope:
            return work(scope)

    def run_service(self, tenant: TenantId, work: Callable[[MemoryScope], Result], /) -> Result:
        """Do *work* in a scope that may also open the books of all tenants."""
        if not self._has_service:
            raise service_refused()
        return self.run(tenant, work)

    async def post_async(self, transaction: Transaction, /) -> Recorded:
        """Record *transaction* in a scope of its own, for its tenant."""
        return self.post(transaction)

    async def single_async(
        self, tenant: TenantId, work: Callable[[MemoryScope], Result], /
    ) -> Result:
        """Do *work*, one call on a repository, and return its result."""
        return self.single(tenant, work)

    async def run_service_async(
        self, tenant: TenantId, work: Callable[[MemoryScope], Result], /
    ) -> Result:
        """Do *work* in a scope that may also open the books of all tenants."""
        return self.run_service(tenant, work)

    async def run_async(self, tenant: TenantId, work: Callable[[MemoryScope], Result], /) -> Result:
        """Do *work* in a scope and return its result; nothing in it ever waits for I/O."""
        return self.run(tenant, work)
