"""Contract: batches. Each request has the same outcome as alone, in order."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial
from typing import Any
from uuid import UUID

import pytest
from attrs import evolve

from cogni_billing import (
    SYSTEM_ACCOUNT_ID,
    AccountId,
    Billing,
    BillingError,
    Charge,
    ChargeReceipt,
    IdempotencyConflict,
    InsufficientCredits,
    InvalidAmount,
    InvalidInput,
    InvalidMetadata,
    InvalidPolicy,
    InvalidReference,
    InvalidTenant,
    OthersRefused,
    Outcome,
    OutcomeState,
    PaymentAlreadyClaimed,
    Purchase,
    PurchaseReceipt,
    RevenueSharePolicy,
    TenantId,
    UnknownAccount,
    credits,
    usd,
)
from cogni_billing.domain.identity import BREAKAGE, ISSUANCE, USAGE
from cogni_billing.testing.base import ALICE, BOB, NOON, Contract, NewBilling, SteppingClock, Totals
from cogni_billing.testing.racing import at_once

HOUR = timedelta(hours=1)


def purchase(payment: str, amount: str = "0.01", tenant: TenantId = ALICE) -> Purchase:
    return Purchase(tenant=tenant, amount=usd(amount), payment=f"a:{payment}")


def charge(reference: str, amount: int, tenant: TenantId = ALICE, **more: Any) -> Charge:
    return Charge(tenant=tenant, amount=credits(amount), reference=reference, **more)


def states(outcomes: tuple[Outcome[Any], ...]) -> list[str]:
    return [outcome.state.value for outcome in outcomes]


def errors(outcomes: tuple[Outcome[Any], ...]) -> list[type | None]:
    return [None if outcome.error is None else type(outcome.error) for outcome in outcomes]


def balances(outcomes: tuple[Outcome[Any], ...]) -> list[int]:
    return [int(outcome.receipt.balance.value) for outcome in outcomes if outcome.receipt]


class PurchaseBatchContract(Contract):
    def test_each_customer_is_credited_and_the_system_tenant_for_each(
        self, billing: Billing, totals: Totals
    ) -> None:
        outcomes = billing.confirm_purchases(
            [purchase("a"), purchase("b", tenant=BOB), purchase("c", "0.02")]
        )

        assert states(outcomes) == ["done", "done", "done"]
        assert balances(outcomes) == [100_000, 100_000, 300_000]
        first = outcomes[0].receipt
        assert isinstance(first, PurchaseReceipt)
        assert first.credited == credits(100_000)
        assert [(s.beneficiary, s.amount) for s in first.shares] == [
            (SYSTEM_ACCOUNT_ID, credits(25_000))
        ]
        assert totals() == {
            AccountId(ALICE): Decimal(300_000),
            AccountId(BOB): Decimal(100_000),
            SYSTEM_ACCOUNT_ID: Decimal(100_000),
            ISSUANCE: Decimal(-500_000),
        }

    def test_a_batch_leaves_the_same_ledger_as_single_calls(self, billing: Billing) -> None:
        metadata = {"order": [1, {"a": "b"}]}
        given: Mapping[str, Any] = {"amount": usd("0.03"), "payment": "a:a", "metadata": metadata}

        (outcome, _) = billing.confirm_purchases(
            [{"tenant": ALICE, **given}, purchase("b")],
        )

        assert outcome.receipt is not None
        again = billing.confirm_purchase(ALICE, **given)
        assert again == evolve(outcome.receipt, replayed=True)
        found = billing.find(ALICE, reference="a:a", kind="purchase")
        assert found is not None
        assert found.metadata == {"order": (1, {"a": "b"})}
        assert [line.reference for line in billing.statement(ALICE).lines] == ["a:b", "a:a"]

    def test_lines_are_in_the_given_order(self, billing: Billing) -> None:
        order = ["c", "a", "d", "b"]

        outcomes = billing.confirm_purchases([purchase(name) for name in order])

        assert balances(outcomes) == [100_000, 200_000, 300_000, 400_000]
        lines = billing.statement(ALICE).lines
        assert [line.reference for line in reversed(lines)] == [f"a:{name}" for name in order]
        assert [int(line.balance_after.value) for line in reversed(lines)] == balances(outcomes)

    def test_a_payment_given_twice_is_recorded_once(self, billing: Billing, totals: Totals) -> None:
        billing.confirm_purchases([purchase("a"), purchase("z")])

        outcomes = billing.confirm_purchases(
            [purchase("b"), purchase("a"), purchase("b"), purchase("b", "0.02")]
        )

        assert states(outcomes) == ["done", "replayed", "replayed", "refused"]
        assert errors(outcomes)[3] is IdempotencyConflict
        assert balances(outcomes) == [300_000, 100_000, 300_000]
        assert totals()[AccountId(ALICE)] == 300_000

    @pytest.mark.parametrize("all_or_nothing", [False, True])
    def test_a_payment_of_another_tenant_is_refused_alone(
        self, billing: Billing, totals: Totals, all_or_nothing: bool
    ) -> None:
        billing.confirm_purchase(BOB, usd("0.01"), payment="a:b")

        outcomes = billing.confirm_purchases(
            [purchase("a"), purchase("b"), purchase("c"), purchase("d", tenant=BOB)],
            all_or_nothing=all_or_nothing,
        )

        others = OthersRefused if all_or_nothing else None
        assert errors(outcomes) == [others, PaymentAlreadyClaimed, others, None]
        assert totals().get(AccountId(ALICE), 0) == (0 if all_or_nothing else 200_000)
        assert totals()[AccountId(BOB)] == 200_000
        if all_or_nothing:
            with pytest.raises(UnknownAccount):
                billing.balance(ALICE)

    def test_a_payment_given_for_two_tenants_credits_one(
        self, billing: Billing, totals: Totals
    ) -> None:
        outcomes = billing.confirm_purchases(
            [purchase("a", tenant=BOB), purchase("a", tenant=ALICE)]
        )

        assert sorted(states(outcomes)) == ["done", "refused"]
        assert PaymentAlreadyClaimed in errors(outcomes)
        assert totals()[SYSTEM_ACCOUNT_ID] == 25_000

    def test_bad_requests_are_refused_one_by_one(self, billing: Billing, totals: Totals) -> None:
        bad: list[tuple[Any, type[BillingError]]] = [
            (Purchase(tenant="alice", amount=usd(1), payment="a:x"), InvalidTenant),  # type: ignore[arg-type]
            (purchase("two words"), InvalidReference),
            (Purchase(tenant=ALICE, amount=usd(0), payment="a:x"), InvalidAmount),
            (
                Purchase(tenant=ALICE, amount=usd(1), payment="a:x", metadata={"a": float("nan")}),
                InvalidMetadata,
            ),
            ("not a purchase", InvalidInput),
            ({"tenant": ALICE, "amount": usd(1)}, InvalidInput),
            ({"tenant": ALICE, "amount": usd(1), "payment": "a:x", "nonsense": 1}, InvalidInput),
            ({1: 2}, InvalidInput),
            (None, InvalidInput),
        ]

        outcomes = billing.confirm_purchases([purchase("a"), *(given for given, _ in bad)])

        assert errors(outcomes) == [None, *(error for _, error in bad)]
        assert totals()[AccountId(ALICE)] == 100_000

    def test_all_or_nothing_with_an_invalid_request_records_nothing(
        self, billing: Billing, totals: Totals
    ) -> None:
        outcomes = billing.confirm_purchases(
            [purchase("a"), purchase("two words"), purchase("b", tenant=BOB)], all_or_nothing=True
        )

        assert errors(outcomes) == [OthersRefused, InvalidReference, None]
        assert AccountId(ALICE) not in totals()

    @pytest.mark.parametrize("given", [None, 5, "abc", b"abc", {"tenant": ALICE}])
    def test_a_batch_is_an_iterable(self, billing: Billing, given: Any) -> None:
        with pytest.raises(InvalidInput):
            billing.confirm_purchases(given)
        with pytest.raises(InvalidInput):
            billing.charge_many(given)

    @pytest.mark.parametrize("given", [None, 1, "yes"])
    def test_all_or_nothing_is_a_bool(self, billing: Billing, given: Any) -> None:
        with pytest.raises(InvalidInput):
            billing.confirm_purchases([], all_or_nothing=given)
        with pytest.raises(InvalidInput):
            billing.charge_many([], all_or_nothing=given)

    def test_a_generator_and_an_empty_batch_are_accepted(self, billing: Billing) -> None:
        assert billing.confirm_purchases([]) == ()
        outcomes = billing.confirm_purchases(purchase(str(n)) for n in range(3))
        assert states(outcomes) == ["done"] * 3

    def test_a_replay_needs_no_policy_in_force(
        self, new_billing: NewBilling, billing: Billing
    ) -> None:
        billing.confirm_purchases([purchase("a"), purchase("b")])
        future = evolve(
            RevenueSharePolicy.default(), effective_from=datetime(2100, 1, 1, tzinfo=UTC)
        )
        later = new_billing(policy=future, clock=SteppingClock())

        outcomes = later.confirm_purchases([purchase("a"), purchase("c"), purchase("b", "0.02")])

        assert errors(outcomes) == [None, InvalidPolicy, IdempotencyConflict]
        assert states(outcomes)[0] == "replayed"


class ChargeBatchContract(Contract):
    @pytest.fixture
    def rich(self, billing: Billing) -> Billing:
        """Alice and Bob have 100 000 credits each."""
        billing.confirm_purchases([purchase("a"), purchase("b", tenant=BOB)])
        return billing

    def test_each_is_charged_in_order(self, rich: Billing, totals: Totals) -> None:
        outcomes = rich.charge_many(
            [charge("2", 30), charge("x", 5, BOB), charge("1", 7), charge("3", 1)]
        )

        assert states(outcomes) == ["done"] * 4
        assert balances(outcomes) == [99_970, 99_995, 99_963, 99_962]
        first = outcomes[0].receipt
        assert isinstance(first, ChargeReceipt)
        assert first.charged == credits(30)
        assert [line.reference for line in rich.statement(ALICE, kind="charge").lines] == [
            "3",
            "1",
            "2",
        ]
        assert totals()[USAGE] == 43

    def test_a_charge_that_would_overdraw_is_refused_and_a_later_smaller_one_is_done(
        self, rich: Billing
    ) -> None:
        outcomes = rich.charge_many(
            [
                charge("1", 60_000),
                charge("2", 40_001),
                charge("3", 40_000),
                charge("4", 1),
                charge("2", 40_001),
                charge("5", 1, allow_overdraft=True),
            ]
        )

        refused = InsufficientCredits
        assert errors(outcomes) == [None, refused, None, refused, refused, None]
        assert isinstance(outcomes[1].error, InsufficientCredits)
        assert outcomes[1].error.available == credits(40_000)
        assert balances(outcomes) == [40_000, 0, -1]
        assert rich.find(ALICE, reference="2", kind="charge") is None

    def test_all_or_nothing_is_for_each_tenant(self, rich: Billing, totals: Totals) -> None:
        rich.charge(ALICE, credits(5), reference="0")

        outcomes = rich.charge_many(
            [charge("0", 5), charge("1", 5), charge("2", 100_000), charge("x", 1, BOB)],
            all_or_nothing=True,
        )

        assert errors(outcomes) == [OthersRefused, OthersRefused, InsufficientCredits, None]
        assert totals()[AccountId(ALICE)] == 99_995
        again = rich.charge_many([charge("0", 5), charge("1", 5)], all_or_nothing=True)
        assert states(again) == ["replayed", "done"]

    def test_all_or_nothing_with_a_conflict_records_nothing(
        self, rich: Billing, totals: Totals
    ) -> None:
        rich.charge(ALICE, credits(5), reference="0")

        outcomes = rich.charge_many([charge("1", 5), charge("0", 6)], all_or_nothing=True)

        assert errors(outcomes) == [OthersRefused, IdempotencyConflict]
        assert totals()[AccountId(ALICE)] == 99_995
        assert rich.find(ALICE, reference="1", kind="charge") is None

    def test_all_or_nothing_with_a_reference_twice_records_it_once(
        self, rich: Billing, totals: Totals
    ) -> None:
        outcomes = rich.charge_many([charge("1", 5), charge("1", 5)], all_or_nothing=True)

        assert states(outcomes) == ["done", "replayed"]
        assert balances(outcomes) == [99_995, 99_995]
        assert totals()[AccountId(ALICE)] == 99_995

    def test_a_reference_given_twice_is_charged_once(self, rich: Billing) -> None:
        rich.charge(ALICE, credits(5), reference="0")

        outcomes = rich.charge_many(
            [charge("1", 7), charge("0", 5), charge("1", 7), charge("1", 8), charge("0", 6)]
        )

        conflict = IdempotencyConflict
        assert errors(outcomes) == [None, None, None, conflict, conflict]
        assert states(outcomes)[:3] == ["done", "replayed", "replayed"]
        assert balances(outcomes) == [99_988, 99_995, 99_988]

    def test_a_tenant_without_an_account_is_refused_and_others_are_not(
        self, billing: Billing
    ) -> None:
        billing.confirm_purchase(BOB, usd("0.01"), payment="a:b")

        outcomes = billing.charge_many([charge("1", 1), charge("x", 1, BOB), charge("2", 1)])

        assert errors(outcomes) == [UnknownAccount, None, UnknownAccount]
        assert str(outcomes[0].error) == str(UnknownAccount(ALICE))

    def test_held_credits_are_not_charged_and_granted_credits_come_first(
        self, rich: Billing, clock: SteppingClock
    ) -> None:
        rich.grant(ALICE, credits(50), source="a", reference="a", expires_at=NOON + HOUR)
        rich.hold(ALICE, credits(100_000), reference="run-1", expires_at=NOON + 2 * HOUR)

        outcomes = rich.charge_many([charge("1", 30), charge("2", 21), charge("3", 20)])

        assert errors(outcomes) == [None, InsufficientCredits, None]

    def test_due_expirations_come_first(
        self, rich: Billing, clock: SteppingClock, totals: Totals
    ) -> None:
        rich.grant(ALICE, credits(50), source="a", reference="a", expires_at=NOON + HOUR)
        rich.hold(ALICE, credits(100_000), reference="run-1", expires_at=NOON + 2 * HOUR)
        clock.moment = NOON + 3 * HOUR

        outcomes = rich.charge_many([charge("1", 100_001), charge("2", 99_999), charge("3", 1)])

        assert errors(outcomes) == [InsufficientCredits, None, None]
        assert totals()[BREAKAGE] == 50

    def test_due_expirations_are_recorded_if_every_request_is_refused(
        self, rich: Billing, clock: SteppingClock
    ) -> None:
        rich.grant(ALICE, credits(5), source="a", reference="a", expires_at=NOON + HOUR)
        clock.moment = NOON + HOUR

        outcomes = rich.charge_many([charge("a", 10**9), charge("b", 10**9)])

        assert states(outcomes) == ["refused", "refused"]
        assert rich.statement(ALICE).lines[0].kind == "expiry"


class BatchRaces(Contract):
    """Concurrent batches and single calls."""

    def test_batches_at_once_credit_each_payment_once(
        self, new_billing: NewBilling, totals: Totals
    ) -> None:
        billing = new_billing()
        tenants = [TenantId(UUID(int=number)) for number in range(1, 5)]

        def confirm(turn: int) -> tuple[Outcome[PurchaseReceipt], ...]:
            requests = [
                purchase(f"{tenant.int}-{number}", tenant=tenant)
                for number in range(10)
                for tenant in tenants
            ]
            return billing.confirm_purchases(requests if turn % 2 else reversed(requests))

        rounds = at_once([partial(confirm, turn) for turn in range(8)])

        done = [outcome for outcomes in rounds for outcome in outcomes if not outcome.error]
        assert len(done) == 8 * 40
        assert sum(outcome.state is OutcomeState.DONE for outcome in done) == 40
        assert {totals()[AccountId(tenant)] for tenant in tenants} == {Decimal(1_000_000)}

    def test_concurrent_batches_of_many_tenants_credit_each_payment_to_one_tenant(
        self, new_billing: NewBilling, totals: Totals
    ) -> None:
        billing = new_billing()
        tenants = [TenantId(UUID(int=number)) for number in range(1, 9)]

        def confirm(tenant: TenantId) -> int:
            requests = [purchase(str(number), tenant=tenant) for number in range(20)]
            outcomes = billing.confirm_purchases(requests if tenant.int % 2 else reversed(requests))
            return states(outcomes).count("done")

        done = at_once([partial(confirm, tenant) for tenant in tenants])

        assert sum(done) == 20
        assert totals()[SYSTEM_ACCOUNT_ID] == 20 * 25_000

    def test_batches_and_single_charges_at_once_never_overdraw(
        self, new_billing: NewBilling, totals: Totals
    ) -> None:
        billing = new_billing()
        billing.confirm_purchases([purchase("a"), purchase("b")])

        def many(turn: int) -> int:
            requests = [charge(f"{turn}-{number}", 777) for number in range(25)]
            return states(billing.charge_many(requests)).count("done")

        def single(turn: int) -> int:
            try:
                billing.charge(ALICE, credits(777), reference=str(turn))
            except InsufficientCredits:
                return 0
            return 1

        calls = [partial(call, turn) for turn in range(10) for call in (many, single)]
        done = sum(at_once(calls))

        # 200 000 credits pay for 257 charges of the 260 requested.
        assert done == 257
        assert totals()[AccountId(ALICE)] == 200_000 - 257 * 777

    def test_the_same_keys_at_once_charge_once(
        self, new_billing: NewBilling, totals: Totals
    ) -> None:
        billing = new_billing()
        billing.confirm_purchases([purchase("a"), purchase("b")])

        def many(turn: int) -> list[str]:
            requests = [charge(str(number), 7) for number in range(20)]
            return states(billing.charge_many(requests if turn % 2 else reversed(requests)))

        def single(turn: int) -> list[str]:
            receipt = billing.charge(ALICE, credits(7), reference=str(turn))
            return ["replayed" if receipt.replayed else "done"]

        calls = [partial(call, turn) for turn in range(8) for call in (many, single)]
        outcomes = [state for result in at_once(calls) for state in result]

        assert outcomes.count("done") == 20
        assert outcomes.count("refused") == 0
        assert totals()[AccountId(ALICE)] == 200_000 - 20 * 7
