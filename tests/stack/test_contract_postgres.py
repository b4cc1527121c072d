"""The Postgres adapter keeps every contract, called and awaited, also with statements that are
never prepared on a single connection that everything shares.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
from sqlalchemy import Pool, create_engine, event
from sqlalchemy.ext.asyncio import create_async_engine

from cogni_billing import AsyncBilling, Billing
from cogni_billing.adapters.postgres import AsyncPostgresUnitOfWork, PostgresUnitOfWork
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
from stack.conftest import Database

SINGLE: dict[str, Any] = {
    "pool_size": 1,
    "max_overflow": 0,
    "pool_timeout": 60,
    "connect_args": {"prepare_threshold": None},
}


class Postgres:
    @pytest.fixture(params=["pool", "one unprepared connection"])
    def unit_of_work(
        self, request: pytest.FixtureRequest, database: Database
    ) -> Iterator[PostgresUnitOfWork]:
        if request.param == "pool":
            yield PostgresUnitOfWork(database.user, service=database.service)
        else:
            engine = create_engine(database.sandbox.url("app_user"), **SINGLE)
            yield PostgresUnitOfWork(engine, service=database.service)
            engine.dispose()

    @pytest.fixture
    def totals(self, database: Database) -> Totals:
        return database.totals


class AwaitedPostgres(Postgres):
    """What is called directly on the unit of work is what `Postgres` has tried already."""

    @pytest.fixture
    def unit_of_work(self, database: Database) -> PostgresUnitOfWork:
        return PostgresUnitOfWork(database.user, service=database.service)

    @pytest.fixture
    def new_billing(self, database: Database) -> Iterator[NewBilling]:
        user = create_async_engine(database.sandbox.url("app_user"), pool_size=20)
        service = create_async_engine(database.sandbox.url("app_service"))
        unit_of_work = AsyncPostgresUnitOfWork(user, service=service)
        with running_loop() as loop:
            yield lambda **options: blocking(AsyncBilling(unit_of_work, **options), loop)
            for engine in (user, service):
                asyncio.run_coroutine_threadsafe(engine.dispose(), loop).result()


class CountedPostgres:
    @pytest.fixture
    def reached(self) -> Iterator[bad_input.Reached]:
        taken: list[object] = []

        def count(*connection: object) -> None:
            taken.append(connection)

        event.listen(Pool, "checkout", count)
        yield lambda: len(taken)
        event.remove(Pool, "checkout", count)


class TestBadInput(CountedPostgres, Postgres, bad_input.BadInputContract):
    @pytest.fixture
    def unit_of_work(self, database: Database) -> PostgresUnitOfWork:
        return PostgresUnitOfWork(database.user, service=database.service)


class TestAwaitedBadInput(CountedPostgres, AwaitedPostgres, bad_input.BadInputContract):
    pass


class TestSpending(Postgres, spending.SpendingContract):
    @pytest.fixture
    def new_spender(self, database: Database) -> NewBilling:
        return partial(Billing, PostgresUnitOfWork(database.spender))


class TestAwaitedSpending(AwaitedPostgres, spending.SpendingContract):
    @pytest.fixture
    def new_spender(self, database: Database) -> Iterator[NewBilling]:
        spender = create_async_engine(database.sandbox.url("app_spender"))
        with running_loop() as loop:
            unit_of_work = AsyncPostgresUnitOfWork(spender)
            yield lambda **options: blocking(AsyncBilling(unit_of_work, **options), loop)
            asyncio.run_coroutine_threadsafe(spender.dispose(), loop).result()


class TestPurchases(Postgres, purchases.PurchaseContract):
    pass


class TestCharges(Postgres, charges.ChargeContract):
    pass


class TestHolds(Postgres, holds.HoldContract):
    pass


class TestGrants(Postgres, grants.GrantContract):
    pass


class TestPurchaseBatches(Postgres, batches.PurchaseBatchContract):
    pass


class TestChargeBatches(Postgres, batches.ChargeBatchContract):
    pass


class TestSystemTenantSpends(Postgres, charges.SystemTenantSpendsContract):
    pass


class TestSharing(Postgres, sharing.SharingContract):
    pass


class TestRefunds(Postgres, refunds.RefundContract):
    pass


class TestDisputes(Postgres, disputes.DisputeContract):
    pass


class TestKnownFaults(Postgres, known_faults.KnownFaultContract):
    pass


class TestBalanceAt(Postgres, reading.BalanceAtContract):
    pass


class TestFilters(Postgres, reading.FilterContract):
    pass


class TestFind(Postgres, reading.FindContract):
    pass


class TestFolding(Postgres, reading.FoldingContract):
    pass


class TestVerifying(Postgres, verifying.VerifyingContract):
    pass


class TestScopes(Postgres, scopes.ScopeContract):
    pass


class TestTenants(Postgres, scopes.TenantContract):
    pass


class TestStatements(Postgres, statements.StatementContract):
    pass


class TestConcurrency(Postgres, concurrency.ConcurrencyContract):
    pass


class TestAwaitedPurchases(AwaitedPostgres, purchases.PurchaseContract):
    pass


class TestAwaitedCharges(AwaitedPostgres, charges.ChargeContract):
    pass


class TestAwaitedHolds(AwaitedPostgres, holds.HoldContract):
    pass


class TestAwaitedGrants(AwaitedPostgres, grants.GrantContract):
    pass


class TestAwaitedPurchaseBatches(AwaitedPostgres, batches.PurchaseBatchContract):
    pass


class TestAwaitedChargeBatches(AwaitedPostgres, batches.ChargeBatchContract):
    pass


class TestAwaitedSystemTenantSpends(AwaitedPostgres, charges.SystemTenantSpendsContract):
    pass


class TestAwaitedBalanceAt(AwaitedPostgres, reading.BalanceAtContract):
    pass


class TestAwaitedFilters(AwaitedPostgres, reading.FilterContract):
    pass


class TestAwaitedFind(AwaitedPostgres, reading.FindContract):
    pass


class TestAwaitedFolding(AwaitedPostgres, reading.FoldingContract):
    pass


class TestAwaitedStatements(AwaitedPostgres, statements.StatementContract):
    pass


class TestAwaitedConcurrency(AwaitedPostgres, concurrency.ConcurrencyContract):
    pass


class TestAwaitedVerifying(AwaitedPostgres, verifying.VerifyingContract):
    pass


class TestAwaitedSharing(AwaitedPostgres, sharing.SharingContract):
    pass


class TestAwaitedRefunds(AwaitedPostgres, refunds.RefundContract):
    pass


class TestAwaitedDisputes(AwaitedPostgres, disputes.DisputeContract):
    pass
