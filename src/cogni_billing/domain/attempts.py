"""Payment attempts: from an intent to pay, through evidence of the payment, to credits.

A pure state machine. It compares the finding of a verifier with the intent. No verifier decides
which tenant is credited, or with which amount.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final
from uuid import UUID

from attrs import evolve, frozen

from cogni_billing.domain.amounts import USD, Amount, in_quanta
from cogni_billing.domain.attempt_limits import AttemptRules
from cogni_billing.domain.destinations import (
    Destination,
    chain_id_of,
    evidence_parts,
    require_provider,
)
from cogni_billing.domain.errors import (
    AttemptClosed,
    Difference,
    IdempotencyConflict,
    InvalidInput,
    InvalidReference,
    InvalidTime,
    shown,
)
from cogni_billing.domain.findings import (
    NOT_THERE_YET,
    TRANSIENT,
    FailureCode,
    Finding,
    PaymentPending,
    PaymentVerified,
)
from cogni_billing.domain.identity import TenantId, tenant_id
from cogni_billing.domain.metadata import EMPTY, Json, frozen_metadata
from cogni_billing.domain.transactions import Transaction


class AttemptState(StrEnum):
    """The state of an attempt."""

    CREATED_INTENT = "CREATED_INTENT"
    PENDING_UNVERIFIED = "PENDING_UNVERIFIED"
    CREDITED = "CREDITED"
    REJECTED = "REJECTED"
    FAILED = "FAILED"

    @property
    def is_terminal(self) -> bool:
        """True if the attempt has ended. A verified report can still credit a failed attempt."""
        return self not in _OPEN


TRANSITIONS: Final[Mapping[AttemptState, frozenset[AttemptState]]] = {
    AttemptState.CREATED_INTENT: frozenset({AttemptState.PENDING_UNVERIFIED, AttemptState.FAILED}),
    AttemptState.PENDING_UNVERIFIED: frozenset(
        {
            AttemptState.PENDING_UNVERIFIED,
            AttemptState.CREDITED,
            AttemptState.REJECTED,
            AttemptState.FAILED,
        }
    ),
    AttemptState.CREDITED: frozenset(),
    AttemptState.REJECTED: frozenset(),
    AttemptState.FAILED: frozenset({AttemptState.PENDING_UNVERIFIED}),
}
"""The states that may follow each state. A pending attempt may get other evidence."""
_OPEN: Final = frozenset({AttemptState.CREATED_INTENT, AttemptState.PENDING_UNVERIFIED})
_DECIDED: Final = frozenset({AttemptState.CREDITED, AttemptState.REJECTED})


class AttemptStatus(StrEnum):
    """The status for a client."""

    PENDING_VERIFICATION = "PENDING_VERIFICATION"
    CONFIRMED = "CONFIRMED"
    FAILED = "FAILED"


_STATUS: Final = {
    AttemptState.CREATED_INTENT: AttemptStatus.PENDING_VERIFICATION,
    AttemptState.PENDING_UNVERIFIED: AttemptStatus.PENDING_VERIFICATION,
    AttemptState.CREDITED: AttemptStatus.CONFIRMED,
    AttemptState.REJECTED: AttemptStatus.FAILED,
    AttemptState.FAILED: AttemptStatus.FAILED,
}


@frozen(kw_only=True)
class Intent:
    """The amount to pay, the place to pay it, and the deadline for evidence."""

    attempt_id: UUID
    tenant: TenantId
    amount: Amount
    """In US dollars."""
    payer: str | None
    """The required payer. `None` accepts any payer. On a chain, *recipient* is then the intent's
    alone."""
    provider: str
    """The chain's id, or the processor's name."""
    token: str
    recipient: str
    raw_amount: int
    """The same amount in the smallest units of the token."""
    confirmations: int
    created_at: datetime
    expires_at: datetime
    metadata: Mapping[str, Json] = EMPTY

    @property
    def chain_id(self) -> int | None:
        """The id of the chain, or `None` if the provider is no chain."""
        return chain_id_of(self.provider)

    @property
    def has_own_recipient(self) -> bool:
        """True if no other intent has the recipient's address, so that any payer may pay."""
        return self.payer is None and self.chain_id is not None

    def evidence(self, given: str) -> str:
        """*given*, evidence in its one spelling, as evidence for this intent.

        A transaction can pay many addresses, and each of them is a payment. So the evidence for an
        intent with its own recipient ends with the address.

        Raises:
            InvalidReference: *given* is of another provider, or of another recipient.
        """
        require_provider(given, self.provider)
        if self.chain_id is None:
            return given
        transaction, own = evidence_parts(given)
        expected = self.recipient if self.has_own_recipient else None
        if own not in (None, expected):
            raise InvalidReference("evidence", shown(given), f"{self.provider}:tx_hash")
        return transaction if expected is None else f"{transaction}:{expected}"

    def is_counted_in(self, decimals: int) -> bool:
        """True if `raw_amount` counts the smallest units of a token with so many decimals."""
        cents = in_quanta(self.amount.value_in(USD), USD.scale)
        return bool(cents * 10**decimals == self.raw_amount * 10**USD.scale)


@frozen(kw_only=True)
class Attempt:
    """An intent and its present state."""

    intent: Intent
    state: AttemptState = AttemptState.CREATED_INTENT
    changed_at: datetime
    evidence: str | None = None
    submitted_at: datetime | None = None
    failure: FailureCode | None = None
    """The reason of a rejected or failed attempt."""
    transaction_id: UUID | None = None
    """The purchase of a credited attempt."""

    @property
    def id(self) -> UUID:
        return self.intent.attempt_id

    @property
    def tenant(self) -> TenantId:
        return self.intent.tenant

    @property
    def status(self) -> AttemptStatus:
        """The status for a client."""
        return _STATUS[self.state]

    @property
    def expires_at(self) -> datetime | None:
        """The moment when an intent without evidence expires. `None` in other states."""
        return self.intent.expires_at if self.state is AttemptState.CREATED_INTENT else None

    def moved(self, move: AttemptEvent) -> Attempt:
        """This attempt after *move*. `changed_at` never moves backwards.

        Raises:
            AttemptClosed: the present state does not lead to the state of *move*.
            InvalidInput: *move* lacks its reason, or has another state's.
        """
        if move.state not in TRANSITIONS[self.state]:
            raise AttemptClosed(self.id, self.state)
        move.require_reason()
        at = max(self.changed_at, move.at)
        submitted = move.state is AttemptState.PENDING_UNVERIFIED
        return evolve(
            self,
            state=move.state,
            changed_at=at,
            evidence=move.evidence if submitted else self.evidence,
            submitted_at=at if submitted else self.submitted_at,
            failure=move.failure,
            transaction_id=move.transaction_id,
        )

    def follows(self, events: Iterable[AttemptEvent]) -> bool:
        """True if *events* lead from the intent to this state."""
        led = Attempt(intent=self.intent, changed_at=self.intent.created_at)
        try:
            for event in events:
                led = led.moved(event)
        except (AttemptClosed, InvalidInput):
            return False
        return led == self

    def is_credited_by(self, purchase: Transaction | None) -> bool:
        """True if *purchase*, the recorded purchase for the evidence, agrees with the state.

        A credited attempt must have that transaction and its amount. Any other state agrees.
        """
        if self.state is not AttemptState.CREDITED:
            return True
        return (
            purchase is not None
            and purchase.id == self.transaction_id
            and purchase.paid == self.intent.amount
        )


@frozen(kw_only=True)
class AttemptEvent:
    """A change of an attempt's state, with its reason."""

    state: AttemptState
    at: datetime
    evidence: str | None = None
    failure: FailureCode | None = None
    transaction_id: UUID | None = None
    found: Mapping[str, Json] = EMPTY
    """The facts that the verifier found."""

    def require_reason(self) -> None:
        """Return if the event has the one reason of its state: evidence, purchase or failure.

        Raises:
            InvalidInput: the reason is missing, or is another state's.
        """
        reasons = (self.evidence, self.transaction_id, self.failure)
        given = tuple(reason is not None for reason in reasons)
        if given != _REASONS[self.state]:
            raise InvalidInput("move", shown(str(self.state)), "its evidence, purchase or failure")


_REASONS: Final = {
    AttemptState.PENDING_UNVERIFIED: (True, False, False),
    AttemptState.CREDITED: (False, True, False),
    AttemptState.REJECTED: (False, False, True),
    AttemptState.FAILED: (False, False, True),
}


@frozen(kw_only=True)
class DueAttempt:
    """A payment attempt to check, and the moment from which it is due."""

    at: datetime
    tenant: TenantId
    attempt_id: UUID


def history(intent: Intent, events: Iterable[AttemptEvent]) -> tuple[AttemptEvent, ...]:
    """The events of *intent* in order. The first event is the intent itself."""
    created = AttemptEvent(state=AttemptState.CREATED_INTENT, at=intent.created_at)
    return (created, *events)


@frozen(kw_only=True)
class IntentRequest:
    """The arguments of `PaymentAttempts.create_intent`, which validates them."""

    tenant: object
    amount: object
    payer: object
    provider: object
    metadata: object
    recipient: object = None


def plan_intent(
    request: IntentRequest,
    *,
    destination: Destination,
    rules: AttemptRules,
    at: datetime,
    attempt_id: UUID,
) -> Intent:
    """Plan the intent to pay an amount of US dollars at *destination*."""
    owner = tenant_id(request.tenant)
    price = rules.amount(request.amount)
    recipient = destination.own_recipient(request.recipient)
    return Intent(
        attempt_id=attempt_id,
        tenant=owner,
        amount=price,
        payer=destination.payer(request.payer, request.recipient),
        provider=destination.provider,
        token=destination.token,
        recipient=recipient,
        raw_amount=destination.raw_amount(price),
        confirmations=destination.confirmations,
        created_at=at,
        expires_at=_after(
            at,
            rules.expires_after if destination.expires_after is None else destination.expires_after,
        ),
        metadata=frozen_metadata(request.metadata),
    )


def _after(at: datetime, span: timedelta) -> datetime:
    try:
        return at + span
    except OverflowError as error:
        raise InvalidTime("expires_at", f"{span} after {at}", "before the year 10000") from error


def overdue(attempt: Attempt, at: datetime) -> AttemptEvent | None:
    """The failure of an intent that has expired by *at* without evidence, or `None`."""
    if attempt.expires_at is None or at < attempt.expires_at:
        return None
    return AttemptEvent(
        state=AttemptState.FAILED, at=attempt.expires_at, failure=FailureCode.INTENT_EXPIRED
    )


def submission(attempt: Attempt, evidence: str, at: datetime) -> AttemptEvent | None:
    """The event that submitting *evidence* causes. `None` if the evidence was submitted before.

    An expired intent fails with any evidence.

    Raises:
        IdempotencyConflict: other evidence was submitted before.
    """
    if attempt.evidence not in (None, evidence):
        raise conflict(attempt, evidence)
    if attempt.state is not AttemptState.CREATED_INTENT:
        return None
    return overdue(attempt, at) or _pending(evidence, at)


def conflict(attempt: Attempt, evidence: str) -> IdempotencyConflict:
    """The error for *evidence* that is not the attempt's."""
    differing = Difference("evidence", attempt.evidence or "", evidence)
    return IdempotencyConflict(str(attempt.id), (differing,))


def replacement(evidence: str, finding: Finding, at: datetime) -> AttemptEvent | None:
    """The event that other *evidence* causes, after *finding* on the present evidence.

    A sender can speed up a transaction, and then another one has its place. So evidence is replaced
    while it is not found, and `None` is returned otherwise.
    """
    return _pending(evidence, at) if _code(finding) in NOT_THERE_YET else None


def told(
    attempt: Attempt, evidence: str, aliases: Container[str], finding: Finding, at: datetime
) -> AttemptEvent | None:
    """The event that a trusted report of *evidence* causes, before its finding is applied.

    A verified payment is never too late. It reopens a failed attempt, and replaces evidence that is
    not verified. Evidence among the aliases becomes *evidence*.

    Raises:
        IdempotencyConflict: the attempt was decided by another payment, or has the evidence of
            another payment and *finding* is not that *evidence* is paid.
    """
    is_pending = attempt.state is AttemptState.PENDING_UNVERIFIED
    if attempt.evidence == evidence and is_pending:
        return None
    if isinstance(finding, PaymentVerified) and attempt.state not in _DECIDED:
        return _pending(evidence, at)
    if attempt.evidence in aliases:
        return _pending(evidence, at) if is_pending else None
    return submission(attempt, evidence, at)


def _pending(evidence: str, at: datetime) -> AttemptEvent:
    return AttemptEvent(state=AttemptState.PENDING_UNVERIFIED, at=at, evidence=evidence)


def judged(
    attempt: Attempt, finding: Finding, rules: AttemptRules, at: datetime
) -> AttemptEvent | None:
    """The event that *finding* causes for a pending attempt.

    Returns:
        The event, or `None` if the attempt stays pending. An event of state `CREDITED` still lacks
        its purchase.
    """
    assert attempt.submitted_at is not None
    if isinstance(finding, PaymentVerified):
        return _judged_by_facts(attempt.intent, finding, at)
    code = _code(finding)
    if code is None or code in TRANSIENT:
        return None
    if code in NOT_THERE_YET:
        if at < attempt.submitted_at + rules.gives_up_after:
            return None
        return AttemptEvent(state=AttemptState.FAILED, at=at, failure=FailureCode.RECEIPT_NOT_FOUND)
    state = AttemptState.FAILED if code is FailureCode.TX_REVERTED else AttemptState.REJECTED
    return AttemptEvent(state=state, at=at, failure=code)


def _code(finding: Finding) -> FailureCode | None:
    if isinstance(finding, PaymentVerified):
        return None
    return finding.reason if isinstance(finding, PaymentPending) else finding.code


def _judged_by_facts(intent: Intent, found: PaymentVerified, at: datetime) -> AttemptEvent | None:
    # A chain can still reorganise before that many confirmations.
    if found.confirmations < intent.confirmations:
        return None
    facts: dict[str, Json] = {
        "provider": found.provider,
        "token": found.token,
        "sender": found.sender,
        "recipient": found.recipient,
        "raw_amount": str(found.raw_amount),
        "confirmations": found.confirmations,
    }
    failure = _mismatch(intent, found)
    state = AttemptState.CREDITED if failure is None else AttemptState.REJECTED
    return AttemptEvent(state=state, at=at, failure=failure, found=frozen_metadata(facts))


def _mismatch(intent: Intent, found: PaymentVerified) -> FailureCode | None:
    if found.provider != intent.provider:
        return FailureCode.INVALID_CHAIN
    if not _same(found.token, intent.token, intent):
        return FailureCode.INVALID_TOKEN
    if not _same(found.recipient, intent.recipient, intent):
        return FailureCode.INVALID_RECIPIENT
    if intent.payer is not None and not _same(found.sender, intent.payer, intent):
        return FailureCode.SENDER_MISMATCH
    if found.raw_amount < intent.raw_amount:
        return FailureCode.INSUFFICIENT_AMOUNT
    return None


def _same(found: str | None, meant: str, intent: Intent) -> bool:
    if found is None:
        return False
    return (found.lower() if intent.chain_id is not None else found) == meant


def checked_attempt_id(given: object) -> UUID:
    """*given* as the id of an attempt.

    Raises:
        InvalidInput: *given* is no `uuid.UUID`.
    """
    if not isinstance(given, UUID):
        raise InvalidInput("attempt_id", shown(given), "the id of an attempt, a uuid.UUID")
    return UUID(int=given.int)
