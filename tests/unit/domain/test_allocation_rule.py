"""Allocation matches the largest remainder method, computed with fractions."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cogni_billing import CREDIT, USDC, Amount, InvalidAmount, UnitMismatch, allocate, credits, usd

Weights = Sequence[Decimal | int]
WEIGHTS = st.lists(
    st.integers(0, 5) | st.integers(0, 10**27) | st.decimals(0, 1000, places=12),
    min_size=1,
    max_size=8,
).filter(any)


def by_fractions(pieces: int, weights: Weights) -> list[int]:
    """The method, as its definition states it."""
    whole = sum(map(Fraction, weights))
    quotas = [Fraction(weight) * pieces / whole for weight in weights]
    parts = [quota.numerator // quota.denominator for quota in quotas]
    while sum(parts) < pieces:
        largest = max(quota - part for quota, part in zip(quotas, parts, strict=True))
        first = next(i for i, quota in enumerate(quotas) if quota - parts[i] == largest)
        parts[first] += 1
    return parts


def whole_parts(total: Amount, weights: Weights) -> list[int]:
    return [int(part.value) for part in allocate(total, weights)]


@given(total=st.integers(0, 10**27), weights=WEIGHTS)
@example(total=4, weights=[1, 3, 3])
@example(total=10**27, weights=[10**27, 10**27, 1])
def test_parts_match_the_definition_of_the_method(total: int, weights: Weights) -> None:
    assert whole_parts(credits(total), weights) == by_fractions(total, weights)


@given(total=st.integers(0, 10**6), weights=WEIGHTS, factor=st.integers(1, 10**6))
def test_only_the_proportion_of_the_weights_counts(
    total: int, weights: Weights, factor: int
) -> None:
    small = [int(weight) % 1000 for weight in weights] + [1]

    assert allocate(credits(total), small) == allocate(
        credits(total), [weight * factor for weight in small]
    )


@given(cents=st.integers(0, 10**29), weights=WEIGHTS)
def test_money_is_divided_to_the_cent(cents: int, weights: Weights) -> None:
    parts = allocate(usd(f"{cents // 100}.{cents % 100:02}"), weights)

    assert [int(str(part.value).replace(".", "")) for part in parts] == by_fractions(cents, weights)


@pytest.mark.parametrize(
    ("total", "weights", "parts"),
    [
        (1, [1, 1, 1], [1, 0, 0]),
        (2, [1, 1, 1], [1, 1, 0]),
        (1, [0, 1, 1], [0, 1, 0]),
        (5, [3, 3, 3, 3], [2, 1, 1, 1]),
        (1, [1, 2], [0, 1]),
        (1, [2, 1], [1, 0]),
        (10, [1, 0, 1, 0, 1], [4, 0, 3, 0, 3]),
        (3, [Decimal("0.5"), Decimal("0.50"), 1], [1, 1, 1]),
        (7, [Decimal("1.5"), Decimal("1.5")], [4, 3]),
        (10, [Decimal("0.000000000001"), Decimal("0.000000000002")], [3, 7]),
        (10**27, [1, 10**27], [1, 10**27 - 1]),
        (3, [10**27, 0, 2 * 10**26], [3, 0, 0]),
        (6, [Decimal("1E+1"), Decimal("2E+1")], [2, 4]),
    ],
)
def test_ties_and_remainders_have_pinned_parts(
    total: int, weights: Weights, parts: list[int]
) -> None:
    assert whole_parts(credits(total), weights) == parts


def test_the_smallest_piece_of_usdc_is_a_millionth() -> None:
    assert allocate(Amount("0.000002", USDC), [1, 1, 1]) == (
        Amount("0.000001", USDC),
        Amount("0.000001", USDC),
        Amount("0", USDC),
    )


def test_a_computed_total_above_the_bound_is_allocated() -> None:
    total = Amount.computed(Decimal(10**34 + 1), CREDIT)

    assert [int(part.value) for part in allocate(total, [1, 1])] == [5 * 10**33 + 1, 5 * 10**33]


def test_a_tuple_and_a_list_of_weights_have_the_same_parts() -> None:
    assert allocate(credits(10), (1, 1, 1)) == (credits(4), credits(3), credits(3))


@pytest.mark.parametrize(
    ("weights", "field", "given"),
    [
        ([1, -1], "weights[1]", "-1"),
        ([1, 1, True], "weights[2]", "True"),
        ([Decimal("0.0000000000001")], "weights[0]", "Decimal('1E-13')"),
        ([10**27 + 1], "weights[0]", str(10**27 + 1)),
        ([Decimal("-0")], "weights[0]", "Decimal('-0')"),
        ([], "weights", "0 weights of zero"),
        ([0, 0, 0], "weights", "3 weights of zero"),
    ],
)
def test_a_refusal_names_the_weight(weights: Weights, field: str, given: str) -> None:
    with pytest.raises(InvalidAmount) as caught:
        allocate(credits(1), weights)

    assert (caught.value.field, caught.value.given) == (field, given)


def test_the_total_is_validated_before_the_weights() -> None:
    with pytest.raises(InvalidAmount) as caught:
        allocate(credits(-1), [])

    assert (caught.value.field, caught.value.given) == ("total", "-1 CREDIT")


def test_no_part_mixes_with_another_unit() -> None:
    part, _ = allocate(usd("0.03"), [1, 1])

    with pytest.raises(UnitMismatch):
        part + credits(1)
