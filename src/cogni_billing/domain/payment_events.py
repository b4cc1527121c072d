"""Payment events: facts about a payment that a processor sends, in no processor's own format."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from types import MappingProxyType
from typing import Any, Final
from uuid import UUID

from attrs import field, fields, frozen
from attrs.converters import optional

from cogni_billing.domain.amounts import USD, Amount, from_quanta
from cogni_billing.domain.attempts import checked_attempt_id
from cogni_billing.domain.disputes import DisputeState
from cogni_billing.domain.errors import InvalidInput, UnitMismatch, shown
from cogni_billing.domain.findings import (
    RAW_MAX,
    FailureCode,
    Finding,
    PaymentFailed,
    PaymentVerified,
)
from cogni_billing.domain.identity import TenantId, payment_reference, reference, tenant_id
from cogni_billing.domain.metadata import Json
from cogni_billing.domain.timestamps import utc

USD_CODE: Final = "usd"


def _id(given: str) -> str:
    return reference(given, "id")


def _aliases(given: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(reference(each, "aliases") for each in given)


def _state(given: DisputeState) -> DisputeState:
    if not isinstance(given, DisputeState):
        raise InvalidInput("state", shown(given), "a DisputeState")
    return given


def _at(given: datetime) -> datetime:
    return utc(given, "at")


def _raw_amount(given: int) -> int:
    if type(given) is not int or not 0 <= given <= RAW_MAX:
        raise InvalidInput("raw_amount", shown(given), f"a whole number from 0 to {RAW_MAX}")
    return given


def _currency(given: str) -> str:
    return reference(given, "currency")


def _sender(given: str) -> str:
    return reference(given, "sender")


def _recipient(given: str) -> str:
    return reference(given, "recipient")


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
    tenant: TenantId | None = field(default=None, converter=optional(tenant_id))
    """The tenant in the metadata that the host gave to the processor."""
    attempt_id: UUID | None = field(default=None, converter=optional(checked_attempt_id))
    """The payment attempt in the metadata."""

    @property
    def names_an_attempt(self) -> bool:
        """True if the metadata names a tenant and a payment attempt."""
        return self.tenant is not None and self.attempt_id is not None

    @property
    def ids(self) -> tuple[str, ...]:
        """The payment's key and its aliases."""
        return (self.payment, *self.aliases)

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

    sender: str | None = field(default=None, converter=optional(_sender))
    """The processor's id of the customer, if it has one."""
    recipient: str = field(converter=_recipient)
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
    state: DisputeState = field(converter=_state)


@frozen(kw_only=True)
class FraudWarned(PaymentEvent):
    """The card's issuer suspects fraud. A dispute may follow, and a refund may prevent it."""

    reference: str = field(converter=_object)
    """The processor's id of the warning."""


EVENTS: Final[Mapping[str, type[PaymentEvent]]] = MappingProxyType(
    {
        "payment_succeeded": PaymentSucceeded,
        "payment_canceled": PaymentCanceled,
        "payment_declined": PaymentDeclined,
        "payment_refunded": PaymentRefunded,
        "refund_made": RefundMade,
        "refund_failed": RefundFailed,
        "dispute_changed": DisputeChanged,
        "fraud_warned": FraudWarned,
    }
)
"""Every kind of event by its stable name."""
_NAMES: Final = {kind: name for name, kind in EVENTS.items()}


def facts_of(event: PaymentEvent) -> Mapping[str, Json]:
    """The fields of *event* as JSON, with its `kind`. Fields without a value are left out."""
    given = {each.name: getattr(event, each.name) for each in fields(type(event))}
    facts = {name: _plain(value) for name, value in given.items() if value not in (None, ())}
    return {"kind": _NAMES[type(event)], **facts}


def _plain(value: Any) -> Json:
    if isinstance(value, datetime):
        return value.isoformat()
    return str(value) if isinstance(value, (UUID, DisputeState)) else value


def event_from(facts: Mapping[str, Any]) -> PaymentEvent:
    """The event of these facts. The inverse of `facts_of`."""
    given = {name: _READ.get(name, _same)(value) for name, value in facts.items()}
    return EVENTS[given.pop("kind")](**given)


def _same(value: Any) -> Any:
    return value


_READ: Final[Mapping[str, Any]] = {
    "aliases": tuple,
    "at": datetime.fromisoformat,
    "tenant": UUID,
    "attempt_id": UUID,
    "state": DisputeState,
}
