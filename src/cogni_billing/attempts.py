"""`PaymentAttempts`: from an intent to pay to credits, exactly once.

The verifier is asked between two scopes, while no transaction is open, so a slow verifier delays
its own call only.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import timedelta
from uuid import UUID

from cogni_billing.application import attempts, inbox
from cogni_billing.application.asking import ANSWERS_WITHIN, Verifier
from cogni_billing.application.cases import Case, Result, checked_unit_of_work
from cogni_billing.application.context import Context
from cogni_billing.domain.amounts import Amount
from cogni_billing.domain.attempt_limits import DEFAULT_RULES, AttemptRules
from cogni_billing.domain.attempts import Attempt, AttemptEvent, Intent, IntentRequest
from cogni_billing.domain.destinations import Destination
from cogni_billing.domain.findings import Finding
from cogni_billing.domain.identity import TenantId
from cogni_billing.domain.inbox import EventState, InboxEntry, InboxPage
from cogni_billing.domain.payment_events import PaymentEvent
from cogni_billing.domain.policies import Policies
from cogni_billing.domain.prices import Prices
from cogni_billing.ports.environment import Clock, IdSource
from cogni_billing.ports.payments import PaymentVerifier
from cogni_billing.ports.scope import UnitOfWork


class PaymentAttempts:
    """Records intents to pay, verifies the evidence of a payment, and credits verified payments.

    Safe to share between threads. An attempt is credited at most once, in one transaction that
    records the purchase with its shares, the attempt's new state and its history.

    Args:
        unit_of_work: The ledger, as for `Billing`. It must not join a transaction of the
            host's, which would be open while the verifier is asked.
        verifier: Looks payments up. The library compares its findings with the intent.
        destinations: The places to pay to, one for each provider. The first one is the default.
        policy: The shares of a purchase, as for `Billing`.
        prices: The credits of a dollar, as for `Billing`. Attempts are in US dollars.
        rules: The limits of an amount, and the time limits of each step.
        answers_within: How long the verifier has. A later answer is ignored and the attempt stays
            pending.
        clock: As for `Billing`.
        ids: As for `Billing`.

    Raises:
        InvalidInput: *destinations*, *rules* or *answers_within* is invalid.
        InvalidPolicy: *policy* is no policy.
        InvalidPrices: *prices* is no price book.
    """

    def __init__(
        self,
        unit_of_work: UnitOfWork,
        *,
        verifier: PaymentVerifier,
        destinations: Destination | Iterable[Destination],
        policy: Policies | None = None,
        prices: Prices | None = None,
        rules: AttemptRules = DEFAULT_RULES,
        answers_within: timedelta = ANSWERS_WITHIN,
        clock: Clock | None = None,
        ids: IdSource | None = None,
    ) -> None:
        self._unit_of_work = checked_unit_of_work(unit_of_work)
        billing = Context.over(unit_of_work, policy, clock, ids, prices=prices)
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
        recipient: str | None = None,
    ) -> Intent:
        """Record an intent to pay. The intent says where to pay, and the exact amount.

        Args:
            tenant: The tenant to credit. It needs no account yet.
            amount: US dollars, within the limits of the rules: 2.00 to 10 000.00 by default.
            payer: The address that will pay. On a chain either *payer* or *recipient* is needed,
                because anybody can see a payment and claim it. The host must make sure that the
                address is the tenant's own.
            provider: The provider of the destination, if there are several.
            metadata: A JSON object to keep with the intent and with the purchase.
            recipient: A fresh address of the host on the chain, for this intent alone. Then any
                sender may pay, such as an exchange, a smart account or a bridge.

        Raises:
            InvalidTenant, InvalidAmount, UnitMismatch: *tenant* or *amount* is invalid.
            RecipientTaken: another intent has the address *recipient*.
            InvalidReference, InvalidMetadata, InvalidInput: another argument is invalid.
            PrivilegeRequired: the ledger's role may not mint.
        """
        request = IntentRequest(
            tenant=tenant,
            amount=amount,
            payer=payer,
            provider=provider,
            metadata=metadata,
            recipient=recipient,
        )
        return self._run(attempts.create_intent(self._context, request))

    def submit(self, tenant: TenantId | UUID, attempt_id: UUID, evidence: str) -> Attempt:
        """Submit the evidence of a payment, and verify it at once.

        Submitting the same evidence again is the same as `status`. An intent that has expired
        fails. Other evidence replaces evidence that the verifier does not find, such as the hash of
        a transaction that was sent again with a higher fee.

        Args:
            tenant: The owner of the attempt.
            attempt_id: The `attempt_id` of the intent.
            evidence: `provider:id`. On a chain, `chain_id:tx_hash`.

        Raises:
            InvalidTenant, InvalidInput, InvalidReference: an argument is invalid, or the evidence
                is of another provider than the intent's.
            UnknownAttempt: the tenant has no such attempt.
            IdempotencyConflict: other evidence was submitted for the attempt, and the verifier did
                not say that it is not found.
            PaymentAlreadyClaimed: another attempt or a purchase has the payment.
            PrivilegeRequired: the ledger's role may not mint.
            VerifierFailed: the verifier raised an error. The evidence is recorded. Ask for the
                status later.
        """
        return self._run(attempts.submit(self._context, tenant, attempt_id, evidence))

    def report(
        self,
        tenant: TenantId | UUID,
        attempt_id: UUID,
        evidence: str,
        finding: Finding,
        *,
        aliases: Iterable[str] = (),
    ) -> Attempt:
        """Submit evidence together with a finding, such as the content of a signed webhook.

        No verifier is asked. The finding is applied and recorded at once, in one transaction.
        Reporting it again returns the same attempt. A verified payment is never too late: it
        credits an attempt that has failed, and replaces evidence that is not verified.

        Args:
            tenant: The owner of the attempt.
            attempt_id: The `attempt_id` of the intent.
            evidence: `provider:id`.
            finding: From a source that the host trusts like a verifier.
            aliases: Other ids of the same payment, such as `stripe:cs_…` of the Checkout session.
                If one of them was submitted, *evidence* replaces it.

        Raises:
            InvalidTenant, InvalidInput, InvalidReference: an argument is invalid.
            UnknownAttempt, IdempotencyConflict, PaymentAlreadyClaimed, PrivilegeRequired: see
                `submit` and `status`.
        """
        return self._run(
            attempts.report(self._context, tenant, attempt_id, evidence, finding, aliases=aliases)
        )

    def status(self, tenant: TenantId | UUID, attempt_id: UUID) -> Attempt:
        """The present state of the attempt. While it is pending, the verifier is asked at
        intervals.

        Raises:
            InvalidTenant, InvalidInput: an argument is invalid.
            UnknownAttempt: the tenant has no such attempt.
            PaymentAlreadyClaimed, IdempotencyConflict: the payment is verified, but was credited
                without this attempt: to another tenant, or with another amount.
            PrivilegeRequired: the ledger's role may not mint.
            VerifierFailed: the verifier raised an error. The attempt stays pending.
        """
        return self._run(attempts.status(self._context, tenant, attempt_id))

    def sweep(self) -> int:
        """Verify every pending attempt that is due, and expire intents. Returns the number that
        ended.

        Run it regularly, because clients do not always ask for a status. It continues when one
        attempt fails, and raises the most severe error at the end.

        Raises:
            PrivilegeRequired: the unit of work has no service role.
            VerifierFailed, PaymentAlreadyClaimed, IdempotencyConflict, LedgerUnavailable: an
                attempt could not be concluded. See `status`.
        """
        return self._run(attempts.sweep(self._context))

    def history(self, tenant: TenantId | UUID, attempt_id: UUID) -> tuple[AttemptEvent, ...]:
        """The events of the attempt, in order. The first event is the intent.

        Raises:
            InvalidTenant, InvalidInput: an argument is invalid.
            UnknownAttempt: the tenant has no such attempt.
        """
        return self._run(attempts.history(tenant, attempt_id))

    def process(self, event: PaymentEvent, *, confirm_without_attempt: bool = False) -> InboxEntry:
        """Apply a payment event: credit a purchase, or record a refund or a change of a dispute.

        The event and its effect are recorded in one transaction, once for each event id. Events may
        come in any order, late and more than once: all events of a payment together say how much is
        refunded and how each dispute stands. An event of a payment that is not credited yet waits
        in the inbox, and is applied with the purchase, or by `sweep_inbox`. A success that matches
        no attempt is kept as `unmatched`, with the reason.

        Args:
            event: From a `WebhookReader`, or from another source that the host trusts.
            confirm_without_attempt: Credit a success whose metadata names a tenant but no attempt,
                with the amount that was paid. Only for a host that gives the metadata `tenant` to
                purchases of credits alone.

        Returns:
            The event with its state. A second delivery of an applied event returns it with
            `replayed` set. A waiting or unmatched event is tried again.

        Raises:
            InvalidInput: *event* is no payment event, or *confirm_without_attempt* is no bool.
            IdempotencyConflict: another event came under the same id.
            InvalidPolicy: no policy is in force yet.
            PrivilegeRequired: the unit of work has no service role.
        """
        return self._run(inbox.process(self._context, event, confirm_without_attempt))

    def sweep_inbox(self) -> int:
        """Apply the events that waited for a purchase which is recorded now.

        Call it regularly, such as every minute. Returns the number of events applied.

        Raises:
            PrivilegeRequired: the unit of work has no service role.
            InvalidPolicy, LedgerUnavailable: an event could not be applied.
        """
        return self._run(inbox.sweep_inbox(self._context))

    def inbox(
        self,
        state: EventState = EventState.UNMATCHED,
        *,
        limit: int = 50,
        after: str | None = None,
    ) -> InboxPage:
        """The kept events in a state, by pages, the first to arrive first.

        An operator looks at the unmatched events. Pass one to `process` again when its cause is
        fixed: `process(entry.event)`.

        Args:
            state: The state of the events.
            limit: The most entries of the page, 1 to 1000.
            after: The `next` of an earlier page.

        Raises:
            InvalidInput, InvalidPage, InvalidReference: an argument is invalid.
            PrivilegeRequired: the unit of work has no service role.
        """
        return self._run(inbox.inbox(state, limit, after))
