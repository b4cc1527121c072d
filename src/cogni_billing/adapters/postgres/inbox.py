"""The inbox of payment events: read under the service role's policies, written by a function."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final
from uuid import UUID

from attrs import frozen
from sqlalchemy import Connection, TextClause, text

from cogni_billing.adapters.guard import ScopeGuard
from cogni_billing.adapters.postgres.audit import require_full_sight
from cogni_billing.adapters.postgres.calls import Calls, decoded
from cogni_billing.adapters.postgres.connections import NEUTRAL
from cogni_billing.adapters.postgres.failures import translated
from cogni_billing.adapters.postgres.rows import document, moment
from cogni_billing.domain.identity import TenantId
from cogni_billing.domain.inbox import EventState, InboxEntry
from cogni_billing.domain.metadata import encoded
from cogni_billing.domain.payment_events import event_from, facts_of
from cogni_billing.ports.inbox import READY_MAX


@frozen
class PostgresInbox:
    """Implements `InboxRepository`."""

    _connection: Connection
    _calls: Calls
    _tenant: TenantId
    _guard: ScopeGuard

    def entry(self, event_id: str, /) -> InboxEntry | None:
        entries = self._read(_ENTRY, id=event_id)
        return entries[0] if entries else None

    def of_payment(self, payment: str, /) -> tuple[InboxEntry, ...]:
        return self._read(_OF_PAYMENT, payment=payment)

    def keep(self, entry: InboxEntry, now: datetime, /) -> None:
        with self._guard.call(), translated():
            facts = facts_of(entry.event)
            asked = {
                "id": entry.event.id,
                "kind": facts["kind"],
                "payment": entry.event.payment,
                "aliases": list(entry.event.aliases),
                "facts": encoded(facts),
                "now": now,
                "state": entry.state,
                "tenant": entry.tenant,
                "claim": entry.payment,
                "note": entry.note,
            }
            self._calls("keep_event", self._tenant, asked)

    def ready(self, after: str | None, /) -> tuple[InboxEntry, ...]:
        return self._read(_READY, after=after, limit=READY_MAX)

    def page(self, state: EventState, limit: int, after: str | None, /) -> tuple[InboxEntry, ...]:
        return self._read(_PAGE, state=state.value, after=after, limit=limit)

    def _read(self, statement: TextClause, **asked: Any) -> tuple[InboxEntry, ...]:
        with self._guard.call(), translated():
            self._connection.execute(NEUTRAL)
            require_full_sight(self._connection)
            rows = self._connection.execute(statement, asked).scalars().all()
            return tuple(_entry_from(decoded(row)) for row in rows)


def _entry_from(stored: Any) -> InboxEntry:
    return InboxEntry(
        event=event_from(document(stored["facts"])),
        state=EventState(stored["state"]),
        received_at=moment(stored["received_at"]),
        tenant=stored["tenant_id"] and TenantId(UUID(stored["tenant_id"])),
        payment=stored["claim"],
        note=stored["note"],
    )


_EVENTS: Final = "SELECT CAST(to_json(event) AS text) FROM cogni_billing.payment_events AS event"
_AFTER: Final = """
    (CAST(:after AS text) IS NULL OR (received_at, id) > (
        SELECT received_at, id FROM cogni_billing.payment_events WHERE id = :after))
    ORDER BY received_at, id LIMIT :limit
"""
_ENTRY: Final = text(f"{_EVENTS} WHERE id = :id")
_OF_PAYMENT: Final = text(f"{_EVENTS} WHERE payment = :payment ORDER BY received_at, id")
_PAGE: Final = text(f"{_EVENTS} WHERE state = :state AND {_AFTER}")
_READY: Final = text(f"""
    {_EVENTS}
    WHERE state IN ('waiting', 'unmatched')
      AND (state = 'waiting' OR tenant_id IS NULL)
      AND EXISTS (
        SELECT FROM cogni_billing.payment_events AS other
        CROSS JOIN LATERAL unnest(other.payment || other.aliases) AS name
        JOIN cogni_billing.claims ON claims.payment = name
        WHERE other.payment = event.payment)
      AND {_AFTER}
""")
