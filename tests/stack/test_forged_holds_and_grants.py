"""The rules of holds and grants broken by raw SQL, and refused by their names."""

from __future__ import annotations

import re
from contextlib import suppress
from datetime import timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from cogni_billing import Amount, Billing, Hold, LedgerCorruption, TenantId, credits, usd
from cogni_billing.adapters.postgres import PostgresUnitOfWork
from cogni_billing.adapters.postgres.posting import POST
from cogni_billing.adapters.postgres.rows import hold_parameters, transaction_parameters
from cogni_billing.adapters.postgres.statements import OPEN_HOLD, typed
from cogni_billing.domain.grants import Lapse, plan_expiry, plan_grant
from cogni_billing.domain.holds import plan_capture, plan_hold
from cogni_billing.domain.transactions import Transaction, TransactionKind
from cogni_billing.testing.base import ALICE, BOB, NOON, CountingIds, SteppingClock
from stack.attacks import CHECK, PRIVILEGE, refusal, refusal_of_altered
from stack.conftest import Database
from stack.planning import planned_charge

HOUR = timedelta(hours=1)
MILLION = credits(1_000_000)
RETRY = "40001"


@pytest.fixture
def clock() -> SteppingClock:
    return SteppingClock()


@pytest.fixture
def billing(database: Database, clock: SteppingClock) -> Billing:
    """Alice and Bob have 1 000 000 credits each."""
    billing = Billing(PostgresUnitOfWork(database.user), clock=clock, ids=CountingIds())
    for tenant in (ALICE, BOB):
        billing.confirm_purchase(tenant, usd("0.10"), payment=f"stripe:{tenant}")
    return billing


def planned_hold(number: int = 77) -> Hold:
    return plan_hold(
        ALICE,
        credits(100),
        reference=f"run-{number}",
        expires_at=NOON + HOUR,
        metadata=None,
        at=NOON,
        hold_id=UUID(int=number),
    )


def planned_capture(hold: Hold, amount: Amount) -> Transaction:
    return plan_capture(
        ALICE, hold.id, amount, reference="c", metadata=None, at=NOON, transaction_id=UUID(int=99)
    )


def planned_grant(tenant: TenantId = ALICE) -> Transaction:
    return plan_grant(
        tenant,
        credits(500),
        source="promo:a",
        reference="a",
        expires_at=NOON + HOUR,
        priority=1,
        metadata=None,
        at=NOON,
        transaction_id=UUID(int=77),
    )


class TestHolds:
    @pytest.mark.parametrize(
        ("altered", "refused_by"),
        [
            ({"amount": Decimal(1_000_001)}, (CHECK, "wallets_cover_what_is_taken")),
            ({"amount": Decimal(0)}, (CHECK, "holds_amount_whole_and_bounded")),
            ({"amount": Decimal(-5)}, (CHECK, "holds_amount_whole_and_bounded")),
            ({"amount": Decimal("0.5")}, (CHECK, "holds_amount_whole_and_bounded")),
            ({"amount": Decimal("NaN")}, (CHECK, "holds_amount_whole_and_bounded")),
            ({"amount": Decimal("Infinity")}, (CHECK, "holds_amount_whole_and_bounded")),
            ({"unit": "USD"}, (CHECK, "holds_unit_known")),
            ({"reference": "two words"}, (CHECK, "holds_reference_visible_ascii")),
            ({"expires_at": NOON + HOUR / 2}, (CHECK, "holds_ends_at_in_range")),
            ({"expires_at": NOON.replace(year=9999)}, (CHECK, "holds_expires_at_in_range")),
            ({"metadata": "[]"}, (CHECK, "holds_metadata_small_object")),
            ({"request": "1"}, (CHECK, "holds_request_small_object")),
        ],
    )
    def test_a_forged_hold_is_refused_and_holds_nothing(
        self,
        database: Database,
        billing: Billing,
        altered: dict[str, Any],
        refused_by: tuple[str, str],
    ) -> None:
        with database.acting_for(ALICE) as connection, pytest.raises(DBAPIError) as caught:
            connection.execute(OPEN_HOLD, hold_parameters(planned_hold()) | altered)

        error: Any = caught.value.orig
        assert (error.sqlstate, error.diag.constraint_name) == refused_by
        assert billing.balance(ALICE).held == credits(0)

    def test_nothing_is_held_in_another_tenants_name(
        self, database: Database, billing: Billing
    ) -> None:
        statement = """
            INSERT INTO cogni_billing.holds (
                tenant_id, id, account_id, reference, unit, amount, opened_at, ends_at, request,
                metadata
            ) VALUES (:bob, :id, :account, 'x', 'CREDIT', 5, now(), '9000-01-01', '{}', '{}')
        """
        for account in (ALICE, BOB):
            with database.acting_for(ALICE) as connection:
                error = refusal(connection, statement, bob=BOB, id=UUID(int=5), account=account)
            assert error.sqlstate in {PRIVILEGE, CHECK}

        assert billing.balance(BOB).held == credits(0)

    def test_what_a_hold_has_become_is_not_for_a_client_to_say(self, database: Database) -> None:
        for column, value in (
            ("state", "'released'"),
            ("captured", "5"),
            ("pinned_grants", "'{}'"),
        ):
            with database.acting_for(ALICE) as connection:
                inserted = refusal(
                    connection, f"INSERT INTO cogni_billing.holds ({column}) VALUES ({value})"
                )
                connection.rollback()
            with database.acting_for(ALICE) as connection:
                updated = refusal(connection, f"UPDATE cogni_billing.holds SET {column} = {value}")
            assert inserted.sqlstate == updated.sqlstate == PRIVILEGE

    def test_a_hold_that_is_skipped_sets_nothing_aside(
        self, database: Database, billing: Billing
    ) -> None:
        with database.acting_for(ALICE) as connection:
            for _ in range(2):
                connection.execute(OPEN_HOLD, hold_parameters(planned_hold()))
            connection.commit()

        assert billing.balance(ALICE).held == credits(100)

    def test_a_hold_of_another_tenant_is_not_released(
        self, database: Database, billing: Billing
    ) -> None:
        hold = billing.hold(BOB, credits(5), reference="run-1", expires_at=NOON + HOUR)
        with database.acting_for(ALICE) as connection:
            released = connection.execute(
                text("SELECT cogni_billing.release_hold(:id, 'CREDIT', now())"), {"id": hold.id}
            ).scalar_one()
            connection.execute(text("SELECT cogni_billing.settle_wallet('CREDIT', '9000-01-01')"))
            connection.commit()

        assert released is False
        assert billing.balance(BOB).held == credits(5)

    @pytest.mark.parametrize(
        "metadata", ['{"a":' + "9" * 5000 + "}", '{"a":' + "[" * 3000 + "]" * 3000 + "}"]
    )
    def test_metadata_that_python_cannot_read_is_a_typed_error(
        self, database: Database, billing: Billing, metadata: str
    ) -> None:
        with database.acting_for(ALICE) as connection:
            connection.execute(OPEN_HOLD, hold_parameters(planned_hold()) | {"metadata": metadata})
            connection.commit()

        with pytest.raises(LedgerCorruption, match="a record cannot be read"):
            billing.release(ALICE, planned_hold().id)
        assert billing.balance(ALICE).held == credits(100)

    def test_a_hold_that_has_expired_is_not_released(
        self, database: Database, billing: Billing
    ) -> None:
        hold = billing.hold(ALICE, credits(5), reference="run-1", expires_at=NOON + HOUR)
        with database.acting_for(ALICE) as connection:
            released = connection.execute(
                text("SELECT cogni_billing.release_hold(:id, 'CREDIT', :at)"),
                {"id": hold.id, "at": NOON + HOUR},
            ).scalar_one()

        assert released is False

    def test_a_hold_does_not_end_in_the_statement_that_opens_it(
        self, database: Database, billing: Billing
    ) -> None:
        billing.hold(ALICE, credits(5), reference="run-1")
        billing.grant(ALICE, credits(5), source="a", reference="a", expires_at=NOON + HOUR)
        with database.acting_for(ALICE) as connection:
            error = refusal(
                connection,
                """
                WITH opened AS (
                    INSERT INTO cogni_billing.holds (
                        tenant_id, id, account_id, reference, unit, amount, opened_at, ends_at,
                        request, metadata
                    ) VALUES (:me, :id, :me, 'x', 'CREDIT', 5, :at, '9000-01-01', '{}', '{}')
                    RETURNING id
                )
                SELECT cogni_billing.release_hold(id, 'CREDIT', :at) FROM opened
                """,
                me=ALICE,
                id=UUID(int=5),
                at=NOON,
            )

        rule = "holds_are_counted_before_they_end"
        assert (error.sqlstate, error.diag.constraint_name) == (CHECK, rule)

    @pytest.mark.parametrize("moment", ["infinity", "9999-01-01", "-infinity", "1969-12-31"])
    def test_a_wallets_time_stays_in_range(
        self, database: Database, billing: Billing, moment: str
    ) -> None:
        billing.hold(ALICE, credits(5), reference="run-1", expires_at=NOON + HOUR)
        for call in ("settle_wallet('CREDIT', :moment)", "release_hold(:id, 'CREDIT', :moment)"):
            with database.acting_for(ALICE) as connection, suppress(DBAPIError):
                connection.execute(
                    text(f"SELECT cogni_billing.{call}"), {"moment": moment, "id": UUID(int=5)}
                )
                connection.commit()

        assert billing.charge(ALICE, credits(1), reference="run-2").balance == credits(999_999)

    def test_an_id_that_an_expiry_would_have_stops_nobody_else(
        self, database: Database, billing: Billing, clock: SteppingClock
    ) -> None:
        """One who takes it by forgery has a wallet that cannot be settled, and hurts no other."""
        grants = [
            billing.grant(who, credits(5), source="a", reference="a", expires_at=NOON + HOUR)
            for who in (ALICE, BOB)
        ]
        taken = plan_expiry(ALICE, Lapse(grants[0].transaction_id, credits(5), NOON), 1).id
        charge = planned_charge(amount=1, number=taken.int)
        PostgresUnitOfWork(database.user).run(ALICE, lambda scope: scope.ledger.post(charge))
        clock.moment = NOON + 2 * HOUR
        back_office = Billing(
            PostgresUnitOfWork(database.user, service=database.service), clock=clock
        )

        with pytest.raises(LedgerCorruption, match="the id of expiry"):
            back_office.sweep()

        assert billing.statement(BOB).lines[0].kind == "expiry"

    def test_nothing_is_held_of_what_has_lapsed(self, database: Database, billing: Billing) -> None:
        billing.grant(ALICE, credits(9), source="a", reference="a", expires_at=NOON + HOUR)
        with database.acting_for(ALICE) as connection:
            error = refusal(
                connection,
                """
                INSERT INTO cogni_billing.holds (
                    tenant_id, id, account_id, reference, unit, amount, opened_at, ends_at, request,
                    metadata
                ) VALUES (:me, :id, :me, 'x', 'CREDIT', 1000009, :at, '9000-01-01', '{}', '{}')
                """,
                me=ALICE,
                id=UUID(int=5),
                at=NOON + HOUR,
            )

        assert (error.sqlstate, error.diag.constraint_name) == (RETRY, "wallets_are_settled_first")

    def test_nobody_calls_what_only_the_keeper_may(self, database: Database) -> None:
        for call in (
            "end_hold(NULL, 'released', 0, now())",
            "lock_wallet('CREDIT', now())",
            "next_due('CREDIT')",
            "draw_grants('CREDIT', 1)",
            "lapse_grant(NULL, 'CREDIT', 1, now())",
        ):
            with database.acting_for(ALICE) as connection:
                error = refusal(connection, f"SELECT cogni_billing.{call}")
            assert error.sqlstate == PRIVILEGE

    # The library's own statement, but for the look at the hold before it.
    CAPTURE = POST[TransactionKind.CAPTURE].text
    UNCHECKED = re.sub(
        r"FROM cogni_billing\.holds\s+WHERE .*?\)\s+(?=ON CONFLICT)", "", CAPTURE, flags=re.DOTALL
    )

    def refusal_of_capture(
        self, database: Database, capture: Transaction
    ) -> tuple[str | None, str | None]:
        assert "cogni_billing.holds" in self.CAPTURE
        assert "cogni_billing.holds" not in self.UNCHECKED
        with database.acting_for(ALICE) as connection, pytest.raises(DBAPIError) as caught:
            connection.execute(typed(self.UNCHECKED), transaction_parameters(capture))
        error: Any = caught.value.orig
        return error.sqlstate, error.diag.constraint_name

    def test_more_than_a_hold_is_of_is_not_captured(
        self, database: Database, billing: Billing
    ) -> None:
        hold = billing.hold(ALICE, credits(100), reference="run-1")

        refused_by = self.refusal_of_capture(database, planned_capture(hold, credits(101)))

        assert refused_by == (CHECK, "holds_capture_no_more_than_they_are")

    def test_a_capture_settles_the_hold_that_it_declares(
        self, database: Database, billing: Billing
    ) -> None:
        hold, other = (billing.hold(ALICE, credits(5), reference=each) for each in ("a", "b"))
        written = ":kind, :unit, :amount, :overdraft, :subject, :at"
        assert written in self.CAPTURE
        statement = self.CAPTURE.replace(
            written, written.replace(":subject", f"'{other.id}'::uuid")
        )
        capture = planned_capture(hold, credits(5))
        with database.acting_for(ALICE) as connection, pytest.raises(DBAPIError) as caught:
            connection.execute(typed(statement), transaction_parameters(capture))

        error: Any = caught.value.orig
        rule = "postings_match_their_transaction"
        assert (error.sqlstate, error.diag.constraint_name) == (CHECK, rule)

    def test_nor_is_a_hold_of_another_tenant_or_one_that_has_ended(
        self, database: Database, billing: Billing
    ) -> None:
        bobs = billing.hold(BOB, credits(100), reference="run-1")
        released = billing.hold(ALICE, credits(100), reference="run-1")
        billing.release(ALICE, released.id)

        for hold in (bobs, released):
            capture = planned_capture(hold, credits(100))
            assert self.refusal_of_capture(database, capture) == (RETRY, "holds_end_once")

    def test_nor_is_one_that_has_expired_and_is_not_settled(
        self, database: Database, billing: Billing, clock: SteppingClock
    ) -> None:
        billing.hold(ALICE, credits(1), reference="run-1", expires_at=NOON + HOUR)
        hold = billing.hold(ALICE, credits(100), reference="run-2", expires_at=NOON + 2 * HOUR)
        capture = plan_capture(
            ALICE,
            hold.id,
            credits(100),
            reference="c",
            metadata=None,
            at=NOON + HOUR,
            transaction_id=UUID(int=99),
        )

        assert self.refusal_of_capture(database, capture) == (RETRY, "wallets_are_settled_first")


class TestGrants:
    GRANT = POST[TransactionKind.GRANT].text

    @pytest.mark.parametrize(
        ("altered", "refused_by"),
        [
            ({"priority": -1}, "grants_priority_in_bounds"),
            ({"priority": 1_000_001}, "grants_priority_in_bounds"),
            ({"source": "two words"}, "grants_source_visible_ascii"),
            ({"expires_at": NOON.replace(year=9999)}, "grants_expires_at_in_range"),
        ],
    )
    def test_forged_terms_are_refused(
        self, database: Database, altered: dict[str, Any], refused_by: str
    ) -> None:
        with database.acting_for(ALICE) as connection:
            refused = refusal_of_altered(connection, planned_grant(), **altered)

        assert refused == (CHECK, refused_by)

    @pytest.mark.parametrize(
        ("written", "forged", "refused_by"),
        [
            (
                ":tenant, id, :account, :unit, :amount, :source",
                ":tenant, id, :account, :unit, 501, :source",
                "grants_match_their_transaction",
            ),
            (
                ":priority, :at, :expires_at",
                ":priority, :at - interval '1 s', :expires_at",
                "grants_match_their_transaction",
            ),
            (
                ":tenant, id, :account, :unit, :amount, :source",
                ":tenant, :account, :account, :unit, :amount, :source",
                "grants_have_their_terms",
            ),
            (
                "FROM manifest\n    ), others",
                "FROM manifest WHERE false\n    ), others",
                "grants_have_their_terms",
            ),
        ],
    )
    def test_terms_are_those_of_the_transaction(
        self, database: Database, written: str, forged: str, refused_by: str
    ) -> None:
        assert written in self.GRANT
        statement = typed(self.GRANT.replace(written, forged))
        with database.acting_for(ALICE) as connection, pytest.raises(DBAPIError) as caught:
            connection.execute(statement, transaction_parameters(planned_grant()))

        error: Any = caught.value.orig
        assert (error.sqlstate, error.diag.constraint_name) == (CHECK, refused_by)
        assert database.totals() == {}

    TERMS = """
        INSERT INTO cogni_billing.grants (
            tenant_id, id, account_id, unit, amount, source, priority, granted_at, expires_at
        ) VALUES (:tenant, :id, :tenant, 'CREDIT', 1000000, 'x', 0, :at, NULL)
        ON CONFLICT DO NOTHING
    """

    def test_what_was_bought_cannot_be_made_a_grant(
        self, database: Database, billing: Billing
    ) -> None:
        (line,) = billing.statement(ALICE).lines
        with database.acting_for(ALICE) as connection:
            error = refusal(
                connection, self.TERMS, tenant=ALICE, id=line.transaction_id, at=line.at
            )

        assert error.diag.constraint_name == "grants_match_their_transaction"

    def test_terms_that_are_skipped_count_for_nothing(
        self, database: Database, billing: Billing
    ) -> None:
        receipt = billing.grant(ALICE, credits(500), source="a", reference="a")
        with database.acting_for(ALICE) as connection:
            connection.execute(
                text(self.TERMS), {"tenant": ALICE, "id": receipt.transaction_id, "at": NOON}
            )
            connection.commit()

        billing.charge(ALICE, MILLION, reference="run-1")
        assert billing.grants(ALICE) == ()

    def test_a_grant_does_not_expire_before_the_wallets_moment(
        self, database: Database, billing: Billing, clock: SteppingClock
    ) -> None:
        clock.moment = NOON + HOUR
        billing.charge(ALICE, credits(1), reference="run-1")
        unasked = self.GRANT.replace("AND :expires_at <= as_of", "AND false")
        assert unasked != self.GRANT
        with database.acting_for(ALICE) as connection, pytest.raises(DBAPIError) as caught:
            connection.execute(typed(unasked), transaction_parameters(planned_grant()))

        error: Any = caught.value.orig
        assert (error.sqlstate, error.diag.constraint_name) == (RETRY, "wallets_are_settled_first")

    def test_no_terms_are_written_in_another_tenants_name(
        self, database: Database, billing: Billing
    ) -> None:
        with database.acting_for(ALICE) as connection:
            error = refusal(connection, self.TERMS, tenant=BOB, id=UUID(int=5), at=NOON)

        assert error.sqlstate == PRIVILEGE

    def test_how_much_of_a_grant_is_taken_is_not_for_a_client_to_say(
        self, database: Database
    ) -> None:
        for statement in (
            "INSERT INTO cogni_billing.grants (taken) VALUES (0)",
            "UPDATE cogni_billing.grants SET taken = 0",
            "INSERT INTO cogni_billing.postings (drawn_grants) VALUES ('{}')",
            "INSERT INTO cogni_billing.postings (drawn_amounts) VALUES ('{}')",
            "UPDATE cogni_billing.wallets SET granted = 0",
        ):
            with database.acting_for(ALICE) as connection:
                assert refusal(connection, statement).sqlstate == PRIVILEGE

    @pytest.mark.parametrize(
        ("amount", "at", "whose"),
        [
            (500, NOON + HOUR - timedelta(microseconds=1), ALICE),
            (499, NOON + HOUR, ALICE),
            (501, NOON + HOUR, ALICE),
            (500, NOON + HOUR, BOB),
        ],
    )
    def test_a_grant_lapses_when_it_expires_and_all_of_it(
        self, database: Database, billing: Billing, amount: int, at: Any, whose: TenantId
    ) -> None:
        receipt = billing.grant(
            whose, credits(500), source="a", reference="a", expires_at=NOON + HOUR
        )
        expiry = plan_expiry(ALICE, Lapse(receipt.transaction_id, credits(amount), at), 1)
        with database.acting_for(ALICE) as connection:
            refused_by = refusal_of_altered(connection, expiry)

        assert refused_by == (CHECK, "grants_lapse_when_they_expire")
