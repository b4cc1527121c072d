"""Balances, statement lines, and the cursor that pages through them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime
from typing import Final
from uuid import UUID

from attrs import frozen

from cogni_billing.domain.amounts import Amount
from cogni_billing.domain.errors import InvalidPage, shown
from cogni_billing.domain.transactions import TransactionKind

LIMIT_MAX: Final = 1000
_CURSOR = re.compile(r"[1-9][0-9]{0,17}", re.ASCII)


@frozen
class Balance:
    """The credits of one account: all that were posted, those held aside, those left to spend.

    Nothing can be held yet, so `held` is zero.
    """

    posted: Amount
    held: Amount

    @property
    def available(self) -> Amount:
        return self.posted - self.held


@frozen(kw_only=True)
class Line:
    """One posting on the account, as its owner sees it.

    `reference` and `balance_after` are `None` on a line that another tenant's transaction added,
    such as a share: the owner of the account may not see whose it is, and nobody waited in line
    to compute a running balance for it.
    """

    position: int
    transaction_id: UUID
    kind: TransactionKind
    reference: str | None
    amount: Amount
    balance_after: Amount | None
    at: datetime


@frozen
class Page:
    """Some lines, newest first; `next` is the cursor of the page after it, if there is one."""

    lines: tuple[Line, ...]
    next: str | None


@frozen
class PageRequest:
    """How many lines, and before which position."""

    limit: int
    before: int | None


def page_request(limit: object, after: object) -> PageRequest:
    """The page that a caller asks for.

    A cursor says only where to go on; a forged one shows nothing of anybody else's.

    Raises:
        InvalidPage: *limit* is not from 1 to 1000, or *after* is no cursor of ours.
    """
    if type(limit) is not int or not 1 <= limit <= LIMIT_MAX:
        raise InvalidPage("limit", shown(limit), f"a whole number from 1 to {LIMIT_MAX}")
    if after is None:
        return PageRequest(limit, None)
    if type(after) is not str or not _CURSOR.fullmatch(after):
        raise InvalidPage("after", shown(after), "the `next` of an earlier page")
    return PageRequest(limit, int(after))


def page_of(lines: Sequence[Line], limit: int) -> Page:
    """A page of *lines*, of which one more than *limit* was read when there is a next page."""
    shown_lines = tuple(lines[:limit])
    more = len(lines) > limit
    return Page(shown_lines, str(shown_lines[-1].position) if more else None)
