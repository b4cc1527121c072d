"""Convert the answers of the database's functions to the domain's values and errors."""

from __future__ import annotations

from typing import Any, Final

from attrs import evolve

from cogni_billing.adapters.postgres.rows import draws_from, in_credits, moment, recorded_from
from cogni_billing.domain.errors import (
    BillingError,
    HoldClosed,
    InsufficientCredits,
    LedgerCorruption,
    PaymentAlreadyClaimed,
    UnknownAccount,
    UnknownHold,
)
from cogni_billing.domain.holds import HoldState
from cogni_billing.domain.idempotency import same_or_conflict
from cogni_billing.domain.kinds import TransactionKind
from cogni_billing.domain.timestamps import require_unexpired
from cogni_billing.domain.transactions import Recorded, Transaction

MORE_DUE: Final = "more_due"
"""More expirations were due than one call posts. The caller makes the same call again."""


def door_of(kind: TransactionKind) -> str:
    """Return the name of the function that records transactions of *kind*."""
    if kind.reverses:
        return "reverse"
    if kind.corrects:
        return "adjust"
    return "mint" if kind.is_credit else "spend"


def posted(transaction: Transaction, answer: Any, *, repeated: bool = False) -> Recorded:
    """Convert *answer* to the record of *transaction*.

    With *repeated*, an earlier try of the same call may have recorded the transaction and lost the
    answer. The record is then not marked as a replay.

    Raises:
        BillingError: the database refused the transaction, or its key was used for another request.
    """
    if answer["outcome"] == "done":
        if transaction.at_most is not None:
            taken = answer.get("amount", transaction.amount.value)
            transaction = evolve(transaction, amount=in_credits(int(taken)))
        return Recorded(
            transaction,
            in_credits(answer["balance"]),
            replayed=False,
            draws=draws_from(answer.get("grants"), answer.get("amounts")),
        )
    if answer["outcome"] == "replayed":
        stored = recorded_from(answer["stored"], transaction.tenant)
        same_or_conflict(stored.transaction, transaction.request)
        ours = repeated and stored.transaction.id == transaction.id
        return evolve(stored, replayed=not ours)
    raise _refusal(transaction, answer)


def _refusal(transaction: Transaction, answer: Any) -> BillingError:
    match answer["outcome"]:
        case "claimed":
            return PaymentAlreadyClaimed(transaction.reference)
        case "unknown_account":
            return UnknownAccount(transaction.tenant)
        case "insufficient":
            held = answer.get("held")
            return InsufficientCredits(
                -transaction.amount,
                in_credits(answer["available"]),
                None if held is None else in_credits(held),
            )
        case "unknown_hold" if transaction.subject is not None:
            return UnknownHold(transaction.subject)
        case "hold_closed" if transaction.subject is not None:
            return HoldClosed(transaction.subject, HoldState(answer["state"]))
        case "expired" if transaction.terms is not None:
            require_unexpired(transaction.terms.expires_at, moment(answer["present"]))
    return unexpected(answer)


def unexpected(answer: Any) -> BillingError:
    """Return the error for an answer that this version does not know."""
    return LedgerCorruption(f"the database answered {answer['outcome']!r}")
