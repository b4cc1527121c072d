"""Giving back charges: credits that a charge or a capture took, returned in full or in parts.

Each lot gets back its own credits. The purchased credits of the charge come back first, because
they were spent last, and then its grants, from the last drawn to the first. Credits of a grant that
has expired since go to `breakage`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from uuid import UUID

from attrs import evolve, field, frozen
from attrs.converters import optional

from cogni_billing.domain.amounts import ZERO, Amount, positive_credits
from cogni_billing.domain.errors import InvalidInput, ReversalExceedsCharge, shown
from cogni_billing.domain.identity import TenantId, tenant_id
from cogni_billing.domain.identity import reference as checked_reference
from cogni_billing.domain.kinds import TransactionKind
from cogni_billing.domain.metadata import Json, frozen_metadata
from cogni_billing.domain.reasons import checked_reason
from cogni_billing.domain.transactions import Draw, GivingBack, Recorded, Transaction, drawn


def _checked_charge(given: object) -> str | UUID:
    if isinstance(given, UUID):
        return UUID(int=given.int)
    if type(given) is str:
        return checked_reference(given, "charge")
    expected = "the reference of a charge, or the id of a charge or a capture, a uuid.UUID"
    raise InvalidInput("charge", shown(given), expected)


@frozen(kw_only=True)
class GiveBackRequest:
    """The validated arguments of `Billing.reverse`."""

    tenant: TenantId = field(converter=tenant_id)
    charge: str | UUID = field(converter=_checked_charge)
    amount: Amount | None = field(converter=optional(positive_credits))
    reference: str = field(converter=checked_reference)
    reason: str | None = field(converter=optional(checked_reason))
    metadata: Mapping[str, Json] = field(converter=frozen_metadata)


def plan_giving_back(
    request: GiveBackRequest, *, at: datetime, transaction_id: UUID
) -> Transaction:
    """Plan the transaction that gives back a part of a charge.

    The ledger fills in the amounts, which follow from the charge and its earlier reversals.
    """
    by_id = isinstance(request.charge, UUID)
    return Transaction(
        id=transaction_id,
        tenant=request.tenant,
        kind=TransactionKind.REVERSAL,
        reference=request.reference,
        at=at,
        amount=ZERO,
        reason=request.reason,
        metadata=request.metadata,
        giving_back=GivingBack(
            charge=request.charge if isinstance(request.charge, UUID) else None,
            reference=None if by_id else str(request.charge),
            asked=request.amount,
        ),
    )


@frozen(kw_only=True)
class Charged:
    """A charge or a capture, with the credits that reversals gave back so far."""

    recorded: Recorded
    given_back: Amount

    @property
    def amount(self) -> Amount:
        """The credits that the charge took."""
        return -self.recorded.transaction.amount

    @property
    def remaining(self) -> Amount:
        """The credits that can still be given back."""
        return self.amount - self.given_back

    def part(self, asked: Amount | None) -> Amount:
        """*asked*, or all that remains of the charge if *asked* is `None`.

        Raises:
            ReversalExceedsCharge: *asked* is larger than the rest of the charge, or the rest is
                zero.
        """
        wanted = self.remaining if asked is None else asked
        if wanted > self.remaining or wanted.is_zero:
            raise ReversalExceedsCharge(self.amount if asked is None else asked, self.remaining)
        return wanted

    def lots(self, amount: Amount) -> tuple[Draw, ...]:
        """The part of each grant if *amount* more is given back, newest draw first."""
        draws = self.recorded.draws
        return tuple(_parts(draws, self.amount, self.given_back, self.given_back + amount))

    def given_back_by(
        self, reversal: Transaction, is_expired: Callable[[UUID], bool]
    ) -> tuple[Transaction, tuple[Draw, ...]]:
        """*reversal* with its amounts, and the parts that go back to their grants.

        Raises:
            ReversalExceedsCharge: the charge has less to give back, or none.
        """
        assert reversal.giving_back is not None  # its kind has one
        part = self.part(reversal.giving_back.asked)
        lots = self.lots(part)
        kept = tuple(lot for lot in lots if not is_expired(lot.grant_id))
        expired = drawn(lots) - drawn(kept)
        made = self.recorded.transaction
        given = GivingBack(
            charge=made.id,
            reference=made.reference if made.kind is TransactionKind.CHARGE else None,
            asked=reversal.giving_back.asked,
            amount=part,
            total=self.given_back + part,
        )
        filled = evolve(reversal, amount=part - expired, absorbed=expired, giving_back=given)
        return filled, kept


def _parts(
    draws: tuple[Draw, ...], charged: Amount, before: Amount, after: Amount
) -> Iterator[Draw]:
    """The parts of *draws* between two totals. The purchased credits come back first."""
    place = charged - drawn(draws)
    for draw in reversed(draws):
        part = min(after, place + draw.amount) - max(before, place)
        if part.is_positive:
            yield evolve(draw, amount=part)
        place += draw.amount
