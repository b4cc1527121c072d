"""Values to parameters, and rows to values."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from cogni_billing.domain.accounts import Account
from cogni_billing.domain.amounts import Amount, Unit
from cogni_billing.domain.disputes import Dispute, DisputeState
from cogni_billing.domain.errors import LedgerCorruption
from cogni_billing.domain.grants import Grant
from cogni_billing.domain.holds import Hold, HoldState
from cogni_billing.domain.identity import AccountId, TenantId, account_of
from cogni_billing.domain.metadata import encoded, read_only
from cogni_billing.domain.shares import Share
from cogni_billing.domain.statements import Line
from cogni_billing.domain.transactions import (
    GrantTerms,
    Recorded,
    Reversal,
    Transaction,
    TransactionKind,
    balanced,
)

Parameters = dict[str, Any]


def transaction_parameters(transaction: Transaction) -> Parameters:
    """What the statement that posts a transaction takes."""
    own, *others = transaction.postings
    terms, reversal = transaction.terms, transaction.reversal
    return {
        "tenant": transaction.tenant,
        "account": own.account,
        "id": transaction.id,
        "kind": transaction.kind.value,
        "reference": transaction.reference,
        "unit": own.amount.unit.code,
        "amount": own.amount.value,
        "beneficiaries": _array(share.beneficiary for share in transaction.shares),
        "shares": _array(share.amount.value for share in transaction.shares),
        "request": encoded(transaction.request),
        "policy": encoded(transaction.policy),
        "metadata": encoded(transaction.metadata),
        "overdraft": transaction.overdraft,
        "subject": transaction.subject,
        "absorbed": transaction.absorbed.value,
        "reverses": reversal and reversal.purchase,
        "returned": reversal and reversal.amount.value,
        "returned_total": reversal and reversal.total.value,
        "returned_unit": reversal and reversal.total.unit.code,
        "source": terms and terms.source,
        "priority": terms and terms.priority,
        "expires_at": terms and terms.expires_at,
        "at": transaction.at,
        "other_tenants": _array(posting.tenant for posting in others),
        "other_accounts": _array(posting.account for posting in others),
        "other_amounts": _array(posting.amount.value for posting in others),
    }


def batch_parameters(tenant: TenantId, transactions: Sequence[Transaction]) -> Parameters:
    """What the statement that posts many transactions of one kind and moment takes."""
    first = transactions[0]
    # Almost all of them have the same one.
    policies = [encoded(each.policy) for each in transactions]
    numbers = {policy: number for number, policy in enumerate(dict.fromkeys(policies), start=1)}
    legs = [
        (transaction.id, sequence, posting)
        for transaction in transactions
        for sequence, posting in enumerate(transaction.postings[1:], start=2)
    ]
    return account_parameters(tenant) | {
        "kind": first.kind.value,
        "unit": first.amount.unit.code,
        "at": first.at,
        "ids": [each.id for each in transactions],
        "references": [each.reference for each in transactions],
        "amounts": [each.amount.value for each in transactions],
        "overdrafts": [each.overdraft for each in transactions],
        "beneficiaries": [_array(s.beneficiary for s in each.shares) for each in transactions],
        "shares": [_array(s.amount.value for s in each.shares) for each in transactions],
        "requests": [encoded(each.request) for each in transactions],
        "policies": list(numbers),
        "policy_numbers": [numbers[policy] for policy in policies],
        "metadata": [encoded(each.metadata) for each in transactions],
        "leg_ids": [id_ for id_, _, _ in legs],
        "leg_sequences": [sequence for _, sequence, _ in legs],
        "leg_tenants": [posting.tenant for _, _, posting in legs],
        "leg_accounts": [posting.account for _, _, posting in legs],
        "leg_amounts": [posting.amount.value for _, _, posting in legs],
    }


def _array(values: Iterable[UUID | Decimal]) -> str:
    """An array as PostgreSQL reads it. Arrays of arrays would have to be of one length; and a
    driver takes its time to find out what is in a list.
    """
    return "{" + ",".join(map(str, values)) + "}"


def recorded_from(row: Any, tenant: TenantId) -> Recorded:
    """What *row* holds of a transaction that *tenant* made before."""
    kind = TransactionKind(row.kind)
    unit = Unit.of(row.unit)
    amount, absorbed = Amount.computed(row.amount, unit), Amount.computed(row.absorbed, unit)
    shares = shares_from(row)
    transaction = Transaction(
        id=row.id,
        tenant=tenant,
        kind=kind,
        reference=row.reference,
        at=row.occurred_at.astimezone(UTC),
        postings=balanced(kind, tenant, amount, shares, absorbed),
        shares=shares,
        request=document(row.request),
        policy=read_only(document(row.policy)),
        metadata=read_only(document(row.metadata)),
        overdraft=row.overdraft,
        subject=row.subject_id,
        terms=terms_from(row) if kind is TransactionKind.GRANT else None,
        absorbed=absorbed,
        reversal=reversal_from(row) if kind.reverses else None,
    )
    return Recorded(transaction, Amount.computed(row.balance_after, unit), replayed=True)


def document(recorded: str) -> dict[str, Any]:
    """The JSON that is *recorded*.

    Raises:
        LedgerCorruption: Python takes none like it, so nobody but a forger can have written it.
    """
    try:
        found: dict[str, Any] = json.loads(recorded)
    except (ValueError, RecursionError) as error:
        raise LedgerCorruption(f"a record cannot be read ({type(error).__name__})") from error
    return found


def shares_from(row: Any) -> tuple[Share, ...]:
    """The shares that *row* holds."""
    unit = Unit.of(row.unit)
    return tuple(
        Share(AccountId(beneficiary), Amount.computed(share, unit))
        for beneficiary, share in zip(row.beneficiaries, row.shares, strict=True)
    )


def reversal_from(row: Any) -> Reversal:
    """What the refund or chargeback that *row* holds takes back."""
    unit = Unit.of(row.returned_unit)
    return Reversal(
        purchase=row.reverses,
        amount=Amount.computed(row.returned, unit),
        total=Amount.computed(row.returned_total, unit),
    )


def terms_from(row: Any) -> GrantTerms:
    """The terms of a grant that *row* holds."""
    return GrantTerms(
        source=row.source,
        priority=row.priority,
        expires_at=row.expires_at and row.expires_at.astimezone(UTC),
    )


def grant_from(row: Any) -> Grant:
    """The grant that *row* holds."""
    unit, terms = Unit.of(row.unit), terms_from(row)
    return Grant(
        id=row.id,
        amount=Amount.computed(row.amount, unit),
        source=terms.source,
        priority=terms.priority,
        expires_at=terms.expires_at,
        granted_at=row.granted_at.astimezone(UTC),
        remaining=Amount.computed(row.remaining, unit),
    )


def dispute_parameters(dispute: Dispute) -> Parameters:
    """What the statement that records a dispute takes."""
    return {
        "tenant": dispute.tenant,
        "id": dispute.id,
        "reference": dispute.reference,
        "purchase": dispute.purchase,
        "payment": dispute.payment,
        "disputed": dispute.amount.value,
        "disputed_unit": dispute.amount.unit.code,
        "unit": dispute.set_aside.unit.code,
        "amount": dispute.set_aside.value,
        "beneficiaries": _array(share.beneficiary for share in dispute.shares),
        "shares": _array(share.amount.value for share in dispute.shares),
        "request": encoded(dispute.request),
        "metadata": encoded(dispute.metadata),
        "at": dispute.opened_at,
    }


def dispute_from(row: Any) -> Dispute:
    """The dispute that *row* holds, in its present state."""
    ended = DisputeState.LOST if row.lost else DisputeState.WON
    return Dispute(
        id=row.id,
        tenant=TenantId(row.tenant_id),
        payment=row.payment,
        reference=row.reference,
        amount=Amount.computed(row.disputed, Unit.of(row.disputed_unit)),
        set_aside=Amount.computed(row.amount, Unit.of(row.unit)),
        shares=shares_from(row),
        opened_at=row.opened_at.astimezone(UTC),
        state=DisputeState.OPEN if row.state == "open" else ended,
        purchase=row.purchase_id,
        metadata=read_only(document(row.metadata)),
        request=document(row.request),
    )


def hold_parameters(hold: Hold) -> Parameters:
    """What the statement that records a hold takes."""
    return account_parameters(hold.tenant) | {
        "id": hold.id,
        "reference": hold.reference,
        "unit": hold.amount.unit.code,
        "amount": hold.amount.value,
        "at": hold.opened_at,
        "expires_at": hold.expires_at,
        "ends_at": hold.ends_at,
        "request": encoded(hold.request),
        "metadata": encoded(hold.metadata),
    }


def hold_from(row: Any, now: datetime) -> Hold:
    """The hold that *row* holds, in its present state."""
    unit = Unit.of(row.unit)
    state = HoldState(row.state)
    hold = Hold(
        id=row.id,
        tenant=TenantId(row.tenant_id),
        reference=row.reference,
        amount=Amount.computed(row.amount, unit),
        opened_at=row.opened_at.astimezone(UTC),
        expires_at=row.expires_at and row.expires_at.astimezone(UTC),
        state=state,
        captured=Amount.computed(row.captured, unit),
        ended_at=None if state is HoldState.OPEN else row.ends_at.astimezone(UTC),
        metadata=read_only(document(row.metadata)),
        request=document(row.request),
    )
    return hold.at(now)


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
