"""A sweep continues when one item fails, and raises the most severe error at the end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from itertools import permutations
from typing import Any, Final
from uuid import UUID

import pytest

from cogni_billing import (
    SYSTEM_TENANT_ID,
    AttemptState,
    Billing,
    BillingError,
    LedgerCorruption,
    LedgerUnavailable,
    OutcomeUnknown,
    PaymentAttempts,
    TenantId,
    VerifierFailed,
    credits,
    usd,
)
from cogni_billing.adapters.memory import InMemoryUnitOfWork
from cogni_billing.application.sweeping import Sweep
from cogni_billing.ports.books import DUE_MAX
from cogni_billing.ports.scope import ServiceScope
from cogni_billing.testing import ALICE, BOB, NOON, FakeVerifier, MovableClock, paid
from cogni_billing.testing.contracts.attempt_base import CARD

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


NONE: Any = "no finding"


class Failing(InMemoryUnitOfWork):
    """Refuses each single call for these tenants, and counts the calls for each tenant."""

    def __init__(self) -> None:
        super().__init__()
        self.failing: set[TenantId] = set()
        self.called: Counter[TenantId] = Counter()

    def single(self, tenant: TenantId, work: Callable[[Any], Any], /) -> Any:
        self.called[tenant] += 1
        if tenant in self.failing:
            raise LedgerUnavailable("a lock was not free in time")
        return super().single(tenant, work)


def test_sweep_reaches_items_behind_a_full_page_of_failing_items() -> None:
    ledger, clock = Failing(), MovableClock()
    billing = Billing(ledger, clock=clock)
    tenants = [TenantId(UUID(int=number)) for number in range(1, DUE_MAX + 2)]
    for number, tenant in enumerate(tenants):
        ends = NOON + timedelta(hours=1, seconds=number)
        billing.grant(tenant, credits(5), source="promo:a", reference="r", expires_at=ends)
    clock.move(timedelta(hours=2))
    ledger.failing = set(tenants[:-1])
    ledger.called.clear()

    with pytest.raises(LedgerUnavailable):
        billing.sweep()

    assert ledger.called == Counter(tenants)
    assert billing.balance(tenants[-1]).posted == credits(0)


def test_sweep_of_attempts_reaches_items_behind_a_full_page_of_failing_items() -> None:
    verifier, clock = FakeVerifier(), MovableClock()
    attempts = PaymentAttempts(
        InMemoryUnitOfWork(), verifier=verifier, destinations=CARD, clock=clock
    )
    intent = attempts.create_intent(ALICE, usd("2.00"))
    for number in range(DUE_MAX + 1):
        intent = attempts.create_intent(ALICE, usd("2.00"))
        attempts.submit(ALICE, intent.attempt_id, f"stripe:{number}")
        clock.move(timedelta(microseconds=1))
        verifier.tell(f"stripe:{number}", NONE if number < DUE_MAX else paid)
    clock.move(timedelta(minutes=1))
    verifier.asked.clear()

    with pytest.raises(VerifierFailed):
        attempts.sweep()

    assert Counter(verifier.asked) == Counter(f"stripe:{n}" for n in range(DUE_MAX + 1))
    assert attempts.status(ALICE, intent.attempt_id).state is AttemptState.CREDITED


def test_due_items_come_a_thousand_at_once() -> None:
    ledger, clock = InMemoryUnitOfWork(), MovableClock()
    attempts = PaymentAttempts(ledger, verifier=FakeVerifier(), destinations=CARD, clock=clock)
    billing, every = Billing(ledger, clock=clock), timedelta(seconds=10)
    late = NOON + timedelta(hours=1)
    for number in range(DUE_MAX + 1):
        tenant = TenantId(UUID(int=number + 1))
        billing.grant(tenant, credits(5), source="promo:a", reference="r", expires_at=late)
        attempts.create_intent(tenant, usd("2.00"))

    def sizes(scope: ServiceScope) -> list[int]:
        wallets, due = scope.books.due(late, None), scope.books.due_attempts(late, every, None)
        return [
            *(len(wallets), len(scope.books.due(late, wallets[-1]))),
            *(len(due), len(scope.books.due_attempts(late, every, due[-1]))),
        ]

    assert ledger.run_service(SYSTEM_TENANT_ID, sizes) == [DUE_MAX, 1] * 2


def test_outcome_without_errors_is_the_number_done() -> None:
    assert Sweep(done=3).outcome() == 3
