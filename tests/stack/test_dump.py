"""Dump and restore: the rows move to another database, where all safeguards apply."""

from __future__ import annotations

import asyncio
import re

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.ext.asyncio import create_async_engine

from cogni_billing import (
    Billing,
    InsufficientCredits,
    InvalidInput,
    PrivilegeRequired,
    credits,
    usd,
)
from cogni_billing.adapters.postgres import (
    PostgresUnitOfWork,
    Report,
    doctor,
    doctor_async,
    reset,
    restore,
)
from cogni_billing.adapters.postgres.operations.blueprint import LEDGER
from cogni_billing.testing.base import ALICE, BOB
from stack.conftest import Clone, Database, opened
from stack.support.dumps import ROWS_ALONE, binaries, ran


def digests(service: Engine) -> dict[str, str]:
    """A digest of the rows of each table, as the service role reads them."""
    with service.connect() as connection:
        return {
            table: connection.scalar(
                text(
                    "SELECT md5(string_agg(line::text, ',' ORDER BY line::text))"
                    f" FROM cogni_billing.{table} AS line"
                )
            )
            for table in LEDGER
        }


def lived(billing: Billing) -> None:
    for tenant in (ALICE, BOB):
        billing.confirm_purchase(tenant, usd("1.00"), payment=f"stripe:{tenant}")
        billing.grant(tenant, credits(7), source="promo:a", reference="g1")
        billing.hold(tenant, credits(3), reference="h1")
        billing.charge(tenant, credits(5), reference="c1", metadata={"note": "a\tb\\ é\n"})
    billing.refund(ALICE, payment=f"stripe:{ALICE}", amount=usd("0.10"), reference="r1")
    billing.open_dispute(BOB, payment=f"stripe:{BOB}", amount=usd("0.20"), reference="d1")
    billing.fold()
    billing.confirm_purchase(ALICE, usd("2.00"), payment="stripe:2")


def assert_carried_over(before: Database, restored: Database) -> None:
    """The restored ledger has the same rows, passes doctor, and accepts calls."""
    billing = Billing(PostgresUnitOfWork(before.user, service=before.service))
    again = Billing(PostgresUnitOfWork(restored.user, service=restored.service))
    assert digests(restored.service) == digests(before.service)
    assert doctor(restored.user).defects == ()
    assert again.verify().ok
    key = b"k" * 32
    assert again.verify_seals(billing.seal(key=key), key=key) == ()
    assert again.statement(ALICE) == billing.statement(ALICE)
    with pytest.raises(InsufficientCredits):
        again.charge(ALICE, credits(10**9), reference="c2")
    again.charge(ALICE, credits(1), reference="c3")
    again.confirm_purchase(BOB, usd("3.00"), payment="stripe:3")
    again.fold()
    assert again.verify().ok


@pytest.fixture
def ledger(database: Database) -> Database:
    lived(Billing(PostgresUnitOfWork(database.user, service=database.service)))
    return database


@pytest.fixture
def dumped(ledger: Database) -> str:
    service = ledger.sandbox.role("app_service")
    return ran(binaries() / "pg_dump", service, *ROWS_ALONE)


def test_a_whole_dump_restored_by_a_superuser_is_the_same_and_as_well_guarded(
    ledger: Database, empty_database: Clone
) -> None:
    whole = ran(binaries() / "pg_dump", ledger.sandbox.administrator)
    # A newer pg_dump writes a setting that an older server does not know.
    restorable = whole.replace("SET transaction_timeout = 0;\n", "")
    psql = binaries() / "psql"
    ran(psql, empty_database.administrator, "-Xqv", "ON_ERROR_STOP=1", given=restorable)

    with opened(empty_database) as restored:
        assert_carried_over(ledger, restored)


def test_rows_dumped_by_the_service_role_are_restored_by_the_migrator(
    ledger: Database, dumped: str, own_database: Database
) -> None:
    rows = restore(own_database.migrator, dumped.splitlines(keepends=True))

    copied = re.findall(r"^COPY [^\n]+ FROM stdin;\n(.*?)^\\\.\n", dumped, re.MULTILINE | re.DOTALL)
    assert rows == "".join(copied).count("\n")
    assert_carried_over(ledger, own_database)


@pytest.mark.parametrize(
    ("removed", "added", "told"),
    [
        (r"^-- PostgreSQL database dump complete$", "", "one without -- PostgreSQL"),
        (r"^COPY cogni_billing.wallets .*?^\\\.$", "", "one without wallets"),
        (r"^SELECT pg_catalog.setval.*?$", "", "one without arrivals_position_seq"),
        (r"\Z", "DROP TABLE cogni_billing.wallets;\n", "got 'DROP TABLE"),
        (r"\Z", "COPY public.notes (a) FROM stdin;\nx\n\\.\n", "got 'COPY public.notes"),
        (r"(?<=FROM stdin;\n).*", "", "one without"),
    ],
)
def test_a_dump_that_is_incomplete_or_holds_more_changes_nothing(
    dumped: str, own_database: Database, removed: str, added: str, told: str
) -> None:
    before = digests(own_database.service)
    dump = re.sub(removed, lambda _: added, dumped, count=1, flags=re.MULTILINE | re.DOTALL)
    assert dump != dumped

    with pytest.raises(InvalidInput, match=re.escape(told)):
        restore(own_database.migrator, dump.splitlines(keepends=True))

    assert digests(own_database.service) == before
    assert doctor(own_database.user).ok


def test_a_dump_by_a_role_that_sees_no_rows_changes_nothing(
    dumped: str, own_database: Database
) -> None:
    before = digests(own_database.service)
    empty = re.sub(r"(FROM stdin;\n).*?(^\\\.\n)", r"\1\2", dumped, flags=re.MULTILINE | re.DOTALL)

    with pytest.raises(InvalidInput, match="one without rows"):
        restore(own_database.migrator, empty.splitlines(keepends=True))

    assert digests(own_database.service) == before


def test_signing_keys_in_a_dump_are_not_restored(dumped: str, own_database: Database) -> None:
    keys = (
        "COPY cogni_billing.context_keys (id, inner_key, outer_key, added_at) FROM stdin;\n"
        f"{'0' * 16}\t\\\\x{'36' * 64}\t\\\\x{'5c' * 64}\t2026-01-01 00:00:00+00\n\\.\n"
    )

    restore(own_database.migrator, [*keys.splitlines(keepends=True), *dumped.splitlines(True)])

    again = Billing(PostgresUnitOfWork(own_database.user, service=own_database.service))
    assert again.balance(ALICE).posted > credits(0)
    with own_database.admin.connect() as connection:
        assert connection.execute(text("SELECT FROM cogni_billing.context_keys")).all() == []


def test_doctor_after_a_restore_finds_rows_that_are_missing_or_broken(
    ledger: Database, dumped: str, own_database: Database
) -> None:
    def defects() -> list[tuple[str, str]]:
        found = doctor(own_database.service, after_restore=True).defects
        return [(each.problem, each.remedy) for each in found]

    assert doctor(ledger.service, after_restore=True).defects == ()
    assert defects() == [
        (
            "the ledger has no transactions",
            "restore a backup of every row, such as a dump by app_service",
        )
    ]
    restore(own_database.migrator, dumped.splitlines(keepends=True))
    assert defects() == []

    with own_database.admin.begin() as connection:
        connection.execute(text("SET LOCAL session_replication_role = replica"))
        connection.execute(text("DELETE FROM cogni_billing.arrivals WHERE kind = 'grant'"))
    assert defects()
    assert {remedy for _, remedy in defects()} == {"restore a backup without violations"}
    assert doctor(own_database.user).ok  # doctor reads no rows
    reset(own_database.migrator)
    restore(own_database.migrator, dumped.splitlines(keepends=True))
    assert defects() == []


def test_awaited_doctor_after_a_restore_finds_the_same(own_database: Database) -> None:
    async def examined() -> Report:
        engine = create_async_engine(own_database.sandbox.url("app_service"))
        try:
            return await doctor_async(engine, after_restore=True)
        finally:
            await engine.dispose()

    assert asyncio.run(examined()) == doctor(own_database.service, after_restore=True)


def test_doctor_after_a_restore_reads_rows_on_an_engine_that_autocommits(ledger: Database) -> None:
    engine = ledger.service.execution_options(isolation_level="AUTOCOMMIT")

    assert doctor(engine, after_restore=True).defects == ()


def test_only_the_service_role_examines_the_rows(ledger: Database) -> None:
    problems = [each.problem for each in doctor(ledger.user, after_restore=True).defects]

    assert problems[0] == "connected as app_user"
    assert problems[1].startswith("the check failed: ")
    assert len(problems) == 2


def test_a_ledger_that_has_transactions_is_not_restored_over(ledger: Database, dumped: str) -> None:
    before = digests(ledger.service)

    with pytest.raises(PrivilegeRequired, match="has transactions"):
        restore(ledger.migrator, dumped.splitlines(keepends=True))

    assert digests(ledger.service) == before
    assert doctor(ledger.user).ok


def test_only_the_migrator_restores(database: Database, dumped: str) -> None:
    reset(database.migrator)

    for engine in (database.admin, database.user, database.service):
        with pytest.raises(PrivilegeRequired):
            restore(engine, dumped.splitlines(keepends=True))
