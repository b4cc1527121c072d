"""Purchases: the credits of a confirmed payment, for the customer and the beneficiaries."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from uuid import UUID

from attrs import frozen

from cogni_billing.domain import requests
from cogni_billing.domain.amounts import CREDIT, Amount, positive
from cogni_billing.domain.errors import InvalidPolicy, UnitMismatch
from cogni_billing.domain.idempotency import same_or_conflict
from cogni_billing.domain.identity import TenantId, account_of, payment_reference, tenant_id
from cogni_billing.domain.kinds import TransactionKind
from cogni_billing.domain.metadata import Json, frozen_metadata
from cogni_billing.domain.policies import Policies
from cogni_billing.domain.prices import Prices, recorded_terms
from cogni_billing.domain.pricing import PRICED, bought
from cogni_billing.domain.timestamps import Expiry, optional_lifetime
from cogni_billing.domain.transactions import LotTerms, Recorded, Transaction


@frozen(kw_only=True)
class Purchase:
    """A confirmed payment: the arguments of `Billing.confirm_purchase`, which validates them."""

    tenant: TenantId | UUID
    amount: Amount
    payment: str
    expires_in: timedelta | None = None
    metadata: Mapping[str, object] | None = None


@frozen(kw_only=True)
class PurchaseRequest:
    """The validated arguments of a confirmed payment, before a price and a policy are applied."""

    buyer: TenantId
    paid: Amount
    payment: str
    expires_in: timedelta | None
    """The lifetime of the credits. `None` if they never expire."""
    metadata: Mapping[str, Json]

    @property
    def identity(self) -> requests.Request:
        """The fields that a replay must repeat."""
        return requests.purchase(self.paid, self.expires_in)


def request_purchase(purchase: Purchase) -> PurchaseRequest:
    """Validate the arguments of a purchase."""
    return PurchaseRequest(
        buyer=tenant_id(purchase.tenant),
        paid=_money(purchase.amount),
        payment=payment_reference(purchase.payment),
        expires_in=optional_lifetime(purchase.expires_in),
        metadata=frozen_metadata(purchase.metadata),
    )


def _money(given: object) -> Amount:
    """*given*, which must be money greater than zero.

    Raises:
        InvalidAmount: *given* is no `Amount`, or is not above zero.
        UnitMismatch: *given* is in credits.
    """
    paid = positive(given)
    if paid.unit is CREDIT:
        raise UnitMismatch("amount", str(paid.unit), PRICED)
    return paid


def plan_purchase(
    request: PurchaseRequest,
    policies: Policies,
    at: datetime,
    transaction_id: UUID,
    prices: Prices | None = None,
) -> Transaction:
    """Plan the transaction of a purchase, by the price and the policy in force.

    The payment buys credits at its price, rounded up (ceiling). Each beneficiary gets its share of
    the purchased credits, on top or out of them. `issuance` is debited for the sum. A beneficiary
    earns no share of its own purchase, so the system tenant's own purchase mints no share for it.

    Raises:
        InvalidPolicy: no policy is in force yet.
        UnitMismatch: the currency has no price.
        InvalidTime: the credits would expire after the year 9998.
    """
    policy = policies.at(at).for_buyer(account_of(request.buyer))
    price = None if prices is None else prices.price_of(request.paid.unit, at)
    purchased = bought(request.paid, "amount") if price is None else price.buys(request.paid)
    shares = policy.shares_of(purchased, at)
    credited = policy.credited_of(purchased, shares)
    return Transaction(
        id=transaction_id,
        tenant=request.buyer,
        kind=TransactionKind.PURCHASE,
        reference=request.payment,
        at=at,
        amount=credited,
        paid=request.paid,
        shares=shares,
        policy=recorded_terms(policy, price),
        metadata=request.metadata,
        lot=None if request.expires_in is None else _lot(request.expires_in, at),
    )


def _lot(expires_in: timedelta, at: datetime) -> LotTerms:
    expires_at = Expiry(expires_in=expires_in).starting(at)
    assert expires_at is not None  # a lifetime has an end
    return LotTerms(expires_at=expires_at, expires_in=expires_in)


@frozen
class ReplayOnly:
    """A purchase while no policy or no price is in force: only a replay can answer it.

    A replay needs neither, because the ledger stores the credits and the shares of the first call.
    """

    request: PurchaseRequest
    error: InvalidPolicy | UnitMismatch

    def answer(self, stored: Recorded | None) -> Recorded:
        """*stored*, the purchase that the tenant recorded for this payment.

        Raises:
            InvalidPolicy, UnitMismatch: the tenant recorded no such purchase.
            IdempotencyConflict: the tenant recorded it with another amount or expiry.
        """
        if stored is None:
            raise self.error
        same_or_conflict(stored.transaction, self.request.identity)
        return stored


def plan_or_replay(
    request: PurchaseRequest,
    policies: Policies,
    at: datetime,
    transaction_id: UUID,
    prices: Prices | None = None,
) -> Transaction | ReplayOnly:
    """The transaction of a purchase, or `ReplayOnly` while no policy or price is in force."""
    try:
        return plan_purchase(request, policies, at, transaction_id, prices)
    except (InvalidPolicy, UnitMismatch) as error:
        return ReplayOnly(request, error)
