"""Openings: the balance that a tenant brings from another system, once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Final
from uuid import UUID

from attrs import evolve, field, frozen

from cogni_billing.domain.amounts import (
    Amount,
    credits_from_zero,
    nonzero_credits,
    positive_credits,
)
from cogni_billing.domain.errors import (
    Difference,
    IdempotencyConflict,
    InvalidInput,
    InvalidTime,
    shown,
)
from cogni_billing.domain.grants import PRIORITY_DEFAULT, checked_priority, checked_source
from cogni_billing.domain.idempotency import differences
from cogni_billing.domain.identity import TenantId, tenant_id
from cogni_billing.domain.kinds import TransactionKind
from cogni_billing.domain.timestamps import expiry, utc
from cogni_billing.domain.transactions import GrantTerms, Recorded, Transaction

OPENING_KEY: Final = "opening"
"""The reference of an opening. The references of its grants are `opening/1` and so on."""
OPENING_GRANTS_MAX: Final = 1000


def _granted_at(given: object) -> datetime:
    return utc(given, "granted_at")


def _as_of(given: object) -> datetime:
    return utc(given, "as_of")


@frozen(kw_only=True)
class OpeningGrant:
    """The credits that are left of a grant in another system, with the terms of the grant.

    Raises:
        InvalidAmount, UnitMismatch, InvalidReference, InvalidInput, InvalidTime: a field is
            invalid.
    """

    amount: Amount = field(converter=positive_credits)
    """The remaining credits, greater than zero."""
    source: str = field(converter=checked_source)
    granted_at: datetime = field(converter=_granted_at)
    priority: int = field(default=PRIORITY_DEFAULT, converter=checked_priority)
    expires_at: datetime | None = field(default=None, converter=expiry)
    """`None` for never."""


def _purchased(given: object) -> Amount:
    if isinstance(given, Amount) and given.is_negative:
        return nonzero_credits(given, "purchased")
    return credits_from_zero(given, "purchased")


def _grants(given: object) -> tuple[OpeningGrant, ...]:
    expected = f"at most {OPENING_GRANTS_MAX} OpeningGrant values"
    if not isinstance(given, Iterable) or isinstance(given, (str, bytes, Mapping)):
        raise InvalidInput("grants", shown(given), expected)
    grants = tuple(given)
    for grant in grants:
        if not isinstance(grant, OpeningGrant):
            raise InvalidInput("grants", shown(grant), expected)
    if len(grants) > OPENING_GRANTS_MAX:
        raise InvalidInput("grants", str(len(grants)), expected)
    return grants


@frozen(kw_only=True)
class OpeningRequest:
    """The validated arguments of `Billing.opening`.

    Raises:
        InvalidTime: a grant is of a later moment than the opening, or has expired by then.
    """

    tenant: TenantId = field(converter=tenant_id)
    purchased: Amount = field(converter=_purchased)
    grants: tuple[OpeningGrant, ...] = field(converter=_grants)
    as_of: datetime = field(converter=_as_of)

    def __attrs_post_init__(self) -> None:
        for number, grant in enumerate(self.grants):
            if grant.granted_at > self.as_of:
                place, expected = f"grants[{number}].granted_at", f"by `as_of`, {self.as_of}"
                raise InvalidTime(place, str(grant.granted_at), f"a moment {expected}")
            if grant.expires_at is not None and grant.expires_at <= self.as_of:
                place, expected = f"grants[{number}].expires_at", f"after `as_of`, {self.as_of}"
                raise InvalidTime(place, str(grant.expires_at), f"a moment {expected}")


@frozen(kw_only=True)
class Opening:
    """The transactions of an opening, as planned at *at*."""

    at: datetime
    balance: Transaction
    """The purchased credits or the debt."""
    grants: tuple[Transaction, ...]


@frozen(kw_only=True)
class Opened:
    """An opening as the ledger stores it."""

    balance: Recorded
    grants: tuple[Recorded, ...]

    def marked(self, *, replayed: bool) -> Opened:
        """The same opening, marked as recorded by an earlier call or by this one."""
        return Opened(
            balance=evolve(self.balance, replayed=replayed),
            grants=tuple(evolve(grant, replayed=replayed) for grant in self.grants),
        )

    def require_same(self, asked: Opening) -> None:
        """Return if this opening answers the request of *asked*.

        Raises:
            IdempotencyConflict: the requests differ. Names each field that differs.
        """
        if found := tuple(self._differences(asked)):
            raise IdempotencyConflict(OPENING_KEY, found)

    def _differences(self, asked: Opening) -> Iterator[Difference]:
        yield from differences(self.balance.transaction, asked.balance.request)
        if len(self.grants) != len(asked.grants):
            yield Difference("grants", str(len(self.grants)), str(len(asked.grants)))
            return
        for number, (recorded, grant) in enumerate(zip(self.grants, asked.grants, strict=True)):
            stored = recorded.transaction
            for each in differences(stored, grant.request):
                yield evolve(each, field=f"grants[{number}].{each.field}")
            if stored.at != grant.at:
                moments = stored.at.isoformat(), grant.at.isoformat()
                yield Difference(f"grants[{number}].granted_at", *moments)


def plan_opening(request: OpeningRequest, *, at: datetime, ids: Sequence[UUID]) -> Opening:
    """Plan the transactions of an opening: one for each grant, and then the purchased credits.

    Raises:
        InvalidTime: `as_of` is later than *at*.
    """
    if request.as_of > at:
        raise InvalidTime("as_of", str(request.as_of), f"a moment not after {at}")
    return Opening(
        at=at,
        grants=tuple(
            _grant(request.tenant, grant, number, transaction_id)
            for number, (grant, transaction_id) in enumerate(
                zip(request.grants, ids, strict=False), 1
            )
        ),
        balance=Transaction(
            id=ids[-1],
            tenant=request.tenant,
            kind=TransactionKind.OPENING,
            reference=OPENING_KEY,
            at=request.as_of,
            amount=request.purchased,
        ),
    )


def _grant(tenant: TenantId, grant: OpeningGrant, number: int, transaction_id: UUID) -> Transaction:
    return Transaction(
        id=transaction_id,
        tenant=tenant,
        kind=TransactionKind.GRANT,
        reference=f"{OPENING_KEY}/{number}",
        at=grant.granted_at,
        amount=grant.amount,
        terms=GrantTerms(source=grant.source, priority=grant.priority, expires_at=grant.expires_at),
    )
