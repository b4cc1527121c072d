"""The books of all tenants, for the service role alone."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Protocol

from cogni_billing.domain.attempts import DueAttempt
from cogni_billing.domain.disputes import Dispute
from cogni_billing.domain.folding import Folding
from cogni_billing.domain.identity import TenantId
from cogni_billing.domain.refunds import There
from cogni_billing.domain.verification import Verification


class BooksRepository(Protocol):
    """What is done across tenants, in scopes that `UnitOfWork.run_service` opens."""

    def settled_position(self) -> int:
        """The highest position of a line under which no line can still be recorded.

        Raises:
            LedgerUnavailable: somebody who may record one has not ended for a long time.
        """
        ...

    def due(self, now: datetime, /) -> tuple[TenantId, ...]:
        """Some tenants on whose wallets something may be due that time brought about, if any are.

        They are the longest due, and no more than a thousand. Settling a wallet strikes it off.
        """
        ...

    def due_attempts(
        self, now: datetime, every: timedelta, after: DueAttempt | None, /
    ) -> tuple[DueAttempt, ...]:
        """Payment attempts that something may have become of, and come after that one: those that
        are pending and were not checked for as long as *every*, and intents that have expired.

        They are a thousand at most, in the order of their moments.
        """
        ...

    def lock(self, tenants: Iterable[TenantId], moment: datetime, /) -> There:
        """Keep everybody else from posting to these tenants' accounts until the scope ends, but
        for what is only added to them; and what each has at *moment* that it was not granted.

        An account that is not there is opened, since it could not be locked.
        """
        ...

    def open_dispute(self, dispute: Dispute, /) -> None:
        """Record *dispute*, and set its parts aside, on whoever's wallets they are."""
        ...

    def close_dispute(self, dispute: Dispute, moment: datetime, /) -> None:
        """Give back what an open *dispute* has set aside."""
        ...

    def verify(self, most: int, /) -> Verification:
        """Check every rule over all that is recorded; at most so many violations of each."""
        ...

    def fold(self, position: int, /) -> Folding:
        """Checkpoint the accounts that others add to, up to a settled position.

        The position must come from a scope that has ended, so that this one sees all under it.
        """
        ...
