"""The ledger as the scope's tenant may see and extend it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol
from uuid import UUID

from cogni_billing.domain.disputes import Dispute
from cogni_billing.domain.errors import BillingError
from cogni_billing.domain.grants import Grant
from cogni_billing.domain.holds import Hold
from cogni_billing.domain.refunds import Payment
from cogni_billing.domain.statements import Balance, Line, PageRequest
from cogni_billing.domain.transactions import Recorded, Transaction, TransactionKind


class LedgerRepository(Protocol):
    """Records transactions, and reads the tenant's own side of them."""

    def post(self, transaction: Transaction, /) -> Recorded:
        """Record *transaction*, or find what is recorded under its key.

        The key is the kind and the reference; a purchase's reference is its payment. A purchase or
        a grant opens its tenant's account if there is none. A stored transaction that answers the
        same request comes back with `replayed`. Where an error is raised, nothing is written.

        Raises:
            IdempotencyConflict: the tenant used the key for another request.
            PaymentAlreadyClaimed: another tenant's purchase has the payment.
            UnknownAccount: the tenant has no account, and this opens none.
            InvalidTime: it grants what would have expired already.
            InsufficientCredits: it takes more than is available, and may not; or captures more
                than its hold is of.
            UnknownHold, HoldClosed: the hold that it captures is not there, or has ended.
            PrivilegeRequired: the transaction is not the scope's tenant's; or it mints, and the
                scope may not.
            LedgerCorruption: the transaction's id is taken.
        """
        ...

    def post_many(
        self, transactions: Sequence[Transaction], /, *, all_or_nothing: bool
    ) -> Sequence[Recorded | BillingError]:
        """Post *transactions* of one kind, as if one after another; the answer to each.

        One that is refused leaves nothing and keeps no other from being posted; unless it is to be
        all or nothing: then nothing is posted when any is refused, and `OthersRefused` is the
        answer to each of the others.

        Raises:
            PrivilegeRequired: they mint, and the scope may not.
        """
        ...

    def find(self, kind: TransactionKind, reference: str, /) -> Recorded | None:
        """What the tenant recorded under this key, as a replay; `None` if nothing."""
        ...

    def transaction(self, transaction_id: UUID, /) -> Recorded | None:
        """What the tenant recorded under this id, as a replay; `None` if nothing."""
        ...

    def payment(self, payment: str, /) -> Payment | None:
        """The tenant's purchase of this payment, and what was returned and is disputed of it."""
        ...

    def dispute(self, reference: str, /) -> Dispute | None:
        """The tenant's dispute of this reference, in its present state."""
        ...

    def hold(self, hold: Hold, /) -> Hold:
        """Record *hold*, or find what is recorded under its reference, in its present state.

        Raises:
            IdempotencyConflict: the tenant used the reference for another request.
            UnknownAccount: the tenant has no account.
            InvalidTime: the hold would have expired already.
            InsufficientCredits: less is available.
            LedgerCorruption: the hold's id is taken.
        """
        ...

    def release(self, hold_id: UUID, moment: datetime, /) -> Hold:
        """Give back what the hold set aside; one that was released before comes back `replayed`.

        Raises:
            UnknownHold: the tenant has no such hold.
            HoldClosed: it was captured, or had expired.
        """
        ...

    def settle(self, moment: datetime, /) -> bool:
        """Let what is due by *moment* happen: holds that expired end, and what was left of grants
        that expired is taken, each at its own moment. Whether anything was due.

        Every call that writes does so first; reading takes it into account.
        """
        ...

    def grants(self, now: datetime, /) -> tuple[Grant, ...]:
        """The tenant's grants with something left, in the order in which they are spent."""
        ...

    def balance(self, now: datetime, /) -> Balance:
        """The tenant's balance now; zero when nothing was ever posted."""
        ...

    def balance_at(self, moment: datetime, /) -> Balance:
        """The tenant's balance as of *moment*: what was posted until then, then included."""
        ...

    def lines(self, page: PageRequest, /) -> tuple[Line, ...]:
        """Lines of the tenant's account that the page admits, newest first.

        One more than the page's limit when there are that many: so the caller knows of a next.
        """
        ...
