"""One transaction for administrative work, whatever the engine's defaults."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Connection, Engine, TextClause, text

from cogni_billing.adapters.postgres.connections import NEUTRAL, checked_engine, own_cursors
from cogni_billing.adapters.postgres.failures import connecting, translated


@contextmanager
def administrative_transaction(engine: Engine) -> Iterator[Connection]:
    """A connection in a transaction, even on an engine that is set to autocommit.

    A tenant context set outside a transaction is lost at once, and half a migration is none.

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
    """A transaction on *connection*, which the host's settings and adapters do not affect."""
    with translated(), own_cursors(connection):
        connection.execution_options(isolation_level="READ COMMITTED")
        with connection.begin():
            connection.execute(NEUTRAL)
            yield


def plain(sql: str) -> TextClause:
    """*sql* as it stands: a colon in it begins no parameter."""
    return text(sql.replace(":", "\\:"))


def run(connection: Connection, *statements: str) -> None:
    """Run statements, or whole files of them, without parameters."""
    for statement in statements:
        connection.execute(plain(statement))
