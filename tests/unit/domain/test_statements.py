"""Pages have every line once, and a cursor is only a position."""

from __future__ import annotations

from itertools import pairwise
from uuid import UUID

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cogni_billing import Balance, InvalidPage, Line, Page, TransactionKind, credits
from cogni_billing.domain.errors import shown
from cogni_billing.domain.statements import Extract, PageRequest, page_of, page_request
from cogni_billing.testing.base import NOON

LIMIT_RULE = "a whole number from 1 to 1000"
CURSOR_RULE = "the `next` of an earlier page"


class Whole(int):
    """A subclass of int."""


def line(position: int) -> Line:
    return Line(
        position=position,
        transaction_id=UUID(int=position),
        kind=TransactionKind.PURCHASE,
        reference=f"stripe:pi_{position}",
        amount=credits(1),
        balance_after=credits(position),
        at=NOON,
    )


def newest_first(count: int) -> list[Line]:
    return [line(position) for position in range(count, 0, -1)]


def extract(lines: list[Line]) -> Extract:
    return Extract(tuple(lines), opening=credits(3), closing=credits(7))


def test_available_is_posted_less_held() -> None:
    assert Balance(credits(10), held=credits(3)).available == credits(7)
    assert Balance(credits(2), held=credits(3)).available == credits(-1)


@pytest.mark.parametrize("limit", [1, 2, 50, 999, 1000])
def test_a_limit_from_one_to_a_thousand_is_accepted(limit: int) -> None:
    assert page_request(limit, None) == PageRequest(limit=limit)


@pytest.mark.parametrize(
    "limit",
    [0, -1, 1001, 10**30, -(10**100_000), True, False, Whole(5), 1.0, "50", b"1", None, [], 1j],
    ids=shown,
)
def test_any_other_limit_is_refused_with_the_rule(limit: object) -> None:
    with pytest.raises(InvalidPage) as caught:
        page_request(limit, None)

    assert (caught.value.field, caught.value.expected) == ("limit", LIMIT_RULE)


@pytest.mark.parametrize(
    ("after", "before"), [("1", 1), ("10", 10), ("9" * 18, 999_999_999_999_999_999)]
)
def test_a_cursor_is_the_position_before_which_to_read_on(after: str, before: int) -> None:
    assert page_request(7, after) == PageRequest(limit=7, before=before)


@pytest.mark.parametrize(
    "after",
    [
        "",
        "0",
        "00",
        "01",
        "-1",
        "+1",
        " 1",
        "1 ",
        "1\n",
        "1.0",
        "1e3",
        "1_0",
        "0x1",
        "\u0661",
        "\uff11",
        "9" * 40,
        "9" * 1_000_000,
        "1' OR '1'='1",
        5,
        True,
        b"5",
        ("5",),
    ],
    ids=shown,
)
def test_an_invalid_cursor_is_refused_with_the_rule(after: object) -> None:
    with pytest.raises(InvalidPage) as caught:
        page_request(7, after)

    assert (caught.value.field, caught.value.expected) == ("after", CURSOR_RULE)


def test_the_limit_is_validated_before_the_cursor() -> None:
    with pytest.raises(InvalidPage) as caught:
        page_request(0, "no cursor")

    assert caught.value.field == "limit"


@pytest.mark.parametrize(
    ("read", "shown_lines", "cursor"),
    [(0, 0, None), (1, 1, None), (3, 3, None), (4, 3, "2")],
)
def test_one_line_more_than_the_limit_makes_a_next_page(
    read: int, shown_lines: int, cursor: str | None
) -> None:
    lines = newest_first(read)

    page = page_of(extract(lines), 3)

    assert page == Page(tuple(lines[:shown_lines]), credits(3), credits(7), cursor)


@given(count=st.integers(0, 30), limit=st.integers(1, 40))
def test_following_the_cursors_reads_every_line_once_newest_first(count: int, limit: int) -> None:
    kept, read, after, more = newest_first(count), list[Line](), None, True

    while more:
        request = page_request(limit, after)
        older = [x for x in kept if request.before is None or x.position < request.before]
        page = page_of(extract(older[: request.limit + 1]), request.limit)
        read += page.lines
        after, more = page.next, page.next is not None

    assert read == kept
    assert all(newer.position > older.position for newer, older in pairwise(read))


def test_lines_and_pages_cannot_be_changed() -> None:
    page = page_of(extract([line(1)]), 1)

    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        page.next = "1"  # type: ignore[misc]
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        page.lines[0].amount = credits(2)  # type: ignore[misc]
    assert page == Page((line(1),), credits(3), credits(7), None)
