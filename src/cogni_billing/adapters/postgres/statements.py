"""Every SQL statement of a scope, by name. They take parameters only."""

from __future__ import annotations

import re
from collections.abc import Iterable
from decimal import Decimal
from functools import cache
from typing import Any, Final

from sqlalchemy import (
    ARRAY,
    CTE,
    JSON,
    ColumnElement,
    FromClause,
    Integer,
    Select,
    Text,
    TextClause,
    Uuid,
    any_,
    bindparam,
    case,
    cast,
    func,
    select,
    text,
    true,
)
from sqlalchemy.dialects.postgresql import TIMESTAMP
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg
from sqlalchemy.types import TypeEngine

from cogni_billing.adapters.postgres.schema import (
    accounts,
    grants,
    holds,
    postings,
    transactions,
)

OPEN_ACCOUNT: Final = text("""
    INSERT INTO cogni_billing.accounts (tenant_id, id, opened_at)
    VALUES (:tenant, :account, :opened_at)
    ON CONFLICT DO NOTHING
""")

ACCOUNT: Final = select(
    accounts.c.id,
    accounts.c.tenant_id,
    accounts.c.opened_at,
    accounts.c.slug,
    accounts.c.is_system_tenant,
).where(
    accounts.c.tenant_id == bindparam("tenant"),
    accounts.c.id == bindparam("account"),
)

_DIALECT: Final = PGDialect_psycopg()  # type: ignore[no-untyped-call]
_TYPES: Final[dict[str, TypeEngine[Any]]] = {
    "at": TIMESTAMP(timezone=True),
    "ends_at": TIMESTAMP(timezone=True),
    "expires_at": TIMESTAMP(timezone=True),
    "source": Text(),
    "priority": Integer(),
    "subject": Uuid(),
}


def typed(sql: str) -> TextClause:
    """The statement, with the types of those of its parameters that may be NULL."""
    named = set(re.findall(r":(\w+)", sql))
    return text(sql).bindparams(
        *(bindparam(name, type_=kind) for name, kind in _TYPES.items() if name in named)
    )


def sent(statement: TextClause) -> str:
    """*statement* as the driver gets it, so that nobody works that out anew for each call."""
    return str(statement.compile(dialect=_DIALECT))


def _json_as_text(columns: Iterable[ColumnElement[Any]]) -> list[ColumnElement[Any]]:
    """*columns*, JSON as text: PostgreSQL takes some that no client's parser does."""
    return [
        cast(column, Text).label(column.key) if isinstance(column.type, JSON) else column
        for column in columns
    ]


# What belongs to one transaction. Without OFFSET the planner may read all that the tenant ever had.
_FIRST = (
    select(postings.c.overdraft, postings.c.balance_after)
    .where(
        postings.c.origin_tenant_id == transactions.c.tenant_id,
        postings.c.transaction_id == transactions.c.id,
        postings.c.sequence == 1,
    )
    .offset(0)
    .lateral("first")
)
_TERMS = (
    select(grants.c.source, grants.c.priority, grants.c.expires_at)
    .where(grants.c.tenant_id == transactions.c.tenant_id, grants.c.id == transactions.c.id)
    .offset(0)
    .lateral("terms")
)
_RECORDED = (
    select(
        *_json_as_text(transactions.c),
        _FIRST.c.overdraft,
        _FIRST.c.balance_after,
        _TERMS.c.source,
        _TERMS.c.priority,
        _TERMS.c.expires_at,
    )
    .select_from(transactions.join(_FIRST, true()).join(_TERMS, true(), isouter=True))
    .where(transactions.c.tenant_id == bindparam("tenant"))
)
RECORDED_BY_KEY: Final = _RECORDED.where(
    transactions.c.kind == bindparam("kind"),
    transactions.c.reference == bindparam("reference"),
)
RECORDED_BY_KEYS: Final = _RECORDED.where(
    transactions.c.kind == bindparam("kind"),
    transactions.c.reference == any_(bindparam("references", type_=ARRAY(Text))),
)
RECORDED_BY_ID: Final = _RECORDED.where(transactions.c.id == bindparam("id"))

# The first thing that time brought about on the wallet; no row when nothing can be due.
SETTLE: Final = text("""
    SELECT present, ended
    FROM cogni_billing.wallets, cogni_billing.settle_wallet(:unit, due_at)
    WHERE tenant_id = :tenant AND account_id = :account AND unit = :unit
      AND due_at <= greatest(:at, as_of)
""")

CLAIM: Final = text("""
    INSERT INTO cogni_billing.payments (payment, tenant_id) VALUES (:payment, :tenant)
    ON CONFLICT DO NOTHING
""")

# What is left of grants that have expired, and how often they have lapsed before; the references of
# those expiries are in a range of the index, "A" being what comes after "@".
LAPSED: Final = text("""
    SELECT id, amount - taken AS remaining, (
        SELECT count(*)
        FROM cogni_billing.transactions
        WHERE tenant_id = :tenant AND kind = 'expiry'
          AND reference > grants.id || '@' AND reference < grants.id || 'A'
    ) AS lapsed_before
    FROM cogni_billing.grants
    WHERE tenant_id = :tenant AND account_id = :account AND unit = :unit
      AND taken < amount AND expires_at <= :moment
    ORDER BY priority, expires_at, granted_at, id
""")

# As they will be once everything is settled.
GRANTS: Final = text("""
    SELECT
        id, source, priority, expires_at, granted_at, unit, amount,
        amount - taken + coalesce((
            SELECT sum(pin.amount)
            FROM cogni_billing.holds
            CROSS JOIN unnest(pinned_grants, pinned_amounts) AS pin (grant_id, amount)
            WHERE holds.tenant_id = :tenant AND holds.account_id = :account
              AND holds.unit = :unit AND state = 'open' AND ends_at <= :moment
              AND pin.grant_id = grants.id
        ), 0) AS remaining
    FROM cogni_billing.grants
    WHERE tenant_id = :tenant AND account_id = :account AND unit = :unit
      AND (expires_at IS NULL OR expires_at > :moment)
    ORDER BY priority, expires_at, granted_at, id
""")

OPEN_HOLD: Final = typed("""
    INSERT INTO cogni_billing.holds (
        tenant_id, id, account_id, reference, unit, amount,
        opened_at, expires_at, ends_at, request, metadata
    )
    SELECT
        :tenant, :id, :account, :reference, :unit, :amount,
        :at, :expires_at, :ends_at, CAST(:request AS json), CAST(:metadata AS json)
    FROM cogni_billing.accounts
    WHERE tenant_id = :tenant AND id = :account
      AND :ends_at > :at
      AND NOT EXISTS (
        SELECT FROM cogni_billing.wallets
        WHERE tenant_id = :tenant AND account_id = :account AND unit = :unit
          AND (due_at <= greatest(:at, as_of) OR as_of >= :ends_at)
    )
    ON CONFLICT DO NOTHING
    RETURNING id
""")

# Of the tenant's own work; what disputes have set aside is no hold that anybody asked for.
_HOLD = select(*_json_as_text(holds.c)).where(
    holds.c.tenant_id == bindparam("tenant"), holds.c.kind == "work"
)
HOLD_BY_KEY: Final = _HOLD.where(holds.c.reference == bindparam("reference"))
HOLD_BY_ID: Final = _HOLD.where(holds.c.id == bindparam("id"))

RELEASE_HOLD: Final = text("SELECT cogni_billing.release_hold(:id, :unit, :at)")

# What has become of a payment since its purchase.
RETURNED: Final = text("""
    SELECT
        (
            SELECT max(returned_total)
            FROM cogni_billing.transactions
            WHERE tenant_id = :tenant AND reverses = :purchase
        ) AS returned,
        (
            SELECT sum(disputed)
            FROM cogni_billing.disputes
            WHERE tenant_id = :tenant AND purchase_id = :purchase AND 'open' = (
                SELECT state
                FROM cogni_billing.holds
                WHERE holds.tenant_id = :tenant AND holds.id = disputes.id
            )
        ) AS disputed
""")

OPEN_DISPUTE: Final = typed("""
    INSERT INTO cogni_billing.disputes (
        tenant_id, id, reference, purchase_id, payment, disputed, disputed_unit,
        unit, amount, beneficiaries, shares, request, metadata, opened_at
    )
    VALUES (
        :tenant, :id, :reference, :purchase, :payment, :disputed, :disputed_unit,
        :unit, :amount, CAST(:beneficiaries AS uuid[]), CAST(:shares AS numeric[]),
        CAST(:request AS json), CAST(:metadata AS json), :at
    )
""")

LOCK_EARNED: Final = text("SELECT cogni_billing.lock_earned(:owner, :unit, :at)")
SET_ASIDE: Final = text(
    "SELECT cogni_billing.set_aside(:owner, :part, :dispute, :unit, :amount, :at)"
)
GIVE_BACK: Final = text("SELECT cogni_billing.give_back(:owner, :part, :unit, :at)")

DISPUTE: Final = text("""
    SELECT
        tenant_id, id, reference, purchase_id, payment, disputed, disputed_unit, unit, amount,
        beneficiaries, shares, opened_at, request::text AS request, metadata::text AS metadata, (
        SELECT state
        FROM cogni_billing.holds
        WHERE holds.tenant_id = :tenant AND holds.id = disputes.id
    ) AS state, EXISTS (
        SELECT FROM cogni_billing.transactions
        WHERE tenant_id = :tenant AND kind = 'chargeback' AND reference = :reference
    ) AS lost
    FROM cogni_billing.disputes
    WHERE tenant_id = :tenant AND reference = :reference
""")

# The wallet's own moment, where that is later than a host's clock says.
PRESENT: Final = text("""
    SELECT max(as_of)
    FROM cogni_billing.wallets
    WHERE tenant_id = :tenant AND account_id = :account AND unit = :unit
""")

# Whether the role may do more than spend.
MAY_MINT: Final = text("SELECT has_column_privilege('cogni_billing.payments', 'payment', 'INSERT')")

# One statement each, so that all parts are of one snapshot.
BALANCE: Final = text("""
    SELECT
        coalesce(posted, 0)
        + cogni_billing.arrived(:tenant, :account, :unit, 9223372036854775807) - CASE
            WHEN due_at <= greatest(:now, as_of)
            THEN cogni_billing.lapsing(:tenant, :account, :unit, greatest(:now, as_of))
            ELSE 0
        END AS posted,
        coalesce(held, 0) - CASE
            WHEN due_at <= greatest(:now, as_of) THEN (
                SELECT coalesce(sum(amount), 0)
                FROM cogni_billing.holds
                WHERE tenant_id = :tenant AND account_id = :account AND unit = :unit
                  AND state = 'open' AND ends_at <= greatest(:now, as_of)
            )
            ELSE 0
        END AS held
    FROM (SELECT) AS always LEFT JOIN cogni_billing.wallets
        ON tenant_id = :tenant AND account_id = :account AND unit = :unit
""")
BALANCE_AT: Final = text("""
    SELECT coalesce((
        SELECT posted_after
        FROM cogni_billing.postings
        WHERE tenant_id = :tenant AND account_id = :account AND unit = :unit
          AND posted_after IS NOT NULL
          AND occurred_at <= :moment
        ORDER BY occurred_at DESC, position DESC
        LIMIT 1
    ), 0) + cogni_billing.arrived_by(:tenant, :account, :unit, :moment) - coalesce((
        SELECT cogni_billing.lapsing(:tenant, :account, :unit, :moment)
        FROM cogni_billing.wallets
        WHERE tenant_id = :tenant AND account_id = :account AND unit = :unit
          AND as_of <= :moment AND due_at <= :moment
    ), 0) AS posted,
    coalesce((
        SELECT sum(amount)
        FROM cogni_billing.holds
        WHERE tenant_id = :tenant AND account_id = :account AND unit = :unit
          AND ends_at > :moment AND opened_at <= :moment
    ), 0) AS held
""")

# By a look for each line: a page joined to all of the tenant's transactions reads them all.
_REFERENCE = (
    select(transactions.c.reference)
    .where(
        transactions.c.tenant_id == postings.c.origin_tenant_id,
        transactions.c.id == postings.c.transaction_id,
    )
    .scalar_subquery()
    .label("reference")
)
_LINES = (
    select(
        postings.c.position,
        postings.c.transaction_id,
        postings.c.kind,
        _REFERENCE,
        postings.c.amount,
        postings.c.unit,
        postings.c.occurred_at,
    )
    .where(
        postings.c.tenant_id == bindparam("tenant"),
        postings.c.account_id == bindparam("account"),
        postings.c.position < bindparam("before"),
    )
    .order_by(postings.c.position.desc())
    .limit(bindparam("limit"))
)


def _balance_after(line: FromClause) -> ColumnElement[Decimal]:
    """The running balance in the order of positions; an owner's row carries its own part of it."""
    here: tuple[ColumnElement[Any], ...] = (
        bindparam("tenant"),
        bindparam("account"),
        line.c.unit,
        line.c.position,
    )
    return case(
        (line.c.posted_after.is_(None), func.cogni_billing.balance_up_to(*here)),
        else_=line.c.posted_after + func.cogni_billing.arrived(*here),
    )


def _running(page: CTE) -> Select[tuple[object, ...]]:
    """Every line of a stretch, with balances: looked up for the first, and added up from there."""
    firsts = select(func.min(page.c.position)).group_by(page.c.unit)
    first = select(page).where(page.c.position.in_(firsts)).subquery()
    before = select(first.c.unit, (_balance_after(first) - first.c.amount).label("balance"))
    opening = before.cte("opening").prefix_with("MATERIALIZED")
    added = func.sum(page.c.amount).over(partition_by=page.c.unit, order_by=page.c.position)
    return (
        select(page, (opening.c.balance + added).label("balance_after"))
        .join(opening, opening.c.unit == page.c.unit)
        .order_by(page.c.position.desc())
    )


@cache
def lines(*, kind: bool, since: bool, until: bool) -> Select[tuple[object, ...]]:
    """The statement's lines, under the filters that are asked for, so that each is planned well.

    Put together once each: that takes longer than to run them.
    """
    if not (kind or since or until):
        return _running(_LINES.add_columns(postings.c.posted_after).cte("page"))
    statement = _LINES.add_columns(_balance_after(postings).label("balance_after"))
    if kind:
        statement = statement.where(postings.c.kind == bindparam("kind"))
    if since:
        statement = statement.where(postings.c.occurred_at >= bindparam("since"))
    if until:
        statement = statement.where(postings.c.occurred_at < bindparam("until"))
    return statement
