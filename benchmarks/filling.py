"""Fills a ledger with purchases by either library, and measures its size."""

from __future__ import annotations

from multiprocessing import get_context
from typing import Final

from rich.console import Console
from rich.progress import track
from sqlalchemy import create_engine, text

from benchmarks import jobs
from benchmarks.harness import Database
from cogni_billing import Billing
from cogni_billing.adapters.postgres import PostgresUnitOfWork

BATCH: Final = 1_000
POSTINGS_OF_A_PURCHASE: Final = 3


def fill(database: Database, purchases: int) -> None:
    """Confirm purchases of all customers in batches, with a process for each processor."""
    batches = purchases // BATCH
    console = Console(stderr=True)
    with get_context("forkserver").Pool(2, _connect, (database,)) as pool:
        bought = pool.imap_unordered(_buy, range(batches))
        for _ in track(bought, "filling", total=batches, console=console):
            pass


_BILLING: list[Billing] = []


def _connect(database: Database) -> None:
    engine = create_engine(database.url("app_user"))
    _BILLING.append(Billing(PostgresUnitOfWork(engine)))


def _buy(number: int) -> None:
    customer = jobs.customers()[number % jobs.CUSTOMERS]
    outcomes = _BILLING[0].confirm_purchases(
        {"tenant": customer, "amount": jobs.PRICE, "payment": jobs.reference()}
        for _ in range(BATCH)
    )
    assert all(outcome.error is None for outcome in outcomes)


def bytes_of(database: Database) -> int:
    """The size of the database on disk."""
    return int(database.ask("SELECT pg_database_size(current_database())"))


def vacuumed(database: Database) -> None:
    """Vacuum and analyze, as autovacuum does later."""
    engine = create_engine(database.url("postgres"), isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text("VACUUM (ANALYZE)"))
        connection.execute(text("CHECKPOINT"))
    engine.dispose()
