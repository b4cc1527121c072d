"""The fields of a request, as text. Two calls with one key are the same if these are equal.

The ledger stores these fields under the key and compares them when the key is used again, so each
function here must return the same text for the same arguments in every version.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Final, TypeAlias
from uuid import UUID

from cogni_billing.domain.amounts import Amount
from cogni_billing.domain.policies import Shortfall
from cogni_billing.domain.timestamps import Expiry

REMAINDER: Final = "what remains"
UNCHANGED: Final = "unchanged"
Request: TypeAlias = Mapping[str, str]

EXPIRY: Final[Request] = MappingProxyType({})
"""The ledger itself makes expirations: no caller asks for one."""


def purchase(paid: Amount, expires_in: timedelta | None = None) -> Request:
    """The request to credit a payment. Credits that never expire have no field for it."""
    expiry = {} if expires_in is None else Expiry(expires_in=expires_in).request
    return MappingProxyType({"amount": str(paid), **expiry})


def charge(
    amount: Amount, *, allow_overdraft: bool, at_most: bool, occurred_at: datetime | None
) -> Request:
    late = {} if occurred_at is None else {"occurred_at": occurred_at.isoformat()}
    return MappingProxyType(
        {
            "amount": str(amount),
            "allow_overdraft": str(allow_overdraft),
            "at_most": str(at_most),
            **late,
        }
    )


def giving_back(charge: str, asked: Amount | None) -> Request:
    """The request to give back a part of a charge, or all that remains if *asked* is `None`."""
    return MappingProxyType({"charge": charge, "amount": _part(asked)})


def hold(amount: Amount, expiry: Expiry) -> Request:
    return MappingProxyType({"amount": str(amount), **expiry.request})


def capture(hold_id: UUID, amount: Amount, *, final: bool, overrun: str) -> Request:
    return MappingProxyType(
        {
            "hold": str(hold_id),
            "amount": str(amount),
            "final": str(final),
            "overrun": str(overrun),
        }
    )


def hold_extension(hold_id: UUID, amount: Amount | None, expiry: Expiry) -> Request:
    """The request to add to a hold, to move its expiry, or both."""
    added = UNCHANGED if amount is None else str(amount)
    moved = expiry.request if expiry.is_given else {"expires_at": UNCHANGED}
    return MappingProxyType({"hold": str(hold_id), "amount": added, **moved})


def hold_release(hold_id: UUID, amount: Amount | None) -> Request:
    """The request to release a part of a hold, or all that remains if *amount* is `None`."""
    return MappingProxyType({"hold": str(hold_id), "amount": _part(amount)})


def grant(
    amount: Amount,
    *,
    source: str,
    priority: int,
    expiry: Expiry,
    effective_from: datetime | None,
) -> Request:
    begins = {} if effective_from is None else {"effective_from": effective_from.isoformat()}
    terms = {"source": source, "priority": str(priority), **expiry.request, **begins}
    return MappingProxyType({"amount": str(amount), **terms})


def schedule(
    amount: Amount,
    *,
    source: str,
    priority: int,
    every: str,
    anchor: datetime | None,
    zone: str,
    until: datetime | None,
    rollover: tuple[Amount, int] | None,
    replaces: UUID | None,
) -> Request:
    """The request to grant in each period. An anchor of `None` is the moment of the call."""
    carried = "none" if rollover is None else f"{rollover[0]} for {rollover[1]} periods"
    return MappingProxyType(
        {
            "amount": str(amount),
            "source": source,
            "priority": str(priority),
            "every": every,
            "anchor": "the call" if anchor is None else anchor.isoformat(),
            "zone": zone,
            "until": "never" if until is None else until.isoformat(),
            "rollover": carried,
            "replaces": "none" if replaces is None else str(replaces),
        }
    )


def void(grant_id: UUID, reason: str | None) -> Request:
    return MappingProxyType({"grant": str(grant_id), "reason": reason or "none"})


def extension(grant_id: UUID, expiry: Expiry) -> Request:
    return MappingProxyType({"grant": str(grant_id), **expiry.request})


def reversal(
    payment: str, asked: Amount | None, shortfall: Shortfall, up_to: Amount | None = None
) -> Request:
    """The request to return a part of *payment*, or all that remains if *asked* is `None`.

    A request for a total of refunds has the field `total` instead of an amount.
    """
    part = {"amount": _part(asked)} if up_to is None else {"total": str(up_to)}
    return MappingProxyType({"payment": payment, **part, "shortfall": shortfall.value})


def reinstatement(payment: str, refund: str) -> Request:
    """The request to undo a refund of *payment* that failed."""
    return MappingProxyType({"payment": payment, "refund": refund})


def adjustment(amount: Amount, reason: str) -> Request:
    return MappingProxyType({"amount": str(amount), "reason": reason})


def opening(purchased: Amount, as_of: datetime) -> Request:
    return MappingProxyType({"purchased": str(purchased), "as_of": as_of.isoformat()})


def dispute(payment: str, asked: Amount | None) -> Request:
    """The request to dispute a part of *payment*, or all that remains if *asked* is `None`."""
    return MappingProxyType({"payment": payment, "amount": _part(asked)})


def _part(asked: Amount | None) -> str:
    return REMAINDER if asked is None else str(asked)
