"""Posting many transactions, with the same outcomes on every adapter."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import TypeAlias

from cogni_billing.domain.batches import ENDS_ALL
from cogni_billing.domain.errors import BillingError, OthersRefused
from cogni_billing.domain.transactions import Recorded, Transaction

Answers: TypeAlias = list[Recorded | BillingError]
Savepoint: TypeAlias = Callable[[], AbstractContextManager[object]]
"""Opens a block whose changes are rolled back if it raises."""


def one_by_one(
    transactions: Sequence[Transaction],
    post: Callable[[Transaction], Recorded],
    savepoint: Savepoint,
) -> Answers:
    """Call *post* for each transaction. A refused transaction is rolled back to its savepoint.

    Raises:
        BillingError: an error of `ENDS_ALL`, which aborts the whole scope.
    """
    answers: Answers = []
    for transaction in transactions:
        try:
            with savepoint():
                answers.append(post(transaction))
        except ENDS_ALL:
            raise
        except BillingError as error:
            answers.append(error)
    return answers


def all_or_none(post: Callable[[], Answers], savepoint: Savepoint) -> Answers:
    """The answers of *post*. If any transaction is refused, all of them are rolled back."""
    answers: Answers = []
    try:
        with savepoint():
            answers = post()
            if any(isinstance(answer, BillingError) for answer in answers):
                raise OthersRefused
    except OthersRefused as others:
        return [answer if isinstance(answer, BillingError) else others for answer in answers]
    return answers
