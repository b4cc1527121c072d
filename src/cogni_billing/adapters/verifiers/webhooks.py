"""Verifies card payments by the signed webhooks of a processor such as Stripe.

The signature is HMAC-SHA256 over the time and the body
(https://docs.stripe.com/webhooks#verify-manually).
"""

from __future__ import annotations

import hmac
import json
import re
from collections.abc import Iterable
from datetime import timedelta
from typing import Any, Final
from uuid import UUID

from attrs import field, frozen

from cogni_billing.adapters.system import SystemClock
from cogni_billing.domain.attempts import Intent
from cogni_billing.domain.errors import InvalidInput, InvalidSignature, InvalidTenant, shown
from cogni_billing.domain.findings import (
    FailureCode,
    Finding,
    PaymentFailed,
    PaymentPending,
    PaymentVerified,
)
from cogni_billing.domain.identity import TenantId, reference, tenant_id
from cogni_billing.ports.environment import Clock

TOLERANCE: Final = timedelta(minutes=5)
"""The default tolerance, in both directions. It is the default of Stripe's own libraries."""
SECRET_BYTES_MIN: Final = 16
_PART = re.compile(r"(?P<name>[a-z0-9]+)=(?P<value>[0-9a-f]+)", re.ASCII)


@frozen
class ReceivedPayment:
    """The payment in a webhook. The fields are the arguments of `PaymentAttempts.report`."""

    tenant: TenantId
    """The tenant of the intent, from the metadata that the host gave to the processor."""
    attempt_id: UUID
    evidence: str
    finding: Finding


def _secrets(given: str | Iterable[str]) -> tuple[bytes, ...]:
    several = isinstance(given, Iterable) and not isinstance(given, str)
    secrets = tuple(given) if several else (given,)
    found = tuple(secret.encode() for secret in secrets if isinstance(secret, str))
    if not found or len(found) < len(secrets) or min(map(len, found)) < SECRET_BYTES_MIN:
        expected = f"one or more of at least {SECRET_BYTES_MIN} bytes each"
        raise InvalidInput("secrets", f"{len(secrets)} secrets", expected)
    return found


def _recipient(given: str) -> str:
    return reference(given, "recipient")


def _provider(given: str) -> str:
    return reference(given, "provider")


@frozen
class SignedWebhooks:
    """Reads a processor's webhooks, and accepts only signed ones.

    As a verifier it always answers `PaymentPending`, so the attempt stays pending until the webhook
    arrives. The webhook may arrive days later, in any process.

    Args:
        secrets: The endpoint's signing secret. During a rotation, the new and the old secret.
        recipient: The merchant account of these webhooks.
        provider: The prefix of the evidence.
        tolerance: The largest difference between the signature's time and the clock.
        clock: The source of time.

    Raises:
        InvalidInput: *secrets* is empty, or holds a secret that is too short.
        InvalidReference: *recipient* or *provider* is invalid.
    """

    _secrets: tuple[bytes, ...] = field(converter=_secrets, repr=False)
    recipient: str = field(kw_only=True, converter=_recipient)
    provider: str = field(kw_only=True, default="stripe", converter=_provider)
    tolerance: timedelta = field(kw_only=True, default=TOLERANCE)
    clock: Clock = field(kw_only=True, factory=SystemClock)

    def received(self, body: bytes, signature: str | None) -> ReceivedPayment | None:
        """The payment in a webhook.

        `None` if the webhook is of another event type, of a payment without an attempt, or of
        another merchant than the recipient.

        Args:
            body: The raw bytes of the request body.
            signature: The value of the header `Stripe-Signature`.

        Raises:
            InvalidSignature: the signature is invalid, or its time is out of tolerance.
            InvalidInput: the body is signed but is no event, or a field of its payment is invalid.
        """
        if not isinstance(body, bytes):
            raise InvalidInput("body", shown(body), "the bytes of the request")
        if not isinstance(signature, str):
            raise InvalidSignature("signature", shown(signature), "t=…,v1=…")
        self._require_signed(body, signature)
        event = _document(body)
        kind = event.get("type")
        if not isinstance(kind, str) or kind not in _TOLD:
            return None
        # A connected account must not end the attempt of another account.
        if event.get("account") not in (None, self.recipient):
            return None
        payment = _object_in(_object_in(event, "data"), "object")
        metadata = _object_in(payment, "metadata")
        if "attempt_id" not in metadata:
            return None
        return ReceivedPayment(
            tenant=_tenant(metadata.get("tenant")),
            attempt_id=_uuid(metadata["attempt_id"], "attempt_id"),
            evidence=f"{self.provider}:{reference(payment.get('id'), 'id')}",
            finding=self._finding(kind, payment),
        )

    def _finding(self, kind: str, payment: dict[str, Any]) -> Finding:
        if kind == _CANCELED:
            return PaymentFailed(FailureCode.TX_REVERTED)
        amount = payment.get("amount_received")
        if type(amount) is not int or amount < 0:
            raise InvalidInput("amount_received", shown(amount), "a whole number of cents")
        return PaymentVerified(
            provider=self.provider,
            token=str(payment.get("currency")),
            sender=payment.get("customer"),
            recipient=self.recipient,
            raw_amount=amount,
        )

    def _require_signed(self, body: bytes, signature: str) -> None:
        parts = [(m["name"], m["value"]) for m in _PART.finditer(signature)]
        times = [value for name, value in parts if name == "t" and value.isdecimal()]
        if len(times) != 1:
            raise InvalidSignature("signature", shown(signature), "t=…,v1=…")
        signed = times[0].encode() + b"." + body
        codes = [hmac.digest(secret, signed, "sha256").hex() for secret in self._secrets]
        given = [value for name, value in parts if name == "v1"]
        # Compares every pair in constant time, against timing attacks.
        matches = [hmac.compare_digest(code, value) for code in codes for value in given]
        if not any(matches):
            raise InvalidSignature(
                "signature", "another one", "one made with a secret of this endpoint"
            )
        self._require_recent(int(times[0]))

    def _require_recent(self, second: int) -> None:
        off = abs(self.clock.now().timestamp() - second)
        if off > self.tolerance.total_seconds():
            expected = f"one made within {self.tolerance} of now"
            raise InvalidSignature("signature", f"{off:.0f} s off", expected)

    def verify(self, _evidence: str, _intent: Intent, /) -> Finding:
        """A pending finding. The webhook decides later."""
        return PaymentPending(FailureCode.RPC_ERROR)

    async def verify_async(self, evidence: str, intent: Intent, /) -> Finding:
        """A pending finding. The webhook decides later."""
        return self.verify(evidence, intent)


_SUCCEEDED: Final = "payment_intent.succeeded"
_CANCELED: Final = "payment_intent.canceled"
_TOLD: Final = frozenset({_SUCCEEDED, _CANCELED})
"""Without `payment_intent.payment_failed`: the customer may try another card."""


def _document(body: bytes) -> dict[str, Any]:
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise InvalidInput("body", f"{len(body)} bytes", "an event, as a JSON object")
    return found


def _object_in(outer: dict[str, Any], name: str) -> dict[str, Any]:
    found = outer.get(name)
    if not isinstance(found, dict):
        raise InvalidInput(name, shown(found), "a JSON object")
    return found


def _tenant(given: object) -> TenantId:
    return tenant_id(_uuid(given, "tenant"))


def _uuid(given: object, name: str) -> UUID:
    try:
        return UUID(str(given))
    except ValueError as error:
        kind = InvalidTenant if name == "tenant" else InvalidInput
        raise kind(name, shown(given), "a UUID in the payment's metadata") from error
