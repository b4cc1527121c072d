"""Reversals take back exactly the credits of the purchase, with any policy and in any parts."""

from __future__ import annotations

from contextlib import suppress
from decimal import Decimal
from typing import Any

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from cogni_billing import (
    USD,
    AccountId,
    Amount,
    Billing,
    BillingError,
    RefundExceedsPayment,
    RevenueSharePolicy,
    ShareMode,
    Shortfall,
    TenantId,
    credits,
    usd,
)
from cogni_billing.adapters.memory import InMemoryUnitOfWork
from cogni_billing.domain.amounts import from_quanta
from cogni_billing.domain.identity import ISSUANCE, SHORTFALL
from cogni_billing.testing import ALICE, CountingIds, SteppingClock
from cogni_billing.testing.strategies import policies

PAYMENT = "stripe:pi_1"

sizes = st.integers(0, 10**30).map(lambda n: Amount.computed(Decimal(n), credits(0).unit))


paid_amounts = st.integers(1, 10**6) | st.integers(1, 10**29)
events = st.lists(
    st.tuples(
        st.sampled_from(["refund", "dispute", "win", "lose", "spend"]),
        st.integers(1, 10**6),
        st.sampled_from("abc"),
        st.sampled_from(Shortfall),
    ),
    max_size=8,
)


def dollars(cents: int) -> Amount:
    return from_quanta(cents, USD)


class Books:
    """A customer's payment on its own ledger."""

    def __init__(self, policy: RevenueSharePolicy, cents: int) -> None:
        self.unit_of_work = InMemoryUnitOfWork()
        self.billing = Billing(
            self.unit_of_work, policy=policy, clock=SteppingClock(), ids=CountingIds()
        )
        self.cents = cents
        self.receipt = self.billing.confirm_purchase(ALICE, dollars(cents), payment=PAYMENT)

    def totals(self) -> dict[AccountId, int]:
        """The totals as int, because sums of Decimal would be rounded."""
        return {a: int(amount.value) for a, amount in self.unit_of_work._store.balances.items()}

    def part(self, millionths: int) -> Amount:
        return dollars(max(self.cents * millionths // 10**6, 1))

    def do(self, event: str, millionths: int, key: str, shortfall: Shortfall) -> Any:
        on: Any = {"payment": PAYMENT, "reference": key}
        match event:
            case "refund":
                amount = self.part(millionths)
                return self.billing.refund(ALICE, amount=amount, shortfall=shortfall, **on)
            case "dispute":
                return self.billing.open_dispute(ALICE, amount=self.part(millionths), **on)
            case "win":
                return self.billing.win_dispute(ALICE, **on)
            case "lose":
                return self.billing.lose_dispute(ALICE, shortfall=shortfall, **on)
            case _:
                available = self.billing.balance(ALICE).available
                return self.billing.charge(ALICE, available, reference=key)

    def attempt(self, event: tuple[str, int, str, Shortfall]) -> Any:
        try:
            return self.do(*event)
        except BillingError as error:
            return error.code


@given(policy=policies(), cents=paid_amounts, sequence=events)
def test_every_step_conserves_credits_and_can_be_replayed(
    policy: RevenueSharePolicy, cents: int, sequence: list[tuple[str, int, str, Shortfall]]
) -> None:
    books = Books(policy, cents)

    for event in sequence:
        first = books.attempt(event)
        totals = books.totals()
        assert sum(totals.values()) == 0
        if event[0] != "spend" and not isinstance(first, str):
            again = books.do(*event)
            assert again.replayed
            assert again == evolve(first, replayed=True, **present(again))
            assert books.totals() == totals
    assert books.billing.verify().violations == ()


def present(again: Any) -> dict[str, Any]:
    """A replayed dispute has its present state."""
    return {"state": again.state} if hasattr(again, "state") else {}


@given(policy=policies(), cents=paid_amounts, sequence=events)
def test_a_fully_reversed_payment_leaves_every_leg_at_zero(
    policy: RevenueSharePolicy, cents: int, sequence: list[tuple[str, int, str, Shortfall]]
) -> None:
    books = Books(policy, cents)
    for event in sequence:
        if event[0] != "spend":
            books.attempt(event)
    for key in "abc":
        books.attempt(("win", 1, key, Shortfall.DEBT))
    with suppress(RefundExceedsPayment):  # if no rest is left
        books.billing.refund(ALICE, payment=PAYMENT, reference="the-rest")

    assert {account: value for account, value in books.totals().items() if value} == {}
    with pytest.raises(RefundExceedsPayment) as caught:
        books.billing.refund(ALICE, payment=PAYMENT, reference="more")
    assert caught.value.remaining == usd(0)
    assert SHORTFALL not in books.totals()
    assert books.billing.balance(ALICE).held == credits(0)
    assert books.billing.verify().violations == ()


@given(policy=policies(), cents=paid_amounts)
def test_a_purchase_mints_its_price_and_the_bonus(policy: RevenueSharePolicy, cents: int) -> None:
    books = Books(policy, cents)

    shared = sum(int(share.amount.value) for share in books.receipt.shares)
    credited = int(books.receipt.credited.value)
    bought = cents * 100_000
    assert credited + (shared if policy.mode is ShareMode.SPLIT else 0) == bought
    assert -books.totals()[ISSUANCE] == credited + shared
    assert all(share.amount >= credits(0) for share in books.receipt.shares)
    assert TenantId(ALICE) not in {share.beneficiary for share in books.receipt.shares}
