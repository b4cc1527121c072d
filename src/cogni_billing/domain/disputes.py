"""Disputes: the credits of a disputed payment are set aside until the dispute ends."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from enum import StrEnum
from uuid import UUID

from attrs import field, frozen
from attrs.converters import optional

from cogni_billing.domain import requests
from cogni_billing.domain.amounts import ZERO, Amount, positive
from cogni_billing.domain.errors import UnknownDispute
from cogni_billing.domain.identity import TenantId, owner_of, payment_reference, tenant_id
from cogni_billing.domain.identity import reference as checked_reference
from cogni_billing.domain.metadata import EMPTY, Json, frozen_metadata
from cogni_billing.domain.shares import Share


class DisputeState(StrEnum):
    """The state of a dispute, as the bank said last. The bank may change its mind."""

    OPEN = "open"
    WON = "won"
    LOST = "lost"


@frozen(kw_only=True)
class Dispute:
    """A disputed payment, or a disputed part of one, in its present state.

    An open dispute sets credits aside: `set_aside` of the customer's, and each beneficiary's share,
    even beyond the available credits. Of a payment that was returned in part, no more than the rest
    is set aside. Winning releases the credits. Losing makes a chargeback.
    """

    id: UUID
    tenant: TenantId
    payment: str
    reference: str
    amount: Amount
    """The disputed part, in the unit of the payment."""
    set_aside: Amount
    """The customer's credits that are set aside now."""
    lapsed: Amount = ZERO
    """The credits of the part that have expired. They are not set aside."""
    shares: tuple[Share, ...]
    """The credits of beneficiaries that are set aside now."""
    opened_at: datetime
    state: DisputeState = DisputeState.OPEN
    lost: Amount | None = None
    """The lost part, if the bank named one. `None` for the whole disputed part, or if not lost."""
    purchase: UUID
    metadata: Mapping[str, Json] = EMPTY
    asked: Amount | None = None
    """The amount that `open_dispute` asked for. `None` if it disputed all that remained."""
    chargeback: UUID | None = None
    """The id of the chargeback of a lost dispute."""
    number: int = 0
    """The number of the changes so far: each is kept as history."""
    replayed: bool = False
    """True if an earlier call made the same request. The other fields are the present ones."""

    @property
    def request(self) -> requests.Request:
        """The caller's request, field by field. Two requests are the same if these are equal."""
        return requests.dispute(self.payment, self.asked)

    @property
    def is_open(self) -> bool:
        return self.state is DisputeState.OPEN

    @property
    def returned(self) -> Amount | None:
        """The part of the payment that the bank returned. `None` if the dispute is not lost."""
        if self.state is not DisputeState.LOST:
            return None
        return self.amount if self.lost is None else self.lost

    def parts(self) -> Iterator[tuple[TenantId, Amount]]:
        """The credits set aside on each wallet. A zero has no part."""
        if self.set_aside.value:
            yield self.tenant, self.set_aside
        for share in self.shares:
            if share.amount.value:
                yield owner_of(share.beneficiary), share.amount


@frozen(kw_only=True)
class DisputeRequest:
    """The validated arguments of `Billing.open_dispute`."""

    tenant: TenantId = field(converter=tenant_id)
    amount: Amount | None = field(default=None, converter=optional(positive))
    payment: str = field(converter=payment_reference)
    reference: str = field(converter=checked_reference)
    metadata: Mapping[str, Json] = field(converter=frozen_metadata)

    @property
    def identity(self) -> requests.Request:
        """The fields that a replay must repeat."""
        return requests.dispute(self.payment, self.amount)


def known_dispute(found: Dispute | None, reference: str, payment: str) -> Dispute:
    """*found*, which must be a dispute of *payment*.

    Raises:
        UnknownDispute: *found* is `None`, or is a dispute of another payment.
    """
    if found is None or found.payment != payment:
        raise UnknownDispute(reference, payment)
    return found
