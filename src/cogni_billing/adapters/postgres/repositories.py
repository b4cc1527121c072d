"""The ledger over one open connection: run a statement, map its rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from decimal import Decimal
from functools import partial
from typing import Any, Final
from uuid import UUID

from attrs import define, evolve, frozen
from sqlalchemy import Connection, Select, TextClause
from sqlalchemy.exc import DBAPIError

from cogni_billing.adapters.batches import Answers, all_or_none, one_by_one
from cogni_billing.adapters.guard import ScopeGuard
from cogni_billing.adapters.postgres import posting, statements
from cogni_billing.adapters.postgres.failures import (
    SERIALIZATION_FAILURE,
    is_privilege,
    is_refused_by,
    translated,
)
from cogni_billing.adapters.postgres.rows import (
    Parameters,
    account_parameters,
    batch_parameters,
    dispute_from,
    grant_from,
    hold_from,
    hold_parameters,
    line_of,
    recorded_from,
    transaction_parameters,
)
from cogni_billing.adapters.rights import minting_refused
from cogni_billing.domain.amounts import CREDIT, Amount, parsed
from cogni_billing.domain.batches import Key, plan_batch, to_post
from cogni_billing.domain.disputes import Dispute
from cogni_billing.domain.errors import (
    BillingError,
    HoldClosed,
    InsufficientCredits,
    LedgerCorruption,
    LedgerUnavailable,
    PaymentAlreadyClaimed,
    UnknownAccount,
    UnknownHold,
    given_twice,
)
from cogni_billing.domain.grants import Grant, Lapse, plan_expiry
from cogni_billing.domain.holds import Hold, HoldState
from cogni_billing.domain.idempotency import same_or_conflict
from cogni_billing.domain.identity import TenantId
from cogni_billing.domain.moments import require_unexpired
from cogni_billing.domain.refunds import Payment
from cogni_billing.domain.statements import Balance, Line, PageRequest
from cogni_billing.domain.transactions import Recorded, Transaction, TransactionKind

_POST: Final = {kind: statements.sent(clause) for kind, clause in posting.POST.items()}
_POSITION_MAX = 2**63 - 1
_PLANS_MAX = 10


@define
class _Overtaken(Exception):
    """Somebody came first with the keys of some transactions of a batch."""

    transactions: Sequence[Transaction]


@frozen
class PostgresLedger:
    """Keeps the promises of `LedgerRepository`."""

    _connection: Connection
    _tenant: TenantId
    _guard: ScopeGuard

    def post(self, transaction: Transaction, /) -> Recorded:
        with self._guard.call():
            return self._post(transaction)

    def _post(self, transaction: Transaction) -> Recorded:
        with translated():
            if transaction.kind.reverses:
                self._settle(transaction.at)  # its statement does not look at what is due
            balance_after = self._posted(transaction)
            if balance_after is None:
                stored = self._found(transaction.kind, transaction.reference)
                if stored is not None:
                    same_or_conflict(stored.transaction, transaction.request)
                    return stored
                # What stood in the way may have been due, and seen to by now by whomever.
                self._settle(transaction.at)
                balance_after = self._posted(transaction)
            if balance_after is None:
                raise self._refusal(transaction)
            return Recorded(transaction, _credits(balance_after), replayed=False)

    def post_many(
        self, transactions: Sequence[Transaction], /, *, all_or_nothing: bool
    ) -> Sequence[Recorded | BillingError]:
        post = partial(self._post_many, transactions)
        with self._guard.call(), translated():
            return all_or_none(post, self._savepoint) if all_or_nothing else post()

    def _post_many(self, transactions: Sequence[Transaction]) -> Answers:
        """Plan, and post in one statement; where others came first meanwhile, plan again."""
        if len(transactions) <= 1:
            return one_by_one(transactions, self._post, self._savepoint)
        kind, at = transactions[0].kind, transactions[0].at
        if kind.raises and not self._connection.execute(statements.MAY_MINT).scalar_one():
            raise minting_refused()
        if not kind.opens and not self._has_account():
            return [UnknownAccount(self._tenant) for _ in transactions]
        claimed = set[str]()
        for _ in range(_PLANS_MAX):
            self._settle(at)
            answers = plan_batch(
                transactions,
                stored=self._stored(transactions),
                claimed=claimed,
                available=self._balance(statements.BALANCE, now=at).available,
            )
            try:
                with self._savepoint(), translated():
                    after = self._posted_many(to_post(answers))
            except InsufficientCredits:
                continue
            except _Overtaken as overtaken:
                claimed |= self._claimed_by_others(overtaken.transactions)
                continue
            return [
                Recorded(answer, after[answer.id], replayed=answer is not transaction)
                if isinstance(answer, Transaction)
                else answer
                for transaction, answer in zip(transactions, answers, strict=True)
            ]
        raise _overtaken()

    def _posted_many(self, transactions: Sequence[Transaction]) -> dict[UUID, Amount]:
        """The balance after each of *transactions*, all of which were posted."""
        if not transactions:
            return {}
        parameters = batch_parameters(self._tenant, transactions)
        statement = posting.POST_MANY[transactions[0].kind]
        rows = self._connection.execute(statement, parameters)
        after = {row.transaction_id: _credits(row.balance_after) for row in rows}
        if missing := [each for each in transactions if each.id not in after]:
            raise _Overtaken(missing)
        return after

    def _claimed_by_others(self, missing: Sequence[Transaction]) -> set[str]:
        """Which payments of purchases that could not be posted are another tenant's.

        Raises:
            LedgerCorruption: what kept a charge from being posted is its id.
        """
        stored = self._stored(missing)
        lost = [each for each in missing if (each.kind, each.reference) not in stored]
        for each in lost:
            if each.kind is not TransactionKind.PURCHASE and self._has(
                statements.RECORDED_BY_ID, each.id
            ):
                raise given_twice(each.id)
        payments = (each.reference for each in lost if each.kind is TransactionKind.PURCHASE)
        return {payment for payment in payments if self._is_claimed(payment)}

    def _is_claimed(self, payment: str) -> bool:
        """Whether somebody has *payment*: a claim to a free one is refused without its purchase."""
        claim = {"payment": payment, "tenant": self._tenant}
        try:
            with self._savepoint():
                self._connection.execute(statements.CLAIM, claim)
        except DBAPIError as error:
            if is_refused_by(error, "payments_have_their_purchase"):
                return False
            raise
        return True

    def _stored(self, transactions: Sequence[Transaction]) -> dict[Key, Recorded]:
        """What is recorded under the keys of *transactions*, which are of one kind."""
        keys = {
            "tenant": self._tenant,
            "kind": transactions[0].kind.value,
            "references": [transaction.reference for transaction in transactions],
        }
        rows = self._connection.execute(statements.RECORDED_BY_KEYS, keys)
        found = (recorded_from(row, self._tenant) for row in rows)
        return {(each.transaction.kind, each.transaction.reference): each for each in found}

    @contextmanager
    def _savepoint(self) -> Iterator[None]:
        with self._connection.begin_nested():
            yield

    def _posted(self, transaction: Transaction) -> Decimal | None:
        """The balance after *transaction*; `None` when nothing was posted."""
        statement, parameters = _POST[transaction.kind], transaction_parameters(transaction)
        try:
            return self._connection.exec_driver_sql(statement, parameters).scalar_one_or_none()
        except DBAPIError as error:
            if transaction.kind.raises and is_privilege(error):
                raise minting_refused() from error
            raise

    def settle(self, moment: datetime, /) -> bool:
        with self._guard.call(), translated():
            return self._settle(moment)

    def _settle(self, moment: datetime) -> bool:
        """Let what is due on the wallet happen, one after another; whether anything was."""
        happened = False
        due = self._account | {"at": moment}
        while settled := self._connection.execute(statements.SETTLE, due).one_or_none():
            instant = settled.present.astimezone(UTC)
            expired = self._account | {"moment": instant}
            lapsed = self._connection.execute(statements.LAPSED, expired).all()
            for row in lapsed:
                lapse = Lapse(row.id, _credits(row.remaining), instant)
                expiry = plan_expiry(self._tenant, lapse, row.lapsed_before + 1)
                if self._posted(expiry) is None:
                    raise LedgerCorruption(f"the id of expiry {expiry.reference} is taken")
            happened = happened or settled.ended > 0 or bool(lapsed)
        return happened

    def _refusal(self, transaction: Transaction) -> BillingError:
        """Why nothing was posted, though a moment ago nothing in sight had the key."""
        if self._found(transaction.kind, transaction.reference) is not None:
            return _overtaken()
        if transaction.kind is TransactionKind.PURCHASE:
            payment = transaction.reference
            return PaymentAlreadyClaimed(payment) if self._is_claimed(payment) else _overtaken()
        if transaction.terms is not None:
            require_unexpired(transaction.terms.expires_at, self._present(transaction.at))
        if transaction.subject is not None and self._has_account():
            hold = self._hold(transaction.subject, transaction.at)
            hold.require_capturable(-transaction.amount)
        return self._no_account_or_twice(statements.RECORDED_BY_ID, transaction.id)

    def _no_account_or_twice(self, by_id: Select[Any], given_id: UUID) -> BillingError:
        if not self._has_account():
            return UnknownAccount(self._tenant)
        return given_twice(given_id) if self._has(by_id, given_id) else _overtaken()

    def _has(self, by_id: Select[Any], given_id: UUID) -> bool:
        key = {"tenant": self._tenant, "id": given_id}
        return self._connection.execute(by_id, key).one_or_none() is not None

    def _has_account(self) -> bool:
        found = self._connection.execute(statements.ACCOUNT, account_parameters(self._tenant))
        return found.one_or_none() is not None

    def payment(self, payment: str, /) -> Payment | None:
        with self._guard.call(), translated():
            found = self._found(TransactionKind.PURCHASE, payment)
            if found is None:
                return None
            purchase = found.transaction
            key = {"tenant": self._tenant, "purchase": purchase.id}
            row = self._connection.execute(statements.RETURNED, key).one()
            unit = parsed(purchase.request["amount"]).unit
            return Payment(
                purchase=purchase,
                returned=Amount.computed(row.returned or Decimal(0), unit),
                disputed=Amount.computed(row.disputed or Decimal(0), unit),
            )

    def dispute(self, reference: str, /) -> Dispute | None:
        with self._guard.call(), translated():
            key = {"tenant": self._tenant, "reference": reference}
            row = self._connection.execute(statements.DISPUTE, key).one_or_none()
            return None if row is None else dispute_from(row)

    def hold(self, hold: Hold, /) -> Hold:
        with self._guard.call(), translated():
            if self._opened(hold):
                return hold
            key = {"tenant": self._tenant, "reference": hold.reference}
            row = self._connection.execute(statements.HOLD_BY_KEY, key).one_or_none()
            if row is not None:
                found = hold_from(row, self._present(hold.opened_at))
                same_or_conflict(found, hold.request)
                return evolve(found, replayed=True)
            self._settle(hold.opened_at)
            if self._opened(hold):
                return hold
            if self._has_account():
                require_unexpired(hold.expires_at, self._present(hold.opened_at))
            raise self._no_account_or_twice(statements.HOLD_BY_ID, hold.id)

    def _opened(self, hold: Hold) -> bool:
        row = self._connection.execute(statements.OPEN_HOLD, hold_parameters(hold))
        return row.one_or_none() is not None

    def release(self, hold_id: UUID, moment: datetime, /) -> Hold:
        with self._guard.call(), translated():
            self._settle(moment)
            parameters = {"id": hold_id, "unit": CREDIT.code, "at": moment}
            released = self._connection.execute(statements.RELEASE_HOLD, parameters).scalar_one()
            hold = self._hold(hold_id, moment)
            if hold.state is not HoldState.RELEASED:
                raise HoldClosed(hold_id, hold.state)
            return evolve(hold, replayed=not released)

    def _hold(self, hold_id: UUID, moment: datetime) -> Hold:
        key = {"tenant": self._tenant, "id": hold_id}
        row = self._connection.execute(statements.HOLD_BY_ID, key).one_or_none()
        if row is None:
            raise UnknownHold(hold_id)
        return hold_from(row, self._present(moment))

    def _present(self, moment: datetime) -> datetime:
        """*moment*, or the wallet's own where that is later."""
        as_of = self._connection.execute(statements.PRESENT, self._account).scalar_one()
        return moment if as_of is None else max(moment, as_of.astimezone(UTC))

    @property
    def _account(self) -> Parameters:
        return account_parameters(self._tenant) | {"unit": CREDIT.code}

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

    def grants(self, now: datetime, /) -> tuple[Grant, ...]:
        with self._guard.call(), translated():
            parameters = self._account | {"moment": self._present(now)}
            rows = self._connection.execute(statements.GRANTS, parameters)
            return tuple(grant_from(row) for row in rows if row.remaining)

    def balance(self, now: datetime, /) -> Balance:
        with self._guard.call(), translated():
            return self._balance(statements.BALANCE, now=now)

    def balance_at(self, moment: datetime, /) -> Balance:
        with self._guard.call(), translated():
            return self._balance(statements.BALANCE_AT, moment=moment)

    def _balance(self, statement: TextClause, **more: object) -> Balance:
        row = self._connection.execute(statement, self._account | more).one()
        return Balance(_credits(row.posted), held=_credits(row.held))

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


def _overtaken() -> LedgerUnavailable:
    """What makes `run` do the whole scope again."""
    return LedgerUnavailable("another transaction got in the way", SERIALIZATION_FAILURE)
