"""doctor finds every deliberate sabotage, and says how to mend it."""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import pytest
from sqlalchemy import Engine, create_engine, text

from cogni_billing import LedgerCorruption, LedgerUnavailable, SystemTenantMissing
from cogni_billing.adapters.postgres import (
    Roles,
    doctor,
    ensure_ready,
    migrate,
    provision,
    unmigrate,
)
from stack.conftest import Clone, Database

SABOTAGES = {
    "row security off": (
        "ALTER TABLE cogni_billing.postings DISABLE ROW LEVEL SECURITY",
        "row security is off on cogni_billing.postings",
        "ALTER TABLE cogni_billing.postings ENABLE ROW LEVEL SECURITY",
    ),
    "force off": (
        "ALTER TABLE cogni_billing.wallets NO FORCE ROW LEVEL SECURITY",
        "row security is not forced on cogni_billing.wallets",
        "ALTER TABLE cogni_billing.wallets FORCE ROW LEVEL SECURITY",
    ),
    "an extra policy": (
        "CREATE POLICY everyone ON cogni_billing.postings FOR SELECT USING (true)",
        "policy everyone on postings is not one of ours, or was changed",
        'DROP POLICY "everyone" ON cogni_billing.postings',
    ),
    "a missing policy": (
        "DROP POLICY postings_read_floor ON cogni_billing.postings",
        "policy postings_read_floor on postings is missing",
        "CREATE POLICY postings_read_floor ON cogni_billing.postings AS RESTRICTIVE FOR SELECT"
        " USING (tenant_id = ( SELECT cogni_billing.tenant() AS tenant))",
    ),
    "a policy that admits more": (
        "ALTER POLICY postings_insert_share ON cogni_billing.postings WITH CHECK (true)",
        "policy postings_insert_share on postings is not one of ours, or was changed",
        'DROP POLICY "postings_insert_share" ON cogni_billing.postings',
    ),
    "a policy for one role": (
        "ALTER POLICY wallets_select ON cogni_billing.wallets TO app_service",
        "policy wallets_select on wallets is not one of ours, or was changed",
        'DROP POLICY "wallets_select" ON cogni_billing.wallets',
    ),
    "a dropped trigger": (
        "DROP TRIGGER check_postings ON cogni_billing.postings",
        "trigger check_postings on postings is missing",
        "CREATE TRIGGER check_postings AFTER INSERT ON cogni_billing.postings REFERENCING NEW"
        " TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION cogni_billing.check_postings()",
    ),
    "a disabled trigger": (
        "ALTER TABLE cogni_billing.transactions DISABLE TRIGGER append_only",
        "trigger append_only on transactions is disabled",
        "ALTER TABLE cogni_billing.transactions ENABLE TRIGGER append_only",
    ),
    "a trigger that fires for replication only": (
        "ALTER TABLE cogni_billing.postings ENABLE REPLICA TRIGGER keep_wallet",
        "trigger keep_wallet on postings is disabled",
        "ALTER TABLE cogni_billing.postings ENABLE TRIGGER keep_wallet",
    ),
    "an extra trigger": (
        "CREATE TRIGGER quiet BEFORE INSERT ON cogni_billing.payments"
        " FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()",
        "trigger quiet on payments is not one of ours, or was changed",
        'DROP TRIGGER "quiet" ON cogni_billing.payments',
    ),
    "a function that does nothing": (
        "CREATE OR REPLACE FUNCTION cogni_billing.check_postings() RETURNS trigger"
        " LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS 'BEGIN RETURN NULL; END'",
        "function check_postings is missing or was changed",
        "restore cogni_billing.check_postings as the library's migrations define it",
    ),
    "a function with a loose path": (
        "ALTER FUNCTION cogni_billing.keep_wallet() RESET search_path",
        "function keep_wallet is missing or was changed",
        "restore cogni_billing.keep_wallet as the library's migrations define it",
    ),
    "a function that runs as its owner": (
        "ALTER FUNCTION cogni_billing.check_postings() SECURITY DEFINER",
        "function check_postings is missing or was changed",
        "restore cogni_billing.check_postings as the library's migrations define it",
    ),
    "a function of another owner": (
        "ALTER FUNCTION cogni_billing.keep_wallet() OWNER TO postgres",
        "function keep_wallet is missing or was changed",
        "restore cogni_billing.keep_wallet as the library's migrations define it",
    ),
    "an extra function": (
        "CREATE FUNCTION cogni_billing.backdoor() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "function backdoor is not one of ours",
        "DROP FUNCTION cogni_billing.backdoor",
    ),
    "UPDATE granted": (
        "GRANT UPDATE ON cogni_billing.wallets TO app_user",
        '"app_user" has UPDATE ON cogni_billing.wallets',
        'REVOKE UPDATE ON cogni_billing.wallets FROM "app_user"',
    ),
    "a column granted": (
        "GRANT INSERT (balance_after) ON cogni_billing.postings TO app_user",
        '"app_user" has INSERT (balance_after) ON cogni_billing.postings',
        'REVOKE INSERT (balance_after) ON cogni_billing.postings FROM "app_user"',
    ),
    "everybody granted": (
        "GRANT SELECT ON cogni_billing.accounts TO PUBLIC",
        "PUBLIC has SELECT ON cogni_billing.accounts",
        "REVOKE SELECT ON cogni_billing.accounts FROM PUBLIC",
    ),
    "a privilege lost": (
        "REVOKE SELECT ON cogni_billing.payments FROM app_user",
        '"app_user" lacks SELECT ON cogni_billing.payments',
        'GRANT SELECT ON cogni_billing.payments TO "app_user"',
    ),
    "the seed callable by all": (
        "GRANT EXECUTE ON FUNCTION cogni_billing.seed_system_tenant() TO PUBLIC",
        "PUBLIC may call seed_system_tenant",
        "REVOKE EXECUTE ON FUNCTION cogni_billing.seed_system_tenant FROM PUBLIC",
    ),
    "CREATE on the schema": (
        "GRANT CREATE ON SCHEMA cogni_billing TO app_user",
        "app_user may create in the schema",
        'REVOKE CREATE ON SCHEMA cogni_billing FROM "app_user"',
    ),
    "everybody on the schema": (
        "GRANT USAGE ON SCHEMA cogni_billing TO PUBLIC",
        "PUBLIC may use the schema",
        "REVOKE USAGE ON SCHEMA cogni_billing FROM PUBLIC",
    ),
    "a sequence granted": (
        "GRANT USAGE ON SEQUENCE cogni_billing.postings_position_seq TO app_user",
        '"app_user" has USAGE ON cogni_billing.postings_position_seq',
        'REVOKE USAGE ON cogni_billing.postings_position_seq FROM "app_user"',
    ),
    "what is made later granted": (
        "ALTER DEFAULT PRIVILEGES FOR ROLE app_migrator IN SCHEMA cogni_billing"
        " GRANT SELECT ON TABLES TO PUBLIC",
        "PUBLIC is given SELECT on every TABLE that is made later",
        'ALTER DEFAULT PRIVILEGES FOR ROLE "app_migrator" IN SCHEMA cogni_billing'
        " REVOKE SELECT ON TABLES FROM PUBLIC",
    ),
    "a view that asks as an administrator": (
        "CREATE VIEW public.report AS SELECT * FROM cogni_billing.wallets",
        "public.report shows what row security hides",
        "ALTER VIEW public.report SET (security_invoker = true)",
    ),
    "a copy of everybody's": (
        "CREATE MATERIALIZED VIEW public.copy AS SELECT * FROM cogni_billing.wallets",
        "public.copy shows what row security hides",
        "DROP MATERIALIZED VIEW public.copy",
    ),
    "a rule": (
        "CREATE RULE twice AS ON INSERT TO cogni_billing.payments DO INSTEAD NOTHING",
        "rule twice on payments rewrites statements",
        'DROP RULE "twice" ON cogni_billing.payments',
    ),
    "an heir": (
        "CREATE TABLE public.more () INHERITS (cogni_billing.postings)",
        "public.more inherits from cogni_billing.postings",
        "ALTER TABLE public.more NO INHERIT cogni_billing.postings",
    ),
    "a dropped index": (
        "DROP INDEX cogni_billing.transactions_returned_one_after_another",
        "index transactions_returned_one_after_another is missing or was changed",
        "DROP INDEX IF EXISTS cogni_billing.transactions_returned_one_after_another;"
        " CREATE UNIQUE INDEX transactions_returned_one_after_another"
        " ON cogni_billing.transactions"
        " USING btree (reverses, tenant_id, ((returned_total - returned)))"
        " WHERE (reverses IS NOT NULL)",
    ),
    "an index that is unique no more": (
        "DROP INDEX cogni_billing.transactions_returned_one_after_another;"
        " CREATE INDEX transactions_returned_one_after_another ON cogni_billing.transactions (id)",
        "index transactions_returned_one_after_another is missing or was changed",
        "DROP INDEX IF EXISTS cogni_billing.transactions_returned_one_after_another;"
        " CREATE UNIQUE INDEX transactions_returned_one_after_another"
        " ON cogni_billing.transactions"
        " USING btree (reverses, tenant_id, ((returned_total - returned)))"
        " WHERE (reverses IS NOT NULL)",
    ),
    "an index that holds nothing": (
        "UPDATE pg_index SET indisvalid = false"
        " WHERE indexrelid = 'cogni_billing.holds_open'::regclass",
        "index holds_open is not valid",
        "REINDEX INDEX cogni_billing.holds_open",
    ),
    "a table of another owner": (
        "ALTER TABLE cogni_billing.accounts OWNER TO postgres",
        "cogni_billing.accounts is owned by postgres",
        'ALTER TABLE cogni_billing.accounts OWNER TO "app_migrator"',
    ),
    "a table that is not ours": (
        "CREATE TABLE cogni_billing.notes (tenant_id uuid)",
        "cogni_billing.notes is not the library's",
        "move cogni_billing.notes to another schema",
    ),
    "a dropped constraint": (
        "ALTER TABLE cogni_billing.postings DROP CONSTRAINT postings_made_once",
        "constraint postings_made_once on postings is missing or was changed",
        'ALTER TABLE cogni_billing.postings DROP CONSTRAINT IF EXISTS "postings_made_once",'
        ' ADD CONSTRAINT "postings_made_once" UNIQUE (origin_tenant_id, transaction_id, sequence)',
    ),
    "a constraint that lets everything through": (
        "ALTER TABLE cogni_billing.wallets DROP CONSTRAINT wallets_posted_in_bounds,"
        " ADD CONSTRAINT wallets_posted_in_bounds CHECK (true)",
        "constraint wallets_posted_in_bounds on wallets is missing or was changed",
        'ALTER TABLE cogni_billing.wallets DROP CONSTRAINT IF EXISTS "wallets_posted_in_bounds",'
        ' ADD CONSTRAINT "wallets_posted_in_bounds" CHECK (((posted >'
        " '-100000000000000000000000000000000000000000000000000'::numeric) AND (posted <"
        " '100000000000000000000000000000000000000000000000000'::numeric)))",
    ),
    "a parent without guards": (
        "CREATE TABLE public.parent (LIKE cogni_billing.postings);"
        " ALTER TABLE cogni_billing.postings INHERIT public.parent",
        "cogni_billing.postings inherits from public.parent",
        "ALTER TABLE cogni_billing.postings NO INHERIT public.parent",
    ),
    "a view that asks as the migrator": (
        "CREATE VIEW public.keys AS SELECT * FROM cogni_billing.context_keys;"
        " ALTER VIEW public.keys OWNER TO app_migrator",
        "public.keys shows what row security hides",
        "ALTER VIEW public.keys SET (security_invoker = true)",
    ),
    "a copy of what a view shows": (
        "CREATE VIEW public.shown AS SELECT * FROM cogni_billing.postings;"
        " ALTER VIEW public.shown SET (security_invoker = true);"
        " CREATE MATERIALIZED VIEW public.copied AS SELECT * FROM public.shown",
        "public.copied shows what row security hides",
        "DROP MATERIALIZED VIEW public.copied",
    ),
    "a function that keeps its first answer": (
        "ALTER FUNCTION cogni_billing.tenant() IMMUTABLE",
        "function tenant is missing or was changed",
        "restore cogni_billing.tenant as the library's migrations define it",
    ),
    "a helper that asks as an administrator": (
        "CREATE FUNCTION public.peek() RETURNS SETOF cogni_billing.postings LANGUAGE sql"
        " SECURITY DEFINER AS 'SELECT * FROM cogni_billing.postings'",
        "public.peek() runs as one whom row security does not bind like its caller",
        "ALTER FUNCTION public.peek() SECURITY INVOKER",
    ),
    "a schema of another owner": (
        "ALTER SCHEMA cogni_billing OWNER TO app_user",
        "the schema is owned by app_user",
        'ALTER SCHEMA cogni_billing OWNER TO "app_migrator"',
    ),
    "foreign keys unchecked": (
        "ALTER TABLE cogni_billing.payments DISABLE TRIGGER ALL;"
        " ALTER TABLE cogni_billing.payments ENABLE TRIGGER USER",
        "foreign keys of payments are not checked",
        "ALTER TABLE cogni_billing.payments ENABLE TRIGGER ALL",
    ),
    "an index of another key under its name": (
        "DROP INDEX cogni_billing.wallets_due;"
        " CREATE INDEX wallets_due ON cogni_billing.wallets (tenant_id)",
        "index wallets_due is missing or was changed",
        "DROP INDEX IF EXISTS cogni_billing.wallets_due;"
        " CREATE INDEX wallets_due ON cogni_billing.wallets USING btree (due_at)"
        " WHERE (due_at < 'infinity'::timestamp with time zone)",
    ),
    "an index that tells of others' keys": (
        "CREATE UNIQUE INDEX spy ON cogni_billing.holds (reference)",
        "index spy on holds is not one of ours",
        'DROP INDEX cogni_billing."spy"',
    ),
    "a constraint that tells of others' keys": (
        "ALTER TABLE cogni_billing.holds ADD CONSTRAINT spy UNIQUE (reference)",
        "constraint spy on holds is not one of ours",
        'ALTER TABLE cogni_billing.holds DROP CONSTRAINT "spy"',
    ),
    "a grant that may be passed on": (
        "GRANT SELECT ON cogni_billing.postings TO app_user WITH GRANT OPTION",
        "app_user may pass on SELECT on cogni_billing.postings",
        'REVOKE GRANT OPTION FOR SELECT ON cogni_billing.postings FROM "app_user"',
    ),
    "a table that a crash empties": (
        "ALTER TABLE cogni_billing.checkpoints SET UNLOGGED",
        "a crash empties cogni_billing.checkpoints",
        "ALTER TABLE cogni_billing.checkpoints SET LOGGED",
    ),
    "positions handed out in advance": (
        "ALTER SEQUENCE cogni_billing.postings_position_seq CACHE 50",
        "sequence postings_position_seq is missing or was changed",
        "make sequence postings_position_seq bigint START 1 INCREMENT 1 CACHE 1 again",
    ),
    "a column that fills itself in": (
        "ALTER TABLE cogni_billing.postings ALTER posted_after SET DEFAULT 0",
        "column posted_after on postings is missing or was changed",
        "make column posted_after numeric again",
    ),
    "a column that may be empty": (
        "ALTER TABLE cogni_billing.postings ALTER kind DROP NOT NULL",
        "column kind on postings is missing or was changed",
        "make column kind text NOT NULL again",
    ),
    "a column that is not ours": (
        "ALTER TABLE cogni_billing.postings ADD note text",
        "column note on postings is not one of ours",
        'ALTER TABLE cogni_billing.postings DROP COLUMN "note"',
    ),
    "a tenant set for the database": (
        "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET app.current_user_id = %L',"
        " current_database(), '0a11ce00-0000-4000-8000-000000000001'); END $$",
        "a tenant is set outside any scope",
        "remove it from the connection's options",
    ),
    "commits that may be lost": (
        "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET synchronous_commit = off',"
        " current_database()); END $$",
        "synchronous_commit is off: a crash can lose confirmed purchases",
        "ALTER SYSTEM SET synchronous_commit = on; SELECT pg_reload_conf()",
    ),
}


def sabotage(database: Database, statement: str) -> None:
    with database.admin.begin() as connection:
        connection.execute(text(statement))


def test_a_fresh_installation_is_sound(database: Database) -> None:
    report = doctor(database.user)

    assert report.findings == ()
    assert report.ok
    assert len(report.checks) == 16
    ensure_ready(database.user)


def test_the_sessions_own_spelling_changes_no_verdict(database: Database) -> None:
    options = "-csearch_path=cogni_billing,public -ctimezone=Asia/Tokyo -cdatestyle=German"
    url = database.sandbox.role("app_user")
    given = str(url.query.get("options", ""))
    engine = create_engine(url.update_query_dict({"options": f"{given} {options}".strip()}))

    assert doctor(engine).findings == ()

    engine.dispose()


@pytest.mark.parametrize("name", SABOTAGES)
def test_a_sabotage_is_found_and_a_host_does_not_start_on_it(
    own_database: Database, name: str
) -> None:
    statement, problem, remedy = SABOTAGES[name]
    sabotage(own_database, statement)

    report = doctor(own_database.user)

    assert (problem, remedy) in [(found.problem, found.remedy) for found in report.findings]
    with pytest.raises(LedgerCorruption) as caught:
        ensure_ready(own_database.user)
    assert "mend: " in str(caught.value)


@pytest.mark.parametrize(
    "name",
    [
        "row security off",
        "force off",
        "a disabled trigger",
        "a missing policy",
        "a dropped trigger",
        "an extra policy",
        "UPDATE granted",
        "a column granted",
        "everybody granted",
        "a privilege lost",
        "a table of another owner",
        "a dropped constraint",
        "a constraint that lets everything through",
        "everybody on the schema",
        "a sequence granted",
        "what is made later granted",
        "a rule",
        "an heir",
        "a dropped index",
        "an index that is unique no more",
        "an index that holds nothing",
        "a parent without guards",
        "a view that asks as the migrator",
        "a copy of what a view shows",
        "a helper that asks as an administrator",
        "foreign keys unchecked",
        "an index of another key under its name",
        "an index that tells of others' keys",
        "a constraint that tells of others' keys",
        "a grant that may be passed on",
        "a table that a crash empties",
        "a column that is not ours",
    ],
)
def test_the_remedy_mends_it(own_database: Database, name: str) -> None:
    statement, _, remedy = SABOTAGES[name]
    sabotage(own_database, statement)

    sabotage(own_database, remedy)

    assert doctor(own_database.user).ok


def test_a_missing_system_account_has_an_error_of_its_own(own_database: Database) -> None:
    sabotage(
        own_database,
        "SET LOCAL session_replication_role = replica;"
        "DELETE FROM cogni_billing.accounts WHERE type = 'issuance'",
    )

    with pytest.raises(SystemTenantMissing) as caught:
        ensure_ready(own_database.user)

    assert "the issuance account of the system tenant" in caught.value.missing
    with own_database.migrator.begin() as connection:
        connection.execute(text("SELECT cogni_billing.seed_system_tenant()"))
    ensure_ready(own_database.user)


def test_a_schema_behind_head_is_not_ready(own_database: Database) -> None:
    unmigrate(own_database.migrator)

    report = doctor(own_database.user)

    assert [(found.problem, found.remedy) for found in report.findings] == [
        ("the schema is at nothing, not at cogni_billing_0001", "run migrate as the migrator")
    ]
    with pytest.raises(LedgerUnavailable):
        ensure_ready(own_database.user)


def test_a_database_that_was_never_provisioned_is_not_ready(empty_database: Clone) -> None:
    engine = create_engine(empty_database.administrator)

    with pytest.raises(LedgerUnavailable, match="run provision first"):
        ensure_ready(engine)

    engine.dispose()


def test_connecting_as_the_administrator_is_found(database: Database) -> None:
    problems = [found.problem for found in doctor(database.admin).findings]

    assert "postgres is a superuser" in problems
    assert "connected as postgres" in problems


class TestRoles:
    """Roles belong to the whole server, so these tests bring their own."""

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
        assert doctor(user).findings == ()

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

        found = [found for found in doctor(user).findings if found.problem.endswith(problem)]

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

        (finding,) = doctor(user).findings

        assert finding.problem == f"{roles.user} is a member of {roles.service}"
        assert finding.remedy == f"REVOKE {service} FROM {name}"

    @pytest.mark.parametrize("purpose", ["migrator", "keeper"])
    def test_a_migrator_or_keeper_that_bypasses_row_security_is_found(
        self, admin: Engine, user: Engine, roles: Roles, purpose: str
    ) -> None:
        (name,) = roles.quoted(purpose)
        with admin.begin() as connection:
            connection.execute(text(f"ALTER ROLE {name} BYPASSRLS"))

        (finding,) = doctor(user).findings

        assert finding.remedy == f"ALTER ROLE {name} NOBYPASSRLS"

    def test_a_keeper_that_may_log_in_is_found(
        self, admin: Engine, user: Engine, roles: Roles
    ) -> None:
        (name,) = roles.quoted("keeper")
        with admin.begin() as connection:
            connection.execute(text(f"ALTER ROLE {name} LOGIN"))

        (finding,) = doctor(user).findings

        assert finding.remedy == f"ALTER ROLE {name} NOLOGIN"

    def test_one_who_may_switch_triggers_off_is_found(
        self, admin: Engine, user: Engine, roles: Roles
    ) -> None:
        (name,) = roles.quoted("user")
        with admin.begin() as connection:
            connection.execute(text(f"GRANT SET ON PARAMETER session_replication_role TO {name}"))

        (finding,) = doctor(user).findings
        with admin.begin() as connection:
            connection.execute(text(finding.remedy))

        assert finding.remedy == f"REVOKE SET ON PARAMETER session_replication_role FROM {name}"
        assert doctor(user).ok

    def test_commits_that_may_be_lost_are_found_of_every_role(
        self, admin: Engine, user: Engine, roles: Roles
    ) -> None:
        (name,) = roles.quoted("service")
        with admin.begin() as connection:
            connection.execute(text(f"ALTER ROLE {name} SET synchronous_commit = off"))

        (finding,) = doctor(user).findings

        assert finding.remedy == f"ALTER ROLE {name} RESET synchronous_commit"

    def test_a_tenant_set_for_the_role_is_found(
        self, admin: Engine, user: Engine, roles: Roles
    ) -> None:
        (name,) = roles.quoted("user")
        with admin.begin() as connection:
            connection.execute(text(f"ALTER ROLE {name} SET app.current_user_id = 'x'"))

        (finding,) = doctor(user).findings

        assert finding.problem.startswith("app.current_user_id=x is set for the ROLE")
        with admin.begin() as connection:
            connection.execute(text(finding.remedy))
        assert doctor(user).ok


def _as(role: str) -> str:
    """libpq's options that take *role* on; it splits at spaces that no backslash guards."""
    return "-crole=" + role.replace(" ", "\\ ")
