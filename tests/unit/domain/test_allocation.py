"""Allocation is exact, and ties are decided the same way each time."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cogni_billing import Amount, InvalidAmount, allocate, credits, usd

WEIGHTS = st.lists(
    st.one_of(st.integers(0, 10**9), st.decimals(0, 1000, places=12)), min_size=1, max_size=8
).filter(any)


@pytest.mark.parametrize(
    ("total", "weights", "parts"),
    [
        (10, [1, 1, 1], [4, 3, 3]),
        (11, [1, 1, 1], [4, 4, 3]),
        (1, [1, 1], [1, 0]),
        (0, [1, 2], [0, 0]),
        (100, [0, 1, 0], [0, 100, 0]),
        (5, [1], [5]),
        (3, [1, 3, 3], [1, 1, 1]),
        (4, [1, 3, 3], [0, 2, 2]),  # a larger total can give a smaller part
        (7, [Decimal("0.5"), Decimal("0.25"), Decimal("0.25")], [3, 2, 2]),
        (2, [Decimal("0.000000000001"), 1, 1], [0, 1, 1]),
        (100, [Decimal("0.333333333333")] * 3, [34, 33, 33]),
    ],
)
def test_remainders_go_to_the_largest_and_ties_to_the_earlier(
    total: int, weights: list[Decimal | int], parts: list[int]
) -> None:
    assert [int(part.value) for part in allocate(credits(total), weights)] == parts


def test_the_smallest_piece_is_that_of_the_unit() -> None:
    assert allocate(usd("0.05"), [1, 1]) == (usd("0.03"), usd("0.02"))


@given(total=st.integers(0, 10**27), weights=WEIGHTS)
def test_parts_sum_to_the_total_and_differ_from_their_quota_by_less_than_a_piece(
    total: int, weights: Sequence[Decimal | int]
) -> None:
    parts = [int(part.value) for part in allocate(credits(total), weights)]

    whole = sum(map(Fraction, weights))
    assert sum(parts) == total
    for part, weight in zip(parts, weights, strict=True):
        quota = Fraction(weight) / whole * total
        assert abs(part - quota) < 1
        assert part == 0 or weight != 0


@pytest.mark.parametrize(
    "weights",
    [
        [],
        [0],
        [0, Decimal(0)],
        [-1, 2],
        [True],
        [0.5],
        ["1"],
        "12",
        [None],
        [Decimal("NaN")],
        [Decimal("Infinity")],
        [Decimal("0.0000000000001")],
        [Decimal("1E+1000000")],
        [10**28],
    ],
)
def test_invalid_weights_are_refused(weights: Sequence[Decimal]) -> None:
    with pytest.raises(InvalidAmount) as caught:
        allocate(credits(1), weights)

    assert caught.value.field.startswith("weights")


@pytest.mark.parametrize("weights", [None, 3, {1, 2}, iter([1, 2])])
def test_weights_that_are_no_sequence_are_refused(weights: list[int]) -> None:
    with pytest.raises(InvalidAmount) as caught:
        allocate(credits(1), weights)

    assert caught.value.field == "weights"


@pytest.mark.parametrize("total", [credits(-1), 5, None])
def test_a_negative_or_foreign_total_is_refused(total: Amount) -> None:
    with pytest.raises(InvalidAmount) as caught:
        allocate(total, [1])

    assert caught.value.field == "total"
