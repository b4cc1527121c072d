"""Convert the answers of the database's functions to the domain's values and errors."""

from __future__ import annotations

from typing import Any, Final
from uuid import UUID

from attrs import evolve

from cogni_billing.adapters.postgres.rows import (
    draws_from,
    in_credits,
    moment,
    recorded_from,
    shares_from,
)
from cogni_billing.domain.amounts import Amount
from cogni_billing.domain.errors import (
    AccountFrozen,
    BillingError,
    HoldClosed,
    InsufficientCredits,
    LedgerCorruption,
    PaymentAlreadyClaimed,
    ReversalExceedsCharge,
    UnknownAccount,
    UnknownCharge,
    UnknownHold,
)
from cogni_billing.domain.holds import HoldState
from cogni_billing.domain.idempotency import same_or_conflict
from cogni_billing.domain.kinds import TransactionKind
from cogni_billing.domain.timestamps import require_recent, require_unexpired
from cogni_billing.domain.transactions import GivingBack, Recorded, Transaction

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
        balance = in_credits(answer["balance"])
        if "grants" not in answer:  # as in most answers
            return Recorded(transaction, balance, replayed=False)
        draws = draws_from(answer["grants"], answer["amounts"], answer.get("lots"))
        return Recorded(_filled(transaction, answer), balance, replayed=False, draws=draws)
    if answer["outcome"] == "replayed":
        stored = recorded_from(answer["stored"], transaction.tenant)
        same_or_conflict(stored.transaction.named_like(transaction), transaction.request)
        ours = repeated and stored.transaction.id == transaction.id
        return evolve(stored, replayed=not ours)
    raise _refusal(transaction, answer)


def _filled(transaction: Transaction, answer: Any) -> Transaction:
    """Fill in the amounts that the database decided."""
    if transaction.at_most is not None:
        return evolve(transaction, amount=in_credits(answer["amount"]))
    if transaction.kind.reinstates:
        _, _, _, absorbed, beneficiaries, shares, lapsed = answer["other"].values()
        return evolve(
            transaction,
            amount=in_credits(answer["amount"]),
            shares=shares_from(beneficiaries, shares),
            absorbed=in_credits(absorbed),
            lapsed=in_credits(lapsed or 0),
        )
    if (given := transaction.giving_back) is None:
        return transaction
    charge, part, so_far, expired, *_ = answer["other"].values()
    return evolve(
        transaction,
        amount=in_credits(answer["amount"]),
        absorbed=in_credits(expired),
        giving_back=evolve(
            given, charge=UUID(charge), amount=in_credits(part), total=in_credits(so_far)
        ),
    )


def _not_given_back(asked: GivingBack, answer: Any) -> BillingError:
    if answer["outcome"] == "unknown_charge":
        return UnknownCharge(asked.named)
    required = asked.asked or in_credits(answer["charged"])
    return ReversalExceedsCharge(required, in_credits(answer["remaining"]))


def _refusal(transaction: Transaction, answer: Any) -> BillingError:  # noqa: PLR0911 (each outcome)
    match answer["outcome"]:
        case "claimed":
            return PaymentAlreadyClaimed(transaction.reference)
        case "unknown_account":
            return UnknownAccount(transaction.tenant)
        case "frozen":
            return AccountFrozen(moment(answer["since"]))
        case "insufficient":
            return insufficient(-transaction.amount, answer)
        case "unknown_charge" | "exceeds_charge" if transaction.giving_back is not None:
            return _not_given_back(transaction.giving_back, answer)
        case "unknown_hold" if transaction.subject is not None:
            return UnknownHold(transaction.subject)
        case "hold_closed" if transaction.subject is not None:
            return HoldClosed(transaction.subject, HoldState(answer["state"]))
        case "untimely" if transaction.occurred_at is not None:
            opened_at = moment(answer["opened_at"])
            require_recent(transaction.occurred_at, opened_at, transaction.at)
        case "expired" if transaction.terms is not None:
            require_unexpired(transaction.terms.expires_at, moment(answer["present"]))
    return unexpected(answer)


def insufficient(required: Amount, answer: Any) -> InsufficientCredits:
    """Convert the refusal of *required* credits."""
    held, limit = answer.get("held"), answer.get("overdraft_limit")
    return InsufficientCredits(
        required,
        in_credits(answer["available"]),
        None if held is None else in_credits(held),
        None if limit is None else in_credits(limit),
    )


def unexpected(answer: Any) -> BillingError:
    """Return the error for an answer that this version does not know."""
    return LedgerCorruption(f"the database answered {answer['outcome']!r}")
