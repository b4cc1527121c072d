"""Amounts are exact, bounded as arguments, and independent of the caller's decimal context."""

from __future__ import annotations

import operator as op
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal, Inexact
from enum import IntEnum
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cogni_billing import (
    CREDIT,
    USD,
    USDC,
    Amount,
    InvalidAmount,
    Unit,
    UnitMismatch,
    allocate,
    credits,
    credits_for,
    usd,
    usd_cents,
)
from cogni_billing.domain.amounts import (
    from_quanta,
    in_quanta,
    positive,
    product,
    rounded_down,
    rounded_up,
    total,
)
from cogni_billing.domain.errors import shown

HUGE = 10**27


class Level(IntEnum):
    ONE = 1


class Text(str):
    __slots__ = ()


BAD_NUMBERS: list[object] = [
    None,
    True,
    False,
    0.1,
    1.0,
    float("nan"),
    1 + 0j,
    b"1",
    [],
    Level.ONE,
    Text("1"),
    Decimal("NaN"),
    Decimal("-NaN"),
    Decimal("sNaN"),
    Decimal("Infinity"),
    Decimal("-Infinity"),
    Decimal("-0"),
    Decimal("-0.00"),
    Decimal("0.001"),
    Decimal("1.000"),
    Decimal("1E-3"),
    Decimal("1E+28"),
    Decimal("1E+1000000"),
    Decimal("1E-1000000"),
    HUGE + 1,
    -HUGE - 1,
    10**100_000,
    -(10**100_000),
    "",
    " ",
    "1 ",
    " 1",
    "+1",
    "-0",
    "-0.00",
    ".5",
    "5.",
    "1e5",
    "1E5",
    "1_000",
    "1,000",
    "0x10",
    "nan",
    "inf",
    "Infinity",
    "١٢",  # Arabic-Indic digits
    "１",  # a full-width digit  # noqa: RUF001
    "1.001",
    "1\n",
    "1\0",
    "--1",
    "1.2.3",
    "9" * 28,
    "9" * 1_000_000,
    "0" * 65,
]


@pytest.mark.parametrize("given", BAD_NUMBERS, ids=shown)
def test_an_inexact_amount_of_dollars_is_refused(given: Decimal) -> None:
    with pytest.raises(InvalidAmount) as caught:
        usd(given)

    assert caught.value.field == "amount"
    assert len(caught.value.given) <= 64


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (0, "0.00"),
        (-5, "-5.00"),
        ("10", "10.00"),
        ("10.5", "10.50"),
        ("-0.01", "-0.01"),
        ("007", "7.00"),
        (Decimal("1E+2"), "100.00"),
        (Decimal("0E+5"), "0.00"),
        (HUGE, f"{HUGE}.00"),
        (-HUGE, f"-{HUGE}.00"),
    ],
)
def test_an_amount_is_written_at_the_scale_of_its_unit(given: Decimal, expected: str) -> None:
    amount = Amount(given, USD)

    assert str(amount.value) == expected
    assert str(amount) == f"{expected} USD"
    assert eval(repr(amount), {"Amount": Amount, "USD": USD}) == amount


def test_units_have_their_scales() -> None:
    units = [(unit.code, unit.scale, str(unit.quantum)) for unit in (CREDIT, USD, USDC)]

    assert units == [("CREDIT", 0, "1"), ("USD", 2, "0.01"), ("USDC", 6, "0.000001")]
    assert Unit.of("USDC") is USDC
    assert repr(USD) == "USD"


@pytest.mark.parametrize("unit", ["USD", None, 2, Amount])
def test_a_unit_that_is_no_unit_is_refused(unit: Unit) -> None:
    with pytest.raises(UnitMismatch):
        Amount(1, unit)


def test_amounts_written_differently_are_equal() -> None:
    assert usd("10") == usd("10.00") == usd(Decimal("10.0")) == usd_cents(1000)
    assert hash(usd("10")) == hash(usd("10.00"))
    assert usd("10") != Amount("10", USDC)


@pytest.mark.parametrize("cents", [True, 1.0, "1", Decimal(1), None, 10**100_000], ids=shown)
def test_cents_that_are_no_int_are_refused(cents: int) -> None:
    with pytest.raises(InvalidAmount):
        usd_cents(cents)


def test_cents_are_bounded_like_every_amount() -> None:
    assert usd_cents(HUGE * 100).value == HUGE
    with pytest.raises(InvalidAmount):
        usd_cents(HUGE * 100 + 1)


@pytest.mark.parametrize(
    "operation",
    [
        lambda a, b: a + b,
        lambda a, b: a - b,
        lambda a, b: a < b,
        lambda a, b: a <= b,
        lambda a, b: a > b,
        lambda a, b: a >= b,
        lambda a, b: total([a, b], a.unit),
    ],
)
def test_operations_on_two_units_are_refused(operation: Callable[[Amount, Amount], object]) -> None:
    with pytest.raises(UnitMismatch):
        operation(usd(1), credits(1))


@given(a=st.integers(-HUGE, HUGE), b=st.integers(-HUGE, HUGE))
def test_arithmetic_is_that_of_integers(a: int, b: int) -> None:
    left, right = credits(a), credits(b)

    assert int((left + right).value) == a + b
    assert int((left - right).value) == a - b
    assert int((-left).value) == -a
    assert (left < right, left <= right, left > right, left >= right) == (
        a < b,
        a <= b,
        a > b,
        a >= b,
    )
    assert (left.is_zero, left.is_positive, left.is_negative) == (a == 0, a > 0, a < 0)


def test_there_is_no_negative_zero() -> None:
    assert str(-credits(0)) == "0 CREDIT"
    assert str(credits(5) - credits(5)) == "0 CREDIT"


def test_a_sum_above_the_bound_of_arguments_is_exact() -> None:
    assert (credits(HUGE) + credits(HUGE)).value == 2 * HUGE
    with pytest.raises(InvalidAmount):
        credits(2 * HUGE)


def test_a_total_of_no_amounts_is_zero() -> None:
    assert total([], USD) == usd(0)


@pytest.mark.parametrize("amount", [credits(0), credits(-1), 5, None, Decimal(1)])
def test_positive_refuses_amounts_not_above_zero(amount: Amount) -> None:
    with pytest.raises(InvalidAmount) as caught:
        positive(amount, "amount")
    assert caught.value.field == "amount"
    assert "greater than zero" in caught.value.expected


def test_a_product_is_exact_or_raises() -> None:
    wide = Decimal("1." + "1" * 60)

    assert product(Decimal("0.1"), Decimal("0.2")) == Decimal("0.02")
    with pytest.raises(Inexact):
        product(wide, wide)


@pytest.mark.parametrize(
    ("value", "down", "up"),
    [
        ("2.5", 2, 3),
        ("2.000000000001", 2, 3),
        ("2", 2, 2),
        ("0.999", 0, 1),
        ("-2.5", -3, -2),
    ],
)
def test_rounded_down_and_rounded_up_round_in_their_direction(
    value: str, down: int, up: int
) -> None:
    assert rounded_down(Decimal(value), CREDIT) == credits(down)
    assert rounded_up(Decimal(value), CREDIT) == credits(up)


def test_quanta_are_the_smallest_pieces() -> None:
    assert in_quanta(Decimal("1.25"), 2) == 125
    assert from_quanta(125, USD) == usd("1.25")
    with pytest.raises(Inexact):
        in_quanta(Decimal("1.255"), 2)


@pytest.mark.usefixtures("hostile_context")
class TestHostileContexts:
    def test_arithmetic_is_exact(self) -> None:
        large = Amount("123456789012345678901234567.89", USD)

        assert str((large + usd("0.01")).value) == "123456789012345678901234567.90"
        assert str((-large).value) == "-123456789012345678901234567.89"
        assert large > usd("123456")
        assert str(total([large, -large, usd("0.07")], USD)) == "0.07 USD"

    def test_prices_and_allocations_are_exact(self) -> None:
        assert str(credits_for(usd("123456789.01"))) == "1234567890100000 CREDIT"
        assert [str(part) for part in allocate(credits(1234567), [1, 2, Decimal("3.5")])] == [
            "189933 CREDIT",
            "379867 CREDIT",
            "664767 CREDIT",
        ]

    def test_bad_numbers_are_refused_alike(self) -> None:
        for number in BAD_NUMBERS:
            with pytest.raises(InvalidAmount):
                usd(number)  # type: ignore[arg-type]

    def test_arithmetic_and_prices_are_exact_in_another_thread(self) -> None:
        with ThreadPoolExecutor(1) as thread:
            found = thread.submit(lambda: credits(HUGE) + credits(1)).result()

        assert found.value == HUGE + 1


@pytest.mark.parametrize("number", [0, 1, -5, 2**256 - 1, 2**256, -(10**99)])
def test_a_whole_number_makes_the_computed_amount(number: int) -> None:
    assert Amount.whole(number) == Amount.computed(Decimal(number), CREDIT)
    assert str(Amount.whole(number)) == str(Amount.computed(Decimal(number), CREDIT))


def test_a_whole_number_beyond_every_amount_is_refused() -> None:
    with pytest.raises(InvalidAmount):
        Amount.whole(10**100)


def test_a_sum_of_more_than_a_hundred_digits_is_refused_as_an_amount() -> None:
    largest = Amount.computed(Decimal("9" * 98 + ".99"), USD)

    with pytest.raises(InvalidAmount, match="100 digits"):
        largest + largest
    with pytest.raises(InvalidAmount, match="100 digits"):
        Amount.computed(Decimal(10**98), USD)


@pytest.mark.parametrize("operation", [op.add, op.sub, op.lt, op.le, op.gt, op.ge])
def test_an_amount_and_anything_else_do_not_mix(operation: Callable[[Any, Any], object]) -> None:
    for stranger in (1, "1", None, Decimal(1)):
        with pytest.raises(TypeError):
            operation(credits(1), stranger)
        with pytest.raises(TypeError):
            operation(stranger, credits(1))


@pytest.mark.parametrize("text", ["0E+27", "0E+28", "0E+1000000"])
def test_zeros_with_any_exponent_are_equal(text: str) -> None:
    assert credits(Decimal(text)) == credits(0)
