"""The fake processor of the kit: its events, and a shop that takes them in any order."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import pytest

from cogni_billing import (
    Billing,
    Destination,
    EventState,
    InvalidInput,
    PaymentAttempts,
    credits,
    usd,
)
from cogni_billing.adapters.memory import InMemoryUnitOfWork
from cogni_billing.adapters.verifiers.webhooks import SignedWebhooks
from cogni_billing.testing import ALICE, FakePayment, FakeProcessor, MovableClock

DOLLAR = 10_000_000


class Shop:
    """A host with one endpoint, and the processor that it uses."""

    def __init__(self) -> None:
        ledger, clock = InMemoryUnitOfWork(), MovableClock()
        self.stripe = FakeProcessor(self.on_webhook, clock=clock)
        account = self.stripe.account
        self.webhooks = SignedWebhooks(self.stripe.secret, recipient=account, clock=clock)
        self.billing = Billing(ledger, clock=clock)
        self.attempts = PaymentAttempts(
            ledger,
            verifier=self.webhooks,
            destinations=Destination.card("stripe", recipient=account),
            clock=clock,
        )
        self.intent = self.attempts.create_intent(ALICE, usd("10.00"))

    def on_webhook(self, body: bytes, signature: str) -> int:
        try:
            event = self.webhooks.received(body, signature)
        except InvalidInput:
            return 400
        if event is not None:
            self.attempts.process(event)
        return 200

    def checkout(self) -> FakePayment:
        metadata = {"tenant": str(ALICE), "attempt_id": str(self.intent.attempt_id)}
        return self.stripe.checkout(self.intent.raw_amount, metadata=metadata)

    @property
    def posted(self) -> int:
        return int(self.billing.balance(ALICE).posted.value) // DOLLAR

    @property
    def available(self) -> int:
        return int(self.billing.balance(ALICE).available.value) // DOLLAR


@pytest.fixture
def shop() -> Shop:
    return Shop()


def test_a_paid_session_credits_the_attempt(shop: Shop) -> None:
    shop.stripe.pay(shop.checkout())

    assert shop.stripe.send(times=2) == [200] * 4
    assert (shop.posted, shop.stripe.outbox) == (10, [])
    assert shop.attempts.status(ALICE, shop.intent.attempt_id).status == "CONFIRMED"


@pytest.mark.parametrize(("end", "status"), [("arrive", "CONFIRMED"), ("bounce", "FAILED")])
def test_a_bank_debit_decides_later(shop: Shop, end: str, status: str) -> None:
    payment = shop.checkout()
    shop.stripe.pay_by_bank(payment)
    shop.stripe.send()
    assert shop.attempts.status(ALICE, shop.intent.attempt_id).status == "PENDING_VERIFICATION"

    getattr(shop.stripe, end)(payment)
    shop.stripe.send()

    assert shop.attempts.status(ALICE, shop.intent.attempt_id).status == status


def test_a_declined_card_may_be_followed_by_another(shop: Shop) -> None:
    payment = shop.checkout()
    shop.stripe.decline(payment)
    shop.stripe.pay(payment)
    shop.stripe.send()

    assert shop.posted == 10


def test_a_canceled_intent_ends_the_attempt(shop: Shop) -> None:
    shop.stripe.cancel(shop.checkout())
    shop.stripe.send()

    assert shop.attempts.status(ALICE, shop.intent.attempt_id).status == "FAILED"


@pytest.mark.parametrize("seed", range(20))
def test_a_life_of_a_payment_in_any_order_ends_alike(shop: Shop, seed: int) -> None:
    payment = shop.checkout()
    shop.stripe.pay(payment)
    shop.stripe.refund(payment, 200)
    shop.stripe.warn(payment)
    shop.stripe.refund(payment, 100)
    dispute = shop.stripe.dispute(payment, 700)
    shop.stripe.change_dispute(dispute, 500)
    shop.stripe.close_dispute(dispute, won=True)

    assert set(shop.stripe.send(times=3, shuffled=seed)) == {200}
    assert (shop.posted, shop.available) == (7, 7)
    assert shop.attempts.inbox(EventState.WAITING).entries == ()
    assert shop.billing.verify().violations == ()


def test_a_refused_event_stays_in_the_outbox(shop: Shop) -> None:
    shop.stripe.deliver = lambda _body, _signature: 503
    shop.stripe.pay(shop.checkout())

    assert shop.stripe.send() == [503, 503]
    assert len(shop.stripe.outbox) == 2

    shop.stripe.deliver = shop.on_webhook
    assert shop.stripe.send() == [200, 200]
    assert shop.posted == 10


def test_events_are_a_second_apart(shop: Shop) -> None:
    payment = shop.checkout()
    for _ in range(3):
        shop.stripe.warn(payment)
    created = [json.loads(event)["created"] for event in shop.stripe.outbox]

    assert created == [created[0], created[0] + 1, created[0] + 2]


def test_events_are_delivered_to_a_url(shop: Shop) -> None:
    with served(shop.on_webhook) as url:
        shop.stripe.deliver = url
        shop.stripe.pay(shop.checkout())
        assert shop.stripe.send() == [200, 200]
        shop.stripe.secret = "whsec_of_somebody_else"
        shop.stripe.pay(shop.checkout())
        assert shop.stripe.send() == [400, 400]

    assert shop.billing.balance(ALICE).posted == credits(10 * DOLLAR)


@contextmanager
def served(on_webhook: Callable[[bytes, str], int]) -> Iterator[str]:
    """The URL of a server with this endpoint."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(on_webhook(body, self.headers["Stripe-Signature"]))
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Print nothing."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
