"""The inbox of payment events, for the service role alone."""

from __future__ import annotations

from datetime import datetime
from typing import Final, Protocol

from cogni_billing.domain.inbox import EventState, InboxEntry

READY_MAX: Final = 100
"""The number of entries that `ready` returns at most."""


class InboxRepository(Protocol):
    """Payment events of all tenants, in scopes that `UnitOfWork.run_service` opens.

    An event is kept once, under its id.
    """

    def entry(self, event_id: str, /) -> InboxEntry | None:
        """The entry of this event."""
        ...

    def of_payment(self, payment: str, /) -> tuple[InboxEntry, ...]:
        """The entries of a payment, by the key of their events, in the order of arrival."""
        ...

    def keep(self, entry: InboxEntry, now: datetime, /) -> None:
        """Record *entry*, or the new state of a recorded one whose state is not final.

        An applied entry must be of the scope's tenant, which must have claimed `entry.payment`.
        """
        ...

    def ready(self, after: str | None, /) -> tuple[InboxEntry, ...]:
        """Entries to try again, after that of the event *after*. At most `READY_MAX`, in order.

        These wait for a purchase, or are of no tenant, and some tenant has claimed the payment
        since.
        """
        ...

    def page(self, state: EventState, limit: int, after: str | None, /) -> tuple[InboxEntry, ...]:
        """Entries in *state* after that of the event *after*, in the order of arrival."""
        ...
