"""Injected SQL leaves state on a pooled connection, and another tenant's request gets it."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Iterator
from typing import Any, Final, TypeAlias

import pytest
from attrs import frozen
from psycopg import Connection as DriverConnection
from sqlalchemy import Connection, Engine, create_engine, text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from cogni_billing import AsyncBilling, Billing, InvalidInput, PrivilegeRequired, credits
from cogni_billing.adapters.postgres import (
    AsyncPostgresUnitOfWork,
    GroupCommit,
    PostgresUnitOfWork,
    reset,
    reset_connections,
    sign_contexts,
)
from cogni_billing.adapters.postgres.contexts import Context
from cogni_billing.adapters.postgres.operations.sandbox import Sandbox
from cogni_billing.testing.base import ALICE, BOB, NOON
from stack.conftest import Database, created, opened
from stack.support.attacks import call

KEY: Final = secrets.token_bytes(32)
ONE: Final[dict[str, Any]] = {"pool_size": 1, "max_overflow": 0}


@frozen
class Leftover:
    """Injected SQL, and a query that is true while the session has its leftover."""

    statement: str
    question: str


def setting(name: str, value: str) -> Leftover:
    return Leftover(
        f"SET {name} = '{value}'", f"SELECT lower(current_setting('{name}')) = '{value.lower()}'"
    )


LOCKED: Final = (
    "SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid())"
)
POOR_PLANS: Final = """
    SET enable_indexscan = off; SET enable_bitmapscan = off; SET random_page_cost = 1000000;
    DISCARD PLANS; SELECT cogni_billing.balance(
        '0a11ce00-0000-4000-8000-000000000001', NULL, '{"now": "2027-01-01"}'); RESET ALL
"""
LEFTOVERS: Final = {
    "row_security off": setting("row_security", "off"),
    "read-only transactions": setting("default_transaction_read_only", "on"),
    "a statement timeout": setting("statement_timeout", "7ms"),
    "another order of days and months": setting("DateStyle", "SQL, DMY"),
    "another encoding": setting("client_encoding", "LATIN1"),
    "commits that are not durable": setting("synchronous_commit", "off"),
    "another path": setting("search_path", "pg_temp"),
    "a tenant": setting("app.current_user_id", "left"),
    "a temporary table": Leftover(
        "CREATE TEMP TABLE loot (it text)", "SELECT to_regclass('pg_temp.loot') IS NOT NULL"
    ),
    "a listener": Leftover("LISTEN loot", "SELECT EXISTS (SELECT pg_listening_channels())"),
    "the lock of fold": Leftover(
        "SELECT pg_advisory_lock(hashtextextended('cogni_billing.fold', 0))", LOCKED
    ),
    "a prepared statement": Leftover(
        "PREPARE loot AS SELECT 1",
        "SELECT EXISTS (SELECT FROM pg_prepared_statements WHERE name = 'loot')",
    ),
    "a cursor": Leftover(
        "DECLARE loot CURSOR WITH HOLD FOR SELECT 1",
        "SELECT EXISTS (SELECT FROM pg_cursors WHERE name = 'loot')",
    ),
}


@pytest.fixture
def engine(database: Database) -> Iterator[Engine]:
    """Create an engine with one connection, which has served Alice and Bob."""
    engine = create_engine(database.sandbox.role("app_user"), **ONE)
    billing = Billing(PostgresUnitOfWork(engine))
    for tenant in (ALICE, BOB):
        billing.grant(tenant, credits(100), source="promo:a", reference="a")
    yield engine
    engine.dispose()


def inject(engine: Engine, statement: str) -> None:
    """Run injected SQL in a request that succeeds."""
    with engine.begin() as connection:
        connection.exec_driver_sql(statement.replace("%", "%%"))


def backend(connection: Connection) -> int:
    return int(connection.execute(text("SELECT pg_backend_pid()")).scalar_one())


@pytest.mark.parametrize("name", LEFTOVERS)
class TestLeftovers:
    def test_leftover_meets_the_next_request_without_resets(
        self, engine: Engine, name: str
    ) -> None:
        inject(engine, LEFTOVERS[name].statement)

        with engine.connect() as connection:
            assert connection.scalar(text(LEFTOVERS[name].question))

    def test_leftover_is_gone_with_resets(self, engine: Engine, name: str) -> None:
        reset_connections(engine)
        with engine.connect() as connection:
            before = backend(connection)
        inject(engine, LEFTOVERS[name].statement)

        with engine.connect() as connection:
            assert backend(connection) == before
            assert not connection.scalar(text(LEFTOVERS[name].question))
        assert Billing(PostgresUnitOfWork(engine)).balance(BOB).posted == credits(100)

    def test_leftover_is_gone_from_async_connections(self, database: Database, name: str) -> None:
        async def is_left(*, resets: bool) -> object:
            engine = create_async_engine(database.sandbox.url("app_user"), **ONE)
            if resets:
                reset_connections(engine)
            async with engine.begin() as connection:
                await connection.exec_driver_sql(LEFTOVERS[name].statement)
            async with engine.connect() as connection:
                found = await connection.scalar(text(LEFTOVERS[name].question))
            await engine.dispose()
            return found

        assert asyncio.run(is_left(resets=False))
        assert not asyncio.run(is_left(resets=True))


_SCANS: Final = text("SELECT pg_stat_get_xact_numscans('cogni_billing.wallets'::regclass)")


@pytest.mark.parametrize("resets", [False, True])
def test_plan_that_was_made_under_other_settings_is_gone_with_resets(
    engine: Engine, resets: bool
) -> None:
    """A sequential scan counts in the table's counters, an index scan in the index's."""
    if resets:
        reset_connections(engine)
    inject(engine, POOR_PLANS)

    with engine.connect() as connection:
        before = connection.execute(_SCANS).scalar_one()
        call(connection, "balance", BOB, None, {"now": str(NOON)})
        scans = connection.execute(_SCANS).scalar_one() - before

    assert (scans > 0) is not resets


class TestResets:
    def test_calls_and_statements_of_the_host_work_at_every_reset(self, engine: Engine) -> None:
        """psycopg prepares a statement at its sixth run, and a reset drops it."""
        billing = Billing(PostgresUnitOfWork(engine))
        reset_connections(engine)
        for number in range(15):
            billing.charge(ALICE, credits(1), reference=f"run-{number}")
        for number in range(10):
            with engine.connect() as connection:
                for _ in range(number):
                    backend(connection)
                connection.commit()
        with PostgresUnitOfWork(engine).scope(ALICE) as scope:
            balances = [scope.ledger.balance(NOON) for _ in range(7)]

        assert {balance.posted for balance in balances} == {credits(85)}

    def test_connection_that_cannot_be_reset_is_closed(
        self, engine: Engine, database: Database
    ) -> None:
        reset_connections(engine)
        with engine.connect() as connection:
            ended = backend(connection)
            connection.commit()
            with database.admin.begin() as other:
                other.execute(text(f"SELECT pg_terminate_backend({ended}, 5000)"))

        with engine.connect() as connection:
            assert backend(connection) != ended

    def test_uncommitted_leftover_of_a_broken_transaction_is_gone(self, engine: Engine) -> None:
        reset_connections(engine)
        with engine.connect() as connection:
            connection.exec_driver_sql("SELECT pg_advisory_lock(7)")
            with pytest.raises(Exception, match="division by zero"):
                connection.exec_driver_sql("SELECT 1 / 0")

        with engine.connect() as connection:
            assert not connection.scalar(text(LOCKED))

    def test_connection_that_autocommits_still_does(self, database: Database) -> None:
        engine = create_engine(
            database.sandbox.role("app_user"), isolation_level="AUTOCOMMIT", **ONE
        )
        reset_connections(engine)
        for _ in range(2):
            with engine.connect() as connection:
                driver = connection.connection.driver_connection
                assert isinstance(driver, DriverConnection)
                assert driver.autocommit
        engine.dispose()

    def test_new_pool_of_the_engine_is_reset_too(self, engine: Engine) -> None:
        reset_connections(engine)
        engine.dispose()
        inject(engine, "LISTEN loot")

        with engine.connect() as connection:
            assert not connection.scalar(text(LEFTOVERS["a listener"].question))

    def test_each_of_several_engines_is_reset(self, database: Database) -> None:
        engines = [create_engine(database.sandbox.role("app_user"), **ONE) for _ in range(5)]
        for engine in engines:
            reset_connections(engine)
        for engine in engines:
            inject(engine, "LISTEN loot")

        left = []
        for engine in engines:
            with engine.connect() as connection:
                left.append(connection.scalar(text(LEFTOVERS["a listener"].question)))
            engine.dispose()
        assert not any(left)

    def test_second_call_changes_nothing(self, engine: Engine) -> None:
        reset_connections(engine)
        reset_connections(engine)
        reset_connections(engine.execution_options(logging_token="host"))

        assert len(list(engine.pool.dispatch.reset)) == 1

    def test_startup_options_survive(self, database: Database) -> None:
        options = {"options": "-c lock_timeout=5s"}
        engine = create_engine(database.sandbox.role("app_user"), connect_args=options, **ONE)
        reset_connections(engine)
        inject(engine, "SET lock_timeout = 0")

        with engine.connect() as connection:
            assert connection.scalar(text("SHOW lock_timeout")) == "5s"
        engine.dispose()

    def test_other_types_of_engine_are_refused(self) -> None:
        with pytest.raises(InvalidInput, match="engine"):
            reset_connections(create_engine("sqlite://"))


def test_fold_leaves_no_lock_on_its_connection(database: Database) -> None:
    """Its lock ends with its transaction, even if the fold fails."""
    service = create_engine(database.sandbox.role("app_service"), **ONE)
    Billing(PostgresUnitOfWork(database.user, service=service)).fold()
    with service.connect() as connection:
        assert not connection.scalar(text(LOCKED))
        connection.execute(text("SELECT cogni_billing.fold('[]', 0, 1)"))
        assert connection.scalar(text(LOCKED))
        connection.rollback()
        assert not connection.scalar(text(LOCKED))
    service.dispose()


# Signed contexts ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def kept(billing_database: Sandbox) -> Iterator[Database]:
    """Create a database with signed contexts."""
    with created(billing_database) as clone:
        clone.install(test_database=True)
        with opened(clone) as database:
            yield database


@pytest.fixture
def signed(kept: Database) -> Database:
    reset(kept.migrator)
    sign_contexts(kept.migrator, [KEY])
    billing = Billing(PostgresUnitOfWork(kept.user, signing_key=KEY))
    for tenant in (ALICE, BOB):
        billing.grant(tenant, credits(100), source="promo:a", reference="a")
    return kept


PLANTED: Final = """
    DO $do$
    DECLARE prepared record;
    BEGIN
        CREATE TEMP TABLE loot (tenant uuid, proof text);
        FOR prepared IN
            SELECT name, array_to_string(parameter_types, ', ') AS types
            FROM pg_prepared_statements WHERE statement LIKE '%cogni_billing.balance%'
        LOOP
            EXECUTE format('DEALLOCATE %I', prepared.name);
            EXECUTE format('PREPARE %I (%s) AS WITH stolen AS ('
                'INSERT INTO loot VALUES ($1::text::uuid, $2::text)) '
                'SELECT cogni_billing.balance($1::text::uuid, $2::text, $3::text::json)',
                prepared.name, prepared.types);
        END LOOP;
    END $do$
"""


def stolen(database: Database) -> str | None:
    """Plant a statement in Alice's request. Returns a proof of Bob's that it collects."""
    engine = create_engine(database.sandbox.role("app_user"), **ONE)
    billing = Billing(PostgresUnitOfWork(engine, signing_key=KEY))
    for _ in range(7):
        billing.balance(ALICE)
    inject(engine, PLANTED)
    assert billing.balance(BOB).posted == credits(100)
    with engine.connect() as connection:
        loot = text("SELECT proof FROM loot WHERE tenant = :tenant")
        found: str | None = connection.scalar(loot, {"tenant": BOB})
    engine.dispose()
    return found


class TestProofs:
    def test_planted_statement_collects_no_proof(self, signed: Database) -> None:
        assert stolen(signed) is None

    def test_planted_statement_collects_proofs_where_calls_are_prepared_by_name(
        self, signed: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(Context, "prepare", None)

        proof = stolen(signed)

        with signed.user.connect() as connection:
            answer = call(connection, "account", BOB, proof, {})
        assert answer["outcome"] == "done"
        with pytest.raises(PrivilegeRequired):
            Billing(PostgresUnitOfWork(signed.user)).balance(BOB)


Request: TypeAlias = Callable[[Engine, bytes | None, int], object]


def grouped(engine: Engine, key: bytes | None) -> PostgresUnitOfWork:
    return PostgresUnitOfWork(engine, signing_key=key, group_commit=GroupCommit())


def in_scope(engine: Engine, key: bytes | None, _: int) -> None:
    with PostgresUnitOfWork(engine, signing_key=key).scope(ALICE) as scope:
        scope.ledger.balance(NOON)


def in_transaction(engine: Engine, key: bytes | None, _: int) -> None:
    with engine.begin() as connection:
        Billing(PostgresUnitOfWork.joining(connection, signing_key=key)).balance(ALICE)


def in_drivers_transaction(engine: Engine, key: bytes | None, _: int) -> None:
    with engine.connect() as connection:
        driver = connection.connection.driver_connection
        assert isinstance(driver, DriverConnection)
        Billing(PostgresUnitOfWork.joining(driver, signing_key=key)).balance(ALICE)
        driver.commit()  # psycopg forgets prepared statements at a rollback


REQUESTS: Final[dict[str, Request]] = {
    "read": lambda e, key, _: Billing(PostgresUnitOfWork(e, signing_key=key)).balance(ALICE),
    "charge": lambda e, key, n: Billing(PostgresUnitOfWork(e, signing_key=key)).charge(
        ALICE, credits(1), reference=f"run-{n}"
    ),
    "grouped charge": lambda e, key, n: Billing(grouped(e, key)).charge(
        ALICE, credits(1), reference=f"run-{n}"
    ),
    "scope": in_scope,
    "joined": in_transaction,
    "joined to the driver": in_drivers_transaction,
}
NAMES: Final = text("SELECT statement FROM pg_prepared_statements WHERE NOT from_sql")


def named(statements: list[str]) -> bool:
    """True if a call of the ledger is among the statements."""
    return any("cogni_billing." in statement for statement in statements)


@pytest.mark.parametrize("name", REQUESTS)
@pytest.mark.parametrize("key", [KEY, None], ids=["signed", "not signed"])
def test_call_with_a_proof_is_never_prepared_by_name(
    signed: Database, name: str, key: bytes | None
) -> None:
    if key is None:
        sign_contexts(signed.migrator, [])
    engine = create_engine(signed.sandbox.role("app_user"), **ONE)
    for number in range(8):
        REQUESTS[name](engine, key, number)
    with engine.connect() as connection:
        driver = connection.connection.driver_connection
        assert isinstance(driver, DriverConnection)
        assert driver.prepare_threshold is not None  # the host's statements are prepared
        found = list(connection.scalars(NAMES))
    engine.dispose()

    assert named(found) is (key is None)


@pytest.mark.parametrize("key", [KEY, None], ids=["signed", "not signed"])
def test_awaited_call_with_a_proof_is_never_prepared_by_name(
    signed: Database, key: bytes | None
) -> None:
    if key is None:
        sign_contexts(signed.migrator, [])

    async def found(request: Callable[[AsyncEngine, int], Any]) -> list[str]:
        engine = create_async_engine(signed.sandbox.url("app_user"), **ONE)
        for number in range(8):
            await request(engine, number)
        async with engine.connect() as connection:
            statements = list(await connection.scalars(NAMES))
        await engine.dispose()
        return statements

    async def read(engine: AsyncEngine, _: int) -> None:
        await AsyncBilling(AsyncPostgresUnitOfWork(engine, signing_key=key)).balance(ALICE)

    async def charge(engine: AsyncEngine, number: int) -> None:
        billing = AsyncBilling(AsyncPostgresUnitOfWork(engine, signing_key=key))
        await billing.charge(ALICE, credits(1), reference=f"run-{number}")

    async def joined(engine: AsyncEngine, _: int) -> None:
        async with engine.begin() as connection:
            joining = AsyncPostgresUnitOfWork.joining(connection, signing_key=key)
            await AsyncBilling(joining).balance(ALICE)

    for request in (read, charge, joined):
        assert named(asyncio.run(found(request))) is (key is None)
