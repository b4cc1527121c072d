"""Finds a payment by the processor's id, whichever tenant has claimed it."""

from __future__ import annotations

from cogni_billing.application.cases import ServiceCase, Steps, in_steps
from cogni_billing.application.context import Context
from cogni_billing.domain.found_payments import Claim, FoundPayment, found_payment
from cogni_billing.domain.identity import SYSTEM_TENANT_ID, payment_reference
from cogni_billing.ports.scope import ServiceScope


@in_steps
def find_payment(context: Context, payment: object) -> Steps[FoundPayment | None]:
    wanted, now = payment_reference(payment), context.now()
    claim: Claim | None = yield ServiceCase(
        SYSTEM_TENANT_ID, lambda scope: scope.books.claim([wanted])
    )
    if claim is None:
        return None

    def find(scope: ServiceScope) -> FoundPayment | None:
        payment = scope.ledger.payment(claim.payment, now)
        return None if payment is None else found_payment(payment)

    credited: FoundPayment | None = yield ServiceCase(claim.tenant, find)
    return credited
