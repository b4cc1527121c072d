"""Every error can be shown, pickled and distinguished, for any given value."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

import cogni_billing
from cogni_billing import (
    SYSTEM_ACCOUNT_ID,
    BillingError,
    Difference,
    IdempotencyConflict,
    InvalidInput,
    LedgerUnavailable,
    PaymentAlreadyClaimed,
    RevenueSharePolicy,
    ShareMode,
    ShareRule,
    UnbalancedTransaction,
    UnknownPayment,
    allocate,
    credits,
    usd,
    usd_cents,
)
from cogni_billing.domain import errors
from cogni_billing.domain.errors import shown
from cogni_billing.domain.identity import reference, tenant_id
from cogni_billing.domain.metadata import frozen_metadata
from cogni_billing.domain.statements import page_request
from cogni_billing.domain.timestamps import utc
from cogni_billing.testing.base import NOON

INPUTS = [InvalidInput, *InvalidInput.__subclasses__()]
HOSTILE_TEXT = "\x1b[31m\u202e\ud800\n\0" * 20_000
HOSTILE: list[Any] = [
    HOSTILE_TEXT,
    "x" * 1_000_000,
    10**100_000,
    Decimal("1E+1000000"),
    Decimal("9" * 100_000),
    HOSTILE_TEXT.encode(errors="replace"),
    [HOSTILE_TEXT],
    float("nan"),
    1e308,
]
DOORS: dict[str, Callable[[Any], object]] = {
    "amount": usd,
    "cents": usd_cents,
    "weight": lambda given: allocate(credits(1), [given]),
    "total": lambda given: allocate(given, [1]),
    "rate": lambda given: ShareRule(SYSTEM_ACCOUNT_ID, given),
    "beneficiary": lambda given: ShareRule(given, Decimal(1)),
    "version": lambda given: RevenueSharePolicy(given, NOON, ShareMode.BONUS, ()),
    "effective_from": lambda given: RevenueSharePolicy("v", given, ShareMode.BONUS, ()),
    "mode": lambda given: RevenueSharePolicy("v", NOON, given, ()),
    "rules": lambda given: RevenueSharePolicy("v", NOON, ShareMode.BONUS, (given,)),
    "tenant": tenant_id,
    "reference": reference,
    "metadata": frozen_metadata,
    "moment": lambda given: utc(given, "clock"),
    "limit": lambda given: page_request(given, None),
    "cursor": lambda given: page_request(1, given),
}


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("given", HOSTILE, ids=lambda given: type(given).__name__)
def test_no_message_repeats_more_than_64_escaped_characters(door: str, given: Any) -> None:
    with pytest.raises(InvalidInput) as caught:
        DOORS[door](given)

    message = str(caught.value)
    assert len(caught.value.given) <= 64
    assert message == f"{caught.value.field}: expected {caught.value.expected}, got " + (
        caught.value.given
    )
    assert message.isascii()
    assert message.isprintable()
    assert len(message) <= 250


@given(st.text(max_size=200))
def test_text_is_shown_in_printable_ascii_of_at_most_64_characters(given: str) -> None:
    text = shown(given)

    assert text.isascii()
    assert text.isprintable()
    assert len(text) <= 64
    assert text == ascii(given) or text == ascii(given[:65])[:61] + "..."


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("x" * 62, "'" + "x" * 62 + "'"),
        ("x" * 63, "'" + "x" * 60 + "..."),
        (2**192 - 1, str(2**192 - 1)),
        (2**192, "an int of 193 bits"),
        (-(2**192), "an int of 193 bits"),
        (False, "False"),
        (float("nan"), "nan"),
        ([], "a list"),
        (datetime(2026, 1, 1), "a datetime"),
        (usd(1), "a Amount"),
    ],
    ids=str,
)
def test_a_long_value_is_cut_at_64_characters(given: object, expected: str) -> None:
    assert shown(given) == expected


@pytest.mark.parametrize("payment", ["x" * 255, "\\" * 255], ids=["long", "escaped"])
@pytest.mark.parametrize(
    "error",
    [PaymentAlreadyClaimed, UnknownPayment, lambda key: IdempotencyConflict(key, ())],
    ids=["claimed", "unknown", "conflict"],
)
def test_a_long_key_is_cut_in_the_message_and_whole_in_the_facts(
    error: Callable[[str], BillingError], payment: str
) -> None:
    made = error(payment)

    assert len(str(made)) <= len("payment  is already claimed") + 64
    assert payment in made.args


@pytest.mark.parametrize("kind", INPUTS, ids=lambda kind: kind.code)
def test_every_error_of_input_survives_pickling_and_copying(kind: type[InvalidInput]) -> None:
    error = kind("amount", "'x'", "a number")

    for made in (pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):
        assert type(made) is kind
        assert (made.field, made.given, made.expected) == ("amount", "'x'", "a number")
        assert str(made) == "amount: expected a number, got 'x'"


def test_a_conflict_survives_pickling_with_its_differences() -> None:
    error = IdempotencyConflict("run-1", (Difference("amount", "1", "2"),))

    made = pickle.loads(pickle.dumps(error))

    assert made.differences == (Difference("amount", "1", "2"),)


def test_every_error_is_an_exception_that_the_root_catches() -> None:
    assert issubclass(BillingError, Exception)
    assert BillingError in InvalidInput.__mro__
    assert BillingError.code == "billing_error"


def test_every_error_is_public() -> None:
    defined = {
        name
        for name, item in vars(errors).items()
        if isinstance(item, type) and issubclass(item, BillingError)
    }

    assert defined <= set(cogni_billing.__all__)


def test_an_unavailable_ledger_needs_no_code_of_the_database() -> None:
    assert LedgerUnavailable("no route").sqlstate is None
    assert str(LedgerUnavailable("no route")) == "no route"


def test_an_unbalanced_transaction_needs_no_excess() -> None:
    assert UnbalancedTransaction("not of its kind").excess == ()
    assert str(UnbalancedTransaction("not of its kind")) == "not of its kind"


def test_an_error_is_equal_to_itself_only_and_can_be_kept_in_a_set() -> None:
    first, second = UnknownPayment("p"), UnknownPayment("p")

    assert first != second
    assert len({first, second, first}) == 2


def test_an_error_keeps_its_cause() -> None:
    with pytest.raises(InvalidInput) as caught:
        RevenueSharePolicy("", NOON, ShareMode.BONUS, ())

    assert isinstance(caught.value.__cause__, InvalidInput)


def test_a_uuid_that_is_no_tenant_is_shown_whole() -> None:
    with pytest.raises(InvalidInput) as caught:
        tenant_id(UUID(int=0))

    assert caught.value.given == "UUID('00000000-0000-0000-0000-000000000000')"
