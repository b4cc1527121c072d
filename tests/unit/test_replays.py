"""A retry returns the first outcome or is refused, and records no second transaction."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from attrs import asdict, evolve
from hypothesis import given
from hypothesis import strategies as st

from cogni_billing import (
    SYSTEM_TENANT_ID,
    USDC,
    Amount,
    Billing,
    BillingError,
    Difference,
    IdempotencyConflict,
    InvalidAmount,
    InvalidMetadata,
    InvalidPolicy,
    PaymentAlreadyClaimed,
    RevenueSharePolicy,
    TransactionKind,
    UnknownAccount,
    credits,
    usd,
    usd_cents,
)
from cogni_billing.adapters.memory import InMemoryUnitOfWork
from cogni_billing.domain.transactions import Recorded
from cogni_billing.testing.base import ALICE, BOB, NOON, CountingIds, SteppingClock
from cogni_billing.testing.contracts.purchases import policy

PAYMENT = "stripe:pi_1"


@pytest.fixture
def unit_of_work() -> InMemoryUnitOfWork:
    return InMemoryUnitOfWork()


@pytest.fixture
def billing(unit_of_work: InMemoryUnitOfWork) -> Billing:
    return Billing(unit_of_work, clock=SteppingClock(), ids=CountingIds())


def recorded(unit_of_work: InMemoryUnitOfWork) -> list[Recorded]:
    return list(unit_of_work._store.recorded.values())


class TestReplay:
    @pytest.mark.parametrize(
        "changed",
        [
            {"policy": policy("0.5", since=datetime(2000, 1, 1, tzinfo=UTC))},
            {"policy": evolve(RevenueSharePolicy.default(), rules=())},
            {"policy": policy("0", version="free")},
            {"clock": SteppingClock(NOON + timedelta(days=3650))},
            {"clock": SteppingClock(NOON - timedelta(days=3650))},
            {"ids": CountingIds(500)},
            {"ids": CountingIds(0)},
        ],
        ids=["dearer", "no rules", "free", "later", "earlier", "other ids", "same ids"],
    )
    def test_another_policy_clock_or_id_gives_the_first_receipt(
        self, unit_of_work: InMemoryUnitOfWork, billing: Billing, changed: dict[str, Any]
    ) -> None:
        first = billing.confirm_purchase(ALICE, usd("10.00"), payment=PAYMENT)
        kept = recorded(unit_of_work)
        options: dict[str, Any] = {"clock": SteppingClock(), "ids": CountingIds(50)}
        other = Billing(unit_of_work, **options | changed)

        again = other.confirm_purchase(ALICE, usd("10.00"), payment=PAYMENT)

        assert again == evolve(first, replayed=True)
        assert recorded(unit_of_work) == kept

    @pytest.mark.parametrize("metadata", [None, {}, {"order": 2}, {"order": 1, "more": True}])
    def test_a_replay_keeps_the_first_metadata(
        self,
        unit_of_work: InMemoryUnitOfWork,
        billing: Billing,
        metadata: dict[str, object] | None,
    ) -> None:
        billing.confirm_purchase(ALICE, usd("10.00"), payment=PAYMENT, metadata={"order": 1})

        again = billing.confirm_purchase(ALICE, usd("10.00"), payment=PAYMENT, metadata=metadata)

        assert again.replayed
        assert recorded(unit_of_work)[0].transaction.metadata == {"order": 1}

    def test_a_replay_keeps_the_first_moment(self, billing: Billing) -> None:
        billing.confirm_purchase(ALICE, usd("10.00"), payment=PAYMENT)
        before = billing.statement(ALICE)

        billing.confirm_purchase(ALICE, usd("10.00"), payment=PAYMENT)

        assert billing.statement(ALICE) == before
        assert before.lines[0].at == NOON + timedelta(seconds=1)

    def test_a_replay_of_a_replay_is_the_same_again(self, billing: Billing) -> None:
        billing.confirm_purchase(ALICE, usd("10.00"), payment=PAYMENT)

        second, third = (
            billing.confirm_purchase(ALICE, usd("10.00"), payment=PAYMENT) for _ in range(2)
        )

        assert second == third

    def test_a_purchase_by_the_system_tenant_is_replayed(self, billing: Billing) -> None:
        first = billing.confirm_purchase(SYSTEM_TENANT_ID, usd("10.00"), payment=PAYMENT)

        again = billing.confirm_purchase(SYSTEM_TENANT_ID, usd("10.00"), payment=PAYMENT)

        assert (first.shares, first.balance) == ((), credits(100_000_000))
        assert again == evolve(first, replayed=True)

    def test_bad_metadata_is_refused_on_a_retry_too(self, billing: Billing) -> None:
        billing.confirm_purchase(ALICE, usd("10.00"), payment=PAYMENT)

        with pytest.raises(InvalidMetadata):
            billing.confirm_purchase(
                ALICE, usd("10.00"), payment=PAYMENT, metadata={"a": float("nan")}
            )
        assert billing.balance(ALICE).posted == credits(100_000_000)


class TestConflict:
    @pytest.mark.parametrize(
        ("amount", "requested"),
        [
            (usd("9.99"), "9.99 USD"),
            (usd("10.01"), "10.01 USD"),
            (Amount("10", USDC), "10.000000 USDC"),
            (Amount(10**27, USDC), f"1{'0' * 27}.000000 USDC"),
        ],
    )
    def test_a_conflict_names_the_stored_and_the_requested_amount(
        self, billing: Billing, amount: Amount, requested: str
    ) -> None:
        billing.confirm_purchase(ALICE, usd("10.00"), payment=PAYMENT)

        with pytest.raises(IdempotencyConflict) as caught:
            billing.confirm_purchase(ALICE, amount, payment=PAYMENT)

        assert caught.value.reference == PAYMENT
        assert caught.value.differences == (Difference("amount", "10.00 USD", requested),)
        assert billing.balance(ALICE).posted == credits(100_000_000)

    def test_the_first_request_is_still_answered_after_a_conflict(self, billing: Billing) -> None:
        first = billing.confirm_purchase(ALICE, usd("10.00"), payment=PAYMENT)
        with pytest.raises(IdempotencyConflict):
            billing.confirm_purchase(ALICE, usd("11.00"), payment=PAYMENT)

        again = billing.confirm_purchase(ALICE, usd("10.00"), payment=PAYMENT)

        assert again == evolve(first, replayed=True)


class TestRefusal:
    @pytest.mark.parametrize(
        ("refused", "error"),
        [
            (lambda b: b.confirm_purchase(ALICE, usd(0), payment=PAYMENT), InvalidAmount),
            (
                lambda b: b.confirm_purchase(ALICE, usd(1), payment=PAYMENT, metadata={1: 1}),
                InvalidMetadata,
            ),
        ],
    )
    def test_a_refused_call_does_not_burn_its_payment_nor_open_an_account(
        self, billing: Billing, refused: Callable[[Billing], object], error: type[BillingError]
    ) -> None:
        with pytest.raises(error):
            refused(billing)
        with pytest.raises(UnknownAccount):
            billing.balance(ALICE)

        assert not billing.confirm_purchase(BOB, usd(1), payment=PAYMENT).replayed

    def test_a_policy_not_yet_in_force_leaves_the_payment_free(
        self, unit_of_work: InMemoryUnitOfWork, billing: Billing
    ) -> None:
        early = Billing(
            unit_of_work,
            policy=policy("0.5", since=NOON + timedelta(days=1)),
            clock=SteppingClock(),
        )
        with pytest.raises(InvalidPolicy):
            early.confirm_purchase(ALICE, usd(1), payment=PAYMENT)

        assert not billing.confirm_purchase(ALICE, usd(1), payment=PAYMENT).replayed
        assert billing.balance(ALICE).posted == credits(10_000_000)

    def test_a_payment_of_another_tenant_opens_no_account(self, billing: Billing) -> None:
        billing.confirm_purchase(ALICE, usd(1), payment=PAYMENT)

        with pytest.raises(PaymentAlreadyClaimed):
            billing.confirm_purchase(BOB, usd(1), payment=PAYMENT)

        with pytest.raises(UnknownAccount):
            billing.balance(BOB)
        assert billing.balance(SYSTEM_TENANT_ID).posted == credits(2_500_000)

    def test_the_refusal_does_not_name_the_owner_of_the_payment(self, billing: Billing) -> None:
        billing.confirm_purchase(ALICE, usd("12.34"), payment=PAYMENT, metadata={"name": "alice"})

        with pytest.raises(PaymentAlreadyClaimed) as caught:
            billing.confirm_purchase(BOB, usd(1), payment=PAYMENT)

        told: Any = caught.value
        assert asdict(told) == {"payment": PAYMENT}
        assert told.args == (PAYMENT,)
        assert (told.__cause__, told.__context__) == (None, None)

    def test_the_refusal_is_the_same_for_any_owner_and_amount(self) -> None:
        told = set()
        for owner, cents in ((ALICE, 1), (SYSTEM_TENANT_ID, 1), (UUID(int=9), 10**9)):
            billing = Billing(InMemoryUnitOfWork())
            billing.confirm_purchase(owner, usd_cents(cents), payment=PAYMENT)
            with pytest.raises(PaymentAlreadyClaimed) as caught:
                billing.confirm_purchase(BOB, usd("0.01"), payment=PAYMENT)
            told.add(str(caught.value))

        assert told == {"payment 'stripe:pi_1' is already claimed"}


CALLS = st.lists(
    st.tuples(
        st.sampled_from([ALICE, BOB, SYSTEM_TENANT_ID]),
        st.integers(1, 3),
        st.sampled_from(["a:p", "a:q", "a:r", "a:s"]),
    ),
    max_size=12,
)


@given(calls=CALLS)
def test_random_purchases_count_once_and_conserve_credits(
    calls: list[tuple[Any, int, str]],
) -> None:
    unit_of_work = InMemoryUnitOfWork()
    billing = Billing(unit_of_work, clock=SteppingClock(), ids=CountingIds())
    first: dict[str, tuple[Any, int]] = {}

    for tenant, cents, payment in calls:
        owner, paid = first.setdefault(payment, (tenant, cents))
        expected = (
            PaymentAlreadyClaimed
            if owner != tenant
            else IdempotencyConflict
            if paid != cents
            else None
        )
        if expected is None:
            billing.confirm_purchase(tenant, usd_cents(cents), payment=payment)
        else:
            with pytest.raises(expected):
                billing.confirm_purchase(tenant, usd_cents(cents), payment=payment)

    bought = {tenant: 0 for tenant, _ in first.values()}
    for tenant, cents in first.values():
        bought[tenant] += cents * 100_000
    shared = sum(amount // 4 for tenant, amount in bought.items() if tenant != SYSTEM_TENANT_ID)
    for tenant in bought.keys() - {SYSTEM_TENANT_ID}:
        assert billing.balance(tenant).posted == credits(bought[tenant])
    assert billing.balance(SYSTEM_TENANT_ID).posted == credits(
        bought.get(SYSTEM_TENANT_ID, 0) + shared
    )
    assert sum(int(balance.value) for balance in unit_of_work._store.balances.values()) == 0
    assert {r.transaction.kind for r in recorded(unit_of_work)} <= {TransactionKind.PURCHASE}
