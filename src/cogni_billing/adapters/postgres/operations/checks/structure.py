"""Whether the tables, and what guards them, are as the migrations made them."""

from __future__ import annotations

from typing import Final

from sqlalchemy import Connection, text
from sqlalchemy.schema import CreateIndex

from cogni_billing.adapters.postgres.operations import blueprint
from cogni_billing.adapters.postgres.operations.blueprint import Constraint, Policy, Trigger
from cogni_billing.adapters.postgres.operations.checks.findings import Finding, Findings, Subject
from cogni_billing.adapters.postgres.operations.roles import quoted
from cogni_billing.adapters.postgres.schema import SCHEMA, metadata


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


def ways_around(connection: Connection, _: Subject) -> Findings:
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
