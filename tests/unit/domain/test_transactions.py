"""A transaction that does not balance, or is not of its kind, cannot exist."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any
from uuid import UUID

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cogni_billing import (
    SYSTEM_ACCOUNT_ID,
    SYSTEM_TENANT_ID,
    AccountId,
    Difference,
    IdempotencyConflict,
    RevenueSharePolicy,
    Share,
    ShareMode,
    ShareRule,
    TenantId,
    TransactionKind,
    UnbalancedTransaction,
    credits,
    usd,
    usd_cents,
)
from cogni_billing.domain.idempotency import same_or_conflict
from cogni_billing.domain.identity import BREAKAGE, ISSUANCE, SHORTFALL, USAGE
from cogni_billing.domain.purchases import plan_purchase, request_purchase
from cogni_billing.domain.transactions import (
    GrantTerms,
    Posting,
    Reversal,
    Transaction,
    balanced,
    imbalance,
)
from cogni_billing.testing.base import ALICE, BOB, NOON
from cogni_billing.testing.contracts.purchases import planned

ALICES = AccountId(ALICE)


def transaction(*postings: Posting, shares: tuple[Share, ...] = ()) -> Transaction:
    return Transaction(
        id=UUID(int=1),
        tenant=ALICE,
        kind=TransactionKind.PURCHASE,
        reference="stripe:pi_1",
        at=NOON,
        postings=postings,
        shares=shares,
    )


def leg(account: AccountId, amount: int) -> Posting:
    return Posting(account, credits(amount))


SHARE = (Share(SYSTEM_ACCOUNT_ID, credits(1)),)


@pytest.mark.parametrize(
    "build",
    [
        transaction,
        lambda: transaction(leg(ALICES, 0)),
        lambda: transaction(leg(AccountId(BOB), 5), leg(ISSUANCE, -5)),
        lambda: transaction(leg(ALICES, 5), leg(USAGE, -5)),
        lambda: transaction(leg(ISSUANCE, -5), leg(ALICES, 5)),
        lambda: transaction(leg(ALICES, 5), leg(SYSTEM_ACCOUNT_ID, 1), leg(ISSUANCE, -6)),
        lambda: transaction(leg(ALICES, 5), leg(ISSUANCE, -5), shares=SHARE),
        lambda: transaction(leg(ALICES, 5), leg(ISSUANCE, -4), leg(ISSUANCE, -1)),
    ],
)
def test_postings_that_are_not_those_of_a_purchase_are_refused(
    build: Callable[[], Transaction],
) -> None:
    with pytest.raises(UnbalancedTransaction, match="not those of a purchase"):
        build()


def test_postings_that_do_not_sum_to_zero_are_refused_with_the_excess() -> None:
    with pytest.raises(UnbalancedTransaction) as caught:
        transaction(leg(ALICES, 5), leg(ISSUANCE, -4))

    assert caught.value.excess == (credits(1),)
    assert str(caught.value) == "postings do not sum to zero, 1 CREDIT"


def test_each_unit_must_sum_to_zero_by_itself() -> None:
    mixed = (leg(ALICES, 5), Posting(ISSUANCE, usd(-5)))

    assert imbalance(mixed) == (credits(5), usd(-5))
    with pytest.raises(UnbalancedTransaction):
        transaction(*mixed)


def test_a_share_of_zero_makes_no_posting() -> None:
    shares = (Share(SYSTEM_ACCOUNT_ID, credits(0)),)

    assert balanced(TransactionKind.PURCHASE, ALICE, credits(3), shares) == (
        leg(ALICES, 3),
        leg(ISSUANCE, -3),
    )


def test_nothing_in_a_transaction_can_be_changed() -> None:
    made = planned(metadata={"a": 1})

    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        made.reference = "other"  # type: ignore[misc]
    for mapping in (made.request, made.metadata):
        with pytest.raises(TypeError):
            mapping["a"] = 2  # type: ignore[index]


def test_every_kind_is_its_name_and_has_an_account_for_the_other_side() -> None:
    contra = {kind: kind.contra for kind in TransactionKind}

    assert contra == {
        "purchase": ISSUANCE,
        "charge": USAGE,
        "capture": USAGE,
        "grant": ISSUANCE,
        "expiry": BREAKAGE,
        "refund": ISSUANCE,
        "chargeback": ISSUANCE,
    }
    assert [kind for kind in TransactionKind if kind.raises] == ["purchase", "grant"]


@pytest.mark.parametrize(("kind", "amount"), [("purchase", -5), ("charge", 5), ("capture", 5)])
def test_a_kind_either_raises_or_lowers(kind: str, amount: int) -> None:
    made = TransactionKind(kind)

    with pytest.raises(UnbalancedTransaction, match=f"a {kind} of {amount} CREDIT"):
        attrs.evolve(
            planned(), kind=made, shares=(), postings=balanced(made, ALICE, credits(amount))
        )


def test_a_grant_has_terms_and_nothing_else_has() -> None:
    grant = TransactionKind.GRANT
    minted = balanced(grant, ALICE, credits(5))

    with pytest.raises(UnbalancedTransaction, match="a grant with terms None"):
        attrs.evolve(planned(), kind=grant, shares=(), postings=minted)
    with pytest.raises(UnbalancedTransaction, match="a purchase with terms GrantTerms"):
        attrs.evolve(planned(), terms=GrantTerms(source="promo:a", priority=0))


def test_a_refund_takes_something_back_and_nothing_else_does() -> None:
    reversal = Reversal(purchase=UUID(int=5), amount=usd(1), total=usd(1))

    with pytest.raises(UnbalancedTransaction, match="a purchase with reversal Reversal"):
        attrs.evolve(planned(), reversal=reversal)
    with pytest.raises(UnbalancedTransaction, match="a refund with reversal None"):
        attrs.evolve(
            planned(),
            kind=TransactionKind.REFUND,
            shares=(),
            postings=balanced(TransactionKind.REFUND, ALICE, credits(-5)),
        )


@pytest.mark.parametrize(("kind", "lawful"), [("purchase", True), ("charge", False)])
def test_of_nothing_there_are_purchases_and_no_charges(kind: str, lawful: bool) -> None:
    of_nothing: dict[str, Any] = {
        "kind": TransactionKind(kind),
        "shares": (),
        "postings": balanced(TransactionKind(kind), ALICE, credits(0)),
    }

    if lawful:
        assert attrs.evolve(planned(), **of_nothing).amount == credits(0)
    else:
        with pytest.raises(UnbalancedTransaction, match="a charge of 0 CREDIT"):
            attrs.evolve(planned(), **of_nothing)


def test_what_is_absorbed_is_given_by_the_shortfall_account() -> None:
    kind = TransactionKind.REFUND
    shares = (Share(SYSTEM_ACCOUNT_ID, credits(-2)),)

    assert balanced(kind, ALICE, credits(-3), shares, credits(5)) == (
        leg(ALICES, -3),
        leg(SYSTEM_ACCOUNT_ID, -2),
        leg(SHORTFALL, -5),
        leg(ISSUANCE, 10),
    )


def test_a_posting_belongs_to_the_owner_of_its_account() -> None:
    assert leg(ALICES, 1).tenant == ALICE
    assert leg(ISSUANCE, 1).tenant == SYSTEM_TENANT_ID


@given(
    cents=st.integers(1, 10**29),
    rate=st.decimals(0, 10, places=12),
    tenant=st.sampled_from([ALICE, SYSTEM_TENANT_ID]),
)
def test_every_planned_purchase_conserves_credits(
    cents: int, rate: Decimal, tenant: TenantId
) -> None:
    policy = RevenueSharePolicy(
        version="v1",
        effective_from=NOON,
        mode=ShareMode.BONUS,
        rules=(ShareRule(SYSTEM_ACCOUNT_ID, rate),),
    )
    request = request_purchase(tenant, usd_cents(cents), payment="stripe:pi_1", metadata=None)
    purchase = plan_purchase(request, policy, NOON, UUID(int=1))

    amounts = [int(posting.amount.value) for posting in purchase.postings]
    assert sum(amounts) == 0
    assert amounts[0] == cents * 100_000
    assert purchase.postings[-1].account == ISSUANCE
    assert len(purchase.shares) == (tenant == ALICE)


def test_a_plan_records_every_input_of_its_shares() -> None:
    purchase = planned()

    assert purchase.policy == RevenueSharePolicy.default().to_dict()
    assert purchase.request == {"amount": "10.00 USD"}
    assert planned(SYSTEM_TENANT_ID).policy["rules"] == ()


class TestIdempotency:
    def test_the_same_request_is_answered(self) -> None:
        same_or_conflict(planned(metadata={"a": 1}), planned(number=2).request)

    def test_each_difference_is_named_with_both_sides(self) -> None:
        stored = attrs.evolve(planned(), request={"amount": "1 CREDIT", "overdraft": "no"})
        asked = {"amount": "2 CREDIT", "target": "x"}

        with pytest.raises(IdempotencyConflict) as caught:
            same_or_conflict(stored, asked)

        assert caught.value.reference == "stripe:pi_1"
        assert caught.value.differences == (
            Difference("amount", "1 CREDIT", "2 CREDIT"),
            Difference("overdraft", "no", "absent"),
            Difference("target", "absent", "x"),
        )
        assert str(caught.value) == (
            "'stripe:pi_1': amount was 1 CREDIT, now 2 CREDIT; "
            "overdraft was no, now absent; target was absent, now x"
        )
