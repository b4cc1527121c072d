"""The same jobs on ledgers of several sizes, and what filling, folding and verifying them takes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from multiprocessing import get_context
from typing import Final

from rich.progress import track
from sqlalchemy import create_engine, text

from benchmarks import jobs, library
from benchmarks.databases import Elsewhere, administering, another
from benchmarks.harness import MS, Contender, Database
from cogni_billing import SYSTEM_TENANT_ID, Billing
from cogni_billing.adapters.postgres import PostgresUnitOfWork

BATCH: Final = 1_000
POSTINGS_OF_A_PURCHASE: Final = 3
LATE: Final = 1_000
"""The page far back that is read, of fifty lines."""
LINES: Final = 50
LINES_MAX: Final = 1_000

FIRST_PAGE: Final = "page 1 of the system tenant's statement"
JOBS: Final[dict[str, library.Job]] = library.CALLS | {
    "a balance as of a moment": library.read_past_balance,
    "the system tenant's balance": library.read_balance_of_the_system,
    FIRST_PAGE: library.read_statement_of_the_system,
}


@contextmanager
def grown(database: Database, sizes: Sequence[int]) -> Iterator[Sequence[Contender]]:
    """Each job on a ledger with customers and little else, and on some with so many postings."""
    with ExitStack() as stack:
        new = stack.enter_context(another(database))
        with library.opened(new, clients=1) as billing:
            billing.fold()
        ledgers = {"new": new}
        for postings in sizes:
            ledger = ledgers[f"{postings:,} postings"] = stack.enter_context(another(database))
            database.notes.append(filled(ledger, postings))
        found = [
            Elsewhere(f"{job}, {size}", library.called(job, call), ledger, f"{job}, new")
            for job, call in JOBS.items()
            for size, ledger in ledgers.items()
        ]
        for grown_to, ledger in list(ledgers.items())[1:]:
            page = library.called(
                "", partial(library.read_statement_of_the_system, after=late(ledger))
            )
            found.append(
                Elsewhere(
                    f"page {LATE:,} of it, {grown_to}", page, ledger, f"{FIRST_PAGE}, {grown_to}"
                )
            )
        yield found


def filled(ledger: Database, postings: int) -> str:
    """Fill it, fold it and verify it; what that took."""
    purchases = postings // POSTINGS_OF_A_PURCHASE
    before = _bytes(ledger)
    filling = _seconds(partial(fill, ledger, purchases))
    each = (_bytes(ledger) - before) / purchases
    _vacuumed(ledger)
    with library.opened(ledger, clients=1) as billing:
        unfolded = _seconds(partial(billing.balance, SYSTEM_TENANT_ID))
        folding = _seconds(billing.fold)
        folded = _seconds(partial(billing.balance, SYSTEM_TENANT_ID))
        verifying = _seconds(partial(_verified, billing))
    _vacuumed(ledger)
    return (
        f"{postings:,} postings were written at {purchases / filling:,.0f} purchases a second,"
        f" {each:,.0f} bytes each on disk with all indexes; folding them took {folding:.1f} s"
        f" ({postings / folding:,.0f} postings a second), and the system tenant's balance"
        f" {unfolded * MS:,.0f} ms before and {folded * MS:.0f} ms after; verifying all took"
        f" {verifying:.0f} s ({postings / verifying:,.0f} postings a second)."
    )


def fill(database: Database, purchases: int) -> None:
    """Purchases of all customers in batches, by a process for each processor."""
    batches = purchases // BATCH
    with get_context("forkserver").Pool(2, _connect, (database,)) as pool:
        for _ in track(pool.imap_unordered(_buy, range(batches)), "filling", total=batches):
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


def late(ledger: Database) -> str:
    """Where that page of the system tenant's statement begins."""
    after = None
    with library.opened(ledger, clients=1) as billing:
        for _ in range((LATE - 1) * LINES // LINES_MAX):
            after = billing.statement(SYSTEM_TENANT_ID, limit=LINES_MAX, after=after).next
        rest = (LATE - 1) * LINES % LINES_MAX
        after = billing.statement(SYSTEM_TENANT_ID, limit=rest, after=after).next
    assert after is not None
    return after


def _verified(billing: Billing) -> None:
    assert billing.verify().ok


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _bytes(ledger: Database) -> int:
    return int(ledger.ask("SELECT pg_database_size(current_database())"))


def _vacuumed(ledger: Database) -> None:
    """As autovacuum leaves it."""
    with administering(ledger, isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM (ANALYZE)"))
        connection.execute(text("CHECKPOINT"))
