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
from cogni_billing.domain.identity import ISSUANCE, SHORTFALL, USAGE, account_of, owner_of
from cogni_billing.domain.wallets import Wallet
from cogni_billing.testing import ALICE, CountingIds, SteppingClock
from cogni_billing.testing.strategies import policies

PAYMENT = "stripe:pi_1"

sizes = st.integers(0, 10**30).map(lambda n: Amount.computed(Decimal(n), credits(0).unit))


EVENTS = ["refund", "total", "failed", "dispute", "update", "win", "lose", "lose a part", "spend"]
paid_amounts = st.integers(1, 10**6) | st.integers(1, 10**29)
events = st.lists(
    st.tuples(
        st.sampled_from(EVENTS),
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

    def held(self, account: AccountId) -> int:
        """The held credits. Zero for a beneficiary that never earned a share."""
        wallet = self.unit_of_work._store.wallets.get(owner_of(account), Wallet())
        return int(wallet.aside.value)

    def part(self, millionths: int) -> Amount:
        return dollars(max(self.cents * millionths // 10**6, 1))

    def do(self, event: str, millionths: int, key: str, shortfall: Shortfall) -> Any:
        if event == "spend":
            available = self.billing.balance(ALICE).available
            return self.billing.charge(ALICE, available, reference=key)
        part: dict[str, Any] = {"amount": self.part(millionths)}
        rule: dict[str, Any] = {"shortfall": shortfall}
        calls: dict[str, tuple[str, dict[str, Any]]] = {
            "refund": ("refund", part | rule),
            "total": ("refund", {"total": self.part(millionths)} | rule),
            "failed": ("refund_failed", {"refund": key}),
            "dispute": ("open_dispute", part),
            "update": ("update_dispute", part),
            "win": ("win_dispute", {}),
            "lose": ("lose_dispute", rule),
            "lose a part": ("lose_dispute", part | rule),
        }
        name, given = calls[event]
        call: Any = getattr(self.billing, name)
        return call(ALICE, payment=PAYMENT, reference=key, **given)

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


class Standing:
    """The parts of a payment that the last events return and dispute, in cents."""

    def __init__(self, books: Books) -> None:
        self.books = books
        self.refunds: dict[str, int] = {}
        self.failed: set[str] = set()
        self.disputes: dict[str, tuple[str, int, int | None]] = {}

    @property
    def returned(self) -> int:
        lost = [d if part is None else part for s, d, part in self.disputes.values() if s == "lost"]
        return min(sum(lost) + sum(self.refunds.values()), self.books.cents)

    @property
    def disputed(self) -> int:
        is_open = (amount for state, amount, _ in self.disputes.values() if state == "open")
        return min(self.returned + sum(is_open), self.books.cents)

    def follow(self, event: str, millionths: int, key: str) -> None:
        """Follow an event that the ledger accepted."""
        cents = max(self.books.cents * millionths // 10**6, 1)
        state, amount, part = self.disputes.get(key, ("open", cents, None))
        known = key in self.refunds or key in self.failed
        match event:
            case "refund" | "total" if not known:
                refunded = sum(self.refunds.values())
                missing = max(cents - refunded, 0) if event == "total" else cents
                self.refunds[key] = missing
            case "failed":
                self.refunds.pop(key)
                self.failed.add(key)
            case "dispute":
                self.disputes[key] = state, amount, part
            case "update":
                self.disputes[key] = state, cents, part
            case "win":
                self.disputes[key] = "won", amount, None
            case "lose":
                self.disputes[key] = "lost", amount, None
            case "lose a part":
                self.disputes[key] = "lost", amount, cents


@given(policy=policies(), cents=paid_amounts, sequence=events)
def test_payment_after_any_order_of_events_ends_where_the_last_ones_say(
    policy: RevenueSharePolicy, cents: int, sequence: list[tuple[str, int, str, Shortfall]]
) -> None:
    books = Books(policy, cents)
    standing = Standing(books)
    legs = {account_of(ALICE): int(books.receipt.credited.value)}
    legs |= {share.beneficiary: int(share.amount.value) for share in books.receipt.shares}
    for event, millionths, key, shortfall in sequence:
        if event == "spend":
            continue
        answer = books.attempt((event, millionths, key, shortfall))
        if not isinstance(answer, str) and not answer.replayed:
            standing.follow(event, millionths, key)
        returned, disputed = standing.returned, standing.disputed
        totals = books.totals()
        for account, leg in legs.items():
            assert totals.get(account, 0) == leg - leg * returned // cents
            assert books.held(account) == leg * disputed // cents - leg * returned // cents
    assert SHORTFALL not in books.totals()
    assert books.billing.verify().violations == ()


@given(policy=policies(), cents=paid_amounts, sequence=events)
def test_payment_whose_reversals_are_all_undone_has_every_credit_again(
    policy: RevenueSharePolicy, cents: int, sequence: list[tuple[str, int, str, Shortfall]]
) -> None:
    """Also those that the platform absorbed, because the customer had spent them."""
    books = Books(policy, cents)
    for event in sequence:
        books.attempt(event)
    for key in "abc":
        books.attempt(("win", 1, key, Shortfall.DEBT))
        books.attempt(("failed", 1, key, Shortfall.DEBT))

    totals = books.totals()
    assert totals.get(SHORTFALL, 0) == 0
    spent = totals.get(USAGE, 0)
    assert totals[account_of(ALICE)] == int(books.receipt.credited.value) - spent
    for share in books.receipt.shares:
        assert totals.get(share.beneficiary, 0) == int(share.amount.value)
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
