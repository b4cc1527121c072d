"""What revisions share: the recorded role names, and SQL files run as they are."""

from alembic import op

from cogni_billing.adapters.postgres.operations.administration import plain
from cogni_billing.adapters.postgres.operations.provisioning import Provision, require_migrator
from cogni_billing.adapters.postgres.operations.roles import Roles


def recorded_roles() -> Roles:
    """The names that provisioning recorded, once it is sure that the right role is migrating."""
    connection = op.get_bind()
    provision = Provision.read(connection)
    require_migrator(connection, provision.roles)
    return provision.roles


def wait_briefly_for_locks() -> None:
    """Rather have a migration fail, to be tried again, than requests queue up behind its lock."""
    op.execute("SET LOCAL lock_timeout = '10s'")


def run(*statements: str) -> None:
    """Run statements, or whole files of them, without parameters."""
    for statement in statements:
        op.execute(plain(statement))
