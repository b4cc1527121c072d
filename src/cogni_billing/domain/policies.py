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

    @classmethod
    def from_dict(cls, given: Mapping[str, Json]) -> Self:
        """The policy that `to_dict` wrote down.

        Raises:
            InvalidPolicy: it is none: a field is missing, unknown, or breaks its rule.
        """
        fields = _fields(given, "policy", ("version", "effective_from", "mode", "rules"))
        rules = fields["rules"]
        if not isinstance(rules, (tuple, list)):
            raise InvalidPolicy("rules", shown(rules), "a list of rules")
        return cls(
            version=_text(fields, "version"),
            effective_from=_moment(_text(fields, "effective_from")),
            mode=_mode_named(_text(fields, "mode")),
            rules=tuple(map(_rule_from, rules)),
        )


def _fields(given: object, name: str, expected: tuple[str, ...]) -> Mapping[str, object]:
    if not isinstance(given, Mapping) or set(given) != set(expected):
        found = sorted(map(str, given)) if isinstance(given, Mapping) else given
        raise InvalidPolicy(name, shown(str(found)), f"the fields {', '.join(expected)}")
    return given


def _text(fields: Mapping[str, object], name: str) -> str:
    value = fields[name]
    if not isinstance(value, str):
        raise InvalidPolicy(name, shown(value), "text")
    return value


def _moment(given: str) -> datetime:
    try:
        return datetime.fromisoformat(given)
    except ValueError as error:
        raise InvalidPolicy("effective_from", shown(given), "a moment in ISO 8601") from error


def _mode_named(given: str) -> ShareMode:
    try:
        return ShareMode(given)
    except ValueError as error:
        modes = " or ".join(mode.value for mode in ShareMode)
        raise InvalidPolicy("mode", shown(given), modes) from error


def _rule_from(given: object) -> ShareRule:
    fields = _fields(given, "rules", ("beneficiary", "rate"))
    beneficiary = _text(fields, "beneficiary")
    try:
        account = AccountId(UUID(beneficiary))
    except ValueError as error:
        raise InvalidPolicy("beneficiary", shown(beneficiary), "a UUID") from error
    return ShareRule(account, _text(fields, "rate"))
