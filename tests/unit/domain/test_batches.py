"""A batch is planned as if its transactions were posted one after another."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from cogni_billing import (
    BillingError,
    IdempotencyConflict,
    InsufficientCredits,
    LedgerCorruption,
    PaymentAlreadyClaimed,
    TransactionKind,
    credits,
)
from cogni_billing.domain.batches import Answer, plan_batch, to_post
from cogni_billing.domain.charges import Charge, plan_charge
from cogni_billing.domain.transactions import Recorded, Transaction
from cogni_billing.testing.base import ALICE, NOON, CountingIds
from cogni_billing.testing.contracts.purchases import planned

ids = CountingIds()


def charge(reference: str, amount: int, *, overdraft: bool = False) -> Transaction:
    return plan_charge(
        Charge(
            tenant=ALICE, amount=credits(amount), reference=reference, allow_overdraft=overdraft
        ),
        at=NOON,
        transaction_id=ids.new(),
    )


def plan(
    *transactions: Transaction,
    stored: Sequence[Transaction] = (),
    claimed: frozenset[str] = frozenset(),
    available: int = 0,
) -> list[Answer]:
    recorded = {(t.kind, t.reference): Recorded(t, credits(0), replayed=True) for t in stored}
    return plan_batch(transactions, stored=recorded, claimed=claimed, available=credits(available))


def shown(answers: Sequence[Answer]) -> list[object]:
    return [str(answer) if isinstance(answer, BillingError) else answer for answer in answers]


def test_a_charge_leaves_less_for_the_next() -> None:
    first, dear, cheap = charge("a", 6), charge("b", 5), charge("c", 4)

    answers = plan(first, dear, cheap, available=10)

    assert shown(answers) == [first, "5 CREDIT required, 4 CREDIT available", cheap]
    assert to_post(answers) == (first, cheap)


def test_an_overdraft_leaves_less_than_zero_for_the_next() -> None:
    over, small = charge("a", 6, overdraft=True), charge("b", 1)

    assert shown(plan(over, small, available=5)) == [
        over,
        "1 CREDIT required, -1 CREDIT available",
    ]


def test_a_purchase_covers_a_later_charge() -> None:
    bought, spent = planned(), charge("a", 100_000_000)

    assert plan(bought, spent) == [bought, spent]


def test_a_key_given_twice_is_posted_once_and_another_request_conflicts() -> None:
    first, again, other = charge("a", 3), charge("a", 3), charge("a", 4)

    answers = plan(first, again, other, available=10)

    assert answers[:2] == [first, first]
    assert isinstance(answers[2], IdempotencyConflict)
    assert to_post(answers) == (first,)


def test_an_id_given_twice_is_refused() -> None:
    first = charge("a", 3)
    second = evolve(charge("b", 3), id=first.id)

    with pytest.raises(LedgerCorruption) as refused:
        to_post([first, second])

    assert str(refused.value) == f"the id source gave {first.id} twice"


def test_a_key_whose_first_request_was_refused_is_free() -> None:
    refused, asked = charge("a", 11), charge("a", 10)

    answers = plan(refused, asked, available=10)

    assert isinstance(answers[0], InsufficientCredits)
    assert answers[1] is asked


def test_a_stored_transaction_answers_and_is_not_posted() -> None:
    before, again, other = charge("a", 3), charge("a", 3), charge("a", 4)

    answers = plan(again, other, stored=[before])

    assert answers[0] == Recorded(before, credits(0), replayed=True)
    assert isinstance(answers[1], IdempotencyConflict)
    assert to_post(answers) == ()


def test_a_claimed_payment_is_refused_and_a_charge_with_its_key_is_not() -> None:
    bought = planned(payment="a:1")

    answers = plan(bought, charge("a:1", 1), claimed=frozenset({"a:1"}), available=1)

    assert isinstance(answers[0], PaymentAlreadyClaimed)
    assert answers[0].payment == "a:1"
    assert isinstance(answers[1], Transaction)


requests = st.lists(
    st.tuples(st.sampled_from("abc"), st.integers(1, 6), st.booleans()), max_size=12
)


@given(requests=requests, available=st.integers(-3, 12))
def test_a_planned_batch_matches_single_plans(
    requests: list[tuple[str, int, bool]], available: int
) -> None:
    transactions = [charge(key, amount, overdraft=over) for key, amount, over in requests]

    together = plan(*transactions, available=available)

    done: dict[str, Transaction] = {}
    left, places = available, count()
    for transaction in transactions:
        [alone] = plan(transaction, stored=list(done.values()), available=left)
        answer = together[next(places)]
        if isinstance(alone, BillingError):
            assert type(answer) is type(alone)
            assert str(answer) == str(alone)
        elif isinstance(alone, Recorded):
            assert answer is done[transaction.reference]
        else:
            assert answer is transaction
            done[transaction.reference] = transaction
            left += int(transaction.amount.value)
    assert to_post(together) == tuple(done.values())
    assert all(t.kind is TransactionKind.CHARGE for t in to_post(together))


@pytest.mark.parametrize("size", [0, 1])
def test_a_plan_has_one_answer_for_each_transaction(size: int) -> None:
    transactions = [charge("a", 1)][:size]

    assert len(plan(*transactions, available=1)) == size
