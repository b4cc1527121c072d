"""What a scope may not do without a right that it was not given, as every adapter says it."""

from typing import Final

from cogni_billing.domain.errors import PrivilegeRequired

_MINTING: Final = "confirming purchases and granting credits takes a role that may mint"
_ACROSS_TENANTS: Final = "what spans tenants takes the service role"


def minting_refused() -> PrivilegeRequired:
    """The answer to whoever may spend only, and tries to mint."""
    return PrivilegeRequired(_MINTING)


def service_refused() -> PrivilegeRequired:
    """The answer to whoever may act for one tenant only."""
    return PrivilegeRequired(_ACROSS_TENANTS)
