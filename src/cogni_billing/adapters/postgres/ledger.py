"""Ledger over an open connection: each method calls a function and reads its answer."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any, TypeVar
from uuid import UUID

from attrs import evolve, frozen

from cogni_billing.adapters.guard import ScopeGuard
from cogni_billing.adapters.postgres.answers import (
    MORE_DUE,
    door_of,
    insufficient,
    posted,
    unexpected,
)
from cogni_billing.adapters.postgres.calls import Calls
from cogni_billing.adapters.postgres.failures import translated
from cogni_billing.adapters.postgres.rows import (
    dispute_from,
    extension_asked,
    extension_from,
    extract_from,
    grant_from,
    hold_asked,
    hold_extension_asked,
    hold_extension_from,
    hold_from,
    holds_asked,
    in_credits,
    lot_from,
    moment,
    movement,
    opened_from,
    opening_asked,
    optional_moment,
    page_asked,
    recorded_from,
    release_asked,
    release_from,
    schedule_asked,
    schedule_from,
    void_asked,
)
from cogni_billing.domain.amounts import ZERO, Amount
from cogni_billing.domain.disputes import Dispute
from cogni_billing.domain.errors import (
    AccountFrozen,
    AccountInUse,
    BillingError,
    HoldClosed,
    InvalidInput,
    OthersRefused,
    PrivilegeRequired,
    UnknownAccount,
    UnknownGrant,
    UnknownHold,
    UnknownSchedule,
    shown,
)
from cogni_billing.domain.grants import Grant, GrantExtension, Lot
from cogni_billing.domain.hold_changes import Extension, Release
from cogni_billing.domain.holds import Hold, HoldPageRequest, HoldState
from cogni_billing.domain.idempotency import same_or_conflict
from cogni_billing.domain.identity import TenantId
from cogni_billing.domain.kinds import TransactionKind
from cogni_billing.domain.openings import Opened, Opening
from cogni_billing.domain.payments import Payment
from cogni_billing.domain.schedules import Schedule
from cogni_billing.domain.statements import Balance, Extract, GrantPage, PageRequest
from cogni_billing.domain.timestamps import require_unexpired
from cogni_billing.domain.transactions import Recorded, Transaction

Change = TypeVar("Change", Extension, Release)


@frozen
class PostgresLedger:
    """Implements `LedgerRepository`."""

    _calls: Calls
    _tenant: TenantId
    _guard: ScopeGuard

    def post(self, transaction: Transaction, /) -> Recorded:
        with self._guard.call(), translated():
            [answer] = self._post([transaction])
            return posted(transaction, answer, repeated=self._calls.repeated)

    def post_many(
        self, transactions: Sequence[Transaction], /, *, all_or_nothing: bool
    ) -> Sequence[Recorded | BillingError]:
        with self._guard.call(), translated():
            if not transactions:
                return []
            if all_or_nothing:
                return self._post_all(transactions)
            return self._answers(transactions, self._post(transactions))

    def _post_all(self, transactions: Sequence[Transaction]) -> Sequence[Recorded | BillingError]:
        """Post all *transactions* or none of them.

        The function rolls back all of them if a replay may be a conflict. Each such replay is
        compared here, and the call is repeated without those that are no conflict.
        """
        replays: set[int] = set()
        while True:
            told = self._post(transactions, replays)
            answers = self._answers(transactions, told)
            if any(isinstance(answer, BillingError) for answer in answers):
                return [a if isinstance(a, BillingError) else OthersRefused() for a in answers]
            found = {place for place, each in enumerate(told) if each["outcome"] == "replayed"}
            if found <= replays or len(found) == len(told):
                return answers
            replays = found

    def _post(
        self, transactions: Sequence[Transaction], replays: Collection[int] | None = None
    ) -> list[Any]:
        """Call the function for *transactions*. All or none are recorded if *replays* are given."""
        if any(transaction.tenant != self._tenant for transaction in transactions):
            raise PrivilegeRequired("posting a transaction of another tenant")
        movements = list(map(movement, transactions))
        for place in replays or ():
            movements[place]["replays"] = True
        options = () if replays is None else (True,)
        answers: list[Any] = self._repeated(door_of(transactions[0].kind), movements, *options)
        return answers

    def _answers(
        self, transactions: Sequence[Transaction], told: Sequence[Any]
    ) -> list[Recorded | BillingError]:
        return [self._answer(*each) for each in zip(transactions, told, strict=True)]

    def _answer(self, transaction: Transaction, told: Any) -> Recorded | BillingError:
        try:
            return posted(transaction, told, repeated=self._calls.repeated)
        except BillingError as error:
            return error

    def _repeated(self, function: str, *asked: object) -> Any:
        """Call *function*, and repeat the call while more expirations are due."""
        while True:
            answer = self._calls(function, self._tenant, *asked)
            last = answer[-1] if isinstance(answer, list) else answer
            if last["outcome"] != MORE_DUE:
                return answer

    def expire_due(self, moment: datetime, /) -> bool:
        with self._guard.call(), translated():
            happened, more = False, True
            while more:
                answer = self._calls("expire_due", self._tenant, {"at": moment})
                happened, more = happened or answer["expired"], answer["more"]
            return happened

    def hold(self, hold: Hold, /) -> Hold:
        with self._guard.call(), translated():
            answer = self._repeated("hold", hold_asked(hold))
            match answer["outcome"]:
                case "done":
                    return hold
                case "replayed":
                    found = hold_from(answer["stored"], self._tenant)
                    found = found.at(moment(answer["present"]))
                    same_or_conflict(found, hold.request)
                    found.require_open()
                    ours = self._calls.repeated and found.id == hold.id
                    return evolve(found, replayed=not ours)
                case "insufficient":
                    raise insufficient(hold.amount, answer)
                case "frozen":
                    raise AccountFrozen(moment(answer["since"]))
                case "expired":
                    require_unexpired(hold.expires_at, moment(answer["present"]))
            raise self._refusal(answer)

    def release(self, hold_id: UUID, moment: datetime, /) -> Hold:
        with self._guard.call(), translated():
            answer = self._repeated("release", {"id": hold_id, "at": moment})
            match answer["outcome"]:
                case "done":
                    return hold_from(answer["stored"], self._tenant)
                case "replayed":
                    hold = hold_from(answer["stored"], self._tenant)
                    ours = self._calls.repeated and hold.ended_at == moment
                    return evolve(hold, replayed=not ours)
                case "unknown_hold":
                    raise UnknownHold(hold_id)
                case "hold_closed":
                    raise HoldClosed(hold_id, HoldState(answer["state"]))
            raise self._refusal(answer)

    def extend(self, extension: Extension, /) -> Hold:
        with self._guard.call(), translated():
            answer = self._repeated("extend", hold_extension_asked(extension))
            if answer["outcome"] == "expired":
                require_unexpired(extension.expires_at, moment(answer["present"]))
            hold = self._changed(extension, hold_extension_from, answer)
            hold.require_open()
            return hold

    def release_part(self, release: Release, /) -> Hold:
        with self._guard.call(), translated():
            answer = self._repeated("release_part", release_asked(release))
            return self._changed(release, release_from, answer)

    def _changed(self, asked: Change, read: Callable[[Any, TenantId], Change], answer: Any) -> Hold:
        """Convert the *answer* to a call that changes a hold."""
        match answer["outcome"]:
            case "done":
                return hold_from(answer["stored"], self._tenant)
            case "replayed":
                first = read(answer["change"], self._tenant)
                same_or_conflict(first, asked.request)
                found = hold_from(answer["stored"], self._tenant)
                ours = self._calls.repeated and first.id == asked.id
                return evolve(found.at(moment(answer["present"])), replayed=not ours)
            case "frozen":
                raise AccountFrozen(moment(answer["since"]))
            case "insufficient":
                raise insufficient(asked.amount or ZERO, answer)
            case "unknown_hold":
                raise UnknownHold(asked.hold_id)
            case "hold_closed":
                raise HoldClosed(asked.hold_id, HoldState(answer["state"]))
        raise self._refusal(answer)

    def find_hold(self, reference: str, now: datetime, /) -> Hold | None:
        with self._guard.call(), translated():
            answer = self._read("find_hold", {"reference": reference, "now": now})
            if answer["stored"] is None:
                return None
            return hold_from(answer["stored"], self._tenant).at(moment(answer["present"]))

    def holds(self, page: HoldPageRequest, now: datetime, /) -> tuple[Hold, ...]:
        with self._guard.call(), translated():
            found = self._read("holds", holds_asked(page, now))["holds"]
            return tuple(hold_from(each, self._tenant) for each in found)

    def void_grant(self, void: Transaction, /) -> Recorded:
        with self._guard.call(), translated():
            answer = self._repeated("void_grant", void_asked(void))
            match answer["outcome"]:
                case "done":
                    return evolve(recorded_from(answer["stored"], self._tenant), replayed=False)
                case "replayed":
                    return posted(void, answer, repeated=self._calls.repeated)
                case "unknown_grant" if void.subject is not None:
                    raise UnknownGrant(void.subject)
            raise self._refusal(answer)

    def record_opening(self, opening: Opening, /) -> Opened:
        with self._guard.call(), translated():
            answer = self._repeated("opening", opening_asked(opening))
            match answer["outcome"]:
                case "done":
                    return opened_from(answer, self._tenant).marked(replayed=False)
                case "replayed":
                    stored = opened_from(answer, self._tenant)
                    stored.require_same(opening)
                    return stored
                case "in_use":
                    raise AccountInUse(self._tenant)
                case "expired":
                    for grant in opening.grants:
                        assert grant.terms is not None  # a grant has them
                        require_unexpired(grant.terms.expires_at, moment(answer["present"]))
            raise self._refusal(answer)

    def extend_grant(self, extension: GrantExtension, /) -> GrantExtension:
        with self._guard.call(), translated():
            answer = self._repeated("extend_grant", extension_asked(extension))
            match answer["outcome"]:
                case "done":
                    return extension
                case "replayed":
                    found = extension_from(answer["stored"])
                    same_or_conflict(found, extension.request)
                    ours = self._calls.repeated and found.extended_at == extension.extended_at
                    return evolve(found, replayed=not ours)
                case "unknown_grant":
                    raise UnknownGrant(extension.grant_id)
                case "not_later":
                    before = optional_moment(answer["before"])
                    extension.require_later(before, moment(answer["present"]))
            raise self._refusal(answer)

    def schedule(self, plan: Schedule, /) -> Schedule:
        with self._guard.call(), translated():
            answer = self._repeated("schedule", schedule_asked(plan))
            match answer["outcome"]:
                case "done":
                    return schedule_from(answer["stored"], self._tenant)
                case "replayed":
                    found = schedule_from(answer["stored"], self._tenant)
                    same_or_conflict(found, plan.request)
                    ours = self._calls.repeated and found.id == plan.id
                    return evolve(found, replayed=not ours)
                case "unknown_schedule" if plan.replaces is not None:
                    raise UnknownSchedule(plan.replaces)
                case "unknown_zone":
                    known = "the name of a time zone that the server knows"
                    raise InvalidInput("zone", shown(plan.terms.zone), known)
            raise self._refusal(answer)

    def end_schedule(self, schedule_id: UUID, moment: datetime, /) -> Schedule:
        with self._guard.call(), translated():
            answer = self._repeated("end_schedule", {"id": schedule_id, "at": moment})
            match answer["outcome"]:
                case "done" | "replayed" as outcome:
                    ended = schedule_from(answer["stored"], self._tenant)
                    ours = self._calls.repeated and ended.ended_at == moment
                    return evolve(ended, replayed=outcome == "replayed" and not ours)
                case "unknown_schedule":
                    raise UnknownSchedule(schedule_id)
            raise self._refusal(answer)

    def schedules(self, now: datetime, page: GrantPage, /) -> tuple[Schedule, ...]:
        with self._guard.call(), translated():
            asked = {"now": now, "size": page.limit, "after": page.after}
            found = self._read("schedules", asked)["schedules"]
            return tuple(schedule_from(each, self._tenant) for each in found)

    def _refusal(self, answer: Any) -> BillingError:
        unknown = answer["outcome"] == "unknown_account"
        return UnknownAccount(self._tenant) if unknown else unexpected(answer)

    def _read(self, function: str, asked: object) -> Any:
        answer = self._calls(function, self._tenant, asked)
        if answer["outcome"] != "done":
            raise self._refusal(answer)
        return answer

    def replay(self, kind: TransactionKind, reference: str, /) -> Recorded | None:
        with self._guard.call(), translated():
            found = self._calls("find", self._tenant, {"kind": kind, "reference": reference})
            return self._recorded(found.get("stored"))

    def find(self, kind: TransactionKind, reference: str, /) -> Recorded | None:
        with self._guard.call(), translated():
            return self._recorded(
                self._read("find", {"kind": kind, "reference": reference})["stored"]
            )

    def transaction(self, transaction_id: UUID, /) -> Recorded | None:
        with self._guard.call(), translated():
            return self._recorded(self._read("find", {"id": transaction_id})["stored"])

    def _recorded(self, stored: Any) -> Recorded | None:
        return None if stored is None else recorded_from(stored, self._tenant)

    def payment(self, payment: str, now: datetime, /) -> Payment | None:
        with self._guard.call(), translated():
            answer = self._calls("payment", self._tenant, {"payment": payment, "now": now})
            found = self._recorded(answer["stored"])
            if found is None or found.transaction.paid is None:
                return None
            unit = found.transaction.paid.unit
            return Payment(
                purchase=found.transaction,
                returned=Amount.computed(Decimal(answer["returned"]), unit),
                refunded=Amount.computed(Decimal(answer["refunded"]), unit),
                failed={UUID(each): UUID(by) for each, by in answer["failed"].items()},
                disputes=tuple(dispute_from(each, self._tenant) for each in answer["disputes"]),
                left=in_credits(answer["left"]),
                expired=in_credits(answer["expired"]),
            )

    def dispute(self, reference: str, /) -> Dispute | None:
        with self._guard.call(), translated():
            stored = self._calls("dispute", self._tenant, {"reference": reference})
            return None if stored is None else dispute_from(stored, self._tenant)

    def grants(self, now: datetime, /) -> tuple[Grant, ...]:
        with self._guard.call(), translated():
            return tuple(map(grant_from, self._read("grants", {"now": now})["grants"]))

    def lots(self, now: datetime, /) -> tuple[Lot, ...]:
        with self._guard.call(), translated():
            return tuple(map(lot_from, self._read("lots", {"now": now})["lots"]))

    def all_grants(self, now: datetime, page: GrantPage, /) -> tuple[Grant, ...]:
        with self._guard.call(), translated():
            asked = {"now": now, "size": page.limit, "after": page.after}
            return tuple(map(grant_from, self._read("grants", asked)["grants"]))

    def balance(self, now: datetime, /) -> Balance:
        with self._guard.call(), translated():
            return _balance(self._read("balance", {"now": now}))

    def balance_at(self, moment: datetime, /) -> Balance:
        with self._guard.call(), translated():
            return _balance(self._read("balance", {"moment": moment}))

    def lines(self, page: PageRequest, /) -> Extract:
        with self._guard.call(), translated():
            return extract_from(self._read("lines", page_asked(page)))


def _balance(answer: Any) -> Balance:
    return Balance(in_credits(answer["posted"]), held=in_credits(answer["held"]))
