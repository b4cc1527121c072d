"""Contract: the repository of payment attempts refuses invalid records from any caller."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

import pytest
from attrs import evolve

from cogni_billing import (
    AttemptEvent,
    FailureCode,
    Intent,
    LedgerCorruption,
    LedgerUnavailable,
    PaymentAttempts,
    PrivilegeRequired,
    UnbalancedTransaction,
    UnknownAttempt,
)
from cogni_billing.domain.errors import given_twice
from cogni_billing.ports.scope import UnitOfWork
from cogni_billing.testing.base import ALICE, BOB, NOON
from cogni_billing.testing.contracts.attempt_base import PROOF, Attempting, State

REJECTED = AttemptEvent(state=State.REJECTED, at=NOON, failure=FailureCode.INVALID_TOKEN)
CREDITED = AttemptEvent(state=State.CREDITED, at=NOON, transaction_id=UUID(int=7))


class AttemptRecordContract(Attempting):
    """Intents are of the scope's tenant, moves follow the state, and credits have a purchase."""

    def test_an_intent_of_another_tenant_is_refused(
        self, unit_of_work: UnitOfWork, intent: Intent
    ) -> None:
        other = evolve(intent, attempt_id=UUID(int=99))

        with pytest.raises(PrivilegeRequired):
            unit_of_work.run(BOB, lambda scope: scope.attempts.create(other))
        with pytest.raises(UnknownAttempt):
            unit_of_work.run(ALICE, lambda scope: scope.attempts.attempt(other.attempt_id))

    def test_an_id_that_is_taken_is_refused(self, unit_of_work: UnitOfWork, intent: Intent) -> None:
        with pytest.raises(LedgerCorruption) as caught:
            unit_of_work.run(ALICE, lambda scope: scope.attempts.create(intent))
        assert caught.value.finding == given_twice(intent.attempt_id).finding

    def test_a_move_from_a_state_that_has_changed_is_refused(
        self, unit_of_work: UnitOfWork, attempts: PaymentAttempts, intent: Intent
    ) -> None:
        pending = attempts.submit(ALICE, intent.attempt_id, PROOF)
        unit_of_work.run(ALICE, lambda scope: scope.attempts.record(pending, REJECTED))
        late = evolve(REJECTED, failure=FailureCode.INVALID_RECIPIENT)

        with pytest.raises(LedgerUnavailable, match="concurrent transaction"):
            unit_of_work.run(ALICE, lambda scope: scope.attempts.record(pending, late))

        assert attempts.status(ALICE, intent.attempt_id).failure is FailureCode.INVALID_TOKEN

    def test_an_attempt_without_its_purchase_cannot_be_credited(
        self, unit_of_work: UnitOfWork, attempts: PaymentAttempts, intent: Intent
    ) -> None:
        pending = attempts.submit(ALICE, intent.attempt_id, PROOF)

        with pytest.raises(UnbalancedTransaction):
            unit_of_work.run(ALICE, lambda scope: scope.attempts.record(pending, CREDITED))

        assert attempts.status(ALICE, intent.attempt_id) == pending

    def test_a_check_begins_for_pending_attempts_only(
        self, unit_of_work: UnitOfWork, intent: Intent
    ) -> None:
        def begins(attempt_id: UUID) -> bool:
            return unit_of_work.run(
                ALICE, lambda scope: scope.attempts.begin_check(attempt_id, NOON, timedelta(0))
            )

        assert not begins(intent.attempt_id)
        assert not begins(UUID(int=99))
