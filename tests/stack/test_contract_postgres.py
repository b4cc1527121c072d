"""The Postgres adapter keeps every contract, also with statements that are never prepared."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy import create_engine

from cogni_billing.adapters.postgres import PostgresUnitOfWork
from contract.base import Totals
from contract.concurrency import ConcurrencyContract
from contract.purchases import PurchaseContract
from contract.scopes import ScopeContract, TenantContract
from contract.statements import StatementContract
from stack.conftest import Database


class Postgres:
    """One pool of many connections, and one of a single connection that everything shares."""

    @pytest.fixture(params=["pool", "one unprepared connection"])
    def unit_of_work(
        self, request: pytest.FixtureRequest, database: Database
    ) -> Iterator[PostgresUnitOfWork]:
        if request.param == "pool":
            yield PostgresUnitOfWork(database.user)
        else:
            engine = create_engine(
                database.sandbox.url("app_user"),
                pool_size=1,
                max_overflow=0,
                pool_timeout=60,
                connect_args={"prepare_threshold": None},
            )
            yield PostgresUnitOfWork(engine)
            engine.dispose()

    @pytest.fixture
    def totals(self, database: Database) -> Totals:
        return database.totals


class TestPurchases(Postgres, PurchaseContract):
    pass


class TestScopes(Postgres, ScopeContract):
    pass


class TestTenants(Postgres, TenantContract):
    pass


class TestStatements(Postgres, StatementContract):
    pass


class TestConcurrency(Postgres, ConcurrencyContract):
    pass
