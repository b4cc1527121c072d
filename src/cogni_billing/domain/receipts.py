"""Receipts: the results of calls that write. A replay returns the receipt of the first call."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from attrs import frozen

from cogni_billing.domain.amounts import ZERO, Amount
from cogni_billing.domain.errors import LedgerCorruption
from cogni_billing.domain.kinds import TransactionKind
from cogni_billing.domain.openings import Opened
from cogni_billing.domain.shares import Share
from cogni_billing.domain.transactions import (
    Draw,
    Recorded,
    Transaction,
    drawn,
    granted_in,
)


@frozen(kw_only=True)
class Receipt:
    """The fields of every receipt.

    A replay returns the values of the first call. The balance is the one right after the
    transaction, not the present one.
    """

    transaction_id: UUID
    balance: Amount
    """The posted balance of the tenant's account, right after this transaction."""
    replayed: bool


@frozen(kw_only=True)
class PurchaseReceipt(Receipt):
    """The receipt of a purchase, by the policy in force at its time."""

    credited: Amount
    shares: tuple[Share, ...]
    expires_at: datetime | None = None
    """The moment at which the rest of the credits expires. `None` for never."""


@frozen(kw_only=True)
class ChargeReceipt(Receipt):
    """The receipt of a charge."""

    charged: Amount
    """The credits that it took. With `at_most` they can be fewer than the call asked for."""
    draws: tuple[Draw, ...] = ()
    """The parts of grants that paid, and of purchases that expire, in the order taken."""
    occurred_at: datetime | None = None
    """The moment of the usage, if the call gave one."""

    @property
    def purchased(self) -> Amount:
        """The part that purchased credits paid, or that became debt."""
        return self.charged - granted_in(self.draws)

    @property
    def overdrawn(self) -> bool:
        """True if the account was below zero after the charge. Needs `allow_overdraft`."""
        return self.balance.is_negative


@frozen(kw_only=True)
class CaptureReceipt(Receipt):
    """The receipt of a capture. The rest of the hold is available again."""

    hold_id: UUID
    captured: Amount
    draws: tuple[Draw, ...] = ()
    """The parts of grants that paid, and of purchases that expire, in the order taken."""

    @property
    def purchased(self) -> Amount:
        """The part that purchased credits paid."""
        return self.captured - granted_in(self.draws)


@frozen(kw_only=True)
class GrantReceipt(Receipt):
    """The receipt of a grant, with its terms."""

    granted: Amount
    source: str
    priority: int
    expires_at: datetime | None
    repaid: Amount
    """The part that repaid a debt at once. The rest can be spent, and can expire."""
    effective_from: datetime | None = None
    """The moment at which the grant begins, if the caller gave one."""


@frozen(kw_only=True)
class VoidReceipt(Receipt):
    """The receipt of a voided grant."""

    grant_id: UUID
    voided: Amount
    """The remaining credits of the grant, which were taken back."""
    reason: str | None


@frozen(kw_only=True)
class RefundReceipt(Receipt):
    """The receipt of a refund.

    `payment` is the one of the purchase. `refunded` and `total_refunded` are in its unit.
    `total_refunded` is the sum of all refunds and chargebacks of the payment, including this one.
    `taken` is the customer's loss in credits, and `shares` are the losses of the beneficiaries.
    `shortfall` is the part of the credits that could not be taken back.
    """

    payment: str
    refunded: Amount
    total_refunded: Amount
    taken: Amount
    shares: tuple[Share, ...]
    shortfall: Amount
    draws: tuple[Draw, ...] = ()
    """The parts that it took of the purchase if that expires, then of other purchases that expire,
    and then of grants, because the other purchased credits were spent.
    """
    lapsed: Amount = ZERO
    """The credits of the purchase that had expired. They come from `breakage`, and the customer
    does not owe them.
    """

    @property
    def purchased(self) -> Amount:
        """The part of `taken` that was of purchased credits, or became debt."""
        return self.taken - granted_in(self.draws)


@frozen(kw_only=True)
class ReinstatementReceipt(Receipt):
    """The receipt of a refund that failed.

    `payment` is the one of the purchase. `reinstated` and `total_refunded` are in its unit.
    `total_refunded` is the part of the payment that is still returned. `credited` are the credits
    that the customer has again, and `shares` the ones of the beneficiaries.
    """

    payment: str
    refund: str
    """The reference of the refund."""
    reinstated: Amount
    total_refunded: Amount
    credited: Amount
    shares: tuple[Share, ...]
    shortfall: Amount
    """The credits that go back to the `shortfall` account, which had absorbed them."""
    lapsed: Amount
    """The expired credits that go back to `breakage`."""
    draws: tuple[Draw, ...]
    """The parts that went back to grants, and to purchases that expire."""


@frozen(kw_only=True)
class ReversalReceipt(Receipt):
    """The receipt of a reversal of a charge, in CREDIT."""

    charge_id: UUID
    """The id of the charge or the capture."""
    given_back: Amount
    """The part of the charge: `credited` and `expired` together."""
    total_given_back: Amount
    """The sum of all reversals of the charge, including this one."""
    credited: Amount
    """The credits that the tenant has again."""
    expired: Amount
    """The credits of grants that have expired since. They went on to `breakage`."""
    draws: tuple[Draw, ...]
    """The parts that went back to grants, and to purchases that expire, newest draw first."""

    @property
    def purchased(self) -> Amount:
        """The purchased credits that the tenant has again."""
        return self.credited - granted_in(self.draws)


@frozen(kw_only=True)
class ChargebackReceipt(RefundReceipt):
    """The receipt of a lost dispute, which is a refund with a dispute."""

    dispute_id: UUID


@frozen(kw_only=True)
class AdjustmentReceipt(Receipt):
    """The receipt of an operator's correction. `adjusted` is below zero if it took credits."""

    adjusted: Amount
    reason: str


@frozen(kw_only=True)
class OpeningReceipt(Receipt):
    """The receipt of an opening balance."""

    purchased: Amount
    """The purchased credits. Below zero for a debt."""
    as_of: datetime
    grants: tuple[GrantReceipt, ...]
    draws: tuple[Draw, ...] = ()
    """The parts of the grants that repaid the debt, in spend order."""


def purchase_receipt(recorded: Recorded) -> PurchaseReceipt:
    """The receipt of a recorded purchase."""
    made = _made(recorded, TransactionKind.PURCHASE)
    return PurchaseReceipt(
        transaction_id=made.id,
        credited=made.amount,
        shares=made.shares,
        expires_at=made.expires_at,
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
        occurred_at=made.occurred_at,
        draws=recorded.draws,
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
        draws=recorded.draws,
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
        repaid=drawn(recorded.draws),
        effective_from=terms.effective_from,
        balance=recorded.balance,
        replayed=recorded.replayed,
    )


def void_receipt(recorded: Recorded) -> VoidReceipt:
    """The receipt of a recorded void."""
    made = _made(recorded, TransactionKind.VOID)
    assert made.subject is not None  # a void names its grant
    return VoidReceipt(
        transaction_id=made.id,
        grant_id=made.subject,
        voided=-made.amount,
        reason=made.reason,
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


def reinstatement_receipt(recorded: Recorded) -> ReinstatementReceipt:
    """The receipt of a recorded reinstatement of a refund."""
    made = _made(recorded, TransactionKind.REINSTATEMENT)
    part = made.reversal
    assert part is not None  # its kind has one
    assert part.refund is not None  # it undoes a refund
    return ReinstatementReceipt(
        transaction_id=made.id,
        payment=part.payment,
        refund=part.refund,
        reinstated=part.amount,
        total_refunded=part.total,
        credited=made.amount,
        shares=made.shares,
        shortfall=made.absorbed,
        lapsed=made.lapsed,
        draws=recorded.draws,
        balance=recorded.balance,
        replayed=recorded.replayed,
    )


def adjustment_receipt(recorded: Recorded) -> AdjustmentReceipt:
    """The receipt of a recorded adjustment."""
    made = _made(recorded, TransactionKind.ADJUSTMENT)
    assert made.reason is not None  # an adjustment has one
    return AdjustmentReceipt(
        transaction_id=made.id,
        adjusted=made.amount,
        reason=made.reason,
        balance=recorded.balance,
        replayed=recorded.replayed,
    )


def opening_receipt(opened: Opened) -> OpeningReceipt:
    """The receipt of a recorded opening."""
    made = _made(opened.balance, TransactionKind.OPENING)
    return OpeningReceipt(
        transaction_id=made.id,
        purchased=made.amount,
        as_of=made.at,
        grants=tuple(map(grant_receipt, opened.grants)),
        draws=opened.balance.draws,
        balance=opened.balance.balance,
        replayed=opened.balance.replayed,
    )


def reversal_receipt(recorded: Recorded) -> ReversalReceipt:
    """The receipt of a recorded reversal of a charge."""
    made = _made(recorded, TransactionKind.REVERSAL)
    part = made.giving_back
    assert part is not None  # its kind has one
    assert part.charge is not None  # the ledger filled it in
    return ReversalReceipt(
        transaction_id=made.id,
        charge_id=part.charge,
        given_back=part.amount,
        total_given_back=part.total,
        credited=made.amount,
        expired=made.absorbed,
        draws=recorded.draws,
        balance=recorded.balance,
        replayed=recorded.replayed,
    )


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
        "payment": made.reversal.payment,
        "refunded": made.reversal.amount,
        "total_refunded": made.reversal.total,
        "taken": -made.amount,
        "shares": tuple(Share(share.beneficiary, -share.amount) for share in made.shares),
        "shortfall": made.absorbed,
        "lapsed": made.lapsed,
        "draws": recorded.draws,
        "balance": recorded.balance,
        "replayed": recorded.replayed,
    }
