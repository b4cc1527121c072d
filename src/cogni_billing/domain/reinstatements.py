"""Reinstatements: credits and shares given back after a refund failed or a lost dispute was won.

Every leg goes back to floor(leg x returned / paid). Of the undone refund or dispute, the part that
the `shortfall` account absorbed comes first, then the expired part, and then the credits of the
account. No account gets back more than the reversals of the payment took from it in all.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from uuid import UUID

from attrs import evolve, field, frozen

from cogni_billing.domain.amounts import CREDIT, ZERO, Amount, total
from cogni_billing.domain.payments import step
from cogni_billing.domain.shares import Share
from cogni_billing.domain.transactions import (
    Draw,
    Recorded,
    Reversal,
    Transaction,
    drawn,
    first_of,
)


@frozen
class Leg:
    """The parts of a leg of a purchase: taken from its account, absorbed, and expired."""

    taken: Amount = ZERO
    absorbed: Amount = ZERO
    lapsed: Amount = ZERO

    def __add__(self, other: Leg) -> Leg:
        return Leg(
            self.taken + other.taken, self.absorbed + other.absorbed, self.lapsed + other.lapsed
        )

    def __neg__(self) -> Leg:
        return Leg(-self.taken, -self.absorbed, -self.lapsed)

    def given_back(self, amount: Amount, own: Leg) -> Leg:
        """The parts of *amount* that go back. *own* are those of what is undone."""
        absorbed = min(amount, max(own.absorbed, ZERO), self.absorbed)
        lapsed = min(amount - absorbed, max(own.lapsed, ZERO), self.lapsed)
        taken = min(amount - absorbed - lapsed, self.taken)
        # Rounding, and a payment that was returned twice, can leave more to give back.
        more = min(amount - absorbed - lapsed - taken, self.absorbed - absorbed)
        absorbed += more
        return Leg(taken, absorbed, amount - absorbed - taken)


@frozen
class Returns:
    """The recorded reversals and reinstatements of a purchase, in order."""

    purchase: Transaction
    history: Sequence[Recorded] = field(factory=tuple)

    def undone_by(self, asked: Transaction) -> tuple[Transaction, tuple[Draw, ...]]:
        """*asked*, a reinstatement, with its amounts, and the parts that go back to grants."""
        assert asked.reversal is not None  # its kind has one
        assert asked.subject is not None
        own = [each for each in self.history if _is_of(each.transaction, asked.subject)]
        legs = list(self._given_back(asked.reversal, own))
        filled = evolve(
            asked,
            amount=legs[0].taken,
            shares=tuple(
                Share(share.beneficiary, leg.taken)
                for share, leg in zip(self.purchase.shares, legs[1:], strict=True)
            ),
            absorbed=total((leg.absorbed for leg in legs), CREDIT),
            lapsed=legs[0].lapsed,
        )
        return filled, _lots(own, filled.amount)

    def _given_back(self, part: Reversal, own: Sequence[Recorded]) -> Iterator[Leg]:
        for place, leg in enumerate(self._legs()):
            amount = step(leg, part.total, part.total + part.amount, self._paid)
            yield self._sum(place, leg, self.history).given_back(amount, self._sum(place, leg, own))

    def _sum(self, place: int, leg: Amount, made: Sequence[Recorded]) -> Leg:
        """The parts of a leg that *made* took and did not give back."""
        return sum((self._part(place, leg, each.transaction) for each in made), Leg())

    def _part(self, place: int, leg: Amount, made: Transaction) -> Leg:
        assert made.reversal is not None  # its kind has one
        before, after = span(made.reversal, undone=made.kind.reinstates)
        change = made.shares[place - 1].amount if place else made.amount
        lapsed = ZERO if place else made.lapsed
        if made.kind.reinstates:
            amount = step(leg, after, before, self._paid)
            return -Leg(change, amount - change - lapsed, lapsed)
        amount = step(leg, before, after, self._paid)
        return Leg(-change, amount + change - lapsed, lapsed)

    def _legs(self) -> Iterator[Amount]:
        yield self.purchase.amount
        yield from (share.amount for share in self.purchase.shares)

    @property
    def _paid(self) -> Amount:
        assert self.purchase.paid is not None  # a purchase has it
        return self.purchase.paid


def span(part: Reversal, *, undone: bool) -> tuple[Amount, Amount]:
    """The returned amount of the payment before and after *part*."""
    before = part.total + part.amount if undone else part.total - part.amount
    return before, part.total


def _is_of(made: Transaction, subject: UUID) -> bool:
    return subject in (made.id, made.subject)


def _lots(own: Sequence[Recorded], amount: Amount) -> tuple[Draw, ...]:
    """The parts of *amount* that go back to the lots from which *own* took them, newest first.

    Purchased credits that never expire come first.
    """
    draws = dict[UUID, Draw]()
    plain = -total((each.transaction.amount for each in own), CREDIT)
    for each in own:
        for draw in each.draws:
            before = draws[draw.grant_id].amount if draw.grant_id in draws else ZERO
            back = each.transaction.kind.reinstates
            after = before - draw.amount if back else before + draw.amount
            draws[draw.grant_id] = evolve(draw, amount=after)
    plain -= drawn(draws.values())
    return first_of(reversed(draws.values()), amount - max(plain, ZERO))
