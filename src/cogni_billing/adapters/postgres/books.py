"""What the service role does to the books of all tenants."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Final

from attrs import frozen
from sqlalchemy import Connection, text

from cogni_billing.adapters.guard import ScopeGuard
from cogni_billing.adapters.postgres import statements
from cogni_billing.adapters.postgres.audit import verification
from cogni_billing.adapters.postgres.failures import translated
from cogni_billing.adapters.postgres.rows import dispute_parameters
from cogni_billing.domain.amounts import CREDIT, Amount
from cogni_billing.domain.attempts import DueAttempt
from cogni_billing.domain.disputes import Dispute
from cogni_billing.domain.errors import LedgerUnavailable
from cogni_billing.domain.folding import Folding
from cogni_billing.domain.identity import TenantId, account_of
from cogni_billing.domain.refunds import There
from cogni_billing.domain.verification import Verification

ROWS_FOR_EACH_CHECKPOINT: Final = 1000
PATIENCE_S: Final = 10


@frozen
class PostgresBooks:
    """Keeps the promises of `BooksRepository`."""

    _connection: Connection
    _guard: ScopeGuard

    def settled_position(self) -> int:
        with self._guard.call(), translated():
            position = self._connection.execute(
                _SETTLED_POSITION, {"patience": f"{PATIENCE_S} seconds"}
            ).scalar_one()
            if position is None:
                raise LedgerUnavailable(f"a writer has been open for over {PATIENCE_S} s")
            return int(position)

    def due(self, now: datetime, /) -> tuple[TenantId, ...]:
        with self._guard.call(), translated():
            self._connection.execute(_EVERY_ROW)
            found = self._connection.execute(_DUE, {"now": now}).scalars()
            return tuple(map(TenantId, found))

    def due_attempts(
        self, now: datetime, every: timedelta, after: DueAttempt | None, /
    ) -> tuple[DueAttempt, ...]:
        with self._guard.call(), translated():
            self._connection.execute(_EVERY_ROW)
            asked: dict[str, object] = {"now": now, "until": now - every, "beyond": now + every}
            if after is not None:
                asked |= {"at": after.at, "tenant": after.tenant, "id": after.attempt_id}
            statement = _DUE_ATTEMPTS if after is None else _DUE_ATTEMPTS_AFTER
            rows = self._connection.execute(statement, asked)
            return tuple(
                DueAttempt(at=row.at.astimezone(UTC), tenant=row.tenant_id, attempt_id=row.id)
                for row in rows
            )

    def lock(self, tenants: Iterable[TenantId], moment: datetime, /) -> There:
        with self._guard.call(), translated():
            earned = {}
            for tenant in tenants:
                parameters = {"owner": tenant, "unit": CREDIT.code, "at": moment}
                found = self._connection.execute(statements.LOCK_EARNED, parameters).scalar_one()
                earned[account_of(tenant)] = Amount.computed(found, CREDIT)
            return There(earned)

    def open_dispute(self, dispute: Dispute, /) -> None:
        with self._guard.call(), translated():
            parameters = dispute_parameters(dispute)
            self._connection.execute(statements.OPEN_DISPUTE, parameters)
            for part in dispute.parts():
                self._connection.execute(
                    statements.SET_ASIDE,
                    {
                        "owner": part.tenant,
                        "part": part.id,
                        "dispute": dispute.id,
                        "unit": part.amount.unit.code,
                        "amount": part.amount.value,
                        "at": part.opened_at,
                    },
                )

    def close_dispute(self, dispute: Dispute, moment: datetime, /) -> None:
        with self._guard.call(), translated():
            for part in dispute.parts():
                self._connection.execute(
                    statements.GIVE_BACK,
                    {
                        "owner": part.tenant,
                        "part": part.id,
                        "unit": part.amount.unit.code,
                        "at": moment,
                    },
                )

    def verify(self, most: int, /) -> Verification:
        with self._guard.call(), translated():
            self._connection.execute(_EVERY_ROW)
            return verification(self._connection, most)

    def fold(self, position: int, /) -> Folding:
        with self._guard.call(), translated():
            self._connection.execute(_EVERY_ROW)
            self._connection.execute(_ONE_FOLDER)
            row = self._connection.execute(
                _FOLD, {"settled": position, "rows": ROWS_FOR_EACH_CHECKPOINT}
            ).one()
            return Folding(accounts=row.accounts, lines=int(row.lines))


# Row security would hide other tenants' rows silently from a role without BYPASSRLS.
_EVERY_ROW: Final = text("SET LOCAL row_security = off")

_DUE: Final = text("""
    SELECT tenant_id FROM cogni_billing.wallets WHERE due_at <= :now ORDER BY due_at LIMIT 1000
""")

_ATTEMPTS_DUE: Final = """
    SELECT at, tenant_id, id
    FROM (
        SELECT checked_at AS at, tenant_id, id FROM cogni_billing.payment_attempts
        WHERE state = 'PENDING_UNVERIFIED' AND (checked_at <= :until OR checked_at > :beyond)
        UNION ALL
        SELECT expires_at AS at, tenant_id, id FROM cogni_billing.payment_attempts
        WHERE state = 'CREATED_INTENT' AND expires_at <= :now
    ) AS due
    {}
    ORDER BY at, tenant_id, id
    LIMIT 1000
"""
_DUE_ATTEMPTS: Final = text(_ATTEMPTS_DUE.format(""))
_DUE_ATTEMPTS_AFTER: Final = text(
    _ATTEMPTS_DUE.format("WHERE (at, tenant_id, id) > (:at, :tenant, :id)")
)

_SETTLED_POSITION: Final = text(
    "SELECT cogni_billing.settled_position(CAST(:patience AS interval))"
)

# Folders come one after another: each must see where the one before it stopped.
_ONE_FOLDER: Final = text("SELECT pg_advisory_xact_lock(hashtextextended('cogni_billing.fold', 0))")

# Accounts that others add to are found by skipping through the index of arrivals, from one account
# to the next. Of each, what is newer than its last checkpoint is cut into pieces of so many rows.
_FOLD: Final = text("""
    WITH RECURSIVE account AS (
        (
            SELECT tenant_id, account_id, unit
            FROM cogni_billing.postings
            WHERE posted_after IS NULL
            ORDER BY tenant_id, account_id, unit
            LIMIT 1
        )
        UNION ALL
        SELECT following.tenant_id, following.account_id, following.unit
        FROM account CROSS JOIN LATERAL (
            SELECT tenant_id, account_id, unit
            FROM cogni_billing.postings
            WHERE posted_after IS NULL
              AND (tenant_id, account_id, unit)
                  > (account.tenant_id, account.account_id, account.unit)
            ORDER BY tenant_id, account_id, unit
            LIMIT 1
        ) AS following
    ), folded AS (
        SELECT
            account.*,
            coalesce(last.position, 0) AS position,
            coalesce(last.arrived, 0) AS arrived,
            coalesce(last.balance, 0) AS balance
        FROM account LEFT JOIN LATERAL (
            SELECT position, arrived, balance
            FROM cogni_billing.checkpoints
            WHERE tenant_id = account.tenant_id
              AND account_id = account.account_id
              AND unit = account.unit
            ORDER BY position DESC
            LIMIT 1
        ) AS last ON true
    ), line AS (
        SELECT
            folded.tenant_id,
            folded.account_id,
            folded.unit,
            posting.position,
            posting.amount,
            posting.occurred_at,
            posting.posted_after IS NULL AS arrival,
            (row_number() OVER (
                PARTITION BY folded.tenant_id, folded.account_id, folded.unit
                ORDER BY posting.position
            ) - 1) / :rows AS piece
        FROM folded JOIN cogni_billing.postings AS posting
            ON posting.tenant_id = folded.tenant_id
            AND posting.account_id = folded.account_id
            AND posting.unit = folded.unit
            AND posting.position > folded.position
            AND posting.position <= :settled
    ), piece AS (
        SELECT
            tenant_id,
            account_id,
            unit,
            max(position) AS position,
            count(*) AS lines,
            sum(amount) AS total,
            coalesce(sum(amount) FILTER (WHERE arrival), 0) AS added,
            min(occurred_at) FILTER (WHERE arrival) AS earliest_at,
            max(occurred_at) FILTER (WHERE arrival) AS latest_at
        FROM line
        GROUP BY tenant_id, account_id, unit, piece
    ), checkpoint AS (
        INSERT INTO cogni_billing.checkpoints (
            tenant_id, account_id, unit, position, after_position,
            arrived, balance, added, earliest_at, latest_at
        )
        SELECT
            piece.tenant_id,
            piece.account_id,
            piece.unit,
            piece.position,
            coalesce(lag(piece.position) OVER sequence, folded.position),
            folded.arrived + sum(piece.added) OVER sequence,
            folded.balance + sum(piece.total) OVER sequence,
            piece.added,
            piece.earliest_at,
            piece.latest_at
        FROM piece JOIN folded USING (tenant_id, account_id, unit)
        WINDOW sequence AS (
            PARTITION BY piece.tenant_id, piece.account_id, piece.unit ORDER BY piece.position
        )
    )
    SELECT
        count(DISTINCT (tenant_id, account_id, unit)) AS accounts,
        coalesce(sum(lines), 0) AS lines
    FROM piece
""")
