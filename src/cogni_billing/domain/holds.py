"""Holds: credits set aside before their cost is known, until capture, release or expiry."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from uuid import UUID

from attrs import evolve, field, frozen

from cogni_billing.domain import requests
from cogni_billing.domain.amounts import ZERO, Amount, positive_credits
from cogni_billing.domain.errors import (
    HoldClosed,
    InsufficientCredits,
    InvalidInput,
    shown,
)
from cogni_billing.domain.identity import TenantId, tenant_id
from cogni_billing.domain.identity import reference as checked_reference
from cogni_billing.domain.kinds import TransactionKind
from cogni_billing.domain.metadata import EMPTY, Json, frozen_metadata
from cogni_billing.domain.timestamps import LATEST, expiry
from cogni_billing.domain.transactions import Transaction


class HoldState(StrEnum):
    """The state of a hold. Only an open hold sets credits aside."""

    OPEN = "open"
    CAPTURED = "captured"
    RELEASED = "released"
    EXPIRED = "expired"


@frozen(kw_only=True)
class Hold:
    """A hold on credits.

    `captured` is the amount that the capture took. The rest is available again. A hold without
    `expires_at` stays open until it is captured or released.
    """

    id: UUID
    tenant: TenantId
    reference: str
    amount: Amount
    opened_at: datetime
    expires_at: datetime | None = None
    state: HoldState = HoldState.OPEN
    captured: Amount = ZERO
    ended_at: datetime | None = None
    metadata: Mapping[str, Json] = EMPTY
    replayed: bool = False
    """True if an earlier call recorded the hold. `state` is then the present one."""

    @property
    def request(self) -> requests.Request:
        """The caller's request, field by field. Two requests are the same if these are equal."""
        return requests.hold(self.amount, self.expires_at)

    @property
    def ends_at(self) -> datetime:
        """The moment when the hold ended, or will expire."""
        return self.ended_at or self.expires_at or LATEST

    @property
    def is_open(self) -> bool:
        return self.state is HoldState.OPEN

    def at(self, moment: datetime) -> Hold:
        """This hold as of *moment*. An open hold expires by itself."""
        if self.is_open and self.ends_at <= moment:
            return evolve(self, state=HoldState.EXPIRED, ended_at=self.expires_at)
        return self

    def held_at(self, moment: datetime) -> bool:
        """True if the hold set its credits aside at *moment*."""
        return self.opened_at <= moment < self.ends_at

    def ended(self, state: HoldState, moment: datetime, captured: Amount = ZERO) -> Hold:
        """This open hold with an end."""
        ended_at = max(self.opened_at, moment)
        return evolve(self, state=state, ended_at=ended_at, captured=captured)

    def require_capturable(self, amount: Amount) -> None:
        """Return if *amount* can be captured from this hold.

        Raises:
            InsufficientCredits: the hold is smaller.
            HoldClosed: the hold has ended.
        """
        if amount > self.amount:
            raise InsufficientCredits(amount, self.amount)
        if not self.is_open:
            raise HoldClosed(self.id, self.state)


def checked_hold_id(given: object) -> UUID:
    """*given* as the id of a hold.

    Raises:
        InvalidInput: *given* is no `uuid.UUID`.
    """
    if not isinstance(given, UUID):
        raise InvalidInput("hold_id", shown(given), "the id of a hold, a uuid.UUID")
    return UUID(int=given.int)


@frozen(kw_only=True)
class HoldRequest:
    """The validated arguments of `Billing.hold`."""

    tenant: TenantId = field(converter=tenant_id)
    amount: Amount = field(converter=positive_credits)
    reference: str = field(converter=checked_reference)
    metadata: Mapping[str, Json] = field(converter=frozen_metadata)
    expires_at: datetime | None = field(converter=expiry)


def plan_hold(request: HoldRequest, *, at: datetime, hold_id: UUID) -> Hold:
    """Plan the hold that sets the amount aside."""
    return Hold(
        id=hold_id,
        tenant=request.tenant,
        reference=request.reference,
        amount=request.amount,
        opened_at=at,
        expires_at=request.expires_at,
        metadata=request.metadata,
    )


@frozen(kw_only=True)
class CaptureRequest:
    """The validated arguments of `Billing.capture`."""

    tenant: TenantId = field(converter=tenant_id)
    amount: Amount = field(converter=positive_credits)
    reference: str = field(converter=checked_reference)
    metadata: Mapping[str, Json] = field(converter=frozen_metadata)
    hold_id: UUID = field(converter=checked_hold_id)


def plan_capture(request: CaptureRequest, *, at: datetime, transaction_id: UUID) -> Transaction:
    """Plan the transaction that takes the amount out of the hold, as usage."""
    return Transaction(
        id=transaction_id,
        tenant=request.tenant,
        kind=TransactionKind.CAPTURE,
        reference=request.reference,
        at=at,
        amount=-request.amount,
        metadata=request.metadata,
        subject=request.hold_id,
    )
