"""Contract: idempotency keys, of every kind."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final
from uuid import UUID

import pytest
from attrs import evolve, frozen

from cogni_billing import Billing, LedgerCorruption, TenantId, credits, usd
from cogni_billing.testing.base import ALICE, BOB, Contract, NewBilling, Totals

Call = Callable[[Billing, TenantId, str, Mapping[str, object]], Any]


def capture(billing: Billing, tenant: TenantId, key: str, metadata: Mapping[str, object]) -> Any:
    held = billing.find_hold(tenant, f"for-{key}")
    held = held or billing.hold(tenant, credits(5), reference=f"for-{key}")
    return billing.capture(tenant, held.id, credits(5), reference=key, metadata=metadata)


CALLS: Final[dict[str, Call]] = {
    "purchase": lambda billing, tenant, key, metadata: billing.confirm_purchase(
        tenant, usd("1.00"), payment=f"{tenant}:{key}", metadata=metadata
    ),
    "charge": lambda billing, tenant, key, metadata: billing.charge(
        tenant, credits(5), reference=key, metadata=metadata
    ),
    "hold": lambda billing, tenant, key, metadata: billing.hold(
        tenant, credits(5), reference=key, metadata=metadata
    ),
    "capture": capture,
    "grant": lambda billing, tenant, key, metadata: billing.grant(
        tenant, credits(5), source="promo:a", reference=key, metadata=metadata
    ),
    "refund": lambda billing, tenant, key, metadata: billing.refund(
        tenant, payment=f"paid:{tenant}", amount=usd("0.10"), reference=key, metadata=metadata
    ),
    "dispute": lambda billing, tenant, key, metadata: billing.open_dispute(
        tenant, payment=f"paid:{tenant}", amount=usd("0.10"), reference=key, metadata=metadata
    ),
}


@frozen
class SameId:
    """A broken id source."""

    def new(self) -> UUID:
        """The same id, every time."""
        return UUID(int=9)


class IdContract(Contract):
    """Two records never have the same id."""

    @pytest.mark.parametrize("earlier", [True, False])
    @pytest.mark.parametrize("batch", ["confirm_purchases", "charge_many"])
    def test_an_id_given_twice_in_a_batch_is_refused(
        self, new_billing: NewBilling, totals: Totals, batch: str, earlier: bool
    ) -> None:
        """The first record with the id is earlier, or in the same batch."""
        new_billing().confirm_purchase(ALICE, usd("1.00"), payment="a:paid")
        billing = new_billing(ids=SameId())
        if earlier:
            billing.charge(ALICE, credits(5), reference="run-0")
        before = totals()

        if batch == "charge_many":
            outcomes: Any = billing.charge_many(
                {"tenant": ALICE, "amount": credits(5), "reference": key} for key in "ab"
            )
        else:
            outcomes = billing.confirm_purchases(
                {"tenant": ALICE, "amount": usd("1.00"), "payment": f"a:{key}"} for key in "ab"
            )

        assert [type(outcome.error) for outcome in outcomes] == [LedgerCorruption] * 2
        assert totals() == before

    @pytest.mark.parametrize("name", ["purchase", "charge", "hold", "grant"])
    def test_an_id_given_twice_is_refused(
        self, new_billing: NewBilling, totals: Totals, name: str
    ) -> None:
        new_billing().confirm_purchase(ALICE, usd("1.00"), payment="a:paid")
        billing = new_billing(ids=SameId())
        CALLS[name](billing, ALICE, "run-1", {})
        before = totals()

        with pytest.raises(LedgerCorruption):
            CALLS[name](billing, ALICE, "run-2", {})

        assert totals() == before


class KeyContract(Contract):
    """A key belongs to one tenant, is compared exactly, and returns its first outcome."""

    @pytest.fixture
    def rich(self, billing: Billing) -> Billing:
        """Alice and Bob have paid a dollar each."""
        for tenant in (ALICE, BOB):
            billing.confirm_purchase(tenant, usd("1.00"), payment=f"paid:{tenant}")
        return billing

    @pytest.mark.parametrize("name", CALLS)
    def test_keys_are_compared_exactly(self, rich: Billing, name: str) -> None:
        answers = [
            CALLS[name](rich, ALICE, key, {}) for key in ("run-1", "Run-1", "run-1.", "run-")
        ]

        assert not any(answer.replayed for answer in answers)

    @pytest.mark.parametrize("name", CALLS)
    def test_a_replay_returns_the_first_answer(self, rich: Billing, name: str) -> None:
        first = CALLS[name](rich, ALICE, "run-1", {"order": 1})

        again = CALLS[name](rich, ALICE, "run-1", {"order": 1})

        assert again == evolve(first, replayed=True)

    @pytest.mark.parametrize("name", [name for name in CALLS if name != "purchase"])
    def test_tenants_have_keys_of_their_own(self, rich: Billing, name: str) -> None:
        mine, yours = (CALLS[name](rich, tenant, "run-1", {}) for tenant in (ALICE, BOB))

        assert not yours.replayed
        assert CALLS[name](rich, ALICE, "run-1", {}) != CALLS[name](rich, BOB, "run-1", {})
        assert rich.balance(ALICE) == rich.balance(BOB)
        assert mine != yours

    @pytest.mark.parametrize("name", CALLS)
    def test_a_replay_with_other_metadata_keeps_the_first(self, rich: Billing, name: str) -> None:
        given: dict[str, Any] = {"order": [1]}
        answer = CALLS[name](rich, ALICE, "run-1", given)
        given["order"].append(2)
        given["more"] = True

        again = CALLS[name](rich, ALICE, "run-1", {"order": [3]})

        assert again.replayed
        if name in {"hold", "dispute"}:
            kept = [answer.metadata, again.metadata]
        else:
            view = rich.transaction(ALICE, answer.transaction_id)
            assert view is not None
            kept = [view.metadata]
        assert kept == [{"order": (1,)}] * len(kept)
