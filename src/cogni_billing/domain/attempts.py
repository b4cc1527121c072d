"""Payment attempts: from what somebody means to pay, over evidence that it was paid, to credits.

A pure state machine. What a verifier says it has found is judged here, against the intent: no
verifier decides who is credited with what.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final, TypeAlias
from uuid import UUID

from attrs import evolve, field, frozen

from cogni_billing.domain.amounts import USD, Amount, amount_shown, positive, usd
from cogni_billing.domain.destinations import Destination, chain_id_of
from cogni_billing.domain.errors import (
    AttemptClosed,
    Difference,
    IdempotencyConflict,
    InvalidAmount,
    InvalidInput,
    InvalidTime,
    UnitMismatch,
    shown,
)
from cogni_billing.domain.identity import TenantId, reference, tenant_id
from cogni_billing.domain.metadata import EMPTY, Json, frozen_metadata
from cogni_billing.domain.transactions import Transaction


class AttemptState(StrEnum):
    """How far an attempt has come."""

    CREATED_INTENT = "CREATED_INTENT"
    PENDING_UNVERIFIED = "PENDING_UNVERIFIED"
    CREDITED = "CREDITED"
    REJECTED = "REJECTED"
    FAILED = "FAILED"

    @property
    def is_terminal(self) -> bool:
        """Whether nothing can come of it any more."""
        return not TRANSITIONS[self]


DOLLARS_MAX: Final = usd("1000000000.00")
SPAN_MAX: Final = timedelta(days=3650)
"""As far as rules may go."""
CONFIRMATIONS_FOUND_MAX: Final = 2**63 - 1
RAW_MAX: Final = 2**256 - 1
"""What a token can count to (https://eips.ethereum.org/EIPS/eip-20)."""

TRANSITIONS: Final[Mapping[AttemptState, frozenset[AttemptState]]] = {
    AttemptState.CREATED_INTENT: frozenset({AttemptState.PENDING_UNVERIFIED, AttemptState.FAILED}),
    AttemptState.PENDING_UNVERIFIED: frozenset(
        {AttemptState.CREDITED, AttemptState.REJECTED, AttemptState.FAILED}
    ),
    AttemptState.CREDITED: frozenset(),
    AttemptState.REJECTED: frozenset(),
    AttemptState.FAILED: frozenset(),
}
"""Where each state may lead."""


_ORDER: Final = {state: place for place, state in enumerate(AttemptState)}
"""No state leads to one that is listed before it."""


class AttemptStatus(StrEnum):
    """What a client is told."""

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


class FailureCode(StrEnum):
    """What was wrong with a payment, or with looking for it."""

    SENDER_MISMATCH = "SENDER_MISMATCH"
    INVALID_TOKEN = "INVALID_TOKEN"  # noqa: S105 (no secret)
    INVALID_RECIPIENT = "INVALID_RECIPIENT"
    INVALID_CHAIN = "INVALID_CHAIN"
    INSUFFICIENT_AMOUNT = "INSUFFICIENT_AMOUNT"
    INSUFFICIENT_CONFIRMATIONS = "INSUFFICIENT_CONFIRMATIONS"
    TX_NOT_FOUND = "TX_NOT_FOUND"
    TX_REVERTED = "TX_REVERTED"
    TOKEN_TRANSFER_NOT_FOUND = "TOKEN_TRANSFER_NOT_FOUND"  # noqa: S105
    RECIPIENT_MISMATCH = "RECIPIENT_MISMATCH"
    RECEIPT_NOT_FOUND = "RECEIPT_NOT_FOUND"
    INTENT_EXPIRED = "INTENT_EXPIRED"
    RPC_ERROR = "RPC_ERROR"


NOT_THERE_YET: Final = frozenset({FailureCode.TX_NOT_FOUND, FailureCode.RECEIPT_NOT_FOUND})
"""Waited for, as long as the rules say."""
TRANSIENT: Final = frozenset({FailureCode.RPC_ERROR, FailureCode.INSUFFICIENT_CONFIRMATIONS})
"""Waited for without end: the payment may well be there."""
_FAILS: Final = frozenset({FailureCode.TX_REVERTED})
_OURS: Final = frozenset({FailureCode.INTENT_EXPIRED})
"""No verifier can tell."""


@frozen(kw_only=True)
class PaymentVerified:
    """What a verifier has found of a payment. Addresses are compared in small letters."""

    provider: str
    token: str
    sender: str | None
    """Who paid; `None` where that is not known."""
    recipient: str
    raw_amount: int
    """In the smallest units of the token."""
    confirmations: int = 0


def _reason(given: FailureCode) -> FailureCode:
    waited_for = NOT_THERE_YET | TRANSIENT
    if not isinstance(given, str) or given not in waited_for:
        raise InvalidInput("reason", shown(given), " or ".join(sorted(waited_for)))
    return FailureCode(given)


@frozen
class PaymentPending:
    """Nothing is known yet, for this reason: ask again."""

    reason: FailureCode = field(default=FailureCode.RECEIPT_NOT_FOUND, converter=_reason)


def _code(given: FailureCode) -> FailureCode:
    if not isinstance(given, str) or given not in set(FailureCode) - _OURS:
        raise InvalidInput("code", shown(given), "a FailureCode that a verifier can tell")
    return FailureCode(given)


@frozen
class PaymentFailed:
    """The payment is not as it was meant.

    A code in `NOT_THERE_YET` or `TRANSIENT` is waited for all the same.
    """

    code: FailureCode = field(converter=_code)


Finding: TypeAlias = PaymentVerified | PaymentPending | PaymentFailed
"""What a verifier answers."""


def _dollars(given: object) -> Amount:
    checked = positive(given, "amount")
    if checked.unit is not USD:
        raise UnitMismatch("amount", str(checked.unit), str(USD))
    return checked


def _bound(given: Amount) -> Amount:
    checked = _dollars(given)
    if checked > DOLLARS_MAX:
        raise InvalidAmount("amount", amount_shown(checked), f"at most {DOLLARS_MAX}")
    return checked


def positive_span(given: object, name: str) -> timedelta:
    """*given*, when it is a span of time that somebody may be waited for.

    Raises:
        InvalidInput: it is not above zero, or above `SPAN_MAX`; or no `timedelta`.
    """
    if not isinstance(given, timedelta) or not timedelta(0) < given <= SPAN_MAX:
        expected = f"a timedelta above zero, at most {SPAN_MAX}"
        raise InvalidInput(name, _span_shown(given), expected)
    return given


def _span_shown(given: object) -> str:
    return shown(str(given) if isinstance(given, timedelta) else given)


def _span(given: timedelta) -> timedelta:
    if not isinstance(given, timedelta) or not timedelta(0) <= given <= SPAN_MAX:
        raise InvalidInput("rules", _span_shown(given), f"a timedelta from 0 to {SPAN_MAX}")
    return given


@frozen(kw_only=True)
class AttemptRules:
    """How much may be paid at once, and how long each step is waited for."""

    minimum: Amount = field(default=usd("2.00"), converter=_bound)
    maximum: Amount = field(default=usd("10000.00"), converter=_bound)
    expires_after: timedelta = field(default=timedelta(minutes=30), converter=_span)
    """How long evidence can be submitted for an intent."""
    gives_up_after: timedelta = field(default=timedelta(hours=24), converter=_span)
    """How long a payment is looked for that nobody finds, from its submission."""
    checks_every: timedelta = field(default=timedelta(seconds=10), converter=_span)
    """How often a verifier is asked at most, however often the status is."""

    def __attrs_post_init__(self) -> None:
        if self.maximum < self.minimum:
            raise InvalidInput("maximum", str(self.maximum), f"at least {self.minimum}")

    def amount(self, given: object) -> Amount:
        """*given* as an amount that may be paid.

        Raises:
            InvalidAmount: it is out of bounds, or no amount.
            UnitMismatch: it is not of US dollars.
        """
        amount = _dollars(given)
        if not self.minimum <= amount <= self.maximum:
            expected = f"from {self.minimum} to {self.maximum}"
            raise InvalidAmount("amount", amount_shown(amount), expected)
        return amount


DEFAULT_RULES: Final = AttemptRules()


def checked_rules(given: AttemptRules) -> AttemptRules:
    """*given*, when it is rules.

    Raises:
        InvalidInput: it is something else.
    """
    if not isinstance(given, AttemptRules):
        raise InvalidInput("rules", shown(given), "AttemptRules")
    return given


@frozen(kw_only=True)
class Intent:
    """What is to be paid where, and until when evidence of it is taken."""

    attempt_id: UUID
    tenant: TenantId
    amount: Amount
    """In US dollars."""
    payer: str | None
    """Who must have paid; `None` where anybody may."""
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
        """The chain, where it is one."""
        return chain_id_of(self.provider)


@frozen(kw_only=True)
class Attempt:
    """An intent and what has come of it."""

    intent: Intent
    state: AttemptState = AttemptState.CREATED_INTENT
    changed_at: datetime
    evidence: str | None = None
    submitted_at: datetime | None = None
    failure: FailureCode | None = None
    """Why it was rejected or failed."""
    transaction_id: UUID | None = None
    """The purchase that it was credited by."""

    @property
    def id(self) -> UUID:
        return self.intent.attempt_id

    @property
    def tenant(self) -> TenantId:
        return self.intent.tenant

    @property
    def status(self) -> AttemptStatus:
        """What a client is told."""
        return _STATUS[self.state]

    @property
    def expires_at(self) -> datetime | None:
        """When it expires by itself: an intent does, and evidence lifts that."""
        return self.intent.expires_at if self.state is AttemptState.CREATED_INTENT else None

    def moved(self, move: AttemptEvent) -> Attempt:
        """This attempt after *move*. Its time never runs backwards, whatever clocks say.

        Raises:
            AttemptClosed: its state does not lead there.
            InvalidInput: *move* does not say why.
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

    def is_credited_by(self, purchase: Transaction | None) -> bool:
        """Whether its state agrees with *purchase*, the one that is recorded for its evidence: it
        is not credited, or by that one and with its amount.
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
    """A step of an attempt, to be taken or taken: what it came to, and why."""

    state: AttemptState
    at: datetime
    evidence: str | None = None
    failure: FailureCode | None = None
    transaction_id: UUID | None = None
    found: Mapping[str, Json] = EMPTY
    """What the verifier said."""

    def require_reason(self) -> None:
        """Return when it has what its state is for, evidence, a purchase or a failure, and no more.

        Raises:
            InvalidInput: it has something else.
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
    """An attempt that something may have become of since that moment."""

    at: datetime
    tenant: TenantId
    attempt_id: UUID


def history(intent: Intent, events: Iterable[AttemptEvent]) -> tuple[AttemptEvent, ...]:
    """What became of *intent*, which is the first event, in order."""
    created = AttemptEvent(state=AttemptState.CREATED_INTENT, at=intent.created_at)
    return (created, *sorted(events, key=lambda event: _ORDER[event.state]))


@frozen(kw_only=True)
class IntentRequest:
    """The arguments of `PaymentAttempts.create_intent`, which validates them."""

    tenant: object
    amount: object
    payer: object
    provider: object
    metadata: object


def plan_intent(
    request: IntentRequest,
    *,
    destination: Destination,
    rules: AttemptRules,
    at: datetime,
    attempt_id: UUID,
) -> Intent:
    """The intent to pay an amount of US dollars at *destination*."""
    owner = tenant_id(request.tenant)
    price = rules.amount(request.amount)
    return Intent(
        attempt_id=attempt_id,
        tenant=owner,
        amount=price,
        payer=destination.payer(request.payer),
        provider=destination.provider,
        token=destination.token,
        recipient=destination.recipient,
        raw_amount=destination.raw_amount(price),
        confirmations=destination.confirmations,
        created_at=at,
        expires_at=_after(at, rules.expires_after),
        metadata=frozen_metadata(request.metadata),
    )


def _after(at: datetime, span: timedelta) -> datetime:
    try:
        return at + span
    except OverflowError as error:
        raise InvalidTime("expires_at", f"{span} after {at}", "before the year 10000") from error


def overdue(attempt: Attempt, at: datetime) -> AttemptEvent | None:
    """What time alone has done to it by *at*: an intent without evidence fails."""
    if attempt.expires_at is None or at < attempt.expires_at:
        return None
    return AttemptEvent(
        state=AttemptState.FAILED, at=attempt.expires_at, failure=FailureCode.INTENT_EXPIRED
    )


def submission(attempt: Attempt, evidence: str, at: datetime) -> AttemptEvent | None:
    """What submitting *evidence* does to it; `None` where it was submitted before.

    An intent that expired fails, whatever evidence comes.

    Raises:
        IdempotencyConflict: other evidence was submitted.
    """
    if attempt.evidence is not None:
        if attempt.evidence != evidence:
            differing = Difference("evidence", attempt.evidence, evidence)
            raise IdempotencyConflict(str(attempt.id), (differing,))
        return None
    if attempt.state.is_terminal:
        return None
    return overdue(attempt, at) or AttemptEvent(
        state=AttemptState.PENDING_UNVERIFIED, at=at, evidence=evidence
    )


def judged(
    attempt: Attempt, finding: Finding, rules: AttemptRules, at: datetime
) -> AttemptEvent | None:
    """What *finding* does to an attempt that is pending, but for crediting it.

    Returns:
        The move; `None` while there is nothing to do but wait. A move to `CREDITED` still lacks
        its purchase.
    """
    assert attempt.submitted_at is not None
    if isinstance(finding, PaymentVerified):
        return _judged_by_facts(attempt.intent, finding, at)
    code = finding.reason if isinstance(finding, PaymentPending) else finding.code
    if code in TRANSIENT:
        return None
    if code in NOT_THERE_YET:
        if at < attempt.submitted_at + rules.gives_up_after:
            return None
        return AttemptEvent(state=AttemptState.FAILED, at=at, failure=FailureCode.RECEIPT_NOT_FOUND)
    state = AttemptState.FAILED if code in _FAILS else AttemptState.REJECTED
    return AttemptEvent(state=state, at=at, failure=code)


def _judged_by_facts(intent: Intent, found: PaymentVerified, at: datetime) -> AttemptEvent | None:
    # Until then a chain may still come to show something else.
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
        InvalidInput: it is no `uuid.UUID`.
    """
    if not isinstance(given, UUID):
        raise InvalidInput("attempt_id", shown(given), "the id of an attempt, a uuid.UUID")
    return UUID(int=given.int)


def checked_finding(given: object) -> Finding:
    """*given*, when it is a verifier's answer that makes sense.

    Raises:
        InvalidInput: it is none.
    """
    if isinstance(given, (PaymentPending, PaymentFailed)):
        return given
    if not isinstance(given, PaymentVerified):
        expected = "PaymentVerified, PaymentPending or PaymentFailed"
        raise InvalidInput("finding", shown(given), expected)
    for name in ("provider", "token", "recipient", "sender"):
        if name != "sender" or given.sender is not None:
            reference(getattr(given, name), name)
    for name, most in (("raw_amount", RAW_MAX), ("confirmations", CONFIRMATIONS_FOUND_MAX)):
        number = getattr(given, name)
        if type(number) is not int or not 0 <= number <= most:
            raise InvalidInput(name, shown(number), f"a whole number from 0 to {most}")
    return given
