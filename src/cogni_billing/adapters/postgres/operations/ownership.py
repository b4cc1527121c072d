"""Owners of schemas, tables, types and functions. A restore may have changed them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from attrs import frozen
from sqlalchemy import Connection, text

from cogni_billing.adapters.postgres.operations import definitions
from cogni_billing.adapters.postgres.operations.blueprint import TABLES
from cogni_billing.adapters.postgres.operations.roles import Roles, quoted
from cogni_billing.adapters.postgres.schema import SCHEMA, VERSION_SCHEMA


@frozen
class Misowned:
    """An object of the library that another role owns. `object` is spelled as in ALTER."""

    object: str
    owner: str
    rightful: str

    def alter(self) -> str:
        """Return the statement that gives the object to its role."""
        return f"ALTER {self.object} OWNER TO {quoted(self.rightful)}"


def misowned(connection: Connection, roles: Roles) -> list[Misowned]:
    """Return the objects that another role owns. Schemas come first, functions last."""
    connection.execute(_SPELLING)
    rows = connection.execute(_OWNERS, {"schemas": [SCHEMA, VERSION_SCHEMA]})
    owners = {row.object: row.owner for row in rows}
    return [
        Misowned(name, owners[name], rightful)
        for name, rightful in _rightful(roles)
        if owners.get(name, rightful) != rightful
    ]


def _rightful(roles: Roles) -> Iterator[tuple[str, str]]:
    """Yield each object with its owner. A function of another signature is not the library's."""
    for schema in (SCHEMA, VERSION_SCHEMA):
        yield f"SCHEMA {schema}", roles.migrator
    for table in (*(f"{SCHEMA}.{name}" for name in TABLES), f"{VERSION_SCHEMA}.alembic_version"):
        yield f"TABLE {table}", roles.migrator
    yield f"TYPE {SCHEMA}.movement", roles.migrator
    for function in sorted(definitions.expected("function")):
        yield f"FUNCTION {SCHEMA}.{function.signature()}", roles.keeper


# The catalog spells types of arguments by the session's path.
_SPELLING: Final = text("SET LOCAL search_path = pg_catalog, pg_temp")
_OWNERS: Final = text("""
    SELECT 'SCHEMA ' || nspname AS object, pg_get_userbyid(nspowner) AS owner
    FROM pg_namespace WHERE nspname = ANY (:schemas)
    UNION ALL
    SELECT format('%s %s.%s', CASE relkind WHEN 'c' THEN 'TYPE' ELSE 'TABLE' END, nspname, relname),
        pg_get_userbyid(relowner)
    FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
    WHERE nspname = ANY (:schemas) AND relkind IN ('r', 'p', 'c')
    UNION ALL
    SELECT format('FUNCTION %s."%s" (%s)', nspname, proname,
        pg_get_function_identity_arguments(pg_proc.oid)), pg_get_userbyid(proowner)
    FROM pg_proc JOIN pg_namespace ON pg_namespace.oid = pronamespace
    WHERE nspname = ANY (:schemas)
""")
