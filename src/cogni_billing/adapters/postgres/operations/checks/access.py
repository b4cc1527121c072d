"""Whether each role is who it should be, and may do what it is for and no more."""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import Connection, Row, text

from cogni_billing.adapters.postgres.operations.checks.findings import Finding, Findings, Subject
from cogni_billing.adapters.postgres.operations.privileges import Grant, callers, grants
from cogni_billing.adapters.postgres.operations.roles import quoted
from cogni_billing.adapters.postgres.schema import SCHEMA


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


def privileges(connection: Connection, subject: Subject) -> Findings:
    purposes = {name: purpose for purpose, name in subject.roles.to_dict().items()}
    names = {purpose: quoted(name) for name, purpose in purposes.items()}
    rows = connection.execute(_GRANTS, {"schema": SCHEMA})
    found = {
        Grant(purposes.get(row.grantee, row.grantee), row.privilege, row.table, row.column)
        for row in rows
    }
    expected = grants(subject.roles)
    for grant in sorted(found - expected, key=repr):
        grantee = names.get(grant.grantee, grant.grantee)
        yield Finding(f"{grantee} has {grant.on()}", f"REVOKE {grant.on()} FROM {grantee}")
    for grant in sorted(expected - found, key=repr):
        grantee = names[grant.grantee]
        yield Finding(f"{grantee} lacks {grant.on()}", f"GRANT {grant.on()} TO {grantee}")
    callable_by = {
        (purposes.get(row.grantee, row.grantee), row.name)
        for row in connection.execute(_CALLERS, {"schema": SCHEMA})
    }
    may_call = callers(subject.roles)
    for purpose, name in sorted(callable_by - may_call):
        grantee = names.get(purpose, purpose)
        yield Finding(
            f"{grantee} may call {name}",
            f"REVOKE EXECUTE ON FUNCTION {SCHEMA}.{name} FROM {grantee}",
        )
    for purpose, name in sorted(may_call - callable_by):
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
    yield from _passed_on(connection, subject)


def _passed_on(connection: Connection, subject: Subject) -> Findings:
    """Who could give rights away, or take the guards off."""
    owner: str = connection.execute(_OWNER, {"schema": SCHEMA}).scalar_one()
    if owner != subject.roles.migrator:
        yield Finding(
            f"the schema is owned by {owner}",
            f"ALTER SCHEMA {SCHEMA} OWNER TO {quoted(subject.roles.migrator)}",
        )
    for row in connection.execute(_PASSED_ON, {"schema": SCHEMA}):
        yield Finding(
            f"{row.grantee} may pass on {row.privilege} on {row.object}",
            f"REVOKE GRANT OPTION FOR {row.privilege} ON {row.object} FROM {_role(row.grantee)}",
        )
    if connection.scalar(text("SELECT to_regclass('pg_parameter_acl') IS NOT NULL")):
        for row in connection.execute(_SETTERS, {"names": list(subject.roles.to_dict().values())}):
            yield Finding(
                f"{row.grantee} may set {row.parameter}, and so switch triggers off",
                f"REVOKE {row.privilege} ON PARAMETER {row.parameter} FROM {_role(row.grantee)}",
            )


def default_privileges(connection: Connection, subject: Subject) -> Findings:
    owner = {"schema": SCHEMA, "migrator": subject.roles.migrator}
    for row in connection.execute(_DEFAULTS, owner):
        yield Finding(
            f"{row.grantee} is given {row.privilege} on every {row.kind} that is made later",
            f"ALTER DEFAULT PRIVILEGES FOR ROLE {quoted(subject.roles.migrator)}"
            f" {f'IN SCHEMA {SCHEMA} ' if row.in_schema else ''}REVOKE {row.privilege}"
            f" ON {row.kind}S FROM {row.grantee}",
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
_OWNER: Final = text("SELECT pg_get_userbyid(nspowner) FROM pg_namespace WHERE nspname = :schema")
_PASSED_ON: Final = text(f"""
    SELECT {_GRANTEE}, privilege_type AS privilege, object
    FROM (
        SELECT pg_class.oid::regclass::text AS object, relowner AS owner, relacl AS acl
        FROM pg_class WHERE relnamespace = CAST(:schema AS regnamespace)
        UNION ALL
        SELECT attrelid::regclass::text, relowner, attacl
        FROM pg_class JOIN pg_attribute ON attrelid = pg_class.oid
        WHERE relnamespace = CAST(:schema AS regnamespace)
        UNION ALL
        SELECT 'FUNCTION ' || pg_proc.oid::regprocedure, proowner, proacl
        FROM pg_proc WHERE pronamespace = CAST(:schema AS regnamespace)
        UNION ALL
        SELECT 'SCHEMA ' || nspname, nspowner, nspacl
        FROM pg_namespace WHERE pg_namespace.oid = CAST(:schema AS regnamespace)
    ) AS guarded, aclexplode(acl)
    WHERE is_grantable AND grantee <> owner
    ORDER BY 1, 2, 3
""")
_SETTERS: Final = text(f"""
    SELECT {_GRANTEE}, privilege_type AS privilege, parname AS parameter
    FROM pg_parameter_acl, aclexplode(paracl)
    WHERE parname = 'session_replication_role'
      AND (grantee = 0 OR pg_get_userbyid(grantee) = ANY (:names))
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
