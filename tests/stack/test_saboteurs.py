"""Schemas that are broken, each caught by a test of the kit."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from cogni_billing.adapters.postgres import PostgresUnitOfWork, reset
from cogni_billing.adapters.postgres.operations.blueprint import LEDGER
from cogni_billing.ports.scope import UnitOfWork
from cogni_billing.testing import Fixtures, NewUnitOfWork, Restart, RestartContract, Totals
from cogni_billing.testing.contracts import (
    charges,
    grants,
    holds,
    purchases,
    reading,
    sharing,
    statements,
    verifying,
)
from sabotage import must_fail, only
from stack.conftest import Database
from stack.killable import Killable, killable

REPLACED = """
    DO $$
    DECLARE
        definition text := pg_get_functiondef('cogni_billing.{function}'::regproc);
    BEGIN
        ASSERT position('{right}' IN definition) > 0;
        EXECUTE replace(definition, '{right}', '{wrong}');
    END $$
"""


def replaced(function: str, right: str, wrong: str) -> str:
    """One expression of a function is another."""
    return REPLACED.format(function=function, right=right, wrong=wrong)


def switched_off(table: str, trigger: str) -> str:
    return f"ALTER TABLE cogni_billing.{table} DISABLE TRIGGER {trigger}"


def of_all_tables(*statements: str) -> str:
    return ";".join(each.format(table=table) for table in LEDGER for each in statements)


SABOTEURS: dict[str, tuple[type, str, str]] = {
    "row_security_is_off": (
        sharing.SharingContract,
        "test_a_partner_sees_its_share_and_not_whose_it_is_of",
        of_all_tables("ALTER TABLE cogni_billing.{table} DISABLE ROW LEVEL SECURITY"),
    ),
    "a_permissive_policy_was_added_and_the_floor_removed": (
        statements.StatementContract,
        "test_shares_reach_the_system_tenant_without_saying_whose_they_are",
        "DROP POLICY transactions_floor ON cogni_billing.transactions;"
        "CREATE POLICY leak ON cogni_billing.transactions FOR SELECT USING (true)",
    ),
    "a_balance_is_of_when_the_statement_began": (
        purchases.PurchaseRaces,
        "test_purchases_of_one_tenant_at_once_leave_no_gap_between_balances",
        replaced(
            "keep_wallet",
            "posted = posted + NEW.amount",
            "posted = NEW.amount + (SELECT w.posted FROM cogni_billing.wallets w "
            "WHERE (w.tenant_id, w.account_id) = (NEW.tenant_id, NEW.account_id))",
        ),
    ),
    "nobody_asks_whether_it_is_covered": (
        charges.ChargeRaces,
        "test_spenders_at_once_never_take_more_than_there_is",
        replaced("keep_wallet", "NEW.balance_after < kept.held", "false"),
    ),
    "what_is_held_may_be_spent": (
        holds.HoldContract,
        "test_what_is_held_is_there_for_nothing_else",
        replaced("keep_wallet", "NEW.balance_after < kept.held", "NEW.balance_after < 0"),
    ),
    "a_hold_sets_nothing_aside": (
        holds.HoldRaces,
        "test_holders_at_once_never_hold_more_than_there_is",
        switched_off("holds", "keep_hold"),
    ),
    "a_grant_is_never_drawn_of": (
        grants.GrantContract,
        "test_a_grant_that_was_spent_leaves_nothing_to_lapse",
        replaced("keep_wallet", "kept.granted > 0", "false"),
    ),
    "a_fold_waits_for_nobody": (
        reading.FoldingRaces,
        "test_what_was_being_written_when_a_fold_began_is_not_forgotten",
        replaced("settled_position", "IF writers IS NULL THEN", "IF true THEN"),
    ),
    "positions_run_backwards": (
        verifying.VerifyingContract,
        "test_a_lively_ledger_is_sound",
        replaced(
            "keep_wallet",
            "NEW.position := nextval(''cogni_billing.postings_position_seq'')",
            "NEW.position := -nextval(''cogni_billing.postings_position_seq'')",
        ),
    ),
}


class Broken(Fixtures):
    sql = ""

    @pytest.fixture
    def new_unit_of_work(self, own_database: Database) -> NewUnitOfWork:
        def new() -> PostgresUnitOfWork:
            reset(own_database.migrator)
            with own_database.admin.begin() as administrator:
                administrator.exec_driver_sql(self.sql)
            return PostgresUnitOfWork(own_database.user, service=own_database.service)

        return new

    @pytest.fixture
    def totals(self, own_database: Database) -> Totals:
        return own_database.totals


for saboteur, (contract, name, sql) in SABOTEURS.items():
    title = "Test" + saboteur.title().replace("_", "")
    globals()[title] = type(title, (Broken, contract), {"sql": sql} | only(contract, name))


class TestWhatIsAcknowledgedIsNotYetWritten(RestartContract):
    """Commits are acknowledged before they are on disk."""

    CYCLES = 10

    @pytest.fixture
    def server(self) -> Iterator[Killable]:
        with killable("-c synchronous_commit=off") as server:
            yield server

    @pytest.fixture
    def unit_of_work(self, server: Killable) -> UnitOfWork:
        return server.unit_of_work()

    @pytest.fixture
    def restart(self, server: Killable) -> Restart:
        return server.restart

    @pytest.fixture
    def totals(self, server: Killable) -> Totals:
        return server.totals

    test_what_was_acknowledged_is_there_once_with_its_share = must_fail(
        RestartContract.test_what_was_acknowledged_is_there_once_with_its_share
    )
