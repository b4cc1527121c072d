"""Every function for every role and tenant, and every table for every role.

The blueprint names the expected callers. All access to tables must be refused.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from uuid import UUID

import psycopg
import pytest
from sqlalchemy import Connection, text

from cogni_billing import SYSTEM_ACCOUNT_ID, TenantId
from cogni_billing.adapters.postgres import reset
from cogni_billing.adapters.postgres.operations import blueprint
from cogni_billing.adapters.postgres.schema import function_sources
from cogni_billing.domain.identity import SYSTEM_ACCOUNTS
from cogni_billing.testing.base import ALICE, BOB
from stack.conftest import Database
from stack.support.attacks import (
    CALLERS,
    CHECK,
    PRIVILEGE,
    ROLES,
    SYSTEM,
    TENANTS,
    VALID,
    Ids,
    arguments,
    ask,
    become,
    call,
    dump,
    prepared,
    refusal,
    refusal_of,
    rule_of,
    undone,
)

NOBODY = f"somebody_{secrets.token_hex(4)}"
NAMES = {**ROLES.to_dict(), "public": NOBODY}
RESERVED = sorted((SYSTEM_ACCOUNTS | {UUID(int=0)}) - {SYSTEM}, key=str)
ACROSS_TENANTS = {"lock", "settle_dispute"}
KEYS = ("tenant_id", "origin_id")


@pytest.fixture(scope="module")
def known(shared: Database) -> Iterator[dict[TenantId, Ids]]:
    reset(shared.migrator)
    yield prepared(shared)
    reset(shared.migrator)


@pytest.fixture(scope="module")
def kept(shared: Database, known: dict[TenantId, Ids]) -> Iterator[Database]:
    """Create rows of every tenant in every table, and a role without any privilege."""
    with shared.admin.begin() as connection:
        connection.execute(text(f"CREATE ROLE {NOBODY}"))
    yield shared
    with shared.admin.begin() as connection:
        connection.execute(text(f"DROP ROLE {NOBODY}"))


class TestFunctions:
    def test_matrix_covers_every_function_of_the_schema(self, kept: Database) -> None:
        with kept.admin.connect() as connection:
            found = connection.scalars(
                text(
                    "SELECT proname FROM pg_proc WHERE pronamespace = 'cogni_billing'::regnamespace"
                )
            ).all()

        assert sorted(found) == sorted(function_sources())
        assert set(VALID) <= set(found)

    def test_execute_is_granted_to_the_callers_of_the_blueprint_only(self, kept: Database) -> None:
        held = text("""
            SELECT proname FROM pg_proc
            WHERE pronamespace = 'cogni_billing'::regnamespace
              AND has_function_privilege(CAST(:role AS text), oid, 'EXECUTE')
        """)
        with kept.admin.connect() as connection:
            for purpose, role in NAMES.items():
                expected = {name for who, name in CALLERS if who == purpose}
                if purpose == "keeper":
                    expected = set(function_sources())
                assert set(connection.scalars(held, {"role": role})) == expected, purpose

    @pytest.mark.parametrize("purpose", sorted({*NAMES} - {"keeper"}))
    def test_function_refuses_a_role_without_execute(
        self, kept: Database, known: dict[TenantId, Ids], purpose: str
    ) -> None:
        for function, valid in VALID.items():
            if (purpose, function) in CALLERS:
                continue
            for tenant in (None, *TENANTS, *RESERVED):
                given = arguments(function, tenant, valid(known[ALICE]))
                with undone(kept, NAMES[purpose]) as connection:
                    error = refusal_of(call, connection, function, *given)
                assert error.sqlstate == PRIVILEGE, (function, tenant)

    @pytest.mark.parametrize("function", VALID)
    @pytest.mark.parametrize("tenant", TENANTS)
    def test_function_changes_rows_of_its_tenant_only(
        self, kept: Database, known: dict[TenantId, Ids], function: str, tenant: TenantId
    ) -> None:
        """The tenant that was left on the connection has no effect."""
        for purpose in callers_of(function):
            with undone(kept, NAMES[purpose]) as connection:
                set_tenant(connection, BOB if tenant == ALICE else ALICE)
                answer = ask(connection, function, tenant, VALID[function](known[tenant]))
                changed = dump(connection)
                connection.rollback()
                owners = owners_of(changed ^ dump(connection))
            # These tenants have transactions already.
            done = {"in_use"} if function == "opening" else {"done"}
            assert outcomes_of(answer) <= done, (purpose, answer)
            others = {str(known[tenant].beneficiary)} if function in ACROSS_TENANTS else set()
            assert owners <= {str(tenant)} | others, purpose

    @pytest.mark.parametrize("function", VALID)
    def test_function_refuses_a_tenant_that_is_missing_or_reserved(
        self, kept: Database, known: dict[TenantId, Ids], function: str
    ) -> None:
        asked = VALID[function](known[ALICE])
        for purpose in callers_of(function):
            for tenant in (None, *RESERVED):
                with undone(kept, NAMES[purpose]) as connection:
                    set_tenant(connection, ALICE)
                    error = refusal_of(ask, connection, function, tenant, asked)
                assert rule_of(error) == (CHECK, "tenants_are_not_reserved"), (purpose, tenant)

    @pytest.mark.parametrize("tenant", ["", " ", "nobody", f"{ALICE}'--", "0a11ce00", "%"])
    def test_functions_refuse_a_tenant_that_is_no_uuid(
        self, kept: Database, known: dict[TenantId, Ids], tenant: str
    ) -> None:
        for function, valid in VALID.items():
            given = arguments(function, tenant, valid(known[ALICE]))
            with undone(kept, NAMES[next(callers_of(function))]) as connection:
                error = refusal_of(call, connection, function, *given)
            assert error.sqlstate == "22P02", function

    def test_helper_of_the_keeper_refuses_every_other_role(self, kept: Database) -> None:
        helpers = {*function_sources()} - {name for _, name in CALLERS}
        with kept.admin.connect() as connection:
            signatures = connection.scalars(
                text("""
                    SELECT format('cogni_billing.%I(%s)', proname, (
                        SELECT coalesce(string_agg(format('NULL::%s', kind::regtype), ', '), '')
                        FROM unnest(proargtypes) AS kind))
                    FROM pg_proc
                    WHERE pronamespace = 'cogni_billing'::regnamespace AND proname = ANY (:names)
                """),
                {"names": sorted(helpers)},
            ).all()

        assert len(signatures) == len(helpers) > 10
        for purpose in {*NAMES} - {"keeper"}:
            for signature in signatures:
                with undone(kept, NAMES[purpose]) as connection:
                    error = refusal(connection, f"SELECT {signature}")
                assert error.sqlstate == PRIVILEGE, (purpose, signature)

    def test_accounts_of_the_system_have_a_tenant(self, kept: Database) -> None:
        with undone(kept, "app_service") as connection:
            assert str(call(connection, "tenant")) == "None"
            owner = connection.exec_driver_sql(
                "SELECT cogni_billing.owner_of(%s)", (SYSTEM_ACCOUNT_ID,)
            ).scalar_one()
        assert owner == SYSTEM


def callers_of(function: str) -> Iterator[str]:
    return iter(sorted(purpose for purpose, name in CALLERS if name == function))


def outcomes_of(answer: object) -> set[object]:
    """Return the outcomes in an answer, including lists of lists."""
    if isinstance(answer, list):
        return set().union(*map(outcomes_of, answer))
    return {answer["outcome"]} if isinstance(answer, dict) and "outcome" in answer else set()


def set_tenant(connection: Connection, tenant: TenantId) -> None:
    setting = text("SELECT set_config('app.current_user_id', :tenant, true)")
    connection.execute(setting, {"tenant": str(tenant)})


def owners_of(rows: frozenset[tuple[str, str]]) -> set[str]:
    """Return the tenants of rows."""
    found = [json.loads(row) for _, row in rows]
    return {row.get("tenant_id") or row.get("origin_id") for row in found}


# Each is refused for the privilege, or reads no row. {} is a table.
ON_TABLES = (
    "SELECT FROM {}",
    "SELECT count(*) FROM {}",
    "SELECT ctid FROM {}",
    "SELECT FROM {} FOR UPDATE",
    "SELECT FROM {} FOR KEY SHARE",
    "TABLE {}",
    "EXPLAIN SELECT FROM {}",
    "EXPLAIN (ANALYZE, BUFFERS) SELECT FROM {} AS it WHERE it::text > ''",
    "EXPLAIN UPDATE {} SET {column} = NULL",
    "INSERT INTO {} DEFAULT VALUES",
    "INSERT INTO {} DEFAULT VALUES ON CONFLICT DO NOTHING RETURNING 1",
    "UPDATE {} SET {column} = NULL",
    "DELETE FROM {}",
    "TRUNCATE {}",
    "COPY {} TO STDOUT",
    "COPY {} FROM STDIN",
    "COPY (SELECT * FROM {}) TO STDOUT",
    "LOCK TABLE {} IN ACCESS SHARE MODE",
    "LOCK TABLE {} IN SHARE MODE",
    "CREATE TABLE pg_temp.mine (LIKE {})",
    "CREATE TEMP VIEW mine AS SELECT * FROM {}; TABLE mine",
    "CREATE INDEX mine ON {} ({column})",
    "CREATE STATISTICS pg_temp.mine ON {column}, ctid FROM {}",
    "CREATE POLICY mine ON {} USING (true)",
    "CREATE TRIGGER mine BEFORE INSERT ON {} FOR EACH ROW"
    " EXECUTE FUNCTION suppress_redundant_updates_trigger()",
    "CREATE RULE mine AS ON INSERT TO {} DO INSTEAD NOTHING",
    "ALTER TABLE {} DISABLE ROW LEVEL SECURITY",
    "ALTER TABLE {} DISABLE TRIGGER ALL",
    "DROP TABLE {}",
    "COMMENT ON TABLE {} IS 'mine'",
    "SELECT currtid2('{}', '(0,1)')",
    "SELECT query_to_xml('SELECT * FROM {}', true, true, '')",
    "SET LOCAL row_security = off; SELECT FROM {}",
)
READABLE_BY_ALL = {
    "pg_stats": "SELECT count(*) FROM pg_stats WHERE schemaname = 'cogni_billing'",
    "pg_stats_ext": "SELECT count(*) FROM pg_stats_ext WHERE schemaname = 'cogni_billing'",
}
NO_RIGHTS = ("user", "spender", "public")


class TestTables:
    def test_privileges_on_tables_are_those_of_the_blueprint(self, kept: Database) -> None:
        query = text("""
            SELECT grantee::regrole::text, privilege_type, relname::text
            FROM pg_class, aclexplode(relacl)
            WHERE relnamespace = 'cogni_billing'::regnamespace AND grantee <> relowner
        """)
        columns = text("""
            SELECT grantee::regrole::text, format('%s (%s)', privilege_type, attname), relname::text
            FROM pg_class JOIN pg_attribute ON attrelid = pg_class.oid, aclexplode(attacl)
            WHERE relnamespace = 'cogni_billing'::regnamespace
        """)
        purposes = {name: purpose for purpose, name in ROLES.to_dict().items()}
        with kept.admin.connect() as connection:
            found = {(purposes.get(a, a), b, c) for a, b, c in connection.execute(query)}
            found |= {(purposes.get(a, a), b, c) for a, b, c in connection.execute(columns)}

        assert found == {
            (each.grantee, each.privilege, each.object.rpartition(".")[2])
            for each in blueprint.table_privileges(ROLES)
            if not each.object.startswith("SCHEMA")
        }
        assert not {who for who, _, _ in found} & {*NO_RIGHTS}

    @pytest.mark.parametrize("table", blueprint.TABLES)
    @pytest.mark.parametrize("purpose", NO_RIGHTS)
    def test_serving_role_has_no_use_of_a_table(
        self, kept: Database, table: str, purpose: str
    ) -> None:
        with kept.admin.connect() as connection:
            column = connection.scalar(
                text("""
                    SELECT attname FROM pg_attribute
                    WHERE attrelid = CAST(:it AS regclass) AND attnum = 1
                """),
                {"it": f"cogni_billing.{table}"},
            )
        for statement in ON_TABLES:
            sql = statement.replace("{}", f"cogni_billing.{table}").replace("{column}", str(column))
            with undone(kept, NAMES[purpose]) as connection:
                set_tenant(connection, ALICE)
                error = refusal_of(run, connection, sql)
            assert error.sqlstate == PRIVILEGE, sql

    @pytest.mark.parametrize("purpose", NO_RIGHTS)
    def test_serving_role_reads_no_statistics_and_no_sequence(
        self, kept: Database, purpose: str
    ) -> None:
        sequence = f"cogni_billing.{blueprint.SEQUENCE}"
        with kept.admin.begin() as connection:
            connection.execute(text("ANALYZE"))
        for query in READABLE_BY_ALL.values():
            with undone(kept, NAMES[purpose]) as connection:
                assert connection.scalar(text(query)) == 0, query
        for statement in (
            f"SELECT nextval('{sequence}')",
            f"SELECT currval('{sequence}')",
            f"SELECT setval('{sequence}', 1)",
            f"SELECT last_value FROM {sequence}",
            "SELECT count(*) FROM pg_statistic",
            "SELECT count(*) FROM pg_statistic_ext_data",
        ):
            with undone(kept, NAMES[purpose]) as connection:
                assert refusal(connection, statement).sqlstate == PRIVILEGE, statement

    def test_service_role_reads_every_tenant_and_changes_no_row(self, kept: Database) -> None:
        for table in blueprint.LEDGER:
            name = f"cogni_billing.{table}"
            with undone(kept, "app_service") as connection:
                seen = connection.scalar(text(f"SELECT count(*) FROM {name}"))
            with kept.admin.connect() as connection:
                assert seen == connection.scalar(text(f"SELECT count(*) FROM {name}")), table
            for change in ("INSERT INTO {} DEFAULT VALUES", "DELETE FROM {}", "TRUNCATE {}"):
                with undone(kept, "app_service") as connection:
                    assert refusal(connection, change.format(name)).sqlstate == PRIVILEGE

    @pytest.mark.parametrize("table", blueprint.TABLES)
    def test_owner_of_the_tables_reads_no_row_and_edits_no_history(
        self, kept: Database, table: str
    ) -> None:
        name = f"cogni_billing.{table}"
        if table == "context_keys":
            return
        with undone(kept, "app_migrator") as connection:
            set_tenant(connection, ALICE)
            assert connection.scalar(text(f"SELECT count(*) FROM {name}")) == 0
        with undone(kept, "app_migrator") as connection:
            assert refusal(connection, f"TRUNCATE {name} CASCADE").sqlstate == "23001"

    @pytest.mark.parametrize("purpose", sorted(ROLES.to_dict()))
    @pytest.mark.parametrize("other", [*sorted(ROLES.to_dict().values()), "postgres"])
    def test_role_cannot_become_another(self, kept: Database, purpose: str, other: str) -> None:
        role = NAMES[purpose]
        if role == other or (role, other) == (ROLES.migrator, ROLES.keeper):
            return  # the migrator creates the keeper's functions
        with undone(kept, role) as connection:
            assert refusal(connection, f"SET LOCAL ROLE {other}").sqlstate == PRIVILEGE
        with kept.admin.connect() as connection:
            inherits = connection.scalar(
                text("SELECT pg_has_role(:role, :other, 'USAGE')"), {"role": role, "other": other}
            )
        assert not inherits

    def test_no_role_bypasses_row_security_or_is_a_superuser(self, kept: Database) -> None:
        with kept.admin.connect() as connection:
            strong = connection.scalars(
                text("""
                    SELECT rolname FROM pg_roles
                    WHERE rolname = ANY (:names) AND (rolsuper OR rolbypassrls OR rolcreaterole)
                """),
                {"names": list(ROLES.to_dict().values())},
            ).all()

        assert strong == []

    @pytest.mark.parametrize("purpose", NO_RIGHTS)
    @pytest.mark.parametrize(
        "statement",
        [
            "CREATE TABLE cogni_billing.mine ()",
            "CREATE FUNCTION cogni_billing.account_of(text) RETURNS uuid LANGUAGE sql"
            " AS 'SELECT NULL::uuid'",
            "CREATE OR REPLACE FUNCTION cogni_billing.tenant() RETURNS uuid LANGUAGE sql"
            " AS 'SELECT NULL::uuid'",
            "ALTER FUNCTION cogni_billing.act RESET search_path",
            "CREATE TRIGGER mine AFTER INSERT ON mine REFERENCING NEW TABLE AS added"
            " FOR EACH STATEMENT EXECUTE FUNCTION cogni_billing.check_arrivals()",
            "COMMENT ON SCHEMA cogni_billing IS '{\"test_database\": true}'",
            "SET LOCAL session_replication_role = replica",
            "ALTER ROLE app_user BYPASSRLS",
        ],
    )
    def test_serving_role_creates_and_changes_no_object(
        self, kept: Database, purpose: str, statement: str
    ) -> None:
        with undone(kept, NAMES[purpose]) as connection:
            if "ON mine" in statement:
                connection.execute(text("CREATE TEMP TABLE mine ()"))
            assert refusal(connection, statement).sqlstate == PRIVILEGE

    @pytest.mark.parametrize("role", ["app_user", "app_spender"])
    def test_drop_owned_by_a_serving_role_widens_no_policy(self, kept: Database, role: str) -> None:
        """PostgreSQL before 15.20 widened policies that name such a role."""
        policies = text("SELECT * FROM pg_policies WHERE schemaname = 'cogni_billing'")
        with kept.admin.connect() as connection:
            before = sorted(map(str, connection.execute(policies)))
            become(connection, role)
            connection.execute(text(f"DROP OWNED BY {role}"))
            after = sorted(map(str, connection.execute(policies)))

        assert after == before


def run(connection: Connection, statement: str) -> None:
    """Run *statement*, including a COPY."""
    if not statement.startswith("COPY"):
        connection.exec_driver_sql(statement.replace("%", "%%"))
        return
    driver = connection.connection.driver_connection
    assert isinstance(driver, psycopg.Connection)
    with driver.cursor().copy(statement):
        pass
