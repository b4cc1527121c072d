"""Bringing the schema to the head revision, and back to nothing."""

from __future__ import annotations

from collections.abc import Callable
from importlib.resources import as_file, files
from typing import Final

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, text

from cogni_billing.adapters.postgres.operations.administration import (
    administrative_transaction,
    plain,
)
from cogni_billing.adapters.postgres.operations.blueprint import installed_functions
from cogni_billing.adapters.postgres.operations.provisioning import Provision, require_migrator

_SCRIPTS = "cogni_billing.adapters.postgres.migrations"
# Any constant does; every process that migrates this database must use the same.
_LOCK: Final = 0x_C09_B111


def migrate(migrator_engine: Engine, revision: str = "head") -> None:
    """Upgrade the schema to *revision*, in one transaction. Doing it twice changes nothing.

    Processes that start together take turns. A host that has an Alembic environment of its own
    can upgrade the branch `cogni_billing` there instead; see the documentation.

    Args:
        migrator_engine: Connects as the migrator role.
        revision: An Alembic revision; the newest by default.

    Raises:
        PrivilegeRequired: it connects as another role.
        LedgerUnavailable: the database is not provisioned, or cannot be reached.
    """
    _run(migrator_engine, command.upgrade, revision)


def unmigrate(migrator_engine: Engine) -> None:
    """Drop everything that `migrate` created, all recorded money included.

    Raises:
        PrivilegeRequired: it connects as another role than the migrator.
        LedgerUnavailable: the database is not provisioned, or cannot be reached.
    """
    _run(migrator_engine, command.downgrade, "base")


def repair(migrator_engine: Engine) -> None:
    """Create the functions again as this version has them, with the privileges to call them.

    Tables and rows stay as they are. Doing it twice changes nothing.

    Raises:
        PrivilegeRequired: it connects as another role than the migrator, or a function has another
            owner than the keeper.
        LedgerUnavailable: the database is not provisioned, or cannot be reached.
    """
    with administrative_transaction(migrator_engine) as connection:
        roles = Provision.read(connection).roles
        require_migrator(connection, roles)
        for statement in installed_functions(roles):
            connection.execute(plain(statement))


def head_revision() -> str:
    """The newest revision that this version of the library brings."""
    with as_file(files(_SCRIPTS)) as folder:
        head = ScriptDirectory(folder).get_current_head()
    assert head is not None  # the package ships at least one
    return head


def _run(engine: Engine, action: Callable[[Config, str], None], revision: str) -> None:
    with as_file(files(_SCRIPTS)) as folder, administrative_transaction(engine) as connection:
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
        require_migrator(connection, Provision.read(connection).roles)
        config = Config()
        config.set_main_option("script_location", str(folder).replace("%", "%%"))
        config.attributes["connection"] = connection
        action(config, revision)
