"""Account of the scope's tenant, over an open connection."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from attrs import evolve, frozen

from cogni_billing.adapters.guard import ScopeGuard
from cogni_billing.adapters.postgres.calls import Calls
from cogni_billing.adapters.postgres.failures import translated
from cogni_billing.adapters.postgres.rows import in_credits, moment
from cogni_billing.domain.accounts import Account, Freeze, new_account
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
            return account_from(answer, self._tenant)

    def account(self) -> Account:
        with self._guard.call(), translated():
            return account_from(self._calls("account", self._tenant, {}), self._tenant)


def account_from(answer: Any, tenant: TenantId) -> Account:
    """Convert the answer of `account`, `open_account`, `freeze` and `limit_overdraft`.

    Raises:
        UnknownAccount: *tenant* has no account.
    """
    if answer["outcome"] != "done":
        raise UnknownAccount(tenant)
    frozen, limit = answer["frozen_at"], answer["overdraft_limit"]
    return evolve(
        new_account(tenant, moment(answer["opened_at"])),
        freeze=None if frozen is None else Freeze(answer["frozen_reason"], moment(frozen)),
        overdraft_limit=None if limit is None else in_credits(limit),
    )
