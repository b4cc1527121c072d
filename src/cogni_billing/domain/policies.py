"""Policies: the rules of revenue share, and the moment from which each is in force."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from enum import Enum
from functools import cached_property
from typing import Any, Final, Self, TypeAlias, TypeVar

from attrs import evolve, field, frozen

from cogni_billing.domain.allocation import allocate
from cogni_billing.domain.amounts import (
    CREDIT,
    ZERO,
    Amount,
    amount_shown,
    exact_sum,
    product,
    rounded_down,
    total,
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
from cogni_billing.domain.metadata import Json, read_only
from cogni_billing.domain.shares import (
    Share,
    ShareRule,
    fields_of,
    list_in,
    text_in,
)
from cogni_billing.domain.succession import in_succession
from cogni_billing.domain.timestamps import EARLIEST, utc

DEFAULT_RATE: Final = Decimal("0.25")
# Bounds the size of the record that each purchase keeps of its policy.
RULES_MAX: Final = 32
_ONE: Final = Decimal(1)


class ShareMode(Enum):
    """The source of the shares."""

    BONUS = "bonus"
    """Minted on top. The customer gets all purchased credits."""
    SPLIT = "split"
    """Taken out of the purchase. The customer gets the rest."""


class Shortfall(Enum):
    """The rule for a reversal of credits that are already spent."""

    DEBT = "debt"
    """The account may go below zero. Its next credits repay the debt."""
    CLAMP = "clamp"
    """Takes the available credits. The platform's `shortfall` account absorbs the rest."""
    REFUSE = "refuse"
    """Refuses a refund that the available credits do not cover. Only for refunds."""


CLAWBACKS: Final = (Shortfall.DEBT, Shortfall.CLAMP)
"""The rules for a loss that cannot be refused: of a share, and of a lost dispute."""


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


def _clawback(given: Shortfall) -> Shortfall:
    if given not in CLAWBACKS:
        raise InvalidPolicy("clawback", shown(given), "Shortfall.DEBT or Shortfall.CLAMP")
    return given


def _rules(given: Iterable[ShareRule]) -> tuple[ShareRule, ...]:
    rules = tuple(given) if isinstance(given, (tuple, list)) else None
    if rules is None or not all(isinstance(rule, ShareRule) for rule in rules):
        raise InvalidPolicy("rules", shown(given), "a tuple of ShareRule")
    if len(rules) > RULES_MAX:
        raise InvalidPolicy("rules", f"{len(rules)} rules", f"at most {RULES_MAX}")
    if len({rule.beneficiary for rule in rules}) < len(rules):
        raise InvalidPolicy("rules", "a beneficiary twice", "one rule for each beneficiary")
    return rules


@frozen
class RevenueSharePolicy:
    """The share rules in force from a moment on. Purchases record the policy and its version.

    In `ShareMode.BONUS` each beneficiary gets floor(rate x purchased), on top of the customer's
    credits. In `ShareMode.SPLIT` the purchase is divided between the customer and the beneficiaries
    by largest remainder. Ties go to the customer first, and then in the order of the rules. The
    rates of a split sum to at most 1.

    Then the bounds of each rule apply. In a split, credits above a cap go to the customer, and a
    minimum gets no more than the earlier rules have left.

    Args:
        version: 1 to 255 visible ASCII characters, recorded with each purchase.
        effective_from: Timezone-aware. Earlier purchases have no policy.
        mode: The source of the shares.
        rules: One for each beneficiary, at most 32. An empty tuple gives all credits to the
            customer.
        clawback: The rule for a refund of a share that is already spent.

    Raises:
        InvalidPolicy: an argument is invalid. The message names the field.
    """

    version: str = field(converter=_version)
    effective_from: datetime = field(converter=_effective_from)
    mode: ShareMode = field(converter=_mode)
    rules: tuple[ShareRule, ...] = field(converter=_rules)
    clawback: Shortfall = field(default=Shortfall.DEBT, converter=_clawback)

    def __attrs_post_init__(self) -> None:
        if self.mode is ShareMode.SPLIT:
            sizes = {ZERO} | {tier.at_least for rule in self.rules for tier in rule.tiers}
            for size in sorted(sizes):
                if (rates := self._rates(size)) > _ONE:
                    given = f"rates that sum to {rates} from {size}"
                    raise InvalidPolicy("rules", given[:64], "rates with a sum of at most 1")

    @classmethod
    def default(cls) -> Self:
        """The default: 25 % of each purchase, minted on top for the system tenant."""
        return cls(
            version="default",
            effective_from=EARLIEST,
            mode=ShareMode.BONUS,
            rules=(ShareRule(SYSTEM_ACCOUNT_ID, DEFAULT_RATE),),
        )

    @classmethod
    def none(cls) -> Self:
        """No share at all: the customer gets all credits, and no other account is credited."""
        return cls(version="none", effective_from=EARLIEST, mode=ShareMode.BONUS, rules=())

    def at(self, moment: datetime) -> Self:
        """This policy, which must be in force at *moment*.

        Raises:
            InvalidPolicy: the policy is not yet in force.
        """
        if moment < self.effective_from:
            raise InvalidPolicy(
                "policy", f"one in force from {self.effective_from}", f"one in force at {moment}"
            )
        return self

    def shares_of(self, purchased: Amount, at: datetime) -> tuple[Share, ...]:
        """Compute one share for each rule, in order, in whole credits.

        Raises:
            InvalidAmount: *purchased* is negative, or no `Amount`.
            UnitMismatch: *purchased* is not in CREDIT.
            InvalidTime: *at* is naive.
            InvalidPolicy: the policy is not yet in force *at* that moment.
        """
        if not isinstance(purchased, Amount) or purchased.is_negative:
            raise InvalidAmount("purchased", amount_shown(purchased), "an Amount of at least zero")
        if purchased.unit is not CREDIT:
            raise UnitMismatch("purchased", str(purchased.unit), str(CREDIT))
        self.at(utc(at, "at"))
        earn = self._split if self.mode is ShareMode.SPLIT else self._bonus
        earned = zip(self.rules, earn(purchased), strict=True)
        return tuple(Share(rule.beneficiary, amount) for rule, amount in earned)

    def credited_of(self, purchased: Amount, shares: Iterable[Share]) -> Amount:
        """The customer's part of *purchased*, if the beneficiaries get *shares*."""
        if self.mode is ShareMode.BONUS:
            return purchased
        return purchased - total((share.amount for share in shares), CREDIT)

    def _bonus(self, purchased: Amount) -> Iterator[Amount]:
        for rule in self.rules:
            exact = product(purchased.value, rule.rate_of(purchased))
            yield rule.bounded(rounded_down(exact, CREDIT))

    def _split(self, purchased: Amount) -> Iterator[Amount]:
        rates = [rule.rate_of(purchased) for rule in self.rules]
        customer = exact_sum(_ONE, product(self._rates(purchased), Decimal(-1)))
        left = purchased
        for rule, part in zip(self.rules, allocate(purchased, [customer, *rates])[1:], strict=True):
            earned = min(rule.bounded(part), left)
            left -= earned
            yield earned

    def _rates(self, purchased: Amount) -> Decimal:
        rates = Decimal(0)
        for rule in self.rules:
            rates = exact_sum(rates, rule.rate_of(purchased))
        return rates

    def for_buyer(self, account: AccountId) -> Self:
        """This policy without a rule for the buyer's own account.

        No account earns a share of its own purchase, not even the system tenant's.
        """
        if all(rule.beneficiary != account for rule in self.rules):
            return self
        return evolve(self, rules=tuple(r for r in self.rules if r.beneficiary != account))

    @cached_property
    def record(self) -> Mapping[str, Json]:
        """The read-only form that a purchase records."""
        return read_only(self.to_dict())

    def to_dict(self) -> dict[str, Json]:
        """All fields, as a purchase records them. Numbers and moments are exact text."""
        written: dict[str, Json] = {
            "version": self.version,
            "effective_from": self.effective_from.isoformat(),
            "mode": self.mode.value,
            "rules": tuple(rule.to_dict() for rule in self.rules),
        }
        if self.clawback is not Shortfall.DEBT:
            written["clawback"] = self.clawback.value
        return written

    @classmethod
    def from_dict(cls, given: object) -> Self:
        """Read a policy that `to_dict` or a configuration file wrote.

        Raises:
            InvalidPolicy: a field is missing, unknown or invalid.
        """
        required = ("version", "effective_from", "mode", "rules")
        fields = fields_of(given, "policy", required, ("clawback",))
        return cls(
            version=text_in(fields, "version"),
            effective_from=_moment(fields["effective_from"]),
            mode=_named(tuple(ShareMode), fields, "mode"),
            rules=tuple(map(ShareRule.from_dict, list_in(fields, "rules"))),
            clawback=_named(CLAWBACKS, fields, "clawback")
            if "clawback" in fields
            else Shortfall.DEBT,
        )


Option = TypeVar("Option", ShareMode, Shortfall)


def _named(options: Sequence[Option], fields: Mapping[str, object], name: str) -> Option:
    given = text_in(fields, name)
    by_name = {option.value: option for option in options}
    if given not in by_name:
        raise InvalidPolicy(name, shown(given), " or ".join(by_name))
    return by_name[given]


def _moment(given: Any) -> datetime:
    """*given* as a moment. TOML has moments of its own, JSON has text."""
    if isinstance(given, datetime):
        return given
    try:
        return datetime.fromisoformat(given)
    except (TypeError, ValueError) as error:
        expected = "a moment in ISO 8601"
        raise InvalidPolicy("effective_from", shown(given), expected) from error


def _in_succession(given: Iterable[RevenueSharePolicy]) -> tuple[RevenueSharePolicy, ...]:
    return in_succession(given, RevenueSharePolicy, InvalidPolicy, "policies", "policy")


@frozen
class RevenueSharePolicies:
    """Policies that follow one another. Each is in force until the next one starts.

    Args:
        policies: One or more, in order of their start, each with a version of its own.

    Raises:
        InvalidPolicy: two policies are out of order, or have the same start or version.
    """

    policies: tuple[RevenueSharePolicy, ...] = field(converter=_in_succession)

    def at(self, moment: datetime) -> RevenueSharePolicy:
        """The policy in force at *moment*.

        Raises:
            InvalidPolicy: the first policy is not yet in force.
        """
        started: Sequence[datetime] = [policy.effective_from for policy in self.policies]
        return self.policies[max(0, bisect_right(started, moment) - 1)].at(moment)

    def to_dict(self) -> dict[str, Json]:
        """All policies, in the form of a configuration file."""
        return {"policies": tuple(policy.to_dict() for policy in self.policies)}

    @classmethod
    def from_dict(cls, given: object) -> Self:
        """Read policies that `to_dict` or a configuration file wrote.

        Raises:
            InvalidPolicy: a policy or their order is invalid.
        """
        listed = list_in(fields_of(given, "policies", ("policies",)), "policies")
        return cls(tuple(map(RevenueSharePolicy.from_dict, listed)))


Policies: TypeAlias = RevenueSharePolicy | RevenueSharePolicies
"""One policy, or policies that follow one another."""


def checked_policies(given: object) -> Policies:
    """*given* as one policy or several.

    Raises:
        InvalidPolicy: *given* is of another type.
    """
    if not isinstance(given, (RevenueSharePolicy, RevenueSharePolicies)):
        expected = "a RevenueSharePolicy or RevenueSharePolicies"
        raise InvalidPolicy("policy", shown(given), expected)
    return given
