"""What app_user's bare connection can and cannot see and do, with and without a context."""

from __future__ import annotations

from uuid import UUID

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.exc import DBAPIError

from cogni_billing import SYSTEM_ACCOUNT_ID, SYSTEM_TENANT_ID, Billing, TenantId, credits, usd
from cogni_billing.adapters.postgres import PostgresUnitOfWork
from cogni_billing.testing.base import ALICE, BOB
from cogni_billing.testing.contracts.purchases import planned, post
from stack.attacks import PRIVILEGE, TABLES, post_altered, refusal
from stack.conftest import Database

NOBODY = TenantId(UUID("0dead000-0000-4000-8000-000000000009"))


@pytest.fixture
def database(database: Database) -> Database:
    """A purchase, a dispute, a hold, a grant and a checkpoint of Alice's and of Bob's."""
    unit_of_work = PostgresUnitOfWork(database.user)
    post(unit_of_work, planned(ALICE))
    post(unit_of_work, planned(BOB, payment="stripe:pi_bob"))
    billing = Billing(PostgresUnitOfWork(database.user, service=database.service))
    billing.open_dispute(ALICE, payment="stripe:pi_1", amount=usd("1.00"), reference="dp_1")
    billing.open_dispute(BOB, payment="stripe:pi_bob", amount=usd("1.00"), reference="dp_1")
    for tenant in (ALICE, BOB):
        billing.hold(tenant, credits(5), reference="run-1")
        billing.grant(tenant, credits(5), source="promo:a", reference="a")
    with database.service.begin() as connection:
        connection.execute(
            text("""
                INSERT INTO cogni_billing.checkpoints (
                    tenant_id, account_id, unit, position, after_position, arrived, balance, added
                ) VALUES (:alice, :alice, 'CREDIT', 1, 0, 0, 0, 0),
                         (:bob, :bob, 'CREDIT', 1, 0, 0, 0, 0)
            """),
            {"alice": ALICE, "bob": BOB},
        )
    return database


def tenants_seen(database: Database, context: TenantId | str, table: str) -> set[UUID]:
    with database.acting_for(context) as connection:
        return set(connection.scalars(text(f"SELECT tenant_id FROM cogni_billing.{table}")))


@pytest.mark.parametrize("table", TABLES)
class TestReading:
    def test_a_tenant_sees_its_own_rows_and_no_others(self, database: Database, table: str) -> None:
        assert tenants_seen(database, ALICE, table) == {ALICE}
        assert tenants_seen(database, BOB, table) == {BOB}
        assert tenants_seen(database, NOBODY, table) == set()

    def test_the_system_tenant_sees_its_own_rows_and_no_customers(
        self, database: Database, table: str
    ) -> None:
        assert tenants_seen(database, SYSTEM_TENANT_ID, table) <= {SYSTEM_TENANT_ID}

    @pytest.mark.parametrize(
        "context", ["", " ", "nobody", "0a11ce00", f"{ALICE}'", "0a11ce00-0000-4000-8000", "%"]
    )
    def test_a_context_that_is_no_tenant_shows_nothing_and_raises_nothing(
        self, database: Database, table: str, context: str
    ) -> None:
        assert tenants_seen(database, context, table) == set()

    def test_without_a_context_there_are_no_rows(self, database: Database, table: str) -> None:
        statement = text(f"SELECT count(*) FROM cogni_billing.{table}")
        with database.user.connect() as connection:
            fresh = connection.scalar(statement)
        with database.acting_for(ALICE) as connection:
            connection.execute(text("SELECT 1"))
            connection.commit()
            after_commit = connection.scalar(statement)
        with database.acting_for(ALICE) as connection:
            connection.rollback()
            after_rollback = connection.scalar(statement)

        assert (fresh, after_commit, after_rollback) == (0, 0, 0)

    def test_the_owner_of_the_tables_is_bound_like_anybody(
        self, database: Database, table: str
    ) -> None:
        statement = text(f"SELECT tenant_id FROM cogni_billing.{table}")
        setting = text("SELECT set_config('app.current_user_id', :tenant, true)")
        with database.migrator.connect() as connection:
            without = set(connection.scalars(statement))
            connection.execute(setting, {"tenant": str(ALICE)})
            acting = set(connection.scalars(statement))

        assert (without, acting) == (set(), {ALICE})


class TestTheSystemAccount:
    def test_a_customer_cannot_read_what_its_own_purchase_shared(self, database: Database) -> None:
        with database.acting_for(ALICE) as connection:
            found = connection.execute(
                text("SELECT FROM cogni_billing.postings WHERE account_id = :account"),
                {"account": SYSTEM_ACCOUNT_ID},
            ).all()

        assert found == []

    def test_nobody_waits_for_it(self, database: Database) -> None:
        """While one purchase is open, another tenant's goes through."""
        with PostgresUnitOfWork(database.user).scope(ALICE) as scope:
            scope.ledger.post(planned(ALICE, payment="stripe:pi_open", number=91))
            other = planned(BOB, payment="stripe:pi_through", number=92)

            assert not post(PostgresUnitOfWork(database.user), other).replayed


class TestChanging:
    @pytest.mark.parametrize("table", TABLES)
    @pytest.mark.parametrize(
        "statement",
        [
            "UPDATE cogni_billing.{table} SET tenant_id = tenant_id",
            "DELETE FROM cogni_billing.{table}",
            "TRUNCATE cogni_billing.{table}",
            "SELECT FROM cogni_billing.{table} FOR UPDATE",
            "SELECT FROM cogni_billing.{table} FOR KEY SHARE",
            "LOCK TABLE cogni_billing.{table} IN SHARE MODE",
            "ALTER TABLE cogni_billing.{table} DISABLE ROW LEVEL SECURITY",
            "ALTER TABLE cogni_billing.{table} DISABLE TRIGGER ALL",
            "CREATE TRIGGER t BEFORE INSERT ON cogni_billing.{table}"
            " FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()",
            "DROP TABLE cogni_billing.{table}",
            "CREATE POLICY p ON cogni_billing.{table} USING (true)",
        ],
    )
    def test_app_user_changes_no_row_and_no_table(
        self, database: Database, table: str, statement: str
    ) -> None:
        before = database.totals()
        with database.acting_for(ALICE) as connection:
            error = refusal(connection, statement.format(table=table))

        assert error.sqlstate == PRIVILEGE
        assert database.totals() == before

    @pytest.mark.parametrize(
        "statement",
        [
            "INSERT INTO cogni_billing.wallets (tenant_id, account_id, unit, posted)"
            " VALUES (:me, :me, 'CREDIT', 1)",
            "UPDATE cogni_billing.wallets SET posted = posted + 1",
            "INSERT INTO cogni_billing.accounts (tenant_id, id, opened_at, slug)"
            " VALUES (:me, :me, now(), 'cogni_system')",
            "INSERT INTO cogni_billing.accounts (tenant_id, id, opened_at, is_system_tenant)"
            " VALUES (:me, :me, now(), true)",
            "INSERT INTO cogni_billing.postings (balance_after) VALUES (1)",
            "INSERT INTO cogni_billing.postings (position) OVERRIDING SYSTEM VALUE VALUES (1)",
            "SELECT nextval('cogni_billing.postings_position_seq')",
            "SELECT setval('cogni_billing.postings_position_seq', 1)",
            "SELECT cogni_billing.seed_system_tenant()",
            "CREATE TABLE cogni_billing.mine ()",
            "CREATE OR REPLACE FUNCTION cogni_billing.tenant() RETURNS uuid LANGUAGE sql"
            " AS 'SELECT NULL::uuid'",
            "SET LOCAL session_replication_role = replica",
        ],
    )
    def test_app_user_computes_nothing_that_the_database_computes(
        self, database: Database, statement: str
    ) -> None:
        with database.acting_for(ALICE) as connection:
            assert refusal(connection, statement, me=ALICE).sqlstate == PRIVILEGE

    @pytest.mark.parametrize("function", ["keep_wallet", "check_postings", "refuse_change"])
    def test_the_keeper_lends_its_rights_to_nobody(self, database: Database, function: str) -> None:
        """A trigger of one's own would hand it any row to keep."""
        attach = (
            "CREATE TEMP TABLE forged (LIKE cogni_billing.postings);"
            "CREATE TRIGGER forged BEFORE INSERT ON forged"
            f" FOR EACH ROW EXECUTE FUNCTION cogni_billing.{function}()"
        )
        with database.acting_for(ALICE) as connection:
            called = refusal(connection, f"SELECT cogni_billing.{function}()")
        with database.acting_for(ALICE) as connection:
            attached = refusal(connection, attach)

        assert (called.sqlstate, attached.sqlstate) == (PRIVILEGE, PRIVILEGE)

    @pytest.mark.parametrize("table", ["accounts", "payments", "postings", "transactions"])
    @pytest.mark.parametrize("operation", ["UPDATE {} SET tenant_id = tenant_id", "DELETE FROM {}"])
    def test_history_is_append_only_for_the_owner_of_the_tables_too(
        self, database: Database, table: str, operation: str
    ) -> None:
        with database.migrator.connect() as connection:
            error = refusal(connection, operation.format(f"cogni_billing.{table}"))

        assert (error.sqlstate, error.diag.constraint_name) == ("23001", "history_is_append_only")

    def test_operators_of_ones_own_change_no_meaning(self, own_database: Database) -> None:
        """With them first on the path, `tenant = system` would be true of everybody."""
        with own_database.admin.begin() as connection:
            connection.execute(text("CREATE SCHEMA evil AUTHORIZATION app_user"))
        with own_database.acting_for(ALICE) as connection:
            connection.execute(
                text("""
                    CREATE FUNCTION evil.yes(uuid, uuid) RETURNS boolean LANGUAGE sql
                        AS 'SELECT true';
                    CREATE OPERATOR evil.= (FUNCTION = evil.yes, LEFTARG = uuid, RIGHTARG = uuid);
                    CREATE FUNCTION evil.yes(text, text) RETURNS boolean LANGUAGE sql
                        AS 'SELECT true';
                    CREATE OPERATOR evil.~ (FUNCTION = evil.yes, LEFTARG = text, RIGHTARG = text);
                    SET LOCAL search_path = evil, pg_catalog
                """)
            )
            post_altered(connection)
            connection.commit()

        balance = Billing(PostgresUnitOfWork(own_database.user)).balance(ALICE)
        assert balance.posted == credits(100_000_000)

    def test_a_path_that_is_left_on_a_connection_does_not_meet_the_next_tenant(
        self, own_database: Database
    ) -> None:
        """Whatever is called in the scope that follows would be, in that tenant's name."""
        with own_database.admin.begin() as connection:
            connection.execute(text("CREATE SCHEMA evil AUTHORIZATION app_user"))
        engine = create_engine(own_database.sandbox.url("app_user"), pool_size=1, max_overflow=0)
        with engine.begin() as connection:
            connection.execute(
                text("""
                    CREATE FUNCTION evil.told(uuid, uuid) RETURNS boolean LANGUAGE plpgsql
                        AS 'BEGIN RAISE ''told''; END';
                    CREATE OPERATOR evil.= (FUNCTION = evil.told, LEFTARG = uuid, RIGHTARG = uuid);
                    CREATE FUNCTION evil.set_config(text, text, boolean) RETURNS text
                        LANGUAGE plpgsql AS 'BEGIN RAISE ''told''; END';
                    SET search_path = evil, pg_catalog
                """)
            )
        with engine.begin() as connection:
            with pytest.raises(DBAPIError, match="told"), connection.begin_nested():
                connection.execute(text("SELECT gen_random_uuid() = gen_random_uuid()"))
            joined = Billing(PostgresUnitOfWork.joining(connection))
            joined.confirm_purchase(ALICE, usd("1.00"), payment="stripe:joined")
            path = connection.scalar(text("SELECT pg_catalog.current_setting('search_path')"))

        billing = Billing(PostgresUnitOfWork(engine))
        billing.confirm_purchase(ALICE, usd("1.00"), payment="stripe:own")
        billing.charge(ALICE, credits(5), reference="run-1")

        assert billing.balance(ALICE).posted == credits(19_999_995)
        assert path == "evil, pg_catalog"  # the host's own is as it was
        engine.dispose()

    @pytest.mark.parametrize("role", ["app_user", "app_service", "app_migrator"])
    @pytest.mark.parametrize("other", ["app_user", "app_service", "app_migrator", "postgres"])
    def test_no_role_may_become_another(self, database: Database, role: str, other: str) -> None:
        statement = text("SELECT pg_has_role(:role, :other, 'MEMBER')")
        with database.admin.connect() as connection:
            may = connection.scalar(statement, {"role": role, "other": other})

        assert may == (role == other)

    def test_the_service_role_reads_every_tenant_and_changes_nothing(
        self, database: Database
    ) -> None:
        with database.service.connect() as connection:
            seen = set(connection.scalars(text("SELECT tenant_id FROM cogni_billing.postings")))
        with database.service.connect() as connection:
            error = refusal(connection, "UPDATE cogni_billing.wallets SET posted = 0")

        assert seen == {ALICE, BOB, SYSTEM_TENANT_ID}
        assert error.sqlstate == PRIVILEGE
