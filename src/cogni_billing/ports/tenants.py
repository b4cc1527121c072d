"""The account of the scope's tenant."""

from __future__ import annotations

from datetime import datetime
from typing import Protocol

from cogni_billing.domain.accounts import Account


class TenantRepository(Protocol):
    """Opens and finds the one billing account of the scope's tenant."""

    def open_account(self, opened_at: datetime, /) -> Account:
        """The tenant's account, opened at that moment unless it was open.

        Concurrent calls agree on one account and one moment.
        """
        ...

    def account(self) -> Account:
        """The tenant's account.

        Raises:
            UnknownAccount: the tenant has no account.
        """
        ...
