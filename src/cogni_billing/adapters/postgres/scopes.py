"""One unit of work on an open connection: a transaction of its own, or a savepoint in the host's.

Both set the tenant first, keep the work only when all of it went well, and leave no tenant behind.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from attrs import frozen
from psycopg import AsyncConnection as AsyncDriverConnection
from psycopg import Connection as DriverConnection
from psycopg.pq import TransactionStatus
from sqlalchemy import Connection, NestedTransaction
from sqlalchemy.exc import SQLAlchemyError

from cogni_billing.adapters.guard import ScopeGuard
from cogni_billing.adapters.postgres.attempts import PostgresAttempts
from cogni_billing.adapters.postgres.books import PostgresBooks
from cogni_billing.adapters.postgres.contexts import Before, Context
from cogni_billing.adapters.postgres.failures import commit_translation, translated
from cogni_billing.adapters.postgres.repositories import PostgresLedger
from cogni_billing.adapters.postgres.tenants import PostgresTenants
from cogni_billing.domain.errors import InvalidInput, LedgerUnavailable, ScopeClosed, shown
from cogni_billing.domain.identity import TenantId


@frozen
class PostgresScope:
    """One open unit of work; its books open for the service role only."""

    tenants: PostgresTenants
    ledger: PostgresLedger
    attempts: PostgresAttempts
    books: PostgresBooks


@contextmanager
def transaction(
    connection: Connection, tenant: TenantId, context: Context
) -> Iterator[PostgresScope]:
    """A scope that is one transaction, committed when the block ends well."""
    try:
        with translated():
            context.set(connection, tenant)
        if _status(connection) is not TransactionStatus.INTRANS:
            raise LedgerUnavailable("the engine autocommits; a scope needs a transaction")
        with _scope(connection, tenant) as scope:
            yield scope
        _require_sound(connection)
        _commit(connection)
    finally:
        _roll_back(connection)


@contextmanager
def savepoint(
    connection: Connection, tenant: TenantId, context: Context
) -> Iterator[PostgresScope]:
    """A scope inside the transaction that its host has open; the host commits, or does not.

    Raises:
        InvalidInput: there is no transaction open.
    """
    require_open_transaction(connection)
    with translated():
        before = Before.read(connection)
        nested = connection.begin_nested()
    try:
        with translated():
            context.set(connection, tenant)
        with _scope(connection, tenant) as scope:
            yield scope
        _require_sound(connection)
        with translated():
            # Releasing a savepoint keeps what was set in it; rolling back to one does not.
            before.restore(connection)
            _release(connection, nested)
    finally:
        _roll_back_to(nested)


def require_open_transaction(connection: object) -> None:
    """Return when *connection* is one of SQLAlchemy's, on psycopg 3, with a transaction open.

    Raises:
        InvalidInput: it is not.
        LedgerUnavailable: it was lost.
    """
    expected = "a Connection on postgresql+psycopg, in an open transaction"
    if not isinstance(connection, Connection) or connection.dialect.driver not in DRIVERS:
        raise InvalidInput("connection", shown(connection), expected)
    if connection.invalidated:
        raise LedgerUnavailable("the host's connection was lost, and its transaction with it")
    if connection.closed or not connection.in_transaction():
        raise InvalidInput("connection", "no open transaction", expected)
    if _driver_connection(connection).autocommit:
        raise InvalidInput("connection", "one that autocommits", expected)


DRIVERS = frozenset({"psycopg", "psycopg_async"})


@contextmanager
def _scope(connection: Connection, tenant: TenantId) -> Iterator[PostgresScope]:
    guard = ScopeGuard()
    try:
        yield PostgresScope(
            PostgresTenants(connection, tenant, guard),
            PostgresLedger(connection, tenant, guard),
            PostgresAttempts(connection, tenant, guard),
            PostgresBooks(connection, guard),
        )
        guard.require_open()
    finally:
        guard.close()


def _require_sound(connection: Connection) -> None:
    # COMMIT of an aborted transaction rolls back and reports success, in every driver layer here.
    status = _status(connection)
    if status is TransactionStatus.UNKNOWN:
        raise LedgerUnavailable("the connection was lost before COMMIT")
    if status is not TransactionStatus.INTRANS:
        raise ScopeClosed("a statement in it failed, so nothing of it is kept")


def _commit(connection: Connection) -> None:
    try:
        connection.commit()
    except SQLAlchemyError as error:
        raise commit_translation(error) from error
    finally:
        # SQLAlchemy sends no ROLLBACK after a COMMIT that raised: nobody must get this connection
        # again, whatever the pool does with those that come back.
        if not connection.invalidated and _status(connection) is not TransactionStatus.IDLE:
            connection.invalidate()


def _release(connection: Connection, nested: NestedTransaction) -> None:
    try:
        nested.commit()
    except BaseException:
        # Nor does it roll back to a savepoint whose release raised: the host must not commit that.
        connection.invalidate()
        raise


def _roll_back(connection: Connection) -> None:
    """Undo what was not committed."""
    with _for_good(connection):
        connection.rollback()


def _roll_back_to(nested: NestedTransaction) -> None:
    """Undo what was not released; the tenant that was set before is there again, too."""
    if nested.is_active:
        with _for_good(nested.connection):
            nested.rollback()


@contextmanager
def _for_good(connection: Connection) -> Iterator[None]:
    """Where undoing breaks off, the line is cut, and the server undoes it by itself: nobody gets
    this connection again, and a host meets it broken at its next statement.
    """
    try:
        yield
    except SQLAlchemyError:
        # The failure that led here is what the caller must see, not this one.
        connection.invalidate()
    except BaseException:
        connection.invalidate()
        raise


def _status(connection: Connection) -> TransactionStatus:
    if connection.invalidated:
        return TransactionStatus.UNKNOWN
    return _driver_connection(connection).info.transaction_status


def _driver_connection(connection: Connection) -> DriverConnection | AsyncDriverConnection:
    driver = connection.connection.driver_connection
    assert isinstance(driver, (DriverConnection, AsyncDriverConnection))  # the dialect's
    return driver
