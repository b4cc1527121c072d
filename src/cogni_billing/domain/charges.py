"""A usage charge: credits that a tenant's work consumed."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from cogni_billing.domain.amounts import Amount, positive_credits
from cogni_billing.domain.errors import InvalidInput, shown
from cogni_billing.domain.identity import reference as checked_reference
from cogni_billing.domain.identity import tenant_id
from cogni_billing.domain.kinds import TransactionKind
from cogni_billing.domain.metadata import frozen_metadata
from cogni_billing.domain.transactions import Transaction


def plan_charge(
    tenant: object,
    amount: Amount,
    *,
    reference: object,
    allow_overdraft: object,
    metadata: object,
    at: datetime,
    transaction_id: UUID,
    kind: TransactionKind = TransactionKind.CHARGE,
) -> Transaction:
    """The transaction that takes *amount* from the tenant, for a kind that does nothing else."""
    payer = tenant_id(tenant)
    charged = positive_credits(amount, "amount")
    key = checked_reference(reference)
    copied = frozen_metadata(metadata)
    if not isinstance(allow_overdraft, bool):
        raise InvalidInput("allow_overdraft", shown(allow_overdraft), "True or False")
    return Transaction(
        id=transaction_id,
        tenant=payer,
        kind=kind,
        reference=key,
        at=at,
        amount=-charged,
        metadata=copied,
        overdraft=allow_overdraft,
    )
