"""The unit of work: one transaction of the store, bound to one tenant."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Protocol, TypeVar

from cogni_billing.domain.identity import TenantId
from cogni_billing.domain.transactions import Recorded, Transaction
from cogni_billing.ports.attempts import AttemptRepository
from cogni_billing.ports.books import BooksRepository
from cogni_billing.ports.environment import Clock, IdSource
from cogni_billing.ports.inbox import InboxRepository
from cogni_billing.ports.ledger import LedgerRepository
from cogni_billing.ports.tenants import TenantRepository

Result = TypeVar("Result")


class Scope(Protocol):
    """The repositories of one open unit of work.

    Once a call on them has raised, or the scope has ended, every further call raises
    `ScopeClosed`.
    """

    @property
    def tenants(self) -> TenantRepository: ...

    @property
    def ledger(self) -> LedgerRepository: ...

    @property
    def attempts(self) -> AttemptRepository: ...


class ServiceScope(Scope, Protocol):
    """A scope of the service role, which may also open the books of all tenants."""

    @property
    def books(self) -> BooksRepository: ...

    @property
    def inbox(self) -> InboxRepository: ...


class Environment(Protocol):
    """The clock and the id source of a unit of work."""

    @property
    def clock(self) -> Clock:
        """The default clock."""
        ...

    @property
    def ids(self) -> IdSource:
        """The default id source."""
        ...


class UnitOfWork(Environment, Protocol):
    """Opens scopes. A scope sees and writes its own tenant only, and is atomic."""

    def scope(self, tenant: TenantId, /) -> AbstractContextManager[Scope]:
        """A scope that commits when its block ends, and rolls back when the block raises.

        Raises:
            ScopeClosed: a call inside failed and the block swallowed the error. The scope is rolled
                back.
            LedgerUnavailable: the store cannot serve now. The scope is rolled back.
            OutcomeUnknown: the answer to the commit was lost.
        """
        ...

    def run(self, tenant: TenantId, work: Callable[[Scope], Result], /) -> Result:
        """Do *work* in a scope and return its result. If it raises, all of it is undone.

        If a concurrent transaction conflicts, *work* is retried from the start in a new scope, a
        few times at most, so it must change nothing else.
        """
        ...

    def post(self, transaction: Transaction, /) -> Recorded:
        """Record *transaction* in a scope of its own, for its tenant.

        It answers like `LedgerRepository.post`. An adapter may run it as one statement, or share
        one commit among several. If the state of the ledger refuses the transaction
        (AccountFrozen, InsufficientCredits, UnknownHold, HoldClosed, InvalidTime,
        PaymentAlreadyClaimed), the expirations that were due on the wallet stay recorded. A
        replay, an IdempotencyConflict and UnknownAccount are answered before any expiration is
        recorded.
        """
        ...

    def single(self, tenant: TenantId, work: Callable[[Scope], Result], /) -> Result:
        """Do *work* in a scope in which it makes exactly one call on a repository.

        An adapter may run the call as one autocommitted statement. If the state of the wallet
        refuses the call, the expirations that were due on the wallet stay recorded, as in `post`.
        Like the work of `run`, *work* may run several times and must change nothing else.

        Raises:
            ScopeClosed: *work* made a second call. The first one may have been kept.
        """
        ...

    def run_service(self, tenant: TenantId, work: Callable[[ServiceScope], Result], /) -> Result:
        """Do *work* in a scope of the service role, acting for *tenant*.

        Raises:
            PrivilegeRequired: this unit of work was made without the service role.
        """
        ...


class AsyncUnitOfWork(Environment, Protocol):
    """A unit of work for asyncio.

    The work itself is a plain function: calls on its scope await underneath, so the same function
    serves both kinds of units of work.
    """

    async def run_async(self, tenant: TenantId, work: Callable[[Scope], Result], /) -> Result:
        """Like `UnitOfWork.run`, without blocking the event loop.

        A cancelled task leaves all of the work or no part of it.
        """
        ...

    async def post_async(self, transaction: Transaction, /) -> Recorded:
        """Like `UnitOfWork.post`, without blocking the event loop.

        A cancelled task leaves the whole transaction recorded, or no part of it.
        """
        ...

    async def single_async(self, tenant: TenantId, work: Callable[[Scope], Result], /) -> Result:
        """Like `UnitOfWork.single`, without blocking the event loop.

        A cancelled task leaves the whole effect of the call, or no part of it.
        """
        ...

    async def run_service_async(
        self, tenant: TenantId, work: Callable[[ServiceScope], Result], /
    ) -> Result:
        """Like `UnitOfWork.run_service`, without blocking the event loop."""
        ...
