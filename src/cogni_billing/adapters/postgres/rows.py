"""Values to parameters, and rows to values."""

from __future__ import annotations

from datetime import UTC
from typing import Any

from cogni_billing.domain.accounts import Account
from cogni_billing.domain.amounts import Amount, Unit
from cogni_billing.domain.identity import AccountId, TenantId, account_of
from cogni_billing.domain.metadata import encoded, read_only
from cogni_billing.domain.policies import Share
from cogni_billing.domain.statements import Line
from cogni_billing.domain.transactions import Recorded, Transaction, TransactionKind, balanced

Parameters = dict[str, Any]


def transaction_parameters(transaction: Transaction) -> Parameters:
    """What the statement that posts a transaction takes."""
    own, *others = transaction.postings
    return {
        "tenant": transaction.tenant,
        "account": own.account,
        "id": transaction.id,
        "kind": transaction.kind.value,
        "reference": transaction.reference,
        "unit": own.amount.unit.code,
        "amount": own.amount.value,
        "beneficiaries": [share.beneficiary for share in transaction.shares],
        "shares": [share.amount.value for share in transaction.shares],
        "request": encoded(transaction.request),
        "policy": encoded(transaction.policy),
        "metadata": encoded(transaction.metadata),
        "overdraft": transaction.overdraft,
        "at": transaction.at,
        "other_tenants": [posting.tenant for posting in others],
        "other_accounts": [posting.account for posting in others],
        "other_amounts": [posting.amount.value for posting in others],
    }


def recorded_from(row: Any, tenant: TenantId) -> Recorded:
    """What *row* holds of a transaction that *tenant* made before."""
    kind = TransactionKind(row.kind)
    unit = Unit.of(row.unit)
    amount = Amount.computed(row.amount, unit)
    shares = tuple(
        Share(AccountId(beneficiary), Amount.computed(share, unit))
        for beneficiary, share in zip(row.beneficiaries, row.shares, strict=True)
    )
    transaction = Transaction(
        id=row.id,
        tenant=tenant,
        kind=kind,
        reference=row.reference,
        at=row.occurred_at.astimezone(UTC),
        postings=balanced(kind, tenant, amount, shares),
        shares=shares,
        request=row.request,
        policy=read_only(row.policy),
        metadata=read_only(row.metadata),
        overdraft=row.overdraft,
    )
    return Recorded(transaction, Amount.computed(row.balance_after, unit), replayed=True)


def account_from(row: Any) -> Account:
    """The account that *row* holds."""
    return Account(
        AccountId(row.id),
        TenantId(row.tenant_id),
        row.opened_at.astimezone(UTC),
        row.slug,
        row.is_system_tenant,
    )


def line_of(row: Any) -> Line:
    """The statement line that *row* holds."""
    unit = Unit.of(row.unit)
    return Line(
        position=row.position,
        transaction_id=row.transaction_id,
        kind=TransactionKind(row.kind),
        reference=row.reference,
        amount=Amount.computed(row.amount, unit),
        balance_after=Amount.computed(row.balance_after, unit),
        at=row.occurred_at.astimezone(UTC),
    )


def account_parameters(tenant: TenantId) -> Parameters:
    """What finds a tenant's account."""
    return {"tenant": tenant, "account": account_of(tenant)}
