"""Connections of an engine: one statement at a time, safe after a fork, thrown away when lost."""

from __future__ import annotations

import os
import weakref
from contextlib import AsyncExitStack
from typing import Any, Final, cast

import psycopg
from psycopg import AsyncConnection as AsyncDriverConnection
from psycopg import Connection as DriverConnection
from psycopg.pq import TransactionStatus
from sqlalchemy import Connection, Engine, PoolProxiedConnection, event, text
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.pool import ConnectionPoolEntry, PoolResetState

from cogni_billing.adapters.postgres.failures import (
    READ_ONLY,
    commit_translation,
    translated,
    translation,
)
from cogni_billing.domain.errors import InvalidInput, LedgerUnavailable, shown

DRIVERS: Final = frozenset({"psycopg", "psycopg_async"})

_engines: weakref.WeakSet[Engine] = weakref.WeakSet()


def _drop_inherited() -> None:
    """Drop the connections that a forked process shares with its parent, without closing them."""
    for engine in _engines:
        engine.dispose(close=False)


os.register_at_fork(after_in_child=_drop_inherited)


def checked_engine(field: str, given: object, kind: type[Any]) -> Any:
    """*given*, when it is an engine of this kind on psycopg 3. It is safe to use after a fork.

    Raises:
        InvalidInput: it is something else.
    """
    if not isinstance(given, kind) or given.dialect.driver not in DRIVERS:
        raise InvalidInput(field, shown(given), f"an {kind.__name__} on postgresql+psycopg")
    _engines.add(given.sync_engine if isinstance(given, AsyncEngine) else given)
    return given


def reset_connections(engine: Engine | AsyncEngine) -> None:
    """Run `DISCARD ALL` on each connection that goes back to the pool of *engine*.

    Settings, temporary tables, listeners, advisory locks, cursors, plans and prepared statements
    that one request left on a connection do not reach the next request. A connection that cannot be
    reset is closed. The engine prepares no statements any more: it would lose them at each reset.

    A reset takes a round trip, and the next call plans its statements again. Settings of the host's
    own survive as startup options (`connect_args={"options": "-c lock_timeout=5s"}`), not as SET.

    Args:
        engine: An engine of either kind on psycopg 3. Doing it twice changes nothing.

    Raises:
        InvalidInput: it is something else.
    """
    kind = AsyncEngine if isinstance(engine, AsyncEngine) else Engine
    checked = checked_engine("engine", engine, kind)
    pooled = checked.sync_engine if isinstance(checked, AsyncEngine) else checked
    if not event.contains(pooled, "reset", _discard):
        event.listen(pooled, "reset", _discard)


def _discard(
    connection: DBAPIConnection, record: ConnectionPoolEntry | None, state: PoolResetState
) -> None:
    """Reset a session. SQLAlchemy closes the connection when this raises."""
    if record is None or state.terminate_only or not state.asyncio_safe:
        return  # the connection is about to be closed
    driver = record.driver_connection
    assert isinstance(driver, (DriverConnection, AsyncDriverConnection))  # the dialect's
    # psycopg forgets its prepared statements at some of the resets only.
    driver.prepare_threshold = None
    connection.rollback()
    autocommits = connection.autocommit
    connection.autocommit = True
    cursor = connection.cursor()
    cursor.execute("DISCARD ALL")
    cursor.close()
    connection.autocommit = autocommits


def run_in_transaction(
    connection: Connection,
    statement: str,
    parameters: tuple[object, ...],
    *,
    prepare: bool | None = None,
) -> str:
    """The one value of *statement*, in the transaction of *connection*.

    *prepare* is as psycopg takes it. SQLAlchemy has no such option.
    """
    driver = connection.connection.driver_connection
    assert isinstance(driver, (DriverConnection, AsyncDriverConnection))  # the dialect's
    threshold = driver.prepare_threshold
    if prepare is False:
        driver.prepare_threshold = None
    try:
        found: str = connection.exec_driver_sql(statement, parameters).scalar_one()
        return found
    finally:
        driver.prepare_threshold = threshold


def run_statement(
    engine: Engine,
    statement: str,
    parameters: tuple[object, ...],
    *,
    prepare: bool | None = None,
) -> str:
    """The one value of *statement*, in one round trip and one transaction of its own.

    *prepare* is as psycopg takes it.

    Raises:
        BillingError: it failed; `OutcomeUnknown` where the answer was lost.
    """
    with translated():
        pooled = engine.raw_connection()
    driver = pooled.driver_connection
    assert isinstance(driver, DriverConnection)  # the dialect's
    autocommits = driver.autocommit
    sent = reusable = False
    try:
        driver.autocommit = True
        sent = True
        row = driver.execute(statement, parameters, prepare=prepare).fetchone()
        assert row is not None  # a function call has a row
        reusable = True
        return cast("str", row[0])
    except (psycopg.Error, UnicodeError) as error:
        reusable = _is_reusable(driver, error)
        if _has_lost_its_server(driver, error):
            _renew(engine, pooled)
        raise (commit_translation if sent else translation)(error) from error
    finally:
        if reusable:
            driver.autocommit = autocommits
        else:
            pooled.invalidate()
        pooled.close()


async def run_statement_async(
    engine: AsyncEngine,
    statement: str,
    parameters: tuple[object, ...],
    *,
    prepare: bool | None = None,
) -> str:
    """`run_statement`, awaited. A task that is cancelled meanwhile loses its connection."""
    async with AsyncExitStack() as stack:
        with translated():
            connection = await stack.enter_async_context(engine.connect())
            pooled = await connection.get_raw_connection()
        driver = pooled.driver_connection
        assert isinstance(driver, AsyncDriverConnection)  # the dialect's
        autocommits = driver.autocommit
        sent = reusable = False
        try:
            await driver.set_autocommit(True)
            sent = True
            cursor = await driver.execute(statement, parameters, prepare=prepare)
            row = await cursor.fetchone()
            assert row is not None  # a function call has a row
            reusable = True
            return cast("str", row[0])
        except (psycopg.Error, UnicodeError) as error:
            reusable = _is_reusable(driver, error)
            if _has_lost_its_server(driver, error):
                _renew(engine.sync_engine, pooled)
            raise (commit_translation if sent else translation)(error) from error
        finally:
            if reusable:
                await driver.set_autocommit(autocommits)
            else:
                await connection.invalidate()


def _is_reusable(driver: DriverConnection | AsyncDriverConnection, error: Exception) -> bool:
    """True if the server has answered with an error, and takes the next statement."""
    idle = driver.info.transaction_status is TransactionStatus.IDLE
    return idle and not _is_read_only(error)


def _has_lost_its_server(
    driver: DriverConnection | AsyncDriverConnection, error: Exception
) -> bool:
    return driver.closed or _is_read_only(error)


def _is_read_only(error: Exception) -> bool:
    return isinstance(error, psycopg.Error) and error.sqlstate == READ_ONLY


def is_pooled(connection: Connection) -> bool:
    """True if there is a pooler on the way to the server."""
    driver = connection.connection.driver_connection
    assert isinstance(driver, (DriverConnection, AsyncDriverConnection))  # the dialect's
    # A pooler makes up the number that it gives its clients.
    serving: int = connection.execute(_BACKEND).scalar_one()
    return driver.info.backend_pid != serving


_BACKEND: Final = text("SELECT pg_backend_pid()")


def drop_if_read_only(connection: Connection, error: LedgerUnavailable) -> None:
    """Throw away a connection that a failover left on a read-only server."""
    if error.sqlstate == READ_ONLY and not connection.invalidated:
        _renew(connection.engine, connection.connection)
        connection.invalidate()


def _renew(engine: Engine, lost: PoolProxiedConnection) -> None:
    """Let the pool replace each idle connection that is not newer than *lost*.

    A restart or a failover ends them all, and a retry must not meet them one by one. SQLAlchemy
    does the same when its own statements lose a connection.
    """
    engine.pool._invalidate(lost, _checkin=False)  # noqa: SLF001 (there is no public way)
