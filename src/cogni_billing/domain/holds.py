"""Holds: credits set aside before their cost is known, until capture, release or expiry."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final
from uuid import UUID

from attrs import Factory, evolve, field, frozen

from cogni_billing.domain import requests
from cogni_billing.domain.amounts import ZERO, Amount, positive_credits
from cogni_billing.domain.errors import HoldClosed, InvalidInput, InvalidPage, shown
from cogni_billing.domain.identity import TenantId, tenant_id
from cogni_billing.domain.identity import reference as checked_reference
from cogni_billing.domain.metadata import EMPTY, Json, frozen_metadata
from cogni_billing.domain.statements import checked_limit
from cogni_billing.domain.timestamps import EARLIEST, LATEST, Expiry


class HoldState(StrEnum):
    """The state of a hold. Only an open hold sets credits aside."""

    OPEN = "open"
    CAPTURED = "captured"
    RELEASED = "released"
    EXPIRED = "expired"


@frozen(kw_only=True)
class Hold:
    """A hold on credits.

    `amount` is the sum of `captured`, `released` and `held`. Extensions and overruns add to it. A
    hold without `expires_at` stays open until it is captured or released.
    """

    id: UUID
    tenant: TenantId
    reference: str
    amount: Amount
    """All credits that were ever set aside."""
    opened_at: datetime
    expires_at: datetime | None = None
    state: HoldState = HoldState.OPEN
    captured: Amount = ZERO
    """The sum of the captures."""
    released: Amount = ZERO
    """The credits that are available again, because they were released or not captured."""
    ended_at: datetime | None = None
    metadata: Mapping[str, Json] = EMPTY
    replayed: bool = False
    """True if an earlier call made the same request. The other fields are the present ones."""
    asked: Amount = field(eq=False, default=Factory(lambda hold: hold.amount, takes_self=True))
    """The amount that `hold` asked for, without extensions and overruns."""
    expiry: Expiry = field(
        eq=False, default=Factory(lambda hold: Expiry(hold.expires_at), takes_self=True)
    )
    """The expiry that `hold` asked for. `extend` may have moved `expires_at`."""

    @property
    def request(self) -> requests.Request:
        """The caller's request, field by field. Two requests are the same if these are equal."""
        return requests.hold(self.asked, self.expiry)

    @property
    def held(self) -> Amount:
        """The credits that are set aside now."""
        return self.amount - self.captured - self.released

    @property
    def ends_at(self) -> datetime:
        """The moment when the hold ended, or will expire."""
        return self.ended_at or self.expires_at or LATEST

    @property
    def is_open(self) -> bool:
        return self.state is HoldState.OPEN

    def at(self, moment: datetime) -> Hold:
        """This hold as of *moment*. An open hold expires by itself."""
        if self.is_open and self.expires_at is not None and self.expires_at <= moment:
            return self.ended(HoldState.EXPIRED, self.expires_at)
        return self

    def held_at(self, moment: datetime) -> bool:
        """True if the hold set its credits aside at *moment*."""
        return self.opened_at <= moment < self.ends_at

    def changed(
        self, *, added: Amount = ZERO, captured: Amount = ZERO, released: Amount = ZERO
    ) -> Hold:
        """This hold with more credits set aside, captured, or released."""
        return evolve(
            self,
            amount=self.amount + added,
            captured=self.captured + captured,
            released=self.released + released,
        )

    def ended(self, state: HoldState, moment: datetime) -> Hold:
        """This open hold with an end. All held credits are released."""
        ended = self.changed(released=self.held)
        return evolve(ended, state=state, ended_at=max(self.opened_at, moment))

    def require_open(self) -> None:
        """Return if the hold is open.

        Raises:
            HoldClosed: the hold has ended.
        """
        if not self.is_open:
            raise HoldClosed(self.id, self.state)


def checked_hold_id(given: object) -> UUID:
    """*given* as the id of a hold.

    Raises:
        InvalidInput: *given* is no `uuid.UUID`.
    """
    if not isinstance(given, UUID):
        raise InvalidInput("hold_id", shown(given), "the id of a hold, a uuid.UUID")
    return UUID(int=given.int)


@frozen(kw_only=True)
class HoldRequest:
    """The validated arguments of `Billing.hold`."""

    tenant: TenantId = field(converter=tenant_id)
    amount: Amount = field(converter=positive_credits)
    reference: str = field(converter=checked_reference)
    metadata: Mapping[str, Json] = field(converter=frozen_metadata)
    expiry: Expiry


def plan_hold(request: HoldRequest, *, at: datetime, hold_id: UUID) -> Hold:
    """Plan the hold that sets the amount aside.

    Raises:
        InvalidTime: its lifetime ends too late.
    """
    return Hold(
        id=hold_id,
        tenant=request.tenant,
        reference=request.reference,
        amount=request.amount,
        opened_at=at,
        expires_at=request.expiry.starting(at),
        metadata=request.metadata,
        expiry=request.expiry,
    )


# Pages --------------------------------------------------------------------------------------------

Place = tuple[datetime, UUID]
"""The place of a hold among those of its tenant: holds are ordered by opening, and then by id."""
_CURSOR: Final = re.compile(r"([0-9]{1,18})-([0-9a-f]{32})", re.ASCII)
_MICROSECOND: Final = timedelta(microseconds=1)


@frozen
class HoldPage:
    """Open holds, newest first. `next` is the cursor of the next page, or `None` on the last."""

    holds: tuple[Hold, ...]
    next: str | None


@frozen(kw_only=True)
class HoldPageRequest:
    """The validated arguments of a page. It has open holds before the place *before*."""

    limit: int
    before: Place | None = None


def place_of(hold: Hold) -> Place:
    return hold.opened_at, hold.id


def hold_page_request(limit: object, after: object) -> HoldPageRequest:
    """Validate the arguments of a page.

    A cursor is only a place. A forged cursor shows no hold of another tenant.

    Raises:
        InvalidPage: *limit* is not from 1 to 1000, or *after* is no cursor.
    """
    return HoldPageRequest(
        limit=checked_limit(limit), before=None if after is None else _place(after)
    )


def _place(cursor: object) -> Place:
    match = _CURSOR.fullmatch(cursor) if type(cursor) is str else None
    since = int(match[1]) * _MICROSECOND if match else None
    if match is None or since is None or since > LATEST - EARLIEST:
        raise InvalidPage("after", shown(cursor), "the `next` of an earlier page")
    return EARLIEST + since, UUID(match[2])


def hold_page_of(holds: Sequence[Hold], limit: int) -> HoldPage:
    """Make a page of *holds*. One hold more than *limit* means that there is a next page."""
    shown_holds = tuple(holds[:limit])
    if len(holds) <= limit:
        return HoldPage(shown_holds, None)
    last = shown_holds[-1]
    since = (last.opened_at - EARLIEST) // _MICROSECOND
    return HoldPage(shown_holds, f"{since}-{last.id.hex}")
