"""Grants: credits with a source and a spend order, which may expire."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID, uuid5

from attrs import field, frozen
from attrs.converters import optional

from cogni_billing.domain import requests
from cogni_billing.domain.amounts import ZERO, Amount, positive_credits
from cogni_billing.domain.errors import GrantClosed, InvalidInput, InvalidTime, shown
from cogni_billing.domain.identity import TenantId, tenant_id
from cogni_billing.domain.identity import reference as checked_reference
from cogni_billing.domain.kinds import TransactionKind
from cogni_billing.domain.metadata import Json, frozen_metadata
from cogni_billing.domain.reasons import checked_reason
from cogni_billing.domain.timestamps import LATEST, Expiry, require_unexpired, utc
from cogni_billing.domain.transactions import GrantTerms, Transaction

PRIORITY_DEFAULT: Final = 100
PRIORITY_MAX: Final = 1_000_000
PRIORITY_PURCHASED: Final = PRIORITY_MAX + 1
"""The place of purchased credits that expire: after every grant."""


@frozen(kw_only=True)
class Grant:
    """Granted credits, and the part of them that is left.

    The lowest `priority` is spent first. Of equal priorities, the grant that expires first comes
    first, and then the oldest. Purchased credits are spent last.
    """

    id: UUID
    """The id of the transaction that granted them."""
    amount: Amount
    source: str
    priority: int
    expires_at: datetime | None
    """The present expiry. `None` for never."""
    granted_at: datetime
    remaining: Amount
    """The credits that are not spent, set aside by a hold, or expired."""

    @property
    def is_purchased(self) -> bool:
        """True if a payment bought the credits. They are no grant, but expire like one."""
        return self.priority == PRIORITY_PURCHASED

    @property
    def spend_order(self) -> tuple[int, bool, datetime, datetime, UUID]:
        """The sort key of the spend order. A grant without expiry comes last in its priority."""
        never = self.expires_at is None
        return self.priority, never, self.expires_at or LATEST, self.granted_at, self.id


@frozen(kw_only=True)
class Lot:
    """The credits of a purchase that expire, and the part of them that is left."""

    id: UUID
    """The id of the transaction that credited them."""
    payment: str
    amount: Amount
    expires_at: datetime | None
    """`None` if a dispute or a refund has ended the expiry."""
    bought_at: datetime
    remaining: Amount
    """The credits that are not spent, set aside by a hold, taken back, or expired."""


@frozen
class Expiration:
    """The remainder of a grant at its expiry."""

    grant_id: UUID
    amount: Amount
    at: datetime


def checked_priority(given: object) -> int:
    """*given* as a place in the spend order.

    Raises:
        InvalidInput: *given* is no whole number from 0 to `PRIORITY_MAX`.
    """
    if type(given) is not int or not 0 <= given <= PRIORITY_MAX:
        raise InvalidInput("priority", shown(given), f"a whole number from 0 to {PRIORITY_MAX}")
    return given


def checked_source(given: object) -> str:
    """*given* as the source of a grant.

    Raises:
        InvalidReference: *given* is not 1 to 255 visible ASCII characters.
    """
    return checked_reference(given, "source")


def _checked_start(given: object) -> datetime | None:
    return None if given is None else utc(given, "effective_from")


@frozen(kw_only=True)
class GrantRequest:
    """The validated arguments of `Billing.grant`."""

    tenant: TenantId = field(converter=tenant_id)
    amount: Amount = field(converter=positive_credits)
    source: str = field(converter=checked_source)
    priority: int = field(converter=checked_priority)
    expiry: Expiry
    effective_from: datetime | None = field(default=None, converter=_checked_start)
    reference: str = field(converter=checked_reference)
    metadata: Mapping[str, Json] = field(converter=frozen_metadata)


def plan_grant(request: GrantRequest, *, at: datetime, transaction_id: UUID) -> Transaction:
    """Plan the transaction that mints the amount for the tenant, with its terms.

    A lifetime counts from the beginning of the grant.

    Raises:
        InvalidTime: the grant would expire before it begins, or after the year 9998.
    """
    begins = max(at, request.effective_from or at)
    expires_at = request.expiry.starting(begins)
    if request.effective_from is not None:
        require_unexpired(expires_at, request.effective_from)
    return Transaction(
        id=transaction_id,
        tenant=request.tenant,
        kind=TransactionKind.GRANT,
        reference=request.reference,
        at=at,
        amount=request.amount,
        metadata=request.metadata,
        terms=GrantTerms(
            source=request.source,
            priority=request.priority,
            expires_at=expires_at,
            expires_in=request.expiry.expires_in,
            effective_from=request.effective_from,
        ),
    )


def checked_grant_id(given: object) -> UUID:
    """*given* as the id of a grant.

    Raises:
        InvalidInput: *given* is no `uuid.UUID`.
    """
    if not isinstance(given, UUID):
        raise InvalidInput("grant_id", shown(given), "the id of a grant, a uuid.UUID")
    return UUID(int=given.int)


@frozen(kw_only=True)
class VoidRequest:
    """The validated arguments of `Billing.void_grant`."""

    tenant: TenantId = field(converter=tenant_id)
    grant_id: UUID = field(converter=checked_grant_id)
    reference: str = field(converter=checked_reference)
    reason: str | None = field(converter=optional(checked_reason))
    metadata: Mapping[str, Json] = field(converter=frozen_metadata)


def plan_void(request: VoidRequest, *, at: datetime, transaction_id: UUID) -> Transaction:
    """Plan the transaction that takes a grant back. The ledger fills in the remaining credits."""
    return Transaction(
        id=transaction_id,
        tenant=request.tenant,
        kind=TransactionKind.VOID,
        reference=request.reference,
        at=at,
        amount=ZERO,
        metadata=request.metadata,
        subject=request.grant_id,
        reason=request.reason,
    )


@frozen(kw_only=True)
class GrantExtension:
    """A later expiry of a grant, as `Billing.extend_grant` set it."""

    grant_id: UUID
    reference: str
    expires_at: datetime
    """The expiry that the call set. A later call may have changed it again."""
    extended_at: datetime
    expires_in: timedelta | None = None
    """The lifetime from which `expires_at` follows, if the caller gave one."""
    replayed: bool = False
    """True if an earlier call recorded it."""

    @property
    def id(self) -> UUID:
        """The id of the grant."""
        return self.grant_id

    @property
    def request(self) -> requests.Request:
        """The caller's request, field by field. Two requests are the same if these are equal."""
        return requests.extension(self.grant_id, Expiry.stored(self.expires_at, self.expires_in))

    def require_later(self, before: datetime | None, moment: datetime) -> None:
        """Return if the expiry is later than *before*, the grant's expiry as of *moment*.

        Raises:
            GrantClosed: the grant has expired, or was voided.
            InvalidTime: the grant never expires, or expires no earlier.
        """
        if before is not None and before <= moment:
            raise GrantClosed(self.grant_id, before)
        if before is None or self.expires_at <= before:
            expected = "a grant with an expiry" if before is None else f"a moment after {before}"
            raise InvalidTime("expires_at", str(self.expires_at), expected)


def plan_extension(
    grant_id: object, expiry: Expiry, reference: object, *, at: datetime
) -> GrantExtension:
    """Validate and plan an extension.

    Raises:
        InvalidInput, InvalidReference: an argument is invalid.
        InvalidTime: no expiry is given, or it is out of range.
    """
    extended, key, expires_at = (
        checked_grant_id(grant_id),
        checked_reference(reference),
        expiry.starting(at),
    )
    if expires_at is None:
        raise InvalidTime("expires_at", "None", "a moment, or a lifetime as expires_in")
    return GrantExtension(
        grant_id=extended,
        reference=key,
        expires_at=expires_at,
        extended_at=at,
        expires_in=expiry.expires_in,
    )


def plan_expiry(tenant: TenantId, expiration: Expiration, number: int) -> Transaction:
    """Plan the transaction that takes the remainder of an expired grant, as breakage.

    A grant expires once more if a hold returns credits to it after its expiry. *number* counts the
    expirations of the grant and makes the key unique, because the moment may be the same.
    """
    reference = f"{expiration.grant_id}@{number}"
    return Transaction(
        id=uuid5(expiration.grant_id, reference),
        tenant=tenant,
        kind=TransactionKind.EXPIRY,
        reference=reference,
        at=expiration.at,
        amount=-expiration.amount,
        subject=expiration.grant_id,
    )
