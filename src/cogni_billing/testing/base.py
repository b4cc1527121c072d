"""Shared by the contracts: two tenants, a clock, an id source, and the fixtures of a `Billing`."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial, wraps
from typing import NoReturn
from uuid import UUID

import pytest
from attrs import define

from cogni_billing import SYSTEM_ACCOUNT_ID, AccountId, Billing, PaymentAttempts, TenantId
from cogni_billing.domain.identity import ISSUANCE
from cogni_billing.ports.scope import UnitOfWork

ALICE = TenantId(UUID("0a11ce00-0000-4000-8000-000000000001"))
BOB = TenantId(UUID("0b0b0000-0000-4000-8000-000000000002"))
NOON = datetime(2026, 11, 23, 12, 0, 0, 123456, tzinfo=UTC)

NewUnitOfWork = Callable[[], UnitOfWork]
"""Empties the ledger, and opens a unit of work over it."""
NewBilling = Callable[..., Billing]
"""Makes a `Billing` over the ledger, with the given options."""
NewAttempts = Callable[..., PaymentAttempts]
"""Makes `PaymentAttempts` over the ledger, with the given options."""
Totals = Callable[[], dict[AccountId, Decimal]]
"""Sums each account's postings. It reads below the adapter, so that it does not trust it."""
Reached = Callable[[], int]
"""Counts the calls on the ledger so far."""


@define
class MovableClock:
    """A clock that stands still until a test moves it."""

    moment: datetime = NOON

    def now(self) -> datetime:
        """The present moment of the clock."""
        return self.moment

    def move(self, by: timedelta) -> datetime:
        """Move the clock, backwards if *by* is negative, and return its present moment."""
        self.moment += by
        return self.moment


@define
class SteppingClock:
    """A clock that moves on by a second with each call."""

    moment: datetime = NOON

    def now(self) -> datetime:
        """Move the clock on by a second, and return its present moment."""
        self.moment += timedelta(seconds=1)
        return self.moment


@define
class CountingIds:
    """An id source that returns 1, 2, 3 and so on."""

    count: int = 0

    def new(self) -> UUID:
        """The next id."""
        self.count += 1
        return UUID(int=self.count)


def not_given(fixture: str) -> NoReturn:
    """Fail because the class under test lacks a required fixture."""
    pytest.fail(
        f"fixture `{fixture}`: expected one in the class that claims this level; define it",
        pytrace=False,
    )


class Fixtures:
    """The fixtures that connect a ledger to the contracts.

    A subclass gives `new_unit_of_work` and `totals`. It may override `new_billing`, for instance
    with an `AsyncBilling` made `blocking`, and then also `new_attempts` and `reached`.
    """

    @pytest.fixture
    def new_unit_of_work(self) -> NewUnitOfWork:
        """A function that empties the ledger and opens a unit of work. The system tenant stays."""
        not_given("new_unit_of_work")

    @pytest.fixture
    def totals(self) -> Totals:
        """A function that sums each account's postings, below the adapter."""
        not_given("totals")

    @pytest.fixture
    def unit_of_work(self, new_unit_of_work: NewUnitOfWork) -> UnitOfWork:
        """The unit of work of this test."""
        return new_unit_of_work()

    @pytest.fixture
    def new_billing(self, unit_of_work: UnitOfWork) -> NewBilling:
        """A function that makes a `Billing` over the ledger, with the given options."""
        return partial(Billing, unit_of_work)

    @pytest.fixture
    def new_attempts(self, unit_of_work: UnitOfWork) -> NewAttempts:
        """A function that makes `PaymentAttempts` over the ledger, with the given options."""
        return partial(PaymentAttempts, unit_of_work)

    @pytest.fixture
    def reached(self, unit_of_work: UnitOfWork, monkeypatch: pytest.MonkeyPatch) -> Reached:
        """A function that counts the calls on the ledger so far."""
        return reaching(type(unit_of_work), monkeypatch)


class Contract:
    """Base of every contract. A contract has the promises of one subject, as tests.

    A subclass, or the class around it, has the fixtures of `Fixtures`.
    """

    @pytest.fixture
    def clock(self) -> SteppingClock:
        return SteppingClock()

    @pytest.fixture
    def billing(self, new_billing: NewBilling, clock: SteppingClock) -> Billing:
        return new_billing(clock=clock, ids=CountingIds())


def purchase_totals(customer: TenantId, credited: int, shared: int) -> dict[AccountId, Decimal]:
    """The totals of the accounts after one purchase."""
    return {
        AccountId(customer): Decimal(credited),
        SYSTEM_ACCOUNT_ID: Decimal(shared),
        ISSUANCE: Decimal(-credited - shared),
    }


_DOORS = (
    *("scope", "post", "single", "run", "run_service"),
    *("post_async", "single_async", "run_async", "run_service_async"),
)


def reaching(kind: type, monkeypatch: pytest.MonkeyPatch) -> Reached:
    """Count the scopes that are opened on units of work of this type."""
    reached: list[str] = []

    def counted(name: str) -> None:
        door = getattr(kind, name)

        @wraps(door)
        def call(*arguments: object) -> object:
            reached.append(name)
            return door(*arguments)

        monkeypatch.setattr(kind, name, call)

    for name in _DOORS:
        if hasattr(kind, name):
            counted(name)
    return lambda: len(reached)
