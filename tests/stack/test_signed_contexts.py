"""With signed contexts, injected SQL can still act for one tenant only."""

from __future__ import annotations

import asyncio
import secrets
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any
from uuid import UUID

import psycopg
import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.ext.asyncio import create_async_engine

from cogni_billing import (
    SYSTEM_ACCOUNT_ID,
    SYSTEM_TENANT_ID,
    AsyncBilling,
    Balance,
    Billing,
    InvalidInput,
    LedgerCorruption,
    PrivilegeRequired,
    TenantId,
    credits,
    usd,
)
from cogni_billing.adapters.postgres import (
    AsyncPostgresUnitOfWork,
    PostgresUnitOfWork,
    doctor,
    ensure_ready,
    migrate,
    provision,
    reset,
    sign_contexts,
)
from cogni_billing.adapters.postgres.calls import encoded
from cogni_billing.adapters.postgres.contexts import CONTEXT_KEYS, proved
from cogni_billing.adapters.postgres.operations.sandbox import Sandbox
from cogni_billing.domain.signing import key_id
from cogni_billing.testing import ALICE, BOB, NOON, Fixtures, Totals
from cogni_billing.testing.contracts import disputes, grants, holds, purchases, refunds, scopes
from cogni_billing.testing.contracts.refunds import policy
from stack.conftest import Database, created, opened
from stack.support.attacks import (
    CALLERS,
    NAMES,
    PRIVILEGE,
    SYSTEM,
    VALID,
    Ids,
    arguments,
    call,
    dump,
    prepared,
    refusal,
    refusal_of,
    undone,
)

KEY, OTHER_KEY = secrets.token_bytes(32), secrets.token_bytes(64)
KEY_ID = key_id(KEY, CONTEXT_KEYS)
INVALID = "the tenant was set without a valid proof"


@pytest.fixture(scope="module")
def kept(billing_database: Sandbox) -> Iterator[Database]:
    """Create a database with signed contexts for this module's tests."""
    with created(billing_database) as clone:
        clone.install(test_database=True)
        with opened(clone) as database:
            sign_contexts(database.migrator, [KEY])
            yield database


@pytest.fixture
def database(kept: Database) -> Database:
    reset(kept.migrator)
    sign_contexts(kept.migrator, [KEY])
    return kept


def signing(database: Database, key: bytes | None = KEY) -> PostgresUnitOfWork:
    return PostgresUnitOfWork(database.user, service=database.service, signing_key=key)


def proof_now(tenant: object) -> str:
    return proved(str(tenant), KEY, int(time.time()))


NOBODY = TenantId(UUID("0dead000-0000-4000-8000-000000000009"))
INVALID_PROOFS: dict[str, Callable[[], str | None]] = {
    "none": lambda: None,
    "empty": lambda: "",
    "a dot": lambda: ".",
    "two dots": lambda: "..",
    "nonsense": lambda: "x.y.z",
    "expired": lambda: proved(str(BOB), KEY, int(time.time()) - 302),
    "of the future": lambda: proved(str(BOB), KEY, int(time.time()) + 3600),
    "of another tenant": lambda: proof_now(UUID(int=2**99)),
    "of another key": lambda: proved(str(BOB), OTHER_KEY, int(time.time())),
    "the key alone": lambda: KEY_ID,
    "no code": lambda: f"{KEY_ID}.{int(time.time())}",
    "no second": lambda: f"{KEY_ID}..",
    "a huge second": lambda: f"{KEY_ID}.{2**70}.0",
    "a second that is no number": lambda: f"{KEY_ID}.now.0",
    "endless": lambda: f"{KEY_ID}." + "9" * 10_000 + ".é",
    "in capitals": lambda: proof_now(BOB).upper(),
    "cut short": lambda: proof_now(BOB)[:-1],
    "of the tenant in capitals": lambda: proof_now(str(BOB).upper()),
}


@pytest.fixture
def known(database: Database) -> dict[TenantId, Ids]:
    sign_contexts(database.migrator, [])
    found = prepared(database)
    sign_contexts(database.migrator, [KEY])
    return found


@pytest.fixture
def billing(database: Database) -> Billing:
    """Build a ledger where Alice and Bob have paid a dollar each. Bob has a share of Alice's."""
    billing = Billing(signing(database), policy=policy())
    billing.open_account(BOB)
    billing.confirm_purchase(ALICE, usd("1.00"), payment="stripe:pi_1")
    Billing(signing(database)).confirm_purchase(BOB, usd("1.00"), payment="stripe:bobs")
    return billing


class TestSigned(Fixtures):
    @pytest.fixture
    def unit_of_work(self, database: Database) -> PostgresUnitOfWork:
        return signing(database)

    @pytest.fixture
    def totals(self, database: Database) -> Totals:
        return database.totals

    class TestPurchases(purchases.PurchaseContract):
        pass

    class TestHolds(holds.HoldContract):
        pass

    class TestGrants(grants.GrantContract):
        pass

    class TestRefunds(refunds.RefundContract):
        pass

    class TestDisputes(disputes.DisputeContract):
        pass

    class TestScopes(scopes.ScopeContract):
        pass


class TestWithTheKey:
    def test_a_spender_works_as_ever(self, database: Database, billing: Billing) -> None:
        spender = Billing(PostgresUnitOfWork(database.spender, signing_key=KEY))

        spender.charge(ALICE, credits(5), reference="run-1")

        assert spender.balance(ALICE) == billing.balance(ALICE)

    def test_scopes_join_a_hosts_transaction_and_restore_its_settings(
        self, database: Database, billing: Billing
    ) -> None:
        with database.user.begin() as connection:
            call(connection, "account", BOB, proof_now(BOB), {})
            joined = Billing(PostgresUnitOfWork.joining(connection, signing_key=KEY))
            joined.charge(ALICE, credits(5), reference="run-1")
            assert connection.scalar(text("SELECT cogni_billing.tenant()")) == BOB

        assert billing.balance(ALICE).posted == credits(9_999_995)

    def test_async_calls_are_signed(self, database: Database, billing: Billing) -> None:
        async def spent() -> Balance:
            engine = create_async_engine(database.sandbox.url("app_user"))
            awaited = AsyncBilling(AsyncPostgresUnitOfWork(engine, signing_key=KEY))
            async with engine.begin() as connection:
                joined = AsyncPostgresUnitOfWork.joining(connection, signing_key=KEY)
                await AsyncBilling(joined).charge(ALICE, credits(5), reference="run-1")
            balance = await awaited.balance(ALICE)
            await engine.dispose()
            return balance

        assert asyncio.run(spent()).posted == credits(9_999_995)

    def test_the_books_are_kept(self, billing: Billing) -> None:
        billing.fold()
        billing.sweep()

        assert billing.verify().ok

    def test_doctor_finds_nothing(self, database: Database) -> None:
        for engine in (database.user, database.spender):
            assert doctor(engine, signing_key=KEY).defects == ()
        ensure_ready(database.user, signing_key=KEY)

    def test_a_key_is_replaced_while_both_are_in_use(
        self, database: Database, billing: Billing
    ) -> None:
        sign_contexts(database.migrator, [OTHER_KEY, KEY])
        for key in (KEY, OTHER_KEY):
            assert Billing(signing(database, key)).balance(ALICE) == billing.balance(ALICE)

        sign_contexts(database.migrator, [OTHER_KEY])
        Billing(signing(database, OTHER_KEY)).refund(ALICE, payment="stripe:pi_1", reference="re_1")
        with pytest.raises(PrivilegeRequired):
            billing.balance(ALICE)

    def test_provisioning_and_migrating_again_leave_it_on(self, database: Database) -> None:
        provision(database.admin, test_database=True)
        migrate(database.migrator)

        assert doctor(database.user, signing_key=KEY).ok
        with pytest.raises(PrivilegeRequired):
            Billing(signing(database, None)).balance(SYSTEM_TENANT_ID)

    def test_signing_is_turned_off_without_keys(self, database: Database, billing: Billing) -> None:
        sign_contexts(database.migrator, [])

        assert doctor(database.user).ok
        assert Billing(signing(database, None)).balance(ALICE) == billing.balance(ALICE)
        with database.admin.connect() as connection:
            assert connection.execute(text("SELECT FROM cogni_billing.context_keys")).all() == []

    def test_host_with_a_key_does_not_start_on_an_unsigned_database(
        self, database: Database
    ) -> None:
        sign_contexts(database.migrator, [])

        (defect,) = doctor(database.user, signing_key=KEY).defects

        assert defect.problem == "calls without a proof are accepted, but signing_key was given"

    def test_a_key_given_twice_counts_once(self, database: Database) -> None:
        sign_contexts(database.migrator, [KEY, KEY])

        assert doctor(database.user, signing_key=KEY).ok


class TestWithoutTheKey:
    @pytest.mark.parametrize("key", [None, OTHER_KEY], ids=["no key", "another key"])
    def test_calls_without_the_key_are_refused(
        self, database: Database, billing: Billing, key: bytes | None
    ) -> None:
        before = database.totals()
        stranger = Billing(signing(database, key))

        for asking in (
            lambda: stranger.balance(ALICE),
            lambda: stranger.charge(ALICE, credits(5), reference="run-1"),
            lambda: stranger.confirm_purchase(ALICE, usd("1.00"), payment="stripe:pi_2"),
            lambda: stranger.refund(ALICE, payment="stripe:pi_1", reference="re_1"),
        ):
            with pytest.raises(PrivilegeRequired):
                asking()

        assert database.totals() == before

    @pytest.mark.parametrize("proof", INVALID_PROOFS)
    def test_proof_that_is_invalid_is_refused_by_every_function_alike(
        self, database: Database, known: dict[TenantId, Ids], proof: str
    ) -> None:
        """The answer does not depend on stored records or on other errors of the call."""
        given = INVALID_PROOFS[proof]()
        with undone(database, NAMES["user"]) as connection:
            before = dump(connection)
        for function in VALID:
            role = NAMES[next(who for who, name in sorted(CALLERS) if name == function)]
            told = set()
            with undone(database, role) as connection:
                valid = VALID[function](known[BOB])
                altered = [{"at": "never"}] if isinstance(valid, list) else {"at": "never"}
                attempts: list[Any] = [valid, altered, "{}", None]
                for tenant in (ALICE, BOB, SYSTEM, NOBODY, SYSTEM_ACCOUNT_ID, None):
                    for asked in attempts:
                        asking = arguments(function, tenant, asked, given)
                        nested = connection.begin_nested()
                        error = refusal_of(call, connection, function, *asking)
                        nested.rollback()
                        told.add((error.sqlstate, error.diag.message_primary))
                assert dump(connection) == before
            assert told == {(PRIVILEGE, INVALID)}, function

    def test_proof_is_of_one_tenant_and_not_of_the_next_in_a_group(
        self, database: Database, known: dict[TenantId, Ids]
    ) -> None:
        valid = VALID["mint_groups"]
        groups = [
            {"owner": tenant, "proof": proof_now(ALICE), "movements": valid(known[tenant])}
            for tenant in (ALICE, BOB)
        ]
        with database.user.connect() as connection:
            error = refusal_of(call, connection, "mint_groups", encoded(groups))

        assert error.diag.message_primary == INVALID

    def test_setting_the_tenant_gives_no_function_a_tenant(
        self, database: Database, known: dict[TenantId, Ids]
    ) -> None:
        with database.user.connect() as connection:
            call(connection, "account", ALICE, proof_now(ALICE), {})
            setting = text("SELECT set_config('app.current_user_id', :tenant, true)")
            connection.execute(setting, {"tenant": str(BOB)})
            error = refusal_of(call, connection, "balance", BOB, None, {})
            assert error.diag.message_primary == INVALID

    def test_proof_that_was_valid_as_the_transaction_began_stays_valid(
        self, database: Database, billing: Billing
    ) -> None:
        with database.user.connect() as connection:
            second = connection.scalar(text("SELECT extract(epoch FROM now())::bigint"))
            proof = proved(str(BOB), KEY, second - 299)

            assert call(connection, "account", BOB, proof, {})["outcome"] == "done"

    def test_functions_that_span_tenants_work_with_one_proof(
        self, database: Database, known: dict[TenantId, Ids]
    ) -> None:
        for function in ("lock", "settle_dispute"):
            asked = VALID[function](known[ALICE])
            with undone(database, NAMES["service"]) as connection:
                call(connection, function, ALICE, proof_now(ALICE), asked)

    @pytest.mark.parametrize("role", ["app_user", "app_spender", "app_service"])
    @pytest.mark.parametrize(
        "statement",
        [
            "SELECT FROM cogni_billing.context_keys",
            "SELECT id FROM cogni_billing.context_keys",
            "INSERT INTO cogni_billing.context_keys VALUES ('0', '', '')",
            "UPDATE cogni_billing.context_keys SET inner_key = ''",
            "DELETE FROM cogni_billing.context_keys",
            "COPY cogni_billing.context_keys TO STDOUT",
            "SELECT cogni_billing.mac('', '', '')",
            "SELECT cogni_billing.act('0b0b0000-0000-4000-8000-000000000002', NULL)",
            "SELECT cogni_billing.act_next('0b0b0000-0000-4000-8000-000000000002')",
            "EXPLAIN SELECT FROM cogni_billing.context_keys",
            "CREATE FUNCTION cogni_billing.tenant() RETURNS uuid LANGUAGE sql AS 'SELECT NULL'",
        ],
    )
    def test_the_keys_are_nobodys_to_read_write_or_use(
        self, database: Database, role: str, statement: str
    ) -> None:
        engine = create_engine(database.sandbox.url(role))
        with engine.connect() as connection:
            call(connection, "account", ALICE, proof_now(ALICE), {})
            error = refusal(connection, statement)
        engine.dispose()

        assert error.sqlstate == PRIVILEGE

    def test_proofs_are_not_visible_in_statements_of_other_sessions(
        self, database: Database, billing: Billing
    ) -> None:
        """Parameters are bound, so statements that others can see do not contain them."""
        with signing(database).scope(ALICE) as scope, database.admin.connect() as connection:
            scope.ledger.balance(NOON)
            shown = connection.scalars(text("SELECT query FROM pg_stat_activity")).all()

        assert any("cogni_billing.balance" in (query or "") for query in shown)
        assert not any(KEY_ID in (query or "") for query in shown)

    def test_proofs_are_not_visible_in_statements_of_a_host_with_client_cursors(
        self, database: Database, billing: Billing
    ) -> None:
        arguments = {"cursor_factory": psycopg.ClientCursor}
        engine = create_engine(database.sandbox.url("app_user"), connect_args=arguments)
        with database.admin.connect() as connection:
            Billing(PostgresUnitOfWork(engine, signing_key=KEY)).balance(ALICE)
            shown = connection.scalars(text("SELECT query FROM pg_stat_activity")).all()
        engine.dispose()

        assert any("cogni_billing.balance" in (query or "") for query in shown)
        assert not any(KEY_ID in (query or "") for query in shown)

    def test_doctor_reports_a_check_that_failed(self, database: Database) -> None:
        (defect,) = doctor(database.user).defects

        assert "without a valid proof" in defect.problem

    def test_doctor_finds_a_function_that_believes_a_context_without_a_proof(
        self, database: Database
    ) -> None:
        with database.admin.begin() as connection:
            source = connection.scalar(
                text("SELECT pg_get_functiondef('cogni_billing.act'::regproc)")
            )
            connection.exec_driver_sql(str(source).replace("IF FOUND", "IF false"))
        try:
            problems = [found.problem for found in doctor(database.user, signing_key=KEY).defects]
        finally:
            with database.admin.begin() as connection:
                connection.exec_driver_sql(str(source))

        assert "function act is missing or was changed" in problems


class TestKeys:
    def test_key_is_in_no_traceback(self, own_database: Database) -> None:
        with own_database.migrator.begin() as connection:
            connection.execute(
                text("ALTER TABLE cogni_billing.context_keys ADD CONSTRAINT none CHECK (false)")
            )

        with pytest.raises(LedgerCorruption) as caught:
            sign_contexts(own_database.migrator, [KEY])

        shown = "".join(traceback.format_exception(caught.value))
        block = KEY.ljust(64, b"\0")
        for pad in (0, 0x36, 0x5C):
            padded = bytes(byte ^ pad for byte in block)
            assert padded[:8].hex() not in shown
            assert repr(padded[:8])[2:-1] not in shown

    @pytest.mark.parametrize("key", ["k" * 32, b"k" * 31, b"k" * 65, bytearray(32), 7, b""])
    def test_invalid_key_is_refused_before_any_sql(self, database: Database, key: bytes) -> None:
        for use in (
            lambda: PostgresUnitOfWork(database.user, signing_key=key),
            lambda: doctor(database.user, signing_key=key),
            lambda: sign_contexts(database.migrator, [key]),
        ):
            with pytest.raises(InvalidInput) as caught:
                use()
            assert "32 to 64 bytes" in str(caught.value)
            assert "kkkk" not in str(caught.value)

    def test_only_the_migrator_sets_them(self, database: Database) -> None:
        for engine in (database.user, database.service):
            with pytest.raises(PrivilegeRequired):
                sign_contexts(engine, [OTHER_KEY])

        assert doctor(database.user, signing_key=KEY).ok

    def test_keys_are_not_in_repr(self, database: Database) -> None:
        assert KEY.hex() not in repr(signing(database)._context)
        assert "key" not in repr(signing(database)._context)


def test_statement_prepared_for_one_tenant_does_not_serve_another(
    database: Database, known: dict[TenantId, Ids]
) -> None:
    """The plan is cached, and each call validates the proof."""
    statement = "SELECT cogni_billing.find(%s, %s, %s)"
    with database.user.connect() as connection:
        driver = connection.connection.driver_connection
        assert isinstance(driver, psycopg.Connection)
        for tenant in (ALICE, BOB) * 8:
            asked = (tenant, proof_now(tenant), f'{{"id":"{known[tenant].purchase}"}}')
            (told,) = driver.execute(statement, asked, prepare=True).fetchone() or [""]
            assert str(known[tenant].purchase) in told
            connection.rollback()
