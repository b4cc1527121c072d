"""Run this package's revisions with Alembic. No other module imports it: it is slow to load."""

from __future__ import annotations

from collections.abc import Callable
from importlib.resources import as_file, files
from typing import Any, TypeAlias

from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection

from cogni_billing.adapters.postgres.operations.roles import Roles
from cogni_billing.adapters.postgres.schema import VERSION_SCHEMA
from cogni_billing.domain.errors import InvalidInput, shown

_SCRIPTS = "cogni_billing.adapters.postgres.migrations"
_Steps: TypeAlias = Callable[[ScriptDirectory, Any], Any]


def upgrade(connection: Connection, roles: Roles, revision: str) -> None:
    """Run the upgrades up to *revision*."""
    _run(connection, roles, lambda script, now: script._upgrade_revs(revision, now), revision)  # noqa: SLF001


def downgrade(connection: Connection, roles: Roles) -> None:
    """Run every downgrade."""
    _run(connection, roles, lambda script, now: script._downgrade_revs("base", now), "base")  # noqa: SLF001


def newest() -> str | None:
    """Return the newest revision of this package."""
    with as_file(files(_SCRIPTS)) as folder:
        return ScriptDirectory(folder).get_current_head()


def _run(connection: Connection, roles: Roles, steps: _Steps, revision: str) -> None:
    with as_file(files(_SCRIPTS)) as folder:
        script = ScriptDirectory(folder)
        # Alembic's environment is global: opening one in a host's revision would end the host's.
        context = MigrationContext.configure(
            connection,
            opts={
                "version_table_schema": VERSION_SCHEMA,
                "fn": lambda now, _context: steps(script, now),
            },
        )
        try:
            context.run_migrations(connection=connection, roles=roles)
        except CommandError as error:
            raise InvalidInput("revision", shown(revision), "one of this package") from error
