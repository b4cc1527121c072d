"""Payment attempts for who holds the user's connection: nothing is forged, and nothing is kept."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

import pytest
from attrs import define
from sqlalchemy import create_engine, text
from sqlalchemy.exc import DBAPIError

from cogni_billing import (
    AttemptRules,
    AttemptState,
    Billing,
    FailureCode,
    Intent,
    LedgerCorruption,
    LedgerUnavailable,
    PaymentAttempts,
    PrivilegeRequired,
    usd,
)
from cogni_billing.adapters.postgres import PostgresUnitOfWork
from cogni_billing.domain.attempts import AttemptEvent, Finding
from cogni_billing.testing import ALICE, BOB, NOON, CountingIds, FakeVerifier, MovableClock, paid
from cogni_billing.testing.contracts.attempt_base import CARD
from stack.attacks import CHECK, PRIVILEGE
from stack.conftest import Database

UNIQUE, SERIAL = "23505", "40001"
INTENT, PENDING, CREDITED = (UUID(int=number) for number in (1, 2, 3))

EVENT: Final = """
    INSERT INTO cogni_billing.payment_attempt_events (
        tenant_id, attempt_id, from_state, state, at, evidence, failure, transaction_id, found
    ) VALUES (
        :tenant, :attempt, :from_state, :state, :at, :evidence, :failure, :transaction,
        CAST(:found AS json)
    )
"""
ROW: Final[dict[str, Any]] = {
    "tenant": ALICE,
    "attempt": PENDING,
    "from_state": "PENDING_UNVERIFIED",
    "state": "CREDITED",
    "at": NOON,
    "evidence": None,
    "failure": None,
    "transaction": None,
    "found": "{}",
}


@pytest.fixture
def attempts(database: Database) -> PaymentAttempts:
    """Alice has an intent, one for which evidence was submitted, and one that was credited."""
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


def refused(database: Database, statement: str, **given: Any) -> tuple[str | None, str | None]:
    """Which rule refuses the statement of who acts for Alice."""
    with database.acting_for(ALICE) as connection, pytest.raises(DBAPIError) as caught:
        connection.execute(text(statement), given)
    error: Any = caught.value.orig
    return error.sqlstate, error.diag.constraint_name


FORGERIES: Final[dict[str, tuple[dict[str, Any], tuple[str, str | None]]]] = {
    "credited by nothing": ({}, (CHECK, "payment_attempts_have_their_purchase")),
    "failed, and with a purchase": (
        {"state": "FAILED", "failure": "TX_REVERTED", "transaction": "of a cent"},
        (CHECK, "payment_attempt_events_say_why"),
    ),
    "credited by what is not there": (
        {"transaction": UUID(int=77)},
        (CHECK, "payment_attempts_have_their_purchase"),
    ),
    "credited by another attempt's purchase": (
        {"transaction": "the credited one's"},
        (CHECK, "payment_attempts_have_their_purchase"),
    ),
    "credited by a purchase of less": (
        {"transaction": "of a cent"},
        (CHECK, "payment_attempts_have_their_purchase"),
    ),
    "credited without evidence": (
        {"attempt": INTENT, "from_state": "CREATED_INTENT", "transaction": "the credited one's"},
        (CHECK, "payment_attempts_have_their_purchase"),
    ),
    "pending with what another attempt has": (
        {
            "attempt": INTENT,
            "from_state": "CREATED_INTENT",
            "state": "PENDING_UNVERIFIED",
            "evidence": "stripe:credited",
        },
        (UNIQUE, "payment_attempts_evidence_used_once"),
    ),
    "pending with what another tenant's attempt has": (
        {
            "attempt": INTENT,
            "from_state": "CREATED_INTENT",
            "state": "PENDING_UNVERIFIED",
            "evidence": "stripe:bob",
        },
        (UNIQUE, "payment_attempts_evidence_used_once"),
    ),
    "pending again with other evidence": (
        {"state": "PENDING_UNVERIFIED", "evidence": "stripe:other"},
        (CHECK, "payment_attempt_events_lead_on"),
    ),
    "evidence that cannot be shown": (
        {
            "attempt": INTENT,
            "from_state": "CREATED_INTENT",
            "state": "PENDING_UNVERIFIED",
            "evidence": "a b",
        },
        (CHECK, "payment_attempt_events_evidence_visible_ascii"),
    ),
    "back from the end": (
        {
            "attempt": CREDITED,
            "from_state": "CREDITED",
            "state": "PENDING_UNVERIFIED",
            "evidence": "stripe:again",
        },
        (CHECK, "payment_attempt_events_lead_on"),
    ),
    "left a second time": (
        {"attempt": CREDITED, "state": "REJECTED", "failure": "INVALID_TOKEN"},
        (SERIAL, "payment_attempts_move_on"),
    ),
    "rejected for no reason": (
        {"state": "REJECTED"},
        (CHECK, "payment_attempt_events_say_why"),
    ),
    "rejected for a reason that nobody knows": (
        {"state": "REJECTED", "failure": "BECAUSE"},
        (CHECK, "payment_attempt_events_failure_known"),
    ),
    "found what is too large": (
        {"state": "FAILED", "failure": "TX_REVERTED", "found": '{"a": "' + "a" * 17_000 + '"}'},
        (CHECK, "payment_attempt_events_found_small_object"),
    ),
    "at a moment that nobody can read": (
        {"state": "FAILED", "failure": "TX_REVERTED", "at": "infinity"},
        (CHECK, "payment_attempt_events_at_in_range"),
    ),
    "of an attempt that is not there": (
        {"attempt": UUID(int=77), "state": "FAILED", "failure": "TX_REVERTED"},
        (SERIAL, "payment_attempts_move_on"),
    ),
    "of another tenant's attempt": (
        {"attempt": UUID(int=9), "state": "FAILED", "failure": "TX_REVERTED"},
        (SERIAL, "payment_attempts_move_on"),
    ),
    "in another tenant's name": (
        {"tenant": BOB, "attempt": UUID(int=9), "state": "FAILED", "failure": "TX_REVERTED"},
        (PRIVILEGE, None),
    ),
}


@pytest.mark.parametrize("forgery", FORGERIES)
def test_a_forged_event_is_refused_and_leaves_nothing(
    database: Database, attempts: PaymentAttempts, forgery: str
) -> None:
    billing = Billing(PostgresUnitOfWork(database.user, service=database.service))
    of_a_cent = billing.confirm_purchase(ALICE, usd("0.01"), payment="stripe:pi_1")
    bobs = PaymentAttempts(
        PostgresUnitOfWork(database.user),
        verifier=FakeVerifier(),
        destinations=CARD,
        ids=CountingIds(8),
    )
    bobs.create_intent(BOB, usd("2.00"))
    bobs.submit(BOB, UUID(int=9), "stripe:bob")
    known = {
        "the credited one's": attempts.status(ALICE, CREDITED).transaction_id,
        "of a cent": of_a_cent.transaction_id,
    }
    change, rule = FORGERIES[forgery]
    before = [attempts.status(ALICE, each) for each in (INTENT, PENDING, CREDITED)]
    given = ROW | change
    given["transaction"] = known.get(given["transaction"], given["transaction"])

    assert refused(database, EVENT, **given) == rule

    assert [attempts.status(ALICE, each) for each in (INTENT, PENDING, CREDITED)] == before
    assert bobs.status(BOB, UUID(int=9)).state is AttemptState.PENDING_UNVERIFIED
    assert billing.verify().ok


@pytest.mark.parametrize(
    ("statement", "rule"),
    [
        ("UPDATE cogni_billing.payment_attempts SET state = 'CREDITED'", PRIVILEGE),
        ("UPDATE cogni_billing.payment_attempts SET payer = 'me'", PRIVILEGE),
        ("UPDATE cogni_billing.payment_attempt_events SET failure = NULL", PRIVILEGE),
        ("DELETE FROM cogni_billing.payment_attempts", PRIVILEGE),
        ("DELETE FROM cogni_billing.payment_attempt_events", PRIVILEGE),
        ("TRUNCATE cogni_billing.payment_attempts CASCADE", PRIVILEGE),
        ("INSERT INTO cogni_billing.payment_attempts (state) VALUES ('CREDITED')", PRIVILEGE),
        ("INSERT INTO cogni_billing.payment_attempts (evidence) VALUES ('stripe:x')", PRIVILEGE),
    ],
)
def test_no_state_is_set_and_no_history_edited(
    database: Database, attempts: PaymentAttempts, statement: str, rule: str
) -> None:
    assert refused(database, statement) == (rule, None)


ATTEMPT: Final[dict[str, Any]] = {
    "tenant_id": ALICE,
    "id": UUID(int=50),
    "amount": "2.00",
    "unit": "USD",
    "payer": None,
    "provider": "stripe",
    "token": "usd",
    "recipient": "acct_1",
    "raw_amount": 200,
    "confirmations": 0,
    "metadata": "{}",
    "created_at": NOON,
    "expires_at": NOON,
}
MONEY, NAMES = "payment_attempts_of_money", "payment_attempts_names_visible_ascii"


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"amount": 0}, (CHECK, MONEY)),
        ({"amount": "0.001"}, (CHECK, MONEY)),
        ({"amount": "NaN"}, (CHECK, MONEY)),
        ({"amount": "1e27"}, (CHECK, MONEY)),
        ({"unit": "CREDIT"}, (CHECK, MONEY)),
        ({"raw_amount": 0}, (CHECK, MONEY)),
        ({"raw_amount": "0.5"}, (CHECK, MONEY)),
        ({"raw_amount": "Infinity"}, (CHECK, MONEY)),
        ({"confirmations": -1}, (CHECK, MONEY)),
        ({"payer": "a b"}, (CHECK, NAMES)),
        ({"payer": "a" * 256}, (CHECK, NAMES)),
        ({"provider": ""}, (CHECK, NAMES)),
        ({"token": ""}, (CHECK, NAMES)),
        ({"recipient": ""}, (CHECK, NAMES)),
        ({"recipient": "caf\u00e9"}, (CHECK, NAMES)),
        ({"metadata": "[]"}, (CHECK, "payment_attempts_metadata_small_object")),
        ({"created_at": "-infinity"}, (CHECK, "payment_attempts_moments_in_range")),
        ({"expires_at": "infinity"}, (CHECK, "payment_attempts_moments_in_range")),
        ({"expires_at": "2000-01-01"}, (CHECK, "payment_attempts_moments_in_range")),
        ({"tenant_id": BOB}, (PRIVILEGE, None)),
        ({"id": INTENT}, (UNIQUE, "payment_attempts_pkey")),
    ],
)
def test_an_intent_keeps_rules_of_its_own(
    database: Database,
    attempts: PaymentAttempts,
    change: dict[str, Any],
    rule: tuple[str, str | None],
) -> None:
    columns = ", ".join(ATTEMPT)
    values = ", ".join(
        f"CAST(:{name} AS {kind})" if (kind := TYPES.get(name)) else f":{name}" for name in ATTEMPT
    )
    statement = f"INSERT INTO cogni_billing.payment_attempts ({columns}) VALUES ({values})"
    with database.acting_for(ALICE) as connection:
        connection.execute(text(statement), ATTEMPT)

    assert refused(database, statement, **(ATTEMPT | change)) == rule


TYPES: Final = {
    "metadata": "json",
    "amount": "numeric",
    "raw_amount": "numeric",
    "created_at": "timestamptz",
    "expires_at": "timestamptz",
}


def test_the_turn_of_another_tenant_s_check_is_not_taken(
    database: Database, attempts: PaymentAttempts
) -> None:
    asked = text("SELECT cogni_billing.begin_check(:id, :now, '0')")
    with database.acting_for(BOB) as connection:
        assert connection.scalar(asked, {"id": PENDING, "now": NOON}) is False
    with database.acting_for(ALICE) as connection:
        assert connection.scalar(asked, {"id": PENDING, "now": NOON}) is True


@pytest.mark.parametrize("moment", ["infinity", "-infinity", "9999-01-01"])
def test_a_turn_is_taken_at_a_moment_that_can_be_read(
    database: Database, attempts: PaymentAttempts, moment: str
) -> None:
    statement = "SELECT cogni_billing.begin_check(:id, :moment, '1 second')"
    with database.acting_for(ALICE) as connection:
        connection.execute(text(statement), {"id": PENDING, "moment": "2999-01-01"})
        connection.commit()

    rule = refused(database, statement, id=PENDING, moment=moment)

    assert rule == (CHECK, "payment_attempts_moments_in_range")


def test_a_day_is_24_hours_whatever_the_session_s_time_zone_makes_of_it(
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


def test_a_turn_that_was_taken_for_ever_is_not_waited_for(
    database: Database, attempts: PaymentAttempts
) -> None:
    taken = text("SELECT cogni_billing.begin_check(:id, '9998-12-31', '0')")
    with database.acting_for(ALICE) as connection:
        connection.execute(taken, {"id": PENDING})
        connection.commit()
    service = PaymentAttempts(
        PostgresUnitOfWork(database.user, service=database.service),
        verifier=Paying(),
        destinations=CARD,
        clock=MovableClock(),
    )

    assert service.sweep() == 1
    assert attempts.status(ALICE, PENDING).state is AttemptState.CREDITED


def test_who_fills_the_sweep_with_forgeries_keeps_nobody_from_it(database: Database) -> None:
    forged = """
        INSERT INTO cogni_billing.payment_attempts (
            tenant_id, id, amount, unit, provider, token, recipient, raw_amount, confirmations,
            metadata, created_at, expires_at
        )
        SELECT :tenant, gen_random_uuid(), 2.00, 'USD', 'stripe', 'usd', 'acct_1', 200, 0,
            CAST('{"a": ' || repeat('9', 5000) || '}' AS json), 'epoch', 'epoch'
        FROM generate_series(1, 1500)
    """
    with database.acting_for(BOB) as connection:
        connection.execute(text(forged), {"tenant": BOB})
        connection.commit()
    made = PaymentAttempts(
        PostgresUnitOfWork(database.user, service=database.service),
        verifier=Paying(),
        destinations=CARD,
        rules=AttemptRules(checks_every=timedelta(0)),
    )
    intent = made.create_intent(ALICE, usd("2.00"))
    with database.acting_for(ALICE) as connection:
        row = ROW | {"attempt": intent.attempt_id, "from_state": "CREATED_INTENT"}
        row |= {"state": "PENDING_UNVERIFIED", "evidence": "stripe:pi_1"}
        connection.execute(text(EVENT), row)
        connection.commit()

    with pytest.raises(LedgerCorruption):
        made.sweep()

    assert made.status(ALICE, intent.attempt_id).state is AttemptState.CREDITED


@define
class Paying(FakeVerifier):
    """Whatever is asked about was paid."""

    def verify(self, evidence: str, intent: Intent, /) -> Finding:
        return paid(intent)


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


def test_who_was_overtaken_is_told_and_nothing_is_written(
    database: Database, attempts: PaymentAttempts
) -> None:
    unit_of_work = PostgresUnitOfWork(database.user)
    stale = attempts.status(ALICE, PENDING)
    failed = AttemptEvent(state=AttemptState.FAILED, at=NOON, failure=FailureCode.TX_REVERTED)
    unit_of_work.run(ALICE, lambda scope: scope.attempts.record(stale, failed))

    with (
        pytest.raises(LedgerUnavailable, match="another transaction got in the way") as caught,
        unit_of_work.scope(ALICE) as scope,
    ):
        scope.attempts.record(stale, failed)

    assert caught.value.sqlstate == SERIAL
    assert len(attempts.history(ALICE, PENDING)) == 3


def test_who_may_only_spend_reads_and_writes_nothing(
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
