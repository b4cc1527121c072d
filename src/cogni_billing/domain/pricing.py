"""What money buys. Every rounding rule of prices is here, in a function that names it."""

from __future__ import annotations

from decimal import Decimal
from typing import Final

from cogni_billing.domain.amounts import (
    CREDIT,
    USD,
    USDC,
    Amount,
    Unit,
    positive,
    product,
    rounded_up,
)
from cogni_billing.domain.errors import UnitMismatch

CREDITS_PER_USD: Final = Decimal(10_000_000)
"""The protocol constant: one cent buys 100 000 credits."""

_DOLLARS: Final = {USD: Decimal(1), USDC: Decimal(1)}
"""What one of each unit of money is worth in US dollars; USDC is redeemed at par."""


def credits_for(paid: Amount) -> Amount:
    """The credits that *paid* buys, in CREDIT, rounded up to a whole credit (ceiling).

    Args:
        paid: Money greater than zero, in USD or USDC (taken at par).

    Raises:
        InvalidAmount: *paid* is not an amount greater than zero.
        UnitMismatch: *paid* is not money.
    """
    return bought(paid, "paid")


def bought(paid: Amount, field: str) -> Amount:
    """`credits_for` an argument that its caller knows as *field*."""
    dollars = product(positive(paid, field).value, _worth(paid.unit, field))
    return rounded_up(product(dollars, CREDITS_PER_USD), CREDIT)


def _worth(unit: Unit, field: str) -> Decimal:
    if unit not in _DOLLARS:
        raise UnitMismatch(field, str(unit), " or ".join(map(str, _DOLLARS)))
    return _DOLLARS[unit]
