"""The repositories over the in-memory tables, each bound to one tenant."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from itertools import islice
from uuid import UUID

from attrs import evolve, frozen

from cogni_billing.adapters.guard import ScopeGuard
from cogni_billing.adapters.memory.store import Store
from cogni_billing.domain.accounts import CONTRA_ACCOUNTS, Account, new_account
from cogni_billing.domain.amounts import CREDIT, ZERO, Amount, total
from cogni_billing.domain.errors import (
    LedgerCorruption,
    PaymentAlreadyClaimed,
    PrivilegeRequired,
    UnknownAccount,
)
from cogni_billing.domain.folding import Folding
from cogni_billing.domain.idempotency import same_or_conflict
from cogni_billing.domain.identity import TenantId, account_of
from cogni_billing.domain.statements import Balance, Line, PageRequest
from cogni_billing.domain.transactions import Posting, Recorded, Transaction, TransactionKind
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
            if self._tenant not in self._store.accounts:
                raise UnknownAccount(self._tenant)
            return self._store.accounts[self._tenant]


@frozen
class MemoryLedger:
    """Keeps the promises of `LedgerRepository`."""

    _store: Store
    _tenant: TenantId
    _guard: ScopeGuard

    def post(self, transaction: Transaction, /) -> Recorded:
        with self._guard.call():
            if transaction.tenant != self._tenant:
                raise PrivilegeRequired("posting a transaction of another tenant")
            if stored := self._found(transaction.kind, transaction.reference):
                same_or_conflict(stored.transaction, transaction.request)
                return stored
            if transaction.kind is TransactionKind.PURCHASE:
                self._claim(transaction)
            elif self._tenant not in self._store.accounts:
                raise UnknownAccount(self._tenant)
            return self._record(transaction)

    def find(self, kind: TransactionKind, reference: str, /) -> Recorded | None:
        with self._guard.call():
            return self._found(kind, reference)

    def _found(self, kind: TransactionKind, reference: str) -> Recorded | None:
        stored = self._store.recorded.get((self._tenant, kind, reference))
        return stored and evolve(stored, replayed=True)

    def transaction(self, transaction_id: UUID, /) -> Recorded | None:
        with self._guard.call():
            key = self._store.ids.get((self._tenant, transaction_id))
            return key and evolve(self._store.recorded[key], replayed=True)

    def balance(self) -> Balance:
        with self._guard.call():
            return _balance(self._store.balance(account_of(self._tenant)))

    def balance_at(self, moment: datetime, /) -> Balance:
        with self._guard.call():
            until = (line.amount for line in self._lines() if line.at <= moment)
            return _balance(total(until, CREDIT))

    def lines(self, page: PageRequest, /) -> tuple[Line, ...]:
        with self._guard.call():
            admitted = filter(page.admits, reversed(self._lines()))
            return tuple(islice(admitted, page.limit + 1))

    def _lines(self) -> Sequence[Line]:
        return self._store.lines.get(account_of(self._tenant), [])

    def _claim(self, purchase: Transaction) -> None:
        if purchase.reference in self._store.payments:
            raise PaymentAlreadyClaimed(purchase.reference)
        self._store.put(self._store.payments, purchase.reference, self._tenant)
        open_account(self._store, self._tenant, purchase.at)

    def _record(self, transaction: Transaction) -> Recorded:
        if (self._tenant, transaction.id) in self._store.ids:
            raise LedgerCorruption(f"the id source gave {transaction.id} twice")
        wallet = self._store.wallets.get(self._tenant, Wallet())
        arrived = self._store.balance(account_of(self._tenant)) - wallet.posted
        wallet = wallet.after(transaction, arrived)
        self._store.put(self._store.wallets, self._tenant, wallet)
        for posting in transaction.postings:
            own = posting.account == account_of(self._tenant)
            self._add(transaction, posting, wallet.as_of if own else transaction.at)
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


def _balance(posted: Amount) -> Balance:
    return Balance(posted, held=ZERO)


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

    def fold(self, _position: int, /) -> Folding:
        with self._guard.call():
            newer = {
                account: len(lines) - self._store.folded.get(account, 0)
                for account, lines in self._store.lines.items()
                if account in CONTRA_ACCOUNTS.values()
                or any(line.reference is None for line in lines)
            }
            for account, count in newer.items():
                self._store.put(
                    self._store.folded, account, self._store.folded.get(account, 0) + count
                )
            return Folding(
                accounts=sum(count > 0 for count in newer.values()), lines=sum(newer.values())
            )
