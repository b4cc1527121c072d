"""What others do between the statements of a call changes when it happens, not what comes of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from itertools import count
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, event

from cogni_billing import (
    Billing,
    LedgerUnavailable,
    PaymentAlreadyClaimed,
    Purchase,
    credits,
    usd,
)
from cogni_billing.adapters.postgres import PostgresUnitOfWork
from cogni_billing.testing import ALICE, BOB, NOON, MovableClock
from stack.conftest import Database


def at(engine: Engine, seconds: int) -> Billing:
    """A host whose clock stands there."""
    return Billing(PostgresUnitOfWork(engine), clock=MovableClock(NOON + timedelta(0, seconds)))


def one(billing: Billing) -> bool:
    return billing.confirm_purchase(ALICE, usd("1.00"), payment="stripe:1").replayed


def several(billing: Billing) -> bool:
    outcomes = billing.confirm_purchases(
        Purchase(tenant=ALICE, amount=usd("1.00"), payment=f"stripe:{n}") for n in (1, 2)
    )
    assert [outcome.error for outcome in outcomes] == [None, None]
    return any(outcome.state == "replayed" for outcome in outcomes)


@pytest.fixture
def engine(database: Database) -> Iterator[Engine]:
    engine = create_engine(database.sandbox.url("app_user"))
    yield engine
    engine.dispose()


@pytest.fixture
def impatient(database: Database) -> Iterator[Engine]:
    """Does not wait for a lock, since who holds it waits here."""
    options = {"options": "-c lock_timeout=50ms"}
    engine = create_engine(database.sandbox.url("app_user"), connect_args=options)
    yield engine
    engine.dispose()


@pytest.mark.parametrize("buy", [one, several])
def test_a_payment_that_nobody_has_claimed_is_never_said_to_be(
    engine: Engine, impatient: Engine, buy: Callable[[Billing], bool]
) -> None:
    """A hold is opened before each try to post: by this purchase's clock it is due already."""
    at(impatient, 0).confirm_purchase(ALICE, usd("1.00"), payment="stripe:0")
    told = list[str | None]()

    def open_hold(*arguments: object) -> None:
        if "claim AS" not in str(arguments[2]):
            return
        number = 2 * len(told) + 1
        name = f"run-{number}"
        try:
            at(impatient, number).charge(ALICE, credits(1), reference=name)
            at(impatient, number).hold(
                ALICE, credits(5), reference=name, expires_at=NOON + timedelta(0, number + 1)
            )
        except LedgerUnavailable as error:
            told.append(error.sqlstate)
        else:
            told.append(None)

    event.listen(engine, "before_cursor_execute", open_hold)

    assert not buy(at(engine, 10))
    assert told[0] is None  # later the wallet may be locked
    event.remove(engine, "before_cursor_execute", open_hold)
    assert buy(at(engine, 10))


SPENDING: dict[str, Callable[[Billing], object]] = {
    "charge": lambda billing: billing.charge(ALICE, credits(5), reference="run-1"),
    "hold": lambda billing: billing.hold(ALICE, credits(5), reference="run-1"),
}


@pytest.mark.parametrize("name", SPENDING)
def test_an_account_that_is_opened_meanwhile_is_there(
    database: Database, engine: Engine, name: str
) -> None:
    """Between the call that found no account and its look for why."""
    tried = count(1)

    def buy(*arguments: object) -> None:
        if "SELECT cogni_billing.accounts" in str(arguments[2]) and next(tried) == 1:
            at(database.user, 0).confirm_purchase(ALICE, usd("1.00"), payment="stripe:1")

    event.listen(engine, "before_cursor_execute", buy)
    SPENDING[name](at(engine, 1))

    assert next(tried) > 1
    balance = at(database.user, 2).balance(ALICE)
    assert balance.available == credits(10_000_000 - 5)


@pytest.mark.parametrize("name", SPENDING)
def test_the_same_call_that_comes_first_is_replayed(
    database: Database, engine: Engine, name: str
) -> None:
    """Between the call that found no account, and nothing under its key, and its second try."""
    tried = count(1)

    def come_first(*arguments: object) -> None:
        if "settle_wallet" in str(arguments[2]) and next(tried) == 1:
            at(database.user, 0).confirm_purchase(ALICE, usd("1.00"), payment="stripe:1")
            SPENDING[name](at(database.user, 0))

    event.listen(engine, "before_cursor_execute", come_first)
    answer: Any = SPENDING[name](at(engine, 1))

    assert answer.replayed
    assert at(database.user, 2).balance(ALICE).available == credits(10_000_000 - 5)


def test_a_batch_that_opens_its_account_is_never_mistaken_either(
    database: Database, engine: Engine
) -> None:
    """Before its second try somebody else opens the account, with a hold that is due by now."""
    at(database.user, 0).confirm_purchase(BOB, usd("1.00"), payment="stripe:1")
    tried = count(1)

    def open_hold(*arguments: object) -> None:
        if "claim AS" in str(arguments[2]) and next(tried) == 2:
            at(database.user, 1).confirm_purchase(ALICE, usd("1.00"), payment="stripe:9")
            at(database.user, 1).hold(
                ALICE, credits(5), reference="h", expires_at=NOON + timedelta(0, 2)
            )

    event.listen(engine, "before_cursor_execute", open_hold)
    outcomes = at(engine, 10).confirm_purchases(
        Purchase(tenant=ALICE, amount=usd("1.00"), payment=f"stripe:{n}") for n in (1, 2)
    )

    assert [type(outcome.error) for outcome in outcomes] == [PaymentAlreadyClaimed, type(None)]
    assert next(tried) > 2
