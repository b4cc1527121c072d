"""Freezes: an operator keeps a tenant from spending."""

from __future__ import annotations

from cogni_billing.application.cases import ServiceCase
from cogni_billing.application.context import Context
from cogni_billing.domain.accounts import Account, Freeze
from cogni_billing.domain.identity import tenant_id
from cogni_billing.domain.reasons import checked_reason


def freeze(context: Context, tenant: object, reason: object) -> ServiceCase[Account]:
    owner = tenant_id(tenant)
    wanted = Freeze(checked_reason(reason), context.now())
    return ServiceCase(owner, lambda scope: scope.books.freeze(owner, wanted))


def unfreeze(tenant: object) -> ServiceCase[Account]:
    owner = tenant_id(tenant)
    return ServiceCase(owner, lambda scope: scope.books.freeze(owner, None))
