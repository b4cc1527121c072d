"""Each rule of the ledger broken by raw SQL, and refused by its name, for a forger of purchases."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import attrs
import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from cogni_billing import SYSTEM_ACCOUNT_ID, SYSTEM_TENANT_ID
from cogni_billing.adapters.postgres import PostgresUnitOfWork
from cogni_billing.adapters.postgres.posting import POST
from cogni_billing.adapters.postgres.rows import transaction_parameters
from cogni_billing.adapters.postgres.statements import typed
from cogni_billing.domain.identity import BREAKAGE, ISSUANCE, USAGE
from cogni_billing.domain.transactions import TransactionKind
from cogni_billing.testing.base import ALICE, BOB, NOON
from cogni_billing.testing.contracts.purchases import planned, post
from stack.attacks import CHECK, PRIVILEGE, post_altered, refusal, refusal_of_altered
from stack.conftest import Database
from stack.planning import planned_charge

FULL = 100_000_000
SHARE = 25_000_000
POST_LEG = """
    INSERT INTO cogni_billing.postings (
        tenant_id, account_id, origin_tenant_id, transaction_id, sequence,
        kind, unit, amount, occurred_at
    ) VALUES {}
"""


def others(*legs: tuple[UUID, UUID, object]) -> dict[str, Any]:
    """The postings beside the tenant's own."""
    tenants, accounts, amounts = zip(*legs, strict=True)
    return {
        "other_tenants": list(tenants),
        "other_accounts": list(accounts),
        "other_amounts": [Decimal(str(amount)) for amount in amounts],
    }


def system(account: UUID, amount: object) -> tuple[UUID, UUID, object]:
    return SYSTEM_TENANT_ID, account, amount


SUM = (CHECK, "postings_sum_to_zero")
MATCH = (CHECK, "postings_match_their_transaction")
ADMISSION = (PRIVILEGE, None)
BENEFICIARY = (CHECK, "transactions_beneficiaries_are_other_tenants")

FORGERIES: dict[str, tuple[dict[str, Any], tuple[str | None, str | None]]] = {
    "mint more than was issued": (
        others(system(SYSTEM_ACCOUNT_ID, SHARE), system(ISSUANCE, -1)),
        SUM,
    ),
    "keep the share": (others(system(ISSUANCE, -FULL)), MATCH),
    "pocket the share": (
        {"amount": Decimal(FULL + SHARE)} | others(system(ISSUANCE, -FULL - SHARE)),
        MATCH,
    ),
    "inflate the share": (
        others(system(SYSTEM_ACCOUNT_ID, SHARE + 1), system(ISSUANCE, -FULL - SHARE - 1)),
        MATCH,
    ),
    "post the share twice": (
        others(
            system(SYSTEM_ACCOUNT_ID, SHARE),
            system(SYSTEM_ACCOUNT_ID, SHARE),
            system(ISSUANCE, -FULL - 2 * SHARE),
        ),
        MATCH,
    ),
    "declare a share and post it before issuance in another order": (
        others(system(ISSUANCE, -FULL - SHARE), system(SYSTEM_ACCOUNT_ID, SHARE)),
        MATCH,
    ),
    "lower the system account": (
        others(system(SYSTEM_ACCOUNT_ID, -SHARE), system(ISSUANCE, SHARE - FULL)),
        ADMISSION,
    ),
    "credit issuance": (
        others(system(SYSTEM_ACCOUNT_ID, SHARE), system(ISSUANCE, FULL)),
        ADMISSION,
    ),
    "take it from usage": (
        others(system(SYSTEM_ACCOUNT_ID, SHARE), system(USAGE, -FULL - SHARE)),
        ADMISSION,
    ),
    "take it from breakage": (
        others(system(SYSTEM_ACCOUNT_ID, SHARE), system(BREAKAGE, -FULL - SHARE)),
        ADMISSION,
    ),
    "take it from another tenant": (
        others(system(SYSTEM_ACCOUNT_ID, SHARE), (BOB, BOB, -FULL - SHARE)),
        ADMISSION,
    ),
    "give to another tenant": (
        others((BOB, BOB, SHARE), system(ISSUANCE, -FULL - SHARE)),
        MATCH,
    ),
    "take from another tenant": (
        others((BOB, BOB, -SHARE), system(ISSUANCE, SHARE - FULL)),
        ADMISSION,
    ),
    "write on the system's account under one's own tenant": (
        others((ALICE, SYSTEM_ACCOUNT_ID, SHARE), system(ISSUANCE, -FULL - SHARE)),
        MATCH,
    ),
    "use an issuance of one's own": (
        others(system(SYSTEM_ACCOUNT_ID, SHARE), (ALICE, ISSUANCE, -FULL - SHARE)),
        MATCH,
    ),
    "share nothing and then nothing": (
        {"beneficiaries": [], "shares": []}
        | others(system(SYSTEM_ACCOUNT_ID, SHARE), system(ISSUANCE, -FULL - SHARE)),
        MATCH,
    ),
    "declare another beneficiary": ({"beneficiaries": [BOB]}, MATCH),
    "declare two beneficiaries": (
        {"beneficiaries": [SYSTEM_ACCOUNT_ID] * 2, "shares": [Decimal(1)] * 2},
        MATCH,
    ),
    "declare oneself a beneficiary": ({"beneficiaries": [ALICE]}, BENEFICIARY),
    "declare usage a beneficiary": ({"beneficiaries": [USAGE]}, BENEFICIARY),
    "declare nil a beneficiary": ({"beneficiaries": [UUID(int=0)]}, BENEFICIARY),
    "declare the system tenant's own id a beneficiary": (
        {"beneficiaries": [SYSTEM_TENANT_ID]},
        BENEFICIARY,
    ),
    "post to another account of the system": (
        others(system(BOB, SHARE), system(ISSUANCE, -FULL - SHARE)),
        ADMISSION,
    ),
    "a share that is padded with zeros": (
        others(system(SYSTEM_ACCOUNT_ID, f"{SHARE}.{'0' * 1000}"), system(ISSUANCE, -FULL - SHARE)),
        (CHECK, "postings_amount_whole_and_bounded"),
    ),
    "a moment without end": ({"at": "infinity"}, (CHECK, "transactions_occurred_at_in_range")),
    "a moment that no client can read": (
        {"at": "9999-12-31 23:59:59+00"},
        (CHECK, "transactions_occurred_at_in_range"),
    ),
    "a policy without end": (
        {"policy": '{"a":"%s"}' % ("x" * 65536)},
        (CHECK, "transactions_inputs_small_objects"),
    ),
    "a request that is no object": (
        {"request": "[]"},
        (CHECK, "transactions_inputs_small_objects"),
    ),
    "a share that is not a number": (
        {"shares": [Decimal("NaN")]}
        | others(system(SYSTEM_ACCOUNT_ID, "NaN"), system(ISSUANCE, "NaN")),
        (CHECK, "postings_amount_whole_and_bounded"),
    ),
    "an infinite share": (
        {"shares": [Decimal("Infinity")]}
        | others(system(SYSTEM_ACCOUNT_ID, "Infinity"), system(ISSUANCE, "-Infinity")),
        (CHECK, "postings_amount_whole_and_bounded"),
    ),
    "half a credit": (
        {"shares": [Decimal("0.5")]}
        | others(system(SYSTEM_ACCOUNT_ID, "0.5"), system(ISSUANCE, "-100000000.5")),
        (CHECK, "postings_amount_whole_and_bounded"),
    ),
    "more than any balance may hold": (
        {"shares": [Decimal(10**40)]}
        | others(system(SYSTEM_ACCOUNT_ID, 10**40), system(ISSUANCE, -(10**40) - FULL)),
        (CHECK, "postings_amount_whole_and_bounded"),
    ),
    "a negative declared share": (
        {"shares": [Decimal(-1)]},
        (CHECK, "transactions_shares_complete"),
    ),
    "a share without a beneficiary": (
        {"beneficiaries": []},
        (CHECK, "transactions_shares_complete"),
    ),
    "a purchase of nothing": (
        {"amount": Decimal(0)},
        (CHECK, "postings_sum_to_zero"),
    ),
    "a purchase that takes": ({"amount": Decimal(-5)}, (CHECK, "transactions_raise_or_lower")),
    "another unit": ({"unit": "USD"}, (CHECK, "transactions_unit_known")),
    "an invisible reference": (
        {"reference": "a b"},
        (CHECK, "transactions_reference_visible_ascii"),
    ),
    "an endless reference": (
        {"reference": "a" * 256},
        (CHECK, "transactions_reference_visible_ascii"),
    ),
    "metadata that is no object": (
        {"metadata": "[]"},
        (CHECK, "transactions_metadata_small_object"),
    ),
    "metadata without an end": (
        {"metadata": '{"a":"%s"}' % ("x" * 16384)},
        (CHECK, "transactions_metadata_small_object"),
    ),
    "a transaction of another tenant's": ({"tenant": BOB}, ADMISSION),
    "somebody else's account": (
        {"account": BOB},
        (CHECK, "accounts_one_for_each_tenant"),
    ),
}


@pytest.mark.parametrize("forgery", FORGERIES)
def test_a_forged_purchase_is_refused_and_leaves_nothing(database: Database, forgery: str) -> None:
    altered, refused_by = FORGERIES[forgery]
    with database.acting_for(ALICE) as connection:
        assert refusal_of_altered(connection, planned(), **altered) == refused_by
        connection.rollback()

    assert database.totals() == {}


FORGED_CHARGES: dict[str, tuple[dict[str, Any], tuple[str, str | None]]] = {
    "one that gives": (
        {"amount": Decimal(100)} | others(system(USAGE, -100)),
        (CHECK, "transactions_raise_or_lower"),
    ),
    "one that mints": (
        {"amount": Decimal(100)} | others(system(ISSUANCE, -100)),
        (CHECK, "transactions_raise_or_lower"),
    ),
    "one booked as issuance taken back": (others(system(ISSUANCE, 100)), ADMISSION),
    "one booked as breakage": (others(system(BREAKAGE, 100)), MATCH),
    "one that takes from usage": (
        others(system(USAGE, -100), system(USAGE, 200)),
        ADMISSION,
    ),
    "one that pays the system tenant": (others(system(SYSTEM_ACCOUNT_ID, 100)), ADMISSION),
    "one that pays another tenant": (others((BOB, BOB, 100)), ADMISSION),
    "one that shares": (
        {"beneficiaries": [SYSTEM_ACCOUNT_ID], "shares": [Decimal(50)]}
        | others(system(SYSTEM_ACCOUNT_ID, 50), system(USAGE, 50)),
        (CHECK, "transactions_only_purchases_share"),
    ),
    "one of more than there is": (
        {"amount": Decimal(-FULL - 1)} | others(system(USAGE, FULL + 1)),
        (CHECK, "wallets_cover_what_is_taken"),
    ),
    "one of nothing": (
        {"amount": Decimal(0)} | others(system(USAGE, 0)),
        (CHECK, "transactions_raise_or_lower"),
    ),
    "one of no number": (
        {"amount": Decimal("NaN")} | others(system(USAGE, "NaN")),
        (CHECK, "transactions_raise_or_lower"),
    ),
}


@pytest.mark.parametrize("forgery", FORGED_CHARGES)
def test_a_forged_charge_is_refused_and_leaves_nothing(database: Database, forgery: str) -> None:
    altered, refused_by = FORGED_CHARGES[forgery]
    unit_of_work = PostgresUnitOfWork(database.user)
    for tenant in (ALICE, BOB):
        post(unit_of_work, planned(tenant, payment=f"stripe:{tenant}"))
    before = database.totals()
    with database.acting_for(ALICE) as connection:
        assert refusal_of_altered(connection, planned_charge(), **altered) == refused_by
        connection.rollback()

    assert database.totals() == before


def test_a_moment_is_that_of_the_transaction_or_the_wallets_later_one(database: Database) -> None:
    unit_of_work = PostgresUnitOfWork(database.user)
    post(unit_of_work, planned())
    earlier = NOON - timedelta(days=1)

    post(unit_of_work, attrs.evolve(planned_charge(), at=earlier))

    with database.acting_for(ALICE) as connection:
        moments = connection.scalars(
            text("SELECT occurred_at FROM cogni_billing.postings ORDER BY position")
        ).all()
        connection.rollback()
    assert moments == [NOON, NOON]


@pytest.mark.parametrize(
    "moment",
    [
        "'epoch'",
        "'9000-01-01'",
        "CASE WHEN leg.amount < 0 THEN 'epoch' ELSE :at END",
        "CASE WHEN leg.amount < 0 THEN '9000-01-01' ELSE :at END",
    ],
)
def test_what_is_added_to_others_is_of_the_declared_moment(database: Database, moment: str) -> None:
    written = POST[TransactionKind.PURCHASE].text
    statement = typed(written.replace("leg.amount, :at", f"leg.amount, {moment}"))
    with database.acting_for(ALICE) as connection, pytest.raises(DBAPIError) as caught:
        connection.execute(statement, transaction_parameters(planned()))

    assert "are not what it declares" in str(caught.value)


@pytest.mark.parametrize("kind", ["'charge'", "'refund'"])
def test_what_is_added_to_others_is_of_the_declared_kind(database: Database, kind: str) -> None:
    written = POST[TransactionKind.PURCHASE].text
    forged = f"CASE WHEN leg.amount < 0 THEN {kind} ELSE :kind END, :unit, leg.amount"
    statement = typed(written.replace(":kind, :unit, leg.amount", forged))
    with database.acting_for(ALICE) as connection, pytest.raises(DBAPIError) as caught:
        connection.execute(statement, transaction_parameters(planned()))

    assert "are not what it declares" in str(caught.value)


def test_the_statement_that_the_forgeries_alter_is_admitted_as_it_is(database: Database) -> None:
    with database.acting_for(ALICE) as connection:
        post_altered(connection)
        connection.commit()

    assert database.totals()[SYSTEM_ACCOUNT_ID] == SHARE


class TestLaterStatements:
    """A transaction is complete when its statement ends; nothing can be added to it."""

    LEGS = POST_LEG.format(
        "(:me, :me, :me, :id, 4, 'purchase', 'CREDIT', 5, :at),"
        " (:system, :issuance, :me, :id, 5, 'purchase', 'CREDIT', -5, :at)"
    )

    def parameters(self) -> dict[str, object]:
        return {
            "me": ALICE,
            "system": SYSTEM_TENANT_ID,
            "issuance": ISSUANCE,
            "id": planned().id,
            "at": NOON,
        }

    def test_an_old_transaction_cannot_be_extended(self, database: Database) -> None:
        post(PostgresUnitOfWork(database.user), planned())
        with database.acting_for(ALICE) as connection:
            error = refusal(connection, self.LEGS, **self.parameters())

        assert error.diag.constraint_name == "postings_match_their_transaction"

    @pytest.mark.parametrize("moment", ["infinity", "-infinity", "10000-01-01", "1969-12-31"])
    def test_a_posting_at_a_moment_that_its_owner_cannot_read_is_refused(
        self, database: Database, moment: str
    ) -> None:
        with database.acting_for(ALICE) as connection:
            error = refusal(
                connection,
                POST_LEG.format("(:system, :wallet, :me, :id, 2, 'purchase', 'CREDIT', 5, :at)"),
                **self.parameters() | {"wallet": SYSTEM_ACCOUNT_ID, "at": moment},
            )

        assert error.diag.constraint_name == "postings_occurred_at_in_range"

    def test_one_of_the_same_database_transaction_cannot_be_extended(
        self, database: Database
    ) -> None:
        with database.acting_for(ALICE) as connection:
            post_altered(connection)
            error = refusal(connection, self.LEGS, **self.parameters())

        assert error.diag.constraint_name == "postings_match_their_transaction"

    @pytest.mark.parametrize(
        ("numbers", "rule"),
        [((1, 2, 3), "postings_made_once"), ((4, 5, 6), "postings_match_their_transaction")],
    )
    def test_its_postings_cannot_be_made_a_second_time(
        self, database: Database, numbers: tuple[int, int, int], rule: str
    ) -> None:
        first, second, third = numbers
        again = POST_LEG.format(
            f"(:me, :me, :me, :id, {first}, 'purchase', 'CREDIT', 100000000, :at),"
            f" (:system, :wallet, :me, :id, {second}, 'purchase', 'CREDIT', 25000000, :at),"
            f" (:system, :issuance, :me, :id, {third}, 'purchase', 'CREDIT', -125000000, :at)"
        )
        with database.acting_for(ALICE) as connection:
            post_altered(connection)
            error = refusal(connection, again, **self.parameters(), wallet=SYSTEM_ACCOUNT_ID)

        assert error.diag.constraint_name == rule

    def test_nor_can_those_of_the_system_tenants_own_purchase(self, database: Database) -> None:
        again = POST_LEG.format(
            "(:system, :wallet, :system, :id, 3, 'purchase', 'CREDIT', 100000000, :at),"
            " (:system, :issuance, :system, :id, 4, 'purchase', 'CREDIT', -100000000, :at)"
        )
        with database.acting_for(SYSTEM_TENANT_ID) as connection:
            post_altered(connection, SYSTEM_TENANT_ID)
            error = refusal(connection, again, **self.parameters(), wallet=SYSTEM_ACCOUNT_ID)

        assert error.diag.constraint_name == "postings_match_their_transaction"

    def test_postings_without_a_transaction_are_refused(self, database: Database) -> None:
        with database.acting_for(ALICE) as connection:
            error = refusal(connection, self.LEGS, **self.parameters())

        assert error.diag.constraint_name == "postings_match_their_transaction"

    def test_a_whole_set_of_postings_without_a_transaction_is_refused(
        self, database: Database
    ) -> None:
        whole = self.LEGS.replace(" 4, ", " 1, ").replace(" 5, 'pur", " 2, 'pur")
        with database.acting_for(ALICE) as connection:
            error = refusal(connection, whole, **self.parameters())

        assert error.diag.constraint_name == "postings_match_their_transaction"

    def test_the_system_tenant_cannot_balance_against_another_of_its_accounts(
        self, database: Database
    ) -> None:
        aside = others(system(BREAKAGE, -FULL))
        with database.acting_for(SYSTEM_TENANT_ID) as connection:
            refused_by = refusal_of_altered(connection, planned(SYSTEM_TENANT_ID), **aside)

        assert refused_by == MATCH

    def test_a_posting_cannot_be_blamed_on_another_tenant(self, database: Database) -> None:
        leg = POST_LEG.format("(:system, :wallet, :bob, :id, 1, 'purchase', 'CREDIT', 5, :at)")
        with database.acting_for(ALICE) as connection:
            error = refusal(connection, leg, **self.parameters(), bob=BOB, wallet=SYSTEM_ACCOUNT_ID)

        assert error.sqlstate == PRIVILEGE

    def test_postings_of_somebody_elses_transaction_are_refused(self, database: Database) -> None:
        post(PostgresUnitOfWork(database.user), planned(BOB))
        with database.acting_for(ALICE) as connection:
            error = refusal(connection, self.LEGS, **self.parameters())

        assert error.diag.constraint_name == "postings_match_their_transaction"

    def test_postings_in_another_tenants_name_are_refused_whatever_their_amount(
        self, database: Database
    ) -> None:
        post(PostgresUnitOfWork(database.user), planned(BOB))
        leg = POST_LEG.format("(:bob, :bob, :bob, :id, 9, 'purchase', 'CREDIT', {}, :at)")
        messages = set()
        for amount in ("1", "-1", "-100000001", "'NaN'"):
            with database.acting_for(ALICE) as connection:
                error = refusal(connection, leg.format(amount), bob=BOB, id=UUID(int=5), at=NOON)
            messages.add((error.sqlstate, error.diag.message_primary))

        assert messages == {
            (PRIVILEGE, 'new row violates row-level security policy for table "postings"')
        }


class TestHalves:
    """Manifest, claim and postings arrive together or not at all."""

    MANIFEST = """
        INSERT INTO cogni_billing.transactions (
            tenant_id, id, kind, reference, unit, amount, beneficiaries, shares,
            request, policy, metadata, occurred_at
        ) VALUES (
            :me, :id, 'purchase', 'stripe:pi_1', 'CREDIT', 5, '{}', '{}', '{}', '{}', '{}', now()
        )
    """

    def test_a_transaction_without_postings_is_refused(self, database: Database) -> None:
        with database.acting_for(ALICE) as connection:
            error = refusal(connection, self.MANIFEST, me=ALICE, id=UUID(int=5))

        assert error.diag.constraint_name == "transactions_have_postings"

    @pytest.mark.parametrize(
        ("value", "forged", "rule"),
        [
            ("5", "0", "transactions_have_postings"),
            ("5", "-5", "transactions_raise_or_lower"),
            ("'purchase'", "'charge'", "transactions_raise_or_lower"),
            ("'purchase'", "'gift'", "transactions_raise_or_lower"),
            ("'CREDIT'", "'USD'", "transactions_unit_known"),
            ("now()", "'-infinity'", "transactions_occurred_at_in_range"),
        ],
    )
    def test_a_manifest_keeps_rules_of_its_own(
        self, database: Database, value: str, forged: str, rule: str
    ) -> None:
        statement = self.MANIFEST.replace(f" {value}", f" {forged}")
        with database.acting_for(ALICE) as connection:
            error = refusal(connection, statement, me=ALICE, id=UUID(int=5))

        assert error.diag.constraint_name == rule

    @pytest.mark.parametrize("moment", ["infinity", "-infinity", "9999-06-01", "1969-12-31"])
    def test_an_account_is_opened_at_a_moment_that_can_be_read(
        self, database: Database, moment: str
    ) -> None:
        opening = (
            "INSERT INTO cogni_billing.accounts (tenant_id, id, opened_at) VALUES (:me, :me, :at)"
        )
        with database.acting_for(ALICE) as connection:
            error = refusal(connection, opening, me=ALICE, at=moment)

        assert error.diag.constraint_name == "accounts_opened_at_in_range"

    @pytest.mark.parametrize(
        "tenant", ["00000000-0000-0000-0000-000000000000", SYSTEM_ACCOUNT_ID, ISSUANCE]
    )
    def test_no_account_is_opened_for_a_reserved_id(
        self, database: Database, tenant: object
    ) -> None:
        opening = (
            "INSERT INTO cogni_billing.accounts (tenant_id, id, opened_at) VALUES (:me, :me, now())"
        )
        with database.acting_for(str(tenant)) as connection:
            error = refusal(connection, opening, me=tenant)

        assert error.diag.constraint_name == "accounts_tenant_not_reserved"

    def test_a_claim_without_its_purchase_is_refused(self, database: Database) -> None:
        claim = "INSERT INTO cogni_billing.payments (payment, tenant_id) VALUES ('stripe:x', :me)"
        with database.acting_for(ALICE) as connection:
            error = refusal(connection, claim, me=ALICE)

        assert error.diag.constraint_name == "payments_have_their_purchase"

    def test_a_purchase_without_its_claim_is_refused(self, database: Database) -> None:
        statement = f"""
            WITH manifest AS ({self.MANIFEST} RETURNING occurred_at), opened AS (
                INSERT INTO cogni_billing.accounts (tenant_id, id, opened_at)
                VALUES (:me, :me, now())
            )
            {
            POST_LEG.format(
                "(:me, :me, :me, :id, 1, 'purchase', 'CREDIT', 5, now()),"
                " (:system, :issuance, :me, :id, 2, 'purchase', 'CREDIT', -5, now())"
            )
        }
        """
        with database.acting_for(ALICE) as connection:
            error = refusal(
                connection,
                statement,
                me=ALICE,
                id=UUID(int=5),
                system=SYSTEM_TENANT_ID,
                issuance=ISSUANCE,
            )

        assert error.diag.constraint_name == "purchases_claim_their_payment"

    def test_a_wallet_needs_an_account_by_the_end_of_the_transaction(
        self, own_database: Database
    ) -> None:
        with own_database.admin.begin() as connection:
            connection.execute(
                text(
                    "INSERT INTO cogni_billing.wallets"
                    " VALUES (:me, :me, 'CREDIT', 1, 0, 0, now(), 'infinity')"
                ),
                {"me": ALICE},
            )
            error = refusal(connection, "SET CONSTRAINTS ALL IMMEDIATE")
            connection.rollback()

        assert error.diag.constraint_name == "wallets_account_exists"

    @pytest.mark.parametrize("posted", ["-1e50", "'NaN'", "'-Infinity'", "'Infinity'", "1e50"])
    def test_a_wallet_out_of_bounds_is_refused(self, own_database: Database, posted: str) -> None:
        with own_database.admin.connect() as connection:
            error = refusal(
                connection,
                "INSERT INTO cogni_billing.wallets"
                f" VALUES (:me, :me, 'CREDIT', {posted}, 0, 0, now(), 'infinity')",
                me=ALICE,
            )

        assert error.diag.constraint_name == "wallets_posted_in_bounds"


class TestRowsThatAreSkipped:
    """ON CONFLICT DO NOTHING leaves a row out after its trigger has run; the wallet stays put."""

    def test_a_posting_that_is_there_already(self, database: Database) -> None:
        post(PostgresUnitOfWork(database.user), planned())
        statement = POST_LEG.format("(:me, :me, :me, :id, 1, 'purchase', 'CREDIT', 5, now())")
        with database.acting_for(ALICE) as connection:
            error = refusal(
                connection, statement + " ON CONFLICT DO NOTHING", me=ALICE, id=planned().id
            )

        assert error.diag.constraint_name == "postings_made_once"

    def test_a_posting_with_the_number_of_a_share(self, database: Database) -> None:
        post(PostgresUnitOfWork(database.user), planned())
        statement = POST_LEG.format("(:me, :me, :me, :id, 2, 'purchase', 'CREDIT', 5, now())")
        with database.acting_for(ALICE) as connection:
            error = refusal(
                connection, statement + " ON CONFLICT DO NOTHING", me=ALICE, id=planned().id
            )

        assert error.diag.constraint_name == "postings_match_their_transaction"

    def test_a_posting_twice_in_one_statement(self, database: Database) -> None:
        once = POST[TransactionKind.PURCHASE].text
        twice = once.replace(
            "FROM manifest\n    RETURNING balance_after",
            "FROM manifest, generate_series(1, 2) ON CONFLICT DO NOTHING",
        )
        assert twice != once
        with database.acting_for(ALICE) as connection, pytest.raises(DBAPIError) as caught:
            connection.execute(typed(twice), transaction_parameters(planned()))

        assert "were made before" in str(caught.value)
        assert database.totals() == {}


class TestWhatRowSecurityDoesNotAllowOnOthersRows:
    SHARE_LEG = POST_LEG.format(
        "(:system, :wallet, :me, :id, 2, 'purchase', 'CREDIT', 5, now()) {}"
    )

    @pytest.mark.parametrize(
        "clause",
        [
            "RETURNING amount",
            "ON CONFLICT (origin_tenant_id, transaction_id, sequence) DO NOTHING",
        ],
    )
    def test_a_share_cannot_be_read_back(self, database: Database, clause: str) -> None:
        statement = self.SHARE_LEG.format(clause)
        with database.acting_for(ALICE) as connection:
            error = refusal(
                connection,
                statement,
                me=ALICE,
                id=UUID(int=5),
                system=SYSTEM_TENANT_ID,
                wallet=SYSTEM_ACCOUNT_ID,
            )

        assert error.sqlstate == PRIVILEGE

    @pytest.mark.parametrize("tenant", [BOB, SYSTEM_TENANT_ID])
    @pytest.mark.parametrize(
        "statement",
        [
            "INSERT INTO cogni_billing.accounts (tenant_id, id, opened_at)"
            " VALUES (:other, :other, now())",
            "INSERT INTO cogni_billing.payments (payment, tenant_id) VALUES ('stripe:x', :other)",
            TestHalves.MANIFEST.replace(":me", ":other").replace(":id", ":other"),
        ],
    )
    def test_nothing_is_written_in_another_tenants_name(
        self, database: Database, statement: str, tenant: UUID
    ) -> None:
        with database.acting_for(ALICE) as connection:
            assert refusal(connection, statement, other=tenant).sqlstate == PRIVILEGE

    @pytest.mark.parametrize("context", ["", "nobody"])
    def test_nothing_is_written_without_a_tenant(self, database: Database, context: str) -> None:
        with database.acting_for(context) as connection:
            assert refusal_of_altered(connection, planned()) == ADMISSION
