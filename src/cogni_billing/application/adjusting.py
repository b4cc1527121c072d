"""Corrections that an operator makes to one tenant's credits."""

from __future__ import annotations

from cogni_billing.application.acting import acted
from cogni_billing.application.cases import ServiceCase
from cogni_billing.application.context import Context
from cogni_billing.domain.adjustments import AdjustmentRequest, plan_adjustment
from cogni_billing.domain.receipts import AdjustmentReceipt, adjustment_receipt


def adjust(context: Context, request: AdjustmentRequest) -> ServiceCase[AdjustmentReceipt]:
    planned = acted(plan_adjustment(request, at=context.now(), transaction_id=context.new_id()))
    return ServiceCase(request.tenant, lambda scope: adjustment_receipt(scope.ledger.post(planned)))
