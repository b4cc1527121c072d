"""Administration without SUPERUSER, as on managed PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from attrs import frozen
from sqlalchemy import URL, Engine, create_engine, text

from cogni_billing import (
    SYSTEM_TENANT_ID,
    Billing,
    InsufficientCredits,
    PrivilegeRequired,
    credits,
    usd,
)
from cogni_billing.adapters.postgres import (
    PostgresUnitOfWork,
    Roles,
    doctor,
    ensure_ready,
    migrate,
    provision,
    provision_sql,
    repair,
    reset,
    restore,
    sign_contexts,
    trial_balance,
    unmigrate,
)
from cogni_billing.adapters.postgres.embedded.server import Server, bundled_binaries
from cogni_billing.adapters.postgres.operations.blueprint import LEDGER
from cogni_billing.adapters.postgres.operations.roles import quoted
from cogni_billing.adapters.postgres.operations.sandbox import Sandbox
from cogni_billing.testing import SteppingClock
from cogni_billing.testing.base import ALICE, BOB
from cogni_billing.testing.contracts.verifying import live
from stack.conftest import opened
from stack.support.dumps import ROWS_ALONE, ran
from stack.test_dump import assert_carried_over, lived

WITH_SPENDER = Roles(spender="app_spender")
BINARIES = [bundled_binaries(), *sorted(Path("/usr/lib/postgresql").glob("*/bin"))]
OPTIONS_SINCE = 160_000


@frozen
class Managed(Sandbox):
    """A database that an administrator without SUPERUSER created, on a server of its own."""

    server: Server
    binaries: Path
    database: str
    owner: str = "boss"

    @property
    def administrator(self) -> URL:
        return self.role(self.owner)

    def role(self, name: str) -> URL:
        return URL.create(
            "postgresql+psycopg",
            username=name,
            database=self.database,
            query={"host": str(self.server.socket_dir), "port": str(self.server.port)},
        )

    def run(self, role: str, statement: str) -> None:
        """Run one statement as a role."""
        engine = create_engine(self.role(role), isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.execute(text(statement))
        engine.dispose()

    def another(self, name: str, owner: str = "boss") -> Managed:
        """Create another database of an administrator."""
        self.run(owner, f"CREATE DATABASE {name}")
        return Managed(self.server, self.binaries, name, owner)


@pytest.fixture(params=BINARIES, ids=lambda path: "-".join(path.parts[-2:]))
def managed(request: pytest.FixtureRequest) -> Iterator[Managed]:
    server = Server(bin_dir=request.param, in_memory=True)
    server.start()
    try:
        made = Managed(server, request.param, "postgres")
        for name in ("boss", "deputy"):
            made.run("postgres", f"CREATE ROLE {name} LOGIN CREATEROLE CREATEDB")
        yield made.another("shop")
    finally:
        server.stop()


def installed(sandbox: Managed, roles: Roles | None = None, *, test_database: bool = False) -> None:
    """Provision and migrate, each as its own role."""
    for role, install in (
        (sandbox.owner, lambda engine: provision(engine, roles, test_database=test_database)),
        ("app_migrator", migrate),
    ):
        engine = create_engine(sandbox.role(role))
        install(engine)
        engine.dispose()


def memberships(engine: Engine) -> list[tuple[str, str]]:
    with engine.connect() as connection:
        return [
            (row.role, row.member)
            for row in connection.execute(
                text("""
                    SELECT roleid::regrole::text AS role, membership.member::regrole::text
                    FROM pg_auth_members AS membership
                    WHERE roleid >= 16384
                      AND coalesce((to_jsonb(membership) ->> 'set_option')::boolean, true)
                    ORDER BY 1, 2
                """)
            )
        ]


def test_printed_sql_equals_provisioning(managed: Managed) -> None:
    admin = create_engine(managed.administrator, isolation_level="AUTOCOMMIT")
    ours = text("SELECT rolname FROM pg_roles WHERE rolname ~ '^(app|cogni)_'")
    printed = provision_sql(admin, WITH_SPENDER)
    with admin.connect() as connection:
        assert connection.scalars(ours).all() == []
        connection.exec_driver_sql(printed)

    assert provision_sql(admin, WITH_SPENDER) == ""
    admin.dispose()
    installed(managed, WITH_SPENDER)
    with opened(managed) as shop:
        ensure_ready(shop.spender)


def test_the_whole_life_of_a_ledger_needs_no_superuser(managed: Managed) -> None:
    installed(managed, WITH_SPENDER)
    with opened(managed) as shop:
        for engine in (shop.user, shop.spender):
            ensure_ready(engine)
        billing = Billing(PostgresUnitOfWork(shop.user, service=shop.service))
        spending = Billing(PostgresUnitOfWork(shop.spender))
        lived(billing)
        assert spending.charge(ALICE, credits(2), reference="s1").charged == credits(2)
        with pytest.raises(InsufficientCredits):
            spending.charge(ALICE, credits(10**12), reference="s2")
        with pytest.raises(PrivilegeRequired):
            spending.confirm_purchase(ALICE, usd("1.00"), payment="stripe:forged")
        billing.lose_dispute(BOB, payment=f"stripe:{BOB}", reference="d1")
        billing.sweep()
        billing.fold()
        assert billing.verify().ok
        assert trial_balance(shop.service).total == credits(0)
        assert billing.balance(SYSTEM_TENANT_ID).posted > credits(0)

        dumped = ran(managed.binaries / "pg_dump", managed.role("app_service"), *ROWS_ALONE)
        second = managed.another("second")
        installed(second, WITH_SPENDER)
        with opened(second) as restored:
            restore(restored.migrator, dumped.splitlines(keepends=True))
            assert_carried_over(shop, restored)


def test_every_kind_of_transaction_is_recorded_and_verified(managed: Managed) -> None:
    installed(managed, test_database=True)
    with opened(managed) as shop:
        clock = SteppingClock()
        billing = Billing(PostgresUnitOfWork(shop.user, service=shop.service), clock=clock)

        live(billing, clock)
        clock.moment += timedelta(days=400)
        billing.sweep()
        billing.fold()

        assert billing.verify().ok
        reset(shop.migrator)
        assert doctor(shop.user).ok


def test_installing_again_and_changing_the_spender_leave_no_membership(managed: Managed) -> None:
    installed(managed)
    expected = [("cogni_billing_keeper", "app_migrator")]
    with opened(managed) as shop:
        for roles in (Roles(), WITH_SPENDER, Roles(spender="Ann's"), Roles(), WITH_SPENDER):
            provision(shop.admin, roles)
            assert memberships(shop.admin) == expected
            assert doctor(shop.user).defects == ()
        assert doctor(shop.spender).defects == ()
        repair(shop.migrator)
        sign_contexts(shop.migrator, [b"k" * 32])
        assert doctor(shop.user, signing_key=b"k" * 32).defects == ()
        unmigrate(shop.migrator)
        migrate(shop.migrator)
        assert doctor(shop.spender).defects == ()


def test_error_names_the_statement_that_another_administrator_must_run(
    managed: Managed,
) -> None:
    installed(managed)
    other = managed.another("other", "deputy")
    deputy = create_engine(other.administrator)
    with deputy.connect() as connection:
        version = connection.execute(text("SHOW server_version_num")).scalar_one()

    expected: list[str] = []
    if int(version) >= OPTIONS_SINCE:  # before 16, CREATEROLE administers every role
        with pytest.raises(PrivilegeRequired, match='GRANT "app_migrator" TO "deputy"'):
            provision(deputy)
        managed.run("boss", "GRANT app_migrator TO deputy")
        expected = ["deputy is a member of app_migrator"]
    deputy.dispose()
    installed(other)

    with opened(other) as database:
        assert [found.problem for found in doctor(database.user).defects] == expected


def test_administrator_without_createrole_provisions_existing_roles(managed: Managed) -> None:
    installed(managed)
    managed.run("boss", "CREATE ROLE owner LOGIN CREATEDB")
    managed.run("boss", "GRANT app_migrator TO owner")
    other = managed.another("other", "owner")

    installed(other)

    with opened(other) as database:
        (defect,) = doctor(database.user).defects
        assert defect.problem == "owner is a member of app_migrator"
        managed.run("boss", defect.remedy)
        assert doctor(database.user).ok


def test_owners_are_corrected_by_provision_and_by_the_sql_that_it_prints(managed: Managed) -> None:
    installed(managed)
    with opened(managed) as shop:
        for correct in (provision, lambda engine: managed.run("boss", provision_sql(engine))):
            for misowned in ("TABLE cogni_billing.holds", "FUNCTION cogni_billing.act(uuid, text)"):
                managed.run("postgres", f"ALTER {misowned} OWNER TO boss")
            assert not doctor(shop.user).ok

            correct(shop.admin)

            assert doctor(shop.user).ok
            assert memberships(shop.admin) == [("cogni_billing_keeper", "app_migrator")]


def test_an_owner_that_the_administrator_may_not_change_is_named(managed: Managed) -> None:
    installed(managed)
    managed.run("postgres", "ALTER TABLE cogni_billing.holds OWNER TO postgres")
    remedy = 'ALTER TABLE cogni_billing.holds OWNER TO "app_migrator"'

    with opened(managed) as shop:
        with pytest.raises(PrivilegeRequired, match=remedy):
            provision(shop.admin)
        managed.run("postgres", remedy)
        assert doctor(shop.user).ok


def test_a_function_that_is_not_the_librarys_is_given_to_no_role(managed: Managed) -> None:
    installed(managed)
    managed.run(
        "postgres",
        "CREATE FUNCTION cogni_billing.spend(uuid) RETURNS int LANGUAGE sql AS 'SELECT 1'",
    )
    owner = "SELECT proowner::regrole::text FROM pg_proc WHERE proname = 'spend' AND pronargs = 1"

    with opened(managed) as shop:
        provision(shop.admin)

        assert next(found.problem for found in doctor(shop.user).defects) == (
            "function spend is unknown"
        )
        with shop.admin.connect() as connection:
            assert connection.scalar(text(owner)) == "postgres"


def test_superuser_revokes_bypassrls(managed: Managed) -> None:
    installed(managed)
    with opened(managed) as shop:
        managed.run("postgres", "ALTER ROLE app_service BYPASSRLS")
        remedy = f"ALTER ROLE {quoted('app_service')} NOBYPASSRLS"

        with pytest.raises(PrivilegeRequired, match=remedy):
            provision(shop.admin)
        (defect,) = doctor(shop.user).defects
        managed.run("postgres", defect.remedy)

        assert defect.remedy == remedy
        provision(shop.admin)
        assert doctor(shop.user).ok


def test_a_dump_of_a_role_that_sees_no_rows_is_refused_by_restore(managed: Managed) -> None:
    """The user has no privilege on tables, and the owner is bound by FORCE."""
    installed(managed)
    with opened(managed) as shop:
        lived(Billing(PostgresUnitOfWork(shop.user, service=shop.service)))
    pg_dump = managed.binaries / "pg_dump"

    with pytest.raises(Exception, match="returned non-zero"):
        ran(pg_dump, managed.role("app_user"), *ROWS_ALONE)
    without = [option for option in ROWS_ALONE if option != "--enable-row-security"]
    with pytest.raises(Exception, match="returned non-zero"):
        ran(pg_dump, managed.role("app_service"), *without)


@pytest.mark.parametrize("role", ["app_user", "app_spender", "app_service"])
def test_no_serving_role_reads_a_table_or_dumps(managed: Managed, role: str) -> None:
    installed(managed, WITH_SPENDER)
    engine = create_engine(managed.role(role))
    with engine.connect() as connection:
        may = connection.execute(
            text("""
                SELECT count(*) FILTER (WHERE has_table_privilege(oid, 'SELECT')),
                    count(*) FILTER (
                        WHERE has_table_privilege(oid, 'INSERT, UPDATE, DELETE, TRUNCATE'))
                FROM pg_class
                WHERE relnamespace = 'cogni_billing'::regnamespace AND relkind = 'r'
            """)
        ).one()
    engine.dispose()

    assert tuple(may) == (len(LEDGER) if role == "app_service" else 0, 0)


def test_own_database_takes_a_superuser(managed: Managed) -> None:
    ordinary, superuser = (create_engine(managed.role(role)) for role in ("boss", "postgres"))
    with pytest.raises(PrivilegeRequired, match='SET LOCAL ROLE "postgres"'):
        provision(ordinary, own_database=True)
    provision(superuser, own_database=True)
    for engine in (ordinary, superuser):
        engine.dispose()
    installed(managed)

    with opened(managed) as shop:
        assert doctor(shop.user).ok
        Billing(PostgresUnitOfWork(shop.user, service=shop.service)).fold()
