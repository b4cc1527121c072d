"""Who may do what to which table, for whom: the whole answer, in one table.

Every cell is tried on the database, with no tenant set, with one that is none, and acting for each
of two customers and for the system tenant.

    -        refused, whoever is acted for: the role lacks the privilege
    own      the rows of the tenant that is acted for; without one, none
    all      every row, or a row of any tenant, whoever is acted for
    kept     rows on a wallet of the tenant that is acted for alone, other rows of any tenant
    policy   refused by a policy, whoever is acted for
    history  refused to everybody, the owner included: history is append-only
    no RLS   refused: PostgreSQL does not copy into tables under row security
    yes      granted

REF is the right to refer to the table in a foreign key, TRIG that to hang a trigger on it. The
roles are those of `Roles`, and `public`: somebody who was granted nothing.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import psycopg
import pytest
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from cogni_billing import SYSTEM_TENANT_ID, Billing, PaymentAttempts, credits, usd
from cogni_billing.adapters.postgres import PostgresUnitOfWork, reset
from cogni_billing.testing import FakeVerifier
from cogni_billing.testing.base import ALICE, BOB
from cogni_billing.testing.contracts.attempt_base import CARD
from stack.attacks import PRIVILEGE
from stack.conftest import Database

MATRIX = """
table                  role     SELECT INSERT UPDATE  DELETE  TRUNCATE COPY TO COPY FROM REF TRIG
accounts               user     own    own    -       -       -        own     no RLS    -   -
accounts               spender  own    own    -       -       -        own     no RLS    -   -
accounts               service  all    -      -       -       -        all     -         -   -
accounts               migrator own    own    history history history  own     no RLS    yes yes
accounts               keeper   -      own    -       -       -        -       no RLS    -   -
accounts               public   -      -      -       -       -        -       -         -   -
checkpoints            user     own    -      -       -       -        own     -         -   -
checkpoints            spender  own    -      -       -       -        own     -         -   -
checkpoints            service  all    all    -       -       -        all     all       -   -
checkpoints            migrator own    policy history history history  own     no RLS    yes yes
checkpoints            keeper   own    -      -       -       -        own     -         -   -
checkpoints            public   -      -      -       -       -        -       -         -   -
context_keys           user     -      -      -       -       -        -       -         -   -
context_keys           spender  -      -      -       -       -        -       -         -   -
context_keys           service  -      -      -       -       -        -       -         -   -
context_keys           migrator all    all    all     all     all      all     no RLS    yes yes
context_keys           keeper   all    -      -       -       -        all     -         -   -
context_keys           public   -      -      -       -       -        -       -         -   -
disputes               user     own    -      -       -       -        own     -         -   -
disputes               spender  own    -      -       -       -        own     -         -   -
disputes               service  all    all    -       -       -        all     all       -   -
disputes               migrator own    own    history history history  own     no RLS    yes yes
disputes               keeper   -      -      -       -       -        -       -         -   -
disputes               public   -      -      -       -       -        -       -         -   -
grants                 user     own    own    -       -       -        own     no RLS    -   -
grants                 spender  own    -      -       -       -        own     -         -   -
grants                 service  all    -      -       -       -        all     -         -   -
grants                 migrator own    own    own     history history  own     no RLS    yes yes
grants                 keeper   own    -      own     -       -        own     -         -   -
grants                 public   -      -      -       -       -        -       -         -   -
holds                  user     own    own    -       -       -        own     no RLS    -   -
holds                  spender  own    own    -       -       -        own     no RLS    -   -
holds                  service  all    -      -       -       -        all     -         -   -
holds                  migrator own    own    own     history history  own     no RLS    yes yes
holds                  keeper   own    own    own     -       -        own     no RLS    -   -
holds                  public   -      -      -       -       -        -       -         -   -
payment_attempt_events user     own    own    -       -       -        own     no RLS    -   -
payment_attempt_events spender  own    -      -       -       -        own     -         -   -
payment_attempt_events service  all    -      -       -       -        all     -         -   -
payment_attempt_events migrator own    own    history history history  own     no RLS    yes yes
payment_attempt_events keeper   -      -      -       -       -        -       -         -   -
payment_attempt_events public   -      -      -       -       -        -       -         -   -
payment_attempts       user     own    own    -       -       -        own     no RLS    -   -
payment_attempts       spender  own    -      -       -       -        own     -         -   -
payment_attempts       service  all    -      -       -       -        all     -         -   -
payment_attempts       migrator own    own    own     history history  own     no RLS    yes yes
payment_attempts       keeper   own    -      own     -       -        own     -         -   -
payment_attempts       public   -      -      -       -       -        -       -         -   -
payments               user     own    own    -       -       -        own     no RLS    -   -
payments               spender  own    -      -       -       -        own     -         -   -
payments               service  all    -      -       -       -        all     -         -   -
payments               migrator own    own    history history history  own     no RLS    yes yes
payments               keeper   -      -      -       -       -        -       -         -   -
payments               public   -      -      -       -       -        -       -         -   -
postings               user     own    own    -       -       -        own     no RLS    -   -
postings               spender  own    own    -       -       -        own     no RLS    -   -
postings               service  all    kept   -       -       -        all     all       -   -
postings               migrator own    own    history history history  own     no RLS    yes yes
postings               keeper   own    -      -       -       -        own     -         -   -
postings               public   -      -      -       -       -        -       -         -   -
transactions           user     own    own    -       -       -        own     no RLS    -   -
transactions           spender  own    own    -       -       -        own     no RLS    -   -
transactions           service  all    all    -       -       -        all     all       -   -
transactions           migrator own    own    history history history  own     no RLS    yes yes
transactions           keeper   own    -      -       -       -        own     -         -   -
transactions           public   -      -      -       -       -        -       -         -   -
wallets                user     own    -      -       -       -        own     -         -   -
wallets                spender  own    -      -       -       -        own     -         -   -
wallets                service  all    -      -       -       -        all     -         -   -
wallets                migrator own    own    own     history history  own     no RLS    yes yes
wallets                keeper   own    own    own     -       -        own     no RLS    -   -
wallets                public   -      -      -       -       -        -       -         -   -
"""

CONTEXTS: dict[str, str | None] = {
    "nobody": None,
    "nothing": "",
    "nonsense": f"{ALICE}'--",
    "Alice": str(ALICE),
    "Bob": str(BOB),
    "the system": str(SYSTEM_TENANT_ID),
}
ROLES = {
    "user": "app_user",
    "spender": "app_spender",
    "service": "app_service",
    "migrator": "app_migrator",
    "keeper": "cogni_billing_keeper",
    "public": f"somebody_{secrets.token_hex(4)}",
}


@pytest.fixture(scope="module")
def database(shared: Database) -> Iterator[Database]:
    """Rows of Alice's, of Bob's and of the system tenant's in every table that can have them."""
    reset(shared.migrator)
    unit_of_work = PostgresUnitOfWork(shared.user, service=shared.service)
    billing = Billing(unit_of_work)
    attempts = PaymentAttempts(unit_of_work, verifier=FakeVerifier(), destinations=CARD)
    for tenant in (ALICE, BOB, SYSTEM_TENANT_ID):
        billing.confirm_purchase(tenant, usd("1.00"), payment=f"stripe:{tenant}")
        billing.hold(tenant, credits(5), reference="run-1")
        billing.grant(tenant, credits(5), source="promo:a", reference="a")
        billing.open_dispute(
            tenant, payment=f"stripe:{tenant}", amount=usd("0.50"), reference="dp_1"
        )
        intent = attempts.create_intent(tenant, usd("2.00"))
        attempts.submit(tenant, intent.attempt_id, f"stripe:a-{tenant}")
    with shared.admin.begin() as connection:
        connection.execute(
            text("""
                INSERT INTO cogni_billing.checkpoints (
                    tenant_id, account_id, unit, position, after_position, arrived, balance, added
                )
                SELECT tenant_id, id, 'CREDIT', 1, 0, 0, 0, 0 FROM cogni_billing.accounts
                WHERE type = 'billing'
            """)
        )
        connection.execute(
            text("""
                INSERT INTO cogni_billing.context_keys (id, inner_key, outer_key)
                SELECT repeat('0', 16), block, block FROM decode(repeat('00', 64), 'hex') AS block
            """)
        )
        connection.execute(text(f"CREATE ROLE {ROLES['public']}"))
    yield shared
    with shared.admin.begin() as connection:
        connection.execute(text(f"DROP ROLE {ROLES['public']}"))
        connection.execute(text("DELETE FROM cogni_billing.context_keys"))


def expected() -> dict[tuple[str, str], str]:
    """The lines of the matrix, spaces aside."""
    lines = [" ".join(line.split()) for line in MATRIX.strip().splitlines()[1:]]
    return {(line.split()[0], line.split()[1]): line for line in lines}


def test_every_table_has_its_line_for_every_role(database: Database) -> None:
    with database.admin.connect() as connection:
        tables = connection.scalars(
            text("""
                SELECT relname FROM pg_class
                WHERE relnamespace = 'cogni_billing'::regnamespace
                  AND relkind IN ('r', 'p', 'v', 'm', 'f')
            """)
        ).all()

    assert set(expected()) == {(table, role) for table in tables for role in ROLES}


@pytest.mark.parametrize(("table", "role"), expected())
def test_it_is_as_the_matrix_says(database: Database, table: str, role: str) -> None:
    with database.admin.connect() as connection:
        tried = Trial(connection, table, ROLES[role])
        cells = (
            tried.seen(tried.select),
            tried.admitted(),
            tried.seen(tried.update),
            tried.seen(tried.delete),
            tried.seen(tried.truncate),
            tried.seen(tried.copy_out),
            tried.copied_in(),
            tried.granted("REFERENCES"),
            tried.granted("TRIGGER"),
        )

    assert f"{table} {role} {' '.join(cells)}" == expected()[table, role]


Row = dict[str, Any]


class Trial:
    """One role's attempts on one table, each undone."""

    def __init__(self, connection: Connection, table: str, role: str) -> None:
        self.connection, self.table, self.role = connection, f"cogni_billing.{table}", role
        query = f"SELECT row_to_json(it) FROM {self.table} AS it"
        self.rows: list[Row] = list(connection.scalars(text(query)))
        self.columns: list[str] = list(
            connection.scalars(
                text("""
                    SELECT attname FROM pg_attribute
                    WHERE attrelid = CAST(:table AS regclass) AND attnum > 0 AND NOT attisdropped
                      AND attidentity = ''
                """),
                {"table": self.table},
            )
        )

    def seen(self, attempt: Callable[[], int]) -> str:
        """Whose rows *attempt* reaches, by how many they are."""
        found = {name: self._outcome(name, attempt) for name in CONTEXTS}
        own = {name: self._owned_by(context) for name, context in CONTEXTS.items()}
        everything = dict.fromkeys(CONTEXTS, len(self.rows))
        if len(set(found.values())) == 1 and isinstance(found["nobody"], str):
            return found["nobody"]
        return "own" if found == own else "all" if found == everything else f"odd: {found}"

    def admitted(self) -> str:
        """Which rows an INSERT gets past privileges and policies; what comes after does not
        matter here.
        """
        tenants = {context for context in CONTEXTS.values() if context}
        rows = [row for row in self.rows if self._writer(row) in {*tenants, None}]
        found = {
            (name, index): self._outcome(name, partial(self.insert, row))
            for name in CONTEXTS
            for index, row in enumerate(rows)
        }
        own = {
            (name, index): 1 if CONTEXTS[name] == self._writer(rows[index]) else "policy"
            for name, index in found
        }
        kept = {
            (name, index): 1 if rows[index].get("posted_after") is None else outcome
            for (name, index), outcome in own.items()
        }
        if len(set(found.values())) == 1:
            only = found["nobody", 0]
            return "all" if only == 1 else str(only)
        return "own" if found == own else "kept" if found == kept else f"odd: {found}"

    def copied_in(self) -> str:
        outcomes = {self._outcome(name, self.copy_in) for name in CONTEXTS}
        (outcome,) = outcomes
        return "all" if outcome == 0 else str(outcome)

    def granted(self, privilege: str) -> str:
        query = "SELECT has_table_privilege(CAST(:role AS text), :table, :privilege)"
        parameters = {"role": self.role, "table": self.table, "privilege": privilege}
        return "yes" if self.connection.scalar(text(query), parameters) else "-"

    def select(self) -> int:
        listed = ", ".join(self._may("SELECT") or ["*"])
        return len(self.connection.execute(text(f"SELECT {listed} FROM {self.table}")).all())

    def insert(self, row: Row) -> int:
        listed = ", ".join(self._may("INSERT") or self.columns)
        statement = (
            f"INSERT INTO {self.table} ({listed})"
            f" SELECT {listed} FROM json_populate_record(NULL::{self.table}, CAST(:row AS json))"
        )
        self.connection.execute(text(statement), {"row": json.dumps(row)})
        return 1

    def update(self) -> int:
        """Without a WHERE clause, which would have a SELECT policy hide what UPDATE shows."""
        readable, changeable = self._may("SELECT"), self._may("UPDATE")
        column = next((each for each in changeable if each in readable), self.columns[0])
        return self.connection.execute(
            text(f"UPDATE {self.table} SET {column} = {column}")
        ).rowcount

    def delete(self) -> int:
        return self.connection.execute(text(f"DELETE FROM {self.table}")).rowcount

    def truncate(self) -> int:
        self.connection.execute(text(f"TRUNCATE {self.table} CASCADE"))
        return len(self.rows)

    def copy_out(self) -> int:
        listed = ", ".join(self._may("SELECT") or self.columns)
        with self._cursor().copy(f"COPY {self.table} ({listed}) TO STDOUT") as copy:
            return sum(1 for _ in copy.rows())

    def copy_in(self) -> int:
        listed = ", ".join(self._may("INSERT") or self.columns)
        with self._cursor().copy(f"COPY {self.table} ({listed}) FROM STDIN"):
            return 0

    def _may(self, privilege: str) -> list[str]:
        """The columns for which the role has it."""
        query = text("SELECT has_column_privilege(current_user, :table, :column, :privilege)")
        return [
            column
            for column in self.columns
            if self.connection.scalar(
                query, {"table": self.table, "column": column, "privilege": privilege}
            )
        ]

    def _outcome(self, name: str, attempt: Callable[[], int]) -> int | str:
        with self._acting(CONTEXTS[name]):
            try:
                return attempt()
            except (DBAPIError, psycopg.Error) as error:
                cause = error.orig if isinstance(error, DBAPIError) else error
                assert isinstance(cause, psycopg.Error)
                return _REFUSED.get(_kind(cause), 1)

    @contextmanager
    def _acting(self, context: str | None) -> Iterator[None]:
        """As the role, for whom the context says, until it is all undone."""
        self.connection.rollback()
        self.connection.execute(text(f"SET LOCAL SESSION AUTHORIZATION {self.role}"))
        if context is not None:
            setting = text("SELECT set_config('app.current_user_id', :context, true)")
            self.connection.execute(setting, {"context": context})
        yield
        self.connection.rollback()

    def _cursor(self) -> psycopg.Cursor[Any]:
        driver = self.connection.connection.driver_connection
        assert isinstance(driver, psycopg.Connection)
        return driver.cursor()

    def _owned_by(self, context: str | None) -> int:
        return sum(row.get("tenant_id") == context for row in self.rows if context)

    @staticmethod
    def _writer(row: Row) -> str | None:
        written: str | None = row.get("origin_tenant_id", row.get("tenant_id"))
        return written


def _kind(error: psycopg.Error) -> str:
    """What refused: a privilege, a policy, or something else by its SQLSTATE."""
    if error.sqlstate == PRIVILEGE and "row-level security" in str(error):
        return "policy"
    return error.sqlstate or ""


_REFUSED = {PRIVILEGE: "-", "policy": "policy", "23001": "history", "0A000": "no RLS"}
