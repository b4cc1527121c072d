"""Migrations up and down. The schema equals definitions.txt."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import StringIO
from itertools import count
from pathlib import Path

import psycopg
import pytest
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.exc import ProgrammingError

from cogni_billing import (
    SYSTEM_TENANT_ID,
    Billing,
    InvalidInput,
    LedgerUnavailable,
    OutcomeUnknown,
    PrivilegeRequired,
)
from cogni_billing.adapters.postgres import (
    PostgresUnitOfWork,
    doctor,
    ensure_ready,
    migrate,
    migrations,
    provision,
    unmigrate,
)
from cogni_billing.adapters.postgres.operations import definitions
from cogni_billing.testing import ALICE, SteppingClock
from cogni_billing.testing.contracts.purchases import planned, post
from cogni_billing.testing.contracts.verifying import live
from cogni_billing.testing.racing import at_once
from stack.conftest import Clone, Database

VERSIONS = Path(migrations.__file__).parent / "versions"
OBJECTS = text("""
    SELECT 'relation ' || relname FROM pg_class
    WHERE relnamespace = to_regnamespace('cogni_billing')
    UNION ALL
    SELECT 'function ' || proname FROM pg_proc
    WHERE pronamespace = to_regnamespace('cogni_billing')
    UNION ALL
    SELECT 'grant ' || grantee::regrole::text || ' ' || privilege_type
    FROM pg_namespace, aclexplode(nspacl)
    WHERE nspname = 'cogni_billing' AND grantee <> nspowner
    ORDER BY 1
""")


def objects(database: Database) -> list[str]:
    with database.admin.connect() as connection:
        return list(connection.scalars(OBJECTS))


def test_upgrade_and_downgrade_repeat_from_an_empty_database(
    own_database: Database,
) -> None:
    installed = objects(own_database)

    unmigrate(own_database.migrator)
    removed = objects(own_database)
    migrate(own_database.migrator)

    assert removed == []
    assert objects(own_database) == installed
    assert doctor(own_database.user).ok


def defined(database: Database) -> frozenset[definitions.Definition]:
    with database.admin.connect() as connection:
        connection.execute(text("SET search_path = pg_catalog"))
        return definitions.found(connection)


def test_fresh_install_equals_all_upgrades(own_database: Database) -> None:
    fresh = defined(own_database)
    unmigrate(own_database.migrator)
    scripts = Config()
    scripts.set_main_option("script_location", str(VERSIONS.parent))

    for script in reversed(list(ScriptDirectory.from_config(scripts).walk_revisions())):
        migrate(own_database.migrator, script.revision)

    kinds = ("column", "constraint", "index", "sequence", "function")
    expected = frozenset[definitions.Definition]().union(*map(definitions.expected, kinds))
    assert defined(own_database) == fresh == expected
    assert doctor(own_database.user).ok


def test_a_downgrade_drops_recorded_money_too(own_database: Database) -> None:
    post(PostgresUnitOfWork(own_database.user), planned())

    unmigrate(own_database.migrator)
    migrate(own_database.migrator)

    assert own_database.totals() == {}


def test_upgrading_twice_changes_nothing(own_database: Database) -> None:
    post(PostgresUnitOfWork(own_database.user), planned())
    before = own_database.totals()

    migrate(own_database.migrator)

    assert own_database.totals() == before
    assert doctor(own_database.user).ok


def test_processes_that_migrate_together_take_turns(empty_database: Clone) -> None:
    admin = create_engine(empty_database.administrator)
    provision(admin)
    migrator = create_engine(empty_database.role("app_migrator"))
    user = create_engine(empty_database.role("app_user"))

    at_once([lambda: migrate(migrator)] * 4)

    ensure_ready(user)
    for engine in (admin, migrator, user):
        engine.dispose()


@pytest.mark.parametrize("level", ["AUTOCOMMIT", "SERIALIZABLE"])
def test_the_seed_survives_an_engine_of_any_isolation_level(
    empty_database: Clone, level: str
) -> None:
    """Without a transaction, the tenant would be unset before the rows are written."""
    admin = create_engine(empty_database.administrator, isolation_level=level)
    migrator = create_engine(empty_database.role("app_migrator"), isolation_level=level)
    user = create_engine(empty_database.role("app_user"))

    provision(admin)
    migrate(migrator)

    ensure_ready(user)
    for engine in (admin, migrator, user):
        engine.dispose()


def test_failed_migration_leaves_no_object(own_database: Database) -> None:
    unmigrate(own_database.migrator)
    with own_database.admin.begin() as connection:
        connection.execute(text("CREATE TABLE cogni_billing.arrivals ()"))

    with pytest.raises(LedgerUnavailable):
        migrate(own_database.migrator)

    assert objects(own_database) == ["relation arrivals"]


STEPS = 12


@pytest.mark.parametrize("step", range(STEPS + 1))
def test_a_migration_that_is_broken_off_starts_again(own_database: Database, step: int) -> None:
    """The session is terminated at the start, at the end, and at places between."""
    unmigrate(own_database.migrator)
    statements = counted(own_database)
    place = (statements - 1) * step // STEPS

    with broken_off(own_database, place), pytest.raises((LedgerUnavailable, OutcomeUnknown)):
        migrate(own_database.migrator)

    assert objects(own_database) == []
    migrate(own_database.migrator)
    assert doctor(own_database.user).ok
    post(PostgresUnitOfWork(own_database.user), planned())


def counted(database: Database) -> int:
    """Count the statements of a migration, including its COMMIT."""
    sent: list[object] = []
    with watched(database, sent.append):
        migrate(database.migrator)
    unmigrate(database.migrator)
    return len(sent)


@contextmanager
def watched(database: Database, before_each: Callable[[Connection], object]) -> Iterator[None]:
    """Pass the migrator's connection to *before_each* before each statement."""

    def statement(connection: Connection, *_: object) -> None:
        before_each(connection)

    for moment in ("before_cursor_execute", "commit"):
        event.listen(database.migrator, moment, statement)
    try:
        yield
    finally:
        for moment in ("before_cursor_execute", "commit"):
            event.remove(database.migrator, moment, statement)


@contextmanager
def broken_off(database: Database, place: int) -> Iterator[None]:
    sent = count()

    def terminate(connection: Connection) -> None:
        if next(sent) == place:
            driver = connection.connection.driver_connection
            assert isinstance(driver, psycopg.Connection)
            pid = {"pid": driver.info.backend_pid}
            with database.admin.connect() as admin:
                assert admin.scalar(text("SELECT pg_terminate_backend(:pid, 10000)"), pid)

    with watched(database, terminate):
        yield


def test_migration_keeps_every_row_of_a_populated_ledger(
    own_database: Database,
) -> None:
    """From every released revision. Migrating from the newest changes no row."""
    clock = SteppingClock()
    unit_of_work = PostgresUnitOfWork(own_database.user, service=own_database.service)
    billing = Billing(unit_of_work, clock=clock)
    live(billing, clock)
    before = own_database.totals()
    assert billing.verify().ok

    migrate(own_database.migrator)

    assert own_database.totals() == before
    assert billing.verify().ok


def test_every_revision_but_the_newest_has_a_ledger_to_start_from() -> None:
    """From the second revision on, a dump of a populated ledger at each earlier one is kept
    here.
    """
    revisions = {path.stem for path in VERSIONS.glob("[0-9]*.py")}
    dumps = {path.stem for path in (Path(__file__).parent / "released").glob("*.sql")}

    assert revisions - {max(revisions)} == dumps


def test_only_the_migrator_migrates(own_database: Database) -> None:
    for engine in (own_database.admin, own_database.user, own_database.service):
        with pytest.raises(PrivilegeRequired, match="connect as app_migrator"):
            migrate(engine)


def test_a_database_must_be_provisioned_first(empty_database: Clone) -> None:
    engine = create_engine(empty_database.administrator)

    with pytest.raises(LedgerUnavailable, match="run provision first"):
        migrate(engine)

    engine.dispose()


def test_the_seed_puts_back_the_context_it_found(own_database: Database) -> None:
    setting = "SELECT current_setting('app.current_user_id', true)"
    with own_database.migrator.begin() as connection:
        connection.execute(
            text("SELECT set_config('app.current_user_id', :t, true)"), {"t": str(ALICE)}
        )
        connection.execute(text("SELECT cogni_billing.seed_system_tenant()"))

        assert connection.scalar(text(setting)) == str(ALICE)


def test_the_seed_is_idempotent(own_database: Database) -> None:
    count = text("SELECT count(*) FROM cogni_billing.wallets WHERE tenant_id = :t")
    with own_database.migrator.begin() as connection:
        connection.execute(text("SELECT cogni_billing.seed_system_tenant()"))
    with own_database.admin.connect() as connection:
        assert connection.scalar(count, {"t": SYSTEM_TENANT_ID}) == 1


class TestHostsOwnEnvironment:
    """A host's own Alembic project, as `alembic init` and the documentation create it."""

    REVISION = (
        "from alembic import op\n"
        "from cogni_billing.adapters.postgres import migrate, unmigrate\n"
        "revision, down_revision, branch_labels, depends_on = 'host_1', None, None, None\n"
        "def upgrade():\n"
        "    migrate(op.get_bind())\n"
        "    op.execute('CREATE TABLE host.orders (id uuid)')\n"
        "def downgrade():\n"
        "    op.drop_table('orders', schema='host')\n"
        "    unmigrate(op.get_bind())\n"
    )

    @pytest.fixture
    def shop(self, empty_database: Clone) -> Iterator[Clone]:
        """Create a database with a closed schema `public`, and a schema of the host's."""
        admin = create_engine(empty_database.administrator)
        provision(admin)
        with admin.begin() as connection:
            connection.execute(text("REVOKE CREATE ON SCHEMA public FROM PUBLIC"))
            connection.execute(text("CREATE SCHEMA host AUTHORIZATION app_migrator"))
        yield empty_database
        admin.dispose()

    @pytest.fixture
    def config(self, tmp_path: Path, shop: Clone) -> Config:
        config = Config(tmp_path / "alembic.ini", stdout=StringIO())
        command.init(config, str(tmp_path / "host"))
        url = shop.role("app_migrator").render_as_string(hide_password=False)
        config.set_main_option("sqlalchemy.url", url.replace("%", "%%"))
        environment = tmp_path / "host" / "env.py"
        written = environment.read_text().replace("= None", "= MetaData()")
        environment.write_text(
            "from sqlalchemy import MetaData\n"
            "from cogni_billing.adapters.postgres import include_object\n"
            + written.replace(
                "connection=connection, target_metadata=target_metadata",
                "connection=connection, target_metadata=target_metadata, include_schemas=True,"
                " include_object=include_object, version_table_schema='host'",
            )
        )
        assert "include_object=include_object" in environment.read_text()
        (tmp_path / "host" / "versions" / "host_1.py").write_text(self.REVISION)
        return config

    def test_revision_of_the_host_migrates_the_ledger_and_drops_it(
        self, shop: Clone, config: Config
    ) -> None:
        admin = create_engine(shop.administrator)
        user = create_engine(shop.role("app_user"))

        command.upgrade(config, "head")
        ensure_ready(user)
        command.downgrade(config, "base")

        with admin.connect() as connection:
            assert list(connection.scalars(OBJECTS)) == []
        for engine in (admin, user):
            engine.dispose()

    def test_new_revision_is_the_hosts_and_drops_no_ledger(
        self, tmp_path: Path, shop: Clone, config: Config
    ) -> None:
        command.upgrade(config, "head")
        packaged = sorted(VERSIONS.iterdir())

        command.revision(config, "more", autogenerate=True)

        (made,) = (tmp_path / "host" / "versions").glob("*_more.py")
        assert "cogni_billing" not in made.read_text()
        assert "drop_table('orders'" in made.read_text()  # the host's metadata lacks it
        assert sorted(VERSIONS.iterdir()) == packaged
        assert len(ScriptDirectory.from_config(config).get_heads()) == 1

    def test_migration_that_fails_undoes_the_hosts_part_and_the_ledgers(
        self, tmp_path: Path, shop: Clone, config: Config
    ) -> None:
        broken = self.REVISION.replace("host.orders (id", "nowhere.orders (id")
        (tmp_path / "host" / "versions" / "host_1.py").write_text(broken)
        admin = create_engine(shop.administrator)

        with pytest.raises(ProgrammingError):
            command.upgrade(config, "head")

        with admin.connect() as connection:
            assert list(connection.scalars(OBJECTS)) == []
        admin.dispose()

    def test_connection_gets_its_role_and_its_timeout_back(self, shop: Clone) -> None:
        admin = create_engine(shop.administrator)
        with admin.begin() as connection:
            connection.execute(text("SET LOCAL lock_timeout = '7s'"))
            before = connection.execute(text("SELECT current_user, session_user")).one()
            migrate(connection)
            assert connection.execute(text("SELECT current_user, session_user")).one() == before
            assert connection.scalar(text("SHOW lock_timeout")) == "7s"
        admin.dispose()

    @pytest.mark.parametrize("given", [None, "postgresql://", object()])
    def test_target_that_is_no_connection_is_refused(self, given: Engine) -> None:
        with pytest.raises(InvalidInput, match="an Engine, or a Connection"):
            migrate(given)

    def test_connection_without_a_transaction_is_refused(self, database: Database) -> None:
        with database.migrator.connect() as connection, pytest.raises(InvalidInput):
            unmigrate(connection)


def test_connection_that_autocommits_is_refused(own_database: Database) -> None:
    engine = own_database.migrator.execution_options(isolation_level="AUTOCOMMIT")
    with (
        engine.connect() as connection,
        connection.begin(),
        pytest.raises(InvalidInput, match="one that autocommits"),
    ):
        unmigrate(connection)

    ensure_ready(own_database.user)


def test_revision_that_does_not_exist_is_refused(database: Database) -> None:
    with pytest.raises(InvalidInput) as caught:
        migrate(database.migrator, "nonsense")
    assert caught.value.field == "revision"
