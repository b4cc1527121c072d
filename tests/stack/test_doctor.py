"""Sabotages of the database. Doctor finds each, and its printed remedy fixes it."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterator
from typing import Final

import pytest
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.ext.asyncio import create_async_engine

from cogni_billing import (
    SYSTEM_TENANT_ID,
    Billing,
    InstallationNotReady,
    LedgerUnavailable,
    PrivilegeRequired,
    SystemTenantMissing,
    credits,
    usd,
)
from cogni_billing.adapters.postgres import (
    PostgresUnitOfWork,
    Report,
    Roles,
    doctor,
    doctor_async,
    ensure_ready,
    ensure_ready_async,
    migrate,
    provision,
    repair,
    unmigrate,
)
from cogni_billing.adapters.postgres.operations import blueprint, definitions
from cogni_billing.adapters.postgres.schema import function_sources
from cogni_billing.testing.base import ALICE
from stack.conftest import Clone, Database

ROLES: Final = Roles(spender="app_spender")
SABOTAGES = {
    "row security off": (
        "ALTER TABLE cogni_billing.arrivals DISABLE ROW LEVEL SECURITY",
        "row security is off on cogni_billing.arrivals",
        "ALTER TABLE cogni_billing.arrivals ENABLE ROW LEVEL SECURITY",
    ),
    "force off": (
        "ALTER TABLE cogni_billing.wallets NO FORCE ROW LEVEL SECURITY",
        "row security is not forced on cogni_billing.wallets",
        "ALTER TABLE cogni_billing.wallets FORCE ROW LEVEL SECURITY",
    ),
    "an extra policy": (
        "CREATE POLICY everyone ON cogni_billing.arrivals FOR SELECT USING (true)",
        "policy everyone on arrivals is unknown or was changed",
        'DROP POLICY "everyone" ON cogni_billing.arrivals',
    ),
    "a missing policy": (
        "DROP POLICY wallets_floor ON cogni_billing.wallets",
        "policy wallets_floor on wallets is missing",
        'CREATE POLICY wallets_floor ON cogni_billing.wallets FOR ALL TO "cogni_billing_keeper"'
        " USING (tenant_id = cogni_billing.tenant())"
        " WITH CHECK (tenant_id = cogni_billing.tenant())",
    ),
    "a policy that admits more": (
        "ALTER POLICY arrivals_add ON cogni_billing.arrivals WITH CHECK (true)",
        "policy arrivals_add on arrivals is unknown or was changed",
        'DROP POLICY "arrivals_add" ON cogni_billing.arrivals',
    ),
    "a policy for another role": (
        "ALTER POLICY wallets_all ON cogni_billing.wallets TO app_user",
        "policy wallets_all on wallets is unknown or was changed",
        'DROP POLICY "wallets_all" ON cogni_billing.wallets',
    ),
    "a policy for one more role": (
        "ALTER POLICY wallets_all ON cogni_billing.wallets TO app_service, app_user",
        "policy wallets_all on wallets is unknown or was changed",
        'DROP POLICY "wallets_all" ON cogni_billing.wallets',
    ),
    "a dropped trigger": (
        "DROP TRIGGER check_arrivals ON cogni_billing.arrivals",
        "trigger check_arrivals on arrivals is missing",
        "CREATE TRIGGER check_arrivals AFTER INSERT ON cogni_billing.arrivals REFERENCING NEW"
        " TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION cogni_billing.check_arrivals()",
    ),
    "a disabled trigger": (
        "ALTER TABLE cogni_billing.transactions DISABLE TRIGGER append_only",
        "trigger append_only on transactions is disabled",
        "ALTER TABLE cogni_billing.transactions ENABLE TRIGGER append_only",
    ),
    "a trigger that fires for replication only": (
        "ALTER TABLE cogni_billing.arrivals ENABLE REPLICA TRIGGER check_arrivals",
        "trigger check_arrivals on arrivals is disabled",
        "ALTER TABLE cogni_billing.arrivals ENABLE TRIGGER check_arrivals",
    ),
    "an extra trigger": (
        "CREATE TRIGGER quiet BEFORE INSERT ON cogni_billing.claims"
        " FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()",
        "trigger quiet on claims is unknown or was changed",
        'DROP TRIGGER "quiet" ON cogni_billing.claims',
    ),
    "a function that does nothing": (
        "CREATE OR REPLACE FUNCTION cogni_billing.check_arrivals() RETURNS trigger"
        " LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS 'BEGIN RETURN NULL; END'",
        "function check_arrivals is missing or was changed",
        "run repair as the migrator",
    ),
    "a function that is gone": (
        "DROP FUNCTION cogni_billing.mint(uuid, text, json[], boolean)",
        "function mint is missing or was changed",
        "run repair as the migrator",
    ),
    "a function that policies need is gone": (
        "DROP FUNCTION cogni_billing.tenant() CASCADE",
        "function tenant is missing or was changed",
        "run repair as the migrator",
    ),
    "a function with a loose path": (
        "ALTER FUNCTION cogni_billing.spend(uuid, text, json[], boolean) RESET search_path",
        "function spend is missing or was changed",
        "run repair as the migrator",
    ),
    "a function that runs as its owner": (
        "ALTER FUNCTION cogni_billing.check_arrivals() SECURITY DEFINER",
        "function check_arrivals is missing or was changed",
        "run repair as the migrator",
    ),
    "a function that keeps its first answer": (
        "ALTER FUNCTION cogni_billing.tenant() IMMUTABLE",
        "function tenant is missing or was changed",
        "run repair as the migrator",
    ),
    "a function of another owner": (
        "ALTER FUNCTION cogni_billing.mac(text, bytea, bytea) OWNER TO postgres",
        'FUNCTION cogni_billing."mac" (message text, inner_key bytea, outer_key bytea)'
        " is owned by postgres",
        "run provision as an administrator",
    ),
    "an extra function": (
        "CREATE FUNCTION cogni_billing.backdoor() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "function backdoor is unknown",
        'DROP FUNCTION cogni_billing."backdoor" ()',
    ),
    "a function of a known name": (
        "CREATE FUNCTION cogni_billing.spend(uuid) RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "function spend is unknown",
        'DROP FUNCTION cogni_billing."spend" (uuid)',
    ),
    "SELECT granted": (
        "GRANT SELECT ON cogni_billing.wallets TO app_user",
        '"app_user" has SELECT ON cogni_billing.wallets',
        'REVOKE SELECT ON cogni_billing.wallets FROM "app_user"',
    ),
    "a column granted": (
        "GRANT INSERT (amount) ON cogni_billing.arrivals TO app_user",
        '"app_user" has INSERT (amount) ON cogni_billing.arrivals',
        'REVOKE INSERT (amount) ON cogni_billing.arrivals FROM "app_user"',
    ),
    "everybody granted": (
        "GRANT SELECT ON cogni_billing.policies TO PUBLIC",
        "PUBLIC has SELECT ON cogni_billing.policies",
        "REVOKE SELECT ON cogni_billing.policies FROM PUBLIC",
    ),
    "a privilege lost": (
        "REVOKE SELECT ON cogni_billing.claims FROM app_service",
        '"app_service" lacks SELECT ON cogni_billing.claims',
        'GRANT SELECT ON cogni_billing.claims TO "app_service"',
    ),
    "minting given to the spender": (
        "GRANT EXECUTE ON FUNCTION cogni_billing.mint TO app_spender",
        '"app_spender" has EXECUTE ON FUNCTION cogni_billing.mint',
        'REVOKE EXECUTE ON FUNCTION cogni_billing.mint FROM "app_spender"',
    ),
    "a call lost": (
        "REVOKE EXECUTE ON FUNCTION cogni_billing.spend FROM app_user",
        '"app_user" lacks EXECUTE ON FUNCTION cogni_billing.spend',
        'GRANT EXECUTE ON FUNCTION cogni_billing.spend TO "app_user"',
    ),
    "the seed callable by all": (
        "GRANT EXECUTE ON FUNCTION cogni_billing.seed_system_tenant() TO PUBLIC",
        "PUBLIC has EXECUTE ON FUNCTION cogni_billing.seed_system_tenant",
        "REVOKE EXECUTE ON FUNCTION cogni_billing.seed_system_tenant FROM PUBLIC",
    ),
    "CREATE on the schema": (
        "GRANT CREATE ON SCHEMA cogni_billing TO app_user",
        '"app_user" has CREATE ON SCHEMA cogni_billing',
        'REVOKE CREATE ON SCHEMA cogni_billing FROM "app_user"',
    ),
    "everybody on the schema": (
        "GRANT USAGE ON SCHEMA cogni_billing TO PUBLIC",
        "PUBLIC has USAGE ON SCHEMA cogni_billing",
        "REVOKE USAGE ON SCHEMA cogni_billing FROM PUBLIC",
    ),
    "the schema out of reach": (
        "REVOKE USAGE ON SCHEMA cogni_billing FROM app_user",
        '"app_user" lacks USAGE ON SCHEMA cogni_billing',
        'GRANT USAGE ON SCHEMA cogni_billing TO "app_user"',
    ),
    "a sequence granted": (
        "GRANT USAGE ON SEQUENCE cogni_billing.arrivals_position_seq TO app_user",
        '"app_user" has USAGE ON cogni_billing.arrivals_position_seq',
        'REVOKE USAGE ON cogni_billing.arrivals_position_seq FROM "app_user"',
    ),
    "what is made later granted": (
        "ALTER DEFAULT PRIVILEGES FOR ROLE app_migrator IN SCHEMA cogni_billing"
        " GRANT SELECT ON TABLES TO PUBLIC",
        "PUBLIC is given SELECT on every TABLE created later",
        'ALTER DEFAULT PRIVILEGES FOR ROLE "app_migrator" IN SCHEMA cogni_billing'
        " REVOKE SELECT ON TABLES FROM PUBLIC",
    ),
    "functions made later granted": (
        "ALTER DEFAULT PRIVILEGES FOR ROLE cogni_billing_keeper IN SCHEMA cogni_billing"
        " GRANT EXECUTE ON FUNCTIONS TO app_spender",
        "app_spender is given EXECUTE on every FUNCTION created later",
        'ALTER DEFAULT PRIVILEGES FOR ROLE "cogni_billing_keeper" IN SCHEMA cogni_billing'
        ' REVOKE EXECUTE ON FUNCTIONS FROM "app_spender"',
    ),
    "a grant that may be passed on": (
        "GRANT EXECUTE ON FUNCTION cogni_billing.spend TO app_user WITH GRANT OPTION",
        "app_user may pass on EXECUTE ON FUNCTION cogni_billing.spend",
        'REVOKE GRANT OPTION FOR EXECUTE ON FUNCTION cogni_billing.spend FROM "app_user"',
    ),
    "a view that asks as an administrator": (
        "CREATE VIEW public.report AS SELECT * FROM cogni_billing.wallets",
        "public.report shows rows that row security hides",
        "ALTER VIEW public.report SET (security_invoker = true)",
    ),
    "a view that asks as the migrator": (
        "CREATE VIEW public.keys AS SELECT * FROM cogni_billing.context_keys;"
        " ALTER VIEW public.keys OWNER TO app_migrator",
        "public.keys shows rows that row security hides",
        "ALTER VIEW public.keys SET (security_invoker = true)",
    ),
    "a view that asks as the service": (
        "CREATE VIEW public.all_claims AS SELECT * FROM cogni_billing.claims;"
        " ALTER VIEW public.all_claims OWNER TO app_service",
        "public.all_claims shows rows that row security hides",
        "ALTER VIEW public.all_claims SET (security_invoker = true)",
    ),
    "a copy of everybody's": (
        "CREATE MATERIALIZED VIEW public.copy AS SELECT * FROM cogni_billing.wallets",
        "public.copy shows rows that row security hides",
        "DROP MATERIALIZED VIEW public.copy",
    ),
    "a copy of what a view shows": (
        "CREATE VIEW public.shown AS SELECT * FROM cogni_billing.arrivals;"
        " ALTER VIEW public.shown SET (security_invoker = true);"
        " CREATE MATERIALIZED VIEW public.copied AS SELECT * FROM public.shown",
        "public.copied shows rows that row security hides",
        "DROP MATERIALIZED VIEW public.copied",
    ),
    "a helper that asks as an administrator": (
        "CREATE FUNCTION public.peek() RETURNS SETOF cogni_billing.arrivals LANGUAGE sql"
        " SECURITY DEFINER AS 'SELECT * FROM cogni_billing.arrivals'",
        "public.peek() bypasses the row security of its caller",
        "ALTER FUNCTION public.peek() SECURITY INVOKER",
    ),
    "a rule": (
        "CREATE RULE twice AS ON INSERT TO cogni_billing.claims DO INSTEAD NOTHING",
        "rule twice on claims rewrites statements",
        'DROP RULE "twice" ON cogni_billing.claims',
    ),
    "an heir": (
        "CREATE TABLE public.more () INHERITS (cogni_billing.arrivals)",
        "public.more inherits from cogni_billing.arrivals",
        "ALTER TABLE public.more NO INHERIT cogni_billing.arrivals",
    ),
    "a parent without guards": (
        "CREATE TABLE public.parent (LIKE cogni_billing.arrivals);"
        " ALTER TABLE cogni_billing.arrivals INHERIT public.parent",
        "cogni_billing.arrivals inherits from public.parent",
        "ALTER TABLE cogni_billing.arrivals NO INHERIT public.parent",
    ),
    "a dropped index": (
        "DROP INDEX cogni_billing.wallets_due",
        "index wallets_due is missing or was changed",
        "DROP INDEX IF EXISTS cogni_billing.wallets_due;"
        " CREATE INDEX wallets_due ON cogni_billing.wallets USING btree (due_at)"
        " WHERE (due_at < 'infinity'::timestamp with time zone)",
    ),
    "an index of another key under its name": (
        "DROP INDEX cogni_billing.wallets_due;"
        " CREATE INDEX wallets_due ON cogni_billing.wallets (tenant_id)",
        "index wallets_due is missing or was changed",
        "DROP INDEX IF EXISTS cogni_billing.wallets_due;"
        " CREATE INDEX wallets_due ON cogni_billing.wallets USING btree (due_at)"
        " WHERE (due_at < 'infinity'::timestamp with time zone)",
    ),
    "an index that holds nothing": (
        "UPDATE pg_index SET indisvalid = false"
        " WHERE indexrelid = 'cogni_billing.holds_open'::regclass",
        "index holds_open is not valid",
        "REINDEX INDEX cogni_billing.holds_open",
    ),
    "an index that tells of others' keys": (
        "CREATE UNIQUE INDEX spy ON cogni_billing.holds (reference)",
        "index spy on holds is unknown",
        'DROP INDEX cogni_billing."spy"',
    ),
    "a constraint that tells of others' keys": (
        "ALTER TABLE cogni_billing.holds ADD CONSTRAINT spy UNIQUE (reference)",
        "constraint spy on holds is unknown",
        'ALTER TABLE cogni_billing.holds DROP CONSTRAINT "spy"',
    ),
    "a dropped constraint": (
        "ALTER TABLE cogni_billing.transactions DROP CONSTRAINT transactions_key_used_once",
        "constraint transactions_key_used_once on transactions is missing or was changed",
        "ALTER TABLE cogni_billing.transactions"
        ' DROP CONSTRAINT IF EXISTS "transactions_key_used_once",'
        ' ADD CONSTRAINT "transactions_key_used_once" UNIQUE (reference, tenant_id, kind)',
    ),
    "a constraint that lets everything through": (
        "ALTER TABLE cogni_billing.context_keys DROP CONSTRAINT context_keys_id_known,"
        " ADD CONSTRAINT context_keys_id_known CHECK (true)",
        "constraint context_keys_id_known on context_keys is missing or was changed",
        "ALTER TABLE cogni_billing.context_keys"
        ' DROP CONSTRAINT IF EXISTS "context_keys_id_known",'
        " ADD CONSTRAINT \"context_keys_id_known\" CHECK ((id ~ '^[0-9a-f]{16}$'::text))",
    ),
    "a table of another owner": (
        "ALTER TABLE cogni_billing.claims OWNER TO postgres",
        "TABLE cogni_billing.claims is owned by postgres",
        "run provision as an administrator",
    ),
    "a table that is not ours": (
        "CREATE TABLE cogni_billing.notes (tenant_id uuid)",
        "cogni_billing.notes is unknown",
        "ALTER TABLE cogni_billing.notes SET SCHEMA public",
    ),
    "a table that a crash empties": (
        "ALTER TABLE cogni_billing.checkpoints SET UNLOGGED",
        "a crash empties cogni_billing.checkpoints",
        "ALTER TABLE cogni_billing.checkpoints SET LOGGED",
    ),
    "a schema of another owner": (
        "ALTER SCHEMA cogni_billing OWNER TO app_user",
        "SCHEMA cogni_billing is owned by app_user",
        "run provision as an administrator",
    ),
    "a schema of migrations of another owner": (
        "ALTER SCHEMA cogni_billing_migrations OWNER TO app_service",
        "SCHEMA cogni_billing_migrations is owned by app_service",
        "run provision as an administrator",
    ),
    "a type of another owner": (
        "ALTER TYPE cogni_billing.movement OWNER TO app_user",
        "TYPE cogni_billing.movement is owned by app_user",
        "run provision as an administrator",
    ),
    "a table of migrations of another owner": (
        "ALTER TABLE cogni_billing_migrations.alembic_version OWNER TO postgres",
        "TABLE cogni_billing_migrations.alembic_version is owned by postgres",
        "run provision as an administrator",
    ),
    "positions handed out in advance": (
        "ALTER SEQUENCE cogni_billing.arrivals_position_seq CACHE 50",
        "sequence arrivals_position_seq is missing or was changed",
        'ALTER SEQUENCE cogni_billing."arrivals_position_seq" AS bigint START 1 INCREMENT 1'
        " CACHE 1 NO CYCLE",
    ),
    "a column that fills itself in": (
        "ALTER TABLE cogni_billing.transactions ALTER posted_after SET DEFAULT 0",
        "column posted_after on transactions is missing or was changed",
        'ALTER TABLE cogni_billing.transactions ALTER "posted_after" DROP DEFAULT',
    ),
    "a column that may be empty and begins elsewhere": (
        "ALTER TABLE cogni_billing.wallets ALTER held DROP NOT NULL, ALTER held SET DEFAULT 1",
        "column held on wallets is missing or was changed",
        'ALTER TABLE cogni_billing.wallets ALTER "held" SET NOT NULL, ALTER "held" SET DEFAULT 0',
    ),
    "a column of another type": (
        'ALTER TABLE cogni_billing.grants ALTER source TYPE varchar COLLATE "default"',
        "column source on grants is missing or was changed",
        'ALTER TABLE cogni_billing.grants ALTER "source" TYPE text COLLATE "C"',
    ),
    "a column that is not ours": (
        "ALTER TABLE cogni_billing.arrivals ADD note text",
        "column note on arrivals is unknown",
        'ALTER TABLE cogni_billing.arrivals DROP COLUMN "note"',
    ),
    "a tenant set for the database": (
        "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET app.current_user_id = %L',"
        " current_database(), '0a11ce00-0000-4000-8000-000000000001'); END $$",
        "app.current_user_id=0a11ce00-0000-4000-8000-000000000001 is set for the DATABASE {name}",
        "ALTER DATABASE {name} RESET app.current_user_id",
    ),
}


def sabotage(database: Database, statement: str) -> None:
    with database.admin.begin() as connection:
        connection.execute(text(statement))


def remedied(database: Database) -> None:
    """Run doctor's remedies until it has no defects."""
    for _ in range(3):
        for defect in doctor(database.user).defects:
            if defect.remedy == "run repair as the migrator":
                repair(database.migrator)
            elif defect.remedy == "run provision as an administrator":
                provision(database.admin)
            elif defect.remedy != "fix the other defects first":
                sabotage(database, defect.remedy)
        database.user.dispose()  # settings of the database apply to new sessions
        if doctor(database.user).ok:
            return
    raise AssertionError(doctor(database.user).defects)


def test_a_fresh_installation_is_sound(database: Database) -> None:
    report = doctor(database.user)

    assert report.defects == ()
    assert report.ok
    assert len(report.checks) == 18
    ensure_ready(database.user)


def test_awaited_doctor_finds_the_same(own_database: Database) -> None:
    async def examined() -> Report:
        engine = create_async_engine(own_database.sandbox.url("app_user"))
        try:
            await ensure_ready_async(engine)
            sabotage(own_database, "GRANT DELETE ON cogni_billing.claims TO app_user")
            with pytest.raises(InstallationNotReady) as caught:
                await ensure_ready_async(engine)
            assert caught.value.check == "each role has exactly its privileges"
            assert "DELETE ON cogni_billing.claims" in caught.value.problem
            return await doctor_async(engine)
        finally:
            await engine.dispose()

    found = asyncio.run(examined())

    assert found.defects == doctor(own_database.user).defects


def test_the_sessions_own_spelling_changes_no_verdict(database: Database) -> None:
    options = "-csearch_path=cogni_billing,public -ctimezone=Asia/Tokyo -cdatestyle=German"
    url = database.sandbox.role("app_user")
    given = str(url.query.get("options", ""))
    engine = create_engine(url.update_query_dict({"options": f"{given} {options}".strip()}))

    assert doctor(engine).defects == ()

    engine.dispose()


@pytest.mark.parametrize("name", SABOTAGES)
def test_a_sabotage_is_found_and_its_remedy_fixes_it(own_database: Database, name: str) -> None:
    database_name = str(own_database.admin.url.database)
    statement, problem, remedy = (part.replace("{name}", database_name) for part in SABOTAGES[name])
    sabotage(own_database, statement)
    own_database.user.dispose()

    report = doctor(own_database.user)

    assert (problem, remedy) in [(found.problem, found.remedy) for found in report.defects]
    with pytest.raises(InstallationNotReady) as caught:
        ensure_ready(own_database.user)
    assert "fix: " in caught.value.problem
    remedied(own_database)
    ensure_ready(own_database.user)


def dropped_functions() -> list[tuple[str, str]]:
    """Return the functions that no policy or trigger needs."""
    kept = {"tenant", "account_of", "check_arrivals", "check_erasure", "refuse_change", "revision"}
    return [
        (f"DROP FUNCTION cogni_billing.{name}", f"function {name} is missing or was changed")
        for name in sorted(function_sources().keys() - kept)
    ]


EVERY = {
    "row security": [
        (
            f"ALTER TABLE cogni_billing.{table} DISABLE ROW LEVEL SECURITY",
            f"row security is off on cogni_billing.{table}",
        )
        for table in blueprint.TABLES
    ],
    "force": [
        (
            f"ALTER TABLE cogni_billing.{table} NO FORCE ROW LEVEL SECURITY",
            f"row security is not forced on cogni_billing.{table}",
        )
        for table in blueprint.TABLES
    ],
    "policy": [
        (
            f"DROP POLICY {policy.name} ON cogni_billing.{policy.table}",
            f"policy {policy.name} on {policy.table} is missing",
        )
        for policy in sorted(blueprint.POLICIES, key=repr)
    ],
    "trigger": [
        (
            f"ALTER TABLE cogni_billing.{trigger.table} DISABLE TRIGGER {trigger.name}",
            f"trigger {trigger.name} on {trigger.table} is disabled",
        )
        for trigger in sorted(blueprint.TRIGGERS)
    ],
    "function": dropped_functions(),
    "privilege": [
        (
            f"REVOKE {each.on()} FROM {name}",
            f'"{name}" lacks {each.on()}',
        )
        for each in (*blueprint.table_privileges(ROLES), *blueprint.function_privileges(ROLES))
        if (name := ROLES.to_dict()[each.grantee])
    ],
    "privilege on every table": [
        (
            f"GRANT {privilege} ON cogni_billing.{table} TO app_user",
            f'"app_user" has {privilege} ON cogni_billing.{table}',
        )
        for table in blueprint.TABLES
        for privilege in ("SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE", "REFERENCES")
    ],
    "constraint": [
        (
            f"ALTER TABLE cogni_billing.{each.table} DROP CONSTRAINT {each.name}",
            f"constraint {each.name} on {each.table} is missing or was changed",
        )
        for each in sorted(definitions.expected("constraint"))
    ],
    "index": [
        (
            f"DROP INDEX cogni_billing.{each.name}",
            f"index {each.name} is missing or was changed",
        )
        for each in sorted(definitions.expected("index"))
    ],
    "column": [
        (
            f'ALTER TABLE cogni_billing.{each.table} ALTER "{each.name}" DROP DEFAULT',
            f"column {each.name} on {each.table} is missing or was changed",
        )
        for each in sorted(definitions.expected("column"))
        if " DEFAULT " in each.made.replace("BY DEFAULT", "")
    ],
}


@pytest.mark.parametrize("kind", EVERY)
def test_each_object_that_is_sabotaged_is_found_and_fixed(
    own_database: Database, kind: str
) -> None:
    for statement, _ in EVERY[kind]:
        sabotage(own_database, statement)

    problems = {found.problem for found in doctor(own_database.user).defects}

    assert {problem for _, problem in EVERY[kind]} <= problems
    remedied(own_database)


def test_a_dropped_column_is_restored_from_a_backup(own_database: Database) -> None:
    sabotage(own_database, "ALTER TABLE cogni_billing.disputes DROP COLUMN payment")

    defects = doctor(own_database.user).defects

    assert [(found.problem, found.remedy) for found in defects] == [
        (
            "column payment on disputes is missing or was changed",
            "restore the database from a backup",
        )
    ]


def test_a_missing_system_account_has_an_error_of_its_own(own_database: Database) -> None:
    sabotage(
        own_database,
        "SET LOCAL session_replication_role = replica;"
        f"DELETE FROM cogni_billing.wallets WHERE tenant_id = '{SYSTEM_TENANT_ID}'",
    )

    with pytest.raises(SystemTenantMissing) as caught:
        ensure_ready(own_database.user)

    assert "the account of the system tenant" in caught.value.missing
    remedied(own_database)
    ensure_ready(own_database.user)


def test_a_schema_behind_head_is_not_ready(own_database: Database) -> None:
    unmigrate(own_database.migrator)

    report = doctor(own_database.user)

    assert [(found.problem, found.remedy) for found in report.defects] == [
        ("the schema is at no revision, not at cogni_billing_0001", "run migrate as the migrator")
    ]
    with pytest.raises(LedgerUnavailable):
        ensure_ready(own_database.user)


def test_a_database_that_was_never_provisioned_is_not_ready(empty_database: Clone) -> None:
    engine = create_engine(empty_database.administrator)

    with pytest.raises(LedgerUnavailable, match="run provision first"):
        ensure_ready(engine)

    engine.dispose()


def test_connecting_as_the_administrator_is_found_and_no_superuser_is_weakened(
    database: Database,
) -> None:
    defects = doctor(database.admin).defects

    assert [(found.problem, found.remedy) for found in defects] == [
        ("connected as postgres", "connect as app_user or app_spender")
    ]
    with pytest.raises(InstallationNotReady) as caught:
        ensure_ready(database.admin)
    assert caught.value.check == "the connected role serves requests"


class TestPositionsGivenAgain:
    """A copy of the rows by logical replication does not advance the sequence."""

    @pytest.fixture
    def ledger(self, own_database: Database) -> Billing:
        billing = Billing(PostgresUnitOfWork(own_database.user, service=own_database.service))
        billing.confirm_purchase(ALICE, usd("1.00"), payment="stripe:1")
        billing.fold()
        ensure_ready(own_database.user)
        sabotage(own_database, "SELECT setval('cogni_billing.arrivals_position_seq', 1, false)")
        return billing

    def test_an_arrival_below_the_last_checkpoint_is_never_counted(self, ledger: Billing) -> None:
        before = ledger.balance(SYSTEM_TENANT_ID).posted

        receipt = ledger.confirm_purchase(ALICE, usd("1.00"), payment="stripe:2")
        ledger.fold()

        assert receipt.shares[0].amount > credits(0)
        assert ledger.balance(SYSTEM_TENANT_ID).posted == before
        assert not ledger.verify().ok

    def test_doctor_finds_a_sequence_behind_and_repair_advances_it(
        self, ledger: Billing, own_database: Database
    ) -> None:
        before = ledger.balance(SYSTEM_TENANT_ID).posted

        (defect,) = doctor(own_database.user).defects
        with pytest.raises(InstallationNotReady) as caught:
            ensure_ready(own_database.user)
        assert caught.value.check == "the sequence of positions is ahead of the rows"
        remedied(own_database)

        assert (defect.problem, defect.remedy) == (
            "sequence arrivals_position_seq repeats positions that are in use, up to 2",
            "run repair as the migrator",
        )
        receipt = ledger.confirm_purchase(ALICE, usd("1.00"), payment="stripe:2")
        ledger.fold()
        assert ledger.balance(SYSTEM_TENANT_ID).posted == before + receipt.shares[0].amount
        assert ledger.verify().ok

    @pytest.mark.parametrize(("value", "called"), [(1, "true"), (2, "false")])
    def test_one_repeated_position_is_found(
        self, ledger: Billing, own_database: Database, value: int, called: str
    ) -> None:
        position = f"SELECT setval('cogni_billing.arrivals_position_seq', {value}, {called})"
        sabotage(own_database, position)

        assert len(doctor(own_database.user).defects) == 1

    def test_repair_leaves_a_sequence_that_is_ahead(
        self, ledger: Billing, own_database: Database
    ) -> None:
        sabotage(own_database, "SELECT setval('cogni_billing.arrivals_position_seq', 3, false)")

        repair(own_database.migrator)

        with own_database.service.connect() as connection:
            asked = "SELECT last_value, is_called FROM cogni_billing.arrivals_position_seq"
            assert tuple(connection.execute(text(asked)).one()) == (3, False)


def test_only_the_migrator_repairs(own_database: Database) -> None:
    for engine in (own_database.admin, own_database.user, own_database.service):
        with pytest.raises(PrivilegeRequired, match="connect as app_migrator"):
            repair(engine)


class TestRoles:
    """Roles belong to the whole server, so these tests create their own."""

    @pytest.fixture
    def roles(self, empty_database: Clone) -> Iterator[Roles]:
        token = secrets.token_hex(4)
        yield Roles(
            migrator=f"Mig {token}",
            user=f'us"er {token}',
            service=f"s-{token}",
            keeper=f"k {token}",
        )
        server = create_engine(empty_database.of.administrator, isolation_level="AUTOCOMMIT")
        names = f"ARRAY['% {token}', 's-{token}']"
        with server.connect() as connection:
            connection.execute(text(f"DROP DATABASE {empty_database.name} WITH (FORCE)"))
            connection.execute(text(f"CREATE DATABASE {empty_database.name}"))
            ours = f"SELECT quote_ident(rolname) FROM pg_roles WHERE rolname LIKE ANY ({names})"
            for name in connection.scalars(text(ours)).all():
                connection.execute(text(f"DROP ROLE {name}"))
        server.dispose()

    @pytest.fixture
    def admin(self, empty_database: Clone) -> Iterator[Engine]:
        engine = create_engine(empty_database.administrator)
        yield engine
        engine.dispose()

    @pytest.fixture
    def user(self, empty_database: Clone, admin: Engine, roles: Roles) -> Iterator[Engine]:
        provision(admin, roles)
        migrator = create_engine(admin.url.update_query_dict({"options": _as(roles.migrator)}))
        migrate(migrator)
        migrator.dispose()
        engine = create_engine(admin.url.update_query_dict({"options": _as(roles.user)}))
        yield engine
        engine.dispose()

    def test_roles_of_other_names_are_sound_too(self, user: Engine) -> None:
        assert doctor(user).defects == ()

    @pytest.mark.parametrize(
        ("attribute", "problem"),
        [
            ("BYPASSRLS", "bypasses row security"),
            ("SUPERUSER", "is a superuser"),
            ("CREATEROLE", "may create roles or replicate"),
        ],
    )
    def test_an_attribute_that_frees_the_user_from_row_security_is_found(
        self, admin: Engine, user: Engine, roles: Roles, attribute: str, problem: str
    ) -> None:
        (name,) = roles.quoted("user")
        with admin.begin() as connection:
            connection.execute(text(f"ALTER ROLE {name} {attribute}"))

        found = [found for found in doctor(user).defects if found.problem.endswith(problem)]

        assert len(found) == 1
        with admin.begin() as connection:
            connection.execute(text(found[0].remedy))
        assert doctor(user).ok

    def test_a_membership_in_another_role_is_found(
        self, admin: Engine, user: Engine, roles: Roles
    ) -> None:
        service, name = roles.quoted("service", "user")
        with admin.begin() as connection:
            connection.execute(text(f"GRANT {service} TO {name}"))

        (defect,) = doctor(user).defects

        assert defect.problem == f"{roles.user} is a member of {roles.service}"
        assert defect.remedy.startswith(f"REVOKE {service} FROM {name}")
        with admin.begin() as connection:
            connection.execute(text(defect.remedy))
        assert doctor(user).ok

    def test_a_migrator_that_may_not_act_as_the_keeper_is_found(
        self, admin: Engine, user: Engine, roles: Roles
    ) -> None:
        migrator, keeper = roles.quoted("migrator", "keeper")
        with admin.begin() as connection:
            connection.execute(text(f"REVOKE {keeper} FROM {migrator}"))

        (defect,) = doctor(user).defects
        with admin.begin() as connection:
            connection.execute(text(defect.remedy))

        assert defect.problem == f"{roles.migrator} may not act as {roles.keeper}"
        assert doctor(user).ok

    def test_a_migrator_that_inherits_from_the_keeper_is_found(
        self, admin: Engine, user: Engine, roles: Roles
    ) -> None:
        migrator, keeper = roles.quoted("migrator", "keeper")
        with admin.begin() as connection:
            if connection.dialect.server_version_info >= (16,):  # type: ignore[operator]
                connection.execute(text(f"GRANT {keeper} TO {migrator} WITH INHERIT TRUE"))
            else:
                connection.execute(text(f"ALTER ROLE {migrator} INHERIT"))

        (defect,) = doctor(user).defects
        with admin.begin() as connection:
            connection.execute(text(defect.remedy))

        assert defect.problem.startswith(f"{roles.migrator} has every privilege")
        assert doctor(user).ok

    def test_provisioning_again_ends_the_migrators_inheritance(
        self, admin: Engine, user: Engine, roles: Roles
    ) -> None:
        with admin.begin() as connection:
            connection.execute(text(f"ALTER ROLE {roles.quoted('migrator')[0]} INHERIT"))

        provision(admin, roles)

        assert doctor(user).ok

    @pytest.mark.parametrize("purpose", ["migrator", "service", "keeper"])
    def test_a_role_that_bypasses_row_security_is_found(
        self, admin: Engine, user: Engine, roles: Roles, purpose: str
    ) -> None:
        (name,) = roles.quoted(purpose)
        with admin.begin() as connection:
            connection.execute(text(f"ALTER ROLE {name} BYPASSRLS"))

        (defect,) = doctor(user).defects

        assert defect.remedy == f"ALTER ROLE {name} NOBYPASSRLS"

    def test_a_keeper_that_may_log_in_is_found(
        self, admin: Engine, user: Engine, roles: Roles
    ) -> None:
        (name,) = roles.quoted("keeper")
        with admin.begin() as connection:
            connection.execute(text(f"ALTER ROLE {name} LOGIN"))

        (defect,) = doctor(user).defects

        assert defect.remedy == f"ALTER ROLE {name} NOLOGIN"

    def test_role_that_may_disable_triggers_is_found(
        self, admin: Engine, user: Engine, roles: Roles
    ) -> None:
        (name,) = roles.quoted("user")
        with admin.begin() as connection:
            connection.execute(text(f"GRANT SET ON PARAMETER session_replication_role TO {name}"))

        (defect,) = doctor(user).defects
        with admin.begin() as connection:
            connection.execute(text(defect.remedy))

        assert defect.remedy == f"REVOKE SET ON PARAMETER session_replication_role FROM {name}"
        assert doctor(user).ok

    def test_a_tenant_set_for_the_role_is_found(
        self, admin: Engine, user: Engine, roles: Roles
    ) -> None:
        (name,) = roles.quoted("user")
        with admin.begin() as connection:
            connection.execute(text(f"ALTER ROLE {name} SET app.current_user_id = 'x'"))

        (defect,) = doctor(user).defects

        assert defect.problem.startswith("app.current_user_id=x is set for the ROLE")
        with admin.begin() as connection:
            connection.execute(text(defect.remedy))
        assert doctor(user).ok

    @pytest.mark.parametrize("purpose", ["user", "service"])
    @pytest.mark.parametrize("here", [False, True], ids=["everywhere", "in this database"])
    @pytest.mark.parametrize(
        "setting",
        [
            "statement_timeout=1h",
            "default_transaction_read_only=off",
            "synchronous_commit=off",
            "search_path=pg_temp",
            "row_security=on",
        ],
    )
    def test_setting_that_a_serving_role_gave_itself_is_found(
        self, admin: Engine, user: Engine, roles: Roles, purpose: str, here: bool, setting: str
    ) -> None:
        (name,) = roles.quoted(purpose)
        place = f"IN DATABASE {admin.url.database} " if here else ""
        key, _, value = setting.partition("=")
        role = create_engine(
            admin.url.update_query_dict({"options": _as(roles.to_dict()[purpose])})
        )
        with role.begin() as connection:
            connection.execute(text(f"ALTER ROLE CURRENT_USER {place}SET {key} = '{value}'"))
        role.dispose()

        (defect,) = doctor(user).defects

        where = f"ROLE {name} {place}".strip()
        assert defect.problem == f"{setting} is set for the {where}"
        assert defect.remedy == f"ALTER {where} RESET {key}"
        with admin.begin() as connection:
            connection.execute(text(defect.remedy))
        assert doctor(user).ok


def _as(role: str) -> str:
    """Return libpq's options that set *role*. libpq splits options at spaces without a
    backslash.
    """
    return "-crole=" + role.replace(" ", "\\ ")
