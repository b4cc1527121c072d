"""Payments at processors: adapters that look payments up, and adapters that read webhooks."""

from __future__ import annotations

from typing import Protocol

from cogni_billing.domain.attempts import Intent
from cogni_billing.domain.findings import Finding
from cogni_billing.domain.payment_events import PaymentEvent


class PaymentVerifier(Protocol):
    """Looks up a payment, while no transaction is open and no lock is held.

    It reports its finding. The library compares the finding with the intent.
    """

    def verify(self, evidence: str, intent: Intent, /) -> Finding:
        """The finding on the payment that *evidence* names.

        A temporary failure is a `PaymentPending`, with `RPC_ERROR` if the source cannot be reached.
        A verifier should time out by itself. A later answer is ignored.
        """
        ...


class AsyncPaymentVerifier(Protocol):
    """`PaymentVerifier` for asyncio."""

    async def verify_async(self, evidence: str, intent: Intent, /) -> Finding:
        """Like `PaymentVerifier.verify`, without blocking the event loop."""
        ...


class WebhookReader(Protocol):
    """Reads a processor's webhooks, and accepts only authentic ones."""

    def received(self, body: bytes, signature: str | None, /) -> PaymentEvent | None:
        """The payment event in a webhook, or `None` if the webhook is about something else.

        Raises:
            InvalidSignature: the webhook is not the processor's, or is too old.
            InvalidInput: the webhook is the processor's but cannot be read.
        """
        ...
