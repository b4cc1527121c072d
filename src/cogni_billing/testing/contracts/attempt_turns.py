"""When and how a verifier is asked, on every adapter."""

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
    """Fails to be told."""

    def __str__(self) -> str:
        raise ZeroDivisionError


class OutsideTheTree(BaseException):
    """As some libraries' timeouts are."""


RAISED: Final[dict[BaseException, str]] = {
    ValueError("no such field: logs"): "no such field: logs",
    SystemExit(3): "3",
    CancelledError("inner"): "",
    OutsideTheTree("too slow"): "too slow",
    Untellable(): "its message cannot be read",
}


class AttemptTurnContract(Attempting):
    """One asks at a time, now and then; and a verifier that is wrong credits nobody."""

    def test_the_verifier_is_asked_once_in_ten_seconds_however_often_the_status_is(
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

    def test_nobody_is_asked_about_an_intent_or_about_what_has_ended(
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

    def test_it_waits_for_no_turn_however_wrong_another_clock_was(
        self,
        attempts: PaymentAttempts,
        moving: MovableClock,
        intent: Intent,
    ) -> None:
        attempts.submit(ALICE, intent.attempt_id, PROOF)
        moving.move(-POLL)

        credited = attempts.report(ALICE, intent.attempt_id, PROOF, paid(intent))

        assert credited.state is State.CREDITED

    def test_a_turn_that_a_clock_far_ahead_took_is_not_waited_for(
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

    def test_a_turn_that_a_clock_a_little_ahead_took_is_a_turn(
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

    def test_a_sweep_goes_on_where_an_attempt_fails_and_tells_it_in_the_end(
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

    def test_a_sweep_tries_each_attempt_once_however_long_the_verifier_takes(
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

    def test_a_sweep_tries_each_attempt_once_even_where_no_time_passes(
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
    def test_a_verifier_that_talks_nonsense_is_told_and_the_attempt_waits(
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
    def test_a_verifier_that_raises_is_told_and_the_attempt_waits(
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

        with pytest.raises(VerifierFailed, match=said) as caught:
            attempts.submit(ALICE, intent.attempt_id, PROOF)

        assert isinstance(caught.value.__cause__, type(error))
        moving.move(POLL)
        assert attempts.status(ALICE, intent.attempt_id).state is State.CREDITED
