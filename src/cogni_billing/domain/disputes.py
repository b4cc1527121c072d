"""Disputes: the credits of a disputed payment are set aside until the dispute ends."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from enum import StrEnum
from uuid import UUID, uuid5

from attrs import field, frozen
from attrs.converters import optional

from cogni_billing.domain import requests
from cogni_billing.domain.amounts import ZERO, Amount, positive
from cogni_billing.domain.errors import DisputeClosed, UnknownDispute
from cogni_billing.domain.holds import Hold
from cogni_billing.domain.identity import TenantId, owner_of, payment_reference, tenant_id
from cogni_billing.domain.identity import reference as checked_reference
from cogni_billing.domain.metadata import EMPTY, Json, frozen_metadata
from cogni_billing.domain.reversals import Payment
from cogni_billing.domain.shares import Share


class DisputeState(StrEnum):
    """The state of a dispute, as seen by the host."""

    OPEN = "open"
    WON = "won"
    LOST = "lost"


@frozen(kw_only=True)
class Dispute:
    """A disputed payment, or a disputed part of one.

    An open dispute sets credits aside: `set_aside` of the customer's, and each beneficiary's share,
    even beyond the available credits. Winning releases exactly these credits. Losing makes a
    chargeback.
    """

    id: UUID
    tenant: TenantId
    payment: str
    reference: str
    amount: Amount
    """In the unit of the payment."""
    set_aside: Amount
    lapsed: Amount = ZERO
    """The credits of the disputed part that had expired when it opened. They are not set aside."""
    shares: tuple[Share, ...]
    opened_at: datetime
    state: DisputeState = DisputeState.OPEN
    purchase: UUID
    metadata: Mapping[str, Json] = EMPTY
    asked: Amount | None = None
    """The amount that the caller asked for. `None` if the caller disputed all that remained."""
    replayed: bool = False
    """True if an earlier call opened the dispute. `state` is then the present one."""

    @property
    def request(self) -> requests.Request:
        """The caller's request, field by field. Two requests are the same if these are equal."""
        return requests.dispute(self.payment, self.asked)

    def parts(self) -> Iterator[Hold]:
        """The credits set aside on each wallet. A share of zero has no part."""
        yield self._part(self.id, self.tenant, self.set_aside)
        for share in self.shares:
            if not share.amount.is_zero:
                part_id = uuid5(self.id, str(share.beneficiary))
                yield self._part(part_id, owner_of(share.beneficiary), share.amount)

    def _part(self, part_id: UUID, owner: TenantId, amount: Amount) -> Hold:
        # Not the dispute's reference: a beneficiary must not learn about another tenant's dispute.
        return Hold(
            id=part_id,
            tenant=owner,
            reference=str(part_id),
            amount=amount,
            opened_at=self.opened_at,
        )

    def require_open(self) -> None:
        """Return if the dispute is open.

        Raises:
            DisputeClosed: the dispute was won or lost.
        """
        if self.state is not DisputeState.OPEN:
            raise DisputeClosed(self.reference, self.state)


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


def plan_dispute(
    request: DisputeRequest, payment: Payment, *, at: datetime, dispute_id: UUID
) -> Dispute:
    """Plan the dispute that sets aside the credits of the requested part of *payment*.

    Raises:
        UnitMismatch: the request is in another unit than the payment.
        RefundExceedsPayment: the request is larger than the rest of the payment, or the rest is
            zero.
    """
    amount = payment.part(request.amount)
    lapsed = payment.lapsed_of(amount)
    return Dispute(
        id=dispute_id,
        tenant=request.tenant,
        payment=request.payment,
        reference=request.reference,
        amount=amount,
        set_aside=payment.credits_of(amount) - lapsed,
        lapsed=lapsed,
        shares=payment.shares_of(amount),
        opened_at=at,
        purchase=payment.purchase.id,
        metadata=request.metadata,
        asked=request.amount,
    )


def known_dispute(found: Dispute | None, reference: str, payment: str) -> Dispute:
    """*found*, which must be a dispute of *payment*.

    Raises:
        UnknownDispute: *found* is `None`, or is a dispute of another payment.
    """
    if found is None or found.payment != payment:
        raise UnknownDispute(reference, payment)
    return found
