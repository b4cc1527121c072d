"""What doctor asks of the running database, one function a question, each with its SQL.

A question yields what it finds wrong, and how to mend it; `blueprint` says what would be right.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from attrs import frozen
from sqlalchemy import Connection, text

from cogni_billing.adapters.postgres.operations import blueprint
from cogni_billing.adapters.postgres.operations.blueprint import Constraint, Grant, Policy, Trigger
from cogni_billing.adapters.postgres.operations.migrating import head_revision
from cogni_billing.adapters.postgres.operations.roles import Roles, quoted
from cogni_billing.adapters.postgres.schema import SCHEMA
from cogni_billing.adapters.postgres.statements import ACCOUNT, SET_CONTEXT
from cogni_billing.domain.accounts import CONTRA_ACCOUNTS
from cogni_billing.domain.identity import SYSTEM_ACCOUNT_ID, SYSTEM_TENANT_ID


@frozen
class Finding:
    """One thing that is not as it should be, and how to mend it."""

    problem: str
    remedy: str


Findings = Iterator[Finding]


def revision(connection: Connection, _: Roles) -> Findings:
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


def connected_role(connection: Connection, roles: Roles) -> Findings:
    role = connection.execute(_CONNECTED_ROLE).one()
    name = quoted(role.name)
    serving = [each for each in (roles.user, roles.spender) if each is not None]
    if role.name not in serving:
        yield Finding(f"connected as {role.name}", f"connect as {' or '.join(serving)}")
    if role.rolsuper:
        yield Finding(f"{role.name} is a superuser", f"ALTER ROLE {name} NOSUPERUSER")
    if role.rolbypassrls:
        yield Finding(f"{role.name} bypasses row security", f"ALTER ROLE {name} NOBYPASSRLS")
    if role.rolcreaterole or role.rolreplication:
        yield Finding(
            f"{role.name} may create roles or replicate",
            f"ALTER ROLE {name} NOCREATEROLE NOREPLICATION",
        )


_CONNECTED_ROLE: Final = text("""
    SELECT rolname AS name, rolsuper, rolbypassrls, rolcreaterole, rolreplication
    FROM pg_roles WHERE rolname = current_user
""")


def separation(connection: Connection, roles: Roles) -> Findings:
    names = roles.to_dict()
    members = {(names["keeper"], names["migrator"])}
    for row in connection.execute(_MEMBERSHIPS, {"names": list(names.values())}):
        if (row.role, row.member) not in members:
            yield Finding(
                f"{row.member} is a member of {row.role}",
                f"REVOKE {quoted(row.role)} FROM {quoted(row.member)}",
            )
    for purpose in ("migrator", "keeper"):
        attributes = connection.execute(_ATTRIBUTES, {"name": names[purpose]}).one_or_none()
        if attributes is None:
            yield Finding(f"role {names[purpose]} is missing", "run provision")
        elif attributes.rolsuper or attributes.rolbypassrls:
            yield Finding(
                f"{names[purpose]} bypasses row security",
                f"ALTER ROLE {quoted(names[purpose])} NOSUPERUSER NOBYPASSRLS",
            )


_MEMBERSHIPS: Final = text("""
    SELECT role.rolname AS role, member.rolname AS member
    FROM pg_auth_members
    JOIN pg_roles AS role ON role.oid = roleid
    JOIN pg_roles AS member ON member.oid = pg_auth_members.member
    WHERE (role.rolname = ANY (:names) OR member.rolname = ANY (:names)) AND NOT member.rolsuper
    ORDER BY 1, 2
""")
_ATTRIBUTES: Final = text("SELECT rolsuper, rolbypassrls FROM pg_roles WHERE rolname = :name")


def row_security(connection: Connection, roles: Roles) -> Findings:
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
            if row.owner != roles.migrator:
                yield Finding(
                    f"{table} is owned by {row.owner}",
                    f"ALTER TABLE {table} OWNER TO {quoted(roles.migrator)}",
                )


_TABLES: Final = text("""
    SELECT relname AS name, relrowsecurity AS enabled, relforcerowsecurity AS forced,
           pg_get_userbyid(relowner) AS owner
    FROM pg_class
    WHERE relnamespace = CAST(:schema AS regnamespace) AND relkind IN ('r', 'p', 'v', 'm', 'f')
""")


def policies(connection: Connection, roles: Roles) -> Findings:
    expected = {policy.for_roles(roles) for policy in blueprint.POLICIES}
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


def triggers(connection: Connection, _: Roles) -> Findings:
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


def functions(connection: Connection, roles: Roles) -> Findings:
    purposes = {name: purpose for purpose, name in roles.to_dict().items()}
    found = {
        blueprint.Function(
            row.name, purposes.get(row.owner, row.owner), row.definer, row.path, row.source
        )
        for row in connection.execute(_FUNCTIONS, {"schema": SCHEMA})
    }
    expected = blueprint.functions()
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


def constraints(connection: Connection, _: Roles) -> Findings:
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


def privileges(connection: Connection, roles: Roles) -> Findings:
    purposes = {name: purpose for purpose, name in roles.to_dict().items()}
    names = {purpose: quoted(name) for name, purpose in purposes.items()}
    rows = connection.execute(_GRANTS, {"schema": SCHEMA})
    found = {
        Grant(purposes.get(row.grantee, row.grantee), row.privilege, row.table, row.column)
        for row in rows
    }
    expected = blueprint.grants(roles)
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
    may_call = blueprint.callers(roles)
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
    for row in connection.execute(_CREATORS, {"schema": SCHEMA}):
        yield Finding(
            f"{row.grantee} may create in the schema",
            f"REVOKE CREATE ON SCHEMA {SCHEMA} FROM {names.get(row.grantee, row.grantee)}",
        )


_GRANTEE: Final = "CASE grantee WHEN 0 THEN 'PUBLIC' ELSE pg_get_userbyid(grantee) END AS grantee"
_GRANTS: Final = text(f"""
    SELECT {_GRANTEE}, privilege_type AS privilege, relname AS table, NULL AS column
    FROM pg_class, aclexplode(relacl)
    WHERE relnamespace = CAST(:schema AS regnamespace) AND relkind IN ('r', 'p', 'v', 'm', 'f')
      AND grantee <> relowner
    UNION ALL
    SELECT {_GRANTEE}, privilege_type, relname, attname
    FROM pg_class JOIN pg_attribute ON attrelid = pg_class.oid, aclexplode(attacl)
    WHERE relnamespace = CAST(:schema AS regnamespace) AND grantee <> relowner
""")  # noqa: S608 (built from constants)
_CALLERS: Final = text(f"""
    SELECT {_GRANTEE}, proname AS name
    FROM pg_proc, aclexplode(coalesce(proacl, acldefault('f', proowner)))
    WHERE pronamespace = CAST(:schema AS regnamespace) AND grantee <> proowner
""")  # noqa: S608 (built from constants)
_CREATORS: Final = text(f"""
    SELECT {_GRANTEE}
    FROM pg_namespace, aclexplode(nspacl)
    WHERE nspname = :schema AND privilege_type = 'CREATE' AND grantee <> nspowner
""")  # noqa: S608 (built from constants)


def system_tenant(connection: Connection, _: Roles) -> Findings:
    connection.execute(SET_CONTEXT, {"tenant": str(SYSTEM_TENANT_ID)})
    expected = {"billing": SYSTEM_ACCOUNT_ID}
    expected |= {type_.value: account for type_, account in CONTRA_ACCOUNTS.items()}
    for name, account in expected.items():
        row = connection.execute(ACCOUNT, {"tenant": SYSTEM_TENANT_ID, "account": account})
        if row.one_or_none() is None:
            yield Finding(
                f"the {name} account of the system tenant is missing",
                f"SELECT {SCHEMA}.seed_system_tenant(), as the migrator",
            )


def nothing_without_context(connection: Connection, _: Roles) -> Findings:
    for row in connection.execute(_PRESET):
        yield Finding(
            f"{row.setting} is set for the {row.place}",
            f"ALTER {row.place} RESET {row.setting.partition('=')[0]}",
        )
    if connection.scalar(text(f"SELECT {SCHEMA}.tenant() IS NOT NULL")):
        yield Finding(
            "a tenant is set outside any scope", "remove it from the connection's options"
        )
    for table in blueprint.TABLES:
        if connection.scalar(text(f"SELECT EXISTS (SELECT FROM {SCHEMA}.{table})")):  # noqa: S608
            yield Finding(f"{table} shows rows without a tenant", "mend what else is found here")


_PRESET: Final = text("""
    SELECT setting,
           CASE setrole WHEN 0 THEN 'DATABASE ' || quote_ident(datname)
                        ELSE 'ROLE ' || quote_ident(pg_get_userbyid(setrole)) END AS place
    FROM pg_db_role_setting
    LEFT JOIN pg_database ON pg_database.oid = setdatabase, unnest(setconfig) AS setting
    WHERE (setdatabase = 0 OR datname = current_database())
      AND split_part(setting, '=', 1) IN
          ('app.current_user_id', 'row_security', 'session_replication_role')
""")


def durability(connection: Connection, _: Roles) -> Findings:
    setting = connection.scalar(text("SHOW synchronous_commit"))
    if setting == "off":
        yield Finding(
            "synchronous_commit is off: a crash can lose confirmed purchases",
            "ALTER SYSTEM SET synchronous_commit = on; SELECT pg_reload_conf()",
        )
