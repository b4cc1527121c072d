"""A cancelled task leaves all of its call or none of it, and no tenant on the connection."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.ext.asyncio import create_async_engine

from cogni_billing import (
    AccountId,
    AsyncBilling,
    InvalidInput,
    LedgerUnavailable,
    credits,
    usd,
)
from cogni_billing.adapters.postgres import AsyncPostgresUnitOfWork
from cogni_billing.testing.base import ALICE, BOB
from stack.conftest import Database

CONTEXT = text("SELECT current_setting('app.current_user_id', true)")
WAITING = text("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'")


@asynccontextmanager
async def awaited_billing(database: Database, **options: object) -> AsyncIterator[AsyncBilling]:
    """Build a billing over a pool of one connection, which every call shares."""
    engine = create_async_engine(
        database.sandbox.url("app_user"), pool_size=1, max_overflow=0, **options
    )
    try:
        yield AsyncBilling(AsyncPostgresUnitOfWork(engine))
    finally:
        await engine.dispose()


async def context_on_the_pool(billing: AsyncBilling) -> object:
    unit_of_work = billing.unit_of_work
    assert isinstance(unit_of_work, AsyncPostgresUnitOfWork)
    async with unit_of_work._engine.connect() as connection:
        return await connection.scalar(CONTEXT)


def test_task_cancelled_while_waiting_for_a_lock_leaves_no_row(database: Database) -> None:
    async def scenario(billing: AsyncBilling) -> None:
        await billing.confirm_purchase(ALICE, usd("1.00"), payment="stripe:pi_1")
        with database.admin.connect() as blocker:
            blocker.execute(
                text("SELECT FROM cogni_billing.wallets WHERE tenant_id = :t FOR UPDATE"),
                {"t": ALICE},
            )
            task = asyncio.create_task(billing.charge(ALICE, credits(5), reference="run-1"))
            with database.admin.connect() as observer:
                while not task.done() and not observer.scalar(WAITING):
                    observer.rollback()
                    await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert await context_on_the_pool(billing) in (None, "")
        receipt = await billing.charge(ALICE, credits(5), reference="run-1")
        assert not receipt.replayed
        assert receipt.balance == credits(9_999_995)

    async def main() -> None:
        async with awaited_billing(database) as billing:
            await scenario(billing)

    asyncio.run(main())


@pytest.mark.parametrize("steps", range(12))
def test_a_task_cancelled_at_any_await_is_all_or_nothing(database: Database, steps: int) -> None:
    async def main() -> None:
        async with awaited_billing(database) as billing:
            await billing.open_account(BOB)
            task = asyncio.create_task(
                billing.confirm_purchase(ALICE, usd("1.00"), payment="stripe:pi_1")
            )
            for _ in range(steps):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

            assert sum(database.totals().values()) == 0
            assert len(database.totals()) in (0, 3)
            assert await context_on_the_pool(billing) in (None, "")
            receipt = await billing.confirm_purchase(ALICE, usd("1.00"), payment="stripe:pi_1")
            assert receipt.balance == credits(10_000_000)

    asyncio.run(main())
    assert database.totals()[AccountId(ALICE)] == 10_000_000


@pytest.mark.parametrize("times", [1, 2])
def test_a_call_that_another_transaction_disturbed_is_made_again(
    database: Database, times: int
) -> None:
    disturbances = iter(["DO $$ BEGIN RAISE serialization_failure; END $$"] * times)

    class Disturbed(psycopg.AsyncCursor[Any]):
        async def execute(self, query: Any, params: Any = None, **more: Any) -> Any:
            if "cogni_billing" in str(query) and (disturbance := next(disturbances, None)):
                query, params = disturbance, None
            return await super().execute(query, params, **more)

    async def main() -> None:
        arguments = {"cursor_factory": Disturbed}
        async with awaited_billing(database, connect_args=arguments) as billing:
            assert not (await billing.confirm_purchase(ALICE, usd("1.00"), payment="a:p")).replayed

    asyncio.run(main())
    assert next(disturbances, None) is None
    assert database.totals()[AccountId(ALICE)] == 10_000_000


def test_tenants_interleave_on_one_connection_and_each_sees_its_own(database: Database) -> None:
    async def main() -> None:
        async with awaited_billing(database) as billing:
            for tenant, dollars in ((ALICE, 1), (BOB, 2)):
                await billing.confirm_purchase(tenant, usd(dollars), payment=f"stripe:{tenant}")
            balances = await asyncio.gather(
                *(billing.balance(tenant) for tenant in (ALICE, BOB) * 20)
            )
            assert [balance.posted for balance in balances] == [
                credits(10_000_000),
                credits(20_000_000),
            ] * 20

    asyncio.run(main())


def test_a_server_that_cannot_be_reached_is_unavailable() -> None:
    async def main() -> None:
        engine = create_async_engine("postgresql+psycopg://nobody@127.0.0.1:1/none")
        unit_of_work = AsyncPostgresUnitOfWork(engine, retry_for=timedelta(0))
        with pytest.raises(LedgerUnavailable):
            await AsyncBilling(unit_of_work).open_account(ALICE)
        await engine.dispose()

    asyncio.run(main())


def test_an_engine_of_the_other_kind_is_refused(database: Database) -> None:
    with pytest.raises(InvalidInput) as caught:
        AsyncPostgresUnitOfWork(database.user)  # type: ignore[arg-type]
    assert (caught.value.field, caught.value.given) == ("engine", "a Engine")
    assert "AsyncEngine" in caught.value.expected
    with pytest.raises(InvalidInput) as caught:
        AsyncPostgresUnitOfWork(
            create_async_engine("postgresql+psycopg://x@/y"),
            service=create_engine("sqlite://"),  # type: ignore[arg-type]
        )
    assert (caught.value.field, caught.value.given) == ("service", "a Engine")
    assert "AsyncEngine" in caught.value.expected
