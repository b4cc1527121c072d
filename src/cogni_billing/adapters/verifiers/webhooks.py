"""Reads the signed webhooks of Stripe: payments, refunds, disputes and fraud warnings.

The signature is HMAC-SHA256 over the time and the body
(https://docs.stripe.com/webhooks#verify-manually).
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Iterable
from datetime import timedelta
from typing import Final

from attrs import field, frozen

from cogni_billing.adapters.system import SystemClock
from cogni_billing.adapters.verifiers.stripe_events import StripeReader
from cogni_billing.domain.attempts import Intent
from cogni_billing.domain.errors import InvalidInput, InvalidSignature, shown
from cogni_billing.domain.findings import FailureCode, Finding, PaymentPending
from cogni_billing.domain.identity import reference
from cogni_billing.domain.payment_events import PaymentEvent
from cogni_billing.ports.environment import Clock

TOLERANCE: Final = timedelta(minutes=5)
"""The default tolerance, in both directions. It is the default of Stripe's own libraries."""
SECRET_BYTES_MIN: Final = 16
_PART = re.compile(r"(?P<name>[a-z0-9]+)=(?P<value>[0-9a-f]+)", re.ASCII)


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
    """Reads webhooks in the format of Stripe, and accepts only signed ones.

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

    def received(self, body: bytes, signature: str | None) -> PaymentEvent | None:
        """The payment event in a webhook, for `PaymentAttempts.process`.

        `None` if the webhook is of another event type, of no payment, or of another merchant than
        the recipient.

        Args:
            body: The raw bytes of the request body.
            signature: The value of the header `Stripe-Signature`.

        Raises:
            InvalidSignature: the signature is invalid, or its time is out of tolerance.
            InvalidInput: the body is signed but is no event, or a field of it is invalid.
        """
        if not isinstance(body, bytes):
            raise InvalidInput("body", shown(body), "the bytes of the request")
        if not isinstance(signature, str):
            raise InvalidSignature("signature", shown(signature), "t=…,v1=…")
        self._require_signed(body, signature)
        return StripeReader(self.provider, self.recipient).read(body)

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
