"""What holds on every adapter however many call at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from functools import partial
from threading import Barrier
from typing import TypeVar
from uuid import UUID

from cogni_billing import (
    SYSTEM_ACCOUNT_ID,
    Account,
    PaymentAlreadyClaimed,
    PurchaseReceipt,
    TenantId,
    credits,
    usd,
)
from cogni_billing.ports.scope import UnitOfWork
from contract.base import ALICE, NOON, Contract, NewBilling, Totals, purchase_totals

Result = TypeVar("Result")
CALLERS = 50


def at_once(calls: Sequence[Callable[[], Result]]) -> list[Result]:
    """The results of all *calls*, started together."""
    barrier = Barrier(len(calls))

    def started(call: Callable[[], Result]) -> Result:
        barrier.wait()
        return call()

    with ThreadPoolExecutor(len(calls)) as threads:
        return list(threads.map(started, calls))


class ConcurrencyContract(Contract):
    """Racing calls add up."""

    def test_fifty_confirmations_of_one_payment_credit_once(
        self, new_billing: NewBilling, totals: Totals
    ) -> None:
        billing = new_billing()

        def confirm() -> PurchaseReceipt:
            return billing.confirm_purchase(ALICE, usd("10.00"), payment="stripe:pi_1")

        receipts = at_once([confirm] * CALLERS)

        assert Counter(receipt.replayed for receipt in receipts) == {False: 1, True: CALLERS - 1}
        assert len({receipt.transaction_id for receipt in receipts}) == 1
        assert {receipt.balance for receipt in receipts} == {credits(100_000_000)}
        assert totals() == purchase_totals(ALICE, 100_000_000, 25_000_000)

    def test_of_twenty_tenants_racing_for_one_payment_one_gets_it(
        self, new_billing: NewBilling, totals: Totals
    ) -> None:
        billing = new_billing()
        tenants = [TenantId(UUID(int=number)) for number in range(1, 21)]

        def claim(tenant: TenantId) -> TenantId | None:
            try:
                billing.confirm_purchase(tenant, usd("10.00"), payment="stripe:pi_1")
            except PaymentAlreadyClaimed:
                return None
            return tenant

        winners = [
            winner for winner in at_once([partial(claim, tenant) for tenant in tenants]) if winner
        ]

        assert len(winners) == 1
        assert totals() == purchase_totals(winners[0], 100_000_000, 25_000_000)

    def test_purchases_of_one_tenant_at_once_leave_no_gap_between_balances(
        self, new_billing: NewBilling
    ) -> None:
        billing = new_billing()

        receipts = at_once(
            [
                partial(billing.confirm_purchase, ALICE, usd("1.00"), payment=f"stripe:{number}")
                for number in range(CALLERS)
            ]
        )

        balances = sorted(int(receipt.balance.value) for receipt in receipts)
        assert balances == [10_000_000 * n for n in range(1, CALLERS + 1)]
        lines = billing.statement(ALICE, limit=CALLERS).lines
        after = [line.balance_after for line in reversed(lines)]
        assert [int(balance.value) for balance in after] == balances

    def test_purchases_of_many_tenants_at_once_add_up_on_the_system_account(
        self, new_billing: NewBilling, totals: Totals
    ) -> None:
        billing = new_billing()
        tenants = [TenantId(UUID(int=number)) for number in range(1, CALLERS + 1)]

        at_once(
            [
                partial(billing.confirm_purchase, tenant, usd("0.03"), payment=f"stripe:{tenant}")
                for tenant in tenants
            ]
        )

        found = totals()
        assert found[SYSTEM_ACCOUNT_ID] == 75_000 * CALLERS
        assert sum(found.values(), Decimal(0)) == 0

    def test_concurrent_openings_agree_on_one_account(self, unit_of_work: UnitOfWork) -> None:
        def opened(second: int) -> Account:
            moment = NOON.replace(second=second)
            return unit_of_work.run(ALICE, lambda scope: scope.tenants.open_account(moment))

        accounts = at_once([partial(opened, second) for second in range(20)])

        assert len(set(accounts)) == 1
