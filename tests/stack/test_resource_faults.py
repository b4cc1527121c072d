"""Exhausted or disabled resources of the server cause one typed error, and no partial write.

The same engine works again when the resource is back.
"""

from __future__ import annotations

import resource
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import Engine, NullPool, create_engine, text

from cogni_billing import Billing, LedgerUnavailable, OutcomeUnknown, credits, usd
from cogni_billing.adapters.postgres import PostgresUnitOfWork
from cogni_billing.adapters.postgres.embedded import EmbeddedPostgres
from cogni_billing.ports.scope import Scope
from cogni_billing.testing import ALICE, BOB
from cogni_billing.testing.contracts.purchases import planned
from stack.conftest import Database, opened
from stack.support.watching import watched_engine

LOG_FILE_BYTES, LOG_FILL_BYTES = 16 * 2**20, 3 * 2**20
# Larger than the server's binary, which may be copied under the limit. Too small for the next file
# of the log to be created ahead.
LOG_BEGUN_BYTES = 10 * 2**20
FILL_LOG = text("SELECT pg_logical_emit_message(false, '', repeat('x', :size))")

# A change by an administrator, its reversal, and the error of a call in between.
SWITCHES = {
    "it is read-only": (
        "ALTER DATABASE {name} SET default_transaction_read_only = on",
        "ALTER DATABASE {name} RESET default_transaction_read_only",
        "25006",
        "read-only",
    ),
    "it has no connection left": (
        "ALTER DATABASE {name} CONNECTION LIMIT 0",
        "ALTER DATABASE {name} CONNECTION LIMIT -1",
        None,  # libpq reports this refusal without a code
        "too many connections",
    ),
    "its locks are not waited for, and one is held": (
        "ALTER DATABASE {name} SET lock_timeout = '1ms'",
        "ALTER DATABASE {name} RESET lock_timeout",
        "55P03",
        "a lock was not free within lock_timeout",
    ),
    "its statements may take no time, and one has to wait": (
        "ALTER DATABASE {name} SET statement_timeout = '20ms'",
        "ALTER DATABASE {name} RESET statement_timeout",
        "57014",
        "raise statement_timeout if it is too short",
    ),
}


@contextmanager
def switched(database: Database, off: str, on: str) -> Iterator[None]:
    """Switch as the administrator, connected from before until the end."""
    name = database.sandbox.administrator.database
    with database.admin.execution_options(isolation_level="AUTOCOMMIT").connect() as admin:
        admin.execute(text(off.format(name=name)))
        try:
            yield
        finally:
            admin.execute(text(on.format(name=name)))


@pytest.mark.parametrize("fault", SWITCHES)
def test_disabled_resource_raises_its_code_until_it_is_back(
    own_database: Database, fault: str
) -> None:
    off, on, sqlstate, told = SWITCHES[fault]
    engine = create_engine(own_database.sandbox.url("app_user"), poolclass=NullPool)
    billing = Billing(PostgresUnitOfWork(engine, retry_for=timedelta(0)))
    billing.confirm_purchase(ALICE, usd("1.00"), payment="stripe:1")
    before = own_database.totals()

    with own_database.admin.connect() as holder:
        holder.execute(text("SELECT FROM cogni_billing.wallets FOR UPDATE"))
        with switched(own_database, off, on), pytest.raises(LedgerUnavailable) as caught:
            billing.confirm_purchase(ALICE, usd("1.00"), payment="stripe:2")

    assert caught.value.sqlstate == sqlstate
    assert told in str(caught.value)
    assert own_database.totals() == before
    assert not billing.confirm_purchase(ALICE, usd("1.00"), payment="stripe:2").replayed
    assert billing.balance(ALICE).posted == credits(20_000_000)


def gone(admin: Engine, pid: int) -> bool:
    """True if that backend ends in time."""
    with admin.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
        alive = text("SELECT count(*) FROM pg_stat_activity WHERE pid = :pid")
        return any(connection.scalar(alive, {"pid": pid}) == 0 for _ in range(20_000))


def test_scope_idle_for_too_long_raises_an_error(database: Database) -> None:
    given = database.sandbox.role("app_user")
    own = given.query.get("options", "")
    idle = f"{own} -cidle_in_transaction_session_timeout=50ms".strip()
    engine = create_engine(given.update_query_dict({"options": idle}), pool_size=1, max_overflow=0)
    unit_of_work = PostgresUnitOfWork(engine, retry_for=timedelta(0))
    with engine.connect() as connection:
        driver = connection.connection.driver_connection
        assert isinstance(driver, psycopg.Connection)
        pid = driver.info.backend_pid

    def dawdling(scope: Scope) -> None:
        scope.ledger.post(planned())
        assert gone(database.admin, pid)
        scope.ledger.post(planned())

    with pytest.raises(LedgerUnavailable) as caught:
        unit_of_work.run(ALICE, dawdling)

    assert caught.value.sqlstate in {"25P03", None}  # psycopg 3.2 reports it without a code
    assert "idle" in str(caught.value)
    assert database.totals() == {}
    assert not unit_of_work.run(ALICE, lambda scope: scope.ledger.post(planned())).replayed
    engine.dispose()


def test_full_disk_is_reported() -> None:
    """The table's file is replaced by `/dev/full`, which accepts no byte."""
    with tempfile.TemporaryDirectory(prefix="cogni-full-") as name:
        Path(name).chmod(0o755)
        data_dir = Path(name, "data")
        with EmbeddedPostgres(data_dir) as server, opened(server) as database:
            billing = Billing(PostgresUnitOfWork(database.user, service=database.service))
            billing.open_account(BOB)
            with database.admin.connect() as admin:
                path = text("SELECT pg_relation_filepath('cogni_billing.transactions')")
                table = data_dir / str(admin.scalar(path))
        kept = table.rename(table.with_suffix(".kept"))
        table.symlink_to("/dev/full")

        with EmbeddedPostgres(data_dir) as server, opened(server) as database:
            billing = Billing(PostgresUnitOfWork(database.user, service=database.service))
            with pytest.raises(LedgerUnavailable) as caught:
                billing.confirm_purchase(ALICE, usd("1.00"), payment="stripe:1")
            assert caught.value.sqlstate == "53100"
            assert database.totals() == {}
            assert billing.balance(BOB).posted == credits(0)
        table.unlink()
        kept.rename(table)

        with EmbeddedPostgres(data_dir) as server, opened(server) as database:
            billing = Billing(PostgresUnitOfWork(database.user, service=database.service))
            receipt = billing.confirm_purchase(ALICE, usd("1.00"), payment="stripe:1")
            assert not receipt.replayed
            assert billing.verify().ok


@contextmanager
def files_at_most(size: int) -> Iterator[None]:
    """Limit the size of files that processes started inside the block can write."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_log_that_is_full_takes_the_server_down_with_an_unknown_outcome() -> None:
    """PostgreSQL panics at COMMIT. Its message does not tell if the commit record was written."""
    with tempfile.TemporaryDirectory(prefix="cogni-full-") as name:
        Path(name).chmod(0o755)
        data_dir = Path(name, "data")
        with EmbeddedPostgres(data_dir) as server, opened(server) as database:
            billing = Billing(PostgresUnitOfWork(database.user))
            billing.confirm_purchase(ALICE, usd("1.00"), payment="stripe:1")
            before = database.totals()
            with database.admin.execution_options(isolation_level="AUTOCOMMIT").connect() as admin:
                # So that only COMMIT writes the log, and the server does not restart.
                admin.execute(text("ALTER SYSTEM SET wal_writer_delay = '10s'"))
                admin.execute(text("ALTER SYSTEM SET restart_after_crash = off"))
                admin.execute(text("SELECT pg_switch_wal()"))
                admin.execute(FILL_LOG, {"size": LOG_BEGUN_BYTES})
                reached = admin.scalar(text("SELECT pg_current_wal_insert_lsn() - '0/0'"))
        room = LOG_FILL_BYTES // 2 + int(reached) % LOG_FILE_BYTES

        with ExitStack() as running:
            with files_at_most(room):
                server = running.enter_context(EmbeddedPostgres(data_dir))
            database = running.enter_context(opened(server))

            def fill_up(*_: object) -> None:
                with database.admin.connect() as admin:
                    admin.execute(FILL_LOG, {"size": LOG_FILL_BYTES})

            url = server.role("app_user")
            with watched_engine(url, fill_up) as engine, pytest.raises(OutcomeUnknown):
                Billing(PostgresUnitOfWork(engine, retry_for=timedelta(0))).confirm_purchase(
                    ALICE, usd("1.00"), payment="stripe:2"
                )

        with EmbeddedPostgres(data_dir) as server, opened(server) as database:
            billing = Billing(PostgresUnitOfWork(database.user, service=database.service))
            assert database.totals() == before
            assert not billing.confirm_purchase(ALICE, usd("1.00"), payment="stripe:2").replayed
            assert billing.verify().ok
