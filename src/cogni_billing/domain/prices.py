"""Price books: the credits that money buys in each currency, and the time from which they apply.

Without a price, a dollar buys the 10 000 000 credits of the protocol, and no other currency buys
any. The library never converts one currency to another.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping
from datetime import datetime
from decimal import Decimal
from types import MappingProxyType
from typing import Final, Self, TypeAlias

from attrs import field, frozen

from cogni_billing.domain.amounts import (
    CREDIT,
    Amount,
    Unit,
    decimal_places,
    exact_decimal,
    product,
    rounded_up,
)
from cogni_billing.domain.errors import (
    InvalidInput,
    InvalidPrices,
    UnitMismatch,
    shown,
)
from cogni_billing.domain.identity import reference
from cogni_billing.domain.metadata import Json, read_only
from cogni_billing.domain.policies import RevenueSharePolicy
from cogni_billing.domain.pricing import bought
from cogni_billing.domain.succession import in_succession
from cogni_billing.domain.timestamps import utc

RATE_MAX: Final = 10**11
RATE_DECIMALS_MAX: Final = 12
CURRENCIES_MAX: Final = 200
Rate: TypeAlias = Decimal | int | str
_FIELD: Final = "price"
"""The field of a recorded policy that has the price of the purchase."""


def _rate(given: object) -> Decimal:
    rate = exact_decimal(given)
    if rate is None or not 0 < rate < RATE_MAX or decimal_places(rate) > RATE_DECIMALS_MAX:
        expected = f"an exact Decimal above 0, below 10^11, at most {RATE_DECIMALS_MAX} decimals"
        raise InvalidPrices("rates", shown(given), expected)
    return rate


def _unit(given: str | Unit) -> Unit:
    try:
        unit = given if isinstance(given, Unit) else Unit.of(given)
    except UnitMismatch as error:
        raise InvalidPrices("rates", error.given, error.expected) from error
    if unit is CREDIT:
        raise InvalidPrices("rates", str(unit), "a currency")
    return unit


@frozen
class Price:
    """The credits that one unit of a currency buys, and the version of their price book."""

    version: str
    unit: Unit
    rate: Decimal

    def buys(self, paid: Amount) -> Amount:
        """The credits that *paid* buys, rounded up to a whole credit (ceiling).

        Raises:
            UnitMismatch: *paid* is in another unit than the price.
        """
        return rounded_up(product(paid.value_in(self.unit), self.rate), CREDIT)

    def to_dict(self) -> dict[str, Json]:
        """The fields, as a purchase records them."""
        return {
            "version": self.version,
            "currency": self.unit.code,
            "scale": self.unit.scale,
            "credits": format(self.rate, "f"),
        }

    @classmethod
    def from_dict(cls, given: object) -> Self:
        """Read the price that a purchase recorded.

        Raises:
            InvalidPrices: it is no price.
        """
        match given:
            case {
                "version": str(version),
                "currency": str(code),
                "scale": int(scale),
                "credits": str(rate),
            }:
                return cls(version, Unit.recorded(code, scale), _rate(rate))
        raise InvalidPrices(_FIELD, shown(given), "a version, currency, scale and credits")


def _version(given: str) -> str:
    try:
        return reference(given, "version")
    except InvalidInput as error:
        raise InvalidPrices(error.field, error.given, error.expected) from error


def _effective_from(given: datetime) -> datetime:
    try:
        return utc(given, "effective_from")
    except InvalidInput as error:
        raise InvalidPrices(error.field, error.given, error.expected) from error


def _rates(given: Mapping[str, Rate]) -> Mapping[Unit, Decimal]:
    if not isinstance(given, Mapping) or not 0 < len(given) <= CURRENCIES_MAX:
        expected = f"a mapping of 1 to {CURRENCIES_MAX} currencies to the credits of one unit"
        raise InvalidPrices("rates", shown(given), expected)
    rates = {_unit(code): _rate(rate) for code, rate in given.items()}
    if len(rates) < len(given):
        raise InvalidPrices("rates", "a currency twice", "one rate for each currency")
    return MappingProxyType(rates)


@frozen
class PriceBook:
    """The credits that one unit of each currency buys, from a moment on.

    A purchase records its price and the version of the book, so refunds and `verify` need no book.
    `USD` and `USDC` have the price of the protocol if the book does not name them.

    Args:
        version: 1 to 255 visible ASCII characters, recorded with each purchase.
        effective_from: Timezone-aware. Earlier purchases do not use the book.
        rates: The credits that one unit of a currency buys, by its code:
            `{"EUR": 10_800_000, "JPY": "65000.5"}`. Exact, above 0, below 10^11, with at most 12
            decimals. The credits of a purchase are rounded up to a whole credit (ceiling).

    Raises:
        InvalidPrices: an argument is invalid. The message names the field.
    """

    version: str = field(converter=_version)
    effective_from: datetime = field(converter=_effective_from)
    rates: Mapping[Unit, Decimal] = field(converter=_rates, hash=False)

    def price_of(self, unit: Unit, at: datetime) -> Price | None:
        """The price of *unit* at a moment. `None` if the book has none, or is not yet in force."""
        if at < self.effective_from or unit not in self.rates:
            return None
        return Price(self.version, unit, self.rates[unit])


def _in_succession(given: Iterable[PriceBook]) -> tuple[PriceBook, ...]:
    return in_succession(given, PriceBook, InvalidPrices, "books", "book")


@frozen
class PriceBooks:
    """Price books that follow one another. Each is in force until the next one starts.

    Args:
        books: One or more, in order of their start, each with a version of its own.

    Raises:
        InvalidPrices: two books are out of order, or have the same start or version.
    """

    books: tuple[PriceBook, ...] = field(converter=_in_succession)

    def price_of(self, unit: Unit, at: datetime) -> Price | None:
        """The price of *unit* in the book in force. `None` if that book has none."""
        started = bisect_right([book.effective_from for book in self.books], at)
        return self.books[max(0, started - 1)].price_of(unit, at)


Prices: TypeAlias = PriceBook | PriceBooks
"""One price book, or books that follow one another."""


def checked_prices(given: object) -> Prices | None:
    """*given* as a price book or several, or `None`.

    Raises:
        InvalidPrices: *given* is of another type.
    """
    if given is not None and not isinstance(given, (PriceBook, PriceBooks)):
        raise InvalidPrices("prices", shown(given), "a PriceBook or PriceBooks")
    return given


def recorded_terms(policy: RevenueSharePolicy, price: Price | None) -> Mapping[str, Json]:
    """The record of a purchase's policy, and of its price if that is not the protocol's."""
    if price is None:
        return policy.record
    return read_only(policy.to_dict() | {_FIELD: price.to_dict()})


def policy_in(terms: Mapping[str, Json]) -> RevenueSharePolicy:
    """The policy in recorded *terms*.

    Raises:
        InvalidPolicy: the terms have no valid policy.
    """
    return RevenueSharePolicy.from_dict(
        {name: value for name, value in terms.items() if name != _FIELD}
    )


def bought_by(paid: Amount, terms: Mapping[str, Json]) -> Amount:
    """The credits that *paid* bought by recorded *terms*.

    Raises:
        InvalidPrices, UnitMismatch: the terms have no valid price for *paid*.
    """
    if _FIELD not in terms:
        return bought(paid, "paid")
    return Price.from_dict(terms[_FIELD]).buys(paid)
