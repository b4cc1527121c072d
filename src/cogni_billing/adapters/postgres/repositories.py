"""The repositories over one open connection: run a statement, map its rows."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from uuid import UUID

from attrs import frozen
from sqlalchemy import Connection, TextClause

from cogni_billing.adapters.guard import ScopeGuard
from cogni_billing.adapters.postgres import statements
from cogni_billing.adapters.postgres.failures import translated
from cogni_billing.adapters.postgres.rows import (
    account_from,
    account_parameters,
    line_of,
    recorded_from,
    transaction_parameters,
)
from cogni_billing.domain.accounts import Account
from cogni_billing.domain.amounts import CREDIT, Amount
from cogni_billing.domain.errors import (
    BillingError,
    LedgerCorruption,
    PaymentAlreadyClaimed,
    UnknownAccount,
)
from cogni_billing.domain.idempotency import same_or_conflict
from cogni_billing.domain.identity import TenantId
from cogni_billing.domain.statements import Balance, Line, PageRequest
from cogni_billing.domain.transactions import Recorded, Transaction, TransactionKind

_POSITION_MAX = 2**63 - 1


@frozen
class PostgresTenants:
    """Keeps the promises of `TenantRepository`."""

    _connection: Connection
    _tenant: TenantId
    _guard: ScopeGuard

    def open_account(self, opened_at: datetime, /) -> Account:
        with self._guard.call(), translated():
            parameters = account_parameters(self._tenant) | {"opened_at": opened_at}
            self._connection.execute(statements.OPEN_ACCOUNT, parameters)
        return self.account()

    def account(self) -> Account:
        with self._guard.call(), translated():
            row = self._connection.execute(
                statements.ACCOUNT, account_parameters(self._tenant)
            ).one_or_none()
            if row is None:
                raise UnknownAccount(self._tenant)
            return account_from(row)


@frozen
class PostgresLedger:
    """Keeps the promises of `LedgerRepository`."""

    _connection: Connection
    _tenant: TenantId
    _guard: ScopeGuard

    def post(self, transaction: Transaction, /) -> Recorded:
        with self._guard.call(), translated():
            balance_after = self._connection.execute(
                statements.POST, transaction_parameters(transaction)
            ).scalar_one_or_none()
            if balance_after is not None:
                return Recorded(transaction, _credits(balance_after), replayed=False)
            stored = self._found(transaction.kind, transaction.reference)
            if stored is None:
                raise self._refusal(transaction)
            same_or_conflict(stored.transaction, transaction.request)
            return stored

    def _refusal(self, transaction: Transaction) -> BillingError:
        """Why nothing was posted, though nothing that this scope can see has the key."""
        if transaction.kind is TransactionKind.PURCHASE:
            return PaymentAlreadyClaimed(transaction.reference)
        parameters = account_parameters(self._tenant)
        if self._connection.execute(statements.ACCOUNT, parameters).one_or_none() is None:
            return UnknownAccount(self._tenant)
        return LedgerCorruption(f"the id source gave {transaction.id} twice")

    def find(self, kind: TransactionKind, reference: str, /) -> Recorded | None:
        with self._guard.call(), translated():
            return self._found(kind, reference)

    def _found(self, kind: TransactionKind, reference: str) -> Recorded | None:
        key = {"tenant": self._tenant, "kind": kind.value, "reference": reference}
        row = self._connection.execute(statements.RECORDED_BY_KEY, key).one_or_none()
        return row and recorded_from(row, self._tenant)

    def transaction(self, transaction_id: UUID, /) -> Recorded | None:
        with self._guard.call(), translated():
            parameters = {"tenant": self._tenant, "id": transaction_id}
            row = self._connection.execute(statements.RECORDED_BY_ID, parameters).one_or_none()
            return row and recorded_from(row, self._tenant)

    def balance(self) -> Balance:
        with self._guard.call(), translated():
            return self._balance(statements.POSTED)

    def balance_at(self, moment: datetime, /) -> Balance:
        with self._guard.call(), translated():
            return self._balance(statements.POSTED_BY, moment=moment)

    def _balance(self, statement: TextClause, **more: object) -> Balance:
        parameters = account_parameters(self._tenant) | {"unit": CREDIT.code, **more}
        posted = self._connection.execute(statement, parameters).scalar_one()
        return Balance(_credits(posted), held=_credits(Decimal(0)))

    def lines(self, page: PageRequest, /) -> tuple[Line, ...]:
        with self._guard.call(), translated():
            filters = {"kind": page.kind, "since": page.since, "until": page.until}
            asked = {name: given for name, given in filters.items() if given is not None}
            rows = self._connection.execute(
                statements.lines(**{name: name in asked for name in filters}),
                account_parameters(self._tenant)
                | {
                    "before": _POSITION_MAX if page.before is None else page.before,
                    "limit": page.limit + 1,
                    **asked,
                },
            )
            return tuple(map(line_of, rows))


def _credits(value: Decimal) -> Amount:
    return Amount.computed(value, CREDIT)
