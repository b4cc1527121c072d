"""Attacks with a connection of one's own, and what stands in their way.

Each is tried three ways, and undone: as things are, where it fails; with everything that stands in
its way removed, where it works, or this would prove nothing; and with all but one of these removed,
where it fails again, so that each of them is known to hold by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from attrs import field, frozen
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from cogni_billing import (
    SYSTEM_ACCOUNT_ID,
    SYSTEM_TENANT_ID,
    Billing,
    PaymentAttempts,
    TenantId,
    credits,
    usd,
)
from cogni_billing.adapters.postgres import PostgresUnitOfWork, reset
from cogni_billing.adapters.postgres.posting import POST
from cogni_billing.adapters.postgres.rows import transaction_parameters
from cogni_billing.domain.grants import plan_grant
from cogni_billing.domain.identity import ISSUANCE
from cogni_billing.domain.policies import Shortfall
from cogni_billing.domain.refunds import Payment, There, plan_reversal, request_refund
from cogni_billing.domain.transactions import Transaction, TransactionKind
from cogni_billing.testing import FakeVerifier
from cogni_billing.testing.base import ALICE, BOB, NOON
from cogni_billing.testing.contracts.attempt_base import CARD
from cogni_billing.testing.contracts.purchases import planned
from stack.conftest import Database

PAYMENT, BOBS = "stripe:alices", "stripe:bobs"
SHARED = 2_500_000
BOUGHT = 10_000_000


@frozen
class Attack:
    """What somebody tries who acts for Alice, and each thing that alone keeps it from working."""

    attempt: Callable[[Connection], object]
    """Returns what it gained; it may also be refused."""
    walls: tuple[str, ...]
    """The statements with which an administrator would take each of them down."""
    role: str = "app_user"
    before: str = field(default="SELECT 1")
    """What is there without any fault of the database's."""


def asked(statement: str) -> Callable[[Connection], object]:
    """An attempt that gains what a query returns, if it is anything."""

    def attempt(connection: Connection) -> object:
        *first, last = statement.split(";")
        for each in first:
            connection.execute(text(each), NAMES)
        return connection.execute(text(last), NAMES).scalar()

    return attempt


def done(statement: str) -> Callable[[Connection], object]:
    """An attempt that is a gain when it is let through."""

    def attempt(connection: Connection) -> bool:
        for each in statement.split(";"):
            connection.execute(text(each), NAMES)
        return True

    return attempt


def posted(transaction: Transaction, like: TransactionKind, **altered: Any) -> Any:
    """A transaction of the library's, altered, in the statement for one of a kind."""
    parameters = transaction_parameters(transaction) | altered

    def attempt(connection: Connection) -> object:
        return connection.execute(POST[like], parameters).scalar_one_or_none()

    return attempt


NAMES = {"alice": ALICE, "bob": BOB, "system": SYSTEM_TENANT_ID}
PURCHASE = planned(payment="stripe:forged", number=91)
LEG = """
    INSERT INTO cogni_billing.postings (
        tenant_id, account_id, origin_tenant_id, transaction_id, sequence, kind, unit, amount,
        occurred_at
    )
    SELECT leg.tenant, leg.account, :{origin}, {transaction}, leg.sequence, 'purchase', 'CREDIT',
           leg.amount, now()
    FROM (VALUES (CAST(:system AS uuid), cogni_billing.account_of(:system), 5, 8),
                 (CAST(:system AS uuid), cogni_billing.contra_of('purchase'), -5, 9))
        AS leg (tenant, account, amount, sequence)
"""
ANY_POSTING = "CREATE POLICY mistake ON cogni_billing.postings FOR INSERT WITH CHECK (true)"
NO_MATCH = "ALTER TABLE cogni_billing.postings DISABLE TRIGGER check_postings"
NO_COMPANY = "ALTER TABLE cogni_billing.transactions DISABLE TRIGGER check_transactions"
EDITABLE = (
    "GRANT UPDATE ON cogni_billing.transactions TO app_user",
    "CREATE POLICY mistake ON cogni_billing.transactions FOR UPDATE USING (true)",
    "ALTER TABLE cogni_billing.transactions DISABLE TRIGGER append_only",
)
OWN_SCHEMA = "CREATE SCHEMA evil AUTHORIZATION app_user"


def refund() -> Transaction:
    """A refund of Alice's payment, as the service would post it."""
    asked_for = request_refund(
        ALICE,
        payment=PAYMENT,
        amount=usd("0.40"),
        reference="re_1",
        shortfall=Shortfall.DEBT,
        metadata=None,
    )
    payment = Payment(
        purchase=planned(payment=PAYMENT, amount="1.00"), returned=usd(0), disputed=usd(0)
    )
    return plan_reversal(
        TransactionKind.REFUND, asked_for, payment, There(), at=NOON, transaction_id=UUID(int=79)
    )


def grant() -> Transaction:
    return plan_grant(
        ALICE,
        credits(500),
        source="promo:a",
        reference="a",
        expires_at=None,
        priority=0,
        metadata=None,
        at=NOON,
        transaction_id=UUID(int=78),
    )


ATTACKS: dict[str, Attack] = {
    # Reading -------------------------------------------------------------------------------
    "read another tenant's rows": Attack(
        asked("SELECT count(*) FROM cogni_billing.wallets WHERE tenant_id <> :alice"),
        ("ALTER TABLE cogni_billing.wallets DISABLE ROW LEVEL SECURITY",),
    ),
    "read them by a policy that admits too much": Attack(
        asked("SELECT count(*) FROM cogni_billing.wallets WHERE tenant_id <> :alice"),
        ("DROP POLICY wallets_floor ON cogni_billing.wallets",),
        before="CREATE POLICY mistake ON cogni_billing.wallets FOR SELECT USING (true)",
    ),
    "turn row security off": Attack(
        asked(
            "SELECT set_config('row_security', 'off', true);"
            "SELECT count(*) FROM cogni_billing.wallets"
        ),
        ("ALTER ROLE app_user BYPASSRLS",),
    ),
    "read through a view of one's own": Attack(
        asked("SELECT count(*) FROM evil.seen WHERE tenant_id <> :alice"),
        ("ALTER VIEW evil.seen OWNER TO postgres; GRANT SELECT ON evil.seen TO app_user",),
        before=f"{OWN_SCHEMA}; CREATE VIEW evil.seen AS SELECT * FROM cogni_billing.wallets;"
        " ALTER VIEW evil.seen OWNER TO app_user",
    ),
    "have a function in a condition tell what it is shown": Attack(
        asked(
            "SELECT count(*) FROM cogni_billing.wallets WHERE evil.told(tenant_id);"
            "SELECT nullif(current_setting('evil.told', true), '')"
        ),
        ("ALTER TABLE cogni_billing.wallets DISABLE ROW LEVEL SECURITY",),
        before=f"{OWN_SCHEMA}; CREATE FUNCTION evil.told(uuid) RETURNS boolean LANGUAGE plpgsql"
        " COST 0.0001 AS $$ BEGIN"
        f" IF $1 <> '{ALICE}' THEN PERFORM set_config('evil.told', $1::text, true); END IF;"
        " RETURN true; END $$",
    ),
    "read what the planner knows": Attack(
        asked(
            "SELECT count(*) FROM pg_stats"
            " WHERE schemaname = 'cogni_billing' AND tablename = 'postings'"
        ),
        ("ALTER TABLE cogni_billing.postings DISABLE ROW LEVEL SECURITY",),
        before="ANALYZE cogni_billing.postings",
    ),
    "read how many postings there are": Attack(
        asked("SELECT last_value FROM cogni_billing.postings_position_seq"),
        ("GRANT SELECT ON SEQUENCE cogni_billing.postings_position_seq TO app_user",),
    ),
    "read the keys of signed contexts": Attack(
        asked("SELECT count(*) FROM cogni_billing.context_keys"),
        (
            "GRANT SELECT ON cogni_billing.context_keys TO app_user",
            "CREATE POLICY mistake ON cogni_billing.context_keys USING (true)",
        ),
        before="INSERT INTO cogni_billing.context_keys SELECT repeat('0', 16), block, block"
        " FROM decode(repeat('00', 64), 'hex') AS block",
    ),
    # Being somebody else -------------------------------------------------------------------
    "become the service role": Attack(
        done("SET LOCAL ROLE app_service"),
        ("GRANT app_service TO app_user",),
    ),
    "become the keeper": Attack(
        done("SET LOCAL ROLE cogni_billing_keeper"),
        ("GRANT cogni_billing_keeper TO app_user",),
    ),
    "act for somebody as the keeper does": Attack(
        done("SELECT cogni_billing.act_for(:bob)"),
        ("GRANT EXECUTE ON FUNCTION cogni_billing.act_for TO app_user",),
    ),
    "write in another tenant's name": Attack(
        done(LEG.format(origin="bob", transaction="gen_random_uuid()")),
        ("DROP POLICY postings_write_floor ON cogni_billing.postings", NO_MATCH),
    ),
    # Lending the keeper's rights -----------------------------------------------------------
    "keep a row of one's own as the keeper": Attack(
        asked(
            "INSERT INTO pg_temp.forged (tenant_id, account_id, origin_tenant_id, transaction_id,"
            " sequence, kind, unit, amount, occurred_at)"
            " VALUES (:alice, :alice, :alice, gen_random_uuid(), 1, 'purchase', 'CREDIT', 5,"
            " now());"
            f"SELECT posted > {BOUGHT} FROM cogni_billing.wallets"
        ),
        (
            "CREATE TRIGGER forged BEFORE INSERT ON pg_temp.forged FOR EACH ROW"
            " EXECUTE FUNCTION cogni_billing.keep_wallet()",
        ),
        before="CREATE TEMP TABLE forged (LIKE cogni_billing.postings INCLUDING DEFAULTS);"
        " ALTER TABLE pg_temp.forged ALTER position DROP NOT NULL;"
        " GRANT INSERT ON pg_temp.forged TO app_user",
    ),
    "attach the keeper's trigger to a table of one's own": Attack(
        done(
            "CREATE TEMP TABLE forged (LIKE cogni_billing.postings);"
            "CREATE TRIGGER forged BEFORE INSERT ON pg_temp.forged FOR EACH ROW"
            " EXECUTE FUNCTION cogni_billing.keep_wallet()"
        ),
        ("GRANT EXECUTE ON FUNCTION cogni_billing.keep_wallet TO app_user",),
    ),
    # Writing what the database computes ----------------------------------------------------
    "set a balance": Attack(
        asked("UPDATE cogni_billing.wallets SET posted = posted + 5 RETURNING posted"),
        ("GRANT UPDATE (posted) ON cogni_billing.wallets TO app_user",),
    ),
    "lock everybody out": Attack(
        done("LOCK TABLE cogni_billing.postings IN SHARE MODE"),
        ("GRANT UPDATE ON cogni_billing.postings TO app_user",),
    ),
    "suspend the triggers": Attack(
        done("SET LOCAL session_replication_role = replica"),
        ("GRANT SET ON PARAMETER session_replication_role TO app_user",),
    ),
    "hang a trigger on the ledger": Attack(
        done(
            "CREATE TRIGGER quiet BEFORE INSERT ON cogni_billing.payments FOR EACH ROW"
            " EXECUTE FUNCTION suppress_redundant_updates_trigger()"
        ),
        ("GRANT TRIGGER ON cogni_billing.payments TO app_user",),
    ),
    "rewrite what others insert": Attack(
        done("CREATE RULE quiet AS ON INSERT TO cogni_billing.payments DO INSTEAD NOTHING"),
        ("ALTER TABLE cogni_billing.payments OWNER TO app_user",),
    ),
    "put a function beside the library's": Attack(
        done(
            "CREATE FUNCTION cogni_billing.account_of(text) RETURNS uuid LANGUAGE sql"
            " AS 'SELECT NULL::uuid'"
        ),
        ("GRANT CREATE ON SCHEMA cogni_billing TO app_user",),
    ),
    # Editing history -----------------------------------------------------------------------
    "change a transaction": Attack(
        asked("UPDATE cogni_billing.transactions SET amount = amount + 5 RETURNING amount"),
        EDITABLE,
    ),
    "change it on a conflict": Attack(
        asked(
            "INSERT INTO cogni_billing.accounts (tenant_id, id, opened_at)"
            " VALUES (:alice, :alice, now())"
            " ON CONFLICT (tenant_id, id) DO UPDATE SET opened_at = 'epoch' RETURNING 1"
        ),
        (
            "GRANT UPDATE ON cogni_billing.accounts TO app_user",
            "CREATE POLICY mistake ON cogni_billing.accounts FOR UPDATE USING (true)",
            "ALTER TABLE cogni_billing.accounts DISABLE TRIGGER append_only",
        ),
    ),
    "change it by merging": Attack(
        lambda connection: (
            connection.execute(
                text(
                    "MERGE INTO cogni_billing.transactions USING (SELECT) AS one"
                    f" ON tenant_id = '{ALICE}'"
                    " WHEN MATCHED THEN UPDATE SET metadata = '{}'"
                )
            ).rowcount
        ),
        EDITABLE,
    ),
    "delete a transaction": Attack(
        lambda connection: connection.execute(text("DELETE FROM cogni_billing.payments")).rowcount,
        (
            "GRANT DELETE ON cogni_billing.payments TO app_user",
            "CREATE POLICY mistake ON cogni_billing.payments FOR DELETE USING (true)",
            "ALTER TABLE cogni_billing.payments DISABLE TRIGGER append_only",
        ),
    ),
    "empty a table": Attack(
        done("TRUNCATE cogni_billing.checkpoints"),
        (
            "GRANT TRUNCATE ON cogni_billing.checkpoints TO app_user",
            "ALTER TABLE cogni_billing.checkpoints DISABLE TRIGGER append_only",
        ),
    ),
    "add to an old transaction": Attack(
        done(LEG.format(origin="alice", transaction="(SELECT id FROM cogni_billing.transactions)")),
        (NO_MATCH,),
    ),
    "add to somebody else's transaction": Attack(
        done(
            LEG.format(origin="alice", transaction=f"CAST('{planned(BOB, number=2).id}' AS uuid)")
        ),
        (NO_MATCH,),
    ),
    # Unbalancing the books -----------------------------------------------------------------
    "keep the share": Attack(
        posted(
            PURCHASE,
            TransactionKind.PURCHASE,
            other_tenants=[SYSTEM_TENANT_ID],
            other_accounts=[ISSUANCE],
            other_amounts=[-PURCHASE.amount.value],
        ),
        (NO_MATCH,),
    ),
    "lower the system account": Attack(
        posted(
            PURCHASE,
            TransactionKind.PURCHASE,
            amount=PURCHASE.amount.value + SHARED,
            other_tenants=[SYSTEM_TENANT_ID] * 2,
            other_accounts=[SYSTEM_ACCOUNT_ID, ISSUANCE],
            other_amounts=[Decimal(-SHARED), -PURCHASE.amount.value],
        ),
        (ANY_POSTING, NO_MATCH),
    ),
    "take from another tenant": Attack(
        posted(
            PURCHASE,
            TransactionKind.PURCHASE,
            amount=PURCHASE.amount.value + 5,
            other_tenants=[BOB, SYSTEM_TENANT_ID],
            other_accounts=[BOB, ISSUANCE],
            other_amounts=[Decimal(-5), -PURCHASE.amount.value],
        ),
        (ANY_POSTING, NO_MATCH),
    ),
    "share what is no number": Attack(
        posted(
            PURCHASE,
            TransactionKind.PURCHASE,
            shares=[Decimal("NaN")],
            other_amounts=[Decimal("NaN"), Decimal("NaN")],
        ),
        (
            "ALTER TABLE cogni_billing.postings DROP CONSTRAINT postings_amount_whole_and_bounded;"
            " ALTER POLICY postings_insert_issuance ON cogni_billing.postings WITH CHECK (true)",
            NO_MATCH + ";" + ANY_POSTING,
        ),
    ),
    "post half a transaction": Attack(
        done(
            "INSERT INTO cogni_billing.transactions (tenant_id, id, kind, reference, unit, amount,"
            " beneficiaries, shares, request, policy, metadata, occurred_at)"
            " VALUES (:alice, gen_random_uuid(), 'charge', 'run-9', 'CREDIT', -5,"
            " '{}', '{}', '{}', '{}', '{}', now())"
        ),
        (NO_COMPANY,),
    ),
    "make a payload without end": Attack(
        posted(PURCHASE, TransactionKind.PURCHASE, metadata='{"a":"%s"}' % ("x" * 2**20)),
        (
            "ALTER TABLE cogni_billing.transactions"
            " DROP CONSTRAINT transactions_metadata_small_object",
        ),
    ),
    # Minting -------------------------------------------------------------------------------
    "squat a payment": Attack(
        done(
            "INSERT INTO cogni_billing.payments (payment, tenant_id)"
            " VALUES ('stripe:everybodys', :alice); SET CONSTRAINTS ALL IMMEDIATE"
        ),
        ("ALTER TABLE cogni_billing.payments DROP CONSTRAINT payments_have_their_purchase",),
    ),
    "be credited for another tenant's payment": Attack(
        posted(planned(payment=BOBS, number=91), TransactionKind.EXPIRY),
        (NO_COMPANY,),
    ),
    "confirm a purchase as the spender": Attack(
        posted(PURCHASE, TransactionKind.PURCHASE),
        ("GRANT INSERT ON cogni_billing.payments TO app_spender",),
        role="app_spender",
    ),
    "confirm it without a claim": Attack(
        posted(PURCHASE, TransactionKind.EXPIRY),
        (NO_COMPANY,),
        role="app_spender",
    ),
    "grant as the spender": Attack(
        posted(grant(), TransactionKind.GRANT),
        ("GRANT INSERT ON cogni_billing.grants TO app_spender",),
        role="app_spender",
    ),
    "grant without terms": Attack(
        posted(grant(), TransactionKind.EXPIRY),
        (NO_COMPANY,),
        role="app_spender",
    ),
    "charge less than nothing": Attack(
        posted(
            PURCHASE,
            TransactionKind.EXPIRY,
            kind="charge",
            beneficiaries=[],
            shares=[],
            other_tenants=[SYSTEM_TENANT_ID],
            other_accounts=[UUID("00000000-0000-4000-b000-000000000002")],
            other_amounts=[-PURCHASE.amount.value],
        ),
        (
            "ALTER TABLE cogni_billing.transactions DROP CONSTRAINT transactions_raise_or_lower",
            ANY_POSTING,
        ),
        role="app_spender",
    ),
    # Taking back ---------------------------------------------------------------------------
    "refund as the user": Attack(
        posted(refund(), TransactionKind.REFUND),
        (
            "GRANT INSERT ON cogni_billing.transactions TO app_user",
            "ALTER POLICY postings_insert_clawback ON cogni_billing.postings TO PUBLIC;"
            "ALTER POLICY postings_insert_unissued ON cogni_billing.postings TO PUBLIC",
        ),
    ),
    "set another tenant's credits aside": Attack(
        done(
            "SELECT cogni_billing.set_aside("
            ":bob, gen_random_uuid(), gen_random_uuid(), 'CREDIT', 5, now())"
        ),
        ("GRANT EXECUTE ON FUNCTION cogni_billing.set_aside TO app_user",),
    ),
    "tell what another tenant has": Attack(
        done("SELECT cogni_billing.lock_earned(:bob, 'CREDIT', now())"),
        ("GRANT EXECUTE ON FUNCTION cogni_billing.lock_earned TO app_user",),
    ),
}

# With these first on its path a function means what the attacker says, as whoever it runs as.
OWN_OPERATORS = f"{OWN_SCHEMA}; GRANT USAGE ON SCHEMA evil TO PUBLIC;" + ";".join(
    f"""
    CREATE FUNCTION evil.mine({kind}, {kind}) RETURNS boolean LANGUAGE plpgsql AS $$
        BEGIN
            RAISE EXCEPTION 'called as %', current_user;
        END
    $$;
    """
    + ";".join(
        f"CREATE OPERATOR evil.{name} (FUNCTION = evil.mine, LEFTARG = {kind}, RIGHTARG = {kind})"
        for name in ("=", "<=", ">", "<", ">=", "<>")
    )
    for kind in ("numeric", "uuid", "text", "timestamptz")
)
UNPINNED = """
    DO $$
    DECLARE called oid;
    BEGIN
        FOR called IN
            SELECT oid FROM pg_proc
            WHERE pronamespace = 'cogni_billing'::regnamespace AND proconfig IS NOT NULL
        LOOP
            EXECUTE format('ALTER FUNCTION %s RESET search_path', called::regprocedure);
        END LOOP;
    END
    $$
"""


def hijacking(statement: str) -> Callable[[Connection], object]:
    """An attempt that gains when something of the attacker's is called as the keeper."""

    def attempt(connection: Connection) -> bool:
        connection.execute(text("SET LOCAL search_path = evil, pg_catalog"))
        try:
            connection.execute(text(statement), NAMES)
        except DBAPIError as error:
            return "called as cogni_billing_keeper" in str(error)
        return False

    return attempt


ATTACKS |= {
    f"lend other operators to {name}": Attack(
        hijacking(statement), (UNPINNED,), before=OWN_OPERATORS
    )
    for name, statement in {
        "settle_wallet": "SELECT cogni_billing.settle_wallet('CREDIT', now())",
        "release_hold": "SELECT cogni_billing.release_hold(id, unit, now())"
        " FROM cogni_billing.holds WHERE kind OPERATOR(pg_catalog.=) 'work'",
        "keep_hold": "INSERT INTO cogni_billing.holds (tenant_id, id, account_id, reference, unit,"
        " amount, opened_at, ends_at, request, metadata) VALUES (:alice, gen_random_uuid(), :alice,"
        " 'run-9', 'CREDIT', 5, now(), '9998-01-01', '{}', '{}')",
        "begin_check": "SELECT cogni_billing.begin_check(id, now(), '0')"
        " FROM cogni_billing.payment_attempts",
        "keep_attempt": "INSERT INTO cogni_billing.payment_attempt_events (tenant_id, attempt_id,"
        " from_state, state, at, failure, found) SELECT tenant_id, id, state, 'FAILED', now(),"
        " 'TX_REVERTED', '{}' FROM cogni_billing.payment_attempts",
    }.items()
}


@pytest.fixture(scope="module")
def kept(shared: Database) -> Database:
    """Alice and Bob have bought; Alice has a hold and a pending attempt, Bob a dispute."""
    reset(shared.migrator)
    unit_of_work = PostgresUnitOfWork(shared.user, service=shared.service)
    unit_of_work.run(
        ALICE, lambda scope: scope.ledger.post(planned(payment=PAYMENT, amount="1.00"))
    )
    unit_of_work.run(
        BOB, lambda scope: scope.ledger.post(planned(BOB, payment=BOBS, amount="1.00", number=2))
    )
    Billing(unit_of_work).hold(ALICE, credits(7), reference="run-1")
    Billing(unit_of_work).open_dispute(BOB, payment=BOBS, reference="dp_1")
    attempts = PaymentAttempts(unit_of_work, verifier=FakeVerifier(), destinations=CARD)
    intent = attempts.create_intent(ALICE, usd("2.00"))
    attempts.submit(ALICE, intent.attempt_id, "stripe:attempted")
    return shared


@pytest.mark.parametrize("name", ATTACKS)
class TestAttacks:
    def test_it_fails(self, kept: Database, name: str) -> None:
        attack = ATTACKS[name]
        with undone(kept, attack) as connection:
            assert not gained(connection, attack)

    def test_it_would_work_without_what_stands_in_its_way(self, kept: Database, name: str) -> None:
        attack = ATTACKS[name]
        with undone(kept, attack, *attack.walls) as connection:
            assert gained(connection, attack)

    def test_each_of_what_does_holds_by_itself(self, kept: Database, name: str) -> None:
        attack = ATTACKS[name]
        for left in attack.walls:
            removed = [wall for wall in attack.walls if wall != left]
            with undone(kept, attack, *removed) as connection:
                assert not gained(connection, attack), left


@contextmanager
def undone(database: Database, attack: Attack, *removed: str) -> Iterator[Connection]:
    """Alice's connection, after the walls *removed* are down; afterwards all is as before."""
    with database.admin.connect() as connection:
        for statement in (attack.before, *removed):
            connection.execute(text(statement))
        connection.execute(text(f"SET LOCAL SESSION AUTHORIZATION {attack.role}"))
        set_tenant(connection, ALICE)
        yield connection
        connection.rollback()


def set_tenant(connection: Connection, tenant: TenantId) -> None:
    connection.execute(
        text("SELECT set_config('app.current_user_id', :tenant, true)"), {"tenant": str(tenant)}
    )


def gained(connection: Connection, attack: Attack) -> object:
    try:
        return attack.attempt(connection)
    except DBAPIError:
        return None


def test_every_function_that_runs_as_the_keeper_has_a_path_of_its_own(kept: Database) -> None:
    with kept.admin.connect() as connection:
        loose = connection.scalars(
            text("""
                SELECT proname FROM pg_proc
                WHERE pronamespace = 'cogni_billing'::regnamespace AND prosecdef
                  AND proconfig IS DISTINCT FROM ARRAY['search_path=pg_catalog, pg_temp']
            """)
        ).all()

    assert loose == []


@pytest.mark.parametrize(
    ("role", "lost"),
    [
        ("app_user", set()),
        ("app_spender", set()),
        (
            "app_service",
            {f"postings_insert_{name}" for name in ("clawback", "shortfall", "unissued")},
        ),
    ],
)
def test_a_role_that_drops_all_it_has_widens_nothing(
    kept: Database, role: str, lost: set[str]
) -> None:
    """PostgreSQL before 15.20 was seen to delete and to widen policies that name such a role. Ours
    are for everybody, or for what only that role may do.
    """
    policies = text("SELECT * FROM pg_policies WHERE schemaname = 'cogni_billing'")
    with kept.admin.connect() as connection:
        before = {row.policyname: tuple(row) for row in connection.execute(policies)}
        connection.execute(text(f"SET LOCAL SESSION AUTHORIZATION {role}"))
        connection.execute(text(f"DROP OWNED BY {role}"))
        after = {row.policyname: tuple(row) for row in connection.execute(policies)}

    assert set(before) - set(after) == lost
    assert all(before[name] == policy for name, policy in after.items())
