"""Whoever can tell whether a payment was made."""

from __future__ import annotations

from typing import Protocol

from cogni_billing.domain.attempts import Finding, Intent


class PaymentVerifier(Protocol):
    """Looks a payment up, outside: no transaction is open and no lock is held meanwhile.

    It reports what it found; whether that is what was meant is judged by the library.
    """

    def verify(self, evidence: str, intent: Intent, /) -> Finding:
        """What there is of the payment that *evidence* names.

        What fails for now is a `PaymentPending`, with `RPC_ERROR` where nobody could be asked. It
        should give up by itself; an answer that comes late is not heard.
        """
        ...


class AsyncPaymentVerifier(Protocol):
    """`PaymentVerifier` for asyncio."""

    async def verify_async(self, evidence: str, intent: Intent, /) -> Finding:
        """Like `PaymentVerifier.verify`, without keeping the event loop waiting."""
        ...
