"""Every SQL statement of a scope, by name. They take parameters only."""

from __future__ import annotations

from typing import Final

from sqlalchemy import ARRAY, Numeric, Uuid, bindparam, func, select, text

from cogni_billing.adapters.postgres.schema import accounts, postings, transactions, wallets

# The third argument ends the setting with the transaction, so a pooled connection forgets it.
SET_CONTEXT: Final = text("SELECT set_config('app.current_user_id', :tenant, true)")

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

# One statement, so that claim, account, manifest and postings stand or fall together, and the
# zero-sum trigger sees all postings at once. Where the payment is claimed already nothing follows
# from it, and no row comes back. Only the first posting is the tenant's own to read back:
# RETURNING on the others would need the right to select them.
POST_PURCHASE: Final = text("""
    WITH claim AS (
        INSERT INTO cogni_billing.payments (payment, tenant_id)
        VALUES (:reference, :tenant)
        ON CONFLICT DO NOTHING
        RETURNING payment
    ), opened AS (
        INSERT INTO cogni_billing.accounts (tenant_id, id, opened_at)
        SELECT :tenant, :account, :at FROM claim
        ON CONFLICT DO NOTHING
    ), manifest AS (
        INSERT INTO cogni_billing.transactions (
            tenant_id, id, kind, reference, unit, amount, beneficiaries, shares,
            request, policy, metadata, occurred_at
        )
        SELECT
            :tenant, :id, :kind, payment, :unit, :amount, :beneficiaries, :shares,
            CAST(:request AS json), CAST(:policy AS json), CAST(:metadata AS json), :at
        FROM claim
    ), others AS (
        INSERT INTO cogni_billing.postings (
            tenant_id, account_id, origin_tenant_id, transaction_id, sequence,
            kind, unit, amount, occurred_at
        )
        SELECT
            leg.tenant_id, leg.account_id, :tenant, :id, leg.sequence + 1,
            :kind, :unit, leg.amount, :at
        FROM claim, unnest(:other_tenants, :other_accounts, :other_amounts)
            WITH ORDINALITY AS leg (tenant_id, account_id, amount, sequence)
    )
    INSERT INTO cogni_billing.postings (
        tenant_id, account_id, origin_tenant_id, transaction_id, sequence,
        kind, unit, amount, occurred_at
    )
    SELECT :tenant, :account, :tenant, :id, 1, :kind, :unit, :amount, :at FROM claim
    RETURNING balance_after
""").bindparams(
    bindparam("beneficiaries", type_=ARRAY(Uuid)),
    bindparam("shares", type_=ARRAY(Numeric)),
    bindparam("other_tenants", type_=ARRAY(Uuid)),
    bindparam("other_accounts", type_=ARRAY(Uuid)),
    bindparam("other_amounts", type_=ARRAY(Numeric)),
)

RECORDED: Final = (
    select(
        transactions.c.id,
        transactions.c.amount,
        transactions.c.unit,
        transactions.c.beneficiaries,
        transactions.c.shares,
        transactions.c.request,
        transactions.c.policy,
        transactions.c.metadata,
        transactions.c.occurred_at,
        postings.c.balance_after,
    )
    .join(
        postings,
        (postings.c.origin_tenant_id == transactions.c.tenant_id)
        & (postings.c.transaction_id == transactions.c.id)
        & (postings.c.sequence == 1),
    )
    .where(
        transactions.c.tenant_id == bindparam("tenant"),
        transactions.c.kind == bindparam("kind"),
        transactions.c.reference == bindparam("reference"),
    )
)

_WALLET = (
    select(wallets.c.posted)
    .where(
        wallets.c.tenant_id == bindparam("tenant"),
        wallets.c.account_id == bindparam("account"),
        wallets.c.unit == bindparam("unit"),
    )
    .scalar_subquery()
)
_ARRIVALS = (
    select(func.sum(postings.c.amount))
    .where(
        postings.c.tenant_id == bindparam("tenant"),
        postings.c.account_id == bindparam("account"),
        postings.c.unit == bindparam("unit"),
        postings.c.origin_tenant_id != postings.c.tenant_id,
    )
    .scalar_subquery()
)
# One statement, so that both parts are of one snapshot.
POSTED: Final = select(func.coalesce(_WALLET, 0) + func.coalesce(_ARRIVALS, 0))

LINES: Final = (
    select(
        postings.c.position,
        postings.c.transaction_id,
        postings.c.kind,
        transactions.c.reference,
        postings.c.amount,
        postings.c.unit,
        postings.c.balance_after,
        postings.c.occurred_at,
    )
    .join(
        transactions,
        (transactions.c.tenant_id == postings.c.origin_tenant_id)
        & (transactions.c.id == postings.c.transaction_id),
        isouter=True,
    )
    .where(
        postings.c.tenant_id == bindparam("tenant"),
        postings.c.account_id == bindparam("account"),
        postings.c.position < bindparam("before"),
    )
    .order_by(postings.c.position.desc())
    .limit(bindparam("limit"))
)
