"""Bad input to any public argument is a typed error, and leaves nothing behind."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, ClassVar
from uuid import UUID

import pytest
from attrs import frozen

from cogni_billing import (
    SYSTEM_ACCOUNT_ID,
    SYSTEM_TENANT_ID,
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
from contract.base import ALICE, NOON, CountingIds, SteppingClock

BAD_TENANTS = [
    None,
    "",
    str(ALICE),
    ALICE.hex,
    ALICE.int,
    ALICE.bytes,
    UUID(int=0),
    SYSTEM_ACCOUNT_ID,
    True,
    (),
]
BAD_AMOUNTS: list[tuple[object, type[BillingError]]] = [
    (usd(0), InvalidAmount),
    (usd("-0.01"), InvalidAmount),
    (credits(0), InvalidAmount),
    (credits(100), UnitMismatch),
    *((given, InvalidAmount) for given in (None, 10, 10.0, "10.00", Decimal(10), True, [usd(1)])),
]
BAD_PAYMENTS = [
    None,
    1,
    b"stripe:pi_1",
    "",
    " ",
    "stripe: pi_1",
    "stripe:pi_1\n",
    "stripe:pi_1\0",
    "stripe:caf\u00e9",
    "stripe:\u202epi",
    "stripe:\ud800",
    "s" * 256,
    ("stripe", "pi_1"),
]
BAD_METADATA = [
    "{}",
    [],
    [("a", 1)],
    7,
    {1: 1},
    {"a": float("nan")},
    {"a": Decimal(1)},
    {"a": {1}},
    {"a": b""},
    {"a": NOON},
    {"a": ALICE},
    {"a": "\0"},
    {"a": "\ud800"},
    {"a": "x" * 20_000},
    {"a": [[[[[[[[[]]]]]]]]]},
    {"a": 10**5000},
]
BAD_PAGES = [
    *({"limit": limit} for limit in (0, -1, 1001, True, 1.0, "50", None, 10**100)),
    *({"after": after} for after in ("", "0", "01", "-1", "1e3", "x" * 100, 5, b"1", "\u0661")),
]


def snapshot(store: Store) -> Mapping[str, object]:
    """Everything recorded, as it is now."""
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
    """Expects a call to be refused with exactly this error, and to change nothing."""

    def expect(error: type[BillingError], call: Call) -> None:
        before = snapshot(unit_of_work._store)
        with pytest.raises(BillingError) as caught:
            call(billing)
        assert type(caught.value) is error
        assert snapshot(unit_of_work._store) == before

    return expect


Refused = Callable[[type[BillingError], Call], None]


@pytest.mark.parametrize("tenant", BAD_TENANTS, ids=repr)
class TestTenants:
    def test_no_purchase(self, refused: Refused, tenant: UUID) -> None:
        refused(InvalidTenant, lambda b: b.confirm_purchase(tenant, usd(1), payment="p"))

    def test_no_account(self, refused: Refused, tenant: UUID) -> None:
        refused(InvalidTenant, lambda b: b.open_account(tenant))

    def test_no_balance(self, refused: Refused, tenant: UUID) -> None:
        refused(InvalidTenant, lambda b: b.balance(tenant))

    def test_no_statement(self, refused: Refused, tenant: UUID) -> None:
        refused(InvalidTenant, lambda b: b.statement(tenant))


@pytest.mark.parametrize("tenant", [ALICE, SYSTEM_TENANT_ID, UUID(int=1)], ids=repr)
class TestArguments:
    @pytest.mark.parametrize(("amount", "error"), BAD_AMOUNTS, ids=repr)
    def test_a_bad_amount(
        self, refused: Refused, tenant: UUID, amount: Any, error: type[BillingError]
    ) -> None:
        refused(error, lambda b: b.confirm_purchase(tenant, amount, payment="stripe:pi_0"))

    @pytest.mark.parametrize("payment", BAD_PAYMENTS, ids=ascii)
    def test_a_bad_payment(self, refused: Refused, tenant: UUID, payment: Any) -> None:
        refused(InvalidReference, lambda b: b.confirm_purchase(tenant, usd(1), payment=payment))

    @pytest.mark.parametrize("number", range(len(BAD_METADATA)))
    def test_bad_metadata(self, refused: Refused, tenant: UUID, number: int) -> None:
        metadata: Any = BAD_METADATA[number]
        refused(
            InvalidMetadata,
            lambda b: b.confirm_purchase(tenant, usd(1), payment="p", metadata=metadata),
        )

    @pytest.mark.parametrize("page", BAD_PAGES, ids=ascii)
    def test_a_bad_page(self, refused: Refused, tenant: UUID, page: dict[str, Any]) -> None:
        refused(InvalidPage, lambda b: b.statement(tenant, **page))


def test_the_catalogue_is_as_long_as_it_should_be() -> None:
    tenants = 4 * len(BAD_TENANTS)
    arguments = len(BAD_AMOUNTS) + len(BAD_PAYMENTS) + len(BAD_METADATA) + len(BAD_PAGES)

    assert tenants + 3 * arguments >= 150


class TestPrecedence:
    """Where several arguments are wrong, the first in the tree of errors decides."""

    WRONG: ClassVar[dict[str, Any]] = {"payment": "a b", "metadata": []}

    def test_the_tenant_comes_first(self, refused: Refused) -> None:
        wrong: Any = "nobody"
        refused(InvalidTenant, lambda b: b.confirm_purchase(wrong, usd(0), **self.WRONG))

    def test_then_the_amount(self, refused: Refused) -> None:
        refused(InvalidAmount, lambda b: b.confirm_purchase(ALICE, usd(0), **self.WRONG))

    def test_then_its_unit(self, refused: Refused) -> None:
        refused(UnitMismatch, lambda b: b.confirm_purchase(ALICE, credits(1), **self.WRONG))

    def test_then_the_payment(self, refused: Refused) -> None:
        refused(InvalidReference, lambda b: b.confirm_purchase(ALICE, usd(1), **self.WRONG))

    def test_then_the_metadata(self, refused: Refused) -> None:
        wrong = self.WRONG | {"payment": "p"}
        refused(InvalidMetadata, lambda b: b.confirm_purchase(ALICE, usd(1), **wrong))

    def test_then_the_page(self, refused: Refused) -> None:
        refused(InvalidPage, lambda b: b.statement(UUID(int=1), limit=0))


@frozen
class Stopped:
    """A clock that stands still."""

    moment: Any

    def now(self) -> datetime:
        moment: datetime = self.moment
        return moment


@pytest.mark.parametrize("moment", [datetime(2026, 1, 1), datetime(9999, 6, 1, tzinfo=UTC), None])
def test_a_clock_that_tells_no_moment_writes_nothing(
    unit_of_work: InMemoryUnitOfWork, moment: datetime | None
) -> None:
    billing = Billing(unit_of_work, clock=Stopped(moment))
    before = snapshot(unit_of_work._store)

    with pytest.raises(InvalidTime):
        billing.confirm_purchase(ALICE, usd(1), payment="p")
    with pytest.raises(InvalidTime):
        billing.open_account(ALICE)

    assert snapshot(unit_of_work._store) == before


def test_a_clock_that_goes_backwards_changes_nothing_but_labels(
    unit_of_work: InMemoryUnitOfWork,
) -> None:
    late = Billing(unit_of_work, clock=Stopped(NOON))
    early = Billing(unit_of_work, clock=Stopped(NOON.replace(year=1999)))
    late.confirm_purchase(ALICE, usd(1), payment="p")
    early.confirm_purchase(ALICE, usd(2), payment="q")

    assert [line.reference for line in early.statement(ALICE).lines] == ["q", "p"]


@pytest.mark.parametrize("policy", ["default", RevenueSharePolicy, Decimal("0.25")])
def test_a_policy_is_a_policy(policy: RevenueSharePolicy) -> None:
    with pytest.raises(InvalidPolicy):
        Billing(InMemoryUnitOfWork(), policy=policy)


def test_clock_and_ids_come_from_the_unit_of_work_unless_they_are_given() -> None:
    first = Billing(InMemoryUnitOfWork()).confirm_purchase(ALICE, usd(1), payment="p")

    assert first.transaction_id.version == 7
