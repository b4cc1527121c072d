"""Folds count postings that commit late, and delay no call."""

from __future__ import annotations

import secrets
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from uuid import UUID

import pytest
from sqlalchemy import create_engine, text

from cogni_billing import (
    SYSTEM_TENANT_ID,
    Billing,
    InsufficientCredits,
    LedgerUnavailable,
    PrivilegeRequired,
    credits,
    usd,
)
from cogni_billing.adapters.postgres import PostgresUnitOfWork, books
from cogni_billing.domain.identity import ISSUANCE, USAGE
from cogni_billing.domain.wallets import DueWallet
from cogni_billing.ports.books import DUE_MAX
from cogni_billing.ports.scope import ServiceScope
from cogni_billing.testing.base import ALICE, BOB, NOON
from stack.conftest import Database
from stack.support.processes import FORKS

SLEEPING = text("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'")


@pytest.fixture
def billing(database: Database) -> Billing:
    return Billing(PostgresUnitOfWork(database.user, service=database.service))


def drift(database: Database) -> list[object]:
    """Return accounts with another sum of checkpoints and newer arrivals than of all arrivals."""
    with database.admin.connect() as connection:
        return list(
            connection.execute(
                text("""
                    SELECT account_id
                    FROM cogni_billing.arrivals
                    GROUP BY account_id
                    HAVING sum(amount)
                        <> cogni_billing.arrived_up_to(account_id, 9223372036854775807)
                        OR sum(amount) <> cogni_billing.arrived_by(account_id, '9000-01-01')
                    UNION ALL
                    SELECT tenant_id
                    FROM cogni_billing.wallets
                    WHERE received <> cogni_billing.arrived_up_to(
                        cogni_billing.account_of(tenant_id), received_up_to)
                """)
            )
        )


def test_fold_waits_for_open_writers(database: Database, billing: Billing) -> None:
    unit_of_work = PostgresUnitOfWork(database.user)
    with ThreadPoolExecutor(1) as threads:
        with database.user.begin() as late:
            Billing(PostgresUnitOfWork.joining(late)).confirm_purchase(
                ALICE, usd("1.00"), payment="stripe:late"
            )
            Billing(unit_of_work).confirm_purchase(BOB, usd("1.00"), payment="stripe:early")
            folding = threads.submit(billing.fold)
            with database.admin.connect() as observer:
                while not folding.done() and not observer.scalar(SLEEPING):
                    observer.rollback()
        # The late posting has committed only now, with the lower positions.
        assert folding.result().lines == 4

    assert drift(database) == []
    assert billing.balance(SYSTEM_TENANT_ID).posted == credits(5_000_000)


def test_a_fold_does_not_wait_for_ever(
    database: Database, billing: Billing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(books, "PATIENCE_S", 0)
    with database.user.begin() as idle:
        Billing(PostgresUnitOfWork.joining(idle)).open_account(ALICE)
        Billing(PostgresUnitOfWork.joining(idle)).confirm_purchase(
            ALICE, usd("1.00"), payment="stripe:idle"
        )
        with pytest.raises(LedgerUnavailable, match="has been open"):
            billing.fold()

    assert billing.fold().lines == 2


def test_an_account_is_folded_in_pieces(
    database: Database, billing: Billing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(books, "ROWS_FOR_EACH_CHECKPOINT", 3)
    for number in range(8):
        billing.confirm_purchase(ALICE, usd("0.01"), payment=f"stripe:{number}")
        if number == 4:
            billing.fold()

    assert billing.fold().lines == 6
    with database.admin.connect() as connection:
        counts = connection.execute(
            text("SELECT account_id, count(*) FROM cogni_billing.checkpoints GROUP BY 1")
        ).all()
    assert sorted(count for _, count in counts) == [3, 3]
    assert drift(database) == []


def test_folding_needs_the_service_role(database: Database) -> None:
    with pytest.raises(PrivilegeRequired):
        Billing(PostgresUnitOfWork(database.user)).fold()
    with pytest.raises(PrivilegeRequired):
        Billing(PostgresUnitOfWork(database.user, service=database.user)).fold()


def test_service_role_without_policies_cannot_fold(database: Database, billing: Billing) -> None:
    billing.confirm_purchase(ALICE, usd("1.00"), payment="stripe:pi_1")
    role = f"weak_{secrets.token_hex(4)}"
    with database.admin.begin() as connection:
        connection.execute(text(f"CREATE ROLE {role} IN ROLE app_service"))
    weak = create_engine(database.sandbox.admin_url, connect_args={"options": f"-crole={role}"})
    with pytest.raises(PrivilegeRequired, match="does not see every row"):
        Billing(PostgresUnitOfWork(database.user, service=weak)).fold()
    weak.dispose()
    with database.admin.begin() as connection:
        connection.execute(text(f"DROP ROLE {role}"))


def _billing(user_url: str, service_url: str) -> Billing:
    return Billing(PostgresUnitOfWork(create_engine(user_url), service=create_engine(service_url)))


def buy(urls: tuple[str, str], buyer: int) -> int:
    """Confirm purchases of one tenant, in a process of its own."""
    billing = _billing(*urls)
    for number in range(60):
        billing.confirm_purchase(UUID(int=buyer), usd("0.01"), payment=f"stripe:{buyer}-{number}")
    return 0


def spend(urls: tuple[str, str], spender: int) -> int:
    """Spend the system tenant's credits in a process of its own. Returns the amount."""
    billing = _billing(*urls)
    spent = 0
    for number in range(60):
        try:
            billing.charge(SYSTEM_TENANT_ID, credits(9_000), reference=f"run-{spender}-{number}")
        except InsufficientCredits:
            continue
        spent += 9_000
    return spent


def fold(urls: tuple[str, str], _folder: int) -> int:
    """Fold repeatedly, in a process of its own."""
    billing = _billing(*urls)
    for _ in range(25):
        billing.fold()
    return 0


def test_concurrent_writers_spenders_and_folds_cause_no_drift(
    database: Database, billing: Billing
) -> None:
    urls = (database.sandbox.url("app_user"), database.sandbox.url("app_service"))
    jobs = [
        *(partial(buy, urls, number) for number in range(1, 9)),
        *(partial(spend, urls, number) for number in range(4)),
        *(partial(fold, urls, number) for number in range(2)),
    ]
    with ProcessPoolExecutor(len(jobs), mp_context=FORKS) as processes:
        spent = sum(job.result() for job in [processes.submit(job) for job in jobs])

    totals = database.totals()
    left = 8 * 60 * 25_000 - spent
    assert drift(database) == []
    assert sum(totals.values()) == 0
    assert totals[ISSUANCE] == -8 * 60 * 125_000
    assert totals[USAGE] == spent
    assert billing.balance(SYSTEM_TENANT_ID).posted == credits(left)
    assert left >= 0


def test_due_wallets_come_a_thousand_at_once(database: Database) -> None:
    with database.admin.begin() as connection:
        connection.execute(
            text("""
                INSERT INTO cogni_billing.wallets (tenant_id, opened_at, due_at)
                SELECT gen_random_uuid(), now(), '2026-01-01' FROM generate_series(1, :count)
            """),
            {"count": DUE_MAX + 1},
        )

    def pages(scope: ServiceScope) -> tuple[tuple[DueWallet, ...], ...]:
        first = scope.books.due(NOON, None)
        return first, scope.books.due(NOON, first[-1])

    unit_of_work = PostgresUnitOfWork(database.user, service=database.service)
    first, second = unit_of_work.run_service(SYSTEM_TENANT_ID, pages)

    assert (len(first), len(second)) == (DUE_MAX, 1)
    places = [(due.at, due.tenant) for due in first + second]
    assert places == sorted(set(places))
