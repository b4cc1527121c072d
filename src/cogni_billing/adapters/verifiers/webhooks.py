"""Card payments that a processor tells of in signed webhooks, as Stripe does.

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
"""How far a signature's time may be off, either way; what Stripe's own libraries allow."""
SECRET_BYTES_MIN: Final = 16
_PART = re.compile(r"(?P<name>[a-z0-9]+)=(?P<value>[0-9a-f]+)", re.ASCII)


@frozen
class ReceivedPayment:
    """What one webhook tells of a payment, in the words of `PaymentAttempts.report`."""

    tenant: TenantId
    """Whose intent it is of, and which: as the host told the processor in its metadata."""
    attempt_id: UUID
    evidence: str
    finding: Finding


def _secrets(given: str | Iterable[str]) -> tuple[bytes, ...]:
    several = isinstance(given, Iterable) and not isinstance(given, str)
    secrets = tuple(given) if several else (given,)
    found = tuple(secret.encode() for secret in secrets if isinstance(secret, str))
    if not found or len(found) < len(secrets) or min(map(len, found)) < SECRET_BYTES_MIN:
        expected = f"one or more of at least {SECRET_BYTES_MIN} bytes each"
        raise InvalidInput("secrets", f"{len(secrets)} given", expected)
    return found


def _recipient(given: str) -> str:
    return reference(given, "recipient")


def _provider(given: str) -> str:
    return reference(given, "provider")


@frozen
class SignedWebhooks:
    """Takes a processor's webhooks, and believes none that it has not signed.

    As a verifier it waits, and without end: what there is to tell comes in webhooks, whichever
    process they reach, and perhaps after days.

    Args:
        secrets: The endpoint's signing secret; while it is changed, the new one and the old one.
        recipient: The merchant account that these webhooks are of.
        provider: What evidence begins with.
        tolerance: How far a signature's time may be off.
        clock: What that is measured by.

    Raises:
        InvalidInput: *secrets* are none, or too short.
        InvalidReference: *recipient* or *provider* is no name.
    """

    _secrets: tuple[bytes, ...] = field(converter=_secrets, repr=False)
    recipient: str = field(kw_only=True, converter=_recipient)
    provider: str = field(kw_only=True, default="stripe", converter=_provider)
    tolerance: timedelta = field(kw_only=True, default=TOLERANCE)
    clock: Clock = field(kw_only=True, factory=SystemClock)

    def received(self, body: bytes, signature: str | None) -> ReceivedPayment | None:
        """The payment that a webhook tells of; `None` when it tells of something else, of a
        payment that is no attempt's, or of another merchant's than the recipient.

        Args:
            body: As it came, to the byte.
            signature: The header: `Stripe-Signature`.

        Raises:
            InvalidSignature: nobody who knows a secret has signed that, or not lately.
            InvalidInput: it is signed, and is no event; or of a payment whose `tenant` or
                `attempt_id` is none.
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
        # A connected account could else end what is to be paid to another.
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
        # Every pair is compared, each in a time that does not tell where they differ.
        matches = [hmac.compare_digest(code, value) for code in codes for value in given]
        if not any(matches):
            raise InvalidSignature(
                "signature", "another", "one made with a secret of this endpoint"
            )
        self._require_recent(int(times[0]))

    def _require_recent(self, second: int) -> None:
        off = abs(self.clock.now().timestamp() - second)
        if off > self.tolerance.total_seconds():
            expected = f"one made within {self.tolerance} of now"
            raise InvalidSignature("signature", f"{off:.0f} s off", expected)

    def verify(self, _evidence: str, _intent: Intent, /) -> Finding:
        """Nothing yet: the webhook is waited for."""
        return PaymentPending(FailureCode.RPC_ERROR)

    async def verify_async(self, evidence: str, intent: Intent, /) -> Finding:
        """Nothing yet: the webhook is waited for."""
        return self.verify(evidence, intent)


_SUCCEEDED: Final = "payment_intent.succeeded"
_CANCELED: Final = "payment_intent.canceled"
_TOLD: Final = frozenset({_SUCCEEDED, _CANCELED})
"""A payment that failed is none of them: its customer may try another card."""


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
