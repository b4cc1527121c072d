"""Accounts: one for each tenant, and the contra accounts of the system tenant."""

from __future__ import annotations

from datetime import datetime
from enum import Enum
from typing import Final

from attrs import frozen

from cogni_billing.domain.amounts import Amount
from cogni_billing.domain.identity import (
    ADJUSTMENTS,
    BREAKAGE,
    ISSUANCE,
    SHORTFALL,
    SYSTEM_TENANT_ID,
    USAGE,
    AccountId,
    TenantId,
    account_of,
)

SYSTEM_TENANT_SLUG: Final = "cogni_system"


class AccountType(Enum):
    """The purpose of an account."""

    BILLING = "billing"
    ISSUANCE = "issuance"
    USAGE = "usage"
    BREAKAGE = "breakage"
    SHORTFALL = "shortfall"
    ADJUSTMENTS = "adjustments"


CONTRA_ACCOUNTS: Final = {
    AccountType.ISSUANCE: ISSUANCE,
    AccountType.USAGE: USAGE,
    AccountType.BREAKAGE: BREAKAGE,
    AccountType.SHORTFALL: SHORTFALL,
    AccountType.ADJUSTMENTS: ADJUSTMENTS,
}


@frozen
class Freeze:
    """The state of an account that may not spend: the operator's reason, and the beginning."""

    reason: str
    since: datetime


@frozen
class Account:
    """A tenant's billing account.

    `is_system_tenant` and `slug` are metadata. No code path decides by them.
    """

    id: AccountId
    tenant_id: TenantId
    opened_at: datetime
    slug: str | None = None
    is_system_tenant: bool = False
    freeze: Freeze | None = None
    """`None` if the tenant may spend."""
    overdraft_limit: Amount | None = None
    """The most that calls which allow an overdraft may take below zero. `None` for no limit."""


def new_account(tenant: TenantId, opened_at: datetime) -> Account:
    """The account to open for *tenant*."""
    is_system = tenant == SYSTEM_TENANT_ID
    slug = SYSTEM_TENANT_SLUG if is_system else None
    return Account(account_of(tenant), tenant, opened_at, slug, is_system)
