"""Units, amounts, and the only arithmetic in the library.

Bare `Decimal` arithmetic follows the context of the *caller*: at precision 3 even `-x` rounds.
Every sum and product here runs in a private context, which is wide enough for any result and raises
an error rather than round. Only `rounded_down` and `rounded_up` round.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from decimal import (
    ROUND_CEILING,
    ROUND_FLOOR,
    Context,
    Decimal,
    DivisionByZero,
    Inexact,
    InvalidOperation,
    Overflow,
)
from typing import ClassVar, Final, NoReturn, Self, final

from attrs import field, frozen

from cogni_billing.domain.currencies import decimals_by_currency
from cogni_billing.domain.errors import InvalidAmount, UnitMismatch, shown

MAGNITUDE_MAX: Final = Decimal(10**27)
"""The bound of amounts in arguments. Sums that the ledger computes may be larger."""
_MAGNITUDE_MIN: Final = Decimal(-(10**27))  # not -MAGNITUDE_MAX: a minus sign rounds

# The largest amount has 28 digits and the finest rate 14, so that a product fits many times.
_DIGITS = 100
_WHOLE_BITS_MAX: Final = 256  # 78 digits
_EXACT = Context(prec=_DIGITS, traps=[Inexact, InvalidOperation, DivisionByZero, Overflow])
_ROUNDING = Context(prec=_DIGITS, traps=[InvalidOperation, DivisionByZero, Overflow])

_PLAIN_NUMBER = re.compile(r"-?[0-9]+(\.[0-9]+)?", re.ASCII)
_CURRENCY = re.compile(r"[A-Z]{3}", re.ASCII)
_TEXT_MAX = 64


@final
class Unit:
    """A unit of amounts, with its code and its number of decimal places.

    The units are `CREDIT`, `USDC`, and each currency of ISO 4217: `Unit("EUR", 2)`,
    `Unit("JPY", 0)`. The same arguments return the same object, so units are compared by `is`.

    Args:
        code (str): `CREDIT`, `USDC`, or the three letters of a currency.
        scale (int): Its decimal places, which must be those of ISO 4217.

    Raises:
        UnitMismatch: there is no such unit, or it has another scale.
    """

    __slots__ = ("code", "quantum", "scale")
    _made: ClassVar[dict[tuple[str, int], Unit]] = {}

    code: str
    scale: int
    quantum: Decimal
    """The smallest amount: `Decimal("0.01")` for a scale of 2."""

    def __new__(cls, code: str, scale: int) -> Unit:
        known = cls.of(code)
        if type(scale) is not int or scale != known.scale:
            raise UnitMismatch("scale", shown(scale), f"{known.scale} for {code}")
        return known

    @classmethod
    def of(cls, code: str) -> Unit:
        """The unit with this code.

        Raises:
            UnitMismatch: there is no such unit.
        """
        if type(code) is str and code in _SCALES:
            return cls._with(code, _SCALES[code])
        decimals = decimals_by_currency().get(code) if type(code) is str else None
        if decimals is None:
            expected = f"{', '.join(_SCALES)}, or the code of a currency in ISO 4217"
            raise UnitMismatch("unit", shown(code), expected)
        return cls._with(code, decimals)

    @classmethod
    def recorded(cls, code: str, scale: int) -> Unit:
        """The unit of a recorded amount. Its currency may have left ISO 4217 since."""
        return cls._with(code, _SCALES.get(code, scale))

    @classmethod
    def _with(cls, code: str, scale: int) -> Unit:
        if (code, scale) not in cls._made:
            unit = object.__new__(cls)
            for name, value in (
                ("code", code),
                ("scale", scale),
                ("quantum", Decimal((0, (1,), -scale))),
            ):
                object.__setattr__(unit, name, value)
            cls._made.setdefault((code, scale), unit)
        return cls._made[code, scale]

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"{name} of {self} cannot be changed")

    def __reduce__(self) -> tuple[object, ...]:
        return Unit.recorded, (self.code, self.scale)

    def __str__(self) -> str:
        return self.code

    def __repr__(self) -> str:
        return self.code


_SCALES: Final = {"CREDIT": 0, "USD": 2, "USDC": 6}
"""The units whose scale needs no list of currencies."""

CREDIT: Final = Unit.of("CREDIT")
USD: Final = Unit.of("USD")
USDC: Final = Unit.of("USDC")


def exact_decimal(given: object) -> Decimal | None:
    """*given* as a finite `Decimal`, or `None` if it is not an exact, plainly written number.

    Accepts `Decimal`, `int` and text like `-12.50`, but no subclass of them (`bool` is an `int`)
    and no float. Text has no exponent, underscore, negative zero or foreign digit.
    """
    if type(given) is int:
        # Compared by bits, because formatting a huge int takes seconds.
        return Decimal(given) if given.bit_length() <= _DIGITS else None
    if type(given) is str:
        if len(given) > _TEXT_MAX or not _PLAIN_NUMBER.fullmatch(given):
            return None
        given = Decimal(given)
    if type(given) is not Decimal or not given.is_finite():
        return None
    return None if given.is_zero() and given.is_signed() else given


def decimal_places(value: Decimal) -> int:
    """The number of decimal places that a finite *value* is written with."""
    exponent = value.as_tuple().exponent
    assert isinstance(exponent, int)  # finite, so no 'n' or 'F'
    return max(0, -exponent)


def _number(given: Decimal | int | str) -> Decimal:
    value = exact_decimal(given)
    if value is None or (value and value.adjusted() > MAGNITUDE_MAX.adjusted()):
        raise InvalidAmount(
            "amount", shown(given), "an exact Decimal, int or plain decimal text of at most 10^27"
        )
    return value


@frozen(repr=False)
class Amount:
    """An exact quantity in one unit, never finer than the unit's scale.

    Examples are `Amount("10.5", USD)` and `Amount(Decimal(7), CREDIT)`. `value` is always written
    at the unit's scale (`10.50`). Both operands of a sum, difference or comparison are in the same
    unit, and the result is exact.

    Raises:
        InvalidAmount: a float, bool, NaN, infinity, negative zero, an exponent or foreign digit in
            text, more decimals than the unit has, a magnitude over 10^27, or a result of more than
            100 digits.
        UnitMismatch: the unit is not a `Unit`, or the operands are in different units.
    """

    value: Decimal = field(converter=_number)
    unit: Unit

    def __attrs_post_init__(self) -> None:
        if not isinstance(self.unit, Unit):
            raise UnitMismatch("unit", shown(self.unit), "a Unit, such as CREDIT or USD")
        if decimal_places(self.value) > self.unit.scale:
            raise InvalidAmount(
                "amount", shown(self.value), f"at most {self.unit.scale} decimals for {self.unit}"
            )
        if not _MAGNITUDE_MIN <= self.value <= MAGNITUDE_MAX:
            raise InvalidAmount("amount", shown(self.value), "a magnitude of at most 10^27")
        object.__setattr__(self, "value", self.value.quantize(self.unit.quantum, context=_EXACT))

    @classmethod
    def computed(cls, value: Decimal, unit: Unit) -> Self:
        """An amount that the ledger computed: exact, but not bounded like an argument."""
        amount = cls.__new__(cls)
        try:
            exact = value.quantize(unit.quantum, context=_EXACT)
        except (InvalidOperation, Inexact) as error:
            raise _too_large(value) from error
        object.__setattr__(amount, "value", exact)
        object.__setattr__(amount, "unit", unit)
        return amount

    @classmethod
    def whole(cls, number: int) -> Self:
        """Like `computed`, for a whole number of credits. It is much faster."""
        if number.bit_length() > _WHOLE_BITS_MAX:
            return cls.computed(Decimal(number), CREDIT)
        amount = cls.__new__(cls)
        object.__setattr__(amount, "value", Decimal(number))
        object.__setattr__(amount, "unit", CREDIT)
        return amount

    @property
    def is_zero(self) -> bool:
        return self.value == 0

    @property
    def is_positive(self) -> bool:
        return self.value > 0

    @property
    def is_negative(self) -> bool:
        return self.value < 0

    def __add__(self, other: Amount) -> Amount:
        if not isinstance(other, Amount):
            return NotImplemented
        return Amount.computed(exact_sum(self.value, other.value_in(self.unit)), self.unit)

    def __sub__(self, other: Amount) -> Amount:
        return self + -other if isinstance(other, Amount) else NotImplemented

    def __neg__(self) -> Amount:
        # Not -value, which rounds by the caller's context, and not copy_negate, which makes -0.
        return Amount.computed(_EXACT.subtract(Decimal(0), self.value), self.unit)

    def __lt__(self, other: Amount) -> bool:
        if not isinstance(other, Amount):
            return NotImplemented
        return self.value < other.value_in(self.unit)

    def __le__(self, other: Amount) -> bool:
        if not isinstance(other, Amount):
            return NotImplemented
        return self.value <= other.value_in(self.unit)

    # Python derives > and >= from the other operand.

    def __str__(self) -> str:
        return f"{self.value:f} {self.unit}"

    def __repr__(self) -> str:
        return f"Amount('{self.value:f}', {self.unit})"

    def value_in(self, unit: Unit) -> Decimal:
        """The value of this amount, which must be in *unit*.

        Raises:
            UnitMismatch: the amount is in another unit.
        """
        if self.unit is not unit:
            raise UnitMismatch("unit", str(self.unit), str(unit))
        return self.value


ZERO: Final = Amount(0, CREDIT)
"""No credits."""


def credits(value: Decimal | int | str) -> Amount:  # noqa: A001 (the word hosts say)
    """*value* purchased credits, a whole number."""
    return Amount(value, CREDIT)


def usd(value: Decimal | int | str) -> Amount:
    """*value* US dollars, with at most two decimals: `usd("10.00")`."""
    return Amount(value, USD)


def usd_cents(value: int) -> Amount:
    """*value* whole US cents: `usd_cents(1050)` is 10.50 USD."""
    number = exact_decimal(value)
    if type(value) is not int or number is None:
        raise InvalidAmount("usd_cents", shown(value), "a whole number of cents as an int")
    return Amount(number.scaleb(-USD.scale, context=_EXACT), USD)


def money(value: Decimal | int | str, currency: str | Unit) -> Amount:
    """*value* in a currency: `money("12.34", "EUR")`. No amount is ever converted to another unit.

    Args:
        value: With at most the decimals of the currency: 2 for EUR, 0 for JPY, 3 for KWD.
        currency: A code of ISO 4217, `USDC`, or a `Unit` of money.

    Raises:
        InvalidAmount: *value* is no exact number, or has more decimals than the currency.
        UnitMismatch: *currency* is no currency.
    """
    unit = currency if isinstance(currency, Unit) else Unit.of(currency)
    if unit is CREDIT:
        raise UnitMismatch("currency", str(CREDIT), "a currency")
    return Amount(value, unit)


def parsed(text: str) -> Amount:
    """Parse the `str` of a recorded amount, such as `10.00 USD`.

    Raises:
        InvalidAmount: *text* is no amount.
    """
    value, _, unit = text.partition(" ")
    if unit not in _SCALES and not _CURRENCY.fullmatch(unit):
        raise InvalidAmount("amount", shown(text), "an amount and its unit")
    return Amount(value, Unit.recorded(unit, len(value.partition(".")[2])))


def amount_shown(given: object) -> str:
    """Describe a given amount or other value in at most 64 characters."""
    return str(given)[:64] if isinstance(given, Amount) else shown(given)


def positive(amount: object, field: str = "amount") -> Amount:
    """*amount*, which must be an `Amount` greater than zero.

    Raises:
        InvalidAmount: *amount* is no `Amount`, is not above zero, or is above 10^27.
    """
    if not isinstance(amount, Amount) or not amount.is_positive:
        raise InvalidAmount(field, amount_shown(amount), "an Amount greater than zero")
    if amount.value > MAGNITUDE_MAX:
        raise InvalidAmount(field, shown(amount.value), "a magnitude of at most 10^27")
    return amount


def positive_credits(amount: object, field: str = "amount") -> Amount:
    """*amount*, which must be an `Amount` of credits greater than zero.

    Raises:
        InvalidAmount: *amount* is no `Amount`, is not above zero, or is above 10^27.
        UnitMismatch: *amount* is in another unit.
    """
    checked = positive(amount, field)
    if checked.unit is not CREDIT:
        raise UnitMismatch(field, str(checked.unit), str(CREDIT))
    return checked


def nonzero_credits(amount: object, field: str = "amount") -> Amount:
    """*amount*, which must be an `Amount` of credits above or below zero.

    Raises:
        InvalidAmount: *amount* is no `Amount`, is zero, or its magnitude is above 10^27.
        UnitMismatch: *amount* is in another unit.
    """
    if not isinstance(amount, Amount) or amount.is_zero:
        raise InvalidAmount(field, amount_shown(amount), "an Amount other than zero")
    positive_credits(-amount if amount.is_negative else amount, field)
    return amount


def credits_from_zero(amount: object, field: str = "amount") -> Amount:
    """*amount*, which must be an `Amount` of credits, zero or more.

    Raises:
        InvalidAmount: *amount* is no `Amount`, is below zero, or is above 10^27.
        UnitMismatch: *amount* is in another unit.
    """
    if isinstance(amount, Amount) and amount.value > 0:
        return positive_credits(amount, field)
    if not isinstance(amount, Amount) or amount.is_negative:
        raise InvalidAmount(field, amount_shown(amount), "an Amount of at least zero")
    if amount.unit is not CREDIT:
        raise UnitMismatch(field, str(amount.unit), str(CREDIT))
    return amount


def total(amounts: Iterable[Amount], unit: Unit) -> Amount:
    """The exact sum of *amounts*, all in *unit*. The sum of no amounts is zero."""
    value = Decimal(0)
    for amount in amounts:
        value = exact_sum(value, amount.value_in(unit))
    return Amount.computed(value, unit)


def exact_sum(left: Decimal, right: Decimal) -> Decimal:
    """The exact sum.

    Raises:
        InvalidAmount: the sum has more than 100 digits.
    """
    try:
        return _EXACT.add(left, right)
    except Inexact as error:
        raise _too_large(left) from error


def _too_large(value: Decimal) -> InvalidAmount:
    return InvalidAmount("amount", shown(value), f"a result of at most {_DIGITS} digits")


def product(value: Decimal, factor: Decimal) -> Decimal:
    """The exact product.

    Raises:
        decimal.Inexact: the product has more than 100 digits.
    """
    return _EXACT.multiply(value, factor)


def rounded_down(value: Decimal, unit: Unit) -> Amount:
    """The largest amount in *unit* that is not above *value* (floor)."""
    floor = value.quantize(unit.quantum, rounding=ROUND_FLOOR, context=_ROUNDING)
    return Amount.computed(floor, unit)


def rounded_up(value: Decimal, unit: Unit) -> Amount:
    """The smallest amount in *unit* that is not below *value* (ceiling)."""
    ceiling = value.quantize(unit.quantum, rounding=ROUND_CEILING, context=_ROUNDING)
    return Amount.computed(ceiling, unit)


def proportion(whole: Amount, part: Amount, of: Amount) -> Amount:
    """floor(*whole* x *part* / *of*), in the unit of *whole*. *part* and *of* share a unit."""
    numerator = in_quanta(whole.value, whole.unit.scale) * in_quanta(part.value, part.unit.scale)
    return from_quanta(numerator // in_quanta(of.value, of.unit.scale), whole.unit)


def in_quanta(value: Decimal, scale: int) -> int:
    """*value* as a whole number of units of 10^-*scale*. No remainder may be left."""
    return int(_EXACT.to_integral_exact(_EXACT.scaleb(value, scale)))


def from_quanta(count: int, unit: Unit) -> Amount:
    """The amount of *count* smallest pieces of *unit*."""
    return Amount.computed(Decimal(count).scaleb(-unit.scale, context=_EXACT), unit)
