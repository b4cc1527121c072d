"""Migrations of the schema to the head revision, and back to an empty database."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from sqlalchemy import Connection, Engine, text

from cogni_billing.adapters.postgres.connections import DRIVERS, driver_connection, own_cursors
from cogni_billing.adapters.postgres.failures import translated
from cogni_billing.adapters.postgres.operations.administration import (
    administrative_transaction,
    run,
)
from cogni_billing.adapters.postgres.operations.blueprint import SEQUENCE, installed_functions
from cogni_billing.adapters.postgres.operations.provisioning import (
    Provision,
    act_as,
    require_migrator,
)
from cogni_billing.adapters.postgres.schema import SCHEMA, VERSION_SCHEMA
from cogni_billing.domain.errors import InvalidInput, shown

# An arbitrary constant. All processes that migrate this database must use the same.
_LOCK: Final = 0x_C09_B111


def migrate(migrator: Engine | Connection, revision: str = "head") -> None:
    """Upgrade the schema to *revision*, in one transaction. A second call changes nothing.

    Concurrent migrations run one after another. The ledger has a version table of its own. A host
    with Alembic calls `migrate(op.get_bind())` in a revision of its own.

    Args:
        migrator: An engine that connects as the migrator role, or a connection in a transaction.
            The role of the connection is the migrator or may act as it.
        revision: A revision of this package. The newest by default.

    Raises:
        InvalidInput: there is no such revision, or *migrator* has another type.
        PrivilegeRequired: it connects as another role.
        LedgerUnavailable: the database is not provisioned, or cannot be reached.
    """
    from cogni_billing.adapters.postgres.operations.revisions import upgrade  # noqa: PLC0415

    with _migrating(migrator) as connection:
        upgrade(connection, Provision.read(connection).roles, revision)


def unmigrate(migrator: Engine | Connection) -> None:
    """Drop everything that `migrate` created, including all recorded money.

    Raises:
        InvalidInput: *migrator* is no engine and no connection in a transaction.
        PrivilegeRequired: it connects as another role than the migrator.
        LedgerUnavailable: the database is not provisioned, or cannot be reached.
    """
    from cogni_billing.adapters.postgres.operations.revisions import downgrade  # noqa: PLC0415

    with _migrating(migrator) as connection:
        downgrade(connection, Provision.read(connection).roles)


def include_object(item: object, *_: object) -> bool:
    """False for objects of the ledger.

    As the `include_object` of a host's Alembic environment it keeps `--autogenerate` with
    `include_schemas` from dropping them.
    """
    table = getattr(item, "table", item)
    return getattr(table, "schema", None) not in {SCHEMA, VERSION_SCHEMA}


def repair(migrator_engine: Engine) -> None:
    """Create the functions again as this version defines them, with the privileges to call them.

    Moves the sequence of positions ahead of the rows, if a copy of the rows left it behind. Tables
    and rows stay as they are. A second call changes nothing.

    Raises:
        PrivilegeRequired: it connects as another role than the migrator, or a function has another
            owner than the keeper.
        LedgerUnavailable: the database is not provisioned, or cannot be reached.
    """
    with administrative_transaction(migrator_engine) as connection:
        roles = Provision.read(connection).roles
        require_migrator(connection, roles)
        run(connection, *installed_functions(roles))
        if connection.execute(_REUSED_POSITION).scalar_one() is not None:
            run(connection, *_ADVANCE)


_REUSED_POSITION: Final = text(f"SELECT {SCHEMA}.reused_position()")
# The lock keeps writers from taking a position between the two statements.
_ADVANCE: Final = (
    f"LOCK TABLE {SCHEMA}.arrivals IN EXCLUSIVE MODE",
    f"SELECT setval('{SCHEMA}.{SEQUENCE}', {SCHEMA}.reused_position())",
)


@contextmanager
def _migrating(target: Engine | Connection) -> Iterator[Connection]:
    """Open a transaction that acts as the migrator, after concurrent migrations have ended."""
    if isinstance(target, Engine):
        with administrative_transaction(target) as connection:
            require_migrator(connection, Provision.read(connection).roles)
            with _alone(connection):
                yield connection
        return
    expected = "an Engine, or a Connection in a transaction, on postgresql+psycopg"
    if (
        not isinstance(target, Connection)
        or target.dialect.driver not in DRIVERS
        or not target.in_transaction()
    ):
        raise InvalidInput("migrator", shown(target), expected)
    with translated(), own_cursors(target):
        if driver_connection(target).autocommit:
            raise InvalidInput("migrator", "one that autocommits", expected)
        role = target.execute(text("SELECT current_user")).scalar_one()
        act_as(target, Provision.read(target).roles.migrator)
        with _alone(target):
            yield target
        act_as(target, role)


@contextmanager
def _alone(connection: Connection) -> Iterator[None]:
    """Wait for other migrations. Each lock may take ten seconds, as requests queue behind it."""
    before = connection.execute(text("SHOW lock_timeout")).scalar_one()
    connection.execute(text("SET LOCAL lock_timeout = '10s'"))
    connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
    yield
    connection.execute(_SET_TIMEOUT, {"timeout": before})


_SET_TIMEOUT: Final = text("SELECT set_config('lock_timeout', :timeout, true)")
