"""The webhooks of a card processor, as a host would write them with the library.

Run it: python examples/webhook.py
"""

from __future__ import annotations

from functools import partial
from uuid import UUID

from sqlalchemy import create_engine

from cogni_billing import (
    Billing,
    Destination,
    InvalidInput,
    InvalidSignature,
    LedgerUnavailable,
    PaymentAttempts,
    usd,
)
from cogni_billing.adapters.postgres import PostgresUnitOfWork
from cogni_billing.adapters.postgres.embedded import EmbeddedPostgres
from cogni_billing.adapters.verifiers.webhooks import SignedWebhooks
from cogni_billing.testing import FakeProcessor

SIGNING_KEY = "whsec_of_this_endpoint"  # from the processor. Keep yours in a secret store.
CUSTOMER = UUID("0a11ce00-0000-4000-8000-000000000001")


def on_webhook(
    attempts: PaymentAttempts, webhooks: SignedWebhooks, body: bytes, signature: str | None
) -> int:
    """Apply the event in a webhook. Returns an HTTP status.

    The processor sends an event again until the status is 2xx. A second event has no effect.
    """
    try:
        event = webhooks.received(body, signature)  # verifies the signature first
        if event is None:
            return 200
        entry = attempts.process(event)
    except (InvalidSignature, InvalidInput) as error:
        print("refused:", error.code)
        return 400
    except LedgerUnavailable:  # also OutcomeUnknown: the processor will retry
        return 503
    print(type(event).__name__, "is", entry.state)
    return 200


def main() -> None:
    """Deliver some events to a temporary database."""
    with EmbeddedPostgres() as server:
        user = create_engine(server.url("app_user"))
        service = create_engine(server.url("app_service"))
        ledger = PostgresUnitOfWork(user, service=service)
        webhooks = SignedWebhooks(SIGNING_KEY, recipient="acct_1")
        attempts = PaymentAttempts(
            ledger,
            verifier=webhooks,
            destinations=Destination.card("stripe", recipient="acct_1"),
        )
        stripe = FakeProcessor(partial(on_webhook, attempts, webhooks), SIGNING_KEY, "acct_1")
        intent = attempts.create_intent(CUSTOMER, usd("10.00"))
        metadata = {"tenant": str(CUSTOMER), "attempt_id": str(intent.attempt_id)}
        payment = stripe.checkout(intent.raw_amount, metadata=metadata)
        stripe.pay(payment)
        stripe.refund(payment, 400)
        stripe.dispute(payment, 600)
        stripe.pay(stripe.checkout(700))  # nobody knows whose it is
        stripe.send(shuffled=1)
        print(on_webhook(attempts, webhooks, b"{}", "t=1,v1=00"))
        found = Billing(ledger).find_payment(f"stripe:{payment.id}")
        assert found is not None
        print(found.refunded, "refunded,", found.disputed, "disputed")
        user.dispose()
        service.dispose()


if __name__ == "__main__":
    main()
