"""Payment attempts in memory."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from attrs import evolve, field, frozen

from cogni_billing.adapters.guard import ScopeGuard
from cogni_billing.adapters.memory.store import Store
from cogni_billing.adapters.rights import minting_refused
from cogni_billing.domain.attempts import (
    Attempt,
    AttemptEvent,
    AttemptState,
    DueAttempt,
    Intent,
    history,
    overdue,
)
from cogni_billing.domain.errors import (
    LedgerUnavailable,
    PaymentAlreadyClaimed,
    PrivilegeRequired,
    RecipientTaken,
    UnbalancedTransaction,
    UnknownAttempt,
    given_twice,
)
from cogni_billing.domain.identity import TenantId

_CLAIMS: Final = {AttemptState.PENDING_UNVERIFIED, AttemptState.CREDITED}


@frozen
class MemoryAttempts:
    """The in-memory `AttemptRepository`."""

    _store: Store
    _tenant: TenantId
    _guard: ScopeGuard
    _may_mint: bool = field(kw_only=True)

    def create(self, intent: Intent, /) -> None:
        with self._guard.call():
            if intent.tenant != self._tenant:
                raise PrivilegeRequired("creating an intent of another tenant's")
            if not self._may_mint:
                raise minting_refused()
            key = (self._tenant, intent.attempt_id)
            if key in self._store.attempts:
                raise given_twice(intent.attempt_id)
            if intent.has_own_recipient and self._is_taken(intent):
                raise RecipientTaken(intent.recipient)
            attempt = Attempt(intent=intent, changed_at=intent.created_at)
            self._store.put(self._store.attempts, key, attempt)
            self._store.put(self._store.events, key, ())

    def _is_taken(self, intent: Intent) -> bool:
        others = (each.intent for each in self._store.attempts.values())
        return any(
            each.has_own_recipient
            and (each.provider, each.recipient) == (intent.provider, intent.recipient)
            for each in others
        )

    def attempt(self, attempt_id: UUID, /) -> Attempt:
        with self._guard.call():
            return self._attempt(attempt_id)

    def _attempt(self, attempt_id: UUID) -> Attempt:
        found = self._store.attempts.get((self._tenant, attempt_id))
        if found is None:
            raise UnknownAttempt(attempt_id)
        return found

    def record(self, attempt: Attempt, move: AttemptEvent, /) -> Attempt:
        with self._guard.call():
            if not self._may_mint:
                raise minting_refused()
            moved = attempt.moved(move)
            kept = self._store.attempts.get((self._tenant, attempt.id))
            if kept is None or (kept.state, kept.evidence) != (attempt.state, attempt.evidence):
                raise LedgerUnavailable("a concurrent transaction conflicted; call again")
            if not moved.is_credited_by(self._store.purchase(self._tenant, moved.evidence)):
                raise UnbalancedTransaction(f"attempt {attempt.id} is not credited by its purchase")
            if move.evidence is not None:
                self._claim(move.evidence)
                self._store.put(self._store.checked, (self._tenant, attempt.id), moved.changed_at)
            self._store.put(self._store.attempts, (self._tenant, attempt.id), moved)
            event = evolve(move, at=moved.changed_at)
            key = (self._tenant, attempt.id)
            self._store.put(self._store.events, key, (*self._store.events[key], event))
            return moved

    def _claim(self, evidence: str) -> None:
        if any(
            each.evidence == evidence and each.state in _CLAIMS
            for each in self._store.attempts.values()
        ):
            raise PaymentAlreadyClaimed(evidence)

    def begin_check(self, attempt_id: UUID, now: datetime, every: timedelta, /) -> bool:
        with self._guard.call():
            if not self._may_mint:
                raise minting_refused()
            key = (self._tenant, attempt_id)
            attempt = self._store.attempts.get(key)
            if attempt is None or attempt.state is not AttemptState.PENDING_UNVERIFIED:
                return False
            if not _has_slot(self._store.checked[key], now, every):
                return False
            self._store.put(self._store.checked, key, now)
            return True

    def events(self, attempt_id: UUID, /) -> tuple[AttemptEvent, ...]:
        with self._guard.call():
            intent = self._attempt(attempt_id).intent
            return history(intent, self._store.events[self._tenant, attempt_id])


def due_attempts(store: Store, now: datetime, every: timedelta) -> Iterator[DueAttempt]:
    """The attempts of all tenants that are due for a check, or have expired."""
    for (tenant, attempt_id), attempt in store.attempts.items():
        if attempt.state is AttemptState.PENDING_UNVERIFIED:
            checked_at = store.checked[tenant, attempt_id]
            if _has_slot(checked_at, now, every):
                yield DueAttempt(at=checked_at, tenant=tenant, attempt_id=attempt_id)
        elif overdue(attempt, now):
            expired_at = attempt.intent.expires_at
            yield DueAttempt(at=expired_at, tenant=tenant, attempt_id=attempt_id)


def _has_slot(checked_at: datetime, now: datetime, every: timedelta) -> bool:
    # A check far in the future was recorded by a wrong clock, and does not count.
    return not now - every < checked_at <= now + every
