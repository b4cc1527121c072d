"""A payment as the ledger knows it: its tenant, and the parts that were returned or disputed."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from attrs import frozen

from cogni_billing.domain.amounts import Amount, total
from cogni_billing.domain.disputes import Dispute
from cogni_billing.domain.identity import TenantId
from cogni_billing.domain.payments import Payment


@frozen
class Claim:
    """A payment that the ledger has credited, and the tenant that bought."""

    payment: str
    tenant: TenantId


@frozen(kw_only=True)
class FoundPayment:
    """A credited payment, as `Billing.find_payment` returns it. Amounts are in its own unit."""

    tenant: TenantId
    payment: str
    transaction_id: UUID
    """The purchase."""
    at: datetime
    """The time of the purchase."""
    paid: Amount
    refunded: Amount
    """The sum of the refunds that stand, without lost disputes."""
    disputed: Amount
    """The sum of its open disputes."""
    disputes: tuple[Dispute, ...]
    """All its disputes, in the order of their opening."""

    @property
    def open_disputes(self) -> tuple[Dispute, ...]:
        """The disputes that are neither won nor lost."""
        return tuple(each for each in self.disputes if each.is_open)


def found_payment(payment: Payment) -> FoundPayment:
    """*payment*, as a host sees it."""
    purchase, disputed = (
        payment.purchase,
        (each.amount for each in payment.disputes if each.is_open),
    )
    return FoundPayment(
        tenant=purchase.tenant,
        payment=purchase.reference,
        transaction_id=purchase.id,
        at=purchase.at,
        paid=payment.paid,
        refunded=payment.refunded,
        disputed=total(disputed, payment.paid.unit),
        disputes=payment.disputes,
    )
