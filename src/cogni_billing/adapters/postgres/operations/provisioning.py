"""Provisioning: an administrator creates the roles and the schema once for each database."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta
from typing import Any, Final

from attrs import asdict, evolve, frozen
from sqlalchemy import Connection, Engine, text

from cogni_billing.adapters.postgres.failures import translated
from cogni_billing.adapters.postgres.operations.administration import (
    administrative_transaction,
    plain,
    run,
)
from cogni_billing.adapters.postgres.operations.blueprint import (
    function_privileges,
    table_privileges,
)
from cogni_billing.adapters.postgres.operations.ownership import misowned
from cogni_billing.adapters.postgres.operations.roles import Roles, quoted
from cogni_billing.adapters.postgres.schema import SCHEMA, VERSION_SCHEMA
from cogni_billing.domain.errors import (
    InvalidInput,
    LedgerUnavailable,
    PrivilegeRequired,
    shown,
)

SERVER_VERSION_MIN: Final = 140_000
_OPTIONS_SINCE: Final = 160_000
"""From this version on, a membership has the options INHERIT and SET."""

CLOCK_SKEW: Final = timedelta(minutes=5)
CLOCK_SKEW_MIN: Final = timedelta(minutes=1)
"""`is_near` has the same constant."""
CLOCK_SKEW_MAX: Final = timedelta(hours=1)

_NO_LOGIN = frozenset({"keeper"})

_SCHEMA_COMMENT = text("SELECT obj_description(to_regnamespace(:schema), 'pg_namespace')")


@frozen
class Provision:
    """Record of provisioning in the schema's comment, which dumps and restores with the schema."""

    roles: Roles
    test_database: bool = False
    clock_skew: float = CLOCK_SKEW.total_seconds()
    """In seconds."""
    own_database: bool = False

    @classmethod
    def read(cls, connection: Connection) -> Provision:
        """Read the record of this database.

        Raises:
            LedgerUnavailable: the database was never provisioned.
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
        """Read the record. Returns `None` if there is none, or if the comment is no record."""
        comment = connection.execute(_SCHEMA_COMMENT, {"schema": SCHEMA}).scalar_one()
        return None if comment is None else cls._parsed(comment)

    @classmethod
    def _parsed(cls, comment: str) -> Provision | None:
        try:
            record = json.loads(comment)
            return cls(Roles(**record.pop("roles")), **record)
        except (ValueError, KeyError, TypeError, AttributeError):
            return None

    def statement(self) -> str:
        """Return the statement that stores the record."""
        text_ = json.dumps(asdict(self) | {"roles": self.roles.to_dict()}, sort_keys=True)
        literal = text_.replace("'", "''")
        return f"COMMENT ON SCHEMA {SCHEMA} IS '{literal}'"


def provision(
    admin_engine: Engine,
    roles: Roles | None = None,
    *,
    test_database: bool = False,
    clock_skew: timedelta | None = None,
    own_database: bool = False,
) -> None:
    """Create the roles and the schema in this database, or correct them. Idempotent.

    It reads the present state, and applies the missing changes. Objects that a restore left to the
    administrator are given to their roles. The host sets passwords and `pg_hba.conf`: a new role
    has no password. Existing roles are kept, and their attributes corrected if they differ.

    `Roles(spender=…)` adds a role that reads and spends but cannot mint. Requests then connect as
    the spender, and payments are confirmed as the user. The spender can be added or renamed at any
    time. A spender that is no longer named loses its privileges.

    Args:
        admin_engine: Connects as an administrator. `CREATEROLE` and the right to create schemas
            in this database are enough, and for existing roles, membership in the migrator.
        roles: Their names. By default those that were recorded, or else the default names.
        test_database: Mark the database as one that `reset` may empty, and that accepts calls of
            any moment. A later `provision` without it removes the mark.
        clock_skew: The largest distance between the clocks of a host and of the server, from 1
            minute to 1 hour. By default the recorded one, or else 5 minutes. A call that writes
            raises `InvalidTime` beyond it.
        own_database: The database serves the ledger alone. Revokes from PUBLIC the functions of
            PostgreSQL with which any role can block or end sessions of others: advisory locks,
            `pg_terminate_backend` and `pg_cancel_backend`. Needs a superuser. It stays recorded,
            also by a later `provision` without it.

    Raises:
        InvalidInput: a role named here is a superuser, which row-level security cannot bind, or
            *clock_skew* is out of range.
        PrivilegeRequired: the administrator lacks a privilege.
        LedgerUnavailable: the server cannot be reached or is older than PostgreSQL 14, or the
            database's encoding is not UTF-8.
    """
    given = _given(
        roles, test_database=test_database, clock_skew=clock_skew, own_database=own_database
    )
    with administrative_transaction(admin_engine) as connection:
        for statement in _missing(connection, given):
            _run_with_privilege(connection, statement)


def provision_sql(
    admin_engine: Engine,
    roles: Roles | None = None,
    *,
    test_database: bool = False,
    clock_skew: timedelta | None = None,
    own_database: bool = False,
) -> str:
    """Return the SQL that `provision` would run in this database now, as one transaction.

    It runs no change. The SQL is empty if no change is missing.

    Args:
        admin_engine: Connects as the role that will run the SQL. The right to connect is enough.
        roles: As for `provision`.
        test_database: As for `provision`.
        clock_skew: As for `provision`.
        own_database: As for `provision`.

    Raises:
        InvalidInput: a role named here is a superuser, or *clock_skew* is out of range.
        LedgerUnavailable: the server cannot be reached or is older than PostgreSQL 14, or the
            database's encoding is not UTF-8.
    """
    given = _given(
        roles, test_database=test_database, clock_skew=clock_skew, own_database=own_database
    )
    with administrative_transaction(admin_engine) as connection:
        statements = list(_missing(connection, given))
    if not statements:
        return ""
    return "".join(f"{statement};\n" for statement in ("BEGIN", *statements, "COMMIT"))


def _given(
    roles: Roles | None,
    *,
    test_database: bool,
    clock_skew: timedelta | None,
    own_database: bool,
) -> dict[str, Any]:
    """Return the fields of the record that an administrator gives. The others stay."""
    given: dict[str, Any] = {"test_database": test_database}
    if roles is not None:
        given["roles"] = roles
    if clock_skew is not None:
        given["clock_skew"] = _in_seconds(clock_skew)
    if own_database:
        given["own_database"] = True
    return given


def _in_seconds(skew: object) -> float:
    if not isinstance(skew, timedelta) or not CLOCK_SKEW_MIN <= skew <= CLOCK_SKEW_MAX:
        raise InvalidInput("clock_skew", shown(skew), "a timedelta from 1 minute to 1 hour")
    return skew.total_seconds()


def _missing(connection: Connection, given: dict[str, Any]) -> Iterator[str]:
    """Yield the statements of the missing changes.

    The caller runs each statement before it takes the next, or runs no statement at all.
    """
    require_server(connection)
    before = Provision.known(connection)
    record = evolve(before or Provision(Roles()), **given)
    for purpose, name in record.roles.to_dict().items():
        yield from _role(connection, purpose, name)
    yield from _access(connection, record.roles)
    if record.own_database:
        yield from _closed(connection, record.roles)
    changes = [
        *_owners(connection, record.roles),
        *_schemas(connection, record.roles),
        *_changes(before, record),
    ]
    if _is_migrated(connection):
        changes += _spender_changes(before, record.roles)
    yield from _as_the_migrator(connection, record.roles, changes)


def require_server(connection: Connection) -> None:
    """Validate that the server and the database can hold the ledger.

    Raises:
        LedgerUnavailable: the server is too old, or the database's encoding lacks characters.
    """
    if (version := _server_version(connection)) < SERVER_VERSION_MIN:
        raise LedgerUnavailable(f"PostgreSQL 14 or newer is needed; this is {version // 10_000}")
    encoding = connection.execute(text("SHOW server_encoding")).scalar_one()
    if encoding != "UTF8":
        raise LedgerUnavailable(
            f"the database's encoding is {encoding}; create it with ENCODING 'UTF8' TEMPLATE"
            " template0"
        )


def require_migrator(connection: Connection, roles: Roles) -> None:
    """Validate that the connection is the migrator's: it must own the objects that it creates."""
    current = connection.execute(text("SELECT current_user")).scalar_one()
    if current != roles.migrator:
        raise PrivilegeRequired(f"migrating as {current}; connect as {roles.migrator}")


def _server_version(connection: Connection) -> int:
    return int(connection.execute(text("SHOW server_version_num")).scalar_one())


def _role(connection: Connection, purpose: str, name: str) -> Iterator[str]:
    login = purpose not in _NO_LOGIN
    found = connection.execute(_ROLE, {"name": name}).one_or_none()
    role = f"ROLE {quoted(name)}"
    # Before 16 this alone keeps the migrator from inheriting the keeper's privileges.
    inherits = purpose != "migrator"
    if found is None:
        yield f"CREATE {role} {'LOGIN' if login else 'NOLOGIN'}{'' if inherits else ' NOINHERIT'}"
        return
    if found.rolsuper:
        raise InvalidInput(f"roles.{purpose}", f"the superuser {name}", "an ordinary role")
    if found.rolbypassrls:
        yield f"ALTER {role} NOBYPASSRLS"
    if found.rolcanlogin != login:
        yield f"ALTER {role} {'LOGIN' if login else 'NOLOGIN'}"
    if found.rolinherit and not inherits and not _has_options(connection):
        yield f"ALTER {role} NOINHERIT"


_ROLE: Final = text("""
    SELECT rolsuper, rolbypassrls, rolcanlogin, rolinherit FROM pg_roles WHERE rolname = :name
""")


def _run_with_privilege(connection: Connection, statement: str) -> None:
    """Run a statement that needs a privilege the administrator may lack.

    Raises:
        PrivilegeRequired: the administrator lacks it. The error names the statement.
    """
    try:
        with translated(), connection.begin_nested():
            run(connection, statement)
    except PrivilegeRequired as error:
        raise PrivilegeRequired(
            f"{statement} ({error.operation}); run it as a role that may, then provision again"
        ) from error


def _access(connection: Connection, roles: Roles) -> Iterator[str]:
    """Let the roles connect, and let the migrator act as the keeper."""
    named = roles.to_dict()
    if not _may_act_as(connection, named["migrator"], named["keeper"]):
        yield let_act_as(connection, named["migrator"], named["keeper"])
    database = connection.execute(text("SELECT current_database()")).scalar_one()
    for purpose, name in named.items():
        asked = {"role": name, "database": database}
        if purpose not in _NO_LOGIN and not connection.execute(_CONNECTS, asked).scalar_one():
            yield f"GRANT CONNECT ON DATABASE {quoted(database)} TO {quoted(name)}"


_CONNECTS: Final = text("""
    SELECT CASE WHEN to_regrole(quote_ident(:role)) IS NULL THEN false
        ELSE has_database_privilege(:role, :database, 'CONNECT') END
""")


def _closed(connection: Connection, roles: Roles) -> Iterator[str]:
    """Revoke functions that block or end sessions from PUBLIC. Keeper and migrator keep two."""
    administrator: str = connection.execute(text("SELECT current_user")).scalar_one()
    public = connection.execute(OPEN_TO_PUBLIC).all()
    users = (roles.keeper, roles.migrator)
    lacking = [
        role
        for role in users
        if public
        or not connection.execute(_MAY_LOCK, {"role": role, "locks": list(_LOCKS)}).scalar_one()
    ]
    if not lacking:
        return
    # Without SET ROLE, a REVOKE by another role than the owner only warns.
    yield acting_as(connection.execute(_BUILTINS_OWNER).scalar_one())
    for row in public:
        yield f"REVOKE EXECUTE ON FUNCTION {row.function} FROM PUBLIC"
    for role in lacking:
        yield f"GRANT EXECUTE ON FUNCTION {', '.join(_LOCKS)} TO {quoted(role)}"
    yield acting_as(administrator)


# Their key spaces are apart. A tenant's id, which a caller chooses, is a key of the second.
_LOCKS: Final = (
    "pg_catalog.pg_advisory_xact_lock(bigint)",
    "pg_catalog.pg_advisory_xact_lock(integer, integer)",
)
_MAY_LOCK: Final = text("""
    SELECT to_regrole(quote_ident(:role)) IS NOT NULL
        AND (SELECT bool_and(has_function_privilege(:role, name, 'EXECUTE'))
             FROM unnest(CAST(:locks AS text[])) AS name)
""")
_BUILTINS_OWNER: Final = text(f"""
    SELECT pg_get_userbyid(proowner) FROM pg_proc WHERE oid = CAST('{_LOCKS[0]}' AS regprocedure)
""")  # noqa: S608
OPEN_TO_PUBLIC: Final = text("""
    SELECT format('pg_catalog.%I(%s)', proname, oidvectortypes(proargtypes)) AS function
    FROM pg_proc, aclexplode(coalesce(proacl, acldefault('f', proowner)))
    WHERE pronamespace = CAST('pg_catalog' AS regnamespace) AND grantee = 0
      AND (proname ~ '^pg_(try_)?advisory_(xact_)?lock'
          OR proname IN ('pg_terminate_backend', 'pg_cancel_backend'))
    ORDER BY 1
""")
"""Functions with which any role can block or end sessions of others."""


def let_act_as(connection: Connection, member: str, role: str) -> str:
    """Return the statement that lets *member* SET ROLE to *role*, without inheriting from it."""
    option = " WITH INHERIT FALSE, SET TRUE" if _has_options(connection) else ""
    return f"GRANT {quoted(role)} TO {quoted(member)}{option}"


def _may_act_as(connection: Connection, member: str, role: str) -> bool:
    # Before 16 a member may always act as the role. Since then a member with ADMIN alone may not.
    option = "SET" if _has_options(connection) else "MEMBER"
    asked = {"member": member, "role": role, "option": option}
    return bool(connection.execute(_HAS_ROLE, asked).scalar_one())


_HAS_ROLE: Final = text("""
    SELECT CASE
        WHEN to_regrole(quote_ident(:member)) IS NULL OR to_regrole(quote_ident(:role)) IS NULL
        THEN false ELSE pg_has_role(:member, :role, :option) END
""")


def _has_options(connection: Connection) -> bool:
    return _server_version(connection) >= _OPTIONS_SINCE


def _as_the_migrator(connection: Connection, roles: Roles, statements: list[str]) -> Iterator[str]:
    """Yield the statements to run as the migrator.

    An administrator that may not act as the migrator is made a member of it for their duration.
    """
    if not statements:
        return
    administrator: str = connection.execute(text("SELECT current_user")).scalar_one()
    lent = not _may_act_as(connection, administrator, roles.migrator)
    if lent:
        yield f"GRANT {quoted(roles.migrator)} TO {quoted(administrator)}"
    yield from statements
    yield acting_as(administrator)
    if lent:
        yield f"REVOKE {quoted(roles.migrator)} FROM {quoted(administrator)}"


def acting_as(role: str) -> str:
    """Return the statement to act as *role* until the transaction ends."""
    return f"SET LOCAL ROLE {quoted(role)}"


def act_as(connection: Connection, role: str) -> None:
    """Act as *role* until the transaction ends."""
    connection.execute(plain(acting_as(role)))


def _owners(connection: Connection, roles: Roles) -> Iterator[str]:
    """Give objects that a restore left to the administrator to their roles."""
    wrong = misowned(connection, roles)
    if not wrong:
        return
    administrator: str = connection.execute(text("SELECT current_user")).scalar_one()
    (keeper,) = roles.quoted("keeper")
    yield from (each.alter() for each in wrong if each.rightful == roles.migrator)
    # A function can be given only to a role that may create one.
    yield acting_as(roles.migrator)
    yield f"GRANT CREATE ON SCHEMA {SCHEMA} TO {keeper}"
    yield acting_as(administrator)
    yield from (each.alter() for each in wrong if each.rightful == roles.keeper)
    yield acting_as(roles.migrator)
    yield f"REVOKE CREATE ON SCHEMA {SCHEMA} FROM {keeper}"
    yield acting_as(administrator)


def _schemas(connection: Connection, roles: Roles) -> Iterator[str]:
    for schema in (SCHEMA, VERSION_SCHEMA):
        if connection.execute(_SCHEMA, {"schema": schema}).scalar_one() is None:
            yield f"CREATE SCHEMA {schema} AUTHORIZATION {quoted(roles.migrator)}"


_SCHEMA: Final = text("SELECT to_regnamespace(:schema)")


def _changes(before: Provision | None, record: Provision) -> Iterator[str]:
    if record != before:
        yield acting_as(record.roles.migrator)
        yield record.statement()


def _is_migrated(connection: Connection) -> bool:
    return bool(connection.execute(_MIGRATED).scalar_one())


_MIGRATED: Final = text(f"""
    SELECT EXISTS (
        SELECT FROM pg_class
        WHERE relnamespace = to_regnamespace('{SCHEMA}') AND relname = 'wallets')
""")  # noqa: S608


def _spender_changes(before: Provision | None, roles: Roles) -> Iterator[str]:
    """Change the spender's privileges in a migrated database. Otherwise migrations do so."""
    former = before.roles.spender if before else None
    if former != roles.spender:
        if former is not None and former not in roles.to_dict().values():
            yield from _disarmed(former, roles)
        if roles.spender is not None:
            yield from _armed(roles)


def _disarmed(spender: str, roles: Roles) -> Iterator[str]:
    """Revoke every privilege of the former spender."""
    for owner, objects in (
        (roles.keeper, "ALL FUNCTIONS IN SCHEMA"),
        (roles.migrator, "ALL TABLES IN SCHEMA"),
        (roles.migrator, "SCHEMA"),
    ):
        yield acting_as(owner)
        yield f"REVOKE ALL ON {objects} {SCHEMA} FROM {quoted(spender)}"


def _armed(roles: Roles) -> Iterator[str]:
    """Grant the spender its privileges."""
    for owner, privileges in (
        (roles.migrator, table_privileges(roles)),
        (roles.keeper, function_privileges(roles)),
    ):
        yield acting_as(owner)
        for privilege in privileges:
            if privilege.grantee == "spender":
                yield privilege.grant(roles)
