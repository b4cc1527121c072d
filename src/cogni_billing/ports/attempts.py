"""The payment attempts of the scope's tenant."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Protocol
from uuid import UUID

from cogni_billing.domain.attempts import Attempt, AttemptEvent, Intent


class AttemptRepository(Protocol):
    """Stores payment attempts, and the history of each."""

    def create(self, intent: Intent, /) -> None:
        """Record a new intent.

        Raises:
            PrivilegeRequired: the intent is of another tenant, or the scope may not mint.
            LedgerCorruption: its id is taken.
            RecipientTaken: another intent, of any tenant, has its own recipient.
        """
        ...

    def attempt(self, attempt_id: UUID, /) -> Attempt:
        """The attempt in its present state.

        Raises:
            UnknownAttempt: the tenant has no such attempt.
        """
        ...

    def record(self, attempt: Attempt, move: AttemptEvent, /) -> Attempt:
        """Record *move* and return the attempt after it.

        The history of the attempt gets *move* in the same transaction. In the whole system, only
        one pending or credited attempt can have the same evidence.

        Raises:
            PaymentAlreadyClaimed: another attempt, of any tenant, has the evidence.
            LedgerUnavailable: the attempt has changed since it was read. Read it again.
            UnbalancedTransaction: the crediting transaction is no purchase of the payment.
            PrivilegeRequired: the scope may not mint.
        """
        ...

    def begin_check(self, attempt_id: UUID, now: datetime, every: timedelta, /) -> bool:
        """Claim the next verification slot. True for one caller per interval.

        A pending attempt has one slot in each span of *every*. Any other attempt has no slot.

        Raises:
            PrivilegeRequired: the scope may not mint.
        """
        ...

    def events(self, attempt_id: UUID, /) -> tuple[AttemptEvent, ...]:
        """The history of the attempt, in order. The first event is the intent.

        Raises:
            UnknownAttempt: the tenant has no such attempt.
        """
        ...
