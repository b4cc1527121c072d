"""What was acknowledged is there after the server was killed: once, and with its share."""

from __future__ import annotations

import queue
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path

import psutil
import pytest
from sqlalchemy import create_engine

from cogni_billing import (
    SYSTEM_TENANT_ID,
    Billing,
    LedgerUnavailable,
    OutcomeUnknown,
    TenantId,
    credits,
    usd,
)
from cogni_billing.adapters.postgres import PostgresUnitOfWork
from cogni_billing.adapters.postgres.embedded import EmbeddedPostgres
from contract.base import ALICE, BOB

CYCLES, CLIENTS, ACKNOWLEDGED = 10, 4, 25
CREDITED, SHARED = 10_000_000, 2_500_000  # credits for a dollar


@pytest.fixture
def data_dir() -> Iterator[Path]:
    """Where the account that serves may enter; pytest's own folders are private."""
    with tempfile.TemporaryDirectory(prefix="cogni-kills-") as name:
        Path(name).chmod(0o755)
        yield Path(name, "data")


def buy(billing: Billing, payment: str) -> bool:
    """Whether the ledger had *payment* already."""
    return billing.confirm_purchase(buyer(payment), usd("1.00"), payment=payment).replayed


def buyer(payment: str) -> TenantId:
    return ALICE if payment.endswith(("0", "2", "4", "6", "8")) else BOB


def buy_until_it_breaks(url: str, client: str, acknowledged: queue.SimpleQueue[str]) -> str:
    """The payment that got no answer."""
    engine = create_engine(url, pool_size=1, max_overflow=0)
    billing = Billing(PostgresUnitOfWork(engine))
    for payment in (f"stripe:{client}-{number}" for number in count()):
        try:
            assert not buy(billing, payment)
        except (LedgerUnavailable, OutcomeUnknown):
            break
        acknowledged.put(payment)
    engine.dispose()
    return payment


def killed_under_load(
    server: EmbeddedPostgres, data_dir: Path, cycle: int
) -> tuple[set[str], set[str]]:
    """The payments that were acknowledged before the server was killed, and those that were not."""
    acknowledged = queue.SimpleQueue[str]()
    postmaster = psutil.Process(int((data_dir / "postmaster.pid").read_text().split()[0]))
    with ThreadPoolExecutor(CLIENTS) as pool:
        clients = [
            pool.submit(
                buy_until_it_breaks,
                server.url("app_user"),
                f"{cycle}-{client}",
                acknowledged,
            )
            for client in range(CLIENTS)
        ]
        known = {acknowledged.get(timeout=60) for _ in range(ACKNOWLEDGED)}
        postmaster.kill()
        unknown = {client.result() for client in clients}
    while not acknowledged.empty():
        known.add(acknowledged.get())
    return known, unknown


def test_what_was_acknowledged_is_there_once_with_its_share(data_dir: Path) -> None:
    bought: set[str] = set()
    known: set[str] = set()
    unknown: set[str] = set()
    for cycle in range(CYCLES + 1):
        with EmbeddedPostgres(data_dir) as server:
            user, service = (
                create_engine(server.url(role)) for role in ("app_user", "app_service")
            )
            billing = Billing(PostgresUnitOfWork(user, service=service))

            assert all(buy(billing, payment) for payment in known)
            for payment in unknown:
                buy(billing, payment)
            bought |= known | unknown
            shared = billing.balance(SYSTEM_TENANT_ID).posted
            assert shared == credits(SHARED * len(bought))
            for tenant in (ALICE, BOB) if bought else ():
                mine = sum(buyer(payment) == tenant for payment in bought)
                assert billing.balance(tenant).posted == credits(CREDITED * mine)
            assert billing.verify().ok
            user.dispose()
            service.dispose()
            if cycle < CYCLES:
                known, unknown = killed_under_load(server, data_dir, cycle)
                assert len(known) >= ACKNOWLEDGED
