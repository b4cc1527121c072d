"""A sweep goes on where one wallet cannot be settled, and tells the worst of what kept it."""

from __future__ import annotations

from itertools import permutations
from typing import Final
from uuid import UUID

import pytest

from cogni_billing import (
    BillingError,
    LedgerCorruption,
    LedgerUnavailable,
    OutcomeUnknown,
    TenantId,
)
from cogni_billing.sweeping import Sweep
from cogni_billing.testing import ALICE, BOB

WORST_FIRST: Final = (
    LedgerCorruption("the id of expiry x is taken"),
    OutcomeUnknown("the answer to COMMIT was lost"),
    LedgerUnavailable("a lock was not free in time"),
)


def kept(sweep: Sweep[TenantId], tenant: TenantId, error: BillingError) -> None:
    with sweep.settling(tenant):
        raise error


@pytest.mark.parametrize("errors", [*permutations(WORST_FIRST)])
def test_of_what_kept_wallets_from_being_settled_the_worst_is_raised(
    errors: tuple[BillingError, ...],
) -> None:
    sweep = Sweep[TenantId]()
    for number, error in enumerate(errors, start=1):
        kept(sweep, TenantId(UUID(int=number)), error)

    with pytest.raises(LedgerCorruption):
        sweep.outcome()


def test_what_may_have_happened_is_told_before_what_has_not() -> None:
    sweep = Sweep[TenantId]()
    for tenant, error in zip((ALICE, BOB), reversed(WORST_FIRST), strict=False):
        kept(sweep, tenant, error)

    with pytest.raises(OutcomeUnknown):
        sweep.outcome()


def test_nobody_is_tried_twice() -> None:
    sweep = Sweep[TenantId]()
    kept(sweep, ALICE, LedgerUnavailable("a lock was not free in time"))

    assert sweep.still((ALICE, BOB)) == [BOB]


def test_a_sweep_that_nothing_kept_says_how_many_wallets_it_settled() -> None:
    assert Sweep(settled=3).outcome() == 3
