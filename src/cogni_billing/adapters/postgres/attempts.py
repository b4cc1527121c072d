"""Payment attempts over one open connection."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

from attrs import frozen
from sqlalchemy import Connection, Uuid, bindparam, text
from sqlalchemy.exc import DBAPIError

from cogni_billing.adapters.guard import ScopeGuard
from cogni_billing.adapters.postgres.failures import is_privilege, is_refused_by, translated
from cogni_billing.adapters.postgres.rows import document
from cogni_billing.adapters.rights import minting_refused
from cogni_billing.domain.amounts import Amount, Unit
from cogni_billing.domain.attempts import (
    Attempt,
    AttemptEvent,
    AttemptState,
    FailureCode,
    Intent,
    history,
)
from cogni_billing.domain.errors import PaymentAlreadyClaimed, UnknownAttempt, given_twice
from cogni_billing.domain.identity import TenantId
from cogni_billing.domain.metadata import encoded, read_only

_CREATE: Final = text("""
    INSERT INTO cogni_billing.payment_attempts (
        tenant_id, id, amount, unit, payer, provider, token, recipient, raw_amount, confirmations,
        metadata, created_at, expires_at
    )
    VALUES (
        :tenant, :id, :amount, :unit, :payer, :provider, :token, :recipient, :raw_amount,
        :confirmations, CAST(:metadata AS json), :created_at, :expires_at
    )
    ON CONFLICT DO NOTHING
    RETURNING id
""")
_ATTEMPT: Final = text("""
    SELECT
        id, amount, unit, payer, provider, token, recipient, raw_amount, confirmations,
        metadata::text AS metadata, created_at, expires_at, state,
        coalesce(changed_at, created_at) AS changed_at, evidence, submitted_at, failure,
        transaction_id
    FROM cogni_billing.payment_attempts
    WHERE tenant_id = :tenant AND id = :id
""")
_RECORD: Final = text("""
    INSERT INTO cogni_billing.payment_attempt_events (
        tenant_id, attempt_id, from_state, state, at, evidence, failure, transaction_id, found
    )
    VALUES (
        :tenant, :id, :from_state, :state, :at, :evidence, :failure, :transaction,
        CAST(:found AS json)
    )
""").bindparams(bindparam("transaction", type_=Uuid()))
_BEGIN_CHECK: Final = text("SELECT cogni_billing.begin_check(:id, :now, :every)")
_EVENTS: Final = text("""
    SELECT state, at, evidence, failure, transaction_id, found::text AS found
    FROM cogni_billing.payment_attempt_events
    WHERE tenant_id = :tenant AND attempt_id = :id
""")


@frozen
class PostgresAttempts:
    """Keeps the promises of `AttemptRepository`."""

    _connection: Connection
    _tenant: TenantId
    _guard: ScopeGuard

    def create(self, intent: Intent, /) -> None:
        with self._guard.call(), translated(), _minting():
            created = self._connection.execute(
                _CREATE,
                {
                    "tenant": intent.tenant,
                    "id": intent.attempt_id,
                    "amount": intent.amount.value,
                    "unit": intent.amount.unit.code,
                    "payer": intent.payer,
                    "provider": intent.provider,
                    "token": intent.token,
                    "recipient": intent.recipient,
                    "raw_amount": intent.raw_amount,
                    "confirmations": intent.confirmations,
                    "metadata": encoded(intent.metadata),
                    "created_at": intent.created_at,
                    "expires_at": intent.expires_at,
                },
            )
            if created.one_or_none() is None:
                raise given_twice(intent.attempt_id)

    def attempt(self, attempt_id: UUID, /) -> Attempt:
        with self._guard.call(), translated():
            return self._attempt(attempt_id)

    def _attempt(self, attempt_id: UUID) -> Attempt:
        row = self._connection.execute(_ATTEMPT, self._key(attempt_id)).one_or_none()
        if row is None:
            raise UnknownAttempt(attempt_id)
        return _attempt_from(row, self._tenant)

    def _key(self, attempt_id: UUID) -> dict[str, UUID]:
        return {"tenant": self._tenant, "id": attempt_id}

    def record(self, attempt: Attempt, move: AttemptEvent, /) -> Attempt:
        with self._guard.call(), translated(), _minting(), _claiming(move.evidence):
            attempt.moved(move)
            self._connection.execute(
                _RECORD,
                {
                    "tenant": self._tenant,
                    "id": attempt.id,
                    "from_state": attempt.state.value,
                    "state": move.state.value,
                    "at": move.at,
                    "evidence": move.evidence,
                    "failure": move.failure and move.failure.value,
                    "transaction": move.transaction_id,
                    "found": encoded(move.found),
                },
            )
            return self._attempt(attempt.id)

    def begin_check(self, attempt_id: UUID, now: datetime, every: timedelta, /) -> bool:
        with self._guard.call(), translated(), _minting():
            asked = {"id": attempt_id, "now": now, "every": every}
            return bool(self._connection.execute(_BEGIN_CHECK, asked).scalar_one())

    def events(self, attempt_id: UUID, /) -> tuple[AttemptEvent, ...]:
        with self._guard.call(), translated():
            intent = self._attempt(attempt_id).intent
            rows = self._connection.execute(_EVENTS, self._key(attempt_id))
            return history(intent, map(_event_from, rows))


@contextmanager
def _minting() -> Iterator[None]:
    try:
        yield
    except DBAPIError as error:
        if is_privilege(error):
            raise minting_refused() from error
        raise


@contextmanager
def _claiming(evidence: str | None) -> Iterator[None]:
    try:
        yield
    except DBAPIError as error:
        if evidence is not None and is_refused_by(error, "payment_attempts_evidence_used_once"):
            raise PaymentAlreadyClaimed(evidence) from error
        raise


def _attempt_from(row: Any, tenant: TenantId) -> Attempt:
    return Attempt(
        intent=Intent(
            attempt_id=row.id,
            tenant=tenant,
            amount=Amount.computed(row.amount, Unit.of(row.unit)),
            payer=row.payer,
            provider=row.provider,
            token=row.token,
            recipient=row.recipient,
            raw_amount=int(row.raw_amount),
            confirmations=row.confirmations,
            created_at=row.created_at.astimezone(UTC),
            expires_at=row.expires_at.astimezone(UTC),
            metadata=read_only(document(row.metadata)),
        ),
        state=AttemptState(row.state),
        changed_at=row.changed_at.astimezone(UTC),
        evidence=row.evidence,
        submitted_at=row.submitted_at and row.submitted_at.astimezone(UTC),
        failure=row.failure and FailureCode(row.failure),
        transaction_id=row.transaction_id,
    )


def _event_from(row: Any) -> AttemptEvent:
    return AttemptEvent(
        state=AttemptState(row.state),
        at=row.at.astimezone(UTC),
        evidence=row.evidence,
        failure=row.failure and FailureCode(row.failure),
        transaction_id=row.transaction_id,
        found=read_only(document(row.found)),
    )
