"""The fixtures that an adapter gives, and what the tests share."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial
from uuid import UUID

import pytest
from attrs import define

from cogni_billing import SYSTEM_ACCOUNT_ID, AccountId, Billing, TenantId
from cogni_billing.domain.identity import ISSUANCE
from cogni_billing.ports.scope import UnitOfWork

ALICE = TenantId(UUID("0a11ce00-0000-4000-8000-000000000001"))
BOB = TenantId(UUID("0b0b0000-0000-4000-8000-000000000002"))
NOON = datetime(2026, 11, 23, 12, 0, 0, 123456, tzinfo=UTC)

Totals = Callable[[], dict[AccountId, Decimal]]
NewBilling = Callable[..., Billing]


@define
class SteppingClock:
    """Each look at it is a second later than the one before."""

    moment: datetime = NOON

    def now(self) -> datetime:
        self.moment += timedelta(seconds=1)
        return self.moment


@define
class CountingIds:
    """The ids 1, 2, 3, …"""

    count: int = 0

    def new(self) -> UUID:
        self.count += 1
        return UUID(int=self.count)


class Contract:
    """Base of every contract. A subclass gives the two fixtures that raise here, and may give
    another kind of `Billing`.
    """

    @pytest.fixture
    def unit_of_work(self) -> UnitOfWork:
        """An empty ledger with only the system tenant in it."""
        raise NotImplementedError

    @pytest.fixture
    def totals(self) -> Totals:
        """Reads what each account's postings sum to, below the adapter."""
        raise NotImplementedError

    @pytest.fixture
    def new_billing(self, unit_of_work: UnitOfWork) -> NewBilling:
        """Makes a `Billing` over the ledger, with the options that a test gives."""
        return partial(Billing, unit_of_work)

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
