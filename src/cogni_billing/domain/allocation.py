"""Allocation: divides a total exactly, by the largest remainder method (Hamilton)."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

from cogni_billing.domain.amounts import (
    MAGNITUDE_MAX,
    Amount,
    amount_shown,
    decimal_places,
    exact_decimal,
    from_quanta,
    in_quanta,
)
from cogni_billing.domain.errors import InvalidAmount, shown

_WEIGHT_SCALE = 12


def allocate(total: Amount, weights: Sequence[Decimal | int]) -> tuple[Amount, ...]:
    """Divide *total* in proportion to *weights*. The parts sum exactly to *total*.

    Each part is its quota, rounded down to the unit's scale. The pieces that are left go one each
    to the largest remainders. Ties go to the earlier weight. A weight of zero gets zero.

    Args:
        total: The amount to divide, zero or more.
        weights: One for each part: zero or more, at most 10^27, with at most 12 decimals, not all
            zero.

    Raises:
        InvalidAmount: *total* or a weight is invalid, or all weights are zero.
    """
    if not isinstance(total, Amount) or total.is_negative:
        raise InvalidAmount("total", amount_shown(total), "an Amount of at least zero")
    if not isinstance(weights, Sequence):
        raise InvalidAmount("weights", shown(weights), "a sequence of exact numbers")
    shares = [_counted(weight, f"weights[{index}]") for index, weight in enumerate(weights)]
    whole = sum(shares)
    if whole == 0:
        raise InvalidAmount("weights", f"{len(shares)} weights of zero", "at least one above zero")
    pieces = in_quanta(total.value, total.unit.scale)
    quotas = [divmod(pieces * share, whole) for share in shares]
    left_over = pieces - sum(part for part, _ in quotas)
    by_remainder = sorted(range(len(quotas)), key=lambda index: -quotas[index][1])
    favoured = frozenset(by_remainder[:left_over])
    return tuple(
        from_quanta(part + (index in favoured), total.unit)
        for index, (part, _) in enumerate(quotas)
    )


def _counted(weight: object, field: str) -> int:
    value = None if isinstance(weight, str) else exact_decimal(weight)
    if value is None or not 0 <= value <= MAGNITUDE_MAX or decimal_places(value) > _WEIGHT_SCALE:
        raise InvalidAmount(
            field, shown(weight), "an exact number from 0 to 10^27 with at most 12 decimals"
        )
    return in_quanta(value, _WEIGHT_SCALE)
