"""The balance that a tenant brings from another system."""

from __future__ import annotations

from attrs import evolve

from cogni_billing.application.acting import acted
from cogni_billing.application.cases import ServiceCase
from cogni_billing.application.context import Context
from cogni_billing.domain.openings import OpeningRequest, plan_opening
from cogni_billing.domain.receipts import OpeningReceipt, opening_receipt


def opening(context: Context, request: OpeningRequest) -> ServiceCase[OpeningReceipt]:
    ids = [context.new_id() for _ in range(len(request.grants) + 1)]
    planned = plan_opening(request, at=context.now(), ids=ids)
    named = evolve(
        planned, balance=acted(planned.balance), grants=tuple(map(acted, planned.grants))
    )
    return ServiceCase(
        request.tenant, lambda scope: opening_receipt(scope.ledger.record_opening(named))
    )
