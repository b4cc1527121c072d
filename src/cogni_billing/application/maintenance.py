"""Work of operators on the books: sweep, fold, forget, verify and seal."""

from __future__ import annotations

from datetime import datetime
from typing import Final

from cogni_billing.application.cases import ServiceCase, SingleCase, Steps, in_steps
from cogni_billing.application.context import Context
from cogni_billing.application.sweeping import Sweep
from cogni_billing.domain.errors import InvalidInput, shown
from cogni_billing.domain.folding import Folding
from cogni_billing.domain.identity import SYSTEM_TENANT_ID, TenantId, tenant_id
from cogni_billing.domain.seals import Seal, Seals
from cogni_billing.domain.verification import Verification, Violation
from cogni_billing.domain.wallets import DueWallet

VIOLATIONS_MAX: Final = 100_000


@in_steps
def sweep(context: Context) -> Steps[int]:
    now, swept = context.now(), Sweep[TenantId]()
    last: DueWallet | None = None
    while page := (yield _due(now, last)):
        for last in page:
            if last.tenant not in swept.tried:
                with swept.trying(last.tenant):
                    expire = SingleCase(last.tenant, lambda scope: scope.ledger.expire_due(now))
                    swept.done += yield expire
    return swept.outcome()


def _due(now: datetime, after: DueWallet | None) -> ServiceCase[tuple[DueWallet, ...]]:
    return ServiceCase(SYSTEM_TENANT_ID, lambda scope: scope.books.due(now, after))


@in_steps
def fold() -> Steps[Folding]:
    position = yield ServiceCase(SYSTEM_TENANT_ID, lambda scope: scope.books.safe_position())
    # In a scope of its own, which sees every arrival below that position.
    folding: Folding = yield ServiceCase(SYSTEM_TENANT_ID, lambda scope: scope.books.fold(position))
    return folding


def forget(context: Context, tenant: object) -> ServiceCase[int]:
    owner, now = tenant_id(tenant), context.now()
    return ServiceCase(owner, lambda scope: scope.books.forget(owner, now, context.retention))


def verify(limit: object) -> ServiceCase[Verification]:
    if type(limit) is not int or not 1 <= limit <= VIOLATIONS_MAX:
        expected = f"a whole number from 1 to {VIOLATIONS_MAX}"
        raise InvalidInput("limit", shown(limit), expected)
    return ServiceCase(SYSTEM_TENANT_ID, lambda scope: scope.books.verify(limit))


def seal(seals: object, key: object) -> ServiceCase[tuple[Seal, ...]]:
    given = Seals.of(seals, key)
    return ServiceCase(
        SYSTEM_TENANT_ID,
        lambda scope: tuple(given.added(scope.books.transaction_counts(), scope.books.history)),
    )


def verify_seals(seals: object, key: object) -> ServiceCase[tuple[Violation, ...]]:
    given = Seals.of(seals, key)
    return ServiceCase(SYSTEM_TENANT_ID, lambda scope: tuple(given.violations(scope.books.history)))
