"""How often a call waits for the server: where the network is slow, that is what it takes."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest
from psycopg import Connection as DriverConnection
from sqlalchemy import Engine, create_engine

from cogni_billing import Billing, credits, usd
from cogni_billing.adapters.postgres import PostgresUnitOfWork, reset
from cogni_billing.testing.base import ALICE
from stack.conftest import Database

NEW: Final = itertools.count()
SENT: Final = re.compile(r"\tF\t\d+\t(?:Sync|Query)\b", re.MULTILINE)
"""A message of the client's after which it waits, as libpq writes it down."""


def purchases(billing: Billing, count: int) -> None:
    billing.confirm_purchases(
        {"tenant": ALICE, "amount": usd("1.00"), "payment": f"stripe:{next(NEW)}"}
        for _ in range(count)
    )


def replay(billing: Billing) -> None:
    billing.confirm_purchase(ALICE, usd("1.00"), payment="stripe:first")


def hold_and_capture(billing: Billing) -> None:
    hold = billing.hold(ALICE, credits(2), reference=f"run:{next(NEW)}")
    billing.capture(ALICE, hold.id, credits(1), reference=f"run:{next(NEW)}")


# BEGIN, the tenant, COMMIT, and what is in between.
CALLS: Final[dict[str, tuple[Callable[[Billing], object], int]]] = {
    "a purchase": (
        lambda b: b.confirm_purchase(ALICE, usd("1.00"), payment=f"stripe:{next(NEW)}"),
        4,
    ),
    "its replay": (replay, 5),
    "a charge": (lambda b: b.charge(ALICE, credits(1), reference=f"run:{next(NEW)}"), 4),
    "a grant": (
        lambda b: b.grant(ALICE, credits(1), reference=f"promo:{next(NEW)}", source="x"),
        4,
    ),
    "a hold and its capture": (hold_and_capture, 8),
    "a balance": (lambda b: b.balance(ALICE), 5),
    "a page": (lambda b: b.statement(ALICE), 5),
    "10 purchases": (lambda b: purchases(b, 10), 10),
    "1,000 purchases": (lambda b: purchases(b, 1_000), 10),
}


@pytest.fixture
def engine(database: Database) -> Iterator[Engine]:
    reset(database.migrator)
    engine = create_engine(database.sandbox.role("app_user"), pool_size=1, max_overflow=0)
    yield engine
    engine.dispose()


@contextmanager
def traced(engine: Engine, path: Path) -> Iterator[Path]:
    """What the pool's one connection sends and gets meanwhile is written there, by libpq."""
    with engine.connect() as connection:
        driver = connection.connection.driver_connection
    assert isinstance(driver, DriverConnection)
    with path.open("w") as file:
        driver.pgconn.trace(file.fileno())
        yield path
        driver.pgconn.untrace()


@pytest.mark.parametrize("call", CALLS)
def test_a_call_waits_for_the_server_so_often(call: str, engine: Engine, tmp_path: Path) -> None:
    billing = Billing(PostgresUnitOfWork(engine))
    done, expected = CALLS[call]
    replay(billing)
    done(billing)

    with traced(engine, tmp_path / "trace") as trace:
        done(billing)

    assert len(SENT.findall(trace.read_text())) == expected
