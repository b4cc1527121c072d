"""Money buys credits at the protocol's price, rounded up to a whole one."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cogni_billing import (
    USD,
    USDC,
    Amount,
    InvalidAmount,
    UnitMismatch,
    credits,
    credits_for,
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
def test_cents_are_those_of_integers(cents: int) -> None:
    assert int(credits_for(usd_cents(cents)).value) == -(-cents * 10_000_000 // 100)


@given(micros=st.integers(1, 10**27))
def test_micros_are_those_of_integers(micros: int) -> None:
    paid = Amount(f"{micros // 10**6}.{micros % 10**6:06}", USDC)

    assert int(credits_for(paid).value) == -(-micros * 10_000_000 // 1_000_000)


def test_credits_are_no_money() -> None:
    with pytest.raises(UnitMismatch) as caught:
        credits_for(credits(5))

    assert caught.value.expected == "USD or USDC"


@pytest.mark.parametrize("paid", [usd(0), usd(-1), Decimal(5), None])
def test_nothing_and_less_buy_nothing(paid: Amount) -> None:
    with pytest.raises(InvalidAmount):
        credits_for(paid)
