"""Card payments in webhooks, with valid and invalid signatures."""

from __future__ import annotations

import asyncio
import hmac
import json
from typing import Any
from uuid import UUID

import pytest

from cogni_billing import (
    AttemptState,
    FailureCode,
    Intent,
    InvalidInput,
    InvalidReference,
    InvalidSignature,
    PaymentAttempts,
    PaymentPending,
    PaymentSucceeded,
    usd,
)
from cogni_billing.adapters.memory import InMemoryUnitOfWork
from cogni_billing.adapters.verifiers.webhooks import SignedWebhooks
from cogni_billing.testing import ALICE, NOON, MovableClock
from cogni_billing.testing.contracts.attempt_base import CARD
from cogni_billing.testing.verifiers import FakeVerifier

SECRET, OLD = "whsec_0123456789abcdef", "whsec_fedcba9876543210"
ATTEMPT = UUID(int=7)
SECOND = int(NOON.timestamp())


def event(kind: str = "payment_intent.succeeded", **changes: Any) -> bytes:
    payment = {
        "id": "pi_1",
        "object": "payment_intent",
        "amount": 200,
        "amount_received": 200,
        "currency": "usd",
        "customer": None,
        "metadata": {"tenant": str(ALICE), "attempt_id": str(ATTEMPT)},
    }
    told = {"id": "evt_1", "created": SECOND, "type": kind, "data": {"object": payment | changes}}
    return json.dumps(told).encode()


def of_account(account: object, body: bytes) -> bytes:
    return json.dumps(json.loads(body) | {"account": account}).encode()


def signed(body: bytes, *, secret: str = SECRET, second: int = SECOND) -> str:
    code = hmac.digest(secret.encode(), f"{second}.".encode() + body, "sha256").hex()
    return f"t={second},v1={code}"


@pytest.fixture
def webhooks() -> SignedWebhooks:
    return SignedWebhooks([SECRET, OLD], recipient="acct_1", clock=MovableClock())


def test_a_signed_event_is_a_payment(webhooks: SignedWebhooks) -> None:
    body = event()

    assert webhooks.received(body, signed(body)) == PaymentSucceeded(
        id="stripe:evt_1",
        payment="stripe:pi_1",
        at=NOON.replace(microsecond=0),
        tenant=ALICE,
        attempt_id=ATTEMPT,
        raw_amount=200,
        currency="usd",
        recipient="acct_1",
    )


@pytest.mark.parametrize("secret", [SECRET, OLD])
def test_both_secrets_are_accepted_during_a_rotation(webhooks: SignedWebhooks, secret: str) -> None:
    body = event()

    assert webhooks.received(body, signed(body, secret=secret)) is not None


def test_one_valid_signature_of_several_is_enough(webhooks: SignedWebhooks) -> None:
    body = event()
    header = signed(body).replace(",v1=", f",v1={'0' * 64},v0=ff,v1=")

    assert webhooks.received(body, header) is not None


@pytest.mark.parametrize(
    "header",
    [
        f"t={SECOND}",
        f"t={SECOND},v1={'0' * 64}",
        f"t={SECOND},v1=",
        f"t={SECOND},v0={signed(event())[-64:]}",
        signed(event(), secret="whsec_another_one_00"),
        signed(event() + b" "),
        signed(event(), second=SECOND - 1).replace(str(SECOND - 1), str(SECOND)),
    ],
)
def test_an_invalid_signature_is_refused(webhooks: SignedWebhooks, header: str) -> None:
    with pytest.raises(InvalidSignature) as caught:
        webhooks.received(event(), header)

    assert (caught.value.field, caught.value.given) == ("signature", "another one")
    assert OLD not in repr(webhooks)


@pytest.mark.parametrize(
    ("header", "shown"),
    [
        (None, "None"),
        ("", "''"),
        ("t=", "'t='"),
        ("v1=00", "'v1=00'"),
        ("t=1,t=2,v1=00", "'t=1,t=2,v1=00'"),
        ("garbage", "'garbage'"),
        ("t=x,v1=00", "'t=x,v1=00'"),
        ("\u0661=1", "'\\u0661=1'"),
        ("T=1,V1=00", "'T=1,V1=00'"),
    ],
)
def test_a_malformed_signature_header_is_refused(
    webhooks: SignedWebhooks, header: str | None, shown: str
) -> None:
    with pytest.raises(InvalidSignature) as caught:
        webhooks.received(event(), header)

    assert (caught.value.field, caught.value.given) == ("signature", shown)


@pytest.mark.parametrize("off", [-301, 301])
def test_a_signature_out_of_tolerance_is_refused(webhooks: SignedWebhooks, off: int) -> None:
    body = event()

    with pytest.raises(InvalidSignature) as caught:
        webhooks.received(body, signed(body, second=SECOND + off))

    assert (caught.value.field, caught.value.given) == ("signature", "301 s off")
    assert "0:05:00" in caught.value.expected


@pytest.mark.parametrize("off", [-299, 0, 300])
def test_a_signature_within_tolerance_is_accepted(webhooks: SignedWebhooks, off: int) -> None:
    body = event()

    assert webhooks.received(body, signed(body, second=SECOND + off)) is not None


@pytest.mark.parametrize("kind", ["payment_intent.processing", "charge.updated", None, []])
def test_another_event_type_is_none(webhooks: SignedWebhooks, kind: str) -> None:
    body = event(kind)

    assert webhooks.received(body, signed(body)) is None


def test_a_body_that_is_no_bytes_is_refused(webhooks: SignedWebhooks) -> None:
    with pytest.raises(InvalidInput) as caught:
        webhooks.received("{}", signed(b"{}"))  # type: ignore[arg-type]

    assert (caught.value.field, caught.value.given) == ("body", "'{}'")


def test_an_event_of_the_recipients_connected_account_is_a_payment(
    webhooks: SignedWebhooks,
) -> None:
    body = of_account("acct_1", event(customer="cus_1"))
    received = webhooks.received(body, signed(body))

    assert isinstance(received, PaymentSucceeded)
    assert received.sender == "cus_1"


@pytest.mark.parametrize("kind", ["payment_intent.succeeded", "payment_intent.canceled"])
@pytest.mark.parametrize("account", ["acct_2", "", 1, [], {}])
def test_an_event_of_another_merchant_is_none(
    webhooks: SignedWebhooks, kind: str, account: object
) -> None:
    body = of_account(account, event(kind))

    assert webhooks.received(body, signed(body)) is None


@pytest.mark.parametrize("name", ["recipient", "provider"])
@pytest.mark.parametrize("given", [None, 7, "", "a b"])
def test_an_invalid_recipient_or_provider_is_refused(name: str, given: Any) -> None:
    with pytest.raises(InvalidReference) as caught:
        SignedWebhooks(SECRET, **({"recipient": "acct_1"} | {name: given}))
    assert caught.value.field == name


@pytest.mark.parametrize(
    ("secrets", "given"),
    [
        ("", 1),
        ("s" * 15, 1),
        ([], 0),
        ([SECRET, ""], 2),
        ([SECRET, 7], 2),
        ([None], 1),
        (None, 1),
        (5, 1),
    ],
)
def test_short_secrets_are_refused(secrets: Any, given: int) -> None:
    with pytest.raises(InvalidInput) as caught:
        SignedWebhooks(secrets, recipient="acct_1")

    assert (caught.value.field, caught.value.given) == ("secrets", f"{given} secrets")


def test_one_secret_is_enough() -> None:
    short, body = "s" * 16, event()
    webhooks = SignedWebhooks(short, recipient="acct_1", clock=MovableClock())

    assert webhooks.received(body, signed(body, secret=short)) is not None


def test_a_webhook_credits_a_pending_attempt(webhooks: SignedWebhooks) -> None:
    ledger, clock = InMemoryUnitOfWork(), MovableClock()
    polled = PaymentAttempts(ledger, verifier=webhooks, destinations=CARD, clock=clock)
    intent = polled.create_intent(ALICE, usd("2.00"))
    pending = polled.submit(ALICE, intent.attempt_id, "stripe:pi_1")
    told = {"tenant": str(ALICE), "attempt_id": str(intent.attempt_id)}
    body = event(metadata=told)

    received = webhooks.received(body, signed(body))
    assert isinstance(received, PaymentSucceeded)
    credited = polled.report(ALICE, intent.attempt_id, received.payment, received.finding)

    assert (pending.state, credited.state) == (
        AttemptState.PENDING_UNVERIFIED,
        AttemptState.CREDITED,
    )
    assert polled.status(ALICE, intent.attempt_id) == credited


def test_the_verifier_of_webhooks_is_always_pending(
    webhooks: SignedWebhooks, intent: Intent
) -> None:
    waiting = PaymentPending(FailureCode.RPC_ERROR)  # no limit: webhooks may come after days

    assert webhooks.verify("stripe:pi_1", intent) == waiting
    assert asyncio.run(webhooks.verify_async("stripe:pi_1", intent)) == waiting


@pytest.fixture
def intent() -> Intent:
    attempts = PaymentAttempts(InMemoryUnitOfWork(), verifier=FakeVerifier(), destinations=CARD)
    return attempts.create_intent(ALICE, usd("2.00"))
