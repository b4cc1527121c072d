"""Prepaid credits for multi-tenant applications on PostgreSQL.

    billing = Billing(PostgresUnitOfWork(engine))
    receipt = billing.confirm_purchase(tenant, usd("10.00"), payment="stripe:pi_1")

The units of work are in `cogni_billing.adapters.memory` and `cogni_billing.adapters.postgres`.
"""

from cogni_billing.aio import AsyncBilling, AsyncPaymentAttempts
from cogni_billing.attempts import PaymentAttempts
from cogni_billing.billing import Billing
from cogni_billing.domain.accounts import Account
from cogni_billing.domain.allocation import allocate
from cogni_billing.domain.amounts import CREDIT, USD, USDC, Amount, Unit, credits, usd, usd_cents
from cogni_billing.domain.attempt_limits import AttemptRules
from cogni_billing.domain.attempts import Attempt, AttemptEvent, AttemptState, AttemptStatus, Intent
from cogni_billing.domain.batches import Outcome, OutcomeState
from cogni_billing.domain.charges import Charge
from cogni_billing.domain.destinations import Destination
from cogni_billing.domain.disputes import Dispute, DisputeState
from cogni_billing.domain.errors import (
    AttemptClosed,
    BillingError,
    Difference,
    DisputeClosed,
    HoldClosed,
    IdempotencyConflict,
    InsufficientCredits,
    InvalidAmount,
    InvalidInput,
    InvalidMetadata,
    InvalidPage,
    InvalidPolicy,
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
    RefundExceedsPayment,
    ScopeClosed,
    SystemTenantMissing,
    UnbalancedTransaction,
    UnitMismatch,
    UnknownAccount,
    UnknownAttempt,
    UnknownDispute,
    UnknownHold,
    UnknownPayment,
    VerifierFailed,
)
from cogni_billing.domain.findings import (
    FailureCode,
    PaymentFailed,
    PaymentPending,
    PaymentVerified,
)
from cogni_billing.domain.grants import Grant
from cogni_billing.domain.holds import Hold, HoldState
from cogni_billing.domain.identity import (
    SYSTEM_ACCOUNT_ID,
    SYSTEM_TENANT_ID,
    AccountId,
    TenantId,
)
from cogni_billing.domain.kinds import TransactionKind
from cogni_billing.domain.policies import (
    RevenueSharePolicies,
    RevenueSharePolicy,
    ShareMode,
    Shortfall,
)
from cogni_billing.domain.pricing import charge_for, credits_for, margin_preserved
from cogni_billing.domain.purchases import Purchase
from cogni_billing.domain.receipts import (
    CaptureReceipt,
    ChargebackReceipt,
    ChargeReceipt,
    GrantReceipt,
    PurchaseReceipt,
    Receipt,
    RefundReceipt,
)
from cogni_billing.domain.seals import Seal
from cogni_billing.domain.shares import Share, ShareRule, ShareTier
from cogni_billing.domain.statements import Balance, Line, Page, TransactionView
from cogni_billing.domain.verification import Invariant, Verification, Violation

__all__ = [
    "CREDIT",
    "SYSTEM_ACCOUNT_ID",
    "SYSTEM_TENANT_ID",
    "USD",
    "USDC",
    "Account",
    "AccountId",
    "Amount",
    "AsyncBilling",
    "AsyncPaymentAttempts",
    "Attempt",
    "AttemptClosed",
    "AttemptEvent",
    "AttemptRules",
    "AttemptState",
    "AttemptStatus",
    "Balance",
    "Billing",
    "BillingError",
    "CaptureReceipt",
    "Charge",
    "ChargeReceipt",
    "ChargebackReceipt",
    "Destination",
    "Difference",
    "Dispute",
    "DisputeClosed",
    "DisputeState",
    "FailureCode",
    "Grant",
    "GrantReceipt",
    "Hold",
    "HoldClosed",
    "HoldState",
    "IdempotencyConflict",
    "InsufficientCredits",
    "Intent",
    "InvalidAmount",
    "InvalidInput",
    "InvalidMetadata",
    "InvalidPage",
    "InvalidPolicy",
    "InvalidReference",
    "InvalidSignature",
    "InvalidTenant",
    "InvalidTime",
    "Invariant",
    "LedgerCorruption",
    "LedgerUnavailable",
    "Line",
    "OthersRefused",
    "Outcome",
    "OutcomeState",
    "OutcomeUnknown",
    "Page",
    "PaymentAlreadyClaimed",
    "PaymentAttempts",
    "PaymentFailed",
    "PaymentPending",
    "PaymentVerified",
    "PrivilegeRequired",
    "Purchase",
    "PurchaseReceipt",
    "Receipt",
    "RefundExceedsPayment",
    "RefundReceipt",
    "RevenueSharePolicies",
    "RevenueSharePolicy",
    "ScopeClosed",
    "Seal",
    "Share",
    "ShareMode",
    "ShareRule",
    "ShareTier",
    "Shortfall",
    "SystemTenantMissing",
    "TenantId",
    "TransactionKind",
    "TransactionView",
    "UnbalancedTransaction",
    "Unit",
    "UnitMismatch",
    "UnknownAccount",
    "UnknownAttempt",
    "UnknownDispute",
    "UnknownHold",
    "UnknownPayment",
    "Verification",
    "VerifierFailed",
    "Violation",
    "allocate",
    "charge_for",
    "credits",
    "credits_for",
    "margin_preserved",
    "usd",
    "usd_cents",
]
