"""Applies payment events to the ledger: purchases, refunds and disputes, each exactly once.

An event and its effect are recorded in one transaction. An event that cannot be applied yet is kept
first. Then the ledger is looked at once more, because the purchase may have come in between.
"""

from __future__ import annotations

from datetime import datetime

from attrs import evolve, frozen

from cogni_billing.application.attempts import AttemptContext, reported
from cogni_billing.application.cases import ServiceCase, Steps, in_steps
from cogni_billing.application.minting import confirm_purchase
from cogni_billing.application.reconciling import reconcile
from cogni_billing.application.sweeping import Sweep
from cogni_billing.domain.attempts import Attempt, AttemptState
from cogni_billing.domain.errors import InvalidInput, PaymentAlreadyClaimed, shown
from cogni_billing.domain.found_payments import Claim
from cogni_billing.domain.identity import SYSTEM_TENANT_ID, TenantId, reference
from cogni_billing.domain.inbox import (
    REFUSALS,
    EventState,
    InboxEntry,
    InboxPage,
    arrived,
    buyer_of,
)
from cogni_billing.domain.payment_events import PaymentCanceled, PaymentSucceeded
from cogni_billing.domain.purchases import Purchase
from cogni_billing.domain.statements import checked_limit
from cogni_billing.ports.scope import ServiceScope


@frozen
class _Found:
    """An entry, and the claim of its payment if there is one."""

    entry: InboxEntry
    at: datetime
    """The time of the call."""
    claim: Claim | None = None


@in_steps
def process(
    context: AttemptContext, event: object, confirm_without_attempt: object
) -> Steps[InboxEntry]:
    if type(confirm_without_attempt) is not bool:
        given = shown(confirm_without_attempt)
        raise InvalidInput("confirm_without_attempt", given, "a bool")
    entry = arrived(event, context.billing.now())
    found: _Found = yield _finding(entry)
    if found.entry.replayed:
        return found.entry
    tried = yield from _tried(context, found, confirm=confirm_without_attempt)
    if tried.state is EventState.WAITING:
        found = yield _finding(entry)
        if found.claim is not None:
            tried = yield from _tried(context, found)
    if tried.state is EventState.APPLIED:
        yield from _others_tried(context, tried)
    return tried


def _finding(entry: InboxEntry) -> ServiceCase[_Found]:
    def find(scope: ServiceScope) -> _Found:
        kept = scope.inbox.entry(entry.event.id)
        if kept is not None:
            kept.require_same(entry.event)
            if kept.state.is_final:
                return _Found(evolve(kept, replayed=True), entry.received_at)
        first = entry.received_at if kept is None else kept.received_at
        return _found(scope, evolve(entry, received_at=first), entry.received_at)

    return ServiceCase(SYSTEM_TENANT_ID, find)


def _found(scope: ServiceScope, entry: InboxEntry, at: datetime) -> _Found:
    others = scope.inbox.of_payment(entry.event.payment)
    ids = {name for each in (entry, *others) for name in each.event.ids}
    return _Found(entry, at, scope.books.claim(ids))


def _tried(context: AttemptContext, found: _Found, *, confirm: bool = False) -> Steps[InboxEntry]:
    """Apply the event, or keep it with the reason why it cannot be applied."""
    entry = found.entry
    buyer = buyer_of(entry.event, found.claim, confirm=confirm)
    if buyer is not None:
        try:
            applied: InboxEntry = yield ServiceCase(
                buyer, lambda scope: _recorded(context, scope, found, buyer)
            )
        except REFUSALS as error:
            entry = entry.refused(buyer, error)
        else:
            return applied
    yield ServiceCase(SYSTEM_TENANT_ID, lambda scope: scope.inbox.keep(entry, found.at))
    return entry


def _recorded(
    context: AttemptContext, scope: ServiceScope, found: _Found, buyer: TenantId
) -> InboxEntry:
    event, claim, at = found.entry.event, found.claim, found.at
    if isinstance(event, PaymentSucceeded):
        entry = _bought(context, scope, found, event)
    elif isinstance(event, PaymentCanceled):
        _reported(context, scope, event, at)
        entry = found.entry.applied(buyer)
    else:
        assert claim is not None  # else no tenant is known
        left = reconcile(context.billing, scope, event, claim, at)
        entry = found.entry.applied(claim.tenant, claim.payment)
        if left is not None:
            entry = found.entry.unmatched(claim.tenant, left)
    scope.inbox.keep(entry, at)
    return entry


def _bought(
    context: AttemptContext, scope: ServiceScope, found: _Found, event: PaymentSucceeded
) -> InboxEntry:
    entry, claim, at = found.entry, found.claim, found.at
    if claim is not None and event.tenant not in (None, claim.tenant):
        raise PaymentAlreadyClaimed(event.payment)
    if event.tenant is not None and event.names_an_attempt:
        attempt = _reported(context, scope, event, at)
        if attempt.state is not AttemptState.CREDITED:
            reason = f"attempt {attempt.id} is {attempt.state}: {attempt.failure}"
            return entry.unmatched(event.tenant, reason)
        return entry.applied(event.tenant, attempt.evidence)
    if claim is not None:
        credited = scope.ledger.payment(claim.payment, at)
        if credited is None or event.amount < credited.paid:
            return entry.unmatched(claim.tenant, f"{event.amount} was paid, but more was credited")
        return entry.applied(claim.tenant, claim.payment)
    assert event.tenant is not None  # else no tenant is known
    purchase = Purchase(tenant=event.tenant, amount=event.amount, payment=event.payment)
    confirm_purchase(context.billing, purchase).within(scope)
    return entry.applied(event.tenant, event.payment)


def _reported(
    context: AttemptContext,
    scope: ServiceScope,
    event: PaymentSucceeded | PaymentCanceled,
    at: datetime,
) -> Attempt:
    assert event.attempt_id is not None  # the caller has looked
    return reported(
        context,
        scope,
        event.attempt_id,
        event.payment,
        event.finding,
        aliases=event.aliases,
        at=at,
    )


def _others_tried(context: AttemptContext, applied: InboxEntry) -> Steps[None]:
    """Apply the other events of a payment that has just been credited or changed."""
    at = context.billing.now()

    def open_ones(scope: ServiceScope) -> list[_Found]:
        others = scope.inbox.of_payment(applied.event.payment)
        waiting = (each for each in others if each.can_be_tried)
        return [_found(scope, each, at) for each in waiting]

    for found in (yield ServiceCase(SYSTEM_TENANT_ID, open_ones)):
        if found.claim is not None:
            yield from _tried(context, found)


@in_steps
def sweep_inbox(context: AttemptContext) -> Steps[int]:
    swept, last = Sweep[str](), None
    while page := (yield _ready(last, context.billing.now())):
        for found in page:
            last = found.entry.event.id
            with swept.trying(last):
                entry = yield from _tried(context, found)
                swept.done += entry.state.is_final
    return swept.outcome()


def _ready(after: str | None, at: datetime) -> ServiceCase[list[_Found]]:
    def ready(scope: ServiceScope) -> list[_Found]:
        return [_found(scope, each, at) for each in scope.inbox.ready(after)]

    return ServiceCase(SYSTEM_TENANT_ID, ready)


def inbox(state: object, limit: object, after: object) -> ServiceCase[InboxPage]:
    if not isinstance(state, EventState):
        raise InvalidInput("state", shown(state), "an EventState")
    size = checked_limit(limit)
    beyond = None if after is None else reference(after, "after")

    def read(scope: ServiceScope) -> InboxPage:
        entries = scope.inbox.page(state, size + 1, beyond)
        more = len(entries) > size
        return InboxPage(entries[:size], entries[size - 1].event.id if more else None)

    return ServiceCase(SYSTEM_TENANT_ID, read)
