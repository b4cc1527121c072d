"""Credits that a tenant spends, or sets aside: charges, holds and captures."""

from __future__ import annotations

from cogni_billing.application.acting import acted
from cogni_billing.application.batches import Plan, batch
from cogni_billing.application.cases import PostCase, SingleCase, StepsCase
from cogni_billing.application.context import Context
from cogni_billing.domain.batches import Outcome
from cogni_billing.domain.charges import Charge, plan_charge
from cogni_billing.domain.giving_back import GiveBackRequest, plan_giving_back
from cogni_billing.domain.hold_changes import CaptureRequest, Extension, Release, plan_capture
from cogni_billing.domain.holds import Hold, HoldRequest, checked_hold_id, plan_hold
from cogni_billing.domain.identity import tenant_id
from cogni_billing.domain.receipts import (
    CaptureReceipt,
    ChargeReceipt,
    ReversalReceipt,
    capture_receipt,
    charge_receipt,
    reversal_receipt,
)
from cogni_billing.domain.timestamps import Expiry


def charge(context: Context, asked: Charge) -> PostCase[ChargeReceipt]:
    planned = plan_charge(asked, at=context.now(), transaction_id=context.new_id())
    return PostCase(acted(planned), charge_receipt)


def charge_many(
    context: Context, charges: object, *, all_or_nothing: object
) -> StepsCase[tuple[Outcome[ChargeReceipt], ...]]:
    at = context.now()

    def plan(asked: Charge) -> Plan:
        return acted(plan_charge(asked, at=at, transaction_id=context.new_id()))

    return batch(charges, Charge, plan, charge_receipt, all_or_nothing=all_or_nothing)


def hold(context: Context, request: HoldRequest) -> SingleCase[Hold]:
    planned = plan_hold(request, at=context.now(), hold_id=context.new_id())
    return SingleCase(planned.tenant, lambda scope: scope.ledger.hold(planned))


def capture(context: Context, request: CaptureRequest) -> PostCase[CaptureReceipt]:
    planned = plan_capture(request, at=context.now(), transaction_id=context.new_id())
    return PostCase(acted(planned), capture_receipt)


def reverse(context: Context, request: GiveBackRequest) -> PostCase[ReversalReceipt]:
    planned = acted(plan_giving_back(request, at=context.now(), transaction_id=context.new_id()))
    return PostCase(planned, reversal_receipt)


def extend(
    context: Context,
    tenant: object,
    hold_id: object,
    amount: object,
    *,
    expiry: Expiry,
    reference: object,
) -> SingleCase[Hold]:
    extension = Extension(
        tenant=tenant,
        hold_id=hold_id,
        amount=amount,
        expiry=expiry,
        reference=reference,
        at=context.now(),
        id=context.new_id(),
    )
    return SingleCase(extension.tenant, lambda scope: scope.ledger.extend(extension))


def release(
    context: Context, tenant: object, hold_id: object, amount: object, *, reference: object
) -> SingleCase[Hold]:
    now = context.now()
    if amount is None and reference is None:
        owner, released = tenant_id(tenant), checked_hold_id(hold_id)
        return SingleCase(owner, lambda scope: scope.ledger.release(released, now))
    # A part needs a key: without one, a retry would release it twice.
    part = Release(
        tenant=tenant,
        hold_id=hold_id,
        amount=amount,
        reference=reference,
        at=now,
        id=context.new_id(),
    )
    return SingleCase(part.tenant, lambda scope: scope.ledger.release_part(part))
