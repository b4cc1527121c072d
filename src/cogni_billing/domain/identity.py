"""Identifiers: tenants, accounts, and the keys of callers."""

from __future__ import annotations

import re
from typing import Final, NewType
from uuid import UUID

from cogni_billing.domain.errors import InvalidReference, InvalidTenant, shown

TenantId = NewType("TenantId", UUID)
"""The owner of an account, and the boundary of row-level security."""

AccountId = NewType("AccountId", UUID)
"""The account that holds the credits of one tenant."""

SYSTEM_TENANT_ID: Final = TenantId(UUID("00000000-0000-4000-a000-000000000001"))
SYSTEM_ACCOUNT_ID: Final = AccountId(UUID("00000000-0000-4000-b000-000000000000"))
"""The system tenant's own billing account, which receives revenue share."""

ISSUANCE: Final = AccountId(UUID("00000000-0000-4000-b000-000000000001"))
"""Contra account (equity): debited for every credit that is created."""
USAGE: Final = AccountId(UUID("00000000-0000-4000-b000-000000000002"))
"""Contra account: consumed credits."""
BREAKAGE: Final = AccountId(UUID("00000000-0000-4000-b000-000000000003"))
"""Contra account: expired credits."""
SHORTFALL: Final = AccountId(UUID("00000000-0000-4000-b000-000000000004"))
"""Contra account: the part of reversals that the platform absorbed."""

ADJUSTMENTS: Final = AccountId(UUID("00000000-0000-4000-b000-000000000005"))
"""Contra account: the corrections of operators."""

SYSTEM_ACCOUNTS: Final = frozenset(
    {SYSTEM_ACCOUNT_ID, ISSUANCE, USAGE, BREAKAGE, SHORTFALL, ADJUSTMENTS}
)

_REFERENCE = re.compile(r"[\x21-\x7e]{1,255}", re.ASCII)
_TRANSACTION = re.compile(r"0*([0-9]+):(?:0[xX])?([0-9a-fA-F]{64})((?::.*)?)", re.ASCII)


def tenant_id(given: object) -> TenantId:
    """*given* as a tenant id.

    Raises:
        InvalidTenant: *given* is no `uuid.UUID`, is nil, or is the id of a system account.
    """
    if not isinstance(given, UUID) or given.int == 0 or given in SYSTEM_ACCOUNTS:
        raise InvalidTenant("tenant", shown(given), "a uuid.UUID that is neither nil nor reserved")
    return TenantId(UUID(int=given.int))


def account_of(tenant: TenantId) -> AccountId:
    """The billing account of *tenant*, which has the same UUID.

    The account of the system tenant is the one exception: its id is a constant.
    """
    return SYSTEM_ACCOUNT_ID if tenant == SYSTEM_TENANT_ID else AccountId(tenant)


def owner_of(account: AccountId) -> TenantId:
    """The tenant that owns *account*. The inverse of `account_of`, also for contra accounts."""
    return SYSTEM_TENANT_ID if account in SYSTEM_ACCOUNTS else TenantId(account)


def reference(given: object, field: str = "reference") -> str:
    """*given* as a caller's key: 1 to 255 visible ASCII characters, not trimmed or case-folded.

    Raises:
        InvalidReference: *given* is no such text.
    """
    if type(given) is not str or not _REFERENCE.fullmatch(given):
        raise InvalidReference(field, shown(given), "1 to 255 visible ASCII characters (0x21-0x7E)")
    return given


def payment_reference(given: object) -> str:
    """*given* as a payment, `provider:id`. A transaction hash has one spelling.

    Raises:
        InvalidReference: *given* has no provider or no id, or is a hash on a chain in another
            spelling.
    """
    found = provider_id(given, "payment")
    if hashed := _TRANSACTION.fullmatch(found):
        chain, digits, rest = hashed.groups()
        if found != f"{chain}:0x{digits.lower()}{rest.lower()}":
            expected = "chain_id:0x and the transaction hash, in lower case"
            raise InvalidReference("payment", shown(found), expected)
    return found


def provider_id(given: object, field: str) -> str:
    """*given* as the id of a payment with its provider, `provider:id`.

    Raises:
        InvalidReference: *given* is no reference, or lacks the provider or the id.
    """
    found = reference(given, field)
    provider, _, known_as = found.partition(":")
    if not provider or not known_as:
        raise InvalidReference(field, shown(given), "provider:id, such as stripe:pi_1")
    return found
