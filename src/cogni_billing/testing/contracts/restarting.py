"""What was acknowledged is there after the store was killed: once, and with its share."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from typing import Final

from cogni_billing import (
    SYSTEM_TENANT_ID,
    Billing,
    LedgerUnavailable,
    OutcomeUnknown,
    TenantId,
    credits,
    usd,
)
from cogni_billing.ports.scope import UnitOfWork
from cogni_billing.testing.base import ALICE, BOB, Contract, Totals

CREDITED, SHARED = 10_000_000, 2_500_000  # credits for a dollar
CLIENTS, ACKNOWLEDGED = 4, 25
PATIENCE_S: Final = 60.0

Restart = Callable[[], UnitOfWork]
"""Kills the store as suddenly as can be, starts it again, and makes a unit of work over what it
has kept.
"""


def buyer(payment: str) -> TenantId:
    """Half of the payments are Alice's."""
    return ALICE if payment.endswith(("0", "2", "4", "6", "8")) else BOB


def buy(billing: Billing, payment: str) -> bool:
    """Whether the ledger had *payment* already."""
    return billing.confirm_purchase(buyer(payment), usd("1.00"), payment=payment).replayed


class RestartContract(Contract):
    """The store is killed under load, again and again."""

    CYCLES = 3

    def test_what_was_acknowledged_is_there_once_with_its_share(
        self, unit_of_work: UnitOfWork, restart: Restart, totals: Totals
    ) -> None:
        bought: set[str] = set()
        billing = Billing(unit_of_work)
        for cycle in range(self.CYCLES):
            stopping = threading.Event()
            acknowledged = queue.SimpleQueue[str]()
            with ThreadPoolExecutor(CLIENTS) as pool:
                clients = [
                    pool.submit(self.buy_on, billing, f"{cycle}-{n}", acknowledged, stopping)
                    for n in range(CLIENTS)
                ]
                known = {acknowledged.get(timeout=PATIENCE_S) for _ in range(ACKNOWLEDGED)}
                stopping.set()
                billing = Billing(restart())
                unknown = {client.result() for client in clients}
            while not acknowledged.empty():
                known.add(acknowledged.get())

            assert all(buy(billing, payment) for payment in known)
            for payment in unknown:
                buy(billing, payment)
            bought |= known | unknown
            self.adds_up(billing, bought)
        assert sum(totals().values()) == 0

    @staticmethod
    def buy_on(
        billing: Billing,
        client: str,
        acknowledged: queue.SimpleQueue[str],
        stopping: threading.Event,
    ) -> str:
        """Buy until it fails; the payment that got no answer."""
        for number in count():
            payment = f"stripe:{client}-{number}"
            try:
                assert not buy(billing, payment)
            except (LedgerUnavailable, OutcomeUnknown):
                assert stopping.is_set()
                return payment
            acknowledged.put(payment)
        raise AssertionError

    @staticmethod
    def adds_up(billing: Billing, bought: set[str]) -> None:
        """Each payment is there once, with its share."""
        assert billing.balance(SYSTEM_TENANT_ID).posted == credits(SHARED * len(bought))
        for tenant in (ALICE, BOB):
            payments = sum(buyer(payment) == tenant for payment in bought)
            assert billing.balance(tenant).posted == credits(CREDITED * payments)
        assert billing.verify().ok
