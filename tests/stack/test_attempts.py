"""Payment attempts on PostgreSQL: verification slots, overtaken steps, and roles.

Forged intents and steps are tried in `test_hostile_calls.py`.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from sqlalchemy import create_engine

from cogni_billing import (
    AttemptRules,
    AttemptState,
    FailureCode,
    Intent,
    LedgerUnavailable,
    PaymentAttempts,
    PrivilegeRequired,
    TenantId,
    usd,
)
from cogni_billing.adapters.postgres import PostgresUnitOfWork
from cogni_billing.domain.attempts import AttemptEvent
from cogni_billing.domain.findings import Finding
from cogni_billing.testing import ALICE, BOB, NOON, CountingIds, FakeVerifier, MovableClock, paid
from cogni_billing.testing.contracts.attempt_base import CARD
from stack.conftest import Database

SERIAL = "40001"
INTENT, PENDING, CREDITED = (UUID(int=number) for number in (1, 2, 3))


@pytest.fixture
def attempts(database: Database) -> PaymentAttempts:
    """Create an intent, an attempt with submitted evidence, and a credited attempt for Alice."""
    clock, verifier = MovableClock(), FakeVerifier()
    made = PaymentAttempts(
        PostgresUnitOfWork(database.user),
        verifier=verifier,
        destinations=CARD,
        clock=clock,
        ids=CountingIds(),
        rules=AttemptRules(checks_every=timedelta(0)),
    )
    for _ in (INTENT, PENDING, CREDITED):
        made.create_intent(ALICE, usd("2.00"))
    made.submit(ALICE, PENDING, "stripe:pending")
    verifier.tell("stripe:credited", paid)
    made.submit(ALICE, CREDITED, "stripe:credited")
    return made


def claimed_slot(database: Database, tenant: TenantId, at: datetime) -> bool:
    """True if a call for *tenant* claims the next verification slot of the pending attempt."""
    return PostgresUnitOfWork(database.user).single(
        tenant, lambda scope: scope.attempts.begin_check(PENDING, at, timedelta(seconds=1))
    )


def test_a_slot_of_another_tenants_attempt_is_not_claimed(
    database: Database, attempts: PaymentAttempts
) -> None:
    later = NOON + timedelta(minutes=1)

    assert not claimed_slot(database, BOB, later)
    assert claimed_slot(database, ALICE, later)


def test_a_slot_far_in_the_future_does_not_block_the_next(
    database: Database, attempts: PaymentAttempts
) -> None:
    assert claimed_slot(database, ALICE, NOON + timedelta(days=365_000))
    assert claimed_slot(database, ALICE, NOON + timedelta(minutes=1))


def test_a_day_is_24_hours_in_every_time_zone(
    database: Database,
) -> None:
    """The clocks went back in New York that night."""
    zoned = create_engine(
        database.sandbox.url("app_user"), connect_args={"options": "-c timezone=America/New_York"}
    )
    clock, verifier = MovableClock(datetime(2026, 10, 31, 16, tzinfo=UTC)), FakeVerifier()
    attempts = PaymentAttempts(
        PostgresUnitOfWork(zoned),
        verifier=verifier,
        destinations=CARD,
        clock=clock,
        rules=AttemptRules(checks_every=timedelta(days=1)),
    )
    intent = attempts.create_intent(ALICE, usd("2.00"))
    attempts.submit(ALICE, intent.attempt_id, "stripe:pi_1")
    verifier.tell("stripe:pi_1", paid)
    clock.move(timedelta(days=1))

    assert attempts.status(ALICE, intent.attempt_id).state is AttemptState.CREDITED
    zoned.dispose()


def test_no_connection_is_held_while_a_verifier_is_asked(database: Database) -> None:
    held = []

    class Looking(FakeVerifier):
        def verify(self, evidence: str, intent: Intent, /) -> Finding:
            held.append(database.user.pool.checkedout())  # type: ignore[attr-defined]
            return paid(intent)

    attempts = PaymentAttempts(
        PostgresUnitOfWork(database.user), verifier=Looking(), destinations=CARD
    )
    intent = attempts.create_intent(ALICE, usd("2.00"))

    assert attempts.submit(ALICE, intent.attempt_id, "stripe:pi_1").state is AttemptState.CREDITED
    assert held == [0]


def test_overtaken_step_raises_and_writes_no_row(
    database: Database, attempts: PaymentAttempts
) -> None:
    unit_of_work = PostgresUnitOfWork(database.user)
    stale = attempts.status(ALICE, PENDING)
    failed = AttemptEvent(state=AttemptState.FAILED, at=NOON, failure=FailureCode.TX_REVERTED)
    unit_of_work.run(ALICE, lambda scope: scope.attempts.record(stale, failed))

    with (
        pytest.raises(LedgerUnavailable, match="concurrent transaction") as caught,
        unit_of_work.scope(ALICE) as scope,
    ):
        scope.attempts.record(stale, failed)

    assert caught.value.sqlstate == SERIAL
    assert len(attempts.history(ALICE, PENDING)) == 3


def test_spender_can_neither_read_nor_write_attempts(
    database: Database, attempts: PaymentAttempts
) -> None:
    verifier = FakeVerifier()
    spender = PaymentAttempts(
        PostgresUnitOfWork(database.spender), verifier=verifier, destinations=CARD
    )

    for call in (
        lambda: spender.create_intent(ALICE, usd("2.00")),
        lambda: spender.submit(ALICE, INTENT, "stripe:pi_1"),
        lambda: spender.status(ALICE, PENDING),
    ):
        with pytest.raises(PrivilegeRequired, match="a role that may mint"):
            call()

    assert len(spender.history(ALICE, CREDITED)) == 3
    assert verifier.asked == []
