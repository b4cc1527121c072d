"""The account of the scope's tenant, over one open connection."""

from __future__ import annotations

from datetime import datetime

from attrs import frozen
from sqlalchemy import Connection

from cogni_billing.adapters.guard import ScopeGuard
from cogni_billing.adapters.postgres import statements
from cogni_billing.adapters.postgres.failures import translated
from cogni_billing.adapters.postgres.rows import account_from, account_parameters
from cogni_billing.domain.accounts import Account
from cogni_billing.domain.errors import UnknownAccount
from cogni_billing.domain.identity import TenantId


@frozen
class PostgresTenants:
    """Keeps the promises of `TenantRepository`."""

    _connection: Connection
    _tenant: TenantId
    _guard: ScopeGuard

    def open_account(self, opened_at: datetime, /) -> Account:
        with self._guard.call(), translated():
            parameters = account_parameters(self._tenant) | {"opened_at": opened_at}
            self._connection.execute(statements.OPEN_ACCOUNT, parameters)
        return self.account()

    def account(self) -> Account:
        with self._guard.call(), translated():
            row = self._connection.execute(
                statements.ACCOUNT, account_parameters(self._tenant)
            ).one_or_none()
            if row is None:
                raise UnknownAccount(self._tenant)
            return account_from(row)
