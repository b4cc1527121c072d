"""The same jobs on ledgers of several sizes, and the cost of folding and verifying them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Final

from sqlalchemy import text

from benchmarks import jobs, library, limit
from benchmarks.databases import Elsewhere, administering, another
from benchmarks.filling import POSTINGS_OF_A_PURCHASE, bytes_of, vacuumed
from benchmarks.harness import MS, Contender, Database
from benchmarks.upkeep import verify
from cogni_billing import SYSTEM_TENANT_ID, TransactionKind

LATE: Final = 1_000
"""The number of a page of fifty lines, far back in the statement."""
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
    """Each job on an almost empty ledger, and on ledgers with that many postings."""
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
    """Fill it, fold it and verify it. Returns a note on the time taken."""
    purchases = postings // POSTINGS_OF_A_PURCHASE
    before = bytes_of(ledger)
    fill(ledger, purchases)
    each = (bytes_of(ledger) - before) / purchases
    vacuumed(ledger)
    with library.opened(ledger, clients=1) as billing:
        unfolded = _seconds(partial(billing.balance, SYSTEM_TENANT_ID))
        folding = _seconds(billing.fold)
        folded = _seconds(partial(billing.balance, SYSTEM_TENANT_ID))
        verifying = _seconds(partial(verify, billing))
    vacuumed(ledger)
    return (
        f"{postings:,} postings take {each:,.0f} bytes a purchase on disk with all indexes;"
        f" folding them took {folding:.1f} s"
        f" ({postings / folding:,.0f} postings a second), and the system tenant's balance"
        f" {unfolded * MS:,.0f} ms before and {folded * MS:.0f} ms after; verifying all took"
        f" {verifying:.0f} s ({postings / verifying:,.0f} postings a second)."
    )


def fill(ledger: Database, purchases: int) -> None:
    """Copy the latest purchase, as a superuser, to all customers in turn."""
    customer = f"mod(n, {jobs.CUSTOMERS})"
    line = f"2 + n / {jobs.CUSTOMERS}"  # each customer has one line already
    tenant = f"CAST('0c057000-0000-4000-8000-' || lpad(to_hex({customer}), 12, '0') AS uuid)"
    key = "lpad(CAST(n AS text), 12, '0')"
    varying = {
        **dict.fromkeys(("tenant_id", "origin_id"), tenant),
        **dict.fromkeys(
            ("id", "transaction_id"), f"CAST('01900000-0000-7000-8000-' || {key} AS uuid)"
        ),
        **dict.fromkeys(("reference", "payment"), f"'filled:' || {key}"),
        "posted_after": f"CAST({jobs.CREDITS} AS numeric) * ({line})",
    }
    with administering(ledger) as connection:
        connection.execute(text("SET session_replication_role = replica"))
        for table, columns, rows in limit.rows_of(ledger, TransactionKind.PURCHASE):
            made = varying | ({"position": line} if table == "transactions" else {})
            for row in rows:
                values = [made.get(*pair) for pair in zip(columns, row, strict=True)]
                connection.exec_driver_sql(
                    f"INSERT INTO cogni_billing.{table} ({', '.join(columns)})"  # noqa: S608
                    f" SELECT {', '.join(values)} FROM generate_series(0, {purchases - 1}) AS n"
                )
        connection.exec_driver_sql(
            f"UPDATE cogni_billing.wallets SET lines = made.lines, as_of = made.as_of,"  # noqa: S608
            f" posted = made.lines * {jobs.CREDITS}"
            " FROM (SELECT tenant_id, max(position) AS lines, max(line_at) AS as_of"
            " FROM cogni_billing.transactions GROUP BY tenant_id) AS made"
            " WHERE wallets.tenant_id = made.tenant_id"
        )


def late(ledger: Database) -> str:
    """The cursor of that page of the system tenant's statement."""
    after = None
    with library.opened(ledger, clients=1) as billing:
        for _ in range((LATE - 1) * LINES // LINES_MAX):
            after = billing.statement(SYSTEM_TENANT_ID, limit=LINES_MAX, after=after).next
        rest = (LATE - 1) * LINES % LINES_MAX
        after = billing.statement(SYSTEM_TENANT_ID, limit=rest, after=after).next
    assert after is not None
    return after


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began
