"""Contract: charges for usage that is reported late."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest
from attrs import evolve

from cogni_billing import (
    AccountFrozen,
    Billing,
    ChargeReceipt,
    Difference,
    IdempotencyConflict,
    InsufficientCredits,
    InvalidTime,
    credits,
)
from cogni_billing.testing.base import ALICE, Contract, NewBilling, SteppingClock, Totals

HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
TICK = timedelta(microseconds=1)


def told(billing: Billing, occurred_at: datetime | None, reference: str = "run-1") -> ChargeReceipt:
    return billing.charge(ALICE, credits(3), reference=reference, occurred_at=occurred_at)


class LateUsageContract(Contract):
    """A charge keeps the moment of its usage. Its line is dated at the call."""

    @pytest.fixture
    def opened(self, billing: Billing, clock: SteppingClock) -> datetime:
        """The moment when Alice's account was opened, sixty days ago. She has ten credits."""
        opened = billing.open_account(ALICE).opened_at
        clock.moment += 60 * DAY
        billing.grant(ALICE, credits(10), source="promo:a", reference="a")
        return opened

    def test_late_usage_is_shown_and_its_line_is_dated_at_the_call(
        self, billing: Billing, clock: SteppingClock, opened: datetime
    ) -> None:
        usage = clock.moment - 2 * DAY

        receipt = told(billing, usage)
        dated = clock.moment

        [line, _] = billing.statement(ALICE).lines
        view = billing.find(ALICE, reference="run-1", kind="charge")
        assert view is not None
        assert receipt.occurred_at == line.occurred_at == view.occurred_at == usage
        assert line.at == view.at == dated
        assert billing.balance(ALICE, at=usage).posted == credits(0)
        assert billing.statement(ALICE, kind="charge", until=dated).lines == ()
        assert told(billing, usage) == evolve(receipt, replayed=True)
        assert billing.verify().violations == ()

    def test_usage_of_now_has_no_moment_of_its_own(
        self, billing: Billing, opened: datetime
    ) -> None:
        receipt = told(billing, None)

        assert receipt.occurred_at is None
        assert [line.occurred_at for line in billing.statement(ALICE).lines] == [None, None]

    def test_the_moment_is_kept_in_utc(
        self, billing: Billing, clock: SteppingClock, opened: datetime
    ) -> None:
        usage = clock.moment - HOUR
        abroad = usage.astimezone(timezone(timedelta(hours=9)))

        receipt = told(billing, abroad)

        assert str(receipt.occurred_at) == str(usage)
        assert told(billing, usage).replayed

    def test_usage_is_told_within_35_days(
        self, new_billing: NewBilling, clock: SteppingClock, opened: datetime, totals: Totals
    ) -> None:
        billing = new_billing(clock=clock)
        before = totals()
        called = clock.moment + timedelta(seconds=1)

        with pytest.raises(InvalidTime) as caught:
            told(billing, called - 35 * DAY - TICK)

        assert caught.value.field == "occurred_at"
        assert totals() == before
        clock.moment = called - timedelta(seconds=1)
        assert not told(billing, called - 35 * DAY).replayed

    def test_usage_is_not_in_the_future(
        self, billing: Billing, clock: SteppingClock, opened: datetime, totals: Totals
    ) -> None:
        before, called = totals(), clock.moment + timedelta(seconds=1)

        with pytest.raises(InvalidTime) as caught:
            told(billing, called + TICK)

        assert caught.value.field == "occurred_at"
        assert totals() == before
        clock.moment = called - timedelta(seconds=1)
        assert told(billing, called).occurred_at == called

    def test_usage_is_not_before_the_account_was_opened(
        self, billing: Billing, clock: SteppingClock
    ) -> None:
        opened = billing.open_account(ALICE).opened_at
        billing.grant(ALICE, credits(10), source="promo:a", reference="a")

        with pytest.raises(InvalidTime) as caught:
            told(billing, opened - TICK)

        assert str(opened) in str(caught.value)
        assert told(billing, opened).occurred_at == opened

    def test_the_moment_is_part_of_the_request(
        self, billing: Billing, clock: SteppingClock, opened: datetime
    ) -> None:
        usage = clock.moment - HOUR
        told(billing, usage)

        with pytest.raises(IdempotencyConflict) as other:
            told(billing, usage + TICK)
        with pytest.raises(IdempotencyConflict) as none:
            told(billing, None)

        was = usage.isoformat()
        assert other.value.differences == (
            Difference("occurred_at", was, (usage + TICK).isoformat()),
        )
        assert none.value.differences == (Difference("occurred_at", was, "absent"),)

    def test_a_retry_after_the_bound_is_a_replay(
        self, billing: Billing, clock: SteppingClock, opened: datetime
    ) -> None:
        usage = clock.moment - 34 * DAY
        told(billing, usage)
        clock.moment += 10 * DAY

        assert told(billing, usage).replayed

    def test_the_grants_that_are_there_at_the_call_pay(
        self, billing: Billing, clock: SteppingClock, opened: datetime
    ) -> None:
        billing.grant(
            ALICE, credits(5), source="promo:b", reference="b", priority=1, expires_in=HOUR
        )
        usage = clock.moment
        clock.moment += 2 * HOUR
        later = billing.grant(ALICE, credits(2), source="promo:c", reference="c", priority=1)

        receipt = told(billing, usage)

        assert [draw.amount for draw in receipt.draws] == [credits(2), credits(1)]
        assert receipt.draws[0].grant_id == later.transaction_id

    def test_late_usage_is_limited_by_the_credits_like_any_other(
        self, billing: Billing, clock: SteppingClock, opened: datetime
    ) -> None:
        usage = clock.moment - HOUR

        with pytest.raises(InsufficientCredits):
            billing.charge(ALICE, credits(11), reference="run-1", occurred_at=usage)
        taken = billing.charge(
            ALICE, credits(11), reference="run-1", occurred_at=usage, at_most=True
        )
        owed = billing.charge(
            ALICE, credits(4), reference="run-2", occurred_at=usage, allow_overdraft=True
        )
        free = billing.charge(ALICE, credits(0), reference="run-3", occurred_at=usage)

        assert (taken.charged, taken.occurred_at) == (credits(10), usage)
        assert (owed.balance, free.balance, free.occurred_at) == (credits(-4), credits(-4), usage)
        assert billing.verify().violations == ()

    def test_late_usage_of_a_frozen_account_is_refused(
        self, billing: Billing, clock: SteppingClock, opened: datetime
    ) -> None:
        billing.freeze(ALICE, "a reason")

        with pytest.raises(AccountFrozen):
            told(billing, clock.moment - HOUR)
        with pytest.raises(InvalidTime):
            told(billing, clock.moment + HOUR)

    def test_charges_of_a_batch_have_moments_of_their_own(
        self, billing: Billing, clock: SteppingClock, opened: datetime
    ) -> None:
        now = clock.moment
        moments = (now - HOUR, now - 36 * DAY, None)

        outcomes = billing.charge_many(
            {
                "tenant": ALICE,
                "amount": credits(1),
                "reference": f"run-{number}",
                "occurred_at": occurred_at,
            }
            for number, occurred_at in enumerate(moments)
        )

        assert [type(outcome.error) for outcome in outcomes] == [
            type(None),
            InvalidTime,
            type(None),
        ]
        lines = billing.statement(ALICE, kind="charge").lines
        assert [line.occurred_at for line in lines] == [None, now - HOUR]
