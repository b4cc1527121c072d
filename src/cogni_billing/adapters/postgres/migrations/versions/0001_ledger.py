"""The ledger, holds and grants, disputes, payment attempts, and the system tenant."""

from sqlalchemy import Connection

from cogni_billing.adapters.postgres.operations import blueprint
from cogni_billing.adapters.postgres.operations.administration import run
from cogni_billing.adapters.postgres.operations.roles import Roles
from cogni_billing.adapters.postgres.schema import SCHEMA, function_sources, tables_sql

revision = "cogni_billing_0001"
down_revision = None
branch_labels = ("cogni_billing",)
depends_on = None


def upgrade(connection: Connection, roles: Roles) -> None:
    """Create all objects, grant each role its privileges, and seed the system tenant."""
    run(
        connection,
        tables_sql(),
        *(privilege.grant(roles) for privilege in blueprint.table_privileges(roles)),
        *blueprint.installed_functions(roles),
        *blueprint.guards(roles),
        f"SELECT {SCHEMA}.seed_system_tenant()",
    )


def downgrade(connection: Connection, roles: Roles) -> None:
    """Drop all objects, including all recorded money."""
    migrator, keeper = roles.quoted("migrator", "keeper")
    others = roles.listed("user", "spender", "service", "keeper")
    run(
        connection,
        *(f"DROP TABLE {SCHEMA}.{table} CASCADE" for table in blueprint.TABLES),
        f"SET LOCAL ROLE {keeper}",
        *(f"DROP FUNCTION IF EXISTS {SCHEMA}.{name} CASCADE" for name in function_sources()),
        f"SET LOCAL ROLE {migrator}",
        f"DROP TYPE {SCHEMA}.movement",
        f"REVOKE ALL ON SCHEMA {SCHEMA} FROM {others}",
    )
