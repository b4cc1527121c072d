"""Whatever breaks off wherever, a call has happened or not, and asking again settles it, once.

Every call that changes something is broken off before each statement that it sends, and before its
COMMIT: by a backend that is terminated, and by a client that is killed. And its line is cut before
COMMIT is forwarded and after it is answered.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from decimal import Decimal
from itertools import count
from uuid import UUID

import psycopg
import pytest
from attrs import evolve, frozen
from sqlalchemy import URL, Connection, create_engine, event, text

from cogni_billing import (
    AccountId,
    Amount,
    Billing,
    Dispute,
    Hold,
    LedgerUnavailable,
    OutcomeUnknown,
    credits,
    usd,
)
from cogni_billing.adapters.postgres import PostgresUnitOfWork, reset
from cogni_billing.domain.receipts import Receipt
from contract.base import ALICE, BOB
from stack.conftest import Database
from stack.proxy import Cut, proxied

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["pytest", "cogni_billing.adapters.postgres.embedded"])
PAYMENT = "stripe:ready"

Call = Callable[[Billing], object]


def held(billing: Billing) -> UUID:
    """The same hold, every time."""
    return billing.hold(ALICE, credits(30), reference="ready").id


CALLS: dict[str, Call] = {
    "open_account": lambda billing: billing.open_account(BOB),
    "confirm_purchase": lambda billing: billing.confirm_purchase(
        ALICE, usd("1.00"), payment="stripe:1"
    ),
    "confirm_purchase, the first": lambda billing: billing.confirm_purchase(
        BOB, usd("1.00"), payment="stripe:1"
    ),
    "confirm_purchases": lambda billing: billing.confirm_purchases(
        {"tenant": ALICE, "amount": usd("1.00"), "payment": f"stripe:{n}"} for n in range(3)
    ),
    "charge": lambda billing: billing.charge(ALICE, credits(5), reference="c1"),
    "charge_many": lambda billing: billing.charge_many(
        {"tenant": ALICE, "amount": credits(5), "reference": f"c{n}"} for n in range(3)
    ),
    "hold": lambda billing: billing.hold(ALICE, credits(5), reference="h1"),
    "capture": lambda billing: billing.capture(ALICE, held(billing), credits(4), reference="k1"),
    "release": lambda billing: billing.release(ALICE, held(billing)),
    "grant": lambda billing: billing.grant(ALICE, credits(5), source="promo:a", reference="g1"),
    "refund": lambda billing: billing.refund(ALICE, payment=PAYMENT, reference="r1"),
    "open_dispute": lambda billing: billing.open_dispute(ALICE, payment=PAYMENT, reference="d1"),
    "win_dispute": lambda billing: billing.win_dispute(ALICE, payment="stripe:d", reference="d"),
    "lose_dispute": lambda billing: billing.lose_dispute(ALICE, payment="stripe:d", reference="d"),
}
# So many statements, with COMMIT, does a call send.
LEAST, MOST = 2, 60


@frozen
class State:
    """What a call can change."""

    totals: dict[AccountId, Decimal]
    held: Amount
    transactions: int
    accounts: int


def state(database: Database, billing: Billing) -> State:
    verification = billing.verify()
    assert verification.ok
    with database.admin.connect() as connection:
        accounts = connection.scalar(text("SELECT count(*) FROM cogni_billing.accounts"))
    return State(
        database.totals(), billing.balance(ALICE).held, verification.transactions, accounts or 0
    )


def done(given: object) -> None:
    """Raise what the outcomes of a batch tell."""
    for outcome in given if isinstance(given, tuple) else ():
        if outcome.error is not None:
            raise outcome.error


def answer(given: object) -> object:
    """What a call says, but for whether it says so again."""
    if isinstance(given, tuple):
        return tuple(answer(outcome.receipt) for outcome in given)
    if isinstance(given, (Dispute, Hold, Receipt)):
        return evolve(given, replayed=False)
    return given


def ready(database: Database) -> Billing:
    """A ledger that each call can work on; over connections that nothing happens to."""
    reset(database.migrator)
    billing = Billing(PostgresUnitOfWork(database.user, service=database.service))
    billing.confirm_purchase(ALICE, usd("1.00"), payment=PAYMENT)
    billing.confirm_purchase(ALICE, usd("1.00"), payment="stripe:d")
    billing.open_dispute(ALICE, payment="stripe:d", reference="d")
    held(billing)
    return billing


@contextmanager
def watched(urls: tuple[URL, URL], before_each: Callable[[Connection], None]) -> Iterator[Billing]:
    """A `Billing` on connections that are shown before each statement and COMMIT."""
    engines = [create_engine(url, pool_size=1, max_overflow=0) for url in urls]
    for engine in engines:
        event.listen(engine, "before_cursor_execute", lambda each, *_: before_each(each))
        event.listen(engine, "commit", before_each)
    yield Billing(PostgresUnitOfWork(engines[0], service=engines[1]))
    for engine in engines:
        engine.dispose()


def asked(database: Database) -> tuple[URL, URL]:
    return database.sandbox.role("app_user"), database.sandbox.role("app_service")


def settles(database: Database, steady: Billing, name: str, before: State) -> None:
    """It has happened or not; asking again makes it happen, once, with one answer."""
    broken = state(database, steady)
    first = CALLS[name](steady)
    after = state(database, steady)
    again = CALLS[name](steady)

    assert answer(again) == answer(first)
    assert state(database, steady) == after
    assert before != after
    assert broken in (before, after)


def broken_off_everywhere(
    database: Database, name: str, breaks_off_at: Callable[[int], bool]
) -> None:
    """Until a place is not reached, for there is no such statement."""
    for place in range(MOST):
        steady = ready(database)
        before = state(database, steady)
        if not breaks_off_at(place):
            assert place > LEAST
            return
        settles(database, steady, name, before)
    raise AssertionError("it has more statements than were tried")


@pytest.mark.parametrize("name", CALLS)
def test_a_backend_is_terminated(database: Database, name: str) -> None:
    def terminated_at(place: int) -> bool:
        sent = count()
        hit = []

        def terminate(connection: Connection) -> None:
            if next(sent) == place:
                driver = connection.connection.driver_connection
                assert isinstance(driver, psycopg.Connection)
                with database.admin.connect() as admin:
                    pid = {"pid": driver.info.backend_pid}
                    hit.append(admin.scalar(text("SELECT pg_terminate_backend(:pid, 10000)"), pid))

        with watched(asked(database), terminate) as billing:
            try:
                CALLS[name](billing)
            except (LedgerUnavailable, OutcomeUnknown):
                assert hit == [True]
        return bool(hit)

    broken_off_everywhere(database, name, terminated_at)


def die_at(urls: tuple[URL, URL], name: str, place: int) -> None:
    """Make the call in this process, and be killed before it sends that statement."""
    sent = count()

    def die(_: Connection) -> None:
        if next(sent) == place:
            os.kill(os.getpid(), signal.SIGKILL)

    with watched(urls, die) as billing:
        CALLS[name](billing)


@pytest.mark.parametrize("name", CALLS)
def test_a_client_is_killed(database: Database, name: str) -> None:
    def killed_at(place: int) -> bool:
        client = FORKS.Process(target=die_at, args=(asked(database), name, place))
        client.start()
        client.join()
        assert client.exitcode in {0, -signal.SIGKILL}
        return client.exitcode == -signal.SIGKILL

    broken_off_everywhere(database, name, killed_at)


@pytest.mark.parametrize("cut", [Cut.BEFORE_COMMIT, Cut.AFTER_COMMIT])
@pytest.mark.parametrize("name", CALLS)
def test_the_line_is_cut_around_commit(database: Database, name: str, cut: Cut) -> None:
    steady = ready(database)
    before = state(database, steady)
    user, service = asked(database)
    with (
        proxied(user) as (one, user_through),
        proxied(service) as (other, service_through),
        watched((user_through, service_through), lambda _: None) as billing,
    ):
        one.cut = other.cut = cut
        with pytest.raises(OutcomeUnknown):
            done(CALLS[name](billing))

    settles(database, steady, name, before)
