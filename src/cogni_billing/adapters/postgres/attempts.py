"""Payment attempts over one open connection."""

from __future__ import annotations

from datetime import datetime, timedelta
from uuid import UUID

from attrs import frozen

from cogni_billing.adapters.guard import ScopeGuard
from cogni_billing.adapters.postgres.answers import unexpected
from cogni_billing.adapters.postgres.calls import Calls
from cogni_billing.adapters.postgres.failures import overtaken, translated
from cogni_billing.adapters.postgres.rows import (
    attempt_from,
    event_from,
    intent_asked,
    step_asked,
)
from cogni_billing.domain.attempts import Attempt, AttemptEvent, Intent, history
from cogni_billing.domain.errors import (
    PaymentAlreadyClaimed,
    PrivilegeRequired,
    RecipientTaken,
    UnbalancedTransaction,
    UnknownAttempt,
)
from cogni_billing.domain.identity import TenantId


@frozen
class PostgresAttempts:
    """Implements `AttemptRepository`."""

    _calls: Calls
    _tenant: TenantId
    _guard: ScopeGuard

    def create(self, intent: Intent, /) -> None:
        with self._guard.call(), translated():
            if intent.tenant != self._tenant:
                raise PrivilegeRequired("creating an intent of another tenant's")
            answer = self._calls("create_attempt", self._tenant, intent_asked(intent))
            if answer["outcome"] == "taken":
                raise RecipientTaken(intent.recipient)

    def attempt(self, attempt_id: UUID, /) -> Attempt:
        with self._guard.call(), translated():
            return self._attempt(attempt_id)

    def _attempt(self, attempt_id: UUID) -> Attempt:
        stored = self._calls("attempt", self._tenant, {"id": attempt_id})
        if stored is None:
            raise UnknownAttempt(attempt_id)
        return attempt_from(stored, self._tenant)

    def record(self, attempt: Attempt, move: AttemptEvent, /) -> Attempt:
        with self._guard.call(), translated():
            attempt.moved(move)
            answer = self._calls("record_attempt", self._tenant, step_asked(attempt, move))
            match answer["outcome"]:
                case "done":
                    return attempt_from(answer["stored"], self._tenant)
                case "claimed" if move.evidence is not None:
                    raise PaymentAlreadyClaimed(move.evidence)
                case "moved_on":
                    raise overtaken()
                case "not_credited":
                    raise UnbalancedTransaction(
                        f"attempt {attempt.id} is not credited by its purchase"
                    )
            raise unexpected(answer)

    def begin_check(self, attempt_id: UUID, now: datetime, every: timedelta, /) -> bool:
        with self._guard.call(), translated():
            asked = {"id": attempt_id, "now": now, "seconds": every.total_seconds()}
            return bool(self._calls("begin_check", self._tenant, asked))

    def events(self, attempt_id: UUID, /) -> tuple[AttemptEvent, ...]:
        with self._guard.call(), translated():
            intent = self._attempt(attempt_id).intent
            stored = self._calls("attempt_events", self._tenant, {"id": attempt_id})
            return history(intent, map(event_from, stored))
