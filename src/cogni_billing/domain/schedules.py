"""Schedules: grants that are made at the beginning of each period, and grants that wait."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Final, Literal
from uuid import UUID
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from attrs import evolve, field, frozen

from cogni_billing.domain import requests
from cogni_billing.domain.amounts import Amount, positive_credits
from cogni_billing.domain.errors import InvalidInput, InvalidTime, shown
from cogni_billing.domain.grants import PRIORITY_DEFAULT, Grant, checked_priority
from cogni_billing.domain.identity import TenantId, tenant_id
from cogni_billing.domain.identity import reference as checked_reference
from cogni_billing.domain.kinds import TransactionKind
from cogni_billing.domain.metadata import EMPTY, Json, frozen_metadata
from cogni_billing.domain.periods import DAYS, MONTHS, ONCE, Every, Periods
from cogni_billing.domain.timestamps import utc
from cogni_billing.domain.transactions import Draw, GrantTerms, Transaction

ROLLOVER_PERIODS_MAX: Final = 1000


def _checked_cap(given: Amount) -> Amount:
    return positive_credits(given, "cap")


def _checked_periods(given: int) -> int:
    if type(given) is not int or not 1 <= given <= ROLLOVER_PERIODS_MAX:
        expected = f"a whole number from 1 to {ROLLOVER_PERIODS_MAX}"
        raise InvalidInput("periods", shown(given), expected)
    return given


@frozen
class Rollover:
    """A rule for unused credits: at most *cap* of a period's expire *periods* periods later.

    Raises:
        InvalidAmount, UnitMismatch: *cap* is no amount of credits above zero.
        InvalidInput: *periods* is not from 1 to 1000.
    """

    cap: Amount = field(converter=_checked_cap)
    periods: int = field(default=1, converter=_checked_periods)


def _checked_source(given: str) -> str:
    return checked_reference(given, "source")


def _checked_amount(given: Amount) -> Amount:
    return positive_credits(given)


_EVERY: Final = "day, week, month or year"


def _checked_every(given: Every | Literal["once"]) -> Every | Literal["once"]:
    _require_every(given)
    return given


def _require_every(given: object) -> None:
    if type(given) is not str or given not in (*DAYS, *MONTHS, ONCE):
        raise InvalidInput("every", shown(given), _EVERY)


def _checked_anchor(given: datetime | None) -> datetime | None:
    return None if given is None else utc(given, "anchor")


def _checked_until(given: datetime | None) -> datetime | None:
    return None if given is None else utc(given, "until")


_NOT_LISTED: Final = ("posix/", "right/")
"""Copies of the zones that `zoneinfo.available_timezones` leaves out. One counts leap seconds."""


def _checked_zone(given: str) -> str:
    expected = "the IANA name of a time zone, such as Europe/Berlin"
    try:
        name = checked_reference(given, "zone")
        ZoneInfo("" if name.startswith(_NOT_LISTED) else name)
    except (InvalidInput, ZoneInfoNotFoundError, ValueError, OSError):
        raise InvalidInput("zone", shown(given), expected) from None
    return name


def _checked_priority(given: int) -> int:
    return checked_priority(given)


def _checked_rollover(given: Rollover | None) -> Rollover | None:
    if given is not None and not isinstance(given, Rollover):
        raise InvalidInput("rollover", shown(given), "a Rollover, or None")
    return given


@frozen
class GrantSchedule:
    """The terms of a schedule: credits to grant at the beginning of each period.

    Credits that are unused at the end of their period expire, unless a rollover carries them.

    Args:
        source: The origin of the credits, such as `plan:pro`: 1 to 255 visible ASCII characters.
        amount: The credits of each period, in CREDIT, greater than zero.
        every: The length of a period: `day`, `week`, `month` or `year` of local calendar time.
        anchor: The moment at which period 0 begins, past or future, timezone-aware. `None` for the
            moment of the call. A period that would begin on a day that its month does not have
            begins on the last day of the month.
        zone: The IANA name of the time zone of the calendar, such as `Europe/Berlin`.
        until: The moment from which no period begins, timezone-aware. `None` for never.
        priority: The place in the spend order, as `grant` has it.
        rollover: The rule for unused credits. `None` lets them expire with their period.

    Raises:
        InvalidAmount, UnitMismatch, InvalidReference, InvalidInput: an argument is invalid.
        InvalidTime: *anchor* or *until* is naive or out of range, or *until* is not after *anchor*.
    """

    source: str = field(converter=_checked_source)
    amount: Amount = field(converter=_checked_amount)
    every: Every | Literal["once"] = field(kw_only=True, converter=_checked_every)
    anchor: datetime | None = field(default=None, kw_only=True, converter=_checked_anchor)
    zone: str = field(default="UTC", kw_only=True, converter=_checked_zone)
    until: datetime | None = field(default=None, kw_only=True, converter=_checked_until)
    priority: int = field(default=PRIORITY_DEFAULT, kw_only=True, converter=_checked_priority)
    rollover: Rollover | None = field(default=None, kw_only=True, converter=_checked_rollover)

    def __attrs_post_init__(self) -> None:
        if self.anchor and self.until and self.until <= self.anchor:
            raise InvalidTime("until", str(self.until), f"a moment after the anchor, {self.anchor}")

    @property
    def parts(self) -> tuple[tuple[str, Amount, int], ...]:
        """The grants of a period: the end of the reference, the credits, and the periods they live.

        The part that ends with its period expires first, so it is spent first. The rest, at most
        the cap of the rollover, is carried.
        """
        if self.rollover is None:
            return (("", self.amount, 1),)
        longer = 1 + self.rollover.periods
        if self.rollover.cap >= self.amount:
            return (("", self.amount, longer),)
        ends = self.amount - self.rollover.cap
        return ("", ends, 1), (" carried", self.rollover.cap, longer)


@frozen(kw_only=True)
class Schedule:
    """A schedule as the ledger has it, or a single grant that begins later.

    A single grant has the `every` of `once`, the id and the reference of the grant, and its expiry.
    `void_grant` ends it before it begins.
    """

    id: UUID
    tenant: TenantId
    reference: str
    terms: GrantSchedule
    created_at: datetime
    begins: datetime
    """The anchor in force: the given one, or the moment of the call."""
    number: int = 0
    """The number of the next period, counted from the anchor."""
    next_at: datetime | None = None
    """The moment at which the next period begins. `None` if no more period begins."""
    ended_at: datetime | None = None
    """The moment at which `end_schedule`, `replaces` or `void_grant` ended it."""
    first_number: int = 0
    """The number of the first period that began, or will begin."""
    replaces: UUID | None = None
    """The id of the schedule that it replaced."""
    expires_at: datetime | None = None
    """The expiry of a single grant. `None` for never, and for the periods of a schedule."""
    expires_in: timedelta | None = None
    """The lifetime from which the expiry follows, if the caller gave one."""
    metadata: Mapping[str, Json] = EMPTY
    actor: str | None = None
    """The actor of the call that planned it, who is the actor of its grants."""
    replayed: bool = False
    """True if an earlier call made the same request. The other fields are the present ones."""

    @property
    def is_once(self) -> bool:
        """True for a single grant that begins later."""
        return self.terms.every == ONCE

    @property
    def request(self) -> requests.Request:
        """The caller's request, field by field. Two requests are the same if these are equal."""
        terms, rollover = self.terms, self.terms.rollover
        return requests.schedule(
            terms.amount,
            source=terms.source,
            priority=terms.priority,
            every=terms.every,
            anchor=terms.anchor,
            zone=terms.zone,
            until=terms.until,
            rollover=None if rollover is None else (rollover.cap, rollover.periods),
            replaces=self.replaces,
        )

    @property
    def periods(self) -> Periods:
        return Periods(self.begins, self.terms.every, self.terms.zone)

    def begin(self, number: int) -> datetime | None:
        """The moment at which a period begins. `None` if it never begins."""
        begins, until = self.periods.begin(number), self.terms.until
        return None if begins is None or (until is not None and begins >= until) else begins

    def opened(self, present: datetime) -> Schedule:
        """This plan with its first period: the one that contains *present*, or the first of all."""
        first = self.periods.number_at(present)
        return evolve(self, first_number=first, number=first, next_at=self.begin(first))

    def moved_on(self) -> Schedule:
        """This schedule after the beginning of its next period."""
        following = self.number + 1
        return evolve(self, number=following, next_at=self.begin(following))

    def is_due(self, moment: datetime) -> bool:
        """True if its next period begins by *moment*."""
        return self.next_at is not None and self.next_at <= moment

    def ended(self, present: datetime) -> Schedule:
        """This schedule with an end. No more period begins. An earlier end stays."""
        return evolve(self, next_at=None, ended_at=self.ended_at or present)

    def grants(self, number: int, at: datetime) -> tuple[Transaction, ...]:
        """The transactions of the period of this number, if it begins at *at*, in order."""
        if self.is_once:
            terms = self._terms(self.expires_at, expires_in=self.expires_in, begins=self.begins)
            given = self._grant(self.reference, at, self.terms.amount, terms)
            return (evolve(given, id=self.id),)
        return tuple(
            self._grant(
                f"{self.id} {number}{tail}",
                at,
                amount,
                self._terms(self.periods.begin(number + lives)),
            )
            for tail, amount, lives in self.terms.parts
        )

    def _terms(
        self,
        expires_at: datetime | None,
        *,
        expires_in: timedelta | None = None,
        begins: datetime | None = None,
    ) -> GrantTerms:
        return GrantTerms(
            source=self.terms.source,
            priority=self.terms.priority,
            expires_at=expires_at,
            expires_in=expires_in,
            effective_from=begins,
        )

    def _grant(
        self, reference: str, at: datetime, amount: Amount, terms: GrantTerms
    ) -> Transaction:
        return Transaction(
            id=derived_id(reference),
            tenant=self.tenant,
            kind=TransactionKind.GRANT,
            reference=reference,
            at=at,
            amount=amount,
            metadata=self.metadata,
            terms=terms,
            actor=self.actor,
        )

    def voids(
        self, replaced: Schedule, grants: Mapping[UUID, Grant], at: datetime
    ) -> tuple[Transaction, ...]:
        """The transactions that void the grants of the latest period of *replaced*, in order.

        Spent ones too, because a hold or a reversal may give them credits back.
        """
        latest = replaced.number - 1
        if latest < replaced.first_number:
            return ()
        left = (
            (grants[each.id], each.reference.removeprefix(str(replaced.id)))
            for each in replaced.grants(latest, at)
        )
        return tuple(
            self._void(grant, f"{self.id}{tail}", at)
            for grant, tail in left
            if grant.expires_at is None or grant.expires_at > at
        )

    def _void(self, grant: Grant, reference: str, at: datetime) -> Transaction:
        return Transaction(
            id=derived_id(f"void {reference}"),
            tenant=self.tenant,
            kind=TransactionKind.VOID,
            reference=reference,
            at=at,
            amount=-grant.remaining,
            subject=grant.id,
            actor=self.actor,
        )


@frozen
class Start:
    """A grant that began, and the part of it that repaid a debt."""

    transaction: Transaction
    draws: tuple[Draw, ...]


def derived_id(key: str) -> UUID:
    """The id of a transaction that a schedule makes, from its key."""
    return UUID(bytes=hashlib.sha256(key.encode()).digest()[:16])


def waiting_grant(planned: Transaction) -> Schedule:
    """The schedule of a planned grant that begins later."""
    terms = planned.terms
    assert terms is not None  # a grant has them
    assert terms.effective_from is not None  # it waits for it
    return Schedule(
        id=planned.id,
        tenant=planned.tenant,
        reference=planned.reference,
        terms=GrantSchedule(
            terms.source,
            planned.amount,
            every=ONCE,
            anchor=terms.effective_from,
            priority=terms.priority,
        ),
        created_at=planned.at,
        begins=terms.effective_from,
        next_at=terms.effective_from,
        expires_at=terms.expires_at,
        expires_in=terms.expires_in,
        metadata=planned.metadata,
        actor=planned.actor,
    )


def _checked_schedule(given: object) -> GrantSchedule:
    if not isinstance(given, GrantSchedule):
        raise InvalidInput("schedule", shown(given), "a GrantSchedule")
    if given.every == ONCE:
        raise InvalidInput("schedule.every", shown(ONCE), _EVERY)
    return given


def checked_schedule_id(given: object, name: str = "schedule_id") -> UUID:
    """*given* as the id of a schedule.

    Raises:
        InvalidInput: *given* is no `uuid.UUID`.
    """
    if not isinstance(given, UUID):
        raise InvalidInput(name, shown(given), "the id of a schedule, a uuid.UUID")
    return UUID(int=given.int)


def _checked_replaces(given: object) -> UUID | None:
    return None if given is None else checked_schedule_id(given, "replaces")


@frozen(kw_only=True)
class ScheduleRequest:
    """The validated arguments of `Billing.schedule_grants`."""

    tenant: TenantId = field(converter=tenant_id)
    schedule: GrantSchedule = field(converter=_checked_schedule)
    reference: str = field(converter=checked_reference)
    replaces: UUID | None = field(converter=_checked_replaces)
    metadata: Mapping[str, Json] = field(converter=frozen_metadata)


def plan_schedule(request: ScheduleRequest, *, at: datetime, schedule_id: UUID) -> Schedule:
    """Plan a schedule. The ledger fills in its first period with `opened`."""
    return Schedule(
        id=schedule_id,
        tenant=request.tenant,
        reference=request.reference,
        terms=request.schedule,
        created_at=at,
        begins=request.schedule.anchor or at,
        replaces=request.replaces,
        metadata=request.metadata,
    )
