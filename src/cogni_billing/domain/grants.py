"""Grants: credits given with a source, spent in an order of their own, that may expire."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Final
from uuid import UUID, uuid5

from attrs import field, frozen

from cogni_billing.domain.amounts import Amount, positive_credits
from cogni_billing.domain.errors import InvalidInput, shown
from cogni_billing.domain.identity import TenantId, tenant_id
from cogni_billing.domain.identity import reference as checked_reference
from cogni_billing.domain.kinds import TransactionKind
from cogni_billing.domain.metadata import Json, frozen_metadata
from cogni_billing.domain.moments import LATEST, expiry
from cogni_billing.domain.transactions import GrantTerms, Transaction

PRIORITY_DEFAULT: Final = 100
PRIORITY_MAX: Final = 1_000_000


@frozen(kw_only=True)
class Grant(GrantTerms):
    """Granted credits, and how much of them is left.

    Of several, the one with the lowest `priority` is spent first; then the one that expires
    first; then the oldest. Purchased credits are spent last.
    """

    id: UUID
    """The id of the transaction that granted them."""
    amount: Amount
    granted_at: datetime
    remaining: Amount
    """What is neither spent, set aside by a hold, nor expired."""

    @property
    def turn(self) -> tuple[int, bool, datetime, datetime, UUID]:
        """Grants are spent in the order of this; one that never expires after those that do."""
        never = self.expires_at is None
        return self.priority, never, self.expires_at or LATEST, self.granted_at, self.id


@frozen
class Draw:
    """So much of one grant: spent, or set aside by a hold."""

    grant_id: UUID
    amount: Amount


@frozen
class Lapse:
    """What was left of a grant, when it expired."""

    grant_id: UUID
    amount: Amount
    at: datetime


def _checked_priority(given: object) -> int:
    if type(given) is not int or not 0 <= given <= PRIORITY_MAX:
        raise InvalidInput("priority", shown(given), f"a whole number from 0 to {PRIORITY_MAX}")
    return given


def _checked_source(given: object) -> str:
    return checked_reference(given, "source")


@frozen(kw_only=True)
class GrantRequest:
    """The validated arguments of `Billing.grant`."""

    tenant: TenantId = field(converter=tenant_id)
    amount: Amount = field(converter=positive_credits)
    source: str = field(converter=_checked_source)
    priority: int = field(converter=_checked_priority)
    expires_at: datetime | None = field(converter=expiry)
    reference: str = field(converter=checked_reference)
    metadata: Mapping[str, Json] = field(converter=frozen_metadata)


def plan_grant(request: GrantRequest, *, at: datetime, transaction_id: UUID) -> Transaction:
    """The transaction that mints the amount for the tenant, to be spent by its terms."""
    return Transaction(
        id=transaction_id,
        tenant=request.tenant,
        kind=TransactionKind.GRANT,
        reference=request.reference,
        at=at,
        amount=request.amount,
        metadata=request.metadata,
        terms=GrantTerms(
            source=request.source, priority=request.priority, expires_at=request.expires_at
        ),
    )


def plan_expiry(tenant: TenantId, lapse: Lapse, number: int) -> Transaction:
    """The transaction that takes what was left of an expired grant, as breakage.

    A grant lapses again when a hold gives back what it had pinned of it; its key says the how
    manieth time it is, since a wallet's moment may be the same.
    """
    reference = f"{lapse.grant_id}@{number}"
    return Transaction(
        id=uuid5(lapse.grant_id, reference),
        tenant=tenant,
        kind=TransactionKind.EXPIRY,
        reference=reference,
        at=lapse.at,
        amount=-lapse.amount,
        subject=lapse.grant_id,
    )
