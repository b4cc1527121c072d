"""Through PgBouncer in transaction mode, where tenants take turns on one connection."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any
from uuid import UUID

import psycopg
import pytest
from sqlalchemy import URL, Engine, create_engine, text
from sqlalchemy.ext.asyncio import create_async_engine

from cogni_billing import (
    AsyncBilling,
    Balance,
    Billing,
    InsufficientCredits,
    TenantId,
    UnknownAccount,
    credits,
)
from cogni_billing.adapters.postgres import (
    AsyncPostgresUnitOfWork,
    PostgresUnitOfWork,
    doctor,
    ensure_ready,
)
from cogni_billing.adapters.postgres.embedded import EmbeddedPostgres
from cogni_billing.adapters.postgres.operations.sandbox import Sandbox
from cogni_billing.testing import ALICE, BOB, Fixtures, Totals
from cogni_billing.testing.contracts import disputes, purchases, scopes
from stack.conftest import Database
from stack.pgbouncer import BINARY, pooled

# In CI a missing pooler fails the tests.
pytestmark = pytest.mark.skipif(
    BINARY is None and "CI" not in os.environ, reason="pgbouncer is not installed"
)

UNPREPARED: dict[str, Any] = {"connect_args": {"prepare_threshold": None}}


@pytest.fixture(scope="module")
def pooler(billing_database: Sandbox) -> Iterator[URL]:
    if not isinstance(billing_database, EmbeddedPostgres):
        pytest.skip("the pooler is tried before the embedded server")
    with pooled(billing_database.role("app_user")) as url:
        yield url


@pytest.fixture
def engine(pooler: URL, database: Database) -> Iterator[Engine]:
    engine = create_engine(pooler, pool_size=20, max_overflow=0, **UNPREPARED)
    yield engine
    engine.dispose()


@pytest.fixture
def service(pooler: URL, database: Database) -> Iterator[Engine]:
    engine = create_engine(pooler.set(username="app_service"), **UNPREPARED)
    yield engine
    engine.dispose()


class TestThroughAPooler(Fixtures):
    @pytest.fixture
    def unit_of_work(self, engine: Engine, service: Engine) -> PostgresUnitOfWork:
        return PostgresUnitOfWork(engine, service=service)

    @pytest.fixture
    def totals(self, database: Database) -> Totals:
        return database.totals

    class TestPurchases(purchases.PurchaseContract):
        pass

    class TestDisputes(disputes.DisputeContract):
        pass

    class TestScopes(scopes.ScopeContract):
        pass

    class TestPurchaseRaces(purchases.PurchaseRaces):
        pass


STRANGER = TenantId(UUID(int=2**100))
ASSETS = {ALICE: 7_000_000, BOB: 3}
CONTEXT = text("SELECT pg_backend_pid(), current_setting('app.current_user_id', true)")


@pytest.fixture
def billing(engine: Engine) -> Billing:
    """Alice has seven million credits, Bob three."""
    billing = Billing(PostgresUnitOfWork(engine))
    for tenant, amount in ASSETS.items():
        billing.grant(tenant, credits(amount), source="promo:a", reference="a")
    return billing


def test_tenants_who_take_turns_never_meet(billing: Billing, engine: Engine) -> None:
    """With errors, savepoints and joined transactions between them."""

    def turns(tenant: TenantId) -> set[object]:
        seen: set[object] = set()
        for number in range(60):
            seen.add(billing.balance(tenant).posted.value)
            with pytest.raises(InsufficientCredits):
                billing.charge(tenant, credits(10**9), reference=f"run-{number}")
            with pytest.raises(UnknownAccount):
                billing.balance(STRANGER)
            with engine.begin() as connection:
                joined = Billing(PostgresUnitOfWork.joining(connection))
                seen.add(joined.balance(tenant).posted.value)
                seen.add(connection.execute(CONTEXT).one()[1] or ASSETS[tenant])
        return seen

    tenants = [ALICE, BOB] * 2
    with ThreadPoolExecutor(len(tenants)) as threads:
        answers = list(threads.map(turns, tenants))

    assert answers == [{ASSETS[tenant]} for tenant in tenants]


def test_all_of_it_was_on_one_connection_which_remembers_nobody(
    billing: Billing, engine: Engine
) -> None:
    found = set()
    for tenant in (ALICE, BOB):
        billing.balance(tenant)
        with engine.connect() as first:
            found.add(tuple(first.execute(CONTEXT).one()))

    ((backend, context),) = found
    assert context == ""
    with engine.connect() as other:
        driver = other.connection.driver_connection
        assert isinstance(driver, psycopg.Connection)
        assert driver.info.backend_pid != backend  # the number is the pooler's own


def test_a_task_that_is_cancelled_leaves_nobody_behind(billing: Billing, pooler: URL) -> None:
    async def cancelled() -> list[Balance]:
        engine = create_async_engine(pooler, pool_size=2, max_overflow=0, **UNPREPARED)
        awaited = AsyncBilling(AsyncPostgresUnitOfWork(engine))
        # SQLAlchemy's questions on an engine's first connection: cancelled, they leave it open.
        await awaited.balance(ALICE)
        for steps in range(30):
            charge = awaited.charge(ALICE, credits(1), reference=f"run-{steps}")
            task = asyncio.create_task(charge)
            for _ in range(steps):
                await asyncio.sleep(0)
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        balances = [await awaited.balance(BOB), await awaited.balance(ALICE)]
        await engine.dispose()
        return balances

    bob, alice = asyncio.run(cancelled())
    assert bob.posted == credits(3)
    assert alice == billing.balance(ALICE)
    charged = [line for line in billing.statement(ALICE).lines if line.kind == "charge"]
    assert alice.posted == credits(7_000_000 - len(charged))


def test_doctor_asks_for_statements_that_are_not_prepared(
    database: Database, engine: Engine, pooler: URL
) -> None:
    ensure_ready(engine)
    ensure_ready(database.user)
    prepared = create_engine(pooler)
    (finding,) = doctor(prepared).findings
    prepared.dispose()

    assert finding.problem.startswith("there is a pooler on the way, and statements are prepared")
    assert finding.remedy == 'create_engine(..., connect_args={"prepare_threshold": None})'


def test_which_it_does_with_reason(pooler: URL) -> None:
    """What one client prepares has a name that the next one's has, too."""
    info: dict[str, Any] = {"host": str(pooler.query["host"]), "port": str(pooler.query["port"])}
    info |= {"user": "app_user", "dbname": str(pooler.database)}
    with (
        psycopg.connect(**info, autocommit=True) as first,
        psycopg.connect(**info, autocommit=True) as second,
    ):
        first.execute("SELECT 1", prepare=True)

        with pytest.raises(psycopg.errors.DuplicatePreparedStatement):
            second.execute("SELECT 2", prepare=True)
