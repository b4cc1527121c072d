"""What payment attempts promise on an adapter that many call at once."""

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
    """Answers once it is released."""

    released: Event = Factory(Event)

    def verify(self, evidence: str, intent: Intent, /) -> Finding:
        self.released.wait()
        return paid(intent)


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
