"""Round trips of each call. On a slow network they take most of its time."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Final, TypeAlias
from uuid import UUID

import pytest
from attrs import define, field
from psycopg import Connection as DriverConnection
from sqlalchemy import Engine, create_engine

from cogni_billing import (
    Billing,
    GrantSchedule,
    InsufficientCredits,
    Overrun,
    credits,
    usd,
)
from cogni_billing.adapters.postgres import PostgresUnitOfWork, reset
from cogni_billing.testing.base import ALICE, NOON, MovableClock
from stack.conftest import Database

NEW: Final = itertools.count()
HOUR: Final = timedelta(hours=1)
SENT: Final = re.compile(r"\tF\t\d+\t(?:Sync|Query)\b", re.MULTILINE)
"""A message in libpq's trace after which the client waits."""
LIMIT: Final = 1000
"""The number of due holds and grants that one call posts."""


@define
class Caller:
    """Makes Alice's calls, each with a new key unless the call is repeated."""

    billing: Billing
    key: str = "key:first"
    holds: list[UUID] = field(factory=list)
    grants: list[UUID] = field(factory=list)

    def anew(self) -> None:
        """Use another key."""
        self.key = f"key:{next(NEW)}"

    def prepare(self) -> None:
        """Make a hold and a grant for the next call."""
        self.holds, self.grants = [self.hold()], [self.grant()]

    def grant(self) -> UUID:
        return self.billing.grant(
            ALICE, credits(1), source="x", reference=f"{self.key}:grant", expires_in=HOUR
        ).transaction_id

    def hold(self) -> UUID:
        return self.billing.hold(ALICE, credits(2), reference=self.key).id

    def purchases(self, count: int) -> None:
        self.billing.confirm_purchases(
            {"tenant": ALICE, "amount": usd("1.00"), "payment": f"{self.key}:{number}"}
            for number in range(count)
        )


Call: TypeAlias = Callable[[Caller], object]
KEYED: Final[dict[str, Call]] = {
    "confirm_purchase": lambda c: c.billing.confirm_purchase(ALICE, usd("1.00"), payment=c.key),
    "charge": lambda c: c.billing.charge(ALICE, credits(1), reference=c.key),
    "grant": lambda c: c.billing.grant(ALICE, credits(1), source="x", reference=c.key),
    "hold": lambda c: c.hold(),
    "capture": lambda c: c.billing.capture(ALICE, c.holds[0], credits(1), reference=c.key),
    "capture of a part": lambda c: c.billing.capture(
        ALICE, c.holds[0], credits(3), reference=c.key, final=False, overrun=Overrun.AVAILABLE
    ),
    "extend": lambda c: c.billing.extend(ALICE, c.holds[0], credits(1), reference=c.key),
    "release": lambda c: c.billing.release(ALICE, c.holds[0]),
    "release of a part": lambda c: c.billing.release(
        ALICE, c.holds[0], credits(1), reference=c.key
    ),
    "void_grant": lambda c: c.billing.void_grant(ALICE, c.grants[0], reference=c.key),
    "extend_grant": lambda c: c.billing.extend_grant(
        ALICE, c.grants[0], reference=c.key, expires_in=2 * HOUR
    ),
    "schedule_grants": lambda c: c.billing.schedule_grants(
        ALICE, GrantSchedule("x", credits(1), every="month"), reference=c.key
    ),
    "open_account": lambda c: c.billing.open_account(ALICE),
    "10 purchases": lambda c: c.purchases(10),
    "1,000 purchases": lambda c: c.purchases(1_000),
}
READS: Final[dict[str, Call]] = {
    "balance": lambda c: c.billing.balance(ALICE),
    "balance at a moment": lambda c: c.billing.balance(ALICE, at=NOON),
    "statement": lambda c: c.billing.statement(ALICE),
    "grants": lambda c: c.billing.grants(ALICE),
    "lots": lambda c: c.billing.lots(ALICE),
    "all grants": lambda c: c.billing.grants(ALICE, spent=True),
    "schedules": lambda c: c.billing.schedules(ALICE),
    "find_hold": lambda c: c.billing.find_hold(ALICE, "first"),
    "holds": lambda c: c.billing.holds(ALICE),
    "find": lambda c: c.billing.find(ALICE, kind="purchase", reference="first"),
    "find, and there is none": lambda c: c.billing.find(ALICE, kind="charge", reference="none"),
}
ENGINES: Final[dict[str, dict[str, object]]] = {
    "prepared": {},
    "not prepared": {"prepare_threshold": None},
}


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest, database: Database) -> Iterator[Engine]:
    reset(database.migrator)
    engine = create_engine(
        database.sandbox.role("app_user"),
        pool_size=1,
        max_overflow=0,
        connect_args=ENGINES[request.param],
    )
    yield engine
    engine.dispose()


@pytest.fixture
def caller(engine: Engine) -> Caller:
    """Build a caller after Alice has bought. The driver's statements are prepared."""
    caller = Caller(Billing(PostgresUnitOfWork(engine)))
    KEYED["confirm_purchase"](caller)
    return caller


@contextmanager
def traced(engine: Engine, path: Path) -> Iterator[Path]:
    """Make libpq write the messages of the pool's only connection to *path* inside the block."""
    with engine.connect() as connection:
        driver = connection.connection.driver_connection
    assert isinstance(driver, DriverConnection)
    with path.open("w") as file:
        driver.pgconn.trace(file.fileno())
        yield path
        driver.pgconn.untrace()


def round_trips(engine: Engine, path: Path, call: Callable[[], object]) -> int:
    with traced(engine, path) as trace:
        call()
    return len(SENT.findall(trace.read_text()))


def warmed(caller: Caller, call: Call) -> None:
    """Make the call often enough for the driver to prepare its statement."""
    for _ in range(7):
        caller.anew()
        caller.prepare()
        call(caller)
    caller.anew()
    caller.prepare()
    caller.anew()


@pytest.mark.parametrize("name", KEYED)
def test_a_call_and_its_replay_take_one_round_trip_each(
    name: str, caller: Caller, engine: Engine, tmp_path: Path
) -> None:
    call = KEYED[name]
    warmed(caller, call)

    first = round_trips(engine, tmp_path / "first", lambda: call(caller))
    replay = round_trips(engine, tmp_path / "replay", lambda: call(caller))

    assert (first, replay) == (1, 1)


@pytest.mark.parametrize("name", READS)
def test_a_read_takes_one_round_trip(
    name: str, caller: Caller, engine: Engine, tmp_path: Path
) -> None:
    call = READS[name]
    warmed(caller, call)

    assert round_trips(engine, tmp_path / "trace", lambda: call(caller)) == 1


@pytest.mark.parametrize("due", [0, 1, 50, LIMIT - 1])
def test_a_refused_charge_takes_one_round_trip_however_much_is_due(
    due: int, engine: Engine, tmp_path: Path
) -> None:
    clock = MovableClock()
    billing = Billing(PostgresUnitOfWork(engine), clock=clock)
    billing.grant(ALICE, credits(1), source="x", reference="kept")
    grants_that_expire(billing, due, clock)
    clock.move(2 * HOUR)

    assert round_trips(engine, tmp_path / "trace", lambda: refused_charge(billing)) == 1
    assert billing.balance(ALICE).posted == credits(1)


@pytest.mark.parametrize(
    ("holds_first", "calls"),
    [(True, 3), (False, 2)],  # with granted credits on hold, no grant has credits left to expire
)
def test_settling_2_500_holds_and_grants_takes_a_call_for_each_thousand(
    database: Database, engine: Engine, tmp_path: Path, *, holds_first: bool, calls: int
) -> None:
    clock = MovableClock()
    billing = Billing(PostgresUnitOfWork(engine), clock=clock)
    billing.confirm_purchase(ALICE, usd("1.00"), payment="a:p")
    for make in (holds_that_expire, grants_that_expire)[:: 1 if holds_first else -1]:
        make(billing, 1_250, clock)
    clock.move(2 * HOUR)

    taken = round_trips(engine, tmp_path / "trace", lambda: refused_charge(billing))

    assert taken == calls
    balance = billing.balance(ALICE)
    assert (balance.posted, balance.held) == (credits(10_000_000), credits(0))
    service = PostgresUnitOfWork(database.user, service=database.service)
    verification = Billing(service, clock=clock).verify()
    assert verification.violations == ()
    assert verification.transactions == 1 + 2 * 1_250


def grants_that_expire(billing: Billing, count: int, clock: MovableClock) -> None:
    """Grant one credit each, each with its own expiry."""
    for number in range(count):
        billing.grant(
            ALICE,
            credits(1),
            source="x",
            reference=f"grant:{number}",
            expires_at=clock.now() + HOUR + timedelta(milliseconds=number),
        )


def holds_that_expire(billing: Billing, count: int, clock: MovableClock) -> None:
    """Hold two credits each, so that some of them are of grants."""
    for number in range(count):
        billing.hold(
            ALICE,
            credits(2),
            reference=f"hold:{number}",
            expires_at=clock.now() + HOUR + timedelta(milliseconds=number),
        )


def refused_charge(billing: Billing) -> None:
    with suppress(InsufficientCredits):
        billing.charge(ALICE, credits(10**12), reference="refused")
        raise AssertionError
