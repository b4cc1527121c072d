"""A sweep continues when one item fails, and raises the most severe error at the end."""

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
from cogni_billing.application.sweeping import Sweep
from cogni_billing.testing import ALICE, BOB

MOST_SEVERE_FIRST: Final = (
    LedgerCorruption("the id of expiry x is taken"),
    OutcomeUnknown("the answer to COMMIT was lost"),
    LedgerUnavailable("a lock was not free in time"),
)


def fail(sweep: Sweep[TenantId], tenant: TenantId, error: BillingError) -> None:
    with sweep.trying(tenant):
        raise error


@pytest.mark.parametrize("errors", [*permutations(MOST_SEVERE_FIRST)])
def test_outcome_of_several_errors_raises_the_most_severe(
    errors: tuple[BillingError, ...],
) -> None:
    sweep = Sweep[TenantId]()
    for number, error in enumerate(errors, start=1):
        fail(sweep, TenantId(UUID(int=number)), error)

    with pytest.raises(LedgerCorruption):
        sweep.outcome()


def test_outcome_unknown_is_more_severe_than_unavailable() -> None:
    sweep = Sweep[TenantId]()
    for tenant, error in zip((ALICE, BOB), reversed(MOST_SEVERE_FIRST), strict=False):
        fail(sweep, tenant, error)

    with pytest.raises(OutcomeUnknown):
        sweep.outcome()


def test_untried_leaves_out_an_item_that_failed() -> None:
    sweep = Sweep[TenantId]()
    fail(sweep, ALICE, LedgerUnavailable("a lock was not free in time"))

    assert sweep.untried((ALICE, BOB)) == [BOB]


def test_outcome_without_errors_is_the_number_done() -> None:
    assert Sweep(done=3).outcome() == 3
