"""What each step of a payment attempt means, once for both facades.

Each is the work of one scope; between two of them the verifier is asked, with no scope open.
"""

from __future__ import annotations

from datetime import datetime
from typing import Final
from uuid import UUID

from attrs import evolve, field, frozen

from cogni_billing.domain.attempts import (
    Attempt,
    AttemptEvent,
    AttemptRules,
    AttemptState,
    DueAttempt,
    Finding,
    Intent,
    checked_attempt_id,
    checked_finding,
    checked_rules,
    judged,
    overdue,
    plan_intent,
    submission,
)
from cogni_billing.domain.destinations import (
    Destination,
    checked_destinations,
    checked_evidence,
    require_provider,
)
from cogni_billing.domain.errors import InvalidInput, PaymentAlreadyClaimed, shown
from cogni_billing.domain.identity import SYSTEM_TENANT_ID, tenant_id
from cogni_billing.domain.kinds import TransactionKind
from cogni_billing.ports.scope import Scope
from cogni_billing.usecases import ServiceCase, UseCase, UseCases

_PENDING: Final = AttemptState.PENDING_UNVERIFIED


@frozen
class Step:
    """How far an attempt has come, and what the verifier is to be asked about now, if it is."""

    attempt: Attempt
    evidence: str | None = None


@frozen
class AttemptCases:
    """The calls of `PaymentAttempts`, up to the point where the ledger or a verifier is needed."""

    billing: UseCases
    destinations: tuple[Destination, ...] = field(converter=checked_destinations)
    rules: AttemptRules = field(converter=checked_rules)

    def create_intent(
        self, tenant: object, amount: object, *, payer: object, provider: object, metadata: object
    ) -> UseCase[Intent]:
        intent = plan_intent(
            tenant,
            amount,
            payer=payer,
            metadata=metadata,
            destination=self._destination(provider),
            rules=self.rules,
            at=self.now(),
            attempt_id=self.billing.ids.new(),
        )

        def create(scope: Scope) -> Intent:
            scope.attempts.create(intent)
            return intent

        return UseCase(intent.tenant, create)

    def _destination(self, provider: object) -> Destination:
        if provider is None:
            return self.destinations[0]
        for destination in self.destinations:
            if type(provider) is str and destination.provider == provider:
                return destination
        known = " or ".join(destination.provider for destination in self.destinations)
        raise InvalidInput("provider", shown(provider), known)

    def submit(self, tenant: object, attempt_id: object, evidence: object) -> UseCase[Step]:
        owner, wanted = tenant_id(tenant), checked_attempt_id(attempt_id)
        proof, at = checked_evidence(evidence), self.now()

        def submit(scope: Scope) -> Step:
            submitted = self._submitted(scope, wanted, proof, at)
            if submitted is None:
                return self._looked_at(scope, wanted, at)
            return Step(submitted, proof if submitted.state is _PENDING else None)

        return UseCase(owner, submit)

    def _submitted(
        self, scope: Scope, attempt_id: UUID, evidence: str, at: datetime
    ) -> Attempt | None:
        """The attempt with its evidence, or failed for being late; `None` if it had that before."""
        attempt = scope.attempts.attempt(attempt_id)
        require_provider(evidence, attempt.intent.provider)
        move = submission(attempt, evidence, at)
        if move is None:
            return None
        # First, or what this same attempt was credited by meanwhile would seem to be another's.
        submitted = scope.attempts.record(attempt, move)
        if move.state is _PENDING and scope.ledger.replay(TransactionKind.PURCHASE, evidence):
            raise PaymentAlreadyClaimed(evidence)
        return submitted

    def report(
        self, tenant: object, attempt_id: object, evidence: object, finding: object
    ) -> UseCase[Attempt]:
        owner, wanted = tenant_id(tenant), checked_attempt_id(attempt_id)
        proof, told, at = checked_evidence(evidence), checked_finding(finding), self.now()

        def report(scope: Scope) -> Attempt:
            self._submitted(scope, wanted, proof, at)
            return self._concluded(scope, wanted, told, at)

        return UseCase(owner, report)

    def status(self, tenant: object, attempt_id: object) -> UseCase[Step]:
        owner, wanted = tenant_id(tenant), checked_attempt_id(attempt_id)
        at = self.now()
        return UseCase(owner, lambda scope: self._looked_at(scope, wanted, at))

    def _looked_at(self, scope: Scope, attempt_id: UUID, at: datetime) -> Step:
        # First, so that whoever has to wait here for another's turn sees what came of it.
        ask = scope.attempts.begin_check(attempt_id, at, self.rules.checks_every)
        attempt = scope.attempts.attempt(attempt_id)
        if move := overdue(attempt, at):
            attempt = scope.attempts.record(attempt, move)
        return Step(attempt, attempt.evidence if ask else None)

    def conclude(self, asked: Attempt, finding: Finding) -> UseCase[Attempt]:
        """What *finding* makes of an attempt; it may have moved on since the verifier was asked."""
        at = self.now()
        return UseCase(asked.tenant, lambda scope: self._concluded(scope, asked.id, finding, at))

    def _concluded(self, scope: Scope, attempt_id: UUID, finding: Finding, at: datetime) -> Attempt:
        attempt = scope.attempts.attempt(attempt_id)
        if attempt.state is not _PENDING:
            return attempt
        move = judged(attempt, finding, self.rules, at)
        if move is None:
            return attempt
        if move.state is AttemptState.CREDITED:
            move = self._credited(scope, attempt, move)
        return scope.attempts.record(attempt, move)

    def _credited(self, scope: Scope, attempt: Attempt, move: AttemptEvent) -> AttemptEvent:
        purchase = self.billing.confirm_purchase(
            attempt.tenant,
            attempt.intent.amount,
            payment=attempt.evidence,
            metadata=attempt.intent.metadata,
        )
        return evolve(move, transaction_id=purchase.within(scope).transaction_id)

    def due(self, now: datetime, after: DueAttempt | None) -> ServiceCase[tuple[DueAttempt, ...]]:
        every = self.rules.checks_every
        return ServiceCase(
            SYSTEM_TENANT_ID, lambda scope: scope.books.due_attempts(now, every, after)
        )

    def now(self) -> datetime:
        return self.billing.now()

    def history(self, tenant: object, attempt_id: object) -> UseCase[tuple[AttemptEvent, ...]]:
        owner, wanted = tenant_id(tenant), checked_attempt_id(attempt_id)
        return UseCase(owner, lambda scope: scope.attempts.events(wanted))
