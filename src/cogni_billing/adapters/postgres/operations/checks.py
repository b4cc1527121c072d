"""What doctor asks of the running database, one function a question, each with its SQL.

A question yields what it finds wrong, and how to mend it; `blueprint` says what would be right.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import psycopg
from attrs import frozen
from sqlalchemy import Connection, Row, text
from sqlalchemy.schema import CreateIndex

from cogni_billing.adapters.postgres.contexts import Context
from cogni_billing.adapters.postgres.operations import blueprint
from cogni_billing.adapters.postgres.operations.blueprint import Constraint, Grant, Policy, Trigger
from cogni_billing.adapters.postgres.operations.migrating import head_revision
from cogni_billing.adapters.postgres.operations.provisioning import Provision
from cogni_billing.adapters.postgres.operations.roles import Roles, quoted
from cogni_billing.adapters.postgres.schema import SCHEMA, metadata
from cogni_billing.adapters.postgres.statements import ACCOUNT
from cogni_billing.domain.accounts import CONTRA_ACCOUNTS
from cogni_billing.domain.identity import SYSTEM_ACCOUNT_ID, SYSTEM_TENANT_ID


@frozen
class Finding:
    """One thing that is not as it should be, and how to mend it."""

    problem: str
    remedy: str


Findings = Iterator[Finding]


@frozen
class Subject:
    """What is examined: as it was installed, and how to act for a tenant there."""

    record: Provision
    context: Context

    @property
    def roles(self) -> Roles:
        return self.record.roles


def revision(connection: Connection, _: Subject) -> Findings:
    head = head_revision()
    exists = connection.scalar(_HAS_REVISION, {"schema": SCHEMA})
    found = connection.scalar(text(f"SELECT {SCHEMA}.revision()")) if exists else "nothing"
    if found != head:
        yield Finding(f"the schema is at {found}, not at {head}", "run migrate as the migrator")


_HAS_REVISION: Final = text("""
    SELECT EXISTS (
        SELECT FROM pg_proc
        WHERE pronamespace = CAST(:schema AS regnamespace) AND proname = 'revision'
    )
""")


def connected_role(connection: Connection, subject: Subject) -> Findings:
    name: str = connection.execute(text("SELECT current_user")).scalar_one()
    serving = [each for each in (subject.roles.user, subject.roles.spender) if each is not None]
    if name not in serving:
        yield Finding(f"connected as {name}", f"connect as {' or '.join(serving)}")
    if name not in subject.roles.to_dict().values():
        attributes = connection.execute(_ATTRIBUTES, {"name": name}).one()
        yield from _excess(name, attributes, bypasses=False)


def separation(connection: Connection, subject: Subject) -> Findings:
    names = subject.roles.to_dict()
    members = {(names["keeper"], names["migrator"])}
    for row in connection.execute(_MEMBERSHIPS, {"names": list(names.values())}):
        if (row.role, row.member) not in members:
            yield Finding(
                f"{row.member} is a member of {row.role}",
                f"REVOKE {quoted(row.role)} FROM {quoted(row.member)}",
            )
    for purpose, name in names.items():
        attributes = connection.execute(_ATTRIBUTES, {"name": name}).one_or_none()
        if attributes is None:
            yield Finding(f"role {name} is missing", "run provision")
            continue
        yield from _excess(name, attributes, bypasses=purpose == "service")
        if purpose == "keeper" and attributes.rolcanlogin:
            yield Finding(f"{name} may log in", f"ALTER ROLE {quoted(name)} NOLOGIN")


def _excess(name: str, attributes: Row[Any], *, bypasses: bool) -> Findings:
    role = f"ALTER ROLE {quoted(name)}"
    if attributes.rolsuper:
        yield Finding(f"{name} is a superuser", f"{role} NOSUPERUSER")
    if attributes.rolbypassrls and not bypasses:
        yield Finding(f"{name} bypasses row security", f"{role} NOBYPASSRLS")
    if attributes.rolcreaterole or attributes.rolreplication:
        yield Finding(f"{name} may create roles or replicate", f"{role} NOCREATEROLE NOREPLICATION")


_MEMBERSHIPS: Final = text("""
    SELECT role.rolname AS role, member.rolname AS member
    FROM pg_auth_members
    JOIN pg_roles AS role ON role.oid = roleid
    JOIN pg_roles AS member ON member.oid = pg_auth_members.member
    WHERE (role.rolname = ANY (:names) OR member.rolname = ANY (:names)) AND NOT member.rolsuper
    ORDER BY 1, 2
""")
_ATTRIBUTES: Final = text("""
    SELECT rolsuper, rolbypassrls, rolcreaterole, rolreplication, rolcanlogin
    FROM pg_roles WHERE rolname = :name
""")


def row_security(connection: Connection, subject: Subject) -> Findings:
    found = {row.name: row for row in connection.execute(_TABLES, {"schema": SCHEMA})}
    for name in sorted({*found, *blueprint.TABLES}):
        table = f"{SCHEMA}.{name}"
        if name not in blueprint.TABLES:
            yield Finding(f"{table} is not the library's", f"move {table} to another schema")
        elif name not in found:
            yield Finding(f"{table} is missing", "restore the database from a backup")
        else:
            row = found[name]
            if not row.enabled:
                yield Finding(
                    f"row security is off on {table}",
                    f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY",
                )
            if not row.forced:
                yield Finding(
                    f"row security is not forced on {table}",
                    f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY",
                )
            if row.owner != subject.roles.migrator:
                yield Finding(
                    f"{table} is owned by {row.owner}",
                    f"ALTER TABLE {table} OWNER TO {quoted(subject.roles.migrator)}",
                )


_TABLES: Final = text("""
    SELECT relname AS name, relrowsecurity AS enabled, relforcerowsecurity AS forced,
           pg_get_userbyid(relowner) AS owner
    FROM pg_class
    WHERE relnamespace = CAST(:schema AS regnamespace) AND relkind IN ('r', 'p', 'v', 'm', 'f')
""")


def policies(connection: Connection, subject: Subject) -> Findings:
    expected = {policy.for_roles(subject.roles) for policy in blueprint.POLICIES}
    found = {
        Policy(
            row.tablename, row.policyname, row.cmd, row.restrictive, row.qual, row.with_check,
            tuple(row.roles),
        )
        for row in connection.execute(_POLICIES, {"schema": SCHEMA})
    }  # fmt: skip
    for policy in sorted(found - expected, key=repr):
        yield Finding(
            f"policy {policy.name} on {policy.table} is not one of ours, or was changed",
            f"DROP POLICY {quoted(policy.name)} ON {SCHEMA}.{policy.table}",
        )
    for policy in sorted(expected - found, key=repr):
        yield Finding(f"policy {policy.name} on {policy.table} is missing", policy.create())


_POLICIES: Final = text("""
    SELECT tablename, policyname, cmd, permissive = 'RESTRICTIVE' AS restrictive, qual, with_check,
           roles
    FROM pg_policies WHERE schemaname = :schema
""")


def triggers(connection: Connection, _: Subject) -> Findings:
    rows = connection.execute(_TRIGGERS, {"schema": SCHEMA}).all()
    found = {Trigger(row.table, row.name, row.definition) for row in rows if row.enabled}
    for trigger in sorted(found - blueprint.TRIGGERS):
        yield Finding(
            f"trigger {trigger.name} on {trigger.table} is not one of ours, or was changed",
            f"DROP TRIGGER {quoted(trigger.name)} ON {SCHEMA}.{trigger.table}",
        )
    disabled = {(row.table, row.name) for row in rows if not row.enabled}
    for trigger in sorted(blueprint.TRIGGERS - found):
        if (trigger.table, trigger.name) in disabled:
            yield Finding(
                f"trigger {trigger.name} on {trigger.table} is disabled",
                f"ALTER TABLE {SCHEMA}.{trigger.table} ENABLE TRIGGER {trigger.name}",
            )
        else:
            problem = f"trigger {trigger.name} on {trigger.table} is missing"
            yield Finding(problem, trigger.definition)


_TRIGGERS: Final = text("""
    SELECT relname AS table, tgname AS name, tgenabled IN ('O', 'A') AS enabled,
           pg_get_triggerdef(pg_trigger.oid) AS definition
    FROM pg_trigger JOIN pg_class ON pg_class.oid = tgrelid
    WHERE relnamespace = CAST(:schema AS regnamespace) AND NOT tgisinternal
""")


def functions(connection: Connection, subject: Subject) -> Findings:
    purposes = {name: purpose for purpose, name in subject.roles.to_dict().items()}
    found = {
        blueprint.Function(
            row.name, purposes.get(row.owner, row.owner), row.definer, row.path, row.source
        )
        for row in connection.execute(_FUNCTIONS, {"schema": SCHEMA})
    }
    expected = blueprint.functions(signed=subject.record.signed_contexts)
    missing = {function.name for function in expected - found}
    for name in sorted(missing):
        yield Finding(
            f"function {name} is missing or was changed",
            f"restore {SCHEMA}.{name} as the library's migrations define it",
        )
    for name in sorted({function.name for function in found - expected} - missing):
        yield Finding(f"function {name} is not one of ours", f"DROP FUNCTION {SCHEMA}.{name}")


_FUNCTIONS: Final = text("""
    SELECT proname AS name, pg_get_userbyid(proowner) AS owner, prosecdef AS definer,
           array_to_string(proconfig, '; ') AS path, prosrc AS source
    FROM pg_proc WHERE pronamespace = CAST(:schema AS regnamespace)
""")


def constraints(connection: Connection, _: Subject) -> Findings:
    found = {
        Constraint(row.table, row.name, row.definition)
        for row in connection.execute(_CONSTRAINTS, {"schema": SCHEMA})
    }
    for constraint in sorted(blueprint.constraints() - found):
        name = quoted(constraint.name)
        yield Finding(
            f"constraint {constraint.name} on {constraint.table} is missing or was changed",
            f"ALTER TABLE {SCHEMA}.{constraint.table} DROP CONSTRAINT IF EXISTS {name},"
            f" ADD CONSTRAINT {name} {constraint.definition}",
        )


_CONSTRAINTS: Final = text("""
    SELECT relname AS table, conname AS name,
           pg_get_constraintdef(pg_constraint.oid) AS definition
    FROM pg_constraint JOIN pg_class ON pg_class.oid = conrelid
    WHERE connamespace = CAST(:schema AS regnamespace) AND convalidated
""")


def indexes(connection: Connection, _: Subject) -> Findings:
    found = {row.name: row for row in connection.execute(_INDEXES, {"schema": SCHEMA})}
    for table in metadata.sorted_tables:
        for index in table.indexes:
            row = found.get(index.name)
            if row is None or row.unique != bool(index.unique):
                yield Finding(
                    f"index {index.name} is missing or was changed",
                    f"DROP INDEX IF EXISTS {SCHEMA}.{index.name};"
                    f" {CreateIndex(index).compile(dialect=connection.dialect)}",
                )
            elif not row.valid:
                yield Finding(
                    f"index {index.name} is not valid", f"REINDEX INDEX {SCHEMA}.{index.name}"
                )


_INDEXES: Final = text("""
    SELECT relname AS name, indisunique AS unique, indisvalid AND indisready AS valid
    FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid
    WHERE relnamespace = CAST(:schema AS regnamespace)
""")


def ways_around(connection: Connection, subject: Subject) -> Findings:
    for row in connection.execute(_READERS, {"schema": SCHEMA}):
        remedy = f"ALTER VIEW {row.reader} SET (security_invoker = true)"
        if row.materialized:
            remedy = f"DROP MATERIALIZED VIEW {row.reader}"
        yield Finding(f"{row.reader} shows what row security hides", remedy)
    for row in connection.execute(_RULES, {"schema": SCHEMA}):
        yield Finding(
            f"rule {row.rulename} on {row.tablename} rewrites statements",
            f"DROP RULE {quoted(row.rulename)} ON {SCHEMA}.{row.tablename}",
        )
    for row in connection.execute(_HEIRS, {"schema": SCHEMA}):
        yield Finding(
            f"{row.child} inherits from {row.parent}",
            f"ALTER TABLE {row.child} NO INHERIT {row.parent}",
        )
    owner = {"schema": SCHEMA, "migrator": subject.roles.migrator}
    for row in connection.execute(_DEFAULTS, owner):
        yield Finding(
            f"{row.grantee} is given {row.privilege} on every {row.kind} that is made later",
            f"ALTER DEFAULT PRIVILEGES FOR ROLE {quoted(subject.roles.migrator)}"
            f" {f'IN SCHEMA {SCHEMA} ' if row.in_schema else ''}REVOKE {row.privilege}"
            f" ON {row.kind}S FROM {row.grantee}",
        )


# A view asks as its owner, unless it says otherwise; a materialized one asked long ago.
_READERS: Final = text("""
    SELECT DISTINCT reader.oid::regclass::text AS reader, reader.relkind = 'm' AS materialized
    FROM pg_depend
    JOIN pg_rewrite ON pg_rewrite.oid = objid
    JOIN pg_class AS reader ON reader.oid = ev_class
    JOIN pg_class AS read ON read.oid = refobjid
    JOIN pg_roles AS owner ON owner.oid = reader.relowner
    WHERE classid = 'pg_rewrite'::regclass AND refclassid = 'pg_class'::regclass
      AND read.relnamespace = CAST(:schema AS regnamespace) AND reader.oid <> read.oid
      AND (reader.relkind = 'm' OR (owner.rolsuper OR owner.rolbypassrls)
           AND NOT coalesce(reader.reloptions && ARRAY[
               'security_invoker=true', 'security_invoker=on', 'security_invoker=1',
               'security_invoker=yes'], false))
    ORDER BY 1
""")
_RULES: Final = text("SELECT tablename, rulename FROM pg_rules WHERE schemaname = :schema")
_HEIRS: Final = text("""
    SELECT inhrelid::regclass::text AS child, inhparent::regclass::text AS parent
    FROM pg_inherits JOIN pg_class ON pg_class.oid = inhparent
    WHERE relnamespace = CAST(:schema AS regnamespace) AND relkind IN ('r', 'p')
""")


def privileges(connection: Connection, subject: Subject) -> Findings:
    purposes = {name: purpose for purpose, name in subject.roles.to_dict().items()}
    names = {purpose: quoted(name) for name, purpose in purposes.items()}
    rows = connection.execute(_GRANTS, {"schema": SCHEMA})
    found = {
        Grant(purposes.get(row.grantee, row.grantee), row.privilege, row.table, row.column)
        for row in rows
    }
    expected = blueprint.grants(subject.roles)
    for grant in sorted(found - expected, key=repr):
        grantee = names.get(grant.grantee, grant.grantee)
        yield Finding(f"{grantee} has {grant.on()}", f"REVOKE {grant.on()} FROM {grantee}")
    for grant in sorted(expected - found, key=repr):
        grantee = names[grant.grantee]
        yield Finding(f"{grantee} lacks {grant.on()}", f"GRANT {grant.on()} TO {grantee}")
    callers = {
        (purposes.get(row.grantee, row.grantee), row.name)
        for row in connection.execute(_CALLERS, {"schema": SCHEMA})
    }
    may_call = blueprint.callers(subject.roles)
    for purpose, name in sorted(callers - may_call):
        grantee = names.get(purpose, purpose)
        yield Finding(
            f"{grantee} may call {name}",
            f"REVOKE EXECUTE ON FUNCTION {SCHEMA}.{name} FROM {grantee}",
        )
    for purpose, name in sorted(may_call - callers):
        yield Finding(
            f"{names[purpose]} may not call {name}",
            f"GRANT EXECUTE ON FUNCTION {SCHEMA}.{name} TO {names[purpose]}",
        )
    users = set(subject.roles.to_dict().values())
    for row in connection.execute(_ENTRANTS, {"schema": SCHEMA}):
        if row.privilege == "CREATE" or row.grantee not in users:
            does = "create in" if row.privilege == "CREATE" else "use"
            yield Finding(
                f"{row.grantee} may {does} the schema",
                f"REVOKE {row.privilege} ON SCHEMA {SCHEMA} FROM {_role(row.grantee)}",
            )


_GRANTEE: Final = "CASE grantee WHEN 0 THEN 'PUBLIC' ELSE pg_get_userbyid(grantee) END AS grantee"
_GRANTS: Final = text(f"""
    SELECT {_GRANTEE}, privilege_type AS privilege, relname AS table, NULL AS column
    FROM pg_class, aclexplode(relacl)
    WHERE relnamespace = CAST(:schema AS regnamespace) AND relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
      AND grantee <> relowner
    UNION ALL
    SELECT {_GRANTEE}, privilege_type, relname, attname
    FROM pg_class JOIN pg_attribute ON attrelid = pg_class.oid, aclexplode(attacl)
    WHERE relnamespace = CAST(:schema AS regnamespace) AND grantee <> relowner
""")
_CALLERS: Final = text(f"""
    SELECT {_GRANTEE}, proname AS name
    FROM pg_proc, aclexplode(coalesce(proacl, acldefault('f', proowner)))
    WHERE pronamespace = CAST(:schema AS regnamespace) AND grantee <> proowner
""")
_ENTRANTS: Final = text(f"""
    SELECT {_GRANTEE}, privilege_type AS privilege
    FROM pg_namespace, aclexplode(nspacl)
    WHERE nspname = :schema AND grantee <> nspowner
    ORDER BY 1, 2
""")
_DEFAULTS: Final = text(f"""
    SELECT {_GRANTEE}, privilege_type AS privilege, defaclnamespace <> 0 AS in_schema,
           CASE defaclobjtype WHEN 'r' THEN 'TABLE' WHEN 'S' THEN 'SEQUENCE'
               WHEN 'f' THEN 'FUNCTION' WHEN 'T' THEN 'TYPE' WHEN 'n' THEN 'SCHEMA' END AS kind
    FROM pg_default_acl, aclexplode(defaclacl)
    WHERE pg_get_userbyid(defaclrole) = :migrator AND grantee <> defaclrole
      AND (defaclnamespace = 0 OR defaclnamespace = CAST(:schema AS regnamespace))
    ORDER BY 1, 2
""")


def _role(name: str) -> str:
    return name if name == "PUBLIC" else quoted(name)


def system_tenant(connection: Connection, subject: Subject) -> Findings:
    subject.context.set(connection, SYSTEM_TENANT_ID)
    expected = {"billing": SYSTEM_ACCOUNT_ID}
    expected |= {type_.value: account for type_, account in CONTRA_ACCOUNTS.items()}
    for name, account in expected.items():
        row = connection.execute(ACCOUNT, {"tenant": SYSTEM_TENANT_ID, "account": account})
        if row.one_or_none() is None:
            yield Finding(
                f"the {name} account of the system tenant is missing",
                f"SELECT {SCHEMA}.seed_system_tenant(), as the migrator",
            )


def nothing_without_context(connection: Connection, _: Subject) -> Findings:
    for row in connection.execute(_PRESET):
        yield Finding(
            f"{row.setting} is set for the {row.place}",
            f"ALTER {row.place} RESET {row.setting.partition('=')[0]}",
        )
    if connection.scalar(text(f"SELECT {SCHEMA}.tenant() IS NOT NULL")):
        yield Finding(
            "a tenant is set outside any scope", "remove it from the connection's options"
        )
    for table in blueprint.LEDGER:
        if connection.scalar(text(f"SELECT EXISTS (SELECT FROM {SCHEMA}.{table})")):
            yield Finding(f"{table} shows rows without a tenant", "mend what else is found here")


_PRESET: Final = text("""
    SELECT setting,
           CASE setrole WHEN 0 THEN 'DATABASE ' || quote_ident(datname)
                        ELSE 'ROLE ' || quote_ident(pg_get_userbyid(setrole)) END AS place
    FROM pg_db_role_setting
    LEFT JOIN pg_database ON pg_database.oid = setdatabase, unnest(setconfig) AS setting
    WHERE (setdatabase = 0 OR datname = current_database())
      AND split_part(setting, '=', 1) IN
          ('app.current_user_id', 'app.current_user_proof', 'row_security',
           'session_replication_role')
""")


def pooling(connection: Connection, _: Subject) -> Findings:
    driver = connection.connection.driver_connection
    assert isinstance(driver, psycopg.Connection)  # the dialect's
    serving = connection.scalar(text("SELECT pg_backend_pid()"))
    # A pooler makes up the number that it gives its clients.
    if driver.info.backend_pid != serving and driver.prepare_threshold is not None:
        yield Finding(
            "there is a pooler on the way, and statements are prepared: one client's can answer"
            " another's",
            'create_engine(..., connect_args={"prepare_threshold": None})',
        )


def durability(connection: Connection, _: Subject) -> Findings:
    setting = connection.scalar(text("SHOW synchronous_commit"))
    if setting == "off":
        yield Finding(
            "synchronous_commit is off: a crash can lose confirmed purchases",
            "ALTER SYSTEM SET synchronous_commit = on; SELECT pg_reload_conf()",
        )
