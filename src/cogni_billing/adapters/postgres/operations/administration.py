"""Transactions for administrative work, independent of the engine's defaults."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Connection, Engine, TextClause, text

from cogni_billing.adapters.postgres.connections import NEUTRAL, checked_engine, own_cursors
from cogni_billing.adapters.postgres.failures import connecting, translated


@contextmanager
def administrative_transaction(engine: Engine) -> Iterator[Connection]:
    """Open a connection in a transaction, even on an engine that is set to autocommit.

    A tenant that is set outside a transaction is lost at once, and half a migration is corrupt.

    Raises:
        InvalidInput: *engine* is no engine on psycopg 3.
    """
    checked: Engine = checked_engine("engine", engine, Engine)
    with connecting():
        connection = checked.connect()
    with connection, neutral_transaction(connection):
        yield connection


@contextmanager
def neutral_transaction(connection: Connection) -> Iterator[None]:
    """Open a transaction on *connection* that the host's settings and adapters do not affect."""
    with translated(), own_cursors(connection):
        connection.execution_options(isolation_level="READ COMMITTED")
        with connection.begin():
            connection.execute(NEUTRAL)
            yield


def plain(sql: str) -> TextClause:
    """Return *sql* unchanged: a colon in it does not start a parameter."""
    return text(sql.replace(":", "\\:"))


def run(connection: Connection, *statements: str) -> None:
    """Run statements, or files of statements, without parameters."""
    for statement in statements:
        connection.execute(plain(statement))
