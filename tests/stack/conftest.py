"""Databases for tests, on the server of the kit's `billing_database`."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from decimal import Decimal

import pytest
from attrs import frozen
from sqlalchemy import URL, Connection, Engine, create_engine, text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from cogni_billing import AccountId, TenantId
from cogni_billing.adapters.postgres import PostgresUnitOfWork, reset
from cogni_billing.adapters.postgres.operations.sandbox import Sandbox
from cogni_billing.testing import running_loop
from cogni_billing.testing.base import Totals
from stack.support.command import Run


@frozen
class Clone(Sandbox):
    """Another database on the server of a sandbox."""

    of: Sandbox
    name: str

    @property
    def administrator(self) -> URL:
        return self.of.administrator.set(database=self.name)

    def role(self, name: str) -> URL:
        return self.of.role(name).set(database=self.name)


@frozen
class Database:
    """A database that the tests share, with an engine for each role."""

    sandbox: Sandbox
    admin: Engine
    migrator: Engine
    user: Engine
    spender: Engine
    service: Engine

    @contextmanager
    def acting_for(self, tenant: TenantId | str) -> Iterator[Connection]:
        """Open a plain connection of app_user in a transaction with *tenant* set."""
        with self.user.connect() as connection:
            connection.execute(
                text("SELECT set_config('app.current_user_id', :tenant, true)"),
                {"tenant": str(tenant)},
            )
            yield connection

    def totals(self) -> dict[AccountId, Decimal]:
        """Sum each account's postings, read as the administrator."""
        with self.admin.connect() as connection:
            rows = connection.execute(
                text("""
                    SELECT account, sum(amount) FROM (
                        SELECT cogni_billing.account_of(tenant_id) AS account, amount
                        FROM cogni_billing.transactions
                        UNION ALL
                        SELECT account_id, amount FROM cogni_billing.arrivals
                    ) AS posting
                    GROUP BY account
                """)
            )
            return {AccountId(account): amount for account, amount in rows}


@contextmanager
def opened(sandbox: Sandbox, options: str = "") -> Iterator[Database]:
    """Create the engines of a sandbox with *options*, and dispose of them at the end."""
    settings = {"options": options} if options else {}
    engines = [
        create_engine(url, pool_size=20, max_overflow=0, pool_timeout=60, connect_args=settings)
        for url in (
            sandbox.administrator,
            sandbox.role("app_migrator"),
            sandbox.role("app_user"),
            sandbox.role("app_spender"),
            sandbox.role("app_service"),
        )
    ]
    try:
        yield Database(sandbox, *engines)
    finally:
        for engine in engines:
            engine.dispose()


@pytest.fixture(scope="session")
def shared(billing_database: Sandbox) -> Iterator[Database]:
    with opened(billing_database) as database:
        yield database


@pytest.fixture
def database(shared: Database) -> Database:
    """Empty the worker's database."""
    reset(shared.migrator)
    return shared


@pytest.fixture
def unit_of_work(database: Database) -> PostgresUnitOfWork:
    return PostgresUnitOfWork(database.user)


@pytest.fixture
def totals(database: Database) -> Totals:
    return database.totals


@pytest.fixture
def empty_database(billing_database: Sandbox) -> Iterator[Clone]:
    """Create an empty database on the same server, for this test alone."""
    with created(billing_database) as clone:
        yield clone


@contextmanager
def created(sandbox: Sandbox, options: str = "") -> Iterator[Clone]:
    """Create another database on the same server, and drop it at the end."""
    name = f"cogni_billing_{secrets.token_hex(8)}"
    server = create_engine(sandbox.administrator, isolation_level="AUTOCOMMIT")
    with server.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name} {options}"))
    try:
        yield Clone(sandbox, name)
    finally:
        with server.connect() as connection:
            connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
        server.dispose()


@pytest.fixture
def own_database(empty_database: Clone) -> Iterator[Database]:
    """Create a migrated database for this test alone. The test may break it."""
    empty_database.install(test_database=True)
    with opened(empty_database) as database:
        yield database


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    with running_loop() as loop:
        yield loop


@pytest.fixture(scope="module")
def awaited(
    shared: Database, loop: asyncio.AbstractEventLoop
) -> Iterator[Callable[[str], AsyncEngine]]:
    """Create an engine of the event loop for each role."""
    engines: dict[str, AsyncEngine] = {}

    def engine(role: str) -> AsyncEngine:
        if role not in engines:
            engines[role] = create_async_engine(shared.sandbox.url(role), pool_size=20)
        return engines[role]

    async def dispose() -> None:
        for made in engines.values():
            await made.dispose()

    yield engine
    asyncio.run_coroutine_threadsafe(dispose(), loop).result()


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    return Run(monkeypatch, capsys)
