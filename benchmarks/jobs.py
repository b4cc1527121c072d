"""The customers, prices and references of the jobs."""

from __future__ import annotations

import random
from decimal import Decimal
from functools import cache
from uuid import UUID, uuid4

from cogni_billing import SYSTEM_TENANT_ID, TenantId, credits, usd

CUSTOMERS = 1_000
PRICE = usd("10.00")
COST = credits(1)
CREDITS, SHARE = Decimal(100_000_000), Decimal(25_000_000)
PLATFORM = SYSTEM_TENANT_ID
_FIRST_CUSTOMER = 0x0C057000_0000_4000_8000_000000000000


@cache
def customers() -> tuple[TenantId, ...]:
    """All customers. They have accounts before the measurements."""
    return tuple(TenantId(UUID(int=_FIRST_CUSTOMER + number)) for number in range(CUSTOMERS))


def customer() -> TenantId:
    """A random customer."""
    return TenantId(UUID(int=_FIRST_CUSTOMER + random.randrange(CUSTOMERS)))  # noqa: S311


def reference() -> str:
    """A new payment or reference."""
    return f"bench:{uuid4()}"
