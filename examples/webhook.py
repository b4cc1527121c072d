"""A webhook of a card processor, as a host would write it with the library.

Run it: python examples/webhook.py
"""

from __future__ import annotations

import hmac
import json
import time
from uuid import UUID

from sqlalchemy import create_engine

from cogni_billing import (
    BillingError,
    Destination,
    Intent,
    InvalidInput,
    InvalidSignature,
    LedgerUnavailable,
    PaymentAttempts,
    PaymentCanceled,
    PaymentSucceeded,
    usd,
)
from cogni_billing.adapters.postgres import PostgresUnitOfWork
from cogni_billing.adapters.postgres.embedded import EmbeddedPostgres
from cogni_billing.adapters.verifiers.webhooks import SignedWebhooks

SIGNING_KEY = "whsec_of_this_endpoint"  # from the processor. Keep yours in a secret store.
CUSTOMER = UUID("0a11ce00-0000-4000-8000-000000000001")


def on_webhook(
    attempts: PaymentAttempts, webhooks: SignedWebhooks, body: bytes, signature: str | None
) -> int:
    """Credit the payment in a webhook. Returns an HTTP status.

    The processor sends an event again until the status is 2xx. A second event has no effect.
    """
    try:
        told = webhooks.received(body, signature)  # verifies the signature first
        if not isinstance(told, (PaymentSucceeded, PaymentCanceled)):
            return 200
        if told.tenant is None or told.attempt_id is None:
            print("for a human to look at:", told)
            return 200
        attempt = attempts.report(
            told.tenant, told.attempt_id, told.payment, told.finding, aliases=told.aliases
        )
    except (InvalidSignature, InvalidInput) as error:
        print("refused:", error.code)
        return 400
    except LedgerUnavailable:  # also OutcomeUnknown: the processor will retry
        return 503
    except BillingError as error:
        print("for a human to look at:", error)
        return 200
    print(attempt.state)
    return 200


def event_of(intent: Intent, cents: int) -> bytes:
    """The event that the processor sends when the customer has paid."""
    payment = {
        "id": "pi_1",
        "amount_received": cents,
        "currency": "usd",
        "metadata": {"tenant": str(CUSTOMER), "attempt_id": str(intent.attempt_id)},
    }
    event = {"id": "evt_1", "created": int(time.time()), "type": "payment_intent.succeeded"}
    return json.dumps(event | {"data": {"object": payment}}).encode()


def signed(body: bytes, key: str = SIGNING_KEY) -> str:
    """The signature header of *body*."""
    now = int(time.time())
    code = hmac.digest(key.encode(), f"{now}.".encode() + body, "sha256").hex()
    return f"t={now},v1={code}"


def main() -> None:
    """Deliver some events to a temporary database."""
    with EmbeddedPostgres() as server:
        engine = create_engine(server.url("app_user"))
        webhooks = SignedWebhooks(SIGNING_KEY, recipient="acct_1")
        attempts = PaymentAttempts(
            PostgresUnitOfWork(engine),
            verifier=webhooks,
            destinations=Destination.card("stripe", recipient="acct_1"),
        )
        paid = event_of(attempts.create_intent(CUSTOMER, usd("10.00")), 1000)
        print(on_webhook(attempts, webhooks, paid, signed(paid)))
        print(on_webhook(attempts, webhooks, paid, signed(paid)))
        print(on_webhook(attempts, webhooks, paid, signed(paid, key="whsec_of_somebody_else")))
        print(on_webhook(attempts, webhooks, paid, None))
        again = event_of(attempts.create_intent(CUSTOMER, usd("10.00")), 1000)  # the same payment
        print(on_webhook(attempts, webhooks, again, signed(again)))
        engine.dispose()


if __name__ == "__main__":
    main()
