"""What the events of one payment ask of the ledger, in whatever order they arrived.

A processor sends events late, twice and out of order. So the ledger applies no event by itself: all
events of the payment together say how much is refunded, and how each dispute stands.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, TypeVar

from attrs import frozen

from cogni_billing.domain.amounts import Amount, from_quanta, in_quanta
from cogni_billing.domain.disputes import DisputeState
from cogni_billing.domain.errors import UnitMismatch
from cogni_billing.domain.payment_events import (
    USD_CODE,
    DisputeChanged,
    MoneyEvent,
    PaymentEvent,
    PaymentRefunded,
    PaymentSucceeded,
    RefundFailed,
    RefundMade,
)

Event = TypeVar("Event", bound=PaymentEvent)
_CLOSED: Final = (DisputeState.WON, DisputeState.LOST)


@frozen
class Effects:
    """The events of one payment, and the price that the ledger has recorded for it.

    The processor counts the whole payment, perhaps with tax. The ledger counts what was bought. So
    amounts of the processor are scaled to the purchase, rounded down to a cent.
    """

    paid: Amount
    events: Sequence[PaymentEvent]

    def refunded(self) -> Amount:
        """The total of refunds that stand."""
        return self._scaled(max(self._reported(), self._itemised()))

    def refund(self, made: RefundMade) -> Amount:
        """The part of the purchase that one refund returns: zero if it has failed."""
        failed = made.reference in self.failed_refunds()
        return self._scaled(0 if failed else made.raw_amount)

    def failed_refunds(self) -> Mapping[str, RefundFailed]:
        """The refunds that have failed, by their references."""
        return {each.reference: each for each in self._of(RefundFailed)}

    def disputes(self) -> Mapping[str, DisputeChanged]:
        """The last change of each dispute, by its reference, in the order of first changes."""
        last: dict[str, DisputeChanged] = {}
        for each in self._of(DisputeChanged):
            before = last.get(each.reference)
            if before is None or _age(each) >= _age(before):
                last[each.reference] = each
        return last

    def of(self, event: MoneyEvent) -> Amount:
        """The part of the purchase that the amount of *event* is."""
        return self._scaled(event.raw_amount)

    def _itemised(self) -> int:
        """The sum of single refunds."""
        failed = self.failed_refunds()
        made = {each.reference: each.raw_amount for each in self._of(RefundMade)}
        return sum(amount for name, amount in made.items() if name not in failed)

    def _reported(self) -> int:
        """The largest total that the processor reported, without refunds that failed later."""
        return max((self._still_refunded(each) for each in self._of(PaymentRefunded)), default=0)

    def _still_refunded(self, total: PaymentRefunded) -> int:
        made = {each.reference: each.at for each in self._of(RefundMade)}
        later = (
            each.raw_amount
            for name, each in self.failed_refunds().items()
            if each.at >= total.at >= made.get(name, total.at)
        )
        return total.raw_amount - sum(later)

    def _scaled(self, raw_amount: int) -> Amount:
        paid = in_quanta(self.paid.value, self.paid.unit.scale)
        gross = max((paid, *self._gross()))
        return from_quanta(min(raw_amount * paid // gross, paid), self.paid.unit)

    def _gross(self) -> Iterable[int]:
        yield from (each.raw_amount for each in self._of(PaymentSucceeded))
        yield from (each.charged for each in self._of(PaymentRefunded))

    def _of(self, kind: type[Event]) -> list[Event]:
        return [each for each in self.events if isinstance(each, kind)]

    def require_currency(self) -> None:
        """Return if all amounts are in the currency of the purchase.

        Raises:
            UnitMismatch: one is in another currency, or the purchase is not in US dollars.
        """
        for each in self._of(MoneyEvent):
            if each.amount.unit is not self.paid.unit:
                raise UnitMismatch("currency", USD_CODE, str(self.paid.unit))


def _age(change: DisputeChanged) -> tuple[object, bool]:
    # Events of one second are in no order, but a dispute closes after it opens.
    return change.at, change.state in _CLOSED
