"""Violations of the law of schedules are found and described."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from attrs import evolve

from cogni_billing import Billing, GrantSchedule, Invariant, Rollover, credits
from cogni_billing.adapters.memory import InMemoryUnitOfWork
from cogni_billing.adapters.memory.store import Store
from cogni_billing.domain.kinds import TransactionKind
from cogni_billing.testing import ALICE, CountingIds, MovableClock

START = datetime(2026, 1, 31, 12, tzinfo=UTC)
MARCH = datetime(2026, 3, 31, 12, tzinfo=UTC)
PLAN, ONCE, WAITING = (UUID(int=number) for number in (1, 2, 3))
SECOND = timedelta(seconds=1)
WHERE = f"schedules_are_kept: tenant {ALICE}, schedule"


def change_schedule(schedule_id: UUID, **fields: Any) -> Callable[[Store], None]:
    def change(store: Store) -> None:
        wallet = store.wallets[ALICE]
        changed = evolve(wallet.schedules[schedule_id], **fields)
        store.wallets[ALICE] = wallet.with_schedule(changed)

    return change


def change_grant(reference: str, *, at: datetime | None = None, **terms: Any) -> Any:
    def change(store: Store) -> None:
        key = (ALICE, TransactionKind.GRANT, reference)
        made = store.recorded[key].transaction
        assert made.terms is not None
        changed = evolve(made, at=at or made.at, terms=evolve(made.terms, **terms))
        store.recorded[key] = evolve(store.recorded[key], transaction=changed)

    return change


def change_amount(store: Store) -> None:
    key = (ALICE, TransactionKind.GRANT, f"{PLAN} 1")
    made = evolve(store.recorded[key].transaction, amount=credits(69))
    store.recorded[key] = evolve(store.recorded[key], transaction=made)


def change_key(old: str, new: str) -> Callable[[Store], None]:
    def change(store: Store) -> None:
        recorded = store.recorded.pop((ALICE, TransactionKind.GRANT, old))
        key = (ALICE, TransactionKind.GRANT, new)
        store.recorded[key] = evolve(
            recorded, transaction=evolve(recorded.transaction, reference=new)
        )
        store.ids[ALICE, recorded.transaction.id] = key

    return change


@pytest.fixture
def unit_of_work() -> InMemoryUnitOfWork:
    """A plan that has begun twice, a grant that has begun later, and one that waits."""
    unit_of_work, clock = InMemoryUnitOfWork(), MovableClock(START)
    billing = Billing(unit_of_work, clock=clock, ids=CountingIds())
    plan = GrantSchedule("plan", credits(100), every="month", rollover=Rollover(credits(30)))
    billing.schedule_grants(ALICE, plan, reference="plan")
    for reference, begins in (("a", START + SECOND), ("b", MARCH)):
        billing.grant(
            ALICE, credits(5), source="a", reference=reference, effective_from=begins, priority=1
        )
    clock.moment = START + timedelta(days=30)
    billing.sweep()
    assert billing.verify().violations == ()
    return unit_of_work


@pytest.mark.parametrize(
    ("broken", "found"),
    [
        (
            change_schedule(PLAN, number=3),
            [
                f"{WHERE} {PLAN}: no grant {PLAN} 2",
                f"{WHERE} {PLAN}: no grant {PLAN} 2 carried",
                f"{WHERE} {PLAN}: the next period begins at 2026-03-31 12:00:00+00:00"
                " instead of 2026-04-30 12:00:00+00:00",
            ],
        ),
        (
            change_schedule(PLAN, first_number=1),
            [
                f"{WHERE} {PLAN}: an extra grant {PLAN} 0",
                f"{WHERE} {PLAN}: an extra grant {PLAN} 0 carried",
            ],
        ),
        (
            change_schedule(PLAN, next_at=None),
            [
                f"{WHERE} {PLAN}: the next period begins at None"
                " instead of 2026-03-31 12:00:00+00:00"
            ],
        ),
        (
            change_schedule(PLAN, ended_at=MARCH),
            [
                f"{WHERE} {PLAN}: the next period begins at 2026-03-31 12:00:00+00:00"
                " instead of None"
            ],
        ),
        (
            change_key(f"{PLAN} 1", f"{PLAN} 7"),
            [
                f"{WHERE} {PLAN}: no grant {PLAN} 1",
                f"{WHERE} {PLAN}: an extra grant {PLAN} 7",
            ],
        ),
        (change_amount, [f"{WHERE} {PLAN}: another grant {PLAN} 1 than planned"]),
        *(
            (change, [f"{WHERE} {PLAN}: another grant {PLAN} 1 carried than planned"])
            for change in (
                change_grant(f"{PLAN} 1 carried", priority=99),
                change_grant(f"{PLAN} 1 carried", source="plan:b"),
                change_grant(f"{PLAN} 1 carried", expires_at=MARCH),
                change_grant(f"{PLAN} 1 carried", at=MARCH),
            )
        ),
        (
            change_grant(f"{PLAN} 0", at=START - SECOND),
            [f"{WHERE} {PLAN}: another grant {PLAN} 0 than planned"],
        ),
        (change_grant("a", priority=2), [f"{WHERE} {ONCE}: another grant a than planned"]),
        (change_grant("a", at=START), [f"{WHERE} {ONCE}: another grant a than planned"]),
        (
            change_schedule(WAITING, number=1, next_at=None),
            [f"{WHERE} {WAITING}: no grant b"],
        ),
        (
            change_schedule(ONCE, number=0, next_at=START + SECOND),
            [f"{WHERE} {ONCE}: an extra grant a"],
        ),
    ],
)
def test_a_broken_schedule_is_located_and_described(
    unit_of_work: InMemoryUnitOfWork, broken: Callable[[Store], None], found: list[str]
) -> None:
    broken(unit_of_work._store)

    violations = Billing(unit_of_work).verify().violations
    kept = [each for each in violations if each.invariant is Invariant.SCHEDULES_ARE_KEPT]
    assert [str(violation) for violation in kept] == found


def test_the_first_period_may_have_begun_before_its_grant(
    unit_of_work: InMemoryUnitOfWork,
) -> None:
    change_grant(f"{PLAN} 0", at=START + SECOND)(unit_of_work._store)

    assert Billing(unit_of_work).verify().violations == ()


def test_an_erased_source_is_no_violation(unit_of_work: InMemoryUnitOfWork) -> None:
    clock = MovableClock(MARCH)
    billing = Billing(unit_of_work, clock=clock)
    billing.forget(ALICE)
    billing.sweep()

    assert billing.verify().violations == ()
