"""The fields of a request, as text. Two calls with one key are the same if these are equal.

The ledger stores these fields under the key and compares them when the key is used again, so each
function here must return the same text for the same arguments in every version.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from types import MappingProxyType
from typing import Final, TypeAlias
from uuid import UUID

from cogni_billing.domain.amounts import Amount
from cogni_billing.domain.policies import Shortfall
from cogni_billing.domain.timestamps import Expiry, expiry_text

REMAINDER: Final = "what remains"
Request: TypeAlias = Mapping[str, str]

EXPIRY: Final[Request] = MappingProxyType({})
"""The ledger itself makes expirations: no caller asks for one."""


def purchase(paid: Amount) -> Request:
    return MappingProxyType({"amount": str(paid)})


def charge(amount: Amount, *, allow_overdraft: bool, at_most: bool) -> Request:
    return MappingProxyType(
        {
            "amount": str(amount),
            "allow_overdraft": str(allow_overdraft),
            "at_most": str(at_most),
        }
    )


def hold(amount: Amount, expires_at: datetime | None) -> Request:
    return MappingProxyType({"amount": str(amount), "expires_at": expiry_text(expires_at)})


def capture(hold_id: UUID, amount: Amount) -> Request:
    return MappingProxyType({"hold": str(hold_id), "amount": str(amount)})


def grant(amount: Amount, *, source: str, priority: int, expiry: Expiry) -> Request:
    return MappingProxyType(
        {"amount": str(amount), "source": source, "priority": str(priority), **expiry.request}
    )


def void(grant_id: UUID, reason: str | None) -> Request:
    return MappingProxyType({"grant": str(grant_id), "reason": reason or "none"})


def extension(grant_id: UUID, expiry: Expiry) -> Request:
    return MappingProxyType({"grant": str(grant_id), **expiry.request})


def reversal(payment: str, asked: Amount | None, shortfall: Shortfall) -> Request:
    """The request to return a part of *payment*, or all that remains if *asked* is `None`."""
    return MappingProxyType(
        {"payment": payment, "amount": _part(asked), "shortfall": shortfall.value}
    )


def adjustment(amount: Amount, reason: str) -> Request:
    return MappingProxyType({"amount": str(amount), "reason": reason})


def dispute(payment: str, asked: Amount | None) -> Request:
    """The request to dispute a part of *payment*, or all that remains if *asked* is `None`."""
    return MappingProxyType({"payment": payment, "amount": _part(asked)})


def _part(asked: Amount | None) -> str:
    return REMAINDER if asked is None else str(asked)
