"""Errors of the library for every failure of the database."""

from __future__ import annotations

from uuid import UUID

import psycopg
import pytest
from psycopg import errors
from psycopg.pq import DiagnosticField
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from cogni_billing import (
    BillingError,
    InvalidTenant,
    InvalidTime,
    LedgerCorruption,
    LedgerUnavailable,
    OutcomeUnknown,
    PrivilegeRequired,
    UnbalancedTransaction,
)
from cogni_billing.adapters.postgres.failures import _RULES, commit_translation, translation
from cogni_billing.domain.errors import given_twice

CLASSES: dict[str, type[BillingError]] = {
    "08000": LedgerUnavailable,
    "08006": LedgerUnavailable,
    "22001": LedgerCorruption,
    "22003": LedgerCorruption,
    "22021": LedgerCorruption,
    "22P02": LedgerCorruption,
    "22P05": LedgerUnavailable,
    "23502": LedgerCorruption,
    "23503": LedgerCorruption,
    "23505": LedgerCorruption,
    "23514": LedgerCorruption,
    "25006": LedgerUnavailable,
    "25P02": LedgerUnavailable,
    "25P03": LedgerUnavailable,
    "28000": LedgerUnavailable,
    "3D000": LedgerUnavailable,
    "3F000": LedgerUnavailable,
    "40001": LedgerUnavailable,
    "40P01": LedgerUnavailable,
    "42501": PrivilegeRequired,
    "42883": LedgerUnavailable,
    "42P01": LedgerUnavailable,
    "53100": LedgerUnavailable,
    "53200": LedgerUnavailable,
    "53300": LedgerUnavailable,
    "55P03": LedgerUnavailable,
    "57014": LedgerUnavailable,
    "57P01": LedgerUnavailable,
    "57P02": LedgerUnavailable,
    "57P03": LedgerUnavailable,
    "58030": LedgerUnavailable,
    "26000": LedgerUnavailable,
    "42P05": LedgerUnavailable,
    "42703": LedgerUnavailable,
    "54000": LedgerUnavailable,
    "P0001": LedgerUnavailable,
    "XX000": LedgerUnavailable,
    "XX001": LedgerCorruption,
    "XX002": LedgerCorruption,
}


def of_server(sqlstate: str, severity: str = "ERROR", **more: str) -> DBAPIError:
    """Build an error with the server's fields, by the driver's names."""
    said: dict[int, bytes | None] = {
        DiagnosticField[name.upper()]: text.encode()
        for name, text in {"severity_nonlocalized": severity, **more}.items()
    }
    return DBAPIError("SELECT", None, errors.lookup(sqlstate)("as the server says", info=said))


@pytest.mark.parametrize(("sqlstate", "expected"), CLASSES.items())
def test_a_code_of_the_server_is_classified(sqlstate: str, expected: type[BillingError]) -> None:
    error = translation(of_server(sqlstate))

    assert type(error) is expected
    assert "unclassified" not in str(error)


def known_codes() -> set[str]:
    """Return every code that the driver knows."""
    classes = (each for each in vars(errors).values() if isinstance(each, type))
    return {each.sqlstate for each in classes if issubclass(each, psycopg.Error) and each.sqlstate}


def test_every_code_that_the_server_has_is_classified() -> None:
    codes = known_codes()

    assert len(codes) > 200
    for code in codes:
        error = translation(of_server(code))
        assert "unclassified" not in str(error), code
        if isinstance(error, LedgerUnavailable):
            assert error.sqlstate == code


WRONG = "rule x is broken"
FAR = "2099-01-01T00:00:00Z, where the server has 2027-01-01T00:00:00Z"
TAKEN = f"id {UUID(int=7)} is taken"
TOLD_BY_RULE: dict[str, tuple[str, BillingError]] = {
    "postings_sum_to_zero": (WRONG, UnbalancedTransaction(WRONG)),
    "transactions_kind_known": (WRONG, UnbalancedTransaction(WRONG)),
    "amounts_are_whole_and_bounded": (WRONG, UnbalancedTransaction(WRONG)),
    "transactions_raise_or_lower": (WRONG, UnbalancedTransaction(WRONG)),
    "shares_are_complete": (WRONG, UnbalancedTransaction(WRONG)),
    "history_is_append_only": ("UPDATE", PrivilegeRequired("UPDATE")),
    "tenants_are_not_reserved": (
        WRONG,
        InvalidTenant("tenant", "a reserved id", "the id of a tenant"),
    ),
    "moments_are_near_the_servers": (
        FAR,
        InvalidTime(
            "clock",
            FAR,
            "a host's clock near the server's (synchronize them, or provision(clock_skew=...))",
        ),
    ),
    "ids_are_given_once": (TAKEN, given_twice(UUID(int=7))),
    "transactions_key_used_once": (
        WRONG,
        LedgerUnavailable("a concurrent transaction conflicted; call again", "40001"),
    ),
    "holds_key_used_once": (
        WRONG,
        LedgerUnavailable("a concurrent transaction conflicted; call again", "40001"),
    ),
    "hold_changes_key_used_once": (
        WRONG,
        LedgerUnavailable("a concurrent transaction conflicted; call again", "40001"),
    ),
    # The library's own calls cannot violate this rule.
    "grants_have_their_terms": (
        WRONG,
        LedgerCorruption(
            f"the database refused a row that the library had validated: {WRONG}"
            " (grants_have_their_terms)"
        ),
    ),
}


@pytest.mark.parametrize("rule", TOLD_BY_RULE)
def test_refusal_by_a_rule_of_the_schema_raises_its_error(rule: str) -> None:
    message, expected = TOLD_BY_RULE[rule]

    error = translation(of_server("23514", constraint_name=rule, message_primary=message))

    assert (type(error), str(error)) == (type(expected), str(expected))


def test_each_rule_that_has_an_error_of_its_own_is_tried() -> None:
    assert {*_RULES} < {*TOLD_BY_RULE}


def test_unknown_code_raises_unavailable() -> None:
    class FromTheFuture(psycopg.DatabaseError):
        sqlstate = "ZZ001"

    error = translation(DBAPIError("SELECT", None, FromTheFuture("as the server says")))

    assert isinstance(error, LedgerUnavailable)
    assert error.sqlstate == "ZZ001"
    assert "unclassified" in error.reason


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OperationalError("", None, psycopg.OperationalError("cut")), "the connection failed"),
        (psycopg.InterfaceError("closed"), "the connection failed"),
        (psycopg.ProgrammingError("invalid connection option"), "the driver refused the statement"),
        (PoolTimeout("full"), "no usable connection"),
    ],
)
def test_a_failure_on_this_side_is_classified(error: Exception, reason: str) -> None:
    found = translation(error)

    assert type(found) is LedgerUnavailable
    assert found.reason.startswith(reason)


@pytest.mark.parametrize(
    ("error", "sqlstate"),
    [
        (OperationalError("COMMIT", None, psycopg.OperationalError("cut")), None),
        (of_server("57P01"), "57P01"),
        (of_server("08006"), "08006"),
        (of_server("58030", "PANIC"), "58030"),  # the log could not be synced
        (of_server("XX000", "FATAL"), "XX000"),
        (of_server("57014", "FATAL"), "57014"),
        (of_server("40003"), "40003"),  # statement completion unknown
        (PoolTimeout("gone"), None),
    ],
)
def test_a_lost_answer_to_commit_is_an_unknown_outcome(
    error: Exception, sqlstate: str | None
) -> None:
    unknown = commit_translation(error)

    assert isinstance(unknown, OutcomeUnknown)
    assert (unknown.reason, unknown.sqlstate) == ("the answer to COMMIT was lost", sqlstate)


@pytest.mark.parametrize("sqlstate", ["40001", "53100", "57014"])
def test_a_commit_that_the_server_refused_is_not(sqlstate: str) -> None:
    assert type(commit_translation(of_server(sqlstate))) is LedgerUnavailable
