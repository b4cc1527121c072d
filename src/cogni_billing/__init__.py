"""Prepaid credits for multi-tenant applications on PostgreSQL.

    billing = Billing(PostgresUnitOfWork(engine))
    receipt = billing.confirm_purchase(tenant, usd("10.00"), payment="stripe:pi_1")

The units of work are in `cogni_billing.adapters.memory` and `cogni_billing.adapters.postgres`.
"""

from cogni_billing.aio import AsyncBilling, AsyncPaymentAttempts
from cogni_billing.application.acting import acting
from cogni_billing.application.metering import AsyncMetered, Metered
from cogni_billing.attempts import PaymentAttempts
from cogni_billing.billing import Billing
from cogni_billing.domain.accounts import Account, Freeze
from cogni_billing.domain.allocation import allocate
from cogni_billing.domain.amounts import (
    CREDIT,
    USD,
    USDC,
    Amount,
    Unit,
    credits,
    money,
    usd,
    usd_cents,
)
from cogni_billing.domain.attempt_limits import AttemptRules
from cogni_billing.domain.attempts import Attempt, AttemptEvent, AttemptState, AttemptStatus, Intent
from cogni_billing.domain.batches import Outcome, OutcomeState
from cogni_billing.domain.charges import Charge
from cogni_billing.domain.destinations import Destination
from cogni_billing.domain.disputes import Dispute, DisputeState
from cogni_billing.domain.errors import (
    AccountFrozen,
    AccountInUse,
    AttemptClosed,
    BillingError,
    Difference,
    GrantClosed,
    HoldClosed,
    IdempotencyConflict,
    InstallationNotReady,
    InsufficientCredits,
    InvalidAmount,
    InvalidInput,
    InvalidMetadata,
    InvalidPage,
    InvalidPolicy,
    InvalidPrices,
    InvalidReference,
    InvalidSignature,
    InvalidTenant,
    InvalidTime,
    LedgerCorruption,
    LedgerUnavailable,
    OthersRefused,
    OutcomeUnknown,
    PaymentAlreadyClaimed,
    PrivilegeRequired,
    RecipientTaken,
    RecordsRetained,
    RefundExceedsPayment,
    ReversalExceedsCharge,
    RunInProgress,
    ScopeClosed,
    SystemTenantMissing,
    UnbalancedTransaction,
    UnitMismatch,
    UnknownAccount,
    UnknownAttempt,
    UnknownCharge,
    UnknownDispute,
    UnknownGrant,
    UnknownHold,
    UnknownPayment,
    UnknownRefund,
    UnknownSchedule,
    VerifierFailed,
)
from cogni_billing.domain.findings import (
    FailureCode,
    Finding,
    PaymentFailed,
    PaymentPending,
    PaymentVerified,
)
from cogni_billing.domain.folding import Folding
from cogni_billing.domain.found_payments import FoundPayment
from cogni_billing.domain.grants import Grant, GrantExtension, Lot
from cogni_billing.domain.holds import Hold, HoldPage, HoldState
from cogni_billing.domain.identity import (
    SYSTEM_ACCOUNT_ID,
    SYSTEM_TENANT_ID,
    AccountId,
    TenantId,
)
from cogni_billing.domain.inbox import EventState, InboxEntry, InboxPage
from cogni_billing.domain.kinds import TransactionKind
from cogni_billing.domain.openings import OpeningGrant
from cogni_billing.domain.payment_events import (
    DisputeChanged,
    FraudWarned,
    MoneyEvent,
    PaymentCanceled,
    PaymentDeclined,
    PaymentEvent,
    PaymentRefunded,
    PaymentSucceeded,
    RefundFailed,
    RefundMade,
)
from cogni_billing.domain.policies import (
    Policies,
    RevenueSharePolicies,
    RevenueSharePolicy,
    ShareMode,
    Shortfall,
)
from cogni_billing.domain.prices import PriceBook, PriceBooks
from cogni_billing.domain.pricing import charge_for, credits_for, margin_preserved
from cogni_billing.domain.purchases import Purchase
from cogni_billing.domain.receipts import (
    AdjustmentReceipt,
    CaptureReceipt,
    ChargebackReceipt,
    ChargeReceipt,
    GrantReceipt,
    OpeningReceipt,
    PurchaseReceipt,
    Receipt,
    RefundReceipt,
    ReinstatementReceipt,
    ReversalReceipt,
    VoidReceipt,
)
from cogni_billing.domain.schedules import GrantSchedule, Rollover, Schedule
from cogni_billing.domain.seals import Seal
from cogni_billing.domain.shares import Share, ShareRule, ShareTier
from cogni_billing.domain.statements import Balance, Line, Page, TransactionView
from cogni_billing.domain.transactions import Draw, Overrun
from cogni_billing.domain.verification import Invariant, Verification, Violation
from cogni_billing.ports.environment import Clock, IdSource
from cogni_billing.ports.payments import AsyncPaymentVerifier, PaymentVerifier, WebhookReader
from cogni_billing.ports.scope import AsyncUnitOfWork, UnitOfWork

__all__ = [  # noqa: RUF022 (grouped, as the reference shows them)
    # Calls
    "Billing",
    "AsyncBilling",
    "PaymentAttempts",
    "AsyncPaymentAttempts",
    # Amounts and prices
    "Amount",
    "Unit",
    "CREDIT",
    "USD",
    "USDC",
    "credits",
    "usd",
    "usd_cents",
    "money",
    "credits_for",
    "charge_for",
    "margin_preserved",
    "allocate",
    # Tenants and accounts
    "TenantId",
    "AccountId",
    "Account",
    "SYSTEM_TENANT_ID",
    "SYSTEM_ACCOUNT_ID",
    # Purchases and their shares
    "Purchase",
    "PurchaseReceipt",
    "Share",
    "RevenueSharePolicy",
    "RevenueSharePolicies",
    "Policies",
    "PriceBook",
    "PriceBooks",
    "ShareMode",
    "ShareRule",
    "ShareTier",
    # Charges, holds and grants
    "Charge",
    "ChargeReceipt",
    "Hold",
    "HoldState",
    "HoldPage",
    "Overrun",
    "Metered",
    "AsyncMetered",
    "CaptureReceipt",
    "Grant",
    "GrantReceipt",
    "Draw",
    "Lot",
    "GrantExtension",
    "VoidReceipt",
    "GrantSchedule",
    "Rollover",
    "Schedule",
    "Receipt",
    # Batches
    "Outcome",
    "OutcomeState",
    # Refunds and disputes
    "RefundReceipt",
    "ReinstatementReceipt",
    "ReversalReceipt",
    "Shortfall",
    "Dispute",
    "DisputeState",
    "ChargebackReceipt",
    "FoundPayment",
    # Corrections and openings
    "OpeningGrant",
    "OpeningReceipt",
    "AdjustmentReceipt",
    "Freeze",
    "acting",
    # Balances and statements
    "Balance",
    "Page",
    "Line",
    "TransactionView",
    "TransactionKind",
    # Payment attempts
    "Destination",
    "AttemptRules",
    "Intent",
    "Attempt",
    "AttemptState",
    "AttemptStatus",
    "AttemptEvent",
    "Finding",
    "PaymentVerified",
    "PaymentPending",
    "PaymentFailed",
    "FailureCode",
    # Events of payments
    "PaymentEvent",
    "MoneyEvent",
    "PaymentSucceeded",
    "PaymentCanceled",
    "PaymentDeclined",
    "PaymentRefunded",
    "RefundMade",
    "RefundFailed",
    "DisputeChanged",
    "FraudWarned",
    "EventState",
    "InboxEntry",
    "InboxPage",
    # Maintenance
    "Folding",
    "Verification",
    "Violation",
    "Invariant",
    "Seal",
    # Protocols that a host can implement or annotate
    "UnitOfWork",
    "AsyncUnitOfWork",
    "Clock",
    "IdSource",
    "PaymentVerifier",
    "AsyncPaymentVerifier",
    "WebhookReader",
    # Errors
    "BillingError",
    "AttemptClosed",
    "Difference",
    "GrantClosed",
    "HoldClosed",
    "RunInProgress",
    "IdempotencyConflict",
    "InstallationNotReady",
    "InsufficientCredits",
    "AccountFrozen",
    "AccountInUse",
    "InvalidAmount",
    "InvalidInput",
    "InvalidMetadata",
    "InvalidPage",
    "InvalidPolicy",
    "InvalidPrices",
    "InvalidReference",
    "InvalidSignature",
    "InvalidTenant",
    "InvalidTime",
    "LedgerCorruption",
    "LedgerUnavailable",
    "OthersRefused",
    "OutcomeUnknown",
    "PaymentAlreadyClaimed",
    "RecipientTaken",
    "PrivilegeRequired",
    "RecordsRetained",
    "RefundExceedsPayment",
    "ScopeClosed",
    "SystemTenantMissing",
    "UnbalancedTransaction",
    "UnitMismatch",
    "UnknownAccount",
    "UnknownAttempt",
    "UnknownDispute",
    "UnknownGrant",
    "UnknownSchedule",
    "UnknownCharge",
    "ReversalExceedsCharge",
    "UnknownHold",
    "UnknownPayment",
    "UnknownRefund",
    "VerifierFailed",
]
