"""The in-memory adapter keeps every contract, called and awaited."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from functools import partial

import pytest

from cogni_billing import AsyncBilling, Billing, TenantId
from cogni_billing.adapters.memory import InMemoryUnitOfWork
from cogni_billing.adapters.memory.unit_of_work import MemoryScope
from contract import (
    bad_input,
    batches,
    charges,
    concurrency,
    disputes,
    grants,
    holds,
    known_faults,
    purchases,
    reading,
    refunds,
    scopes,
    sharing,
    spending,
    statements,
    verifying,
)
from contract.base import NewBilling, Totals
from contract.blocking import blocking, running_loop


class Memory:
    @pytest.fixture
    def unit_of_work(self) -> InMemoryUnitOfWork:
        return InMemoryUnitOfWork()

    @pytest.fixture(params=["called", "awaited"])
    def new_billing(
        self, request: pytest.FixtureRequest, unit_of_work: InMemoryUnitOfWork
    ) -> Iterator[NewBilling]:
        if request.param == "called":
            yield partial(Billing, unit_of_work)
        else:
            with running_loop() as loop:
                yield lambda **options: blocking(AsyncBilling(unit_of_work, **options), loop)

    @pytest.fixture
    def totals(self, unit_of_work: InMemoryUnitOfWork) -> Totals:
        balances = unit_of_work._store.balances
        return lambda: {account: balance.value for account, balance in balances.items()}


class TestBadInput(Memory, bad_input.BadInputContract):
    @pytest.fixture
    def reached(
        self, unit_of_work: InMemoryUnitOfWork, monkeypatch: pytest.MonkeyPatch
    ) -> bad_input.Reached:
        opened: list[object] = []
        scope = unit_of_work.scope

        def counted(tenant: TenantId) -> AbstractContextManager[MemoryScope]:
            opened.append(tenant)
            return scope(tenant)

        monkeypatch.setattr(unit_of_work, "scope", counted)
        return lambda: len(opened)


class TestSpending(Memory, spending.SpendingContract):
    @pytest.fixture
    def new_spender(self, unit_of_work: InMemoryUnitOfWork) -> NewBilling:
        return partial(Billing, unit_of_work.limited())


class TestPurchases(Memory, purchases.PurchaseContract):
    pass


class TestCharges(Memory, charges.ChargeContract):
    pass


class TestHolds(Memory, holds.HoldContract):
    pass


class TestGrants(Memory, grants.GrantContract):
    pass


class TestPurchaseBatches(Memory, batches.PurchaseBatchContract):
    pass


class TestChargeBatches(Memory, batches.ChargeBatchContract):
    pass


class TestSystemTenantSpends(Memory, charges.SystemTenantSpendsContract):
    pass


class TestSharing(Memory, sharing.SharingContract):
    pass


class TestRefunds(Memory, refunds.RefundContract):
    pass


class TestDisputes(Memory, disputes.DisputeContract):
    pass


class TestKnownFaults(Memory, known_faults.KnownFaultContract):
    pass


class TestBalanceAt(Memory, reading.BalanceAtContract):
    pass


class TestFilters(Memory, reading.FilterContract):
    pass


class TestFind(Memory, reading.FindContract):
    pass


class TestFolding(Memory, reading.FoldingContract):
    pass


class TestVerifying(Memory, verifying.VerifyingContract):
    pass


class TestScopes(Memory, scopes.ScopeContract):
    pass


class TestTenants(Memory, scopes.TenantContract):
    pass


class TestStatements(Memory, statements.StatementContract):
    pass


class TestConcurrency(Memory, concurrency.ConcurrencyContract):
    pass
