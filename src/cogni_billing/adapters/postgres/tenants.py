"""Account of the scope's tenant, over an open connection."""

from __future__ import annotations

from datetime import datetime

from attrs import frozen

from cogni_billing.adapters.guard import ScopeGuard
from cogni_billing.adapters.postgres.calls import Calls
from cogni_billing.adapters.postgres.failures import translated
from cogni_billing.adapters.postgres.rows import moment
from cogni_billing.domain.accounts import Account, new_account
from cogni_billing.domain.errors import UnknownAccount
from cogni_billing.domain.identity import TenantId


@frozen
class PostgresTenants:
    """Implements `TenantRepository`."""

    _calls: Calls
    _tenant: TenantId
    _guard: ScopeGuard

    def open_account(self, opened_at: datetime, /) -> Account:
        with self._guard.call(), translated():
            answer = self._calls("open_account", self._tenant, {"at": opened_at})
            return new_account(self._tenant, moment(answer["opened_at"]))

    def account(self) -> Account:
        with self._guard.call(), translated():
            answer = self._calls("account", self._tenant, {})
            if answer["outcome"] != "done":
                raise UnknownAccount(self._tenant)
            return new_account(self._tenant, moment(answer["opened_at"]))
