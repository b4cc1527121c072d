"""Events as Stripe documents them, each written out by hand, with a valid signature."""

from __future__ import annotations

import hmac
import json
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest

from cogni_billing import (
    DisputeChanged,
    DisputeState,
    FailureCode,
    FraudWarned,
    InvalidInput,
    MoneyEvent,
    PaymentCanceled,
    PaymentDeclined,
    PaymentEvent,
    PaymentFailed,
    PaymentRefunded,
    PaymentSucceeded,
    PaymentVerified,
    RefundFailed,
    RefundMade,
    UnitMismatch,
    usd,
)
from cogni_billing.adapters.verifiers.webhooks import SignedWebhooks
from cogni_billing.testing import ALICE, MovableClock

SECRET = "whsec_0123456789abcdef"
ATTEMPT = UUID(int=7)
CREATED = 1_764_504_000
AT = datetime.fromtimestamp(CREATED, UTC)
METADATA = {"tenant": str(ALICE), "attempt_id": str(ATTEMPT)}

INTENT = {
    "id": "pi_3Q1",
    "object": "payment_intent",
    "amount": 1000,
    "amount_capturable": 0,
    "amount_received": 1000,
    "application": None,
    "canceled_at": None,
    "cancellation_reason": None,
    "capture_method": "automatic_async",
    "client_secret": "pi_3Q1_secret_x",
    "confirmation_method": "automatic",
    "created": CREATED - 60,
    "currency": "usd",
    "customer": "cus_R1",
    "last_payment_error": None,
    "latest_charge": "ch_3Q1",
    "livemode": False,
    "metadata": METADATA,
    "payment_method_types": ["card", "us_bank_account"],
    "status": "succeeded",
}
SESSION = {
    "id": "cs_test_a1",
    "object": "checkout.session",
    "amount_subtotal": 1000,
    "amount_total": 1000,
    "client_reference_id": None,
    "currency": "usd",
    "customer": "cus_R1",
    "customer_details": {"email": "ada@example.com"},
    "metadata": METADATA,
    "mode": "payment",
    "payment_intent": "pi_3Q1",
    "payment_status": "paid",
    "status": "complete",
    "total_details": {"amount_discount": 0, "amount_shipping": 0, "amount_tax": 0},
}
CHARGE = {
    "id": "ch_3Q1",
    "object": "charge",
    "amount": 1000,
    "amount_captured": 1000,
    "amount_refunded": 400,
    "balance_transaction": "txn_1",
    "currency": "usd",
    "customer": "cus_R1",
    "disputed": False,
    "metadata": METADATA,
    "paid": True,
    "payment_intent": "pi_3Q1",
    "refunded": False,
    "status": "succeeded",
}
REFUND = {
    "id": "re_3Q1",
    "object": "refund",
    "amount": 400,
    "balance_transaction": "txn_2",
    "charge": "ch_3Q1",
    "created": CREATED,
    "currency": "usd",
    "metadata": {},
    "payment_intent": "pi_3Q1",
    "reason": "requested_by_customer",
    "status": "succeeded",
}
DISPUTE = {
    "id": "du_1Q1",
    "object": "dispute",
    "amount": 1000,
    "balance_transactions": [],
    "charge": "ch_3Q1",
    "created": CREATED,
    "currency": "usd",
    "evidence_details": {"due_by": CREATED + 604_800, "has_evidence": False},
    "is_charge_refundable": False,
    "metadata": {},
    "payment_intent": "pi_3Q1",
    "reason": "fraudulent",
    "status": "needs_response",
}
WARNING = {
    "id": "issfr_1Q1",
    "object": "radar.early_fraud_warning",
    "actionable": True,
    "charge": "ch_3Q1",
    "created": CREATED,
    "fraud_type": "made_with_stolen_card",
    "payment_intent": "pi_3Q1",
}

COMMON: dict[str, Any] = {"id": "stripe:evt_1Q1", "payment": "stripe:pi_3Q1", "at": AT}
OWNED: dict[str, Any] = COMMON | {"tenant": ALICE, "attempt_id": ATTEMPT}
OF_CHARGE: dict[str, Any] = {"aliases": ("stripe:ch_3Q1",)}
OF_SESSION: dict[str, Any] = {"aliases": ("stripe:cs_test_a1",)}
DOLLARS: dict[str, Any] = {"currency": "usd"}


def event(kind: str, found: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """An event of Stripe, around the object that it is about."""
    return {
        "id": "evt_1Q1",
        "object": "event",
        "api_version": "2025-10-29.clover",
        "created": CREATED,
        "data": {"object": found | changes},
        "livemode": False,
        "pending_webhooks": 1,
        "request": {"id": None, "idempotency_key": None},
        "type": kind,
    }


def received(told: dict[str, Any]) -> PaymentEvent | None:
    """The signed event, as the library reads it."""
    body = json.dumps(told).encode()
    code = hmac.digest(SECRET.encode(), b"%d." % CREATED + body, "sha256").hex()
    webhooks = SignedWebhooks(SECRET, recipient="acct_1", clock=MovableClock(AT))
    return webhooks.received(body, f"t={CREATED},v1={code}")


def of_dispute(state: DisputeState, raw_amount: int = 1000) -> DisputeChanged:
    return DisputeChanged(
        **COMMON, **OF_CHARGE, **DOLLARS, raw_amount=raw_amount, reference="du_1Q1", state=state
    )


SUCCESS: dict[str, Any] = {"raw_amount": 1000, "sender": "cus_R1", "recipient": "acct_1"}
REFUNDED: dict[str, Any] = {"raw_amount": 400, "reference": "re_3Q1"}
BANK = {"payment_status": "unpaid"}
MADE = RefundMade(**COMMON, **OF_CHARGE, **DOLLARS, **REFUNDED)
FAILED = RefundFailed(**COMMON, **OF_CHARGE, **DOLLARS, **REFUNDED)
OPEN, WON, LOST = map(of_dispute, (DisputeState.OPEN, DisputeState.WON, DisputeState.LOST))

CASES: dict[str, tuple[str, dict[str, Any], PaymentEvent | None]] = {
    "a paid session": (
        "checkout.session.completed",
        SESSION,
        PaymentSucceeded(**OWNED, **OF_SESSION, **DOLLARS, **SUCCESS),
    ),
    "a session that waits for a bank": ("checkout.session.completed", SESSION | BANK, None),
    "a session of a subscription": (
        "checkout.session.completed",
        SESSION | {"mode": "subscription", "payment_intent": None},
        None,
    ),
    "a bank debit that arrived": (
        "checkout.session.async_payment_succeeded",
        SESSION,
        PaymentSucceeded(**OWNED, **OF_SESSION, **DOLLARS, **SUCCESS),
    ),
    "a bank debit that failed": (
        "checkout.session.async_payment_failed",
        SESSION | BANK,
        PaymentCanceled(**OWNED, **OF_SESSION),
    ),
    "a paid intent": (
        "payment_intent.succeeded",
        INTENT,
        PaymentSucceeded(**OWNED, **OF_CHARGE, **DOLLARS, **SUCCESS),
    ),
    "a canceled intent": (
        "payment_intent.canceled",
        INTENT | {"status": "canceled", "latest_charge": None},
        PaymentCanceled(**OWNED),
    ),
    "a declined card": (
        "payment_intent.payment_failed",
        INTENT | {"status": "requires_payment_method"},
        PaymentDeclined(**OWNED, **OF_CHARGE),
    ),
    "a refunded charge": (
        "charge.refunded",
        CHARGE,
        PaymentRefunded(**OWNED, **OF_CHARGE, **DOLLARS, raw_amount=400, charged=1000),
    ),
    "a charge without an intent": (
        "charge.refunded",
        CHARGE | {"payment_intent": None},
        PaymentRefunded(
            **OWNED | {"payment": "stripe:ch_3Q1"}, **DOLLARS, raw_amount=400, charged=1000
        ),
    ),
    "a refund": ("refund.created", REFUND, MADE),
    "a pending refund": ("refund.created", REFUND | {"status": "pending"}, MADE),
    "a refund that arrived": ("refund.updated", REFUND, MADE),
    "a refund that was canceled": ("refund.updated", REFUND | {"status": "canceled"}, FAILED),
    "a refund that failed": ("refund.failed", REFUND | {"status": "failed"}, FAILED),
    "a refund that failed, in an older API": (
        "charge.refund.updated",
        REFUND | {"status": "failed", "failure_reason": "expired_or_canceled_card"},
        FAILED,
    ),
    "a dispute": ("charge.dispute.created", DISPUTE, OPEN),
    "an inquiry": ("charge.dispute.created", DISPUTE | {"status": "warning_needs_response"}, OPEN),
    "withdrawn funds": ("charge.dispute.funds_withdrawn", DISPUTE, OPEN),
    "a smaller dispute": (
        "charge.dispute.updated",
        DISPUTE | {"status": "under_review", "amount": 600},
        of_dispute(DisputeState.OPEN, 600),
    ),
    "a won dispute": ("charge.dispute.closed", DISPUTE | {"status": "won"}, WON),
    "a lost dispute": ("charge.dispute.closed", DISPUTE | {"status": "lost"}, LOST),
    "an inquiry that ended": (
        "charge.dispute.closed",
        DISPUTE | {"status": "warning_closed"},
        WON,
    ),
    "reinstated funds": ("charge.dispute.funds_reinstated", DISPUTE | {"status": "won"}, WON),
    "a fraud warning": (
        "radar.early_fraud_warning.created",
        WARNING,
        FraudWarned(**COMMON, **OF_CHARGE, reference="issfr_1Q1"),
    ),
    "an event of another subject": ("customer.created", {"id": "cus_R1"}, None),
}


@pytest.mark.parametrize("name", CASES)
def test_a_signed_event_is_read(name: str) -> None:
    kind, found, expected = CASES[name]

    assert received(event(kind, found)) == expected


def test_an_expanded_object_is_read_by_its_id() -> None:
    told = received(event("refund.created", REFUND, payment_intent=INTENT, charge=CHARGE))

    assert told == MADE


def test_a_success_is_the_finding_of_a_verifier() -> None:
    told = received(event("payment_intent.succeeded", INTENT, amount_received=0, customer=None))

    assert isinstance(told, PaymentSucceeded)
    assert told.finding == PaymentVerified(
        provider="stripe", token="usd", sender=None, recipient="acct_1", raw_amount=0
    )


def test_a_cancellation_is_the_finding_of_a_verifier() -> None:
    told = received(event("payment_intent.canceled", INTENT))

    assert isinstance(told, PaymentCanceled)
    assert told.finding == PaymentFailed(FailureCode.TX_REVERTED)


@pytest.mark.parametrize(
    "metadata",
    [None, {}, [], {"tenant": "acme"}, {"tenant": 7}, {"tenant": str(UUID(int=0))}],
)
def test_a_success_without_a_valid_tenant_is_told_without_one(metadata: Any) -> None:
    told = received(event("payment_intent.succeeded", INTENT, metadata=metadata))

    assert isinstance(told, PaymentSucceeded)
    assert (told.tenant, told.attempt_id, told.raw_amount) == (None, None, 1000)


def test_an_invalid_attempt_is_told_as_none() -> None:
    metadata = METADATA | {"attempt_id": "7"}
    told = received(event("payment_intent.succeeded", INTENT, metadata=metadata))

    assert told is not None
    assert (told.tenant, told.attempt_id) == (ALICE, None)


def test_an_amount_is_in_dollars_or_refused() -> None:
    dollars = received(event("refund.created", REFUND))
    euros = received(event("refund.created", REFUND, currency="eur"))

    assert isinstance(dollars, MoneyEvent)
    assert dollars.amount == usd("4.00")
    assert isinstance(euros, MoneyEvent)
    with pytest.raises(UnitMismatch) as caught:
        _ = euros.amount
    assert (caught.value.field, caught.value.given) == ("currency", "'eur'")


SUCCEEDED = event("payment_intent.succeeded", INTENT)


@pytest.mark.parametrize(
    ("told", "field", "given"),
    [
        ([], "body", "2 bytes"),
        (SUCCEEDED | {"data": None}, "data", "None"),
        (SUCCEEDED | {"data": {"object": []}}, "object", "a list"),
        (SUCCEEDED | {"id": None}, "id", "None"),
        (SUCCEEDED | {"created": None}, "created", "None"),
        (SUCCEEDED | {"created": 10**20}, "created", str(10**20)),
        (SUCCEEDED | {"created": True}, "created", "True"),
        (event("payment_intent.succeeded", INTENT, id="a b"), "id", "'a b'"),
        (
            event("payment_intent.succeeded", INTENT, amount_received=None),
            "amount_received",
            "None",
        ),
        (event("payment_intent.succeeded", INTENT, amount_received=2.0), "amount_received", "2.0"),
        (event("payment_intent.succeeded", INTENT, amount_received=-1), "amount_received", "-1"),
        (
            event("payment_intent.succeeded", INTENT, amount_received=True),
            "amount_received",
            "True",
        ),
        (event("payment_intent.succeeded", INTENT, currency=""), "currency", "''"),
        (event("charge.refunded", CHARGE, amount_refunded=None), "amount_refunded", "None"),
        (event("charge.refunded", CHARGE, amount=None), "amount", "None"),
        (event("refund.created", REFUND, id=None), "id", "None"),
        (event("refund.created", REFUND, payment_intent=7), "payment_intent", "7"),
        (event("charge.dispute.created", DISPUTE, amount="10"), "amount", "'10'"),
    ],
)
def test_an_invalid_event_is_refused_by_its_field(told: Any, field: str, given: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        received(told)

    assert (caught.value.field, caught.value.given) == (field, given)


@pytest.mark.parametrize("body", [b"", b"\xff", b"[" * 100_000])
def test_a_body_that_is_no_json_is_refused(body: bytes) -> None:
    code = hmac.digest(SECRET.encode(), b"%d." % CREATED + body, "sha256").hex()
    webhooks = SignedWebhooks(SECRET, recipient="acct_1", clock=MovableClock(AT))

    with pytest.raises(InvalidInput) as caught:
        webhooks.received(body, f"t={CREATED},v1={code}")

    assert (caught.value.field, caught.value.given) == ("body", f"{len(body)} bytes")
