"""Wallets: the state of a tenant's account, with its holds and grants, under one lock.

The Postgres adapter enforces the same rules in the database. The in-memory adapter runs this code.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from itertools import chain
from types import MappingProxyType
from typing import TypeAlias, TypeVar
from uuid import UUID

from attrs import evolve, frozen

from cogni_billing.domain.accounts import Freeze
from cogni_billing.domain.amounts import CREDIT, ZERO, Amount, total
from cogni_billing.domain.disputes import Dispute
from cogni_billing.domain.errors import (
    AccountFrozen,
    InsufficientCredits,
    UnbalancedTransaction,
    UnknownGrant,
    UnknownHold,
    UnknownSchedule,
    unknown_kind,
)
from cogni_billing.domain.grants import (
    PRIORITY_PURCHASED,
    Expiration,
    Grant,
    GrantExtension,
)
from cogni_billing.domain.hold_changes import Extension, HoldChange, HoldChangeKind, Release
from cogni_billing.domain.holds import Hold, HoldState
from cogni_billing.domain.identity import TenantId
from cogni_billing.domain.kinds import TransactionKind
from cogni_billing.domain.schedules import Schedule, Start
from cogni_billing.domain.timestamps import EARLIEST, LATEST, require_unexpired
from cogni_billing.domain.transactions import Draw, Overrun, Transaction, drawn, first_of

Value = TypeVar("Value")
Due: TypeAlias = Expiration | Start
ArrivedBy: TypeAlias = Callable[[datetime], Amount]
"""Returns the sum of the arrivals that occurred by a moment."""


@frozen(kw_only=True)
class DueWallet:
    """A wallet with an expiration or a start to post, and the moment from which it is due."""

    at: datetime
    tenant: TenantId


@frozen(kw_only=True)
class Wallet:
    """The running state of a tenant's account, from the tenant's own transactions.

    `as_of` is the moment of the newest change. It never moves backwards, so the balance as of a
    moment is the one of the last posting until then, also if the hosts' clocks differ.

    Expirations of holds and grants, and starts of grants, stay due until `caught_up` posts them.
    Every other change is made to a wallet without due ones.
    """

    posted: Amount = ZERO
    as_of: datetime = EARLIEST
    holds: Mapping[UUID, Hold] = MappingProxyType({})
    grants: Mapping[UUID, Grant] = MappingProxyType({})
    schedules: Mapping[UUID, Schedule] = MappingProxyType({})
    """The schedules of grants, and the grants that begin later."""
    pins: Mapping[UUID, tuple[Draw, ...]] = MappingProxyType({})
    """The part of each hold that comes from grants. The rest is purchased credits."""
    changes: Mapping[UUID, tuple[HoldChange, ...]] = MappingProxyType({})
    """The changes of each hold, from its opening to its end."""
    freeze: Freeze | None = None
    overdraft_limit: Amount | None = None
    """The most that calls which allow an overdraft may take below zero. `None` for no limit."""
    disputed: Mapping[UUID, Hold] = MappingProxyType({})
    """The credits set aside by disputes of any tenant's payments, even beyond the available."""

    def present(self, moment: datetime) -> datetime:
        """The later one of *moment* and `as_of`."""
        return max(self.as_of, moment)

    def held(self, moment: datetime) -> Amount:
        """The credits that were set aside at *moment*."""
        aside = chain(self.holds.values(), self.disputed.values())
        return total((self._level(hold, moment) for hold in aside if hold.held_at(moment)), CREDIT)

    def _level(self, hold: Hold, moment: datetime) -> Amount:
        """The credits that *hold* set aside at *moment*, when it was open."""
        if hold.id not in self.changes:  # a dispute sets the same credits aside until it ends
            return hold.amount
        changes = (each.amount for each in self.changes[hold.id] if each.at <= moment)
        return total(changes, CREDIT)

    @property
    def aside(self) -> Amount:
        """The credits set aside now. The wallet must have no due expirations."""
        open_ones = (h for h in chain(self.holds.values(), self.disputed.values()) if h.is_open)
        return total((hold.held for hold in open_ones), CREDIT)

    def earned(self, arrived: Amount) -> Amount:
        """The available credits that were not granted. *arrived* is the sum of all arrivals."""
        granted = total((grant.remaining for grant in self.spendable()), CREDIT)
        return self.posted + arrived - self.aside - granted

    def debt(self, arrived: Amount) -> Amount:
        """The credits that are owed. Credits that a dispute sets aside for a time are not."""
        disputed = (part.amount for part in self.disputed.values() if part.is_open)
        return max(-(self.earned(arrived) + total(disputed, CREDIT)), ZERO)

    def hold(self, hold_id: UUID) -> Hold:
        """The hold with this id.

        Raises:
            UnknownHold: the wallet has no such hold.
        """
        if hold_id not in self.holds:
            raise UnknownHold(hold_id)
        return self.holds[hold_id]

    def grant(self, grant_id: UUID) -> Grant:
        """The grant with this id.

        Raises:
            UnknownGrant: the wallet has no such grant.
        """
        if grant_id not in self.grants or self.grants[grant_id].is_purchased:
            raise UnknownGrant(grant_id)
        return self.grants[grant_id]

    def schedule(self, schedule_id: UUID) -> Schedule:
        """The schedule with this id.

        Raises:
            UnknownSchedule: the wallet has no such schedule.
        """
        if schedule_id not in self.schedules or self.schedules[schedule_id].is_once:
            raise UnknownSchedule(schedule_id)
        return self.schedules[schedule_id]

    def spendable(self) -> list[Grant]:
        """The grants with credits left, in spend order."""
        left = (grant for grant in self.grants.values() if grant.remaining.is_positive)
        return sorted(left, key=lambda grant: grant.spend_order)

    # Expirations and starts ---------------------------------------------------------------------

    def expired_by(self, moment: datetime, arrived_by: ArrivedBy) -> tuple[Wallet, tuple[Due, ...]]:
        """This wallet at the later of *moment* and `as_of`, after all that is due.

        Returns the wallet, the remainders of the grants that expired, and the grants that began.
        """
        wallet, happened = self.caught_up(moment, arrived_by)
        return wallet.at(self.present(moment)), happened

    def caught_up(self, moment: datetime, arrived_by: ArrivedBy) -> tuple[Wallet, tuple[Due, ...]]:
        """Like `expired_by`, but `as_of` moves to the last due moment, no further.

        At one moment, expirations come before starts.
        """
        present, wallet, happened = self.present(moment), self, list[Due]()
        while due := [instant for instant in wallet.instants() if instant <= present]:
            wallet = wallet.at(min(due))
            for grant in wallet.spendable():
                if grant.expires_at is not None and grant.expires_at <= wallet.as_of:
                    happened.append(Expiration(grant.id, grant.remaining, wallet.as_of))
                    wallet = wallet.expired(grant)
            for schedule in wallet.starting():
                wallet, starts = wallet.started(schedule, arrived_by(wallet.as_of))
                happened += starts
        return wallet, tuple(happened)

    def is_due(self, moment: datetime) -> bool:
        """True if an expiration or a start is due by *moment*."""
        return any(instant <= moment for instant in self.instants())

    def instants(self) -> Iterable[datetime]:
        """The moments at which open holds and spendable grants expire, and periods begin."""
        yield from (hold.ends_at for hold in self.holds.values() if hold.is_open)
        yield from (grant.expires_at for grant in self.spendable() if grant.expires_at)
        yield from (schedule.next_at for schedule in self.schedules.values() if schedule.next_at)

    def starting(self) -> list[Schedule]:
        """The schedules whose next period begins by `as_of`, in order."""
        due = (each for each in self.schedules.values() if each.is_due(self.as_of))
        return sorted(due, key=lambda schedule: schedule.id)

    def started(self, schedule: Schedule, arrived: Amount) -> tuple[Wallet, list[Start]]:
        """This wallet with the grants of the schedule's next period. Each repays the debt first."""
        wallet, starts = self.with_schedule(schedule.moved_on()), list[Start]()
        for made in schedule.grants(schedule.number, self.as_of):
            granted, draws = wallet.granting(made, arrived)
            wallet = evolve(granted, posted=granted.posted + made.amount)
            starts.append(Start(made, draws))
        return wallet, starts

    def at(self, instant: datetime) -> Wallet:
        wallet = evolve(self, as_of=self.present(instant))
        for hold in self.holds.values():
            if hold.is_open and not hold.at(wallet.as_of).is_open:
                wallet = wallet.ended(hold.at(wallet.as_of))
        return wallet

    def expired(self, grant: Grant) -> Wallet:
        posted = self.posted - grant.remaining
        return evolve(self.with_grant(evolve(grant, remaining=ZERO)), posted=posted)

    # Changes ------------------------------------------------------------------------------------

    def after(
        self, transaction: Transaction, arrived: Amount, lots: tuple[Draw, ...] = ()
    ) -> tuple[Wallet, tuple[Draw, ...]]:
        """This wallet after its owner's *transaction*, and what that took of grants.

        *arrived* is the sum of all arrivals. A reversal or a reinstatement gives *lots* back to
        their grants.

        Raises:
            AccountFrozen: the wallet is frozen, and the transaction spends available credits.
            InsufficientCredits: less is available and the transaction allows no overdraft, or less
                is held and the capture allows no overrun.
            UnknownHold, HoldClosed: the captured hold is unknown, or has ended.
            InvalidTime: the new grant would have expired already.
            UnbalancedTransaction: its kind is unknown, or the ledger fills in its amount:
                `caught_up` expires grants, and `voided` ends one.
        """
        wallet, draws = self, tuple[Draw, ...]()
        match transaction.kind:
            case TransactionKind.PURCHASE:
                if transaction.lot is not None:
                    wallet, draws = self.keeping(_bought(transaction), arrived)
            case TransactionKind.CAPTURE:
                wallet, draws = self.capturing(transaction, arrived)
            case TransactionKind.GRANT:
                assert transaction.terms is not None  # a grant has them
                require_unexpired(transaction.terms.expires_at, self.as_of)
                wallet, draws = self.granting(transaction, arrived)
            case (
                TransactionKind.REFUND
                | TransactionKind.CHARGEBACK
                | TransactionKind.ADJUSTMENT
                | TransactionKind.OPENING
            ):
                wallet, draws = self.taking(transaction, arrived)
            case TransactionKind.REVERSAL | TransactionKind.REINSTATEMENT:
                wallet, draws = self.returning(lots), lots
            case TransactionKind.EXPIRY | TransactionKind.VOID as kind:
                raise UnbalancedTransaction(f"the ledger makes each {kind}; do not post one")
            case kind if kind.is_plain_debit:
                self.require_unfrozen()
                if transaction.overdraft:
                    self.require_within_limit(-transaction.amount, arrived)
                else:
                    self.require_available(-transaction.amount, arrived)
                wallet, draws = self.drawing(-transaction.amount)
            case _:
                raise unknown_kind(transaction.kind)
        return evolve(wallet, posted=self.posted + transaction.amount), draws

    def granting(self, made: Transaction, arrived: Amount) -> tuple[Wallet, tuple[Draw, ...]]:
        """This wallet with the new grant, and its part that repays the debt."""
        grant = _granted(made)
        return self.keeping(grant, arrived)

    def keeping(self, grant: Grant, arrived: Amount) -> tuple[Wallet, tuple[Draw, ...]]:
        """This wallet with *grant*, which may be of a purchase, and its part that repays a debt."""
        repaid = min(grant.amount, self.debt(arrived))
        draws = (_part(grant, repaid),) if repaid.is_positive else ()
        return self.with_grant(evolve(grant, remaining=grant.amount - repaid)), draws

    def taking(self, made: Transaction, arrived: Amount) -> tuple[Wallet, tuple[Draw, ...]]:
        """This wallet after a refund, a chargeback or a correction, and the draws.

        The credits of the refunded purchase come first, then purchased credits that never expire,
        then the other purchases, the last to expire first, and then grants, in spend order.

        Raises:
            InsufficientCredits: less is available, and the refund refuses a debt.
        """
        wanted = -made.amount
        if made.refuses_debt:
            self.require_available(wanted, arrived)
        purchase = None if made.reversal is None else made.reversal.purchase
        lots = [lot for lot in reversed(self.spendable()) if lot.is_purchased]
        wallet, own = self.drawing(wanted, [lot for lot in lots if lot.id == purchase])
        rest = max(wanted - drawn(own) - max(self.earned(arrived), ZERO), ZERO)
        wallet, others = wallet.drawing(rest, [lot for lot in lots if lot.id != purchase])
        wallet, granted = wallet.drawing(rest - drawn(others))
        if purchase is not None and purchase in self.grants and wanted > drawn(own):
            # The customer has replaced spent credits. What comes back of these must not expire.
            wallet = wallet.with_grant(evolve(wallet.grants[purchase], expires_at=None))
        return wallet, own + others + granted

    def disputing(self, dispute: Dispute) -> Wallet:
        """This wallet after *dispute* of its owner's purchase opened, which ends the expiry.

        The customer could not spend the credits in time. Expired credits stay expired.
        """
        lot = self.grants.get(dispute.purchase)
        if lot is None or lot.expires_at is None or lot.expires_at <= dispute.opened_at:
            return self
        return self.with_grant(evolve(lot, expires_at=None))

    def affordable(self, charge: Transaction, arrived: Amount) -> Transaction:
        """*charge* of no more than is available, if it may take less than it asks for."""
        if charge.at_most is None:
            return charge
        available = max(self.posted + arrived - self.aside, ZERO)
        return evolve(charge, amount=-min(charge.at_most, available))

    def with_hold(self, hold: Hold, arrived: Amount) -> Wallet:
        """This wallet with *hold* set aside, in spend order, so that grants come first.

        Raises:
            InvalidTime: the hold would have expired already.
            AccountFrozen: the wallet is frozen.
            InsufficientCredits: less is available.
        """
        require_unexpired(hold.expires_at, self.as_of)
        self.require_unfrozen()
        self.require_available(hold.amount, arrived)
        wallet, draws = self.drawing(hold.amount)
        opening = HoldChange(HoldChangeKind.OPENING, hold.opened_at, hold.amount, draws)
        return evolve(
            wallet,
            holds=_with(self.holds, hold.id, hold),
            pins=_with(self.pins, hold.id, draws),
            changes=_with(self.changes, hold.id, (opening,)),
        )

    def with_disputed(self, part: Hold) -> Wallet:
        """This wallet with *part* of a dispute in its present state, open or ended."""
        return evolve(self, disputed=_with(self.disputed, part.id, part))

    def voided(self, grant_id: UUID) -> tuple[Wallet, Amount]:
        """This wallet after the end of the grant, and the credits that it lost.

        Credits that a hold has set aside expire when the hold ends without using them. A grant that
        waits never begins.

        Raises:
            UnknownGrant: the wallet has no such grant.
        """
        waiting = self.schedules.get(grant_id)
        if waiting is not None and waiting.is_once and grant_id not in self.grants:
            return self.with_schedule(waiting.ended(self.as_of)), ZERO
        grant = self.grant(grant_id)
        ends_at = min(grant.expires_at or LATEST, self.as_of)
        return self.expired(evolve(grant, expires_at=ends_at)), grant.remaining

    def extended(self, extension: GrantExtension) -> Wallet:
        """This wallet with a later expiry of the grant.

        Raises:
            UnknownGrant: the wallet has no such grant.
            GrantClosed: the grant has expired, or was voided.
            InvalidTime: the grant never expires, or expires no earlier.
        """
        grant = self.grant(extension.grant_id)
        extension.require_later(grant.expires_at, self.as_of)
        return self.with_grant(evolve(grant, expires_at=extension.expires_at))

    def released(self, hold_id: UUID) -> Wallet:
        """This wallet after the release of the hold, if the hold was open."""
        hold = self.hold(hold_id)
        return self.ended(hold.ended(HoldState.RELEASED, self.as_of)) if hold.is_open else self

    def releasing(self, release: Release, arrived: Amount) -> Wallet:
        """This wallet after the release of a part. The release of all that is held ends the hold.

        Raises:
            UnknownHold, HoldClosed: the hold is unknown, or has ended.
            InsufficientCredits: less is held.
        """
        hold = self.hold(release.hold_id)
        hold.require_open()
        part = hold.held if release.amount is None else release.amount
        if part > hold.held:
            raise InsufficientCredits(part, self.available(arrived), hold.held)
        if part == hold.held:
            return self.released(hold.id)
        # A capture takes purchased credits last, so a release frees them first.
        purchased = hold.held - total((pin.amount for pin in self.pins[hold.id]), CREDIT)
        draws = first_of(reversed(self.pins[hold.id]), max(part - purchased, ZERO))
        return self.with_change(hold, HoldChangeKind.RELEASE, -part, draws).returning(draws)

    def extending(self, extension: Extension, arrived: Amount) -> Wallet:
        """This wallet with more credits set aside by a hold, or with another expiry of it.

        Raises:
            UnknownHold, HoldClosed: the hold is unknown, or has ended.
            InvalidTime: the new expiry has passed.
            InsufficientCredits: less is available.
        """
        hold = self.hold(extension.hold_id)
        hold.require_open()
        require_unexpired(extension.expires_at, self.as_of)
        self.require_unfrozen()
        added = extension.amount or ZERO
        if extension.amount is not None:
            self.require_available(added, arrived)
        expires_at = extension.expires_at or hold.expires_at
        moved = evolve(hold, expires_at=expires_at)
        return self.adding(moved, HoldChangeKind.EXTENSION, added)

    def capturing(self, capture: Transaction, arrived: Amount) -> tuple[Wallet, tuple[Draw, ...]]:
        """This wallet after a capture, and what that took of grants.

        The hold stays open unless the capture is final.

        Raises:
            UnknownHold, HoldClosed: the hold is unknown, or has ended.
            InsufficientCredits: less is held, and its rule for an overrun refuses the excess.
        """
        assert capture.subject is not None  # its plan names the hold
        hold, taken = self.hold(capture.subject), -capture.amount
        hold.require_open()
        wallet = self
        if (excess := taken - hold.held).is_positive:
            available = self.available(arrived)
            refused = capture.overrun is Overrun.REFUSE
            if not refused:
                self.require_unfrozen()
            if refused or (capture.overrun is Overrun.AVAILABLE and excess > available):
                raise InsufficientCredits(taken, available, hold.held)
            if capture.overrun is Overrun.OVERDRAFT:
                self.require_within_limit(taken, arrived, hold.held)
            wallet = self.adding(hold, HoldChangeKind.OVERRUN, excess)
        draws = first_of(wallet.pins[hold.id], taken)
        wallet = wallet.with_change(wallet.holds[hold.id], HoldChangeKind.CAPTURE, -taken, draws)
        if capture.final:
            wallet = wallet.ended(wallet.holds[hold.id].ended(HoldState.CAPTURED, self.as_of))
        return wallet, draws

    def adding(self, hold: Hold, kind: HoldChangeKind, added: Amount) -> Wallet:
        """This wallet with *added* more set aside by *hold*, in spend order."""
        wallet, draws = self.drawing(added)
        return wallet.with_change(hold, kind, added, draws)

    def with_change(
        self, hold: Hold, kind: HoldChangeKind, amount: Amount, draws: tuple[Draw, ...]
    ) -> Wallet:
        """This wallet with *amount* more or less set aside by the open *hold*."""
        change = HoldChange(kind, self.as_of, amount, draws)
        match kind:
            case HoldChangeKind.CAPTURE:
                changed, sign = hold.changed(captured=-amount), -1
            case HoldChangeKind.RELEASE:
                changed, sign = hold.changed(released=-amount), -1
            case _:
                changed, sign = hold.changed(added=amount), 1
        return evolve(
            self,
            holds=_with(self.holds, hold.id, changed),
            pins=_with(self.pins, hold.id, _joined(self.pins[hold.id], draws, sign)),
            changes=_with(self.changes, hold.id, (*self.changes.get(hold.id, ()), change)),
        )

    def ended(self, hold: Hold) -> Wallet:
        """This wallet with the ended *hold*. Grants get back the pinned credits."""
        before, pins = self.holds[hold.id], self.pins[hold.id]
        wallet = self.with_change(before, HoldChangeKind.RELEASE, -before.held, pins)
        return evolve(wallet.returning(pins), holds=_with(self.holds, hold.id, hold))

    def returning(self, draws: Iterable[Draw]) -> Wallet:
        """This wallet with *draws* given back to their grants."""
        wallet = self
        for draw in draws:
            grant = wallet.grants[draw.grant_id]
            remaining = grant.remaining + draw.amount
            wallet = wallet.with_grant(evolve(grant, remaining=remaining))
        return wallet

    def is_expired(self, grant_id: UUID) -> bool:
        """True if the grant has expired by `as_of`.

        Credits that go back to a purchase expire once more, in a line of their own.
        """
        grant = self.grants[grant_id]
        expires_at = None if grant.is_purchased else grant.expires_at
        return expires_at is not None and expires_at <= self.as_of

    def drawing(
        self, wanted: Amount, grants: Sequence[Grant] | None = None
    ) -> tuple[Wallet, tuple[Draw, ...]]:
        """This wallet with up to *wanted* taken from *grants*, by default in spend order, and the
        draws.
        """
        wallet, draws = self, list[Draw]()
        for grant in self.spendable() if grants is None else grants:
            part = min(grant.remaining, wanted)
            if part.is_positive:
                wanted -= part
                draws.append(_part(grant, part))
                wallet = wallet.with_grant(evolve(grant, remaining=grant.remaining - part))
        return wallet, tuple(draws)

    def with_schedule(self, schedule: Schedule) -> Wallet:
        return evolve(self, schedules=_with(self.schedules, schedule.id, schedule))

    def with_grant(self, grant: Grant) -> Wallet:
        return evolve(self, grants=_with(self.grants, grant.id, grant))

    def available(self, arrived: Amount) -> Amount:
        """The credits that can be spent. *arrived* is the sum of all arrivals."""
        return self.posted + arrived - self.aside

    def require_unfrozen(self) -> None:
        if self.freeze is not None:
            raise AccountFrozen(self.freeze.since)

    def require_available(self, required: Amount, arrived: Amount) -> None:
        available = self.available(arrived)
        if required.is_positive and required > available:  # free work is free in debt, too
            raise InsufficientCredits(required, available)

    def require_within_limit(
        self, required: Amount, arrived: Amount, held: Amount | None = None
    ) -> None:
        """Return if the limit of overdrafts allows to take *required*, of which *held* is held."""
        limit, available = self.overdraft_limit, self.available(arrived)
        if limit is None or not required.is_positive:
            return
        if required > available + limit + (held or ZERO):
            raise InsufficientCredits(required, available, held, limit)


def _granted(transaction: Transaction) -> Grant:
    terms = transaction.terms
    assert terms is not None  # a grant has them
    return Grant(
        id=transaction.id,
        amount=transaction.amount,
        source=terms.source,
        priority=terms.priority,
        expires_at=terms.expires_at,
        granted_at=transaction.at,
        remaining=transaction.amount,
    )


def _bought(purchase: Transaction) -> Grant:
    assert purchase.lot is not None  # the caller has checked
    return Grant(
        id=purchase.id,
        amount=purchase.amount,
        source="",
        priority=PRIORITY_PURCHASED,
        expires_at=purchase.lot.expires_at,
        granted_at=purchase.at,
        remaining=purchase.amount,
    )


def _part(grant: Grant, part: Amount) -> Draw:
    return Draw(grant.id, part, grant.is_purchased)


def _joined(pins: tuple[Draw, ...], draws: tuple[Draw, ...], sign: int) -> tuple[Draw, ...]:
    """*pins* with the parts of *draws* added or taken. A grant is pinned once, in order."""
    parts = {pin.grant_id: pin for pin in pins}
    for draw in draws:
        before = parts[draw.grant_id].amount if draw.grant_id in parts else ZERO
        after = before + draw.amount if sign > 0 else before - draw.amount
        parts[draw.grant_id] = evolve(draw, amount=after)
    return tuple(pin for pin in parts.values() if pin.amount.is_positive)


def _with(table: Mapping[UUID, Value], key: UUID, value: Value) -> Mapping[UUID, Value]:
    return MappingProxyType({**table, key: value})
