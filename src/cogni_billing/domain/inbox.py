"""The inbox: every payment event that arrived, and how far the ledger has applied it."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Final

from attrs import evolve, frozen

from cogni_billing.domain.errors import (
    AttemptClosed,
    BillingError,
    Difference,
    IdempotencyConflict,
    InvalidAmount,
    InvalidInput,
    InvalidReference,
    PaymentAlreadyClaimed,
    RefundExceedsPayment,
    UnitMismatch,
    UnknownAccount,
    UnknownAttempt,
    UnknownDispute,
    UnknownPayment,
    shown,
)
from cogni_billing.domain.found_payments import Claim
from cogni_billing.domain.identity import TenantId
from cogni_billing.domain.payment_events import (
    EVENTS,
    FraudWarned,
    PaymentCanceled,
    PaymentDeclined,
    PaymentEvent,
    PaymentSucceeded,
    facts_of,
)

NOTE_MAX: Final = 255
UNOWNED: Final = "the metadata names no tenant with a payment attempt"
REFUSALS: Final = (
    AttemptClosed,
    IdempotencyConflict,
    InvalidAmount,
    InvalidReference,
    PaymentAlreadyClaimed,
    RefundExceedsPayment,
    UnitMismatch,
    UnknownAccount,
    UnknownAttempt,
    UnknownDispute,
    UnknownPayment,
)
"""The errors by which the ledger refuses an event for good."""


class EventState(StrEnum):
    """How far the ledger has applied an event."""

    WAITING = "waiting"
    """The purchase of the payment is not recorded yet."""
    APPLIED = "applied"
    IGNORED = "ignored"
    """The event changes no credits, such as a fraud warning."""
    UNMATCHED = "unmatched"
    """An operator must look at the event: `InboxEntry.note` says why."""

    @property
    def is_final(self) -> bool:
        """True if no other state follows."""
        return self in (EventState.APPLIED, EventState.IGNORED)


@frozen(kw_only=True)
class InboxEntry:
    """A payment event with its state."""

    event: PaymentEvent
    state: EventState
    received_at: datetime
    """The time of the first delivery."""
    tenant: TenantId | None = None
    """The tenant whose payment it is. `None` if no tenant is known."""
    payment: str | None = None
    """The id under which the tenant has claimed the payment, once the event is applied."""
    note: str | None = None
    """The reason of the state, for people to read."""
    replayed: bool = False
    """True if an earlier delivery of the event has reached this state."""

    @property
    def can_be_tried(self) -> bool:
        """True if the event can be applied once a tenant has claimed the payment."""
        unowned = self.state is EventState.UNMATCHED and self.tenant is None
        return unowned or self.state is EventState.WAITING

    def require_same(self, event: PaymentEvent) -> None:
        """Return if the entry is of *event*.

        Raises:
            IdempotencyConflict: another event came under the same id.
        """
        if self.event == event:
            return
        stored, given = facts_of(self.event), facts_of(event)
        differing = (
            Difference(name, shown(str(stored.get(name))), shown(str(given.get(name))))
            for name in sorted(stored.keys() | given.keys())
            if stored.get(name) != given.get(name)
        )
        raise IdempotencyConflict(event.id, tuple(differing))

    def applied(self, tenant: TenantId, payment: str | None = None) -> InboxEntry:
        return self._moved(EventState.APPLIED, tenant, payment=payment)

    def unmatched(self, tenant: TenantId | None, note: str) -> InboxEntry:
        return self._moved(EventState.UNMATCHED, tenant, note=note)

    def refused(self, tenant: TenantId, error: BillingError) -> InboxEntry:
        """The entry after the ledger has refused it by *error*."""
        return self.unmatched(tenant, f"{error.code}: {error}")

    def _moved(
        self,
        state: EventState,
        tenant: TenantId | None,
        *,
        payment: str | None = None,
        note: str | None = None,
    ) -> InboxEntry:
        kept = note and note[:NOTE_MAX]
        return evolve(self, state=state, tenant=tenant, payment=payment, note=kept)


@frozen
class InboxPage:
    """Entries of the inbox, the first to arrive first."""

    entries: tuple[InboxEntry, ...]
    next: str | None
    """The cursor of the next page, or `None` if this page is the last."""


def arrived(given: object, at: datetime) -> InboxEntry:
    """The entry of an event that has just arrived.

    Raises:
        InvalidInput: *given* is no payment event.
    """
    if not isinstance(given, PaymentEvent) or type(given) not in EVENTS.values():
        raise InvalidInput("event", shown(given), "a PaymentEvent, such as a WebhookReader returns")
    state, note = _first_state(given)
    return InboxEntry(event=given, state=state, received_at=at, note=note)


def _first_state(event: PaymentEvent) -> tuple[EventState, str | None]:
    """The state of *event* while no tenant has claimed its payment, and the reason."""
    if isinstance(event, (PaymentDeclined, FraudWarned, PaymentCanceled)):
        return EventState.IGNORED, None
    if isinstance(event, PaymentSucceeded):
        return EventState.UNMATCHED, UNOWNED
    return EventState.WAITING, "the payment has no purchase yet"


def buyer_of(event: PaymentEvent, claim: Claim | None, *, confirm: bool) -> TenantId | None:
    """The tenant to apply *event* for. `None` if there is none yet, or no effect.

    Without a claim it is the tenant of the metadata, which must name an attempt. With *confirm* a
    success needs no attempt.
    """
    if isinstance(event, (PaymentDeclined, FraudWarned)):
        return None
    if isinstance(event, PaymentCanceled):
        return event.tenant if event.names_an_attempt else None
    if claim is not None:
        return claim.tenant
    buys = isinstance(event, PaymentSucceeded) and (event.names_an_attempt or confirm)
    return event.tenant if buys else None
