"""Units of currencies, amounts of money, and price books."""

from __future__ import annotations

import copy
import pickle
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cogni_billing import (
    CREDIT,
    USD,
    Amount,
    InvalidAmount,
    InvalidPrices,
    PriceBook,
    PriceBooks,
    Unit,
    UnitMismatch,
    credits,
    money,
    usd,
)
from cogni_billing.domain.amounts import from_quanta, parsed
from cogni_billing.domain.prices import Price, bought_by
from cogni_billing.testing.base import NOON

BOOK = PriceBook("v1", NOON, {"EUR": "10800000.5", "USDC": 9_000_000})
EUR = Unit("EUR", 2)


@pytest.mark.parametrize(
    ("code", "scale"),
    [("EUR", 2), ("JPY", 0), ("KWD", 3), ("CLF", 4), ("USD", 2), ("USDC", 6), ("CREDIT", 0)],
)
def test_a_unit_has_the_scale_of_its_currency(code: str, scale: int) -> None:
    unit = Unit(code, scale)

    assert (unit.code, unit.scale, str(unit), repr(unit)) == (code, scale, code, code)
    assert unit.quantum == Decimal(1).scaleb(-scale)
    for same in (Unit.of(code), pickle.loads(pickle.dumps(unit)), copy.deepcopy(unit)):
        assert same is unit


@pytest.mark.parametrize(
    ("code", "scale", "field", "expected"),
    [
        ("EUR", 3, "scale", "2 for EUR"),
        ("JPY", False, "scale", "0 for JPY"),
        ("EUR", "2", "scale", "2 for EUR"),
        ("eur", 2, "unit", "CREDIT, USD, USDC, or the code of a currency in ISO 4217"),
        ("XAU", 0, "unit", "CREDIT, USD, USDC, or the code of a currency in ISO 4217"),
        ("DEM", 2, "unit", "CREDIT, USD, USDC, or the code of a currency in ISO 4217"),
        (None, 2, "unit", "CREDIT, USD, USDC, or the code of a currency in ISO 4217"),
        ([], 2, "unit", "CREDIT, USD, USDC, or the code of a currency in ISO 4217"),
    ],
)
def test_a_unit_that_is_no_currency_is_refused(
    code: Any, scale: Any, field: str, expected: str
) -> None:
    with pytest.raises(UnitMismatch) as caught:
        Unit(code, scale)

    assert (caught.value.field, caught.value.expected) == (field, expected)


def test_a_unit_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        EUR.scale = 3


def test_a_recorded_unit_may_have_left_the_list() -> None:
    unit = Unit.recorded("DEM", 2)

    assert unit is Unit.recorded("DEM", 2)
    assert parsed("12.34 DEM") == Amount("12.34", unit)
    assert pickle.loads(pickle.dumps(unit)) is unit
    assert Unit.recorded("USD", 7) is USD


def test_money_is_exact_in_its_currency() -> None:
    assert money("12.34", "EUR") == Amount("12.34", EUR)
    assert str(money(Decimal("0.5"), "KWD")) == "0.500 KWD"
    assert money(7, Unit.of("JPY")).value == 7
    assert money("1.00", "USD") == usd("1.00")


@pytest.mark.parametrize(
    ("value", "currency", "error"),
    [
        ("12.345", "EUR", InvalidAmount),
        ("0.5", "JPY", InvalidAmount),
        (0.5, "EUR", InvalidAmount),
        ("5", "CREDIT", UnitMismatch),
        ("5", CREDIT, UnitMismatch),
        ("5", "EURO", UnitMismatch),
        ("5", 978, UnitMismatch),
    ],
)
def test_money_of_no_currency_or_too_fine_is_refused(
    value: Any, currency: Any, error: type[Exception]
) -> None:
    with pytest.raises(error):
        money(value, currency)


def test_amounts_of_two_currencies_never_meet() -> None:
    with pytest.raises(UnitMismatch):
        money("1.00", "EUR") + usd("1.00")


@given(cents=st.integers(1, 10**29), rate=st.decimals("0.000000000001", 10**10, places=12))
@pytest.mark.usefixtures("hostile_context")
def test_the_credits_of_a_price_are_rounded_up(cents: int, rate: Decimal) -> None:
    numerator, denominator = rate.as_integer_ratio()

    bought = Price("v1", EUR, rate).buys(from_quanta(cents, EUR))

    assert int(bought.value) == -(-cents * numerator // (100 * denominator))


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"version": "two words"}, "version"),
        ({"version": None}, "version"),
        ({"effective_from": NOON.replace(tzinfo=None)}, "effective_from"),
        ({"effective_from": "2026-11-23"}, "effective_from"),
        ({"rates": {}}, "rates"),
        ({"rates": [("EUR", 1)]}, "rates"),
        ({"rates": {"EURO": 1}}, "rates"),
        ({"rates": {7: 1}}, "rates"),
        ({"rates": {"CREDIT": 1}}, "rates"),
        ({"rates": {"EUR": 0}}, "rates"),
        ({"rates": {"EUR": -1}}, "rates"),
        ({"rates": {"EUR": 0.5}}, "rates"),
        ({"rates": {"EUR": "1e3"}}, "rates"),
        ({"rates": {"EUR": 10**11}}, "rates"),
        ({"rates": {"EUR": "0.0000000000001"}}, "rates"),
        ({"rates": {"EUR": 1, EUR: 1}}, "rates"),
    ],
    ids=str,
)
def test_an_invalid_book_names_the_field(changed: dict[str, Any], field: str) -> None:
    given: dict[str, Any] = {"version": "v1", "effective_from": NOON, "rates": {"EUR": 1}}

    with pytest.raises(InvalidPrices) as caught:
        PriceBook(**given | changed)

    assert (caught.value.code, caught.value.field) == ("invalid_prices", field)


def test_a_book_keeps_its_rates_when_the_caller_changes_them() -> None:
    rates = {"EUR": 5}
    book = PriceBook("v1", NOON, rates)
    rates["EUR"] = 6

    assert book.rates == {EUR: 5}
    with pytest.raises(TypeError):
        book.rates[EUR] = Decimal(6)  # type: ignore[index]


@pytest.mark.parametrize(
    ("books", "field"),
    [
        ((), "books"),
        (BOOK, "books"),
        ((BOOK, None), "books"),
        ((BOOK, BOOK), "effective_from"),
        ((BOOK, PriceBook("v2", NOON - timedelta(1), {"EUR": 1})), "effective_from"),
        ((BOOK, PriceBook("v1", NOON + timedelta(1), {"EUR": 1})), "version"),
    ],
)
def test_books_out_of_order_are_refused(books: Any, field: str) -> None:
    with pytest.raises(InvalidPrices) as caught:
        PriceBooks(books)

    assert caught.value.field == field


def test_a_recorded_price_is_read_as_it_was() -> None:
    price = BOOK.price_of(EUR, NOON)

    assert price is not None
    written = price.to_dict()
    assert written == {"version": "v1", "currency": "EUR", "scale": 2, "credits": "10800000.5"}
    assert Price.from_dict(written) == price
    assert bought_by(money("0.01", "EUR"), {"price": written}) == credits(108_001)
    assert bought_by(usd("0.01"), {}) == credits(100_000)


@pytest.mark.parametrize(
    "changed",
    [{"version": 1}, {"scale": "2"}, {"credits": "0"}, {"credits": 5}, {"currency": None}],
)
def test_a_recorded_price_that_is_invalid_is_refused(changed: dict[str, Any]) -> None:
    written = Price("v1", EUR, Decimal(1)).to_dict()

    with pytest.raises(InvalidPrices):
        Price.from_dict(written | changed)


def test_a_price_of_another_currency_buys_nothing() -> None:
    with pytest.raises(UnitMismatch):
        Price("v1", EUR, Decimal(1)).buys(usd("1.00"))
