"""Batches: many requests in one call, and the outcome of each."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Any, Final, Generic, TypeAlias, TypeVar
from uuid import UUID

from attrs import frozen

from cogni_billing.domain.amounts import Amount
from cogni_billing.domain.charges import Charge
from cogni_billing.domain.errors import (
    BillingError,
    InsufficientCredits,
    InvalidInput,
    LedgerCorruption,
    LedgerUnavailable,
    PaymentAlreadyClaimed,
    PrivilegeRequired,
    given_twice,
    shown,
)
from cogni_billing.domain.idempotency import same_or_conflict
from cogni_billing.domain.kinds import TransactionKind
from cogni_billing.domain.purchases import Purchase
from cogni_billing.domain.receipts import Receipt
from cogni_billing.domain.transactions import Recorded, Transaction

Made = TypeVar("Made", bound=Receipt)
Request = TypeVar("Request", Purchase, Charge)
Key: TypeAlias = tuple[TransactionKind, str]


ENDS_ALL: Final = (LedgerUnavailable, LedgerCorruption, PrivilegeRequired)
"""Errors that abort the whole scope instead of failing one request."""


class OutcomeState(StrEnum):
    """The state of one request of a batch."""

    DONE = "done"
    REPLAYED = "replayed"
    REFUSED = "refused"


@frozen
class Outcome(Generic[Made]):
    """The outcome of one request of a batch: a receipt if it was done, or the error."""

    receipt: Made | None = None
    error: BillingError | None = None

    @property
    def state(self) -> OutcomeState:
        if self.receipt is None:
            return OutcomeState.REFUSED
        return OutcomeState.REPLAYED if self.receipt.replayed else OutcomeState.DONE


def batch_of(requests: object, kind: type[Request], field: str) -> tuple[object, ...]:
    """The requests in order. A mapping is converted to a *kind* if its keys are the arguments.

    Raises:
        InvalidInput: *requests* is no iterable.
    """
    if not isinstance(requests, Iterable) or isinstance(requests, (str, bytes, Mapping)):
        raise InvalidInput(field, shown(requests), f"an iterable of {kind.__name__}")
    return tuple(
        _made(kind, request) if isinstance(request, Mapping) else request for request in requests
    )


def _made(kind: type[Request], given: Mapping[str, Any]) -> Request | Mapping[str, object]:
    try:
        return kind(**given)
    except TypeError:
        return given


def checked_request(request: object, kind: type[Request]) -> Request:
    """*request*, which must be a *kind*.

    Raises:
        InvalidInput: *request* is no *kind*.
    """
    if not isinstance(request, kind):
        name = kind.__name__
        raise InvalidInput(
            name.lower(), shown(request), f"a {name}, or a mapping with its arguments"
        )
    return request


Answer: TypeAlias = Recorded | Transaction | BillingError
"""A stored transaction, a transaction to post, or the error that refuses the request."""


def plan_batch(
    transactions: Sequence[Transaction],
    *,
    stored: Mapping[Key, Recorded],
    claimed: Container[str],
    available: Amount,
) -> list[Answer]:
    """Plan the answer to each of *transactions*, as if they were posted one after another.

    If several have the same key, the first is posted and answers the others, too. A purchase is
    refused if another tenant has *claimed* its payment.
    """
    answers, accepted = list[Answer](), dict[Key, Transaction]()
    for transaction in transactions:
        key = (transaction.kind, transaction.reference)
        try:
            if key in stored:
                same_or_conflict(stored[key].transaction, transaction.request)
                answers.append(stored[key])
            elif key in accepted:
                same_or_conflict(accepted[key], transaction.request)
                answers.append(accepted[key])
            elif transaction.kind is TransactionKind.PURCHASE and transaction.reference in claimed:
                raise PaymentAlreadyClaimed(transaction.reference)
            else:
                required = -transaction.amount
                if required.is_positive and not transaction.overdraft and required > available:
                    raise InsufficientCredits(required, available)
                available += transaction.amount
                accepted[key] = transaction
                answers.append(transaction)
        except BillingError as error:
            answers.append(error)
    return answers


def to_post(answers: Sequence[Answer]) -> tuple[Transaction, ...]:
    """The transactions in *answers*, each once, in their order.

    Raises:
        LedgerCorruption: two transactions have the same id.
    """
    found = {(a.kind, a.reference): a for a in answers if isinstance(a, Transaction)}
    ids = set[UUID]()
    for transaction in found.values():
        if transaction.id in ids:
            raise given_twice(transaction.id)
        ids.add(transaction.id)
    return tuple(found.values())
