"""Contract: statements."""

from __future__ import annotations

from itertools import pairwise

import pytest

from cogni_billing import (
    SYSTEM_TENANT_ID,
    Billing,
    InvalidPage,
    Line,
    TransactionKind,
    UnknownAccount,
    credits,
    usd,
)
from cogni_billing.testing.base import ALICE, BOB, Contract, CountingIds, MovableClock, NewBilling


def pages(billing: Billing, limit: int) -> list[tuple[Line, ...]]:
    result = [billing.statement(ALICE, limit=limit)]
    while result[-1].next is not None:
        result.append(billing.statement(ALICE, limit=limit, after=result[-1].next))
    return [page.lines for page in result]


class StatementContract(Contract):
    """Lines come newest first, page by page, and only the tenant's own."""

    @pytest.fixture
    def five(self, billing: Billing) -> Billing:
        for number in range(1, 6):
            billing.confirm_purchase(ALICE, usd(number), payment=f"stripe:pi_{number}")
            billing.confirm_purchase(BOB, usd(number), payment=f"stripe:pi_{number}_bob")
        return billing

    def test_lines_come_newest_first_with_the_balance_after_each(self, billing: Billing) -> None:
        first = billing.confirm_purchase(ALICE, usd("1.00"), payment="stripe:pi_1")
        second = billing.confirm_purchase(ALICE, usd("2.00"), payment="stripe:pi_2")

        page = billing.statement(ALICE)

        assert page.next is None
        assert [
            (line.transaction_id, line.kind, line.reference, line.amount, line.balance_after)
            for line in page.lines
        ] == [
            (
                second.transaction_id,
                TransactionKind.PURCHASE,
                "stripe:pi_2",
                credits(20_000_000),
                credits(30_000_000),
            ),
            (
                first.transaction_id,
                TransactionKind.PURCHASE,
                "stripe:pi_1",
                credits(10_000_000),
                credits(10_000_000),
            ),
        ]
        assert page.lines[0].at > page.lines[1].at

    def test_shares_on_a_statement_do_not_name_the_buyer(self, five: Billing) -> None:
        page = five.statement(SYSTEM_TENANT_ID)

        assert len(page.lines) == 10
        assert {line.reference for line in page.lines} == {None}
        assert page.lines[0].amount == credits(12_500_000)
        assert page.lines[0].balance_after == five.balance(SYSTEM_TENANT_ID).posted
        for newer, older in pairwise(page.lines):
            assert newer.balance_after - newer.amount == older.balance_after

    @pytest.mark.parametrize("limit", [1, 2, 3, 4, 5, 6])
    def test_pages_hold_every_line_once(self, five: Billing, limit: int) -> None:
        found = pages(five, limit)

        assert all(len(lines) == limit for lines in found[:-1])
        assert [line.reference for lines in found for line in lines] == [
            f"stripe:pi_{number}" for number in (5, 4, 3, 2, 1)
        ]

    def test_pages_hold_lines_of_one_moment_once(self, new_billing: NewBilling) -> None:
        billing = new_billing(clock=MovableClock(), ids=CountingIds())
        for number in range(5):
            billing.confirm_purchase(ALICE, usd(1), payment=f"stripe:pi_{number}")

        references = [line.reference for lines in pages(billing, 2) for line in lines]

        assert references == [f"stripe:pi_{number}" for number in (4, 3, 2, 1, 0)]

    def test_a_page_can_have_a_thousand_lines(self, billing: Billing) -> None:
        billing.confirm_purchase(ALICE, usd("1.00"), payment="stripe:pi_1")
        billing.charge_many(
            {"tenant": ALICE, "amount": credits(1), "reference": f"run-{n}"} for n in range(1000)
        )

        first = billing.statement(ALICE, limit=1000)
        second = billing.statement(ALICE, limit=1000, after=first.next)

        assert (len(first.lines), len(second.lines), second.next) == (1000, 1, None)
        assert first.lines[0].balance_after == credits(10_000_000 - 1000)

    def test_lines_that_arrive_between_pages_neither_repeat_nor_hide_any(
        self, five: Billing
    ) -> None:
        first = five.statement(ALICE, limit=2)
        five.confirm_purchase(ALICE, usd("9.00"), payment="stripe:pi_late")

        second = five.statement(ALICE, limit=3, after=first.next)

        assert [line.reference for line in second.lines] == [
            f"stripe:pi_{number}" for number in (3, 2, 1)
        ]

    def test_a_cursor_of_another_tenant_shows_own_lines_only(self, five: Billing) -> None:
        cursor = five.statement(ALICE, limit=2).next

        lines = five.statement(BOB, after=cursor).lines

        assert all(line.reference and line.reference.endswith("_bob") for line in lines)

    def test_the_highest_cursor_shows_all_lines_and_the_lowest_none(self, five: Billing) -> None:
        assert len(five.statement(ALICE, after="9" * 39).lines) == 5
        assert five.statement(ALICE, after="1").lines == ()

    @pytest.mark.parametrize("after", ["", "0", "-1", "1.5", "٣", "9" * 40, "x", 7])
    def test_an_invalid_cursor_is_refused(self, five: Billing, after: str) -> None:
        with pytest.raises(InvalidPage):
            five.statement(ALICE, after=after)

    def test_a_tenant_without_an_account_has_no_statement_and_no_balance(
        self, billing: Billing
    ) -> None:
        with pytest.raises(UnknownAccount):
            billing.statement(ALICE)
        with pytest.raises(UnknownAccount):
            billing.balance(ALICE)

    def test_an_account_without_postings_is_empty(self, billing: Billing) -> None:
        billing.open_account(ALICE)

        assert billing.statement(ALICE).lines == ()
        assert billing.balance(ALICE).available == credits(0)
