"""The in-memory tables: dictionaries with one lock and an undo log."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import TypeAlias, TypeVar
from uuid import UUID

from attrs import define, field

from cogni_billing.domain.accounts import Account, new_account
from cogni_billing.domain.amounts import CREDIT, ZERO, Amount, total
from cogni_billing.domain.attempts import Attempt, AttemptEvent
from cogni_billing.domain.disputes import Dispute
from cogni_billing.domain.errors import LedgerUnavailable
from cogni_billing.domain.grants import GrantExtension
from cogni_billing.domain.hold_changes import Extension, Release
from cogni_billing.domain.identity import SYSTEM_TENANT_ID, AccountId, TenantId
from cogni_billing.domain.inbox import InboxEntry
from cogni_billing.domain.kinds import TransactionKind
from cogni_billing.domain.statements import Line
from cogni_billing.domain.timestamps import EARLIEST
from cogni_billing.domain.transactions import Recorded, Transaction
from cogni_billing.domain.wallets import Wallet

Name = TypeVar("Name", bound=Hashable)
Value = TypeVar("Value")
Key: TypeAlias = tuple[TenantId, TransactionKind, str]


def _system_tenant() -> dict[TenantId, Account]:
    return {SYSTEM_TENANT_ID: new_account(SYSTEM_TENANT_ID, EARLIEST)}


@define
class Store:
    """The in-memory tables. `put` and `append` change them, inside `transaction`."""

    accounts: dict[TenantId, Account] = field(factory=_system_tenant)
    payments: dict[str, TenantId] = field(factory=dict)
    ids: dict[tuple[TenantId, UUID], Key] = field(factory=dict)
    recorded: dict[Key, Recorded] = field(factory=dict)
    wallets: dict[TenantId, Wallet] = field(factory=dict)
    balances: dict[AccountId, Amount] = field(factory=dict)
    lines: dict[AccountId, list[Line]] = field(factory=dict)
    holds: dict[tuple[TenantId, str], UUID] = field(factory=dict)
    extensions: dict[tuple[TenantId, str], GrantExtension] = field(factory=dict)
    schedules: dict[tuple[TenantId, str], UUID] = field(factory=dict)
    waiting: dict[tuple[TenantId, str], tuple[UUID, Amount]] = field(factory=dict)
    """The id of each grant that was to begin later, and the balance at the call."""
    hold_extensions: dict[tuple[TenantId, str], Extension] = field(factory=dict)
    hold_releases: dict[tuple[TenantId, str], Release] = field(factory=dict)
    disputes: dict[tuple[TenantId, str], Dispute] = field(factory=dict)
    folded: dict[AccountId, int] = field(factory=dict)
    frozen_after: dict[TenantId, int] = field(factory=dict)
    """The number of lines on an account when it was last frozen."""
    limited_after: dict[TenantId, int] = field(factory=dict)
    """The number of lines on an account when the limit of its overdrafts was last changed."""
    erased: dict[tuple[TenantId, UUID], str] = field(factory=dict)
    attempts: dict[tuple[TenantId, UUID], Attempt] = field(factory=dict)
    events: dict[tuple[TenantId, UUID], tuple[AttemptEvent, ...]] = field(factory=dict)
    checked: dict[tuple[TenantId, UUID], datetime] = field(factory=dict)
    inbox: dict[str, InboxEntry] = field(factory=dict)
    _undo: list[Callable[[], object]] = field(factory=list)
    _lock: threading.Lock = field(factory=threading.Lock)
    _holder: int | None = None
    _savepoints: int = 0

    def purchase(self, tenant: TenantId, payment: str | None) -> Transaction | None:
        """The tenant's purchase of *payment*."""
        found = self.recorded.get((tenant, TransactionKind.PURCHASE, payment or ""))
        return None if found is None else found.transaction

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """A block whose changes are rolled back if it raises. One block runs at a time.

        Raises:
            LedgerUnavailable: this thread has an open block already, and would wait for itself.
        """
        if self._holder == threading.get_ident():
            raise LedgerUnavailable("this thread has a scope open; end it before the next")
        with self._lock:
            self._holder = threading.get_ident()
            try:
                yield
            except BaseException:
                for undo in reversed(self._undo):
                    undo()
                raise
            finally:
                self._undo.clear()
                self._holder = None

    @contextmanager
    def savepoint(self) -> Iterator[None]:
        """A block inside `transaction` whose changes are rolled back if it raises."""
        start = len(self._undo)
        self._savepoints += 1
        try:
            yield
        except BaseException:
            while len(self._undo) > start:
                self._undo.pop()()
            raise
        finally:
            self._savepoints -= 1

    def keep(self) -> None:
        """Make the changes so far permanent, even if the transaction raises later.

        Inside a savepoint it has no effect, because the block may still roll back.
        """
        if self._savepoints == 0:
            self._undo.clear()

    def put(self, table: dict[Name, Value], key: Name, value: Value) -> None:
        if key in table:
            previous = table[key]
            self._undo.append(lambda: table.__setitem__(key, previous))
        else:
            self._undo.append(lambda: table.pop(key))
        table[key] = value

    def append(self, account: AccountId, line: Line) -> None:
        if account not in self.lines:
            self.put(self.lines, account, [])
        lines = self.lines[account]
        lines.append(line)
        self._undo.append(lines.pop)

    def balance(self, account: AccountId) -> Amount:
        return self.balances.get(account, ZERO)

    def arrived_by(self, account: AccountId, moment: datetime) -> Amount:
        """The sum of the credits that other tenants' transactions added by *moment*."""
        others = (line for line in self.lines.get(account, ()) if line.reference is None)
        return total((line.amount for line in others if line.at <= moment), CREDIT)
