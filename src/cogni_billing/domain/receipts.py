"""What the caller of a mutating call learns. A replay tells what the first call did."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from attrs import frozen

from cogni_billing.domain.amounts import Amount
from cogni_billing.domain.errors import LedgerCorruption
from cogni_billing.domain.kinds import TransactionKind
from cogni_billing.domain.shares import Share
from cogni_billing.domain.transactions import Recorded, Transaction


@frozen(kw_only=True)
class Receipt:
    """What every recorded transaction tells.

    On a replay everything is as it was the first time: the balance is the one right after the
    transaction, not today's.
    """

    transaction_id: UUID
    balance: Amount
    """Everything posted to the tenant's account, right after this transaction."""
    replayed: bool


@frozen(kw_only=True)
class PurchaseReceipt(Receipt):
    """What a confirmed purchase did, by the policy in force at its time."""

    credited: Amount
    shares: tuple[Share, ...]


@frozen(kw_only=True)
class ChargeReceipt(Receipt):
    """What a charge took."""

    charged: Amount

    @property
    def overdrawn(self) -> bool:
        """Whether it left the account below zero, which only `allow_overdraft` can."""
        return self.balance.is_negative


@frozen(kw_only=True)
class CaptureReceipt(Receipt):
    """What a capture took of what its hold had set aside; the rest is available again."""

    hold_id: UUID
    captured: Amount


@frozen(kw_only=True)
class GrantReceipt(Receipt):
    """What was granted, and how it is to be spent."""

    granted: Amount
    source: str
    priority: int
    expires_at: datetime | None


@frozen(kw_only=True)
class RefundReceipt(Receipt):
    """What was taken back because so much of a payment was returned.

    `refunded` is in the payment's unit, `total_refunded` all that was returned of it so far, this
    included. The customer lost `taken`, each beneficiary its share; `shortfall` is what could not
    be taken back of them, in credits.
    """

    refunded: Amount
    total_refunded: Amount
    taken: Amount
    shares: tuple[Share, ...]
    shortfall: Amount


@frozen(kw_only=True)
class ChargebackReceipt(RefundReceipt):
    """The same, because a dispute was lost."""

    dispute_id: UUID


def purchase_receipt(recorded: Recorded) -> PurchaseReceipt:
    """The receipt of a recorded purchase."""
    made = _made(recorded, TransactionKind.PURCHASE)
    return PurchaseReceipt(
        transaction_id=made.id,
        credited=made.amount,
        shares=made.shares,
        balance=recorded.balance,
        replayed=recorded.replayed,
    )


def charge_receipt(recorded: Recorded) -> ChargeReceipt:
    """The receipt of a recorded charge, or of another kind that only takes available credits."""
    kind = recorded.transaction.kind
    made = _made(recorded, kind if kind.is_plain_debit else TransactionKind.CHARGE)
    return ChargeReceipt(
        transaction_id=made.id,
        charged=-made.amount,
        balance=recorded.balance,
        replayed=recorded.replayed,
    )


def capture_receipt(recorded: Recorded) -> CaptureReceipt:
    """The receipt of a recorded capture."""
    made = _made(recorded, TransactionKind.CAPTURE)
    assert made.subject is not None  # a capture names its hold
    return CaptureReceipt(
        transaction_id=made.id,
        hold_id=made.subject,
        captured=-made.amount,
        balance=recorded.balance,
        replayed=recorded.replayed,
    )


def grant_receipt(recorded: Recorded) -> GrantReceipt:
    """The receipt of a recorded grant."""
    made = _made(recorded, TransactionKind.GRANT)
    terms = made.terms
    assert terms is not None  # a grant has them
    return GrantReceipt(
        transaction_id=made.id,
        granted=made.amount,
        source=terms.source,
        priority=terms.priority,
        expires_at=terms.expires_at,
        balance=recorded.balance,
        replayed=recorded.replayed,
    )


def refund_receipt(recorded: Recorded) -> RefundReceipt:
    """The receipt of a recorded refund."""
    return RefundReceipt(**_returned(recorded, TransactionKind.REFUND))


def chargeback_receipt(recorded: Recorded) -> ChargebackReceipt:
    """The receipt of a recorded chargeback."""
    returned = _returned(recorded, TransactionKind.CHARGEBACK)
    assert recorded.transaction.subject is not None  # a chargeback names its dispute
    return ChargebackReceipt(**returned, dispute_id=recorded.transaction.subject)


def _made(recorded: Recorded, kind: TransactionKind) -> Transaction:
    """The recorded transaction, which must be of *kind*.

    Raises:
        LedgerCorruption: the ledger answered with a transaction of another kind.
    """
    made = recorded.transaction
    if made.kind is not kind:
        raise LedgerCorruption(f"transaction {made.id} is a {made.kind}; expected a {kind}")
    return made


def _returned(recorded: Recorded, kind: TransactionKind) -> dict[str, Any]:
    made = _made(recorded, kind)
    assert made.reversal is not None  # its kind has one
    return {
        "transaction_id": made.id,
        "refunded": made.reversal.amount,
        "total_refunded": made.reversal.total,
        "taken": -made.amount,
        "shares": tuple(Share(share.beneficiary, -share.amount) for share in made.shares),
        "shortfall": made.absorbed,
        "balance": recorded.balance,
        "replayed": recorded.replayed,
    }
