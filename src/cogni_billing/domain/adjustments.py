"""Adjustments: the corrections of operators, each for a reason."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from uuid import UUID

from attrs import field, frozen

from cogni_billing.domain.amounts import Amount, nonzero_credits
from cogni_billing.domain.identity import TenantId, tenant_id
from cogni_billing.domain.identity import reference as checked_reference
from cogni_billing.domain.kinds import TransactionKind
from cogni_billing.domain.metadata import Json, frozen_metadata
from cogni_billing.domain.reasons import checked_reason
from cogni_billing.domain.transactions import Transaction


def _checked_actor(given: object) -> str | None:
    return None if given is None else checked_reference(given, "actor")


@frozen(kw_only=True)
class AdjustmentRequest:
    """The validated arguments of `Billing.adjust`."""

    tenant: TenantId = field(converter=tenant_id)
    amount: Amount = field(converter=nonzero_credits)
    reason: str = field(converter=checked_reason)
    reference: str = field(converter=checked_reference)
    actor: str | None = field(converter=_checked_actor)
    metadata: Mapping[str, Json] = field(converter=frozen_metadata)


def plan_adjustment(
    request: AdjustmentRequest, *, at: datetime, transaction_id: UUID
) -> Transaction:
    """Plan the transaction that adds the amount, or takes it if it is below zero."""
    return Transaction(
        id=transaction_id,
        tenant=request.tenant,
        kind=TransactionKind.ADJUSTMENT,
        reference=request.reference,
        at=at,
        amount=request.amount,
        metadata=request.metadata,
        reason=request.reason,
        actor=request.actor,
    )
