"""Books of all tenants: read under the service role's policies, written by its functions."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

from attrs import frozen
from sqlalchemy import Connection, text

from cogni_billing.adapters.guard import ScopeGuard
from cogni_billing.adapters.postgres.answers import MORE_DUE, posted
from cogni_billing.adapters.postgres.audit import require_full_sight, verification
from cogni_billing.adapters.postgres.calls import Calls, encoded
from cogni_billing.adapters.postgres.connections import NEUTRAL
from cogni_billing.adapters.postgres.failures import translated
from cogni_billing.adapters.postgres.history import history
from cogni_billing.adapters.postgres.rows import dispute_asked, in_credits, moment
from cogni_billing.adapters.postgres.tenants import account_from
from cogni_billing.domain.accounts import Account, Freeze
from cogni_billing.domain.amounts import Amount
from cogni_billing.domain.attempts import DueAttempt
from cogni_billing.domain.disputes import Dispute
from cogni_billing.domain.erasure import require_unretained
from cogni_billing.domain.errors import LedgerUnavailable, UnknownAccount
from cogni_billing.domain.folding import Folding
from cogni_billing.domain.found_payments import Claim
from cogni_billing.domain.identity import TenantId, account_of
from cogni_billing.domain.reversals import Recoverable
from cogni_billing.domain.seals import Entry, Piece
from cogni_billing.domain.transactions import Recorded, Transaction
from cogni_billing.domain.verification import Verification
from cogni_billing.domain.wallets import DueWallet
from cogni_billing.ports.books import DUE_MAX

ROWS_FOR_EACH_CHECKPOINT: Final = 1000
PATIENCE_S: Final = 10


@frozen
class PostgresBooks:
    """Implements `BooksRepository`."""

    _connection: Connection
    _calls: Calls
    _tenant: TenantId
    _guard: ScopeGuard

    def safe_position(self) -> int:
        with self._guard.call(), translated():
            position = self._connection.execute(
                _SAFE_POSITION, {"patience": f"{PATIENCE_S} seconds"}
            ).scalar_one()
            if position is None:
                raise LedgerUnavailable(
                    f"a transaction on the ledger has been open for over {PATIENCE_S} s; end it"
                )
            return int(position)

    def due(self, now: datetime, after: DueWallet | None, /) -> tuple[DueWallet, ...]:
        with self._guard.call(), translated():
            self._connection.execute(NEUTRAL)
            require_full_sight(self._connection)
            asked: dict[str, object] = {"now": now}
            if after is not None:
                asked |= {"at": after.at, "tenant": after.tenant}
            rows = self._connection.execute(_DUE if after is None else _DUE_AFTER, asked)
            return tuple(
                DueWallet(at=row.due_at.astimezone(UTC), tenant=row.tenant_id) for row in rows
            )

    def due_attempts(
        self, now: datetime, every: timedelta, after: DueAttempt | None, /
    ) -> tuple[DueAttempt, ...]:
        with self._guard.call(), translated():
            self._connection.execute(NEUTRAL)
            require_full_sight(self._connection)
            asked: dict[str, object] = {"now": now, "until": now - every, "beyond": now + every}
            if after is not None:
                asked |= {"at": after.at, "tenant": after.tenant, "id": after.attempt_id}
            statement = _DUE_ATTEMPTS if after is None else _DUE_ATTEMPTS_AFTER
            rows = self._connection.execute(statement, asked)
            return tuple(
                DueAttempt(at=row.at.astimezone(UTC), tenant=row.tenant_id, attempt_id=row.id)
                for row in rows
            )

    def lock(self, tenants: Iterable[TenantId], moment: datetime, /) -> Recoverable:
        with self._guard.call(), translated():
            owners = list(tenants)
            earned = self._calls("lock", self._tenant, {"tenants": owners, "at": moment})
            by_account = zip(map(account_of, owners), map(in_credits, earned), strict=True)
            return Recoverable(dict(by_account))

    def settle_dispute(
        self, dispute: Dispute, transaction: Transaction | None, moment: datetime, /
    ) -> Recorded | None:
        with self._guard.call(), translated():
            asked = dispute_asked(dispute, transaction, moment)
            while True:
                told = self._calls("settle_dispute", dispute.tenant, asked)
                if told["outcome"] != MORE_DUE:
                    break
            if transaction is None:
                return None
            (answer,) = told["answers"]
            return posted(transaction, answer, repeated=self._calls.repeated)

    def claim(self, payments: Iterable[str], /) -> Claim | None:
        with self._guard.call(), translated():
            self._connection.execute(NEUTRAL)
            row = self._connection.execute(_CLAIM, {"payments": list(payments)}).one_or_none()
            return None if row is None else Claim(row.payment, TenantId(row.tenant_id))

    def verify(self, limit: int, /) -> Verification:
        with self._guard.call(), translated():
            self._connection.execute(NEUTRAL)
            require_full_sight(self._connection)
            return verification(self._connection, limit)

    def freeze(self, tenant: TenantId, freeze: Freeze | None, /) -> Account:
        with self._guard.call(), translated():
            asked = {} if freeze is None else {"reason": freeze.reason, "at": freeze.since}
            return account_from(self._calls("freeze", tenant, asked), tenant)

    def limit_overdraft(self, tenant: TenantId, limit: Amount | None, /) -> Account:
        with self._guard.call(), translated():
            asked = {"limit": None if limit is None else limit.value}
            return account_from(self._calls("limit_overdraft", tenant, asked), tenant)

    def forget(self, tenant: TenantId, now: datetime, retention: timedelta | None, /) -> int:
        with self._guard.call(), translated():
            asked = {"kept_from": None if retention is None else now - retention}
            answer = self._calls("forget", tenant, asked)
            match answer["outcome"]:
                case "unknown_account":
                    raise UnknownAccount(tenant)
                case "retained":
                    require_unretained(moment(answer["newest"]), retention, now)
            return int(answer["texts"])

    def fold(self, position: int, /) -> Folding:
        with self._guard.call(), translated():
            self._connection.execute(NEUTRAL)
            require_full_sight(self._connection)
            accounts = self._connection.execute(_ACCOUNTS).scalars().all()
            told = self._connection.execute(
                _FOLD,
                {
                    "accounts": encoded(accounts),
                    "safe": position,
                    "size": ROWS_FOR_EACH_CHECKPOINT,
                },
            ).scalar_one()
            return Folding(**json.loads(told))

    def transaction_counts(self) -> Mapping[TenantId, int]:
        with self._guard.call(), translated():
            require_full_sight(self._connection)
            rows = self._connection.execute(_COUNTS)
            return {TenantId(row.tenant_id): row.lines for row in rows}

    def history(self, pieces: Sequence[Piece], /) -> Sequence[Sequence[Entry]]:
        with self._guard.call(), translated():
            require_full_sight(self._connection)
            return history(self._connection, pieces)


_CLAIM: Final = text("""
    SELECT payment, tenant_id FROM cogni_billing.claims
    WHERE payment = ANY (:payments) ORDER BY payment LIMIT 1
""")

_WALLETS_DUE: Final = """
    SELECT due_at, tenant_id
    FROM cogni_billing.wallets
    WHERE due_at <= :now {after}
    ORDER BY due_at, tenant_id
    LIMIT {limit}
"""
_DUE: Final = text(_WALLETS_DUE.format(after="", limit=DUE_MAX))
_DUE_AFTER: Final = text(
    _WALLETS_DUE.format(after="AND (due_at, tenant_id) > (:at, :tenant)", limit=DUE_MAX)
)

_ATTEMPTS_DUE: Final = """
    SELECT at, tenant_id, id
    FROM (
        SELECT checked_at AS at, tenant_id, id FROM cogni_billing.payment_attempts
        WHERE state = 'PENDING_UNVERIFIED' AND (checked_at <= :until OR checked_at > :beyond)
        UNION ALL
        SELECT expires_at AS at, tenant_id, id FROM cogni_billing.payment_attempts
        WHERE state = 'CREATED_INTENT' AND expires_at <= :now
    ) AS due
    {after}
    ORDER BY at, tenant_id, id
    LIMIT {limit}
"""
_DUE_ATTEMPTS: Final = text(_ATTEMPTS_DUE.format(after="", limit=DUE_MAX))
_DUE_ATTEMPTS_AFTER: Final = text(
    _ATTEMPTS_DUE.format(after="WHERE (at, tenant_id, id) > (:at, :tenant, :id)", limit=DUE_MAX)
)

_SAFE_POSITION: Final = text("SELECT cogni_billing.safe_position(CAST(:patience AS interval))")

# Finds accounts with arrivals: each step jumps in the index to the next account.
_ACCOUNTS: Final = text("""
    WITH RECURSIVE account AS (
        (SELECT account_id FROM cogni_billing.arrivals ORDER BY account_id LIMIT 1)
        UNION ALL
        SELECT (
            SELECT account_id FROM cogni_billing.arrivals
            WHERE account_id > account.account_id ORDER BY account_id LIMIT 1
        )
        FROM account WHERE account_id IS NOT NULL
    )
    SELECT account_id FROM account WHERE account_id IS NOT NULL
""")

_FOLD: Final = text("SELECT cogni_billing.fold(CAST(:accounts AS json), :safe, :size)")

_COUNTS: Final = text("""
    SELECT tenant_id, lines FROM cogni_billing.wallets WHERE lines > 0 ORDER BY tenant_id
""")
