"""Hosts with a clock far from the server's: their calls are refused and change no row."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Final, TypeAlias
from uuid import UUID

import pytest
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import create_async_engine

from cogni_billing import (
    AsyncBilling,
    Billing,
    InvalidInput,
    InvalidTime,
    PaymentAttempts,
    TenantId,
    credits,
    usd,
)
from cogni_billing.adapters.postgres import (
    AsyncPostgresUnitOfWork,
    PostgresUnitOfWork,
    doctor,
    provision,
    provision_sql,
    sign_contexts,
)
from cogni_billing.adapters.postgres.operations.sandbox import Sandbox
from cogni_billing.adapters.system import SystemClock
from cogni_billing.testing import FakeVerifier
from cogni_billing.testing.base import ALICE, MovableClock
from cogni_billing.testing.contracts.attempt_base import CARD
from stack.conftest import Database, created, opened
from stack.support.attacks import Rows, dump, new_id, refusal, undone
from stack.support.command import Run

WRONG: Final = {
    "2099": datetime(2099, 1, 1, tzinfo=UTC),
    "1970": datetime(1970, 1, 2, tzinfo=UTC),
}
MINUTE: Final = timedelta(minutes=1)


@pytest.fixture(scope="module")
def kept(billing_database: Sandbox) -> Iterator[Database]:
    """Create a database without the mark of a test database."""
    with created(billing_database) as clone:
        clone.install(test_database=False)
        with opened(clone) as database:
            yield database


def billing_at(database: Database, moment: datetime) -> Billing:
    unit_of_work = PostgresUnitOfWork(database.user, service=database.service)
    return Billing(unit_of_work, clock=MovableClock(moment))


def off_by(database: Database, distance: timedelta) -> Billing:
    """Build a host with a clock that differs from the server's by *distance*."""
    with database.admin.connect() as connection:
        return billing_at(database, connection.scalar(text("SELECT now()")) + distance)


@pytest.fixture
def tenant(kept: Database) -> TenantId:
    """Create a tenant with a purchase, a grant that expires tomorrow, and an open hold."""
    tenant = TenantId(new_id())
    billing = Billing(PostgresUnitOfWork(kept.user))
    billing.confirm_purchase(tenant, usd("1.00"), payment=f"stripe:{tenant}")
    tomorrow = SystemClock().now() + timedelta(days=1)
    billing.grant(tenant, credits(50), source="a", reference="a", expires_at=tomorrow)
    billing.hold(tenant, credits(5), reference="run-0")
    return tenant


def known(database: Database) -> Rows:
    with database.admin.connect() as connection:
        return dump(connection)


Call: TypeAlias = Callable[[Billing, TenantId], object]
CALLS: Final[dict[str, Call]] = {
    "sweep": lambda host, _: host.sweep(),
    "charge": lambda host, tenant: host.charge(tenant, credits(1), reference="run-1"),
    "purchase": lambda host, tenant: host.confirm_purchase(tenant, usd("1.00"), payment="x:1"),
    "grant": lambda host, tenant: host.grant(tenant, credits(1), source="a", reference="b"),
    "hold": lambda host, tenant: host.hold(tenant, credits(1), reference="run-1"),
    "open_account": lambda host, _: host.open_account(TenantId(UUID(int=2**101))),
    "refund": lambda host, tenant: host.refund(tenant, payment=f"stripe:{tenant}", reference="r"),
}


@pytest.mark.parametrize("year", WRONG)
class TestHostsOfAnotherYear:
    @pytest.mark.parametrize("name", CALLS)
    def test_call_is_refused_and_changes_nothing(
        self, kept: Database, tenant: TenantId, year: str, name: str
    ) -> None:
        before = known(kept)
        host = billing_at(kept, WRONG[year])

        if (name, year) == ("sweep", "1970"):
            assert host.sweep() == 0  # no expiration was due by then
        else:
            with pytest.raises(InvalidTime, match="clock"):
                CALLS[name](host, tenant)

        assert known(kept) == before
        right = Billing(PostgresUnitOfWork(kept.user))
        assert right.balance(tenant).posted == credits(10_000_050)
        assert right.charge(tenant, credits(1), reference="run-1").balance == credits(10_000_049)

    def test_sweep_of_attempts_changes_nothing(self, kept: Database, year: str) -> None:
        unit_of_work = PostgresUnitOfWork(kept.user, service=kept.service)
        verifier = FakeVerifier()
        right = PaymentAttempts(unit_of_work, verifier=verifier, destinations=CARD)
        pending = right.create_intent(ALICE, usd("2.00"))
        right.submit(ALICE, pending.attempt_id, f"stripe:pending-{year}")
        before = known(kept)
        clock = MovableClock(WRONG[year])
        wrong = PaymentAttempts(unit_of_work, verifier=verifier, destinations=CARD, clock=clock)

        with pytest.raises(InvalidTime):
            wrong.sweep()

        assert known(kept) == before

    def test_error_has_both_clocks_and_the_remedy(
        self, kept: Database, tenant: TenantId, year: str
    ) -> None:
        with pytest.raises(InvalidTime) as caught:
            billing_at(kept, WRONG[year]).charge(tenant, credits(1), reference="run-1")

        error = caught.value
        told = re.fullmatch(
            r"(\S+), where the server has (\S+) and allows a skew of 300 s", error.given
        )
        assert told is not None
        host, server = map(datetime.fromisoformat, told.groups())
        assert host == WRONG[year]
        assert abs(server - SystemClock().now()) < MINUTE
        assert "synchronize them, or provision(clock_skew=...)" in error.expected

    def test_awaited_call_is_refused(self, kept: Database, tenant: TenantId, year: str) -> None:
        async def charge() -> None:
            engine = create_async_engine(kept.sandbox.url("app_user"))
            clock = MovableClock(WRONG[year])
            billing = AsyncBilling(AsyncPostgresUnitOfWork(engine), clock=clock)
            try:
                await billing.charge(tenant, credits(1), reference="run-1")
            finally:
                await engine.dispose()

        with pytest.raises(InvalidTime, match="clock"):
            asyncio.run(charge())


class TestSkew:
    """The clock of each host differs by a few minutes in either direction."""

    @pytest.fixture(autouse=True)
    def default(self, kept: Database) -> Iterator[None]:
        yield
        provision(kept.admin, clock_skew=timedelta(minutes=5))

    @pytest.mark.parametrize("side", [1, -1])
    @pytest.mark.parametrize(
        ("skew", "right", "wrong"), [(None, 4, 6), (1, 0.5, 2), (2, 1.5, 3), (60, 59, 61)]
    )
    def test_call_is_taken_within_the_skew_and_refused_beyond(
        self,
        kept: Database,
        tenant: TenantId,
        skew: int | None,
        right: float,
        wrong: float,
        side: int,
    ) -> None:
        provision(kept.admin, clock_skew=None if skew is None else skew * MINUTE)

        with pytest.raises(InvalidTime, match=f"a skew of {(skew or 5) * 60} s"):
            off_by(kept, side * wrong * MINUTE).hold(tenant, credits(1), reference="run-1")
        with pytest.raises(InvalidTime, match=f"a skew of {(skew or 5) * 60} s"):
            off_by(kept, side * wrong * MINUTE).charge(tenant, credits(1), reference="run-1")
        off_by(kept, side * right * MINUTE).charge(tenant, credits(1), reference="run-1")

    def test_skew_is_kept_when_other_fields_change(self, kept: Database, tenant: TenantId) -> None:
        provision(kept.admin, clock_skew=2 * MINUTE)
        provision(kept.admin)
        sign_contexts(kept.migrator, [])

        assert doctor(kept.user).ok
        with pytest.raises(InvalidTime, match="a skew of 120 s"):
            off_by(kept, 3 * MINUTE).charge(tenant, credits(1), reference="run-1")

    @pytest.mark.parametrize("role", ["app_user", "app_spender", "app_service"])
    def test_serving_role_cannot_widen_it(self, kept: Database, role: str) -> None:
        with undone(kept, role) as connection:
            for statement in (
                """COMMENT ON SCHEMA cogni_billing IS '{"clock_skew": 3600}'""",
                "SELECT cogni_billing.provisioned('clock_skew')",
                "CREATE OR REPLACE FUNCTION cogni_billing.is_near(moment timestamptz)"
                " RETURNS boolean LANGUAGE sql AS 'SELECT true'",
            ):
                refused(connection, statement)

    @pytest.mark.parametrize(
        "skew", [timedelta(0), timedelta(seconds=59), timedelta(hours=1, seconds=1), 60, -MINUTE]
    )
    def test_skew_out_of_range_is_refused_before_any_sql(
        self, kept: Database, skew: timedelta
    ) -> None:
        for run in (provision, provision_sql):
            with pytest.raises(InvalidInput, match="clock_skew"):
                run(kept.admin, clock_skew=skew)

    def test_provision_sql_has_the_skew(self, kept: Database) -> None:
        assert provision_sql(kept.admin, clock_skew=5 * MINUTE) == ""
        assert '"clock_skew": 60.0' in provision_sql(kept.admin, clock_skew=MINUTE)

    def test_command_sets_it(self, kept: Database, tenant: TenantId, run: Run) -> None:
        assert run("provision", "--clock-skew", "60", url=kept.sandbox.admin_url).returncode == 0
        with pytest.raises(InvalidTime, match="a skew of 60 s"):
            off_by(kept, 2 * MINUTE).charge(tenant, credits(1), reference="run-1")
        refused = run("provision", "--clock-skew", "5", url=kept.sandbox.admin_url)
        assert refused.returncode == 1
        assert "clock_skew" in refused.stderr


def refused(connection: Connection, statement: str) -> None:
    nested = connection.begin_nested()
    error = refusal(connection, statement)
    nested.rollback()
    assert error.sqlstate == "42501"
