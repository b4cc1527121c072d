"""One scenario under each setting of a host, its database or its environment.

Each setting either changes no result, or causes an error that names it.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from decimal import Decimal
from typing import Any
from uuid import UUID

import psycopg
import pytest
from attrs import field, frozen
from psycopg.adapt import AdaptersMap, Dumper, Loader
from psycopg.rows import dict_row
from psycopg.types.string import StrDumper
from sqlalchemy import URL, Engine, NullPool, StaticPool, create_engine, text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import AsyncAdaptedQueuePool, QueuePool, SingletonThreadPool

from cogni_billing import AsyncBilling, Billing, BillingError, InvalidInput, credits, usd
from cogni_billing.adapters.postgres import (
    AsyncPostgresUnitOfWork,
    PostgresUnitOfWork,
    doctor,
    doctor_async,
    migrate,
    provision,
    trial_balance,
)
from cogni_billing.adapters.postgres.operations.sandbox import Sandbox
from cogni_billing.adapters.postgres.scopes import PostgresScope
from cogni_billing.testing import blocking
from cogni_billing.testing.base import ALICE, NOON
from stack.conftest import Clone, Database, created
from stack.support.command import Run

METADATA = {"note": "d\u00e9j\u00e0", "weight": 1.5, "path": 'C:\\new "x"'}


class AsBytes(Loader):
    def load(self, data: Any) -> Any:
        return bytes(data)


class AsFloat(Loader):
    def load(self, data: Any) -> Any:
        return float(bytes(data))


class AsText(Loader):
    def load(self, data: Any) -> Any:
        return bytes(data).decode()


class AsJson(Dumper):
    oid = psycopg.adapters.types["jsonb"].oid

    def dump(self, obj: Any) -> bytes:
        return json.dumps(obj, default=str).encode()


def adapted(*registered: tuple[str | type, Any]) -> dict[str, Any]:
    """Build engine arguments with these loaders (by type name) and dumpers (by class)."""
    adapters = AdaptersMap(psycopg.adapters)
    for key, adapter in registered:
        if isinstance(key, str):
            adapters.register_loader(key, adapter)
        else:
            adapters.register_dumper(key, adapter)
    return {"connect_args": {"context": adapters}}


@frozen
class Setting:
    """A setting: its place, and the expected error, if any."""

    database: tuple[str, ...] = ()
    """Settings of the database, which apply to each role."""
    engine: Mapping[str, Any] = field(factory=dict)
    """Arguments of each engine."""
    environment: Mapping[str, str] = field(factory=dict)
    encoding: str = "UTF8"
    refused: str | None = None
    defects: int = 0
    """The number of defects of `doctor`."""


READ_ONLY = "set default_transaction_read_only to off"
OPTIONS: dict[str, Any] = {"autocommit": {"isolation_level": "AUTOCOMMIT"}}
SETTINGS: dict[str, Setting] = {
    # The text of values
    "datestyle German": Setting(("datestyle = 'German, DMY'",)),
    "datestyle SQL": Setting(("datestyle = 'SQL, MDY'",)),
    "intervalstyle": Setting(("intervalstyle = 'sql_standard'",)),
    "timezone": Setting(("timezone = 'Asia/Kathmandu'",)),
    "timezone without a name": Setting(("timezone = '<+05>-05:17'",)),
    "timezone of a hundred hours": Setting(("timezone = '<x>-100'",)),
    "bytea_output": Setting(("bytea_output = 'escape'",)),
    "extra_float_digits": Setting(("extra_float_digits = -15",)),
    "lc_numeric and lc_time": Setting(("lc_numeric = 'C.utf8'", "lc_time = 'C.utf8'")),
    "quote_all_identifiers": Setting(("quote_all_identifiers = on",)),
    # The meaning of statements
    "standard_conforming_strings": Setting(
        ("standard_conforming_strings = off", "backslash_quote = on", "escape_string_warning = off")
    ),
    "array_nulls": Setting(("array_nulls = off",)),
    "transform_null_equals": Setting(("transform_null_equals = on",)),
    "check_function_bodies": Setting(("check_function_bodies = off",)),
    "search_path": Setting(("search_path = 'nowhere, public, pg_catalog'",)),
    "row_security": Setting(("row_security = off",), defects=1),
    "generic plans": Setting(("plan_cache_mode = force_generic_plan",)),
    "custom plans": Setting(("plan_cache_mode = force_custom_plan",)),
    # Transactions
    "read uncommitted": Setting(("default_transaction_isolation = 'read uncommitted'",)),
    "repeatable read": Setting(("default_transaction_isolation = 'repeatable read'",)),
    "serializable": Setting(
        ("default_transaction_isolation = 'serializable'", "default_transaction_deferrable = on")
    ),
    "read only": Setting(("default_transaction_read_only = on",), refused=READ_ONLY),
    "statement_timeout": Setting(("statement_timeout = 1",), refused="raise statement_timeout"),
    "lock_timeout": Setting(("lock_timeout = 1",)),
    # Encodings
    "database in LATIN1": Setting(encoding="LATIN1", refused="ENCODING 'UTF8'"),
    "database in SQL_ASCII": Setting(encoding="SQL_ASCII", refused="client_encoding to utf8"),
    "database in SQL_ASCII, client in UTF-8": Setting(
        encoding="SQL_ASCII", engine={"client_encoding": "utf8"}, refused="ENCODING 'UTF8'"
    ),
    "client in LATIN1": Setting(environment={"PGCLIENTENCODING": "LATIN1"}),
    "client in SQL_ASCII": Setting(
        environment={"PGCLIENTENCODING": "SQL_ASCII"}, refused="client_encoding to utf8"
    ),
    # The environment of libpq
    "PGHOST, PGPORT and others": Setting(
        environment={
            "PGHOST": "nowhere.invalid",
            "PGPORT": "1",
            "PGUSER": "nobody",
            "PGDATABASE": "none",
            "PGAPPNAME": "the host's",
            "PGTARGETSESSIONATTRS": "read-write",
            "PGTZ": "Asia/Kathmandu",
            "PGDATESTYLE": "German",
        }
    ),
    "PGOPTIONS": Setting(environment={"PGOPTIONS": "-c search_path=x -c lock_timeout=5s"}),
    "PGOPTIONS, read only": Setting(
        environment={"PGOPTIONS": "-c default_transaction_read_only=on"}, refused=READ_ONLY
    ),
    "PGTARGETSESSIONATTRS": Setting(
        environment={"PGTARGETSESSIONATTRS": "standby"}, refused="not in hot standby mode"
    ),
    "PGSERVICE": Setting(
        environment={"PGSERVICE": "none"}, refused='definition of service "none" not found'
    ),
    # Engines
    "SERIALIZABLE": Setting(engine={"isolation_level": "SERIALIZABLE"}),
    "REPEATABLE READ": Setting(
        engine={"execution_options": {"isolation_level": "REPEATABLE READ"}}
    ),
    "AUTOCOMMIT": Setting(engine={"isolation_level": "AUTOCOMMIT"}),
    "AUTOCOMMIT by an option": Setting(
        engine={"execution_options": OPTIONS["autocommit"]},
        refused="remove its isolation_level AUTOCOMMIT",
    ),
    "postgresql_readonly": Setting(
        engine={"execution_options": {"postgresql_readonly": True}}, refused=READ_ONLY
    ),
    "postgresql_deferrable": Setting(engine={"execution_options": {"postgresql_deferrable": True}}),
    "stream_results": Setting(engine={"execution_options": {"stream_results": True}}),
    "yield_per": Setting(engine={"execution_options": {"yield_per": 1}}),
    "echo": Setting(engine={"echo": True, "hide_parameters": True, "query_cache_size": 0}),
    "NullPool": Setting(engine={"poolclass": NullPool}),
    "QueuePool": Setting(engine={"poolclass": QueuePool, "pool_reset_on_return": None}),
    "StaticPool": Setting(engine={"poolclass": StaticPool}, refused="poolclass=StaticPool"),
    "SingletonThreadPool": Setting(
        engine={"poolclass": SingletonThreadPool}, refused="poolclass=SingletonThreadPool"
    ),
    "paramstyle format": Setting(engine={"paramstyle": "format"}),
    "paramstyle qmark": Setting(engine={"paramstyle": "qmark"}, refused="paramstyle='qmark'"),
    "json_deserializer": Setting(
        engine={"json_deserializer": lambda _: "other", "json_serializer": lambda _: "other"}
    ),
    # Adapters and factories of psycopg
    "loaders": Setting(
        engine=adapted(
            ("json", AsText),
            ("numeric", AsFloat),
            ("int8", AsText),
            ("int4", AsText),
            ("timestamptz", AsText),
            ("uuid", AsText),
            ("bool", AsText),
        )
    ),
    "dumpers": Setting(
        engine=adapted((str, StrDumper), (UUID, AsJson), (list, AsJson), (Decimal, AsJson))
    ),
    "loader of text": Setting(engine=adapted(("text", AsBytes)), refused="client_encoding to utf8"),
    "ClientCursor": Setting(engine={"connect_args": {"cursor_factory": "ClientCursor"}}),
    "RawCursor": Setting(
        engine={"connect_args": {"cursor_factory": "RawCursor"}}, refused="leave cursor_factory"
    ),
    "row_factory": Setting(
        engine={"connect_args": {"row_factory": dict_row}}, refused="and row_factory"
    ),
}
FIGURES = {
    "credited": 100_000_000,
    "share": 25_000_000,
    "lines": [(-40_000_000, 59_995_700), (-3100, 99_995_700), (-1200, 99_998_800)],
    "as of the charge": 99_998_800,
    "posted": 59_995_700,
    "held": 0,
    "metadata": METADATA,
    "folded": 6,
    "verified": (4, 10),
}


def figures(billing: Billing) -> dict[str, object]:
    """Return the results of a purchase with a share, charge, hold, capture, refund and all
    reports.
    """
    receipt = billing.confirm_purchase(
        ALICE, usd("10.00"), payment="stripe:pi_1", metadata=METADATA
    )
    billing.charge(ALICE, credits(1200), reference="run-1")
    hold = billing.hold(ALICE, credits(5000), reference="run-2")
    billing.capture(ALICE, hold.id, credits(3100), reference="run-2")
    billing.refund(ALICE, payment="stripe:pi_1", amount=usd("4.00"), reference="re_1")
    *lines, _ = billing.statement(ALICE).lines
    balance = billing.balance(ALICE)
    found = billing.find(ALICE, reference="stripe:pi_1", kind="purchase")
    assert found is not None
    billing.sweep()
    folded = billing.fold()
    verification = billing.verify()
    assert verification.violations == ()
    return {
        "credited": receipt.credited.value,
        "share": receipt.shares[0].amount.value,
        "lines": [(line.amount.value, line.balance_after.value) for line in lines],
        "as of the charge": billing.balance(ALICE, at=lines[-1].at).posted.value,
        "posted": balance.posted.value,
        "held": balance.held.value,
        "metadata": found.metadata,
        "folded": folded.lines,
        "verified": (verification.transactions, verification.postings),
    }


@contextmanager
def set_up(sandbox: Sandbox, setting: Setting) -> Iterator[Clone]:
    """Create an empty database under *setting*."""
    with created(sandbox, f"ENCODING '{setting.encoding}' LOCALE 'C' TEMPLATE template0") as clone:
        admin = create_engine(clone.administrator)
        with admin.begin() as connection:
            for each in setting.database:
                connection.exec_driver_sql(f"ALTER DATABASE {clone.name} SET {each}")
        admin.dispose()
        yield clone


@contextmanager
def engines(clone: Clone, setting: Setting) -> Iterator[Callable[[str], Engine]]:
    """Return a function that creates an engine of a role under *setting*."""
    made: list[Engine] = []

    def engine(role: str) -> Engine:
        made.append(create_engine(bare(clone, role), **arguments(setting, "")))
        return made[-1]

    yield engine
    for each in made:
        each.dispose()


def bare(clone: Clone, role: str) -> URL:
    """Return the URL of a role, without the sandbox's protection against the environment."""
    url = clone.administrator if role == "postgres" else clone.role(role)
    return url.difference_update_query(["client_encoding", "target_session_attrs"])


def arguments(setting: Setting, kind: str) -> dict[str, Any]:
    """Return the arguments of an engine. *kind* is "Async" or empty."""
    given = dict(setting.engine)
    given["connect_args"] = connect_args = dict(given.get("connect_args", {}))
    if "cursor_factory" in connect_args:
        name: str = connect_args["cursor_factory"]
        connect_args["cursor_factory"] = getattr(psycopg, kind + name)
    if kind and given.get("poolclass") is QueuePool:
        given["poolclass"] = AsyncAdaptedQueuePool
    return given


def installed_and_run(engine: Callable[[str], Engine]) -> dict[str, object]:
    """Install, examine and use the ledger."""
    for _ in range(2):
        provision(engine("postgres"), test_database=True)
        migrate(engine("app_migrator"))
    unit_of_work = PostgresUnitOfWork(engine("app_user"), service=engine("app_service"))
    found = figures(Billing(unit_of_work))
    assert trial_balance(engine("app_service")).total == credits(0)
    return found


@pytest.mark.parametrize("name", SETTINGS)
def test_setting_changes_no_figure_or_is_named(
    billing_database: Sandbox, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    setting = SETTINGS[name]
    with set_up(billing_database, setting) as clone, engines(clone, setting) as engine:
        for variable, value in setting.environment.items():
            monkeypatch.setenv(variable, value)
        if setting.refused is None:
            assert installed_and_run(engine) == FIGURES
            assert len(doctor(engine("app_user")).defects) == setting.defects
        else:
            with pytest.raises(BillingError, match=re.escape(setting.refused)):
                installed_and_run(engine)
        monkeypatch.undo()


@pytest.mark.parametrize("name", [name for name, each in SETTINGS.items() if not each.refused])
def test_setting_changes_no_figure_of_awaited_calls(
    billing_database: Sandbox,
    monkeypatch: pytest.MonkeyPatch,
    loop: asyncio.AbstractEventLoop,
    name: str,
) -> None:
    setting = SETTINGS[name]

    async def made(url: URL) -> AsyncEngine:
        return create_async_engine(url, **arguments(setting, "Async"))

    def waited(coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, loop).result()

    with set_up(billing_database, setting) as clone:
        clone.install(test_database=True)
        for variable, value in setting.environment.items():
            monkeypatch.setenv(variable, value)
        user, service = (waited(made(bare(clone, role))) for role in ("app_user", "app_service"))
        billing = AsyncBilling(AsyncPostgresUnitOfWork(user, service=service))

        found = figures(blocking(billing, loop))
        report = waited(doctor_async(user))

        for engine in (user, service):
            waited(engine.dispose())
        monkeypatch.undo()
    assert found == FIGURES
    assert len(report.defects) == setting.defects


COMMANDS = (
    ("balance", str(ALICE)),
    ("purchase", str(ALICE), "10.00", "--payment", "stripe:pi_1"),
    ("doctor",),
)


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
def test_command_works_in_the_environment_of_a_host(
    unit_of_work: PostgresUnitOfWork,
    run: Run,
    database: Database,
    monkeypatch: pytest.MonkeyPatch,
    command: tuple[str, ...],
) -> None:
    Billing(unit_of_work).open_account(ALICE)
    url = database.sandbox.role("app_user").difference_update_query(["client_encoding"])
    monkeypatch.setenv("PGCLIENTENCODING", "SQL_ASCII")
    monkeypatch.setenv("PGDATESTYLE", "German")
    monkeypatch.setenv("PGOPTIONS", "-c quote_all_identifiers=on -c search_path=x")

    assert run(*command, url=url.render_as_string(hide_password=False)).returncode == 0


class TestHostConnections:
    """Connections of the host, with adapters that return or send other types."""

    @contextmanager
    def connected(self, sandbox: Sandbox, **arguments: Any) -> Iterator[psycopg.Connection[Any]]:
        url = sandbox.role("app_user").set(drivername="postgresql")
        conninfo = url.render_as_string(hide_password=False)
        with psycopg.connect(conninfo, **arguments) as connection:
            yield connection
            connection.rollback()

    @pytest.mark.parametrize("name", ["loaders", "dumpers"])
    def test_adapters_of_the_host_change_no_figure(self, database: Database, name: str) -> None:
        context = SETTINGS[name].engine["connect_args"]["context"]
        with self.connected(database.sandbox, context=context) as connection:
            billing = Billing(PostgresUnitOfWork.joining(connection))
            receipt = billing.confirm_purchase(ALICE, usd("10.00"), payment="stripe:pi_1")
            lines = billing.statement(ALICE).lines

        assert receipt.balance == credits(100_000_000)
        assert [line.balance_after for line in lines] == [credits(100_000_000)]

    def test_connection_in_sql_ascii_is_refused(self, database: Database) -> None:
        with (
            self.connected(database.sandbox, client_encoding="SQL_ASCII") as connection,
            pytest.raises(InvalidInput, match="expected client_encoding=UTF8"),
        ):
            PostgresUnitOfWork.joining(connection)

    def test_host_has_its_own_cursors_again_after_a_call(self, database: Database) -> None:
        class Own(psycopg.Cursor[Any]):
            pass

        arguments = {"connect_args": {"cursor_factory": Own}}
        engine = create_engine(database.sandbox.role("app_user"), **arguments)
        with engine.connect() as connection:
            connection.execute(text("SELECT 1"))
            Billing(PostgresUnitOfWork.joining(connection)).open_account(ALICE)
            driver: Any = connection.connection.driver_connection
            connection.rollback()
        engine.dispose()

        assert driver.cursor_factory is Own
        assert driver.server_cursor_factory is psycopg.ServerCursor


BACKENDS = text("""
    SELECT count(*) FROM pg_stat_activity WHERE usename = 'app_user' AND datname = :name
""")


def wait_until_gone(database: Database) -> None:
    """Wait until the server has ended each session of app_user."""
    with database.admin.connect() as admin:
        while admin.scalar(BACKENDS, {"name": database.sandbox.administrator.database}):
            admin.rollback()


@contextmanager
def timed(database: Database, setting: str) -> Iterator[PostgresUnitOfWork]:
    """Build a unit of work with sessions that end after 50 milliseconds of *setting*."""
    options = {"options": f"-c {setting}=50"}
    engine = create_engine(database.sandbox.role("app_user"), connect_args=options)
    yield PostgresUnitOfWork(engine)
    engine.dispose()


def test_scope_that_idles_for_too_long_names_the_setting(own_database: Database) -> None:
    def work(scope: PostgresScope) -> None:
        scope.tenants.open_account(NOON)
        wait_until_gone(own_database)
        scope.tenants.account()

    with (
        timed(own_database, "idle_in_transaction_session_timeout") as unit_of_work,
        pytest.raises(BillingError, match="idle_in_transaction_session_timeout"),
    ):
        unit_of_work.run(ALICE, work)


def test_session_that_idled_for_too_long_is_replaced(own_database: Database) -> None:
    with timed(own_database, "idle_session_timeout") as unit_of_work:
        billing = Billing(unit_of_work)
        account = billing.open_account(ALICE)
        wait_until_gone(own_database)
        receipt = billing.confirm_purchase(ALICE, usd("1.00"), payment="stripe:pi_1")
        wait_until_gone(own_database)
        found = unit_of_work.run(ALICE, lambda scope: scope.tenants.account())

    assert not receipt.replayed
    assert found == account
