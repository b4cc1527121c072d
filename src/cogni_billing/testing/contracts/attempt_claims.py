"""Contract: the evidence of a payment belongs to one attempt."""

from __future__ import annotations

from uuid import UUID

import pytest

from cogni_billing import (
    Amount,
    Billing,
    IdempotencyConflict,
    Intent,
    InvalidReference,
    PaymentAlreadyClaimed,
    PaymentAttempts,
    PaymentPending,
    TenantId,
    UnknownAttempt,
    usd,
)
from cogni_billing.domain.findings import Finding
from cogni_billing.testing.base import (
    ALICE,
    BOB,
    MovableClock,
    Totals,
    purchase_totals,
)
from cogni_billing.testing.contracts.attempt_base import (
    POLL,
    PROOF,
    STRANGER,
    WALLET,
    Attempting,
    Code,
    State,
)
from cogni_billing.testing.verifiers import FakeVerifier, paid, paid_but


class AttemptClaimContract(Attempting):
    """Evidence credits one attempt or purchase, of one tenant, once."""

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
        verifier.tell(PROOF, PaymentPending(Code.INSUFFICIENT_CONFIRMATIONS))
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
        assert verifier.asked == [PROOF, PROOF]

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

    def test_rejected_evidence_can_be_claimed_by_its_payer(
        self, attempts: PaymentAttempts, verifier: FakeVerifier, intent: Intent, totals: Totals
    ) -> None:
        """Otherwise an onlooker on a chain could keep the payer from claiming a payment."""
        thief = attempts.create_intent(BOB, usd("2.00"), payer=STRANGER)
        verifier.tell(PROOF, paid_but(sender=WALLET))

        stolen = attempts.submit(BOB, thief.attempt_id, PROOF)
        assert stolen.failure is Code.SENDER_MISMATCH
        attempt = attempts.submit(ALICE, intent.attempt_id, PROOF)

        assert attempt.state is State.CREDITED
        assert totals() == purchase_totals(ALICE, 20_000_000, 5_000_000)

    def test_evidence_of_a_recorded_purchase_is_refused(
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

    def test_a_pending_attempt_whose_payment_was_purchased_is_credited_by_that_purchase(
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
    def test_a_pending_attempt_whose_payment_was_purchased_differently_raises_and_stays_pending(
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

    def test_an_attempt_of_another_tenant_is_unknown(
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

    @pytest.mark.parametrize(
        "evidence",
        [
            *(None, "", "8453", "8453:", ":0x", b"8453:0x", 7, "8453:0x" + "ab" * 31),
            *("8453:" + "ab" * 32, "8453:0x" + "zz" * 32, "8453:0x" + "ab" * 33),
            *("1:0x" + "ab" * 32, "stripe:pi_1", "8453:0x" + "ab" * 32 + " ", "08453:0x1"),
        ],
    )
    def test_invalid_evidence_is_refused_and_records_nothing(
        self, attempts: PaymentAttempts, verifier: FakeVerifier, intent: Intent, evidence: str
    ) -> None:
        with pytest.raises(InvalidReference) as caught:
            attempts.submit(ALICE, intent.attempt_id, evidence)

        assert caught.value.field == "evidence"
        assert attempts.status(ALICE, intent.attempt_id).state is State.CREATED_INTENT
        assert verifier.asked == []
