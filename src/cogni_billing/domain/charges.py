"""Charges: credits taken for work that a tenant consumed."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from uuid import UUID

from attrs import frozen

from cogni_billing.domain.amounts import Amount, credits_from_zero
from cogni_billing.domain.errors import InvalidInput, shown
from cogni_billing.domain.identity import TenantId, tenant_id
from cogni_billing.domain.identity import reference as checked_reference
from cogni_billing.domain.kinds import TransactionKind
from cogni_billing.domain.metadata import frozen_metadata
from cogni_billing.domain.timestamps import utc
from cogni_billing.domain.transactions import Transaction


@frozen(kw_only=True)
class Charge:
    """A charge: the arguments of `Billing.charge`, which validates them."""

    tenant: TenantId | UUID
    amount: Amount
    reference: str
    allow_overdraft: bool = False
    at_most: bool = False
    occurred_at: datetime | None = None
    metadata: Mapping[str, object] | None = None


def plan_charge(
    charge: Charge,
    *,
    at: datetime,
    transaction_id: UUID,
    kind: TransactionKind = TransactionKind.CHARGE,
) -> Transaction:
    """Plan the transaction of a charge, or of another kind that only takes credits."""
    tenant = tenant_id(charge.tenant)
    amount = credits_from_zero(charge.amount)
    reference = checked_reference(charge.reference)
    metadata = frozen_metadata(charge.metadata)
    if not isinstance(charge.allow_overdraft, bool):
        raise InvalidInput("allow_overdraft", shown(charge.allow_overdraft), "True or False")
    if not isinstance(charge.at_most, bool):
        raise InvalidInput("at_most", shown(charge.at_most), "True or False")
    if charge.at_most and charge.allow_overdraft:
        raise InvalidInput("at_most", "True", "False in a call with allow_overdraft")
    occurred_at = None if charge.occurred_at is None else utc(charge.occurred_at, "occurred_at")
    return Transaction(
        id=transaction_id,
        tenant=tenant,
        kind=kind,
        reference=reference,
        at=at,
        amount=-amount,
        metadata=metadata,
        overdraft=charge.allow_overdraft,
        at_most=amount if charge.at_most else None,
        occurred_at=occurred_at,
    )
