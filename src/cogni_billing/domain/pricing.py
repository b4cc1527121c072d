"""Prices: the credits that money buys, and the rounding of each conversion."""

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
"""Enough for the price of one token. A finer cost is refused."""

_DOLLARS: Final = {USD: Decimal(1), USDC: Decimal(1)}
"""The value of one unit of money in US dollars. USDC is redeemed at par."""
PRICED: Final = "USD, USDC or a currency with a price"


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
    """Like `credits_for`, for an argument that the caller named *field*."""
    dollars = product(positive(paid, field).value, _worth(paid.unit, field, PRICED))
    return rounded_up(product(dollars, CREDITS_PER_USD), CREDIT)


def charge_for(cost: Amount | Decimal, markup: Decimal) -> Amount:
    """The credits to charge for a cost: cost x *markup*, rounded up once at the end (ceiling).

    Args:
        cost: The host's own cost of the work: money in USD or USDC, or a `Decimal` of US dollars
            with at most 24 decimals, for a price per token. Zero or more, at most 10^27.
        markup: The factor, from 0 to 1 000 000, with at most 12 decimals.

    Raises:
        InvalidAmount: *cost* or *markup* is invalid.
        UnitMismatch: *cost* is not money.
    """
    factor = _factor(markup, "markup", MARKUP_MAX)
    return rounded_up(product(product(_dollars(cost), CREDITS_PER_USD), factor), CREDIT)


def margin_preserved(markup: Decimal, share: Decimal, fee: Decimal) -> bool:
    """True if a purchase leaves the host a margin after all of its credits are spent.

    A paid dollar leaves 1 - *fee* after the payment provider's fee. It mints credits for 1 +
    *share* dollars, and serving them costs the host (1 + *share*) / *markup*. The margin is the
    difference, so it is positive if markup x (1 - fee) > 1 + share.

    Args:
        markup: The factor of `charge_for`, from 0 to 1 000 000.
        share: The sum of the bonus shares' rates, from 0 to 1 000 000: `Decimal("0.25")` is 25 %.
        fee: The provider's part of a payment, from 0 to 1.

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


def _factor(given: object, field: str, limit: int) -> Decimal:
    exact = None if isinstance(given, str) else exact_decimal(given)
    if exact is None or not 0 <= exact <= limit or decimal_places(exact) > FACTOR_DECIMALS_MAX:
        expected = f"an exact Decimal from 0 to {limit} with at most {FACTOR_DECIMALS_MAX} decimals"
        raise InvalidAmount(field, shown(given), expected)
    return exact


def _worth(unit: Unit, field: str, expected: str = "USD or USDC") -> Decimal:
    if unit not in _DOLLARS:
        raise UnitMismatch(field, str(unit), expected)
    return _DOLLARS[unit]
