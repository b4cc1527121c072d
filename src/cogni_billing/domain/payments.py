"""Payments: the returned and the disputed part of a purchase.

The processor returns a payment by refunds and by lost disputes. Each leg of the purchase, which are
the customer's credits and every share, goes back to floor(leg x returned / paid). Open disputes set
aside the parts that follow, in the order of their opening. So all parts add up in any order of
events, and a full return leaves every leg at zero.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from uuid import UUID

from attrs import evolve, frozen

from cogni_billing.domain.amounts import ZERO, Amount, proportion, total
from cogni_billing.domain.disputes import Dispute
from cogni_billing.domain.errors import RefundExceedsPayment, UnitMismatch
from cogni_billing.domain.identity import AccountId, TenantId, account_of, owner_of
from cogni_billing.domain.policies import Shortfall
from cogni_billing.domain.shares import Share
from cogni_billing.domain.transactions import Reversal, Transaction


@frozen(kw_only=True)
class Payment:
    """A purchase with its returned and disputed amounts, in the payment's unit."""

    purchase: Transaction
    returned: Amount
    """The part whose credits were taken back."""
    refunded: Amount
    """The sum of the refunds that stand."""
    failed: Mapping[UUID, UUID] = MappingProxyType({})
    """The reinstatement of each refund that failed, by the refund. Both are ids."""
    disputes: tuple[Dispute, ...] = ()
    """All disputes of the payment, in the order of their opening."""
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
        """The amount that can still be refunded."""
        return self.paid - self.returned

    @property
    def undisputed(self) -> Amount:
        """The amount that is neither returned nor in an open dispute."""
        disputed = total((each.amount for each in self._open()), self.paid.unit)
        return max(self.remaining - disputed, disputed - disputed)

    @property
    def due(self) -> Amount:
        """The part that the processor has returned: refunds and lost disputes that stand."""
        lost = (each.returned for each in self.disputes)
        returned = total((part for part in lost if part is not None), self.paid.unit)
        return min(self.refunded + returned, self.paid)

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

    @property
    def is_disputed(self) -> bool:
        """True if a dispute is open."""
        return any(self._open())

    def _open(self) -> Iterator[Dispute]:
        return (each for each in self.disputes if each.is_open)

    def require_unit(self, asked: Amount | None, field: str) -> None:
        """Return if *asked* is in the unit of the payment.

        Raises:
            UnitMismatch: *asked* is in another unit.
        """
        if asked is not None and asked.unit is not self.paid.unit:
            raise UnitMismatch(field, str(asked.unit), str(self.paid.unit))

    def part(self, asked: Amount | None, up_to: Amount | None) -> Amount:
        """The part to refund: *asked*, what is missing to a total of *up_to*, or all that remains.

        Raises:
            UnitMismatch: an amount is in another unit than the payment.
            RefundExceedsPayment: *asked* is larger than the rest of the payment, *up_to* is larger
                than the payment, or the rest is zero.
        """
        self.require_unit(asked, "amount")
        self.require_unit(up_to, "total")
        if up_to is not None and up_to <= self.paid:
            return max(up_to - self.refunded, up_to - up_to)
        wanted = up_to or (self.remaining if asked is None else asked)
        if wanted > self.remaining or wanted.is_zero:
            lost = (each.reference for each in self.disputes if each.returned is not None)
            refused = self.paid if wanted.is_zero else wanted
            raise RefundExceedsPayment(refused, self.remaining, tuple(lost))
        return wanted

    def after(self, part: Amount) -> Amount:
        """The returned part right after a refund of *part*."""
        return min(self.returned + part, self.paid)

    def without(self, refund: Reversal) -> Payment:
        """This payment if *refund* does not stand."""
        part = refund.amount if refund.asked is None else refund.asked
        return evolve(self, refunded=self.refunded - part)

    def with_dispute(self, dispute: Dispute) -> Payment:
        """This payment with *dispute* in a new state."""
        others = (each for each in self.disputes if each.id != dispute.id)
        return evolve(self, disputes=in_order([*others, dispute]))

    def credits_to(self, after: Amount) -> Amount:
        """The customer's credits to take back if the returned part grows to *after*."""
        return step(self.purchase.amount, self.returned, after, self.paid)

    def lapsed_to(self, after: Amount) -> Amount:
        """The part of `credits_to` that has expired. The credits that are left come first."""
        return self._lapsed(self.credits_to(after))

    def _lapsed(self, taken: Amount) -> Amount:
        return min(max(taken - self.left, ZERO), self.expired)

    def shares_to(self, after: Amount) -> tuple[Share, ...]:
        """The shares to take back if the returned part grows to *after*."""
        return self._shares(self.returned, after)

    def _shares(self, before: Amount, after: Amount) -> tuple[Share, ...]:
        return tuple(
            Share(share.beneficiary, step(share.amount, before, after, self.paid))
            for share in self.purchase.shares
        )

    def disputes_at(self, after: Amount) -> tuple[Dispute, ...]:
        """All disputes with the credits to set aside if the returned part grows to *after*."""
        return tuple(self._set_aside(after))

    def _set_aside(self, after: Amount) -> Iterator[Dispute]:
        start, taken = after, self.credits_to(after)
        for dispute in self.disputes:
            end = min(start + dispute.amount, self.paid) if dispute.is_open else start
            part = step(self.purchase.amount, start, end, self.paid)
            lapsed = self._lapsed(taken + part) - self._lapsed(taken)
            yield evolve(
                dispute, set_aside=part - lapsed, lapsed=lapsed, shares=self._shares(start, end)
            )
            start, taken = end, taken + part

    def freed(self, disputes: tuple[Dispute, ...], account: AccountId) -> Amount:
        """The credits of *account* that are free once *disputes* are as given."""
        return _aside(self.disputes, account) - _aside(disputes, account)


def in_order(disputes: Iterable[Dispute]) -> tuple[Dispute, ...]:
    """*disputes* in the order of their opening."""
    return tuple(sorted(disputes, key=lambda each: (each.opened_at, each.id)))


def _aside(disputes: tuple[Dispute, ...], account: AccountId) -> Amount:
    parts = (part for dispute in disputes for part in dispute.parts())
    return total((part for tenant, part in parts if account_of(tenant) == account), ZERO.unit)


def step(leg: Amount, before: Amount, after: Amount, paid: Amount) -> Amount:
    """The part of *leg* to take back when the returned part of *paid* grows to *after*."""
    return proportion(leg, after, paid) - proportion(leg, before, paid)
