"""Balances, statement lines, and the cursor of a page."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from itertools import islice
from typing import Final
from uuid import UUID

from attrs import frozen

from cogni_billing.domain.amounts import CREDIT, ZERO, Amount, total
from cogni_billing.domain.errors import InvalidInput, InvalidPage, InvalidTime, shown
from cogni_billing.domain.kinds import TransactionKind
from cogni_billing.domain.metadata import EMPTY, Json
from cogni_billing.domain.shares import Share
from cogni_billing.domain.timestamps import EARLIEST, utc
from cogni_billing.domain.transactions import Draw, Posting, Recorded, Transaction

LIMIT_MAX: Final = 1000
_CURSOR = re.compile(r"[1-9][0-9]{0,38}", re.ASCII)


@frozen
class Balance:
    """The credits of one account: posted, held, and available to spend.

    After an overdraft, `available` is below zero.
    """

    posted: Amount
    held: Amount

    @property
    def available(self) -> Amount:
        return self.posted - self.held


@frozen(kw_only=True)
class Line:
    """A posting on the account, as its owner sees it.

    `reference` is `None` if another tenant's transaction added the line, such as a share. The owner
    of the account may not see the reference of another tenant. `balance_after` is the sum of the
    line and all older lines, also of those that a filter leaves out.
    """

    position: int
    transaction_id: UUID
    kind: TransactionKind
    reference: str | None
    amount: Amount
    balance_after: Amount
    at: datetime
    granted: Amount = ZERO
    """The part of the amount that is of granted credits, with the sign of the amount."""
    metadata: Mapping[str, Json] = EMPTY
    """The metadata of the tenant's own transaction. Empty for another tenant's."""
    occurred_at: datetime | None = None
    """The moment of the usage, if the charge reports it late. `at` is never earlier."""

    @property
    def purchased(self) -> Amount:
        """The rest of the amount, which is of purchased credits. A share counts as purchased."""
        return self.amount - self.granted


@frozen(kw_only=True)
class TransactionView:
    """A transaction as its own tenant sees it, with the postings on the tenant's accounts."""

    id: UUID
    kind: TransactionKind
    reference: str
    at: datetime
    postings: tuple[Posting, ...]
    shares: tuple[Share, ...]
    balance: Amount
    """The posted balance of the tenant's account, right after this transaction."""
    metadata: Mapping[str, Json]
    reason: str | None = None
    """The reason for an adjustment or a void."""
    draws: tuple[Draw, ...] = ()
    """The parts of grants, and of purchases that expire, in the order taken."""
    payment: str | None = None
    """The payment of a purchase, or the payment that a refund or a chargeback was of."""
    expires_at: datetime | None = None
    """The moment at which the rest of a purchase expires, as the purchase set it."""
    actor: str | None = None
    """The person or the program that made the call, if `acting` named it."""
    occurred_at: datetime | None = None
    """The moment of the usage, if the call of a charge gave one."""


def view_of(recorded: Recorded) -> TransactionView:
    """The tenant's view of its own transaction."""
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
        reason=made.reason,
        draws=recorded.draws,
        payment=_payment_of(made),
        expires_at=made.expires_at,
        actor=made.actor,
        occurred_at=made.occurred_at,
    )


def _payment_of(made: Transaction) -> str | None:
    if made.kind is TransactionKind.PURCHASE:
        return made.reference
    return None if made.reversal is None else made.reversal.payment


@frozen
class Extract:
    """Lines of an interval, newest first, and the posted balances before and after it."""

    lines: tuple[Line, ...]
    opening: Amount
    closing: Amount


@frozen
class Page(Extract):
    """A page of an interval's lines, newest first.

    `opening` plus the lines of every page is `closing`. With a kind, the lines are only a part.
    """

    next: str | None
    """The cursor of the next page, or `None` on the last page."""


@frozen(kw_only=True)
class PageRequest:
    """The validated arguments of a page. It holds lines before the position *before*."""

    limit: int
    before: int | None = None
    kind: TransactionKind | None = None
    since: datetime | None = None
    until: datetime | None = None
    now: datetime = EARLIEST
    """Expirations that are due by this moment are lines, also before they are posted."""

    def admits(self, line: Line) -> bool:
        """True if *line* belongs on this page or on a later one."""
        return (
            (self.before is None or line.position < self.before)
            and (self.kind is None or line.kind == self.kind)
            and (self.since is None or line.at >= self.since)
            and (self.until is None or line.at < self.until)
        )

    def of(self, lines: Sequence[Line]) -> Extract:
        """The lines that the page admits, and one more, of all *lines*, oldest first."""
        admitted = filter(self.admits, reversed(lines))
        before = (line.amount for line in lines if self.since and line.at < self.since)
        until = (line.amount for line in lines if self.until is None or line.at < self.until)
        return Extract(
            tuple(islice(admitted, self.limit + 1)),
            opening=total(before, CREDIT),
            closing=total(until, CREDIT),
        )


def page_request(
    limit: object,
    after: object,
    *,
    kind: object = None,
    since: object = None,
    until: object = None,
    now: datetime = EARLIEST,
) -> PageRequest:
    """Validate the arguments of a page.

    A cursor is only a position. A forged cursor shows no line of another tenant.

    Raises:
        InvalidTime: *since* or *until* is naive or out of range, or *until* is before *since*.
        InvalidPage: *limit* is not from 1 to 1000, or *after* is no cursor.
        InvalidInput: *kind* is no kind of transaction.
    """
    earliest = None if since is None else utc(since, "since")
    latest = None if until is None else utc(until, "until")
    if earliest and latest and latest < earliest:
        raise InvalidTime("until", str(latest), f"a moment not before `since`, {earliest}")
    size = checked_limit(limit)
    if after is not None and (type(after) is not str or not _CURSOR.fullmatch(after)):
        raise InvalidPage("after", shown(after), "the `next` of an earlier page")
    return PageRequest(
        limit=size,
        before=None if after is None else int(after),
        kind=None if kind is None else kind_of(kind),
        since=earliest,
        until=latest,
        now=now,
    )


@frozen(kw_only=True)
class GrantPage:
    """The validated arguments of a page of grants or schedules. It starts after the id *after*."""

    limit: int
    after: UUID | None


def grant_page(*, spent: object, limit: object, after: object) -> GrantPage | None:
    """Validate the arguments of `Billing.grants`. `None` for the grants with credits left.

    Raises:
        InvalidInput: *spent* is no bool, or *after* is no `uuid.UUID`.
        InvalidPage: *limit* is not from 1 to 1000, or only spent grants have pages.
    """
    if not isinstance(spent, bool):
        raise InvalidInput("spent", shown(spent), "True or False")
    size = checked_limit(LIMIT_MAX if limit is None else limit)
    if after is not None and not isinstance(after, UUID):
        raise InvalidInput("after", shown(after), "the id of a grant, a uuid.UUID")
    if spent:
        return GrantPage(limit=size, after=after and UUID(int=after.int))
    for name, given in (("limit", limit), ("after", after)):
        if given is not None:
            raise InvalidPage(name, shown(given), "None without `spent=True`")
    return None


def checked_limit(given: object) -> int:
    """*given* as the number of items on a page.

    Raises:
        InvalidPage: *given* is not from 1 to 1000.
    """
    if type(given) is not int or not 1 <= given <= LIMIT_MAX:
        raise InvalidPage("limit", shown(given), f"a whole number from 1 to {LIMIT_MAX}")
    return given


def kind_of(given: object) -> TransactionKind:
    """*given*, a kind of transaction or its name, as a kind.

    Raises:
        InvalidInput: *given* is no kind.
    """
    if isinstance(given, str) and given in list(TransactionKind):
        return TransactionKind(given)
    raise InvalidInput("kind", shown(given), " or ".join(TransactionKind))


def page_of(found: Extract, limit: int) -> Page:
    """Make a page of *found*. One line more than *limit* means that there is a next page."""
    lines = found.lines[:limit]
    more = len(found.lines) > limit
    return Page(lines, found.opening, found.closing, str(lines[-1].position) if more else None)
