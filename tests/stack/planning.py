"""Transactions as the library plans them, to be forged."""

from __future__ import annotations

from uuid import UUID

from cogni_billing import TenantId, credits
from cogni_billing.domain.charges import plan_charge
from cogni_billing.domain.transactions import Transaction
from cogni_billing.testing import ALICE, NOON


def planned_charge(
    tenant: TenantId = ALICE, *, amount: int = 100, number: int = 88, overdraft: bool = False
) -> Transaction:
    """A charge, planned as `Billing.charge` plans it."""
    return plan_charge(
        tenant,
        credits(amount),
        reference="run-1",
        allow_overdraft=overdraft,
        metadata=None,
        at=NOON,
        transaction_id=UUID(int=number),
    )
