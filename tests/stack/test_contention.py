"""Many processes call a few tenants' ledger. The books equal the answers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from sqlalchemy import text

from cogni_billing import Billing
from cogni_billing.adapters.postgres import PostgresUnitOfWork
from stack.conftest import Database
from stack.support.bank import Tally, work
from stack.support.processes import FORKS

PROCESSES = 6
CALLS_MAX = 20_000
"""For each process. The test fails if the processes have not met in so many calls."""
ENOUGH = {"done": 1000, "replayed": 200, "idempotency_conflict": 50, "insufficient_credits": 50}
"""The number of times that each outcome has to occur."""
WAITS = 100
"""The number of calls that have to be seen waiting for a lock."""
WAITING = text("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'")
DEADLOCKS = text("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")


@pytest.mark.exhaustive
def test_books_equal_the_acknowledged_calls(database: Database, tmp_path: Path) -> None:
    address, stop = tmp_path / "address", tmp_path / "stop"
    roles = ("app_user", "app_service")
    address.write_text(json.dumps([database.sandbox.url(role) for role in roles]))
    logs = [tmp_path / f"{number}.log" for number in range(PROCESSES)]
    workers = [
        FORKS.Process(target=work, args=(address, log, seed, stop, CALLS_MAX))
        for seed, log in enumerate(logs)
    ]
    for log, worker in zip(logs, workers, strict=True):
        log.touch()
        worker.start()
    waited = 0
    with database.admin.execution_options(isolation_level="AUTOCOMMIT").connect() as admin:
        deadlocks = admin.scalar(DEADLOCKS)
        while all(worker.is_alive() for worker in workers):
            waited += bool(admin.scalar(WAITING))
            workers[0].join(0.05)
            if waited >= WAITS and had_enough(tallied(logs)):
                stop.touch()
        for worker in workers:
            worker.join()
        assert admin.scalar(DEADLOCKS) == deadlocks
    assert [worker.exitcode for worker in workers] == [0] * PROCESSES
    tally = tallied(logs)
    assert had_enough(tally), tally.outcomes
    assert waited >= WAITS

    billing = Billing(PostgresUnitOfWork(database.user, service=database.service))
    verification = billing.verify()
    assert verification.ok, verification
    assert verification.transactions == tally.transactions
    totals = database.totals()
    assert {account: totals.get(account, 0) for account in tally.totals()} == tally.totals()
    assert sum(totals.values()) == 0
    assert not tally.unanswered


def tallied(logs: list[Path]) -> Tally:
    tally = Tally()
    for log in logs:
        tally.read(log)
    return tally


def had_enough(tally: Tally) -> bool:
    return all(tally.outcomes[outcome] >= times for outcome, times in ENOUGH.items())
