"""Who gets what of a purchase: revenue-share rules, and the policy that holds them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from decimal import Decimal
from enum import Enum
from typing import Final, Self
from uuid import UUID

from attrs import evolve, field, frozen

from cogni_billing.domain.amounts import (
    CREDIT,
    Amount,
    decimal_places,
    exact_decimal,
    product,
    rounded_down,
)
from cogni_billing.domain.errors import (
    InvalidAmount,
    InvalidPolicy,
    InvalidReference,
    InvalidTime,
    UnitMismatch,
    shown,
)
from cogni_billing.domain.identity import SYSTEM_ACCOUNT_ID, AccountId, reference
from cogni_billing.domain.metadata import Json
from cogni_billing.domain.moments import EARLIEST, utc

DEFAULT_RATE: Final = Decimal("0.25")
RATE_MAX: Final = 10
RATE_DECIMALS_MAX: Final = 12


class ShareMode(Enum):
    """Where a share comes from."""

    BONUS = "bonus"
    """Minted on top: the customer gets everything they paid for."""


@frozen
class Share:
    """What one beneficiary got of one purchase, in CREDIT; zero when the floor left nothing."""

    beneficiary: AccountId
    amount: Amount


def _rate(given: Decimal | int | str) -> Decimal:
    rate = exact_decimal(given)
    if rate is None or not 0 <= rate <= RATE_MAX or decimal_places(rate) > RATE_DECIMALS_MAX:
        raise InvalidPolicy(
            "rate",
            shown(given),
            f"an exact Decimal from 0 to {RATE_MAX} with at most {RATE_DECIMALS_MAX} decimals",
        )
    return rate


def _beneficiary(given: AccountId) -> AccountId:
    if not isinstance(given, UUID) or given != SYSTEM_ACCOUNT_ID:
        raise InvalidPolicy("beneficiary", shown(given), f"the system account {SYSTEM_ACCOUNT_ID}")
    return SYSTEM_ACCOUNT_ID


@frozen
class ShareRule:
    """One beneficiary and its rate: it gets floor(*rate* x purchased credits).

    Args:
        beneficiary: The account that earns the share: `SYSTEM_ACCOUNT_ID`.
        rate: A fraction, `Decimal("0.25")` being 25 %; from 0 to 10, at most 12 decimals. A
            finer rate is refused, never rounded.

    Raises:
        InvalidPolicy: an argument breaks its rule.
    """

    beneficiary: AccountId = field(converter=_beneficiary)
    rate: Decimal = field(converter=_rate)

    def share_of(self, purchased: Amount) -> Share:
        """floor(rate x purchased), in whole credits."""
        return Share(self.beneficiary, rounded_down(product(purchased.value, self.rate), CREDIT))


def _version(given: str) -> str:
    try:
        return reference(given, "version")
    except InvalidReference as error:
        raise InvalidPolicy(error.field, error.given, error.expected) from error


def _effective_from(given: datetime) -> datetime:
    try:
        return utc(given, "effective_from")
    except InvalidTime as error:
        raise InvalidPolicy(error.field, error.given, error.expected) from error


def _mode(given: ShareMode) -> ShareMode:
    if not isinstance(given, ShareMode):
        raise InvalidPolicy("mode", shown(given), "a ShareMode")
    return given


def _rules(given: Iterable[ShareRule]) -> tuple[ShareRule, ...]:
    rules = tuple(given) if isinstance(given, (tuple, list)) else None
    if rules is None or not all(isinstance(rule, ShareRule) for rule in rules):
        raise InvalidPolicy("rules", shown(given), "a tuple of ShareRule")
    if len({rule.beneficiary for rule in rules}) < len(rules):
        raise InvalidPolicy("rules", "a beneficiary twice", "one rule for each beneficiary")
    return rules


@frozen
class RevenueSharePolicy:
    """The rules in force from a moment on, under a version that purchases record.

    Args:
        version: 1 to 255 visible ASCII characters, recorded with each purchase.
        effective_from: Timezone-aware; purchases before it have no policy.
        mode: Where shares come from.
        rules: One for each beneficiary; none at all means that nobody shares.

    Raises:
        InvalidPolicy: an argument breaks its rule; the message names it.
    """

    version: str = field(converter=_version)
    effective_from: datetime = field(converter=_effective_from)
    mode: ShareMode = field(converter=_mode)
    rules: tuple[ShareRule, ...] = field(converter=_rules)

    @classmethod
    def default(cls) -> Self:
        """The default: 25 % of each purchase, minted on top for the system tenant."""
        return cls(
            version="default",
            effective_from=EARLIEST,
            mode=ShareMode.BONUS,
            rules=(ShareRule(SYSTEM_ACCOUNT_ID, DEFAULT_RATE),),
        )

    def shares_of(self, purchased: Amount, at: datetime) -> tuple[Share, ...]:
        """One share for each rule, in order; each floor(rate x *purchased*), in CREDIT.

        Raises:
            InvalidAmount: *purchased* is negative, or no `Amount`.
            UnitMismatch: *purchased* is not in CREDIT.
            InvalidTime: *at* is naive.
            InvalidPolicy: the policy is not yet in force *at* that moment.
        """
        if not isinstance(purchased, Amount) or purchased.is_negative:
            raise InvalidAmount("purchased", shown(purchased), "an Amount of at least zero")
        if purchased.unit is not CREDIT:
            raise UnitMismatch("purchased", str(purchased.unit), str(CREDIT))
        if (moment := utc(at, "at")) < self.effective_from:
            raise InvalidPolicy(
                "policy", f"none at {moment}", f"in force from {self.effective_from}"
            )
        return tuple(rule.share_of(purchased) for rule in self.rules)

    def for_buyer(self, account: AccountId) -> Self:
        """These rules without any whose beneficiary is the buyer itself: nobody earns a share of
        its own purchase, the system tenant least of all.
        """
        return evolve(self, rules=tuple(r for r in self.rules if r.beneficiary != account))

    def to_dict(self) -> dict[str, Json]:
        """All inputs, as a purchase records them: exact decimals and moments as text."""
        rules: tuple[Mapping[str, Json], ...] = tuple(
            {"beneficiary": str(rule.beneficiary), "rate": format(rule.rate, "f")}
            for rule in self.rules
        )
        return {
            "version": self.version,
            "effective_from": self.effective_from.isoformat(),
            "mode": self.mode.value,
            "rules": rules,
        }
