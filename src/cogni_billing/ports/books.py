"""The books of all tenants, for the service role alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Final, Protocol

from cogni_billing.domain.accounts import Account, Freeze
from cogni_billing.domain.amounts import Amount
from cogni_billing.domain.attempts import DueAttempt
from cogni_billing.domain.disputes import Dispute
from cogni_billing.domain.folding import Folding
from cogni_billing.domain.found_payments import Claim
from cogni_billing.domain.identity import TenantId
from cogni_billing.domain.reversals import Recoverable
from cogni_billing.domain.seals import Entry, Piece
from cogni_billing.domain.transactions import Recorded, Transaction
from cogni_billing.domain.verification import Verification
from cogni_billing.domain.wallets import DueWallet

DUE_MAX: Final = 1000
"""The number of due items that one call returns at most."""


class BooksRepository(Protocol):
    """Work across tenants, in scopes that `UnitOfWork.run_service` opens."""

    def safe_position(self) -> int:
        """The highest position below which no new arrival can commit (the safe horizon).

        Raises:
            LedgerUnavailable: a transaction that may add one has been open for too long.
        """
        ...

    def due(self, now: datetime, after: DueWallet | None, /) -> tuple[DueWallet, ...]:
        """Wallets with due expirations, after the given one. At most `DUE_MAX`, in order of their
        moments and tenants.

        Starts of grants count as expirations. A wallet without due ones is not among them.
        """
        ...

    def due_attempts(
        self, now: datetime, every: timedelta, after: DueAttempt | None, /
    ) -> tuple[DueAttempt, ...]:
        """Payment attempts to check, after the given one. At most `DUE_MAX`, in order of their
        moments, tenants and ids.

        These are pending attempts that were not checked for as long as *every*, and expired
        intents.
        """
        ...

    def lock(self, tenants: Iterable[TenantId], moment: datetime, /) -> Recoverable:
        """Lock these tenants' wallets until the scope ends. Arrivals can still be added.

        Returns the available credits of each at *moment* that were not granted. A missing account
        is opened, because only an open account can be locked.
        """
        ...

    def settle_dispute(
        self, dispute: Dispute, transaction: Transaction | None, moment: datetime, /
    ) -> Recorded | None:
        """Record *dispute* in a new state, and *transaction*, which takes or gives back credits.

        Sets aside the credits of every open dispute of the payment as `Payment.disputes_at` says.

        Returns:
            The recorded transaction, or `None` without one.
        """
        ...

    def claim(self, payments: Iterable[str], /) -> Claim | None:
        """The first claim of one of these payments, whichever tenant has it."""
        ...

    def freeze(self, tenant: TenantId, freeze: Freeze | None, /) -> Account:
        """Freeze the tenant's account, or unfreeze it for `None`, and return it.

        An account that is frozen already keeps its first freeze.

        Raises:
            UnknownAccount: the tenant has no account.
        """
        ...

    def limit_overdraft(self, tenant: TenantId, limit: Amount | None, /) -> Account:
        """Set the limit of the tenant's overdrafts, or remove it for `None`. Return the account.

        Raises:
            UnknownAccount: the tenant has no account.
        """
        ...

    def forget(self, tenant: TenantId, now: datetime, retention: timedelta | None, /) -> int:
        """Replace the tenant's texts by digests, and return the number of texts.

        Raises:
            UnknownAccount: the tenant has no account.
            RecordsRetained: *retention* has not passed since the tenant's newest record.
        """
        ...

    def verify(self, limit: int, /) -> Verification:
        """Check every invariant over the whole ledger. Returns up to *limit* violations of each."""
        ...

    def fold(self, position: int, /) -> Folding:
        """Write checkpoints for accounts that receive arrivals, up to a safe position.

        The position must come from a scope that has ended, so that this scope sees every arrival
        below it.
        """
        ...

    def transaction_counts(self) -> Mapping[TenantId, int]:
        """The number of transactions of each tenant that has one."""
        ...

    def history(self, pieces: Sequence[Piece], /) -> Sequence[Sequence[Entry]]:
        """The recorded transactions of each piece, in the order of positions.

        A tenant's positions have no gaps, and no later commit adds one below a visible one.
        """
        ...
