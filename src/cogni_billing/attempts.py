"""`PaymentAttempts`: from an intent to pay to credits, exactly once.

Between one scope and the next a verifier is asked, with no transaction open, so nothing waits for
it but the call itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import timedelta
from uuid import UUID

from cogni_billing.application import attempts
from cogni_billing.application.asking import ANSWERS_WITHIN, Verifier
from cogni_billing.application.cases import Case, Result, checked_unit_of_work
from cogni_billing.application.context import Context
from cogni_billing.domain.amounts import Amount
from cogni_billing.domain.attempts import (
    DEFAULT_RULES,
    Attempt,
    AttemptEvent,
    AttemptRules,
    Finding,
    Intent,
    IntentRequest,
)
from cogni_billing.domain.destinations import Destination
from cogni_billing.domain.identity import TenantId
from cogni_billing.domain.policies import Policies
from cogni_billing.ports.environment import Clock, IdSource
from cogni_billing.ports.payments import PaymentVerifier
from cogni_billing.ports.scope import UnitOfWork


class PaymentAttempts:
    """Takes intents to pay, and evidence that somebody did; credits what a verifier confirms.

    Safe to share between threads. One attempt is credited once, by one transaction that records
    the purchase with its shares, the attempt's new state and its history.

    Args:
        unit_of_work: The ledger, as for `Billing`. It must not join a host's transaction,
            which would be open while the verifier is asked.
        verifier: Looks payments up. Its findings are judged here, against the intent.
        destinations: Where payments may go, one for each provider; the first by default.
        policy: As for `Billing`: who gets what of a purchase.
        rules: How much may be paid, and how long each step is waited for.
        answers_within: How long the verifier has. A later answer is ignored and the attempt stays
            pending.
        clock, ids: As for `Billing`.

    Raises:
        InvalidInput: *destinations*, *rules* or *answers_within* is something else.
        InvalidPolicy: *policy* is none.
    """

    def __init__(
        self,
        unit_of_work: UnitOfWork,
        *,
        verifier: PaymentVerifier,
        destinations: Destination | Iterable[Destination],
        policy: Policies | None = None,
        rules: AttemptRules = DEFAULT_RULES,
        answers_within: timedelta = ANSWERS_WITHIN,
        clock: Clock | None = None,
        ids: IdSource | None = None,
    ) -> None:
        self._unit_of_work = checked_unit_of_work(unit_of_work)
        billing = Context.over(unit_of_work, policy, clock, ids)
        self._context = attempts.AttemptContext(
            billing, Verifier(verifier, answers_within), destinations, rules
        )

    def _run(self, case: Case[Result]) -> Result:
        return case.on(self._unit_of_work)

    def create_intent(
        self,
        tenant: TenantId | UUID,
        amount: Amount,
        *,
        payer: str | None = None,
        provider: str | None = None,
        metadata: Mapping[str, object] | None = None,
    ) -> Intent:
        """Record what *tenant* is going to pay; the intent says where, and how much exactly.

        Args:
            tenant: Who will be credited. It needs no account yet.
            amount: US dollars, within the bounds of the rules: 2.00 to 10 000.00 by default.
            payer: The address that will pay; needed on a chain, where anybody can see a payment
                and claim it. That it is the tenant's own is for the host to make sure of.
            provider: Which destination, where there are several.
            metadata: Of the host's; the purchase has it, too.

        Raises:
            InvalidTenant, InvalidAmount, UnitMismatch, InvalidReference, InvalidMetadata,
            InvalidInput: an argument breaks its rule.
            PrivilegeRequired: the ledger's role may not mint.
        """
        request = IntentRequest(
            tenant=tenant,
            amount=amount,
            payer=payer,
            provider=provider,
            metadata=metadata,
        )
        return self._run(attempts.create_intent(self._context, request))

    def submit(self, tenant: TenantId | UUID, attempt_id: UUID, evidence: str) -> Attempt:
        """Say that the intent was paid, and have that verified at once.

        The same evidence again is answered as `status` is. An intent that has expired fails.

        Args:
            tenant: Whose.
            attempt_id: The intent's.
            evidence: `provider:id`, which is `chain_id:tx_hash` on a chain.

        Raises:
            InvalidTenant, InvalidInput, InvalidReference: an argument breaks its rule; evidence
                is of another provider than the intent's.
            UnknownAttempt: the tenant has no such attempt.
            IdempotencyConflict: other evidence was submitted for it.
            PaymentAlreadyClaimed: the payment is, or may yet be, credited to another attempt or
                by a purchase.
            PrivilegeRequired: the ledger's role may not mint.
            VerifierFailed: the verifier broke. The evidence is recorded; ask for the status later.
        """
        return self._run(attempts.submit(self._context, tenant, attempt_id, evidence))

    def report(
        self, tenant: TenantId | UUID, attempt_id: UUID, evidence: str, finding: Finding
    ) -> Attempt:
        """`submit`, with what is known of the payment already, as a signed webhook tells it.

        No verifier is asked, and no turn waited for: the finding is judged at once, and what it
        leads to recorded, in one transaction. Saying it again has the same answer.

        Args:
            tenant: Whose.
            attempt_id: The intent's.
            evidence: `provider:id`.
            finding: From a source that the host trusts like a verifier.

        Raises:
            InvalidTenant, InvalidInput, InvalidReference: an argument breaks its rule.
            UnknownAttempt, IdempotencyConflict, PaymentAlreadyClaimed, PrivilegeRequired: as
                `submit` and `status` do.
        """
        return self._run(attempts.report(self._context, tenant, attempt_id, evidence, finding))

    def status(self, tenant: TenantId | UUID, attempt_id: UUID) -> Attempt:
        """The attempt as it is now; while it is pending the verifier is asked, now and then.

        Raises:
            InvalidTenant, InvalidInput: an argument breaks its rule.
            UnknownAttempt: the tenant has no such attempt.
            PaymentAlreadyClaimed, IdempotencyConflict: the payment is verified, and was credited
                meanwhile to another tenant, or with another amount, without this attempt.
            PrivilegeRequired: the ledger's role may not mint.
            VerifierFailed: the verifier broke; the attempt waits.
        """
        return self._run(attempts.status(self._context, tenant, attempt_id))

    def sweep(self) -> int:
        """Have the verifier asked about every attempt whose turn it is, whosever it is, and let
        intents expire; how many ended. Run it now and then: not everybody asks for a status.

        One that fails keeps no other from it; the worst of their errors is raised in the end.

        Raises:
            PrivilegeRequired: the unit of work has no service role.
            VerifierFailed, PaymentAlreadyClaimed, IdempotencyConflict, LedgerUnavailable: some
                attempt could not be settled; see `status`.
        """
        return self._run(attempts.sweep(self._context))

    def history(self, tenant: TenantId | UUID, attempt_id: UUID) -> tuple[AttemptEvent, ...]:
        """What has become of the attempt so far, in order; the first is the intent.

        Raises:
            InvalidTenant, InvalidInput: an argument breaks its rule.
            UnknownAttempt: the tenant has no such attempt.
        """
        return self._run(attempts.history(tenant, attempt_id))
