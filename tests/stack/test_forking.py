"""Processes that are forked after the ledger was used share no connection with their parent."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import count
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, Final
from uuid import UUID

import pytest
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.ext.asyncio import create_async_engine

from cogni_billing import AsyncBilling, Billing, TenantId, credits, usd
from cogni_billing.adapters.postgres import AsyncPostgresUnitOfWork, PostgresUnitOfWork
from stack.conftest import Database

FORKS: Final = multiprocessing.get_context("fork")
CHILDREN: Final = 4
CALLS: Final = 25
TENANTS: Final = [TenantId(UUID(int=2**100 + number)) for number in range(CHILDREN + 1)]
PARENT: Final = TENANTS[-1]
BACKEND: Final = text("SELECT pg_backend_pid()")
Given = tuple[int, list[int], set[int]]
"""A process's tenant, the balances that it read, and the backends of its pool."""

# Two processes on one connection may wait for each other's answers forever.
PATIENCE_S: Final = 30

# CPython warns of a fork in a process with threads, such as xdist's worker.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(autouse=True)
def patience() -> Iterator[None]:
    """End a process that gets no answer: the test with an error, a child by the signal."""

    def end(*_: object) -> None:
        if os.getpid() != parent:
            os._exit(1)
        pytest.fail("a connection gave no answer")

    parent = os.getpid()
    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(PATIENCE_S)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def engine(database: Database) -> Iterator[Engine]:
    engine = create_engine(database.sandbox.role("app_user"), pool_size=2, max_overflow=0)
    yield engine
    engine.dispose()


@pytest.fixture
def billing(engine: Engine) -> Billing:
    """Build a billing on a pool of two connections, both of them used."""
    billing = Billing(PostgresUnitOfWork(engine))
    for tenant in TENANTS:
        billing.confirm_purchase(tenant, usd("1.00"), payment=f"stripe:{tenant}")
    with engine.connect() as first, engine.connect() as second:
        first.scalar(BACKEND)
        second.scalar(BACKEND)
    return billing


def backends(engine: Engine) -> set[int]:
    with engine.connect() as first, engine.connect() as second:
        return {first.scalar(BACKEND), second.scalar(BACKEND)}


def spend(billing: Billing, engine: Engine, number: int) -> Given:
    """Charge the process's own tenant repeatedly. Every answer must be that tenant's."""
    tenant = TENANTS[number]
    told = []
    for call in range(CALLS):
        receipt = billing.charge(tenant, credits(number + 1), reference=f"run-{call}")
        assert not receipt.replayed
        assert billing.balance(tenant).posted == receipt.balance
        told.append(int(receipt.balance.value))
    return number, told, backends(engine)


def expected(number: int) -> list[int]:
    return [10_000_000 - (number + 1) * call for call in range(1, CALLS + 1)]


def child_of(work: Callable[[], object]) -> BaseProcess:
    """Start a child of this process that runs *work*."""

    def patient() -> None:
        signal.alarm(PATIENCE_S)  # a child inherits no alarm
        work()

    child = FORKS.Process(target=patient)
    child.start()
    return child


def by_multiprocessing(work: Callable[[int], Given], parent: Callable[[], Given]) -> list[Given]:
    answers = FORKS.SimpleQueue()

    def answer(number: int) -> None:
        answers.put(work(number))

    children = [child_of(partial(answer, number)) for number in range(CHILDREN)]
    given = [parent(), *(answers.get() for _ in children)]
    for child in children:
        child.join()
        assert child.exitcode == 0
    return given


def by_os(work: Callable[[int], Given], parent: Callable[[], Given]) -> list[Given]:
    """Fork as pre-forking servers do."""
    answers: list[tuple[int, Connection]] = []
    for number in range(CHILDREN):
        reader, writer = multiprocessing.Pipe(duplex=False)
        pid = os.fork()
        if pid == 0:
            signal.alarm(PATIENCE_S)
            code = 1
            try:
                writer.send(work(number))
                code = 0
            except BaseException:  # noqa: BLE001 (no child may go on as if it were the test run)
                traceback.print_exc()
            finally:
                os._exit(code)
        writer.close()
        answers.append((pid, reader))
    given = [parent(), *(reader.recv() for _, reader in answers)]
    for pid, _ in answers:
        assert os.waitpid(pid, 0)[1] == 0
    return given


@pytest.mark.parametrize("forked", [by_multiprocessing, by_os])
def test_children_and_their_parent_use_one_ledger_at_once(
    engine: Engine,
    billing: Billing,
    database: Database,
    forked: Callable[[Callable[[int], Given], Callable[[], Given]], list[Given]],
) -> None:
    before = backends(engine)

    given = forked(
        lambda number: spend(billing, engine, number),
        lambda: spend(billing, engine, CHILDREN),
    )

    assert {number: told for number, told, _ in given} == {
        number: expected(number) for number in range(CHILDREN + 1)
    }
    # The parent keeps its own connections, and no two processes share one.
    assert given[0][2] == before == backends(engine)
    assert len(set[int]().union(*(pids for _, _, pids in given))) == 2 * (CHILDREN + 1)
    for number, tenant in enumerate(TENANTS):
        assert billing.balance(tenant).posted == credits(expected(number)[-1])


def test_a_child_that_ends_leaves_its_parents_connections_open(
    engine: Engine, billing: Billing
) -> None:
    """A normal exit closes the child's connections, and a kill does not."""
    before = backends(engine)
    for ending in (None, signal.SIGKILL):
        child = child_of(partial(die, billing, ending))
        child.join()
        assert child.exitcode == (0 if ending is None else -ending)

        assert backends(engine) == before
        billing.charge(PARENT, credits(1), reference=f"run-{ending}")


def die(billing: Billing, ending: int | None) -> None:
    billing.balance(PARENT)
    if ending is not None:
        os.kill(os.getpid(), ending)


def test_a_service_engine_is_dropped_too(database: Database) -> None:
    service = create_engine(database.sandbox.role("app_service"), pool_size=1, max_overflow=0)
    billing = Billing(PostgresUnitOfWork(database.user, service=service))
    billing.confirm_purchase(PARENT, usd("1.00"), payment="stripe:1")
    billing.fold()
    with service.connect() as connection:
        before = connection.scalar(BACKEND)
    seen = FORKS.SimpleQueue()

    def fold() -> None:
        billing.fold()
        with service.connect() as connection:
            seen.put(connection.scalar(BACKEND))

    child = child_of(fold)
    child.join()

    assert child.exitcode == 0
    assert seen.get() != before
    with service.connect() as connection:
        assert connection.scalar(BACKEND) == before
    service.dispose()


def test_an_awaited_ledger_is_used_in_a_child(database: Database) -> None:
    """The child has an event loop of its own, because it cannot use its parent's."""
    async_engine = create_async_engine(database.sandbox.role("app_user"), pool_size=1)
    billing = AsyncBilling(AsyncPostgresUnitOfWork(async_engine))
    keys = count()

    async def buy() -> Any:
        """Buy once more. Returns the backend of the connection."""
        payment = f"stripe:{os.getpid()}-{next(keys)}"
        receipt = await billing.confirm_purchase(PARENT, usd("1.00"), payment=payment)
        assert not receipt.replayed
        async with async_engine.connect() as connection:
            return await connection.scalar(BACKEND)

    async def main() -> None:
        before = await buy()

        def bought() -> None:
            assert asyncio.run(buy()) != before

        child = child_of(partial(in_a_thread, bought))
        child.join()
        assert child.exitcode == 0
        assert await buy() == before
        await async_engine.dispose()

    asyncio.run(main())
    assert Billing(PostgresUnitOfWork(database.user)).balance(PARENT).posted == credits(30_000_000)


def in_a_thread(work: Callable[[], None]) -> None:
    """Run *work* in a thread without an event loop."""
    with ThreadPoolExecutor(1) as threads:
        threads.submit(work).result()
