"""Changes of holds: captures, extensions and releases."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from uuid import UUID

from attrs import field, frozen
from attrs.converters import optional

from cogni_billing.domain import requests
from cogni_billing.domain.amounts import Amount, credits_from_zero, positive_credits
from cogni_billing.domain.errors import InvalidInput, shown
from cogni_billing.domain.holds import checked_hold_id
from cogni_billing.domain.identity import TenantId, tenant_id
from cogni_billing.domain.identity import reference as checked_reference
from cogni_billing.domain.kinds import TransactionKind
from cogni_billing.domain.metadata import Json, frozen_metadata
from cogni_billing.domain.timestamps import Expiry
from cogni_billing.domain.transactions import Draw, Overrun, Transaction


class HoldChangeKind(StrEnum):
    """The kind of a change of the credits that a hold sets aside."""

    OPENING = "opening"
    EXTENSION = "extension"
    OVERRUN = "overrun"
    CAPTURE = "capture"
    RELEASE = "release"


@frozen
class HoldChange:
    """A recorded change of the credits that a hold sets aside.

    `amount` is the change, with its sign. `draws` are the parts of it that come from grants.
    """

    kind: HoldChangeKind
    at: datetime
    amount: Amount
    draws: tuple[Draw, ...] = ()


def _overrun(given: object) -> Overrun:
    if isinstance(given, Overrun):
        return given
    if not isinstance(given, str) or given not in list(Overrun):
        raise InvalidInput("overrun", shown(given), "a value of Overrun")
    return Overrun(given)


def _flag(given: object) -> bool:
    if not isinstance(given, bool):
        raise InvalidInput("final", shown(given), "True or False")
    return given


@frozen(kw_only=True)
class CaptureRequest:
    """The validated arguments of `Billing.capture`."""

    tenant: TenantId = field(converter=tenant_id)
    amount: Amount = field(converter=credits_from_zero)
    reference: str = field(converter=checked_reference)
    metadata: Mapping[str, Json] = field(converter=frozen_metadata)
    hold_id: UUID = field(converter=checked_hold_id)
    final: bool = field(converter=_flag)
    overrun: Overrun = field(converter=_overrun)


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
        final=request.final,
        overrun=request.overrun,
    )


@frozen(kw_only=True)
class Extension:
    """The validated arguments of `Billing.extend`, at a moment."""

    tenant: TenantId = field(converter=tenant_id)
    hold_id: UUID = field(converter=checked_hold_id)
    amount: Amount | None = field(converter=optional(positive_credits))
    expiry: Expiry
    reference: str = field(converter=checked_reference)
    at: datetime
    id: UUID

    def __attrs_post_init__(self) -> None:
        if self.amount is None and not self.expiry.is_given:
            raise InvalidInput("amount", "None", "an amount, expires_at or expires_in")
        assert self.expires_at is None or self.expiry.is_given  # and the lifetime ends in time

    @property
    def expires_at(self) -> datetime | None:
        """The new expiry of the hold. `None` leaves it unchanged.

        Raises:
            InvalidTime: the lifetime ends too late.
        """
        return self.expiry.starting(self.at)

    @property
    def request(self) -> requests.Request:
        """The caller's request, field by field. Two requests are the same if these are equal."""
        return requests.hold_extension(self.hold_id, self.amount, self.expiry)


@frozen(kw_only=True)
class Release:
    """The validated arguments of `Billing.release` with a reference, at a moment."""

    tenant: TenantId = field(converter=tenant_id)
    hold_id: UUID = field(converter=checked_hold_id)
    amount: Amount | None = field(converter=optional(positive_credits))
    reference: str = field(converter=checked_reference)
    at: datetime
    id: UUID

    @property
    def request(self) -> requests.Request:
        """The caller's request, field by field. Two requests are the same if these are equal."""
        return requests.hold_release(self.hold_id, self.amount)
