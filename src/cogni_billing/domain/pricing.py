"""What money buys. Every rounding rule of prices is here, in a function that names it."""

from __future__ import annotations

from decimal import Decimal
from typing import Final

from cogni_billing.domain.amounts import (
    CREDIT,
    MAGNITUDE_MAX,
    USD,
    USDC,
    Amount,
    Unit,
    decimal_places,
    exact_decimal,
    exact_sum,
    positive,
    product,
    rounded_up,
)
from cogni_billing.domain.errors import InvalidAmount, UnitMismatch, shown

CREDITS_PER_USD: Final = Decimal(10_000_000)
"""The protocol constant: one cent buys 100 000 credits."""

MARKUP_MAX: Final = 1_000_000
FACTOR_DECIMALS_MAX: Final = 12
COST_DECIMALS_MAX: Final = 24
"""Fine enough for a fraction of a cent for each of many tokens; a finer cost is refused."""

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


def charge_for(cost: Amount | Decimal, markup: Decimal) -> Amount:
    """The credits to charge for what cost *cost*: cost x *markup*, rounded up once, at the end.

    Args:
        cost: What the work cost the host: money in USD or USDC, or a `Decimal` of US dollars with
            at most 24 decimals, as a price per token makes. Zero or more.
        markup: What to multiply it by: from 0 to 1 000 000, at most 12 decimals.

    Raises:
        InvalidAmount: *cost* or *markup* breaks its rule.
        UnitMismatch: *cost* is not money.
    """
    factor = _factor(markup, "markup", MARKUP_MAX)
    return rounded_up(product(product(_dollars(cost), CREDITS_PER_USD), factor), CREDIT)


def margin_preserved(markup: Decimal, share: Decimal, fee: Decimal) -> bool:
    """Whether a purchase leaves the host a margin once all of its credits are spent.

    A dollar paid leaves 1 - *fee* after the payment provider's fee, and mints credits for
    1 + *share* dollars, which cost the host (1 + *share*) / *markup* when they are spent. The
    margin is what remains, so it is preserved when markup x (1 - fee) > 1 + share.

    Args:
        markup: What `charge_for` multiplies costs by.
        share: The sum of the bonus shares' rates, `Decimal("0.25")` being 25 %.
        fee: What the provider keeps of a payment, from 0 to 1.

    Raises:
        InvalidAmount: an argument is out of its range, or has more than 12 decimals.
    """
    factor = _factor(markup, "markup", MARKUP_MAX)
    minted = exact_sum(Decimal(1), _factor(share, "share", MARKUP_MAX))
    kept = exact_sum(Decimal(1), product(_factor(fee, "fee", 1), Decimal(-1)))
    return product(factor, kept) > minted


def _dollars(cost: object) -> Decimal:
    if isinstance(cost, Amount):
        given, dollars = shown(cost.value), product(cost.value, _worth(cost.unit, "cost"))
    else:
        exact = None if isinstance(cost, str) else exact_decimal(cost)
        if exact is None or decimal_places(exact) > COST_DECIMALS_MAX:
            expected = f"an Amount or exact Decimal with at most {COST_DECIMALS_MAX} decimals"
            raise InvalidAmount("cost", shown(cost), expected)
        given, dollars = shown(exact), exact
    if not 0 <= dollars <= MAGNITUDE_MAX:
        raise InvalidAmount("cost", given, "from 0 to 10^27")
    return dollars


def _factor(given: object, field: str, most: int) -> Decimal:
    exact = None if isinstance(given, str) else exact_decimal(given)
    if exact is None or not 0 <= exact <= most or decimal_places(exact) > FACTOR_DECIMALS_MAX:
        expected = f"an exact Decimal from 0 to {most} with at most {FACTOR_DECIMALS_MAX} decimals"
        raise InvalidAmount(field, shown(given), expected)
    return exact


def _worth(unit: Unit, field: str) -> Decimal:
    if unit not in _DOLLARS:
        raise UnitMismatch(field, str(unit), " or ".join(map(str, _DOLLARS)))
    return _DOLLARS[unit]
