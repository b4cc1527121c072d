"""Many threads can share one in-memory ledger, and the sums are right."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID

from cogni_billing import (
    SYSTEM_ACCOUNT_ID,
    SYSTEM_TENANT_ID,
    AccountId,
    Billing,
    TenantId,
    credits,
    usd,
)
from cogni_billing.adapters.memory import InMemoryUnitOfWork
from cogni_billing.domain.identity import ISSUANCE
from cogni_billing.testing.base import ALICE

THREADS = 8


def at_once(count: int, work: Callable[[int], Any]) -> list[Any]:
    """The results of *work* for 0 to *count*, started by all threads together."""
    start = threading.Barrier(THREADS)

    def part(first: int) -> list[Any]:
        start.wait()
        return [work(number) for number in range(first, count, THREADS)]

    with ThreadPoolExecutor(THREADS) as threads:
        return [found for parts in threads.map(part, range(THREADS)) for found in parts]


def test_concurrent_confirmations_of_one_payment_record_it_once() -> None:
    unit_of_work = InMemoryUnitOfWork()
    billing = Billing(unit_of_work)

    receipts = at_once(
        200, lambda number: billing.confirm_purchase(ALICE, usd("10.00"), payment="a:p")
    )

    assert sorted(receipt.replayed for receipt in receipts) == [False] + [True] * 199
    assert len({receipt.transaction_id for receipt in receipts}) == 1
    assert unit_of_work._store.balances == {
        AccountId(ALICE): credits(100_000_000),
        SYSTEM_ACCOUNT_ID: credits(25_000_000),
        ISSUANCE: credits(-125_000_000),
    }


def test_many_payments_of_one_tenant_leave_one_balance_each() -> None:
    billing = Billing(InMemoryUnitOfWork())

    receipts = at_once(
        200, lambda number: billing.confirm_purchase(ALICE, usd("0.01"), payment=f"p:{number}")
    )

    assert sorted(int(receipt.balance.value) for receipt in receipts) == [
        100_000 * count for count in range(1, 201)
    ]
    assert billing.balance(ALICE).posted == credits(20_000_000)
    assert billing.balance(SYSTEM_TENANT_ID).posted == credits(5_000_000)


def test_many_payments_of_many_tenants_add_up() -> None:
    billing = Billing(InMemoryUnitOfWork())
    tenants = [TenantId(UUID(int=number)) for number in range(1, 21)]

    at_once(
        200,
        lambda number: billing.confirm_purchase(
            tenants[number % 20], usd("0.03"), payment=f"p:{number}"
        ),
    )

    assert {billing.balance(tenant).posted for tenant in tenants} == {credits(3_000_000)}
    assert billing.balance(SYSTEM_TENANT_ID).posted == credits(15_000_000)


def test_positions_on_the_shared_account_have_no_gap() -> None:
    billing = Billing(InMemoryUnitOfWork())

    at_once(
        200,
        lambda number: billing.confirm_purchase(
            TenantId(UUID(int=number + 1)), usd(1), payment=f"p:{number}"
        ),
    )

    lines = billing.statement(SYSTEM_TENANT_ID, limit=1000).lines
    assert [line.position for line in lines] == list(range(200, 0, -1))
