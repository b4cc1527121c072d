"""The account of one tenant, in memory."""

from __future__ import annotations

from datetime import datetime

from attrs import evolve, frozen

from cogni_billing.adapters.guard import ScopeGuard
from cogni_billing.adapters.memory.store import Store
from cogni_billing.domain.accounts import Account, new_account
from cogni_billing.domain.errors import (
    UnknownAccount,
)
from cogni_billing.domain.identity import TenantId, account_of
from cogni_billing.domain.wallets import Wallet


@frozen
class MemoryTenants:
    """The in-memory `TenantRepository`."""

    _store: Store
    _tenant: TenantId
    _guard: ScopeGuard

    def open_account(self, opened_at: datetime, /) -> Account:
        with self._guard.call():
            open_account(self._store, self._tenant, opened_at)
            return account(self._store, self._tenant)

    def account(self) -> Account:
        with self._guard.call():
            return account(self._store, self._tenant)


def account(store: Store, tenant: TenantId) -> Account:
    """The tenant's account, with its freeze and the limit of its overdrafts.

    Raises:
        UnknownAccount: *tenant* has no account.
    """
    require_account(store, tenant)
    wallet = store.wallets.get(tenant, Wallet())
    return evolve(
        store.accounts[tenant], freeze=wallet.freeze, overdraft_limit=wallet.overdraft_limit
    )


def require_account(store: Store, tenant: TenantId) -> None:
    """Return if *tenant* has an account.

    Raises:
        UnknownAccount: *tenant* has no account.
    """
    if tenant not in store.accounts:
        raise UnknownAccount(tenant)


def require_known(store: Store, tenant: TenantId) -> None:
    """Return if *tenant* has an account, or has earned a share.

    Raises:
        UnknownAccount: *tenant* has no account, and has earned no share.
    """
    if not store.lines.get(account_of(tenant)):
        require_account(store, tenant)


def open_account(store: Store, tenant: TenantId, opened_at: datetime) -> None:
    """Open an account for *tenant* unless it has one."""
    if tenant not in store.accounts:
        store.put(store.accounts, tenant, new_account(tenant, opened_at))
