"""Findings: the answers of payment verifiers."""

from __future__ import annotations

from enum import StrEnum
from typing import Final, TypeAlias

from attrs import field, frozen

from cogni_billing.domain.errors import (
    InvalidInput,
    shown,
)
from cogni_billing.domain.identity import reference

CONFIRMATIONS_FOUND_MAX: Final = 2**63 - 1
RAW_MAX: Final = 2**256 - 1
"""The largest amount of a token (https://eips.ethereum.org/EIPS/eip-20)."""


class FailureCode(StrEnum):
    """The fault of a payment, or of the lookup."""

    SENDER_MISMATCH = "SENDER_MISMATCH"
    INVALID_TOKEN = "INVALID_TOKEN"  # noqa: S105 (no secret)
    INVALID_RECIPIENT = "INVALID_RECIPIENT"
    INVALID_CHAIN = "INVALID_CHAIN"
    INSUFFICIENT_AMOUNT = "INSUFFICIENT_AMOUNT"
    INSUFFICIENT_CONFIRMATIONS = "INSUFFICIENT_CONFIRMATIONS"
    TX_NOT_FOUND = "TX_NOT_FOUND"
    TX_REVERTED = "TX_REVERTED"
    TOKEN_TRANSFER_NOT_FOUND = "TOKEN_TRANSFER_NOT_FOUND"  # noqa: S105
    RECIPIENT_MISMATCH = "RECIPIENT_MISMATCH"
    RECEIPT_NOT_FOUND = "RECEIPT_NOT_FOUND"
    INTENT_EXPIRED = "INTENT_EXPIRED"
    RPC_ERROR = "RPC_ERROR"


NOT_THERE_YET: Final = frozenset({FailureCode.TX_NOT_FOUND, FailureCode.RECEIPT_NOT_FOUND})
"""The attempt stays pending, until the limits say to give up."""
TRANSIENT: Final = frozenset({FailureCode.RPC_ERROR, FailureCode.INSUFFICIENT_CONFIRMATIONS})
"""The attempt stays pending without end, because the payment may exist."""
_OURS: Final = frozenset({FailureCode.INTENT_EXPIRED})
"""Set by the library, never by a verifier."""


@frozen(kw_only=True)
class PaymentVerified:
    """The facts of a payment that a verifier found. Addresses are compared in lower case."""

    provider: str
    token: str
    sender: str | None
    """The payer, or `None` if the provider does not say."""
    recipient: str
    raw_amount: int
    """In the smallest units of the token."""
    confirmations: int = 0


def _reason(given: FailureCode) -> FailureCode:
    waited_for = NOT_THERE_YET | TRANSIENT
    if not isinstance(given, str) or given not in waited_for:
        raise InvalidInput("reason", shown(given), " or ".join(sorted(waited_for)))
    return FailureCode(given)


@frozen
class PaymentPending:
    """The payment is not known yet, for this reason. Ask again later."""

    reason: FailureCode = field(default=FailureCode.RECEIPT_NOT_FOUND, converter=_reason)


def _code(given: FailureCode) -> FailureCode:
    if not isinstance(given, str) or given not in set(FailureCode) - _OURS:
        raise InvalidInput("code", shown(given), "a FailureCode that a verifier can report")
    return FailureCode(given)


@frozen
class PaymentFailed:
    """The payment is not as intended.

    With a code in `NOT_THERE_YET` or `TRANSIENT` the attempt stays pending all the same.
    """

    code: FailureCode = field(converter=_code)


Finding: TypeAlias = PaymentVerified | PaymentPending | PaymentFailed
"""The answer of a verifier."""


def checked_finding(given: object) -> Finding:
    """*given* as a valid finding.

    Raises:
        InvalidInput: *given* is of another type, or a number is invalid.
        InvalidReference: a text of it is invalid.
    """
    if isinstance(given, (PaymentPending, PaymentFailed)):
        return given
    if not isinstance(given, PaymentVerified):
        expected = "PaymentVerified, PaymentPending or PaymentFailed"
        raise InvalidInput("finding", shown(given), expected)
    for name in ("provider", "token", "recipient", "sender"):
        if name != "sender" or given.sender is not None:
            reference(getattr(given, name), name)
    for name, limit in (("raw_amount", RAW_MAX), ("confirmations", CONFIRMATIONS_FOUND_MAX)):
        number = getattr(given, name)
        if type(number) is not int or not 0 <= number <= limit:
            raise InvalidInput(name, shown(number), f"a whole number from 0 to {limit}")
    return given
