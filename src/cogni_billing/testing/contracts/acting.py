"""Contract: the actors of transactions."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from cogni_billing import (
    Billing,
    GrantSchedule,
    InvalidReference,
    TransactionKind,
    TransactionView,
    acting,
    credits,
    usd,
)
from cogni_billing.testing.base import ALICE, BOB, Contract, MovableClock, NewBilling
from cogni_billing.testing.contracts.kinds import RECORDS, tenant_of

ADA, BEN = "user:ada", "user:ben"
DAILY = GrantSchedule("plan", credits(5), every="day")


def found(
    billing: Billing,
    reference: str,
    kind: TransactionKind | str = TransactionKind.CHARGE,
) -> TransactionView:
    owner = tenant_of(TransactionKind(kind))
    view = billing.find(owner, reference=reference, kind=kind)
    assert view is not None
    return view


class ActorContract(Contract):
    """Each transaction keeps the actor of the block that its call is in."""

    @pytest.fixture
    def bought(self, billing: Billing) -> Billing:
        billing.confirm_purchase(ALICE, usd("0.01"), payment="stripe:pi_1")
        return billing

    @pytest.mark.parametrize("kind", TransactionKind)
    def test_every_call_of_the_block_records_its_actor(
        self, new_billing: NewBilling, kind: TransactionKind
    ) -> None:
        clock = MovableClock()
        billing = new_billing(clock=clock)
        billing.confirm_purchase(ALICE, usd("0.10"), payment="stripe:pi_1")
        with acting(by=ADA):
            reference = RECORDS[kind](billing, clock)

        view = found(billing, reference, kind)

        assert view.actor == (None if kind is TransactionKind.EXPIRY else ADA)
        assert billing.transaction(tenant_of(kind), view.id) == view
        assert billing.verify().violations == ()

    def test_grants_that_begin_later_have_the_actor_who_planned_them(
        self, new_billing: NewBilling
    ) -> None:
        clock = MovableClock()
        billing = new_billing(clock=clock)
        later = clock.moment + timedelta(days=1)
        with acting(by=ADA):
            billing.grant(ALICE, credits(1), source="a", reference="a", effective_from=later)
            plan = billing.schedule_grants(ALICE, DAILY, reference="old")
        assert plan.actor == ADA
        clock.moment = later
        with acting(by=BEN):
            again = billing.schedule_grants(ALICE, DAILY, reference="old")
            new = billing.schedule_grants(ALICE, DAILY, reference="new", replaces=plan.id)
        assert again.actor == ADA

        made = {
            line.reference: billing.transaction(ALICE, line.transaction_id)
            for line in billing.statement(ALICE).lines
        }
        assert {name: view and view.actor for name, view in made.items()} == {
            "a": ADA,
            f"{plan.id} 0": ADA,
            f"{plan.id} 1": ADA,
            next(name for name in made if name and "@" in name): None,
            f"{new.id} 0": BEN,
            f"{new.id} 1": BEN,
        }
        assert billing.verify().violations == ()

    def test_calls_outside_of_a_block_have_no_actor(self, bought: Billing) -> None:
        with acting(by=ADA):
            pass
        bought.charge(ALICE, credits(1), reference="r")

        assert found(bought, "r").actor is None

    def test_an_inner_block_names_another_actor(self, bought: Billing) -> None:
        with acting(by=ADA):
            with acting(by=BEN):
                bought.charge(ALICE, credits(1), reference="inner")
            bought.charge(ALICE, credits(1), reference="outer")

        assert (found(bought, "inner").actor, found(bought, "outer").actor) == (BEN, ADA)

    def test_a_block_that_raises_ends(self, bought: Billing) -> None:
        with pytest.raises(ZeroDivisionError), acting(by=ADA):
            raise ZeroDivisionError
        bought.charge(ALICE, credits(1), reference="r")

        assert found(bought, "r").actor is None

    def test_requests_of_a_batch_have_the_actor(self, bought: Billing) -> None:
        requests = [
            {"tenant": tenant, "amount": usd("0.01"), "payment": f"stripe:{tenant}"}
            for tenant in (ALICE, BOB)
        ]
        with acting(by=ADA):
            bought.confirm_purchases(requests)
            bought.charge_many([{"tenant": ALICE, "amount": credits(1), "reference": "r"}])

        assert found(bought, f"stripe:{ALICE}", "purchase").actor == ADA
        assert found(bought, "r").actor == ADA

    def test_a_retry_by_another_actor_is_a_replay_and_the_first_stays(
        self, bought: Billing
    ) -> None:
        with acting(by=ADA):
            bought.charge(ALICE, credits(1), reference="r")
        with acting(by=BEN):
            again = bought.charge(ALICE, credits(1), reference="r")

        assert (again.replayed, found(bought, "r").actor) == (True, ADA)

    def test_an_adjustment_can_name_its_actor(self, bought: Billing) -> None:
        with acting(by=ADA):
            bought.adjust(ALICE, credits(1), reason="r", reference="own", actor=BEN)
            bought.adjust(ALICE, credits(1), reason="r", reference="block")
        again = bought.adjust(ALICE, credits(1), reason="r", reference="own", actor=ADA)

        assert again.replayed
        assert found(bought, "own", "adjustment").actor == BEN
        assert found(bought, "block", "adjustment").actor == ADA

    @pytest.mark.parametrize("by", [None, "", "a b", "é", "x" * 256, 7, b"a"])
    def test_an_invalid_actor_is_refused(self, bought: Billing, by: Any) -> None:
        with pytest.raises(InvalidReference) as caught, acting(by=by):
            pass
        bought.charge(ALICE, credits(1), reference="r")

        assert caught.value.field == "by"
        assert found(bought, "r").actor is None
