"""Whether what runs is this version, seeded, without a tenant of its own, and durable."""

from __future__ import annotations

from typing import Final

import psycopg
from sqlalchemy import Connection, text

from cogni_billing.adapters.postgres.operations import blueprint
from cogni_billing.adapters.postgres.operations.checks.findings import Finding, Findings, Subject
from cogni_billing.adapters.postgres.operations.migrating import head_revision
from cogni_billing.adapters.postgres.schema import SCHEMA
from cogni_billing.adapters.postgres.statements import ACCOUNT
from cogni_billing.domain.accounts import CONTRA_ACCOUNTS
from cogni_billing.domain.identity import SYSTEM_ACCOUNT_ID, SYSTEM_TENANT_ID


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


def nothing_without_context(connection: Connection, subject: Subject) -> Findings:
    for row in connection.execute(_PRESET):
        yield Finding(
            f"{row.setting} is set for the {row.place}",
            f"ALTER {row.place} RESET {row.setting.partition('=')[0]}",
        )
    if subject.context.signs and not subject.record.signed_contexts:
        yield Finding(
            "contexts are set without a proof, though there is a key",
            "sign_contexts(migrator_engine, [key])",
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


_HASTY: Final = text("""
    SELECT CASE setrole WHEN 0 THEN 'DATABASE ' || quote_ident(datname)
                        ELSE 'ROLE ' || quote_ident(pg_get_userbyid(setrole)) END
    FROM pg_db_role_setting LEFT JOIN pg_database ON pg_database.oid = setdatabase
    WHERE 'synchronous_commit=off' = ANY (setconfig)
      AND (setdatabase = 0 OR datname = current_database())
      AND (setrole = 0 OR pg_get_userbyid(setrole) = ANY (:roles))
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


def durability(connection: Connection, subject: Subject) -> Findings:
    roles = list(subject.roles.to_dict().values())
    for place in connection.scalars(_HASTY, {"roles": roles}):
        yield Finding(
            f"synchronous_commit is off for the {place}: a crash can lose confirmed purchases",
            f"ALTER {place} RESET synchronous_commit",
        )
    setting = connection.scalar(text("SHOW synchronous_commit"))
    if setting == "off":
        yield Finding(
            "synchronous_commit is off: a crash can lose confirmed purchases",
            "ALTER SYSTEM SET synchronous_commit = on; SELECT pg_reload_conf()",
        )
