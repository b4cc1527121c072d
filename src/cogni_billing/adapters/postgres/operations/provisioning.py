"""What an administrator does once for a database: the roles, and the schema they meet in."""

from __future__ import annotations

import json
from typing import Final

from attrs import frozen
from sqlalchemy import Connection, Engine, text

from cogni_billing.adapters.postgres.operations.administration import administrative_transaction
from cogni_billing.adapters.postgres.operations.roles import Roles, quoted
from cogni_billing.adapters.postgres.schema import SCHEMA, VERSION_SCHEMA
from cogni_billing.domain.errors import InvalidInput, LedgerUnavailable, PrivilegeRequired

SERVER_VERSION_MIN: Final = 140_000
_INHERIT_OPTION_SINCE = 160_000

_LOGIN = {"migrator": True, "user": True, "service": True, "keeper": False}
_BYPASSRLS = {"migrator": False, "user": False, "service": True, "keeper": False}

_ROLE = text("SELECT rolsuper, rolbypassrls, rolcanlogin FROM pg_roles WHERE rolname = :name")
_SCHEMA_COMMENT = text("SELECT obj_description(to_regnamespace(:schema), 'pg_namespace')")


@frozen
class Provision:
    """What provisioning recorded: in the schema's comment, which dumps and restores with it."""

    roles: Roles
    test_database: bool

    @classmethod
    def read(cls, connection: Connection) -> Provision:
        """What this database's schema says of itself.

        Raises:
            LedgerUnavailable: it was never provisioned.
        """
        comment = connection.execute(_SCHEMA_COMMENT, {"schema": SCHEMA}).scalar_one()
        if comment is None:
            raise LedgerUnavailable(f"schema {SCHEMA} is not provisioned here; run provision first")
        try:
            record = json.loads(comment)
            return cls(Roles(**record["roles"]), record["test_database"])
        except (ValueError, KeyError, TypeError) as error:
            raise LedgerUnavailable(
                f"the comment of schema {SCHEMA} was changed; run provision again"
            ) from error

    def to_comment(self) -> str:
        """The record as text."""
        record = {"roles": self.roles.to_dict(), "test_database": self.test_database}
        return json.dumps(record, sort_keys=True)


def provision(
    admin_engine: Engine, roles: Roles | None = None, *, test_database: bool = False
) -> None:
    """Create the roles and the schema in this database, or bring them in line. Idempotent.

    Passwords and `pg_hba.conf` are the host's: a new role has no password. Roles that exist are
    kept, and their attributes corrected where they differ.

    Args:
        admin_engine: Connects as an administrator who may create roles, one of them BYPASSRLS.
        roles: Their names, where they are not the default ones.
        test_database: Mark the database as one that `reset` may empty.

    Raises:
        InvalidInput: a role named here is a superuser, which row-level security cannot bind.
        PrivilegeRequired: the administrator may not do one of these things.
        LedgerUnavailable: the server cannot be reached, or is older than PostgreSQL 14.
    """
    record = Provision(roles or Roles(), test_database)
    with administrative_transaction(admin_engine) as connection:
        require_server_version(connection)
        for purpose, name in record.roles.to_dict().items():
            _ensure_role(connection, purpose, name)
        _ensure_schemas(connection, record)


def require_server_version(connection: Connection) -> None:
    """Return when the server is one that the ledger runs on."""
    if (version := _server_version(connection)) < SERVER_VERSION_MIN:
        raise LedgerUnavailable(f"PostgreSQL 14 or newer is needed; this is {version // 10_000}")


def require_migrator(connection: Connection, roles: Roles) -> None:
    """Return when the connection is the migrator's: what it creates, it owns, under FORCE."""
    current = connection.execute(text("SELECT current_user")).scalar_one()
    if current != roles.migrator:
        raise PrivilegeRequired(f"migrating as {current}; connect as {roles.migrator}")


def _server_version(connection: Connection) -> int:
    return int(connection.execute(text("SHOW server_version_num")).scalar_one())


def _ensure_role(connection: Connection, purpose: str, name: str) -> None:
    wanted = (_BYPASSRLS[purpose], _LOGIN[purpose])
    found = connection.execute(_ROLE, {"name": name}).one_or_none()
    if found is None:
        connection.execute(text(f"CREATE ROLE {quoted(name)} {_attributes(*wanted)}"))
    elif found.rolsuper:
        raise InvalidInput(f"roles.{purpose}", f"the superuser {name}", "an ordinary role")
    elif (found.rolbypassrls, found.rolcanlogin) != wanted:
        connection.execute(text(f"ALTER ROLE {quoted(name)} {_attributes(*wanted)}"))


def _attributes(bypassrls: bool, login: bool) -> str:  # noqa: FBT001 (named by its caller)
    return f"{'' if bypassrls else 'NO'}BYPASSRLS {'' if login else 'NO'}LOGIN"


def _ensure_schemas(connection: Connection, record: Provision) -> None:
    migrator, user, service, keeper = record.roles.quoted("migrator", "user", "service", "keeper")
    # The migrator hands one function to the keeper; it needs the keeper's name, not its rights.
    option = "WITH INHERIT FALSE, SET TRUE"
    with_option = option if _server_version(connection) >= _INHERIT_OPTION_SINCE else ""
    database = quoted(connection.execute(text("SELECT current_database()")).scalar_one())
    for statement in (
        f"GRANT {keeper} TO {migrator} {with_option}",
        f"GRANT CONNECT ON DATABASE {database} TO {migrator}, {user}, {service}",
        f"CREATE SCHEMA IF NOT EXISTS {SCHEMA} AUTHORIZATION {migrator}",
        f"CREATE SCHEMA IF NOT EXISTS {VERSION_SCHEMA} AUTHORIZATION {migrator}",
    ):
        connection.execute(text(statement))
    comment = record.to_comment().replace("'", "''")
    connection.execute(text(f"COMMENT ON SCHEMA {SCHEMA} IS '{comment}'"))
