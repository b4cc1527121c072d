"""Attacks, and the walls that stop each.

Every attack is tried three ways, and rolled back. On the unchanged database it fails. Without all
of its walls it succeeds, which proves that the test works. With each wall alone it fails again. SQL
removes a wall, or replaces a function by a broken copy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, TypeAlias
from uuid import UUID

import pytest
from attrs import frozen
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from cogni_billing import TenantId
from cogni_billing.adapters.postgres import reset
from cogni_billing.adapters.postgres.audit import verification
from cogni_billing.adapters.postgres.operations import blueprint
from cogni_billing.domain.identity import SHORTFALL
from cogni_billing.domain.verification import Invariant
from cogni_billing.testing.base import ALICE, BOB
from stack.conftest import Database
from stack.support.attacks import (
    CALLERS,
    NAMES,
    VALID,
    Ids,
    ask,
    become,
    call,
    capture,
    charge,
    dump,
    grant,
    hold,
    payment_of,
    prepared,
    purchase,
    refund,
)

KEEPER: Final = NAMES["keeper"]
REFUSE_OTHERS: Final = "PERFORM cogni_billing.refuse('transactions_fit_their_kind')"
FRESH: Final = TenantId(UUID(int=2**101))
NAMED: Final = {"alice": ALICE, "bob": BOB}
Attempt: TypeAlias = Callable[[Connection, dict[TenantId, Ids]], object]


@frozen
class Broken:
    """A wall that is removed by a copy of a function with *new* instead of *old*."""

    function: str
    old: str
    new: str

    def take_down(self, connection: Connection) -> None:
        name = f"cogni_billing.{self.function}"
        query = text("SELECT pg_get_functiondef(CAST(:name AS regproc))")
        source = str(connection.scalar(query, {"name": name}))
        assert self.old in source, f"{name} has no {self.old!r}"
        run(connection, source.replace(self.old, self.new))


Wall: TypeAlias = str | Broken


def run(connection: Connection, sql: str) -> None:
    connection.exec_driver_sql(sql.replace("%", "%%"))


@frozen
class Attack:
    """An attack, and each wall that suffices to stop it."""

    attempt: Attempt
    """Returns the attacker's gain. A refusal gains none."""
    walls: tuple[Wall, ...]
    role: str = "app_user"
    before: tuple[Wall, ...] = ()
    """A state that is possible without a fault of the database, or the mistake in a function."""


def gains(statement: str) -> Attempt:
    """Build an attempt that gains the rows that its last statement returns or changes."""

    def attempt(connection: Connection, _: dict[TenantId, Ids]) -> object:
        *first, last = statement.split(";")
        for each in first:
            connection.execute(text(each), NAMED)
        result = connection.execute(text(last), NAMED)
        return result.scalar() if result.returns_rows else result.rowcount

    return attempt


def calls(function: str, tenant: TenantId, make: Callable[[Ids], Any]) -> Attempt:
    """Build an attempt that gains if a call has an effect for a tenant."""

    def attempt(connection: Connection, known: dict[TenantId, Ids]) -> object:
        answer = ask(connection, function, tenant, make(known[ALICE]))
        told = answer[0] if isinstance(answer, list) and answer else answer
        return told.get("outcome", "done") == "done" if isinstance(told, dict) else told

    return attempt


def swindle(**altered: object) -> Attempt:
    """Build an attempt to record a forged purchase."""
    return calls("mint", ALICE, lambda ids: [purchase(ids, **altered)])


def floor(table: str) -> str:
    """Remove the floor of a table, so that every row is admitted."""
    return f"CREATE POLICY mistake ON cogni_billing.{table} USING (true) WITH CHECK (true)"


ALL_FLOORS: Final = ";".join(map(floor, blueprint.LEDGER))
NEWCOMER: Final = TenantId(UUID(int=2**101))
NO_SUM: Final = "ALTER TABLE cogni_billing.arrivals DISABLE TRIGGER check_arrivals"
REAL_CLOCK: Final = """
    DO $$ BEGIN
        EXECUTE format('COMMENT ON SCHEMA cogni_billing IS %L',
            replace(obj_description('cogni_billing'::regnamespace), 'true', 'false'));
    END $$
"""
SIGNED: Final = (
    "INSERT INTO cogni_billing.context_keys SELECT repeat('0', 16), block, block"
    " FROM decode(repeat('00', 64), 'hex') AS block"
)
KEYS: Final = {
    "checkpoints": ("checkpoints_follow_one_another",),
    "disputes": ("disputes_key_used_once",),
    "hold_changes": ("hold_changes_key_used_once",),
    "holds": ("holds_key_used_once",),
    "schedules": ("schedules_key_used_once",),
    "transactions": ("transactions_key_used_once",),
}
COLUMNS: Final = {"arrivals": "amount", "checkpoints": "added"}


def on_others(table: str, column: str = "tenant_id") -> Iterator[tuple[str, Attack]]:
    """Yield attacks on rows of another tenant with all privileges of the keeper: read, add,
    change.
    """
    name = f"cogni_billing.{table}"
    keys = (*KEYS.get(table, ()), f"{table}_pkey")
    keyless = tuple(f"ALTER TABLE {name} DROP CONSTRAINT {key}" for key in keys)
    if table == "transactions":
        keyless += ("DROP INDEX cogni_billing.transactions_lines",)
    walls = (floor(table),)
    seen = "account_id" if table == "arrivals" else column
    read = f"SELECT count(*) FROM {name} WHERE {seen} <> :alice"
    yield f"read others' {table} as the keeper", Attack(gains(read), walls, KEEPER)
    own = (
        f"INSERT INTO {name} SELECT (json_populate_record(it, json_build_object("
        f"'{column}', CAST(:bob AS uuid)))).* FROM {name} AS it"
    )
    before = (*keyless, NO_SUM)
    yield f"add to others' {table} as the keeper", Attack(gains(own), walls, KEEPER, before)
    if table in blueprint.CHANGEABLE:
        change = f"UPDATE {name} SET {column} = :alice WHERE {column} <> :alice"
        attack = Attack(gains(change), walls, KEEPER, keyless)
        yield f"change others' {table} as the keeper", attack


def on_history(table: str) -> Iterator[tuple[str, Attack]]:
    """Yield attacks on recorded rows, with a privilege that the keeper does not have."""
    name = f"cogni_billing.{table}"
    column = COLUMNS.get(table, "tenant_id")
    # `erase_only` compares the row, so the change must be a real one.
    change = {"transactions": "line_at = now()", "disputes": "part = 1"}.get(
        table, f"{column} = {column}"
    )
    changes = {
        "UPDATE": f"UPDATE {name} SET {change}",
        "DELETE": f"DELETE FROM {name}",
        "TRUNCATE": f"TRUNCATE {name}; SELECT 1",
    }
    allowed = {"UPDATE"} if table in blueprint.CHANGEABLE else set()
    allowed |= {"DELETE"} if table == "evidence" else set()
    for privilege in sorted(set(changes) - allowed):
        walls = (
            f"GRANT {privilege} ON {name} TO {KEEPER}",
            f"ALTER TABLE {name} DISABLE TRIGGER {_guard(table, privilege)}",
        )
        attack = Attack(gains(changes[privilege]), walls, KEEPER, (floor(table),))
        yield f"{privilege} {table} as the keeper", attack
    texts = {"transactions": {"metadata": "[]", "reason": "another"}}
    for column, other in texts.get(table, {"metadata": "[]"}).items():
        if table in blueprint.ERASABLE:
            attack = Attack(
                gains(f"UPDATE {name} SET {column} = '{other}'"),
                (f"ALTER TABLE {name} DISABLE TRIGGER erase_only",),
                KEEPER,
            )
            yield f"rewrite the {column} of {table} as the keeper", attack


def _guard(table: str, privilege: str) -> str:
    erasing = privilege == "UPDATE" and table in blueprint.ERASABLE
    return "erase_only" if erasing else "append_only"


def left(name: str) -> Attempt:
    """Build an attempt that gains if a setting is unchanged since it was left on the connection."""

    def attempt(connection: Connection, known: dict[TenantId, Ids]) -> object:
        before = connection.scalar(text(f"SELECT current_setting('{name}')"))
        ask(connection, "spend", ALICE, [charge(known[ALICE])])
        return connection.scalar(text(f"SELECT current_setting('{name}')")) == before

    return attempt


def rows_with(word: str, table: str) -> Callable[[Connection], bool]:
    """Build a test for a row with a word in a table."""
    return lambda connection: any(word in row for name, row in dump(connection) if name == table)


def ends_in(attempt: Attempt, seen: Callable[[Connection], bool]) -> Attempt:
    """Build an attempt that gains if *seen* is true at its end."""

    def whole(connection: Connection, known: dict[TenantId, Ids]) -> object:
        attempt(connection, known)
        return seen(connection)

    return whole


ATTACKS: dict[str, Attack] = {
    # Privileges -----------------------------------------------------------------------------
    "read another tenant's wallet": Attack(
        gains("SELECT count(*) FROM cogni_billing.wallets WHERE tenant_id <> :alice"),
        ("GRANT SELECT ON cogni_billing.wallets TO app_user", floor("wallets")),
    ),
    "read the keys of signed contexts": Attack(
        gains("SELECT count(*) FROM cogni_billing.context_keys"),
        ("GRANT SELECT ON cogni_billing.context_keys TO app_user", floor("context_keys")),
        before=(SIGNED,),
    ),
    "set a balance": Attack(
        gains("UPDATE cogni_billing.wallets SET posted = posted + 5"),
        ("GRANT SELECT, UPDATE ON cogni_billing.wallets TO app_user", floor("wallets")),
    ),
    "lock every other session out": Attack(
        gains("LOCK TABLE cogni_billing.arrivals IN SHARE MODE; SELECT 1"),
        ("GRANT UPDATE ON cogni_billing.arrivals TO app_user",),
    ),
    "become the keeper": Attack(
        gains(f"SET LOCAL ROLE {KEEPER}; SELECT 1"), (f"GRANT {KEEPER} TO app_user",)
    ),
    # EXECUTE --------------------------------------------------------------------------------
    "mint as the spender": Attack(
        calls("mint", ALICE, VALID["mint"]),
        ("GRANT EXECUTE ON FUNCTION cogni_billing.mint TO app_spender",),
        role="app_spender",
    ),
    "mint through the spender's function": Attack(
        calls("spend", ALICE, lambda ids: [grant(ids)]),
        (Broken("spend", "'charge'", "'grant', 'charge'"),),
        role="app_spender",
    ),
    "refund as the user": Attack(
        calls("reverse", ALICE, lambda ids: [refund(ids)]),
        ("GRANT EXECUTE ON FUNCTION cogni_billing.reverse TO app_user",),
    ),
    "freeze as the user": Attack(
        calls("freeze", ALICE, VALID["freeze"]),
        ("GRANT EXECUTE ON FUNCTION cogni_billing.freeze TO app_user",),
    ),
    "open a balance in the past as the user": Attack(
        calls("opening", NEWCOMER, VALID["opening"]),
        ("GRANT EXECUTE ON FUNCTION cogni_billing.opening TO app_user",),
    ),
    "limit an overdraft as the user": Attack(
        calls("limit_overdraft", ALICE, VALID["limit_overdraft"]),
        ("GRANT EXECUTE ON FUNCTION cogni_billing.limit_overdraft TO app_user",),
    ),
    "adjust as the user": Attack(
        calls("adjust", ALICE, VALID["adjust"]),
        ("GRANT EXECUTE ON FUNCTION cogni_billing.adjust TO app_user",),
    ),
    "read what another tenant has": Attack(
        calls("lock", ALICE, lambda ids: {"tenants": [BOB], "at": ids.now}),
        ("GRANT EXECUTE ON FUNCTION cogni_billing.lock TO app_user",),
    ),
    "call the function behind a door": Attack(
        lambda connection, known: call(connection, "_find", BOB, {"id": str(known[BOB].purchase)})[
            "stored"
        ],
        (
            "GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA cogni_billing TO app_user",
            f"GRANT SELECT ON ALL TABLES IN SCHEMA cogni_billing TO app_user; {ALL_FLOORS}",
        ),
    ),
    # Floors, append-only and FORCE, against the keeper's or the owner's privileges -------------
    **{
        name: attack
        for table in blueprint.OWN_TABLES
        for name, attack in (*on_others(table), *on_history(table))
    },
    **dict(on_others("arrivals", "origin_id")),
    **dict(on_others("checkpoints", "account_id")),
    **{name: attack for table in COLUMNS for name, attack in on_history(table)},
    "read another tenant's row as the owner of the tables": Attack(
        gains(f"SELECT count(*) FROM cogni_billing.wallets WHERE tenant_id <> '{ALICE}'"),
        ("ALTER TABLE cogni_billing.wallets NO FORCE ROW LEVEL SECURITY",),
        role="app_migrator",
    ),
    # Functions with a mistake: a floor stands behind each -----------------------------------
    "find another tenant's transaction by its id": Attack(
        lambda connection, known: ask(connection, "find", ALICE, {"id": str(known[BOB].purchase)})[
            "stored"
        ],
        (Broken("_find", "tenant_id = me AND id", "id"), floor("transactions")),
    ),
    "read another tenant's arrivals": Attack(
        lambda connection, _: sum(
            reference is None and kind == "charge"
            for _, _, _, kind, reference, *_ in ask(connection, "lines", ALICE, {"size": 50})[
                "lines"
            ]
        ),
        (Broken("_lines", "account_id = cogni_billing.account_of(me)", "true"), floor("arrivals")),
    ),
    "read another tenant's balance": Attack(
        lambda connection, _: (
            ask(connection, "balance", FRESH, {"now": "2027-01-01"})["outcome"] == "done"
        ),
        (
            Broken("_balance", "wallet WHERE tenant_id = me", f"wallet WHERE tenant_id = '{BOB}'"),
            floor("wallets"),
        ),
    ),
    "spend another tenant's credits": Attack(
        calls("spend", ALICE, lambda ids: [charge(ids)]),
        (ALL_FLOORS,),
        before=(Broken("act", "RETURN tenant", f"RETURN '{BOB}'"),),
    ),
    # Zero-sum -------------------------------------------------------------------------------
    "issue less than is credited": Attack(
        swindle(),
        (NO_SUM,),
        before=(Broken("record", "other_side := - m.amount", "other_side := 1 - m.amount"),),
    ),
    "pay a share that is no number": Attack(
        swindle(shares=["NaN"]),
        (Broken("record", "abs(share) < 1e40 AND scale(share) = 0", "true"), NO_SUM),
    ),
    "add legs to a transaction that is recorded": Attack(
        gains(
            "INSERT INTO cogni_billing.arrivals (origin_id, transaction_id, sequence, account_id,"
            " kind, amount, occurred_at) SELECT :alice, id, leg.n, leg.account, kind, leg.amount,"
            " now() FROM cogni_billing.transactions, (VALUES (8, CAST(:bob AS uuid), 5),"
            " (9, cogni_billing.contra_of('purchase'), -5)) AS leg (n, account, amount)"
            " WHERE kind = 'purchase'"
        ),
        (NO_SUM,),
        role=KEEPER,
    ),
    "take from the shortfall account as the spender": Attack(
        ends_in(
            calls("spend", ALICE, lambda ids: [charge(ids, absorbed=5)]),
            rows_with(str(SHORTFALL), "arrivals"),
        ),
        (Broken("record", REFUSE_OTHERS, "NULL"), Broken("absorbs", "'refund'", "'charge'")),
        role="app_spender",
    ),
    "keep a claim without its purchase": Attack(
        ends_in(
            calls(
                "mint",
                FRESH,
                lambda ids: [purchase(ids, reference="all-mine", expires_at="2020-01-01")],
            ),
            rows_with("all-mine", "claims"),
        ),
        (Broken("record", REFUSE_OTHERS, "NULL"),),
    ),
    # Moments --------------------------------------------------------------------------------
    "spend at an earlier moment": Attack(
        calls("spend", ALICE, lambda ids: [charge(ids, at="2020-01-01")]),
        (Broken("is_near", "SELECT ", "SELECT true OR "),),
        before=(REAL_CLOCK,),
    ),
    "spend late, at the moment that a statement began": Attack(
        gains(
            "SELECT cogni_billing.spend(:alice, NULL, ARRAY[json_build_object('kind',"
            " 'charge', 'id', gen_random_uuid(), 'reference', 'late', 'amount', -1, 'metadata',"
            " '{}', 'at', statement_timestamp() - interval '299.9 s')]) FROM pg_sleep(0.2)"
        ),
        (Broken("is_within_skew", "clock_timestamp()", "statement_timestamp()"),),
        before=(REAL_CLOCK,),
    ),
    # Signed contexts ------------------------------------------------------------------------
    "act for another tenant without a proof": Attack(
        calls("balance", BOB, lambda ids: {"now": ids.now}),
        (Broken("act", "IF FOUND", "IF false"),),
        before=(SIGNED,),
    ),
    "act for another tenant with the id of a key": Attack(
        lambda connection, _: call(connection, "account", BOB, "0" * 16, {}),
        (Broken("check_proof", "proved IS NOT TRUE", "NOT proved"),),
        before=(SIGNED,),
    ),
    # Settings that were left on a connection ------------------------------------------------------
    "have synchronous_commit stay off": Attack(
        left("synchronous_commit"),
        (Broken("act", "current_setting('synchronous_commit')", "''"),),
        before=("SET LOCAL synchronous_commit = off",),
    ),
}

# First on a function's path, an attacker's object runs with the privileges of the function.
SAYS_WHO: Final = "LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''called as %'', current_user; END'"
OWN_OPERATORS: Final = ";".join(
    [
        "CREATE SCHEMA evil AUTHORIZATION app_user; GRANT USAGE ON SCHEMA evil TO PUBLIC",
        f"CREATE FUNCTION evil.set_config(text, text, boolean) RETURNS text {SAYS_WHO}",
        f"CREATE FUNCTION evil.string_to_array(text, text) RETURNS text[] {SAYS_WHO}",
        *(
            f"CREATE FUNCTION evil.mine({kind}, {kind}) RETURNS boolean {SAYS_WHO};"
            f"CREATE OPERATOR evil.{name} (FUNCTION = evil.mine, LEFTARG = {kind},"
            f" RIGHTARG = {kind})"
            for kind, name in (("uuid", "="), ("text", "="), ("numeric", ">"), ("bigint", "="))
        ),
    ]
)


def hijacking(function: str) -> Attempt:
    """Build an attempt that gains if an attacker's object is called as the keeper."""

    def attempt(connection: Connection, known: dict[TenantId, Ids]) -> bool:
        connection.execute(text("SET LOCAL search_path = evil, pg_catalog"))
        try:
            ask(connection, function, ALICE, VALID[function](known[ALICE]))
        except DBAPIError as error:
            return f"called as {KEEPER}" in str(error)
        return False

    return attempt


def role_of(function: str) -> str:
    """Return a role that may call *function*."""
    return NAMES["user" if ("user", function) in CALLERS else "service"]


ATTACKS |= {
    f"lend other operators to {function}": Attack(
        hijacking(function),
        (f"ALTER FUNCTION cogni_billing.{function} RESET search_path",),
        role_of(function),
        (OWN_OPERATORS,),
    )
    for function in VALID
}


@pytest.fixture(scope="module")
def known(shared: Database) -> Iterator[dict[TenantId, Ids]]:
    reset(shared.migrator)
    yield prepared(shared)
    reset(shared.migrator)


@pytest.mark.parametrize("name", ATTACKS)
class TestAttacks:
    def test_attack_fails_as_the_database_is(
        self, shared: Database, known: dict[TenantId, Ids], name: str
    ) -> None:
        attack = ATTACKS[name]
        with attacking(shared, attack) as connection:
            assert not gained(connection, known, attack)

    def test_attack_succeeds_without_its_walls(
        self, shared: Database, known: dict[TenantId, Ids], name: str
    ) -> None:
        attack = ATTACKS[name]
        with attacking(shared, attack, *attack.walls) as connection:
            assert attack.attempt(connection, known)

    def test_each_wall_stops_the_attack_alone(
        self, shared: Database, known: dict[TenantId, Ids], name: str
    ) -> None:
        attack = ATTACKS[name]
        for wall in attack.walls:
            removed = [other for other in attack.walls if other != wall]
            with attacking(shared, attack, *removed) as connection:
                assert not gained(connection, known, attack), wall


@contextmanager
def attacking(database: Database, attack: Attack, *removed: Wall) -> Iterator[Connection]:
    """Open the attacker's connection after the walls are removed. All changes are rolled back."""
    with database.admin.connect() as connection:
        for wall in (*attack.before, *removed):
            take_down(connection, wall)
        become(connection, attack.role)
        setting = text("SELECT set_config('app.current_user_id', :tenant, true)")
        connection.execute(setting, {"tenant": str(ALICE)})
        yield connection
        connection.rollback()


def take_down(connection: Connection, wall: Wall) -> None:
    if isinstance(wall, Broken):
        wall.take_down(connection)
    else:
        run(connection, wall)


def gained(connection: Connection, known: dict[TenantId, Ids], attack: Attack) -> object:
    try:
        return attack.attempt(connection, known)
    except DBAPIError:
        return None


RETURNED: Final = "before    CONSTANT numeric := "
REFUNDED: Final = ";\n    refunded  CONSTANT numeric := "
MISTAKES: dict[str, tuple[Broken, Attempt, Invariant]] = {
    "the wallet is not written": (
        Broken("record", "SET posted = w.posted", "SET posted = posted"),
        calls("spend", ALICE, lambda ids: [charge(ids)]),
        Invariant.WALLETS_MATCH,
    ),
    "a payment is claimed twice": (
        Broken("record", "OR m.kind = 'purchase' THEN", "OR m.kind = 'none' THEN"),
        swindle(reference=payment_of(BOB)),
        Invariant.PURCHASES_CLAIM_THEIR_PAYMENT,
    ),
    "more is credited than is paid": (
        Broken("keep_terms", "ceil(m.paid * rate) IN", "true OR m.paid IN"),
        swindle(amount=100_001),
        Invariant.PURCHASES_CREDIT_WHAT_WAS_PAID,
    ),
    "a hold sets nothing aside": (
        Broken("_hold", "w.held := w.held + m.amount", "w.held := w.held"),
        calls("hold", ALICE, hold),
        Invariant.HOLDS_ARE_COUNTED,
    ),
    "a capture leaves its hold open": (
        Broken("end_hold", "SET state = ending", "SET state = state"),
        calls("spend", ALICE, lambda ids: [capture(ids)]),
        Invariant.CAPTURES_MATCH_THEIR_HOLD,
    ),
    "a grant is drawn and not taken": (
        Broken("draw_grants", "SET taken = taken + part", "SET taken = taken"),
        calls("spend", ALICE, lambda ids: [charge(ids)]),
        Invariant.GRANTS_ADD_UP,
    ),
    "a refund follows none": (
        Broken(
            "begin_reversal",
            f"{RETURNED}cogni_billing.returned_of(owner, m.reverses){REFUNDED}"
            "cogni_billing.refunded_of(owner, m.reverses)",
            f"{RETURNED}m.returned_total - m.returned{REFUNDED}m.returned_total - m.returned",
        ),
        calls("reverse", ALICE, lambda ids: [refund(ids, returned_total="0.50")]),
        Invariant.REVERSALS_FOLLOW_ONE_ANOTHER,
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_verify_finds_the_record_of_a_function_with_a_mistake(
    shared: Database, known: dict[TenantId, Ids], name: str
) -> None:
    mistake, attempt, rule = MISTAKES[name]
    with shared.admin.connect() as connection:
        sound = {each.invariant for each in verification(connection, 10).violations}
        mistake.take_down(connection)
        become(connection, "app_service" if "refund" in name else "app_user")
        assert attempt(connection, known)
        connection.execute(text("RESET SESSION AUTHORIZATION"))
        found = {each.invariant for each in verification(connection, 10).violations} - sound
        connection.rollback()

    assert rule in found


def test_every_function_that_runs_as_the_keeper_has_a_pinned_path(shared: Database) -> None:
    with shared.admin.connect() as connection:
        loose = connection.scalars(
            text("""
                SELECT proname FROM pg_proc
                WHERE pronamespace = 'cogni_billing'::regnamespace AND prosecdef
                  AND NOT 'search_path=pg_catalog, pg_temp' = ANY (coalesce(proconfig, '{}'))
            """)
        ).all()

    assert loose == []
