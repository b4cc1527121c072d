"""Refunds and disputes: the calls that reverse a purchase.

Each locks the customer's wallet first, so that concurrent changes to the same payment come before
or after it. Only then does it look for an earlier call with the same key.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import TypeVar
from uuid import UUID

from attrs import evolve, frozen

from cogni_billing.application.acting import acted
from cogni_billing.application.cases import ServiceCase
from cogni_billing.application.context import Context
from cogni_billing.domain.disputes import (
    Dispute,
    DisputeRequest,
    DisputeState,
    known_dispute,
    plan_dispute,
)
from cogni_billing.domain.errors import UnknownPayment
from cogni_billing.domain.idempotency import same_or_conflict
from cogni_billing.domain.identity import TenantId, account_of, payment_reference, tenant_id
from cogni_billing.domain.identity import reference as checked_reference
from cogni_billing.domain.kinds import TransactionKind
from cogni_billing.domain.policies import Shortfall
from cogni_billing.domain.receipts import (
    ChargebackReceipt,
    RefundReceipt,
    chargeback_receipt,
    refund_receipt,
)
from cogni_billing.domain.reversals import (
    Payment,
    Recoverable,
    ReversalRequest,
    checked_clawback,
    plan_reversal,
)
from cogni_billing.domain.transactions import Recorded
from cogni_billing.ports.scope import ServiceScope

Result = TypeVar("Result")


def refund(context: Context, request: ReversalRequest) -> ServiceCase[RefundReceipt]:
    return _case(
        context, request.tenant, lambda reversals: refund_receipt(reversals.refund(request))
    )


def open_dispute(context: Context, request: DisputeRequest) -> ServiceCase[Dispute]:
    return _case(context, request.tenant, lambda reversals: reversals.open_dispute(request))


def win_dispute(
    context: Context, tenant: object, *, payment: object, reference: object
) -> ServiceCase[Dispute]:
    owner = tenant_id(tenant)
    paid_by, key = payment_reference(payment), checked_reference(reference)
    return _case(context, owner, lambda reversals: reversals.win_dispute(paid_by, key))


def lose_dispute(context: Context, request: ReversalRequest) -> ServiceCase[ChargebackReceipt]:
    checked_clawback(request.shortfall)
    return _case(
        context,
        request.tenant,
        lambda reversals: chargeback_receipt(reversals.lose_dispute(request)),
    )


def _case(
    context: Context, tenant: TenantId, work: Callable[[_Reversals], Result]
) -> ServiceCase[Result]:
    now, new_id = context.now(), context.new_id()
    return ServiceCase(tenant, lambda scope: work(_Reversals(scope, tenant, now, new_id)))


@frozen
class _Reversals:
    """One attempt at a reversal, in a scope of the service role."""

    scope: ServiceScope
    tenant: TenantId
    now: datetime
    new_id: UUID

    def begin(self, payment: str, *, disputed: bool) -> None:
        """Lock the tenant's wallet, and those of beneficiaries if their credits limit it.

        All calls lock wallets in the order of tenants' ids, so they cannot deadlock.

        Raises:
            UnknownAccount: the tenant has no account.
        """
        self.scope.tenants.account()
        found, others = self.scope.ledger.payment(payment, self.now), tuple[TenantId, ...]()
        if found is not None:
            others = found.beneficiaries if disputed else found.clamped
        self.scope.books.lock(sorted({self.tenant, *others}), self.now)

    def refund(self, request: ReversalRequest) -> Recorded:
        self.begin(request.payment, disputed=False)
        kind = TransactionKind.REFUND
        return self._found(kind, request) or self._reverse(kind, request)

    def open_dispute(self, request: DisputeRequest) -> Dispute:
        self.begin(request.payment, disputed=True)
        found = self.scope.ledger.dispute(request.reference)
        if found is not None:
            same_or_conflict(found, request.identity)
            return evolve(found, replayed=True)
        dispute = plan_dispute(
            request, self._payment(request.payment), at=self.now, dispute_id=self.new_id
        )
        self.scope.books.open_dispute(dispute)
        return dispute

    def win_dispute(self, payment: str, reference: str) -> Dispute:
        self.begin(payment, disputed=True)
        dispute = self._dispute(payment, reference)
        if dispute.state is DisputeState.WON:
            return evolve(dispute, replayed=True)
        dispute.require_open()
        self.scope.books.close_dispute(dispute, self.now)
        return evolve(dispute, state=DisputeState.WON)

    def lose_dispute(self, request: ReversalRequest) -> Recorded:
        self.begin(request.payment, disputed=True)
        kind = TransactionKind.CHARGEBACK
        if (found := self._found(kind, request)) is not None:
            return found
        dispute = self._dispute(request.payment, request.reference)
        dispute.require_open()
        self.scope.books.close_dispute(dispute, self.now)
        return self._reverse(kind, request, dispute)

    def _found(self, kind: TransactionKind, request: ReversalRequest) -> Recorded | None:
        found = self.scope.ledger.replay(kind, request.reference)
        if found is not None:
            same_or_conflict(found.transaction, request.identity)
        return found

    def _dispute(self, payment: str, reference: str) -> Dispute:
        return known_dispute(self.scope.ledger.dispute(reference), reference, payment)

    def _payment(self, payment: str) -> Payment:
        found = self.scope.ledger.payment(payment, self.now)
        if found is None:
            raise UnknownPayment(payment)
        return found

    def _reverse(
        self, kind: TransactionKind, request: ReversalRequest, lost: Dispute | None = None
    ) -> Recorded:
        payment = self._payment(request.payment)
        recoverable = (
            self.scope.books.lock(payment.clamped, self.now) if payment.clamped else Recoverable()
        )
        if request.shortfall is Shortfall.CLAMP:
            available = self.scope.ledger.balance(self.now).available
            recoverable |= Recoverable({account_of(self.tenant): available})
        reversal = plan_reversal(
            kind,
            request,
            payment,
            recoverable,
            at=self.now,
            transaction_id=self.new_id,
            subject=None if lost is None else lost.id,
            disputed=None if lost is None else lost.amount,
        )
        return self.scope.ledger.post(acted(reversal))
