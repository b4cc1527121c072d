"""The exact message of each refused argument of payment attempts."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any, Final

import pytest
from attrs import evolve

from cogni_billing import (
    AttemptRules,
    AttemptState,
    Destination,
    FailureCode,
    InvalidInput,
    PaymentFailed,
    PaymentPending,
    credits,
    usd,
)
from cogni_billing.domain.attempt_limits import DEFAULT_RULES, checked_rules
from cogni_billing.domain.attempts import AttemptEvent, checked_attempt_id
from cogni_billing.domain.destinations import (
    checked_destinations,
    checked_evidence,
    require_provider,
)
from cogni_billing.domain.findings import checked_finding
from cogni_billing.domain.purchases import Purchase, request_purchase
from cogni_billing.testing import ALICE, NOON
from cogni_billing.testing.contracts.attempt_base import CARD, PLATFORM, TOKEN, USDC
from cogni_billing.testing.verifiers import paid_but
from unit.domain.test_attempts import attempt


def found(**changes: Any) -> object:
    return checked_finding(paid_but(**changes)(attempt().intent))


BIGGEST = 2**256 - 1
SPAN = "a timedelta from 0 to 3650 days, 0:00:00"
REFUSALS: Final[list[tuple[Callable[[], object], str]]] = [
    (
        lambda: PaymentPending(FailureCode.TX_REVERTED),
        "reason: expected INSUFFICIENT_CONFIRMATIONS or RECEIPT_NOT_FOUND or RPC_ERROR or TX_NOT_FOUND, got 'TX_REVERTED'",
    ),
    (
        lambda: PaymentFailed(FailureCode.INTENT_EXPIRED),
        "code: expected a FailureCode that a verifier can report, got 'INTENT_EXPIRED'",
    ),
    (lambda: AttemptRules(minimum=credits(5)), "minimum: expected USD, got CREDIT"),
    (
        lambda: AttemptRules(maximum=usd("1000000000.01")),
        "maximum: expected at most 1000000000.00 USD, got 1000000000.01 USD",
    ),
    (
        lambda: AttemptRules(minimum=usd("5.00"), maximum=usd("4.99")),
        "maximum: expected at least 5.00 USD, got 4.99 USD",
    ),
    (
        lambda: AttemptRules(expires_after=timedelta(days=-1)),
        f"expires_after: expected {SPAN}, got '-1 day, 0:00:00'",
    ),
    (
        lambda: DEFAULT_RULES.amount(usd("1.99")),
        "amount: expected from 2.00 USD to 10000.00 USD, got 1.99 USD",
    ),
    (lambda: DEFAULT_RULES.amount(5), "amount: expected an Amount greater than zero, got 5"),
    (lambda: checked_rules(5), "rules: expected AttemptRules, got 5"),  # type: ignore[arg-type]
    (
        lambda: attempt().moved(AttemptEvent(state=AttemptState.FAILED, at=NOON)),
        "move: expected its evidence, purchase or failure, got 'FAILED'",
    ),
    (
        lambda: checked_attempt_id("7"),
        "attempt_id: expected the id of an attempt, a uuid.UUID, got '7'",
    ),
    (
        lambda: checked_finding("paid"),
        "finding: expected PaymentVerified, PaymentPending or PaymentFailed, got 'paid'",
    ),
    (
        lambda: found(token=""),
        "token: expected 1 to 255 visible ASCII characters (0x21-0x7E), got ''",
    ),
    (
        lambda: found(raw_amount=-7),
        f"raw_amount: expected a whole number from 0 to {BIGGEST}, got -7",
    ),
    (
        lambda: found(confirmations=2.5),
        f"confirmations: expected a whole number from 0 to {2**63 - 1}, got 2.5",
    ),
    (
        lambda: plan_purchase_of("8453:0x" + "A" * 64),
        "payment: expected chain_id:0x and the transaction hash, in lower case,"
        f" got '8453:0x{'A' * 53}...",
    ),
    (
        lambda: Destination.card("a:b", recipient="acct_1"),
        "provider: expected a name without a colon, such as stripe, got 'a:b'",
    ),
    (
        lambda: evolve(USDC, decimals=1),
        "decimals: expected a whole number from 2 to 18, got 1",
    ),
    (
        lambda: evolve(USDC, confirmations=-1),
        "confirmations: expected a whole number from 0 to 10000, got -1",
    ),
    (
        lambda: evolve(USDC, token="usdc"),
        "token: expected an address, 0x and 40 hexadecimal digits, got 'usdc'",
    ),
    (
        lambda: evolve(USDC, recipient="me"),
        "recipient: expected an address, 0x and 40 hexadecimal digits, got 'me'",
    ),
    (
        lambda: Destination.usdc(chain_id=0, token=TOKEN, recipient=PLATFORM),
        "chain_id: expected a whole number from 1 to 999999999999999999, got 0",
    ),
    (
        lambda: USDC.payer("alice"),
        "payer: expected an address, 0x and 40 hexadecimal digits, got 'alice'",
    ),
    (
        lambda: evolve(CARD, token=""),
        "token: expected 1 to 255 visible ASCII characters (0x21-0x7E), got ''",
    ),
    (
        lambda: CARD.payer("a b"),
        "payer: expected 1 to 255 visible ASCII characters (0x21-0x7E), got 'a b'",
    ),
    (
        lambda: checked_evidence("8453:x:0x" + "a" * 64),
        f"evidence: expected chain_id:tx_hash, where tx_hash is 0x and 64 hexadecimal digits, got '8453:x:0x{'a' * 51}...",
    ),
    (
        lambda: checked_evidence("stripe"),
        "evidence: expected provider:id, such as stripe:pi_1, got 'stripe'",
    ),
    (
        lambda: checked_evidence(":pi_1"),
        "evidence: expected provider:id, such as stripe:pi_1, got ':pi_1'",
    ),
    (
        lambda: checked_evidence(7),
        "evidence: expected 1 to 255 visible ASCII characters (0x21-0x7E), got 7",
    ),
    (
        lambda: checked_evidence("8453:0x1"),
        "evidence: expected chain_id:tx_hash, where tx_hash is 0x and 64 hexadecimal digits, got '8453:0x1'",
    ),
    (
        lambda: require_provider("stripe:pi_1", "8453"),
        "evidence: expected evidence beginning with 8453:, got 'stripe:pi_1'",
    ),
    (
        lambda: checked_destinations(7),
        "destinations: expected one or more Destination, each with another provider, got 7",
    ),
    (
        lambda: checked_destinations([None]),
        "destinations: expected one or more Destination, each with another provider, got a list",
    ),
    (
        lambda: checked_destinations([CARD, CARD]),
        "destinations: expected one or more Destination, each with another provider, got a provider twice",
    ),
]


def plan_purchase_of(payment: str) -> object:
    return request_purchase(Purchase(tenant=ALICE, amount=usd("1.00"), payment=payment))


@pytest.mark.parametrize(("refused", "said"), REFUSALS)
def test_a_refusal_has_its_message(refused: Callable[[], object], said: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        refused()

    assert str(caught.value) == said
