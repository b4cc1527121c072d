"""`PaymentAttempts` and `AsyncPaymentAttempts`: from intent to settled credits, exactly once.

Between one scope and the next a verifier is asked, with no transaction open: whatever it does, and
however long it takes, nothing waits for it but the call itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from concurrent.futures import Future
from contextvars import copy_context
from datetime import timedelta
from threading import BoundedSemaphore, Thread
from typing import Final
from uuid import UUID

from cogni_billing.attempting import AttemptCases, Step
from cogni_billing.domain.amounts import Amount
from cogni_billing.domain.attempts import (
    DEFAULT_RULES,
    Attempt,
    AttemptEvent,
    AttemptRules,
    FailureCode,
    Finding,
    Intent,
    PaymentPending,
    checked_finding,
    positive_span,
)
from cogni_billing.domain.destinations import Destination
from cogni_billing.domain.errors import InvalidInput, VerifierFailed, shown
from cogni_billing.domain.identity import TenantId
from cogni_billing.domain.policies import Policies
from cogni_billing.ports.environment import Clock, IdSource
from cogni_billing.ports.payments import AsyncPaymentVerifier, PaymentVerifier
from cogni_billing.ports.scope import AsyncUnitOfWork, UnitOfWork
from cogni_billing.sweeping import Sweep
from cogni_billing.usecases import Case, Result, UseCases, awaited, called

ANSWERS_WITHIN: Final = timedelta(seconds=10)
"""How long a verifier has, unless a host says otherwise."""
ASKED_AT_ONCE: Final = 100
"""So many threads at most wait for a verifier, those included that nobody waits for any more."""
_UNHEARD: Final = PaymentPending(FailureCode.RPC_ERROR)


class PaymentAttempts:
    """Takes intents to pay, and evidence that somebody did; credits what a verifier confirms.

    Safe to share between threads. One attempt is credited once, by one transaction that records
    the purchase with its shares, the attempt's new state and its history.

    Args:
        unit_of_work: The ledger, as for `Billing`; not one that joins a host's transaction, which
            would be open while the verifier is asked.
        verifier: Looks payments up. Its findings are judged here, against the intent.
        destinations: Where payments may go, one for each provider; the first by default.
        policy: As for `Billing`: who gets what of a purchase.
        rules: How much may be paid, and how long each step is waited for.
        answers_within: How long the verifier has. An answer after that is not heard, and the
            attempt waits. It is asked in a thread of its own, which is left to itself then; while
            `ASKED_AT_ONCE` are, whoever comes next waits as long for one of them to end.
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
        self._unit_of_work = called(unit_of_work)
        self._verifier = verifier
        billing = UseCases.over(unit_of_work, policy, clock, ids)
        self._cases = AttemptCases(billing, destinations, rules)
        self._seconds = positive_span(answers_within, "answers_within").total_seconds()
        self._room = BoundedSemaphore(ASKED_AT_ONCE)

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
        return self._run(
            self._cases.create_intent(
                tenant, amount, payer=payer, provider=provider, metadata=metadata
            )
        )

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
        return self._followed(self._run(self._cases.submit(tenant, attempt_id, evidence)))

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
        return self._run(self._cases.report(tenant, attempt_id, evidence, finding))

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
        return self._followed(self._run(self._cases.status(tenant, attempt_id)))

    def sweep(self) -> int:
        """Have the verifier asked about every attempt whose turn it is, whosever it is, and let
        intents expire; how many ended. Run it now and then: not everybody asks for a status.

        One that fails keeps no other from it; the worst of their errors is raised in the end.

        Raises:
            PrivilegeRequired: the unit of work has no service role.
            VerifierFailed, PaymentAlreadyClaimed, IdempotencyConflict, LedgerUnavailable: some
                attempt could not be settled; see `status`.
        """
        now, sweep, last = self._cases.now(), Sweep[UUID](), None
        while page := self._run(self._cases.due(now, last)):
            for last in page:
                if last.attempt_id not in sweep.tried:
                    with sweep.settling(last.attempt_id):
                        attempt = self.status(last.tenant, last.attempt_id)
                        sweep.settled += attempt.state.is_terminal
        return sweep.outcome()

    def history(self, tenant: TenantId | UUID, attempt_id: UUID) -> tuple[AttemptEvent, ...]:
        """What has become of the attempt so far, in order; the first is the intent.

        Raises:
            InvalidTenant, InvalidInput: an argument breaks its rule.
            UnknownAttempt: the tenant has no such attempt.
        """
        return self._run(self._cases.history(tenant, attempt_id))

    def _run(self, case: Case[Result]) -> Result:
        return case.on(self._unit_of_work)

    def _followed(self, step: Step) -> Attempt:
        if step.evidence is None:
            return step.attempt
        finding = self._asked(step.evidence, step.attempt.intent)
        return self._run(self._cases.conclude(step.attempt, finding))

    def _asked(self, evidence: str, intent: Intent) -> Finding:
        """What the verifier says, or that it said nothing in time."""
        if not self._room.acquire(timeout=self._seconds):
            return _UNHEARD
        answer: Future[object] = Future()

        def ask() -> None:
            try:
                answer.set_result(self._verifier.verify(evidence, intent))
            except BaseException as error:  # noqa: BLE001 (whoever asks gets it)
                answer.set_exception(error)
            finally:
                self._room.release()

        try:
            Thread(target=copy_context().run, args=(ask,), daemon=True).start()
        except RuntimeError as error:  # the system has no more threads
            self._room.release()
            raise _failed(intent, error) from error
        try:
            failure = answer.exception(self._seconds)
        except TimeoutError:
            return _UNHEARD
        return _told(intent, answer.result() if failure is None else failure)


class AsyncPaymentAttempts:
    """`PaymentAttempts` for asyncio: the same names, parameters, outcomes and errors, awaited.

    A verifier that has not answered in time is cancelled, and not waited for.
    """

    def __init__(
        self,
        unit_of_work: AsyncUnitOfWork,
        *,
        verifier: AsyncPaymentVerifier,
        destinations: Destination | Iterable[Destination],
        policy: Policies | None = None,
        rules: AttemptRules = DEFAULT_RULES,
        answers_within: timedelta = ANSWERS_WITHIN,
        clock: Clock | None = None,
        ids: IdSource | None = None,
    ) -> None:
        self._unit_of_work = awaited(unit_of_work)
        self._verifier = verifier
        billing = UseCases.over(unit_of_work, policy, clock, ids)
        self._cases = AttemptCases(billing, destinations, rules)
        self._seconds = positive_span(answers_within, "answers_within").total_seconds()

    async def create_intent(
        self,
        tenant: TenantId | UUID,
        amount: Amount,
        *,
        payer: str | None = None,
        provider: str | None = None,
        metadata: Mapping[str, object] | None = None,
    ) -> Intent:
        """See `PaymentAttempts.create_intent`."""
        return await self._run(
            self._cases.create_intent(
                tenant, amount, payer=payer, provider=provider, metadata=metadata
            )
        )

    async def submit(self, tenant: TenantId | UUID, attempt_id: UUID, evidence: str) -> Attempt:
        """See `PaymentAttempts.submit`."""
        return await self._followed(
            await self._run(self._cases.submit(tenant, attempt_id, evidence))
        )

    async def report(
        self, tenant: TenantId | UUID, attempt_id: UUID, evidence: str, finding: Finding
    ) -> Attempt:
        """See `PaymentAttempts.report`."""
        return await self._run(self._cases.report(tenant, attempt_id, evidence, finding))

    async def status(self, tenant: TenantId | UUID, attempt_id: UUID) -> Attempt:
        """See `PaymentAttempts.status`."""
        return await self._followed(await self._run(self._cases.status(tenant, attempt_id)))

    async def sweep(self) -> int:
        """See `PaymentAttempts.sweep`."""
        now, sweep, last = self._cases.now(), Sweep[UUID](), None
        while page := await self._run(self._cases.due(now, last)):
            for last in page:
                if last.attempt_id not in sweep.tried:
                    with sweep.settling(last.attempt_id):
                        attempt = await self.status(last.tenant, last.attempt_id)
                        sweep.settled += attempt.state.is_terminal
        return sweep.outcome()

    async def history(self, tenant: TenantId | UUID, attempt_id: UUID) -> tuple[AttemptEvent, ...]:
        """See `PaymentAttempts.history`."""
        return await self._run(self._cases.history(tenant, attempt_id))

    async def _run(self, case: Case[Result]) -> Result:
        return await case.on_async(self._unit_of_work)

    async def _followed(self, step: Step) -> Attempt:
        if step.evidence is None:
            return step.attempt
        finding = await self._asked(step.evidence, step.attempt.intent)
        return await self._run(self._cases.conclude(step.attempt, finding))

    async def _asked(self, evidence: str, intent: Intent) -> Finding:
        async def ask() -> object:
            try:
                return await self._verifier.verify_async(evidence, intent)
            except SystemExit as error:  # which would end the loop
                return error

        answer = asyncio.ensure_future(ask())
        try:
            # It does not wait for one that will not be cancelled, as `asyncio.timeout` would.
            done, _ = await asyncio.wait({answer}, timeout=self._seconds)
        finally:
            answer.cancel()
        if not done:
            return _UNHEARD
        if answer.cancelled():  # by somebody else: this task goes on
            return _told(intent, asyncio.CancelledError("cancelled"))
        failure = answer.exception()
        return _told(intent, answer.result() if failure is None else failure)


def _told(intent: Intent, answer: object) -> Finding:
    """What the verifier has found, whose answer may be an error.

    Raises:
        VerifierFailed: it is one, other than that time was up; or no finding.
    """
    if isinstance(answer, TimeoutError):
        return _UNHEARD
    if isinstance(answer, BaseException):
        raise _failed(intent, answer) from answer
    try:
        return checked_finding(answer)
    except InvalidInput as error:
        raise _failed(intent, error) from error


def _failed(intent: Intent, error: BaseException) -> VerifierFailed:
    try:
        said = str(error)
    except Exception:  # noqa: BLE001 (somebody else's, and no reason to fail otherwise)
        said = "what it says cannot be told"
    return VerifierFailed(intent.attempt_id, shown(f"{type(error).__name__}: {said}"))
