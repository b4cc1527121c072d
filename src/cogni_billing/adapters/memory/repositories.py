"""The repositories over the in-memory tables, each bound to one tenant."""

from __future__ import annotations

from datetime import datetime
from itertools import islice

from attrs import evolve, frozen

from cogni_billing.adapters.guard import ScopeGuard
from cogni_billing.adapters.memory.store import Store
from cogni_billing.domain.accounts import Account, new_account
from cogni_billing.domain.amounts import CREDIT, total
from cogni_billing.domain.errors import (
    LedgerCorruption,
    PaymentAlreadyClaimed,
    PrivilegeRequired,
    UnknownAccount,
)
from cogni_billing.domain.idempotency import same_or_conflict
from cogni_billing.domain.identity import TenantId, account_of
from cogni_billing.domain.statements import Balance, Line, PageRequest
from cogni_billing.domain.transactions import Posting, Recorded, Transaction, TransactionKind


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
            if transaction.reference in self._store.payments:
                raise PaymentAlreadyClaimed(transaction.reference)
            return self._record(transaction)

    def find(self, kind: TransactionKind, reference: str, /) -> Recorded | None:
        with self._guard.call():
            return self._found(kind, reference)

    def _found(self, kind: TransactionKind, reference: str) -> Recorded | None:
        stored = self._store.recorded.get((self._tenant, kind, reference))
        return stored and evolve(stored, replayed=True)

    def balance(self) -> Balance:
        with self._guard.call():
            posted = self._store.balance(account_of(self._tenant))
            return Balance(posted, held=total((), CREDIT))

    def lines(self, page: PageRequest, /) -> tuple[Line, ...]:
        with self._guard.call():
            lines = self._store.lines.get(account_of(self._tenant), [])
            older = (
                line
                for line in reversed(lines)
                if page.before is None or line.position < page.before
            )
            return tuple(islice(older, page.limit + 1))

    def _record(self, transaction: Transaction) -> Recorded:
        if (self._tenant, transaction.id) in self._store.ids:
            raise LedgerCorruption(f"the id source gave {transaction.id} twice")
        self._store.put(self._store.ids, (self._tenant, transaction.id), None)
        open_account(self._store, self._tenant, transaction.at)
        self._store.put(self._store.payments, transaction.reference, self._tenant)
        for posting in transaction.postings:
            self._add(transaction, posting)
        balance = self._store.balance(account_of(self._tenant))
        recorded = Recorded(transaction, balance, replayed=False)
        key = (self._tenant, transaction.kind, transaction.reference)
        self._store.put(self._store.recorded, key, recorded)
        return recorded

    def _add(self, transaction: Transaction, posting: Posting) -> None:
        balance = self._store.balance(posting.account) + posting.amount
        self._store.put(self._store.balances, posting.account, balance)
        own = posting.tenant == self._tenant
        line = Line(
            position=len(self._store.lines.get(posting.account, ())) + 1,
            transaction_id=transaction.id,
            kind=transaction.kind,
            reference=transaction.reference if own else None,
            amount=posting.amount,
            balance_after=balance if own else None,
            at=transaction.at,
        )
        self._store.append(posting.account, line)


def open_account(store: Store, tenant: TenantId, opened_at: datetime) -> None:
    """Give *tenant* an account if it has none."""
    if tenant not in store.accounts:
        store.put(store.accounts, tenant, new_account(tenant, opened_at))
