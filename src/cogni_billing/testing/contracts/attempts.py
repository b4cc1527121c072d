"""Contract: payment attempts are credited if they are verified."""

from __future__ import annotations

from datetime import timedelta

import pytest

from cogni_billing import (
    AttemptEvent,
    AttemptState,
    AttemptStatus,
    Billing,
    FailureCode,
    Intent,
    PaymentAttempts,
    PaymentFailed,
    PaymentPending,
    TransactionKind,
    usd,
    usd_cents,
)
from cogni_billing.domain.findings import Finding
from cogni_billing.testing.base import (
    ALICE,
    NOON,
    MovableClock,
    Totals,
    purchase_totals,
)
from cogni_billing.testing.contracts.attempt_base import (
    DAY,
    PLATFORM,
    POLL,
    PROOF,
    STRANGER,
    TOKEN,
    WALLET,
    Attempting,
    Code,
    State,
)
from cogni_billing.testing.verifiers import FakeVerifier, paid, paid_but


class AttemptContract(Attempting):
    """From intent to credits: a verified payment is credited once, and no other payment is."""

    @pytest.mark.parametrize(
        ("cents", "raw", "credited", "share"),
        [
            (200, 2_000_000, 20_000_000, 5_000_000),
            (5_000, 50_000_000, 500_000_000, 125_000_000),
        ],
    )
    def test_a_verified_payment_is_credited_with_its_share(
        self,
        attempts: PaymentAttempts,
        billing: Billing,
        verifier: FakeVerifier,
        totals: Totals,
        cents: int,
        raw: int,
        credited: int,
        share: int,
    ) -> None:
        intent = attempts.create_intent(ALICE, usd_cents(cents), payer=WALLET, metadata={"cart": 7})
        verifier.tell(PROOF, paid)

        attempt = attempts.submit(ALICE, intent.attempt_id, PROOF)

        assert intent.raw_amount == raw
        assert (attempt.state, attempt.status) == (State.CREDITED, AttemptStatus.CONFIRMED)
        assert (attempt.failure, attempt.expires_at) == (None, None)
        assert totals() == purchase_totals(ALICE, credited, share)
        assert attempt.transaction_id is not None
        purchase = billing.transaction(ALICE, attempt.transaction_id)
        assert purchase is not None
        assert (purchase.kind, purchase.reference) == (TransactionKind.PURCHASE, PROOF)
        assert purchase.metadata == {"cart": 7}
        assert attempts.status(ALICE, intent.attempt_id) == attempt
        assert billing.verify().ok

    @pytest.mark.parametrize(
        ("change", "code"),
        [
            ({"sender": STRANGER}, Code.SENDER_MISMATCH),
            ({"sender": None}, Code.SENDER_MISMATCH),
            ({"token": STRANGER}, Code.INVALID_TOKEN),
            ({"recipient": STRANGER}, Code.INVALID_RECIPIENT),
            ({"raw_amount": 1_999_999}, Code.INSUFFICIENT_AMOUNT),
            ({"raw_amount": 0}, Code.INSUFFICIENT_AMOUNT),
            ({"provider": "1"}, Code.INVALID_CHAIN),
        ],
    )
    def test_evidence_of_another_payment_is_rejected_and_credits_nothing(
        self,
        attempts: PaymentAttempts,
        verifier: FakeVerifier,
        intent: Intent,
        totals: Totals,
        change: dict[str, object],
        code: FailureCode,
    ) -> None:
        before = totals()
        verifier.tell(PROOF, paid_but(**change))

        attempt = attempts.submit(ALICE, intent.attempt_id, PROOF)

        assert (attempt.state, attempt.failure) == (State.REJECTED, code)
        assert attempt.status is AttemptStatus.FAILED
        assert attempt.transaction_id is None
        assert totals() == before

    @pytest.mark.parametrize(
        ("code", "state"),
        [
            (Code.TX_REVERTED, State.FAILED),
            (Code.TOKEN_TRANSFER_NOT_FOUND, State.REJECTED),
            (Code.RECIPIENT_MISMATCH, State.REJECTED),
            (Code.SENDER_MISMATCH, State.REJECTED),
            (Code.RPC_ERROR, State.PENDING_UNVERIFIED),
            (Code.INSUFFICIENT_CONFIRMATIONS, State.PENDING_UNVERIFIED),
            (Code.TX_NOT_FOUND, State.PENDING_UNVERIFIED),
            (Code.RECEIPT_NOT_FOUND, State.PENDING_UNVERIFIED),
        ],
    )
    def test_a_final_failure_ends_the_attempt_and_a_temporary_one_does_not(
        self,
        attempts: PaymentAttempts,
        verifier: FakeVerifier,
        intent: Intent,
        code: FailureCode,
        state: AttemptState,
    ) -> None:
        verifier.tell(PROOF, PaymentFailed(code))

        attempt = attempts.submit(ALICE, intent.attempt_id, PROOF)

        assert attempt.state is state
        assert attempt.failure == (code if state.is_terminal else None)

    def test_an_overpayment_credits_the_intended_amount_and_is_in_the_history(
        self, attempts: PaymentAttempts, verifier: FakeVerifier, intent: Intent, totals: Totals
    ) -> None:
        verifier.tell(PROOF, paid_but(raw_amount=9_000_000))

        attempts.submit(ALICE, intent.attempt_id, PROOF)

        assert totals() == purchase_totals(ALICE, 20_000_000, 5_000_000)
        assert attempts.history(ALICE, intent.attempt_id)[-1].found["raw_amount"] == "9000000"

    def test_addresses_are_compared_without_case(
        self, attempts: PaymentAttempts, verifier: FakeVerifier, intent: Intent
    ) -> None:
        verifier.tell(
            PROOF,
            paid_but(sender=WALLET.upper(), token=TOKEN.upper(), recipient=PLATFORM.upper()),
        )

        attempt = attempts.submit(ALICE, intent.attempt_id, "8453:0x" + "AB" * 32)

        assert (attempt.state, attempt.evidence) == (State.CREDITED, PROOF)

    def test_card_accounts_are_compared_with_case(
        self, attempts: PaymentAttempts, verifier: FakeVerifier
    ) -> None:
        intent = attempts.create_intent(ALICE, usd("2.00"), provider="stripe")
        verifier.tell("stripe:pi_1", paid_but(recipient="ACCT_1"))

        attempt = attempts.submit(ALICE, intent.attempt_id, "stripe:pi_1")

        assert attempt.failure is Code.INVALID_RECIPIENT

    def test_a_finding_with_the_largest_numbers_is_credited(
        self, attempts: PaymentAttempts, verifier: FakeVerifier, intent: Intent
    ) -> None:
        verifier.tell(PROOF, paid_but(raw_amount=2**256 - 1, confirmations=2**63 - 1))

        assert attempts.submit(ALICE, intent.attempt_id, PROOF).state is State.CREDITED

    def test_a_missing_receipt_fails_after_exactly_a_day(
        self,
        attempts: PaymentAttempts,
        moving: MovableClock,
        verifier: FakeVerifier,
        intent: Intent,
    ) -> None:
        attempts.submit(ALICE, intent.attempt_id, PROOF)
        moving.move(DAY)

        assert attempts.status(ALICE, intent.attempt_id).failure is Code.RECEIPT_NOT_FOUND

    def test_a_missing_receipt_stays_pending_for_a_day_and_then_fails(
        self,
        attempts: PaymentAttempts,
        verifier: FakeVerifier,
        moving: MovableClock,
        intent: Intent,
        totals: Totals,
    ) -> None:
        before = totals()
        submitted = attempts.submit(ALICE, intent.attempt_id, PROOF)
        assert (submitted.state, submitted.submitted_at) == (State.PENDING_UNVERIFIED, NOON)

        moving.move(DAY - POLL - timedelta(microseconds=1))
        assert attempts.status(ALICE, intent.attempt_id) == submitted
        moving.move(POLL)
        assert attempts.status(ALICE, intent.attempt_id) == submitted
        moving.move(POLL)
        attempt = attempts.status(ALICE, intent.attempt_id)

        assert (attempt.state, attempt.failure) == (State.FAILED, Code.RECEIPT_NOT_FOUND)
        assert totals() == before
        verifier.tell(PROOF, paid)
        moving.move(POLL)
        assert attempts.status(ALICE, intent.attempt_id) == attempt

    def test_a_payment_found_after_a_day_is_credited(
        self,
        attempts: PaymentAttempts,
        verifier: FakeVerifier,
        moving: MovableClock,
        intent: Intent,
    ) -> None:
        attempts.submit(ALICE, intent.attempt_id, PROOF)
        verifier.tell(PROOF, paid)
        moving.move(DAY * 2)

        assert attempts.status(ALICE, intent.attempt_id).state is State.CREDITED

    @pytest.mark.parametrize("code", [Code.RPC_ERROR, Code.INSUFFICIENT_CONFIRMATIONS])
    def test_a_temporary_failure_stays_pending_without_limit(
        self,
        attempts: PaymentAttempts,
        verifier: FakeVerifier,
        moving: MovableClock,
        intent: Intent,
        code: FailureCode,
    ) -> None:
        verifier.tell(PROOF, PaymentPending(code))
        attempts.submit(ALICE, intent.attempt_id, PROOF)
        moving.move(DAY * 100)

        assert attempts.status(ALICE, intent.attempt_id).state is State.PENDING_UNVERIFIED

    def test_too_few_confirmations_stay_pending(
        self,
        attempts: PaymentAttempts,
        verifier: FakeVerifier,
        moving: MovableClock,
        intent: Intent,
        totals: Totals,
    ) -> None:
        # A mismatch does not count either, because a chain can still reorganise.
        verifier.tell(PROOF, paid_but(confirmations=4, sender=STRANGER), paid)
        before = totals()

        attempt = attempts.submit(ALICE, intent.attempt_id, PROOF)
        assert (attempt.state, attempt.failure) == (State.PENDING_UNVERIFIED, None)
        assert totals() == before

        moving.move(POLL)
        credited = attempts.status(ALICE, intent.attempt_id)
        assert (credited.state, credited.submitted_at) == (State.CREDITED, NOON)
        assert credited.changed_at == NOON + POLL
        assert totals() == purchase_totals(ALICE, 20_000_000, 5_000_000)

    def test_every_step_is_in_the_history_with_the_finding(
        self,
        attempts: PaymentAttempts,
        verifier: FakeVerifier,
        moving: MovableClock,
        intent: Intent,
    ) -> None:
        verifier.tell(PROOF, PaymentPending(), paid_but(confirmations=9))
        moving.move(POLL)
        attempts.submit(ALICE, intent.attempt_id, PROOF)
        moving.move(POLL)
        attempt = attempts.status(ALICE, intent.attempt_id)

        assert attempts.history(ALICE, intent.attempt_id) == (
            AttemptEvent(state=State.CREATED_INTENT, at=NOON),
            AttemptEvent(state=State.PENDING_UNVERIFIED, at=NOON + POLL, evidence=PROOF),
            AttemptEvent(
                state=State.CREDITED,
                at=NOON + POLL * 2,
                transaction_id=attempt.transaction_id,
                found={
                    "provider": "8453",
                    "token": TOKEN,
                    "sender": WALLET,
                    "recipient": PLATFORM,
                    "raw_amount": "2000000",
                    "confirmations": 9,
                },
            ),
        )

    def test_a_reported_finding_is_decided_at_once(
        self,
        attempts: PaymentAttempts,
        verifier: FakeVerifier,
        intent: Intent,
        totals: Totals,
    ) -> None:
        credited = attempts.report(ALICE, intent.attempt_id, PROOF, paid(intent))

        assert (credited.state, credited.evidence) == (State.CREDITED, PROOF)
        assert totals() == purchase_totals(ALICE, 20_000_000, 5_000_000)
        assert attempts.report(ALICE, intent.attempt_id, PROOF, paid(intent)) == credited
        assert [event.state for event in attempts.history(ALICE, intent.attempt_id)] == [
            State.CREATED_INTENT,
            State.PENDING_UNVERIFIED,
            State.CREDITED,
        ]
        assert verifier.asked == []
        assert totals() == purchase_totals(ALICE, 20_000_000, 5_000_000)

    @pytest.mark.parametrize(
        ("finding", "state"),
        [
            (PaymentFailed(Code.TX_REVERTED), State.FAILED),
            (PaymentPending(), State.PENDING_UNVERIFIED),
            (PaymentFailed(Code.TOKEN_TRANSFER_NOT_FOUND), State.REJECTED),
        ],
    )
    def test_a_reported_failure_credits_nothing(
        self,
        attempts: PaymentAttempts,
        intent: Intent,
        totals: Totals,
        finding: Finding,
        state: AttemptState,
    ) -> None:
        before = totals()

        assert attempts.report(ALICE, intent.attempt_id, PROOF, finding).state is state
        assert totals() == before

    def test_an_attempt_with_a_clock_set_back_keeps_its_time(
        self, attempts: PaymentAttempts, moving: MovableClock, intent: Intent
    ) -> None:
        moving.move(-timedelta(hours=1))

        attempt = attempts.submit(ALICE, intent.attempt_id, PROOF)

        assert attempt.changed_at == attempt.submitted_at == NOON
        assert [event.at for event in attempts.history(ALICE, intent.attempt_id)] == [NOON, NOON]
