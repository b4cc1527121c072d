"""Nobody but the service role takes a credit back of anybody, and it only by the book."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Connection, Engine, event, text
from sqlalchemy.exc import DBAPIError

from cogni_billing import (
    SYSTEM_ACCOUNT_ID,
    SYSTEM_TENANT_ID,
    Billing,
    PrivilegeRequired,
    TenantId,
    credits,
    usd,
)
from cogni_billing.adapters.postgres import PostgresUnitOfWork
from cogni_billing.adapters.postgres.posting import POST
from cogni_billing.adapters.postgres.rows import transaction_parameters
from cogni_billing.domain.identity import ISSUANCE, SHORTFALL
from cogni_billing.domain.policies import Shortfall
from cogni_billing.domain.refunds import Payment, There, plan_reversal, request_refund
from cogni_billing.domain.transactions import Transaction, TransactionKind
from cogni_billing.testing.base import ALICE, BOB, NOON
from cogni_billing.testing.contracts.purchases import planned
from cogni_billing.testing.contracts.refunds import policy
from stack.attacks import CHECK, PRIVILEGE, refusal
from stack.conftest import Database

PAYMENT = "stripe:pi_1"


@pytest.fixture
def billing(database: Database) -> Billing:
    """Alice has paid a dollar, of which the system tenant and Bob have shares on top."""
    unit_of_work = PostgresUnitOfWork(database.user, service=database.service)
    billing = Billing(unit_of_work, policy=policy())
    billing.open_account(BOB)
    billing.confirm_purchase(ALICE, usd("1.00"), payment=PAYMENT)
    return billing


def planned_refund(database: Database, cents: int = 40) -> Transaction:
    """A refund of Alice's payment, as the library plans it."""
    unit_of_work = PostgresUnitOfWork(database.user)
    found = unit_of_work.run(ALICE, lambda scope: scope.ledger.payment(PAYMENT))
    assert found is not None
    request = request_refund(
        ALICE,
        payment=PAYMENT,
        amount=usd(f"0.{cents:02}"),
        reference="re_1",
        shortfall=Shortfall.DEBT,
        metadata=None,
    )
    payment = Payment(purchase=found.purchase, returned=usd(0), disputed=usd(0))
    return plan_reversal(
        TransactionKind.REFUND, request, payment, There(), at=NOON, transaction_id=UUID(int=77)
    )


def refused(connection: Connection, statement: Any, parameters: dict[str, Any]) -> Any:
    with pytest.raises(DBAPIError) as caught:
        connection.execute(statement, parameters)
    error: Any = caught.value.orig
    return error.sqlstate, error.diag.constraint_name


class TestAsUser:
    """With app_user's connection and any tenant's context, even the system tenant's."""

    @pytest.fixture(params=[ALICE, BOB, SYSTEM_TENANT_ID], ids=["buyer", "partner", "system"])
    def connection(
        self, request: pytest.FixtureRequest, database: Database, billing: Billing
    ) -> Iterator[Connection]:
        with database.acting_for(request.param) as connection:
            yield connection

    def test_the_librarys_own_refund_is_refused(
        self, database: Database, connection: Connection
    ) -> None:
        parameters = transaction_parameters(planned_refund(database))

        assert refused(connection, POST[TransactionKind.REFUND], parameters)[0] == PRIVILEGE

    @pytest.mark.parametrize(
        "call",
        [
            "lock_earned(:tenant, 'CREDIT', now())",
            "set_aside(:tenant, :tenant, :tenant, 'CREDIT', 5, now())",
            "give_back(:tenant, :tenant, 'CREDIT', now())",
        ],
    )
    def test_no_wallet_of_anybodys_is_reached(self, connection: Connection, call: str) -> None:
        for tenant in (ALICE, BOB, SYSTEM_TENANT_ID):
            error = refusal(connection, f"SELECT cogni_billing.{call}", tenant=tenant)
            assert error.sqlstate == PRIVILEGE
            connection.rollback()

    @pytest.mark.parametrize("column", ["absorbed", "reverses", "returned", "returned_total"])
    def test_what_makes_a_refund_cannot_be_written(
        self, connection: Connection, column: str
    ) -> None:
        statement = f"INSERT INTO cogni_billing.transactions ({column}) VALUES (NULL)"

        assert refusal(connection, statement).sqlstate == PRIVILEGE

    @pytest.mark.parametrize("column", ["kind", "dispute_id", "state"])
    def test_no_dispute_is_made_up(self, connection: Connection, column: str) -> None:
        for statement in (
            f"INSERT INTO cogni_billing.holds ({column}) VALUES (NULL)",
            "INSERT INTO cogni_billing.disputes (reference) VALUES ('dp_1')",
        ):
            assert refusal(connection, statement).sqlstate == PRIVILEGE
            connection.rollback()

    def test_nothing_of_a_dispute_is_ended(self, connection: Connection, billing: Billing) -> None:
        dispute = billing.open_dispute(ALICE, payment=PAYMENT, reference="dp_1")
        held = [billing.balance(part.tenant).held for part in dispute.parts()]

        for part in dispute.parts():
            released = connection.execute(
                text("SELECT cogni_billing.release_hold(:part, 'CREDIT', now())"),
                {"part": part.id},
            ).scalar_one()
            assert released is False
        connection.execute(text("SELECT cogni_billing.settle_wallet('CREDIT', '9998-12-31')"))
        connection.commit()

        assert [billing.balance(part.tenant).held for part in dispute.parts()] == held


FORGED_REFUNDS: dict[str, tuple[dict[str, Any], tuple[str, str | None]]] = {
    "a refund without a purchase": (
        {"kind": "refund", "amount": Decimal(-5)},
        (CHECK, "transactions_reverse_something"),
    ),
    "a chargeback without a dispute": (
        {"kind": "chargeback", "amount": Decimal(-5)},
        (CHECK, "transactions_reverse_something"),
    ),
    "a purchase that takes from the system": (
        {
            "other_tenants": [SYSTEM_TENANT_ID] * 2,
            "other_accounts": [SYSTEM_ACCOUNT_ID, ISSUANCE],
            "other_amounts": [Decimal(-1), Decimal(1 - 100_000_000)],
        },
        (PRIVILEGE, None),
    ),
    "a purchase that takes from the shortfall account": (
        {
            "other_tenants": [SYSTEM_TENANT_ID] * 2,
            "other_accounts": [SHORTFALL, ISSUANCE],
            "other_amounts": [Decimal(-1), Decimal(1 - 100_000_000)],
        },
        (PRIVILEGE, None),
    ),
    "a purchase that gives issuance back": (
        {
            "other_tenants": [SYSTEM_TENANT_ID] * 2,
            "other_accounts": [SYSTEM_ACCOUNT_ID, ISSUANCE],
            "other_amounts": [Decimal(-100_000_005), Decimal(5)],
        },
        (PRIVILEGE, None),
    ),
}


@pytest.mark.parametrize("forgery", FORGED_REFUNDS)
def test_what_only_looks_like_a_refund_is_refused(
    database: Database, billing: Billing, forgery: str
) -> None:
    altered, refused_by = FORGED_REFUNDS[forgery]
    before = database.totals()
    parameters = transaction_parameters(planned(payment="stripe:pi_2")) | altered
    like = TransactionKind.PURCHASE if "other_tenants" in altered else TransactionKind.EXPIRY
    with database.acting_for(ALICE) as connection:
        assert refused(connection, POST[like], parameters) == refused_by
    assert database.totals() == before


def test_without_the_service_role_nothing_is_asked_of_the_database(database: Database) -> None:
    billing = Billing(PostgresUnitOfWork(database.user))
    asked: list[str] = []
    event.listen(database.user, "before_cursor_execute", lambda *given: asked.append(given[2]))

    for call in (
        billing.refund,
        billing.open_dispute,
        billing.win_dispute,
        billing.lose_dispute,
    ):
        with pytest.raises(PrivilegeRequired):
            call(ALICE, payment=PAYMENT, reference="re_1")

    assert asked == []


class TestAsService:
    """The service role is trusted, and held to the book all the same."""

    @pytest.mark.parametrize(
        ("altered", "refused_by"),
        [
            ({"returned_total": Decimal("1.01"), "returned": Decimal("1.01")}, "returns_follow"),
            ({"returned_total": Decimal("0.50")}, "returns_follow"),
            ({"returned_unit": "USDC"}, "returns_follow"),
            ({"reverses": UUID(int=5)}, "returns_follow"),
            ({"returned": Decimal(0)}, "transactions_reverse_something"),
            ({"returned": None}, "transactions_reverse_something"),
            ({"absorbed": Decimal(5)}, "postings_match_their_transaction"),
            ({"amount": Decimal(5)}, "transactions_raise_or_lower"),
            ({"shares": [Decimal(5), Decimal(5)]}, "transactions_shares_complete"),
            ({"tenant": BOB, "account": BOB}, "transactions_beneficiaries_are_other_tenants"),
        ],
        ids=str,
    )
    def test_a_forged_refund_is_refused(
        self, database: Database, billing: Billing, altered: dict[str, Any], refused_by: str
    ) -> None:
        parameters = transaction_parameters(planned_refund(database)) | altered
        with self.acting_for(database.service, parameters["tenant"]) as connection:
            sqlstate, rule = refused(connection, POST[TransactionKind.REFUND], parameters)

        assert sqlstate == CHECK
        assert rule.startswith(refused_by)

    def test_a_share_is_taken_back_of_those_who_got_it(
        self, database: Database, billing: Billing
    ) -> None:
        stranger = TenantId(UUID(int=2**100))
        parameters = transaction_parameters(planned_refund(database))
        for name in ("beneficiaries", "other_tenants", "other_accounts"):
            parameters[name] = parameters[name].replace(str(BOB), str(stranger))
        with self.acting_for(database.service, ALICE) as connection:
            refused_by = refused(connection, POST[TransactionKind.REFUND], parameters)

        assert refused_by == (CHECK, "returns_follow_one_another")

    def test_nothing_but_a_purchase_is_taken_back(
        self, database: Database, billing: Billing
    ) -> None:
        charge = billing.charge(ALICE, credits(5), reference="run-1")
        parameters = transaction_parameters(planned_refund(database)) | {
            "reverses": charge.transaction_id,
            "returned": Decimal(5),
            "returned_total": Decimal(5),
            "returned_unit": "CREDIT",
            "amount": Decimal(-5),
            "beneficiaries": [],
            "shares": [],
            "other_tenants": [SYSTEM_TENANT_ID],
            "other_accounts": [ISSUANCE],
            "other_amounts": [Decimal(5)],
        }
        with self.acting_for(database.service, ALICE) as connection:
            refused_by = refused(connection, POST[TransactionKind.REFUND], parameters)

        assert refused_by == (CHECK, "returns_follow_one_another")

    def test_two_returns_do_not_follow_the_same_one(
        self, database: Database, billing: Billing
    ) -> None:
        late = transaction_parameters(planned_refund(database, cents=30))
        billing.refund(ALICE, payment=PAYMENT, amount=usd("0.40"), reference="re_0")
        before = database.totals()
        with self.acting_for(database.service, ALICE) as connection:
            assert connection.execute(POST[TransactionKind.REFUND], late).all() == []
            connection.commit()

        assert database.totals() == before

    def test_what_was_set_aside_is_given_back_once(
        self, database: Database, billing: Billing
    ) -> None:
        billing.hold(ALICE, credits(7), reference="run-1")
        dispute = billing.open_dispute(ALICE, payment=PAYMENT, reference="dp_1")
        mine = next(dispute.parts())
        with self.acting_for(database.service, ALICE) as connection:
            for _ in range(2):
                connection.execute(
                    text("SELECT cogni_billing.give_back(:owner, :part, 'CREDIT', now())"),
                    {"owner": mine.tenant, "part": mine.id},
                )
            connection.commit()

        assert billing.balance(ALICE).held == credits(7)

    def test_nothing_rests_on_its_bypassing_row_security(
        self, database: Database, billing: Billing
    ) -> None:
        lenient = Billing(
            PostgresUnitOfWork(database.user, service=database.service),
            policy=policy(Shortfall.CLAMP),
        )
        lenient.confirm_purchase(ALICE, usd("1.00"), payment="stripe:pi_2")
        lenient.charge(BOB, credits(1_500_000), reference="run-1")
        with self.bound(database):
            billing.refund(ALICE, payment=PAYMENT, amount=usd("0.50"), reference="re_1")
            billing.open_dispute(ALICE, payment=PAYMENT, reference="dp_1")
            billing.lose_dispute(ALICE, payment=PAYMENT, reference="dp_1")
            receipt = billing.refund(
                ALICE, payment="stripe:pi_2", reference="re_2", shortfall=Shortfall.CLAMP
            )

        assert receipt.shares[1].amount == credits(0)
        assert receipt.shortfall == credits(1_000_000)
        assert billing.verify().ok

    def test_a_refund_writes_of_its_own_tenant_but_for_what_it_takes_back(
        self, database: Database, billing: Billing
    ) -> None:
        billing.confirm_purchase(BOB, usd("1.00"), payment="stripe:bobs")
        before = self.rows_by_owner(database)

        billing.refund(ALICE, payment=PAYMENT, reference="re_1")

        assert self.rows_by_owner(database) - before == {
            ("transactions", ALICE): 1,
            ("postings", ALICE): 1,
            ("postings", BOB): 1,  # its share
            ("postings", SYSTEM_TENANT_ID): 2,  # its share, and issuance
        }

    @staticmethod
    @contextmanager
    def acting_for(engine: Engine, tenant: TenantId) -> Iterator[Connection]:
        with engine.connect() as connection:
            setting = text("SELECT set_config('app.current_user_id', :tenant, true)")
            connection.execute(setting, {"tenant": str(tenant)})
            yield connection

    @staticmethod
    @contextmanager
    def bound(database: Database) -> Iterator[None]:
        """As long as it lasts, row security binds app_service."""
        admin = database.admin.execution_options(isolation_level="AUTOCOMMIT")
        with admin.connect() as connection:
            connection.execute(text("ALTER ROLE app_service NOBYPASSRLS"))
            try:
                yield
            finally:
                connection.execute(text("ALTER ROLE app_service BYPASSRLS"))

    @staticmethod
    def rows_by_owner(database: Database) -> Counter[tuple[str, UUID]]:
        with database.admin.connect() as connection:
            return Counter(
                (table, owner)
                for table in ("accounts", "grants", "holds", "postings", "transactions", "wallets")
                for owner in connection.scalars(
                    text(f"SELECT tenant_id FROM cogni_billing.{table}")
                )
            )
