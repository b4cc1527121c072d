"""The ledger, holds and grants, disputes, payment attempts, and the system tenant."""

from alembic import op

from cogni_billing.adapters.postgres.migrations.support import (
    recorded_roles,
    run,
    wait_briefly_for_locks,
)
from cogni_billing.adapters.postgres.operations import blueprint
from cogni_billing.adapters.postgres.schema import SCHEMA, function_sources, tables_sql

revision = "cogni_billing_0001"
down_revision = None
branch_labels = ("cogni_billing",)
depends_on = None


def upgrade() -> None:
    """Create everything, give each role exactly what it needs, seed the system tenant."""
    wait_briefly_for_locks()
    roles = recorded_roles()
    run(tables_sql())
    run(*(privilege.grant(roles) for privilege in blueprint.table_privileges(roles)))
    run(*blueprint.installed_functions(roles))
    run(*blueprint.guards(roles))
    op.execute(f"SELECT {SCHEMA}.seed_system_tenant()")


def downgrade() -> None:
    """Drop everything, the money included."""
    wait_briefly_for_locks()
    roles = recorded_roles()
    migrator, keeper = roles.quoted("migrator", "keeper")
    for table in blueprint.TABLES:
        op.execute(f"DROP TABLE {SCHEMA}.{table} CASCADE")
    op.execute(f"SET LOCAL ROLE {keeper}")
    for name in function_sources():
        op.execute(f"DROP FUNCTION IF EXISTS {SCHEMA}.{name} CASCADE")
    op.execute(f"SET LOCAL ROLE {migrator}")
    op.execute(f"DROP TYPE {SCHEMA}.movement")
    others = roles.listed("user", "spender", "service", "keeper")
    op.execute(f"REVOKE ALL ON SCHEMA {SCHEMA} FROM {others}")
