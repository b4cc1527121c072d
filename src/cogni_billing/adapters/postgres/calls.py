"""Calls of the database's functions, which are the only way in for a role that serves requests.

Each takes the tenant, the proof of a signed context, and JSON; and returns JSON.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from decimal import Decimal
from typing import Any, Final, TypeAlias

from attrs import frozen
from sqlalchemy import Connection

from cogni_billing.adapters.postgres.connections import run_in_transaction
from cogni_billing.adapters.postgres.contexts import Context
from cogni_billing.adapters.postgres.schema import SCHEMA
from cogni_billing.domain.errors import LedgerCorruption
from cogni_billing.domain.identity import TenantId

Execute: TypeAlias = Callable[[str, tuple[object, ...]], str]
"""Runs a statement with parameters as psycopg takes them, and returns its one value."""

# Amounts, moments and ids as text: PostgreSQL reads each by the type of its column.
_ENCODER: Final = json.JSONEncoder(separators=(",", ":"), default=str)


def decoded(told: str) -> Any:
    """An answer of a function, numbers exact.

    Raises:
        LedgerCorruption: it is not JSON that the library writes.
    """
    try:
        return json.loads(told, parse_float=Decimal)
    except (ValueError, RecursionError) as error:
        raise LedgerCorruption(f"a record cannot be read ({type(error).__name__})") from error


def encoded(asked: object) -> str:
    """*asked* as JSON."""
    return _ENCODER.encode(asked)


def written(asked: object) -> str:
    """*asked* as a function takes it: a list as an array of JSON, all else as JSON."""
    if not isinstance(asked, list):
        return encoded(asked)
    return "{" + ",".join(map(_quoted, map(encoded, asked))) + "}"


def _quoted(element: str) -> str:
    escaped = element.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


@frozen
class Calls:
    """Calls functions over one open connection."""

    execute: Execute
    context: Context
    repeated: bool = False
    """Whether the answer to an earlier try of the same call was lost."""

    def __call__(self, function: str, tenant: TenantId, *asked: object) -> Any:
        """The answer of *function* for *tenant*."""
        statement, parameters = statement_of(function, tenant, self.context, *asked)
        return decoded(self.execute(statement, parameters))


def statement_of(
    function: str, tenant: TenantId, context: Context, *asked: object
) -> tuple[str, tuple[object, ...]]:
    """The statement that calls *function*, and its parameters."""
    given = tuple(each if isinstance(each, bool) else written(each) for each in asked)
    places = ", %s" * len(given)
    statement = f"SELECT {SCHEMA}.{function}(%s, %s{places})"
    return statement, (tenant, context.proof(tenant), *given)


def calls_on(connection: Connection, context: Context) -> Calls:
    """Calls over a connection of SQLAlchemy's."""

    def execute(statement: str, parameters: tuple[object, ...]) -> str:
        return run_in_transaction(connection, statement, parameters, prepare=context.prepare)

    return Calls(execute, context)
