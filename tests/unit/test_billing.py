"""The order in which bad arguments are refused, and the arguments of `Billing` itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any, ClassVar
from uuid import UUID

import pytest
from attrs import frozen

from cogni_billing import (
    Billing,
    BillingError,
    InvalidAmount,
    InvalidMetadata,
    InvalidPage,
    InvalidPolicy,
    InvalidReference,
    InvalidTenant,
    InvalidTime,
    RevenueSharePolicy,
    UnitMismatch,
    credits,
    usd,
)
from cogni_billing.adapters.memory import InMemoryUnitOfWork
from cogni_billing.adapters.memory.store import Store
from cogni_billing.testing.base import ALICE, NOON, CountingIds, SteppingClock


def snapshot(store: Store) -> Mapping[str, object]:
    """A copy of all tables."""
    return {
        name: {
            key: list(value) if isinstance(value, list) else value for key, value in table.items()
        }
        for name, table in vars_of(store).items()
    }


def vars_of(store: Store) -> dict[str, dict[Any, Any]]:
    names = ("accounts", "payments", "ids", "recorded", "balances", "lines")
    return {name: getattr(store, name) for name in names}


@pytest.fixture
def unit_of_work() -> InMemoryUnitOfWork:
    return InMemoryUnitOfWork()


@pytest.fixture
def billing(unit_of_work: InMemoryUnitOfWork) -> Billing:
    billing = Billing(unit_of_work, clock=SteppingClock(), ids=CountingIds())
    billing.confirm_purchase(ALICE, usd("1.00"), payment="stripe:pi_0")
    return billing


Call = Callable[[Billing], object]


@pytest.fixture
def refused(
    billing: Billing, unit_of_work: InMemoryUnitOfWork
) -> Callable[[type[BillingError], Call], None]:
    """A function that checks that a call is refused with this error and changes no table."""

    def expect(error: type[BillingError], call: Call) -> None:
        before = snapshot(unit_of_work._store)
        with pytest.raises(BillingError) as caught:
            call(billing)
        assert type(caught.value) is error
        assert snapshot(unit_of_work._store) == before

    return expect


Refused = Callable[[type[BillingError], Call], None]


class TestPrecedence:
    """If several arguments are invalid, the first in the tree of errors decides."""

    WRONG: ClassVar[dict[str, Any]] = {"payment": "a b", "metadata": []}

    def test_the_tenant_is_validated_first(self, refused: Refused) -> None:
        wrong: Any = "nobody"
        refused(InvalidTenant, lambda b: b.confirm_purchase(wrong, usd(0), **self.WRONG))

    def test_the_amount_is_validated_before_the_payment(self, refused: Refused) -> None:
        refused(InvalidAmount, lambda b: b.confirm_purchase(ALICE, usd(0), **self.WRONG))

    def test_the_unit_is_validated_before_the_payment(self, refused: Refused) -> None:
        refused(UnitMismatch, lambda b: b.confirm_purchase(ALICE, credits(1), **self.WRONG))

    def test_the_payment_is_validated_before_the_metadata(self, refused: Refused) -> None:
        refused(InvalidReference, lambda b: b.confirm_purchase(ALICE, usd(1), **self.WRONG))

    def test_the_metadata_is_validated_last(self, refused: Refused) -> None:
        wrong = self.WRONG | {"payment": "a:p"}
        refused(InvalidMetadata, lambda b: b.confirm_purchase(ALICE, usd(1), **wrong))

    def test_the_page_is_validated_before_the_account(self, refused: Refused) -> None:
        refused(InvalidPage, lambda b: b.statement(UUID(int=1), limit=0))


@frozen
class Stopped:
    """A clock that stands still."""

    moment: Any

    def now(self) -> datetime:
        moment: datetime = self.moment
        return moment


@pytest.mark.parametrize("moment", [datetime(2026, 1, 1), datetime(9999, 6, 1, tzinfo=UTC), None])
def test_a_clock_with_an_invalid_moment_is_refused(
    unit_of_work: InMemoryUnitOfWork, moment: datetime | None
) -> None:
    billing = Billing(unit_of_work, clock=Stopped(moment))
    before = snapshot(unit_of_work._store)

    for call in (
        lambda: billing.confirm_purchase(ALICE, usd(1), payment="a:p"),
        lambda: billing.charge(ALICE, credits(1), reference="r"),
        lambda: billing.refund(ALICE, payment="a:p", reference="r"),
        lambda: billing.open_account(ALICE),
    ):
        with pytest.raises(InvalidTime) as caught:
            call()
        assert caught.value.field == "clock"

    assert snapshot(unit_of_work._store) == before


def test_a_clock_in_another_zone_records_utc(unit_of_work: InMemoryUnitOfWork) -> None:
    tokyo = timezone(timedelta(hours=9))
    billing = Billing(unit_of_work, clock=Stopped(datetime(2026, 11, 24, 1, tzinfo=tokyo)))

    opened_at = billing.open_account(ALICE).opened_at

    assert opened_at.isoformat() == "2026-11-23T16:00:00+00:00"


def test_a_clock_set_back_keeps_the_order_of_lines(
    unit_of_work: InMemoryUnitOfWork,
) -> None:
    late = Billing(unit_of_work, clock=Stopped(NOON))
    early = Billing(unit_of_work, clock=Stopped(NOON.replace(year=1999)))
    late.confirm_purchase(ALICE, usd(1), payment="a:p")
    early.confirm_purchase(ALICE, usd(2), payment="a:q")

    assert [line.reference for line in early.statement(ALICE).lines] == ["a:q", "a:p"]


@pytest.mark.parametrize("policy", ["default", RevenueSharePolicy, Decimal("0.25")])
def test_a_policy_of_another_type_is_refused(policy: RevenueSharePolicy) -> None:
    with pytest.raises(InvalidPolicy):
        Billing(InMemoryUnitOfWork(), policy=policy)


def test_clock_and_ids_default_to_those_of_the_unit_of_work() -> None:
    first = Billing(InMemoryUnitOfWork()).confirm_purchase(ALICE, usd(1), payment="a:p")

    assert first.transaction_id.version == 7
