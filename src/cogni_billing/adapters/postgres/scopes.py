"""One unit of work on an open connection: a transaction of its own, or a savepoint in the host's.

Both keep the work only if all of it succeeded, and leave no tenant behind.
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
from cogni_billing.adapters.postgres.calls import Calls, calls_on
from cogni_billing.adapters.postgres.connections import DRIVERS, drop_if_read_only
from cogni_billing.adapters.postgres.contexts import Before, Context
from cogni_billing.adapters.postgres.failures import commit_translation, translated
from cogni_billing.adapters.postgres.repositories import PostgresLedger
from cogni_billing.adapters.postgres.tenants import PostgresTenants
from cogni_billing.domain.errors import InvalidInput, LedgerUnavailable, ScopeClosed, shown
from cogni_billing.domain.identity import TenantId


@frozen
class PostgresScope:
    """One open unit of work."""

    tenants: PostgresTenants
    ledger: PostgresLedger
    attempts: PostgresAttempts


@frozen
class PostgresServiceScope(PostgresScope):
    """The same, with the books of all tenants, which open for the service role only."""

    books: PostgresBooks


@contextmanager
def transaction(
    connection: Connection, tenant: TenantId, context: Context
) -> Iterator[PostgresServiceScope]:
    """A scope that is one transaction, committed when the block ends well."""
    guard = ScopeGuard()
    try:
        with translated():
            autocommits = _driver_connection(connection).autocommit
        if autocommits:
            raise LedgerUnavailable("the engine autocommits; a scope needs a transaction")
        with _scope(calls_on(connection, context), tenant, connection, guard) as scope:
            yield scope
        _require_sound(connection, guard)
        _commit(connection)
    except LedgerUnavailable as error:
        drop_if_read_only(connection, error)
        raise
    finally:
        _roll_back(connection)


@contextmanager
def savepoint(
    connection: Connection, tenant: TenantId, context: Context
) -> Iterator[PostgresServiceScope]:
    """A scope inside the transaction that its host has open; the host commits, or does not.

    Raises:
        InvalidInput: there is no transaction open.
    """
    require_open_transaction(connection)
    with translated():
        before = Before.read(connection)
        nested = connection.begin_nested()
    guard = ScopeGuard()
    try:
        with _scope(calls_on(connection, context), tenant, connection, guard) as scope:
            yield scope
        _require_sound(connection, guard)
        with translated():
            # Releasing a savepoint keeps the settings made in it. Rolling back to it does not.
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


@contextmanager
def single_call(calls: Calls, tenant: TenantId) -> Iterator[PostgresScope]:
    """A scope of one call, which is a transaction of its own."""
    with _open(calls, tenant, ScopeGuard(calls=1)) as scope:
        yield scope


@contextmanager
def _scope(
    calls: Calls, tenant: TenantId, connection: Connection, guard: ScopeGuard
) -> Iterator[PostgresServiceScope]:
    with _open(calls, tenant, guard) as scope:
        books = PostgresBooks(connection, calls, tenant, guard)
        yield PostgresServiceScope(scope.tenants, scope.ledger, scope.attempts, books)


@contextmanager
def _open(calls: Calls, tenant: TenantId, guard: ScopeGuard) -> Iterator[PostgresScope]:
    try:
        yield PostgresScope(
            PostgresTenants(calls, tenant, guard),
            PostgresLedger(calls, tenant, guard),
            PostgresAttempts(calls, tenant, guard),
        )
        guard.require_open()
    finally:
        guard.close()


def _require_sound(connection: Connection, guard: ScopeGuard) -> None:
    # COMMIT of an aborted transaction rolls back and reports success, in every driver layer here.
    status = _status(connection)
    if status is TransactionStatus.IDLE and not guard.is_used:
        return
    if status is TransactionStatus.UNKNOWN:
        raise LedgerUnavailable("the connection was lost before COMMIT")
    if status is not TransactionStatus.INTRANS:
        raise ScopeClosed("a statement in it failed or ended it, so it is not kept as a whole")


def _commit(connection: Connection) -> None:
    try:
        connection.commit()
    except SQLAlchemyError as error:
        raise commit_translation(error) from error
    finally:
        # SQLAlchemy sends no ROLLBACK after a COMMIT that raised: the pool must not reuse the
        # connection, even if it resets none.
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
    """Roll back uncommitted work."""
    with _for_good(connection):
        connection.rollback()


def _roll_back_to(nested: NestedTransaction) -> None:
    """Roll back to the savepoint, which also restores the tenant that was set before."""
    if nested.is_active:
        with _for_good(nested.connection):
            nested.rollback()


@contextmanager
def _for_good(connection: Connection) -> Iterator[None]:
    """Invalidate the connection if a rollback fails. The server rolls back by itself, and a host
    gets an error at its next statement.
    """
    try:
        yield
    except SQLAlchemyError:
        # The caller must see the failure that led here, not this one.
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
