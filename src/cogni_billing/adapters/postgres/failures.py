"""Translate every failure of the database to an error of the library.

No other module catches the driver's exceptions. A refusal by a rule of the database is recognized
by the rule's name, any other failure by its SQLSTATE.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Final
from uuid import UUID

import psycopg
from sqlalchemy.exc import DBAPIError, SQLAlchemyError, StatementError

from cogni_billing.adapters.postgres.schema import SCHEMA
from cogni_billing.adapters.rights import minting_refused
from cogni_billing.domain.errors import (
    BillingError,
    InvalidTenant,
    InvalidTime,
    LedgerCorruption,
    LedgerUnavailable,
    OutcomeUnknown,
    PrivilegeRequired,
    UnbalancedTransaction,
    given_twice,
    shown,
)

SERIALIZATION_FAILURE: Final = "40001"
STATEMENT_COMPLETION_UNKNOWN: Final = "40003"
DEADLOCK_DETECTED: Final = "40P01"
INSUFFICIENT_PRIVILEGE: Final = "42501"
READ_ONLY: Final = "25006"
QUERY_CANCELED: Final = "57014"
DISTURBED: Final = frozenset({SERIALIZATION_FAILURE, DEADLOCK_DETECTED})
"""A concurrent transaction conflicted. A retry of the whole scope helps."""


def is_lost(error: LedgerUnavailable) -> bool:
    """True if the connection was lost, or its server stopped serving. A new connection may help."""
    code = error.sqlstate
    return code is None or code[:2] == "08" or code in _LOST


_IDLE_SESSION_TIMEOUT: Final = "57P05"
_LOST: Final = frozenset({"57P01", "57P02", "57P03", _IDLE_SESSION_TIMEOUT, READ_ONLY})

_STRANGE: Final = "the server or its schema differs from this version's; run doctor"
_POOLED: Final = "a prepared statement is missing or exists already; set prepare_threshold to None"
_FOREIGN: Final = (
    "a trigger or function that is not the library's refused the statement; run doctor"
)

# The exact code is looked up first, then its class (the first two characters). The table covers
# PostgreSQL's appendix of error codes. Classes that the library cannot cause map to _STRANGE.
_UNAVAILABLE: Final = {
    "08": "the connection failed",
    "22P05": "the connection's encoding lacks a character; set client_encoding to utf8",
    "25": "the state of the transaction does not allow the statement",
    "25006": "the database or the transaction is read-only; use the primary server, and set"
    " default_transaction_read_only to off",
    "25P02": "an earlier failure aborted the transaction",
    "25P03": "the transaction was idle for longer than idle_in_transaction_session_timeout",
    "26": _POOLED,
    "28": "the role may not log in",
    "3D000": "the database does not exist",
    "3F000": "the schema is missing; run provision and migrate",
    "40": "a concurrent transaction conflicted; call again",
    "42": _STRANGE,
    "42P01": "a table is missing; run migrate",
    "42P05": _POOLED,
    "42883": "a function is missing; run migrate",
    "53": "the server is out of resources",
    "54": "the statement exceeded a limit of the server",
    "55": "an object was in use or not ready; call again",
    "55P03": "a lock was not free within lock_timeout",
    "57": "the server ended the session or the statement",
    "57014": "the statement was cancelled; raise statement_timeout if it is too short",
    "58": "the server's operating system failed",
    "72": "the snapshot is too old",
    "F0": "the server's configuration is broken",
    "P0": _FOREIGN,
    "XX": "the server had an internal error",
    **dict.fromkeys(("09", "27", "38", "39", "44"), _FOREIGN),
    **dict.fromkeys(("02", "03", "0A", "0B", "0F", "0L", "0P", "0Z", "10"), _STRANGE),
    **dict.fromkeys(("20", "21", "24", "2B", "2D", "2F", "34", "3B", "HV"), _STRANGE),
}
_MINTING: Final = frozenset(
    {"mint", "mint_groups", "void_grant", "extend_grant", "schedule", "end_schedule"}
    | {"create_attempt", "record_attempt", "begin_check"}
)
_UNMIGRATED: Final = (
    "the schema is not migrated, or this role does not serve it; run migrate as the migrator, and"
    " connect as a role that provision made"
)
_CORRUPTION: Final = {
    "22": "the database refused a value that the library had validated",
    "23": "the database refused a row that the library had validated",
    "XX001": "the server reports corrupted data",
    "XX002": "the server reports a corrupted index",
}


@contextmanager
def translated() -> Iterator[None]:
    """Translate errors of the database inside the block."""
    try:
        yield
    except (SQLAlchemyError, psycopg.Error, UnicodeError) as error:
        raise translation(error) from error


@contextmanager
def connecting() -> Iterator[None]:
    """Translate errors of connecting.

    On the first connection SQLAlchemy reads the server's version as text in a tuple. It raises an
    error of Python if an encoding or a row factory returns another type.
    """
    try:
        with translated():
            yield
    except (TypeError, AssertionError) as error:
        raise LedgerUnavailable(
            f"the engine cannot connect ({type(error).__name__}: {shown(str(error))}); set"
            " client_encoding to utf8, and leave cursor_factory and row_factory at their defaults"
        ) from error


def translation(error: Exception) -> BillingError:
    """Translate *error* of SQLAlchemy or psycopg."""
    _hide_parameters(error)
    cause = driver_error(error)
    if cause is None:
        # The pool timed out or is closed, or the connection's encoding is not UTF-8.
        return LedgerUnavailable(f"no usable connection ({type(error).__name__})")
    return _translated(cause)


def commit_translation(error: Exception) -> BillingError:
    """Translate *error* of a COMMIT: the server refused it, or its outcome is unknown."""
    _hide_parameters(error)
    cause = driver_error(error)
    if cause is None or not _refused(cause):
        sqlstate = None if cause is None else cause.sqlstate
        return OutcomeUnknown("the answer to COMMIT was lost", sqlstate)
    return _translated(cause)


def _hide_parameters(error: Exception) -> None:
    """Remove the parameters from tracebacks: they contain metadata, proofs and keys."""
    if isinstance(error, StatementError):
        error.hide_parameters = True


def _refused(error: psycopg.Error) -> bool:
    """True if COMMIT failed for certain.

    An error that ends the session or the server may come after the commit record. An example is a
    log that cannot be synced.
    """
    code, severity = error.sqlstate, error.diag.severity_nonlocalized
    return (
        code is not None
        # A cancelled statement ended before the commit record.
        and (code[:2] not in {"08", "57"} or code == QUERY_CANCELED)
        and code != STATEMENT_COMPLETION_UNKNOWN
        and severity not in {"FATAL", "PANIC"}
    )


def driver_error(error: Exception) -> psycopg.Error | None:
    """Return the driver's error behind *error*, if it has one."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    return cause if isinstance(cause, psycopg.Error) else None


def overtaken() -> LedgerUnavailable:
    """Return the error that makes `run` retry the whole scope."""
    return LedgerUnavailable(
        "a concurrent transaction conflicted; call again", SERIALIZATION_FAILURE
    )


def _translated(error: psycopg.Error) -> BillingError:
    sqlstate = error.sqlstate
    if sqlstate is None and isinstance(error, (psycopg.OperationalError, psycopg.InterfaceError)):
        # libpq's message begins with the address and ends with the cause.
        said = str(error).rsplit(" failed: ", 1)[-1].partition("\n")[0]
        if "@" in said:
            said = "a name has an @; write an @ in the password as %40"
        return LedgerUnavailable(f"the connection failed: {shown(said)}")
    rule = error.diag.constraint_name
    message = error.diag.message_primary or type(error).__name__
    if rule in _RULES:
        return _RULES[rule](message, error.diag.message_detail or "")
    if sqlstate is None:
        return LedgerUnavailable(f"the driver refused the statement: {shown(str(error))}")
    if sqlstate == INSUFFICIENT_PRIVILEGE:
        return _forbidden(message)
    if sqlstate not in _UNAVAILABLE and (reason := _found(_CORRUPTION, sqlstate)):
        return LedgerCorruption(f"{reason}: {message}" + (f" ({rule})" if rule else ""))
    reason = _found(_UNAVAILABLE, sqlstate) or f"an unclassified failure: {message}"
    return LedgerUnavailable(reason, sqlstate)


def _forbidden(message: str) -> BillingError:
    # Only names are matched, because the other words are in the language of lc_messages.
    named = set(re.findall(r"\w+", message, re.ASCII))
    if SCHEMA in named:  # a migrated schema lets each serving role use it
        return LedgerUnavailable(_UNMIGRATED, INSUFFICIENT_PRIVILEGE)
    return minting_refused() if named & _MINTING else PrivilegeRequired(message)


def _unbalanced(message: str, _detail: str) -> UnbalancedTransaction:
    return UnbalancedTransaction(message)


def _append_only(message: str, _detail: str) -> PrivilegeRequired:
    return PrivilegeRequired(message)


def _reserved(_message: str, _detail: str) -> InvalidTenant:
    return InvalidTenant("tenant", "a reserved id", "the id of a tenant")


def _far_away(message: str, _detail: str) -> InvalidTime:
    remedy = "synchronize them, or provision(clock_skew=...)"
    return InvalidTime("clock", message, f"a host's clock near the server's ({remedy})")


def _overtaken(_message: str, _detail: str) -> LedgerUnavailable:
    return overtaken()


def _given_twice(message: str, _detail: str) -> LedgerCorruption:
    return given_twice(UUID(message.split()[1]))


_RULES: Final[Mapping[str | None, Callable[[str, str], BillingError]]] = {
    "postings_sum_to_zero": _unbalanced,
    "transactions_kind_known": _unbalanced,
    "amounts_are_whole_and_bounded": _unbalanced,
    "transactions_raise_or_lower": _unbalanced,
    "shares_are_complete": _unbalanced,
    "history_is_append_only": _append_only,
    "tenants_are_not_reserved": _reserved,
    "moments_are_near_the_servers": _far_away,
    "ids_are_given_once": _given_twice,
    "transactions_key_used_once": _overtaken,
    "holds_key_used_once": _overtaken,
    "hold_changes_key_used_once": _overtaken,
}
"""Errors for refusals by a rule of the database, by its name. Built from message and detail."""


def _found(table: dict[str, str], sqlstate: str) -> str | None:
    return table.get(sqlstate) or table.get(sqlstate[:2])
