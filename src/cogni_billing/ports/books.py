"""The books of all tenants, for the service role alone."""

from __future__ import annotations

from datetime import datetime
from typing import Protocol

from cogni_billing.domain.folding import Folding
from cogni_billing.domain.identity import TenantId
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

    def verify(self, most: int, /) -> Verification:
        """Check every rule over all that is recorded; at most so many violations of each."""
        ...

    def fold(self, position: int, /) -> Folding:
        """Checkpoint the accounts that others add to, up to a settled position.

        The position must come from a scope that has ended, so that this one sees all under it.
        """
        ...
