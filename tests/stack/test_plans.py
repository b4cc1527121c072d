"""Every call finds its few rows by an index, even with a long history.

The server counts the rows that statements read, including those in functions and triggers. The
ledger has thousands of rows, and a call may read only a few. A scan, or an index that finds the
tenant but not the row, reads thousands.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from datetime import timedelta
from uuid import UUID

import psycopg
import pytest
from sqlalchemy import Engine, create_engine, text

from cogni_billing import (
    SYSTEM_TENANT_ID,
    Billing,
    GrantSchedule,
    Rollover,
    credits,
    usd,
)
from cogni_billing.adapters.postgres import PostgresUnitOfWork, reset
from cogni_billing.testing.base import ALICE, BOB, NOON, CountingIds, SteppingClock
from stack.conftest import Database

OTHERS = [UUID(int=2**90 + number) for number in range(1000)]
HISTORY = 1000
# So often that the server plans for the parameters' values, and then keeps a generic plan.
REPEATED = 12
FEW = 150
SOON = timedelta(days=1)

_READ = text("""
    SELECT coalesce(sum(seq_tup_read + coalesce(idx_tup_fetch, 0)), 0)
    FROM pg_stat_user_tables
    WHERE schemaname = 'cogni_billing'
""")
Call = Callable[[Billing, int], object]


def captured(billing: Billing, n: int) -> None:
    hold = billing.hold(ALICE, credits(2), reference=f"captured-{n}")
    billing.capture(ALICE, hold.id, credits(1), reference=f"capture-{n}")


def released(billing: Billing, n: int) -> None:
    billing.release(ALICE, billing.hold(ALICE, credits(2), reference=f"released-{n}").id)


def changed(billing: Billing, n: int) -> None:
    hold = billing.hold(ALICE, credits(2), reference=f"changed-{n}")
    billing.extend(ALICE, hold.id, credits(2), expires_in=SOON, reference=f"changed-{n}")
    billing.capture(ALICE, hold.id, credits(1), reference=f"part-{n}", final=False)
    billing.release(ALICE, hold.id, credits(1), reference=f"changed-{n}")
    billing.capture(ALICE, hold.id, credits(1), reference=f"changed-{n}")


def granted(billing: Billing, n: int) -> None:
    at = billing.statement(ALICE, limit=1).lines[0].at
    billing.grant(
        ALICE, credits(1), source="promo:b", reference=f"granted-{n}", expires_at=at + SOON
    )


def extended_and_voided(billing: Billing, n: int) -> None:
    at = billing.statement(ALICE, limit=1).lines[0].at
    made = billing.grant(
        ALICE, credits(1), source="promo:b", reference=f"voided-{n}", expires_at=at + SOON
    )
    billing.extend_grant(
        ALICE, made.transaction_id, reference=f"extended-{n}", expires_at=at + 2 * SOON
    )
    billing.void_grant(ALICE, made.transaction_id, reference=f"voided-{n}")


def scheduled(billing: Billing, n: int) -> None:
    plan = GrantSchedule("plan", credits(2), every="month", rollover=Rollover(credits(1)))
    first = billing.schedule_grants(ALICE, plan, reference=f"first-{n}")
    made = billing.schedule_grants(ALICE, plan, reference=f"second-{n}", replaces=first.id)
    billing.schedules(ALICE, limit=10)
    billing.end_schedule(ALICE, made.id)


def won(billing: Billing, n: int) -> None:
    billing.open_dispute(ALICE, payment=f"old:{n}", reference=f"won-{n}")
    billing.win_dispute(ALICE, payment=f"old:{n}", reference=f"won-{n}")


def lost(billing: Billing, n: int) -> None:
    billing.open_dispute(ALICE, payment=f"old:{n + 100}", reference=f"lost-{n}")
    billing.lose_dispute(ALICE, payment=f"old:{n + 100}", reference=f"lost-{n}")


CALLS: dict[str, tuple[Call, int]] = {
    "open_account": (lambda billing, n: billing.open_account(UUID(int=2**80 + n)), FEW),
    "confirm_purchase": (
        lambda billing, n: billing.confirm_purchase(ALICE, usd("1.00"), payment=f"new:{n}"),
        FEW,
    ),
    "confirm_purchases": (
        lambda billing, n: billing.confirm_purchases(
            {"tenant": tenant, "amount": usd("1.00"), "payment": f"new:{tenant}-{n}"}
            for tenant in OTHERS[:3]
        ),
        FEW,
    ),
    "charge": (
        lambda billing, n: billing.charge(ALICE, credits(1), reference=f"charge-{n}"),
        FEW,
    ),
    "charge, again": (
        lambda billing, n: billing.charge(ALICE, credits(1), reference="old:1"),
        FEW,
    ),
    "charge_many": (
        lambda billing, n: billing.charge_many(
            {"tenant": tenant, "amount": credits(1), "reference": f"charge-{n}"}
            for tenant in OTHERS[:3]
        ),
        FEW,
    ),
    "hold, capture": (captured, FEW),
    "hold, release": (released, FEW),
    "hold, extend, capture, release, capture": (changed, 3 * FEW),
    "find_hold": (lambda billing, n: billing.find_hold(ALICE, "old:1"), FEW),
    "holds": (lambda billing, n: billing.holds(ALICE, limit=10), FEW),
    "grant": (granted, FEW),
    "grant, extend_grant, void_grant": (extended_and_voided, 2 * FEW),
    "schedule_grants, schedules, end_schedule": (scheduled, 6 * FEW),
    "refund": (
        lambda billing, n: billing.refund(ALICE, payment=f"old:{n + 200}", reference=f"re-{n}"),
        FEW,
    ),
    "confirm_purchase, expires_in": (
        lambda billing, n: billing.confirm_purchase(
            BOB, usd("1.00"), payment=f"new-lot:{n}", expires_in=SOON
        ),
        FEW,
    ),
    "charge, of lots": (
        lambda billing, n: billing.charge(BOB, credits(1), reference=f"lot-{n}"),
        FEW,
    ),
    "refund, of a lot": (
        lambda billing, n: billing.refund(BOB, payment=f"lot:{n}", reference=f"lot-{n}"),
        FEW,
    ),
    "statement, of lots": (lambda billing, n: billing.statement(BOB, limit=10), FEW),
    "lots": (lambda billing, n: billing.lots(BOB), FEW),
    "open_dispute, win_dispute": (won, 2 * FEW),
    "open_dispute, lose_dispute": (lost, 2 * FEW),
    "balance": (lambda billing, n: billing.balance(ALICE), FEW),
    "balance, then": (lambda billing, n: billing.balance(ALICE, at=NOON + SOON), FEW),
    "balance, of the system": (
        lambda billing, n: billing.balance(SYSTEM_TENANT_ID),
        FEW,
    ),
    "statement": (lambda billing, n: billing.statement(ALICE, limit=10), FEW),
    "statement, of a time": (
        lambda billing, n: billing.statement(ALICE, since=NOON, limit=10),
        FEW,
    ),
    "statement, of the system": (
        lambda billing, n: billing.statement(SYSTEM_TENANT_ID, limit=10),
        FEW,
    ),
    "find": (lambda billing, n: billing.find(ALICE, kind="charge", reference="old:1"), FEW),
    "sweep": (lambda billing, n: billing.sweep(), FEW),
}


def read(user: Engine, service: Engine, admin: Engine) -> int:
    """Sum the rows of the ledger that were read so far, after the sessions reported."""
    for engine in (user, service):
        with engine.begin() as connection:
            connection.execute(text("SELECT pg_stat_force_next_flush()"))
    with admin.connect() as connection:
        return int(connection.execute(_READ).scalar_one())


@pytest.fixture(scope="module")
def engines(shared: Database) -> Iterator[tuple[Engine, Engine]]:
    """Open one session for each role, which reports its reads."""
    for engine in (shared.user, shared.service):
        engine.dispose()  # an idle session of an earlier test would report its reads later
    made = [
        create_engine(engine.url, pool_size=1, max_overflow=0)
        for engine in (shared.user, shared.service)
    ]
    yield made[0], made[1]
    for engine in made:
        engine.dispose()


@pytest.fixture(scope="module")
def billing(shared: Database, engines: tuple[Engine, Engine]) -> Billing:
    """Build a ledger of many tenants. One has a long history. The sessions planned for batches."""
    reset(shared.migrator)
    user, service = engines
    billing = Billing(
        PostgresUnitOfWork(user, service=service), clock=SteppingClock(), ids=CountingIds()
    )
    billing.confirm_purchases(
        {"tenant": tenant, "amount": usd("1.00"), "payment": f"old:{tenant}"} for tenant in OTHERS
    )
    billing.confirm_purchases(
        {"tenant": ALICE, "amount": usd("1.00"), "payment": f"old:{n}"} for n in range(HISTORY)
    )
    billing.charge_many(
        {"tenant": ALICE, "amount": credits(1), "reference": f"old:{n}"} for n in range(HISTORY)
    )
    billing.confirm_purchases(
        {"tenant": BOB, "amount": usd("1.00"), "payment": f"lot:{n}", "expires_in": SOON}
        for n in range(HISTORY)
    )
    billing.charge(BOB, credits(10_000_000 * (HISTORY - 2)), reference="most-lots")
    for n in range(HISTORY // 5):
        billing.release(ALICE, billing.hold(ALICE, credits(1), reference=f"old:{n}").id)
        billing.open_dispute(ALICE, payment=f"old:{n + 400}", reference=f"old:{n}")
        billing.win_dispute(ALICE, payment=f"old:{n + 400}", reference=f"old:{n}")
    for tenant in [*OTHERS, ALICE]:
        billing.grant(tenant, credits(1), source="promo:a", reference="old")
    billing.fold()
    with shared.admin.begin() as connection:
        connection.execute(text("ANALYZE"))
    return billing


@pytest.mark.parametrize("name", CALLS)
def test_a_call_reads_no_more_than_it_needs(
    shared: Database, engines: tuple[Engine, Engine], billing: Billing, name: str
) -> None:
    billing.fold()
    call, most = CALLS[name]
    call(billing, 0)
    before = read(*engines, shared.admin)
    for n in range(1, REPEATED + 1):
        call(billing, n)
    after = read(*engines, shared.admin)

    assert after - before <= most * REPEATED


def test_a_scan_is_seen(shared: Database, engines: tuple[Engine, Engine], billing: Billing) -> None:
    before = read(*engines, shared.admin)
    with engines[1].begin() as connection:
        connection.execute(text("SELECT max(amount) FROM cogni_billing.transactions"))
    after = read(*engines, shared.admin)

    assert after - before > 2 * HISTORY


@pytest.fixture
def explained(shared: Database) -> Iterator[tuple[Engine, list[str]]]:
    """Open a session of the user that compiles every plan and starts workers. Returns its plans."""
    engine = create_engine(shared.admin.url, pool_size=1, max_overflow=0)
    plans: list[str] = []
    with engine.connect() as connection:
        driver = connection.connection.driver_connection
        assert isinstance(driver, psycopg.Connection)
        driver.execute("LOAD 'auto_explain'")
        for setting in (
            "auto_explain.log_min_duration = 0",
            "auto_explain.log_nested_statements = on",
            "auto_explain.log_analyze = on",
            "client_min_messages = log",
            "jit_above_cost = 0",
            "parallel_setup_cost = 0",
            "parallel_tuple_cost = 0",
            "min_parallel_table_scan_size = 0",
            "min_parallel_index_scan_size = 0",
            "SESSION AUTHORIZATION app_user",
        ):
            driver.execute(f"SET {setting}")
        driver.commit()
        driver.add_notice_handler(lambda notice: plans.append(notice.message_primary or ""))
    yield engine, plans
    engine.dispose()


def test_no_plan_is_forced_compiled_or_shared_out_to_workers(
    billing: Billing, explained: tuple[Engine, list[str]]
) -> None:
    """Before PostgreSQL 18 a plan without a suitable index has a high estimate. A server with
    LLVM compiles it, which took fifty milliseconds of each call. Starting workers took ten
    for a past balance.
    """
    engine, plans = explained
    seen = Billing(PostgresUnitOfWork(engine), clock=SteppingClock())
    seen.confirm_purchase(ALICE, usd("1.00"), payment="new:explained")
    seen.release(ALICE, seen.hold(ALICE, credits(1), reference="explained").id)
    seen.grant(ALICE, credits(1), source="promo:a", reference="explained")
    seen.charge(ALICE, credits(2), reference="explained")
    seen.balance(ALICE)
    seen.balance(ALICE, at=NOON + SOON)
    seen.balance(SYSTEM_TENANT_ID)
    seen.statement(ALICE)
    seen.grants(ALICE)
    seen.grants(ALICE, spent=True)
    seen.lots(BOB)

    on_tables = [
        plan for plan in plans if re.search(r"\bon (?!context_keys)[a-z]+_?[a-z]*  ", plan)
    ]
    forced = [plan for plan in on_tables if "Disabled: true" in plan or "cost=100000" in plan]
    compiled = [plan for plan in plans if "JIT:" in plan and "SELECT cogni_billing." not in plan]
    shared_out = [plan for plan in on_tables if "Gather" in plan]
    assert len(on_tables) > 20
    assert (forced, compiled, shared_out) == ([], [], [])
