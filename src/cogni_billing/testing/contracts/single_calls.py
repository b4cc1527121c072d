"""Contract: `UnitOfWork.post` and `UnitOfWork.single`, and their refusals."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from datetime import timedelta
from typing import Any, Final
from uuid import UUID

import pytest

from cogni_billing import (
    AccountId,
    Billing,
    BillingError,
    GrantSchedule,
    Hold,
    HoldClosed,
    IdempotencyConflict,
    InsufficientCredits,
    InvalidTime,
    OthersRefused,
    Overrun,
    PaymentAlreadyClaimed,
    ScopeClosed,
    TransactionKind,
    UnknownAccount,
    UnknownGrant,
    UnknownHold,
    UnknownPayment,
    UnknownSchedule,
    credits,
    usd,
)
from cogni_billing.domain.charges import Charge, plan_charge
from cogni_billing.domain.holds import HoldPageRequest
from cogni_billing.domain.statements import PageRequest
from cogni_billing.domain.transactions import Transaction
from cogni_billing.ports.scope import Scope, UnitOfWork
from cogni_billing.testing.base import (
    ALICE,
    BOB,
    NOON,
    Contract,
    CountingIds,
    MovableClock,
    NewBilling,
    Totals,
    purchase_totals,
)
from cogni_billing.testing.contracts.purchases import planned

HOUR: Final = timedelta(hours=1)
LATER: Final = NOON + 2 * HOUR
NO_ID: Final = UUID(int=2**64)
TOO_MUCH: Final = credits(10**6)
PLAN: Final = GrantSchedule("plan", credits(5), every="month", anchor=NOON + timedelta(days=365))
Call = Callable[[Billing, Hold], object]

REFUSED_BY_THE_WALLET: Final[Mapping[str, tuple[Call, type[BillingError]]]] = {
    "charge": (
        lambda billing, _: billing.charge(ALICE, TOO_MUCH, reference="new"),
        InsufficientCredits,
    ),
    "hold": (
        lambda billing, _: billing.hold(ALICE, TOO_MUCH, reference="new"),
        InsufficientCredits,
    ),
    "hold that has expired": (
        lambda billing, _: billing.hold(ALICE, credits(1), reference="new", expires_at=NOON),
        InvalidTime,
    ),
    "grant that has expired": (
        lambda billing, _: billing.grant(
            ALICE, credits(1), source="promo:b", reference="new", expires_at=NOON
        ),
        InvalidTime,
    ),
    "capture of an unknown hold": (
        lambda billing, _: billing.capture(ALICE, NO_ID, credits(1), reference="new"),
        UnknownHold,
    ),
    "capture of an expired hold": (
        lambda billing, held: billing.capture(ALICE, held.id, credits(1), reference="new"),
        HoldClosed,
    ),
    "capture of a part and more than is free": (
        lambda billing, held: billing.capture(
            ALICE, held.id, TOO_MUCH, reference="new", final=False, overrun=Overrun.AVAILABLE
        ),
        HoldClosed,
    ),
    "extension of an unknown hold": (
        lambda billing, _: billing.extend(ALICE, NO_ID, credits(1), reference="new"),
        UnknownHold,
    ),
    "extension of an expired hold": (
        lambda billing, held: billing.extend(ALICE, held.id, credits(1), reference="new"),
        HoldClosed,
    ),
    "release of a part of an expired hold": (
        lambda billing, held: billing.release(ALICE, held.id, credits(1), reference="new"),
        HoldClosed,
    ),
    "release of an unknown hold": (
        lambda billing, _: billing.release(ALICE, NO_ID),
        UnknownHold,
    ),
    "release of an expired hold": (
        lambda billing, held: billing.release(ALICE, held.id),
        HoldClosed,
    ),
    "void of an unknown grant": (
        lambda billing, _: billing.void_grant(ALICE, NO_ID, reference="new"),
        UnknownGrant,
    ),
    "extension of an unknown grant": (
        lambda billing, _: billing.extend_grant(ALICE, NO_ID, reference="new", expires_in=HOUR),
        UnknownGrant,
    ),
    "end of an unknown schedule": (
        lambda billing, _: billing.end_schedule(ALICE, NO_ID),
        UnknownSchedule,
    ),
    "replacement of an unknown schedule": (
        lambda billing, _: billing.schedule_grants(ALICE, PLAN, reference="new", replaces=NO_ID),
        UnknownSchedule,
    ),
    "payment of another tenant": (
        lambda billing, _: billing.confirm_purchase(ALICE, usd("0.01"), payment="stripe:b"),
        PaymentAlreadyClaimed,
    ),
}
ANSWERED_BY_THE_KEY: Final[Mapping[str, tuple[Call, type[BillingError] | None]]] = {
    "replay of a charge": (
        lambda billing, _: billing.charge(ALICE, credits(3), reference="old"),
        None,
    ),
    "replay of a purchase": (
        lambda billing, _: billing.confirm_purchase(ALICE, usd("0.01"), payment="stripe:a"),
        None,
    ),
    "replay of a batch of one": (
        lambda billing, _: billing.charge_many(
            [{"tenant": ALICE, "amount": credits(3), "reference": "old"}]
        ),
        None,
    ),
    "replay of a grant that waits": (
        lambda billing, _: billing.grant(
            ALICE, credits(5), source="gift", reference="later", effective_from=PLAN.anchor
        ),
        None,
    ),
    "conflict of a grant that waits": (
        lambda billing, _: billing.grant(ALICE, credits(5), source="gift", reference="later"),
        IdempotencyConflict,
    ),
    "conflict of a charge": (
        lambda billing, _: billing.charge(ALICE, credits(4), reference="old"),
        IdempotencyConflict,
    ),
}
RECORDS_NOTHING: Final[Mapping[str, tuple[Call, type[BillingError] | None]]] = {
    "replay of a hold": (
        lambda billing, _: billing.hold(ALICE, credits(9), reference="old", expires_at=NOON + HOUR),
        HoldClosed,
    ),
    "conflict of a hold": (
        lambda billing, _: billing.hold(ALICE, credits(8), reference="old"),
        IdempotencyConflict,
    ),
    "replay of a schedule": (
        lambda billing, _: billing.schedule_grants(ALICE, PLAN, reference="old"),
        None,
    ),
    "conflict of a schedule": (
        lambda billing, _: billing.schedule_grants(ALICE, PLAN, reference="old", replaces=NO_ID),
        IdempotencyConflict,
    ),
    "refund of an unknown payment": (
        lambda billing, _: billing.refund(ALICE, payment="stripe:none", reference="new"),
        UnknownPayment,
    ),
    "balance": (lambda billing, _: billing.balance(ALICE), None),
    "statement": (lambda billing, _: billing.statement(ALICE), None),
    "grants": (lambda billing, _: billing.grants(ALICE), None),
    "schedules": (lambda billing, _: billing.schedules(ALICE), None),
    "find_hold": (lambda billing, _: billing.find_hold(ALICE, "old"), None),
    "holds": (lambda billing, _: billing.holds(ALICE), None),
}


def charge(amount: int, reference: str = "new") -> Transaction:
    """A charge that comes after everything has expired."""
    return plan_charge(
        Charge(tenant=ALICE, amount=credits(amount), reference=reference),
        at=LATER,
        transaction_id=UUID(int=500),
    )


def expiries(billing: Billing) -> list[int]:
    """The recorded expirations of Alice. Those that are due are on her statement as well."""
    lines = billing.statement(ALICE, kind=TransactionKind.EXPIRY).lines
    recorded = [line for line in lines if billing.transaction(ALICE, line.transaction_id)]
    return [int(line.amount.value) for line in recorded]


class RefusedCallContract(Contract):
    """A call that the wallet refuses records the due expirations, and no more."""

    @pytest.fixture
    def moving(self) -> MovableClock:
        return MovableClock()

    @pytest.fixture
    def due(self, new_billing: NewBilling, moving: MovableClock) -> Billing:
        """Alice has 99 997 purchased credits. Her hold and her grant expired an hour ago."""
        billing = new_billing(clock=moving, ids=CountingIds())
        billing.confirm_purchase(ALICE, usd("0.01"), payment="stripe:a")
        billing.confirm_purchase(BOB, usd("0.01"), payment="stripe:b")
        billing.charge(ALICE, credits(3), reference="old")
        self.held = billing.hold(ALICE, credits(9), reference="old", expires_at=NOON + HOUR)
        billing.grant(ALICE, credits(50), source="promo:a", reference="old", expires_at=NOON + HOUR)
        billing.schedule_grants(ALICE, PLAN, reference="old")
        billing.grant(
            ALICE, credits(5), source="gift", reference="later", effective_from=PLAN.anchor
        )
        moving.moment = LATER
        return billing

    @pytest.mark.parametrize("name", REFUSED_BY_THE_WALLET)
    def test_a_call_that_the_wallet_refuses_keeps_due_expirations(
        self, due: Billing, totals: Totals, name: str
    ) -> None:
        call, error = REFUSED_BY_THE_WALLET[name]
        before = totals()[AccountId(ALICE)]

        with pytest.raises(error):
            call(due, self.held)

        assert expiries(due) == [-50]
        assert totals()[AccountId(ALICE)] == before - 50
        assert due.sweep() == 0
        assert not due.charge(ALICE, credits(1), reference="new").replayed
        assert due.verify().violations == ()

    @pytest.mark.parametrize("name", ANSWERED_BY_THE_KEY)
    def test_a_replay_or_conflict_records_no_expiration(
        self, due: Billing, totals: Totals, name: str
    ) -> None:
        self.records_nothing(due, totals, *ANSWERED_BY_THE_KEY[name])

    @pytest.mark.parametrize("name", RECORDS_NOTHING)
    def test_a_call_without_postings_records_no_expiration(
        self, due: Billing, totals: Totals, name: str
    ) -> None:
        self.records_nothing(due, totals, *RECORDS_NOTHING[name])

    def records_nothing(
        self, due: Billing, totals: Totals, call: Call, error: type[BillingError] | None
    ) -> None:
        before = totals()

        with nullcontext() if error is None else pytest.raises(error):
            call(due, self.held)

        assert expiries(due) == []
        assert totals() == before
        assert due.sweep() == 1

    def test_a_refused_call_does_not_move_the_time_of_the_wallet_past_the_expiry(
        self, due: Billing, moving: MovableClock
    ) -> None:
        with pytest.raises(InsufficientCredits):
            due.charge(ALICE, TOO_MUCH, reference="new")
        moving.moment = LATER - HOUR / 2

        due.charge(ALICE, credits(1), reference="new")

        lines = due.statement(ALICE, limit=2).lines
        assert [line.at for line in lines] == [LATER - HOUR / 2, NOON + HOUR]

    @pytest.mark.parametrize("all_or_nothing", [False, True])
    @pytest.mark.parametrize("others", [0, 1])
    def test_a_refused_batch_keeps_due_expirations(
        self, due: Billing, all_or_nothing: bool, others: int
    ) -> None:
        requests: list[dict[str, Any]] = [
            {"tenant": ALICE, "amount": TOO_MUCH, "reference": "new"},
            *[{"tenant": ALICE, "amount": credits(1), "reference": "other"}] * others,
        ]

        outcomes = due.charge_many(requests, all_or_nothing=all_or_nothing)

        refused = [type(outcome.error) for outcome in outcomes]
        assert refused == [
            InsufficientCredits,
            *[OthersRefused if all_or_nothing else type(None)] * others,
        ]
        assert expiries(due) == [-50]

    def test_a_refused_post_keeps_due_expirations(
        self, due: Billing, unit_of_work: UnitOfWork
    ) -> None:
        with pytest.raises(InsufficientCredits):
            unit_of_work.post(charge(10**6))

        assert expiries(due) == [-50]

    def test_a_refused_single_call_keeps_due_expirations(
        self, due: Billing, unit_of_work: UnitOfWork
    ) -> None:
        with pytest.raises(InsufficientCredits):
            unit_of_work.single(ALICE, lambda scope: scope.ledger.post(charge(10**6)))

        assert expiries(due) == [-50]

    def test_a_refused_scope_of_several_calls_records_nothing(
        self, due: Billing, unit_of_work: UnitOfWork
    ) -> None:
        def work(scope: Scope) -> None:
            scope.ledger.post(charge(10**6))

        with pytest.raises(InsufficientCredits):
            unit_of_work.run(ALICE, work)

        assert expiries(due) == []


READS: Final[Mapping[str, Callable[[Scope], object]]] = {
    "balance": lambda scope: scope.ledger.balance(NOON),
    "balance_at": lambda scope: scope.ledger.balance_at(NOON),
    "grants": lambda scope: scope.ledger.grants(NOON),
    "lines": lambda scope: scope.ledger.lines(PageRequest(limit=5)),
    "find": lambda scope: scope.ledger.find(TransactionKind.CHARGE, "r"),
    "transaction": lambda scope: scope.ledger.transaction(NO_ID),
    "release": lambda scope: scope.ledger.release(NO_ID, NOON),
    "find_hold": lambda scope: scope.ledger.find_hold("r", NOON),
    "holds": lambda scope: scope.ledger.holds(HoldPageRequest(limit=5), NOON),
}


class SingleCallContract(Contract):
    """Scopes with exactly one call."""

    def test_post_records_the_transaction_and_answers_its_replay(
        self, unit_of_work: UnitOfWork, totals: Totals
    ) -> None:
        first, again = unit_of_work.post(planned()), unit_of_work.post(planned(number=78))

        assert (first.transaction, first.replayed) == (planned(), False)
        assert first.balance == credits(100_000_000)
        assert (again.transaction, again.balance, again.replayed) == (
            planned(),
            first.balance,
            True,
        )
        assert totals() == purchase_totals(ALICE, 100_000_000, 25_000_000)

    def test_post_raises_like_a_scope(self, unit_of_work: UnitOfWork, totals: Totals) -> None:
        with pytest.raises(UnknownAccount):
            unit_of_work.post(charge(1))
        unit_of_work.post(planned())
        before = totals()

        with pytest.raises(IdempotencyConflict):
            unit_of_work.post(planned(amount="11.00"))
        with pytest.raises(PaymentAlreadyClaimed):
            unit_of_work.post(planned(BOB))

        assert totals() == before

    def test_single_returns_the_result_of_the_work(self, unit_of_work: UnitOfWork) -> None:
        account = unit_of_work.single(ALICE, lambda scope: scope.tenants.open_account(NOON))

        assert (account.tenant_id, account.opened_at) == (ALICE, NOON)

    def test_a_second_call_is_refused(self, unit_of_work: UnitOfWork) -> None:
        def work(scope: Scope) -> object:
            scope.tenants.open_account(NOON)
            return scope.ledger.balance(NOON)

        with pytest.raises(ScopeClosed):
            unit_of_work.single(ALICE, work)

    def test_calls_after_the_end_of_the_scope_are_refused(self, unit_of_work: UnitOfWork) -> None:
        scopes: list[Scope] = []
        unit_of_work.single(ALICE, scopes.append)

        with pytest.raises(ScopeClosed):
            scopes[0].ledger.balance(NOON)

    @pytest.mark.parametrize("name", READS)
    @pytest.mark.parametrize("single", [True, False])
    def test_a_tenant_without_an_account_is_unknown(
        self, unit_of_work: UnitOfWork, name: str, single: bool
    ) -> None:
        open_scope = unit_of_work.single if single else unit_of_work.run

        with pytest.raises(UnknownAccount) as caught:
            open_scope(ALICE, READS[name])

        assert caught.value.tenant == ALICE

    def test_a_replay_for_a_tenant_without_an_account_is_none(
        self, unit_of_work: UnitOfWork
    ) -> None:
        found = unit_of_work.single(
            ALICE, lambda scope: scope.ledger.replay(TransactionKind.PURCHASE, "stripe:pi_1")
        )

        assert found is None

    def test_a_replay_is_found_by_its_key(self, unit_of_work: UnitOfWork) -> None:
        recorded = unit_of_work.post(planned())

        found = unit_of_work.single(
            ALICE, lambda scope: scope.ledger.replay(TransactionKind.PURCHASE, "stripe:pi_1")
        )

        assert found is not None
        assert (found.transaction, found.balance, found.replayed) == (
            recorded.transaction,
            recorded.balance,
            True,
        )
