"""The books of all tenants, in memory."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from heapq import nsmallest
from itertools import islice
from typing import Any, TypeVar
from uuid import UUID

from attrs import evolve, frozen

from cogni_billing.adapters.guard import ScopeGuard
from cogni_billing.adapters.memory.attempts import due_attempts
from cogni_billing.adapters.memory.audit import violations
from cogni_billing.adapters.memory.erasure import forget, sealed_metadata, without_texts
from cogni_billing.adapters.memory.ledger import MemoryLedger
from cogni_billing.adapters.memory.payments import payment_of, set_aside
from cogni_billing.adapters.memory.store import Store
from cogni_billing.adapters.memory.tenants import account, open_account, require_account
from cogni_billing.domain.accounts import CONTRA_ACCOUNTS, Account, Freeze
from cogni_billing.domain.amounts import Amount
from cogni_billing.domain.attempts import DueAttempt
from cogni_billing.domain.disputes import Dispute
from cogni_billing.domain.erasure import require_unretained
from cogni_billing.domain.folding import Folding
from cogni_billing.domain.found_payments import Claim
from cogni_billing.domain.identity import AccountId, TenantId, account_of
from cogni_billing.domain.kinds import TransactionKind
from cogni_billing.domain.metadata import Json
from cogni_billing.domain.reversals import Recoverable
from cogni_billing.domain.seals import Entry, Piece
from cogni_billing.domain.transactions import Recorded, Transaction
from cogni_billing.domain.verification import Invariant, Verification
from cogni_billing.domain.wallets import DueWallet, Wallet
from cogni_billing.ports.books import DUE_MAX

Due = TypeVar("Due", DueWallet, DueAttempt)


@frozen
class MemoryBooks:
    """The in-memory `BooksRepository`.

    Scopes run one after another and balances are stored, so `fold` only counts arrivals.
    """

    _store: Store
    _ledger: MemoryLedger
    _guard: ScopeGuard

    def safe_position(self) -> int:
        with self._guard.call():
            return max(map(len, self._store.lines.values()), default=0)

    def due(self, now: datetime, after: DueWallet | None, /) -> tuple[DueWallet, ...]:
        with self._guard.call():
            due = (
                DueWallet(at=min(wallet.instants()), tenant=tenant)
                for tenant, wallet in self._store.wallets.items()
                if wallet.is_due(now)
            )
            return _page(due, after, _wallet_place)

    def due_attempts(
        self, now: datetime, every: timedelta, after: DueAttempt | None, /
    ) -> tuple[DueAttempt, ...]:
        with self._guard.call():
            return _page(due_attempts(self._store, now, every), after, _attempt_place)

    def lock(self, tenants: Iterable[TenantId], moment: datetime, /) -> Recoverable:
        with self._guard.call():
            earned = {}
            for tenant in tenants:
                open_account(self._store, tenant, moment)
                account = account_of(tenant)
                arrived_by = partial(self._store.arrived_by, account)
                wallet, _ = self._wallet(tenant).expired_by(moment, arrived_by)
                arrived = self._store.balance(account) - self._wallet(tenant).posted
                earned[account] = wallet.earned(arrived)
            return Recoverable(earned)

    def settle_dispute(
        self, dispute: Dispute, transaction: Transaction | None, moment: datetime, /
    ) -> Recorded | None:
        with self._guard.call():
            purchase = self._store.purchase(dispute.tenant, dispute.payment)
            assert purchase is not None  # the plan is of a payment
            payment = payment_of(self._store, purchase, moment)
            if dispute.number == 0:
                for tenant in (dispute.tenant, *payment.beneficiaries):
                    open_account(self._store, tenant, moment)
                wallet = self._wallet(dispute.tenant).disputing(dispute)
                self._store.put(self._store.wallets, dispute.tenant, wallet)
            set_aside(
                self._store, payment.with_dispute(dispute).disputes_at(payment.returned), moment
            )
            return None if transaction is None else self._ledger.post(transaction)

    def _wallet(self, tenant: TenantId) -> Wallet:
        return self._store.wallets.get(tenant, Wallet())

    def claim(self, payments: Iterable[str], /) -> Claim | None:
        with self._guard.call():
            claimed = self._store.payments
            found = (Claim(each, claimed[each]) for each in sorted(payments) if each in claimed)
            return next(found, None)

    def verify(self, limit: int, /) -> Verification:
        with self._guard.call():
            found = list(violations(self._store))
            return Verification(
                violations=tuple(
                    violation
                    for invariant in Invariant
                    for violation in islice((v for v in found if v.invariant is invariant), limit)
                ),
                transactions=len(self._store.recorded),
                postings=sum(map(len, self._store.lines.values())),
            )

    def freeze(self, tenant: TenantId, freeze: Freeze | None, /) -> Account:
        with self._guard.call():
            before = account(self._store, tenant).freeze
            if freeze is None or before is None:
                frozen = evolve(self._wallet(tenant), freeze=freeze)
                self._store.put(self._store.wallets, tenant, frozen)
                self._store.put(self._store.frozen_after, tenant, self._lines(tenant))
            return account(self._store, tenant)

    def limit_overdraft(self, tenant: TenantId, limit: Amount | None, /) -> Account:
        with self._guard.call():
            if account(self._store, tenant).overdraft_limit != limit:
                limited = evolve(self._wallet(tenant), overdraft_limit=limit)
                self._store.put(self._store.wallets, tenant, limited)
                self._store.put(self._store.limited_after, tenant, self._lines(tenant))
            return account(self._store, tenant)

    def _lines(self, tenant: TenantId) -> int:
        return len(self._store.lines.get(account_of(tenant), ()))

    def forget(self, tenant: TenantId, now: datetime, retention: timedelta | None, /) -> int:
        with self._guard.call():
            require_account(self._store, tenant)
            require_unretained(self._wallet(tenant).as_of, retention, now)
            return forget(self._store, tenant)

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

    def transaction_counts(self) -> Mapping[TenantId, int]:
        with self._guard.call():
            return Counter(tenant for tenant, _, _ in self._store.recorded)

    def history(self, pieces: Sequence[Piece], /) -> Sequence[Sequence[Entry]]:
        with self._guard.call():
            made = defaultdict[TenantId, list[Transaction]](list)
            for recorded in self._store.recorded.values():
                made[recorded.transaction.tenant].append(recorded.transaction)
            return [
                [
                    Entry(position, self._record(transaction))
                    for position, transaction in enumerate(made[piece.tenant], 1)
                    if position in piece.positions
                ]
                for piece in pieces
            ]

    def _record(self, made: Transaction) -> Mapping[str, Json]:
        lines = self._store.lines[account_of(made.tenant)]
        own = next(line for line in lines if line.transaction_id == made.id and line.reference)
        record: dict[str, Json] = {
            "transaction": repr(without_texts(made)),
            "metadata": sealed_metadata(self._store, made),
            "line": repr(own),
        }
        if made.kind is TransactionKind.PURCHASE:
            record["claim"] = repr(self._store.payments.get(made.reference))
        return record

    def _arrivals(self, account: AccountId) -> int:
        contra = account in CONTRA_ACCOUNTS.values()
        return sum(contra or line.reference is None for line in self._store.lines[account])


def _wallet_place(due: DueWallet) -> tuple[datetime, UUID]:
    return due.at, due.tenant


def _attempt_place(due: DueAttempt) -> tuple[datetime, UUID, UUID]:
    return due.at, due.tenant, due.attempt_id


def _page(due: Iterable[Due], after: Due | None, place: Callable[[Due], Any]) -> tuple[Due, ...]:
    later = (each for each in due if after is None or place(each) > place(after))
    return tuple(nsmallest(DUE_MAX, later, key=place))
