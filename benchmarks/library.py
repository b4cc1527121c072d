"""The library at work: each job on an engine that the clients share, called and awaited."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import Final

from sqlalchemy import create_engine
from sqlalchemy.ext.asyncio import create_async_engine

from benchmarks import jobs
from benchmarks.harness import AsyncCall, Call, Database, Tasks, Threads
from cogni_billing import AsyncBilling, Billing
from cogni_billing.adapters.postgres import AsyncPostgresUnitOfWork, PostgresUnitOfWork

Job = Callable[[Billing], object]
AwaitedJob = Callable[[AsyncBilling], Awaitable[object]]


def purchase(billing: Billing) -> object:
    """One confirmed payment of a customer, from whom the platform gets its share."""
    return billing.confirm_purchase(jobs.customer(), jobs.PRICE, payment=jobs.reference())


def purchase_awaited(billing: AsyncBilling) -> Awaitable[object]:
    return billing.confirm_purchase(jobs.customer(), jobs.PRICE, payment=jobs.reference())


def charge(billing: Billing) -> object:
    return billing.charge(jobs.customer(), jobs.COST, reference=jobs.reference())


def charge_awaited(billing: AsyncBilling) -> Awaitable[object]:
    return billing.charge(jobs.customer(), jobs.COST, reference=jobs.reference())


def hold_and_capture(billing: Billing) -> object:
    """Two calls: credits set aside, and half of them taken."""
    tenant = jobs.customer()
    hold = billing.hold(tenant, jobs.COST + jobs.COST, reference=jobs.reference())
    return billing.capture(tenant, hold.id, jobs.COST, reference=jobs.reference())


def read_balance(billing: Billing) -> object:
    return billing.balance(jobs.customer())


def read_statement(billing: Billing) -> object:
    return billing.statement(jobs.customer())


MIXTURE: Final[dict[Job, float]] = {
    charge: 90,
    read_balance: 4.5,
    read_statement: 4.5,
    purchase: 1,
}


def mixed(billing: Billing) -> object:
    """One of them, at random."""
    [job] = random.choices(list(MIXTURE), list(MIXTURE.values()))  # noqa: S311
    return job(billing)


def purchases(size: int, billing: Billing) -> object:
    """As many payments of one customer at once."""
    tenant = jobs.customer()
    return billing.confirm_purchases(
        {"tenant": tenant, "amount": jobs.PRICE, "payment": jobs.reference()} for _ in range(size)
    )


def charges(size: int, billing: Billing) -> object:
    tenant = jobs.customer()
    return billing.charge_many(
        {"tenant": tenant, "amount": jobs.COST, "reference": jobs.reference()} for _ in range(size)
    )


@contextmanager
def _called(job: Job, database: Database, clients: int) -> Iterator[Sequence[Call]]:
    engine = create_engine(database.url("app_user"), pool_size=clients, max_overflow=0)
    billing = Billing(PostgresUnitOfWork(engine))
    yield [partial(job, billing)] * clients
    engine.dispose()


@asynccontextmanager
async def _awaited(
    job: AwaitedJob, database: Database, clients: int
) -> AsyncIterator[Sequence[AsyncCall]]:
    engine = create_async_engine(database.url("app_user"), pool_size=clients, max_overflow=0)
    billing = AsyncBilling(AsyncPostgresUnitOfWork(engine))
    yield [partial(job, billing)] * clients
    await engine.dispose()


def called(name: str, job: Job, *, at_once: int = 1) -> Threads:
    return Threads(name, partial(_called, job), at_once)


def awaited(name: str, job: AwaitedJob) -> Tasks:
    return Tasks(name, partial(_awaited, job))
