"""Engine to scope: one database transaction for each, bound to one tenant."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, TypeVar

from attrs import frozen
from psycopg import Connection as DriverConnection
from psycopg.pq import TransactionStatus
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError

from cogni_billing.adapters.guard import ScopeGuard
from cogni_billing.adapters.postgres import statements
from cogni_billing.adapters.postgres.failures import DISTURBED, commit_translation, translated
from cogni_billing.adapters.postgres.repositories import PostgresLedger, PostgresTenants
from cogni_billing.adapters.system import SystemClock, Uuid7Source
from cogni_billing.domain.errors import (
    InvalidInput,
    LedgerUnavailable,
    ScopeClosed,
    shown,
)
from cogni_billing.domain.identity import TenantId, tenant_id

ATTEMPTS_MAX: Final = 5
_PAUSE_MAX_S: Final = 0.01

Result = TypeVar("Result")


@frozen
class PostgresScope:
    """One open unit of work on a connection of its own."""

    tenants: PostgresTenants
    ledger: PostgresLedger


class PostgresUnitOfWork:
    """A ledger in PostgreSQL, under row-level security. Safe to share between threads.

    Args:
        engine: A SQLAlchemy engine on psycopg 3 that connects as `app_user`, with a pool of the
            host's choosing. Behind a transaction-mode pooler create it with
            `connect_args={"prepare_threshold": None}`.

    Raises:
        InvalidInput: *engine* is something else.
    """

    def __init__(self, engine: Engine) -> None:
        if not isinstance(engine, Engine) or engine.dialect.driver != "psycopg":
            raise InvalidInput("engine", shown(engine), "an Engine on postgresql+psycopg")
        self.clock = SystemClock()
        self.ids = Uuid7Source()
        self._engine = engine

    @contextmanager
    def scope(self, tenant: TenantId, /) -> Iterator[PostgresScope]:
        """One transaction: the context is set first, and dies with it."""
        owner = tenant_id(tenant)
        with self._connected() as connection:
            guard = ScopeGuard()
            try:
                with translated():
                    connection.execute(statements.SET_CONTEXT, {"tenant": str(owner)})
                    _require_transaction(connection)
                yield PostgresScope(
                    PostgresTenants(connection, owner, guard),
                    PostgresLedger(connection, owner, guard),
                )
                guard.require_open()
                _commit(connection)
            finally:
                guard.close()

    def run(self, tenant: TenantId, work: Callable[[PostgresScope], Result], /) -> Result:
        """Do *work* in a scope; up to five times where other transactions disturb it."""
        attempt = 1
        while True:
            try:
                with self.scope(tenant) as scope:
                    return work(scope)
            except LedgerUnavailable as error:
                if error.sqlstate not in DISTURBED or attempt == ATTEMPTS_MAX:
                    raise
            # Jitter, so that those who met do not meet again.
            time.sleep(random.uniform(0, _PAUSE_MAX_S * 2**attempt))  # noqa: S311
            attempt += 1

    @contextmanager
    def _connected(self) -> Iterator[Connection]:
        """A connection whose work is rolled back unless it was committed."""
        with translated():
            connection = self._engine.connect()
        try:
            yield connection
        finally:
            _give_back(connection)


def _give_back(connection: Connection) -> None:
    try:
        connection.rollback()
    except SQLAlchemyError:
        # The line is gone, so the server rolls back by itself. The failure that led here is what
        # the caller must see, not this one; and nobody must get this connection again.
        connection.invalidate()
    connection.close()


def _require_transaction(connection: Connection) -> None:
    if _status(connection) is not TransactionStatus.INTRANS:
        raise LedgerUnavailable("the engine autocommits; a scope needs a transaction")


def _commit(connection: Connection) -> None:
    # COMMIT of an aborted transaction rolls back and reports success, in every driver layer here.
    status = _status(connection)
    if status is TransactionStatus.UNKNOWN:
        raise LedgerUnavailable("the connection was lost before COMMIT")
    if status is not TransactionStatus.INTRANS:
        raise ScopeClosed("a statement in it failed, so nothing of it is kept")
    try:
        connection.commit()
    except SQLAlchemyError as error:
        raise commit_translation(error) from error


def _status(connection: Connection) -> TransactionStatus:
    driver = connection.connection.driver_connection
    assert isinstance(driver, DriverConnection)  # the constructor saw to it
    return driver.info.transaction_status
