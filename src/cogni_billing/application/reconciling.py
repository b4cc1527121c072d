"""Brings the refunds and disputes of a payment to where the processor's events say they are."""

from __future__ import annotations

from datetime import datetime

from attrs import frozen

from cogni_billing.application import reversals
from cogni_billing.application.context import Context
from cogni_billing.domain.amounts import Amount
from cogni_billing.domain.disputes import Dispute, DisputeRequest, DisputeState
from cogni_billing.domain.errors import UnknownPayment
from cogni_billing.domain.event_effects import Effects
from cogni_billing.domain.found_payments import Claim
from cogni_billing.domain.kinds import TransactionKind
from cogni_billing.domain.payment_events import (
    DisputeChanged,
    PaymentEvent,
    PaymentRefunded,
    RefundFailed,
    RefundMade,
)
from cogni_billing.domain.payments import Payment
from cogni_billing.domain.policies import Shortfall
from cogni_billing.domain.reversals import FailureRequest, ReversalRequest
from cogni_billing.domain.transactions import Recorded
from cogni_billing.ports.scope import ServiceScope


def reconcile(
    context: Context, scope: ServiceScope, event: PaymentEvent, claim: Claim, at: datetime
) -> str | None:
    """Apply all events of the payment, with *event*. Returns the reason if a part stays open."""
    # Locked first, in the order of tenants' ids, so that no other event comes in between.
    scope.books.lock(sorted({claim.tenant, *_payment(scope, claim, at).beneficiaries}), at)
    kept = (each.event for each in scope.inbox.of_payment(event.payment))
    events = [*(each for each in kept if each.id != event.id), event]
    effects = Effects(_payment(scope, claim, at).paid, events)
    effects.require_currency()
    work = _Reconciliation(context, scope, claim, event, effects, at)
    work.disputes()
    return work.refunds()


def _payment(scope: ServiceScope, claim: Claim, at: datetime) -> Payment:
    credited = scope.ledger.payment(claim.payment, at)
    if credited is None:
        raise UnknownPayment(claim.payment)
    return credited


@frozen
class _Reconciliation:
    """The work on one payment, in a scope that has locked its wallets."""

    context: Context
    scope: ServiceScope
    claim: Claim
    event: PaymentEvent
    effects: Effects
    at: datetime

    def disputes(self) -> None:
        for last in self.effects.disputes().values():
            known = self.scope.ledger.dispute(last.reference)
            if known is None:
                known = self._opened(last)
            elif known.is_open and known.amount != self.effects.of(last):
                self._resized(last)
            if known is not None and known.state is not last.state:
                self._ended(last)

    def _opened(self, last: DisputeChanged) -> Dispute | None:
        part = self.effects.of(last)
        if last.state is DisputeState.WON or part.is_zero:
            return None
        request = DisputeRequest(
            tenant=self.claim.tenant,
            amount=part,
            payment=self.claim.payment,
            reference=last.reference,
            metadata={"event": last.id},
        )
        return reversals.open_dispute(self.context, request).work(self.scope)

    def _resized(self, last: DisputeChanged) -> None:
        reversals.update_dispute(
            self.context,
            self.claim.tenant,
            payment=self.claim.payment,
            reference=last.reference,
            amount=self.effects.of(last),
        ).work(self.scope)

    def _ended(self, last: DisputeChanged) -> None:
        if last.state is DisputeState.LOST:
            request = self._request(last, last.reference)
            reversals.lose_dispute(self.context, request).work(self.scope)
        if last.state is DisputeState.WON:
            reversals.win_dispute(
                self.context,
                self.claim.tenant,
                payment=self.claim.payment,
                reference=last.reference,
            ).work(self.scope)

    def refunds(self) -> str | None:
        """Record refunds and their failures. Returns the reason if a failure stays open."""
        self._undo_failed()
        covered = self._reported_parts()
        for each in self.effects.events:
            if isinstance(each, RefundMade) and self._recorded(each.reference) is None:
                part = self.effects.refund(each)
                if part in covered:
                    covered.remove(part)
                else:
                    self._refund(each, each.reference, part)
        self._refund(self.event, self.event.id, self._missing())
        if isinstance(self.event, RefundFailed) and self._missing().is_negative:
            return f"refund {self.event.reference} failed, but is recorded under another id"
        return None

    def _reported_parts(self) -> list[Amount]:
        """The refunds that stand and were recorded by a reported total, not by their own id."""
        totals = (each.id for each in self.effects.events if isinstance(each, PaymentRefunded))
        made = [found.transaction for name in totals if (found := self._recorded(name))]
        failed = self._payment().failed
        return [each.reversal.amount for each in made if each.reversal and each.id not in failed]

    def _undo_failed(self) -> None:
        """Undo the refunds that failed, under their own ids, and then reported totals.

        A reported total may hold a refund that failed beside others, which are recorded again.
        """
        failed = self.effects.failed_refunds()
        parts = {self.effects.of(each) for each in failed.values()}
        found = (self._recorded(each.id) for each in self.effects.events if failed)
        totals = [each.transaction for each in found if each is not None]
        totals.sort(key=lambda made: made.reversal is None or made.reversal.amount not in parts)
        for reference in (*failed, *(made.reference for made in totals)):
            self._undo(reference)

    def _undo(self, reference: str) -> None:
        made = self._recorded(reference)
        undone = made is None or made.transaction.id in self._payment().failed
        if undone or not self._missing().is_negative:
            return
        request = FailureRequest(
            tenant=self.claim.tenant,
            payment=self.claim.payment,
            refund=reference,
            reference=reference,
            metadata={"event": self.event.id},
        )
        reversals.refund_failed(self.context, request).work(self.scope)

    def _recorded(self, reference: str) -> Recorded | None:
        return self.scope.ledger.replay(TransactionKind.REFUND, reference)

    def _refund(self, event: PaymentEvent, reference: str, part: Amount) -> None:
        more = min(part, self._missing())
        if more.is_positive:
            total = self._payment().refunded + more
            request = self._request(event, reference, total)
            reversals.refund(self.context, request).work(self.scope)

    def _missing(self) -> Amount:
        return self.effects.refunded() - self._payment().refunded

    def _payment(self) -> Payment:
        return _payment(self.scope, self.claim, self.at)

    def _request(
        self, event: PaymentEvent, reference: str, total: Amount | None = None
    ) -> ReversalRequest:
        return ReversalRequest(
            tenant=self.claim.tenant,
            total=total,
            payment=self.claim.payment,
            reference=reference,
            shortfall=Shortfall.DEBT,
            metadata={"event": event.id},
        )
