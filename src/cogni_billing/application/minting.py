"""Credits that a tenant gets: confirmed purchases and grants."""

from __future__ import annotations

from datetime import datetime

from cogni_billing.application.acting import acted
from cogni_billing.application.batches import Plan, batch
from cogni_billing.application.cases import PostCase, SingleCase, StepsCase
from cogni_billing.application.context import Context
from cogni_billing.domain.accounts import Account
from cogni_billing.domain.batches import Outcome
from cogni_billing.domain.grants import GrantRequest, plan_grant
from cogni_billing.domain.identity import tenant_id
from cogni_billing.domain.kinds import TransactionKind
from cogni_billing.domain.purchases import (
    Purchase,
    PurchaseRequest,
    ReplayOnly,
    plan_or_replay,
    request_purchase,
)
from cogni_billing.domain.receipts import (
    GrantReceipt,
    PurchaseReceipt,
    grant_receipt,
    purchase_receipt,
)
from cogni_billing.domain.transactions import Transaction
from cogni_billing.ports.scope import Scope


def open_account(context: Context, tenant: object) -> SingleCase[Account]:
    owner, opened_at = tenant_id(tenant), context.now()
    return SingleCase(owner, lambda scope: scope.tenants.open_account(opened_at))


def confirm_purchase(
    context: Context, purchase: Purchase
) -> PostCase[PurchaseReceipt] | SingleCase[PurchaseReceipt]:
    request = request_purchase(purchase)
    plan = _plan(context, request, context.now())
    if isinstance(plan, Transaction):
        return PostCase(plan, purchase_receipt)

    def find(scope: Scope) -> PurchaseReceipt:
        stored = scope.ledger.replay(TransactionKind.PURCHASE, request.payment)
        return purchase_receipt(plan.answer(stored))

    return SingleCase(request.buyer, find)


def confirm_purchases(
    context: Context, purchases: object, *, all_or_nothing: object
) -> StepsCase[tuple[Outcome[PurchaseReceipt], ...]]:
    at = context.now()

    def plan(purchase: Purchase) -> Plan:
        return _plan(context, request_purchase(purchase), at)

    return batch(purchases, Purchase, plan, purchase_receipt, all_or_nothing=all_or_nothing)


def _plan(context: Context, request: PurchaseRequest, at: datetime) -> Transaction | ReplayOnly:
    plan = plan_or_replay(request, context.policy, at, context.new_id(), context.prices)
    return acted(plan) if isinstance(plan, Transaction) else plan


def grant(context: Context, request: GrantRequest) -> PostCase[GrantReceipt]:
    planned = plan_grant(request, at=context.now(), transaction_id=context.new_id())
    return PostCase(acted(planned), grant_receipt)
