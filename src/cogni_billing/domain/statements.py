"""Balances, statement lines, and the cursor that pages through them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final
from uuid import UUID

from attrs import frozen

from cogni_billing.domain.amounts import Amount
from cogni_billing.domain.errors import InvalidInput, InvalidPage, shown
from cogni_billing.domain.kinds import TransactionKind
from cogni_billing.domain.metadata import Json
from cogni_billing.domain.moments import utc
from cogni_billing.domain.shares import Share
from cogni_billing.domain.transactions import Posting, Recorded

LIMIT_MAX: Final = 1000
_CURSOR = re.compile(r"[1-9][0-9]{0,38}", re.ASCII)


@frozen
class Balance:
    """The credits of one account: all that were posted, those held aside, those left to spend.

    What an overdraft left is below zero.
    """

    posted: Amount
    held: Amount

    @property
    def available(self) -> Amount:
        return self.posted - self.held


@frozen(kw_only=True)
class Line:
    """One posting on the account, as its owner sees it.

    `reference` is `None` on a line that another tenant's transaction added, such as a share: the
    owner of the account may not see whose it is. `balance_after` is the sum of the line and all
    older ones; every line's is the older neighbour's plus its own amount.
    """

    position: int
    transaction_id: UUID
    kind: TransactionKind
    reference: str | None
    amount: Amount
    balance_after: Amount
    at: datetime


@frozen(kw_only=True)
class TransactionView:
    """One transaction as the tenant that made it sees it: with the postings on its own accounts."""

    id: UUID
    kind: TransactionKind
    reference: str
    at: datetime
    postings: tuple[Posting, ...]
    shares: tuple[Share, ...]
    balance: Amount
    """Everything posted to the tenant's account, right after this transaction."""
    metadata: Mapping[str, Json]


def view_of(recorded: Recorded) -> TransactionView:
    """What a tenant sees of a transaction that it made."""
    made = recorded.transaction
    return TransactionView(
        id=made.id,
        kind=made.kind,
        reference=made.reference,
        at=made.at,
        postings=tuple(posting for posting in made.postings if posting.tenant == made.tenant),
        shares=made.shares,
        balance=recorded.balance,
        metadata=made.metadata,
    )


@frozen
class Page:
    """Some lines, newest first; `next` is the cursor of the page after it, if there is one."""

    lines: tuple[Line, ...]
    next: str | None


@frozen(kw_only=True)
class PageRequest:
    """How many lines, older than which position, of which kind, from when and until when."""

    limit: int
    before: int | None = None
    kind: TransactionKind | None = None
    since: datetime | None = None
    until: datetime | None = None

    def admits(self, line: Line) -> bool:
        """Whether *line* belongs on the page, or on one after it."""
        return (
            (self.before is None or line.position < self.before)
            and (self.kind is None or line.kind == self.kind)
            and (self.since is None or line.at >= self.since)
            and (self.until is None or line.at < self.until)
        )


def page_request(
    limit: object, after: object, *, kind: object = None, since: object = None, until: object = None
) -> PageRequest:
    """The page that a caller asks for.

    A cursor says only where to go on; a forged one shows nothing of anybody else's.

    Raises:
        InvalidTime: *since* or *until* is no aware moment.
        InvalidPage: *limit* is not from 1 to 1000, or *after* is no cursor of ours.
        InvalidInput: *kind* is no kind of transaction.
    """
    earliest = None if since is None else utc(since, "since")
    latest = None if until is None else utc(until, "until")
    if type(limit) is not int or not 1 <= limit <= LIMIT_MAX:
        raise InvalidPage("limit", shown(limit), f"a whole number from 1 to {LIMIT_MAX}")
    if after is not None and (type(after) is not str or not _CURSOR.fullmatch(after)):
        raise InvalidPage("after", shown(after), "the `next` of an earlier page")
    return PageRequest(
        limit=limit,
        before=None if after is None else int(after),
        kind=None if kind is None else kind_of(kind),
        since=earliest,
        until=latest,
    )


def kind_of(given: object) -> TransactionKind:
    """*given*, a kind of transaction or its name, as a kind.

    Raises:
        InvalidInput: it is neither.
    """
    if isinstance(given, str) and given in list(TransactionKind):
        return TransactionKind(given)
    raise InvalidInput("kind", shown(given), " or ".join(TransactionKind))


def page_of(lines: Sequence[Line], limit: int) -> Page:
    """A page of *lines*, of which one more than *limit* was read when there is a next page."""
    shown_lines = tuple(lines[:limit])
    more = len(lines) > limit
    return Page(shown_lines, str(shown_lines[-1].position) if more else None)
