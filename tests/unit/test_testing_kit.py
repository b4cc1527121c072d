"""The fixtures and strategies of the kit work for hosts."""

from __future__ import annotations

from datetime import timedelta
from itertools import pairwise

import pytest
from hypothesis import given

from cogni_billing import (
    SYSTEM_TENANT_ID,
    USD,
    Amount,
    Billing,
    InvalidInput,
    RevenueSharePolicy,
    TenantId,
    UnknownAccount,
    credits,
    usd,
)
from cogni_billing.adapters.memory import InMemoryUnitOfWork
from cogni_billing.testing import (
    ALICE,
    NOON,
    DurableConformance,
    IsolatedConformance,
    MemoryConformance,
    MovableClock,
    TransactionalConformance,
    strategies,
)


def subjects(level: type) -> set[str]:
    return {name for name in dir(level) if name.startswith("Test")}


def test_each_level_contains_the_one_below() -> None:
    levels = [
        subjects(level)
        for level in (
            MemoryConformance,
            TransactionalConformance,
            IsolatedConformance,
            DurableConformance,
        )
    ]

    assert all(lower < higher for lower, higher in pairwise(levels))


class TestFixtures:
    def test_a_ledger_is_empty(self, billing: Billing) -> None:
        with pytest.raises(UnknownAccount):
            billing.balance(ALICE)
        assert billing.verify().transactions == 0

    def test_the_fixture_uses_the_clock(
        self, billing: Billing, billing_clock: MovableClock
    ) -> None:
        expires = NOON + timedelta(days=30)
        billing.grant(ALICE, credits(50), source="promo", reference="a", expires_at=expires)

        billing_clock.move(timedelta(days=30))

        assert billing.balance(ALICE).posted == credits(0)

    def test_the_fixture_counts_ids(self, memory_billing: Billing) -> None:
        first, second = (
            memory_billing.confirm_purchase(ALICE, usd("1.00"), payment=payment).transaction_id
            for payment in ("stripe:1", "stripe:2")
        )

        assert (first.int, second.int) == (1, 2)


class TestStrategies:
    @given(strategies.amounts(), strategies.amounts(USD, least=0))
    def test_the_amounts_strategy_makes_valid_amounts(self, some: Amount, dollars: Amount) -> None:
        assert some.is_positive
        assert Amount(str(dollars.value), USD) == dollars

    @given(strategies.tenants(), strategies.keys())
    def test_tenants_and_keys_are_accepted(self, tenant: TenantId, key: str) -> None:
        assert tenant != SYSTEM_TENANT_ID
        billing = Billing(InMemoryUnitOfWork())

        assert not billing.confirm_purchase(tenant, usd("1.00"), payment=f"a:{key}"[:255]).replayed

    @given(strategies.hostile_text())
    def test_hostile_text_is_refused(self, text: str) -> None:
        with pytest.raises(InvalidInput):
            Billing(InMemoryUnitOfWork()).confirm_purchase(ALICE, usd("1.00"), payment=text)

    @given(strategies.policies())
    def test_the_policies_strategy_makes_valid_policies(self, policy: RevenueSharePolicy) -> None:
        assert RevenueSharePolicy.from_dict(policy.to_dict()) == policy
        assert policy.rules
