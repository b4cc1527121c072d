"""Contract: `reverse` gives charges and captures back to the lots that they drew."""

from __future__ import annotations

from datetime import timedelta
from functools import partial
from uuid import UUID

import pytest
from attrs import evolve

from cogni_billing import (
    Billing,
    Difference,
    Draw,
    IdempotencyConflict,
    ReversalExceedsCharge,
    UnknownAccount,
    UnknownCharge,
    credits,
    usd,
)
from cogni_billing.domain.identity import BREAKAGE, USAGE
from cogni_billing.testing.base import (
    ALICE,
    BOB,
    NOON,
    Contract,
    CountingIds,
    MovableClock,
    NewBilling,
    Totals,
)
from cogni_billing.testing.racing import at_once

HOUR = timedelta(hours=1)


class ReverseContract(Contract):
    @pytest.fixture
    def moving(self) -> MovableClock:
        return MovableClock()

    @pytest.fixture
    def charged(self, new_billing: NewBilling, moving: MovableClock) -> Billing:
        """Alice paid 100 credits: 30 and then 50 of two grants, and 20 purchased ones.

        The second grant expires in an hour.
        """
        billing = new_billing(clock=moving, ids=CountingIds())
        self.first = billing.grant(
            ALICE, credits(30), source="promo:a", reference="a", priority=1
        ).transaction_id
        self.second = billing.grant(
            ALICE, credits(50), source="promo:b", reference="b", expires_at=NOON + HOUR
        ).transaction_id
        billing.confirm_purchase(ALICE, usd("0.01"), payment="stripe:pi_1")
        self.charge = billing.charge(ALICE, credits(100), reference="run-1").transaction_id
        return billing

    def remaining(self, billing: Billing) -> list[int]:
        """The credits left of Alice's grants, the first grant first."""
        return [int(g.remaining.value) for g in reversed(billing.grants(ALICE, spent=True))]

    def test_a_charge_given_back_in_full_leaves_the_lots_as_they_were(
        self, charged: Billing, totals: Totals
    ) -> None:
        receipt = charged.reverse(ALICE, charge="run-1", reference="back-1", reason="it failed")

        assert (receipt.charge_id, receipt.credited, receipt.expired, receipt.purchased) == (
            self.charge,
            credits(100),
            credits(0),
            credits(20),
        )
        assert receipt.draws == (Draw(self.second, credits(50)), Draw(self.first, credits(30)))
        assert (receipt.given_back, receipt.total_given_back) == (credits(100), credits(100))
        assert receipt.balance == credits(100_080)
        assert self.remaining(charged) == [30, 50]
        assert totals()[USAGE] == 0
        [line] = charged.statement(ALICE, limit=1).lines
        assert (line.granted, line.purchased) == (credits(80), credits(20))
        view = charged.find(ALICE, reference="back-1", kind="reversal")
        assert view is not None
        assert (view.reason, view.draws) == ("it failed", receipt.draws)
        assert charged.verify().violations == ()

    def test_parts_come_back_in_the_reverse_order_and_add_up(self, charged: Billing) -> None:
        back = [
            charged.reverse(ALICE, charge="run-1", amount=credits(n), reference=f"{n}")
            for n in (15, 25, 35)
        ]
        rest = charged.reverse(ALICE, charge=self.charge, reference="rest")

        assert [(r.purchased, [d.amount for d in r.draws]) for r in (*back, rest)] == [
            (credits(15), []),
            (credits(5), [credits(20)]),
            (credits(0), [credits(30), credits(5)]),
            (credits(0), [credits(25)]),
        ]
        assert [r.total_given_back for r in (*back, rest)] == [
            credits(n) for n in (15, 40, 75, 100)
        ]
        assert self.remaining(charged) == [30, 50]
        assert charged.verify().violations == ()

    def test_credits_of_a_grant_that_has_expired_since_go_on_to_breakage(
        self, charged: Billing, moving: MovableClock, totals: Totals
    ) -> None:
        moving.move(HOUR)

        receipt = charged.reverse(ALICE, charge="run-1", reference="back-1")

        assert (receipt.credited, receipt.expired, receipt.purchased) == (
            credits(50),
            credits(50),
            credits(20),
        )
        assert receipt.draws == (Draw(self.first, credits(30)),)
        assert self.remaining(charged) == [30, 0]
        assert totals()[BREAKAGE] == 50
        assert totals()[USAGE] == 0
        assert charged.verify().violations == ()

    def test_a_part_that_has_expired_records_a_line_of_zero(
        self, charged: Billing, moving: MovableClock
    ) -> None:
        charged.reverse(ALICE, charge="run-1", amount=credits(20), reference="purchased")
        moving.move(HOUR)

        receipt = charged.reverse(ALICE, charge="run-1", amount=credits(5), reference="expired")

        assert (receipt.credited, receipt.expired, receipt.draws) == (credits(0), credits(5), ())
        assert charged.verify().violations == ()

    def test_credits_given_back_to_a_grant_expire_with_it(
        self, charged: Billing, moving: MovableClock
    ) -> None:
        charged.reverse(ALICE, charge="run-1", reference="back-1")
        moving.move(HOUR)

        assert charged.balance(ALICE).posted == credits(100_030)
        assert charged.sweep() == 1
        assert charged.verify().violations == ()

    def test_a_capture_is_given_back_by_its_id(self, charged: Billing) -> None:
        charged.reverse(ALICE, charge="run-1", reference="back-1")
        hold = charged.hold(ALICE, credits(60), reference="job-1")
        capture = charged.capture(ALICE, hold.id, credits(40), reference="job-1")

        receipt = charged.reverse(ALICE, charge=capture.transaction_id, reference="back-2")

        assert receipt.draws == tuple(reversed(capture.draws))
        assert self.remaining(charged) == [30, 50]
        assert charged.verify().violations == ()

    def test_no_more_than_the_charge_is_given_back(self, charged: Billing, totals: Totals) -> None:
        charged.reverse(ALICE, charge="run-1", amount=credits(60), reference="back-1")
        before = totals()

        with pytest.raises(ReversalExceedsCharge) as caught:
            charged.reverse(ALICE, charge="run-1", amount=credits(41), reference="back-2")
        assert (caught.value.required, caught.value.remaining) == (credits(41), credits(40))

        assert totals() == before
        charged.reverse(ALICE, charge="run-1", reference="back-2")
        with pytest.raises(ReversalExceedsCharge) as caught:
            charged.reverse(ALICE, charge="run-1", reference="back-3")
        assert (caught.value.required, caught.value.remaining) == (credits(100), credits(0))

    def test_a_charge_of_zero_has_no_credits_to_give_back(self, charged: Billing) -> None:
        charged.charge(ALICE, credits(0), reference="free")

        with pytest.raises(ReversalExceedsCharge):
            charged.reverse(ALICE, charge="free", reference="back-1")

    def test_a_replay_returns_the_first_receipt(
        self, charged: Billing, moving: MovableClock
    ) -> None:
        receipt = charged.reverse(ALICE, charge="run-1", amount=credits(30), reference="back-1")
        charged.reverse(ALICE, charge="run-1", reference="back-2")
        moving.move(HOUR)

        for charge in ("run-1", self.charge):
            again = charged.reverse(ALICE, charge=charge, amount=credits(30), reference="back-1")
            assert again == evolve(receipt, replayed=True)

    def test_another_reversal_under_the_key_is_a_conflict(self, charged: Billing) -> None:
        charged.charge(ALICE, credits(9), reference="run-2")
        charged.reverse(ALICE, charge="run-1", amount=credits(5), reference="back-1")

        with pytest.raises(IdempotencyConflict) as caught:
            charged.reverse(ALICE, charge="run-2", reference="back-1")

        assert caught.value.differences == (
            Difference("amount", "5 CREDIT", "what remains"),
            Difference("charge", "run-1", "run-2"),
        )

    @pytest.mark.parametrize("charge", ["run-9", "stripe:pi_1", UUID(int=2**64)])
    def test_an_unknown_charge_is_refused(
        self, charged: Billing, totals: Totals, charge: str | UUID
    ) -> None:
        before = totals()

        with pytest.raises(UnknownCharge):
            charged.reverse(ALICE, charge=charge, reference="back-1")

        assert totals() == before

    def test_only_charges_and_captures_of_the_tenant_are_given_back(self, charged: Billing) -> None:
        charged.open_account(BOB)
        back = charged.reverse(ALICE, charge="run-1", reference="back-1").transaction_id

        for tenant, charge in ((BOB, self.charge), (ALICE, self.first), (ALICE, back)):
            with pytest.raises(UnknownCharge):
                charged.reverse(tenant, charge=charge, reference="back-2")
        with pytest.raises(UnknownCharge):
            charged.reverse(BOB, charge="run-1", reference="back-2")

    def test_a_tenant_without_an_account_has_no_charge(self, charged: Billing) -> None:
        with pytest.raises(UnknownAccount):
            charged.reverse(BOB, charge="run-1", reference="back-1")


class ReverseRaces(Contract):
    def test_concurrent_reversals_never_give_back_more_than_the_charge(
        self, new_billing: NewBilling, totals: Totals
    ) -> None:
        billing = new_billing()
        billing.grant(ALICE, credits(100), source="promo:a", reference="a")
        billing.charge(ALICE, credits(50), reference="run-1")

        def give_back(n: int) -> bool:
            try:
                billing.reverse(ALICE, charge="run-1", amount=credits(9), reference=f"{n}")
            except ReversalExceedsCharge:
                return False
            return True

        done = at_once([partial(give_back, number) for number in range(8)])

        assert sum(done) == 5
        assert totals()[USAGE] == 5
        assert billing.verify().violations == ()
