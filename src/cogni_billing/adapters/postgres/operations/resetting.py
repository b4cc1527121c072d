"""Emptying a test database."""

from __future__ import annotations

from sqlalchemy import Engine, text

from cogni_billing.adapters.postgres.operations.administration import administrative_transaction
from cogni_billing.adapters.postgres.operations.blueprint import LEDGER
from cogni_billing.adapters.postgres.operations.provisioning import Provision
from cogni_billing.adapters.postgres.schema import SCHEMA
from cogni_billing.domain.errors import PrivilegeRequired


def reset(migrator_engine: Engine) -> None:
    """Empty every table and seed the system tenant again, in one transaction. For tests.

    Args:
        migrator_engine: Connects as the migrator role.

    Raises:
        PrivilegeRequired: the database is not marked as a test database
            (`provision(..., test_database=True)`), or the role does not own the tables.
        LedgerUnavailable: the database is not provisioned, or cannot be reached.
    """
    with administrative_transaction(migrator_engine) as connection:
        if not Provision.read(connection).test_database:
            raise PrivilegeRequired("emptying a database that is not marked as a test database")
        tables = [f"{SCHEMA}.{table}" for table in LEDGER]
        # In one trip: tests do this before each of them.
        emptying = (
            *(f"ALTER TABLE {table} DISABLE TRIGGER append_only" for table in tables),
            f"TRUNCATE {', '.join(tables)} RESTART IDENTITY",
            *(f"ALTER TABLE {table} ENABLE TRIGGER append_only" for table in tables),
            f"SELECT {SCHEMA}.seed_system_tenant()",
        )
        connection.execute(text("; ".join(emptying)))
