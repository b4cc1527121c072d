"""PgBouncer in transaction mode, where tenants share one connection."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import psycopg
import pytest
import typer
from attrs import evolve, frozen
from sqlalchemy import URL, Engine, create_engine, text
from sqlalchemy.ext.asyncio import create_async_engine
from typer.core import TyperGroup

from cogni_billing import (
    AsyncBilling,
    Balance,
    Billing,
    InstallationNotReady,
    InsufficientCredits,
    LedgerUnavailable,
    TenantId,
    UnknownAccount,
    credits,
    usd,
)
from cogni_billing.adapters.postgres import (
    AsyncPostgresUnitOfWork,
    PostgresUnitOfWork,
    doctor,
    ensure_ready,
    reset,
)
from cogni_billing.adapters.postgres.embedded import EmbeddedPostgres
from cogni_billing.adapters.postgres.operations.sandbox import Sandbox
from cogni_billing.cli.app import app
from cogni_billing.testing import ALICE, BOB, IsolatedConformance, NewUnitOfWork, Totals
from stack.conftest import Clone, Database
from stack.support.clients import MAKES, POOL, Make, client
from stack.support.command import Run
from stack.support.dumps import ROWS_ALONE, binaries, ran
from stack.support.pgbouncer import BINARY, pooled

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
    with opened(pooler, pool_size=20, max_overflow=0) as engine:
        yield engine


@pytest.fixture
def service(pooler: URL, database: Database) -> Iterator[Engine]:
    with opened(pooler.set(username="app_service")) as engine:
        yield engine


@contextmanager
def opened(url: URL, **options: Any) -> Iterator[Engine]:
    """Create an engine, and dispose of it at the end."""
    engine = create_engine(url, **options, **UNPREPARED)
    # SQLAlchemy 2.1.9 creates the lock of the first connection without a lock. If threads switch as
    # often as in `at_once`, a second connection can pass before the dialect is initialized.
    engine.connect().close()
    yield engine
    engine.dispose()


@pytest.mark.exhaustive
class TestThroughAPooler(IsolatedConformance):
    """Every call of the API, with all tenants on one connection of each role."""

    class TestBadInput:
        """Covered without a pooler: its calls never reach a connection."""

    class TestModel:
        """Covered without a pooler: it makes one call after another."""

    @pytest.fixture
    def new_unit_of_work(
        self, engine: Engine, service: Engine, database: Database
    ) -> NewUnitOfWork:
        def new() -> PostgresUnitOfWork:
            reset(database.migrator)
            return PostgresUnitOfWork(engine, service=service)

        return new

    @pytest.fixture
    def totals(self, database: Database) -> Totals:
        return database.totals


STRANGER = TenantId(UUID(int=2**100))
ASSETS = {ALICE: 7_000_000, BOB: 3}
CONTEXT = text("SELECT pg_backend_pid(), current_setting('app.current_user_id', true)")


@pytest.fixture
def billing(engine: Engine) -> Billing:
    """Give Alice seven million credits, and Bob three."""
    billing = Billing(PostgresUnitOfWork(engine))
    for tenant, amount in ASSETS.items():
        billing.grant(tenant, credits(amount), source="promo:a", reference="a")
    return billing


def test_alternating_tenants_stay_isolated(billing: Billing, engine: Engine) -> None:
    """Errors, savepoints and joined transactions come between their calls."""

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


def test_tenants_share_one_connection_that_keeps_no_tenant(
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
        assert driver.info.backend_pid != backend  # the pooler invents the number


def test_cancelled_task_leaves_no_tenant(billing: Billing, pooler: URL) -> None:
    async def cancelled() -> list[Balance]:
        engine = create_async_engine(pooler, pool_size=2, max_overflow=0, **UNPREPARED)
        awaited = AsyncBilling(AsyncPostgresUnitOfWork(engine))
        # If SQLAlchemy's first queries on an engine are cancelled, the connection stays open.
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


@pytest.mark.parametrize("make", MAKES)
def test_host_of_every_make_is_served(
    database: Database, pooler: URL, loop: asyncio.AbstractEventLoop, make: str
) -> None:
    unprepared = evolve(MAKES[make], options={**MAKES[make].options, **UNPREPARED})
    with client(unprepared, pooler, pooler.set(username="app_service"), loop) as host:
        host.billing.confirm_purchase(ALICE, usd("1.00"), payment="stripe:1")
        for number in range(10):  # more often than a driver needs to prepare a statement
            host.billing.charge(ALICE, credits(1), reference=f"r{number}")
        host.billing.refund(ALICE, payment="stripe:1", amount=usd("0.10"), reference="re")
        balance = host.billing.balance(ALICE)
        found = host.billing.verify()

    assert balance.posted == credits(9_000_000 - 10)
    assert found.violations == ()


@pytest.mark.usefixtures("pooler")
def test_session_mode_serves_a_host_that_prepares_statements(
    database: Database, loop: asyncio.AbstractEventLoop
) -> None:
    with (
        pooled(database.sandbox.role("app_user"), mode="session", size=POOL) as url,
        client(Make(), url, url.set(username="app_service"), loop) as host,
    ):
        host.billing.confirm_purchase(ALICE, usd("1.00"), payment="stripe:1")
        for number in range(10):
            host.billing.charge(ALICE, credits(1), reference=f"r{number}")
        found = host.billing.verify()

    assert found.ok


@pytest.mark.usefixtures("pooler")
def test_statement_mode_refuses_calls_of_several_statements(
    database: Database, loop: asyncio.AbstractEventLoop
) -> None:
    with pooled(database.sandbox.role("app_user"), mode="statement") as url:
        service = url.set(username="app_service")
        with client(Make(options=UNPREPARED), url, service, loop, retry_for=timedelta(0)) as host:
            with pytest.raises(LedgerUnavailable):
                host.billing.verify()
            with pytest.raises(LedgerUnavailable):
                host.billing.fold()


def left_behind(pooler: URL) -> None:
    """Leave a prepared statement with each of the driver's first names on the server's
    connection.
    """
    shown = pooler.set(drivername="postgresql").render_as_string()
    with psycopg.connect(shown, autocommit=True) as other:
        for number in range(10):
            other.execute(f"SELECT {number}", prepare=True)


@frozen
class Step:
    """A command, the role that it connects as, and a part of its answer."""

    command: str
    arguments: tuple[str, ...]
    role: str
    says: str
    returncode: int = 0


STEPS: Final = (
    Step("provision", ("--spender", "app_spender"), "postgres", "provisioned"),
    Step("migrate", (), "app_migrator", "migrated"),
    Step("restore", ("dump.sql",), "app_migrator", "rows restored: "),
    Step("doctor", (), "app_user", "prepared statements"),
    Step("repair", (), "app_migrator", "repaired"),
    Step("open-account", (str(ALICE),), "app_user", "account "),
    Step("purchase", (str(ALICE), "1.00", "--payment", "stripe:1"), "app_user", "confirmed"),
    Step("import purchases", ("purchases.csv", "--batch-size", "1"), "app_user", "done     20"),
    Step("import charges", ("charges.csv", "--batch-size", "1"), "app_user", "done     20"),
    Step("balance", (str(ALICE),), "app_user", "available"),
    Step("statement", (str(ALICE),), "app_user", "charge"),
    Step("sweep", (), "app_user", "wallets updated: 0"),
    Step("fold", (), "app_user", "accounts folded: "),
    Step("verify", (), "app_user", "0"),
    Step("seal", ("seals.jsonl", "--key-file", "seal.key"), "app_user", "seals added: "),
    Step("demo", (), "postgres", "the server is behind a pooler; connect directly", 69),
)


def commands(group: TyperGroup, prefix: str = "") -> Iterator[str]:
    """Yield the name of every command, including those of groups."""
    for name, command in group.commands.items():
        if isinstance(command, TyperGroup):
            yield from commands(command, f"{prefix}{name} ")
        else:
            yield prefix + name


def test_every_command_has_a_step() -> None:
    assert {step.command for step in STEPS} == {*commands(typer.main.get_group(app))}


def test_every_command_works(
    billing: Billing,
    database: Database,
    empty_database: Clone,
    pooler: URL,
    run: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Other clients have left prepared statements with the names that this driver would use."""

    def url(role: str) -> URL:
        return pooler.set(username=role, database=empty_database.name)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COGNI_BILLING_SERVICE_URL", url("app_service").render_as_string())
    for kind, column in (("purchases", "payment"), ("charges", "reference")):
        lines = [f"{ALICE},1,stripe:{number}" for number in range(100, 120)]
        Path(f"{kind}.csv").write_text("\n".join([f"tenant,amount,{column}", *lines]))
    Path("seal.key").write_text("6f" * 32)
    Path("dump.sql").write_text(
        ran(binaries() / "pg_dump", database.sandbox.role("app_service"), *ROWS_ALONE)
    )
    for step in STEPS:
        shown = run(*step.command.split(), *step.arguments, url=url(step.role).render_as_string())
        assert shown.returncode == step.returncode, (step, shown)
        assert step.says in shown.stdout + shown.stderr, (step, shown)
        if step.command == "provision":
            for role in ("app_migrator", "app_user", "app_service"):
                left_behind(url(role))


def test_doctor_asks_for_statements_that_are_not_prepared(
    database: Database, engine: Engine, pooler: URL
) -> None:
    ensure_ready(engine)
    ensure_ready(database.user)
    prepared = create_engine(pooler)
    (defect,) = doctor(prepared).defects
    prepared.dispose()  # a second examination on the same connection would prepare statements
    with pytest.raises(InstallationNotReady) as caught:
        ensure_ready(prepared)
    prepared.dispose()

    assert caught.value.check == "prepared statements are not shared in a pooler"
    assert defect.problem.startswith("the server is behind a pooler and statements are prepared")
    assert defect.remedy == 'create_engine(..., connect_args={"prepare_threshold": None})'


def test_prepared_statements_of_two_clients_collide(pooler: URL) -> None:
    """Two clients use the same names for their prepared statements."""
    info: dict[str, Any] = {"host": str(pooler.query["host"]), "port": str(pooler.query["port"])}
    info |= {"user": "app_user", "dbname": str(pooler.database)}
    with (
        psycopg.connect(**info, autocommit=True) as first,
        psycopg.connect(**info, autocommit=True) as second,
    ):
        first.execute("SELECT 1", prepare=True)

        with pytest.raises(psycopg.errors.DuplicatePreparedStatement):
            second.execute("SELECT 2", prepare=True)
