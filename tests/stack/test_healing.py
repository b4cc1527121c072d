"""Retries after a lost connection: the first outcome is returned, with exactly one effect."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from itertools import count
from typing import Any, Final, TypeAlias
from uuid import UUID

import psycopg
import pytest
from attrs import field, frozen
from sqlalchemy import URL, Engine, NullPool, create_engine, text
from sqlalchemy.ext.asyncio import create_async_engine

from cogni_billing import (
    AccountId,
    AsyncBilling,
    Billing,
    InvalidInput,
    LedgerUnavailable,
    OutcomeUnknown,
    credits,
    usd,
)
from cogni_billing.adapters.postgres import AsyncPostgresUnitOfWork, PostgresUnitOfWork
from cogni_billing.testing.base import ALICE, BOB
from cogni_billing.testing.contracts.purchases import planned
from stack.conftest import Database
from stack.support.killable import Killable, killable
from stack.support.proxy import Cut, Proxy, proxied
from stack.support.watching import watched_engine

LONG: Final = timedelta(seconds=60)
BOUGHT: Final = 10_000_000
HELD: Final = "ready"
WAITING: Final = text("""
    SELECT pid FROM pg_stat_activity WHERE usename = 'app_user' AND wait_event_type = 'Lock'
""")
TERMINATE: Final = text("SELECT pg_terminate_backend(:pid, 10000)")
CUTS: Final = pytest.mark.parametrize("cut", [Cut.BEFORE_COMMIT, Cut.AFTER_COMMIT])


@frozen
class Kept:
    """A call, and its effect on Alice's account."""

    call: Callable[[Any], Any]
    posted: int = 0
    held: int = 0


def batch(billing: Any) -> Any:
    return billing.charge_many(
        [{"tenant": ALICE, "amount": credits(n), "reference": f"b{n}"} for n in (1, 2)],
        all_or_nothing=True,
    )


CALLS: Final[dict[str, Kept]] = {
    "confirm_purchase": Kept(
        lambda billing: billing.confirm_purchase(ALICE, usd("1.00"), payment="stripe:1"), BOUGHT
    ),
    "charge": Kept(lambda billing: billing.charge(ALICE, credits(5), reference="r"), -5),
    "grant": Kept(
        lambda billing: billing.grant(ALICE, credits(5), source="promo:a", reference="r"), 5
    ),
    "hold": Kept(lambda billing: billing.hold(ALICE, credits(5), reference="r"), held=5),
    "capture": Kept(
        lambda billing: billing.capture(ALICE, UUID(int=7), credits(5), reference="r"), -5, -30
    ),
    "extend": Kept(
        lambda billing: billing.extend(ALICE, UUID(int=7), credits(5), reference="r"), held=5
    ),
    "release of a part": Kept(
        lambda billing: billing.release(ALICE, UUID(int=7), credits(5), reference="r"), held=-5
    ),
    "release": Kept(lambda billing: billing.release(ALICE, UUID(int=7)), held=-30),
    "charge_many": Kept(batch, -3),
}


@frozen
class SameId:
    """Return the same id each time."""

    def new(self) -> UUID:
        return UUID(int=7)


def sold(database: Database) -> Billing:
    """Alice has bought, and holds 30 credits."""
    steady = PostgresUnitOfWork(database.user)
    Billing(steady).confirm_purchase(ALICE, usd("1.00"), payment="stripe:0")
    Billing(steady, ids=SameId()).hold(ALICE, credits(30), reference=HELD)
    return Billing(steady)


def replays(given: Any) -> list[bool]:
    """True for each answer that is a replay."""
    if isinstance(given, tuple):
        return [outcome.receipt.replayed for outcome in given]
    return [given.replayed]


def happened_once(billing: Billing, kept: Kept, given: Any) -> None:
    """Check that the answer is the first one, and its effect is recorded once."""
    assert not any(replays(given))
    assert all(replays(kept.call(billing)))
    balance = billing.balance(ALICE)
    assert (balance.posted, balance.held) == (
        credits(BOUGHT + kept.posted),
        credits(30 + kept.held),
    )


@contextmanager
def through(url: URL, **options: Any) -> Iterator[tuple[Proxy, Engine]]:
    """Create an engine with a pool of one, through a proxy."""
    with proxied(url) as (proxy, through_proxy):
        engine = create_engine(through_proxy, pool_size=1, max_overflow=0, **options)
        yield proxy, engine
        engine.dispose()


class TestALineThatIsCut:
    """Cut before the statement or after its answer. A client cannot distinguish the two."""

    @CUTS
    @pytest.mark.parametrize("name", CALLS)
    def test_call_on_a_cut_connection_returns_its_first_outcome(
        self, database: Database, name: str, cut: Cut
    ) -> None:
        steady, kept = sold(database), CALLS[name]
        with through(database.sandbox.role("app_user")) as (proxy, engine):
            proxy.cut, proxy.times = cut, 1
            given = kept.call(Billing(PostgresUnitOfWork(engine, retry_for=LONG)))

        assert proxy.times == 0
        happened_once(steady, kept, given)

    @CUTS
    @pytest.mark.parametrize("name", CALLS)
    def test_async_call_on_a_cut_connection_returns_its_first_outcome(
        self, database: Database, name: str, cut: Cut
    ) -> None:
        steady, kept = sold(database), CALLS[name]

        async def made(url: URL) -> Any:
            engine = create_async_engine(url, pool_size=1, max_overflow=0)
            called: Awaitable[Any] = kept.call(
                AsyncBilling(AsyncPostgresUnitOfWork(engine, retry_for=LONG))
            )
            given = await called
            await engine.dispose()
            return given

        with proxied(database.sandbox.role("app_user")) as (proxy, url):
            proxy.cut, proxy.times = cut, 1
            given = asyncio.run(made(url))

        assert proxy.times == 0
        happened_once(steady, kept, given)

    @CUTS
    def test_a_line_that_is_cut_several_times_is_retried_as_often(
        self, database: Database, cut: Cut
    ) -> None:
        steady, kept = sold(database), CALLS["charge"]
        with through(database.sandbox.role("app_user")) as (proxy, engine):
            proxy.cut, proxy.times = cut, 7
            given = kept.call(Billing(PostgresUnitOfWork(engine, retry_for=LONG)))

        assert proxy.times == 0
        happened_once(steady, kept, given)

    @CUTS
    @pytest.mark.parametrize("retry_for", [timedelta(0), timedelta(milliseconds=1)])
    @pytest.mark.parametrize("name", CALLS)
    def test_a_call_that_runs_out_of_time_is_an_unknown_outcome(
        self, database: Database, name: str, cut: Cut, retry_for: timedelta
    ) -> None:
        steady, kept = sold(database), CALLS[name]
        with through(database.sandbox.role("app_user")) as (proxy, engine):
            proxy.cut = cut
            billing = Billing(PostgresUnitOfWork(engine, retry_for=retry_for))
            with pytest.raises(OutcomeUnknown):
                unwrapped(kept.call(billing))

        kept.call(steady)
        happened_once(steady, kept, FIRST)

    @pytest.mark.parametrize("name", CALLS)
    def test_a_retry_waits_for_its_own_first_try(self, database: Database, name: str) -> None:
        """The server continues the first try after its connection is cut, so both tries meet."""
        steady, kept = sold(database), CALLS[name]
        with (
            through(database.sandbox.role("app_user")) as (proxy, engine),
            ThreadPoolExecutor(1) as threads,
        ):
            proxy.cut, proxy.times = Cut.AFTER_COMMIT, 1
            with database.admin.connect() as holder:
                holder.execute(text("SELECT FROM cogni_billing.wallets FOR UPDATE"))
                called = threads.submit(
                    kept.call, Billing(PostgresUnitOfWork(engine, retry_for=LONG))
                )
                waiting_backends(database, called, 2)
            given = called.result()

        happened_once(steady, kept, given)

    def test_read_with_a_lost_answer_is_repeated(self, database: Database) -> None:
        sold(database)
        with through(database.sandbox.role("app_user")) as (proxy, engine):
            proxy.cut, proxy.times = Cut.AFTER_COMMIT, 1
            balance = Billing(PostgresUnitOfWork(engine, retry_for=LONG)).balance(ALICE)

        assert balance.posted == credits(BOUGHT)

    @CUTS
    def test_scope_with_a_cut_commit_is_not_retried(self, database: Database, cut: Cut) -> None:
        """The work of a scope has no key, so the caller decides."""
        tried = count(1)
        with through(database.sandbox.role("app_user")) as (proxy, engine):
            proxy.cut, proxy.times = cut, 1

            def work(scope: Any) -> None:
                next(tried)
                scope.ledger.post(planned())

            with pytest.raises(OutcomeUnknown):
                PostgresUnitOfWork(engine, retry_for=LONG).run(ALICE, work)

        assert next(tried) == 2

    def test_conflict_is_reported_on_a_cut_connection(self, database: Database) -> None:
        steady = sold(database)
        steady.charge(ALICE, credits(5), reference="r")
        with through(database.sandbox.role("app_user")) as (proxy, engine):
            proxy.cut, proxy.times = Cut.AFTER_COMMIT, 1
            again = Billing(PostgresUnitOfWork(engine, retry_for=LONG)).charge(
                ALICE, credits(5), reference="r"
            )

        assert again.replayed  # another caller made the first try


@frozen
class _First:
    replayed: bool = False


FIRST: Final = _First()


def unwrapped(given: Any) -> Any:
    """Return the answer, or raise the error of a failed batch."""
    if isinstance(given, tuple):
        raise given[0].error
    return given


class TestABackendThatIsTerminated:
    @pytest.mark.parametrize("name", CALLS)
    def test_a_statement_on_a_terminated_backend_is_made_on_another(
        self, database: Database, name: str
    ) -> None:
        steady, kept = sold(database), CALLS[name]
        terminated: list[int] = []

        def terminate(driver: psycopg.Connection[Any], _: str) -> None:
            if not terminated:
                terminated.append(driver.info.backend_pid)
                end(database, driver.info.backend_pid)

        url = database.sandbox.role("app_user")
        with watched_engine(url, terminate, pool_size=1, max_overflow=0) as engine:
            given = kept.call(Billing(PostgresUnitOfWork(engine, retry_for=LONG)))

        assert terminated
        happened_once(steady, kept, given)

    @pytest.mark.parametrize("name", CALLS)
    def test_statement_on_a_terminated_backend_is_retried_on_another(
        self, database: Database, name: str
    ) -> None:
        steady, kept = sold(database), CALLS[name]
        engine = create_engine(database.sandbox.role("app_user"), pool_size=1, max_overflow=0)
        billing = Billing(PostgresUnitOfWork(engine, retry_for=LONG))
        with ThreadPoolExecutor(1) as threads:
            with database.admin.connect() as holder:
                holder.execute(text("SELECT FROM cogni_billing.wallets FOR UPDATE"))
                called = threads.submit(kept.call, billing)
                end(database, waiting_backends(database, called, 1)[0])
            given = called.result()
        engine.dispose()

        happened_once(steady, kept, given)

    def test_a_scope_that_lost_its_connection_before_commit_is_run_again(
        self, database: Database
    ) -> None:
        tried = count(1)

        def work(scope: Any) -> Any:
            if next(tried) == 1:
                end(database, scope.books._connection.scalar(text("SELECT pg_backend_pid()")))
            return scope.ledger.post(planned())

        assert not PostgresUnitOfWork(database.user, retry_for=LONG).run(ALICE, work).replayed
        assert next(tried) == 3


def end(database: Database, pid: object) -> None:
    """Terminate a backend, and wait until it has ended."""
    with database.admin.connect() as admin:
        assert admin.scalar(TERMINATE, {"pid": pid})


def waiting_backends(database: Database, called: Future[Any], number: int) -> list[object]:
    """Return the backends of a call, when so many of them wait for a lock."""
    autocommit = database.admin.execution_options(isolation_level="AUTOCOMMIT")
    with autocommit.connect() as observer:
        while not called.done():
            found: list[object] = list(observer.scalars(WAITING))
            if len(found) == number:
                return found
    raise AssertionError(called.result())


class TestAReadOnlyConnection:
    def test_read_only_connection_is_discarded(self, database: Database) -> None:
        steady, kept = sold(database), CALLS["charge"]
        engine = create_engine(database.sandbox.role("app_user"), pool_size=1, max_overflow=0)
        pid = set_read_only(engine)

        given = kept.call(Billing(PostgresUnitOfWork(engine, retry_for=LONG)))

        happened_once(steady, kept, given)
        assert backend(engine) != pid
        engine.dispose()

    def test_scope_discards_read_only_connection(self, database: Database) -> None:
        engine = create_engine(database.sandbox.role("app_user"), pool_size=1, max_overflow=0)
        pid = set_read_only(engine)

        unit_of_work = PostgresUnitOfWork(engine, retry_for=LONG)
        recorded = unit_of_work.run(ALICE, lambda scope: scope.ledger.post(planned()))

        assert not recorded.replayed
        assert backend(engine) != pid
        engine.dispose()

    def test_async_read_only_connection_is_discarded(self, database: Database) -> None:
        steady, kept = sold(database), CALLS["charge"]

        async def made() -> Any:
            engine = create_async_engine(
                database.sandbox.role("app_user"), pool_size=1, max_overflow=0
            )
            async with engine.connect() as connection:
                await connection.execute(READ_ONLY)
                await connection.commit()
            given = await kept.call(AsyncBilling(AsyncPostgresUnitOfWork(engine, retry_for=LONG)))
            await engine.dispose()
            return given

        happened_once(steady, kept, asyncio.run(made()))

    def test_permanent_read_only_database_is_reported(self, own_database: Database) -> None:
        """As a standby is. Its connections are discarded, and each call looks for a better one."""
        billing = Billing(
            PostgresUnitOfWork(own_database.user, retry_for=timedelta(milliseconds=1))
        )
        billing.confirm_purchase(ALICE, usd("1.00"), payment="stripe:0")
        name = own_database.sandbox.administrator.database
        change = "ALTER DATABASE {} {} default_transaction_read_only {}"
        with own_database.admin.execution_options(isolation_level="AUTOCOMMIT").connect() as admin:
            admin.execute(text(change.format(name, "SET", "= on")))
            own_database.user.dispose()
            with pytest.raises(LedgerUnavailable) as caught:
                billing.charge(ALICE, credits(5), reference="r")
            admin.execute(text(change.format(name, "RESET", "")))

        assert caught.value.sqlstate == "25006"
        assert not isinstance(caught.value, OutcomeUnknown)
        assert not billing.charge(ALICE, credits(5), reference="r").replayed


READ_ONLY: Final = text("SET default_transaction_read_only = on")


def set_read_only(engine: Engine) -> object:
    """Make the pool's only connection read-only. Returns its backend."""
    with engine.connect() as connection:
        connection.execute(READ_ONLY)
        connection.commit()
    return backend(engine)


def backend(engine: Engine) -> object:
    with engine.connect() as connection:
        return connection.scalar(text("SELECT pg_backend_pid()"))


Told: TypeAlias = list[tuple[str, bool]]


class TestAServerThatIsKilled:
    def test_callers_wait_for_a_server_that_is_restarted_under_load(self) -> None:
        """Each call gets its first outcome, although the server was killed during some calls."""
        clients, calls = 4, 60
        with killable() as server:
            Billing(server.unit_of_work()).confirm_purchase(ALICE, usd("1.00"), payment="stripe:0")
            moved = Address(server)
            engine = create_engine(
                "postgresql+psycopg://", creator=moved.connect, pool_size=clients
            )
            billing = Billing(PostgresUnitOfWork(engine, retry_for=LONG))

            def charge(client: int) -> Told:
                told = []
                for number in range(calls):
                    reference = f"r{client}-{number}"
                    receipt = billing.charge(ALICE, credits(1), reference=reference)
                    told.append((reference, receipt.replayed))
                    moved.progress.append(reference)
                return told

            with ThreadPoolExecutor(clients) as threads:
                working = [threads.submit(charge, client) for client in range(clients)]
                for restart in range(1, 3):
                    moved.wait_for(restart * clients * calls // 4, working)
                    server.kill()
                    server.start()
                told = [each for client in working for each in client.result()]
            engine.dispose()

            assert len(told) == clients * calls
            assert not any(replayed for _, replayed in told)
            steady = Billing(server.unit_of_work())
            assert steady.balance(ALICE).posted == credits(BOUGHT - clients * calls)
            assert steady.verify().violations == ()

    def test_a_server_that_stays_away_is_unavailable(self, database: Database) -> None:
        engine = create_engine("postgresql+psycopg://app_user@/x?host=/nowhere", poolclass=NullPool)
        unit_of_work = PostgresUnitOfWork(engine, retry_for=timedelta(milliseconds=50))

        with pytest.raises(LedgerUnavailable) as caught:
            Billing(unit_of_work).charge(ALICE, credits(1), reference="r")
        assert not isinstance(caught.value, OutcomeUnknown)


@frozen
class Address:
    """Connects to the server that was started last."""

    server: Killable
    progress: list[str] = field(factory=list)

    def connect(self) -> psycopg.Connection[Any]:
        url = self.server.database.sandbox.role("app_user")
        return psycopg.connect(
            host=str(url.query["host"]),
            port=str(url.query["port"]),
            user=url.username,
            dbname=url.database,
        )

    def wait_for(self, answers: int, working: list[Future[Told]]) -> None:
        """Wait until so many calls were answered."""
        while len(self.progress) < answers:
            for client in working:
                if client.done():
                    client.result()


@pytest.mark.parametrize("given", [timedelta(seconds=-1), 2, None, "2 seconds"])
def test_a_retry_for_is_a_timedelta_of_zero_or_more(database: Database, given: Any) -> None:
    with pytest.raises(InvalidInput) as caught:
        PostgresUnitOfWork(database.user, retry_for=given)

    assert caught.value.field == "retry_for"


def test_a_batch_of_several_tenants_heals_for_each(database: Database) -> None:
    steady = sold(database)
    steady.confirm_purchase(BOB, usd("1.00"), payment="stripe:b")
    with through(database.sandbox.role("app_user")) as (proxy, engine):
        proxy.cut, proxy.times = Cut.AFTER_COMMIT, 2
        outcomes = Billing(PostgresUnitOfWork(engine, retry_for=LONG)).charge_many(
            {"tenant": tenant, "amount": credits(n), "reference": f"b{n}"}
            for tenant in (ALICE, BOB)
            for n in (1, 2)
        )

    assert proxy.times == 0
    assert [outcome.state for outcome in outcomes] == ["done"] * 4
    totals = database.totals()
    for tenant in (ALICE, BOB):
        assert totals[AccountId(tenant)] == BOUGHT - 3
