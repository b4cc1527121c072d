"""The limit of a tenant's overdrafts, which an operator sets."""

from __future__ import annotations

from cogni_billing.application.cases import ServiceCase
from cogni_billing.domain.accounts import Account
from cogni_billing.domain.amounts import credits_from_zero
from cogni_billing.domain.identity import tenant_id


def set_overdraft_limit(tenant: object, amount: object) -> ServiceCase[Account]:
    owner = tenant_id(tenant)
    limit = None if amount is None else credits_from_zero(amount)
    return ServiceCase(owner, lambda scope: scope.books.limit_overdraft(owner, limit))
