"""Examine the roles: their attributes, their memberships and their privileges."""

from __future__ import annotations

from typing import Final

from sqlalchemy import Connection, text

from cogni_billing.adapters.postgres.operations.blueprint import (
    Privilege,
    function_privileges,
    table_privileges,
)
from cogni_billing.adapters.postgres.operations.checks.defects import Defect, Defects, Subject
from cogni_billing.adapters.postgres.operations.provisioning import OPEN_TO_PUBLIC, let_act_as
from cogni_billing.adapters.postgres.operations.roles import quoted
from cogni_billing.adapters.postgres.schema import SCHEMA, function_sources


def connected_role(connection: Connection, subject: Subject) -> Defects:
    name: str = connection.execute(text("SELECT current_user")).scalar_one()
    roles = subject.roles
    asked = (roles.service,) if subject.after_restore else (roles.user, roles.spender)
    expected = [each for each in asked if each is not None]
    if name not in expected:
        yield Defect(f"connected as {name}", f"connect as {' or '.join(expected)}")


def attributes(connection: Connection, subject: Subject) -> Defects:
    names = subject.roles.to_dict()
    for purpose, name in names.items():
        found = connection.execute(_ATTRIBUTES, {"name": name}).one_or_none()
        if found is None:
            yield Defect(f"role {name} is missing", "run provision as an administrator")
            continue
        role = f"ALTER ROLE {quoted(name)}"
        if found.rolsuper:
            yield Defect(f"{name} is a superuser", f"{role} NOSUPERUSER")
        if found.rolbypassrls:
            yield Defect(f"{name} bypasses row security", f"{role} NOBYPASSRLS")
        if found.rolcreaterole or found.rolreplication:
            remedy = f"{role} NOCREATEROLE NOREPLICATION"
            yield Defect(f"{name} may create roles or replicate", remedy)
        if purpose == "keeper" and found.rolcanlogin:
            yield Defect(f"{name} may log in", f"{role} NOLOGIN")


_ATTRIBUTES: Final = text("""
    SELECT rolsuper, rolbypassrls, rolcreaterole, rolreplication, rolcanlogin
    FROM pg_roles WHERE rolname = :name
""")


def memberships(connection: Connection, subject: Subject) -> Defects:
    names = subject.roles.to_dict()
    expected = {(names["keeper"], names["migrator"])}
    rows = connection.execute(_MEMBERSHIPS, {"names": list(names.values())}).all()
    for row in rows:
        membership = f"{quoted(row.role)} FROM {quoted(row.member)}"
        if row.has_options:
            membership += f" GRANTED BY {quoted(row.grantor)}"
        if (row.role, row.member) not in expected:
            problem = f"{row.member} is a member of {row.role}"
            yield Defect(problem, f"REVOKE {membership}")
        elif row.inherits:
            yield Defect(
                f"{row.member} has every privilege of {row.role} at all times",
                f"REVOKE INHERIT OPTION FOR {membership}"
                if row.has_options
                else f"ALTER ROLE {quoted(row.member)} NOINHERIT",
            )
    for role, member in expected - {(row.role, row.member) for row in rows if row.may_act}:
        yield Defect(f"{member} may not act as {role}", let_act_as(connection, member, role))


# Since PostgreSQL 16 the creator of a role is a member with ADMIN alone. That grants no privilege.
_MEMBERSHIPS: Final = text("""
    SELECT
        role.rolname AS role, member.rolname AS member,
        pg_get_userbyid(membership.grantor) AS grantor,
        options ? 'set_option' AS has_options,
        coalesce(CAST(options ->> 'inherit_option' AS boolean), member.rolinherit) AS inherits,
        coalesce(CAST(options ->> 'set_option' AS boolean), true) AS may_act
    FROM pg_auth_members AS membership
    CROSS JOIN LATERAL to_jsonb(membership) AS options
    JOIN pg_roles AS role ON role.oid = membership.roleid
    JOIN pg_roles AS member ON member.oid = membership.member
    WHERE (role.rolname = ANY (:names) OR member.rolname = ANY (:names)) AND NOT member.rolsuper
      AND (coalesce(CAST(options ->> 'set_option' AS boolean), true)
           OR coalesce(CAST(options ->> 'inherit_option' AS boolean), true))
    ORDER BY 1, 2, 3
""")


def privileges(connection: Connection, subject: Subject) -> Defects:
    purposes = {name: purpose for purpose, name in subject.roles.to_dict().items()}
    expected = {*table_privileges(subject.roles), *function_privileges(subject.roles)}
    ours = {f"{SCHEMA}.context_keys", *(f"FUNCTION {SCHEMA}.{name}" for name in function_sources())}
    ours |= {each.object for each in expected}
    found = {
        Privilege(purposes.get(row.grantee, row.grantee), row.privilege, row.object): row
        for row in connection.execute(_GRANTED, {"schema": SCHEMA})
        if row.object in ours
    }
    for each in sorted(found.keys() - expected):
        grantee = _role(found[each].grantee)
        yield Defect(f"{grantee} has {each.on()}", f"REVOKE {each.on()} FROM {grantee}")
    for each in sorted(expected - found.keys()):
        grantee = quoted(subject.roles.to_dict()[each.grantee])
        yield Defect(f"{grantee} lacks {each.on()}", each.grant(subject.roles))
    for each, row in sorted(found.items()):
        if row.is_grantable:
            yield Defect(
                f"{row.grantee} may pass on {each.on()}",
                f"REVOKE GRANT OPTION FOR {each.on()} FROM {_role(row.grantee)}",
            )
    if subject.record.own_database:
        for row in connection.execute(OPEN_TO_PUBLIC):
            right = f"EXECUTE ON FUNCTION {row.function}"
            yield Defect(f"PUBLIC has {right}", f"REVOKE {right} FROM PUBLIC")
    if connection.scalar(text("SELECT to_regclass('pg_parameter_acl') IS NOT NULL")):
        for row in connection.execute(_SETTERS, {"names": list(subject.roles.to_dict().values())}):
            yield Defect(
                f"{row.grantee} may set {row.parameter}, which disables triggers",
                f"REVOKE {row.privilege} ON PARAMETER {row.parameter} FROM {_role(row.grantee)}",
            )


def default_privileges(connection: Connection, subject: Subject) -> Defects:
    owners = [subject.roles.migrator, subject.roles.keeper]
    for row in connection.execute(_DEFAULTS, {"schema": SCHEMA, "owners": owners}):
        yield Defect(
            f"{row.grantee} is given {row.privilege} on every {row.kind} created later",
            f"ALTER DEFAULT PRIVILEGES FOR ROLE {quoted(row.owner)}"
            f" {f'IN SCHEMA {SCHEMA} ' if row.in_schema else ''}REVOKE {row.privilege}"
            f" ON {row.kind}S FROM {_role(row.grantee)}",
        )


_GRANTEE: Final = "CASE grantee WHEN 0 THEN 'PUBLIC' ELSE pg_get_userbyid(grantee) END AS grantee"
_GRANTED: Final = text(f"""
    SELECT {_GRANTEE}, privilege_type || of_column AS privilege, object, is_grantable
    FROM (
        SELECT format('%s.%s', relnamespace::regnamespace, relname) AS object, '' AS of_column,
               relowner AS owner, relacl AS acl
        FROM pg_class
        WHERE relnamespace = CAST(:schema AS regnamespace)
          AND relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
        UNION ALL
        SELECT format('%s.%s', relnamespace::regnamespace, relname), format(' (%I)', attname),
               relowner, attacl
        FROM pg_class JOIN pg_attribute ON attrelid = pg_class.oid
        WHERE relnamespace = CAST(:schema AS regnamespace)
        UNION ALL
        SELECT format('FUNCTION %s.%s', pronamespace::regnamespace, proname), '', proowner,
               coalesce(proacl, acldefault('f', proowner))
        FROM pg_proc WHERE pronamespace = CAST(:schema AS regnamespace)
        UNION ALL
        SELECT 'SCHEMA ' || nspname, '', nspowner, nspacl
        FROM pg_namespace WHERE pg_namespace.oid = CAST(:schema AS regnamespace)
    ) AS guarded, aclexplode(acl)
    WHERE grantee <> owner
""")
_SETTERS: Final = text(f"""
    SELECT {_GRANTEE}, privilege_type AS privilege, parname AS parameter
    FROM pg_parameter_acl, aclexplode(paracl)
    WHERE parname = 'session_replication_role'
      AND (grantee = 0 OR pg_get_userbyid(grantee) = ANY (:names))
    ORDER BY 1, 2
""")
_DEFAULTS: Final = text(f"""
    SELECT {_GRANTEE}, pg_get_userbyid(defaclrole) AS owner, privilege_type AS privilege,
           defaclnamespace <> 0 AS in_schema,
           CASE defaclobjtype WHEN 'r' THEN 'TABLE' WHEN 'S' THEN 'SEQUENCE'
               WHEN 'f' THEN 'FUNCTION' WHEN 'T' THEN 'TYPE' WHEN 'n' THEN 'SCHEMA' END AS kind
    FROM pg_default_acl, aclexplode(defaclacl)
    WHERE pg_get_userbyid(defaclrole) = ANY (:owners) AND grantee <> defaclrole
      AND (defaclnamespace = 0 OR defaclnamespace = CAST(:schema AS regnamespace))
    ORDER BY 1, 2
""")


def _role(name: str) -> str:
    return name if name == "PUBLIC" else quoted(name)
