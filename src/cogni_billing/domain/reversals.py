"""Reversals: refunds, and the chargebacks of lost disputes.

A reversal takes back each leg of the recorded purchase, which are the customer's credits and every
share. The cumulative target of a leg is floor(leg x returned so far / paid). So partial reversals
add up, and a full return leaves every leg at zero, in any number of parts.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from uuid import UUID

from attrs import field, frozen
from attrs.converters import optional

from cogni_billing.domain import requests
from cogni_billing.domain.amounts import CREDIT, ZERO, Amount, positive, proportion, total
from cogni_billing.domain.errors import InvalidInput, RefundExceedsPayment, UnitMismatch, shown
from cogni_billing.domain.identity import (
    AccountId,
    TenantId,
    account_of,
    owner_of,
    payment_reference,
    tenant_id,
)
from cogni_billing.domain.identity import reference as checked_reference
from cogni_billing.domain.kinds import TransactionKind
from cogni_billing.domain.metadata import Json, frozen_metadata
from cogni_billing.domain.policies import CLAWBACKS, Shortfall
from cogni_billing.domain.shares import Share
from cogni_billing.domain.transactions import Reversal, Transaction

REMAINDER = requests.REMAINDER


@frozen(kw_only=True)
class Payment:
    """A purchase with its returned and disputed amounts, in the payment's unit."""

    purchase: Transaction
    returned: Amount
    """Refunded, or lost in disputes."""
    disputed: Amount
    """In disputes that are open."""
    left: Amount = ZERO
    """The credits that are left of it, in CREDIT, if they expire. Otherwise zero."""
    expired: Amount = ZERO
    """The credits that have expired and were not taken back since, in CREDIT."""

    @property
    def paid(self) -> Amount:
        assert self.purchase.paid is not None  # a purchase has it
        return self.purchase.paid

    @property
    def remaining(self) -> Amount:
        """The amount that can still be refunded or disputed."""
        return self.paid - self.returned - self.disputed

    @property
    def beneficiaries(self) -> tuple[TenantId, ...]:
        """The tenants with a share of the purchase."""
        return tuple(owner_of(share.beneficiary) for share in self.purchase.shares)

    @property
    def clamped(self) -> tuple[TenantId, ...]:
        """The beneficiaries that lose no more than their available credits, by the policy."""
        # Read without RevenueSharePolicy: a refund must work with any recorded policy.
        clamps = self.purchase.policy.get("clawback") == Shortfall.CLAMP.value
        return self.beneficiaries if clamps else ()

    def part(self, asked: Amount | None) -> Amount:
        """*asked*, or all that remains of the payment if *asked* is `None`.

        Raises:
            UnitMismatch: *asked* is in another unit than the payment.
            RefundExceedsPayment: *asked* is larger than the rest of the payment, or the rest is
                zero.
        """
        if asked is not None and asked.unit is not self.paid.unit:
            raise UnitMismatch("amount", str(asked.unit), str(self.paid.unit))
        wanted = self.remaining if asked is None else asked
        if wanted > self.remaining or wanted.is_zero:
            raise RefundExceedsPayment(self.paid if asked is None else asked, self.remaining)
        return wanted

    def credits_of(self, amount: Amount) -> Amount:
        """The customer's credits to take back if *amount* more of the payment is returned."""
        return self._part(self.purchase.amount, amount)

    def lapsed_of(self, amount: Amount) -> Amount:
        """The part of `credits_of` that has expired. The credits that are left come first."""
        return min(max(self.credits_of(amount) - self.left, ZERO), self.expired)

    def shares_of(self, amount: Amount) -> tuple[Share, ...]:
        """The shares to take back if *amount* more of the payment is returned."""
        return tuple(
            Share(share.beneficiary, self._part(share.amount, amount))
            for share in self.purchase.shares
        )

    def _part(self, leg: Amount, amount: Amount) -> Amount:
        return step(leg, self.returned, self.returned + amount, self.paid)


def step(leg: Amount, before: Amount, after: Amount, paid: Amount) -> Amount:
    """The part of *leg* to take back when the returned part of *paid* grows to *after*."""
    return proportion(leg, after, paid) - proportion(leg, before, paid)


def checked_shortfall(given: object) -> Shortfall:
    """*given* as a `Shortfall`.

    Raises:
        InvalidInput: *given* is no `Shortfall`.
    """
    if not isinstance(given, Shortfall):
        raise InvalidInput("shortfall", shown(given), "a Shortfall")
    return given


def checked_clawback(given: object) -> Shortfall:
    """*given* as the rule for a loss that cannot be refused.

    Raises:
        InvalidInput: *given* is no `Shortfall`, or refuses the loss.
    """
    if (rule := checked_shortfall(given)) not in CLAWBACKS:
        expected = "Shortfall.DEBT or Shortfall.CLAMP, because the payment is lost"
        raise InvalidInput("shortfall", shown(rule.name), expected)
    return rule


@frozen(kw_only=True)
class ReversalRequest:
    """The validated arguments of a refund or of a lost dispute."""

    tenant: TenantId = field(converter=tenant_id)
    amount: Amount | None = field(default=None, converter=optional(positive))
    payment: str = field(converter=payment_reference)
    reference: str = field(converter=checked_reference)
    shortfall: Shortfall = field(converter=checked_shortfall)
    metadata: Mapping[str, Json] = field(converter=frozen_metadata)

    @property
    def identity(self) -> requests.Request:
        """The fields that a replay must repeat."""
        return requests.reversal(self.payment, self.amount, self.shortfall)


@frozen
class Recoverable:
    """The credits that can be taken back from each account that must not go into debt."""

    credits: Mapping[AccountId, Amount] = field(factory=dict)

    def __or__(self, other: Recoverable) -> Recoverable:
        return Recoverable({**self.credits, **other.credits})

    def of(self, account: AccountId, wanted: Amount) -> Amount:
        """The recoverable part of *wanted*. All of it for an account that is not listed."""
        return min(wanted, max(self.credits.get(account, wanted), ZERO))


def plan_reversal(
    kind: TransactionKind,
    request: ReversalRequest,
    payment: Payment,
    recoverable: Recoverable,
    *,
    at: datetime,
    transaction_id: UUID,
    subject: UUID | None = None,
    disputed: Amount | None = None,
) -> Transaction:
    """Plan the transaction that takes back the credits and shares of a part of *payment*.

    The part is *disputed*, the amount of a lost dispute, or else the amount of the request.
    Credits of the payment that have expired come from `breakage`. If *recoverable* limits an
    account, the `shortfall` account absorbs the rest.

    Raises:
        UnitMismatch: the part is in another unit than the payment.
        RefundExceedsPayment: the part is larger than the rest of the payment, or the rest is zero.
    """
    amount = payment.part(request.amount if disputed is None else disputed)
    tenant, account = request.tenant, account_of(request.tenant)
    lapsed, shares = payment.lapsed_of(amount), payment.shares_of(amount)
    wanted = payment.credits_of(amount) - lapsed
    taken = recoverable.of(account, wanted)
    taken_shares = tuple(
        Share(share.beneficiary, -recoverable.of(share.beneficiary, share.amount))
        for share in shares
    )
    absorbed = (wanted - taken) + total(
        (share.amount + left.amount for share, left in zip(shares, taken_shares, strict=True)),
        CREDIT,
    )
    return Transaction(
        id=transaction_id,
        tenant=tenant,
        kind=kind,
        reference=request.reference,
        at=at,
        amount=-taken,
        shares=taken_shares,
        metadata=request.metadata,
        subject=subject,
        absorbed=absorbed,
        lapsed=lapsed,
        reversal=Reversal(
            purchase=payment.purchase.id,
            payment=request.payment,
            amount=amount,
            total=payment.returned + amount,
            asked=request.amount,
            shortfall=request.shortfall,
        ),
    )
