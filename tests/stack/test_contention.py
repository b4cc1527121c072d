"""Many processes ask a few tenants' ledger for everything; the books hold what they were told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from sqlalchemy import text

from cogni_billing import Billing
from cogni_billing.adapters.postgres import PostgresUnitOfWork
from stack.bank import Tally, work
from stack.conftest import Database
from stack.processes import FORKS

SECONDS = 60.0
PROCESSES = 6
WAITING = text("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'")
DEADLOCKS = text("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")


@pytest.mark.exhaustive
def test_the_books_hold_what_everybody_was_told(database: Database, tmp_path: Path) -> None:
    address = tmp_path / "address"
    roles = ("app_user", "app_service")
    address.write_text(json.dumps([database.sandbox.url(role) for role in roles]))
    logs = [tmp_path / f"{number}.log" for number in range(PROCESSES)]
    workers = [
        FORKS.Process(target=work, args=(address, log, seed, SECONDS))
        for seed, log in enumerate(logs)
    ]
    for worker in workers:
        worker.start()
    waited = 0
    with database.admin.execution_options(isolation_level="AUTOCOMMIT").connect() as admin:
        deadlocks = admin.scalar(DEADLOCKS)
        while any(worker.is_alive() for worker in workers):
            waited += bool(admin.scalar(WAITING))
            workers[0].join(0.05)
        assert admin.scalar(DEADLOCKS) == deadlocks
    tally = Tally()
    for worker, log in zip(workers, logs, strict=True):
        assert worker.exitcode == 0
        tally.read(log)

    billing = Billing(PostgresUnitOfWork(database.user, service=database.service))
    verification = billing.verify()
    assert verification.ok, verification
    assert verification.transactions == tally.transactions
    totals = database.totals()
    assert {account: totals.get(account, 0) for account in tally.totals()} == tally.totals()
    assert sum(totals.values()) == 0
    assert not tally.unanswered
    # What this test is for came up: enough calls, the same ones, other ones under their keys, and
    # some that had to wait for each other.
    accepted = tally.outcomes["done"] + tally.outcomes["replayed"]
    assert accepted > 20 * SECONDS
    assert tally.outcomes["replayed"] > accepted / 10
    assert tally.outcomes["idempotency_conflict"] > accepted / 100
    assert tally.outcomes["insufficient_credits"] > accepted / 100
    assert waited > SECONDS
