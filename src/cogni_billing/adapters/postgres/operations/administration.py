"""One transaction for administrative work, whatever the engine's defaults."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Connection, Engine, TextClause, text

from cogni_billing.adapters.postgres.failures import translated


@contextmanager
def administrative_transaction(engine: Engine) -> Iterator[Connection]:
    """A connection in a transaction, even on an engine that is set to autocommit.

    A tenant context set outside a transaction is lost at once, and half a migration is none.
    """
    with translated(), engine.connect() as connection:
        connection.execution_options(isolation_level="READ COMMITTED")
        with connection.begin():
            yield connection


def plain(sql: str) -> TextClause:
    """*sql* as it stands: a colon in it begins no parameter."""
    return text(sql.replace(":", "\\:"))


def run(connection: Connection, *statements: str) -> None:
    """Run statements, or whole files of them, without parameters."""
    for statement in statements:
        connection.execute(plain(statement))
