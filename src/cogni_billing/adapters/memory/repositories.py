"""The repositories over the in-memory tables, each bound to one tenant."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from datetime import datetime, timedelta
from functools import partial
from itertools import islice
from uuid import UUID

from attrs import evolve, field, frozen

from cogni_billing.adapters.batches import Answers, all_or_none, one_by_one
from cogni_billing.adapters.guard import ScopeGuard
from cogni_billing.adapters.memory.attempts import due_attempts
from cogni_billing.adapters.memory.audit import violations
from cogni_billing.adapters.memory.store import Store
from cogni_billing.adapters.rights import minting_refused
from cogni_billing.domain.accounts import CONTRA_ACCOUNTS, Account, new_account
from cogni_billing.domain.amounts import CREDIT, Amount, total
from cogni_billing.domain.attempts import DueAttempt
from cogni_billing.domain.disputes import Dispute, DisputeState
from cogni_billing.domain.errors import (
    BillingError,
    HoldClosed,
    PaymentAlreadyClaimed,
    PrivilegeRequired,
    UnknownAccount,
    given_twice,
)
from cogni_billing.domain.folding import Folding
from cogni_billing.domain.grants import Grant, plan_expiry
from cogni_billing.domain.holds import Hold, HoldState
from cogni_billing.domain.idempotency import same_or_conflict
from cogni_billing.domain.identity import AccountId, TenantId, account_of
from cogni_billing.domain.kinds import TransactionKind
from cogni_billing.domain.reversals import Payment, There
from cogni_billing.domain.statements import Balance, Line, PageRequest
from cogni_billing.domain.transactions import Posting, Recorded, Transaction
from cogni_billing.domain.verification import Rule, Verification
from cogni_billing.domain.wallets import Wallet


@frozen
class MemoryTenants:
    """Keeps the promises of `TenantRepository`."""

    _store: Store
    _tenant: TenantId
    _guard: ScopeGuard

    def open_account(self, opened_at: datetime, /) -> Account:
        with self._guard.call():
            open_account(self._store, self._tenant, opened_at)
            return self._store.accounts[self._tenant]

    def account(self) -> Account:
        with self._guard.call():
            require_account(self._store, self._tenant)
            return self._store.accounts[self._tenant]


@frozen
class MemoryLedger:
    """Keeps the promises of `LedgerRepository`."""

    _store: Store
    _tenant: TenantId
    _guard: ScopeGuard
    _may_mint: bool = field(kw_only=True)

    def post(self, transaction: Transaction, /) -> Recorded:
        with self._guard.call():
            return self._post(transaction)

    def _post(self, transaction: Transaction) -> Recorded:
        if transaction.tenant != self._tenant:
            raise PrivilegeRequired("posting a transaction of another tenant")
        if transaction.kind.is_credit and not self._may_mint:
            raise minting_refused()
        if stored := self._found(transaction.kind, transaction.reference):
            same_or_conflict(stored.transaction, transaction.request)
            return stored
        self._require_postable(transaction)
        # Everything that can still refuse it is decided before the first write.
        wallet = self._settled(transaction.at).after(transaction, self._arrived())
        if transaction.kind is TransactionKind.PURCHASE:
            self._require_unclaimed(transaction.reference)
            self._claim(transaction)
        if transaction.kind.opens_account:
            open_account(self._store, self._tenant, transaction.at)
        self._keep(wallet)
        return self._enter(transaction, wallet.as_of)

    def _require_postable(self, transaction: Transaction) -> None:
        """Return if only the wallet's state or a claim can still refuse *transaction*."""
        if not transaction.kind.opens_account:
            require_account(self._store, self._tenant)
        if (self._tenant, transaction.id) in self._store.ids:
            raise given_twice(transaction.id)

    def post_many(
        self, transactions: Sequence[Transaction], /, *, all_or_nothing: bool
    ) -> Sequence[Recorded | BillingError]:
        with self._guard.call():
            return self._post_many(transactions, all_or_nothing=all_or_nothing)

    def _post_many(self, transactions: Sequence[Transaction], *, all_or_nothing: bool) -> Answers:
        # A refused post leaves what was due on the wallet, and nothing else: one alone needs no
        # savepoint, and several catch up before theirs.
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
            require_account(self._store, self._tenant)
            return self._found(kind, reference)

    def _found(self, kind: TransactionKind, reference: str) -> Recorded | None:
        stored = self._store.recorded.get((self._tenant, kind, reference))
        return stored and evolve(stored, replayed=True)

    def transaction(self, transaction_id: UUID, /) -> Recorded | None:
        with self._guard.call():
            require_account(self._store, self._tenant)
            key = self._store.ids.get((self._tenant, transaction_id))
            return key and evolve(self._store.recorded[key], replayed=True)

    def payment(self, payment: str, /) -> Payment | None:
        with self._guard.call():
            found = self._found(TransactionKind.PURCHASE, payment)
            if found is None:
                return None
            return Payment(
                purchase=found.transaction,
                returned=self._returned(found.transaction),
                disputed=self._disputed(found.transaction),
            )

    def _returned(self, purchase: Transaction) -> Amount:
        assert purchase.paid is not None  # a purchase has it
        made = (recorded.transaction for recorded in self._store.recorded.values())
        reversals = [
            transaction.reversal
            for transaction in made
            if transaction.reversal is not None and transaction.reversal.purchase == purchase.id
        ]
        return total((reversal.amount for reversal in reversals), purchase.paid.unit)

    def _disputed(self, purchase: Transaction) -> Amount:
        assert purchase.paid is not None  # a purchase has it
        disputes = [
            self._present(dispute)
            for dispute in self._store.disputes.values()
            if dispute.purchase == purchase.id
        ]
        still_open = (each.amount for each in disputes if each.state is DisputeState.OPEN)
        return total(still_open, purchase.paid.unit)

    def dispute(self, reference: str, /) -> Dispute | None:
        with self._guard.call():
            found = self._store.disputes.get((self._tenant, reference))
            return found and self._present(found)

    def _present(self, dispute: Dispute) -> Dispute:
        if self._wallet().disputed[dispute.id].is_open:
            return dispute
        lost = self._found(TransactionKind.CHARGEBACK, dispute.reference) is not None
        return evolve(dispute, state=DisputeState.LOST if lost else DisputeState.WON)

    def hold(self, hold: Hold, /) -> Hold:
        with self._guard.call():
            if stored := self._store.holds.get((self._tenant, hold.reference)):
                wallet, _ = self._wallet().settled(hold.opened_at)
                same_or_conflict(wallet.hold(stored), hold.request)
                return evolve(wallet.hold(stored), replayed=True)
            require_account(self._store, self._tenant)
            if hold.id in self._wallet().holds:
                raise given_twice(hold.id)
            wallet = self._settled(hold.opened_at)
            self._keep(wallet.with_hold(hold, self._arrived()))
            self._store.put(self._store.holds, (self._tenant, hold.reference), hold.id)
            return hold

    def release(self, hold_id: UUID, moment: datetime, /) -> Hold:
        with self._guard.call():
            require_account(self._store, self._tenant)
            wallet = self._settled(moment)
            before = wallet.hold(hold_id)
            if before.state not in {HoldState.OPEN, HoldState.RELEASED}:
                raise HoldClosed(hold_id, before.state)
            self._keep(wallet.released(hold_id))
            return evolve(self._wallet().hold(hold_id), replayed=not before.is_open)

    def settle(self, moment: datetime, /) -> bool:
        with self._guard.call():
            was_due = self._wallet().is_due(moment)
            self._catch_up(moment)
            return was_due

    def balance(self, now: datetime, /) -> Balance:
        with self._guard.call():
            require_account(self._store, self._tenant)
            wallet, _ = self._wallet().settled(now)
            return Balance(wallet.posted + self._arrived(), held=wallet.aside)

    def balance_at(self, moment: datetime, /) -> Balance:
        with self._guard.call():
            require_account(self._store, self._tenant)
            posted = [line.amount for line in self._lines() if line.at <= moment]
            _, lapses = self._wallet().settled(moment)
            lapsed = [-lapse.amount for lapse in lapses if lapse.at <= moment]
            return Balance(total(posted + lapsed, CREDIT), held=self._wallet().held(moment))

    def grants(self, now: datetime, /) -> tuple[Grant, ...]:
        with self._guard.call():
            require_account(self._store, self._tenant)
            wallet, _ = self._wallet().settled(now)
            return tuple(wallet.spendable())

    def lines(self, page: PageRequest, /) -> tuple[Line, ...]:
        with self._guard.call():
            require_account(self._store, self._tenant)
            admitted = filter(page.admits, reversed(self._lines()))
            return tuple(islice(admitted, page.limit + 1))

    def _wallet(self) -> Wallet:
        return self._store.wallets.get(self._tenant, Wallet())

    def _keep(self, wallet: Wallet) -> None:
        self._store.put(self._store.wallets, self._tenant, wallet)

    def _settled(self, moment: datetime) -> Wallet:
        """The wallet at *moment*, after everything that was due on it is recorded."""
        self._catch_up(moment)
        wallet = self._wallet()
        return wallet.at(wallet.present(moment))

    def _catch_up(self, moment: datetime) -> None:
        """Record everything that is due. A single-call scope keeps it if the call is refused."""
        if not self._wallet().is_due(self._wallet().present(moment)):
            return
        wallet, lapses = self._wallet().caught_up(moment)
        for lapse in lapses:
            before = sum(
                recorded.transaction.subject == lapse.grant_id
                for (tenant, kind, _), recorded in self._store.recorded.items()
                if tenant == self._tenant and kind is TransactionKind.EXPIRY
            )
            self._enter(plan_expiry(self._tenant, lapse, before + 1), lapse.at)
        self._keep(wallet)
        if self._guard.is_single:
            self._store.keep()

    def _arrived(self) -> Amount:
        return self._store.balance(account_of(self._tenant)) - self._wallet().posted

    def _lines(self) -> Sequence[Line]:
        return self._store.lines.get(account_of(self._tenant), [])

    def _require_unclaimed(self, payment: str) -> None:
        if payment in self._store.payments:
            raise PaymentAlreadyClaimed(payment)

    def _claim(self, purchase: Transaction) -> None:
        self._store.put(self._store.payments, purchase.reference, self._tenant)

    def _enter(self, transaction: Transaction, at: datetime) -> Recorded:
        for posting in transaction.postings:
            own = posting.account == account_of(self._tenant)
            self._add(transaction, posting, at if own else transaction.at)
        balance = self._store.balance(account_of(self._tenant))
        recorded = Recorded(transaction, balance, replayed=False)
        key = (self._tenant, transaction.kind, transaction.reference)
        self._store.put(self._store.recorded, key, recorded)
        self._store.put(self._store.ids, (self._tenant, transaction.id), key)
        return recorded

    def _add(self, transaction: Transaction, posting: Posting, at: datetime) -> None:
        balance = self._store.balance(posting.account) + posting.amount
        self._store.put(self._store.balances, posting.account, balance)
        line = Line(
            position=len(self._store.lines.get(posting.account, ())) + 1,
            transaction_id=transaction.id,
            kind=transaction.kind,
            reference=transaction.reference if posting.tenant == self._tenant else None,
            amount=posting.amount,
            balance_after=balance,
            at=at,
        )
        self._store.append(posting.account, line)


def require_account(store: Store, tenant: TenantId) -> None:
    """Return if *tenant* has an account.

    Raises:
        UnknownAccount: it has none.
    """
    if tenant not in store.accounts:
        raise UnknownAccount(tenant)


def open_account(store: Store, tenant: TenantId, opened_at: datetime) -> None:
    """Give *tenant* an account if it has none."""
    if tenant not in store.accounts:
        store.put(store.accounts, tenant, new_account(tenant, opened_at))


@frozen
class MemoryBooks:
    """Keeps the promises of `BooksRepository`. Scopes come one after another here and balances are
    at hand, so that everything is settled and folding only keeps count.
    """

    _store: Store
    _guard: ScopeGuard

    def settled_position(self) -> int:
        with self._guard.call():
            return max(map(len, self._store.lines.values()), default=0)

    def due(self, now: datetime, /) -> tuple[TenantId, ...]:
        with self._guard.call():
            return tuple(t for t, wallet in self._store.wallets.items() if wallet.is_due(now))

    def due_attempts(
        self, now: datetime, every: timedelta, after: DueAttempt | None, /
    ) -> tuple[DueAttempt, ...]:
        with self._guard.call():
            due = sorted(due_attempts(self._store, now, every), key=_place)
            return tuple(each for each in due if after is None or _place(each) > _place(after))

    def lock(self, tenants: Iterable[TenantId], moment: datetime, /) -> There:
        with self._guard.call():
            earned = {}
            for tenant in tenants:
                open_account(self._store, tenant, moment)
                wallet, _ = self._wallet(tenant).settled(moment)
                account = account_of(tenant)
                arrived = self._store.balance(account) - self._wallet(tenant).posted
                earned[account] = wallet.earned(arrived)
            return There(earned)

    def open_dispute(self, dispute: Dispute, /) -> None:
        with self._guard.call():
            key = (dispute.tenant, dispute.reference)
            self._store.put(self._store.disputes, key, dispute)
            for part in dispute.parts():
                open_account(self._store, part.tenant, dispute.opened_at)
                self._set_aside(part)

    def close_dispute(self, dispute: Dispute, moment: datetime, /) -> None:
        with self._guard.call():
            for part in dispute.parts():
                self._set_aside(part.ended(HoldState.RELEASED, moment))

    def _set_aside(self, part: Hold) -> None:
        wallet = self._wallet(part.tenant).with_disputed(part)
        self._store.put(self._store.wallets, part.tenant, wallet)

    def _wallet(self, tenant: TenantId) -> Wallet:
        return self._store.wallets.get(tenant, Wallet())

    def verify(self, most: int, /) -> Verification:
        with self._guard.call():
            found = list(violations(self._store))
            return Verification(
                violations=tuple(
                    violation
                    for rule in Rule
                    for violation in islice((v for v in found if v.rule is rule), most)
                ),
                transactions=len(self._store.recorded),
                postings=sum(map(len, self._store.lines.values())),
            )

    def fold(self, _position: int, /) -> Folding:
        with self._guard.call():
            newer = {
                account: self._arrivals(account) - self._store.folded.get(account, 0)
                for account in self._store.lines
            }
            for account, count in newer.items():
                self._store.put(
                    self._store.folded, account, self._store.folded.get(account, 0) + count
                )
            return Folding(
                accounts=sum(count > 0 for count in newer.values()), lines=sum(newer.values())
            )

    def _arrivals(self, account: AccountId) -> int:
        contra = account in CONTRA_ACCOUNTS.values()
        return sum(contra or line.reference is None for line in self._store.lines[account])


def _place(due: DueAttempt) -> tuple[datetime, UUID, UUID]:
    return due.at, due.tenant, due.attempt_id
