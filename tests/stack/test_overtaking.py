"""Concurrent calls between the statements of one call change its time, not its outcome."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any, Final

import psycopg
import pytest
from sqlalchemy import Engine, create_engine

from cogni_billing import (
    Billing,
    InsufficientCredits,
    PaymentAlreadyClaimed,
    Purchase,
    credits,
    usd,
)
from cogni_billing.adapters.postgres import PostgresUnitOfWork
from cogni_billing.testing import ALICE, BOB, NOON, MovableClock
from cogni_billing.testing.contracts.purchases import policy
from stack.conftest import Database
from stack.support.watching import watched_engine

HOUR: Final = timedelta(hours=1)
LIMIT: Final = 1000
"""The number of due holds and grants that one call posts."""


def at(engine: Engine, moment: datetime, **options: Any) -> Billing:
    """Build a host with a clock at that moment."""
    return Billing(PostgresUnitOfWork(engine), clock=MovableClock(moment), **options)


@contextmanager
def overtaken(database: Database, overtake: Callable[[int], None]) -> Iterator[Engine]:
    """Create an engine that calls *overtake* before each statement but the first."""
    sent: list[str] = []

    def before_each(_: psycopg.Connection[Any], statement: str) -> None:
        if "cogni_billing" in statement:
            sent.append(statement)
            if len(sent) > 1:
                overtake(len(sent) - 1)

    url = database.sandbox.role("app_user")
    with watched_engine(url, before_each, pool_size=1, max_overflow=0) as engine:
        yield engine


@pytest.fixture
def others(database: Database) -> Engine:
    return database.user


@pytest.fixture
def due(others: Engine) -> None:
    """Let Alice buy, and give her more grants that expire within the hour than one call posts."""
    billing = at(others, NOON)
    billing.confirm_purchase(ALICE, usd("1.00"), payment="stripe:0")
    for number in range(LIMIT + 1):
        billing.grant(
            ALICE,
            credits(1),
            source="promo:a",
            reference=f"{number}",
            expires_at=NOON + timedelta(milliseconds=number + 1),
        )


CALLS: Final[dict[str, Callable[[Billing], Any]]] = {
    "confirm_purchase": lambda billing: billing.confirm_purchase(
        ALICE, usd("1.00"), payment="stripe:1"
    ),
    "charge": lambda billing: billing.charge(ALICE, credits(5), reference="run-1"),
    "hold": lambda billing: billing.hold(ALICE, credits(5), reference="run-1"),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_call_that_settles_in_several_statements_is_replayed_if_the_same_call_comes_between(
    database: Database, others: Engine, due: None, name: str
) -> None:
    call = CALLS[name]
    between: list[Any] = []

    def come_first(_: int) -> None:
        if not between:
            between.append(call(at(others, NOON + HOUR)))

    with overtaken(database, come_first) as engine:
        answer = call(at(engine, NOON + HOUR))

    assert [each.replayed for each in between] == [False]
    assert answer.replayed
    assert call(at(others, NOON + HOUR)).replayed


def test_a_payment_that_another_tenant_claims_between_two_statements_is_refused(
    database: Database, others: Engine, due: None
) -> None:
    def claim(_: int) -> None:
        at(others, NOON + HOUR).confirm_purchase(BOB, usd("1.00"), payment="stripe:1")

    with overtaken(database, claim) as engine, pytest.raises(PaymentAlreadyClaimed):
        at(engine, NOON + HOUR).confirm_purchase(ALICE, usd("1.00"), payment="stripe:1")

    assert at(others, NOON + HOUR).balance(ALICE).posted == credits(10_000_000)


def test_credits_that_are_spent_between_two_statements_are_not_spent_again(
    database: Database, others: Engine, due: None
) -> None:
    def spend(number: int) -> None:
        at(others, NOON + HOUR).charge(ALICE, credits(9_999_999), reference=f"other-{number}")

    with overtaken(database, spend) as engine, pytest.raises(InsufficientCredits) as caught:
        at(engine, NOON + HOUR).charge(ALICE, credits(5), reference="run-1")

    assert caught.value.available == credits(1)


def test_an_unclaimed_payment_is_never_refused_as_claimed(
    database: Database, others: Engine, due: None
) -> None:
    """A due hold is opened before each statement, so each statement has to post an expiration."""
    opened: list[int] = []

    def open_hold(number: int) -> None:
        if number <= 3:
            moment = NOON + HOUR - timedelta(seconds=10 - number)
            at(others, moment).hold(
                ALICE, credits(5), reference=f"{number}", expires_at=moment + timedelta(seconds=1)
            )
            opened.append(number)

    with overtaken(database, open_hold) as engine:
        receipt = at(engine, NOON + HOUR).confirm_purchase(ALICE, usd("1.00"), payment="stripe:1")

    assert opened
    assert not receipt.replayed
    assert at(others, NOON + HOUR).balance(ALICE).held == credits(0)


def test_replay_recorded_after_its_lookup_is_found_by_the_post(
    database: Database, others: Engine
) -> None:
    """A batch of purchases from before and after the policy begins reads keys first, and then
    posts.
    """
    later = policy("0.25", since=NOON + HOUR)
    at(others, NOON).confirm_purchase(ALICE, usd("1.00"), payment="stripe:0")

    def buy(number: int) -> None:
        at(others, NOON).confirm_purchase(ALICE, usd("1.00"), payment=f"stripe:{number}")

    with overtaken(database, buy) as engine:
        outcomes = at(engine, NOON, policy=later).confirm_purchases(
            Purchase(tenant=ALICE, amount=usd("1.00"), payment=f"stripe:{number}")
            for number in (0, 1, 2)
        )

    # Each of the others was bought before the statement that reads its key.
    assert [outcome.state for outcome in outcomes] == ["replayed"] * 3


def test_all_or_nothing_key_used_between_two_statements_is_a_conflict(
    database: Database, others: Engine
) -> None:
    """A replay in such a batch takes a second statement, since it could be a conflict."""
    billing = at(others, NOON)
    billing.confirm_purchase(ALICE, usd("1.00"), payment="stripe:0")
    billing.charge(ALICE, credits(1), reference="run-1")
    batch = [{"tenant": ALICE, "amount": credits(n), "reference": f"run-{n}"} for n in (1, 2, 3)]

    def charge(_: int) -> None:
        billing.charge(ALICE, credits(5), reference="run-2")

    with overtaken(database, charge) as engine:
        outcomes = at(engine, NOON).charge_many(batch, all_or_nothing=True)

    errors = [outcome.error.code for outcome in outcomes if outcome.error]
    assert errors == ["others_refused", "idempotency_conflict", "others_refused"]
    assert billing.balance(ALICE).posted == credits(10_000_000 - 1 - 5)


def test_all_or_nothing_counts_spending_between_its_two_statements(
    database: Database, others: Engine
) -> None:
    billing = at(others, NOON)
    billing.confirm_purchase(ALICE, usd("1.00"), payment="stripe:0")
    billing.charge(ALICE, credits(1), reference="run-1")
    batch = [{"tenant": ALICE, "amount": credits(n), "reference": f"run-{n}"} for n in (1, 2, 3)]

    def charge(_: int) -> None:
        billing.charge(ALICE, credits(9_999_995), reference="other")

    with overtaken(database, charge) as engine:
        outcomes = at(engine, NOON).charge_many(batch, all_or_nothing=True)

    errors = [outcome.error.code for outcome in outcomes if outcome.error]
    assert errors == ["others_refused", "others_refused", "insufficient_credits"]
    assert billing.balance(ALICE).posted == credits(4)


def test_refused_batch_opens_no_account(database: Database, others: Engine) -> None:
    """A batch for an unknown tenant is refused, though the tenant buys after the statement."""
    engine = create_engine(database.sandbox.role("app_user"))
    outcomes = at(engine, NOON).charge_many(
        [{"tenant": ALICE, "amount": credits(1), "reference": "run-1"}]
    )
    engine.dispose()

    assert [outcome.error.code for outcome in outcomes if outcome.error] == ["unknown_account"]
    at(others, NOON).confirm_purchase(ALICE, usd("1.00"), payment="stripe:0")
    assert not at(others, NOON).charge(ALICE, credits(1), reference="run-1").replayed
