"""Provisioning, reset and reports on a whole database."""

from __future__ import annotations

import pytest
from sqlalchemy import create_engine, text

from cogni_billing import (
    SYSTEM_TENANT_ID,
    Billing,
    InvalidInput,
    LedgerUnavailable,
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
    reset,
    trial_balance,
)
from cogni_billing.adapters.postgres.operations.provisioning import Provision
from cogni_billing.adapters.postgres.operations.sandbox import temporary_database
from cogni_billing.testing.base import ALICE, BOB
from cogni_billing.testing.contracts.purchases import planned, post
from stack.conftest import Clone, Database

ATTRIBUTES = text("""
    SELECT rolname, rolsuper, rolbypassrls, rolcanlogin, rolcreaterole, rolcreatedb
    FROM pg_roles
    WHERE rolname IN
        ('app_migrator', 'app_user', 'app_spender', 'app_service', 'cogni_billing_keeper')
    ORDER BY 1
""")
WITH_SPENDER = Roles(spender="app_spender")


def privileges(database: Database) -> set[tuple[str, ...]]:
    """Return every privilege of every role on an object of the schema."""
    with database.admin.connect() as connection:
        return {tuple(row) for row in connection.execute(PRIVILEGES)}


PRIVILEGES = text("""
    SELECT grantee::regrole::text, privilege_type, of FROM (
        SELECT relacl AS acl, relname::text AS of FROM pg_class
        WHERE relnamespace = 'cogni_billing'::regnamespace
        UNION ALL
        SELECT attacl, relname || '.' || attname FROM pg_class
        JOIN pg_attribute ON attrelid = pg_class.oid
        WHERE relnamespace = 'cogni_billing'::regnamespace
        UNION ALL
        SELECT proacl, proname FROM pg_proc WHERE pronamespace = 'cogni_billing'::regnamespace
        UNION ALL
        SELECT nspacl, nspname FROM pg_namespace WHERE nspname = 'cogni_billing'
    ) AS given, aclexplode(acl)
""")


class TestProvision:
    def test_roles_have_exactly_their_privileges(self, database: Database) -> None:
        with database.admin.connect() as connection:
            found = [tuple(row) for row in connection.execute(ATTRIBUTES)]

        assert found == [
            ("app_migrator", False, False, True, False, False),
            ("app_service", False, False, True, False, False),
            ("app_spender", False, False, True, False, False),
            ("app_user", False, False, True, False, False),
            ("cogni_billing_keeper", False, False, False, False, False),
        ]

    def test_repeated_provisioning_changes_no_object(self, own_database: Database) -> None:
        before = privileges(own_database)

        provision(own_database.admin, WITH_SPENDER, test_database=True)

        assert privileges(own_database) == before
        assert doctor(own_database.user).ok

    def test_a_spender_can_be_left_out_renamed_and_added_at_any_time(
        self, own_database: Database
    ) -> None:
        with_one = privileges(own_database)

        provision(own_database.admin, Roles())
        without = privileges(own_database)
        assert doctor(own_database.user).ok
        provision(own_database.admin, Roles(spender="Ann's spender"))
        assert doctor(own_database.user).ok
        provision(own_database.admin, WITH_SPENDER)

        assert {each for each in with_one if each[0] != "app_spender"} == without
        assert privileges(own_database) == with_one
        for engine in (own_database.user, own_database.spender):
            assert doctor(engine).defects == ()

    def test_without_a_spender_there_is_no_such_role(self, empty_database: Clone) -> None:
        """A migration grants the same privileges, except the spender's."""
        admin = create_engine(empty_database.administrator)
        provision(admin, Roles())
        migrator = create_engine(empty_database.role("app_migrator"))
        migrate(migrator)
        user = create_engine(empty_database.role("app_user"))

        assert doctor(user).defects == ()
        for engine in (admin, migrator, user):
            engine.dispose()

    def test_it_takes_bypassrls_away_from_every_role(self, own_database: Database) -> None:
        with own_database.admin.begin() as connection:
            for name in WITH_SPENDER.quoted(*WITH_SPENDER.to_dict()):
                connection.execute(text(f"ALTER ROLE {name} BYPASSRLS"))

        provision(own_database.admin)

        with own_database.admin.connect() as connection:
            assert not any(row.rolbypassrls for row in connection.execute(ATTRIBUTES))
        assert doctor(own_database.user).ok

    def test_it_restores_an_attribute_that_was_changed(self, own_database: Database) -> None:
        with own_database.admin.begin() as connection:
            connection.execute(text("ALTER ROLE cogni_billing_keeper LOGIN"))

        provision(own_database.admin)

        with own_database.admin.connect() as connection:
            login = "SELECT rolcanlogin FROM pg_roles WHERE rolname = 'cogni_billing_keeper'"
            assert connection.scalar(text(login)) is False

    def test_a_superuser_is_never_taken_for_a_role_of_ours(self, empty_database: Clone) -> None:
        engine = create_engine(empty_database.administrator)

        with pytest.raises(InvalidInput, match="superuser postgres"):
            provision(engine, Roles(user="postgres"))

        with engine.connect() as connection, pytest.raises(LedgerUnavailable):
            Provision.read(connection)
        engine.dispose()

    def test_only_an_administrator_provisions(self, database: Database) -> None:
        with pytest.raises(PrivilegeRequired):
            provision(database.user, Roles(user="another_user"))

    def test_provision_is_recorded_in_the_database(self, own_database: Database) -> None:
        with own_database.user.connect() as connection:
            assert Provision.read(connection) == Provision(WITH_SPENDER, test_database=True)

    def test_changed_comment_is_reported(self, own_database: Database) -> None:
        with own_database.admin.begin() as connection:
            connection.execute(text("COMMENT ON SCHEMA cogni_billing IS 'our billing tables'"))

        with pytest.raises(LedgerUnavailable, match="run provision again"):
            doctor(own_database.user)

        provision(own_database.admin, WITH_SPENDER)
        assert doctor(own_database.user).ok

    @pytest.mark.parametrize("name", ["", "x" * 64, "a\0b", "é" * 32, "a:b", "a%b", None, 7])
    def test_a_role_needs_a_name_that_postgresql_can_keep(self, name: str) -> None:
        with pytest.raises(InvalidInput):
            Roles(user=name)

    def test_one_role_cannot_serve_two_purposes(self) -> None:
        with pytest.raises(InvalidInput, match="different roles"):
            Roles(user="app_service")


class TestReset:
    def test_it_empties_the_ledger_and_seeds_the_system_tenant_again(
        self, database: Database
    ) -> None:
        unit_of_work = PostgresUnitOfWork(database.user)
        post(unit_of_work, planned())

        reset(database.migrator)

        assert database.totals() == {}
        ensure_ready(database.user)
        assert not post(unit_of_work, planned()).replayed
        assert Billing(unit_of_work).balance(SYSTEM_TENANT_ID).posted == credits(25_000_000)

    def test_administrator_may_reset(self, database: Database) -> None:
        post(PostgresUnitOfWork(database.user), planned())

        reset(database.admin)

        assert database.totals() == {}
        ensure_ready(database.user)

    def test_reset_keeps_history_append_only(self, database: Database) -> None:
        reset(database.migrator)

        assert doctor(database.user).ok

    def test_a_database_that_is_not_marked_is_never_emptied(self, own_database: Database) -> None:
        post(PostgresUnitOfWork(own_database.user), planned())
        provision(own_database.admin, test_database=False)
        before = own_database.totals()

        with pytest.raises(PrivilegeRequired, match="a test database"):
            reset(own_database.migrator)

        assert own_database.totals() == before

    @pytest.mark.parametrize("role", ["user", "service"])
    def test_only_the_owner_empties(self, database: Database, role: str) -> None:
        post(PostgresUnitOfWork(database.user), planned())
        before = database.totals()

        with pytest.raises(PrivilegeRequired):
            reset(getattr(database, role))

        assert database.totals() == before

    def test_an_engine_that_autocommits_empties_and_seeds_in_one_transaction(
        self, database: Database
    ) -> None:
        engine = create_engine(database.migrator.url, isolation_level="AUTOCOMMIT")

        reset(engine)

        ensure_ready(database.user)
        engine.dispose()


class TestTrialBalance:
    def test_every_kind_of_account_is_there_and_they_sum_to_zero(self, database: Database) -> None:
        billing = Billing(PostgresUnitOfWork(database.user))
        billing.confirm_purchase(ALICE, usd("10.00"), payment="stripe:1")
        billing.confirm_purchase(BOB, usd("1.00"), payment="stripe:2")

        report = trial_balance(database.service)

        assert report.balances == {
            "tenants": credits(110_000_000),
            "cogni_system": credits(27_500_000),
            "issuance": credits(137_500_000) - credits(275_000_000),
        }
        assert list(report.balances) == ["tenants", "cogni_system", "issuance"]
        assert report.total == credits(0)

    def test_trial_balance_of_an_empty_ledger_is_empty(self, database: Database) -> None:
        report = trial_balance(database.service)

        assert (report.balances, report.total) == ({}, credits(0))

    def test_role_without_full_sight_gets_no_trial_balance(self, database: Database) -> None:
        with pytest.raises(PrivilegeRequired):
            trial_balance(database.user)


class TestTemporaryDatabase:
    def test_temporary_database_is_dropped_at_the_end(self, database: Database) -> None:
        with temporary_database(database.sandbox.admin_url) as temporary:
            engine = create_engine(temporary.url("app_user"))
            ensure_ready(engine)
            with engine.connect() as connection:
                name = connection.scalar(text("SELECT current_database()"))
            engine.dispose()

        with database.admin.connect() as connection:
            found = text("SELECT count(*) FROM pg_database WHERE datname = :name")
            assert connection.scalar(found, {"name": name}) == 0

    def test_unreachable_server_raises_unavailable(self) -> None:
        with (
            pytest.raises(LedgerUnavailable),
            temporary_database("postgresql+psycopg://postgres@/x?host=/nowhere"),
        ):
            pass
