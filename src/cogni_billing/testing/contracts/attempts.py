"""What a payment attempt promises on every adapter."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from functools import partial
from threading import Event
from uuid import UUID

import pytest
from attrs import Factory, define

from cogni_billing import (
    SYSTEM_ACCOUNT_ID,
    AccountId,
    Amount,
    Attempt,
    AttemptEvent,
    AttemptRules,
    AttemptState,
    AttemptStatus,
    Billing,
    Destination,
    FailureCode,
    IdempotencyConflict,
    Intent,
    InvalidAmount,
    InvalidInput,
    InvalidReference,
    PaymentAlreadyClaimed,
    PaymentAttempts,
    PaymentFailed,
    PaymentPending,
    TenantId,
    TransactionKind,
    Unit,
    UnitMismatch,
    UnknownAttempt,
    VerifierFailed,
    credits,
    usd,
    usd_cents,
)
from cogni_billing.domain.attempts import Finding
from cogni_billing.testing.base import (
    ALICE,
    BOB,
    NOON,
    Contract,
    CountingIds,
    MovableClock,
    NewAttempts,
    NewBilling,
    Totals,
    purchase_totals,
)
from cogni_billing.testing.racing import at_once
from cogni_billing.testing.verifiers import FakeVerifier, paid, paid_but

TOKEN = "0x833589fcd6edb6e08f4c7c32d4f71b54bda02913"
PLATFORM = "0x" + "70" * 20
WALLET, STRANGER = "0x" + "a1" * 20, "0x" + "ee" * 20
USDC = Destination.usdc(chain_id=8453, token=TOKEN, recipient=PLATFORM, confirmations=5)
CARD = Destination.card("stripe", recipient="acct_1")
PROOF = "8453:0x" + "ab" * 32
POLL = timedelta(seconds=10)
DAY = timedelta(hours=24)
CALLERS = 20

State, Code = AttemptState, FailureCode


@define
class Hanging(FakeVerifier):
    """Answers once it is released."""

    released: Event = Factory(Event)

    def verify(self, evidence: str, intent: Intent, /) -> Finding:
        self.released.wait()
        return paid(intent)


class Attempting(Contract):
    """Fixtures for payment attempts."""

    @pytest.fixture
    def moving(self) -> MovableClock:
        return MovableClock()

    @pytest.fixture
    def verifier(self) -> FakeVerifier:
        return FakeVerifier()

    @pytest.fixture
    def attempts(
        self, new_attempts: NewAttempts, moving: MovableClock, verifier: FakeVerifier
    ) -> PaymentAttempts:
        return new_attempts(
            verifier=verifier, destinations=[USDC, CARD], clock=moving, ids=CountingIds()
        )

    @pytest.fixture
    def intent(self, attempts: PaymentAttempts) -> Intent:
        """Alice means to pay two dollars."""
        return attempts.create_intent(ALICE, usd("2.00"), payer=WALLET)


class AttemptContract(Attempting):
    """From intent to credits: what is verified is credited once, and nothing else ever is."""

    def test_an_intent_says_what_to_pay_where(
        self, attempts: PaymentAttempts, totals: Totals
    ) -> None:
        intent = attempts.create_intent(
            ALICE, usd("2.00"), payer=WALLET.upper().replace("X", "x"), metadata={"cart": [1]}
        )

        assert intent == Intent(
            attempt_id=UUID(int=1),
            tenant=ALICE,
            amount=usd("2.00"),
            payer=WALLET,
            provider="8453",
            token=TOKEN,
            recipient=PLATFORM,
            raw_amount=2_000_000,
            confirmations=5,
            created_at=NOON,
            expires_at=NOON + timedelta(minutes=30),
            metadata={"cart": (1,)},
        )
        assert intent.chain_id == 8453
        attempt = attempts.status(ALICE, intent.attempt_id)
        assert attempt == Attempt(intent=intent, changed_at=NOON)
        assert attempt.status is AttemptStatus.PENDING_VERIFICATION
        assert attempt.expires_at == intent.expires_at
        assert ALICE not in totals()

    def test_a_card_is_paid_in_cents_by_whoever(self, attempts: PaymentAttempts) -> None:
        intent = attempts.create_intent(ALICE, usd("19.99"), provider="stripe")

        assert (intent.raw_amount, intent.token, intent.recipient) == (1999, "usd", "acct_1")
        assert (intent.payer, intent.confirmations, intent.chain_id) == (None, 0, None)

    @pytest.mark.parametrize(
        ("cents", "raw", "credited", "share"),
        [
            (200, 2_000_000, 20_000_000, 5_000_000),
            (5_000, 50_000_000, 500_000_000, 125_000_000),
        ],
    )
    def test_what_is_verified_is_credited_with_its_share(
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
    def test_evidence_of_something_else_is_rejected_and_credits_nothing(
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
    def test_a_verifier_s_no_ends_it_unless_it_may_still_become_a_yes(
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

    def test_more_than_was_meant_is_credited_as_meant_and_told_in_the_history(
        self, attempts: PaymentAttempts, verifier: FakeVerifier, intent: Intent, totals: Totals
    ) -> None:
        verifier.tell(PROOF, paid_but(raw_amount=9_000_000))

        attempts.submit(ALICE, intent.attempt_id, PROOF)

        assert totals() == purchase_totals(ALICE, 20_000_000, 5_000_000)
        assert attempts.history(ALICE, intent.attempt_id)[-1].found["raw_amount"] == "9000000"

    def test_addresses_are_the_same_however_their_letters_are_written(
        self, attempts: PaymentAttempts, verifier: FakeVerifier, intent: Intent
    ) -> None:
        verifier.tell(
            PROOF,
            paid_but(sender=WALLET.upper(), token=TOKEN.upper(), recipient=PLATFORM.upper()),
        )

        attempt = attempts.submit(ALICE, intent.attempt_id, "8453:0x" + "AB" * 32)

        assert (attempt.state, attempt.evidence) == (State.CREDITED, PROOF)

    def test_an_account_s_letters_are_its_own(
        self, attempts: PaymentAttempts, verifier: FakeVerifier
    ) -> None:
        intent = attempts.create_intent(ALICE, usd("2.00"), provider="stripe")
        verifier.tell("stripe:pi_1", paid_but(recipient="ACCT_1"))

        attempt = attempts.submit(ALICE, intent.attempt_id, "stripe:pi_1")

        assert attempt.failure is Code.INVALID_RECIPIENT

    def test_what_is_as_much_as_can_be_is_enough(
        self, attempts: PaymentAttempts, verifier: FakeVerifier, intent: Intent
    ) -> None:
        verifier.tell(PROOF, paid_but(raw_amount=2**256 - 1, confirmations=2**63 - 1))

        assert attempts.submit(ALICE, intent.attempt_id, PROOF).state is State.CREDITED

    def test_a_day_is_a_day(
        self,
        attempts: PaymentAttempts,
        moving: MovableClock,
        verifier: FakeVerifier,
        intent: Intent,
    ) -> None:
        attempts.submit(ALICE, intent.attempt_id, PROOF)
        moving.move(DAY)

        assert attempts.status(ALICE, intent.attempt_id).failure is Code.RECEIPT_NOT_FOUND

    def test_a_receipt_that_is_missing_is_waited_for_until_a_day_has_passed(
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

    def test_one_that_is_found_after_a_day_is_credited_all_the_same(
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
    def test_what_may_well_be_there_is_waited_for_without_end(
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

    def test_too_few_confirmations_are_waited_for(
        self,
        attempts: PaymentAttempts,
        verifier: FakeVerifier,
        moving: MovableClock,
        intent: Intent,
        totals: Totals,
    ) -> None:
        # Not even a mismatch counts before: a chain may yet come to show something else.
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

    def test_the_same_evidence_again_has_the_same_answer_and_one_credit(
        self,
        attempts: PaymentAttempts,
        verifier: FakeVerifier,
        moving: MovableClock,
        intent: Intent,
        totals: Totals,
    ) -> None:
        verifier.tell(PROOF, paid)
        first = attempts.submit(ALICE, intent.attempt_id, PROOF)
        moving.move(POLL)

        assert attempts.submit(ALICE, intent.attempt_id, PROOF) == first
        assert totals() == purchase_totals(ALICE, 20_000_000, 5_000_000)

    def test_other_evidence_for_the_same_attempt_conflicts(
        self, attempts: PaymentAttempts, verifier: FakeVerifier, intent: Intent
    ) -> None:
        other = "8453:0x" + "cd" * 32
        pending = attempts.submit(ALICE, intent.attempt_id, PROOF)

        with pytest.raises(IdempotencyConflict) as caught:
            attempts.submit(ALICE, intent.attempt_id, other)

        assert caught.value.reference == str(intent.attempt_id)
        [difference] = caught.value.differences
        assert (difference.field, difference.stored, difference.requested) == (
            "evidence",
            PROOF,
            other,
        )
        assert attempts.status(ALICE, intent.attempt_id) == pending
        assert verifier.asked == [PROOF]

    @pytest.mark.parametrize("second", [ALICE, BOB], ids=["the same tenant", "another"])
    @pytest.mark.parametrize("answer", [paid, PaymentPending()], ids=["credited", "pending"])
    def test_evidence_is_taken_for_one_attempt_only(
        self,
        attempts: PaymentAttempts,
        verifier: FakeVerifier,
        intent: Intent,
        totals: Totals,
        second: TenantId,
        answer: Finding,
    ) -> None:
        verifier.tell(PROOF, answer)
        first = attempts.submit(ALICE, intent.attempt_id, PROOF)
        before = totals()
        another = attempts.create_intent(second, usd("2.00"), payer=WALLET)

        with pytest.raises(PaymentAlreadyClaimed) as caught:
            attempts.submit(second, another.attempt_id, PROOF)

        assert caught.value.payment == PROOF
        assert totals() == before
        assert attempts.status(second, another.attempt_id).state is State.CREATED_INTENT
        assert attempts.status(ALICE, intent.attempt_id) == first

    def test_evidence_that_was_rejected_is_free_for_whoever_paid(
        self, attempts: PaymentAttempts, verifier: FakeVerifier, intent: Intent, totals: Totals
    ) -> None:
        """Else whoever sees a payment on a chain could keep its payer from claiming it."""
        thief = attempts.create_intent(BOB, usd("2.00"), payer=STRANGER)
        verifier.tell(PROOF, paid_but(sender=WALLET))

        stolen = attempts.submit(BOB, thief.attempt_id, PROOF)
        assert stolen.failure is Code.SENDER_MISMATCH
        attempt = attempts.submit(ALICE, intent.attempt_id, PROOF)

        assert attempt.state is State.CREDITED
        assert totals() == purchase_totals(ALICE, 20_000_000, 5_000_000)

    def test_what_a_purchase_has_credited_is_no_evidence_any_more(
        self,
        attempts: PaymentAttempts,
        billing: Billing,
        verifier: FakeVerifier,
        intent: Intent,
        totals: Totals,
    ) -> None:
        billing.confirm_purchase(ALICE, usd("2.00"), payment=PROOF)
        before = totals()

        with pytest.raises(PaymentAlreadyClaimed):
            attempts.submit(ALICE, intent.attempt_id, PROOF)

        assert totals() == before
        assert verifier.asked == []
        assert attempts.status(ALICE, intent.attempt_id).state is State.CREATED_INTENT

    def test_what_a_purchase_credits_meanwhile_is_not_credited_again(
        self,
        attempts: PaymentAttempts,
        billing: Billing,
        verifier: FakeVerifier,
        moving: MovableClock,
        intent: Intent,
        totals: Totals,
    ) -> None:
        attempts.submit(ALICE, intent.attempt_id, PROOF)
        receipt = billing.confirm_purchase(ALICE, usd("2.00"), payment=PROOF)
        verifier.tell(PROOF, paid)
        moving.move(POLL)

        attempt = attempts.status(ALICE, intent.attempt_id)

        assert (attempt.state, attempt.transaction_id) == (State.CREDITED, receipt.transaction_id)
        assert totals() == purchase_totals(ALICE, 20_000_000, 5_000_000)

    @pytest.mark.parametrize(
        ("tenant", "amount", "error"),
        [(BOB, usd("2.00"), PaymentAlreadyClaimed), (ALICE, usd("3.00"), IdempotencyConflict)],
    )
    def test_what_a_purchase_credits_otherwise_meanwhile_is_told_and_waits(
        self,
        attempts: PaymentAttempts,
        billing: Billing,
        verifier: FakeVerifier,
        moving: MovableClock,
        intent: Intent,
        totals: Totals,
        tenant: TenantId,
        amount: Amount,
        error: type[Exception],
    ) -> None:
        attempts.submit(ALICE, intent.attempt_id, PROOF)
        billing.confirm_purchase(tenant, amount, payment=PROOF)
        before = totals()
        verifier.tell(PROOF, paid)
        moving.move(POLL)

        with pytest.raises(error):
            attempts.status(ALICE, intent.attempt_id)

        assert totals() == before
        found = attempts.status(ALICE, intent.attempt_id)
        assert found.state is State.PENDING_UNVERIFIED

    def test_an_intent_expires_after_half_an_hour(
        self,
        attempts: PaymentAttempts,
        verifier: FakeVerifier,
        moving: MovableClock,
        intent: Intent,
    ) -> None:
        moving.move(timedelta(minutes=30, microseconds=-1))
        assert attempts.status(ALICE, intent.attempt_id).state is State.CREATED_INTENT
        moving.move(timedelta(hours=1))
        attempt = attempts.status(ALICE, intent.attempt_id)

        assert (attempt.state, attempt.failure) == (State.FAILED, Code.INTENT_EXPIRED)
        assert attempt.changed_at == intent.expires_at
        assert attempts.submit(ALICE, intent.attempt_id, PROOF) == attempt
        assert verifier.asked == []

    def test_evidence_that_comes_when_the_intent_expires_is_too_late(
        self,
        attempts: PaymentAttempts,
        verifier: FakeVerifier,
        moving: MovableClock,
        intent: Intent,
    ) -> None:
        moving.move(timedelta(minutes=30))
        verifier.tell(PROOF, paid)

        attempt = attempts.submit(ALICE, intent.attempt_id, PROOF)

        assert (attempt.state, attempt.failure) == (State.FAILED, Code.INTENT_EXPIRED)
        assert (attempt.evidence, verifier.asked) == (None, [])

    def test_evidence_lifts_the_expiry(
        self,
        attempts: PaymentAttempts,
        moving: MovableClock,
        verifier: FakeVerifier,
        intent: Intent,
    ) -> None:
        moving.move(timedelta(minutes=29))
        submitted = attempts.submit(ALICE, intent.attempt_id, PROOF)
        assert submitted.expires_at is None
        moving.move(timedelta(hours=2))

        assert attempts.status(ALICE, intent.attempt_id).state is State.PENDING_UNVERIFIED

    def test_the_attempt_of_another_tenant_looks_as_if_it_were_not_there(
        self, attempts: PaymentAttempts, verifier: FakeVerifier, intent: Intent
    ) -> None:
        nowhere = UUID(int=77)
        calls = (
            lambda of: attempts.status(BOB, of),
            lambda of: attempts.submit(BOB, of, PROOF),
            lambda of: attempts.history(BOB, of),
        )
        for call in calls:
            told = []
            for of in (intent.attempt_id, nowhere):
                with pytest.raises(UnknownAttempt) as caught:
                    call(of)
                assert caught.value.attempt_id == of
                told.append(str(caught.value).replace(str(of), "it"))
            assert told[0] == told[1]
        assert attempts.status(ALICE, intent.attempt_id).state is State.CREATED_INTENT
        assert verifier.asked == []

    def test_every_step_is_in_the_history_with_what_the_verifier_said(
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

    def test_what_a_webhook_reports_is_judged_at_once(
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

    @pytest.mark.parametrize(
        ("finding", "state"),
        [
            (PaymentFailed(Code.TX_REVERTED), State.FAILED),
            (PaymentPending(), State.PENDING_UNVERIFIED),
            (PaymentFailed(Code.TOKEN_TRANSFER_NOT_FOUND), State.REJECTED),
        ],
    )
    def test_what_is_reported_may_be_bad_news(
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

    def test_a_report_of_evidence_that_another_attempt_has_is_refused(
        self, attempts: PaymentAttempts, intent: Intent, totals: Totals
    ) -> None:
        attempts.report(ALICE, intent.attempt_id, PROOF, paid(intent))
        other = attempts.create_intent(BOB, usd("2.00"), payer=WALLET)
        before = totals()

        with pytest.raises(PaymentAlreadyClaimed):
            attempts.report(BOB, other.attempt_id, PROOF, paid(other))

        assert totals() == before
        assert attempts.status(BOB, other.attempt_id).state is State.CREATED_INTENT

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

    def test_its_time_never_runs_backwards(
        self, attempts: PaymentAttempts, moving: MovableClock, intent: Intent
    ) -> None:
        moving.move(-timedelta(hours=1))

        attempt = attempts.submit(ALICE, intent.attempt_id, PROOF)

        assert attempt.changed_at == attempt.submitted_at == NOON
        assert [event.at for event in attempts.history(ALICE, intent.attempt_id)] == [NOON, NOON]

    @pytest.mark.parametrize(
        "amount", [usd("1.99"), usd("10000.01"), usd("0.00"), usd("-2.00"), None, 2, "2.00"]
    )
    def test_an_amount_out_of_bounds_is_refused(
        self, attempts: PaymentAttempts, amount: Amount
    ) -> None:
        with pytest.raises(InvalidAmount) as caught:
            attempts.create_intent(ALICE, amount, payer=WALLET)

        assert caught.value.field == "amount"

    @pytest.mark.parametrize("amount", [credits(5), Amount(5, Unit.of("USDC"))])
    def test_an_amount_of_something_else_is_refused(
        self, attempts: PaymentAttempts, amount: Amount
    ) -> None:
        with pytest.raises(UnitMismatch):
            attempts.create_intent(ALICE, amount, payer=WALLET)

    def test_the_bounds_are_the_host_s(self, new_attempts: NewAttempts) -> None:
        rules = AttemptRules(minimum=usd("0.01"), maximum=usd("0.01"))
        attempts = new_attempts(verifier=FakeVerifier(), destinations=CARD, rules=rules)

        assert attempts.create_intent(ALICE, usd("0.01")).raw_amount == 1
        with pytest.raises(InvalidAmount, match=r"from 0\.01 USD to 0\.01 USD"):
            attempts.create_intent(ALICE, usd("0.02"))

    @pytest.mark.parametrize("payer", [None, "", "0x" + "a" * 39, "0X" + "a1" * 20, "alice", 7])
    def test_on_a_chain_the_payer_is_an_address(
        self, attempts: PaymentAttempts, payer: str
    ) -> None:
        with pytest.raises(InvalidReference) as caught:
            attempts.create_intent(ALICE, usd("2.00"), payer=payer)

        assert caught.value.field == "payer"

    @pytest.mark.parametrize("provider", ["1", "", 8453, "paypal"])
    def test_a_provider_that_has_no_destination_is_refused(
        self, attempts: PaymentAttempts, provider: str
    ) -> None:
        with pytest.raises(InvalidInput, match="8453 or stripe") as caught:
            attempts.create_intent(ALICE, usd("2.00"), payer=WALLET, provider=provider)

        assert caught.value.field == "provider"

    @pytest.mark.parametrize(
        "evidence",
        [
            *(None, "", "8453", "8453:", ":0x", b"8453:0x", 7, "8453:0x" + "ab" * 31),
            *("8453:" + "ab" * 32, "8453:0x" + "zz" * 32, "8453:0x" + "ab" * 33),
            *("1:0x" + "ab" * 32, "stripe:pi_1", "8453:0x" + "ab" * 32 + " ", "08453:0x1"),
        ],
    )
    def test_what_is_no_evidence_of_such_a_payment_is_refused_and_leaves_nothing(
        self, attempts: PaymentAttempts, verifier: FakeVerifier, intent: Intent, evidence: str
    ) -> None:
        with pytest.raises(InvalidReference) as caught:
            attempts.submit(ALICE, intent.attempt_id, evidence)

        assert caught.value.field == "evidence"
        assert attempts.status(ALICE, intent.attempt_id).state is State.CREATED_INTENT
        assert verifier.asked == []

    @pytest.mark.parametrize("attempt_id", [None, "", str(ALICE), 7])
    def test_an_id_is_a_uuid(self, attempts: PaymentAttempts, attempt_id: UUID) -> None:
        for call in (attempts.status, attempts.history, partial(attempts.submit, evidence=PROOF)):
            with pytest.raises(InvalidInput) as caught:
                call(ALICE, attempt_id)
            assert caught.value.field == "attempt_id"

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

    def test_a_verifier_that_raises_is_told_and_the_attempt_waits(
        self,
        attempts: PaymentAttempts,
        verifier: FakeVerifier,
        moving: MovableClock,
        intent: Intent,
    ) -> None:
        def broken(_intent: Intent) -> Finding:
            raise ValueError("no such field: logs")

        verifier.tell(PROOF, broken, paid)

        with pytest.raises(VerifierFailed, match="ValueError: no such field: logs") as caught:
            attempts.submit(ALICE, intent.attempt_id, PROOF)

        assert isinstance(caught.value.__cause__, ValueError)
        moving.move(POLL)
        assert attempts.status(ALICE, intent.attempt_id).state is State.CREDITED


class AttemptRaces(Attempting):
    """However many ask at once, and however long a verifier takes."""

    def test_of_many_polls_at_once_one_asks_and_the_credit_is_one(
        self,
        attempts: PaymentAttempts,
        verifier: FakeVerifier,
        moving: MovableClock,
        intent: Intent,
        totals: Totals,
    ) -> None:
        attempts.submit(ALICE, intent.attempt_id, PROOF)
        verifier.tell(PROOF, paid)
        moving.move(POLL)

        found = at_once([partial(attempts.status, ALICE, intent.attempt_id)] * CALLERS)

        assert verifier.asked == [PROOF] * 2
        assert {each.state for each in found} <= {State.PENDING_UNVERIFIED, State.CREDITED}
        assert attempts.status(ALICE, intent.attempt_id).state is State.CREDITED
        assert totals() == purchase_totals(ALICE, 20_000_000, 5_000_000)

    def test_a_yes_said_many_times_settles_once(
        self, new_attempts: NewAttempts, moving: MovableClock, totals: Totals
    ) -> None:
        verifier = FakeVerifier()
        attempts = new_attempts(
            verifier=verifier,
            destinations=USDC,
            clock=moving,
            rules=AttemptRules(checks_every=timedelta(0)),
        )
        intent = attempts.create_intent(ALICE, usd("2.00"), payer=WALLET)
        verifier.tell(PROOF, PaymentPending(), paid)
        attempts.submit(ALICE, intent.attempt_id, PROOF)

        found = at_once([partial(attempts.status, ALICE, intent.attempt_id)] * CALLERS)

        assert {each.state for each in found} == {State.CREDITED}
        assert len({each.transaction_id for each in found}) == 1
        assert totals() == purchase_totals(ALICE, 20_000_000, 5_000_000)
        assert len(attempts.history(ALICE, intent.attempt_id)) == 3

    def test_of_many_attempts_with_one_payment_one_gets_it(
        self, attempts: PaymentAttempts, verifier: FakeVerifier, totals: Totals
    ) -> None:
        verifier.tell(PROOF, paid)
        tenants = [TenantId(UUID(int=2**64 + number)) for number in range(CALLERS)]
        intents = [attempts.create_intent(tenant, usd("2.00"), payer=WALLET) for tenant in tenants]

        def submit(intent: Intent) -> Attempt | None:
            try:
                return attempts.submit(intent.tenant, intent.attempt_id, PROOF)
            except PaymentAlreadyClaimed:
                return None

        [winner] = filter(None, at_once([partial(submit, intent) for intent in intents]))

        assert winner.state is State.CREDITED
        assert totals() == purchase_totals(winner.tenant, 20_000_000, 5_000_000)

    def test_a_verifier_that_hangs_keeps_nobody_and_is_not_heard_later(
        self,
        new_attempts: NewAttempts,
        new_billing: NewBilling,
        moving: MovableClock,
        totals: Totals,
    ) -> None:
        hanging = Hanging()
        attempts = new_attempts(
            verifier=hanging,
            destinations=USDC,
            clock=moving,
            answers_within=timedelta(milliseconds=50),
        )
        intent = attempts.create_intent(ALICE, usd("2.00"), payer=WALLET)

        attempt = attempts.submit(ALICE, intent.attempt_id, PROOF)

        assert attempt.state is State.PENDING_UNVERIFIED
        hanging.released.set()
        new_billing().confirm_purchase(ALICE, usd("1.00"), payment="stripe:pi_1")
        assert attempts.status(ALICE, intent.attempt_id) == attempt
        assert totals()[SYSTEM_ACCOUNT_ID] == Decimal(2_500_000)
        moving.move(POLL)
        assert attempts.status(ALICE, intent.attempt_id).state is State.CREDITED

    def test_nothing_is_kept_waiting_while_a_verifier_is_asked(
        self, new_attempts: NewAttempts, new_billing: NewBilling, totals: Totals
    ) -> None:
        """Neither a lock nor a transaction is there: the ledger is the verifier's, too."""
        billing = new_billing()
        verifier = FakeVerifier()
        attempts = new_attempts(verifier=verifier, destinations=USDC)
        intent = attempts.create_intent(ALICE, usd("2.00"), payer=WALLET)

        def busy(intent: Intent) -> Finding:
            billing.confirm_purchase(ALICE, usd("1.00"), payment="stripe:pi_1")
            other = attempts.status(ALICE, intent.attempt_id)
            assert other.state is State.PENDING_UNVERIFIED
            return paid(intent)

        verifier.tell(PROOF, busy)

        assert attempts.submit(ALICE, intent.attempt_id, PROOF).state is State.CREDITED
        assert totals()[AccountId(ALICE)] == Decimal(30_000_000)
