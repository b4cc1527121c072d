"""Questions about one tenant's credits."""

from __future__ import annotations

from uuid import UUID

from cogni_billing.application.cases import SingleCase
from cogni_billing.application.context import Context
from cogni_billing.domain.errors import InvalidInput, shown
from cogni_billing.domain.grants import Grant, Lot
from cogni_billing.domain.holds import Hold, HoldPage, hold_page_of, hold_page_request
from cogni_billing.domain.identity import reference as checked_reference
from cogni_billing.domain.identity import tenant_id
from cogni_billing.domain.statements import (
    Balance,
    Page,
    TransactionView,
    grant_page,
    kind_of,
    page_of,
    page_request,
    view_of,
)
from cogni_billing.domain.timestamps import utc
from cogni_billing.domain.transactions import Recorded


def balance(context: Context, tenant: object, *, at: object) -> SingleCase[Balance]:
    owner = tenant_id(tenant)
    if at is None:
        now = context.now()
        return SingleCase(owner, lambda scope: scope.ledger.balance(now))
    moment = utc(at, "at")
    return SingleCase(owner, lambda scope: scope.ledger.balance_at(moment))


def lots(context: Context, tenant: object) -> SingleCase[tuple[Lot, ...]]:
    owner, now = tenant_id(tenant), context.now()
    return SingleCase(owner, lambda scope: scope.ledger.lots(now))


def grants(
    context: Context, tenant: object, *, spent: object, limit: object, after: object
) -> SingleCase[tuple[Grant, ...]]:
    owner = tenant_id(tenant)
    page, now = grant_page(spent=spent, limit=limit, after=after), context.now()
    if page is None:
        return SingleCase(owner, lambda scope: scope.ledger.grants(now))
    return SingleCase(owner, lambda scope: scope.ledger.all_grants(now, page))


def find_hold(context: Context, tenant: object, reference: object) -> SingleCase[Hold | None]:
    owner, key, now = tenant_id(tenant), checked_reference(reference), context.now()
    return SingleCase(owner, lambda scope: scope.ledger.find_hold(key, now))


def holds(
    context: Context, tenant: object, *, limit: object, after: object
) -> SingleCase[HoldPage]:
    owner, page, now = tenant_id(tenant), hold_page_request(limit, after), context.now()
    return SingleCase(owner, lambda scope: hold_page_of(scope.ledger.holds(page, now), page.limit))


def statement(
    context: Context,
    tenant: object,
    *,
    limit: object,
    after: object,
    kind: object,
    since: object,
    until: object,
) -> SingleCase[Page]:
    owner, now = tenant_id(tenant), context.now()
    page = page_request(limit, after, kind=kind, since=since, until=until, now=now)
    return SingleCase(owner, lambda scope: page_of(scope.ledger.lines(page), page.limit))


def find(tenant: object, *, reference: object, kind: object) -> SingleCase[TransactionView | None]:
    owner, key, sought = tenant_id(tenant), checked_reference(reference), kind_of(kind)
    return SingleCase(owner, lambda scope: _view(scope.ledger.find(sought, key)))


def transaction(tenant: object, transaction_id: object) -> SingleCase[TransactionView | None]:
    owner = tenant_id(tenant)
    if not isinstance(transaction_id, UUID):
        raise InvalidInput("transaction_id", shown(transaction_id), "a uuid.UUID")
    return SingleCase(owner, lambda scope: _view(scope.ledger.transaction(transaction_id)))


def _view(found: Recorded | None) -> TransactionView | None:
    return None if found is None else view_of(found)
