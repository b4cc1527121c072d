"""Share rules: the part of a purchase that one beneficiary gets."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping
from decimal import Decimal
from itertools import pairwise
from typing import Final, Self, TypeAlias
from uuid import UUID

from attrs import field, frozen

from cogni_billing.domain.amounts import (
    CREDIT,
    MAGNITUDE_MAX,
    ZERO,
    Amount,
    amount_shown,
    decimal_places,
    exact_decimal,
)
from cogni_billing.domain.errors import InvalidAmount, InvalidPolicy, shown
from cogni_billing.domain.identity import (
    SYSTEM_ACCOUNT_ID,
    SYSTEM_ACCOUNTS,
    SYSTEM_TENANT_ID,
    AccountId,
)
from cogni_billing.domain.metadata import Json

RATE_MAX: Final = 10
RATE_DECIMALS_MAX: Final = 12
# Bounds the size of the record that each purchase keeps of its policy.
TIERS_MAX: Final = 16
_PAIR: Final = 2


@frozen
class Share:
    """The share of a beneficiary in a purchase, in CREDIT. Rounding down can leave zero."""

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
    reserved = (SYSTEM_ACCOUNTS - {SYSTEM_ACCOUNT_ID}) | {SYSTEM_TENANT_ID, UUID(int=0)}
    if not isinstance(given, UUID) or given in reserved:
        expected = f"the account of a tenant, or {SYSTEM_ACCOUNT_ID}"
        raise InvalidPolicy("beneficiary", shown(given), expected)
    return AccountId(UUID(int=given.int))


def _credits(given: object, name: str) -> Amount:
    if not isinstance(given, Amount) or given.unit is not CREDIT:
        raise InvalidPolicy(name, amount_shown(given), "an Amount in CREDIT")
    if not 0 <= given.value <= MAGNITUDE_MAX:
        raise InvalidPolicy(name, amount_shown(given), "an Amount from 0 to 10^27 CREDIT")
    return given


def _at_least(given: Amount) -> Amount:
    return _credits(given, "at_least")


def _cap(given: Amount | None) -> Amount | None:
    return None if given is None else _credits(given, "cap")


def _minimum(given: Amount | None) -> Amount | None:
    return None if given is None else _credits(given, "minimum")


@frozen
class ShareTier:
    """A rate for purchases of *at_least* that many credits, up to the next tier."""

    at_least: Amount = field(converter=_at_least)
    rate: Decimal = field(converter=_rate)

    def to_dict(self) -> dict[str, Json]:
        return {"at_least": _text_of(self.at_least), "rate": format(self.rate, "f")}

    @classmethod
    def from_dict(cls, given: object) -> Self:
        fields = fields_of(given, "tiers", ("at_least", "rate"))
        return cls(_credits_in(fields, "at_least"), text_in(fields, "rate"))


def _tier(given: object) -> object:
    return ShareTier(*given) if isinstance(given, tuple) and len(given) == _PAIR else given


Pair: TypeAlias = tuple[Amount, Decimal | int | str]


def _tiers(given: Iterable[ShareTier | Pair]) -> tuple[ShareTier, ...]:
    expected = f"at most {TIERS_MAX} ShareTier with ascending at_least above zero"
    if not isinstance(given, (tuple, list)) or len(given) > TIERS_MAX:
        raise InvalidPolicy("tiers", shown(given), expected)
    made = tuple(map(_tier, given))
    tiers = tuple(tier for tier in made if isinstance(tier, ShareTier))
    if len(tiers) < len(made):
        raise InvalidPolicy("tiers", shown(given), expected)
    sizes = [ZERO, *(tier.at_least for tier in tiers)]
    if any(size >= larger for size, larger in pairwise(sizes)):
        raise InvalidPolicy("tiers", ", ".join(map(str, sizes[1:]))[:64], expected)
    return tiers


@frozen
class ShareRule:
    """The rule of one beneficiary: it gets a fraction of the purchased credits.

    Args:
        beneficiary: The account that earns the share: `SYSTEM_ACCOUNT_ID`, or the account of a
            tenant, which has the tenant's id. An account that is not open yet can earn shares.
        rate: A fraction from 0 to 10, with at most 12 decimals: `Decimal("0.25")` is 25 %. A finer
            rate is refused, never rounded.
        cap: The largest share of one purchase, in CREDIT.
        minimum: The smallest share of one purchase, in CREDIT, at most *cap*.
        tiers: Rates by the size of the purchase, at most 16, in ascending order. Each is a
            `ShareTier` or a pair of its arguments. The tier's rate applies to the whole purchase. A
            purchase below the first tier has *rate*.

    Raises:
        InvalidPolicy: an argument is invalid.
    """

    beneficiary: AccountId = field(converter=_beneficiary)
    rate: Decimal = field(converter=_rate)
    cap: Amount | None = field(default=None, converter=_cap)
    minimum: Amount | None = field(default=None, converter=_minimum)
    tiers: tuple[ShareTier, ...] = field(default=(), converter=_tiers)

    def __attrs_post_init__(self) -> None:
        if self.cap is not None and self.minimum is not None and self.minimum > self.cap:
            raise InvalidPolicy("minimum", str(self.minimum), f"at most the cap, {self.cap}")

    def rate_of(self, purchased: Amount) -> Decimal:
        """The rate for a purchase of that many credits."""
        slab = bisect_right([tier.at_least for tier in self.tiers], purchased)
        return self.tiers[slab - 1].rate if slab else self.rate

    def bounded(self, earned: Amount) -> Amount:
        """*earned*, raised to the minimum and then limited to the cap."""
        raised = earned if self.minimum is None else max(earned, self.minimum)
        return raised if self.cap is None else min(raised, self.cap)

    def to_dict(self) -> dict[str, Json]:
        """The fields that are set, with exact numbers as text."""
        written: dict[str, Json] = {
            "beneficiary": str(self.beneficiary),
            "rate": format(self.rate, "f"),
        }
        for name, bound in (("cap", self.cap), ("minimum", self.minimum)):
            if bound is not None:
                written[name] = _text_of(bound)
        if self.tiers:
            written["tiers"] = tuple(tier.to_dict() for tier in self.tiers)
        return written

    @classmethod
    def from_dict(cls, given: object) -> Self:
        """Read a rule that `to_dict` wrote.

        Raises:
            InvalidPolicy: a field is missing, unknown or invalid.
        """
        fields = fields_of(given, "rules", ("beneficiary", "rate"), ("cap", "minimum", "tiers"))
        beneficiary = text_in(fields, "beneficiary")
        try:
            account = AccountId(UUID(beneficiary))
        except ValueError as error:
            raise InvalidPolicy("beneficiary", shown(beneficiary), "a UUID") from error
        return cls(
            account,
            text_in(fields, "rate"),
            cap=_credits_in(fields, "cap") if "cap" in fields else None,
            minimum=_credits_in(fields, "minimum") if "minimum" in fields else None,
            tiers=tuple(map(ShareTier.from_dict, list_in(fields, "tiers"))),
        )


def fields_of(
    given: object, name: str, required: tuple[str, ...], optional: tuple[str, ...] = ()
) -> Mapping[str, object]:
    """*given* as a mapping with all required fields and no unknown field.

    Raises:
        InvalidPolicy: *given* is no such mapping.
    """
    if not isinstance(given, Mapping) or not set(required) <= set(given) <= {*required, *optional}:
        found = sorted(map(str, given)) if isinstance(given, Mapping) else given
        expected = f"the fields {', '.join(required)}"
        perhaps = f", and perhaps {', '.join(optional)}" if optional else ""
        raise InvalidPolicy(name, shown(str(found)), expected + perhaps)
    return given


def text_in(fields: Mapping[str, object], name: str) -> str:
    value = fields[name]
    if not isinstance(value, str):
        raise InvalidPolicy(name, shown(value), "text")
    return value


def list_in(fields: Mapping[str, object], name: str) -> tuple[object, ...]:
    """The list under *name*, which is empty if the field is absent.

    Raises:
        InvalidPolicy: the field is no list.
    """
    value = fields.get(name, ())
    if not isinstance(value, (tuple, list)):
        raise InvalidPolicy(name, shown(value), f"a list of {name}")
    return tuple(value)


def _credits_in(fields: Mapping[str, object], name: str) -> Amount:
    text = text_in(fields, name)
    try:
        return Amount(text, CREDIT)
    except InvalidAmount as error:
        raise InvalidPolicy(name, error.given, "a whole number of credits as text") from error


def _text_of(amount: Amount) -> str:
    return str(amount.value)
