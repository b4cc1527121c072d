"""The ledger, holds and grants, and the system tenant."""

from alembic import op

from cogni_billing.adapters.postgres.migrations.support import (
    recorded_roles,
    run_file,
    wait_briefly_for_locks,
)

revision = "cogni_billing_0001"
down_revision = None
branch_labels = ("cogni_billing",)
depends_on = None

_TABLES = (
    "context_keys",
    "payment_attempt_events",
    "payment_attempts",
    "disputes",
    "grants",
    "holds",
    "checkpoints",
    "postings",
    "payments",
    "transactions",
    "wallets",
    "accounts",
)
_FUNCTIONS = (
    "begin_check(uuid, timestamptz, interval)",
    "keep_attempt()",
    "give_back(uuid, uuid, text, timestamptz)",
    "set_aside(uuid, uuid, uuid, text, numeric, timestamptz)",
    "lock_earned(uuid, text, timestamptz)",
    "keep_grant()",
    "draw_grants(text, numeric)",
    "lapse_grant(uuid, text, numeric, timestamptz)",
    "lapsing(uuid, uuid, text, timestamptz)",
    "next_due(text)",
    "keep_hold()",
    "settle_wallet(text, timestamptz)",
    "release_hold(uuid, text, timestamptz)",
    "lock_wallet(text, timestamptz)",
    "end_hold(uuid, text, numeric, timestamptz)",
    "keep_wallet()",
    "refuse_unsettled()",
    "refuse_overdraft(text, numeric, numeric)",
    "check_postings()",
    "check_transactions()",
    "refuse_change()",
    "seed_system_tenant()",
    "settled_position(interval)",
    "arrived(uuid, uuid, text, bigint)",
    "arrived_by(uuid, uuid, text, timestamptz)",
    "balance_up_to(uuid, uuid, text, bigint)",
    "contra_of(text)",
    "account_of(uuid)",
    "owner_of(uuid)",
    "revision()",
    "tenant()",
    "act_for(uuid)",
    "act_again(text[])",
    "acting()",
    "signed_tenant()",
    "mac(text, bytea, bytea)",
)
# They run as the keeper, whoever calls them.
_KEEPERS = (
    "keep_wallet()",
    "keep_hold()",
    "keep_grant()",
    "release_hold(uuid, text, timestamptz)",
    "settle_wallet(text, timestamptz)",
    "lock_earned(uuid, text, timestamptz)",
    "set_aside(uuid, uuid, uuid, text, numeric, timestamptz)",
    "give_back(uuid, uuid, text, timestamptz)",
    "signed_tenant()",
    "act_for(uuid)",
    "keep_attempt()",
    "begin_check(uuid, timestamptz, interval)",
)


def upgrade() -> None:
    """Create everything, give each role exactly what it needs, seed the system tenant."""
    wait_briefly_for_locks()
    roles = recorded_roles()
    user, service = roles.quoted("user", "service")
    spenders = roles.listed("user", "spender")
    everybody = roles.listed("user", "spender", "service", "keeper")
    run_file("0001_ledger.sql")
    run_file("0001_holds.sql")
    run_file("0001_grants.sql")
    run_file("0001_disputes.sql")
    run_file("0001_attempts.sql")
    run_file("0001_contexts.sql")
    op.execute("REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA cogni_billing FROM PUBLIC")
    op.execute(f"GRANT USAGE ON SCHEMA cogni_billing TO {everybody}")
    op.execute(
        "GRANT EXECUTE ON FUNCTION cogni_billing.tenant(), cogni_billing.signed_tenant(),"
        " cogni_billing.account_of(uuid),"
        " cogni_billing.owner_of(uuid),"
        " cogni_billing.contra_of(text), cogni_billing.revision(),"
        " cogni_billing.arrived(uuid, uuid, text, bigint),"
        " cogni_billing.arrived_by(uuid, uuid, text, timestamptz),"
        " cogni_billing.balance_up_to(uuid, uuid, text, bigint),"
        " cogni_billing.lapsing(uuid, uuid, text, timestamptz)"
        f" TO {everybody}"
    )
    tables = ", ".join(f"cogni_billing.{table}" for table in _TABLES if table != "context_keys")
    op.execute(f"GRANT SELECT ON {tables} TO {spenders}, {service}")
    # Column by column: what a client may not give is computed, stamped or defaulted instead.
    op.execute(f"GRANT INSERT (tenant_id, id, opened_at) ON cogni_billing.accounts TO {spenders}")
    op.execute(
        "GRANT INSERT (tenant_id, id, kind, reference, unit, amount, beneficiaries, shares,"
        " subject_id, request, policy, metadata, occurred_at)"
        f" ON cogni_billing.transactions TO {spenders}"
    )
    op.execute(
        "GRANT INSERT (tenant_id, account_id, origin_tenant_id, transaction_id, sequence, kind,"
        " unit, amount, overdraft, subject_id, occurred_at)"
        f" ON cogni_billing.postings TO {spenders}"
    )
    op.execute(
        "GRANT INSERT (tenant_id, id, account_id, reference, unit, amount, opened_at, expires_at,"
        f" ends_at, request, metadata) ON cogni_billing.holds TO {spenders}"
    )
    # Minting: a purchase needs its claim, and a grant its terms.
    op.execute(f"GRANT INSERT (payment, tenant_id) ON cogni_billing.payments TO {user}")
    op.execute(
        "GRANT INSERT (tenant_id, id, account_id, unit, amount, source, priority, granted_at,"
        f" expires_at) ON cogni_billing.grants TO {user}"
    )
    op.execute(
        "GRANT EXECUTE ON FUNCTION cogni_billing.release_hold(uuid, text, timestamptz),"
        f" cogni_billing.settle_wallet(text, timestamptz) TO {spenders}"
    )
    _let_attempt(user)
    _let_take_back(service)
    op.execute(
        "GRANT INSERT (tenant_id, account_id, unit, position, after_position, arrived, balance,"
        f" added, earliest_at, latest_at) ON cogni_billing.checkpoints TO {service}"
    )
    op.execute(f"GRANT SELECT ON SEQUENCE cogni_billing.postings_position_seq TO {service}")
    op.execute(f"GRANT EXECUTE ON FUNCTION cogni_billing.settled_position(interval) TO {service}")
    _guard_keys(*roles.quoted("migrator", "keeper"))
    _hand_wallets_to(*roles.quoted("migrator", "keeper"))
    op.execute("SELECT cogni_billing.seed_system_tenant()")


def _let_attempt(user: str) -> None:
    """What payment attempts need; they mint in the end."""
    op.execute(
        "GRANT INSERT (tenant_id, id, amount, unit, payer, provider, token, recipient, raw_amount,"
        " confirmations, metadata, created_at, expires_at)"
        f" ON cogni_billing.payment_attempts TO {user}"
    )
    op.execute(
        "GRANT INSERT (tenant_id, attempt_id, from_state, state, at, evidence, failure,"
        f" transaction_id, found) ON cogni_billing.payment_attempt_events TO {user}"
    )
    op.execute(
        "GRANT EXECUTE ON FUNCTION cogni_billing.begin_check(uuid, timestamptz, interval)"
        f" TO {user}"
    )


def _let_take_back(service: str) -> None:
    """What refunds and disputes need; none of it rests on BYPASSRLS."""
    op.execute(
        "GRANT INSERT (tenant_id, id, kind, reference, unit, amount, beneficiaries, shares,"
        " subject_id, absorbed, reverses, returned, returned_total, returned_unit, request,"
        f" policy, metadata, occurred_at) ON cogni_billing.transactions TO {service}"
    )
    op.execute(
        "GRANT INSERT (tenant_id, account_id, origin_tenant_id, transaction_id, sequence, kind,"
        f" unit, amount, overdraft, subject_id, occurred_at) ON cogni_billing.postings TO {service}"
    )
    op.execute(
        "GRANT INSERT (tenant_id, id, reference, purchase_id, payment, disputed, disputed_unit,"
        " unit, amount, beneficiaries, shares, request, metadata, opened_at)"
        f" ON cogni_billing.disputes TO {service}"
    )
    op.execute(
        "GRANT EXECUTE ON FUNCTION cogni_billing.lock_earned(uuid, text, timestamptz),"
        " cogni_billing.set_aside(uuid, uuid, uuid, text, numeric, timestamptz),"
        " cogni_billing.give_back(uuid, uuid, text, timestamptz),"
        f" cogni_billing.settle_wallet(text, timestamptz) TO {service}"
    )
    for name, account, sign in (
        ("clawback", "cogni_billing.account_of(tenant_id)", "<"),
        ("shortfall", "'00000000-0000-4000-b000-000000000004'", "<"),
        ("unissued", "'00000000-0000-4000-b000-000000000001'", ">"),
    ):
        op.execute(
            f"CREATE POLICY postings_insert_{name} ON cogni_billing.postings FOR INSERT"
            f" TO {service} WITH CHECK (tenant_id = cogni_billing.owner_of(account_id)"
            f" AND account_id = {account} AND amount {sign} 0"
            " AND kind IN ('refund', 'chargeback'))"
        )


def _guard_keys(migrator: str, keeper: str) -> None:
    """The migrator sets them, the keeper reads them, and nobody else has to do with them."""
    op.execute(
        f"CREATE POLICY context_keys_kept ON cogni_billing.context_keys TO {migrator}, {keeper}"
        " USING (true) WITH CHECK (true)"
    )
    op.execute(f"GRANT SELECT ON cogni_billing.context_keys TO {keeper}")
    op.execute(
        "GRANT EXECUTE ON FUNCTION cogni_billing.mac(text, bytea, bytea),"
        " cogni_billing.act_for(uuid), cogni_billing.act_again(text[]), cogni_billing.acting()"
        f" TO {keeper}"
    )


def _hand_wallets_to(migrator: str, keeper: str) -> None:
    op.execute(
        "GRANT SELECT, INSERT, UPDATE (posted, held, granted, as_of, due_at)"
        f" ON cogni_billing.wallets TO {keeper}"
    )
    op.execute(
        "GRANT INSERT (tenant_id, id, account_id, kind, dispute_id, reference, unit, amount,"
        " opened_at, ends_at, request, metadata),"
        " SELECT (tenant_id, id, account_id, kind, unit, amount, state, opened_at, ends_at,"
        " pinned_grants, pinned_amounts),"
        " UPDATE (state, captured, ends_at, pinned_grants, pinned_amounts)"
        f" ON cogni_billing.holds TO {keeper}"
    )
    op.execute(
        "GRANT SELECT (tenant_id, id, account_id, unit, amount, taken, priority, granted_at,"
        f" expires_at), UPDATE (taken) ON cogni_billing.grants TO {keeper}"
    )
    op.execute(
        "GRANT SELECT (tenant_id, id, kind, reference, unit, amount, request, occurred_at)"
        f" ON cogni_billing.transactions TO {keeper}"
    )
    op.execute(
        "GRANT SELECT (tenant_id, id, amount, unit, created_at, state, changed_at, evidence,"
        " submitted_at, checked_at),"
        " UPDATE (state, changed_at, evidence, submitted_at, checked_at, failure, transaction_id)"
        f" ON cogni_billing.payment_attempts TO {keeper}"
    )
    op.execute(f"GRANT INSERT (tenant_id, id, opened_at) ON cogni_billing.accounts TO {keeper}")
    op.execute(
        "GRANT EXECUTE ON FUNCTION cogni_billing.lock_wallet(text, timestamptz),"
        " cogni_billing.end_hold(uuid, text, numeric, timestamptz),"
        " cogni_billing.next_due(text), cogni_billing.draw_grants(text, numeric),"
        " cogni_billing.lapse_grant(uuid, text, numeric, timestamptz),"
        " cogni_billing.refuse_unsettled(),"
        f" cogni_billing.refuse_overdraft(text, numeric, numeric) TO {keeper}"
    )
    op.execute(
        "GRANT SELECT (tenant_id, account_id, origin_tenant_id, transaction_id, sequence, unit,"
        " position, amount, posted_after)"
        f" ON cogni_billing.postings TO {keeper}"
    )
    op.execute(
        "GRANT SELECT (tenant_id, account_id, unit, position, arrived)"
        f" ON cogni_billing.checkpoints TO {keeper}"
    )
    op.execute(f"GRANT USAGE ON SEQUENCE cogni_billing.postings_position_seq TO {keeper}")
    # A function's new owner must be able to create in its schema, for this one moment.
    op.execute(f"GRANT CREATE ON SCHEMA cogni_billing TO {keeper}")
    for function in _KEEPERS:
        op.execute(f"ALTER FUNCTION cogni_billing.{function} OWNER TO {keeper}")
    op.execute(f"REVOKE CREATE ON SCHEMA cogni_billing FROM {keeper}")
    # What the owner may do went over with it; the migrator seeds the system tenant.
    op.execute(f"SET LOCAL ROLE {keeper}")
    op.execute(
        "GRANT EXECUTE ON FUNCTION cogni_billing.act_for(uuid), cogni_billing.signed_tenant()"
        f" TO {migrator}"
    )
    op.execute("RESET ROLE")


def downgrade() -> None:
    """Drop everything, the money included."""
    wait_briefly_for_locks()
    everybody = recorded_roles().listed("user", "spender", "service", "keeper")
    for table in _TABLES:
        op.execute(f"DROP TABLE cogni_billing.{table}")
    for function in _FUNCTIONS:
        op.execute(f"DROP FUNCTION cogni_billing.{function}")
    op.execute(f"REVOKE ALL ON SCHEMA cogni_billing FROM {everybody}")
