"""Scopes in the host's own transaction: savepoints that leave all else unchanged."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import psycopg
import pytest
from django import setup
from django.conf import settings
from django.db import connection as django_connection
from django.db.transaction import atomic, set_rollback
from psycopg.abc import Buffer
from psycopg.adapt import Loader
from psycopg.rows import dict_row, tuple_row
from sqlalchemy import Connection, create_engine, event, text
from sqlalchemy.exc import PendingRollbackError
from sqlalchemy.ext.asyncio import create_async_engine

from cogni_billing import (
    AccountId,
    AsyncBilling,
    Billing,
    BillingError,
    IdempotencyConflict,
    InsufficientCredits,
    InvalidInput,
    LedgerUnavailable,
    PrivilegeRequired,
    ScopeClosed,
    UnknownAccount,
    credits,
    usd,
)
from cogni_billing.adapters.postgres import AsyncPostgresUnitOfWork, PostgresUnitOfWork
from cogni_billing.adapters.postgres.scopes import PostgresScope
from cogni_billing.testing.base import ALICE, BOB, NOON
from cogni_billing.testing.contracts.purchases import planned
from stack.conftest import Database

CONTEXT = text("SELECT current_setting('app.current_user_id', true)")
SET_CONTEXT = text("SELECT set_config('app.current_user_id', :tenant, true)")
NOTES = text("SELECT note FROM host_notes")


@pytest.fixture
def host(database: Database) -> Iterator[Connection]:
    """Open a host's connection in a transaction that has written a row."""
    with database.user.connect() as connection:
        connection.execute(text("CREATE TEMP TABLE host_notes (note text) ON COMMIT PRESERVE ROWS"))
        connection.execute(text("INSERT INTO host_notes VALUES ('order 7')"))
        yield connection
        connection.rollback()
        connection.invalidate()


def joined(host: Connection) -> Billing:
    return Billing(PostgresUnitOfWork.joining(host))


class TestTheHostsWork:
    def test_commit_of_the_host_keeps_both(self, database: Database, host: Connection) -> None:
        joined(host).confirm_purchase(ALICE, usd("1.00"), payment="stripe:pi_1")
        assert database.totals() == {}

        host.commit()

        assert database.totals()[AccountId(ALICE)] == 10_000_000
        assert host.scalars(NOTES).all() == ["order 7"]

    def test_rollback_of_the_host_undoes_both(self, database: Database, host: Connection) -> None:
        joined(host).confirm_purchase(ALICE, usd("1.00"), payment="stripe:pi_1")

        host.rollback()

        assert database.totals() == {}

    def test_a_refused_call_undoes_itself_alone(self, database: Database, host: Connection) -> None:
        billing = joined(host)
        billing.confirm_purchase(ALICE, usd("1.00"), payment="stripe:pi_1")
        with pytest.raises(IdempotencyConflict):
            billing.confirm_purchase(ALICE, usd("2.00"), payment="stripe:pi_1")
        with pytest.raises(InsufficientCredits):
            billing.charge(ALICE, credits(10**9), reference="run-1")
        billing.charge(ALICE, credits(1), reference="run-2")

        host.commit()

        assert database.totals()[AccountId(ALICE)] == 9_999_999
        assert host.scalars(NOTES).all() == ["order 7"]

    @pytest.mark.parametrize("ending", ["release_savepoint", "rollback_savepoint"])
    def test_scope_with_an_interrupted_end_is_rolled_back(
        self, database: Database, host: Connection, ending: str
    ) -> None:
        """A signal handler may raise there. A host that continues gets an error at its next
        step.
        """

        class Interrupted(Exception):
            pass

        def interrupt(*_: object) -> None:
            raise Interrupted

        event.listen(host, ending, interrupt)

        def work(scope: PostgresScope) -> None:
            scope.ledger.post(planned())
            if ending == "rollback_savepoint":
                raise ZeroDivisionError

        with pytest.raises(Interrupted):
            PostgresUnitOfWork.joining(host).run(ALICE, work)

        with pytest.raises(PendingRollbackError):
            host.commit()
        assert database.totals() == {}

    def test_a_first_purchase_needs_no_deferred_constraint(self, host: Connection) -> None:
        host.execute(text("SET CONSTRAINTS ALL IMMEDIATE"))

        receipt = joined(host).confirm_purchase(ALICE, usd("1.00"), payment="stripe:pi_1")

        assert receipt.balance == credits(10_000_000)

    @pytest.mark.parametrize("ending", ["commit", "rollback"])
    def test_end_of_the_transaction_inside_a_scope_raises_an_error(
        self, host: Connection, ending: str
    ) -> None:
        def work(scope: PostgresScope) -> None:
            scope.tenants.open_account(NOON)
            getattr(host, ending)()

        with pytest.raises(ScopeClosed):
            PostgresUnitOfWork.joining(host).run(ALICE, work)

    def test_batch_on_a_lost_connection_refuses_each_request(
        self, database: Database, host: Connection
    ) -> None:
        billing, pid = joined(host), host.scalar(text("SELECT pg_backend_pid()"))
        with database.admin.connect() as admin:
            assert admin.scalar(text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": pid})

        outcomes = billing.charge_many(
            {"tenant": tenant, "amount": credits(1), "reference": "run-1"}
            for tenant in (ALICE, BOB)
        )

        assert [type(outcome.error) for outcome in outcomes] == [LedgerUnavailable] * 2
        with pytest.raises(LedgerUnavailable, match="lost"):
            PostgresUnitOfWork.joining(host)

    def test_scopes_of_several_tenants_follow_one_another(
        self, database: Database, host: Connection
    ) -> None:
        billing = joined(host)
        for tenant in (ALICE, BOB):
            billing.confirm_purchase(tenant, usd("1.00"), payment=f"stripe:{tenant}")

        assert billing.balance(ALICE).posted == credits(10_000_000)
        with pytest.raises(UnknownAccount):
            billing.balance(UUID(int=5))
        host.commit()
        assert len(database.totals()) == 4

    def test_a_scope_with_a_swallowed_error_raises(
        self, database: Database, host: Connection
    ) -> None:
        unit_of_work = PostgresUnitOfWork.joining(host)
        Billing(unit_of_work).confirm_purchase(ALICE, usd("1.00"), payment="stripe:pi_1")

        def swallowing() -> None:
            with unit_of_work.scope(BOB) as scope:
                scope.tenants.open_account(unit_of_work.clock.now())
                with pytest.raises(BillingError):
                    scope.ledger.transaction("no id")  # type: ignore[arg-type]

        with pytest.raises(ScopeClosed):
            swallowing()
        host.commit()

        with pytest.raises(UnknownAccount):
            Billing(PostgresUnitOfWork(database.user)).balance(BOB)

    def test_conflict_in_a_hosts_transaction_is_not_retried(self, host: Connection) -> None:
        attempts = []

        def work(_: PostgresScope) -> None:
            attempts.append(1)
            raise LedgerUnavailable("in the way", "40001")

        with pytest.raises(LedgerUnavailable):
            PostgresUnitOfWork.joining(host).run(ALICE, work)

        assert len(attempts) == 1


class TestTheContext:
    @pytest.mark.parametrize("before", ["", str(BOB), "the host's own"])
    def test_tenant_of_the_host_is_restored_after_every_call(
        self, host: Connection, before: str
    ) -> None:
        host.execute(SET_CONTEXT, {"tenant": before})
        billing = joined(host)

        billing.open_account(ALICE)
        after_success = host.scalar(CONTEXT)
        with pytest.raises(InsufficientCredits):
            billing.charge(ALICE, credits(1), reference="run-1")
        after_failure = host.scalar(CONTEXT)

        assert (after_success, after_failure) == (before, before)

    def test_tenant_of_the_session_is_restored_at_the_end(self, host: Connection) -> None:
        host.execute(text("SELECT set_config('app.current_user_id', 'session', false)"))
        host.commit()
        host.execute(text("SELECT 1"))

        joined(host).open_account(ALICE)

        assert host.scalar(CONTEXT) == "session"
        host.commit()
        assert host.scalar(CONTEXT) == "session"

    def test_so_is_the_path_to_search(self, host: Connection) -> None:
        host.execute(text("SET LOCAL search_path = host, pg_catalog"))

        joined(host).open_account(ALICE)

        assert host.scalar(text("SHOW search_path")) == "host, pg_catalog"


class TestRefusals:
    def test_a_connection_without_a_transaction(self, database: Database) -> None:
        with (
            database.user.connect() as connection,
            pytest.raises(InvalidInput) as caught,
        ):
            PostgresUnitOfWork.joining(connection)

        assert (caught.value.field, caught.value.given) == ("connection", "no open transaction")

    def test_transaction_that_has_ended_is_refused(self, host: Connection) -> None:
        billing = joined(host)
        host.rollback()

        with pytest.raises(InvalidInput, match="no open transaction"):
            billing.open_account(ALICE)

    def test_a_connection_that_autocommits(self, database: Database) -> None:
        engine = create_engine(database.sandbox.url("app_user"), isolation_level="AUTOCOMMIT")
        with (
            engine.connect() as connection,
            connection.begin(),
            pytest.raises(InvalidInput) as caught,
        ):
            PostgresUnitOfWork.joining(connection)
        engine.dispose()

        assert (caught.value.field, caught.value.given) == ("connection", "one that autocommits")

    @pytest.mark.parametrize(
        ("stranger", "shown"),
        [(None, "None"), ("connection", "'connection'"), (object(), "a object")],
    )
    def test_other_types_are_refused(self, stranger: Connection, shown: str) -> None:
        with pytest.raises(InvalidInput) as caught:
            PostgresUnitOfWork.joining(stranger)

        assert (caught.value.field, caught.value.given) == ("connection", shown)

    def test_a_connection_of_another_driver(self) -> None:
        engine = create_engine("sqlite://")
        with engine.begin() as connection, pytest.raises(InvalidInput) as caught:
            PostgresUnitOfWork.joining(connection)
        engine.dispose()

        assert (caught.value.field, caught.value.given) == ("connection", "a Connection")
        assert "postgresql+psycopg" in caught.value.expected

    def test_a_transaction_that_has_failed(self, host: Connection) -> None:
        billing = joined(host)
        with pytest.raises(Exception, match="division by zero"):
            host.execute(text("SELECT 1/0"))

        with pytest.raises(LedgerUnavailable) as caught:
            billing.open_account(ALICE)

        assert caught.value.sqlstate == "25P02"

    def test_work_across_tenants_is_refused(self, host: Connection) -> None:
        with pytest.raises(PrivilegeRequired):
            joined(host).fold()


class TestAwaited:
    def test_a_scope_joins_an_awaited_transaction(self, database: Database) -> None:
        async def host() -> list[object]:
            engine = create_async_engine(database.sandbox.url("app_user"))
            async with engine.connect() as connection:
                with pytest.raises(InvalidInput):
                    AsyncPostgresUnitOfWork.joining(connection)
                await connection.execute(SET_CONTEXT, {"tenant": "the host's own"})
                billing = AsyncBilling(AsyncPostgresUnitOfWork.joining(connection))
                await billing.confirm_purchase(ALICE, usd("1.00"), payment="stripe:pi_1")
                with pytest.raises(InsufficientCredits):
                    await billing.charge(ALICE, credits(10**9), reference="run-1")
                with pytest.raises(PrivilegeRequired):
                    await billing.fold()
                seen = [await connection.scalar(CONTEXT), database.totals()]
                await connection.commit()
            await engine.dispose()
            return seen

        assert asyncio.run(host()) == ["the host's own", {}]
        assert database.totals()[AccountId(ALICE)] == 10_000_000

    def test_sync_connection_is_refused_by_async_joining(self, host: Connection) -> None:
        with pytest.raises(InvalidInput) as caught:
            AsyncPostgresUnitOfWork.joining(host)  # type: ignore[arg-type]

        assert caught.value.given == "a Connection"
        assert "an async one" in caught.value.expected


DRIVER_HOSTS: dict[str, dict[str, Any]] = {
    "as psycopg makes it": {},
    "with rows as dicts": {"row_factory": dict_row},
    "with cursors that bind on the client": {"cursor_factory": psycopg.ClientCursor},
    "with cursors of another style": {"cursor_factory": psycopg.RawCursor},
    "without prepared statements": {"prepare_threshold": None},
}


def undo() -> None:
    """Roll back the block of a psycopg transaction."""
    raise psycopg.Rollback


def conninfo(database: Database) -> str:
    url = database.sandbox.role("app_user").set(drivername="postgresql")
    return url.render_as_string(hide_password=False)


class TestDriverConnections:
    """psycopg connections, such as Django's `connection.connection`."""

    @pytest.fixture(params=DRIVER_HOSTS)
    def driver(
        self, database: Database, request: pytest.FixtureRequest
    ) -> Iterator[psycopg.Connection[Any]]:
        connection = psycopg.connect(conninfo(database), **DRIVER_HOSTS[request.param])
        connection.execute("CREATE TEMP TABLE host_notes (note text)")
        connection.commit()
        yield connection
        connection.close()

    def test_commit_keeps_the_rows_of_host_and_ledger(
        self, database: Database, driver: psycopg.Connection[Any]
    ) -> None:
        driver.execute("SELECT set_config('app.current_user_id', 'the host''s own', true)")
        driver.execute("INSERT INTO host_notes VALUES ('order 7')")
        billing = Billing(PostgresUnitOfWork.joining(driver))
        billing.confirm_purchase(ALICE, usd("1.00"), payment="stripe:pi_1")
        assert billing.confirm_purchase(ALICE, usd("1.00"), payment="stripe:pi_1").replayed
        with pytest.raises(InsufficientCredits):
            billing.charge(ALICE, credits(10**9), reference="run-1")
        with pytest.raises(PrivilegeRequired):
            billing.fold()
        context = driver.cursor(row_factory=tuple_row).execute(str(CONTEXT)).fetchone()
        assert (context, database.totals()) == (("the host's own",), {})

        driver.commit()

        notes = driver.cursor(row_factory=tuple_row).execute(str(NOTES)).fetchall()
        assert notes == [("order 7",)]
        assert database.totals()[AccountId(ALICE)] == 10_000_000

    def test_first_statement_of_a_transaction_may_be_the_ledgers(
        self, database: Database, driver: psycopg.Connection[Any]
    ) -> None:
        Billing(PostgresUnitOfWork.joining(driver)).open_account(ALICE)
        driver.rollback()
        with pytest.raises(UnknownAccount):
            Billing(PostgresUnitOfWork(database.user)).balance(ALICE)

    @pytest.mark.parametrize("autocommit", [True, False])
    def test_block_of_a_transaction_decides(
        self, database: Database, driver: psycopg.Connection[Any], autocommit: bool
    ) -> None:
        driver.autocommit = autocommit
        with driver.transaction(), driver.transaction():
            billing = Billing(PostgresUnitOfWork.joining(driver))
            billing.confirm_purchase(ALICE, usd("1.00"), payment="stripe:pi_1")
        assert database.totals()[AccountId(ALICE)] == 10_000_000
        with driver.transaction():
            billing = Billing(PostgresUnitOfWork.joining(driver))
            billing.charge(ALICE, credits(1), reference="run-1")
            undo()

        assert database.totals()[AccountId(ALICE)] == 10_000_000

    def test_connection_that_autocommits_is_refused(self, driver: psycopg.Connection[Any]) -> None:
        driver.autocommit = True

        with pytest.raises(InvalidInput, match="no open transaction"):
            PostgresUnitOfWork.joining(driver)

    def test_closed_connection_is_refused(self, driver: psycopg.Connection[Any]) -> None:
        driver.close()

        with pytest.raises(LedgerUnavailable, match="was lost"):
            PostgresUnitOfWork.joining(driver)

    def test_lost_connection_raises_the_ledgers_error(
        self, database: Database, driver: psycopg.Connection[Any]
    ) -> None:
        billing = Billing(PostgresUnitOfWork.joining(driver))
        with database.admin.connect() as admin:
            pid = driver.info.backend_pid
            assert admin.scalar(text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": pid})

        with pytest.raises(LedgerUnavailable):
            billing.open_account(ALICE)

    @pytest.mark.parametrize("fails", [True, False])
    def test_savepoint_that_cannot_be_ended_closes_the_connection(
        self, database: Database, driver: psycopg.Connection[Any], fails: bool
    ) -> None:
        def work(scope: PostgresScope) -> None:
            scope.ledger.post(planned())
            driver.execute("RELEASE SAVEPOINT cogni_billing")
            if fails:
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError if fails else LedgerUnavailable):
            PostgresUnitOfWork.joining(driver).run(ALICE, work)

        assert driver.closed
        assert database.totals() == {}

    def test_swallowed_failure_is_not_kept(
        self, database: Database, driver: psycopg.Connection[Any]
    ) -> None:
        def work(scope: PostgresScope) -> None:
            scope.ledger.post(planned())
            with pytest.raises(psycopg.Error):
                driver.execute("SELECT 1/0")

        with pytest.raises(ScopeClosed):
            PostgresUnitOfWork.joining(driver).run(ALICE, work)
        driver.commit()

        assert database.totals() == {}

    def test_loaders_of_the_host_are_not_used(
        self, database: Database, driver: psycopg.Connection[Any]
    ) -> None:
        class Shouting(Loader):
            def load(self, data: Buffer) -> str:
                return bytes(data).decode().upper()

        driver.adapters.register_loader("text", Shouting)

        account = Billing(PostgresUnitOfWork.joining(driver)).open_account(ALICE)

        assert account.id == AccountId(ALICE)
        row = driver.cursor(row_factory=tuple_row).execute(b"SELECT 'kept'::text").fetchone()
        assert row == ("KEPT",)

    def test_connection_in_pipeline_mode_is_refused(self, driver: psycopg.Connection[Any]) -> None:
        with driver.pipeline(), pytest.raises(InvalidInput, match="one in pipeline mode"):
            PostgresUnitOfWork.joining(driver)

    def test_calls_that_overlap_are_refused(
        self, database: Database, driver: psycopg.Connection[Any]
    ) -> None:
        """Their savepoints could end in another order, and one call would roll back another."""
        unit_of_work = PostgresUnitOfWork.joining(driver)

        def work(_: PostgresScope) -> None:
            unit_of_work.post(planned())

        with pytest.raises(InvalidInput, match="another call is using"):
            unit_of_work.run(BOB, work)

        assert unit_of_work.post(planned()).transaction == planned()
        driver.commit()
        assert database.totals()[AccountId(ALICE)] == 100_000_000

    def test_interrupted_call_closes_the_connection(
        self, database: Database, driver: psycopg.Connection[Any]
    ) -> None:
        def work(scope: PostgresScope) -> None:
            scope.ledger.post(planned())
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            PostgresUnitOfWork.joining(driver).run(ALICE, work)

        assert driver.closed
        assert database.totals() == {}

    def test_async_calls_that_overlap_are_refused(self, database: Database) -> None:
        async def host() -> list[object]:
            async with await psycopg.AsyncConnection.connect(conninfo(database)) as connection:
                billing = AsyncBilling(AsyncPostgresUnitOfWork.joining(connection))
                await billing.confirm_purchase(ALICE, usd("1.00"), payment="stripe:pi_1")
                return await asyncio.gather(
                    *(billing.charge(ALICE, credits(1), reference=f"run-{n}") for n in range(5)),
                    return_exceptions=True,
                )

        made = [each for each in asyncio.run(host()) if not isinstance(each, InvalidInput)]
        assert len(made) == 1
        assert database.totals()[AccountId(ALICE)] == 9_999_999

    def test_async_connection_is_awaited(self, database: Database) -> None:
        async def host() -> None:
            async with await psycopg.AsyncConnection.connect(conninfo(database)) as connection:
                with pytest.raises(InvalidInput, match="not an async one"):
                    PostgresUnitOfWork.joining(connection)  # type: ignore[arg-type]
                billing = AsyncBilling(AsyncPostgresUnitOfWork.joining(connection))
                await billing.confirm_purchase(ALICE, usd("1.00"), payment="stripe:pi_1")
                with pytest.raises(InsufficientCredits):
                    await billing.charge(ALICE, credits(10**9), reference="run-1")
                assert database.totals() == {}
                await connection.commit()

        asyncio.run(host())
        assert database.totals()[AccountId(ALICE)] == 10_000_000


class TestDjango:
    """`django.db.connection.connection` inside `atomic()`."""

    @pytest.fixture(autouse=True)
    def _configured(self, database: Database) -> Iterator[None]:
        if not settings.configured:
            url = database.sandbox.role("app_user")
            default = {
                "ENGINE": "django.db.backends.postgresql",
                "NAME": url.database,
                "USER": url.username,
                "HOST": url.query["host"],
                "PORT": url.query.get("port", ""),
                "OPTIONS": {"options": url.query.get("options", "")},
            }
            settings.configure(DATABASES={"default": default})
            setup()
        with django_connection.cursor() as cursor:
            cursor.execute("CREATE TEMP TABLE host_notes (note text)")
        yield
        django_connection.close()

    @pytest.mark.parametrize("fails", [True, False])
    def test_block_of_atomic_decides(self, database: Database, fails: bool) -> None:
        with atomic():
            with django_connection.cursor() as cursor:
                cursor.execute("INSERT INTO host_notes VALUES ('order 7')")
            billing = Billing(PostgresUnitOfWork.joining(django_connection.connection))
            billing.confirm_purchase(ALICE, usd("1.00"), payment="stripe:pi_1")
            with pytest.raises(InsufficientCredits):
                billing.charge(ALICE, credits(10**9), reference="run-1")
            with atomic():
                billing.charge(ALICE, credits(1), reference="run-2")
                set_rollback(True)
            set_rollback(fails)

        with django_connection.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM host_notes")
            notes = cursor.fetchone()
        assert notes == (0 if fails else 1,)
        assert database.totals().get(AccountId(ALICE), 0) == (0 if fails else 10_000_000)

    def test_connection_outside_atomic_is_refused(self) -> None:
        with pytest.raises(InvalidInput, match="no open transaction"):
            PostgresUnitOfWork.joining(django_connection.connection)
