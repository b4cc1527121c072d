"""The errors for missing rights, shared by the adapters."""

from typing import Final

from cogni_billing.domain.errors import PrivilegeRequired

_MINTING: Final = "creating credits; connect as a role that may mint"
_ACROSS_TENANTS: Final = "work across tenants; use the service role"


def minting_refused() -> PrivilegeRequired:
    """The error for a scope that may spend credits but not create them."""
    return PrivilegeRequired(_MINTING)


def service_refused() -> PrivilegeRequired:
    """The error for a unit of work without a service role."""
    return PrivilegeRequired(_ACROSS_TENANTS)
