"""A wallet: what a tenant's own transactions left on its account, what of it is set aside, and
whether the rest covers more.

The Postgres adapter keeps the same rules in the database, under the wallet's lock; what is here
says what they are, and is what the in-memory adapter runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from types import MappingProxyType
from uuid import UUID

from attrs import evolve, frozen

from cogni_billing.domain.amounts import CREDIT, ZERO, Amount, total
from cogni_billing.domain.errors import InsufficientCredits, UnknownHold
from cogni_billing.domain.holds import Hold, HoldState, require_future
from cogni_billing.domain.moments import EARLIEST
from cogni_billing.domain.transactions import Transaction, TransactionKind


@frozen(kw_only=True)
class Wallet:
    """The running state of an account's own side.

    `as_of` is the moment of its newest change; its time never runs backwards, so the balance as
    of a moment is that of the last posting until then, whatever the clocks of the hosts say.
    """

    posted: Amount = ZERO
    as_of: datetime = EARLIEST
    holds: Mapping[UUID, Hold] = MappingProxyType({})

    def present(self, moment: datetime) -> datetime:
        """*moment*, or the wallet's own where that is later."""
        return max(self.as_of, moment)

    def held(self, moment: datetime) -> Amount:
        """What is set aside at *moment*."""
        return total((h.amount for h in self.holds.values() if h.held_at(moment)), CREDIT)

    def settled(self, moment: datetime) -> Wallet:
        """This wallet at *moment* or its own later one: what time brought about has happened."""
        present = self.present(moment)
        holds = {id_: hold.at(present) for id_, hold in self.holds.items()}
        return evolve(self, as_of=present, holds=MappingProxyType(holds))

    def after(self, transaction: Transaction, arrived: Amount) -> Wallet:
        """This wallet after its owner's *transaction*, when others have added *arrived* so far.

        Raises:
            InsufficientCredits: the transaction takes more than is available, and may not; or
                captures more than its hold is of.
            UnknownHold, HoldClosed: the hold that it captures is not there, or has ended.
        """
        wallet = self.settled(transaction.at)
        if transaction.kind is TransactionKind.CAPTURE:
            wallet = wallet.capturing(transaction)
        elif not transaction.overdraft:
            wallet.require_available(-transaction.amount, arrived)
        return evolve(wallet, posted=wallet.posted + transaction.amount)

    def with_hold(self, hold: Hold, arrived: Amount) -> Wallet:
        """This wallet with *hold* set aside.

        Raises:
            InvalidTime: the hold would have expired.
            InsufficientCredits: less is available.
        """
        wallet = self.settled(hold.opened_at)
        require_future(hold, wallet.as_of)
        wallet.require_available(hold.amount, arrived)
        return wallet.with_changed(hold)

    def released(self, hold_id: UUID, moment: datetime) -> Wallet:
        """This wallet after the hold was given back, if it was open."""
        wallet = self.settled(moment)
        hold = wallet.hold(hold_id)
        if not hold.is_open:
            return wallet
        return wallet.with_changed(hold.ended(HoldState.RELEASED, wallet.as_of))

    def hold(self, hold_id: UUID) -> Hold:
        """The hold with this id.

        Raises:
            UnknownHold: there is none.
        """
        if hold_id not in self.holds:
            raise UnknownHold(hold_id)
        return self.holds[hold_id]

    def capturing(self, capture: Transaction) -> Wallet:
        assert capture.subject is not None  # its plan names the hold
        hold, taken = self.hold(capture.subject), -capture.amount
        hold.require_capturable(taken)
        return self.with_changed(hold.ended(HoldState.CAPTURED, self.as_of, taken))

    def with_changed(self, hold: Hold) -> Wallet:
        return evolve(self, holds=MappingProxyType({**self.holds, hold.id: hold}))

    def require_available(self, required: Amount, arrived: Amount) -> None:
        available = self.posted + arrived - self.held(self.as_of)
        if required.is_positive and required > available:
            raise InsufficientCredits(required, available)
