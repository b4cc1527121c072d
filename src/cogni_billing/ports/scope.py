"""One unit of work: one transaction in the store, bound to one tenant."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Protocol, TypeVar

from cogni_billing.domain.identity import TenantId
from cogni_billing.ports.attempts import AttemptRepository
from cogni_billing.ports.books import BooksRepository
from cogni_billing.ports.environment import Clock, IdSource
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


class Environment(Protocol):
    """What a unit of work brings along."""

    @property
    def clock(self) -> Clock:
        """The clock to use where no other is given."""
        ...

    @property
    def ids(self) -> IdSource:
        """The id source to use where no other is given."""
        ...


class UnitOfWork(Environment, Protocol):
    """Opens scopes. A scope sees and writes its own tenant only, and all of its work or none of
    it is kept.
    """

    def scope(self, tenant: TenantId, /) -> AbstractContextManager[Scope]:
        """A scope that commits when its block ends, and rolls back when the block raises.

        Raises:
            ScopeClosed: a call inside failed and the block swallowed the error. Nothing is kept.
            LedgerUnavailable: the store cannot serve now. Nothing is kept.
            OutcomeUnknown: the answer to the commit was lost.
        """
        ...

    def run(self, tenant: TenantId, work: Callable[[Scope], Result], /) -> Result:
        """Do *work* in a scope and return its result.

        Where the store gives up on a transaction that another one disturbed, *work* is done
        again from the start in a new scope, a few times at most; so it must change nothing else.
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

    The work itself is a plain function: what it calls on its scope awaits underneath, so one
    description of the work serves both kinds.
    """

    async def run_async(self, tenant: TenantId, work: Callable[[Scope], Result], /) -> Result:
        """Like `UnitOfWork.run`, without keeping the event loop waiting.

        A task that is cancelled meanwhile leaves all of the work or nothing.
        """
        ...

    async def run_service_async(
        self, tenant: TenantId, work: Callable[[ServiceScope], Result], /
    ) -> Result:
        """Like `UnitOfWork.run_service`, without keeping the event loop waiting."""
        ...
