"""Contract: concurrent calls on payment attempts."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from functools import partial
from threading import Event
from uuid import UUID

from attrs import Factory, define

from cogni_billing import (
    SYSTEM_ACCOUNT_ID,
    AccountId,
    Attempt,
    AttemptRules,
    Intent,
    PaymentAlreadyClaimed,
    PaymentAttempts,
    PaymentPending,
    TenantId,
    usd,
)
from cogni_billing.domain.findings import Finding
from cogni_billing.testing.base import (
    ALICE,
    MovableClock,
    NewAttempts,
    NewBilling,
    Totals,
    purchase_totals,
)
from cogni_billing.testing.contracts.attempt_base import (
    CALLERS,
    POLL,
    PROOF,
    USDC,
    WALLET,
    Attempting,
    State,
)
from cogni_billing.testing.racing import at_once
from cogni_billing.testing.verifiers import FakeVerifier, paid


@define
class Hanging(FakeVerifier):
    """A verifier that answers after its release."""

    released: Event = Factory(Event)

    def verify(self, evidence: str, intent: Intent, /) -> Finding:
        self.released.wait()
        return paid(intent)


class AttemptRaces(Attempting):
    """Concurrent calls credit once, also with a slow verifier."""

    def test_concurrent_polls_ask_the_verifier_once_and_credit_once(
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

    def test_concurrent_findings_of_one_payment_credit_it_once(
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

    def test_concurrent_submissions_of_one_payment_credit_one_attempt(
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

    def test_a_hanging_verifier_times_out_and_its_late_answer_is_ignored(
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

    def test_no_lock_or_transaction_is_open_while_the_verifier_runs(
        self, new_attempts: NewAttempts, new_billing: NewBilling, totals: Totals
    ) -> None:
        """The verifier itself calls the ledger here."""
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
