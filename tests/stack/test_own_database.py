"""A database for the ledger alone, where no role can block or end sessions of others."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import pytest
from sqlalchemy import create_engine, text

from cogni_billing import Billing, TenantId
from cogni_billing.adapters.postgres import (
    PostgresUnitOfWork,
    Roles,
    doctor,
    migrate,
    provision,
    provision_sql,
    repair,
    reset,
)
from cogni_billing.adapters.postgres.operations.sandbox import Sandbox
from cogni_billing.testing.base import ALICE
from stack.conftest import Clone, Database, created, opened
from stack.support.attacks import (
    CALLERS,
    NAMES,
    PRIVILEGE,
    VALID,
    Ids,
    ask,
    prepared,
    refusal,
    undone,
)
from stack.support.command import Run

MEANS: Final = [
    *(
        f"pg_{attempt}advisory_{kind}lock{shared}({key})"
        for attempt in ("", "try_")
        for kind in ("", "xact_")
        for shared in ("", "_shared")
        for key in ("1", "1, 2")
    ),
    "pg_terminate_backend(0)",
    "pg_cancel_backend(0)",
]
SERVING: Final = ["app_user", "app_spender", "app_service"]
FOR_TENANTS: Final = {(purpose, name) for purpose, name in CALLERS if name in VALID}


@pytest.fixture(scope="module")
def closed(billing_database: Sandbox) -> Iterator[Database]:
    with created(billing_database) as clone:
        clone.install(test_database=True)
        with opened(clone) as database:
            provision(database.admin, test_database=True, own_database=True)
            yield database


@pytest.fixture(scope="module")
def known(closed: Database) -> dict[TenantId, Ids]:
    return prepared(closed)


@pytest.mark.parametrize("role", SERVING)
@pytest.mark.parametrize("means", MEANS)
class TestMeans:
    def test_role_cannot_block_or_end_other_sessions(
        self, closed: Database, role: str, means: str
    ) -> None:
        with undone(closed, role) as connection:
            assert refusal(connection, f"SELECT {means}").sqlstate == PRIVILEGE

    def test_role_can_where_the_database_is_shared(
        self, shared: Database, role: str, means: str
    ) -> None:
        with undone(shared, role) as connection:
            connection.execute(text(f"SELECT {means}"))
            connection.execute(text("SELECT pg_advisory_unlock_all()"))


@pytest.mark.parametrize(("purpose", "function"), sorted(FOR_TENANTS))
def test_every_call_works(
    closed: Database, known: dict[TenantId, Ids], purpose: str, function: str
) -> None:
    with undone(closed, NAMES[purpose]) as connection:
        ask(connection, function, ALICE, VALID[function](known[ALICE]))


def test_ledger_is_operated_as_ever(closed: Database, known: dict[TenantId, Ids]) -> None:
    billing = Billing(PostgresUnitOfWork(closed.user, service=closed.service))
    billing.fold()
    billing.sweep()
    migrate(closed.migrator)
    repair(closed.migrator)

    assert billing.verify().ok
    assert doctor(closed.user).ok


class TestProvisioning:
    def test_own_database_stays_recorded(self, closed: Database) -> None:
        provision(closed.admin, test_database=True)

        assert provision_sql(closed.admin, test_database=True) == ""
        assert provision_sql(closed.admin, test_database=True, own_database=True) == ""

    def test_doctor_finds_a_reopened_function(self, closed: Database) -> None:
        with closed.admin.begin() as connection:
            connection.execute(text("GRANT EXECUTE ON FUNCTION pg_cancel_backend(int) TO PUBLIC"))

        (defect,) = doctor(closed.user).defects

        function = "EXECUTE ON FUNCTION pg_catalog.pg_cancel_backend(integer)"
        assert defect.problem == f"PUBLIC has {function}"
        with closed.admin.begin() as connection:
            connection.execute(text(defect.remedy))
        assert doctor(closed.user).ok

    def test_another_migrator_may_migrate(self, empty_database: Clone) -> None:
        admin = create_engine(empty_database.administrator)
        provision(admin, Roles(), own_database=True)
        migrator = create_engine(empty_database.role("app_migrator"))
        migrate(migrator)
        migrator.dispose()
        admin.dispose()
        with opened(empty_database) as database:
            assert doctor(database.user).ok

    def test_command_does_it(self, own_database: Database, run: Run) -> None:
        url = own_database.sandbox.admin_url
        printed = run("provision", "--own-database", "--test-database", "--dry-run", url=url)
        ran = run("provision", "--own-database", "--test-database", url=url)

        assert "REVOKE EXECUTE ON FUNCTION pg_catalog.pg_advisory_lock(bigint)" in printed.stdout
        assert ran.returncode == 0
        reset(own_database.migrator)
        with undone(own_database, "app_user") as connection:
            assert refusal(connection, "SELECT pg_advisory_lock(1)").sqlstate == PRIVILEGE
