"""The SQL statements that post transactions, one for each kind. They take parameters only."""

from __future__ import annotations

from typing import Final

from sqlalchemy import ARRAY, Boolean, Integer, Numeric, Text, TextClause, Uuid, bindparam, text
from sqlalchemy.dialects.postgresql import TIMESTAMP

from cogni_billing.adapters.postgres.statements import typed
from cogni_billing.domain.transactions import TransactionKind

# Nothing is due on the wallet that comes first.
_SETTLED: Final = """NOT EXISTS (
            SELECT FROM cogni_billing.wallets
            WHERE tenant_id = :tenant AND account_id = :account AND unit = :unit
              AND due_at <= greatest(:at, as_of)
        )"""
# To look is cheaper than to offer a row that is there: its CHECKs would be planned first.
_NO_ACCOUNT: Final = """NOT EXISTS (
            SELECT FROM cogni_billing.accounts WHERE tenant_id = :tenant AND id = :account
        )"""


def _posting(ready: str, *, first: str = "", then: str = "", columns: str = "") -> TextClause:
    """The statement that posts a transaction, which is one statement so that all of it stands or
    falls together, and the zero-sum trigger sees all postings at once.

    It goes on where *ready* has a row, once *first* is done, and when the key is new. Otherwise
    nothing follows, and no row comes back. Only the first posting is the tenant's own to read
    back: RETURNING on the others would need the right to select them.
    """
    more = "".join(f", {column}" for column in columns.split())
    values = more.replace(", ", ", :")
    return typed(f"""
    WITH {first}manifest AS (
        INSERT INTO cogni_billing.transactions (
            tenant_id, id, kind, reference, unit, amount, beneficiaries, shares, subject_id,
            request, policy, metadata, occurred_at{more}
        )
        SELECT
            :tenant, :id, :kind, :reference, :unit, :amount,
            CAST(:beneficiaries AS uuid[]), CAST(:shares AS numeric[]), :subject,
            CAST(:request AS json), CAST(:policy AS json), CAST(:metadata AS json), :at{values}
        FROM {ready}
        ON CONFLICT DO NOTHING
        RETURNING id
    ), {then}others AS (
        INSERT INTO cogni_billing.postings (
            tenant_id, account_id, origin_tenant_id, transaction_id, sequence,
            kind, unit, amount, occurred_at
        )
        SELECT
            leg.tenant_id, leg.account_id, :tenant, manifest.id, leg.sequence + 1,
            :kind, :unit, leg.amount, :at
        FROM manifest, unnest(
            CAST(:other_tenants AS uuid[]),
            CAST(:other_accounts AS uuid[]),
            CAST(:other_amounts AS numeric[])
        ) WITH ORDINALITY AS leg (tenant_id, account_id, amount, sequence)
    )
    INSERT INTO cogni_billing.postings (
        tenant_id, account_id, origin_tenant_id, transaction_id, sequence,
        kind, unit, amount, overdraft, subject_id, occurred_at
    )
    SELECT
        :tenant, :account, :tenant, id, 1,
        :kind, :unit, :amount, :overdraft, :subject, :at
    FROM manifest
    RETURNING balance_after
""")


_AS_IT_IS: Final = "(SELECT) AS always"
# Only the service role may write these.
_REVERSAL: Final = _posting(
    _AS_IT_IS, columns="absorbed reverses returned returned_total returned_unit"
)

# A purchase goes on when its payment is claimed now, a grant when it has not expired, a charge when
# the account is there, a capture when its hold is open and of enough.
POST: Final = {
    TransactionKind.PURCHASE: _posting(
        "claim",
        first=f"""claim AS (
        INSERT INTO cogni_billing.payments (payment, tenant_id)
        SELECT :reference, :tenant WHERE {_SETTLED}
        ON CONFLICT DO NOTHING
        RETURNING payment
    ), opened AS (
        INSERT INTO cogni_billing.accounts (tenant_id, id, opened_at)
        SELECT :tenant, :account, :at FROM claim
        WHERE {_NO_ACCOUNT}
        ON CONFLICT DO NOTHING
    ), """,
    ),
    TransactionKind.GRANT: _posting(
        "settled",
        first=f"""settled AS (
        SELECT WHERE coalesce(:expires_at > :at, true) AND {_SETTLED} AND NOT EXISTS (
            SELECT FROM cogni_billing.wallets
            WHERE tenant_id = :tenant AND account_id = :account AND unit = :unit
              AND :expires_at <= as_of
        )
    ), opened AS (
        INSERT INTO cogni_billing.accounts (tenant_id, id, opened_at)
        SELECT :tenant, :account, :at FROM settled
        WHERE {_NO_ACCOUNT}
        ON CONFLICT DO NOTHING
    ), """,
        then="""terms AS (
        INSERT INTO cogni_billing.grants (
            tenant_id, id, account_id, unit, amount, source, priority, granted_at, expires_at
        )
        SELECT :tenant, id, :account, :unit, :amount, :source, :priority, :at, :expires_at
        FROM manifest
    ), """,
    ),
    TransactionKind.CHARGE: _posting(
        f"""cogni_billing.accounts
        WHERE tenant_id = :tenant AND accounts.id = :account AND {_SETTLED}"""
    ),
    TransactionKind.CAPTURE: _posting(
        f"""cogni_billing.holds
        WHERE tenant_id = :tenant AND holds.id = :subject AND holds.kind = 'work'
          AND state = 'open' AND holds.amount >= - CAST(:amount AS numeric) AND {_SETTLED}"""
    ),
    TransactionKind.EXPIRY: _posting(_AS_IT_IS),
    TransactionKind.REFUND: _REVERSAL,
    TransactionKind.CHARGEBACK: _REVERSAL,
}


def _posting_many(ready: str, *, first: str = "") -> TextClause:
    """As above, for many transactions of one tenant.

    Each ORDER BY is a barrier, too: all claims are taken before the first key, and all keys before
    the wallet. In one order, and the wallet last, as every other writer: so that those who meet
    wait in one direction.
    """
    return text(f"""
    WITH item AS MATERIALIZED (
        SELECT *
        FROM unnest(
            :ids, :references, :amounts, :overdrafts, :beneficiaries, :shares,
            :requests, :policy_numbers, :metadata
        ) WITH ORDINALITY AS item (
            id, reference, amount, overdraft, beneficiaries, shares, request, policy, metadata, n
        )
    ), {first}manifest AS (
        INSERT INTO cogni_billing.transactions (
            tenant_id, id, kind, reference, unit, amount, beneficiaries, shares,
            request, policy, metadata, occurred_at
        )
        SELECT
            :tenant, item.id, :kind, reference, :unit, amount,
            CAST(beneficiaries AS uuid[]), CAST(shares AS numeric[]),
            CAST(request AS json), CAST((:policies)[policy] AS json), CAST(metadata AS json), :at
        FROM {ready}
        ORDER BY reference
        ON CONFLICT DO NOTHING
        RETURNING id
    ), others AS (
        INSERT INTO cogni_billing.postings (
            tenant_id, account_id, origin_tenant_id, transaction_id, sequence,
            kind, unit, amount, occurred_at
        )
        SELECT
            leg.tenant_id, leg.account_id, :tenant, leg.id, leg.sequence,
            :kind, :unit, leg.amount, :at
        FROM unnest(:leg_ids, :leg_sequences, :leg_tenants, :leg_accounts, :leg_amounts)
            AS leg (id, sequence, tenant_id, account_id, amount)
        JOIN manifest USING (id)
    )
    INSERT INTO cogni_billing.postings (
        tenant_id, account_id, origin_tenant_id, transaction_id, sequence,
        kind, unit, amount, overdraft, occurred_at
    )
    SELECT
        :tenant, :account, :tenant, id, 1,
        :kind, :unit, item.amount, item.overdraft, :at
    FROM manifest JOIN item USING (id)
    ORDER BY n
    RETURNING transaction_id, balance_after
""").bindparams(
        bindparam("at", type_=TIMESTAMP(timezone=True)),
        *(
            bindparam(name, type_=ARRAY(kind))
            for kind, names in (
                (Uuid, "ids leg_ids leg_tenants leg_accounts"),
                (Numeric, "amounts leg_amounts"),
                (Boolean, "overdrafts"),
                (Integer, "leg_sequences policy_numbers"),
                (Text, "references beneficiaries shares requests policies metadata"),
            )
            for name in names.split()
        ),
    )


POST_MANY: Final = {
    TransactionKind.PURCHASE: _posting_many(
        "item JOIN claim ON payment = reference",
        first=f"""claim AS (
        INSERT INTO cogni_billing.payments (payment, tenant_id)
        SELECT reference, :tenant FROM item WHERE {_SETTLED} ORDER BY reference
        ON CONFLICT DO NOTHING
        RETURNING payment
    ), opened AS (
        INSERT INTO cogni_billing.accounts (tenant_id, id, opened_at)
        SELECT :tenant, :account, :at FROM claim WHERE {_NO_ACCOUNT} LIMIT 1
        ON CONFLICT DO NOTHING
    ), """,
    ),
    TransactionKind.CHARGE: _posting_many(f"item WHERE {_SETTLED}"),
}
