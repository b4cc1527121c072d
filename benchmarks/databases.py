"""Contenders in databases of their own on one server: without a safety device, or with a past."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from multiprocessing import get_context
from typing import Final

from attrs import evolve, frozen
from rich.progress import track
from sqlalchemy import Connection, create_engine, text

from benchmarks import jobs, library, limit
from benchmarks.harness import Contender, Database, Work
from benchmarks.serving import ROLES, endow
from cogni_billing import Billing, TransactionKind
from cogni_billing.adapters.postgres import PostgresUnitOfWork
from cogni_billing.adapters.postgres.operations.blueprint import LEDGER
from cogni_billing.adapters.postgres.operations.sandbox import temporary_database

BATCH: Final = 1_000
POSTINGS_OF_A_PURCHASE: Final = 3


@frozen
class Elsewhere(Contender):
    """Works in a database of its own."""

    name: str
    contender: Contender
    database: Database

    def work(self, _database: Database, clients: int, seconds: float) -> Work:
        return self.contender.work(self.database, clients, seconds)


@contextmanager
def another(database: Database) -> Iterator[Database]:
    """Another database with the ledger in it, whose customers have credits to spend."""
    administrator = database.url("postgres")
    with temporary_database(administrator.render_as_string(hide_password=False)) as made:
        urls = {role: made.role(role) for role in ROLES}
        other = evolve(database, urls=urls | {"postgres": made.administrator})
        endow(other)
        yield other


# What stands between a client and a broken ledger, and how it is switched off.
DEVICES: Final = {
    "row security": [f"ALTER TABLE {{}}.{table} DISABLE ROW LEVEL SECURITY" for table in LEDGER],
    "the check of postings": ["DROP TRIGGER check_postings ON {}.postings"],
    "the check of transactions": ["DROP TRIGGER check_transactions ON {}.transactions"],
    "the balance in the wallet": ["DROP TRIGGER keep_wallet ON {}.postings"],
    "the claim's foreign key": [
        "ALTER TABLE {}.payments DROP CONSTRAINT payments_have_their_purchase"
    ],
}
CHECKS: Final = text("""
    SELECT format('ALTER TABLE %s DROP CONSTRAINT %I', conrelid::regclass, conname)
    FROM pg_constraint
    WHERE contype = 'c' AND connamespace = 'cogni_billing'::regnamespace
""")


@contextmanager
def without_each_device(database: Database) -> Iterator[Sequence[Contender]]:
    """As fast as can be, with all of them and without each one: never do that elsewhere."""
    fastest = limit.pgbench(TransactionKind.PURCHASE)
    with ExitStack() as stack:
        found: list[Contender] = [
            Elsewhere("all of them", fastest, stack.enter_context(another(database)))
        ]
        for device, statements in DEVICES.items():
            other = stack.enter_context(another(database))
            with administering(other) as connection:
                for statement in statements:
                    connection.execute(text(statement.format("cogni_billing")))
            found.append(Elsewhere(f"without {device}", fastest, other))
        other = stack.enter_context(another(database))
        with administering(other) as connection:
            for statement in connection.scalars(CHECKS).all():
                connection.execute(text(statement))
        found.append(Elsewhere("without the checks of columns", fastest, other))
        yield found


@contextmanager
def administering(database: Database) -> Iterator[Connection]:
    engine = create_engine(database.url("postgres"))
    with engine.begin() as connection:
        yield connection
    engine.dispose()


GROWN: Final = {
    "a purchase": library.purchase,
    "a charge": library.charge,
    "a balance": library.read_balance,
    "a page of a statement": library.read_statement,
}


@contextmanager
def grown(database: Database, postings: int) -> Iterator[Sequence[Contender]]:
    """Each job on a ledger with nothing in it, and on one with so many postings."""
    with another(database) as empty, another(database) as full:
        fill(full, postings)
        yield [
            Elsewhere(f"{name}, {size}", library.called(name, job), where)
            for name, job in GROWN.items()
            for size, where in (("empty", empty), (f"{postings:,} postings", full))
        ]


def fill(database: Database, postings: int) -> None:
    """Purchases of all customers in batches, by a process for each processor."""
    batches = postings // POSTINGS_OF_A_PURCHASE // BATCH
    with get_context("forkserver").Pool(2, _connect, (database,)) as pool:
        for _ in track(pool.imap_unordered(_buy, range(batches)), "filling", total=batches):
            pass
    with administering(database) as connection:
        connection.execute(text("ANALYZE"))


_BILLING: list[Billing] = []


def _connect(database: Database) -> None:
    engine = create_engine(database.url("app_user"))
    _BILLING.append(Billing(PostgresUnitOfWork(engine)))


def _buy(number: int) -> None:
    customer = jobs.customers()[number % jobs.CUSTOMERS]
    _BILLING[0].confirm_purchases(
        {"tenant": customer, "amount": jobs.PRICE, "payment": jobs.reference()}
        for _ in range(BATCH)
    )
