"""Scopes on an open connection, each a transaction of its own.

A scope commits its work only if all of it succeeded, and leaves no tenant set on the connection.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from attrs import frozen
from psycopg.pq import TransactionStatus
from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from cogni_billing.adapters.guard import ScopeGuard
from cogni_billing.adapters.postgres.attempts import PostgresAttempts
from cogni_billing.adapters.postgres.books import PostgresBooks
from cogni_billing.adapters.postgres.calls import Calls, calls_on
from cogni_billing.adapters.postgres.connections import (
    driver_connection,
    drop_if_read_only,
    own_cursors,
)
from cogni_billing.adapters.postgres.contexts import Context
from cogni_billing.adapters.postgres.failures import commit_translation, translated
from cogni_billing.adapters.postgres.inbox import PostgresInbox
from cogni_billing.adapters.postgres.ledger import PostgresLedger
from cogni_billing.adapters.postgres.tenants import PostgresTenants
from cogni_billing.domain.errors import LedgerUnavailable, ScopeClosed
from cogni_billing.domain.identity import TenantId


@frozen
class PostgresScope:
    """An open scope of a tenant."""

    tenants: PostgresTenants
    ledger: PostgresLedger
    attempts: PostgresAttempts


@frozen
class PostgresServiceScope(PostgresScope):
    """A scope with the books of all tenants, for the service role only."""

    books: PostgresBooks
    inbox: PostgresInbox


@contextmanager
def transaction(
    connection: Connection, tenant: TenantId, context: Context
) -> Iterator[PostgresServiceScope]:
    """Open a scope that is a transaction, committed if the block succeeds."""
    guard = ScopeGuard()
    try:
        with translated():
            autocommits = driver_connection(connection).autocommit
        if autocommits:
            raise LedgerUnavailable("the engine autocommits; remove its isolation_level AUTOCOMMIT")
        with (
            own_cursors(connection),
            _scope(calls_on(connection, context), tenant, connection, guard) as scope,
        ):
            yield scope
        require_sound(status_of(connection), guard)
        _commit(connection)
    except LedgerUnavailable as error:
        drop_if_read_only(connection, error)
        raise
    finally:
        _roll_back(connection)


@contextmanager
def single_call(calls: Calls, tenant: TenantId) -> Iterator[PostgresScope]:
    """Open a scope of a single call, which is a transaction of its own."""
    with opened(calls, tenant, ScopeGuard(calls=1)) as scope:
        yield scope


@contextmanager
def _scope(
    calls: Calls, tenant: TenantId, connection: Connection, guard: ScopeGuard
) -> Iterator[PostgresServiceScope]:
    with opened(calls, tenant, guard) as scope:
        books = PostgresBooks(connection, calls, tenant, guard)
        inbox = PostgresInbox(connection, calls, tenant, guard)
        yield PostgresServiceScope(scope.tenants, scope.ledger, scope.attempts, books, inbox)


@contextmanager
def opened(calls: Calls, tenant: TenantId, guard: ScopeGuard) -> Iterator[PostgresScope]:
    """Open a scope over *calls* that closes at the end of the block."""
    try:
        yield PostgresScope(
            PostgresTenants(calls, tenant, guard),
            PostgresLedger(calls, tenant, guard),
            PostgresAttempts(calls, tenant, guard),
        )
        guard.require_open()
    finally:
        guard.close()


def require_sound(status: TransactionStatus, guard: ScopeGuard) -> None:
    """Validate that the work of a scope can be committed.

    COMMIT of an aborted transaction rolls back and reports success, in every driver layer here.

    Raises:
        LedgerUnavailable: the connection was lost.
        ScopeClosed: a statement failed, or ended the transaction.
    """
    if status is TransactionStatus.IDLE and not guard.is_used:
        return
    if status is TransactionStatus.UNKNOWN:
        raise LedgerUnavailable("the connection was lost before COMMIT")
    if status is not TransactionStatus.INTRANS:
        raise ScopeClosed("a statement failed or ended the transaction; repeat the whole scope")


def _commit(connection: Connection) -> None:
    try:
        connection.commit()
    except SQLAlchemyError as error:
        raise commit_translation(error) from error
    finally:
        # SQLAlchemy sends no ROLLBACK after a COMMIT that raised. The pool must not reuse the
        # connection, even if the pool resets none.
        if not connection.invalidated and status_of(connection) is not TransactionStatus.IDLE:
            connection.invalidate()


def _roll_back(connection: Connection) -> None:
    """Roll back uncommitted work."""
    with for_good(connection):
        connection.rollback()


@contextmanager
def for_good(connection: Connection) -> Iterator[None]:
    """Invalidate the connection if a rollback fails.

    The server rolls back by itself, and a host gets an error at its next statement.
    """
    try:
        yield
    except SQLAlchemyError:
        # The caller must see the first failure, not this one.
        connection.invalidate()
    except BaseException:
        connection.invalidate()
        raise


def status_of(connection: Connection) -> TransactionStatus:
    """Return the state of the connection's transaction. UNKNOWN if the connection was lost."""
    if connection.invalidated:
        return TransactionStatus.UNKNOWN
    return driver_connection(connection).info.transaction_status
