"""Convert values to the JSON that functions take, and their JSON to values."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from types import MappingProxyType
from typing import Any, Final, TypeAlias
from uuid import UUID

from cogni_billing.domain.amounts import CREDIT, ZERO, Amount, Unit, decimal_places
from cogni_billing.domain.attempts import Attempt, AttemptEvent, AttemptState, Intent
from cogni_billing.domain.disputes import Dispute, DisputeState
from cogni_billing.domain.findings import FailureCode
from cogni_billing.domain.grants import Grant, GrantExtension, Lot
from cogni_billing.domain.hold_changes import Extension, Release
from cogni_billing.domain.holds import Hold, HoldPageRequest, HoldState
from cogni_billing.domain.identity import AccountId, TenantId
from cogni_billing.domain.kinds import TransactionKind
from cogni_billing.domain.metadata import EMPTY, Json, encoded
from cogni_billing.domain.openings import Opened, Opening
from cogni_billing.domain.periods import ONCE
from cogni_billing.domain.policies import Shortfall
from cogni_billing.domain.schedules import GrantSchedule, Rollover, Schedule
from cogni_billing.domain.shares import Share
from cogni_billing.domain.statements import Extract, Line, PageRequest
from cogni_billing.domain.timestamps import Expiry
from cogni_billing.domain.transactions import (
    Draw,
    GivingBack,
    GrantTerms,
    LotTerms,
    Overrun,
    Recorded,
    Reversal,
    Transaction,
    granted_part,
)

Asked: TypeAlias = dict[str, object]
_OWN_LINES: Final = 1 << 63
MICROSECOND: Final = timedelta(microseconds=1)


def movement(transaction: Transaction) -> Asked:
    """Convert *transaction* to the argument of `spend`, `mint`, `reverse` and `adjust`."""
    asked: Asked = {
        "kind": transaction.kind,
        "id": transaction.id,
        "at": transaction.at,
        "reference": transaction.reference,
        "amount": transaction.amount.value,
        "metadata": encoded(transaction.metadata),
    }
    if transaction.subject is not None:
        asked["subject"] = transaction.subject
    if transaction.shares:
        asked["beneficiaries"] = [share.beneficiary for share in transaction.shares]
        asked["shares"] = [share.amount.value for share in transaction.shares]
    if transaction.paid is not None:
        asked["paid"], asked["paid_unit"] = transaction.paid.value, transaction.paid.unit.code
        asked["policy"] = encoded(transaction.policy)
        if (lot := transaction.lot) is not None:
            asked["expires_at"] = lot.expires_at
            asked["expires_in"] = lot.expires_in // MICROSECOND
    if (terms := transaction.terms) is not None:
        asked["source"], asked["priority"] = terms.source, terms.priority
        asked["expires_at"] = terms.expires_at
        if terms.expires_in is not None:
            asked["expires_in"] = _microseconds(terms.expires_in)
        if terms.effective_from is not None:
            asked["effective_from"] = terms.effective_from
    if (reversal := transaction.reversal) is not None:
        _add_reversal(asked, transaction, reversal)
    _add_choices(asked, transaction)
    return asked


def _add_reversal(asked: Asked, transaction: Transaction, part: Reversal) -> None:
    """Add the part of a payment. The ledger fills in the amounts of a reinstatement."""
    asked["reverses"] = part.purchase
    asked["returned"], asked["returned_total"] = part.amount.value, part.total.value
    if part.asked is not None:
        asked["part"] = part.asked.value
    if part.up_to is not None:
        asked["at_most"] = part.up_to.value
    if part.shortfall is not None:
        asked["shortfall"], asked["absorbed"] = part.shortfall.value, transaction.absorbed.value
        if transaction.lapsed.value:
            asked["lapsed"] = transaction.lapsed.value


def _add_choices(asked: Asked, transaction: Transaction) -> None:
    """Add the optional fields that a caller chose."""
    if (part := transaction.giving_back) is not None:
        asked["reverses"], asked["charge"] = part.charge, part.reference
        asked["part"] = part.asked and part.asked.value
    if transaction.overdraft:
        asked["overdraft"] = True
    if transaction.at_most is not None:
        asked["at_most"] = transaction.at_most.value
    if transaction.occurred_at is not None:
        asked["used_at"] = transaction.occurred_at
    if not transaction.final:
        asked["final"] = False
    if transaction.overrun is not Overrun.REFUSE:
        asked["overrun"] = transaction.overrun
    if transaction.reason is not None:
        asked["reason"] = transaction.reason
    if transaction.actor is not None:
        asked["actor"] = transaction.actor


def recorded_from(stored: Any, tenant: TenantId) -> Recorded:
    """Convert *stored* to the transaction that *tenant* recorded before."""
    kind = TransactionKind(stored["kind"])
    transaction = Transaction(
        id=UUID(stored["id"]),
        tenant=tenant,
        kind=kind,
        reference=stored["reference"],
        at=moment(stored["occurred_at"]),
        amount=in_credits(stored["amount"]),
        paid=None if (paid := stored["paid"]) is None else _paid(paid, stored["paid_unit"]),
        shares=_shares(stored),
        policy=document(stored["rules"]),
        metadata=document(stored["metadata"]),
        overdraft=stored["overdraft"],
        at_most=None if kind.reverses else _amount(stored["at_most"], CREDIT),
        occurred_at=optional_moment(stored["used_at"]),
        subject=_id(stored["subject_id"]),
        final=stored["final"] is not False,
        overrun=Overrun(stored["overrun"] or Overrun.REFUSE),
        terms=_terms(stored) if kind is TransactionKind.GRANT else None,
        lot=_lot_terms(stored) if kind is TransactionKind.PURCHASE else None,
        absorbed=in_credits(stored["absorbed"] or 0),
        lapsed=in_credits(stored["lapsed"] or 0),
        reversal=_reversal(stored) if kind.reverses else None,
        giving_back=_giving_back(stored) if kind is TransactionKind.REVERSAL else None,
        reason=stored["reason"],
        actor=stored["actor"],
    )
    return Recorded(
        transaction,
        in_credits(stored["posted_after"] + stored["arrived"]),
        replayed=True,
        draws=draws_from(stored["drawn_grants"], stored["drawn_amounts"], stored["lots"]),
    )


def draws_from(grants: Any, amounts: Any, lots: Any) -> tuple[Draw, ...]:
    """Convert two lists to the parts that a transaction drew. *lots* are the purchases in it."""
    bought = frozenset(lots or ())
    pairs = zip(grants or (), amounts or (), strict=True)
    return tuple(Draw(UUID(grant), in_credits(amount), grant in bought) for grant, amount in pairs)


def document(stored: Any) -> Mapping[str, Json]:
    """Restore a JSON object as it was given: numbers with a fraction are floats again.

    An erased object is a text, and is read as empty.
    """
    return _restored(stored) if stored and isinstance(stored, dict) else EMPTY


def _restored(value: Any) -> Any:
    if isinstance(value, dict):
        return MappingProxyType({key: _restored(item) for key, item in value.items()})
    if isinstance(value, list):
        return tuple(map(_restored, value))
    return float(value) if isinstance(value, Decimal) else value


def _reversal(stored: Any) -> Reversal:
    unit = _unit(stored["payment_unit"], stored["returned"])
    return Reversal(
        purchase=UUID(stored["reverses"]),
        payment=stored["payment"],
        amount=Amount.computed(Decimal(stored["returned"]), unit),
        total=Amount.computed(Decimal(stored["returned_total"]), unit),
        asked=_amount(stored["part"], unit),
        up_to=_amount(stored["at_most"], unit),
        shortfall=stored["shortfall"] and Shortfall(stored["shortfall"]),
        refund=stored["refund"],
    )


def _giving_back(stored: Any) -> GivingBack:
    by_reference = stored["reversed_kind"] == TransactionKind.CHARGE
    return GivingBack(
        charge=UUID(stored["reverses"]),
        reference=stored["payment"] if by_reference else None,
        asked=_amount(stored["part"], CREDIT),
        amount=in_credits(stored["returned"]),
        total=in_credits(stored["returned_total"]),
    )


def _terms(stored: Any) -> GrantTerms:
    return GrantTerms(
        source=stored["source"],
        priority=stored["priority"],
        expires_at=optional_moment(stored["first_expires_at"]),
        expires_in=_lifetime(stored["expires_in"]),
        effective_from=optional_moment(stored["effective_from"]),
    )


def _lot_terms(stored: Any) -> LotTerms | None:
    lifetime = _lifetime(stored["expires_in"])
    if lifetime is None:
        return None
    return LotTerms(expires_at=moment(stored["first_expires_at"]), expires_in=lifetime)


def _shares(stored: Any) -> tuple[Share, ...]:
    return shares_from(stored["beneficiaries"], stored["shares"])


def shares_from(beneficiaries: Any, shares: Any) -> tuple[Share, ...]:
    """Convert two lists to shares."""
    return tuple(
        Share(AccountId(UUID(beneficiary)), in_credits(share))
        for beneficiary, share in zip(beneficiaries or (), shares or (), strict=True)
    )


def grant_from(stored: Any) -> Grant:
    """Convert a grant in the answer of `grants`."""
    return Grant(
        id=UUID(stored["id"]),
        amount=in_credits(stored["amount"]),
        source=stored["source"],
        priority=stored["priority"],
        expires_at=optional_moment(stored["expires_at"]),
        granted_at=moment(stored["granted_at"]),
        remaining=in_credits(stored["remaining"]),
    )


def lot_from(stored: Any) -> Lot:
    """Convert a purchase in the answer of `lots`."""
    return Lot(
        id=UUID(stored["id"]),
        payment=stored["payment"],
        amount=in_credits(stored["amount"]),
        expires_at=optional_moment(stored["expires_at"]),
        bought_at=moment(stored["granted_at"]),
        remaining=in_credits(stored["remaining"]),
    )


def void_asked(void: Transaction) -> Asked:
    """Convert *void* to the argument of `void_grant`."""
    return {
        "id": void.id,
        "at": void.at,
        "reference": void.reference,
        "grant_id": void.subject,
        "reason": void.reason,
        "actor": void.actor,
        "metadata": encoded(void.metadata),
    }


def opening_asked(opening: Opening) -> Asked:
    """Convert *opening* to the argument of `opening`."""
    return {
        "now": opening.at,
        "id": opening.balance.id,
        "at": opening.balance.at,
        "amount": opening.balance.amount.value,
        "actor": opening.balance.actor,
        "grants": [_opening_grant(grant) for grant in opening.grants],
    }


def _opening_grant(grant: Transaction) -> Asked:
    assert grant.terms is not None  # a grant has them
    return {
        "id": grant.id,
        "amount": grant.amount.value,
        "source": grant.terms.source,
        "priority": grant.terms.priority,
        "at": grant.at,
        "expires_at": grant.terms.expires_at,
    }


def opened_from(answer: Any, tenant: TenantId) -> Opened:
    """Convert the answer of `opening`."""
    return Opened(
        balance=recorded_from(answer["stored"], tenant),
        grants=tuple(recorded_from(grant, tenant) for grant in answer["grants"]),
    )


def extension_asked(extension: GrantExtension) -> Asked:
    """Convert *extension* to the argument of `extend_grant`."""
    return {
        "at": extension.extended_at,
        "reference": extension.reference,
        "grant_id": extension.grant_id,
        "expires_at": extension.expires_at,
        "expires_in": _microseconds(extension.expires_in),
    }


def extension_from(stored: Any) -> GrantExtension:
    """Convert *stored* to an extension."""
    return GrantExtension(
        grant_id=UUID(stored["grant_id"]),
        reference=stored["reference"],
        expires_at=moment(stored["expires_at"]),
        extended_at=moment(stored["extended_at"]),
        expires_in=_lifetime(stored["expires_in"]),
    )


def schedule_asked(plan: Schedule) -> Asked:
    """Convert *plan* to the argument of `schedule`."""
    terms, rollover = plan.terms, plan.terms.rollover
    return {
        "id": plan.id,
        "reference": plan.reference,
        "made_at": plan.created_at,
        "amount": terms.amount.value,
        "source": terms.source,
        "priority": terms.priority,
        "every": terms.every,
        "given_anchor": terms.anchor,
        "zone": terms.zone,
        "until": terms.until,
        "cap": rollover and rollover.cap.value,
        "carries": rollover and rollover.periods,
        "replaces": plan.replaces,
        "actor": plan.actor,
        "metadata": encoded(plan.metadata),
    }


def schedule_from(stored: Any, tenant: TenantId) -> Schedule:
    """Convert *stored* to a schedule, or to a grant that begins later."""
    cap, anchor = _amount(stored["cap"], CREDIT), optional_moment(stored["given_anchor"])
    return Schedule(
        id=UUID(stored["id"]),
        tenant=tenant,
        reference=stored["reference"],
        terms=GrantSchedule(
            stored["source"],
            in_credits(stored["amount"]),
            every=stored["every"] or ONCE,
            anchor=anchor,
            zone=stored["zone"],
            until=optional_moment(stored["until"]),
            priority=stored["priority"],
            rollover=None if cap is None else Rollover(cap, stored["carries"]),
        ),
        created_at=moment(stored["made_at"]),
        begins=moment(stored["anchor"]),
        number=stored["number"],
        next_at=optional_moment(stored["next_at"]),
        ended_at=optional_moment(stored["ended_at"]),
        first_number=stored["first_number"],
        replaces=_id(stored["replaces"]),
        expires_at=optional_moment(stored["expires_at"]),
        expires_in=_lifetime(stored["expires_in"]),
        metadata=document(stored["metadata"]),
        actor=stored["actor"],
    )


def hold_asked(hold: Hold) -> Asked:
    """Convert *hold* to the argument of `hold`."""
    return {
        "id": hold.id,
        "at": hold.opened_at,
        "reference": hold.reference,
        "amount": hold.amount.value,
        "expires_at": hold.expires_at,
        "expires_in": _microseconds(hold.expiry.expires_in),
        "ends_at": hold.ends_at,
        "metadata": encoded(hold.metadata),
    }


def hold_extension_asked(extension: Extension) -> Asked:
    """Convert *extension* to the argument of `extend`."""
    return {
        "id": extension.id,
        "hold": extension.hold_id,
        "at": extension.at,
        "reference": extension.reference,
        "amount": extension.amount and extension.amount.value,
        "expires_at": extension.expires_at,
        "expires_in": _microseconds(extension.expiry.expires_in),
    }


def release_asked(release: Release) -> Asked:
    """Convert *release* to the argument of `release_part`."""
    return {
        "id": release.id,
        "hold": release.hold_id,
        "at": release.at,
        "reference": release.reference,
        "amount": release.amount and release.amount.value,
    }


def holds_asked(page: HoldPageRequest, now: datetime) -> Asked:
    """Convert *page* to the argument of `holds`, with one hold more than its limit."""
    before_at, before_id = page.before or (None, None)
    return {"now": now, "size": page.limit + 1, "before_at": before_at, "before_id": before_id}


def hold_extension_from(stored: Any, tenant: TenantId) -> Extension:
    """Convert *stored*, a change of a hold, to the extension that the caller asked for."""
    return Extension(
        tenant=tenant,
        hold_id=UUID(stored["hold_id"]),
        amount=_amount(stored["requested"], CREDIT),
        expiry=_expiry(stored),
        reference=stored["reference"],
        at=moment(stored["at"]),
        id=UUID(stored["id"]),
    )


def release_from(stored: Any, tenant: TenantId) -> Release:
    """Convert *stored*, a change of a hold, to the release that the caller asked for."""
    return Release(
        tenant=tenant,
        hold_id=UUID(stored["hold_id"]),
        amount=_amount(stored["requested"], CREDIT),
        reference=stored["reference"],
        at=moment(stored["at"]),
        id=UUID(stored["id"]),
    )


def _expiry(stored: Any) -> Expiry:
    return Expiry(optional_moment(stored["requested_until"]), _lifetime(stored["expires_in"]))


def hold_from(stored: Any, tenant: TenantId) -> Hold:
    """Convert *stored* to a hold."""
    state = HoldState(stored["state"])
    amount, captured, held = stored["amount"], stored["captured"], stored["held"]
    return Hold(
        id=UUID(stored["id"]),
        tenant=tenant,
        reference=stored["reference"],
        amount=in_credits(amount),
        opened_at=moment(stored["opened_at"]),
        expires_at=optional_moment(stored["expires_at"]),
        state=state,
        captured=in_credits(captured),
        released=in_credits(amount - captured - held),
        asked=in_credits(stored["requested"]),
        expiry=_expiry(stored),
        ended_at=None if state is HoldState.OPEN else moment(stored["ends_at"]),
        metadata=document(stored["metadata"]),
    )


def dispute_asked(dispute: Dispute, transaction: Transaction | None, moment: datetime) -> Asked:
    """Convert *dispute* and its transaction to the argument of `settle_dispute`."""
    return {
        "id": dispute.id,
        "opens": dispute.number == 0,
        "reference": dispute.reference,
        "payment": dispute.payment,
        "state": dispute.state,
        "disputed": dispute.amount.value,
        "part": dispute.asked and dispute.asked.value,
        "lost": dispute.lost and dispute.lost.value,
        "chargeback": dispute.chargeback,
        "at": moment,
        "metadata": encoded(dispute.metadata),
        "movement": None if transaction is None else movement(transaction),
    }


def dispute_from(stored: Any, tenant: TenantId) -> Dispute:
    """Convert *stored* to a dispute in its present state."""
    unit = _unit(stored["disputed_unit"], stored["disputed"])
    return Dispute(
        id=UUID(stored["id"]),
        tenant=tenant,
        payment=stored["payment"],
        reference=stored["reference"],
        amount=Amount.computed(Decimal(stored["disputed"]), unit),
        asked=_amount(stored["part"], unit),
        set_aside=in_credits(stored["amount"]),
        lapsed=in_credits(stored["lapsed"]),
        shares=_shares(stored),
        opened_at=moment(stored["opened_at"]),
        state=DisputeState(stored["state"]),
        lost=_amount(stored["lost"], unit),
        purchase=UUID(stored["purchase_id"]),
        metadata=document(stored["metadata"]),
        chargeback=_id(stored["chargeback_id"]),
        number=stored["number"],
    )


def page_asked(page: PageRequest) -> Asked:
    """Convert *page* to the argument of `lines`, with one line more than its limit."""
    seen, own = (None, None) if page.before is None else divmod(page.before, _OWN_LINES)
    return {
        "seen": seen and min(seen, _OWN_LINES - 1),
        "own": own,
        "kind": page.kind,
        "since": page.since,
        "until": page.until,
        "now": page.now,
        "size": page.limit + 1,
    }


def extract_from(answer: Any) -> Extract:
    """Convert the answer of `lines`."""
    return Extract(
        tuple(map(line_from, (answer["due"] or []) + answer["lines"])),
        opening=in_credits(answer["opening"]),
        closing=in_credits(answer["closing"]),
    )


def line_from(stored: Any) -> Line:
    """Convert a line in the answer of `lines`. Its position orders own lines among arrivals."""
    seen, own, line_id, named, reference, amount, balance, at, of_grants, metadata, used_at = stored
    kind, change = TransactionKind(named), in_credits(amount)
    return Line(
        position=seen * _OWN_LINES + own,
        transaction_id=UUID(line_id),
        kind=kind,
        reference=reference,
        amount=change,
        balance_after=in_credits(balance),
        at=moment(at),
        granted=granted_part(kind, change, in_credits(of_grants or 0)) if own else ZERO,
        metadata=document(metadata),
        occurred_at=optional_moment(used_at),
    )


def intent_asked(intent: Intent) -> Asked:
    """Convert *intent* to the argument of `create_attempt`."""
    return {
        "id": intent.attempt_id,
        "amount": intent.amount.value,
        "unit": intent.amount.unit.code,
        "payer": intent.payer,
        "provider": intent.provider,
        "token": intent.token,
        "recipient": intent.recipient,
        "raw_amount": intent.raw_amount,
        "confirmations": intent.confirmations,
        "metadata": encoded(intent.metadata),
        "created_at": intent.created_at,
        "expires_at": intent.expires_at,
    }


def attempt_from(stored: Any, tenant: TenantId) -> Attempt:
    """Convert *stored* to an attempt."""
    return Attempt(
        intent=Intent(
            attempt_id=UUID(stored["id"]),
            tenant=tenant,
            amount=Amount.computed(Decimal(stored["amount"]), Unit.of(stored["unit"])),
            payer=stored["payer"],
            provider=stored["provider"],
            token=stored["token"],
            recipient=stored["recipient"],
            raw_amount=int(stored["raw_amount"]),
            confirmations=stored["confirmations"],
            created_at=moment(stored["created_at"]),
            expires_at=moment(stored["expires_at"]),
            metadata=document(stored["metadata"]),
        ),
        state=AttemptState(stored["state"]),
        changed_at=moment(stored["changed_at"]),
        evidence=stored["evidence"],
        submitted_at=optional_moment(stored["submitted_at"]),
        failure=stored["failure"] and FailureCode(stored["failure"]),
        transaction_id=_id(stored["transaction_id"]),
    )


def step_asked(attempt: Attempt, step: AttemptEvent) -> Asked:
    """Convert a step of *attempt* to the argument of `record_attempt`."""
    return {
        "id": attempt.id,
        "from_state": attempt.state,
        "from_evidence": attempt.evidence,
        "state": step.state,
        "at": step.at,
        "evidence": step.evidence,
        "failure": step.failure,
        "transaction": step.transaction_id,
        "found": encoded(step.found),
    }


def event_from(stored: Any) -> AttemptEvent:
    """Convert *stored* to an event."""
    return AttemptEvent(
        state=AttemptState(stored["state"]),
        at=moment(stored["at"]),
        evidence=stored["evidence"],
        failure=stored["failure"] and FailureCode(stored["failure"]),
        transaction_id=_id(stored["transaction_id"]),
        found=document(stored["found"]),
    )


def in_credits(value: int) -> Amount:
    """Convert a whole number of credits to an amount."""
    if type(value) is int:
        return Amount.whole(value) if value else ZERO
    return Amount.computed(Decimal(value), CREDIT)  # a row that `verify` reports


def moment(written: str) -> datetime:
    """Parse a moment in JSON, in UTC."""
    return datetime.fromisoformat(written).astimezone(UTC)


def optional_moment(written: str | None) -> datetime | None:
    return None if written is None else moment(written)


def _lifetime(microseconds: int | None) -> timedelta | None:
    return None if microseconds is None else int(microseconds) * MICROSECOND


def _microseconds(lifetime: timedelta | None) -> int | None:
    return None if lifetime is None else lifetime // MICROSECOND


def _id(written: str | None) -> UUID | None:
    return None if written is None else UUID(written)


def _amount(value: Decimal | int | None, unit: Unit) -> Amount | None:
    return None if value is None else Amount.computed(Decimal(value), unit)


def _paid(value: Decimal | int, unit: str) -> Amount:
    return Amount.computed(Decimal(value), _unit(unit, value))


def _unit(code: str, value: Decimal | int) -> Unit:
    """The unit of a recorded amount. Those of other currencies than USD have all their decimals."""
    return Unit.recorded(code, decimal_places(Decimal(value)))
