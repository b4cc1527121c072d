"""The scope's tenant's payment attempts."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Protocol
from uuid import UUID

from cogni_billing.domain.attempts import Attempt, AttemptEvent, Intent


class AttemptRepository(Protocol):
    """Keeps payment attempts, and the history of each."""

    def create(self, intent: Intent, /) -> None:
        """Record a new intent.

        Raises:
            PrivilegeRequired: it is not the scope's tenant's; or the scope may not mint.
            LedgerCorruption: its id is taken.
        """
        ...

    def attempt(self, attempt_id: UUID, /) -> Attempt:
        """The attempt as it is now.

        Raises:
            UnknownAttempt: the tenant has none of that id.
        """
        ...

    def record(self, attempt: Attempt, move: AttemptEvent, /) -> Attempt:
        """The attempt after *move*, which goes into its history in the same transaction.

        Evidence belongs to one attempt in the whole system while that is pending or credited.

        Raises:
            PaymentAlreadyClaimed: another attempt, of any tenant, has the evidence.
            LedgerUnavailable: the attempt has changed since it was read; read it again.
            UnbalancedTransaction: it is to be credited by another transaction than a purchase
                of its payment.
            PrivilegeRequired: the scope may not mint.
        """
        ...

    def begin_check(self, attempt_id: UUID, now: datetime, every: timedelta, /) -> bool:
        """Claim the next verification slot. True for one caller per interval.

        A pending attempt has one slot in each span of *every*. Any other attempt has none.

        Raises:
            PrivilegeRequired: the scope may not mint.
        """
        ...

    def events(self, attempt_id: UUID, /) -> tuple[AttemptEvent, ...]:
        """The history of the attempt, in order. The first event is the intent.

        Raises:
            UnknownAttempt: the tenant has none of that id.
        """
        ...
