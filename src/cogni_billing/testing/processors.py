"""A fake card processor, which sends signed events in the format of Stripe."""

from __future__ import annotations

import hmac
import json
import random
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

from attrs import Factory, define, field

from cogni_billing.ports.environment import Clock

SECRET: Final = "whsec_of_the_fake_processor"
ACCOUNT: Final = "acct_fake"

Deliver = Callable[[bytes, str], int]
"""Delivers a body with its signature header, and returns the HTTP status."""


class _SystemClock:
    def now(self) -> datetime:
        return datetime.fromtimestamp(time.time(), UTC)


@define
class FakePayment:
    """A checkout session with its payment intent and charge."""

    session: str
    id: str
    """The payment intent. The library knows it as `stripe:` and this id."""
    charge: str
    cents: int
    currency: str
    metadata: Mapping[str, str]
    refunded: int = 0


@define
class FakeRefund:
    """A refund of a payment."""

    id: str
    payment: FakePayment
    cents: int
    status: str = "succeeded"


@define
class FakeDispute:
    """A dispute of a payment."""

    id: str
    payment: FakePayment
    cents: int
    status: str = "needs_response"


@define
class FakeProcessor:
    """Plays Stripe and its customers, for the tests of a host.

    Each call puts signed events into `outbox`. `send` delivers them, as often and in the order that
    the test chooses. An event stays in the outbox until its status is 2xx, as at Stripe.

    Args:
        deliver: The URL of the host's endpoint, or a function of the body and the signature that
            returns the HTTP status.
        secret: The endpoint's signing secret, for `SignedWebhooks`.
        account: The merchant account, for `SignedWebhooks` and `Destination.card`.
        clock: The time of events and signatures.
    """

    deliver: str | Deliver
    secret: str = SECRET
    account: str = ACCOUNT
    clock: Clock = field(factory=_SystemClock, kw_only=True)
    outbox: list[bytes] = Factory(list)
    """The events that are not delivered yet, the oldest first."""
    _count: int = 0
    _second: int = 0

    def checkout(
        self, cents: int, *, currency: str = "usd", metadata: Mapping[str, str] | None = None
    ) -> FakePayment:
        """Create a checkout session. The metadata is also the payment intent's."""
        number = self._next()
        return FakePayment(
            session=f"cs_test_{number}",
            id=f"pi_{number}",
            charge=f"ch_{number}",
            cents=cents,
            currency=currency,
            metadata=metadata or {},
        )

    def pay(self, payment: FakePayment) -> None:
        """Let the customer pay."""
        self._put("payment_intent.succeeded", self._intent(payment, "succeeded"))
        self._put("checkout.session.completed", self._session(payment, "paid"))

    def pay_by_bank(self, payment: FakePayment) -> None:
        """Let the customer order a bank debit. `arrive` or `bounce` follows days later."""
        self._put("checkout.session.completed", self._session(payment, "unpaid"))

    def arrive(self, payment: FakePayment) -> None:
        """Let a bank debit arrive."""
        self._put("payment_intent.succeeded", self._intent(payment, "succeeded"))
        self._put("checkout.session.async_payment_succeeded", self._session(payment, "paid"))

    def bounce(self, payment: FakePayment) -> None:
        """Let a bank debit fail."""
        self.decline(payment)
        self._put("checkout.session.async_payment_failed", self._session(payment, "unpaid"))

    def decline(self, payment: FakePayment) -> None:
        """Let a card be declined. The customer may try again."""
        intent = self._intent(payment, "requires_payment_method")
        self._put("payment_intent.payment_failed", intent)

    def cancel(self, payment: FakePayment) -> None:
        """Cancel the payment intent."""
        self._put("payment_intent.canceled", self._intent(payment, "canceled"))

    def refund(self, payment: FakePayment, cents: int | None = None) -> FakeRefund:
        """Refund a part of the payment, or all that remains."""
        part = payment.cents - payment.refunded if cents is None else cents
        refund = FakeRefund(f"re_{self._next()}", payment, part)
        payment.refunded += part
        self._put("charge.refunded", self._charge(payment))
        self._put("refund.created", self._refund(refund))
        return refund

    def fail_refund(self, refund: FakeRefund) -> None:
        """Let a refund fail, so that the merchant has the money again."""
        refund.status = "failed"
        refund.payment.refunded -= refund.cents
        self._put("refund.failed", self._refund(refund))

    def dispute(self, payment: FakePayment, cents: int | None = None) -> FakeDispute:
        """Let the customer dispute a part of the payment, or the whole payment."""
        amount = payment.cents if cents is None else cents
        dispute = FakeDispute(f"du_{self._next()}", payment, amount)
        self._put("charge.dispute.created", self._dispute(dispute))
        self._put("charge.dispute.funds_withdrawn", self._dispute(dispute))
        return dispute

    def change_dispute(self, dispute: FakeDispute, cents: int) -> None:
        """Change the disputed amount."""
        dispute.cents = cents
        self._put("charge.dispute.updated", self._dispute(dispute))

    def close_dispute(self, dispute: FakeDispute, *, won: bool) -> None:
        """Let the bank decide, or decide again."""
        dispute.status = "won" if won else "lost"
        self._put("charge.dispute.closed", self._dispute(dispute))
        if won:
            self._put("charge.dispute.funds_reinstated", self._dispute(dispute))

    def warn(self, payment: FakePayment) -> None:
        """Let the card's issuer warn of fraud."""
        warning = {"id": f"issfr_{self._next()}", "fraud_type": "misc", "actionable": True}
        warning |= {"charge": payment.charge, "payment_intent": payment.id}
        self._put("radar.early_fraud_warning.created", warning)

    def send(self, *, times: int = 1, shuffled: int | None = None) -> list[int]:
        """Deliver the outbox, and return the statuses.

        Args:
            times: How often each event is delivered.
            shuffled: The seed of a random order. `None` is the order of the events.
        """
        events = [*self.outbox] * times
        if shuffled is not None:
            random.Random(shuffled).shuffle(events)
        statuses = [(event, self._delivered(event)) for event in events]
        accepted = {event for event, status in statuses if status < 300}
        self.outbox = [event for event in self.outbox if event not in accepted]
        return [status for _, status in statuses]

    def signature(self, body: bytes) -> str:
        """The header `Stripe-Signature` of *body*, as of now."""
        second = int(self.clock.now().timestamp())
        code = hmac.digest(self.secret.encode(), b"%d." % second + body, "sha256").hex()
        return f"t={second},v1={code}"

    def _delivered(self, body: bytes) -> int:
        signature = self.signature(body)
        if not isinstance(self.deliver, str):
            return self.deliver(body, signature)
        headers = {"Stripe-Signature": signature, "Content-Type": "application/json"}
        request = urllib.request.Request(self.deliver, body, headers)
        try:
            with urllib.request.urlopen(request) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            with error:
                return error.code

    def _next(self) -> int:
        self._count += 1
        return self._count

    def _put(self, kind: str, found: Mapping[str, object]) -> None:
        # A second apart, so that the times tell the order.
        self._second = max(int(self.clock.now().timestamp()), self._second + 1)
        event: dict[str, object] = {"id": f"evt_{self._next()}", "type": kind}
        event |= {"object": "event", "created": self._second, "data": {"object": found}}
        self.outbox.append(json.dumps(event).encode())

    def _money(self, payment: FakePayment) -> dict[str, Any]:
        return {"currency": payment.currency, "customer": "cus_1", "metadata": payment.metadata}

    def _intent(self, payment: FakePayment, status: str) -> dict[str, Any]:
        received = payment.cents if status == "succeeded" else 0
        named = {"id": payment.id, "latest_charge": payment.charge, "status": status}
        return named | {"amount": payment.cents, "amount_received": received} | self._money(payment)

    def _session(self, payment: FakePayment, status: str) -> dict[str, Any]:
        named = {"id": payment.session, "payment_intent": payment.id, "mode": "payment"}
        money = {"amount_total": payment.cents, "payment_status": status}
        return named | money | self._money(payment)

    def _charge(self, payment: FakePayment) -> dict[str, Any]:
        named = {"id": payment.charge, "payment_intent": payment.id}
        money = {"amount": payment.cents, "amount_refunded": payment.refunded}
        return named | money | self._money(payment)

    def _refund(self, refund: FakeRefund) -> dict[str, Any]:
        return self._part(refund.payment, refund.id, refund.cents, refund.status)

    def _dispute(self, dispute: FakeDispute) -> dict[str, Any]:
        return self._part(dispute.payment, dispute.id, dispute.cents, dispute.status)

    def _part(self, payment: FakePayment, name: str, cents: int, status: str) -> dict[str, Any]:
        named = {"id": name, "charge": payment.charge, "payment_intent": payment.id}
        money = {"amount": cents, "currency": payment.currency}
        return named | money | {"status": status, "metadata": {}}
