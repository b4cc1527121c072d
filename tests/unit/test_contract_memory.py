"""The in-memory adapter keeps every contract."""

from __future__ import annotations

import pytest

from cogni_billing.adapters.memory import InMemoryUnitOfWork
from contract.base import Totals
from contract.concurrency import ConcurrencyContract
from contract.purchases import PurchaseContract
from contract.scopes import ScopeContract, TenantContract
from contract.statements import StatementContract


class Memory:
    @pytest.fixture
    def unit_of_work(self) -> InMemoryUnitOfWork:
        return InMemoryUnitOfWork()

    @pytest.fixture
    def totals(self, unit_of_work: InMemoryUnitOfWork) -> Totals:
        balances = unit_of_work._store.balances
        return lambda: {account: balance.value for account, balance in balances.items()}


class TestPurchases(Memory, PurchaseContract):
    pass


class TestScopes(Memory, ScopeContract):
    pass


class TestTenants(Memory, TenantContract):
    pass


class TestStatements(Memory, StatementContract):
    pass


class TestConcurrency(Memory, ConcurrencyContract):
    pass
