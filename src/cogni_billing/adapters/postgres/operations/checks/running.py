"""Examine the version, the system tenant, the contexts and the path to the server."""

from __future__ import annotations

from typing import Final

import psycopg
from sqlalchemy import Connection, text

from cogni_billing.adapters.postgres.calls import calls_on
from cogni_billing.adapters.postgres.connections import is_pooled
from cogni_billing.adapters.postgres.contexts import Context
from cogni_billing.adapters.postgres.failures import translated
from cogni_billing.adapters.postgres.operations.blueprint import SEQUENCE
from cogni_billing.adapters.postgres.operations.checks.defects import Defect, Defects, Subject
from cogni_billing.adapters.postgres.schema import HEAD, SCHEMA
from cogni_billing.domain.errors import PrivilegeRequired
from cogni_billing.domain.identity import SYSTEM_TENANT_ID


def revision(connection: Connection, _: Subject) -> Defects:
    found = connection.scalar(_REVISION, {"schema": SCHEMA}) or "no revision"
    if found != HEAD:
        yield Defect(f"the schema is at {found}, not at {HEAD}", "run migrate as the migrator")


# Read and not called, because the role may lack the privilege. Another check reports that.
_REVISION: Final = text("""
    SELECT split_part(prosrc, chr(39), 2)
    FROM pg_proc
    WHERE pronamespace = CAST(:schema AS regnamespace) AND proname = 'revision'
""")


def system_tenant(connection: Connection, subject: Subject) -> Defects:
    answer = calls_on(connection, subject.context)("account", SYSTEM_TENANT_ID, {})
    if answer["outcome"] != "done":
        yield Defect(
            "the account of the system tenant is missing",
            f"SELECT {SCHEMA}.seed_system_tenant()",
        )


def positions(connection: Connection, _: Subject) -> Defects:
    reused = connection.scalar(text(f"SELECT {SCHEMA}.reused_position()"))
    if reused is not None:
        yield Defect(
            f"sequence {SEQUENCE} repeats positions that are in use, up to {reused}",
            "run repair as the migrator",
        )


def contexts(connection: Connection, subject: Subject) -> Defects:
    # A serving role can preset these for its own future sessions.
    serving = [name for each in _SERVING if (name := subject.roles.to_dict().get(each))]
    preset = connection.execute(_PRESET, {"serving": serving}).all()
    for row in preset:
        yield Defect(
            f"{row.setting} is set for the {row.place}",
            f"ALTER {row.place} RESET {row.setting.partition('=')[0]}",
        )
    if not preset and connection.scalar(_SET):
        yield Defect("a tenant is set outside a scope", "remove it from the connection's options")
    if subject.context.signs and _answers_without_proof(connection):
        yield Defect(
            "calls without a proof are accepted, but signing_key was given",
            "sign_contexts(migrator_engine, [key])",
        )


def _answers_without_proof(connection: Connection) -> bool:
    try:
        with translated(), connection.begin_nested():
            calls_on(connection, Context())("account", SYSTEM_TENANT_ID, {})
    except PrivilegeRequired:
        return False
    return True


_SET: Final = text("SELECT coalesce(current_setting('app.current_user_id', true), '') <> ''")
_PRESET: Final = text("""
    SELECT setting, concat_ws(' IN ',
        'ROLE ' || quote_ident(rolname), 'DATABASE ' || quote_ident(datname)) AS place
    FROM pg_db_role_setting
    LEFT JOIN pg_roles ON pg_roles.oid = setrole
    LEFT JOIN pg_database ON pg_database.oid = setdatabase, unnest(setconfig) AS setting
    WHERE (setdatabase = 0 OR datname = current_database())
      AND (rolname = ANY (:serving) OR split_part(setting, '=', 1) IN
          ('app.current_user_id', 'row_security', 'session_replication_role'))
    ORDER BY 1, 2
""")
_SERVING: Final = ("user", "spender", "service")


def pooling(connection: Connection, _: Subject) -> Defects:
    driver = connection.connection.driver_connection
    assert isinstance(driver, (psycopg.Connection, psycopg.AsyncConnection))  # by its dialect
    if driver.prepare_threshold is not None and is_pooled(connection):
        yield Defect(
            "the server is behind a pooler and statements are prepared, so a statement may run"
            " another client's",
            'create_engine(..., connect_args={"prepare_threshold": None})',
        )
