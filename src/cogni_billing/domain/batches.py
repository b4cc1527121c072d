"""Batches: many requests in one call, and the outcome of each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Any, Final, Generic, TypeVar

from attrs import frozen

from cogni_billing.domain.charges import Charge
from cogni_billing.domain.errors import (
    BillingError,
    InvalidInput,
    LedgerCorruption,
    LedgerUnavailable,
    PrivilegeRequired,
    shown,
)
from cogni_billing.domain.purchases import Purchase
from cogni_billing.domain.receipts import Receipt

Made = TypeVar("Made", bound=Receipt)
Request = TypeVar("Request", Purchase, Charge)


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
