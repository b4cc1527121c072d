"""Group commit: a grouped unit of work passes the contracts, and shares calls under load."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import count
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from cogni_billing import (
    AsyncBilling,
    Billing,
    IdempotencyConflict,
    InsufficientCredits,
    InvalidInput,
    LedgerUnavailable,
    TenantId,
    credits,
    usd,
)
from cogni_billing.adapters.postgres import (
    AsyncPostgresUnitOfWork,
    GroupCommit,
    PostgresUnitOfWork,
    reset,
)
from cogni_billing.adapters.postgres.grouping import AsyncLanes, Batch, Lanes
from cogni_billing.domain.errors import BillingError
from cogni_billing.domain.transactions import Transaction
from cogni_billing.testing import (
    BreakingOffContract,
    BreakOff,
    DurableConformance,
    IsolatedConformance,
    NewBilling,
    NewUnitOfWork,
    Totals,
    blocking,
)
from cogni_billing.testing.base import ALICE, BOB, CountingIds, Fixtures, SteppingClock
from cogni_billing.testing.racing import at_once
from stack.conftest import Database
from stack.support.breaking import WAYS

OPTIONS = GroupCommit(lanes=2, max_batch=8)
CALLERS = 24
ROUNDS_MAX = 200


class Grouped(Fixtures):
    @pytest.fixture
    def new_unit_of_work(self, shared: Database) -> NewUnitOfWork:
        def new() -> PostgresUnitOfWork:
            reset(shared.migrator)
            return PostgresUnitOfWork(shared.user, service=shared.service, group_commit=OPTIONS)

        return new

    @pytest.fixture
    def totals(self, shared: Database) -> Totals:
        return shared.totals


class TestGroupedPostgres(Grouped, DurableConformance):
    class TestModel:
        """Covered without grouping: it makes one call after another."""

    class TestFinding:
        """Covered without grouping: it is about the service role."""

    class TestRestart:
        """Covered without grouping, and below under load."""

    class TestSpending:
        """Covered without grouping."""

    @pytest.fixture(params=WAYS)
    def break_off(self, request: pytest.FixtureRequest, shared: Database) -> BreakOff:
        return partial(WAYS[request.param], shared, group_commit=OPTIONS)

    @pytest.mark.exhaustive
    class TestBreakingOff(BreakingOffContract):
        pass


class TestAwaitedGroupedPostgres(Grouped):
    """The contracts of the calls that are grouped. Others are covered without grouping."""

    TestBatchRaces = IsolatedConformance.TestBatchRaces
    TestChargeRaces = IsolatedConformance.TestChargeRaces
    TestCharges = IsolatedConformance.TestCharges
    TestGrantRaces = IsolatedConformance.TestGrantRaces
    TestGrants = IsolatedConformance.TestGrants
    TestHoldRaces = IsolatedConformance.TestHoldRaces
    TestHolds = IsolatedConformance.TestHolds
    TestKnownFaults = IsolatedConformance.TestKnownFaults
    TestPurchaseRaces = IsolatedConformance.TestPurchaseRaces
    TestPurchases = IsolatedConformance.TestPurchases
    TestRefusedCalls = IsolatedConformance.TestRefusedCalls
    TestSingleCalls = IsolatedConformance.TestSingleCalls

    @pytest.fixture
    def new_billing(
        self,
        unit_of_work: PostgresUnitOfWork,
        awaited: Callable[[str], AsyncEngine],
        loop: asyncio.AbstractEventLoop,
    ) -> NewBilling:
        ours = AsyncPostgresUnitOfWork(
            awaited("app_user"), service=awaited("app_service"), group_commit=OPTIONS
        )
        return lambda **options: blocking(AsyncBilling(ours, **options), loop)


@pytest.fixture
def unit_of_work(database: Database) -> PostgresUnitOfWork:
    return PostgresUnitOfWork(database.user, service=database.service, group_commit=OPTIONS)


@pytest.fixture
def billing(unit_of_work: PostgresUnitOfWork) -> Billing:
    return Billing(unit_of_work)


@contextmanager
def batches(unit_of_work: PostgresUnitOfWork) -> Iterator[list[Sequence[Transaction]]]:
    """Record the transactions of each call that the lanes send."""
    sent: list[Sequence[Transaction]] = []
    lanes = unit_of_work._lanes
    assert lanes is not None
    send = lanes._send

    def noting(transactions: Sequence[Transaction]) -> list[Any]:
        sent.append(transactions)
        return send(transactions)

    lanes._send = noting
    yield sent


def charged_at_once(billing: Billing, tenants: Sequence[TenantId], prefix: str) -> list[object]:
    """Charge 100 for each caller, all at the same time. Returns the outcomes."""

    def charge(number: int, tenant: TenantId) -> object:
        try:
            return billing.charge(tenant, credits(100), reference=f"{prefix}-{number}")
        except BillingError as error:
            return error

    return at_once([partial(charge, *each) for each in enumerate(tenants)])


@pytest.mark.parametrize(
    ("option", "given"),
    [("lanes", 0), ("lanes", 65), ("lanes", True), ("max_batch", 0), ("max_batch", 1001)],
)
def test_group_commit_with_an_option_out_of_range_is_refused(option: str, given: object) -> None:
    with pytest.raises(InvalidInput, match=option):
        GroupCommit(**{option: given})  # type: ignore[arg-type]


def test_group_commit_that_is_something_else_is_refused(database: Database) -> None:
    with pytest.raises(InvalidInput, match="group_commit"):
        PostgresUnitOfWork(database.user, group_commit=64)  # type: ignore[arg-type]


def test_callers_at_once_share_calls_and_each_gets_its_own_answer(
    unit_of_work: PostgresUnitOfWork, billing: Billing
) -> None:
    tenants = [TenantId(UUID(int=1000 + number)) for number in range(CALLERS)]
    for number, tenant in enumerate(tenants):
        if number % 3:
            billing.grant(tenant, credits(10**6), source="test", reference="start")
        else:
            billing.open_account(tenant)

    with batches(unit_of_work) as sent:
        for attempt in range(ROUNDS_MAX):
            outcomes = charged_at_once(billing, tenants, f"r{attempt}")
            for number, outcome in enumerate(outcomes):
                if number % 3:
                    assert not isinstance(outcome, BillingError)
                else:
                    assert isinstance(outcome, InsufficientCredits)
            if max(map(len, sent)) >= 4:
                break

    assert max(map(len, sent)) >= 4
    assert len(sent) < CALLERS * (attempt + 1)
    assert billing.verify().violations == ()


def test_concurrent_charges_take_only_available_credits(
    unit_of_work: PostgresUnitOfWork, billing: Billing
) -> None:
    with batches(unit_of_work) as sent:
        for attempt in range(ROUNDS_MAX):
            billing.grant(ALICE, credits(1000), source="test", reference=f"g{attempt}")
            outcomes = charged_at_once(billing, [ALICE] * CALLERS, f"r{attempt}")
            refused = [each for each in outcomes if isinstance(each, InsufficientCredits)]
            assert len(refused) == CALLERS - 10
            assert billing.balance(ALICE).available == credits(0)
            if max(map(len, sent)) >= 4:
                break

    assert max(map(len, sent)) >= 4
    assert billing.verify().violations == ()


def test_a_batch_that_fails_as_a_whole_is_posted_one_by_one(database: Database) -> None:
    """An id that is used twice aborts the whole call. The other callers must not notice."""
    one_lane = GroupCommit(lanes=1)
    unit_of_work = PostgresUnitOfWork(
        database.user, service=database.service, group_commit=one_lane
    )
    billing = Billing(unit_of_work)
    for tenant in (ALICE, BOB):
        billing.grant(tenant, credits(10**6), source="test", reference="start")
    twice = Billing(unit_of_work, ids=CountingIds())
    twice.charge(ALICE, credits(1), reference="first")

    with batches(unit_of_work) as sent:
        for attempt in range(ROUNDS_MAX):
            broken = Billing(unit_of_work, ids=CountingIds())
            calls: list[Callable[[], object]] = [
                partial(_outcome, broken, ALICE, f"broken-{attempt}"),
                *(partial(_outcome, billing, BOB, f"r{attempt}-{n}") for n in range(CALLERS)),
            ]
            first, *others = at_once(calls)
            assert isinstance(first, BillingError)
            assert first.code == "ledger_corruption"
            assert not [each for each in others if isinstance(each, BillingError)]
            if any(len({each.tenant for each in batch}) == 2 for batch in sent):
                break

    assert any(len({each.tenant for each in batch}) == 2 for batch in sent)
    assert billing.verify().violations == ()


def _outcome(billing: Billing, tenant: TenantId, reference: str) -> object:
    try:
        return billing.charge(tenant, credits(1), reference=reference)
    except BillingError as error:
        return error


def test_a_key_used_twice_in_one_batch_has_one_effect(
    unit_of_work: PostgresUnitOfWork, billing: Billing
) -> None:
    billing.grant(ALICE, credits(10**6), source="test", reference="start")

    with batches(unit_of_work) as sent:
        for attempt in range(ROUNDS_MAX):
            calls = [partial(_outcome, billing, ALICE, f"same-{attempt}") for _ in range(CALLERS)]
            receipts: list[Any] = at_once(calls)
            assert sum(not receipt.replayed for receipt in receipts) == 1
            assert len({receipt.transaction_id for receipt in receipts}) == 1
            if any(len(batch) > 1 for batch in sent):
                break

    assert any(len(batch) > 1 for batch in sent)


def test_purchases_of_a_stolen_payment_at_once_credit_one_tenant(
    unit_of_work: PostgresUnitOfWork, billing: Billing
) -> None:
    tenants = [TenantId(UUID(int=2000 + number)) for number in range(CALLERS)]

    def buy(tenant: TenantId) -> object:
        try:
            return billing.confirm_purchase(tenant, usd("0.01"), payment="stripe:pi_1")
        except BillingError as error:
            return error.code

    outcomes = at_once([partial(buy, tenant) for tenant in tenants])

    assert outcomes.count("payment_already_claimed") == CALLERS - 1
    assert billing.verify().violations == ()


def test_a_conflict_in_a_batch_answers_its_caller_alone(billing: Billing) -> None:
    billing.grant(ALICE, credits(10**6), source="test", reference="start")
    billing.charge(ALICE, credits(5), reference="run-1")

    with pytest.raises(IdempotencyConflict):
        billing.charge(ALICE, credits(6), reference="run-1")

    assert billing.charge(ALICE, credits(5), reference="run-1").replayed


def test_caller_gets_its_answer_only_after_commit(
    database: Database, unit_of_work: PostgresUnitOfWork
) -> None:
    """Another connection sees every charge before its caller gets the answer."""
    billing, reader = Billing(unit_of_work), Billing(PostgresUnitOfWork(database.user))
    billing.grant(ALICE, credits(10**6), source="test", reference="start")

    def charge_and_look(number: int) -> bool:
        receipt = billing.charge(ALICE, credits(1), reference=f"run-{number}")
        return reader.transaction(ALICE, receipt.transaction_id) is not None

    assert all(at_once([partial(charge_and_look, number) for number in range(CALLERS)]))


class Refusing:
    """A function that fails every batch, so that each transaction is posted by itself."""

    def __call__(self, transactions: Sequence[Transaction]) -> list[Any]:
        raise LedgerUnavailable("every batch fails")


def test_lanes_with_a_failed_sender_return_none_to_every_caller() -> None:
    lanes = Lanes(OPTIONS, Refusing())

    answers = at_once([partial(lanes.post, charge_of(n)) for n in range(CALLERS)])

    assert answers == [None] * CALLERS
    assert not any(lane.busy or lane.waiting for lane in lanes._lanes)


def test_lanes_with_an_interrupted_sender_continue_with_the_next_caller() -> None:
    interrupted = count()

    def send(transactions: Sequence[Transaction]) -> list[Any]:
        if next(interrupted) == 0:
            raise KeyboardInterrupt
        return [str(each.id) for each in transactions]

    lanes = Lanes(GroupCommit(lanes=1), send)
    with pytest.raises(KeyboardInterrupt):
        lanes.post(charge_of(0))

    assert lanes.post(charge_of(1)) == str(charge_of(1).id)


def test_lanes_keep_the_order_of_one_tenant() -> None:
    sent: list[UUID] = []
    first_is_out, second_may_go = threading.Event(), threading.Event()

    def send(transactions: Sequence[Transaction]) -> list[Any]:
        sent.extend(each.id for each in transactions)
        if len(sent) == 1:
            first_is_out.set()
            second_may_go.wait()
        return [True] * len(transactions)

    lanes = Lanes(GroupCommit(lanes=2, max_batch=3), send)
    threads = []
    for number in range(8):
        thread = threading.Thread(target=lanes.post, args=(charge_of(number),))
        thread.start()
        threads.append(thread)
        first_is_out.wait()
        while len(lanes._lanes[ALICE.int % 2].waiting) < number:
            pass  # until it waits in its lane
    second_may_go.set()
    for thread in threads:
        thread.join()

    assert sent == [charge_of(number).id for number in range(8)]


def test_awaited_lanes_skip_a_caller_that_was_cancelled() -> None:
    async def run() -> tuple[list[UUID], object]:
        sent: list[UUID] = []
        sending, gate = asyncio.Event(), asyncio.Event()

        async def send(transactions: Sequence[Transaction]) -> list[Any]:
            sent.extend(each.id for each in transactions)
            sending.set()
            await gate.wait()
            return [True] * len(transactions)

        lanes = AsyncLanes(GroupCommit(lanes=1), send)
        first = asyncio.create_task(lanes.post(charge_of(0)))
        await sending.wait()
        second = asyncio.create_task(lanes.post(charge_of(1)))
        third = asyncio.create_task(lanes.post(charge_of(2)))
        await asyncio.sleep(0)
        second.cancel()
        gate.set()
        answers = await asyncio.gather(first, second, third, return_exceptions=True)
        return sent, answers

    sent, answers = asyncio.run(run())

    assert sent == [charge_of(0).id, charge_of(2).id]
    assert isinstance(answers, list)
    assert [type(answer) for answer in answers] == [bool, asyncio.CancelledError, bool]


def test_a_batch_orders_tenants_and_places_answers() -> None:
    later, earlier = TenantId(UUID(int=9)), TenantId(UUID(int=3))
    batch = Batch([charge_of(0, later), charge_of(1, earlier), charge_of(2, later)])

    answers = batch.answers('[[{"outcome":"b"}],[{"outcome":"a"},{"outcome":"more_due"}]]')

    assert answers == [{"outcome": "a"}, {"outcome": "b"}, None]


def charge_of(number: int, tenant: TenantId = ALICE) -> Transaction:
    from cogni_billing.domain.charges import Charge, plan_charge

    return plan_charge(
        Charge(tenant=tenant, amount=credits(1), reference=f"run-{number}"),
        at=SteppingClock().now(),
        transaction_id=UUID(int=number + 1),
    )
