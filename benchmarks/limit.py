"""The lowest cost of a transaction's rows, and the library's own call without the library."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Final, TypeAlias
from uuid import uuid4

import psutil
from attrs import frozen
from sqlalchemy import create_engine, text

from benchmarks import handwritten, jobs, library
from benchmarks.harness import Contender, Database, Threads, Work
from cogni_billing import RevenueSharePolicy
from cogni_billing.adapters.postgres.answers import door_of
from cogni_billing.adapters.postgres.calls import statement_of, written
from cogni_billing.adapters.postgres.contexts import Context
from cogni_billing.adapters.postgres.embedded.server import bundled_binaries
from cogni_billing.adapters.postgres.rows import movement
from cogni_billing.domain.charges import Charge, plan_charge
from cogni_billing.domain.kinds import TransactionKind
from cogni_billing.domain.purchases import Purchase, plan_purchase, request_purchase
from cogni_billing.domain.transactions import Transaction

MICROSECONDS: Final = 1e6
# pgbench has decimal variables only, so a number stands for the last hexadecimal digits.
TENANT: Final = "CAST('0c057000-0000-4000-8000-' || :customer AS uuid)"
ID: Final = "CAST('0190000000007' || :n AS uuid)"
REFERENCE: Final = "'bench:' || :n"
VARIABLES: Final = r"""
\set n :next + :client_id * 100000000000000000
\set next :next + 1
\set customer {}
"""
BARE_CUSTOMER: Final = f"random(100000000000, {100_000_000_000 + jobs.CUSTOMERS - 1})"
# The columns whose values differ from row to row.
VARYING: Final = {
    **dict.fromkeys(("tenant_id", "origin_id"), TENANT),
    **dict.fromkeys(("id", "transaction_id"), ID),
    **dict.fromkeys(("reference", "payment"), REFERENCE),
}
KEYS: Final = {"claims": "transaction_id", "transactions": "id", "arrivals": "transaction_id"}

Rows: TypeAlias = tuple[str, list[str], list[list[str]]]


def a_purchase() -> Transaction:
    purchase = Purchase(tenant=jobs.customer(), amount=jobs.PRICE, payment=jobs.reference())
    policy = RevenueSharePolicy.default()
    return plan_purchase(request_purchase(purchase), policy, datetime.now(UTC), uuid4())


def a_charge() -> Transaction:
    return plan_charge(
        Charge(tenant=jobs.customer(), amount=jobs.COST, reference=jobs.reference()),
        at=datetime.now(UTC),
        transaction_id=uuid4(),
    )


MADE: Final = {made.kind: made for made in (a_purchase(), a_charge())}


def bare(kind: TransactionKind) -> Pgbench:
    """The rows of one transaction by prepared statements in one flush, on bare tables."""
    return Pgbench("the bare limit", partial(bare_script, kind))


def called_in_c(name: str, kind: TransactionKind) -> Pgbench:
    """The library's own call, prepared, by a client written in C."""
    return Pgbench(name, partial(call_script, kind))


def by_the_driver(kind: TransactionKind) -> Threads:
    """The library's own call by psycopg alone."""
    job = partial(_sent, kind)
    return Threads("psycopg, the same call", partial(handwritten.on_connections, job))


def _sent(kind: TransactionKind, connection: handwritten.Connection) -> None:
    tenant = jobs.customer()
    asked = movement(MADE[kind]) | {
        "id": uuid4(),
        "reference": jobs.reference(),
        "at": datetime.now(UTC),
    }
    told = connection.execute(*statement_of(door_of(kind), tenant, Context(), [asked])).fetchone()
    assert told is not None
    assert '"done"' in told[0]


@frozen
class Pgbench(Contender):
    """The transactions of a script, by pgbench."""

    name: str
    script: Callable[[Database], str]

    def work(self, database: Database, clients: int, seconds: float) -> Work:
        url = database.url("app_user")
        with tempfile.TemporaryDirectory() as folder:
            script, log = Path(folder, "script.sql"), Path(folder, "log")
            script.write_text(self.script(database), "utf-8")
            command = [
                *(str(bundled_binaries() / "pgbench"), "--no-vacuum", "--protocol=prepared"),
                *(f"--client={clients}", f"--jobs={min(clients, 2)}", f"--time={seconds:.0f}"),
                *(f"--file={script}", "--log", f"--log-prefix={log}"),
                *(f"--define=next={time.time_ns()}",),
                *(f"--host={url.query['host']}", f"--port={url.query['port']}"),
                *(f"--username={url.username}", str(url.database)),
            ]
            taken = database.taken()
            before, began = psutil.Process().cpu_times(), time.perf_counter()
            # In a benchmark's own database, pgbench connects as a superuser and sets the role.
            environment = os.environ | {"PGOPTIONS": str(url.query.get("options", ""))}
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)  # noqa: S603
            elapsed, after = time.perf_counter() - began, psutil.Process().cpu_times()
            calls = [
                int(line.split()[2]) / MICROSECONDS
                for part in Path(folder).glob("log*")
                for line in part.read_text().splitlines()
            ]
        cpu = sum(
            getattr(after, kind) - getattr(before, kind)
            for kind in ("children_user", "children_system")
        )
        return Work(calls, elapsed, cpu, taken)


def install(database: Database) -> None:
    """Copy the tables without policies, triggers and checks, with a wallet for every customer."""
    with library.opened(database, clients=1) as billing:
        library.charge(billing)  # a row to copy
    engine = create_engine(database.url("postgres"))
    with engine.begin() as connection:
        connection.execute(text("CREATE SCHEMA bare"))
        for table in (*KEYS, "wallets"):
            copied = f"CREATE TABLE bare.{table} (LIKE cogni_billing.{table} INCLUDING ALL)"
            connection.execute(text(copied))
        first = "'0c057000-0000-4000-8000-' || 100000000000 + customer"
        connection.execute(
            text(
                f"INSERT INTO bare.wallets (tenant_id, opened_at)"  # noqa: S608
                f" SELECT CAST({first} AS uuid), now()"
                f" FROM generate_series(0, {jobs.CUSTOMERS - 1}) AS customer"
            )
        )
        for on in ("SCHEMA bare", "ALL TABLES IN SCHEMA bare"):
            connection.execute(text(f"GRANT ALL ON {on} TO app_user"))
    engine.dispose()


def bare_script(kind: TransactionKind, database: Database) -> str:
    """The rows of a recorded transaction of *kind*, with other keys, as a script of pgbench.

    The statements are one transaction, since one Sync ends the pipeline.
    """
    inserts = []
    for table, columns, rows in rows_of(database, kind):
        varying = VARYING | ({"position": ":n"} if table == "transactions" else {})
        values = [
            ", ".join(varying.get(*pair) for pair in zip(columns, row, strict=True)) for row in rows
        ]
        written = f"({'), ('.join(values)})"
        inserts.append(f"INSERT INTO bare.{table} ({', '.join(columns)}) VALUES {written};")  # noqa: S608
    amount = MADE[kind].amount.value
    update = (
        f"UPDATE bare.wallets SET posted = posted + {amount}, lines = lines + 1, as_of = now()"  # noqa: S608
        f" WHERE tenant_id = {TENANT};"
    )
    return _script(BARE_CUSTOMER, update, *inserts)


def rows_of(database: Database, kind: TransactionKind) -> Iterator[Rows]:
    """The rows of the latest transaction of *kind*: each table with columns and values in SQL."""
    latest = (
        f"SELECT id FROM cogni_billing.transactions WHERE kind = '{kind}'"  # noqa: S608
        " ORDER BY occurred_at DESC LIMIT 1"
    )
    for table, key in KEYS.items():
        columns = database.ask(
            "SELECT array_agg(attname::text ORDER BY attnum) FROM pg_attribute"  # noqa: S608
            f" WHERE attrelid = 'cogni_billing.{table}'::regclass AND attnum > 0"
            " AND NOT attisdropped AND attidentity = ''"
        )
        values = ", ".join(f"quote_nullable({column}::text)" for column in columns)
        rows = database.ask(
            f"SELECT array_agg(ARRAY[{values}]) FROM cogni_billing.{table}"  # noqa: S608
            f" WHERE {key} = ({latest})"
        )
        if rows:
            yield table, columns, rows


def call_script(kind: TransactionKind, _database: Database) -> str:
    """The library's own call for a transaction of *kind* as a script of pgbench."""
    made = MADE[kind]
    asked = written([movement(made)]).replace("'", "''")
    for value, expression in (
        (made.id, f"({ID})"),
        (made.reference, REFERENCE),
        (made.at, "now()"),
    ):
        asked = asked.replace(str(value), f"' || {expression} || '")
    tenant = "CAST('0c057000-0000-4000-8000-' || lpad(to_hex(:customer::int), 12, '0') AS uuid)"
    call = f"SELECT cogni_billing.{door_of(kind)}({tenant}, NULL, CAST('{asked}' AS json[]));"
    return _script(f"random(0, {jobs.CUSTOMERS - 1})", call)


def _script(customer: str, *statements: str) -> str:
    variables = VARIABLES.format(customer)
    return "\n".join((variables, r"\startpipeline", *statements, r"\endpipeline"))
