"""Each call of `Billing` opens the narrowest kind of scope."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

from cogni_billing import (
    AsyncBilling,
    Billing,
    BillingError,
    GrantSchedule,
    InvalidAmount,
    InvalidPolicy,
    LedgerUnavailable,
    OthersRefused,
    PaymentAttempts,
    TenantId,
    UnknownGrant,
    UnknownHold,
    UnknownSchedule,
    credits,
    usd,
)
from cogni_billing.adapters.memory import InMemoryUnitOfWork
from cogni_billing.adapters.memory.ledger import MemoryLedger
from cogni_billing.testing import ALICE, NOON, FakeVerifier, MovableClock, paid
from cogni_billing.testing.contracts.attempt_base import CARD
from cogni_billing.testing.contracts.purchases import policy

HOUR = timedelta(hours=1)
PLAN = GrantSchedule("plan", credits(5), every="month")
DOORS = ("post", "single", "run", "run_service")
LATE = policy("0.5", since=NOON + timedelta(days=1))
PAID: dict[str, Any] = {"tenant": ALICE, "amount": usd("0.10"), "payment": "stripe:pi_1"}
UNPAID: dict[str, Any] = PAID | {"payment": "stripe:pi_2"}
WRONG: dict[str, Any] = PAID | {"amount": usd(0)}
SPENT: dict[str, Any] = {"tenant": ALICE, "amount": credits(5), "reference": "r"}


class Counted(InMemoryUnitOfWork):
    """Records the methods that are called from outside."""

    def __init__(self) -> None:
        super().__init__()
        self.opened: list[str] = []
        self._depth = 0

    @contextmanager
    def noting(self, name: str) -> Iterator[None]:
        if self._depth == 0:
            self.opened.append(name)
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1


def _counted(name: str) -> None:
    door = getattr(InMemoryUnitOfWork, name)

    def call(self: Counted, *given: Any) -> Any:
        with self.noting(name):
            return door(self, *given)

    async def awaited(self: Counted, *given: Any) -> Any:
        with self.noting(name):
            return await door(self, *given)

    setattr(Counted, name, awaited if name.endswith("_async") else call)


for door in DOORS:
    _counted(door)
    _counted(f"{door}_async")


def calls() -> list[tuple[Callable[[Any], Any], str]]:
    return [
        (lambda b: b.confirm_purchase(ALICE, usd("0.10"), payment="stripe:pi_2"), "post"),
        (lambda b: b.charge(ALICE, credits(5), reference="r"), "post"),
        (lambda b: b.grant(ALICE, credits(5), source="promo:a", reference="r"), "post"),
        (lambda b: b.capture(ALICE, ALICE, credits(5), reference="r"), "post"),
        (lambda b: b.open_account(ALICE), "single"),
        (lambda b: b.hold(ALICE, credits(5), reference="r"), "single"),
        (lambda b: b.release(ALICE, ALICE), "single"),
        (lambda b: b.release(ALICE, ALICE, credits(5), reference="r"), "single"),
        (lambda b: b.extend(ALICE, ALICE, credits(5), reference="r"), "single"),
        (lambda b: b.find_hold(ALICE, "r"), "single"),
        (lambda b: b.holds(ALICE), "single"),
        (lambda b: b.grants(ALICE), "single"),
        (lambda b: b.void_grant(ALICE, ALICE, reference="r"), "single"),
        (lambda b: b.extend_grant(ALICE, ALICE, reference="r", expires_in=HOUR), "single"),
        (lambda b: b.schedule_grants(ALICE, PLAN, reference="r"), "single"),
        (lambda b: b.end_schedule(ALICE, ALICE), "single"),
        (lambda b: b.schedules(ALICE), "single"),
        (lambda b: b.balance(ALICE), "single"),
        (lambda b: b.balance(ALICE, at=NOON), "single"),
        (lambda b: b.statement(ALICE), "single"),
        (lambda b: b.find(ALICE, reference="r", kind="charge"), "single"),
        (lambda b: b.transaction(ALICE, ALICE), "single"),
        (lambda b: b.charge_many([SPENT]), "single"),
        (lambda b: b.confirm_purchases([UNPAID, PAID], all_or_nothing=True), "single"),
        (lambda b: b.refund(ALICE, payment="stripe:pi_1", reference="r"), "run_service"),
        (lambda b: b.open_dispute(ALICE, payment="stripe:pi_1", reference="r"), "run_service"),
        (lambda b: b.adjust(ALICE, credits(5), reason="r", reference="r"), "run_service"),
        (lambda b: b.opening(TenantId(UUID(int=5)), as_of=NOON), "run_service"),
        (lambda b: b.freeze(ALICE, "r"), "run_service"),
        (lambda b: b.unfreeze(ALICE), "run_service"),
        (lambda b: b.set_overdraft_limit(ALICE, None), "run_service"),
        (lambda b: b.verify(), "run_service"),
        (lambda b: b.seal(key=b"k" * 32), "run_service"),
        (lambda b: b.verify_seals((), key=b"k" * 32), "run_service"),
    ]


@pytest.fixture
def unit_of_work() -> Counted:
    """Alice has paid ten cents."""
    unit_of_work = Counted()
    Billing(unit_of_work, clock=MovableClock()).confirm_purchase(**PAID)
    unit_of_work.opened.clear()
    return unit_of_work


@pytest.mark.parametrize(("call", "door"), calls())
def test_a_call_opens_one_door(
    unit_of_work: Counted, call: Callable[[Any], Any], door: str
) -> None:
    with suppress(UnknownHold, UnknownGrant, UnknownSchedule):
        call(Billing(unit_of_work))

    assert unit_of_work.opened == [door]


@pytest.mark.parametrize(("call", "door"), calls())
def test_an_awaited_call_opens_the_same_door(
    unit_of_work: Counted, call: Callable[[Any], Any], door: str
) -> None:
    async def awaited() -> None:
        await call(AsyncBilling(unit_of_work))

    with suppress(UnknownHold, UnknownGrant, UnknownSchedule):
        asyncio.run(awaited())

    assert unit_of_work.opened == [f"{door}_async"]


def test_a_sweep_expires_each_wallet_in_a_single_call(unit_of_work: Counted) -> None:
    clock = MovableClock()
    billing = Billing(unit_of_work, clock=clock)
    ends = NOON + timedelta(hours=1)
    billing.grant(ALICE, credits(5), source="promo:a", reference="r", expires_at=ends)
    clock.move(timedelta(hours=2))
    unit_of_work.opened.clear()

    assert billing.sweep() == 1

    assert unit_of_work.opened == ["run_service", "single", "run_service"]


class TestWithoutAPolicy:
    """While no policy is in force, the ledger is asked for a replay."""

    @pytest.fixture
    def late(self, unit_of_work: Counted) -> Billing:
        return Billing(unit_of_work, policy=LATE, clock=MovableClock())

    def test_a_replay_is_one_call(self, unit_of_work: Counted, late: Billing) -> None:
        assert late.confirm_purchase(**PAID).replayed

        assert unit_of_work.opened == ["single"]

    def test_another_payment_is_refused_in_one_call(
        self, unit_of_work: Counted, late: Billing
    ) -> None:
        with pytest.raises(InvalidPolicy):
            late.confirm_purchase(**UNPAID)

        assert unit_of_work.opened == ["single"]

    def test_a_batch_makes_several_calls(self, unit_of_work: Counted, late: Billing) -> None:
        replay, refused = late.confirm_purchases([PAID, UNPAID])

        assert replay.receipt is not None
        assert replay.receipt.replayed
        assert isinstance(refused.error, InvalidPolicy)
        assert unit_of_work.opened == ["run"]

    def test_a_batch_of_all_or_nothing_refuses_the_replay_too(self, late: Billing) -> None:
        outcomes = late.confirm_purchases([PAID, UNPAID], all_or_nothing=True)

        assert errors(outcomes) == [OthersRefused, InvalidPolicy]

    def test_a_ledger_that_fails_refuses_the_whole_batch(
        self, late: Billing, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def unavailable(*_: object) -> None:
            raise LedgerUnavailable("down")

        monkeypatch.setattr(MemoryLedger, "replay", unavailable)

        assert errors(late.confirm_purchases([PAID, UNPAID])) == [LedgerUnavailable] * 2

    def test_an_attempt_is_not_credited(self, unit_of_work: Counted) -> None:
        verifier = FakeVerifier()
        verifier.tell("stripe:pi_9", paid)
        attempts = PaymentAttempts(
            unit_of_work,
            verifier=verifier,
            destinations=CARD,
            policy=LATE,
            clock=MovableClock(),
        )
        intent = attempts.create_intent(ALICE, usd("2.00"))

        with pytest.raises(InvalidPolicy):
            attempts.submit(ALICE, intent.attempt_id, "stripe:pi_9")


def errors(outcomes: Any) -> list[type[BillingError]]:
    return [type(outcome.error) for outcome in outcomes]


class TestRefusedPlans:
    """The plans of a batch can decide its outcomes without the ledger."""

    def test_a_tenant_whose_requests_are_all_invalid_opens_no_scope(
        self, unit_of_work: Counted
    ) -> None:
        outcomes = Billing(unit_of_work).confirm_purchases([WRONG, WRONG])

        assert errors(outcomes) == [InvalidAmount] * 2
        assert unit_of_work.opened == []

    def test_all_or_nothing_with_an_invalid_request_opens_no_scope(
        self, unit_of_work: Counted
    ) -> None:
        outcomes = Billing(unit_of_work).confirm_purchases([UNPAID, WRONG], all_or_nothing=True)

        assert errors(outcomes) == [OthersRefused, InvalidAmount]
        assert unit_of_work.opened == []

    def test_an_invalid_request_beside_a_valid_one_needs_one_call(
        self, unit_of_work: Counted
    ) -> None:
        done, refused = Billing(unit_of_work).confirm_purchases([UNPAID, WRONG])

        assert done.receipt is not None
        assert isinstance(refused.error, InvalidAmount)
        assert unit_of_work.opened == ["single"]
