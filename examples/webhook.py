"""A payment provider's webhook, as a host would write it around the library.

Run it: python examples/webhook.py
"""

from __future__ import annotations

from uuid import UUID

from sqlalchemy import create_engine

from cogni_billing import (
    Billing,
    BillingError,
    IdempotencyConflict,
    LedgerUnavailable,
    PaymentAlreadyClaimed,
    usd_cents,
)
from cogni_billing.adapters.postgres import PostgresUnitOfWork
from cogni_billing.adapters.postgres.embedded import EmbeddedPostgres

Event = dict[str, str | int]
CUSTOMER = "0a11ce00-0000-4000-8000-000000000001"


def on_payment_succeeded(billing: Billing, event: Event) -> int:
    """Credit the payment; answer with an HTTP status. Providers send an event until it is 2xx."""
    try:
        receipt = billing.confirm_purchase(
            UUID(str(event["customer"])),
            usd_cents(int(event["amount_cents"])),
            payment=f"stripe:{event['id']}",
            metadata={"event": str(event["id"])},
        )
    except LedgerUnavailable:  # OutcomeUnknown too: the same event again is safe, and tells
        return 503
    except (IdempotencyConflict, PaymentAlreadyClaimed) as error:
        print("for a human to look at:", error)
        return 200
    except BillingError as error:
        print("a malformed event:", error)
        return 400
    print("replayed" if receipt.replayed else "credited", receipt.credited)
    return 200


def main() -> None:
    """Deliver some events to a throw-away database."""
    paid: Event = {"id": "pi_1", "customer": CUSTOMER, "amount_cents": 1000}
    with EmbeddedPostgres() as server:
        engine = create_engine(server.url("app_user"))
        billing = Billing(PostgresUnitOfWork(engine))
        print(on_payment_succeeded(billing, paid))
        print(on_payment_succeeded(billing, paid))
        print(on_payment_succeeded(billing, paid | {"amount_cents": 9900}))
        print(on_payment_succeeded(billing, paid | {"amount_cents": 0}))
        engine.dispose()


if __name__ == "__main__":
    main()
