"""Errors match the tree in the docs, carry facts, and show given values in short."""

from __future__ import annotations

import pickle
import re
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import attrs
import pytest

from cogni_billing import (
    AccountFrozen,
    AccountInUse,
    AttemptClosed,
    BillingError,
    Difference,
    GrantClosed,
    HoldClosed,
    IdempotencyConflict,
    InstallationNotReady,
    InsufficientCredits,
    InvalidAmount,
    InvalidInput,
    LedgerCorruption,
    LedgerUnavailable,
    OthersRefused,
    OutcomeUnknown,
    PaymentAlreadyClaimed,
    PrivilegeRequired,
    RecipientTaken,
    RecordsRetained,
    RefundExceedsPayment,
    ReversalExceedsCharge,
    RunInProgress,
    ScopeClosed,
    SystemTenantMissing,
    UnbalancedTransaction,
    UnknownAccount,
    UnknownAttempt,
    UnknownCharge,
    UnknownDispute,
    UnknownGrant,
    UnknownHold,
    UnknownPayment,
    UnknownRefund,
    UnknownSchedule,
    VerifierFailed,
    credits,
    usd,
)
from cogni_billing.domain import errors
from cogni_billing.domain.errors import given_twice, shown, unknown_kind

NUMBER = UUID(int=7)
SAMPLES: list[tuple[BillingError, str]] = [
    (InvalidAmount("amount", "'x'", "a number"), "amount: expected a number, got 'x'"),
    (
        UnknownAccount(NUMBER),
        f"tenant {NUMBER} has no account; open one, or confirm a purchase first",
    ),
    (
        AccountFrozen(datetime(2026, 11, 23, tzinfo=UTC)),
        "the account is frozen since 2026-11-23 00:00:00+00:00; it can spend after `unfreeze`",
    ),
    (
        AccountInUse(NUMBER),
        f"tenant {NUMBER} has transactions already; correct the account by `adjust`",
    ),
    (InsufficientCredits(credits(5), credits(3)), "5 CREDIT required, 3 CREDIT available"),
    (
        InsufficientCredits(credits(5), credits(3), overdraft_limit=credits(1)),
        "5 CREDIT required, 3 CREDIT available, and an overdraft of at most 1 CREDIT",
    ),
    (
        IdempotencyConflict(
            "run-1", (Difference("amount", "1", "2"), Difference("target", "absent", "x"))
        ),
        "'run-1': amount was 1, now 2; target was absent, now x",
    ),
    (PaymentAlreadyClaimed("stripe:pi_1"), "payment 'stripe:pi_1' is already claimed"),
    (RecipientTaken("0x1"), "address '0x1' is of another intent; use a fresh one"),
    (UnknownPayment("stripe:pi_1"), "no payment 'stripe:pi_1' for this tenant"),
    (UnknownCharge("run-1"), "no charge 'run-1' for this tenant"),
    (
        ReversalExceedsCharge(credits(5), credits(3)),
        "5 CREDIT required, 3 CREDIT of the charge can still be given back",
    ),
    (
        RefundExceedsPayment(usd(5), usd(3)),
        "5.00 USD requested, 3.00 USD can still be refunded",
    ),
    (UnknownHold(NUMBER), f"no hold {NUMBER} for this tenant"),
    (HoldClosed(NUMBER, "released"), f"hold {NUMBER} is released"),
    (
        RunInProgress("run-1", NUMBER),
        "run 'run-1' has begun before; leave it alone, or use another reference once hold"
        f" {NUMBER} has ended",
    ),
    (UnknownGrant(NUMBER), f"no grant {NUMBER} for this tenant"),
    (
        GrantClosed(NUMBER, datetime(2026, 1, 1, tzinfo=UTC)),
        f"grant {NUMBER} ended at 2026-01-01 00:00:00+00:00; grant the credits anew",
    ),
    (UnknownSchedule(NUMBER), f"no schedule {NUMBER} for this tenant"),
    (
        UnknownDispute("dp_1", "stripe:pi_1"),
        "no dispute 'dp_1' of 'stripe:pi_1'; open it first",
    ),
    (UnknownRefund("re_1", "p"), "no refund 're_1' of 'p'; record it first"),
    (UnknownAttempt(NUMBER), f"no payment attempt {NUMBER} for this tenant"),
    (AttemptClosed(NUMBER, "CREDITED"), f"payment attempt {NUMBER} is CREDITED"),
    (
        VerifierFailed(NUMBER, "'ValueError: no'"),
        f"verifying payment attempt {NUMBER} failed: 'ValueError: no'",
    ),
    (
        OthersRefused(),
        "not recorded; fix the request of this tenant that was refused, and call again",
    ),
    (PrivilegeRequired("refund"), "not allowed: refund"),
    (
        RecordsRetained(datetime(2031, 1, 1, tzinfo=UTC)),
        "the retention rule keeps these records until 2031-01-01 00:00:00+00:00; erase them later",
    ),
    (UnbalancedTransaction("off", (credits(1),)), "off, 1 CREDIT"),
    (
        unknown_kind("gift"),
        "unknown transaction kind 'gift'; add its rules and handle it",
    ),
    (ScopeClosed("it has ended"), "the scope is closed: it has ended"),
    (
        SystemTenantMissing("no account"),
        "the system tenant is incomplete: no account",
    ),
    (
        InstallationNotReady("no role is a superuser", "app_user is one (fix: drop it)"),
        "no role is a superuser: app_user is one (fix: drop it)",
    ),
    (LedgerUnavailable("in the way", "40001"), "in the way [40001]"),
    (OutcomeUnknown("the answer was lost"), "the answer was lost"),
    (LedgerCorruption("off by one"), "off by one"),
    (given_twice(NUMBER), f"the id source gave {NUMBER} twice"),
]


def facts(error: Any) -> dict[str, Any]:
    return attrs.asdict(error, recurse=False)


def test_the_tree_in_the_docstring_is_the_tree() -> None:
    drawn: dict[str, str] = {}
    path: list[str] = ["BillingError"]
    for line in (errors.__doc__ or "").splitlines():
        if found := re.match(r"([\u2502 ]*)[\u251c\u2514]\u2500\u2500 (\w+)", line):
            depth = len(found[1]) // 4 + 1
            path[depth:] = [found[2]]
            drawn[found[2]] = path[depth - 1]

    defined = {
        item.__name__: item.__bases__[0].__name__
        for item in vars(errors).values()
        if isinstance(item, type) and issubclass(item, BillingError) and item is not BillingError
    }
    assert drawn == defined


def test_every_code_is_its_own_and_in_snake_case() -> None:
    classes = [
        item
        for item in vars(errors).values()
        if isinstance(item, type) and issubclass(item, BillingError)
    ]
    codes = [item.code for item in classes]

    assert len(set(codes)) == len(codes)
    for item in classes:
        assert item.code == re.sub(r"(?<!^)(?=[A-Z])", "_", item.__name__).lower()


@pytest.mark.parametrize(("error", "message"), SAMPLES, ids=lambda item: getattr(item, "code", ""))
def test_message_and_facts_survive_pickling(error: BillingError, message: str) -> None:
    copy = pickle.loads(pickle.dumps(error))

    assert str(error) == message
    assert type(copy) is type(error)
    assert str(copy) == message
    assert copy.args == error.args
    assert facts(copy) == facts(error)


def test_every_error_that_is_raised_has_a_sample() -> None:
    sampled = {type(error) for error, _ in SAMPLES}
    inputs = set(InvalidInput.__subclasses__()) | {InvalidInput}
    families = {BillingError} | inputs
    defined = {
        item
        for item in vars(errors).values()
        if isinstance(item, type) and issubclass(item, BillingError)
    }

    assert defined - families == sampled - inputs


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("a\n\x1b[31m\u202e", "'a\\n\\x1b[31m\\u202e'"),
        ("x" * 1_000_000, "'" + "x" * 60 + "..."),
        ("\ud800", "'\\ud800'"),
        (None, "None"),
        (True, "True"),
        (0.1, "0.1"),
        (Decimal("1E+1000000"), "Decimal('1E+1000000')"),
        (Decimal(1) / Decimal(3), "Decimal('0.3333333333333333333333333333')"),
        (10**100_000, "an int of 332193 bits"),
        (b"bytes", "a bytes"),
        ({"secret": "value"}, "a dict"),
        (type("caf\u00e9\n", (), {})(), "a caf\\xe9\\n"),
        (type("T" * 100, (), {})(), "a " + "T" * 59 + "..."),
        (NUMBER, "UUID('00000000-0000-0000-0000-000000000007')"),
    ],
    ids=shown,
)
def test_a_given_value_is_shown_escaped_and_short(given: object, expected: str) -> None:
    assert shown(given) == expected
    assert len(shown(given)) <= 64
