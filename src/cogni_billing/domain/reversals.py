"""Reversals: refunds, the chargebacks of lost disputes, and reinstatements, which undo these."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from uuid import UUID

from attrs import field, frozen
from attrs.converters import optional

from cogni_billing.domain import requests
from cogni_billing.domain.amounts import CREDIT, ZERO, Amount, positive, total
from cogni_billing.domain.disputes import Dispute, DisputeRequest
from cogni_billing.domain.errors import InvalidInput, UnknownRefund, shown
from cogni_billing.domain.identity import (
    AccountId,
    TenantId,
    account_of,
    payment_reference,
    tenant_id,
)
from cogni_billing.domain.identity import reference as checked_reference
from cogni_billing.domain.kinds import TransactionKind
from cogni_billing.domain.metadata import EMPTY, Json, frozen_metadata
from cogni_billing.domain.payments import Payment
from cogni_billing.domain.policies import CLAWBACKS, Shortfall
from cogni_billing.domain.shares import Share
from cogni_billing.domain.transactions import Recorded, Reversal, Transaction


def checked_shortfall(given: object) -> Shortfall:
    """*given* as a `Shortfall`.

    Raises:
        InvalidInput: *given* is no `Shortfall`.
    """
    if not isinstance(given, Shortfall):
        raise InvalidInput("shortfall", shown(given), "a Shortfall")
    return given


def checked_clawback(given: object) -> Shortfall:
    """*given* as the rule for a loss that cannot be refused.

    Raises:
        InvalidInput: *given* is no `Shortfall`, or refuses the loss.
    """
    if (rule := checked_shortfall(given)) not in CLAWBACKS:
        expected = "Shortfall.DEBT or Shortfall.CLAMP, because the payment is lost"
        raise InvalidInput("shortfall", shown(rule.name), expected)
    return rule


def _checked_total(given: object) -> Amount:
    return positive(given, "total")


def _checked_refund(given: object) -> str:
    return checked_reference(given, "refund")


@frozen(kw_only=True)
class ReversalRequest:
    """The validated arguments of a refund or of a lost dispute."""

    tenant: TenantId = field(converter=tenant_id)
    amount: Amount | None = field(default=None, converter=optional(positive))
    total: Amount | None = field(default=None, converter=optional(_checked_total))
    payment: str = field(converter=payment_reference)
    reference: str = field(converter=checked_reference)
    shortfall: Shortfall = field(converter=checked_shortfall)
    metadata: Mapping[str, Json] = field(converter=frozen_metadata)

    def __attrs_post_init__(self) -> None:
        if self.amount is not None and self.total is not None:
            raise InvalidInput("total", str(self.total), "no total beside an amount")

    @property
    def identity(self) -> requests.Request:
        """The fields that a replay must repeat."""
        return requests.reversal(self.payment, self.amount, self.shortfall, self.total)


@frozen(kw_only=True)
class FailureRequest:
    """The validated arguments of `Billing.refund_failed`."""

    tenant: TenantId = field(converter=tenant_id)
    payment: str = field(converter=payment_reference)
    refund: str = field(converter=_checked_refund)
    reference: str = field(converter=checked_reference)
    metadata: Mapping[str, Json] = field(converter=frozen_metadata)

    @property
    def identity(self) -> requests.Request:
        """The fields that a replay must repeat."""
        return requests.reinstatement(self.payment, self.refund)


@frozen
class Recoverable:
    """The credits that can be taken back from each account that must not go into debt."""

    credits: Mapping[AccountId, Amount] = field(factory=dict)

    def __or__(self, other: Recoverable) -> Recoverable:
        return Recoverable({**self.credits, **other.credits})

    def of(self, account: AccountId, wanted: Amount) -> Amount:
        """The recoverable part of *wanted*. All of it for an account that is not listed."""
        return min(wanted, max(self.credits.get(account, wanted), ZERO))

    def with_freed(self, payment: Payment, disputes: tuple[Dispute, ...]) -> Recoverable:
        """These credits, once *disputes* of *payment* set aside what is given there."""
        return Recoverable(
            {
                account: available + payment.freed(disputes, account)
                for account, available in self.credits.items()
            }
        )


def plan_refund(
    request: ReversalRequest,
    payment: Payment,
    recoverable: Recoverable,
    *,
    at: datetime,
    transaction_id: UUID,
) -> Transaction:
    """Plan the refund of a part of *payment*.

    Raises:
        UnitMismatch, RefundExceedsPayment: see `Payment.part`.
    """
    part = payment.part(request.amount, request.total)
    plan = _Plan(payment, payment.after(part), recoverable, at, transaction_id)
    asked = None if request.amount is None and request.total is None else part
    return plan.reversal(TransactionKind.REFUND, request, asked)


def plan_chargeback(
    request: ReversalRequest,
    payment: Payment,
    recoverable: Recoverable,
    *,
    at: datetime,
    transaction_id: UUID,
    dispute: UUID,
) -> Transaction:
    """Plan the chargeback of a dispute that *payment* has as lost."""
    plan = _Plan(payment, payment.due, recoverable, at, transaction_id)
    return plan.reversal(TransactionKind.CHARGEBACK, request, request.amount, dispute)


@frozen
class _Plan:
    payment: Payment
    after: Amount
    recoverable: Recoverable
    at: datetime
    transaction_id: UUID

    def reversal(
        self,
        kind: TransactionKind,
        request: ReversalRequest,
        asked: Amount | None,
        subject: UUID | None = None,
    ) -> Transaction:
        """The transaction that takes back credits and shares, until `after` is returned.

        Credits of the payment that have expired come from `breakage`. If `recoverable` limits an
        account, the `shortfall` account absorbs the rest.
        """
        payment, after = self.payment, self.after
        lapsed, shares = payment.lapsed_to(after), payment.shares_to(after)
        wanted = payment.credits_to(after) - lapsed
        taken = self.recoverable.of(account_of(request.tenant), wanted)
        taken_shares = tuple(
            Share(share.beneficiary, -self.recoverable.of(share.beneficiary, share.amount))
            for share in shares
        )
        absorbed = (wanted - taken) + total(
            (share.amount + left.amount for share, left in zip(shares, taken_shares, strict=True)),
            CREDIT,
        )
        return Transaction(
            id=self.transaction_id,
            tenant=request.tenant,
            kind=kind,
            reference=request.reference,
            at=self.at,
            amount=-taken,
            shares=taken_shares,
            metadata=request.metadata,
            subject=subject,
            absorbed=absorbed,
            lapsed=lapsed,
            reversal=Reversal(
                purchase=payment.purchase.id,
                payment=request.payment,
                amount=after - payment.returned,
                total=after,
                asked=asked,
                up_to=request.total,
                shortfall=request.shortfall,
            ),
        )


def plan_reinstatement(
    payment: Payment,
    after: Amount,
    *,
    subject: UUID,
    reference: str,
    refund: str | None = None,
    metadata: Mapping[str, Json] = EMPTY,
    at: datetime,
    transaction_id: UUID,
) -> Transaction:
    """Plan the transaction that gives credits back, until only *after* is returned.

    *subject* is the refund or the dispute that it undoes. The ledger fills in the amounts, which
    follow from the earlier reversals.
    """
    return Transaction(
        id=transaction_id,
        tenant=payment.purchase.tenant,
        kind=TransactionKind.REINSTATEMENT,
        reference=reference,
        at=at,
        amount=ZERO,
        metadata=metadata,
        subject=subject,
        reversal=Reversal(
            purchase=payment.purchase.id,
            payment=payment.purchase.reference,
            amount=payment.returned - after,
            total=after,
            refund=refund,
        ),
    )


def known_refund(found: Recorded | None, reference: str, payment: str) -> Transaction:
    """The transaction of *found*, which must be a refund of *payment*.

    Raises:
        UnknownRefund: *found* is `None`, or is a refund of another payment.
    """
    reversal = None if found is None else found.transaction.reversal
    if found is None or reversal is None or reversal.payment != payment:
        raise UnknownRefund(reference, payment)
    return found.transaction


def plan_dispute(
    request: DisputeRequest, payment: Payment, *, at: datetime, dispute_id: UUID
) -> Dispute:
    """Plan the dispute of the requested part of *payment*, or of all that is not disputed yet.

    The ledger sets the credits aside.

    Raises:
        UnitMismatch: the request is in another unit than the payment.
    """
    payment.require_unit(request.amount, "amount")
    return Dispute(
        id=dispute_id,
        tenant=request.tenant,
        payment=request.payment,
        reference=request.reference,
        amount=payment.undisputed if request.amount is None else request.amount,
        set_aside=ZERO,
        shares=payment.shares_to(payment.returned),
        opened_at=at,
        purchase=payment.purchase.id,
        metadata=request.metadata,
        asked=request.amount,
    )
