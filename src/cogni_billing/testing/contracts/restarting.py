"""Contract: acknowledged work survives a crash of the store, once and with its shares."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from decimal import Decimal
from itertools import count
from typing import Final

from attrs import define, field

from cogni_billing import (
    SYSTEM_TENANT_ID,
    AccountId,
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
"""Kills the store during open calls, starts it again, and opens a unit of work over its data.

From then on, `totals` must read the restarted store.
"""


def buyer(payment: str) -> TenantId:
    """Alice for half of the payments, Bob for the others."""
    return ALICE if payment.endswith(("0", "2", "4", "6", "8")) else BOB


def buy(billing: Billing, payment: str) -> bool:
    """Confirm *payment*. True if it was recorded before."""
    return billing.confirm_purchase(buyer(payment), usd("1.00"), payment=payment).replayed


@define
class Load:
    """Clients that buy in a loop until the store fails or has restarted."""

    billing: Billing
    acknowledged: queue.SimpleQueue[str | None] = field(factory=queue.SimpleQueue)
    """Acknowledged payments, and `None` for each client that has ended."""
    stopping: threading.Event = field(factory=threading.Event)
    restarted: threading.Event = field(factory=threading.Event)

    def buy_on(self, client: str) -> str | None:
        """Buy in a loop. Returns the payment without an answer, if any."""
        try:
            for number in count():
                if self.restarted.is_set():
                    return None
                payment = f"stripe:{client}-{number}"
                try:
                    assert not buy(self.billing, payment)
                except (LedgerUnavailable, OutcomeUnknown):
                    assert self.stopping.is_set(), "the store failed before it was killed"
                    return payment
                self.acknowledged.put(payment)
            raise AssertionError
        finally:
            self.acknowledged.put(None)

    def some(self, clients: Sequence[Future[str | None]]) -> set[str]:
        """Some acknowledged payments. Raises the error of a client that ended too early."""
        known = set[str]()
        while len(known) < ACKNOWLEDGED:
            payment = self.acknowledged.get(timeout=PATIENCE_S)
            if payment is None:
                for client in clients:
                    if client.done():
                        client.result()
            else:
                known.add(payment)
        return known

    def others(self) -> set[str]:
        """The payments acknowledged since."""
        found = set[str]()
        while not self.acknowledged.empty():
            payment = self.acknowledged.get()
            if payment is not None:
                found.add(payment)
        return found


class RestartContract(Contract):
    """The store is killed under load, several times."""

    CYCLES = 3

    def test_acknowledged_purchases_are_recorded_once_with_their_share(
        self, unit_of_work: UnitOfWork, restart: Restart, totals: Totals
    ) -> None:
        bought: set[str] = set()
        billing = Billing(unit_of_work)
        for cycle in range(self.CYCLES):
            load = Load(billing)
            with ThreadPoolExecutor(CLIENTS) as pool:
                clients = [pool.submit(load.buy_on, f"{cycle}-{n}") for n in range(CLIENTS)]
                try:
                    known = load.some(clients)
                    load.stopping.set()
                    billing = Billing(restart())
                finally:
                    load.restarted.set()
                unknown = {found for client in clients if (found := client.result()) is not None}
            known |= load.others()

            assert unknown, "no call was broken off: was the store killed?"
            assert all(buy(billing, payment) for payment in known)
            for payment in unknown:
                buy(billing, payment)
            bought |= known | unknown
            self.adds_up(billing, bought, totals())

    @staticmethod
    def adds_up(billing: Billing, bought: set[str], totals: dict[AccountId, Decimal]) -> None:
        """Check that each payment is recorded once, with its share."""
        for tenant in (ALICE, BOB):
            payments = sum(buyer(payment) == tenant for payment in bought)
            assert billing.balance(tenant).posted == credits(CREDITED * payments)
            assert totals[AccountId(tenant)] == CREDITED * payments
        assert billing.balance(SYSTEM_TENANT_ID).posted == credits(SHARED * len(bought))
        assert sum(totals.values()) == 0
        assert billing.verify().violations == ()
