"""Open transactions of a host, on SQLAlchemy with psycopg 3 or on psycopg 3 alone."""

from __future__ import annotations

import inspect
import threading
import weakref
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import psycopg
from attrs import frozen
from psycopg.pq import PipelineStatus, TransactionStatus
from sqlalchemy import Connection, NestedTransaction
from sqlalchemy.util import await_only

from cogni_billing.adapters.postgres.connections import (
    DRIVERS,
    DriverConnection,
    driver_connection,
    own_cursor,
    run_in_transaction,
)
from cogni_billing.adapters.postgres.failures import translated
from cogni_billing.adapters.postgres.scopes import for_good, status_of
from cogni_billing.domain.errors import InvalidInput, LedgerUnavailable, shown

EXPECTED: Final = (
    "a connection of psycopg 3, or of SQLAlchemy on postgresql+psycopg, in an open transaction"
)


class HostConnection(ABC):
    """Runs statements in a host's transaction, and opens savepoints in it."""

    @abstractmethod
    def require_open_transaction(self) -> None:
        """Validate that a transaction is open.

        Raises:
            InvalidInput: no transaction is open, or the connection autocommits.
            LedgerUnavailable: the connection was lost.
        """

    @abstractmethod
    def execute(
        self, statement: str, parameters: tuple[object, ...], *, prepare: bool | None = None
    ) -> str:
        """Run *statement*, and return its only value. *prepare* is psycopg's option."""

    @property
    @abstractmethod
    def status(self) -> TransactionStatus:
        """The state of the connection's transaction. UNKNOWN if the connection was lost."""

    @abstractmethod
    @contextmanager
    def savepoint(self) -> Iterator[None]:
        """Open a savepoint, released if the block succeeds and rolled back otherwise.

        If the savepoint cannot be ended, the connection is closed: the host must not commit a call
        that raised.
        """

    @abstractmethod
    @contextmanager
    def used(self) -> Iterator[None]:
        """Reserve the connection for one scope.

        Raises:
            InvalidInput: another scope is using it.
        """


def host_connection(given: object) -> HostConnection:
    """Wrap *given* as a host's connection.

    Raises:
        InvalidInput: *given* is no connection, is of another driver, or has no open transaction.
        LedgerUnavailable: the connection was lost.
    """
    host: HostConnection
    if isinstance(given, Connection) and given.dialect.driver in DRIVERS:
        host = _SqlAlchemyConnection(given)
    elif isinstance(given, (psycopg.Connection, psycopg.AsyncConnection)):
        host = _DriverConnection(given)
    else:
        raise InvalidInput("connection", shown(given), EXPECTED)
    host.require_open_transaction()
    return host


def _require_encoding(driver: DriverConnection) -> None:
    if driver.info.encoding == "ascii":  # psycopg's name of SQL_ASCII, in which it returns bytes
        raise InvalidInput("connection", "client_encoding=SQL_ASCII", "client_encoding=UTF8")


def _lost() -> LedgerUnavailable:
    return LedgerUnavailable("the host's connection was lost, and its transaction with it")


@frozen
class _SqlAlchemyConnection(HostConnection):
    _connection: Connection

    def require_open_transaction(self) -> None:
        if self._connection.invalidated:
            raise _lost()
        if self._connection.closed or not self._connection.in_transaction():
            raise InvalidInput("connection", "no open transaction", EXPECTED)
        driver = driver_connection(self._connection)
        if driver.autocommit:
            raise InvalidInput("connection", "one that autocommits", EXPECTED)
        _require_encoding(driver)

    def execute(
        self, statement: str, parameters: tuple[object, ...], *, prepare: bool | None = None
    ) -> str:
        return run_in_transaction(self._connection, statement, parameters, prepare=prepare)

    @property
    def status(self) -> TransactionStatus:
        return status_of(self._connection)

    @contextmanager
    def savepoint(self) -> Iterator[None]:
        with translated():
            nested = self._connection.begin_nested()
        try:
            yield
            with translated():
                self._release(nested)
        finally:
            if nested.is_active:
                with for_good(self._connection):
                    nested.rollback()

    @contextmanager
    def used(self) -> Iterator[None]:
        yield  # SQLAlchemy detects savepoints that overlap

    def _release(self, nested: NestedTransaction) -> None:
        try:
            nested.commit()
        except BaseException:
            # SQLAlchemy does not roll back to a savepoint whose release raised.
            self._connection.invalidate()
            raise


@frozen
class _DriverConnection(HostConnection):
    """Wraps a psycopg connection. An async one is awaited in the greenlet of the call."""

    _connection: DriverConnection

    def require_open_transaction(self) -> None:
        if self._connection.closed:
            raise _lost()
        if self._connection.pgconn.pipeline_status != PipelineStatus.OFF:
            # An error of the host's earlier statement would surface in a call of the ledger.
            raise InvalidInput("connection", "one in pipeline mode", EXPECTED)
        # Without autocommit the driver begins a transaction with its next statement.
        if self._connection.autocommit and self.status is TransactionStatus.IDLE:
            raise InvalidInput("connection", "no open transaction", EXPECTED)
        _require_encoding(self._connection)

    def execute(
        self, statement: str, parameters: tuple[object, ...], *, prepare: bool | None = None
    ) -> str:
        cursor = own_cursor(self._connection)
        _now(cursor.execute(statement, parameters, prepare=prepare))
        row = _now(cursor.fetchone())
        found: str = row[0]
        return found

    @property
    def status(self) -> TransactionStatus:
        return self._connection.info.transaction_status

    @contextmanager
    def savepoint(self) -> Iterator[None]:
        with translated():
            self._run("SAVEPOINT cogni_billing")
        released = False
        try:
            yield
            with translated():
                self._run("RELEASE SAVEPOINT cogni_billing")
            released = True
        finally:
            if not released:
                self._roll_back()

    def _roll_back(self) -> None:
        try:
            self._run("ROLLBACK TO SAVEPOINT cogni_billing")
            self._run("RELEASE SAVEPOINT cogni_billing")
        except psycopg.Error:
            # The caller must see the first failure, not this one.
            _now(self._connection.close())
        except BaseException:
            _now(self._connection.close())
            raise

    def _run(self, statement: str) -> None:
        _now(own_cursor(self._connection).execute(statement))

    @contextmanager
    def used(self) -> Iterator[None]:
        with _LOCK:
            if self._connection in _IN_USE:
                raise InvalidInput("connection", "one that another call is using", EXPECTED)
            _IN_USE.add(self._connection)
        try:
            yield
        except Exception:
            raise
        except BaseException:
            # The call was cancelled or interrupted. Its statement may still be running.
            _now(self._connection.close())
            raise
        finally:
            _IN_USE.discard(self._connection)


_LOCK: Final = threading.Lock()
_IN_USE: Final[weakref.WeakSet[DriverConnection]] = weakref.WeakSet()
"""Connections in use. Calls must not overlap: savepoints end in the order of a stack."""


def _now(result: Any) -> Any:
    """Return the result of a psycopg call, awaited if the call is async."""
    return await_only(result) if inspect.isawaitable(result) else result
