"""The calls of payment attempts. Between two scopes a verifier is asked, with no scope open."""

from __future__ import annotations

from collections.abc import Container
from datetime import datetime
from typing import Final
from uuid import UUID

from attrs import evolve, field, frozen

from cogni_billing.application.asking import Question, Verifier
from cogni_billing.application.cases import ScopeCase, ServiceCase, Steps, in_steps
from cogni_billing.application.context import Context
from cogni_billing.application.minting import confirm_purchase
from cogni_billing.application.sweeping import Sweep
from cogni_billing.domain.attempt_limits import AttemptRules, checked_rules
from cogni_billing.domain.attempts import (
    Attempt,
    AttemptEvent,
    AttemptState,
    DueAttempt,
    Intent,
    IntentRequest,
    checked_attempt_id,
    conflict,
    judged,
    overdue,
    plan_intent,
    replacement,
    submission,
    told,
)
from cogni_billing.domain.destinations import (
    Destination,
    checked_aliases,
    checked_destinations,
    checked_evidence,
)
from cogni_billing.domain.errors import InvalidInput, PaymentAlreadyClaimed, shown
from cogni_billing.domain.findings import Finding, checked_finding
from cogni_billing.domain.identity import SYSTEM_TENANT_ID, tenant_id
from cogni_billing.domain.kinds import TransactionKind
from cogni_billing.domain.purchases import Purchase
from cogni_billing.ports.scope import Scope

_PENDING: Final = AttemptState.PENDING_UNVERIFIED


@frozen
class AttemptContext:
    """The settings of one `PaymentAttempts`, sync or async."""

    billing: Context
    verifier: Verifier
    destinations: tuple[Destination, ...] = field(converter=checked_destinations)
    rules: AttemptRules = field(converter=checked_rules)

    def destination(self, provider: object) -> Destination:
        """The destination of *provider*. `None` is the first destination.

        Raises:
            InvalidInput: no destination has this provider.
        """
        if provider is None:
            return self.destinations[0]
        for destination in self.destinations:
            if type(provider) is str and destination.provider == provider:
                return destination
        known = " or ".join(destination.provider for destination in self.destinations)
        raise InvalidInput("provider", shown(provider), known)


@frozen
class _Looked:
    """An attempt, and its evidence if a verifier is to be asked now."""

    attempt: Attempt
    evidence: str | None = None
    replaced_by: str | None = None
    """Other evidence, which replaces *evidence* if that is not found."""


def create_intent(context: AttemptContext, request: IntentRequest) -> ScopeCase[Intent]:
    intent = plan_intent(
        request,
        destination=context.destination(request.provider),
        rules=context.rules,
        at=context.billing.now(),
        attempt_id=context.billing.new_id(),
    )

    def create(scope: Scope) -> Intent:
        scope.attempts.create(intent)
        return intent

    return ScopeCase(intent.tenant, create)


@in_steps
def submit(
    context: AttemptContext, tenant: object, attempt_id: object, evidence: object
) -> Steps[Attempt]:
    owner, wanted = tenant_id(tenant), checked_attempt_id(attempt_id)
    given, at = checked_evidence(evidence), context.billing.now()

    def work(scope: Scope) -> _Looked:
        attempt = scope.attempts.attempt(wanted)
        own = attempt.intent.evidence(given)
        if attempt.evidence not in (None, own):
            if attempt.state is _PENDING:
                return _Looked(attempt, attempt.evidence, own)
            if own in _evidence(scope, wanted):
                return _look(context, scope, wanted, at)
        move = submission(attempt, own, at)
        if move is None:
            return _look(context, scope, wanted, at)
        submitted = _submitted(scope, attempt, move)
        return _Looked(submitted, own if submitted.state is _PENDING else None)

    looked: _Looked = yield ScopeCase(owner, work)
    if looked.evidence is not None and looked.replaced_by is not None:
        finding = yield Question(context.verifier, looked.evidence, looked.attempt.intent)
        looked = yield ScopeCase(
            owner,
            lambda scope: _replaced(context, scope, looked, looked.replaced_by or "", finding),
        )
    return (yield from _follow(context, looked))


def _evidence(scope: Scope, attempt_id: UUID) -> set[str | None]:
    """All evidence that the attempt has had."""
    return {event.evidence for event in scope.attempts.events(attempt_id)}


def _replaced(
    context: AttemptContext, scope: Scope, looked: _Looked, given: str, finding: Finding
) -> _Looked:
    """The attempt with the evidence *given*, if *finding* on its present evidence allows that."""
    at = context.billing.now()
    attempt = scope.attempts.attempt(looked.attempt.id)
    if attempt.evidence == given:
        return _look(context, scope, attempt.id, at)
    is_same = attempt.state is _PENDING and attempt.evidence == looked.evidence
    move = replacement(given, finding, at) if is_same else None
    if move is not None:
        return _Looked(_submitted(scope, attempt, move), given)
    if given in _evidence(scope, attempt.id):
        return _look(context, scope, attempt.id, at)
    raise conflict(attempt, given)


def _submitted(scope: Scope, attempt: Attempt, move: AttemptEvent) -> Attempt:
    """The attempt after *move*, with other evidence or expired."""
    # Recorded first: a concurrent call may have credited this attempt, and would look like another.
    submitted = scope.attempts.record(attempt, move)
    evidence = move.evidence
    if evidence is not None and scope.ledger.replay(TransactionKind.PURCHASE, evidence):
        raise PaymentAlreadyClaimed(evidence)
    return submitted


def report(
    context: AttemptContext,
    tenant: object,
    attempt_id: object,
    evidence: object,
    finding: object,
    *,
    aliases: object,
) -> ScopeCase[Attempt]:
    owner, wanted = tenant_id(tenant), checked_attempt_id(attempt_id)
    given, found = checked_evidence(evidence), checked_finding(finding)
    others, at = checked_aliases(aliases), context.billing.now()
    return ScopeCase(
        owner, lambda scope: reported(context, scope, wanted, given, found, aliases=others, at=at)
    )


def reported(
    context: AttemptContext,
    scope: Scope,
    attempt_id: UUID,
    evidence: str,
    finding: Finding,
    *,
    aliases: Container[str] = (),
    at: datetime,
) -> Attempt:
    """The attempt after a trusted *finding* on *evidence*, in a scope of its tenant."""
    attempt = scope.attempts.attempt(attempt_id)
    own = attempt.intent.evidence(evidence)
    move = told(attempt, own, aliases, finding, at)
    if move is not None:
        _submitted(scope, attempt, move)
    return _concluded(context, scope, attempt_id, own, finding, at=at)


@in_steps
def status(context: AttemptContext, tenant: object, attempt_id: object) -> Steps[Attempt]:
    owner, wanted = tenant_id(tenant), checked_attempt_id(attempt_id)
    at = context.billing.now()
    look = ScopeCase(owner, lambda scope: _look(context, scope, wanted, at))
    return (yield from _follow(context, (yield look)))


def _look(context: AttemptContext, scope: Scope, attempt_id: UUID, at: datetime) -> _Looked:
    # Claimed first: a call that waits here for another's slot then reads the other's result.
    ask = scope.attempts.begin_check(attempt_id, at, context.rules.checks_every)
    attempt = scope.attempts.attempt(attempt_id)
    if move := overdue(attempt, at):
        attempt = scope.attempts.record(attempt, move)
    return _Looked(attempt, attempt.evidence if ask else None)


def _follow(context: AttemptContext, looked: _Looked) -> Steps[Attempt]:
    attempt, asked = looked.attempt, looked.evidence
    if asked is None:
        return attempt
    finding = yield Question(context.verifier, asked, attempt.intent)
    at = context.billing.now()
    # The attempt may have moved on since the verifier was asked.
    concluded: Attempt = yield ScopeCase(
        attempt.tenant,
        lambda scope: _concluded(context, scope, attempt.id, asked, finding, at=at),
    )
    return concluded


def _concluded(
    context: AttemptContext,
    scope: Scope,
    attempt_id: UUID,
    evidence: str,
    finding: Finding,
    *,
    at: datetime,
) -> Attempt:
    attempt = scope.attempts.attempt(attempt_id)
    if attempt.state is not _PENDING or attempt.evidence != evidence:
        return attempt
    move = judged(attempt, finding, context.rules, at)
    if move is None:
        return attempt
    if move.state is AttemptState.CREDITED:
        move = _credited(context, scope, attempt, move)
    return scope.attempts.record(attempt, move)


def _credited(
    context: AttemptContext, scope: Scope, attempt: Attempt, move: AttemptEvent
) -> AttemptEvent:
    assert attempt.evidence is not None  # a pending attempt has it
    purchase = Purchase(
        tenant=attempt.tenant,
        amount=attempt.intent.amount,
        payment=attempt.evidence,
        metadata=attempt.intent.metadata,
    )
    receipt = confirm_purchase(context.billing, purchase).within(scope)
    return evolve(move, transaction_id=receipt.transaction_id)


@in_steps
def sweep(context: AttemptContext) -> Steps[int]:
    now, swept = context.billing.now(), Sweep[UUID]()
    last: DueAttempt | None = None
    while page := (yield _due(context, now, last)):
        for last in page:
            if last.attempt_id not in swept.tried:
                with swept.trying(last.attempt_id):
                    attempt = yield status(context, last.tenant, last.attempt_id)
                    swept.done += attempt.state.is_terminal
    return swept.outcome()


def _due(
    context: AttemptContext, now: datetime, after: DueAttempt | None
) -> ServiceCase[tuple[DueAttempt, ...]]:
    every = context.rules.checks_every
    return ServiceCase(SYSTEM_TENANT_ID, lambda scope: scope.books.due_attempts(now, every, after))


def history(tenant: object, attempt_id: object) -> ScopeCase[tuple[AttemptEvent, ...]]:
    owner, wanted = tenant_id(tenant), checked_attempt_id(attempt_id)
    return ScopeCase(owner, lambda scope: scope.attempts.events(wanted))
