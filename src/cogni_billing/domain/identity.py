"""Who and which: tenants, accounts, and the keys callers give."""

from __future__ import annotations

import re
from typing import Final, NewType
from uuid import UUID

from cogni_billing.domain.errors import InvalidReference, InvalidTenant, shown

TenantId = NewType("TenantId", UUID)
"""An owner, and the boundary of row-level security."""

AccountId = NewType("AccountId", UUID)
"""Where one tenant's credits live."""

SYSTEM_TENANT_ID: Final = TenantId(UUID("00000000-0000-4000-a000-000000000001"))
SYSTEM_ACCOUNT_ID: Final = AccountId(UUID("00000000-0000-4000-b000-000000000000"))
"""The system tenant's own billing account, which receives revenue share."""

ISSUANCE: Final = AccountId(UUID("00000000-0000-4000-b000-000000000001"))
"""Contra account, equity: every minted credit debits it."""
USAGE: Final = AccountId(UUID("00000000-0000-4000-b000-000000000002"))
"""Contra account: credits consumed."""
BREAKAGE: Final = AccountId(UUID("00000000-0000-4000-b000-000000000003"))
"""Contra account: credits that expired."""
SHORTFALL: Final = AccountId(UUID("00000000-0000-4000-b000-000000000004"))
"""Contra account: clawback that the platform absorbed."""

SYSTEM_ACCOUNTS: Final = frozenset({SYSTEM_ACCOUNT_ID, ISSUANCE, USAGE, BREAKAGE, SHORTFALL})

_REFERENCE = re.compile(r"[\x21-\x7e]{1,255}", re.ASCII)


def tenant_id(given: object) -> TenantId:
    """*given* as a tenant.

    Raises:
        InvalidTenant: it is no `uuid.UUID`, is nil, or is the id of a system account.
    """
    if not isinstance(given, UUID) or given.int == 0 or given in SYSTEM_ACCOUNTS:
        raise InvalidTenant("tenant", shown(given), "a uuid.UUID that is neither nil nor reserved")
    return TenantId(UUID(int=given.int))


def account_of(tenant: TenantId) -> AccountId:
    """The billing account of *tenant*: the same UUID, so nobody has to look it up.

    The system tenant's is the one exception, fixed by the protocol.
    """
    return SYSTEM_ACCOUNT_ID if tenant == SYSTEM_TENANT_ID else AccountId(tenant)


def owner_of(account: AccountId) -> TenantId:
    """The tenant that owns *account*; the inverse of `account_of`, for contra accounts too."""
    return SYSTEM_TENANT_ID if account in SYSTEM_ACCOUNTS else TenantId(account)


def reference(given: object, field: str = "reference") -> str:
    """*given* as a caller's key: 1 to 255 visible ASCII characters, neither trimmed nor folded.

    Raises:
        InvalidReference: it is anything else.
    """
    if type(given) is not str or not _REFERENCE.fullmatch(given):
        raise InvalidReference(field, shown(given), "1 to 255 visible ASCII characters (0x21-0x7E)")
    return given


def payment_reference(given: object) -> str:
    """*given* as the key of a payment.

    Raises:
        InvalidReference: it is no reference.
    """
    return reference(given, "payment")
