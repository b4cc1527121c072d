"""Every failure of the database has a class of its own among our errors."""

from __future__ import annotations

import psycopg
import pytest
from psycopg import errors
from psycopg.pq import DiagnosticField
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from cogni_billing import (
    BillingError,
    InsufficientCredits,
    LedgerCorruption,
    LedgerUnavailable,
    OutcomeUnknown,
    PrivilegeRequired,
    UnbalancedTransaction,
    credits,
)
from cogni_billing.adapters.postgres.failures import commit_translation, translation

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
    """An error with what the server says of it, by the names that the driver has for it."""
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
    """Every code that the driver knows the server to have."""
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


WRONG = "postings of transaction 7 are not what it declares"


@pytest.mark.parametrize(
    ("rule", "message", "detail", "expected"),
    [
        ("postings_sum_to_zero", WRONG, "", UnbalancedTransaction(WRONG)),
        ("postings_match_their_transaction", WRONG, "", UnbalancedTransaction(WRONG)),
        ("transactions_have_postings", WRONG, "", UnbalancedTransaction(WRONG)),
        ("purchases_claim_their_payment", WRONG, "", UnbalancedTransaction(WRONG)),
        ("history_is_append_only", "UPDATE", "", PrivilegeRequired("UPDATE")),
        (
            "wallets_cover_what_is_taken",
            "more would be taken than is available",
            '{"unit": "CREDIT", "required": "5", "available": "-3"}',
            InsufficientCredits(credits(5), credits(-3)),
        ),
        (
            "grants_have_their_terms",  # nothing that the library does can break this one
            "grant 7 has no terms",
            "",
            LedgerCorruption(
                "the database refused what the library had checked: grant 7 has no terms"
                " (grants_have_their_terms)"
            ),
        ),
    ],
)
def test_what_a_rule_of_the_schema_refuses_is_told_by_the_rule(
    rule: str, message: str, detail: str, expected: BillingError
) -> None:
    error = translation(
        of_server("23514", constraint_name=rule, message_primary=message, message_detail=detail)
    )

    assert (type(error), str(error)) == (type(expected), str(expected))


def test_a_code_that_nobody_foresaw_is_unavailable_and_says_so() -> None:
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
        (psycopg.ProgrammingError("no placeholder"), "an unclassified failure"),
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


@pytest.mark.parametrize("sqlstate", ["40001", "53100"])
def test_a_commit_that_the_server_refused_is_not(sqlstate: str) -> None:
    assert type(commit_translation(of_server(sqlstate))) is LedgerUnavailable
