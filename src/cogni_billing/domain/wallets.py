"""A wallet: what a tenant's own transactions left on its account, and whether it covers more."""

from __future__ import annotations

from datetime import datetime

from attrs import evolve, frozen

from cogni_billing.domain.amounts import ZERO, Amount
from cogni_billing.domain.errors import InsufficientCredits
from cogni_billing.domain.moments import EARLIEST
from cogni_billing.domain.transactions import Transaction


@frozen(kw_only=True)
class Wallet:
    """The running balance of an account's own side.

    `as_of` is the moment of its newest posting; its time never runs backwards, so the balance as
    of a moment is that of the last posting until then, whatever the clocks of the hosts say.
    """

    posted: Amount = ZERO
    as_of: datetime = EARLIEST

    def after(self, transaction: Transaction, arrived: Amount) -> Wallet:
        """This wallet after its owner's *transaction*, when others have added *arrived* so far.

        Raises:
            InsufficientCredits: the transaction takes more than is available, and may not.
        """
        available = self.posted + arrived
        required = -transaction.amount
        if required.is_positive and not transaction.overdraft and required > available:
            raise InsufficientCredits(required, available)
        return evolve(
            self,
            posted=self.posted + transaction.amount,
            as_of=max(self.as_of, transaction.at),
        )
