"""A recorded purchase is checked against its own record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from types import MappingProxyType
from typing import Any
from uuid import UUID

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from cogni_billing import (
    SYSTEM_ACCOUNT_ID,
    Amount,
    Invariant,
    RevenueSharePolicy,
    Share,
    Shortfall,
    Verification,
    Violation,
    credits,
    usd,
)
from cogni_billing.domain.disputes import DisputeRequest
from cogni_billing.domain.payments import Payment
from cogni_billing.domain.reversals import plan_dispute
from cogni_billing.domain.transactions import Reversal
from cogni_billing.domain.verification import (
    dispute_problems,
    purchase_problems,
    reversal_problems,
)
from cogni_billing.testing.base import ALICE, NOON
from cogni_billing.testing.contracts.purchases import planned

POLICY = RevenueSharePolicy.default().to_dict()
PRICE = {"version": "v1", "currency": "EUR", "scale": 2, "credits": "10000000"}


def problems(
    paid: str = "0.01 USD",
    credited: Amount = credits(100_000),  # noqa: B008 (a constant)
    shares: Sequence[int] = (25_000,),
    policy: Mapping[str, Any] = MappingProxyType(POLICY),
) -> list[tuple[Invariant, str]]:
    made = [Share(SYSTEM_ACCOUNT_ID, credits(amount)) for amount in shares]
    return list(
        purchase_problems(paid=paid, credited=credited, shares=made, policy=policy, at=NOON)
    )


@given(paid=st.decimals("0.01", 10**12, places=2))
def test_a_planned_purchase_has_no_problems(paid: Decimal) -> None:
    purchase = planned(amount=str(paid))

    assert not list(
        purchase_problems(
            paid=purchase.request["amount"],
            credited=purchase.amount,
            shares=purchase.shares,
            policy=purchase.policy,
            at=purchase.at,
        )
    )


@pytest.mark.parametrize(
    ("changed", "rule", "message"),
    [
        (
            {"paid": "0.02 USD", "shares": (50_000,)},
            Invariant.PURCHASES_CREDIT_WHAT_WAS_PAID,
            "0.02 USD buys 200000 CREDIT, and 100000 CREDIT were credited",
        ),
        (
            {"paid": "0.01 EUR"},
            Invariant.PURCHASES_CREDIT_WHAT_WAS_PAID,
            "paid: expected USD, USDC or a currency with a price, got EUR",
        ),
        (
            {
                "paid": "0.01 EUR",
                "policy": POLICY | {"price": PRICE | {"credits": "9000000"}},
                "shares": (22_500,),
            },
            Invariant.PURCHASES_CREDIT_WHAT_WAS_PAID,
            "0.01 EUR buys 90000 CREDIT, and 100000 CREDIT were credited",
        ),
        (
            {"policy": POLICY | {"price": PRICE}},
            Invariant.PURCHASES_CREDIT_WHAT_WAS_PAID,
            "unit: expected EUR, got USD",
        ),
        (
            {"policy": POLICY | {"price": {}}},
            Invariant.PURCHASES_CREDIT_WHAT_WAS_PAID,
            "price: expected a version, currency, scale and credits",
        ),
        (
            {"paid": "much USD"},
            Invariant.PURCHASES_CREDIT_WHAT_WAS_PAID,
            "amount: expected an exact Decimal, int or plain decimal text",
        ),
        (
            {"shares": ()},
            Invariant.SHARES_FOLLOW_THE_POLICY,
            f"nothing instead of 25000 CREDIT for {SYSTEM_ACCOUNT_ID}",
        ),
        (
            {"shares": (25_001,)},
            Invariant.SHARES_FOLLOW_THE_POLICY,
            f"25001 CREDIT for {SYSTEM_ACCOUNT_ID} instead of 25000 CREDIT for {SYSTEM_ACCOUNT_ID}",
        ),
        (
            {"shares": (25_000, 1)},
            Invariant.SHARES_FOLLOW_THE_POLICY,
            f"25000 CREDIT for {SYSTEM_ACCOUNT_ID}, 1 CREDIT for {SYSTEM_ACCOUNT_ID} instead of ",
        ),
        (
            {"policy": {}},
            Invariant.SHARES_FOLLOW_THE_POLICY,
            "policy: expected the fields version, effective_from, mode, rules, and perhaps",
        ),
        (
            {"policy": POLICY | {"effective_from": "2030-01-01T00:00:00+00:00"}},
            Invariant.SHARES_FOLLOW_THE_POLICY,
            "policy: expected one in force at 2026-11-23 12:00:00.123456+00:00, got one in force",
        ),
    ],
    ids=str,
)
def test_each_problem_is_named(changed: dict[str, Any], rule: Invariant, message: str) -> None:
    [(broken, said)] = problems(**changed)

    assert broken is rule
    assert said.startswith(message)


def test_a_violation_names_the_place_and_the_problem() -> None:
    violation = Violation(
        Invariant.WALLETS_MATCH, {"tenant_id": "7", "unit": "CREDIT"}, "1 and not 2"
    )

    assert str(violation) == "wallets_match: tenant_id 7, unit CREDIT: 1 and not 2"


def test_a_verification_without_violations_is_ok() -> None:
    found = Violation(Invariant.WALLETS_MATCH, {}, "off")

    assert Verification(violations=(), transactions=1, postings=2).ok
    assert not Verification(violations=(found,), transactions=1, postings=2).ok


def returned(
    paid: str = "1.00 USD", *, taken: Sequence[int] = (3, 1), absorbed: int = 0, lapsed: int = 0
) -> Any:
    """The problems of a refund of the second half of a purchase of 7 with a share of 3."""
    return [
        said
        for rule, said in reversal_problems(
            legs=[credits(7), credits(3)],
            taken=[credits(amount) for amount in taken],
            absorbed=credits(absorbed),
            lapsed=credits(lapsed),
            paid=paid,
            so_far=Reversal(
                purchase=UUID(int=5),
                payment="stripe:pi_1",
                amount=usd("0.50"),
                total=usd("1.00"),
                asked=None,
                shortfall=Shortfall.DEBT,
            ),
        )
        if rule is Invariant.REVERSALS_TAKE_BACK_THEIR_PART
    ]


@pytest.mark.parametrize(("taken", "absorbed"), [((4, 2), 0), ((0, 0), 6), ((4, 0), 2)])
def test_a_reversal_that_takes_or_absorbs_its_part_has_no_problems(
    taken: Sequence[int], absorbed: int
) -> None:
    assert returned(taken=taken, absorbed=absorbed) == []


@pytest.mark.parametrize(
    ("taken", "absorbed"),
    [((4, 3), 0), ((5, 2), 0), ((4, 1), 0), ((4, 2), 1), ((5, 1), 0), ((5, 2), -1)],
)
def test_a_reversal_of_more_or_less_is_found(taken: Sequence[int], absorbed: int) -> None:
    found, wanted = (", ".join(f"{n} CREDIT" for n in amounts) for amounts in (taken, (4, 2)))

    assert returned(taken=taken, absorbed=absorbed) == [
        f"{found} taken and {absorbed} CREDIT absorbed instead of {wanted}"
    ]


def test_a_reversal_of_an_unreadable_payment_is_found() -> None:
    assert returned("much") == ["amount: expected an amount and its unit, got 'much'"]


def test_a_payment_that_is_not_returned_as_far_as_due_is_found() -> None:
    payment = Payment(purchase=planned(), returned=usd("1.00"), refunded=usd("2.00"))

    assert list(dispute_problems(payment)) == [
        (Invariant.PAYMENTS_ARE_RETURNED_AS_FAR_AS_DUE, "1.00 USD returned instead of 2.00 USD")
    ]


def test_a_dispute_that_sets_nothing_aside_is_found() -> None:
    payment = Payment(purchase=planned(), returned=usd("0.00"), refunded=usd("0.00"))
    asked = DisputeRequest(
        tenant=ALICE, amount=usd("4.00"), payment="stripe:pi_1", reference="dp_1", metadata=None
    )
    dispute = plan_dispute(asked, payment, at=NOON, dispute_id=UUID(int=9))
    disputed = evolve(payment, disputes=(dispute,))

    assert [rule for rule, _ in dispute_problems(disputed)] == [
        Invariant.DISPUTES_ARE_OF_THEIR_PAYMENT
    ]
    assert not list(dispute_problems(evolve(disputed, disputes=disputed.disputes_at(usd("0.00")))))
