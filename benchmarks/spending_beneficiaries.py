"""Measures if purchases wait for beneficiaries that spend their shares.

Eight processes confirm purchases with a share for the system tenant and a share for a partner.
Meanwhile four processes are idle (`idle`), or charge the system tenant (`system`), the partner
(`partner`) or a customer without purchases (`another`). The last three have the same load, so that
a difference between them is waiting. Rounds alternate. The output is each median, and its ratio to
the median of `another`.

    python benchmarks/spending_beneficiaries.py --rounds 7 --seconds 4
"""

from __future__ import annotations

import argparse
import multiprocessing as mp
import time
from collections.abc import Callable
from datetime import UTC, datetime
from multiprocessing.synchronize import Barrier
from multiprocessing.synchronize import Event as StopEvent
from statistics import median
from uuid import UUID, uuid4

from rich.console import Console
from rich.progress import track
from rich.table import Table
from sqlalchemy import create_engine

from cogni_billing import (
    SYSTEM_ACCOUNT_ID,
    SYSTEM_TENANT_ID,
    AccountId,
    Billing,
    RevenueSharePolicy,
    ShareMode,
    ShareRule,
    TenantId,
    credits,
    usd,
)
from cogni_billing.adapters.postgres import PostgresUnitOfWork
from cogni_billing.adapters.postgres.embedded import EmbeddedPostgres

BUYERS, SPENDERS = 8, 4
ANOTHER, PARTNER = TenantId(UUID(int=2**100)), TenantId(UUID(int=2**100 + 1))
POLICY = RevenueSharePolicy(
    version="bench",
    effective_from=datetime(2020, 1, 1, tzinfo=UTC),
    mode=ShareMode.BONUS,
    rules=(ShareRule(SYSTEM_ACCOUNT_ID, "0.25"), ShareRule(AccountId(PARTNER), "0.1")),
)
CHARGED: dict[str, TenantId | None] = {
    "idle": None,
    "system": SYSTEM_TENANT_ID,
    "partner": PARTNER,
    "another": ANOTHER,
}


def buy(billing: Billing) -> None:
    billing.confirm_purchase(uuid4(), usd("1.00"), payment=f"bench:{uuid4()}")


def spend(billing: Billing, tenant: TenantId) -> None:
    billing.charge(tenant, credits(1), reference=f"bench:{uuid4()}")


Work = Callable[..., None]


def repeat(
    url: str,
    work: tuple[Work, tuple[object, ...]],
    start: Barrier,
    stop: StopEvent,
    done: mp.Queue[int],
) -> None:
    """Do *work* in a loop until *stop*. Returns the number of calls."""
    engine = create_engine(url, pool_size=1)
    billing = Billing(PostgresUnitOfWork(engine), policy=POLICY)
    call, arguments = work
    call(billing, *arguments)  # connects, and prepares the statements
    times = 0
    start.wait()
    while not stop.is_set():
        call(billing, *arguments)
        times += 1
    done.put(times)
    engine.dispose()


def purchases_a_second(url: str, charged: TenantId | None, seconds: float) -> float:
    """The purchases per second while the spenders charge *charged*."""
    context = mp.get_context("spawn")
    spenders = 0 if charged is None else SPENDERS
    start, stop = context.Barrier(BUYERS + spenders + 1), context.Event()
    bought, charges = context.Queue(), context.Queue()
    works = [((buy, ()), bought)] * BUYERS + [((spend, (charged,)), charges)] * spenders
    processes = [
        context.Process(target=repeat, args=(url, work, start, stop, counted))
        for work, counted in works
    ]
    for process in processes:
        process.start()
    start.wait()
    began = time.perf_counter()
    time.sleep(seconds)
    stop.set()
    total: int = sum(bought.get() for _ in range(BUYERS))
    elapsed = time.perf_counter() - began
    for _ in range(spenders):
        charges.get()
    for process in processes:
        process.join()
    return total / elapsed


def measured(url: str, rounds: int, seconds: float) -> dict[str, list[float]]:
    engine = create_engine(url)
    billing = Billing(PostgresUnitOfWork(engine))
    for tenant in (SYSTEM_TENANT_ID, PARTNER, ANOTHER):
        billing.confirm_purchase(tenant, usd("1000000"), payment=f"bench:{tenant}")
    engine.dispose()
    figures: dict[str, list[float]] = {name: [] for name in CHARGED}
    for _ in track(range(rounds), "rounds"):
        for name, charged in CHARGED.items():
            figures[name].append(purchases_a_second(url, charged, seconds))
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=4)
    options = parser.parse_args()
    with EmbeddedPostgres() as server:
        figures = measured(server.url("app_user"), options.rounds, options.seconds)
    reference = median(figures["another"])
    table = Table("spending", "purchases/s", "lowest", "highest", "to another")
    for name, found in figures.items():
        row = (median(found), min(found), max(found))
        table.add_row(name, *(f"{value:.0f}" for value in row), f"{row[0] / reference:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
