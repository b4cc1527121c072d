"""Contract: grants that begin later."""

from __future__ import annotations

from datetime import datetime, timedelta
from functools import partial
from typing import Any
from uuid import UUID

import pytest
from attrs import evolve

from cogni_billing import (
    Billing,
    Difference,
    GrantReceipt,
    GrantSchedule,
    IdempotencyConflict,
    InvalidTime,
    LedgerCorruption,
    Schedule,
    UnknownAccount,
    UnknownGrant,
    credits,
    usd,
)
from cogni_billing.testing.base import ALICE, NOON, Contract, MovableClock, NewBilling, Totals
from cogni_billing.testing.contracts.grants import left
from cogni_billing.testing.racing import at_once

HOUR = timedelta(hours=1)
SECOND = timedelta(seconds=1)
LATER = NOON + 2 * HOUR


class WaitingGrantContract(Contract):
    """A grant with a later `effective_from` is no transaction until that moment."""

    @pytest.fixture
    def clock(self) -> MovableClock:
        return MovableClock()

    @pytest.fixture
    def asked(self, billing: Billing) -> Any:
        """The call of a grant of 50 that begins two hours past noon."""
        return partial(
            billing.grant,
            ALICE,
            credits(50),
            source="gift",
            reference="g",
            effective_from=LATER,
            priority=7,
            metadata={"a": 1},
        )

    def lines(self, billing: Billing) -> list[tuple[str, int, timedelta]]:
        found = reversed(billing.statement(ALICE).lines)
        return [(line.kind.value, int(line.amount.value), line.at - NOON) for line in found]

    def test_a_waiting_grant_adds_no_credits_and_no_line(
        self, billing: Billing, asked: Any, totals: Totals
    ) -> None:
        receipt = asked(expires_in=HOUR)

        assert receipt == GrantReceipt(
            transaction_id=receipt.transaction_id,
            granted=credits(50),
            source="gift",
            priority=7,
            expires_at=LATER + HOUR,
            repaid=credits(0),
            effective_from=LATER,
            balance=credits(0),
            replayed=False,
        )
        assert billing.balance(ALICE).posted == credits(0)
        assert (billing.grants(ALICE), billing.grants(ALICE, spent=True)) == ((), ())
        assert billing.statement(ALICE).lines == ()
        assert billing.find(ALICE, reference="g", kind="grant") is None
        assert billing.transaction(ALICE, receipt.transaction_id) is None
        assert totals() == {}
        (waiting,) = billing.schedules(ALICE)
        terms = GrantSchedule("gift", credits(50), every="once", anchor=LATER, priority=7)
        assert waiting == Schedule(
            id=receipt.transaction_id,
            tenant=ALICE,
            reference="g",
            terms=terms,
            created_at=NOON,
            begins=LATER,
            next_at=LATER,
            expires_at=LATER + HOUR,
            expires_in=HOUR,
            metadata={"a": 1},
        )
        assert billing.verify().violations == ()

    def test_a_waiting_grant_begins_at_its_moment_without_a_job(
        self, billing: Billing, asked: Any, clock: MovableClock
    ) -> None:
        grant_id = asked(expires_at=LATER + HOUR).transaction_id
        assert billing.sweep() == 0
        clock.moment = LATER
        (read,) = billing.grants(ALICE)
        assert billing.grants(ALICE, spent=True) == (read,)
        assert (read.id, read.granted_at, read.expires_at) == (grant_id, LATER, LATER + HOUR)
        statement = billing.statement(ALICE)
        assert statement.lines[0].metadata == {"a": 1}

        assert billing.sweep() == 1

        assert billing.grants(ALICE) == (read,)
        assert billing.statement(ALICE) == statement
        view = billing.find(ALICE, reference="g", kind="grant")
        assert view is not None
        assert (view.id, view.at, view.balance) == (grant_id, LATER, credits(50))
        (begun,) = billing.schedules(ALICE)
        assert (begun.number, begun.next_at, begun.ended_at) == (1, None, None)
        clock.moment += 2 * HOUR
        billing.charge(ALICE, credits(0), reference="run-1")
        assert self.lines(billing) == [
            ("grant", 50, 2 * HOUR),
            ("expiry", -50, 3 * HOUR),
            ("charge", 0, 4 * HOUR),
        ]
        assert billing.verify().violations == ()

    def test_balances_of_other_moments_count_a_waiting_grant(
        self, billing: Billing, asked: Any, clock: MovableClock
    ) -> None:
        asked(expires_in=HOUR)
        moments = [NOON + n * timedelta(minutes=30) for n in range(8)]
        expected = [credits(amount) for amount in (0, 0, 0, 0, 50, 50, 0, 0)]

        assert [billing.balance(ALICE, at=each).posted for each in moments] == expected
        clock.moment = NOON + 5 * HOUR
        assert [billing.balance(ALICE, at=each).posted for each in moments] == expected
        billing.sweep()
        assert [billing.balance(ALICE, at=each).posted for each in moments] == expected

    @pytest.mark.parametrize("past", [NOON, NOON - HOUR])
    def test_a_grant_from_a_moment_that_has_passed_is_granted_now(
        self, billing: Billing, past: datetime
    ) -> None:
        asked = partial(billing.grant, ALICE, credits(5), source="a", reference="a")

        receipt = asked(effective_from=past, expires_in=HOUR)

        assert (receipt.effective_from, receipt.expires_at) == (past, NOON + HOUR)
        assert billing.balance(ALICE).posted == credits(5)
        assert billing.schedules(ALICE) == ()
        assert asked(effective_from=past, expires_in=HOUR) == evolve(receipt, replayed=True)
        with pytest.raises(IdempotencyConflict) as caught:
            asked(expires_in=HOUR)
        assert caught.value.differences == (
            Difference("effective_from", past.isoformat(), "absent"),
        )
        assert billing.verify().violations == ()

    def test_a_waiting_grant_is_replayed_before_and_after_its_beginning(
        self, billing: Billing, asked: Any, clock: MovableClock
    ) -> None:
        billing.confirm_purchase(ALICE, usd("0.01"), payment="stripe:pi_1")
        first = asked(expires_in=HOUR)
        assert first.balance == credits(100_000)
        replay = evolve(first, replayed=True)

        assert asked(expires_in=HOUR) == replay
        billing.charge(ALICE, credits(100_070), reference="run-1", allow_overdraft=True)
        clock.moment = LATER
        assert asked(expires_in=HOUR) == replay
        billing.sweep()
        assert left(billing) == {}
        assert asked(expires_in=HOUR) == replay
        clock.moment = LATER + 2 * HOUR
        assert asked(expires_in=HOUR) == replay
        assert billing.verify().violations == ()

    @pytest.mark.parametrize("begun", [False, True])
    def test_another_grant_under_the_key_of_a_waiting_one_is_a_conflict(
        self, billing: Billing, asked: Any, clock: MovableClock, begun: bool
    ) -> None:
        asked(expires_in=HOUR)
        if begun:
            clock.moment = LATER
            billing.sweep()

        for given, fields in (
            ({"expires_in": 2 * HOUR}, ["expires_in"]),
            ({"expires_at": LATER + HOUR}, ["expires_at", "expires_in"]),
            ({"expires_in": HOUR, "effective_from": LATER + HOUR}, ["effective_from"]),
            ({"expires_in": HOUR, "effective_from": None}, ["effective_from"]),
            ({"expires_in": HOUR, "priority": 1, "source": "b"}, ["priority", "source"]),
        ):
            with pytest.raises(IdempotencyConflict) as caught:
                asked(**given)
            assert [each.field for each in caught.value.differences] == fields

        assert len(billing.schedules(ALICE)) == 1

    def test_a_waiting_grant_under_the_key_of_a_grant_is_a_conflict(self, billing: Billing) -> None:
        asked = partial(billing.grant, ALICE, credits(5), source="a", reference="a")
        asked()

        with pytest.raises(IdempotencyConflict) as caught:
            asked(effective_from=LATER)

        assert caught.value.differences == (
            Difference("effective_from", "absent", LATER.isoformat()),
        )
        assert billing.schedules(ALICE) == ()

    @pytest.mark.parametrize("effective_from", [LATER, NOON - HOUR])
    def test_a_grant_must_expire_after_it_begins(
        self, billing: Billing, effective_from: datetime
    ) -> None:
        for expires_at in (effective_from, effective_from - SECOND):
            with pytest.raises(InvalidTime) as caught:
                billing.grant(
                    ALICE,
                    credits(5),
                    source="a",
                    reference="a",
                    effective_from=effective_from,
                    expires_at=expires_at,
                )
            assert caught.value.field == "expires_at"

        with pytest.raises(UnknownAccount):
            billing.balance(ALICE)

    def test_a_voided_waiting_grant_never_begins(
        self, billing: Billing, asked: Any, clock: MovableClock
    ) -> None:
        waiting = asked()
        clock.moment += HOUR

        void = billing.void_grant(ALICE, waiting.transaction_id, reference="v", reason="A mistake.")

        assert (void.voided, void.grant_id, void.balance) == (
            credits(0),
            waiting.transaction_id,
            credits(0),
        )
        clock.moment = LATER + HOUR
        assert billing.sweep() == 0
        assert self.lines(billing) == [("void", 0, HOUR)]
        (ended,) = billing.schedules(ALICE)
        assert (ended.number, ended.next_at, ended.ended_at) == (0, None, NOON + HOUR)
        again = billing.void_grant(
            ALICE, waiting.transaction_id, reference="v", reason="A mistake."
        )
        assert again == evolve(void, replayed=True)
        second = billing.void_grant(ALICE, waiting.transaction_id, reference="v-2")
        assert (second.voided, second.replayed) == (credits(0), False)
        assert billing.schedules(ALICE) == (ended,)
        assert asked() == evolve(waiting, replayed=True)
        assert billing.grants(ALICE, spent=True) == ()
        assert billing.verify().violations == ()

    def test_a_void_at_the_beginning_of_a_grant_takes_its_credits(
        self, billing: Billing, asked: Any, clock: MovableClock
    ) -> None:
        waiting = asked()
        clock.moment = LATER

        void = billing.void_grant(ALICE, waiting.transaction_id, reference="v")

        assert void.voided == credits(50)
        assert self.lines(billing) == [("grant", 50, 2 * HOUR), ("void", -50, 2 * HOUR)]
        assert billing.schedules(ALICE)[0].ended_at is None
        assert billing.verify().violations == ()

    def test_a_waiting_grant_cannot_be_extended_until_it_begins(
        self, billing: Billing, asked: Any, clock: MovableClock
    ) -> None:
        waiting = asked(expires_in=HOUR)
        extend = partial(
            billing.extend_grant,
            ALICE,
            waiting.transaction_id,
            reference="e",
            expires_at=LATER + 3 * HOUR,
        )
        with pytest.raises(UnknownGrant):
            extend()

        clock.moment = LATER
        assert extend().expires_at == LATER + 3 * HOUR
        clock.moment = LATER + 2 * HOUR
        assert left(billing) == {"gift": 50}
        assert billing.verify().violations == ()

    def test_a_waiting_grant_repays_a_debt_when_it_begins(
        self, billing: Billing, asked: Any, clock: MovableClock
    ) -> None:
        waiting = asked()
        billing.charge(ALICE, credits(30), reference="run-1", allow_overdraft=True)
        assert billing.balance(ALICE).posted == credits(-30)
        clock.moment = LATER + HOUR

        assert left(billing) == {"gift": 20}
        billing.charge(ALICE, credits(20), reference="run-2")

        view = billing.transaction(ALICE, waiting.transaction_id)
        assert view is not None
        assert [int(draw.amount.value) for draw in view.draws] == [30]
        assert billing.verify().violations == ()

    def test_expirations_of_a_moment_come_before_starts(
        self, billing: Billing, asked: Any, clock: MovableClock
    ) -> None:
        billing.grant(ALICE, credits(9), source="a", reference="a", expires_at=LATER)
        asked()
        billing.grant(ALICE, credits(4), source="b", reference="b", effective_from=LATER)
        clock.moment = LATER

        billing.sweep()

        assert self.lines(billing) == [
            ("grant", 9, timedelta(0)),
            ("expiry", -9, 2 * HOUR),
            ("grant", 50, 2 * HOUR),
            ("grant", 4, 2 * HOUR),
        ]

    def test_a_grant_waits_if_it_begins_after_the_wallets_time(
        self, billing: Billing, asked: Any, clock: MovableClock
    ) -> None:
        clock.moment = LATER
        billing.open_account(ALICE)
        billing.charge(ALICE, credits(0), reference="run-1")
        clock.moment = NOON

        asked()
        billing.grant(ALICE, credits(4), source="b", reference="b", effective_from=LATER + SECOND)

        assert left(billing) == {"gift": 50}
        assert [each.reference for each in billing.schedules(ALICE)] == ["b"]

    def test_the_id_of_a_waiting_grant_is_taken(
        self, new_billing: NewBilling, clock: MovableClock, totals: Totals
    ) -> None:
        class OneId:
            def new(self) -> UUID:
                return UUID(int=7)

        billing = new_billing(clock=clock, ids=OneId())
        asked = partial(billing.grant, ALICE, credits(5), source="a")
        asked(reference="a", effective_from=LATER)

        with pytest.raises(LedgerCorruption):
            asked(reference="b", effective_from=LATER)
        with pytest.raises(LedgerCorruption):
            asked(reference="c")

        assert totals() == {}
        assert len(billing.schedules(ALICE)) == 1


class WaitingGrantRaces(Contract):
    """Concurrent calls begin a waiting grant once."""

    def test_concurrent_calls_after_its_moment_begin_a_grant_once(
        self, new_billing: NewBilling
    ) -> None:
        clock = MovableClock()
        billing = new_billing(clock=clock)
        billing.grant(ALICE, credits(50), source="a", reference="a", effective_from=LATER)
        clock.moment = LATER

        at_once(
            [
                partial(billing.charge, ALICE, credits(1), reference=f"run-{number}")
                for number in range(20)
            ]
        )

        assert billing.balance(ALICE).posted == credits(30)
        assert len(billing.statement(ALICE, kind="grant").lines) == 1

    def test_concurrent_calls_with_one_key_make_one_waiting_grant(
        self, new_billing: NewBilling
    ) -> None:
        billing = new_billing(clock=MovableClock())

        receipts = at_once(
            [
                partial(
                    billing.grant,
                    ALICE,
                    credits(50),
                    source="a",
                    reference="a",
                    effective_from=LATER,
                )
                for _ in range(8)
            ]
        )

        assert sorted(receipt.replayed for receipt in receipts) == [False] + 7 * [True]
        assert len({receipt.transaction_id for receipt in receipts}) == 1
        assert len(billing.schedules(ALICE)) == 1
