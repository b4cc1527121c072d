"""The inbox of payment events, in memory."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from itertools import dropwhile, islice

from attrs import evolve, frozen

from cogni_billing.adapters.guard import ScopeGuard
from cogni_billing.adapters.memory.store import Store
from cogni_billing.domain.errors import UnbalancedTransaction
from cogni_billing.domain.identity import TenantId
from cogni_billing.domain.inbox import EventState, InboxEntry
from cogni_billing.domain.payment_events import PaymentCanceled
from cogni_billing.ports.inbox import READY_MAX


@frozen
class MemoryInbox:
    """The in-memory `InboxRepository`."""

    _store: Store
    _tenant: TenantId
    _guard: ScopeGuard

    def entry(self, event_id: str, /) -> InboxEntry | None:
        with self._guard.call():
            return self._store.inbox.get(event_id)

    def of_payment(self, payment: str, /) -> tuple[InboxEntry, ...]:
        with self._guard.call():
            return tuple(each for each in self._in_order() if each.event.payment == payment)

    def keep(self, entry: InboxEntry, now: datetime, /) -> None:
        with self._guard.call():
            kept = self._store.inbox.get(entry.event.id)
            if entry.state is EventState.APPLIED and not is_claimed(self._store, entry):
                raise UnbalancedTransaction(f"event {entry.event.id} is of no purchase")
            if kept is None:
                self._put(evolve(entry, received_at=now))
            elif not kept.state.is_final:
                self._put(evolve(entry, received_at=kept.received_at))

    def _put(self, entry: InboxEntry) -> None:
        self._store.put(self._store.inbox, entry.event.id, entry)

    def ready(self, after: str | None, /) -> tuple[InboxEntry, ...]:
        with self._guard.call():
            ready = (each for each in self._after(after) if self._is_ready(each))
            return tuple(islice(ready, READY_MAX))

    def _is_ready(self, entry: InboxEntry) -> bool:
        if not entry.can_be_tried:
            return False
        ids = {
            name
            for each in self._store.inbox.values()
            if each.event.payment == entry.event.payment
            for name in each.event.ids
        }
        return not ids.isdisjoint(self._store.payments)

    def page(self, state: EventState, limit: int, after: str | None, /) -> tuple[InboxEntry, ...]:
        with self._guard.call():
            entries = (each for each in self._after(after) if each.state is state)
            return tuple(islice(entries, limit))

    def _after(self, event_id: str | None) -> Iterator[InboxEntry]:
        entries = iter(self._in_order())
        if event_id is None:
            return entries
        return islice(dropwhile(lambda each: each.event.id != event_id, entries), 1, None)

    def _in_order(self) -> list[InboxEntry]:
        return sorted(
            self._store.inbox.values(), key=lambda each: (each.received_at, each.event.id)
        )


def is_claimed(store: Store, entry: InboxEntry) -> bool:
    """True if the tenant of *entry* has claimed its payment. A cancellation has none."""
    if isinstance(entry.event, PaymentCanceled):
        return entry.tenant is not None
    return entry.payment is not None and store.payments.get(entry.payment) == entry.tenant
