"""Contract: the balances around the lines of a statement."""

from __future__ import annotations

from datetime import datetime, timedelta
from itertools import pairwise

import pytest

from cogni_billing import SYSTEM_TENANT_ID, Amount, Billing, InvalidTime, TenantId, credits, usd
from cogni_billing.domain.amounts import CREDIT, total
from cogni_billing.testing.base import (
    ALICE,
    BOB,
    NOON,
    Contract,
    CountingIds,
    MovableClock,
    NewBilling,
)

HOUR = timedelta(hours=1)
INSTANT = timedelta(microseconds=1)
FAR = NOON + 365 * 24 * HOUR


def extract(
    billing: Billing,
    since: datetime | None = None,
    until: datetime | None = None,
    *,
    tenant: TenantId = ALICE,
    limit: int = 2,
) -> tuple[Amount, list[int], Amount]:
    """The opening balance, the lines of all pages, newest first, and the closing balance."""
    pages = [billing.statement(tenant, limit=limit, since=since, until=until)]
    while pages[-1].next is not None:
        after = pages[-1].next
        pages.append(billing.statement(tenant, limit=limit, after=after, since=since, until=until))
    [(opening, closing)] = {(page.opening, page.closing) for page in pages}
    lines = [line.amount for page in pages for line in page.lines]
    assert opening + total(lines, CREDIT) == closing
    return opening, [int(amount.value) for amount in lines], closing


class IntervalContract(Contract):
    """The opening balance and the lines of an interval add up to its closing balance."""

    @pytest.fixture
    def moving(self) -> MovableClock:
        return MovableClock()

    @pytest.fixture
    def lapsing(self, new_billing: NewBilling, moving: MovableClock) -> Billing:
        """Alice bought 100 000 credits at noon. A grant of 300 expires an hour later."""
        billing = new_billing(clock=moving, ids=CountingIds())
        billing.confirm_purchase(ALICE, usd("0.01"), payment="stripe:pi_1")
        billing.grant(ALICE, credits(300), source="promo", reference="g", expires_at=NOON + HOUR)
        return billing

    @pytest.mark.parametrize("posted", [False, True])
    def test_an_expiry_at_the_border_is_in_one_interval(
        self, lapsing: Billing, moving: MovableClock, posted: bool
    ) -> None:
        moving.moment = NOON + 2 * HOUR
        if posted:
            lapsing.sweep()

        before = extract(lapsing, NOON, NOON + HOUR)
        after = extract(lapsing, NOON + HOUR, NOON + 2 * HOUR)

        assert before == (credits(0), [300, 100_000], credits(100_300))
        assert after == (credits(100_300), [-300], credits(100_000))
        assert lapsing.balance(ALICE, at=NOON + HOUR).posted == credits(100_000)
        assert lapsing.balance(ALICE, at=NOON + HOUR - INSTANT).posted == credits(100_300)

    def test_a_due_expiration_is_a_line_before_it_is_posted(
        self, lapsing: Billing, moving: MovableClock
    ) -> None:
        lapsing.hold(ALICE, credits(100), reference="h", expires_at=NOON + 2 * HOUR)
        moving.moment = NOON + 3 * HOUR

        due = lapsing.statement(ALICE)
        [newest, *_] = due.lines
        found = lapsing.transaction(ALICE, newest.transaction_id)
        lapsing.sweep()

        assert [int(line.amount.value) for line in due.lines] == [-100, -200, 300, 100_000]
        assert [line.at for line in due.lines[:2]] == [NOON + 2 * HOUR, NOON + HOUR]
        assert due.closing == newest.balance_after == lapsing.balance(ALICE).posted
        assert found is None
        assert lapsing.statement(ALICE) == due

    def test_a_closing_balance_counts_a_due_expiration(
        self, lapsing: Billing, moving: MovableClock
    ) -> None:
        moving.moment = NOON + 2 * HOUR

        page = lapsing.statement(ALICE, until=moving.moment)

        assert page.closing == credits(100_000)

    def test_a_cursor_on_a_due_expiration_is_followed_after_it_is_posted(
        self, lapsing: Billing, moving: MovableClock
    ) -> None:
        moving.moment = NOON + 2 * HOUR
        first = lapsing.statement(ALICE, limit=1)
        lapsing.charge(ALICE, credits(7), reference="r")

        second = lapsing.statement(ALICE, limit=1, after=first.next)

        assert [line.kind for line in first.lines + second.lines] == ["expiry", "grant"]

    def test_a_statement_posts_no_expiration(self, lapsing: Billing, moving: MovableClock) -> None:
        moving.moment = NOON + 2 * HOUR

        lapsing.statement(ALICE)

        assert lapsing.sweep() == 1

    @pytest.mark.parametrize("folded", [False, True])
    @pytest.mark.parametrize("tenant", [ALICE, SYSTEM_TENANT_ID])
    def test_every_interval_adds_up(
        self, lapsing: Billing, moving: MovableClock, tenant: TenantId, folded: bool
    ) -> None:
        for hour in range(1, 5):
            moving.moment = NOON + hour * HOUR
            lapsing.charge(ALICE, credits(hour), reference=f"run-{hour}")
            lapsing.confirm_purchase(BOB, usd("0.01"), payment=f"stripe:bob-{hour}")
            lapsing.charge(SYSTEM_TENANT_ID, credits(hour), reference=f"run-{hour}")
            if folded:
                lapsing.fold()
        borders = [NOON + part * HOUR / 2 for part in range(-1, 11)]

        extracts = [
            extract(lapsing, since, until, tenant=tenant) for since, until in pairwise(borders)
        ]

        closings = [closing for _, _, closing in extracts]
        assert [opening for opening, _, _ in extracts] == [credits(0), *closings[:-1]]
        assert closings == [
            lapsing.balance(tenant, at=border - INSTANT).posted for border in borders[1:]
        ]
        assert extract(lapsing, tenant=tenant)[::2] == (credits(0), closings[-1])
        assert extract(lapsing, borders[3], tenant=tenant)[0] == closings[2]

    def test_an_interval_without_lines_has_the_balance_twice(self, lapsing: Billing) -> None:
        later = NOON + INSTANT

        assert extract(lapsing, later) == (credits(100_300), [], credits(100_300))
        assert extract(lapsing, NOON, NOON) == (credits(0), [], credits(0))
        assert extract(lapsing, until=NOON) == (credits(0), [], credits(0))

    def test_an_interval_that_ends_in_the_future_expires_nothing_ahead(
        self, lapsing: Billing
    ) -> None:
        opening, lines, closing = extract(lapsing, NOON, FAR)

        assert (opening, lines, closing) == (credits(0), [300, 100_000], credits(100_300))
        assert lapsing.balance(ALICE, at=FAR).posted == credits(100_000)

    def test_a_kind_changes_the_lines_only(self, lapsing: Billing) -> None:
        page = lapsing.statement(ALICE, kind="grant", since=NOON)

        assert [int(line.amount.value) for line in page.lines] == [300]
        assert (page.opening, page.closing) == (credits(0), credits(100_300))

    def test_an_account_without_postings_opens_and_closes_at_zero(
        self, new_billing: NewBilling
    ) -> None:
        billing = new_billing()
        billing.open_account(ALICE)

        assert extract(billing, NOON) == (credits(0), [], credits(0))

    def test_an_end_before_the_beginning_is_refused(self, lapsing: Billing) -> None:
        with pytest.raises(InvalidTime) as caught:
            lapsing.statement(ALICE, since=NOON, until=NOON - INSTANT)

        assert caught.value.field == "until"
