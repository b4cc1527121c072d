"""Contract: intents of payment attempts."""

from __future__ import annotations

from datetime import timedelta
from functools import partial
from uuid import UUID

import pytest

from cogni_billing import (
    Amount,
    Attempt,
    AttemptRules,
    AttemptStatus,
    Intent,
    InvalidAmount,
    InvalidInput,
    InvalidReference,
    PaymentAttempts,
    Unit,
    UnitMismatch,
    credits,
    usd,
)
from cogni_billing.testing.base import (
    ALICE,
    NOON,
    MovableClock,
    NewAttempts,
    Totals,
)
from cogni_billing.testing.contracts.attempt_base import (
    CARD,
    PLATFORM,
    PROOF,
    TOKEN,
    WALLET,
    Attempting,
    Code,
    State,
)
from cogni_billing.testing.verifiers import FakeVerifier, paid


class AttemptIntentContract(Attempting):
    """An intent fixes the amount and the destination, and accepts evidence until it expires."""

    def test_an_intent_has_the_amount_and_the_destination(
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

    def test_a_card_intent_is_in_cents_and_accepts_any_payer(
        self, attempts: PaymentAttempts
    ) -> None:
        intent = attempts.create_intent(ALICE, usd("19.99"), provider="stripe")

        assert (intent.raw_amount, intent.token, intent.recipient) == (1999, "usd", "acct_1")
        assert (intent.payer, intent.confirmations, intent.chain_id) == (None, 0, None)

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
    def test_an_amount_in_another_unit_is_refused(
        self, attempts: PaymentAttempts, amount: Amount
    ) -> None:
        with pytest.raises(UnitMismatch):
            attempts.create_intent(ALICE, amount, payer=WALLET)

    def test_the_bounds_of_the_host_apply(self, new_attempts: NewAttempts) -> None:
        rules = AttemptRules(minimum=usd("0.01"), maximum=usd("0.01"))
        attempts = new_attempts(verifier=FakeVerifier(), destinations=CARD, rules=rules)

        assert attempts.create_intent(ALICE, usd("0.01")).raw_amount == 1
        with pytest.raises(InvalidAmount) as caught:
            attempts.create_intent(ALICE, usd("0.02"))
        assert (caught.value.field, caught.value.given) == ("amount", "0.02 USD")
        assert caught.value.expected.count("0.01 USD") == 2

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
        with pytest.raises(InvalidInput) as caught:
            attempts.create_intent(ALICE, usd("2.00"), payer=WALLET, provider=provider)

        assert (caught.value.field, caught.value.expected) == ("provider", "8453 or stripe")

    @pytest.mark.parametrize("attempt_id", [None, "", str(ALICE), 7])
    def test_an_id_is_a_uuid(self, attempts: PaymentAttempts, attempt_id: UUID) -> None:
        for call in (attempts.status, attempts.history, partial(attempts.submit, evidence=PROOF)):
            with pytest.raises(InvalidInput) as caught:
                call(ALICE, attempt_id)
            assert caught.value.field == "attempt_id"
