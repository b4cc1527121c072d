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
from cogni_billing.adapters.memory.inbox import MemoryInbox
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
    """An open unit of work on the in-memory tables."""

    tenants: MemoryTenants
    ledger: MemoryLedger
    attempts: MemoryAttempts
    books: MemoryBooks
    inbox: MemoryInbox


class InMemoryUnitOfWork:
    """A ledger in the memory of this process, for `Billing` and `AsyncBilling`.

    Safe to share between threads and tasks. Scopes run one after another: a scope waits until the
    one before it has ended. If a thread opens a second scope inside its first, the second raises
    `LedgerUnavailable`.

    Args:
        service: Allow calls across tenants, like a `PostgresUnitOfWork` with a service engine. If
            false, these calls raise `PrivilegeRequired`.
        minting: Allow purchases and grants, like a connection as a role that may mint. If false,
            these calls raise `PrivilegeRequired`.
    """

    def __init__(self, *, service: bool = True, minting: bool = True) -> None:
        self._has_service = service
        self._may_mint = minting
        self.clock = SystemClock()
        self.ids = Uuid7Source()
        self._store = Store()

    def limited(self, *, service: bool = False, minting: bool = False) -> InMemoryUnitOfWork:
        """A unit of work on the same ledger, with other rights."""
        other = InMemoryUnitOfWork(service=service, minting=minting)
        other._store = self._store
        return other

    def totals(self) -> dict[AccountId, Decimal]:
        """The sum of each account's lines, in credits. For tests, between scopes."""
        with self._store.transaction():
            return {
                account: total((line.amount for line in lines), CREDIT).value
                for account, lines in self._store.lines.items()
            }

    @contextmanager
    def scope(self, tenant: TenantId, /) -> Iterator[MemoryScope]:
        """A scope that keeps its work when the block ends, and rolls back if it raises."""
        with self._opened(tenant, ScopeGuard()) as scope:
            yield scope

    @contextmanager
    def _opened(
        self, tenant: TenantId, guard: ScopeGuard, *, service: bool = False
    ) -> Iterator[MemoryScope]:
        owner, may_mint = tenant_id(tenant), self._may_mint or service
        with self._store.transaction():
            try:
                ledger = MemoryLedger(
                    self._store, owner, guard, may_mint=may_mint, is_service=service
                )
                yield MemoryScope(
                    MemoryTenants(self._store, owner, guard),
                    ledger,
                    MemoryAttempts(self._store, owner, guard, may_mint=may_mint),
                    MemoryBooks(self._store, ledger, guard),
                    MemoryInbox(self._store, owner, guard),
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

        If the wallet's state refuses the call, the expirations that were due on the wallet stay
        recorded. A second call raises `ScopeClosed`.
        """
        with self._opened(tenant, ScopeGuard(calls=1)) as scope:
            return work(scope)

    def run_service(self, tenant: TenantId, work: Callable[[MemoryScope], Result], /) -> Result:
        """Do *work* in a scope that may also open the books of all tenants."""
        if not self._has_service:
            raise service_refused()
        with self._opened(tenant, ScopeGuard(), service=True) as scope:
            return work(scope)

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
        """Do *work* in a scope and return its result. It never waits for I/O."""
        return self.run(tenant, work)
