"""The ledger of one tenant, in memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext
from datetime import datetime
from functools import partial
from itertools import takewhile
from typing import TypeAlias, TypeVar
from uuid import UUID

from attrs import evolve, field, frozen

from cogni_billing.adapters.batches import Answers, all_or_none, one_by_one
from cogni_billing.adapters.guard import ScopeGuard
from cogni_billing.adapters.memory.payments import payment_of, reversals_of, set_aside
from cogni_billing.adapters.memory.store import Store
from cogni_billing.adapters.memory.tenants import open_account, require_account, require_known
from cogni_billing.adapters.rights import minting_refused, service_refused
from cogni_billing.domain.amounts import CREDIT, ZERO, Amount, total
from cogni_billing.domain.disputes import Dispute
from cogni_billing.domain.errors import (
    AccountInUse,
    BillingError,
    HoldClosed,
    PaymentAlreadyClaimed,
    PrivilegeRequired,
    UnbalancedTransaction,
    UnknownCharge,
    given_twice,
)
from cogni_billing.domain.giving_back import Charged
from cogni_billing.domain.grants import Grant, GrantExtension, Lot, plan_expiry
from cogni_billing.domain.hold_changes import Extension, Release
from cogni_billing.domain.holds import Hold, HoldPageRequest, HoldState, place_of
from cogni_billing.domain.idempotency import same_or_conflict
from cogni_billing.domain.identity import TenantId, account_of
from cogni_billing.domain.kinds import TransactionKind
from cogni_billing.domain.openings import OPENING_KEY, Opened, Opening
from cogni_billing.domain.payments import Payment
from cogni_billing.domain.reinstatements import Returns
from cogni_billing.domain.schedules import Schedule, Start, waiting_grant
from cogni_billing.domain.statements import Balance, Extract, GrantPage, Line, PageRequest
from cogni_billing.domain.timestamps import require_recent
from cogni_billing.domain.transactions import (
    Draw,
    GivingBack,
    Posting,
    Recorded,
    Reversal,
    Transaction,
    granted_in,
    granted_part,
)
from cogni_billing.domain.wallets import Wallet

Entry: TypeAlias = tuple[Transaction, tuple[Draw, ...]]
"""A transaction to enter, and the parts of grants that it takes."""
Found = TypeVar("Found", Grant, Schedule)


@frozen
class MemoryLedger:
    """The in-memory `LedgerRepository`."""

    _store: Store
    _tenant: TenantId
    _guard: ScopeGuard
    _may_mint: bool = field(kw_only=True)
    _is_service: bool = field(kw_only=True)

    def post(self, transaction: Transaction, /) -> Recorded:
        with self._guard.call():
            return self._post(transaction)

    def _post(self, transaction: Transaction) -> Recorded:
        self._require_rights(transaction)
        if stored := self._stored(transaction.kind, transaction.reference):
            same_or_conflict(stored.transaction.named_like(transaction), transaction.request)
            return stored
        self._require_postable(transaction)
        # All checks come before the first write, so that a refusal needs no rollback.
        current = self._current(transaction.at)
        if transaction.reversal is not None:
            return self._reverse(transaction, transaction.reversal, current)
        if transaction.terms is not None and transaction.terms.waits(current.as_of):
            return self._wait(transaction, current)
        lots = tuple[Draw, ...]()
        if transaction.giving_back is not None:
            charged = self._charged(transaction.giving_back)
            transaction, lots = charged.given_back_by(transaction, current.is_expired)
        if transaction.occurred_at is not None:
            opened_at = self._store.accounts[self._tenant].opened_at
            require_recent(transaction.occurred_at, opened_at, transaction.at)
        transaction = current.affordable(transaction, self._arrived())
        wallet, draws = current.after(transaction, self._arrived(), lots)
        if transaction.kind is TransactionKind.PURCHASE:
            self._require_unclaimed(transaction.reference)
            self._claim(transaction)
        if transaction.kind.opens_account:
            open_account(self._store, self._tenant, transaction.at)
        self._keep(wallet)
        return self._enter(transaction, wallet.as_of, draws)

    def _require_rights(self, transaction: Transaction) -> None:
        """Return if the scope may post *transaction*."""
        if transaction.tenant != self._tenant:
            raise PrivilegeRequired("posting a transaction of another tenant")
        if transaction.kind.is_credit and not transaction.kind.reverses:
            self._require_minting()
        if transaction.kind.corrects and not self._is_service:
            raise service_refused()
        if transaction.kind.opens_balance:
            raise UnbalancedTransaction(f"record an {transaction.kind} with its grants")

    def _wait(self, grant: Transaction, wallet: Wallet) -> Recorded:
        """Keep a grant that begins later."""
        open_account(self._store, self._tenant, grant.at)
        self._keep(wallet.with_schedule(waiting_grant(grant)))
        balance = self._store.balance(account_of(self._tenant))
        key = (self._tenant, grant.reference)
        self._store.put(self._store.waiting, key, (grant.id, balance))
        return Recorded(grant, balance, replayed=False)

    def _reverse(self, transaction: Transaction, part: Reversal, wallet: Wallet) -> Recorded:
        """Record a refund, a chargeback or a reinstatement. Open disputes follow its part."""
        purchase = self._store.purchase(self._tenant, part.payment)
        assert purchase is not None  # the plan is of a payment
        payment, lots = payment_of(self._store, purchase, transaction.at), tuple[Draw, ...]()
        if transaction.kind.reinstates:
            made = Returns(purchase, tuple(reversals_of(self._store, purchase)))
            transaction, lots = made.undone_by(transaction)
        else:
            set_aside(self._store, payment.disputes_at(part.total), transaction.at)
            wallet = self._wallet().at(wallet.as_of)
        wallet, draws = wallet.after(transaction, self._arrived(), lots)
        self._keep(wallet)
        recorded = self._enter(transaction, wallet.as_of, draws)
        if transaction.kind.reinstates:
            payment = payment_of(self._store, purchase, transaction.at)
            set_aside(self._store, payment.disputes_at(part.total), transaction.at)
        return recorded

    def _charged(self, asked: GivingBack) -> Charged:
        """The charge that *asked* names, with its earlier reversals."""
        key = self._store.ids.get((self._tenant, asked.charge)) if asked.charge else None
        if asked.reference is not None:
            key = (self._tenant, TransactionKind.CHARGE, asked.reference)
        found = key and self._store.recorded.get(key)
        if not found or not found.transaction.kind.is_usage:
            raise UnknownCharge(asked.named)
        return Charged(recorded=found, given_back=self._given_back(found.transaction.id))

    def _given_back(self, charge: UUID) -> Amount:
        made = (recorded.transaction.giving_back for recorded in self._store.recorded.values())
        return total((part.amount for part in made if part and part.charge == charge), CREDIT)

    def _require_postable(self, transaction: Transaction) -> None:
        """Return if only the wallet's state or a claim can still refuse *transaction*."""
        if not transaction.kind.opens_account:
            require_account(self._store, self._tenant)
        planned = (
            transaction.kind is TransactionKind.GRANT and transaction.id in self._wallet().schedules
        )
        if planned or (self._tenant, transaction.id) in self._store.ids:
            raise given_twice(transaction.id)

    def record_opening(self, opening: Opening, /) -> Opened:
        with self._guard.call():
            if not self._is_service:
                raise service_refused()
            if stored := self._opened():
                stored.require_same(opening)
                return stored
            own = (line for line in self._lines() if line.reference is not None)
            if any(own) or self._wallet().schedules:
                raise AccountInUse(self._tenant)
            self._open_as_of(opening.balance.at)
            self._keep(self._current(opening.balance.at))
            grants = tuple(map(self._enter_opening, opening.grants))
            return Opened(grants=grants, balance=self._enter_opening(opening.balance))

    def _enter_opening(self, transaction: Transaction) -> Recorded:
        self._require_postable(transaction)
        wallet, draws = self._wallet().after(transaction, self._arrived())
        self._keep(wallet)
        return self._enter(transaction, wallet.as_of, draws)

    def _open_as_of(self, moment: datetime) -> None:
        """Open the account. An account that was opened later counts as open since *moment*."""
        open_account(self._store, self._tenant, moment)
        account = self._store.accounts[self._tenant]
        opened_at = min(account.opened_at, moment)
        self._store.put(self._store.accounts, self._tenant, evolve(account, opened_at=opened_at))

    def _opened(self) -> Opened | None:
        """The tenant's opening. The lines before it are those of its grants."""
        balance = self._found(TransactionKind.OPENING, OPENING_KEY)
        if balance is None:
            return None
        own = [line for line in self._lines() if line.reference is not None]
        before = takewhile(lambda line: line.kind is not TransactionKind.OPENING, own)
        grants = (self._found(line.kind, line.reference or "") for line in before)
        return Opened(balance=balance, grants=tuple(filter(None, grants)))

    def post_many(
        self, transactions: Sequence[Transaction], /, *, all_or_nothing: bool
    ) -> Sequence[Recorded | BillingError]:
        with self._guard.call():
            return self._post_many(transactions, all_or_nothing=all_or_nothing)

    def _post_many(self, transactions: Sequence[Transaction], *, all_or_nothing: bool) -> Answers:
        # A refused post keeps only the due expirations. A single post needs no savepoint, and
        # several post the expirations before their savepoints.
        several = len(transactions) > 1
        savepoint = self._store.savepoint if several else nullcontext
        if several and self._tenant in self._store.accounts:
            self._catch_up(transactions[0].at)
        post = partial(one_by_one, transactions, self._post, savepoint)
        return all_or_none(post, savepoint) if all_or_nothing else post()

    def replay(self, kind: TransactionKind, reference: str, /) -> Recorded | None:
        with self._guard.call():
            return self._found(kind, reference)

    def find(self, kind: TransactionKind, reference: str, /) -> Recorded | None:
        with self._guard.call():
            require_known(self._store, self._tenant)
            return self._found(kind, reference)

    def _stored(self, kind: TransactionKind, reference: str) -> Recorded | None:
        """The first outcome under this key, also of a grant that was to begin later."""
        waiting = self._store.waiting.get((self._tenant, reference))
        if kind is not TransactionKind.GRANT or waiting is None:
            return self._found(kind, reference)
        grant_id, balance = waiting
        asked = self._wallet().schedules[grant_id]
        (made,) = asked.grants(asked.number, asked.created_at)
        return Recorded(made, balance, replayed=True)

    def _found(self, kind: TransactionKind, reference: str) -> Recorded | None:
        stored = self._store.recorded.get((self._tenant, kind, reference))
        return stored and evolve(stored, replayed=True)

    def transaction(self, transaction_id: UUID, /) -> Recorded | None:
        with self._guard.call():
            require_known(self._store, self._tenant)
            key = self._store.ids.get((self._tenant, transaction_id))
            return key and evolve(self._store.recorded[key], replayed=True)

    def payment(self, payment: str, now: datetime, /) -> Payment | None:
        with self._guard.call():
            require_known(self._store, self._tenant)
            found = self._found(TransactionKind.PURCHASE, payment)
            return None if found is None else payment_of(self._store, found.transaction, now)

    def dispute(self, reference: str, /) -> Dispute | None:
        with self._guard.call():
            return self._store.disputes.get((self._tenant, reference))

    def hold(self, hold: Hold, /) -> Hold:
        with self._guard.call():
            if stored := self._store.holds.get((self._tenant, hold.reference)):
                present = self._present_hold(stored, hold.opened_at)
                same_or_conflict(present, hold.request)
                present.require_open()
                return evolve(present, replayed=True)
            require_account(self._store, self._tenant)
            if hold.id in self._wallet().holds:
                raise given_twice(hold.id)
            wallet = self._current(hold.opened_at)
            self._keep(wallet.with_hold(hold, self._arrived()))
            self._store.put(self._store.holds, (self._tenant, hold.reference), hold.id)
            return hold

    def extend(self, extension: Extension, /) -> Hold:
        with self._guard.call():
            key = (self._tenant, extension.reference)
            if stored := self._store.hold_extensions.get(key):
                same_or_conflict(stored, extension.request)
                present = self._present_hold(stored.hold_id, extension.at)
                present.require_open()
                return evolve(present, replayed=True)
            require_account(self._store, self._tenant)
            wallet = self._current(extension.at)
            self._keep(wallet.extending(extension, self._arrived()))
            self._store.put(self._store.hold_extensions, key, extension)
            return self._wallet().hold(extension.hold_id)

    def release(self, hold_id: UUID, moment: datetime, /) -> Hold:
        with self._guard.call():
            require_account(self._store, self._tenant)
            wallet = self._current(moment)
            before = wallet.hold(hold_id)
            if before.state not in {HoldState.OPEN, HoldState.RELEASED}:
                raise HoldClosed(hold_id, before.state)
            if not before.is_open:
                return evolve(before, replayed=True)
            self._keep(wallet.released(hold_id))
            return self._wallet().hold(hold_id)

    def release_part(self, release: Release, /) -> Hold:
        with self._guard.call():
            key = (self._tenant, release.reference)
            if stored := self._store.hold_releases.get(key):
                same_or_conflict(stored, release.request)
                return evolve(self._present_hold(stored.hold_id, release.at), replayed=True)
            require_account(self._store, self._tenant)
            self._keep(self._current(release.at).releasing(release, self._arrived()))
            self._store.put(self._store.hold_releases, key, release)
            return self._wallet().hold(release.hold_id)

    def _present_hold(self, hold_id: UUID, now: datetime) -> Hold:
        return self._present(now).hold(hold_id)

    def find_hold(self, reference: str, now: datetime, /) -> Hold | None:
        with self._guard.call():
            require_known(self._store, self._tenant)
            found = self._store.holds.get((self._tenant, reference))
            return None if found is None else self._present_hold(found, now)

    def holds(self, page: HoldPageRequest, now: datetime, /) -> tuple[Hold, ...]:
        with self._guard.call():
            require_known(self._store, self._tenant)
            wallet = self._present(now)
            found = [
                hold
                for hold in sorted(wallet.holds.values(), key=place_of, reverse=True)
                if hold.is_open and (page.before is None or place_of(hold) < page.before)
            ]
            return tuple(found[: page.limit + 1])

    def void_grant(self, void: Transaction, /) -> Recorded:
        with self._guard.call():
            self._require_minting()
            if stored := self._found(void.kind, void.reference):
                same_or_conflict(stored.transaction, void.request)
                return stored
            self._require_postable(void)
            assert void.subject is not None  # a void names its grant
            wallet, taken = self._current(void.at).voided(void.subject)
            self._keep(wallet)
            return self._enter(evolve(void, amount=-taken), wallet.as_of)

    def extend_grant(self, extension: GrantExtension, /) -> GrantExtension:
        with self._guard.call():
            self._require_minting()
            key = (self._tenant, extension.reference)
            if stored := self._store.extensions.get(key):
                same_or_conflict(stored, extension.request)
                return evolve(stored, replayed=True)
            require_account(self._store, self._tenant)
            self._keep(self._current(extension.extended_at).extended(extension))
            self._store.put(self._store.extensions, key, extension)
            return extension

    def schedule(self, plan: Schedule, /) -> Schedule:
        with self._guard.call():
            self._require_minting()
            key = (self._tenant, plan.reference)
            if stored := self._store.schedules.get(key):
                present = self._present(plan.created_at).schedules[stored]
                same_or_conflict(present, plan.request)
                return evolve(present, replayed=True)
            if plan.id in self._wallet().schedules:
                raise given_twice(plan.id)
            wallet = self._current(plan.created_at)
            if plan.replaces is not None:
                wallet = self._replaced(plan, wallet.schedule(plan.replaces), wallet)
            open_account(self._store, self._tenant, plan.created_at)
            self._keep(wallet.with_schedule(plan.opened(wallet.as_of)))
            self._store.put(self._store.schedules, key, plan.id)
            self._catch_up(wallet.as_of)
            return self._wallet().schedules[plan.id]

    def _replaced(self, plan: Schedule, replaced: Schedule, wallet: Wallet) -> Wallet:
        """The wallet after the end of the replaced schedule and the voids of its last period."""
        wallet = wallet.with_schedule(replaced.ended(wallet.as_of))
        for void in plan.voids(replaced, wallet.grants, wallet.as_of):
            assert void.subject is not None  # a void names its grant
            wallet, _ = wallet.voided(void.subject)
            self._enter(void, wallet.as_of)
        return wallet

    def end_schedule(self, schedule_id: UUID, moment: datetime, /) -> Schedule:
        with self._guard.call():
            self._require_minting()
            require_account(self._store, self._tenant)
            wallet = self._current(moment)
            schedule = wallet.schedule(schedule_id)
            if schedule.ended_at is not None:
                return evolve(schedule, replayed=True)
            self._keep(wallet.with_schedule(schedule.ended(wallet.as_of)))
            return self._wallet().schedules[schedule_id]

    def schedules(self, now: datetime, page: GrantPage, /) -> tuple[Schedule, ...]:
        with self._guard.call():
            require_known(self._store, self._tenant)
            found = self._present(now).schedules.values()
            newest = sorted(found, key=lambda each: (each.created_at, each.id), reverse=True)
            return _after(newest, page)

    def _require_minting(self) -> None:
        if not self._may_mint:
            raise minting_refused()

    def expire_due(self, moment: datetime, /) -> bool:
        with self._guard.call():
            was_due = self._wallet().is_due(moment)
            self._catch_up(moment)
            return was_due

    def balance(self, now: datetime, /) -> Balance:
        with self._guard.call():
            require_known(self._store, self._tenant)
            wallet = self._present(now)
            return Balance(wallet.posted + self._arrived(), held=wallet.aside)

    def balance_at(self, moment: datetime, /) -> Balance:
        with self._guard.call():
            require_known(self._store, self._tenant)
            posted = [line.amount for line in self._lines() if line.at <= moment]
            later = [made.amount for made, _ in self._due(moment)[1] if made.at <= moment]
            return Balance(total(posted + later, CREDIT), held=self._wallet().held(moment))

    def grants(self, now: datetime, /) -> tuple[Grant, ...]:
        with self._guard.call():
            require_known(self._store, self._tenant)
            return tuple(g for g in self._present(now).spendable() if not g.is_purchased)

    def lots(self, now: datetime, /) -> tuple[Lot, ...]:
        with self._guard.call():
            require_known(self._store, self._tenant)
            lots = (grant for grant in self._present(now).spendable() if grant.is_purchased)
            return tuple(map(self._lot, lots))

    def _lot(self, lot: Grant) -> Lot:
        return Lot(
            id=lot.id,
            payment=self._store.ids[self._tenant, lot.id][2],
            amount=lot.amount,
            expires_at=lot.expires_at,
            bought_at=lot.granted_at,
            remaining=lot.remaining,
        )

    def lines(self, page: PageRequest, /) -> Extract:
        with self._guard.call():
            require_known(self._store, self._tenant)
            posted = self._lines()
            balance = self._store.balance(account_of(self._tenant))
            due = list[Line]()
            for made, draws in self._due(page.now)[1]:
                balance += made.amount
                position = len(posted) + len(due) + 1
                line = self._line(made, made.amount, made.at, position, balance)
                due.append(self._told(line, made, draws))
            found = page.of([*posted, *due])
            return evolve(found, lines=tuple(map(self._with_facts, found.lines)))

    def all_grants(self, now: datetime, page: GrantPage, /) -> tuple[Grant, ...]:
        with self._guard.call():
            require_known(self._store, self._tenant)
            wallet, due = self._due(now)
            begun_ids = [made.id for made, _ in reversed(due) if made.id in wallet.grants]
            recorded_ids = [
                line.transaction_id
                for line in reversed(self._lines())
                if line.kind is TransactionKind.GRANT and line.reference is not None
            ]
            return _after([wallet.grants[each] for each in begun_ids + recorded_ids], page)

    def _with_facts(self, line: Line) -> Line:
        """*line* with the facts of the tenant's own transaction. A due one has them already."""
        key = line.reference and self._store.ids.get((self._tenant, line.transaction_id))
        if not key:
            return line
        recorded = self._store.recorded[key]
        return self._told(line, recorded.transaction, recorded.draws)

    def _told(self, line: Line, made: Transaction, draws: tuple[Draw, ...]) -> Line:
        """*line* with the facts of its transaction."""
        granted = granted_part(line.kind, line.amount, granted_in(draws))
        if made.kind is TransactionKind.EXPIRY and made.subject is not None:
            expired = self._wallet().grants.get(made.subject)
            granted = ZERO if expired is not None and expired.is_purchased else granted
        return evolve(line, granted=granted, metadata=made.metadata, occurred_at=made.occurred_at)

    def _wallet(self) -> Wallet:
        return self._store.wallets.get(self._tenant, Wallet())

    def _keep(self, wallet: Wallet) -> None:
        self._store.put(self._store.wallets, self._tenant, wallet)

    def _current(self, moment: datetime) -> Wallet:
        """The wallet at *moment*, after posting all that is due."""
        self._catch_up(moment)
        wallet = self._wallet()
        return wallet.at(wallet.present(moment))

    def _catch_up(self, moment: datetime) -> None:
        """Post all that is due. A single-call scope keeps them if the call is refused."""
        if not self._wallet().is_due(self._wallet().present(moment)):
            return
        wallet, due = self._due(moment)
        for made, draws in due:
            self._enter(made, made.at, draws)
        self._keep(wallet)
        if self._guard.is_single:
            self._store.keep()

    def _due(self, moment: datetime) -> tuple[Wallet, list[Entry]]:
        """The wallet after the expirations and starts that are due, and their transactions."""
        wallet, happened = self._wallet().caught_up(moment, self._arrived_by)
        counts = Counter(
            recorded.transaction.subject
            for (tenant, kind, _), recorded in self._store.recorded.items()
            if happened and tenant == self._tenant and kind is TransactionKind.EXPIRY
        )
        planned = list[Entry]()
        for each in happened:
            if isinstance(each, Start):
                planned.append((each.transaction, each.draws))
            else:
                counts[each.grant_id] += 1
                planned.append((plan_expiry(self._tenant, each, counts[each.grant_id]), ()))
        return wallet, planned

    def _present(self, moment: datetime) -> Wallet:
        """The wallet at *moment*, as it will be after posting all that is due."""
        return self._wallet().expired_by(moment, self._arrived_by)[0]

    def _arrived_by(self, moment: datetime) -> Amount:
        return self._store.arrived_by(account_of(self._tenant), moment)

    def _arrived(self) -> Amount:
        return self._store.balance(account_of(self._tenant)) - self._wallet().posted

    def _lines(self) -> Sequence[Line]:
        return self._store.lines.get(account_of(self._tenant), [])

    def _require_unclaimed(self, payment: str) -> None:
        if payment in self._store.payments:
            raise PaymentAlreadyClaimed(payment)

    def _claim(self, purchase: Transaction) -> None:
        self._store.put(self._store.payments, purchase.reference, self._tenant)

    def _enter(
        self, transaction: Transaction, at: datetime, draws: tuple[Draw, ...] = ()
    ) -> Recorded:
        for posting in transaction.postings:
            own = posting.account == account_of(self._tenant)
            self._add(transaction, posting, at if own else transaction.at)
        balance = self._store.balance(account_of(self._tenant))
        recorded = Recorded(transaction, balance, replayed=False, draws=draws)
        key = (self._tenant, transaction.kind, transaction.reference)
        self._store.put(self._store.recorded, key, recorded)
        self._store.put(self._store.ids, (self._tenant, transaction.id), key)
        return recorded

    def _add(self, transaction: Transaction, posting: Posting, at: datetime) -> None:
        balance = self._store.balance(posting.account) + posting.amount
        self._store.put(self._store.balances, posting.account, balance)
        position = len(self._store.lines.get(posting.account, ())) + 1
        line = self._line(transaction, posting.amount, at, position, balance)
        own = posting.tenant == self._tenant
        self._store.append(posting.account, line if own else evolve(line, reference=None))

    def _line(
        self, made: Transaction, amount: Amount, at: datetime, position: int, balance: Amount
    ) -> Line:
        return Line(
            position=position,
            transaction_id=made.id,
            kind=made.kind,
            reference=made.reference,
            amount=amount,
            balance_after=balance,
            at=at,
        )


def _after(newest: list[Found], page: GrantPage) -> tuple[Found, ...]:
    """The records of a page. After an unknown id there are none."""
    ids = [each.id for each in newest]
    start = 0
    if page.after is not None:
        start = ids.index(page.after) + 1 if page.after in ids else len(ids)
    return tuple(newest[start : start + page.limit])
