"""A program that spends credits in worker processes and in its own, and prints JSON.

It starts as README shows, and uses the ledger before it has workers: `spending.py fork executor`.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from multiprocessing.synchronize import Barrier
from typing import Any, Final
from uuid import UUID

from sqlalchemy import create_engine, text
from sqlalchemy.ext.asyncio import create_async_engine

from cogni_billing import AsyncBilling, Billing, TenantId, credits
from cogni_billing.adapters.postgres import (
    AsyncPostgresUnitOfWork,
    GroupCommit,
    PostgresUnitOfWork,
    ensure_ready,
    ensure_ready_async,
)

URL: Final = "SPENDING_URL"
GROUPED: Final = "SPENDING_GROUPED"
WORKERS: Final = 4
THREADS: Final = 4
CALLS: Final = 10
PATIENCE_S: Final = 60.0
BACKEND: Final = text("SELECT pg_backend_pid()")


def tenant_of(number: int, thread: int) -> TenantId:
    """Return the id of a tenant. The parent's number follows its workers' numbers."""
    return TenantId(UUID(int=2**100 + number * THREADS + thread))


def expected(number: int) -> list[int]:
    """Return the balances of a tenant that bought 10 000 000 credits."""
    return [10_000_000 - (number + 1) * call for call in range(1, 2 * CALLS + 1)]


class Program:
    """The engines and the ledger's objects, each of them used before."""

    def __init__(self, url: str, group_commit: GroupCommit | None) -> None:
        self.engine = create_engine(url, pool_size=THREADS)
        ensure_ready(self.engine)
        self.billing = Billing(PostgresUnitOfWork(self.engine, group_commit=group_commit))
        self.async_engine = create_async_engine(url, pool_size=THREADS)
        self.async_billing = AsyncBilling(
            AsyncPostgresUnitOfWork(self.async_engine, group_commit=group_commit)
        )
        self.loop = asyncio.Runner()
        self.billing.open_account(tenant_of(WORKERS, 0))
        self.loop.run(ensure_ready_async(self.async_engine))
        self.loop.run(self.async_billing.balance(tenant_of(WORKERS, 0)))

    def spend(self, number: int, thread: int) -> list[int]:
        """Spend in threads."""
        tenant, told = tenant_of(number, thread), []
        for call in range(CALLS):
            receipt = self.billing.charge(tenant, credits(number + 1), reference=f"run-{call}")
            assert self.billing.balance(tenant).posted == receipt.balance
            told.append(int(receipt.balance.value))
        return told

    async def spend_async(self, number: int, thread: int) -> list[int]:
        """Spend in tasks."""
        tenant, told = tenant_of(number, thread), []
        for call in range(CALLS):
            receipt = await self.async_billing.charge(
                tenant, credits(number + 1), reference=f"awaited-{call}"
            )
            assert (await self.async_billing.balance(tenant)).posted == receipt.balance
            told.append(int(receipt.balance.value))
        return told

    async def spend_all_async(self, number: int) -> tuple[list[list[int]], list[int]]:
        """Spend for all tenants of a process. Returns the backends, too."""
        told = await asyncio.gather(
            *(self.spend_async(number, thread) for thread in range(THREADS))
        )
        async with self.async_engine.connect() as connection:
            return told, [await connection.scalar(BACKEND)]

    def work(self, number: int, run: Callable[[Any], Any]) -> dict[str, Any]:
        """Spend in every way, and return the balances and backends of this process."""
        with ThreadPoolExecutor(THREADS) as threads:
            first = list(threads.map(partial(self.spend, number), range(THREADS)))
        second, backends = run(self.spend_all_async(number))
        with self.engine.connect() as connection:
            backends.append(connection.scalar(BACKEND))
        return {
            "number": number,
            "process": os.getpid(),
            "balances": [one + other for one, other in zip(first, second, strict=True)],
            "backends": backends,
        }


if URL in os.environ:  # not when a test imports this module
    program = Program(os.environ[URL], GroupCommit() if GROUPED in os.environ else None)
start: Barrier


def initialize(barrier: Barrier) -> None:
    """Give each worker the barrier, to wait for the others."""
    signal.alarm(int(PATIENCE_S))  # ends a process that hangs
    global start  # noqa: PLW0603 (how an initializer hands something to its process's tasks)
    start = barrier


def work(number: int) -> dict[str, Any]:
    """Do the work of one worker. Workers wait for one another, so that none does two works."""
    start.wait(PATIENCE_S)
    return program.work(number, asyncio.run)


def in_process(barrier: Barrier, answers: Any, number: int) -> None:
    """Do the work of one worker in a process of its own."""
    initialize(barrier)
    answers.put(work(number))


def by_processes(context: Any) -> list[dict[str, Any]]:
    """Work in four processes."""
    answers, barrier = context.SimpleQueue(), context.Barrier(WORKERS)
    processes = [
        context.Process(target=in_process, args=(barrier, answers, number))
        for number in range(WORKERS)
    ]
    for process in processes:
        process.start()
    told = [answers.get() for _ in processes]
    for process in processes:
        process.join()
    return told


def by_executor(context: Any) -> list[dict[str, Any]]:
    """Work in a pool of four processes."""
    barrier = context.Barrier(WORKERS)
    with ProcessPoolExecutor(WORKERS, context, initialize, (barrier,)) as pool:
        return list(pool.map(work, range(WORKERS)))


WAYS: Final = {"processes": by_processes, "executor": by_executor}


def main() -> None:
    """Run the program. Workers start while the threads of this process are calling."""
    method, way = sys.argv[1:]
    with ThreadPoolExecutor(THREADS) as threads:
        own = [threads.submit(program.spend, WORKERS, thread) for thread in range(THREADS)]
        told = WAYS[way](multiprocessing.get_context(method))
        first = [each.result() for each in own]
    second, backends = program.loop.run(program.spend_all_async(WORKERS))
    balances = [one + other for one, other in zip(first, second, strict=True)]
    mine = {"number": WORKERS, "process": os.getpid(), "balances": balances, "backends": backends}
    print(json.dumps([*told, mine]))  # noqa: T201 (its answer)


if __name__ == "__main__":
    main()
