"""Conformance of the PostgreSQL adapter, sync and async."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from functools import partial
from uuid import UUID

import pytest
from hypothesis import settings
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from cogni_billing import AsyncBilling, AsyncPaymentAttempts, Billing
from cogni_billing.adapters.memory import InMemoryUnitOfWork
from cogni_billing.adapters.postgres import AsyncPostgresUnitOfWork, PostgresUnitOfWork, reset
from cogni_billing.ports.scope import UnitOfWork
from cogni_billing.testing import (
    BreakingOffContract,
    BreakOff,
    DurableConformance,
    Falsify,
    FindingContract,
    IsolatedConformance,
    NewAttempts,
    NewBilling,
    NewUnitOfWork,
    Reached,
    Restart,
    RestartContract,
    SpendingContract,
    Totals,
    blocking,
    blocking_attempts,
    reaching,
    running_loop,
)
from cogni_billing.testing.machine import run
from stack.conftest import Database
from stack.support.breaking import WAYS
from stack.support.killable import Killable, killable

FALSIFY = text("""
    UPDATE cogni_billing.transactions SET amount = amount + 1 WHERE id = :id
""")


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    with running_loop() as loop:
        yield loop


@pytest.fixture(scope="module")
def awaited(
    shared: Database, loop: asyncio.AbstractEventLoop
) -> Iterator[Callable[[str], AsyncEngine]]:
    """Create an engine of the event loop for each role."""
    engines: dict[str, AsyncEngine] = {}

    def engine(role: str) -> AsyncEngine:
        if role not in engines:
            engines[role] = create_async_engine(shared.sandbox.url(role), pool_size=20)
        return engines[role]

    yield engine
    for made in engines.values():
        asyncio.run_coroutine_threadsafe(dispose(made), loop).result()


class Called(IsolatedConformance):
    @pytest.fixture
    def new_unit_of_work(self, shared: Database) -> NewUnitOfWork:
        def new() -> PostgresUnitOfWork:
            reset(shared.migrator)
            return PostgresUnitOfWork(shared.user, service=shared.service)

        return new

    @pytest.fixture
    def totals(self, shared: Database) -> Totals:
        return shared.totals


class TestPostgres(Called, DurableConformance):
    @pytest.fixture(params=WAYS)
    def break_off(self, request: pytest.FixtureRequest, shared: Database) -> BreakOff:
        return partial(WAYS[request.param], shared)

    @pytest.mark.exhaustive
    class TestBreakingOff(BreakingOffContract):
        pass

    @pytest.mark.exhaustive
    class TestModel:
        def test_both_ledgers_follow_the_model(self, new_unit_of_work: NewUnitOfWork) -> None:
            steps = run(
                [
                    lambda: partial(Billing, InMemoryUnitOfWork()),
                    lambda: partial(Billing, new_unit_of_work()),
                ],
                settings().max_examples // 4,
                anew=not settings().derandomize,
            )

            assert steps >= 2_000

    class TestFinding(FindingContract):
        @pytest.fixture
        def falsify(self, shared: Database) -> Falsify:
            def change(transaction_id: UUID) -> None:
                with shared.admin.begin() as connection:
                    connection.execute(text("SET LOCAL session_replication_role = replica"))
                    connection.execute(FALSIFY, {"id": transaction_id})

            return change

    class TestRestart(RestartContract):
        CYCLES = 10

        @pytest.fixture
        def server(self) -> Iterator[Killable]:
            with killable() as server:
                yield server

        @pytest.fixture
        def unit_of_work(self, server: Killable) -> UnitOfWork:
            return server.unit_of_work()

        @pytest.fixture
        def restart(self, server: Killable) -> Restart:
            return server.restart

        @pytest.fixture
        def totals(self, server: Killable) -> Totals:
            return server.totals

    class TestSpending(SpendingContract):
        @pytest.fixture
        def new_spender(self, shared: Database) -> NewBilling:
            return partial(Billing, PostgresUnitOfWork(shared.spender))


class TestAwaitedPostgres(Called):
    class TestModel:
        """Covered above: it makes sync calls."""

    @pytest.fixture
    def new_billing(
        self,
        unit_of_work: PostgresUnitOfWork,
        awaited: Callable[[str], AsyncEngine],
        loop: asyncio.AbstractEventLoop,
    ) -> NewBilling:
        ours = AsyncPostgresUnitOfWork(awaited("app_user"), service=awaited("app_service"))
        return lambda **options: blocking(AsyncBilling(ours, **options), loop)

    @pytest.fixture
    def new_attempts(
        self,
        unit_of_work: PostgresUnitOfWork,
        awaited: Callable[[str], AsyncEngine],
        loop: asyncio.AbstractEventLoop,
    ) -> NewAttempts:
        ours = AsyncPostgresUnitOfWork(awaited("app_user"), service=awaited("app_service"))
        return lambda **options: blocking_attempts(AsyncPaymentAttempts(ours, **options), loop)

    @pytest.fixture
    def reached(self, monkeypatch: pytest.MonkeyPatch) -> Reached:
        return reaching(AsyncPostgresUnitOfWork, monkeypatch)

    class TestSpending(SpendingContract):
        @pytest.fixture
        def new_spender(
            self, awaited: Callable[[str], AsyncEngine], loop: asyncio.AbstractEventLoop
        ) -> NewBilling:
            ours = AsyncPostgresUnitOfWork(awaited("app_spender"))
            return lambda **options: blocking(AsyncBilling(ours, **options), loop)


async def dispose(engine: AsyncEngine) -> None:
    await engine.dispose()
