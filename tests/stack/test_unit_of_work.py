"""Scopes on real connections: contexts that end, typed errors, and safe commits."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from threading import Barrier
from typing import Any

import psycopg
import pytest
from attrs import evolve
from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from cogni_billing import (
    SYSTEM_ACCOUNT_ID,
    AsyncBilling,
    Billing,
    InvalidInput,
    LedgerUnavailable,
    OutcomeUnknown,
    PaymentAlreadyClaimed,
    Purchase,
    RevenueSharePolicy,
    ScopeClosed,
    TenantId,
    credits,
    usd,
)
from cogni_billing.adapters.postgres import AsyncPostgresUnitOfWork, PostgresUnitOfWork
from cogni_billing.adapters.postgres.scopes import PostgresServiceScope
from cogni_billing.adapters.postgres.unit_of_work import TRIES_MAX
from cogni_billing.domain.transactions import Recorded, Transaction
from cogni_billing.testing.base import ALICE, BOB, NOON
from cogni_billing.testing.contracts.purchases import planned, post
from cogni_billing.testing.racing import at_once
from stack.conftest import Database
from stack.support.proxy import Cut, proxied

CONTEXT = text("SELECT current_setting('app.current_user_id', true)")
Door = Callable[[PostgresUnitOfWork, Transaction], Recorded]
DOORS: dict[str, Door] = {
    "in a scope": post,
    "alone": lambda unit_of_work, transaction: unit_of_work.post(transaction),
}
AtOnce = partial(PostgresUnitOfWork, retry_for=timedelta(0))
"""Does not retry a lost connection."""


@pytest.fixture(params=DOORS)
def door(request: pytest.FixtureRequest) -> Door:
    return DOORS[request.param]


@contextmanager
def engine_of(database: Database, **options: Any) -> Iterator[Engine]:
    engine = create_engine(database.sandbox.url("app_user"), **options)
    try:
        yield engine
    finally:
        engine.dispose()


@pytest.fixture
def one_connection(database: Database) -> Iterator[Engine]:
    """Create an engine with a pool of one connection, which every scope shares."""
    with engine_of(database, pool_size=1, max_overflow=0, pool_timeout=0.01) as engine:
        yield engine


REFUSES_LATER = """
    CREATE FUNCTION public.refuse_later() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN RAISE EXCEPTION 'not today'; END $$;
    CREATE CONSTRAINT TRIGGER refuse_later AFTER INSERT ON cogni_billing.wallets
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION public.refuse_later()
"""


def autocommits(engine: Engine) -> bool:
    """True if the driver's connection is in that mode."""
    with engine.connect() as connection:
        driver = connection.connection.driver_connection
        assert isinstance(driver, psycopg.Connection)
        return driver.autocommit


class TestContext:
    def test_the_context_ends_with_the_call(self, one_connection: Engine, door: Door) -> None:
        door(PostgresUnitOfWork(one_connection), planned())

        with one_connection.connect() as connection:
            assert connection.scalar(CONTEXT) == ""

    @pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, GeneratorExit])
    def test_the_context_ends_with_a_scope_that_fails(
        self, one_connection: Engine, error: type[BaseException]
    ) -> None:
        def fail(scope: PostgresServiceScope) -> None:
            scope.tenants.open_account(NOON)
            raise error

        with pytest.raises(error):
            PostgresUnitOfWork(one_connection).run(ALICE, fail)

        with one_connection.connect() as connection:
            assert connection.scalar(CONTEXT) == ""

    def test_tenants_on_one_connection_stay_isolated(self, one_connection: Engine) -> None:
        billing = Billing(PostgresUnitOfWork(one_connection))
        for number in range(20):
            for tenant in (ALICE, BOB):
                payment = f"stripe:{number}"
                if tenant == ALICE:
                    billing.confirm_purchase(ALICE, usd("1.00"), payment=payment)
                else:
                    with pytest.raises(PaymentAlreadyClaimed):
                        billing.confirm_purchase(BOB, usd("1.00"), payment=payment)
        billing.open_account(BOB)

        assert billing.balance(ALICE).posted == credits(200_000_000)
        assert billing.balance(BOB).posted == credits(0)
        assert billing.statement(BOB).lines == ()

    def test_commit_inside_a_scope_raises_an_error(self, database: Database) -> None:
        def work(scope: PostgresServiceScope) -> None:
            scope.tenants.open_account(NOON)
            scope.books._connection.commit()

        with pytest.raises(ScopeClosed):
            PostgresUnitOfWork(database.user).run(ALICE, work)


class TestEngines:
    def test_engine_that_autocommits_is_refused_before_any_write(self, database: Database) -> None:
        with (
            engine_of(database, isolation_level="AUTOCOMMIT") as engine,
            pytest.raises(LedgerUnavailable, match="autocommits"),
        ):
            post(AtOnce(engine), planned())

        assert database.totals() == {}

    def test_an_engine_that_autocommits_serves_single_calls(self, database: Database) -> None:
        with engine_of(database, isolation_level="AUTOCOMMIT") as engine:
            assert not PostgresUnitOfWork(engine).post(planned()).replayed
            assert autocommits(engine)

    def test_a_single_call_leaves_the_connection_as_it_was(self, one_connection: Engine) -> None:
        PostgresUnitOfWork(one_connection).post(planned())

        assert not autocommits(one_connection)
        with one_connection.connect() as connection:
            assert connection.scalar(CONTEXT) == ""

    EXPECTED = ("engine", "an Engine on postgresql+psycopg")

    @pytest.mark.parametrize("engine", [None, "postgresql+psycopg://", create_engine("sqlite://")])
    def test_only_an_engine_on_psycopg_will_do(self, engine: Engine) -> None:
        with pytest.raises(InvalidInput) as caught:
            PostgresUnitOfWork(engine)

        assert (caught.value.field, caught.value.expected) == self.EXPECTED

    def test_nor_will_another_for_the_service(self, database: Database) -> None:
        with pytest.raises(InvalidInput) as caught:
            PostgresUnitOfWork(database.user, service="none")  # type: ignore[arg-type]

        assert (caught.value.field, caught.value.expected) == ("service", self.EXPECTED[1])

    @pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
    def test_a_stricter_isolation_level_changes_no_outcome(
        self, database: Database, level: str, door: Door
    ) -> None:
        with engine_of(database, isolation_level=level, pool_size=8) as engine:
            unit_of_work = PostgresUnitOfWork(engine)
            found = at_once(
                [partial(door, unit_of_work, planned(number=each)) for each in range(1, 9)]
            )

        assert sorted(recorded.replayed for recorded in found) == [False] + [True] * 7
        assert database.totals()[SYSTEM_ACCOUNT_ID] == 25_000_000


class TestUnavailable:
    def test_no_server(self, door: Door) -> None:
        engine = create_engine("postgresql+psycopg://app_user@/x?host=/nowhere")

        with pytest.raises(LedgerUnavailable) as caught:
            door(AtOnce(engine), planned())

        assert not isinstance(caught.value, OutcomeUnknown)
        assert caught.value.sqlstate is None

    def test_no_free_connection(self, one_connection: Engine, door: Door) -> None:
        unit_of_work = AtOnce(one_connection)

        with unit_of_work.scope(ALICE), pytest.raises(LedgerUnavailable, match="TimeoutError"):
            door(unit_of_work, planned(BOB))

    @pytest.mark.parametrize(
        ("options", "sqlstate"),
        [
            ("-cdefault_transaction_read_only=on", "25006"),
            ("-clock_timeout=1ms", "55P03"),
            ("-cstatement_timeout=20ms", "57014"),
        ],
    )
    def test_unavailable_server_raises_its_code(
        self, database: Database, options: str, sqlstate: str, door: Door
    ) -> None:
        unit_of_work = PostgresUnitOfWork(database.user)
        given = database.sandbox.role("app_user")
        own = given.query.get("options", "")
        engine = create_engine(given.update_query_dict({"options": f"{own} {options}".strip()}))
        with unit_of_work.scope(ALICE) as scope:
            scope.ledger.post(planned())

            with pytest.raises(LedgerUnavailable) as caught:
                door(AtOnce(engine), planned())

        assert not isinstance(caught.value, OutcomeUnknown)
        assert caught.value.sqlstate == sqlstate
        engine.dispose()


class TestCommit:
    @pytest.mark.parametrize(
        ("cut", "written"), [(Cut.BEFORE_COMMIT, False), (Cut.AFTER_COMMIT, True)]
    )
    def test_a_line_cut_around_commit_is_an_unknown_outcome_that_a_retry_settles(
        self, database: Database, cut: Cut, written: bool, door: Door
    ) -> None:
        with proxied(database.sandbox.role("app_user")) as (proxy, url):
            engine = create_engine(url, poolclass=NullPool)
            proxy.cut = cut
            with pytest.raises(OutcomeUnknown):
                door(AtOnce(engine), planned())
            engine.dispose()
        # The server has answered by now. Before, this call could overtake the first.
        again = door(PostgresUnitOfWork(database.user), planned())

        assert again.replayed == written
        assert database.totals()[SYSTEM_ACCOUNT_ID] == 25_000_000

    def test_backend_terminated_in_a_statement_leaves_no_row(self, database: Database) -> None:
        def work(scope: PostgresServiceScope) -> Recorded:
            terminate(database, scope)
            return scope.ledger.post(planned())

        with pytest.raises(LedgerUnavailable) as caught:
            AtOnce(database.user).run(ALICE, work)

        assert not isinstance(caught.value, OutcomeUnknown)
        assert database.totals() == {}

    def test_backend_terminated_before_commit_leaves_no_row(self, database: Database) -> None:
        def work(scope: PostgresServiceScope) -> None:
            scope.ledger.post(planned())
            terminate(database, scope)

        with pytest.raises(OutcomeUnknown):
            AtOnce(database.user).run(ALICE, work)

        assert database.totals() == {}
        assert not post(PostgresUnitOfWork(database.user), planned()).replayed

    def test_lost_connection_does_not_hide_the_hosts_error(
        self, one_connection: Engine, database: Database
    ) -> None:
        def work(scope: PostgresServiceScope) -> None:
            terminate(database, scope)
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            PostgresUnitOfWork(one_connection).run(ALICE, work)

        assert not post(PostgresUnitOfWork(one_connection), planned()).replayed

    def test_a_connection_known_to_be_lost_is_not_committed(self, database: Database) -> None:
        def work(scope: PostgresServiceScope) -> None:
            scope.ledger.post(planned())
            driver = scope.books._connection.connection.driver_connection
            assert driver is not None
            driver.close()

        with pytest.raises(LedgerUnavailable, match="before COMMIT") as caught:
            AtOnce(database.user).run(ALICE, work)

        assert not isinstance(caught.value, OutcomeUnknown)

    @pytest.mark.parametrize("ending", ["commit", "rollback"])
    @pytest.mark.parametrize("reset", ["rollback", "commit", None])
    def test_connection_with_an_interrupted_end_is_not_reused(
        self, database: Database, reset: Any, ending: str
    ) -> None:
        """A signal handler may interrupt it. The host decides the pool's next step."""

        class Interrupted(Exception):
            pass

        interruptions = iter([Interrupted()])

        def work(scope: PostgresServiceScope) -> None:
            scope.ledger.post(planned())
            if ending == "rollback":
                raise ZeroDivisionError

        def interrupt(_: Connection) -> None:
            for error in interruptions:
                raise error

        with engine_of(database, pool_size=1, max_overflow=0, pool_reset_on_return=reset) as engine:
            event.listen(engine, ending, interrupt)
            unit_of_work = AtOnce(engine)
            with pytest.raises(Interrupted):
                unit_of_work.run(ALICE, work)

            with engine.connect() as connection:
                assert not connection.scalar(CONTEXT)
            unit_of_work.run(BOB, lambda scope: scope.tenants.open_account(NOON))

        assert database.totals() == {}

    def test_connection_lost_with_a_refusal_is_not_committed(self, database: Database) -> None:
        """The server refuses, and ends the session at the same time. A batch would continue."""

        def work(scope: PostgresServiceScope) -> None:
            scope.ledger.post(planned())
            scope.books._connection.invalidate()

        with pytest.raises(LedgerUnavailable, match="before COMMIT") as caught:
            AtOnce(database.user).run(ALICE, work)

        assert not isinstance(caught.value, OutcomeUnknown)
        assert database.totals() == {}

    def test_an_aborted_transaction_is_never_committed_as_if_it_were_whole(
        self, database: Database
    ) -> None:
        """COMMIT would answer ROLLBACK, and every driver would report success."""

        def work(scope: PostgresServiceScope) -> None:
            scope.ledger.post(planned())
            with pytest.raises(Exception, match="division by zero"):
                scope.books._connection.execute(text("SELECT 1/0"))

        with pytest.raises(ScopeClosed):
            AtOnce(database.user).run(ALICE, work)

        assert database.totals() == {}

    def test_a_deferred_trigger_that_refuses_at_commit_is_no_unknown_outcome(
        self, own_database: Database, door: Door
    ) -> None:
        """The trigger is a host's own: the library's schema defers no trigger."""
        with own_database.admin.begin() as admin:
            admin.execute(text(REFUSES_LATER))

        with pytest.raises(LedgerUnavailable, match="not the library's") as caught:
            door(PostgresUnitOfWork(own_database.user), planned())

        assert not isinstance(caught.value, OutcomeUnknown)
        assert own_database.totals() == {}


class TestRunningAgain:
    def test_a_deadlock_is_resolved_by_running_the_loser_again(self, database: Database) -> None:
        unit_of_work = PostgresUnitOfWork(database.user)
        barrier = Barrier(2)
        tries = {ALICE: 0, BOB: 0}

        def claim_both(tenant: TenantId, payments: tuple[str, str]) -> str:
            def work(scope: PostgresServiceScope) -> None:
                tries[tenant] += 1
                for number, payment in enumerate(payments, start=10):
                    scope.ledger.post(planned(tenant, payment=payment, number=number))
                    if tries[tenant] == 1 and payment == payments[0]:
                        barrier.wait()

            try:
                unit_of_work.run(tenant, work)
            except PaymentAlreadyClaimed:
                return "refused"
            return "done"

        with ThreadPoolExecutor(2) as threads:
            outcomes = [
                threads.submit(claim_both, ALICE, ("stripe:1", "stripe:2")),
                threads.submit(claim_both, BOB, ("stripe:2", "stripe:1")),
            ]

        assert sorted(outcome.result() for outcome in outcomes) == ["done", "refused"]
        assert sorted(tries.values()) == [1, 2]
        assert database.totals()[SYSTEM_ACCOUNT_ID] == 50_000_000

    @pytest.mark.parametrize(
        ("error", "times"),
        [
            (LedgerUnavailable("in the way", "40001"), TRIES_MAX),
            (LedgerUnavailable("in the way", "40P01"), TRIES_MAX),
            (LedgerUnavailable("in the way", "55P03"), 1),
            (OutcomeUnknown("perhaps", "40001"), 1),
        ],
        ids=str,
    )
    def test_only_conflicts_are_retried_and_a_limited_number_of_times(
        self, database: Database, error: LedgerUnavailable, times: int
    ) -> None:
        tries = []

        def work(_: PostgresServiceScope) -> None:
            tries.append(1)
            raise error

        with pytest.raises(LedgerUnavailable):
            PostgresUnitOfWork(database.user).run(ALICE, work)

        assert len(tries) == times

    def test_a_batch_that_was_disturbed_before_it_posted_is_repeated_too(
        self, database: Database
    ) -> None:
        """A replay under a policy that is not in force yet reads its key at once."""
        purchase = Purchase(tenant=ALICE, amount=usd("1.00"), payment="stripe:1")
        later = evolve(
            RevenueSharePolicy.default(), effective_from=datetime(2200, 1, 1, tzinfo=UTC)
        )
        with engine_of(database) as engine:
            Billing(PostgresUnitOfWork(engine)).confirm_purchases([purchase])
            disturbances = iter(["DO $$ BEGIN RAISE serialization_failure; END $$"])

            def disturb(
                _: object, __: object, statement: str, parameters: Any, *___: object
            ) -> Any:
                disturbance = next(disturbances, None)
                return (disturbance, ()) if disturbance else (statement, parameters)

            event.listen(engine, "before_cursor_execute", disturb, retval=True)
            (outcome,) = Billing(PostgresUnitOfWork(engine), policy=later).confirm_purchases(
                [purchase]
            )

        assert next(disturbances, None) is None
        assert outcome.state == "replayed"


class TestWhatIsNotTheLedgers:
    def test_error_of_a_hosts_hook_reaches_the_host(self, database: Database) -> None:
        def refuse(*_: object) -> None:
            raise ValueError("no token")

        with engine_of(database) as engine:
            event.listen(engine, "do_connect", refuse)
            with pytest.raises(ValueError, match="no token"):
                post(PostgresUnitOfWork(engine), planned())

    def test_connection_with_a_limited_encoding_is_unusable(
        self, database: Database, door: Door
    ) -> None:
        with engine_of(database, connect_args={"client_encoding": "latin1"}) as engine:
            unit_of_work = PostgresUnitOfWork(engine)
            door(unit_of_work, planned(metadata={"price": "5 \u20ac"}))

            with pytest.raises(LedgerUnavailable, match="set client_encoding to utf8"):
                door(unit_of_work, planned(number=78))


@pytest.mark.parametrize(
    ("key", "shown"),
    [
        (b"x" * 31, "31 bytes"),
        (b"x" * 65, "65 bytes"),
        ("x" * 32, "'str'"),
        (bytearray(32), "'bytearray'"),
    ],
)
def test_a_signing_key_is_of_a_certain_length(database: Database, key: bytes, shown: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        PostgresUnitOfWork(database.user, signing_key=key)

    assert (caught.value.field, caught.value.given) == ("signing_key", shown)
    assert "32 to 64 bytes" in caught.value.expected


def terminate(database: Database, scope: PostgresServiceScope) -> None:
    """End the scope's backend, and wait until it has ended."""
    pid = scope.books._connection.scalar(text("SELECT pg_backend_pid()"))
    with database.admin.connect() as connection:
        ended = connection.scalar(text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": pid})
    assert ended


def test_metadata_is_in_no_traceback(own_database: Database, door: Door) -> None:
    with own_database.admin.begin() as connection:
        connection.execute(text("DROP FUNCTION cogni_billing.mint"))
    private = planned(metadata={"email": "alice@example.com"})

    with pytest.raises(LedgerUnavailable, match="run migrate") as caught:
        door(PostgresUnitOfWork(own_database.user), private)

    assert "alice@example.com" not in "".join(traceback.format_exception(caught.value))


def test_unit_of_work_of_the_other_kind_is_refused(database: Database) -> None:
    url = database.sandbox.url("app_user")
    awaited: Any = AsyncPostgresUnitOfWork(create_async_engine(url))
    called: Any = PostgresUnitOfWork(database.user)

    with pytest.raises(InvalidInput, match="AsyncBilling in place of Billing"):
        Billing(awaited)
    with pytest.raises(InvalidInput, match="Billing in place of AsyncBilling"):
        AsyncBilling(called)
