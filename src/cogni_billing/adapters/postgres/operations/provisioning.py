"""What an administrator does once for a database: the roles, and the schema they meet in."""

from __future__ import annotations

import json
from typing import Final

from attrs import asdict, evolve, frozen
from sqlalchemy import Connection, Engine, text

from cogni_billing.adapters.postgres.operations.administration import administrative_transaction
from cogni_billing.adapters.postgres.operations.privileges import callers, grants
from cogni_billing.adapters.postgres.operations.roles import Roles, quoted
from cogni_billing.adapters.postgres.schema import SCHEMA, VERSION_SCHEMA
from cogni_billing.domain.errors import InvalidInput, LedgerUnavailable, PrivilegeRequired

SERVER_VERSION_MIN: Final = 140_000
_INHERIT_OPTION_SINCE = 160_000

_NO_LOGIN = frozenset({"keeper"})
_BYPASSRLS = frozenset({"service"})

_ROLE = text("SELECT rolsuper, rolbypassrls, rolcanlogin FROM pg_roles WHERE rolname = :name")
_SCHEMA_COMMENT = text("SELECT obj_description(to_regnamespace(:schema), 'pg_namespace')")


@frozen
class Provision:
    """What provisioning recorded: in the schema's comment, which dumps and restores with it."""

    roles: Roles
    test_database: bool = False
    signed_contexts: bool = False

    @classmethod
    def read(cls, connection: Connection) -> Provision:
        """What this database's schema says of itself.

        Raises:
            LedgerUnavailable: it was never provisioned.
        """
        comment = connection.execute(_SCHEMA_COMMENT, {"schema": SCHEMA}).scalar_one()
        if comment is None:
            raise LedgerUnavailable(f"schema {SCHEMA} is not provisioned here; run provision first")
        if (record := cls._parsed(comment)) is None:
            raise LedgerUnavailable(
                f"the comment of schema {SCHEMA} was changed; run provision again"
            )
        return record

    @classmethod
    def known(cls, connection: Connection) -> Provision | None:
        """The same, or `None` where there is nothing, or nothing of ours, to be read."""
        comment = connection.execute(_SCHEMA_COMMENT, {"schema": SCHEMA}).scalar_one()
        return None if comment is None else cls._parsed(comment)

    @classmethod
    def _parsed(cls, comment: str) -> Provision | None:
        try:
            record = json.loads(comment)
            return cls(Roles(**record.pop("roles")), **record)
        except (ValueError, KeyError, TypeError, AttributeError):
            return None

    def write(self, connection: Connection) -> None:
        """Record it."""
        text_ = json.dumps(asdict(self) | {"roles": self.roles.to_dict()}, sort_keys=True)
        literal = text_.replace("'", "''")
        connection.execute(text(f"COMMENT ON SCHEMA {SCHEMA} IS '{literal}'"))


def provision(
    admin_engine: Engine, roles: Roles | None = None, *, test_database: bool = False
) -> None:
    """Create the roles and the schema in this database, or bring them in line. Idempotent.

    Passwords and `pg_hba.conf` are the host's: a new role has no password. Roles that exist are
    kept, and their attributes corrected where they differ.

    With `Roles(spender=…)` there is a role that reads and spends but cannot mint: requests are
    served as that one, and payments confirmed as the user. It can be added, or renamed, at any
    time; one that is not named any more loses its rights.

    Args:
        admin_engine: Connects as an administrator who may create roles, one of them BYPASSRLS.
        roles: Their names; without it those that were recorded, or the default ones.
        test_database: Mark the database as one that `reset` may empty.

    Raises:
        InvalidInput: a role named here is a superuser, which row-level security cannot bind.
        PrivilegeRequired: the administrator may not do one of these things.
        LedgerUnavailable: the server cannot be reached, or is older than PostgreSQL 14.
    """
    with administrative_transaction(admin_engine) as connection:
        require_server_version(connection)
        before = Provision.known(connection)
        known = before or Provision(Roles())
        record = evolve(known, roles=roles or known.roles, test_database=test_database)
        for purpose, name in record.roles.to_dict().items():
            _ensure_role(connection, purpose, name)
        _ensure_schemas(connection, record)
        if connection.execute(_IS_MIGRATED).scalar_one():  # a migration does it otherwise
            _disarm(connection, before, record.roles)
            _arm_spender(connection, record.roles)


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
    wanted = (purpose in _BYPASSRLS, purpose not in _NO_LOGIN)
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
    migrator, keeper = record.roles.quoted("migrator", "keeper")
    logins = record.roles.listed("migrator", "user", "spender", "service")
    # The migrator hands one function to the keeper; it needs the keeper's name, not its rights.
    option = "WITH INHERIT FALSE, SET TRUE"
    with_option = option if _server_version(connection) >= _INHERIT_OPTION_SINCE else ""
    database = quoted(connection.execute(text("SELECT current_database()")).scalar_one())
    for statement in (
        f"GRANT {keeper} TO {migrator} {with_option}",
        f"GRANT CONNECT ON DATABASE {database} TO {logins}",
        f"CREATE SCHEMA IF NOT EXISTS {SCHEMA} AUTHORIZATION {migrator}",
        f"CREATE SCHEMA IF NOT EXISTS {VERSION_SCHEMA} AUTHORIZATION {migrator}",
    ):
        connection.execute(text(statement))
    record.write(connection)


_IS_MIGRATED = text(f"SELECT to_regclass('{SCHEMA}.postings') IS NOT NULL")


def _disarm(connection: Connection, before: Provision | None, roles: Roles) -> None:
    """Take its rights from a spender that is none any more."""
    spender = before.roles.spender if before else None
    if spender is None or spender in roles.to_dict().values():
        return
    for objects in ("ALL TABLES IN SCHEMA", "ALL FUNCTIONS IN SCHEMA", "SCHEMA"):
        connection.execute(text(f"REVOKE ALL ON {objects} {SCHEMA} FROM {quoted(spender)}"))


def _arm_spender(connection: Connection, roles: Roles) -> None:
    """Give the spender its rights, where there is one."""
    if roles.spender is None:
        return
    spender = quoted(roles.spender)
    connection.execute(text(f"GRANT USAGE ON SCHEMA {SCHEMA} TO {spender}"))
    for grant in grants(roles):
        if grant.grantee == "spender":
            connection.execute(text(f"GRANT {grant.on()} TO {spender}"))
    for role, function in callers(roles):
        if role == "spender":
            connection.execute(text(f"GRANT EXECUTE ON FUNCTION {SCHEMA}.{function} TO {spender}"))
