"""Refunds and disputes: the calls that reverse a purchase, or undo that.

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
from cogni_billing.domain.amounts import Amount, positive
from cogni_billing.domain.disputes import Dispute, DisputeRequest, DisputeState, known_dispute
from cogni_billing.domain.errors import UnknownPayment
from cogni_billing.domain.idempotency import same_or_conflict
from cogni_billing.domain.identity import TenantId, account_of, payment_reference, tenant_id
from cogni_billing.domain.identity import reference as checked_reference
from cogni_billing.domain.kinds import TransactionKind
from cogni_billing.domain.metadata import EMPTY
from cogni_billing.domain.payments import Payment
from cogni_billing.domain.policies import Shortfall
from cogni_billing.domain.receipts import (
    ChargebackReceipt,
    RefundReceipt,
    ReinstatementReceipt,
    chargeback_receipt,
    refund_receipt,
    reinstatement_receipt,
)
from cogni_billing.domain.reversals import (
    FailureRequest,
    Recoverable,
    ReversalRequest,
    checked_clawback,
    known_refund,
    plan_chargeback,
    plan_dispute,
    plan_refund,
    plan_reinstatement,
)
from cogni_billing.domain.transactions import Recorded, Transaction
from cogni_billing.ports.scope import ServiceScope

Result = TypeVar("Result")


def refund(context: Context, request: ReversalRequest) -> ServiceCase[RefundReceipt]:
    return _case(
        context, request.tenant, lambda reversals: refund_receipt(reversals.refund(request))
    )


def refund_failed(context: Context, request: FailureRequest) -> ServiceCase[ReinstatementReceipt]:
    return _case(
        context,
        request.tenant,
        lambda reversals: reinstatement_receipt(reversals.refund_failed(request)),
    )


def open_dispute(context: Context, request: DisputeRequest) -> ServiceCase[Dispute]:
    return _case(context, request.tenant, lambda reversals: reversals.open_dispute(request))


def update_dispute(
    context: Context, tenant: object, *, payment: object, reference: object, amount: object
) -> ServiceCase[Dispute]:
    owner, disputed = tenant_id(tenant), positive(amount)
    paid_by, key = payment_reference(payment), checked_reference(reference)
    return _case(context, owner, lambda reversals: reversals.update_dispute(paid_by, key, disputed))


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
        """Lock the tenant's wallet, and those of beneficiaries whose credits it may hold or limit.

        All calls lock wallets in the order of tenants' ids, so they cannot deadlock.

        Raises:
            UnknownAccount: the tenant has no account.
        """
        self.scope.tenants.account()
        found, others = self.scope.ledger.payment(payment, self.now), tuple[TenantId, ...]()
        if found is not None:
            others = found.beneficiaries if disputed or found.is_disputed else found.clamped
        self.scope.books.lock(sorted({self.tenant, *others}), self.now)

    def refund(self, request: ReversalRequest) -> Recorded:
        self.begin(request.payment, disputed=False)
        if (found := self.scope.ledger.replay(TransactionKind.REFUND, request.reference)) is None:
            payment = self._payment(request.payment)
            part = payment.part(request.amount, request.total)
            recoverable = self._recoverable(
                request.shortfall, payment, payment, payment.after(part)
            )
            refund = plan_refund(
                request, payment, recoverable, at=self.now, transaction_id=self.new_id
            )
            return self.scope.ledger.post(acted(refund))
        same_or_conflict(found.transaction, request.identity)
        return found

    def refund_failed(self, request: FailureRequest) -> Recorded:
        self.begin(request.payment, disputed=False)
        ledger, kind = self.scope.ledger, TransactionKind.REINSTATEMENT
        if (found := ledger.replay(kind, request.reference)) is not None:
            same_or_conflict(found.transaction, request.identity)
            return found
        payment = self._payment(request.payment)
        replayed = ledger.replay(TransactionKind.REFUND, request.refund)
        refund = known_refund(replayed, request.refund, request.payment)
        if refund.id in payment.failed:
            undone = ledger.transaction(payment.failed[refund.id])
            assert undone is not None  # the ledger has just named it
            return undone
        assert refund.reversal is not None  # its kind has one
        reinstatement = plan_reinstatement(
            payment,
            payment.without(refund.reversal).due,
            subject=refund.id,
            reference=request.reference,
            refund=request.refund,
            metadata=request.metadata,
            at=self.now,
            transaction_id=self.new_id,
        )
        return ledger.post(acted(reinstatement))

    def open_dispute(self, request: DisputeRequest) -> Dispute:
        self.begin(request.payment, disputed=True)
        found = self.scope.ledger.dispute(request.reference)
        if found is not None:
            same_or_conflict(found, request.identity)
            return evolve(found, replayed=True)
        payment = self._payment(request.payment)
        dispute = plan_dispute(request, payment, at=self.now, dispute_id=self.new_id)
        self.scope.books.settle_dispute(dispute, None, self.now)
        return self._dispute(request.payment, request.reference)

    def update_dispute(self, payment: str, reference: str, amount: Amount) -> Dispute:
        dispute = self._begun(payment, reference)
        found = self._payment(payment)
        found.require_unit(amount, "amount")
        if dispute.amount == amount:
            return evolve(dispute, replayed=True)
        self._change(found, evolve(dispute, amount=amount))
        return self._dispute(payment, reference)

    def win_dispute(self, payment: str, reference: str) -> Dispute:
        dispute = self._begun(payment, reference)
        if dispute.state is DisputeState.WON:
            return evolve(dispute, replayed=True)
        won = evolve(dispute, state=DisputeState.WON, lost=None, chargeback=None)
        self._change(self._payment(payment), won)
        return self._dispute(payment, reference)

    def lose_dispute(self, request: ReversalRequest) -> Recorded:
        dispute = self._begun(request.payment, request.reference)
        if (before := self._chargeback(dispute)) is not None:
            same_or_conflict(before.transaction, request.identity)
            return before
        payment = self._payment(request.payment)
        payment.require_unit(request.amount, "amount")
        lost = evolve(dispute, state=DisputeState.LOST, lost=request.amount, chargeback=self.new_id)
        kind, first = TransactionKind.CHARGEBACK, request.reference
        key = first if self.scope.ledger.replay(kind, first) is None else _key(dispute)
        chargeback = self._plan_chargeback(evolve(request, reference=key), payment, lost)
        recorded = self.scope.books.settle_dispute(lost, acted(chargeback), self.now)
        assert recorded is not None  # the chargeback
        return recorded

    def _begun(self, payment: str, reference: str) -> Dispute:
        self.begin(payment, disputed=True)
        return self._dispute(payment, reference)

    def _change(self, payment: Payment, dispute: Dispute) -> None:
        """Record the new state of *dispute*, with the credits that it takes or gives back."""
        changed = payment.with_dispute(dispute)
        transaction: Transaction | None = None
        if changed.due < payment.returned:
            transaction = plan_reinstatement(
                changed,
                changed.due,
                subject=dispute.id,
                reference=_key(dispute),
                at=self.now,
                transaction_id=self.new_id,
            )
        elif changed.due > payment.returned:
            transaction = self._plan_chargeback(self._again(dispute), payment, dispute)
        settled = None if transaction is None else acted(transaction)
        self.scope.books.settle_dispute(dispute, settled, self.now)

    def _again(self, dispute: Dispute) -> ReversalRequest:
        """The request for another chargeback of a lost dispute, by the rule of its first one."""
        before = self._chargeback(dispute)
        assert before is not None  # only a lost dispute returns more of the payment
        assert before.transaction.reversal is not None  # its kind has one
        return ReversalRequest(
            tenant=self.tenant,
            payment=dispute.payment,
            reference=_key(dispute),
            shortfall=before.transaction.reversal.shortfall,
            metadata=EMPTY,
        )

    def _chargeback(self, dispute: Dispute) -> Recorded | None:
        if dispute.chargeback is None:
            return None
        return self.scope.ledger.transaction(dispute.chargeback)

    def _plan_chargeback(
        self, request: ReversalRequest, payment: Payment, dispute: Dispute
    ) -> Transaction:
        changed = payment.with_dispute(dispute)
        return plan_chargeback(
            request,
            changed,
            self._recoverable(request.shortfall, payment, changed, changed.due),
            at=self.now,
            transaction_id=self.new_id,
            dispute=dispute.id,
        )

    def _recoverable(
        self, shortfall: Shortfall, payment: Payment, changed: Payment, after: Amount
    ) -> Recoverable:
        """The credits that the call can take, once disputes set aside what follows *after*."""
        recoverable = (
            self.scope.books.lock(payment.clamped, self.now) if payment.clamped else Recoverable()
        )
        if shortfall is Shortfall.CLAMP:
            available = self.scope.ledger.balance(self.now).available
            recoverable |= Recoverable({account_of(self.tenant): available})
        return recoverable.with_freed(payment, changed.disputes_at(after))

    def _dispute(self, payment: str, reference: str) -> Dispute:
        return known_dispute(self.scope.ledger.dispute(reference), reference, payment)

    def _payment(self, payment: str) -> Payment:
        found = self.scope.ledger.payment(payment, self.now)
        if found is None:
            raise UnknownPayment(payment)
        return found


def _key(dispute: Dispute) -> str:
    """The key of the transaction of the next change of *dispute*. No caller chooses it."""
    return f"{dispute.id}/{dispute.number + 1}"
