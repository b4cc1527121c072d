"""Cases: calls that are validated and planned, ready to run on a unit of work."""

from __future__ import annotations

from collections.abc import Callable, Generator
from functools import wraps
from typing import Any, Generic, ParamSpec, Protocol, TypeAlias, TypeVar, cast

from attrs import frozen

from cogni_billing.domain.errors import InvalidInput, shown
from cogni_billing.domain.identity import TenantId
from cogni_billing.domain.transactions import Recorded, Transaction
from cogni_billing.ports.scope import AsyncUnitOfWork, Scope, ServiceScope, UnitOfWork

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")
Result_co = TypeVar("Result_co", covariant=True)


class Case(Protocol[Result_co]):
    """A call that is ready to run on a unit of work."""

    def on(self, unit_of_work: UnitOfWork, /) -> Result_co:
        """Run it, and return the outcome of the call."""
        ...

    async def on_async(self, unit_of_work: AsyncUnitOfWork, /) -> Result_co:
        """Run it without blocking the event loop."""
        ...


@frozen
class PostCase(Generic[Result]):
    """One transaction to record, and the receipt to make of it."""

    transaction: Transaction
    receipt: Callable[[Recorded], Result]

    def within(self, scope: Scope) -> Result:
        """Record it in a scope that is already open."""
        return self.receipt(scope.ledger.post(self.transaction))

    def on(self, unit_of_work: UnitOfWork) -> Result:
        return self.receipt(unit_of_work.post(self.transaction))

    async def on_async(self, unit_of_work: AsyncUnitOfWork) -> Result:
        return self.receipt(await unit_of_work.post_async(self.transaction))


@frozen
class SingleCase(Generic[Result]):
    """Work that makes one call on a repository, in the tenant's scope."""

    tenant: TenantId
    work: Callable[[Scope], Result]

    def within(self, scope: Scope) -> Result:
        """Do it in a scope that is already open."""
        return self.work(scope)

    def on(self, unit_of_work: UnitOfWork) -> Result:
        return unit_of_work.single(self.tenant, self.work)

    async def on_async(self, unit_of_work: AsyncUnitOfWork) -> Result:
        return await unit_of_work.single_async(self.tenant, self.work)


@frozen
class ScopeCase(Generic[Result]):
    """Work that makes several calls on repositories, in the tenant's scope."""

    tenant: TenantId
    work: Callable[[Scope], Result]

    def on(self, unit_of_work: UnitOfWork) -> Result:
        return unit_of_work.run(self.tenant, self.work)

    async def on_async(self, unit_of_work: AsyncUnitOfWork) -> Result:
        return await unit_of_work.run_async(self.tenant, self.work)


@frozen
class ServiceCase(Generic[Result]):
    """Work for the service role, acting for a tenant."""

    tenant: TenantId
    work: Callable[[ServiceScope], Result]

    def on(self, unit_of_work: UnitOfWork) -> Result:
        return unit_of_work.run_service(self.tenant, self.work)

    async def on_async(self, unit_of_work: AsyncUnitOfWork) -> Result:
        return await unit_of_work.run_service_async(self.tenant, self.work)


Steps: TypeAlias = Generator[Case[Any], Any, Result]
"""Yields cases, and is sent the outcome of each, or the error that it raised."""


@frozen
class StepsCase(Generic[Result]):
    """Cases to run one after another, each in a unit of work of its own."""

    steps: Steps[Result]

    def on(self, unit_of_work: UnitOfWork) -> Result:
        try:
            case = next(self.steps)
            while True:
                try:
                    outcome = case.on(unit_of_work)
                except BaseException as error:  # noqa: BLE001 (the steps decide)
                    case = self.steps.throw(error)
                else:
                    case = self.steps.send(outcome)
        except StopIteration as end:
            return cast("Result", end.value)

    async def on_async(self, unit_of_work: AsyncUnitOfWork) -> Result:
        try:
            case = next(self.steps)
            while True:
                try:
                    outcome = await case.on_async(unit_of_work)
                except BaseException as error:  # noqa: BLE001 (the steps decide)
                    case = self.steps.throw(error)
                else:
                    case = self.steps.send(outcome)
        except StopIteration as end:
            return cast("Result", end.value)


def in_steps(
    function: Callable[Arguments, Steps[Result]],
) -> Callable[Arguments, StepsCase[Result]]:
    """Make a generator function return a case that runs its steps once."""

    @wraps(function)
    def case(*args: Arguments.args, **kwargs: Arguments.kwargs) -> StepsCase[Result]:
        return StepsCase(function(*args, **kwargs))

    return case


def checked_unit_of_work(unit_of_work: UnitOfWork) -> UnitOfWork:
    """*unit_of_work*, if its calls are not awaited.

    Raises:
        InvalidInput: its calls are awaited, or it is no unit of work.
    """
    if not hasattr(unit_of_work, "run"):
        expected = "one that is not awaited, or AsyncBilling in place of Billing"
        raise InvalidInput("unit_of_work", shown(unit_of_work), expected)
    return unit_of_work


def checked_async_unit_of_work(unit_of_work: AsyncUnitOfWork) -> AsyncUnitOfWork:
    """*unit_of_work*, if its calls are awaited.

    Raises:
        InvalidInput: its calls are not awaited, or it is no unit of work.
    """
    if not hasattr(unit_of_work, "run_async"):
        expected = "one that is awaited, or Billing in place of AsyncBilling"
        raise InvalidInput("unit_of_work", shown(unit_of_work), expected)
    return unit_of_work
