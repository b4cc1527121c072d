"""Payment events: facts about a payment that a processor sends, in no processor's own format."""

from __future__ import annotations

from datetime import datetime
from typing import Final
from uuid import UUID

from attrs import field, frozen

from cogni_billing.domain.amounts import USD, Amount, from_quanta
from cogni_billing.domain.disputes import DisputeState
from cogni_billing.domain.errors import InvalidInput, UnitMismatch, shown
from cogni_billing.domain.findings import (
    RAW_MAX,
    FailureCode,
    Finding,
    PaymentFailed,
    PaymentVerified,
)
from cogni_billing.domain.identity import TenantId, payment_reference, reference
from cogni_billing.domain.timestamps import utc

USD_CODE: Final = "usd"


def _id(given: str) -> str:
    return reference(given, "id")


def _aliases(given: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(reference(each, "aliases") for each in given)


def _at(given: datetime) -> datetime:
    return utc(given, "at")


def _raw_amount(given: int) -> int:
    if type(given) is not int or not 0 <= given <= RAW_MAX:
        raise InvalidInput("raw_amount", shown(given), f"a whole number from 0 to {RAW_MAX}")
    return given


def _currency(given: str) -> str:
    return reference(given, "currency")


def _object(given: str) -> str:
    return reference(given, "reference")


@frozen(kw_only=True)
class PaymentEvent:
    """An event of a payment. The subclass says what happened.

    Raises:
        InvalidInput: a field is invalid.
    """

    id: str = field(converter=_id)
    """The event, `provider:id`. A processor sends the same event again with the same id."""
    payment: str = field(converter=payment_reference)
    """The payment, `provider:id`, as `confirm_purchase` takes it."""
    aliases: tuple[str, ...] = field(default=(), converter=_aliases)
    """Other ids of the same payment, such as those of its checkout session and of its charge."""
    at: datetime = field(converter=_at)
    """The time of the event at the processor, in UTC."""
    tenant: TenantId | None = None
    """The tenant in the metadata that the host gave to the processor."""
    attempt_id: UUID | None = None
    """The payment attempt in the metadata."""

    @property
    def provider(self) -> str:
        """The name of the processor."""
        return self.payment.partition(":")[0]


@frozen(kw_only=True)
class MoneyEvent(PaymentEvent):
    """A payment event with an amount of money."""

    raw_amount: int = field(converter=_raw_amount)
    """In the smallest units of the currency, such as cents."""
    currency: str = field(converter=_currency)
    """The code of the currency, in lower case."""

    @property
    def amount(self) -> Amount:
        """The amount in US dollars.

        Raises:
            UnitMismatch: the currency is another one.
        """
        if self.currency != USD_CODE:
            raise UnitMismatch("currency", shown(self.currency), USD_CODE)
        return from_quanta(self.raw_amount, USD)


@frozen(kw_only=True)
class PaymentSucceeded(MoneyEvent):
    """The customer has paid this amount."""

    sender: str | None = None
    """The processor's id of the customer, if it has one."""
    recipient: str
    """The merchant account that was paid."""

    @property
    def finding(self) -> Finding:
        """The event as the finding of a verifier, for `PaymentAttempts.report`."""
        return PaymentVerified(
            provider=self.provider,
            token=self.currency,
            sender=self.sender,
            recipient=self.recipient,
            raw_amount=self.raw_amount,
        )


@frozen(kw_only=True)
class PaymentCanceled(PaymentEvent):
    """The payment has ended without money, and cannot succeed later."""

    @property
    def finding(self) -> Finding:
        """The event as the finding of a verifier, for `PaymentAttempts.report`."""
        return PaymentFailed(FailureCode.TX_REVERTED)


@frozen(kw_only=True)
class PaymentDeclined(PaymentEvent):
    """One try to pay has failed. The customer may try again, with another card."""


@frozen(kw_only=True)
class PaymentRefunded(MoneyEvent):
    """This much of the payment was refunded so far, in total."""

    charged: int = field(converter=_raw_amount)
    """The whole payment, in the smallest units of the currency."""


@frozen(kw_only=True)
class RefundMade(MoneyEvent):
    """One refund of this amount was made. The money is on its way, or has arrived."""

    reference: str = field(converter=_object)
    """The processor's id of the refund."""


@frozen(kw_only=True)
class RefundFailed(MoneyEvent):
    """A refund of this amount has failed, so the merchant has the money again."""

    reference: str = field(converter=_object)
    """The processor's id of the refund."""


@frozen(kw_only=True)
class DisputeChanged(MoneyEvent):
    """A dispute of this amount was opened or closed, or its amount has changed."""

    reference: str = field(converter=_object)
    """The processor's id of the dispute."""
    state: DisputeState


@frozen(kw_only=True)
class FraudWarned(PaymentEvent):
    """The card's issuer suspects fraud. A dispute may follow, and a refund may prevent it."""

    reference: str = field(converter=_object)
    """The processor's id of the warning."""
