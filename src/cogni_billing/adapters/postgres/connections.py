"""Connections of an engine: run single statements, and survive forks and lost connections."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from functools import lru_cache
from typing import Any, Final, TypeAlias, cast

import psycopg
from psycopg.adapt import AdaptersMap
from psycopg.postgres import register_default_adapters, register_default_types
from psycopg.pq import TransactionStatus
from psycopg.rows import tuple_row
from psycopg.types import TypesRegistry
from psycopg.types.array import register_all_arrays
from sqlalchemy import (
    URL,
    Connection,
    Engine,
    PoolProxiedConnection,
    StaticPool,
    event,
    make_url,
    text,
)
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import ArgumentError
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.pool import ConnectionPoolEntry, PoolResetState, SingletonThreadPool

from cogni_billing.adapters.postgres.failures import (
    READ_ONLY,
    commit_translation,
    connecting,
    translation,
)
from cogni_billing.domain.errors import InvalidInput, LedgerUnavailable, shown

DriverConnection: TypeAlias = psycopg.Connection[Any] | psycopg.AsyncConnection[Any]

DRIVERS: Final = frozenset({"psycopg", "psycopg_async"})
URL_SHAPE: Final = "postgresql://role@host/database"
_PARAMSTYLES: Final = frozenset({"format", "pyformat"})

NEUTRAL: Final = text(
    "SET LOCAL search_path = pg_catalog, pg_temp; SET LOCAL datestyle = 'ISO';"
    " SET LOCAL timezone = 'UTC'; SET LOCAL quote_all_identifiers = off;"
    " SET LOCAL standard_conforming_strings = on; SET LOCAL array_nulls = on;"
    " SET LOCAL transform_null_equals = off; SET LOCAL row_security = on"
)
"""Session settings for statements of administration and reports, until the transaction ends.

They fix the meaning of a statement and the text of a value. Function calls do not need them:
they exchange JSON, and the functions have settings of their own.
"""

_engines: weakref.WeakSet[Engine] = weakref.WeakSet()


def after_fork(renew: Callable[[], None]) -> None:
    """Call *renew* in each forked child, before it has a second thread. Windows has no fork."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=renew)


def _drop_inherited() -> None:
    """Drop the connections that a forked process shares with its parent, without closing them."""
    for engine in _engines:
        engine.dispose(close=False)


after_fork(_drop_inherited)


def checked_engine(field: str, given: object, kind: type[Any], **options: object) -> Any:
    """Validate *given* as an engine of *kind* on psycopg 3, and prepare it.

    The returned engine is safe to use after a fork, and its statements do not use server-side
    cursors. *options* are more execution options.

    Raises:
        InvalidInput: *given* is no such engine, its concurrent callers share connections, or it has
            another style of parameters.
    """
    expected = f"an {kind.__name__} on postgresql+psycopg"
    if not isinstance(given, kind):
        raise InvalidInput(field, shown(given), expected)
    if given.dialect.driver not in DRIVERS:
        raise InvalidInput(field, f"one on {given.dialect.name}+{given.dialect.driver}", expected)
    if isinstance(given.pool, (StaticPool, SingletonThreadPool)):
        pool = type(given.pool).__name__
        raise InvalidInput(field, f"poolclass={pool}", "a poolclass such as QueuePool or NullPool")
    if (style := given.dialect.paramstyle) not in _PARAMSTYLES:
        raise InvalidInput(field, f"paramstyle={style!r}", "the paramstyle of psycopg, 'pyformat'")
    _engines.add(given.sync_engine if isinstance(given, AsyncEngine) else given)
    return given.execution_options(stream_results=False, yield_per=None, **options)


def checked_url(field: str, given: str | URL) -> URL:
    """Parse the URL of a database, for SQLAlchemy on psycopg 3.

    Raises:
        InvalidInput: *given* is no URL, or names another kind of database. The error does not show
            the URL, which may contain a password.
    """
    try:
        url = make_url(given)
    except (ArgumentError, ValueError):
        raise InvalidInput(field, "something else", URL_SHAPE) from None
    if (backend := url.get_backend_name()) not in {"postgresql", "postgres"}:
        raise InvalidInput(field, f"one of {shown(backend)}", URL_SHAPE)
    return url.set(drivername="postgresql+psycopg")


class _OwnAdapters:
    """Convert values with psycopg's default adapters, not with those that the host registered."""

    __slots__ = ()

    @property
    def adapters(self) -> AdaptersMap:
        return _ADAPTERS


@lru_cache(maxsize=64)
def _own(given: object, default: type[Any]) -> Any:
    """Return the host's class of cursors, with default adapters.

    Returns *default* if the host set a function, or a class with another style of parameters, or
    one that puts parameters into the text of the statement, where other sessions can read a proof.
    """
    raw = (psycopg.RawCursor, psycopg.AsyncRawCursor, psycopg.RawServerCursor)
    client = (psycopg.ClientCursor, psycopg.AsyncClientCursor, psycopg.AsyncRawServerCursor)
    if not isinstance(given, type) or issubclass(given, (*raw, *client)):
        given = default
    if issubclass(given, _OwnAdapters):
        return given
    return type(given.__name__, (_OwnAdapters, given), {"__slots__": ()})


def _default_adapters() -> AdaptersMap:
    types = TypesRegistry()
    register_default_types(types)
    adapters = AdaptersMap(types=types)
    register_default_adapters(adapters)
    register_all_arrays(adapters)
    return adapters


_ADAPTERS: Final = _default_adapters()


def own_cursor(driver: DriverConnection) -> Any:
    """Open a cursor with tuples for rows and default adapters, not with the host's factories."""
    given: Any = driver.cursor_factory
    is_async = isinstance(driver, psycopg.AsyncConnection)
    own = _own(given, psycopg.AsyncCursor if is_async else psycopg.Cursor)
    return own(driver, row_factory=tuple_row)


@contextmanager
def own_cursors(connection: Connection) -> Iterator[None]:
    """Make SQLAlchemy use cursors like `own_cursor` on *connection* inside the block."""
    driver: Any = driver_connection(connection)
    before = driver.cursor_factory, driver.server_cursor_factory, driver.row_factory
    is_async = isinstance(driver, psycopg.AsyncConnection)
    driver.cursor_factory = _own(before[0], psycopg.AsyncCursor if is_async else psycopg.Cursor)
    driver.server_cursor_factory = _own(
        before[1], psycopg.AsyncServerCursor if is_async else psycopg.ServerCursor
    )
    driver.row_factory = tuple_row
    try:
        yield
    finally:
        driver.cursor_factory, driver.server_cursor_factory, driver.row_factory = before


def driver_connection(connection: Connection) -> DriverConnection:
    """Return the psycopg connection behind SQLAlchemy's."""
    driver = connection.connection.driver_connection
    assert isinstance(driver, (psycopg.Connection, psycopg.AsyncConnection))  # by its dialect
    return driver


def reset_connections(engine: Engine | AsyncEngine) -> None:
    """Run `DISCARD ALL` on each connection that goes back to the pool of *engine*.

    Settings, temporary tables, listeners, advisory locks, cursors, plans and prepared statements
    that a request left on a connection do not reach the next request. A connection that cannot be
    reset is closed. The engine stops preparing statements, because each reset would drop them.

    A reset takes a round trip, and the next call plans its statements again. The host's own
    settings survive as startup options (`connect_args={"options": "-c lock_timeout=5s"}`), but not
    as SET.

    Args:
        engine: A sync or async engine on psycopg 3. A second call changes nothing.

    Raises:
        InvalidInput: *engine* is no such engine.
    """
    kind = AsyncEngine if isinstance(engine, AsyncEngine) else Engine
    checked = checked_engine("engine", engine, kind)
    pool = (checked.sync_engine if isinstance(checked, AsyncEngine) else checked).pool
    # `event.contains` compares addresses, and a later engine can have the address of an earlier.
    if _discard not in pool.dispatch.reset:
        event.listen(pool, "reset", _discard)


def _discard(
    connection: DBAPIConnection, record: ConnectionPoolEntry | None, state: PoolResetState
) -> None:
    """Reset a session. SQLAlchemy closes the connection when this raises."""
    if record is None or state.terminate_only or not state.asyncio_safe:
        return  # SQLAlchemy closes the connection next
    driver = record.driver_connection
    assert isinstance(driver, (psycopg.Connection, psycopg.AsyncConnection))  # by its dialect
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
    """Run *statement* in the transaction of *connection*, and return its only value.

    *prepare* is psycopg's option. SQLAlchemy has no such option.
    """
    driver = driver_connection(connection)
    threshold = driver.prepare_threshold
    if prepare is False:
        driver.prepare_threshold = None
    try:
        with own_cursors(connection):
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
    """Run *statement* in one round trip and a transaction of its own. Returns its only value.

    *prepare* is psycopg's option.

    Raises:
        BillingError: the statement failed. `OutcomeUnknown` if the answer was lost.
    """
    with connecting():
        pooled = engine.raw_connection()
    driver = pooled.driver_connection
    assert isinstance(driver, psycopg.Connection)  # by its dialect
    autocommits = driver.autocommit
    sent = reusable = False
    try:
        driver.autocommit = True
        sent = True
        row = own_cursor(driver).execute(statement, parameters, prepare=prepare).fetchone()
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
    """Await `run_statement`. A task that is cancelled during the call loses its connection."""
    async with AsyncExitStack() as stack:
        with connecting():
            connection = await stack.enter_async_context(engine.connect())
            pooled = await connection.get_raw_connection()
        driver = pooled.driver_connection
        assert isinstance(driver, psycopg.AsyncConnection)  # by its dialect
        autocommits = driver.autocommit
        sent = reusable = False
        try:
            await driver.set_autocommit(True)
            sent = True
            cursor = await own_cursor(driver).execute(statement, parameters, prepare=prepare)
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


def _is_reusable(driver: DriverConnection, error: Exception) -> bool:
    """True if the server has answered with an error, and accepts the next statement."""
    idle = driver.info.transaction_status is TransactionStatus.IDLE
    return idle and not _is_read_only(error)


def _has_lost_its_server(driver: DriverConnection, error: Exception) -> bool:
    return driver.closed or _is_read_only(error)


def _is_read_only(error: Exception) -> bool:
    return isinstance(error, psycopg.Error) and error.sqlstate == READ_ONLY


def is_pooled(connection: Connection) -> bool:
    """True if a pooler is between the client and the server."""
    # A pooler invents the process id that it gives its clients.
    serving: int = connection.execute(_BACKEND).scalar_one()
    return driver_connection(connection).info.backend_pid != serving


_BACKEND: Final = text("SELECT pg_backend_pid()")


def drop_if_read_only(connection: Connection, error: LedgerUnavailable) -> None:
    """Discard a connection that a failover left on a read-only server."""
    if error.sqlstate == READ_ONLY and not connection.invalidated:
        _renew(connection.engine, connection.connection)
        connection.invalidate()


def _renew(engine: Engine, lost: PoolProxiedConnection) -> None:
    """Make the pool replace each idle connection that is not newer than *lost*.

    A restart or a failover ends all connections, and a retry must not meet them one by one.
    SQLAlchemy does the same when its own statements lose a connection.
    """
    engine.pool._invalidate(lost, _checkin=False)  # noqa: SLF001 (there is no public way)
