"""A confirmed purchase: who is credited with what, and what the caller learns of it."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from attrs import frozen

from cogni_billing.domain.amounts import Amount, positive
from cogni_billing.domain.identity import account_of, reference, tenant_id
from cogni_billing.domain.metadata import frozen_metadata
from cogni_billing.domain.moments import utc
from cogni_billing.domain.policies import RevenueSharePolicy, Share
from cogni_billing.domain.pricing import credits_for
from cogni_billing.domain.transactions import Recorded, Transaction, TransactionKind, balanced


@frozen(kw_only=True)
class Receipt:
    """What a confirmed purchase did.

    On a replay everything is as it was the first time: the shares of the policy then in force,
    and the balance right after the purchase, not today's.
    """

    transaction_id: UUID
    credited: Amount
    shares: tuple[Share, ...]
    balance: Amount
    replayed: bool


def plan_purchase(
    tenant: object,
    amount: Amount,
    *,
    payment: object,
    metadata: object,
    policy: RevenueSharePolicy,
    at: datetime,
    transaction_id: UUID,
) -> Transaction:
    """The transaction that a confirmed payment of *amount* makes.

    The customer is credited in full (ceiling), each beneficiary gets its share of that on top
    (floor), `issuance` is debited for all of it. A beneficiary that is itself the buyer earns
    nothing: the system tenant's own purchase mints no share.
    """
    buyer = tenant_id(tenant)
    purchased = credits_for(positive(amount, "amount"))
    payment = reference(payment, "payment")
    metadata = frozen_metadata(metadata)
    moment = utc(at, "clock")
    policy = policy.for_buyer(account_of(buyer))
    shares = policy.shares_of(purchased, moment)
    return Transaction(
        id=transaction_id,
        tenant=buyer,
        kind=TransactionKind.PURCHASE,
        reference=payment,
        at=moment,
        postings=balanced(TransactionKind.PURCHASE, buyer, purchased, shares),
        shares=shares,
        request={"amount": str(amount)},
        policy=policy.to_dict(),
        metadata=metadata,
    )


def receipt_of(recorded: Recorded) -> Receipt:
    """What the caller learns of a recorded purchase."""
    return Receipt(
        transaction_id=recorded.transaction.id,
        credited=recorded.transaction.amount,
        shares=recorded.transaction.shares,
        balance=recorded.balance,
        replayed=recorded.replayed,
    )
