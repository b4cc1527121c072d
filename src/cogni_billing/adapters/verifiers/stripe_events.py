"""Reads the JSON of Stripe's events.

The shapes are those of https://docs.stripe.com/api/events/types. Fields that the library does not
need are ignored, so events of every API version are read alike.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final, TypedDict
from uuid import UUID

from attrs import field, frozen

from cogni_billing.domain.disputes import DisputeState
from cogni_billing.domain.errors import InvalidInput, InvalidTenant, shown
from cogni_billing.domain.identity import TenantId, reference, tenant_id
from cogni_billing.domain.payment_events import (
    DisputeChanged,
    FraudWarned,
    PaymentCanceled,
    PaymentDeclined,
    PaymentEvent,
    PaymentRefunded,
    PaymentSucceeded,
    RefundFailed,
    RefundMade,
)

Object = Mapping[str, Any]


class _Common(TypedDict):
    id: str
    payment: str
    aliases: tuple[str, ...]
    at: datetime
    tenant: TenantId | None
    attempt_id: UUID | None


class _Money(TypedDict):
    raw_amount: int
    currency: str


@frozen
class StripeReader:
    """Reads events of one merchant account.

    Args:
        provider: The prefix of every id.
        recipient: The merchant account. Events of other connected accounts are ignored.
    """

    provider: str
    recipient: str

    def read(self, body: bytes) -> PaymentEvent | None:
        """The payment event in *body*, or `None` if *body* is another event.

        Raises:
            InvalidInput: *body* is no event, or a field of it is invalid.
        """
        document = _document(body)
        read = _READERS.get(str(document.get("type")))
        # A connected account must not change the payments of another account.
        if read is None or document.get("account") not in (None, self.recipient):
            return None
        found = _object_in(_object_in(document, "data"), "object")
        return read(_Told(self, document, found))


@frozen
class _Told:
    """An event of Stripe, and the object that it is about."""

    reader: StripeReader
    event: Object
    found: Object
    metadata: Object = field(init=False)

    @metadata.default
    def _given(self) -> Object:
        metadata = self.found.get("metadata")
        return metadata if isinstance(metadata, dict) else {}

    def common(self, *ids: str) -> _Common | None:
        """The fields of every event. *ids* name the payment's ids, the first of them its key.

        `None` if the object is of no payment, such as the session of a free trial.
        """
        named = [self._named(name) for name in ids if self.found.get(name) is not None]
        if not named:
            return None
        payment, *aliases = named
        return _Common(
            id=self._prefixed(self.event.get("id"), "id"),
            payment=payment,
            aliases=tuple(aliases),
            at=_moment(self.event.get("created")),
            tenant=_tenant(self.metadata.get("tenant")),
            attempt_id=_uuid(self.metadata.get("attempt_id")),
        )

    def _named(self, name: str) -> str:
        given = self.found[name]
        return self._prefixed(given.get("id") if isinstance(given, dict) else given, name)

    def _prefixed(self, given: object, name: str) -> str:
        return f"{self.reader.provider}:{reference(given, name)}"

    def money(self, name: str) -> _Money:
        """The amount in the field *name*, and its currency."""
        return _Money(raw_amount=self.cents(name), currency=str(self.found.get("currency")))

    def cents(self, name: str) -> int:
        given = self.found.get(name)
        if type(given) is not int or given < 0:
            raise InvalidInput(name, shown(given), "a whole number of cents")
        return given

    def reference(self) -> str:
        """The id of the object itself."""
        return reference(self.found.get("id"), "id")

    def succeeded(self, common: _Common, amount: str) -> PaymentSucceeded:
        return PaymentSucceeded(
            **common,
            **self.money(amount),
            sender=self.found.get("customer"),
            recipient=self.reader.recipient,
        )


def _intent_succeeded(told: _Told) -> PaymentEvent | None:
    common = told.common("id", "latest_charge")
    return common and told.succeeded(common, "amount_received")


def _intent_canceled(told: _Told) -> PaymentEvent | None:
    common = told.common("id", "latest_charge")
    return common and PaymentCanceled(**common)


def _intent_declined(told: _Told) -> PaymentEvent | None:
    common = told.common("id", "latest_charge")
    return common and PaymentDeclined(**common)


def _session_completed(told: _Told) -> PaymentEvent | None:
    if told.found.get("payment_status") != "paid":  # a bank debit, which succeeds or fails later
        return None
    return _session_succeeded(told)


def _session_succeeded(told: _Told) -> PaymentEvent | None:
    # A session without a payment intent is of a subscription, whose invoice is paid, or is free.
    common = told.common("payment_intent", "id") if told.found.get("payment_intent") else None
    return common and told.succeeded(common, "amount_total")


def _session_failed(told: _Told) -> PaymentEvent | None:
    common = told.common("payment_intent", "id") if told.found.get("payment_intent") else None
    return common and PaymentCanceled(**common)


def _charge_refunded(told: _Told) -> PaymentEvent | None:
    common = told.common("payment_intent", "id")
    return common and PaymentRefunded(
        **common, **told.money("amount_refunded"), charged=told.cents("amount")
    )


def _refund_changed(told: _Told) -> PaymentEvent | None:
    common = told.common("payment_intent", "charge")
    failed = told.found.get("status") in ("failed", "canceled")
    kind = RefundFailed if failed else RefundMade
    return common and kind(**common, **told.money("amount"), reference=told.reference())


def _dispute_changed(told: _Told) -> PaymentEvent | None:
    common = told.common("payment_intent", "charge")
    state = _CLOSED.get(str(told.found.get("status")), DisputeState.OPEN)
    return common and DisputeChanged(
        **common, **told.money("amount"), reference=told.reference(), state=state
    )


def _fraud_warned(told: _Told) -> PaymentEvent | None:
    common = told.common("payment_intent", "charge")
    return common and FraudWarned(**common, reference=told.reference())


_CLOSED: Final = {
    "won": DisputeState.WON,
    "lost": DisputeState.LOST,
    "warning_closed": DisputeState.WON,
    "prevented": DisputeState.WON,
}
"""The statuses of a dispute that has ended. Every other one is open."""

_READERS: Final[Mapping[str, Callable[[_Told], PaymentEvent | None]]] = {
    "checkout.session.completed": _session_completed,
    "checkout.session.async_payment_succeeded": _session_succeeded,
    "checkout.session.async_payment_failed": _session_failed,
    "payment_intent.succeeded": _intent_succeeded,
    "payment_intent.canceled": _intent_canceled,
    "payment_intent.payment_failed": _intent_declined,
    "charge.refunded": _charge_refunded,
    "charge.refund.updated": _refund_changed,
    "refund.created": _refund_changed,
    "refund.updated": _refund_changed,
    "refund.failed": _refund_changed,
    "charge.dispute.created": _dispute_changed,
    "charge.dispute.updated": _dispute_changed,
    "charge.dispute.funds_withdrawn": _dispute_changed,
    "charge.dispute.funds_reinstated": _dispute_changed,
    "charge.dispute.closed": _dispute_changed,
    "radar.early_fraud_warning.created": _fraud_warned,
}


def _document(body: bytes) -> dict[str, Any]:
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise InvalidInput("body", f"{len(body)} bytes", "an event, as a JSON object")
    return found


def _object_in(outer: Object, name: str) -> Object:
    found = outer.get(name)
    if not isinstance(found, dict):
        raise InvalidInput(name, shown(found), "a JSON object")
    return found


def _moment(second: object) -> datetime:
    wrong = InvalidInput("created", shown(second), "a Unix time in seconds")
    if type(second) is not int:
        raise wrong
    try:
        return datetime.fromtimestamp(second, UTC)
    except (OverflowError, OSError, ValueError) as error:
        raise wrong from error


# Metadata is free text, which another application of the merchant may have written. A payment
# without a valid tenant is unmatched, and still told.
def _tenant(given: object) -> TenantId | None:
    try:
        return tenant_id(_uuid(given))
    except InvalidTenant:
        return None


def _uuid(given: object) -> UUID | None:
    try:
        return UUID(given) if isinstance(given, str) else None
    except ValueError:
        return None
