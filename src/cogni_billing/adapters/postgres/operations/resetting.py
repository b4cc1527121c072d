"""Empty a test database, or fill an empty database with the rows of a dump."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Final

import psycopg
from sqlalchemy import Connection, Engine, text

from cogni_billing.adapters.postgres.operations.administration import (
    administrative_transaction,
    run,
)
from cogni_billing.adapters.postgres.operations.blueprint import LEDGER, SEQUENCE
from cogni_billing.adapters.postgres.operations.provisioning import Provision, require_migrator
from cogni_billing.adapters.postgres.schema import SCHEMA
from cogni_billing.domain.errors import InvalidInput, PrivilegeRequired, shown

_TABLES: Final = tuple(f"{SCHEMA}.{table}" for table in LEDGER)


def reset(migrator_engine: Engine) -> None:
    """Empty every table and seed the system tenant again, in one transaction. For tests.

    Args:
        migrator_engine: Connects as the migrator role.

    Raises:
        PrivilegeRequired: the database is not marked as a test database
            (`provision(..., test_database=True)`), or the role does not own the tables.
        LedgerUnavailable: the database is not provisioned, or cannot be reached.
    """
    with administrative_transaction(migrator_engine) as connection:
        if not Provision.read(connection).test_database:
            raise PrivilegeRequired("emptying a database that is not marked as a test database")
        # One round trip, because a suite resets before each test.
        statements = (
            _each("DISABLE TRIGGER append_only"),
            _EMPTYING,
            _each("ENABLE TRIGGER append_only"),
            f"SELECT {SCHEMA}.seed_system_tenant()",
        )
        run(connection, "; ".join(statements))


def restore(migrator_engine: Engine, dump: Iterable[str]) -> int:
    """Fill an empty ledger with the rows of a dump, in one transaction. Returns the number of rows.

    The dump holds only rows, as text, of the same revision. The service role writes it: `pg_dump
    --data-only --enable-row-security -n cogni_billing -T cogni_billing.context_keys`. From a dump
    of the whole database `pg_restore --data-only -n cogni_billing -f FILE` extracts it. Signing
    keys are not restored: give them to `sign_contexts`.

    Args:
        migrator_engine: Connects as the migrator role.
        dump: The lines of the dump, such as an open file.

    Raises:
        InvalidInput: the dump is incomplete, has no row, or contains other statements.
        PrivilegeRequired: it connects as another role, or the ledger has transactions.
        LedgerUnavailable: the database is not provisioned and migrated, or cannot be reached.
    """
    with administrative_transaction(migrator_engine) as connection:
        require_migrator(connection, Provision.read(connection).roles)
        run(connection, _each("DISABLE TRIGGER USER, NO FORCE ROW LEVEL SECURITY"))
        if connection.execute(_IN_USE).scalar_one():
            raise PrivilegeRequired("restoring into a ledger that has transactions")
        run(connection, _EMPTYING)
        rows = _filled(connection, iter(dump))
        if not rows:  # every ledger has the system tenant's wallet
            raise InvalidInput("dump", "one without rows", "a dump by a role that sees every row")
        run(connection, _each("ENABLE TRIGGER USER, FORCE ROW LEVEL SECURITY"))
        return rows


def _filled(connection: Connection, lines: Iterator[str]) -> int:
    """Copy the rows of each table, and set the sequence. No other statement of the dump runs."""
    driver = connection.connection.driver_connection
    assert isinstance(driver, psycopg.Connection)  # by its dialect
    rows = 0
    missing = {*LEDGER, SEQUENCE, _END}
    with driver.cursor() as cursor:
        for line in lines:
            if (begun := _COPY.match(line)) and begun["table"] in missing:
                with cursor.copy(begun["statement"]) as copy:
                    for row in _rows(lines):
                        copy.write(row)
                        rows += 1
                missing.remove(begun["table"])
            elif begun and begun["table"] == "context_keys":
                deque(_rows(lines), maxlen=0)
            elif found := _POSITION.match(line):
                cursor.execute(_SET_POSITION, (found["value"], found["called"]))
                missing.discard(SEQUENCE)
            elif line.startswith(_END):
                missing.discard(_END)
            elif not line.startswith(_IGNORED):
                raise InvalidInput("dump", shown(line), "the rows of the ledger's tables alone")
    if missing:
        raise InvalidInput("dump", f"one without {min(missing)}", "a complete dump")
    return rows


def _rows(lines: Iterator[str]) -> Iterator[str]:
    """Yield the rows of the COPY that was read last."""
    return iter(lambda: next(lines, _END_OF_ROWS), _END_OF_ROWS)


def _each(action: str) -> str:
    return "; ".join(f"ALTER TABLE {table} {action}" for table in _TABLES)


_EMPTYING: Final = f"TRUNCATE {', '.join(_TABLES)} RESTART IDENTITY"
_IN_USE: Final = text("SELECT EXISTS (SELECT FROM cogni_billing.transactions)")
_END: Final = "-- PostgreSQL database dump complete"
_END_OF_ROWS: Final = "\\.\n"
_IGNORED: Final = (
    "--",
    "\n",
    "SET ",
    "SELECT pg_catalog.set_config(",
    "\\restrict",
    "\\unrestrict",
)
_COPY: Final = re.compile(
    rf"(?P<statement>COPY {SCHEMA}\.(?P<table>\w+) \([\w\s,\"]+\) FROM stdin);$"
)
_POSITION: Final = re.compile(
    rf"SELECT pg_catalog\.setval\('{SCHEMA}\.{SEQUENCE}',"
    r" (?P<value>\d+), (?P<called>true|false)\);$"
)
_SET_POSITION: Final = f"SELECT pg_catalog.setval('{SCHEMA}.{SEQUENCE}', %s::bigint, %s::boolean)"
