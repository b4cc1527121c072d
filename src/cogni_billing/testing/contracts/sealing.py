"""What sealing promises on every adapter."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor, wait
from typing import Final

import pytest
from attrs import evolve

from cogni_billing import (
    SYSTEM_TENANT_ID,
    Billing,
    InvalidInput,
    Invariant,
    Seal,
    credits,
    usd,
)
from cogni_billing.ports.scope import UnitOfWork
from cogni_billing.testing.base import ALICE, BOB, Contract, NewBilling, SteppingClock
from cogni_billing.testing.contracts.purchases import planned
from cogni_billing.testing.contracts.verifying import CAROL, live

KEY: Final = b"k" * 32
OTHER_KEY: Final = b"o" * 64
WHILE_S: Final = 0.3


def heads(seals: tuple[Seal, ...]) -> dict[object, int]:
    """The position of each tenant's last seal."""
    return {seal.tenant: seal.position for seal in seals}


class SealingContract(Contract):
    def test_seal_empty_ledger_returns_none(self, billing: Billing) -> None:
        billing.open_account(ALICE)

        assert billing.seal(key=KEY) == ()
        assert billing.verify_seals((), key=KEY) == ()

    def test_seal_lively_ledger_covers_each_tenant_to_its_end(
        self, billing: Billing, clock: SteppingClock
    ) -> None:
        live(billing, clock)

        seals = billing.seal(key=KEY)

        assert heads(seals) == {ALICE: 9, BOB: 10, CAROL: 3, SYSTEM_TENANT_ID: 2}
        assert billing.verify_seals(seals, key=KEY) == ()

    def test_seals_survive_everything_that_happens_after(
        self, billing: Billing, clock: SteppingClock
    ) -> None:
        """A hold is captured, a grant is spent and expires, a payment is refunded and disputed."""
        billing.confirm_purchase(BOB, usd("0.01"), payment="stripe:pi_0")
        first = billing.seal(key=KEY)
        live(billing, clock)
        second = billing.seal(first, key=KEY)
        billing.fold()
        billing.sweep()
        billing.win_dispute(BOB, payment="stripe:pi_5", reference="dp_2")
        third = billing.seal(first + second, key=KEY)

        assert heads(first) == {BOB: 1}
        assert heads(second) == {ALICE: 9, BOB: 11, CAROL: 3, SYSTEM_TENANT_ID: 2}
        assert third == ()
        assert billing.verify_seals(first + second, key=KEY) == ()
        assert billing.verify_seals(reversed(first + second), key=KEY) == ()

    def test_a_chain_is_the_same_wherever_it_was_sealed(
        self, billing: Billing, clock: SteppingClock
    ) -> None:
        """So the last seal of each tenant is enough."""
        billing.confirm_purchase(BOB, usd("0.01"), payment="stripe:pi_0")
        first = billing.seal(key=KEY)
        live(billing, clock)
        second = billing.seal(first, key=KEY)

        assert set(billing.seal(key=KEY)) == set(second)
        assert billing.verify_seals(second, key=KEY) == ()
        assert billing.seal(second, key=KEY) == ()

    def test_a_long_history_is_sealed_every_thousand_transactions(self, billing: Billing) -> None:
        billing.confirm_purchase(ALICE, usd("1.00"), payment="stripe:pi_1")
        billing.charge_many(
            {"tenant": ALICE, "amount": credits(1), "reference": f"run-{n}"} for n in range(2000)
        )
        billing.confirm_purchase(BOB, usd("0.01"), payment="stripe:pi_2")

        seals = billing.seal(key=KEY)

        assert [seal.position for seal in seals if seal.tenant == ALICE] == [1000, 2000, 2001]
        assert billing.verify_seals(seals, key=KEY) == ()
        assert billing.verify_seals([s for s in seals if s.position != 1000], key=KEY) == ()

    def test_another_key_is_refused_by_name(self, billing: Billing) -> None:
        billing.confirm_purchase(ALICE, usd("1.00"), payment="stripe:pi_1")
        (seal,) = billing.seal(key=KEY)

        for call in (billing.seal, billing.verify_seals):
            with pytest.raises(InvalidInput) as caught:
                call([seal], key=OTHER_KEY)
            assert caught.value.field == "key"
            assert seal.key in caught.value.expected

    def test_seals_of_another_ledger_are_violated(self, billing: Billing) -> None:
        """Altered, forged, or of a ledger that reached further: at its tenant and positions."""
        billing.confirm_purchase(ALICE, usd("1.00"), payment="stripe:pi_1")
        billing.charge(ALICE, credits(1), reference="run-1")
        (seal,) = billing.seal(key=KEY)

        for other, tenant, positions, detail in (
            (evolve(seal, mac="0" * 64), ALICE, "1-2", "changed since"),
            (evolve(seal, position=1), ALICE, "1-1", "changed since"),
            (evolve(seal, position=9), ALICE, "1-9", "none at position 3"),
            (evolve(seal, tenant=BOB), BOB, "1-2", "none at position 1"),
        ):
            (violation,) = billing.verify_seals([other], key=KEY)
            assert violation.invariant is Invariant.TRANSACTIONS_MATCH_THEIR_SEAL
            assert violation.where == {"tenant": str(tenant), "positions": positions}
            assert violation.detail == detail

        (violation,) = billing.verify_seals([seal, evolve(seal, position=9)], key=KEY)
        assert violation.where["positions"] == "3-9"
        both = billing.verify_seals([seal, evolve(seal, mac="0" * 64)], key=KEY)
        assert [violation.where["positions"] for violation in both] == ["1-2"]


class SealingRaces(Contract):
    """Sealing while others write."""

    def test_what_was_being_written_when_sealing_began_is_sealed_next_time(
        self, unit_of_work: UnitOfWork, new_billing: NewBilling
    ) -> None:
        """The first to write is the last to commit; where scopes wait for each other, all do."""
        billing = new_billing()
        billing.confirm_purchase(ALICE, usd("10.00"), payment="stripe:pi_0")
        with ThreadPoolExecutor(2) as threads:
            with unit_of_work.scope(ALICE) as scope:
                scope.ledger.post(planned())
                later = threads.submit(
                    billing.confirm_purchase, BOB, usd("10.00"), payment="stripe:pi_2"
                )
                wait([later], WHILE_S)
                sealing = threads.submit(billing.seal, key=KEY)
                wait([sealing], WHILE_S)
            later.result()
            first = sealing.result()
        second = billing.seal(first, key=KEY)

        assert heads(first + second) == {ALICE: 2, BOB: 1}
        assert billing.verify_seals(first + second, key=KEY) == ()

    def test_writers_and_sealers_at_once_leave_sound_seals(self, billing: Billing) -> None:
        billing.confirm_purchase(ALICE, usd("1.00"), payment="stripe:pi_0")
        seals: tuple[Seal, ...] = ()
        with ThreadPoolExecutor(2) as threads:
            writing = [
                threads.submit(billing.charge, ALICE, credits(1), reference=f"run-{n}")
                for n in range(50)
            ]
            while not all(each.done() for each in writing):
                seals += billing.seal(seals, key=KEY)
        seals += billing.seal(seals, key=KEY)

        assert [each.exception() for each in writing] == [None] * 50
        assert heads(seals) == {ALICE: 51}
        assert billing.verify_seals(seals, key=KEY) == ()
