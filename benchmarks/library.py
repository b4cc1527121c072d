"""The library's jobs, on an engine that the clients share, sync and async."""

from __future__ import annotations

import random
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Final

from rich.console import Console
from sqlalchemy import create_engine
from sqlalchemy.ext.asyncio import create_async_engine

from benchmarks import jobs
from benchmarks.harness import AsyncCall, Call, Database, Tasks, Threads
from cogni_billing import (
    SYSTEM_TENANT_ID,
    AccountId,
    AsyncBilling,
    Billing,
    RevenueSharePolicy,
    ShareMode,
    ShareRule,
    credits,
)
from cogni_billing.adapters.postgres import AsyncPostgresUnitOfWork, PostgresUnitOfWork
from cogni_billing.cli.importing import PURCHASES, Import, run_import
from cogni_billing.cli.records import Format

Job = Callable[[Billing], object]
AwaitedJob = Callable[[AsyncBilling], Awaitable[object]]

PLATFORMS: Final = 64


def purchase(billing: Billing) -> object:
    """One confirmed payment of a customer, with a share for the platform."""
    return billing.confirm_purchase(jobs.customer(), jobs.PRICE, payment=jobs.reference())


def purchase_awaited(billing: AsyncBilling) -> Awaitable[object]:
    return billing.confirm_purchase(jobs.customer(), jobs.PRICE, payment=jobs.reference())


def charge(billing: Billing) -> object:
    return billing.charge(jobs.customer(), jobs.COST, reference=jobs.reference())


def charge_awaited(billing: AsyncBilling) -> Awaitable[object]:
    return billing.charge(jobs.customer(), jobs.COST, reference=jobs.reference())


def charge_one(billing: Billing) -> object:
    """Charge the one tenant that all clients charge."""
    return billing.charge(jobs.customers()[0], jobs.COST, reference=jobs.reference())


def charge_one_awaited(billing: AsyncBilling) -> Awaitable[object]:
    return billing.charge(jobs.customers()[0], jobs.COST, reference=jobs.reference())


def grant(billing: Billing) -> object:
    return billing.grant(jobs.customer(), jobs.COST, source="bench", reference=jobs.reference())


def hold_and_capture(billing: Billing) -> object:
    """Two calls: set credits aside, and take half of them."""
    tenant = jobs.customer()
    hold = billing.hold(tenant, jobs.COST + jobs.COST, reference=jobs.reference())
    return billing.capture(tenant, hold.id, jobs.COST, reference=jobs.reference())


def charges_one_by_one(size: int, billing: Billing) -> object:
    """Charge a stream of so many costs, each by a call of its own."""
    tenant = jobs.customer()
    name = jobs.reference()
    for number in range(size):
        billing.charge(tenant, jobs.COST, reference=f"{name}/{number}")
    return size


def metered(size: int, billing: Billing) -> object:
    """A metered run of so many costs, captured a hundred at a time."""
    cost = jobs.COST.value
    with billing.metered(
        jobs.customer(),
        limit=credits(cost * size),
        reference=jobs.reference(),
        ttl=timedelta(minutes=5),
        every=credits(cost * 100),
    ) as run:
        for _ in range(size):
            run.add(jobs.COST)
    return run.charged


def read_balance(billing: Billing) -> object:
    return billing.balance(jobs.customer())


def read_past_balance(billing: Billing) -> object:
    """As of a random moment within the last hour."""
    ago = timedelta(seconds=random.uniform(0, 3600))  # noqa: S311
    return billing.balance(jobs.customer(), at=datetime.now(UTC) - ago)


def read_balance_of_the_system(billing: Billing) -> object:
    return billing.balance(SYSTEM_TENANT_ID)


def read_statement(billing: Billing) -> object:
    """The first fifty lines, the default."""
    return billing.statement(jobs.customer())


def read_statement_of_the_system(billing: Billing, after: str | None = None) -> object:
    return billing.statement(SYSTEM_TENANT_ID, after=after)


CALLS: Final[dict[str, Job]] = {
    "a purchase": purchase,
    "a charge": charge,
    "a balance": read_balance,
    "a statement's page": read_statement,
}

MIXTURE: Final[dict[Job, float]] = {
    charge: 90,
    read_balance: 4.5,
    read_statement: 4.5,
    purchase: 1,
}


def mixed(billing: Billing) -> object:
    """A random job of the mixture."""
    [job] = random.choices(list(MIXTURE), list(MIXTURE.values()))  # noqa: S311
    return job(billing)


def purchases(size: int, billing: Billing) -> object:
    """That many payments of one customer at once."""
    tenant = jobs.customer()
    return billing.confirm_purchases(
        {"tenant": tenant, "amount": jobs.PRICE, "payment": jobs.reference()} for _ in range(size)
    )


def imported(size: int, billing: Billing) -> object:
    """That many payments of one customer from a file, as the command imports them."""
    tenant = jobs.customer()
    with tempfile.TemporaryFile() as file:
        file.write(b"tenant,amount,payment\n")
        for _ in range(size):
            file.write(f"{tenant},{jobs.PRICE.value},{jobs.reference()}\n".encode())
        file.seek(0)
        what = Import(PURCHASES, file, Format.CSV, batch_size=1_000)
        tally = run_import(Console(quiet=True), billing, what)
    assert tally.done == size
    return tally


def charges(size: int, billing: Billing) -> object:
    tenant = jobs.customer()
    return billing.charge_many(
        {"tenant": tenant, "amount": jobs.COST, "reference": jobs.reference()} for _ in range(size)
    )


@contextmanager
def connected(database: Database, clients: int, **options: Any) -> Iterator[PostgresUnitOfWork]:
    """A unit of work on a pool for that many clients."""
    engine = create_engine(database.url("app_user"), pool_size=clients, max_overflow=0)
    service = create_engine(database.url("app_service"), pool_size=1)
    yield PostgresUnitOfWork(engine, service=service, signing_key=database.signing_key, **options)
    engine.dispose()
    service.dispose()


@contextmanager
def opened(database: Database, clients: int) -> Iterator[Billing]:
    with connected(database, clients) as unit_of_work:
        yield Billing(unit_of_work)


@contextmanager
def _called(job: Job, database: Database, clients: int) -> Iterator[Sequence[Call]]:
    with opened(database, clients) as billing:
        yield [partial(job, billing)] * clients


@contextmanager
def _with_many_platforms(database: Database, clients: int) -> Iterator[Sequence[Call]]:
    """Purchases with a share for a random beneficiary, not for the system tenant."""
    with connected(database, clients) as unit_of_work:
        billings = [
            Billing(unit_of_work, policy=_policy_for(AccountId(partner)))
            for partner in jobs.customers()[:PLATFORMS]
        ]
        yield [lambda: purchase(random.choice(billings))] * clients  # noqa: S311


def _policy_for(partner: AccountId) -> RevenueSharePolicy:
    return RevenueSharePolicy(
        version=str(partner),
        effective_from=datetime(2020, 1, 1, tzinfo=UTC),
        mode=ShareMode.BONUS,
        rules=(ShareRule(partner, "0.25"),),
    )


def _grouping() -> dict[str, Any]:
    """The option to share commits, which the earlier library lacks."""
    from cogni_billing.adapters.postgres import GroupCommit  # noqa: PLC0415

    return {"group_commit": GroupCommit()}


@contextmanager
def _grouped(job: Job, database: Database, clients: int) -> Iterator[Sequence[Call]]:
    with connected(database, clients, **_grouping()) as unit_of_work:
        yield [partial(job, Billing(unit_of_work))] * clients


@asynccontextmanager
async def _awaited(
    job: AwaitedJob, database: Database, clients: int, *, grouped: bool = False
) -> AsyncIterator[Sequence[AsyncCall]]:
    engine = create_async_engine(database.url("app_user"), pool_size=clients, max_overflow=0)
    options = _grouping() if grouped else {}
    billing = AsyncBilling(AsyncPostgresUnitOfWork(engine, **options))
    yield [partial(job, billing)] * clients
    await engine.dispose()


def called(name: str, job: Job, *, at_once: int = 1, against: str = "") -> Threads:
    return Threads(name, partial(_called, job), at_once, against)


def called_in_groups(name: str, job: Job) -> Threads:
    """Clients of one process share commits."""
    return Threads(name, partial(_grouped, job), processes=1)


def called_for_many_platforms(name: str) -> Threads:
    return Threads(name, _with_many_platforms)


def awaited(name: str, job: AwaitedJob) -> Tasks:
    return Tasks(name, partial(_awaited, job))


def awaited_in_groups(name: str, job: AwaitedJob) -> Tasks:
    """Tasks of one event loop share commits."""
    return Tasks(name, partial(_awaited, job, grouped=True), processes=1)
