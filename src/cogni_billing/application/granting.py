"""Grants after they are made: they are voided and extended."""

from __future__ import annotations

from cogni_billing.application.acting import acted
from cogni_billing.application.cases import SingleCase
from cogni_billing.application.context import Context
from cogni_billing.domain.grants import GrantExtension, VoidRequest, plan_extension, plan_void
from cogni_billing.domain.identity import tenant_id
from cogni_billing.domain.receipts import VoidReceipt, void_receipt
from cogni_billing.domain.timestamps import Expiry


def void_grant(context: Context, request: VoidRequest) -> SingleCase[VoidReceipt]:
    planned = acted(plan_void(request, at=context.now(), transaction_id=context.new_id()))
    return SingleCase(request.tenant, lambda scope: void_receipt(scope.ledger.void_grant(planned)))


def extend_grant(
    context: Context, tenant: object, grant_id: object, *, expiry: Expiry, reference: object
) -> SingleCase[GrantExtension]:
    owner = tenant_id(tenant)
    planned = plan_extension(grant_id, expiry, reference, at=context.now())
    return SingleCase(owner, lambda scope: scope.ledger.extend_grant(planned))
