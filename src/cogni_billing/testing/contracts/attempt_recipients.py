"""Contract: an intent with an address of its own is paid by any sender."""

from __future__ import annotations

import pytest

from cogni_billing import (
    AccountId,
    Billing,
    IdempotencyConflict,
    InvalidReference,
    PaymentAlreadyClaimed,
    PaymentAttempts,
    RecipientTaken,
    TenantId,
    usd,
)
from cogni_billing.testing.base import ALICE, BOB, Totals, purchase_totals
from cogni_billing.testing.contracts.attempt_base import (
    PLATFORM,
    PROOF,
    STRANGER,
    WALLET,
    Attempting,
    Code,
    State,
)
from cogni_billing.testing.verifiers import FakeVerifier, paid_but

OWN, OTHER = "0x" + "71" * 20, "0x" + "72" * 20
CREDITED = purchase_totals(ALICE, 20_000_000, 5_000_000)


class RecipientContract(Attempting):
    """The address is of one intent, so a transfer to it is a payment of that intent."""

    def test_any_sender_may_pay_an_own_address(
        self, attempts: PaymentAttempts, billing: Billing, verifier: FakeVerifier, totals: Totals
    ) -> None:
        intent = attempts.create_intent(ALICE, usd("2.00"), recipient=OWN.upper().replace("X", "x"))
        verifier.tell(f"{PROOF}:{OWN}", paid_but(sender=STRANGER))

        attempt = attempts.submit(ALICE, intent.attempt_id, PROOF)

        assert (intent.recipient, intent.payer, intent.has_own_recipient) == (OWN, None, True)
        assert (attempt.state, attempt.evidence) == (State.CREDITED, f"{PROOF}:{OWN}")
        assert attempts.submit(ALICE, intent.attempt_id, f"{PROOF}:{OWN}") == attempt
        assert totals() == CREDITED
        assert billing.find(ALICE, reference=f"{PROOF}:{OWN}", kind="purchase") is not None
        assert billing.verify().ok

    def test_one_transaction_pays_several_intents(
        self, attempts: PaymentAttempts, verifier: FakeVerifier, totals: Totals
    ) -> None:
        for tenant, own in ((ALICE, OWN), (BOB, OTHER)):
            intent = attempts.create_intent(tenant, usd("2.00"), recipient=own)
            verifier.tell(f"{PROOF}:{own}", paid_but(sender=STRANGER))

            assert attempts.submit(tenant, intent.attempt_id, PROOF).state is State.CREDITED

        assert totals()[AccountId(ALICE)] == totals()[AccountId(BOB)] == 20_000_000
        assert verifier.asked == [f"{PROOF}:{OWN}", f"{PROOF}:{OTHER}"]

    @pytest.mark.parametrize("tenant", [ALICE, BOB])
    def test_an_address_of_another_intent_is_refused(
        self, attempts: PaymentAttempts, tenant: TenantId
    ) -> None:
        attempts.create_intent(ALICE, usd("2.00"), recipient=OWN)

        with pytest.raises(RecipientTaken) as caught:
            attempts.create_intent(tenant, usd("2.00"), recipient=OWN)

        assert caught.value.recipient == OWN

    @pytest.mark.parametrize(
        ("given", "field"),
        [
            ({"recipient": OWN, "payer": WALLET}, "payer"),
            ({"recipient": PLATFORM}, "recipient"),
            ({"recipient": "0x71"}, "recipient"),
            ({"recipient": OWN, "provider": "stripe"}, "recipient"),
        ],
    )
    def test_an_invalid_recipient_is_refused(
        self, attempts: PaymentAttempts, given: dict[str, str], field: str
    ) -> None:
        with pytest.raises(InvalidReference) as caught:
            attempts.create_intent(ALICE, usd("2.00"), **given)  # type: ignore[arg-type]

        assert caught.value.field == field

    def test_a_payment_to_another_address_is_rejected(
        self, attempts: PaymentAttempts, verifier: FakeVerifier
    ) -> None:
        intent = attempts.create_intent(ALICE, usd("2.00"), recipient=OWN)
        verifier.tell(f"{PROOF}:{OWN}", paid_but(recipient=OTHER))

        attempt = attempts.submit(ALICE, intent.attempt_id, PROOF)

        assert (attempt.state, attempt.failure) == (State.REJECTED, Code.INVALID_RECIPIENT)

    @pytest.mark.parametrize("own", [None, OWN])
    def test_evidence_with_another_address_is_refused(
        self, attempts: PaymentAttempts, own: str | None
    ) -> None:
        payer = WALLET if own is None else None
        intent = attempts.create_intent(ALICE, usd("2.00"), recipient=own, payer=payer)

        with pytest.raises(InvalidReference) as caught:
            attempts.submit(ALICE, intent.attempt_id, f"{PROOF}:{OTHER}")

        assert caught.value.field == "evidence"

    def test_a_purchase_of_the_same_transfer_is_not_credited_again(
        self, attempts: PaymentAttempts, billing: Billing, verifier: FakeVerifier, totals: Totals
    ) -> None:
        intent = attempts.create_intent(ALICE, usd("2.00"), recipient=OWN)
        billing.confirm_purchase(ALICE, usd("2.00"), payment=f"{PROOF}:{OWN}")

        with pytest.raises(PaymentAlreadyClaimed):
            attempts.submit(ALICE, intent.attempt_id, PROOF)

        assert totals() == CREDITED
        assert verifier.asked == []

    def test_a_second_transaction_to_a_credited_intent_conflicts(
        self, attempts: PaymentAttempts, verifier: FakeVerifier, totals: Totals
    ) -> None:
        intent = attempts.create_intent(ALICE, usd("2.00"), recipient=OWN)
        verifier.tell(f"{PROOF}:{OWN}", paid_but(sender=STRANGER))
        attempts.submit(ALICE, intent.attempt_id, PROOF)

        with pytest.raises(IdempotencyConflict):
            attempts.submit(ALICE, intent.attempt_id, "8453:0x" + "cd" * 32)

        assert totals() == CREDITED
