"""What the tests of the kit share: two tenants, a clock, ids, and the fixtures of a `Billing`."""

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
"""Empties the ledger, and makes a unit of work over it."""
NewBilling = Callable[..., Billing]
"""Makes a `Billing` over the ledger, with the options that are given."""
NewAttempts = Callable[..., PaymentAttempts]
"""Makes `PaymentAttempts` over the ledger, with the options that are given."""
Totals = Callable[[], dict[AccountId, Decimal]]
"""Reads what each account's postings sum to, below the adapter: it cannot vouch for itself."""
Reached = Callable[[], int]
"""Tells how often the ledger was reached so far."""


@define
class MovableClock:
    """Stands still until it is moved."""

    moment: datetime = NOON

    def now(self) -> datetime:
        """Where it stands."""
        return self.moment

    def move(self, by: timedelta) -> datetime:
        """Where it stands then; backwards where *by* is negative."""
        self.moment += by
        return self.moment


@define
class SteppingClock:
    """Each look at it is a second later than the one before."""

    moment: datetime = NOON

    def now(self) -> datetime:
        """A second later."""
        self.moment += timedelta(seconds=1)
        return self.moment


@define
class CountingIds:
    """The ids 1, 2, 3 and so on."""

    count: int = 0

    def new(self) -> UUID:
        """The next one."""
        self.count += 1
        return UUID(int=self.count)


def not_given(fixture: str) -> NoReturn:
    """Fail, because the class under test must have that fixture and has not."""
    pytest.fail(f"the class that claims this must give the fixture `{fixture}`", pytrace=False)


class Fixtures:
    """What a ledger gives to be tried.

    A subclass gives `new_unit_of_work` and `totals`. It may give `new_billing`, for instance an
    `AsyncBilling` that is made `blocking`; and `new_attempts` and `reached` with it.
    """

    @pytest.fixture
    def new_unit_of_work(self) -> NewUnitOfWork:
        """Empties the ledger, all but the system tenant, and makes a unit of work over it."""
        not_given("new_unit_of_work")

    @pytest.fixture
    def totals(self) -> Totals:
        """Reads what each account's postings sum to, below the adapter."""
        not_given("totals")

    @pytest.fixture
    def unit_of_work(self, new_unit_of_work: NewUnitOfWork) -> UnitOfWork:
        """The one that this test works with."""
        return new_unit_of_work()

    @pytest.fixture
    def new_billing(self, unit_of_work: UnitOfWork) -> NewBilling:
        """Makes a `Billing` over the ledger, with the options that a test gives."""
        return partial(Billing, unit_of_work)

    @pytest.fixture
    def new_attempts(self, unit_of_work: UnitOfWork) -> NewAttempts:
        """Makes `PaymentAttempts` over the ledger, with the options that a test gives."""
        return partial(PaymentAttempts, unit_of_work)

    @pytest.fixture
    def reached(self, unit_of_work: UnitOfWork, monkeypatch: pytest.MonkeyPatch) -> Reached:
        """Tells how often the ledger was reached so far."""
        return reaching(type(unit_of_work), monkeypatch)


class Contract:
    """Base of every contract: promises of one subject, as tests.

    A subclass, or a class around it, has the fixtures of `Fixtures`.
    """

    @pytest.fixture
    def clock(self) -> SteppingClock:
        return SteppingClock()

    @pytest.fixture
    def billing(self, new_billing: NewBilling, clock: SteppingClock) -> Billing:
        return new_billing(clock=clock, ids=CountingIds())


def purchase_totals(customer: TenantId, credited: int, shared: int) -> dict[AccountId, Decimal]:
    """What one purchase leaves on each account."""
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
    """Counts how often scopes are asked of units of work of that kind."""
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
