"""One tenant's connection reveals only one fact of other tenants: that a payment is claimed.

Each test makes two calls: with a key of another tenant, and with a key of no tenant. The two
answers must be equal.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any
from uuid import UUID

import psycopg
import pytest
from attrs import fields
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from cogni_billing import (
    SYSTEM_TENANT_ID,
    Billing,
    RevenueSharePolicy,
    ShareMode,
    ShareRule,
    Shortfall,
    TenantId,
    credits,
    usd,
)
from cogni_billing.adapters.postgres import PostgresUnitOfWork, reset
from cogni_billing.adapters.postgres.operations.sandbox import Sandbox
from cogni_billing.domain.identity import account_of
from cogni_billing.testing.base import ALICE, BOB, NOON, CountingIds, MovableClock
from stack.conftest import Database, created, opened
from stack.support.attacks import (
    CALLERS,
    CHECK,
    EPOCH,
    Ids,
    ask,
    become,
    charge,
    new_id,
    now,
    payment_of,
    prepared,
    purchase,
    rule_of,
    run_on,
    undone,
)

HOUR = timedelta(hours=1)
MANY = 500


@pytest.fixture(scope="module")
def known(shared: Database) -> Iterator[dict[TenantId, Ids]]:
    """Give Bob a long history and Alice a short one, and update the planner's statistics."""
    reset(shared.migrator)
    found = prepared(shared)
    billing = Billing(PostgresUnitOfWork(shared.user))
    billing.charge_many(
        {"tenant": BOB, "amount": credits(1), "reference": f"bob-{n}"} for n in range(MANY)
    )
    with shared.admin.begin() as connection:
        connection.execute(text("ANALYZE"))
    yield found
    reset(shared.migrator)


Question = Callable[[dict[TenantId, Ids]], tuple[str, Any, Any]]
QUESTIONS: dict[str, Question] = {
    "a reference": lambda _: (
        "find",
        {"kind": "charge", "reference": "bob-7"},
        {"kind": "charge", "reference": "none-7"},
    ),
    "a payment": lambda _: (
        "find",
        {"kind": "purchase", "reference": payment_of(BOB)},
        {"kind": "purchase", "reference": payment_of(UUID(int=9))},
    ),
    "a transaction": lambda known: (
        "find",
        {"id": str(known[BOB].purchase)},
        {"id": str(UUID(int=9))},
    ),
    "an attempt": lambda known: (
        "attempt",
        {"id": str(known[BOB].pending)},
        {"id": str(UUID(int=9))},
    ),
    "an attempt's events": lambda known: (
        "attempt_events",
        {"id": str(known[BOB].pending)},
        {"id": str(UUID(int=9))},
    ),
    "a hold": lambda known: (
        "release",
        {"id": str(known[BOB].hold), "at": str(known[BOB].now)},
        {"id": str(UUID(int=9)), "at": str(known[BOB].now)},
    ),
    "a captured hold": lambda known: (
        "spend",
        [charge(known[ALICE], kind="capture", subject=known[BOB].hold)],
        [charge(known[ALICE], kind="capture", subject=UUID(int=9))],
    ),
    "the id of a transaction": lambda known: (
        "spend",
        [charge(known[ALICE], id=known[BOB].purchase)],
        [charge(known[ALICE], id=UUID(int=9))],
    ),
    "the id of a tenant, among beneficiaries": lambda known: (
        "mint",
        [purchase(known[ALICE], beneficiaries=[BOB])],
        [purchase(known[ALICE], beneficiaries=[UUID(int=9)])],
    ),
}


@pytest.mark.parametrize("name", QUESTIONS)
class TestGuesses:
    def test_answer_is_the_same_for_records_of_another_tenant(
        self, shared: Database, known: dict[TenantId, Ids], name: str
    ) -> None:
        function, guess, miss = QUESTIONS[name](known)
        told = []
        for asked in (guess, miss):
            with undone(shared, "app_user") as connection:
                told.append(ask(connection, function, ALICE, asked))

        assert told[0] == told[1]

    def test_buffers_and_rows_are_the_same_for_records_of_another_tenant(
        self, shared: Database, known: dict[TenantId, Ids], name: str
    ) -> None:
        """Compared by EXPLAIN of the call, and by the counters of the open transaction."""
        function, guess, miss = QUESTIONS[name](known)
        told = []
        for asked in (miss, guess, miss):
            with undone(shared, "app_user") as connection:
                ask(connection, function, ALICE, asked)  # fills the catalog caches
                connection.rollback()
                become(connection, "app_user")
                before = counted(connection)
                buffers = explained(connection, function, asked)
                told.append((buffers, counted(connection) - before))

        assert told[1] in (told[0], told[2])

    def test_plans_of_a_function_are_not_sent_to_its_caller(
        self, shared: Database, known: dict[TenantId, Ids], name: str
    ) -> None:
        function, guess, _ = QUESTIONS[name](known)
        with undone(shared, "app_user") as connection:
            told = said(connection)
            for setting in ("debug_print_plan", "debug_print_rewritten", "debug_print_parse"):
                connection.execute(text(f"SET LOCAL {setting} = on"))
            connection.execute(text("SET LOCAL client_min_messages = debug5"))
            ask(connection, function, ALICE, guess)

        tables = table_ids(shared)
        assert not [
            plan for plan in told if plan.startswith("plan") and any(t in plan for t in tables)
        ]


def test_plans_of_a_function_without_a_tenant_are_not_sent_to_its_caller(shared: Database) -> None:
    with undone(shared, "app_user") as connection:
        told = said(connection)
        connection.execute(text("SET LOCAL debug_print_plan = on"))
        connection.execute(text("SET LOCAL client_min_messages = log"))
        connection.execute(text("SELECT cogni_billing.reused_position()"))

    tables = table_ids(shared)
    assert not [plan for plan in told if plan.startswith("plan") and any(t in plan for t in tables)]


def explained(connection: Connection, function: str, asked: Any) -> list[str]:
    """Return EXPLAIN's output for a call, without times."""
    options = "ANALYZE, BUFFERS, TIMING OFF, SUMMARY OFF"
    rows = run_on(connection, f"EXPLAIN ({options}) SELECT", function, ALICE, asked)
    return [row[0] for row in rows if "Planning" not in row[0]]


_COUNTED = text("""
    SELECT relname,
        pg_stat_get_xact_tuples_returned(oid) + pg_stat_get_xact_tuples_fetched(oid) AS rows
    FROM pg_class
    WHERE relnamespace = 'cogni_billing'::regnamespace AND relkind IN ('r', 'i')
    ORDER BY 1
""")


def counted(connection: Connection) -> Counter[str]:
    """Count the rows of each table and index that the session has read since its last report."""
    return Counter({row.relname: row.rows for row in connection.execute(_COUNTED)})


def said(connection: Connection) -> list[str]:
    """Collect the server's messages to the connection from now on."""
    driver = connection.connection.driver_connection
    assert isinstance(driver, psycopg.Connection)
    told: list[str] = []
    driver.add_notice_handler(
        lambda each: told.append(f"{each.message_primary} {each.message_detail or ''}")
    )
    return told


def table_ids(database: Database) -> list[str]:
    query = "SELECT oid FROM pg_class WHERE relnamespace = 'cogni_billing'::regnamespace"
    with database.admin.connect() as connection:
        keys = "AND relname <> 'context_keys'"
        found = connection.scalars(text(f"{query} AND relkind = 'r' {keys}")).all()
    return [f":relid {oid} " for oid in found]


def test_call_reads_no_row_of_other_tenants(shared: Database, known: dict[TenantId, Ids]) -> None:
    """Bob has 500 charges. Alice's calls read none of their rows."""
    with undone(shared, "app_user") as connection:
        before = counted(
            connection
        )  # reads of earlier transactions, until the session reports them
        for function, asked in (
            ("balance", {"now": str(NOON)}),
            ("lines", {"size": 10}),
            ("grants", {"now": str(NOON)}),
            ("find", {"kind": "charge", "reference": "run-1"}),
            ("spend", [charge(known[ALICE])]),
        ):
            ask(connection, function, ALICE, asked)
        rows = counted(connection) - before

    assert rows["transactions"] < MANY / 5
    assert rows["arrivals"] < MANY / 5


@pytest.mark.parametrize("who", [BOB, SYSTEM_TENANT_ID], ids=["partner", "system"])
def test_beneficiary_does_not_learn_the_buyer(shared: Database, who: TenantId) -> None:
    """Lines, a transaction's id, and a disputed purchase do not reveal the buyer."""
    reset(shared.migrator)
    shares = (ShareRule(account_of(who), "0.5"),)
    rules = RevenueSharePolicy("v1", EPOCH, ShareMode.BONUS, shares, Shortfall.DEBT)
    billing = Billing(PostgresUnitOfWork(shared.user, service=shared.service), policy=rules)
    billing.open_account(who)
    bought = billing.confirm_purchase(ALICE, usd("1.00"), payment="stripe:secret")
    opened = billing.open_dispute(
        ALICE, payment="stripe:secret", amount=usd("0.50"), reference="dp_secret"
    )
    billing.refund(ALICE, payment="stripe:secret", amount=usd("0.10"), reference="re_secret")
    questions: dict[str, list[Any]] = {
        "account": [{}],
        "balance": [{"now": "2030-01-01"}, {"moment": "2030-01-01"}],
        "lines": [{"size": 100}, {"size": 100, "kind": "purchase"}],
        "grants": [{"now": "2030-01-01"}],
        "find": [
            {"id": str(bought.transaction_id)},
            {"kind": "purchase", "reference": "stripe:secret"},
            {"kind": "refund", "reference": "re_secret"},
        ],
        "attempt": [{"id": str(bought.transaction_id)}],
        "attempt_events": [{"id": str(bought.transaction_id)}],
        "payment": [{"payment": "stripe:secret"}],
        "dispute": [{"reference": "dp_secret"}],
    }
    told = []
    for function, asked in questions.items():
        role = "app_user" if ("user", function) in CALLERS else "app_service"
        with undone(shared, role) as connection:
            told += [json.dumps(ask(connection, function, who, each)) for each in asked]
    with undone(shared, "app_service") as connection:
        aside = text(
            "SELECT id::text FROM cogni_billing.holds WHERE kind = 'dispute' AND tenant_id = :who"
        )
        parts = connection.execute(aside, {"who": who}).scalars().all()
    with undone(shared, "app_user") as connection:
        assert parts
        for part in parts:
            answer = ask(connection, "release", who, {"id": part, "at": "2030-01-01"})
            assert answer == {"outcome": "unknown_hold"}

    assert "-25" in "".join(told) or "2500000" in "".join(told) or "5000000" in "".join(told)
    for secret in (str(ALICE), "secret", "payment", str(opened.id)):
        assert not [each for each in told if secret in each], secret


@pytest.fixture(scope="module")
def own_strict(billing_database: Sandbox) -> Iterator[Database]:
    """Create a database that refuses moments far from its clock."""
    with created(billing_database) as clone:
        clone.install(test_database=False)
        with opened(clone) as database:
            yield database


class TestTime:
    """Calls that would rewrite the past, or block the future."""

    def test_charge_with_the_id_that_an_expiry_will_have_stops_no_expiry(
        self, database: Database
    ) -> None:
        clock = MovableClock()
        billing = Billing(PostgresUnitOfWork(database.user), clock=clock, ids=CountingIds())
        billing.confirm_purchase(ALICE, usd("1.00"), payment="stripe:1")
        billing.grant(ALICE, credits(5), source="a", reference="a", expires_at=NOON + HOUR)
        clock.moment = NOON + 2 * HOUR
        [due] = billing.statement(ALICE, kind="expiry").lines
        with database.user.begin() as connection:
            taken = {"id": due.transaction_id, "reference": due.reference, "at": NOON}
            movement = {"kind": "charge", "amount": -1, "metadata": "{}"} | taken
            assert ask(connection, "spend", ALICE, [movement])[0]["outcome"] == "done"

        assert billing.charge(ALICE, credits(1), reference="run-1").balance == credits(9_999_999)
        assert {line.kind.value for line in billing.statement(ALICE).lines} >= {"expiry"}

    @pytest.mark.parametrize("minutes", [6, 60, 60 * 24 * 365])
    def test_backdated_charge_spends_no_lapsed_grant_and_no_expired_hold(
        self, own_strict: Database, minutes: int
    ) -> None:
        billing = Billing(PostgresUnitOfWork(own_strict.user))
        billing.grant(ALICE, credits(9), source="a", reference=f"a-{minutes}")
        held = billing.hold(ALICE, credits(4), reference=f"run-{minutes}")
        with own_strict.admin.begin() as connection:
            lapse = "expires_at = now() - interval '4 minutes'"
            connection.execute(text(f"UPDATE cogni_billing.grants SET {lapse}"))
            connection.execute(text(f"UPDATE cogni_billing.holds SET {lapse}"))
            connection.execute(text("UPDATE cogni_billing.holds SET ends_at = expires_at"))
            due = lapse.replace("expires_at", "due_at")
            connection.execute(text(f"UPDATE cogni_billing.wallets SET {due}"))
            moment = connection.scalar(text("SELECT now()"))
        common = {"metadata": "{}", "at": str(moment - timedelta(minutes=minutes))}
        spent = {"kind": "charge", "id": str(new_id()), "reference": "b", "amount": -5}
        taken = {"kind": "capture", "reference": "c", "amount": -4, "subject": str(held.id)}
        for movement in (spent, {**taken, "id": str(new_id())}):
            with undone(own_strict, "app_user") as connection, pytest.raises(DBAPIError) as caught:
                ask(connection, "spend", ALICE, [movement | common])
            assert rule_of(caught.value) == (CHECK, "moments_are_near_the_servers")

        present = {"metadata": "{}", "at": str(moment)}
        with undone(own_strict, "app_user") as connection:
            [late] = ask(connection, "spend", ALICE, [spent | present])
        assert late["outcome"] == "insufficient"
        with own_strict.user.begin() as connection:
            ask(connection, "expire_due", ALICE, {"at": str(moment)})

    def test_purchase_is_not_dated_into_the_past_of_the_system_tenant(
        self, own_strict: Database
    ) -> None:
        billing = Billing(PostgresUnitOfWork(own_strict.user))
        ids = new_ids()
        with undone(own_strict, "app_user") as connection:
            before = billing.balance(SYSTEM_TENANT_ID, at=EPOCH + HOUR)
            with pytest.raises(DBAPIError) as caught:
                ask(connection, "mint", ALICE, [purchase(ids, at="1970-01-01T00:30Z")])
            assert rule_of(caught.value) == (CHECK, "moments_are_near_the_servers")

        assert billing.balance(SYSTEM_TENANT_ID, at=EPOCH + HOUR) == before

    @pytest.mark.parametrize(
        "altered",
        [
            {},
            {"paid": "1e-2"},
            {"paid_unit": "USDC"},
            {"paid": "0.010000", "paid_unit": "USDC"},
            {"policy": '{"version":' + "9" * 600 + "}"},
            {"policy": '{"a":' * 8 + "1" + "}" * 8},
            {"beneficiaries": None, "shares": None},
            {"beneficiaries": [BOB], "shares": [0]},
            {"metadata": '{"a":"\\\\u0000"}'},
        ],
    )
    def test_payment_that_is_accepted_can_be_refunded_and_disputed(
        self, database: Database, altered: dict[str, Any]
    ) -> None:
        ids = new_ids()
        with database.user.begin() as connection:
            [answer] = ask(connection, "mint", ALICE, [purchase(ids, **altered)])
            assert answer["outcome"] == "done"
        billing = Billing(PostgresUnitOfWork(database.user, service=database.service))

        billing.open_dispute(ALICE, payment="stripe:new-1", reference="dp_1")
        billing.win_dispute(ALICE, payment="stripe:new-1", reference="dp_1")
        assert billing.refund(ALICE, payment="stripe:new-1", reference="re_1").taken == credits(
            100_000
        )


def new_ids() -> Ids:
    nothing = UUID(int=0)
    return Ids(now(), ALICE, *[nothing] * (len(fields(Ids)) - 2))
