"""The limits of payment attempts: amounts, and the time for each step."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from attrs import Attribute, field, frozen

from cogni_billing.domain.amounts import USD, Amount, amount_shown, positive, usd
from cogni_billing.domain.errors import (
    InvalidAmount,
    InvalidInput,
    UnitMismatch,
    shown,
)

DOLLARS_MAX: Final = usd("1000000000.00")
SPAN_MAX: Final = timedelta(days=3650)
"""The bounds of the rules themselves."""


def _dollars(given: object, name: str) -> Amount:
    checked = positive(given, name)
    if checked.unit is not USD:
        raise UnitMismatch(name, str(checked.unit), str(USD))
    return checked


def _require_bound(_rules: AttemptRules, rule: Attribute[Amount], given: Amount) -> None:
    checked = _dollars(given, rule.name)
    if checked > DOLLARS_MAX:
        raise InvalidAmount(rule.name, amount_shown(checked), f"at most {DOLLARS_MAX}")


def positive_span(given: object, name: str) -> timedelta:
    """*given* as a positive span of time.

    Raises:
        InvalidInput: *given* is no `timedelta`, is not above zero, or is above `SPAN_MAX`.
    """
    if not isinstance(given, timedelta) or not timedelta(0) < given <= SPAN_MAX:
        expected = f"a timedelta above zero, at most {SPAN_MAX}"
        raise InvalidInput(name, _span_shown(given), expected)
    return given


def _span_shown(given: object) -> str:
    return shown(str(given) if isinstance(given, timedelta) else given)


def require_span(_owner: object, rule: Attribute[timedelta], given: timedelta) -> None:
    """Return if *given*, the value of a field, is a span of time.

    Raises:
        InvalidInput: *given* is no `timedelta`, is below zero, or is above `SPAN_MAX`.
    """
    if not isinstance(given, timedelta) or not timedelta(0) <= given <= SPAN_MAX:
        raise InvalidInput(rule.name, _span_shown(given), f"a timedelta from 0 to {SPAN_MAX}")


@frozen(kw_only=True)
class AttemptRules:
    """The bounds of a payment's amount, and the time limit of each step."""

    minimum: Amount = field(default=usd("2.00"), validator=_require_bound)
    maximum: Amount = field(default=usd("10000.00"), validator=_require_bound)
    expires_after: timedelta = field(default=timedelta(minutes=30), validator=require_span)
    """The time to submit evidence for an intent."""
    gives_up_after: timedelta = field(default=timedelta(hours=24), validator=require_span)
    """The time to look for a payment that is not found, from its submission."""
    checks_every: timedelta = field(default=timedelta(seconds=10), validator=require_span)
    """The shortest interval between two calls of the verifier for one attempt."""

    def __attrs_post_init__(self) -> None:
        if self.maximum < self.minimum:
            raise InvalidInput("maximum", str(self.maximum), f"at least {self.minimum}")

    def amount(self, given: object) -> Amount:
        """*given* as an amount to pay.

        Raises:
            InvalidAmount: *given* is no amount, or is out of bounds.
            UnitMismatch: *given* is not in US dollars.
        """
        amount = _dollars(given, "amount")
        if not self.minimum <= amount <= self.maximum:
            expected = f"from {self.minimum} to {self.maximum}"
            raise InvalidAmount("amount", amount_shown(amount), expected)
        return amount


DEFAULT_RULES: Final = AttemptRules()


def checked_rules(given: AttemptRules) -> AttemptRules:
    """*given* as `AttemptRules`.

    Raises:
        InvalidInput: *given* is of another type.
    """
    if not isinstance(given, AttemptRules):
        raise InvalidInput("rules", shown(given), "AttemptRules")
    return given
