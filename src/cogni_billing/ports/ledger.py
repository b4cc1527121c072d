"""The ledger as the scope's tenant may see and extend it."""

from __future__ import annotations

from typing import Protocol

from cogni_billing.domain.statements import Balance, Line, PageRequest
from cogni_billing.domain.transactions import Recorded, Transaction, TransactionKind


class LedgerRepository(Protocol):
    """Records transactions, and reads the tenant's own side of them."""

    def post(self, transaction: Transaction, /) -> Recorded:
        """Record *transaction*, or find what is recorded under its key.

        The key is the payment of a purchase. A purchase opens its tenant's account if there is
        none. A stored transaction that answers the same request comes back with `replayed`.

        Raises:
            IdempotencyConflict: the tenant used the key for another request. Nothing is written.
            PaymentAlreadyClaimed: another tenant's purchase has the payment. Nothing is written.
            PrivilegeRequired: the transaction is not the scope's tenant's. Nothing is written.
            LedgerCorruption: the transaction's id is taken. Nothing is written.
        """
        ...

    def find(self, kind: TransactionKind, reference: str, /) -> Recorded | None:
        """What the tenant recorded under this key, as a replay; `None` if nothing."""
        ...

    def balance(self) -> Balance:
        """The tenant's balance now; zero when nothing was ever posted."""
        ...

    def lines(self, page: PageRequest, /) -> tuple[Line, ...]:
        """Lines of the tenant's account, newest first, before the page's position.

        One more than the page's limit when there are that many: so the caller knows of a next.
        """
        ...
