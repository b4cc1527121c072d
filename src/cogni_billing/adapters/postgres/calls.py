"""Calls of the database's functions, the only access of a role that serves requests.

Each function takes the tenant, the proof of a signed context, and JSON. It returns JSON.
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
"""Runs a statement with parameters in psycopg's style, and returns its only value."""

# Writes amounts, moments and ids as text. PostgreSQL reads each by the type of its column.
_ENCODER: Final = json.JSONEncoder(separators=(",", ":"), default=str)


def decoded(told: str) -> Any:
    """Parse the answer of a function, with exact numbers.

    Raises:
        LedgerCorruption: the answer is no JSON that the library writes.
    """
    try:
        return json.loads(told, parse_float=Decimal)
    except (ValueError, RecursionError) as error:
        raise LedgerCorruption(
            f"the answer of a function cannot be read ({type(error).__name__})"
        ) from error


def encoded(asked: object) -> str:
    """Write *asked* as JSON."""
    return _ENCODER.encode(asked)


def written(asked: object) -> str:
    """Write *asked* as a function's argument: a list as an array of JSON, all else as JSON."""
    if not isinstance(asked, list):
        return encoded(asked)
    return "{" + ",".join(map(_quoted, map(encoded, asked))) + "}"


def _quoted(element: str) -> str:
    escaped = element.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


@frozen
class Calls:
    """Calls functions over an open connection."""

    execute: Execute
    context: Context
    repeated: bool = False
    """True if the answer to an earlier try of the same call was lost."""

    def __call__(self, function: str, tenant: TenantId, *asked: object) -> Any:
        """Call *function* for *tenant*, and return its answer."""
        statement, parameters = statement_of(function, tenant, self.context, *asked)
        return decoded(self.execute(statement, parameters))


def statement_of(
    function: str, tenant: TenantId, context: Context, *asked: object
) -> tuple[str, tuple[object, ...]]:
    """Build the statement that calls *function*, and its parameters."""
    given = tuple(each if isinstance(each, bool) else written(each) for each in asked)
    places = ", %s" * len(given)
    statement = f"SELECT {SCHEMA}.{function}(%s, %s{places})"
    return statement, (tenant, context.proof(tenant), *given)


def calls_on(connection: Connection, context: Context) -> Calls:
    """Build calls over a connection of SQLAlchemy's."""

    def execute(statement: str, parameters: tuple[object, ...]) -> str:
        return run_in_transaction(connection, statement, parameters, prepare=context.prepare)

    return Calls(execute, context)
