"""Money buys credits at the fixed price, rounded up to a whole credit."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cogni_billing import (
    USD,
    USDC,
    Amount,
    InvalidAmount,
    UnitMismatch,
    charge_for,
    credits,
    credits_for,
    margin_preserved,
    usd,
    usd_cents,
)


@pytest.mark.parametrize(
    ("paid", "expected"),
    [
        (usd("0.01"), 100_000),
        (usd("1"), 10_000_000),
        (usd("10.00"), 100_000_000),
        (Amount("0.000001", USDC), 10),
        (Amount("25.000001", USDC), 250_000_010),
        (Amount(10**27, USD), 10**34),
    ],
)
def test_a_dollar_buys_ten_million_credits(paid: Amount, expected: int) -> None:
    assert credits_for(paid) == Amount.computed(Decimal(expected), credits(0).unit)


@given(cents=st.integers(1, 10**29))
def test_credits_for_cents_match_integer_arithmetic(cents: int) -> None:
    assert int(credits_for(usd_cents(cents)).value) == -(-cents * 10_000_000 // 100)


@given(micros=st.integers(1, 10**27))
def test_credits_for_micros_match_integer_arithmetic(micros: int) -> None:
    paid = Amount(f"{micros // 10**6}.{micros % 10**6:06}", USDC)

    assert int(credits_for(paid).value) == -(-micros * 10_000_000 // 1_000_000)


def test_a_payment_in_credits_is_refused() -> None:
    with pytest.raises(UnitMismatch) as caught:
        credits_for(credits(5))

    assert caught.value.expected == "USD, USDC or a currency with a price"


@pytest.mark.parametrize("paid", [usd(0), usd(-1), Decimal(5), None])
def test_a_payment_of_zero_or_less_is_refused(paid: Amount) -> None:
    with pytest.raises(InvalidAmount):
        credits_for(paid)


@pytest.mark.parametrize(
    ("cost", "markup", "expected"),
    [
        (usd("0.01"), "1", 100_000),
        (usd("0.01"), "2.5", 250_000),
        (Decimal("0.00000555"), "2", 111),
        (Decimal("0.00000001"), "1", 1),
        (Decimal("0.000000000000000000000001"), "0.000000000001", 1),
        (Amount("0.000001", USDC), "1.05", 11),
        (Decimal(0), "2", 0),
        (usd(5), "0", 0),
    ],
)
def test_a_cost_is_marked_up_and_rounded_up_once(
    cost: Amount | Decimal, markup: str, expected: int
) -> None:
    assert charge_for(cost, Decimal(markup)) == credits(expected)


@given(
    cost=st.decimals(0, 10**27, places=24, allow_nan=False),
    markup=st.decimals(0, 10**6, places=12, allow_nan=False),
)
def test_a_charge_is_the_ceiling_of_the_exact_product(cost: Decimal, markup: Decimal) -> None:
    exact = Fraction(cost) * Fraction(markup) * 10_000_000

    assert int(charge_for(cost, markup).value) == -(-exact.numerator // exact.denominator)


@pytest.mark.parametrize(
    ("cost", "markup", "field"),
    [
        (usd(-1), "1", "cost"),
        (Decimal(-1), "1", "cost"),
        (Decimal("1E-25"), "1", "cost"),
        (Decimal(10**27) + 1, "1", "cost"),
        (Amount(10**27, USD) + usd(1), "1", "cost"),
        (0.5, "1", "cost"),
        ("0.5", "1", "cost"),
        (usd(1), "-1", "markup"),
        (usd(1), "1000001", "markup"),
        (usd(1), "1.0000000000001", "markup"),
        (usd(1), "NaN", "markup"),
    ],
)
def test_a_charge_out_of_bounds_is_refused(cost: Amount, markup: str, field: str) -> None:
    with pytest.raises(InvalidAmount) as caught:
        charge_for(cost, Decimal(markup))

    assert caught.value.field == field


def test_a_cost_in_credits_is_refused() -> None:
    with pytest.raises(UnitMismatch) as caught:
        charge_for(credits(5), Decimal(2))

    assert caught.value.field == "cost"


@pytest.mark.parametrize(
    ("markup", "share", "fee", "preserved"),
    [
        ("2.0", "0.25", "0.05", True),
        ("1.3", "0.25", "0.03", True),
        ("1.25", "0.25", "0", False),
        ("1.250000000001", "0.25", "0", True),
        ("1.3", "0.25", "0.05", False),
        ("100", "0", "1", False),
        ("1.1", "0", "0", True),
    ],
)
def test_a_margin_is_preserved_if_markup_less_fee_exceeds_the_minted_part(
    markup: str, share: str, fee: str, preserved: bool
) -> None:
    assert margin_preserved(Decimal(markup), Decimal(share), Decimal(fee)) is preserved


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ((Decimal(-1), Decimal(0), Decimal(0)), "markup"),
        ((Decimal(2), Decimal(-1), Decimal(0)), "share"),
        ((Decimal(2), Decimal(0), Decimal("1.1")), "fee"),
        ((Decimal(2), Decimal(0), 0.1), "fee"),
    ],
)
def test_margin_arguments_out_of_bounds_are_refused(
    arguments: tuple[Decimal, Decimal, Decimal], field: str
) -> None:
    with pytest.raises(InvalidAmount) as caught:
        margin_preserved(*arguments)

    assert caught.value.field == field
