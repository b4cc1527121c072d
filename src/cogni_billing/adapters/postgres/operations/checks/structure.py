"""Compare the tables, functions, policies and triggers with those that the migrations create."""

from __future__ import annotations

import re
from typing import Final

from sqlalchemy import Connection, text

from cogni_billing.adapters.postgres.operations import blueprint, definitions
from cogni_billing.adapters.postgres.operations.blueprint import Policy, Trigger
from cogni_billing.adapters.postgres.operations.checks.defects import Defect, Defects, Subject
from cogni_billing.adapters.postgres.operations.ownership import misowned
from cogni_billing.adapters.postgres.operations.roles import quoted
from cogni_billing.adapters.postgres.schema import SCHEMA


def owners(connection: Connection, subject: Subject) -> Defects:
    for each in misowned(connection, subject.roles):
        yield Defect(f"{each.object} is owned by {each.owner}", "run provision as an administrator")


def row_security(connection: Connection, _: Subject) -> Defects:
    found = {row.name: row for row in connection.execute(_TABLES, {"schema": SCHEMA})}
    for name in sorted({*found, *blueprint.TABLES}):
        table = f"{SCHEMA}.{name}"
        if name not in blueprint.TABLES:
            yield Defect(f"{table} is unknown", f"ALTER TABLE {table} SET SCHEMA public")
        elif name not in found:
            yield Defect(f"{table} is missing", "restore the database from a backup")
        else:
            row = found[name]
            if not row.enabled:
                yield Defect(
                    f"row security is off on {table}",
                    f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY",
                )
            if not row.forced:
                yield Defect(
                    f"row security is not forced on {table}",
                    f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY",
                )
            if not row.logged:
                yield Defect(f"a crash empties {table}", f"ALTER TABLE {table} SET LOGGED")


_TABLES: Final = text("""
    SELECT relname AS name, relrowsecurity AS enabled, relforcerowsecurity AS forced,
           relpersistence = 'p' AS logged
    FROM pg_class
    WHERE relnamespace = CAST(:schema AS regnamespace) AND relkind IN ('r', 'p', 'v', 'm', 'f')
""")


def policies(connection: Connection, subject: Subject) -> Defects:
    expected = {policy.for_roles(subject.roles) for policy in blueprint.POLICIES}
    found = {
        Policy(row.tablename, row.policyname, row.cmd, row.qual, row.with_check, row.role)
        for row in connection.execute(_POLICIES, {"schema": SCHEMA})
    }
    for policy in sorted(found - expected, key=repr):
        yield Defect(
            f"policy {policy.name} on {policy.table} is unknown or was changed",
            f"DROP POLICY {quoted(policy.name)} ON {SCHEMA}.{policy.table}",
        )
    for policy in sorted(expected - found, key=repr):
        yield Defect(f"policy {policy.name} on {policy.table} is missing", policy.create())


_POLICIES: Final = text("""
    SELECT tablename, policyname, cmd, qual, with_check,
           CASE WHEN permissive = 'PERMISSIVE' THEN array_to_string(roles, ', ') END AS role
    FROM pg_policies WHERE schemaname = :schema
""")


def triggers(connection: Connection, _: Subject) -> Defects:
    rows = connection.execute(_TRIGGERS, {"schema": SCHEMA}).all()
    found = {Trigger(row.table, row.name, row.definition) for row in rows if row.enabled}
    for trigger in sorted(found - blueprint.TRIGGERS):
        yield Defect(
            f"trigger {trigger.name} on {trigger.table} is unknown or was changed",
            f"DROP TRIGGER {quoted(trigger.name)} ON {SCHEMA}.{trigger.table}",
        )
    disabled = {(row.table, row.name) for row in rows if not row.enabled}
    for trigger in sorted(blueprint.TRIGGERS - found):
        if (trigger.table, trigger.name) in disabled:
            yield Defect(
                f"trigger {trigger.name} on {trigger.table} is disabled",
                f"ALTER TABLE {SCHEMA}.{trigger.table} ENABLE TRIGGER {trigger.name}",
            )
        else:
            problem = f"trigger {trigger.name} on {trigger.table} is missing"
            yield Defect(problem, trigger.definition)


_TRIGGERS: Final = text("""
    SELECT relname AS table, tgname AS name, tgenabled IN ('O', 'A') AS enabled,
           pg_get_triggerdef(pg_trigger.oid) AS definition
    FROM pg_trigger JOIN pg_class ON pg_class.oid = tgrelid
    WHERE relnamespace = CAST(:schema AS regnamespace) AND NOT tgisinternal
""")


def functions(connection: Connection, _: Subject) -> Defects:
    rows = connection.execute(_FUNCTIONS, {"schema": SCHEMA}).all()
    found = {blueprint.Function(row.name, row.definer, row.settings, row.source) for row in rows}
    made = {each for each in definitions.found(connection) if each.kind == "function"}
    expected = definitions.expected("function")
    changed = {each.name for each in blueprint.functions() - found}
    changed |= {each.name for each in expected - made}
    for name in sorted(changed):
        yield Defect(f"function {name} is missing or was changed", "run repair as the migrator")
    known = {each.signature() for each in expected}
    for extra in sorted(made - expected):
        if extra.signature() not in known:
            yield Defect(
                f"function {extra.name} is unknown",
                f"DROP FUNCTION {SCHEMA}.{extra.signature()}",
            )


_FUNCTIONS: Final = text("""
    SELECT proname AS name, prosecdef AS definer,
           array_to_string(proconfig, '; ') AS settings, prosrc AS source
    FROM pg_proc WHERE pronamespace = CAST(:schema AS regnamespace)
""")


def tables(connection: Connection, _: Subject) -> Defects:
    kinds = ("column", "constraint", "sequence")
    known_tables = {*blueprint.TABLES, "-"}
    found = {
        each
        for each in definitions.found(connection)
        if each.kind in kinds and each.table in known_tables
    }
    expected = frozenset[definitions.Definition]().union(*map(definitions.expected, kinds))
    there = {(each.kind, each.table, each.name): each for each in found}
    for missing in sorted(expected - found):
        remedy = _remade(missing, there.get((missing.kind, missing.table, missing.name)))
        yield Defect(f"{_named(missing)} is missing or was changed", remedy)
    known = {(each.kind, each.table, each.name) for each in expected}
    for extra in sorted(found - expected):
        if (extra.kind, extra.table, extra.name) not in known:
            yield Defect(f"{_named(extra)} is unknown", _dropped(extra))


def indexes(connection: Connection, _: Subject) -> Defects:
    found = {each for each in definitions.found(connection) if each.kind == "index"}
    expected = definitions.expected("index")
    for missing in sorted(expected - found):
        yield Defect(
            f"index {missing.name} is missing or was changed",
            f"DROP INDEX IF EXISTS {SCHEMA}.{missing.name}; {missing.made}",
        )
    known = {each.name for each in expected}
    for extra in sorted(found - expected):
        # A host may add an index for its own queries. A unique one reveals keys to other tenants.
        if extra.name not in known and extra.made.startswith("CREATE UNIQUE"):
            yield Defect(
                f"index {extra.name} on {extra.table} is unknown",
                f"DROP INDEX {SCHEMA}.{quoted(extra.name)}",
            )
    for name in connection.scalars(_INVALID, {"schema": SCHEMA}):
        yield Defect(f"index {name} is not valid", f"REINDEX INDEX {SCHEMA}.{name}")


def _named(each: definitions.Definition) -> str:
    where = "" if each.table == "-" else f" on {each.table}"
    return f"{each.kind} {each.name}{where}"


def _remade(each: definitions.Definition, found: definitions.Definition | None) -> str:
    name = quoted(each.name)
    table = f"ALTER TABLE {SCHEMA}.{each.table}"
    if each.kind == "constraint":
        return f"{table} DROP CONSTRAINT IF EXISTS {name}, ADD CONSTRAINT {name} {each.made}"
    if each.kind == "sequence":
        return f"ALTER SEQUENCE {SCHEMA}.{name} AS {each.made} NO CYCLE"
    wanted, there = (_COLUMN.fullmatch(one.made) for one in (each, found or each))
    if found is None or wanted is None or there is None or wanted["rest"] != there["rest"]:
        return "restore the database from a backup"
    actions = {
        "type": f"TYPE {wanted['type']}",
        "not_null": "SET NOT NULL" if wanted["not_null"] else "DROP NOT NULL",
        "default": f"SET{wanted['default']}" if wanted["default"] else "DROP DEFAULT",
    }
    changed = (part for part in actions if wanted[part] != there[part])
    return f"{table} " + ", ".join(f"ALTER {name} {actions[part]}" for part in changed)


_COLUMN: Final = re.compile(
    r"(?P<type>.+?)(?P<not_null> NOT NULL)?(?P<rest> GENERATED .+| STORED.*| VIRTUAL.*)?"
    r"(?P<default> DEFAULT .+)?"
)


def _dropped(each: definitions.Definition) -> str:
    name = quoted(each.name)
    if each.table == "-":
        return f"DROP {each.kind.upper()} IF EXISTS {SCHEMA}.{name}"
    return f"ALTER TABLE {SCHEMA}.{each.table} DROP {each.kind.upper()} {name}"


_INVALID: Final = text("""
    SELECT relname
    FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid
    WHERE relnamespace = CAST(:schema AS regnamespace) AND NOT (indisvalid AND indisready)
    ORDER BY 1
""")


def ways_around(connection: Connection, subject: Subject) -> Defects:
    roles = subject.roles
    asked = {"schema": SCHEMA, "keepers": [roles.migrator, roles.keeper, roles.service]}
    for row in connection.execute(_READERS, asked):
        remedy = f"ALTER VIEW {row.reader} SET (security_invoker = true)"
        if row.materialized:
            remedy = f"DROP MATERIALIZED VIEW {row.reader}"
        elif row.old:  # before 15 a view always runs as its owner
            remedy = f"DROP VIEW {row.reader}"
        yield Defect(f"{row.reader} shows rows that row security hides", remedy)
    for helper in connection.scalars(_HELPERS, asked):
        yield Defect(
            f"{helper} bypasses the row security of its caller",
            f"ALTER FUNCTION {helper} SECURITY INVOKER",
        )
    for row in connection.execute(_RULES, {"schema": SCHEMA}):
        yield Defect(
            f"rule {row.rulename} on {row.tablename} rewrites statements",
            f"DROP RULE {quoted(row.rulename)} ON {SCHEMA}.{row.tablename}",
        )
    for row in connection.execute(_HEIRS, {"schema": SCHEMA}):
        yield Defect(
            f"{row.child} inherits from {row.parent}",
            f"ALTER TABLE {row.child} NO INHERIT {row.parent}",
        )


# A view runs as its owner unless it says otherwise, and a materialized view keeps rows. The same
# holds for views that read them.
_READERS: Final = text("""
    WITH RECURSIVE reader AS (
        SELECT oid, true AS ours
        FROM pg_class
        WHERE relnamespace = CAST(:schema AS regnamespace)
        UNION
        SELECT ev_class, false
        FROM reader
        JOIN pg_depend ON refobjid = reader.oid AND refclassid = 'pg_class'::regclass
            AND classid = 'pg_rewrite'::regclass
        JOIN pg_rewrite ON pg_rewrite.oid = objid
    )
    SELECT DISTINCT
        pg_class.oid::regclass::text AS reader, relkind = 'm' AS materialized,
        CAST(current_setting('server_version_num') AS integer) < 150000 AS old
    FROM reader
    JOIN pg_class ON pg_class.oid = reader.oid
    JOIN pg_roles AS owner ON owner.oid = relowner
    WHERE NOT ours AND relkind IN ('v', 'm')
      AND (relkind = 'm' OR (owner.rolsuper OR owner.rolbypassrls OR owner.rolname = ANY (:keepers))
           AND NOT coalesce(reloptions && ARRAY[
               'security_invoker=true', 'security_invoker=on', 'security_invoker=1',
               'security_invoker=yes'], false))
    ORDER BY 1
""")
# A routine that runs as a role that may see more than its caller, or show more to others.
_HELPERS: Final = text("""
    SELECT pg_proc.oid::regprocedure::text AS helper
    FROM pg_proc JOIN pg_roles AS owner ON owner.oid = proowner
    WHERE prosecdef AND pronamespace <> CAST(:schema AS regnamespace)
      AND (owner.rolname = ANY (:keepers)
           OR (owner.rolsuper OR owner.rolbypassrls)
           AND strpos(prosrc, CAST(CAST(:schema AS regnamespace) AS text)) > 0)
    ORDER BY 1
""")
_RULES: Final = text("SELECT tablename, rulename FROM pg_rules WHERE schemaname = :schema")
_HEIRS: Final = text("""
    SELECT inhrelid::regclass::text AS child, inhparent::regclass::text AS parent
    FROM pg_inherits JOIN pg_class ON pg_class.oid IN (inhparent, inhrelid)
    WHERE relnamespace = CAST(:schema AS regnamespace) AND relkind IN ('r', 'p')
""")
