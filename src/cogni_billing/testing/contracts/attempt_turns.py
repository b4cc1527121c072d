"""Contract: the calls of a verifier."""

from __future__ import annotations

from asyncio import CancelledError
from datetime import timedelta
from typing import Final

import pytest

from cogni_billing import (
    AccountId,
    AttemptRules,
    Billing,
    IdempotencyConflict,
    Intent,
    PaymentAttempts,
    PaymentPending,
    VerifierFailed,
    usd,
)
from cogni_billing.domain.findings import Finding
from cogni_billing.testing.base import (
    ALICE,
    BOB,
    MovableClock,
    NewAttempts,
    Totals,
    purchase_totals,
)
from cogni_billing.testing.contracts.attempt_base import (
    CARD,
    POLL,
    PROOF,
    Attempting,
    Code,
    State,
)
from cogni_billing.testing.verifiers import FakeVerifier, paid, paid_but


class Untellable(Exception):
    """An exception without a readable message."""

    def __str__(self) -> str:
        raise ZeroDivisionError


class OutsideTheTree(BaseException):
    """An exception outside `Exception`, like the timeouts of some libraries."""


RAISED: Final[dict[BaseException, str]] = {
    ValueError("no such field: logs"): "no such field: logs",
    SystemExit(3): "3",
    CancelledError("inner"): "",
    OutsideTheTree("too slow"): "too slow",
    Untellable(): "its message cannot be read",
}


class AttemptTurnContract(Attempting):
    """A verifier is asked once per interval, and a wrong verifier credits no tenant."""

    def test_frequent_polls_ask_the_verifier_once_in_ten_seconds(
        self,
        attempts: PaymentAttempts,
        verifier: FakeVerifier,
        moving: MovableClock,
        intent: Intent,
    ) -> None:
        attempts.submit(ALICE, intent.attempt_id, PROOF)
        for _ in range(3):
            attempts.status(ALICE, intent.attempt_id)
        assert verifier.asked == [PROOF]

        moving.move(POLL - timedelta(microseconds=1))
        attempts.submit(ALICE, intent.attempt_id, PROOF)
        assert verifier.asked == [PROOF]
        moving.move(timedelta(microseconds=1))
        for _ in range(3):
            attempts.status(ALICE, intent.attempt_id)
        assert verifier.asked == [PROOF] * 2
        moving.move(POLL)
        attempts.submit(ALICE, intent.attempt_id, PROOF)
        assert verifier.asked == [PROOF] * 3

    def test_the_verifier_is_not_asked_about_intents_and_ended_attempts(
        self,
        attempts: PaymentAttempts,
        verifier: FakeVerifier,
        moving: MovableClock,
        intent: Intent,
    ) -> None:
        attempts.status(ALICE, intent.attempt_id)
        assert verifier.asked == []
        verifier.tell(PROOF, paid)
        attempts.submit(ALICE, intent.attempt_id, PROOF)
        moving.move(POLL)
        attempts.status(ALICE, intent.attempt_id)

        assert verifier.asked == [PROOF]

    def test_a_report_with_a_clock_set_back_is_credited_at_once(
        self,
        attempts: PaymentAttempts,
        moving: MovableClock,
        intent: Intent,
    ) -> None:
        attempts.submit(ALICE, intent.attempt_id, PROOF)
        moving.move(-POLL)

        credited = attempts.report(ALICE, intent.attempt_id, PROOF, paid(intent))

        assert credited.state is State.CREDITED

    def test_a_check_recorded_far_in_the_future_does_not_delay_the_next(
        self,
        attempts: PaymentAttempts,
        verifier: FakeVerifier,
        moving: MovableClock,
        intent: Intent,
    ) -> None:
        attempts.submit(ALICE, intent.attempt_id, PROOF)
        moving.move(timedelta(hours=12))
        attempts.status(ALICE, intent.attempt_id)
        moving.move(-timedelta(hours=6))
        verifier.tell(PROOF, paid)

        assert attempts.sweep() == 1
        assert attempts.status(ALICE, intent.attempt_id).state is State.CREDITED

    def test_a_check_recorded_shortly_in_the_future_delays_the_next(
        self,
        attempts: PaymentAttempts,
        verifier: FakeVerifier,
        moving: MovableClock,
        intent: Intent,
    ) -> None:
        attempts.submit(ALICE, intent.attempt_id, PROOF)
        moving.move(-POLL)
        attempts.status(ALICE, intent.attempt_id)
        assert (attempts.sweep(), verifier.asked) == (0, [PROOF])

        moving.move(-timedelta(microseconds=1))
        attempts.status(ALICE, intent.attempt_id)
        assert verifier.asked == [PROOF] * 2

    def test_a_sweep_asks_about_every_pending_attempt_and_lets_intents_expire(
        self,
        attempts: PaymentAttempts,
        verifier: FakeVerifier,
        moving: MovableClock,
        intent: Intent,
        totals: Totals,
    ) -> None:
        other = attempts.create_intent(BOB, usd("3.00"), provider="stripe")
        waits = attempts.create_intent(BOB, usd("4.00"), provider="stripe")
        attempts.submit(BOB, other.attempt_id, "stripe:pi_1")
        attempts.submit(BOB, waits.attempt_id, "stripe:pi_2")
        verifier.tell("stripe:pi_1", paid)
        assert attempts.sweep() == 0

        moving.move(timedelta(minutes=30))
        assert attempts.sweep() == 2

        states = [
            attempts.status(each.tenant, each.attempt_id).state for each in (intent, other, waits)
        ]
        assert states == [State.FAILED, State.CREDITED, State.PENDING_UNVERIFIED]
        assert verifier.asked == ["stripe:pi_1", "stripe:pi_2"] * 2
        assert totals() == purchase_totals(BOB, 30_000_000, 7_500_000)
        assert attempts.sweep() == 0

    def test_a_sweep_continues_after_a_failed_attempt_and_raises_at_the_end(
        self,
        attempts: PaymentAttempts,
        billing: Billing,
        verifier: FakeVerifier,
        moving: MovableClock,
        intent: Intent,
        totals: Totals,
    ) -> None:
        other = attempts.create_intent(BOB, usd("3.00"), provider="stripe")
        attempts.submit(ALICE, intent.attempt_id, PROOF)
        attempts.submit(BOB, other.attempt_id, "stripe:pi_1")
        billing.confirm_purchase(BOB, usd("0.01"), payment="stripe:pi_1")
        before = totals()[AccountId(BOB)]
        verifier.tell(PROOF, paid)
        verifier.tell("stripe:pi_1", paid)
        moving.move(POLL)

        with pytest.raises(IdempotencyConflict):
            attempts.sweep()

        assert attempts.status(ALICE, intent.attempt_id).state is State.CREDITED
        assert attempts.status(BOB, other.attempt_id).state is State.PENDING_UNVERIFIED
        assert totals()[AccountId(BOB)] == before

    def test_a_sweep_with_a_slow_verifier_tries_each_attempt_once(
        self, attempts: PaymentAttempts, verifier: FakeVerifier, moving: MovableClock
    ) -> None:
        def slow(intent: Intent) -> Finding:
            moving.move(2 * POLL)
            return PaymentPending(Code.RPC_ERROR) if len(verifier.asked) < 10 else paid(intent)

        for proof in ("stripe:pi_1", "stripe:pi_2"):
            intent = attempts.create_intent(ALICE, usd("2.00"), provider="stripe")
            attempts.submit(ALICE, intent.attempt_id, proof)
            verifier.tell(proof, slow)
        moving.move(POLL)
        verifier.asked.clear()

        assert attempts.sweep() == 0
        assert sorted(verifier.asked) == ["stripe:pi_1", "stripe:pi_2"]

    def test_a_sweep_with_a_clock_standing_still_tries_each_attempt_once(
        self, new_attempts: NewAttempts, verifier: FakeVerifier, moving: MovableClock
    ) -> None:
        attempts = new_attempts(
            verifier=verifier,
            destinations=CARD,
            clock=moving,
            rules=AttemptRules(checks_every=timedelta(0)),
        )
        intent = attempts.create_intent(ALICE, usd("2.00"))
        attempts.submit(ALICE, intent.attempt_id, "stripe:pi_1")

        assert attempts.sweep() == 0
        assert verifier.asked == ["stripe:pi_1"] * 2

    @pytest.mark.parametrize(
        "lie",
        [
            *(None, True, "verified", {"state": "verified"}),
            *(paid_but(raw_amount=odd) for odd in (2e6, True, None, -1, 2**256, 10**5000)),
            *(paid_but(confirmations=odd) for odd in (5.0, -1, 2**63)),
            *(paid_but(sender=odd) for odd in (7, "", "a" * 256, "a\0", "\ud800")),
            *(paid_but(token=odd) for odd in (None, "usd coin")),
            *(paid_but(recipient=odd) for odd in (None, b"")),
            paid_but(provider=8453),
        ],
    )
    def test_an_invalid_finding_raises_verifier_failed_and_the_attempt_stays_pending(
        self,
        attempts: PaymentAttempts,
        verifier: FakeVerifier,
        moving: MovableClock,
        intent: Intent,
        totals: Totals,
        lie: Finding,
    ) -> None:
        before = totals()
        verifier.tell(PROOF, lie, paid)

        with pytest.raises(VerifierFailed) as caught:
            attempts.submit(ALICE, intent.attempt_id, PROOF)

        assert caught.value.attempt_id == intent.attempt_id
        assert totals() == before
        assert attempts.status(ALICE, intent.attempt_id).state is State.PENDING_UNVERIFIED
        moving.move(POLL)
        assert attempts.status(ALICE, intent.attempt_id).state is State.CREDITED

    @pytest.mark.parametrize("error", RAISED, ids=lambda each: type(each).__name__)
    def test_a_raising_verifier_raises_verifier_failed_and_the_attempt_stays_pending(
        self,
        attempts: PaymentAttempts,
        verifier: FakeVerifier,
        moving: MovableClock,
        intent: Intent,
        error: BaseException,
    ) -> None:
        def broken(_intent: Intent) -> Finding:
            raise error

        verifier.tell(PROOF, broken, paid)
        said = f"{type(error).__name__}: {RAISED[error]}"

        with pytest.raises(VerifierFailed) as caught:
            attempts.submit(ALICE, intent.attempt_id, PROOF)

        assert said in caught.value.reason
        assert isinstance(caught.value.__cause__, type(error))
        moving.move(POLL)
        assert attempts.status(ALICE, intent.attempt_id).state is State.CREDITED
