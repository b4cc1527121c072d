"""Every failure of the database as one of our errors; the only place that catches the driver's.

What a rule of the schema refuses is told by the rule's name, everything else by SQLSTATE.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from decimal import Decimal
from typing import Final

import psycopg
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from cogni_billing.domain.amounts import Amount, Unit
from cogni_billing.domain.errors import (
    BillingError,
    InsufficientCredits,
    LedgerCorruption,
    LedgerUnavailable,
    OutcomeUnknown,
    PrivilegeRequired,
    UnbalancedTransaction,
    shown,
)

SERIALIZATION_FAILURE: Final = "40001"
STATEMENT_COMPLETION_UNKNOWN: Final = "40003"
DEADLOCK_DETECTED: Final = "40P01"
INSUFFICIENT_PRIVILEGE: Final = "42501"
DISTURBED: Final = frozenset({SERIALIZATION_FAILURE, DEADLOCK_DETECTED})
"""Another transaction got in the way; doing the whole scope again helps."""

_STRANGE: Final = "the server or its schema is not what this version expects; run doctor"
_POOLED: Final = "a prepared statement was lost or met another; behind a pooler, prepare none"
_FOREIGN: Final = "a trigger or function that is not the library's refused it"

# The exact code first, then its class (the first two characters). All that PostgreSQL's appendix of
# error codes lists; a class that the library's statements cannot cause is strange.
_UNAVAILABLE: Final = {
    "08": "the connection failed",
    "25": "the transaction is not in a state to go on",
    "25006": "the database is read-only",
    "25P02": "an earlier failure aborted the transaction",
    "25P03": "the transaction was idle for too long",
    "26": _POOLED,
    "28": "the role may not log in",
    "3D000": "the database does not exist",
    "3F000": "the schema is missing; run provision and migrate",
    "40": "another transaction got in the way",
    "42": _STRANGE,
    "42P01": "a table is missing; run migrate",
    "42P05": _POOLED,
    "42883": "a function is missing; run migrate",
    "53": "the server is out of resources",
    "54": "a limit of the server was met",
    "55": "something was in use, or not ready",
    "55P03": "a lock was not free in time",
    "57": "the server stopped the work",
    "58": "the server's system failed",
    "72": "the snapshot is too old",
    "F0": "the server's configuration is broken",
    "P0": _FOREIGN,
    "XX": "the server failed within",
    **dict.fromkeys(("09", "27", "38", "39", "44"), _FOREIGN),
    **dict.fromkeys(("02", "03", "0A", "0B", "0F", "0L", "0P", "0Z", "10"), _STRANGE),
    **dict.fromkeys(("20", "21", "24", "2B", "2D", "2F", "34", "3B", "HV"), _STRANGE),
}
_CORRUPTION: Final = {
    "22": "the database refused a value that the library had checked",
    "23": "the database refused what the library had checked",
    "XX001": "the server reports corrupted data",
    "XX002": "the server reports a corrupted index",
}


@contextmanager
def translated() -> Iterator[None]:
    """Raise what the database raises inside as one of our errors."""
    try:
        yield
    except (SQLAlchemyError, psycopg.Error, UnicodeError) as error:
        raise translation(error) from error


def translation(error: Exception) -> BillingError:
    """*error* of SQLAlchemy or psycopg as one of ours."""
    cause = driver_error(error)
    if cause is None:
        # None was free in time, or it is closed, or it is set to an encoding other than UTF-8.
        return LedgerUnavailable(f"no usable connection ({type(error).__name__})")
    return _translated(cause)


def commit_translation(error: Exception) -> BillingError:
    """*error*, raised by COMMIT: the server refused it, or nobody knows what became of it."""
    cause = driver_error(error)
    if cause is None or not _refused(cause):
        sqlstate = None if cause is None else cause.sqlstate
        return OutcomeUnknown("the answer to COMMIT was lost", sqlstate)
    return _translated(cause)


def _refused(error: psycopg.Error) -> bool:
    """Whether COMMIT failed for certain. What ends a session or the server, such as a log that
    cannot be written or synced, may come after the commit record.
    """
    code, severity = error.sqlstate, error.diag.severity_nonlocalized
    return (
        code is not None
        and code[:2] not in {"08", "57"}
        and code != STATEMENT_COMPLETION_UNKNOWN
        and severity not in {"FATAL", "PANIC"}
    )


def driver_error(error: Exception) -> psycopg.Error | None:
    """The driver's error behind *error*, if it has one."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    return cause if isinstance(cause, psycopg.Error) else None


def is_privilege(error: DBAPIError) -> bool:
    """Whether it was refused because the role lacks a right."""
    cause = driver_error(error)
    return cause is not None and cause.sqlstate == INSUFFICIENT_PRIVILEGE


def is_refused_by(error: DBAPIError, rule: str) -> bool:
    """Whether that rule of the schema refused it."""
    cause = driver_error(error)
    return cause is not None and cause.diag.constraint_name == rule


def _translated(error: psycopg.Error) -> BillingError:
    sqlstate = error.sqlstate
    if sqlstate is None and isinstance(error, (psycopg.OperationalError, psycopg.InterfaceError)):
        # libpq says where it tried first, and what came of it last.
        said = str(error).rsplit(" failed: ", 1)[-1].partition("\n")[0]
        return LedgerUnavailable(f"the connection failed: {shown(said)}")
    rule = error.diag.constraint_name
    message = error.diag.message_primary or type(error).__name__
    if rule in _RULES:
        return _RULES[rule](message, error.diag.message_detail or "")
    if sqlstate is None:
        return LedgerUnavailable(f"an unclassified failure: {shown(str(error))}")
    if sqlstate == INSUFFICIENT_PRIVILEGE:
        return PrivilegeRequired(message)
    if reason := _found(_CORRUPTION, sqlstate):
        return LedgerCorruption(f"{reason}: {message}" + (f" ({rule})" if rule else ""))
    reason = _found(_UNAVAILABLE, sqlstate) or f"an unclassified failure: {message}"
    return LedgerUnavailable(reason, sqlstate)


def _unbalanced(message: str, _detail: str) -> UnbalancedTransaction:
    return UnbalancedTransaction(message)


def _append_only(message: str, _detail: str) -> PrivilegeRequired:
    return PrivilegeRequired(message)


def _insufficient(_message: str, detail: str) -> InsufficientCredits:
    facts = json.loads(detail)
    unit = Unit.of(facts["unit"])
    required, available = Decimal(facts["required"]), Decimal(facts["available"])
    return InsufficientCredits(Amount.computed(required, unit), Amount.computed(available, unit))


_RULES: Final[Mapping[str | None, Callable[[str, str], BillingError]]] = {
    "postings_sum_to_zero": _unbalanced,
    "postings_match_their_transaction": _unbalanced,
    "transactions_have_postings": _unbalanced,
    "purchases_claim_their_payment": _unbalanced,
    "payment_attempts_have_their_purchase": _unbalanced,
    "history_is_append_only": _append_only,
    "wallets_cover_what_is_taken": _insufficient,
}
"""What refusing by a rule of the schema means, by the rule's name; from message and detail."""


def _found(table: dict[str, str], sqlstate: str) -> str | None:
    return table.get(sqlstate) or table.get(sqlstate[:2])
