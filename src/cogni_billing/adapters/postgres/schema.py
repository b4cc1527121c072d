"""The tables as SQLAlchemy Core knows them: for statements here, and for a host's reports.

The migrations are what creates them, with their checks, policies and triggers; a test holds the
two equal.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import (
    ARRAY,
    JSON,
    BigInteger,
    Boolean,
    Column,
    ForeignKeyConstraint,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Numeric,
    PrimaryKeyConstraint,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import TIMESTAMP

SCHEMA: Final = "cogni_billing"
VERSION_SCHEMA: Final = "cogni_billing_migrations"
"""Where Alembic keeps its version table, out of sight of every role but the migrator."""

metadata = MetaData(schema=SCHEMA)

_MOMENT = TIMESTAMP(timezone=True)
_KEY = Text(collation="C")


accounts = Table(
    "accounts",
    metadata,
    Column("tenant_id", Uuid, nullable=False),
    Column("id", Uuid, nullable=False),
    Column("type", Text, nullable=False, server_default="billing"),
    Column("slug", Text),
    Column("is_system_tenant", Boolean, nullable=False, server_default=text("false")),
    Column("opened_at", _MOMENT, nullable=False),
    PrimaryKeyConstraint("tenant_id", "id", name="accounts_pkey"),
)

context_keys = Table(
    "context_keys",
    metadata,
    Column("id", Text, nullable=False),
    Column("inner_key", LargeBinary, nullable=False),
    Column("outer_key", LargeBinary, nullable=False),
    Column("added_at", _MOMENT, nullable=False, server_default=text("now()")),
    PrimaryKeyConstraint("id", name="context_keys_pkey"),
)

wallets = Table(
    "wallets",
    metadata,
    Column("tenant_id", Uuid, nullable=False),
    Column("account_id", Uuid, nullable=False),
    Column("unit", Text, nullable=False),
    Column("posted", Numeric, nullable=False),
    Column("held", Numeric, nullable=False),
    Column("granted", Numeric, nullable=False, server_default="0"),
    Column("as_of", _MOMENT, nullable=False),
    Column("due_at", _MOMENT, nullable=False),
    PrimaryKeyConstraint("tenant_id", "account_id", "unit", name="wallets_pkey"),
    ForeignKeyConstraint(
        ["tenant_id", "account_id"],
        [accounts.c.tenant_id, accounts.c.id],
        name="wallets_account_exists",
        deferrable=True,
        initially="DEFERRED",
    ),
)

Index(
    "wallets_due",
    wallets.c.due_at,
    postgresql_where=wallets.c.due_at < text("'infinity'"),
)

transactions = Table(
    "transactions",
    metadata,
    Column("tenant_id", Uuid, nullable=False),
    Column("id", Uuid, nullable=False),
    Column("kind", Text, nullable=False),
    Column("reference", _KEY, nullable=False),
    Column("unit", Text, nullable=False),
    Column("amount", Numeric, nullable=False),
    Column("beneficiaries", ARRAY(Uuid), nullable=False),
    Column("shares", ARRAY(Numeric), nullable=False),
    Column("subject_id", Uuid),
    Column("absorbed", Numeric, nullable=False, server_default="0"),
    Column("reverses", Uuid),
    Column("returned", Numeric),
    Column("returned_total", Numeric),
    Column("returned_unit", Text),
    Column("request", JSON, nullable=False),
    Column("policy", JSON, nullable=False),
    Column("metadata", JSON, nullable=False),
    Column("occurred_at", _MOMENT, nullable=False),
    PrimaryKeyConstraint("tenant_id", "id", name="transactions_pkey"),
    UniqueConstraint("reference", "tenant_id", "kind", name="transactions_key_used_once"),
)

Index(
    "transactions_returned_one_after_another",
    transactions.c.reverses,
    transactions.c.tenant_id,
    transactions.c.returned_total - transactions.c.returned,
    unique=True,
    postgresql_where=transactions.c.reverses.is_not(None),
)

payments = Table(
    "payments",
    metadata,
    Column("payment", _KEY, nullable=False),
    Column("tenant_id", Uuid, nullable=False),
    Column("kind", Text, nullable=False, server_default="purchase"),
    PrimaryKeyConstraint("payment", name="payments_pkey"),
    ForeignKeyConstraint(
        ["tenant_id", "kind", "payment"],
        [transactions.c.tenant_id, transactions.c.kind, transactions.c.reference],
        name="payments_have_their_purchase",
    ),
)

postings = Table(
    "postings",
    metadata,
    Column("tenant_id", Uuid, nullable=False),
    Column("account_id", Uuid, nullable=False),
    Column("position", BigInteger, Identity(always=True), nullable=False),
    Column("origin_tenant_id", Uuid, nullable=False),
    Column("transaction_id", Uuid, nullable=False),
    Column("sequence", SmallInteger, nullable=False),
    Column("kind", Text, nullable=False),
    Column("unit", Text, nullable=False),
    Column("amount", Numeric, nullable=False),
    Column("overdraft", Boolean, nullable=False, server_default=text("false")),
    Column("subject_id", Uuid),
    Column("posted_after", Numeric),
    Column("balance_after", Numeric),
    Column("drawn_grants", ARRAY(Uuid)),
    Column("drawn_amounts", ARRAY(Numeric)),
    Column("occurred_at", _MOMENT, nullable=False),
    PrimaryKeyConstraint("tenant_id", "account_id", "position", name="postings_pkey"),
    UniqueConstraint("origin_tenant_id", "transaction_id", "sequence", name="postings_made_once"),
)
Index(
    "postings_arrivals",
    postings.c.tenant_id,
    postings.c.account_id,
    postings.c.unit,
    postings.c.position,
    postgresql_include=["amount", "occurred_at"],
    postgresql_where=postings.c.posted_after.is_(None),
)
Index(
    "postings_moments",
    postings.c.tenant_id,
    postings.c.account_id,
    postings.c.unit,
    postings.c.occurred_at,
    postings.c.position,
    postgresql_include=["posted_after"],
    postgresql_where=postings.c.posted_after.is_not(None),
)

checkpoints = Table(
    "checkpoints",
    metadata,
    Column("tenant_id", Uuid, nullable=False),
    Column("account_id", Uuid, nullable=False),
    Column("unit", Text, nullable=False),
    Column("position", BigInteger, nullable=False),
    Column("after_position", BigInteger, nullable=False),
    Column("arrived", Numeric, nullable=False),
    Column("balance", Numeric, nullable=False),
    Column("added", Numeric, nullable=False),
    Column("earliest_at", _MOMENT),
    Column("latest_at", _MOMENT),
    PrimaryKeyConstraint("tenant_id", "account_id", "unit", "position", name="checkpoints_pkey"),
    UniqueConstraint(
        "tenant_id",
        "account_id",
        "unit",
        "after_position",
        name="checkpoints_follow_one_another",
    ),
)

holds = Table(
    "holds",
    metadata,
    Column("tenant_id", Uuid, nullable=False),
    Column("id", Uuid, nullable=False),
    Column("account_id", Uuid, nullable=False),
    Column("kind", Text, nullable=False, server_default="work"),
    Column("dispute_id", Uuid),
    Column("reference", _KEY, nullable=False),
    Column("unit", Text, nullable=False),
    Column("amount", Numeric, nullable=False),
    Column("captured", Numeric, nullable=False, server_default="0"),
    Column("state", Text, nullable=False, server_default="open"),
    Column("opened_at", _MOMENT, nullable=False),
    Column("expires_at", _MOMENT),
    Column("ends_at", _MOMENT, nullable=False),
    Column("request", JSON, nullable=False),
    Column("metadata", JSON, nullable=False),
    Column("pinned_grants", ARRAY(Uuid)),
    Column("pinned_amounts", ARRAY(Numeric)),
    PrimaryKeyConstraint("tenant_id", "id", name="holds_pkey"),
    UniqueConstraint("reference", "tenant_id", "kind", name="holds_key_used_once"),
)
Index(
    "holds_ends",
    holds.c.account_id,
    holds.c.tenant_id,
    holds.c.unit,
    holds.c.ends_at,
    postgresql_include=["amount", "opened_at"],
)
Index(
    "holds_open",
    holds.c.account_id,
    holds.c.tenant_id,
    holds.c.unit,
    holds.c.ends_at,
    postgresql_include=["amount"],
    postgresql_where=holds.c.state == "open",
)

grants = Table(
    "grants",
    metadata,
    Column("tenant_id", Uuid, nullable=False),
    Column("id", Uuid, nullable=False),
    Column("account_id", Uuid, nullable=False),
    Column("unit", Text, nullable=False),
    Column("amount", Numeric, nullable=False),
    Column("taken", Numeric, nullable=False, server_default="0"),
    Column("source", _KEY, nullable=False),
    Column("priority", Integer, nullable=False),
    Column("granted_at", _MOMENT, nullable=False),
    Column("expires_at", _MOMENT),
    PrimaryKeyConstraint("tenant_id", "id", name="grants_pkey"),
)
Index(
    "grants_spendable",
    grants.c.account_id,
    grants.c.tenant_id,
    grants.c.unit,
    grants.c.priority,
    grants.c.expires_at,
    grants.c.granted_at,
    grants.c.id,
    postgresql_where=grants.c.taken < grants.c.amount,
)

disputes = Table(
    "disputes",
    metadata,
    Column("tenant_id", Uuid, nullable=False),
    Column("id", Uuid, nullable=False),
    Column("reference", _KEY, nullable=False),
    Column("purchase_id", Uuid, nullable=False),
    Column("payment", _KEY, nullable=False),
    Column("disputed", Numeric, nullable=False),
    Column("disputed_unit", Text, nullable=False),
    Column("unit", Text, nullable=False),
    Column("amount", Numeric, nullable=False),
    Column("beneficiaries", ARRAY(Uuid), nullable=False),
    Column("shares", ARRAY(Numeric), nullable=False),
    Column("request", JSON, nullable=False),
    Column("metadata", JSON, nullable=False),
    Column("opened_at", _MOMENT, nullable=False),
    PrimaryKeyConstraint("tenant_id", "id", name="disputes_pkey"),
    UniqueConstraint("reference", "tenant_id", name="disputes_key_used_once"),
    ForeignKeyConstraint(
        ["tenant_id", "purchase_id"],
        [transactions.c.tenant_id, transactions.c.id],
        name="disputes_are_of_purchases",
    ),
)
Index("disputes_of_purchases", disputes.c.purchase_id, disputes.c.tenant_id)

payment_attempts = Table(
    "payment_attempts",
    metadata,
    Column("tenant_id", Uuid, nullable=False),
    Column("id", Uuid, nullable=False),
    Column("amount", Numeric, nullable=False),
    Column("unit", Text, nullable=False),
    Column("payer", _KEY),
    Column("provider", _KEY, nullable=False),
    Column("token", _KEY, nullable=False),
    Column("recipient", _KEY, nullable=False),
    Column("raw_amount", Numeric, nullable=False),
    Column("confirmations", Integer, nullable=False),
    Column("metadata", JSON, nullable=False),
    Column("created_at", _MOMENT, nullable=False),
    Column("expires_at", _MOMENT, nullable=False),
    Column("state", Text, nullable=False, server_default="CREATED_INTENT"),
    Column("changed_at", _MOMENT),
    Column("evidence", _KEY),
    Column("submitted_at", _MOMENT),
    Column("failure", Text),
    Column("transaction_id", Uuid),
    Column("checked_at", _MOMENT),
    PrimaryKeyConstraint("tenant_id", "id", name="payment_attempts_pkey"),
)
Index(
    "payment_attempts_evidence_used_once",
    payment_attempts.c.evidence,
    unique=True,
    postgresql_where=payment_attempts.c.state.in_(["PENDING_UNVERIFIED", "CREDITED"]),
)
Index(
    "payment_attempts_pending",
    payment_attempts.c.checked_at,
    payment_attempts.c.tenant_id,
    payment_attempts.c.id,
    postgresql_where=payment_attempts.c.state == "PENDING_UNVERIFIED",
)
Index(
    "payment_attempts_expiring",
    payment_attempts.c.expires_at,
    payment_attempts.c.tenant_id,
    payment_attempts.c.id,
    postgresql_where=payment_attempts.c.state == "CREATED_INTENT",
)

payment_attempt_events = Table(
    "payment_attempt_events",
    metadata,
    Column("tenant_id", Uuid, nullable=False),
    Column("attempt_id", Uuid, nullable=False),
    Column("from_state", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("at", _MOMENT, nullable=False),
    Column("evidence", _KEY),
    Column("failure", Text),
    Column("transaction_id", Uuid),
    Column("found", JSON, nullable=False),
    PrimaryKeyConstraint(
        "tenant_id", "attempt_id", "from_state", name="payment_attempt_events_pkey"
    ),
    ForeignKeyConstraint(
        ["tenant_id", "attempt_id"],
        [payment_attempts.c.tenant_id, payment_attempts.c.id],
        name="payment_attempt_events_of_attempts",
    ),
    ForeignKeyConstraint(
        ["tenant_id", "transaction_id"],
        [transactions.c.tenant_id, transactions.c.id],
        name="payment_attempt_events_of_purchases",
    ),
)
