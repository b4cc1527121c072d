"""Random arguments of every function. Each call ends in a named refusal or in a valid record.

The library can read a valid record back. Afterwards `verify` may report only purchases with shares
that do not follow a policy: a caller that may mint can declare any.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from attrs import fields
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from cogni_billing import Billing, TenantId
from cogni_billing.adapters.postgres import PostgresUnitOfWork, reset
from cogni_billing.adapters.postgres.calls import encoded
from cogni_billing.domain.verification import Invariant
from cogni_billing.testing.base import ALICE, BOB
from stack.conftest import Database
from stack.support.attacks import (
    CALLERS,
    NAMES,
    SYSTEM,
    TENANTS,
    VALID,
    Ids,
    call,
    capture,
    charge,
    dispute,
    extension,
    grant,
    hold,
    intent,
    planned,
    prepared,
    purchase,
    refund,
    reinstatement,
    rule_of,
    step,
    void,
)

OUTCOMES = {
    "claimed",
    "done",
    "expired",
    "hold_closed",
    "in_use",
    "insufficient",
    "moved_on",
    "not_credited",
    "replayed",
    "unknown_account",
    "unknown_hold",
    "unknown_grant",
    "unknown_schedule",
    "unknown_zone",
    "not_later",
    "more_due",
}
FORGEABLE = {Invariant.SHARES_FOLLOW_THE_POLICY}
FIELDS = sorted(
    {
        field
        for make in (
            *(charge, capture, purchase, grant, void, extension, refund, hold, intent, step),
            *(dispute, planned, reinstatement),
        )
        for field in make(Ids(*[timedelta()] * len(fields(Ids))))  # type: ignore[arg-type]
    }
    | {"given_anchor", "effective_from", "actor"}
    | {
        "lapsed",
        "overdraft",
        "seen",
        "own",
        "size",
        "since",
        "until",
        "kind",
        "now",
        "moment",
        "seconds",
    }
)
NUMBERS = ["NaN", "Infinity", "-0", "1e40", "0.1", "5.0", -1, 0, 1, 5, 2**31, 2**63, 10**40, 1e300]
TEXTS = ["", " ", "a", "run-1", "dp_1", "\0", "\ud800", "é", "x" * 300, "{}", '{"a":1e400}', "[1]"]
TIMES = ["now", "epoch", "infinity", "-infinity", "2026-11-23T12:00Z", "9999-01-01", "yesterday"]
KINDS = ["charge", "purchase", "grant", "capture", "expiry", "refund", "USD", "USDC", "debt"]
IDS = [str(UUID(int=n)) for n in (0, 5, 2**100)] + [str(tenant) for tenant in TENANTS]
SCALARS = st.sampled_from([None, True, False, *NUMBERS, *TEXTS, *TIMES, *KINDS, *IDS])
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(FIELDS), inner, max_size=3)
    ),
    max_leaves=6,
)


@pytest.fixture(scope="module")
def known(shared: Database) -> Iterator[dict[TenantId, Ids]]:
    reset(shared.migrator)
    yield prepared(shared)
    reset(shared.migrator)


@pytest.mark.parametrize("function", VALID)
def test_random_argument_ends_in_a_named_refusal_or_a_right_record(
    shared: Database, known: dict[TenantId, Ids], function: str
) -> None:
    role = NAMES[next(who for who, name in sorted(CALLERS) if name == function)]
    engine = {"app_user": shared.user, "app_spender": shared.spender}.get(role, shared.service)

    @settings(max_examples=settings().max_examples // 2)
    @given(st.data())
    def attempt(data: st.DataObject) -> None:
        tenant = data.draw(st.sampled_from([ALICE, BOB, SYSTEM]))
        valid = json.loads(encoded(VALID[function](known[tenant])))
        asked = json.dumps(altered(data, valid))
        groups = f'[{{"owner":"{tenant}","movements":{asked}}}]'
        arguments = (groups,) if function.endswith("_groups") else (tenant, None, asked)
        with engine.connect() as connection:
            try:
                answer = call(connection, function, *arguments)
            except DBAPIError as error:
                assert_named(error, asked)
            else:
                assert outcomes_in(answer) <= OUTCOMES, asked
                if role != NAMES["service"]:  # the service role may return another part than is due
                    connection.commit()

    attempt()
    read_everything(shared)


def assert_named(error: DBAPIError, asked: str) -> None:
    """Check that a rule of the ledger refused, or PostgreSQL cannot read a value as its type."""
    sqlstate, rule = rule_of(error)
    assert rule is not None or (sqlstate or "").startswith("22"), (asked, error)


def altered(data: st.DataObject, value: Any) -> Any:
    """Replace, add or remove one to three fields of *value*."""
    if not isinstance(value, (dict, list)) or not data.draw(st.integers(0, 15)):
        return data.draw(VALUES)
    if isinstance(value, list):
        if not value:
            return [data.draw(VALUES)]
        place = data.draw(st.integers(0, len(value) - 1))
        return [altered(data, each) if n == place else each for n, each in enumerate(value)]
    for _ in range(data.draw(st.integers(1, 3))):
        field = data.draw(st.sampled_from([*value, *value, *FIELDS]))
        value = {**value, field: data.draw(VALUES)}
        if data.draw(st.booleans()):
            del value[field]
    return value


def outcomes_in(answer: Any) -> set[str]:
    """Return all outcomes in an answer."""
    if isinstance(answer, list):
        return set().union(*map(outcomes_in, answer))
    return {answer["outcome"]} if isinstance(answer, dict) and "outcome" in answer else set()


def read_everything(database: Database) -> None:
    """Read every record of every tenant with the library."""
    billing = Billing(PostgresUnitOfWork(database.user, service=database.service))
    unit_of_work = PostgresUnitOfWork(database.user)
    with database.admin.connect() as connection:
        tenants = connection.scalars(text("SELECT tenant_id FROM cogni_billing.wallets")).all()
        made = connection.execute(
            text("SELECT tenant_id, id FROM cogni_billing.transactions")
        ).all()
        attempts = connection.execute(
            text("SELECT tenant_id, id FROM cogni_billing.payment_attempts")
        ).all()
    for tenant in tenants:
        billing.balance(tenant)
        billing.grants(tenant)
        billing.grants(tenant, spent=True)
        billing.statement(tenant, limit=100)
        billing.schedules(tenant)
        billing.lots(tenant)
    for tenant, number in made:
        with unit_of_work.scope(tenant) as scope:
            read = scope.ledger.transaction(number)
        assert read is not None
        assert read.transaction.request or read.transaction.kind == "expiry"
    for tenant, number in attempts:
        with unit_of_work.scope(tenant) as scope:
            scope.attempts.events(number)


def test_verify_finds_nothing_else_after_random_calls(
    shared: Database, known: dict[TenantId, Ids]
) -> None:
    found = Billing(PostgresUnitOfWork(shared.user, service=shared.service)).verify()

    assert {violation.invariant for violation in found.violations} <= FORGEABLE
