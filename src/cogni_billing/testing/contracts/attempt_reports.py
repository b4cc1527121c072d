"""Contract: late reports, several ids of one payment, and evidence that is replaced."""

from __future__ import annotations

from datetime import timedelta

import pytest

from cogni_billing import (
    AttemptState,
    Billing,
    Destination,
    FailureCode,
    IdempotencyConflict,
    Intent,
    PaymentAlreadyClaimed,
    PaymentAttempts,
    PaymentFailed,
    PaymentPending,
    PaymentVerified,
    usd,
)
from cogni_billing.domain.findings import Finding
from cogni_billing.testing.base import (
    ALICE,
    NOON,
    MovableClock,
    NewAttempts,
    Totals,
    purchase_totals,
)
from cogni_billing.testing.contracts.attempt_base import CARD, PROOF, Attempting, Code, State
from cogni_billing.testing.verifiers import FakeVerifier, paid

SESSION, PAYMENT = "stripe:cs_1", "stripe:pi_1"
FASTER = "8453:0x" + "cd" * 32
CREDITED = purchase_totals(ALICE, 20_000_000, 5_000_000)
UNKNOWN = PaymentPending(Code.RPC_ERROR)
"""The answer of a verifier that only waits for webhooks."""


class AttemptReportContract(Attempting):
    """A verified payment is credited whenever it is reported, by each of its ids."""

    @pytest.fixture
    def card(self, attempts: PaymentAttempts, verifier: FakeVerifier) -> Intent:
        """Alice intends to pay two dollars by card."""
        verifier.tell(SESSION, UNKNOWN)
        return attempts.create_intent(ALICE, usd("2.00"), provider="stripe")

    @pytest.mark.parametrize("swept", [False, True], ids=["not swept", "swept"])
    def test_a_report_after_the_expiry_is_credited(
        self,
        attempts: PaymentAttempts,
        billing: Billing,
        moving: MovableClock,
        card: Intent,
        totals: Totals,
        swept: bool,
    ) -> None:
        moving.move(timedelta(minutes=31))
        if swept:
            assert attempts.sweep() == 1

        attempt = attempts.report(ALICE, card.attempt_id, PAYMENT, paid(card))

        assert (attempt.state, attempt.failure) == (State.CREDITED, None)
        assert attempt.evidence == PAYMENT
        assert attempts.report(ALICE, card.attempt_id, PAYMENT, paid(card)) == attempt
        assert totals() == CREDITED
        assert billing.verify().ok

    @pytest.mark.parametrize("code", [Code.TX_REVERTED, Code.RECEIPT_NOT_FOUND])
    def test_a_report_after_a_failure_is_credited(
        self,
        attempts: PaymentAttempts,
        billing: Billing,
        moving: MovableClock,
        card: Intent,
        totals: Totals,
        code: FailureCode,
    ) -> None:
        attempts.submit(ALICE, card.attempt_id, SESSION)
        moving.move(timedelta(days=2))
        failed = attempts.report(ALICE, card.attempt_id, SESSION, PaymentFailed(code))
        assert (failed.state, failed.failure) == (State.FAILED, code)

        attempt = attempts.report(ALICE, card.attempt_id, PAYMENT, paid(card))

        assert attempt.state is State.CREDITED
        assert totals() == CREDITED
        assert [event.state for event in attempts.history(ALICE, card.attempt_id)] == [
            *(State.CREATED_INTENT, State.PENDING_UNVERIFIED, State.FAILED),
            *(State.PENDING_UNVERIFIED, State.CREDITED),
        ]
        assert billing.verify().ok

    @pytest.mark.parametrize("finding", [PaymentPending(), PaymentFailed(Code.TX_REVERTED)])
    def test_a_report_without_a_payment_leaves_an_expired_intent_failed(
        self, attempts: PaymentAttempts, moving: MovableClock, card: Intent, finding: Finding
    ) -> None:
        moving.move(timedelta(minutes=31))

        attempt = attempts.report(ALICE, card.attempt_id, PAYMENT, finding)

        assert (attempt.state, attempt.failure) == (State.FAILED, Code.INTENT_EXPIRED)
        assert attempts.report(ALICE, card.attempt_id, PAYMENT, finding) == attempt

    @pytest.mark.parametrize("told", [(), (SESSION,)], ids=["payment only", "both ids"])
    def test_a_session_becomes_its_payment_when_it_is_paid(
        self,
        attempts: PaymentAttempts,
        billing: Billing,
        card: Intent,
        totals: Totals,
        told: tuple[str, ...],
    ) -> None:
        attempts.submit(ALICE, card.attempt_id, SESSION)

        attempt = attempts.report(ALICE, card.attempt_id, PAYMENT, paid(card), aliases=told)

        assert (attempt.state, attempt.evidence) == (State.CREDITED, PAYMENT)
        assert attempts.submit(ALICE, card.attempt_id, SESSION) == attempt
        assert attempts.report(ALICE, card.attempt_id, PAYMENT, paid(card)) == attempt
        assert totals() == CREDITED
        assert billing.verify().ok

    @pytest.mark.parametrize(
        ("finding", "state"),
        [
            (PaymentPending(), State.PENDING_UNVERIFIED),
            (PaymentFailed(Code.TX_REVERTED), State.FAILED),
        ],
    )
    def test_a_session_becomes_its_payment_before_it_is_paid(
        self, attempts: PaymentAttempts, card: Intent, finding: Finding, state: AttemptState
    ) -> None:
        attempts.submit(ALICE, card.attempt_id, SESSION)

        attempt = attempts.report(ALICE, card.attempt_id, PAYMENT, finding, aliases=(SESSION,))

        assert (attempt.state, attempt.evidence) == (state, PAYMENT)

    @pytest.mark.parametrize("finding", [PaymentPending(), PaymentFailed(Code.TX_REVERTED)])
    def test_a_report_of_another_payment_that_is_not_paid_conflicts(
        self, attempts: PaymentAttempts, card: Intent, finding: Finding
    ) -> None:
        pending = attempts.submit(ALICE, card.attempt_id, SESSION)

        with pytest.raises(IdempotencyConflict):
            attempts.report(ALICE, card.attempt_id, PAYMENT, finding)

        assert attempts.status(ALICE, card.attempt_id) == pending

    def test_a_second_payment_of_a_credited_attempt_conflicts(
        self, attempts: PaymentAttempts, card: Intent, totals: Totals
    ) -> None:
        attempts.report(ALICE, card.attempt_id, PAYMENT, paid(card))

        with pytest.raises(IdempotencyConflict) as caught:
            attempts.report(ALICE, card.attempt_id, "stripe:pi_2", paid(card))

        [difference] = caught.value.differences
        assert (difference.stored, difference.requested) == (PAYMENT, "stripe:pi_2")
        assert totals() == CREDITED

    def test_a_late_report_of_a_purchased_payment_is_refused(
        self,
        attempts: PaymentAttempts,
        billing: Billing,
        moving: MovableClock,
        card: Intent,
        totals: Totals,
    ) -> None:
        moving.move(timedelta(minutes=31))
        expired = attempts.status(ALICE, card.attempt_id)
        billing.confirm_purchase(ALICE, usd("2.00"), payment=PAYMENT)

        with pytest.raises(PaymentAlreadyClaimed):
            attempts.report(ALICE, card.attempt_id, PAYMENT, paid(card))

        assert attempts.status(ALICE, card.attempt_id) == expired
        assert totals() == CREDITED

    def test_a_destination_has_its_own_expiry(
        self, new_attempts: NewAttempts, moving: MovableClock
    ) -> None:
        slow = Destination.card("bank", recipient="acct_1", expires_after=timedelta(days=7))
        attempts = new_attempts(verifier=FakeVerifier(), destinations=[CARD, slow], clock=moving)

        intents = [attempts.create_intent(ALICE, usd("2.00"), provider=p) for p in (None, "bank")]

        assert [intent.expires_at - NOON for intent in intents] == [
            timedelta(minutes=30),
            timedelta(days=7),
        ]


class EvidenceReplacementContract(Attempting):
    """The hash of a transaction that was sent again replaces one that is not found."""

    def test_evidence_that_is_not_found_is_replaced(
        self,
        attempts: PaymentAttempts,
        billing: Billing,
        verifier: FakeVerifier,
        intent: Intent,
        totals: Totals,
    ) -> None:
        verifier.tell(FASTER, paid)
        attempts.submit(ALICE, intent.attempt_id, PROOF)

        attempt = attempts.submit(ALICE, intent.attempt_id, FASTER)

        assert (attempt.state, attempt.evidence) == (State.CREDITED, FASTER)
        assert verifier.asked == [PROOF, PROOF, FASTER]
        assert totals() == CREDITED
        assert attempts.submit(ALICE, intent.attempt_id, PROOF) == attempt
        assert billing.verify().ok

    def test_replaced_evidence_is_free_for_another_attempt(
        self, attempts: PaymentAttempts, verifier: FakeVerifier, intent: Intent
    ) -> None:
        attempts.submit(ALICE, intent.attempt_id, PROOF)
        attempts.submit(ALICE, intent.attempt_id, FASTER)
        verifier.tell(PROOF, paid)
        other = attempts.create_intent(ALICE, usd("2.00"), payer=intent.payer)

        assert attempts.submit(ALICE, other.attempt_id, PROOF).state is State.CREDITED
        assert attempts.status(ALICE, intent.attempt_id).evidence == FASTER

    def test_the_first_transaction_can_be_submitted_again_after_a_replacement(
        self, attempts: PaymentAttempts, verifier: FakeVerifier, intent: Intent, totals: Totals
    ) -> None:
        attempts.submit(ALICE, intent.attempt_id, PROOF)
        attempts.submit(ALICE, intent.attempt_id, FASTER)
        verifier.tell(PROOF, paid)

        attempt = attempts.submit(ALICE, intent.attempt_id, PROOF)

        assert (attempt.state, attempt.evidence) == (State.CREDITED, PROOF)
        assert totals() == CREDITED

    def test_a_replacement_begins_the_time_limit_anew(
        self, attempts: PaymentAttempts, moving: MovableClock, intent: Intent
    ) -> None:
        attempts.submit(ALICE, intent.attempt_id, PROOF)
        moving.move(timedelta(hours=23))
        attempts.submit(ALICE, intent.attempt_id, FASTER)
        moving.move(timedelta(hours=23))

        assert attempts.status(ALICE, intent.attempt_id).state is State.PENDING_UNVERIFIED

    def test_evidence_of_another_attempt_replaces_none(
        self, attempts: PaymentAttempts, intent: Intent
    ) -> None:
        other = attempts.create_intent(ALICE, usd("2.00"), payer=intent.payer)
        attempts.submit(ALICE, other.attempt_id, FASTER)
        pending = attempts.submit(ALICE, intent.attempt_id, PROOF)

        with pytest.raises(PaymentAlreadyClaimed):
            attempts.submit(ALICE, intent.attempt_id, FASTER)

        assert attempts.status(ALICE, intent.attempt_id) == pending

    def test_a_finding_on_replaced_evidence_is_ignored(
        self, attempts: PaymentAttempts, verifier: FakeVerifier, intent: Intent, totals: Totals
    ) -> None:
        """The evidence is replaced while the verifier looks for it."""

        def replaced_meanwhile(intent: Intent) -> PaymentVerified:
            verifier.tell(PROOF, PaymentPending())
            attempts.submit(ALICE, intent.attempt_id, FASTER)
            return paid(intent)

        verifier.tell(PROOF, replaced_meanwhile)

        attempt = attempts.submit(ALICE, intent.attempt_id, PROOF)

        assert (attempt.state, attempt.evidence) == (State.PENDING_UNVERIFIED, FASTER)
        assert ALICE not in totals()
