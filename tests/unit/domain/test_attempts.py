"""Payment attempts are the state machine of the documents."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import timedelta
from itertools import product
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import pytest
from attrs import evolve

from cogni_billing import (
    Attempt,
    AttemptClosed,
    AttemptRules,
    AttemptState,
    AttemptStatus,
    Destination,
    FailureCode,
    InvalidAmount,
    InvalidInput,
    PaymentFailed,
    PaymentPending,
    PaymentVerified,
    UnitMismatch,
    credits,
    usd,
)
from cogni_billing.domain.attempt_limits import DEFAULT_RULES, checked_rules
from cogni_billing.domain.attempts import (
    TRANSITIONS,
    AttemptEvent,
    IntentRequest,
    checked_attempt_id,
    plan_intent,
)
from cogni_billing.domain.destinations import (
    checked_destinations,
    checked_evidence,
    require_provider,
)
from cogni_billing.domain.findings import NOT_THERE_YET, TRANSIENT, checked_finding
from cogni_billing.domain.purchases import Purchase, request_purchase
from cogni_billing.testing import ALICE, NOON
from cogni_billing.testing.contracts.attempt_base import CARD, PLATFORM, TOKEN, USDC, WALLET
from cogni_billing.testing.verifiers import paid_but

PAGE: Final = (Path(__file__).parents[3] / "docs/explanation/attempts.md").read_text("utf-8")
MOVE: Final = re.compile(r"^\| `?(\w+)`? \| `(\w+)` \|", re.MULTILINE)


def attempt(state: AttemptState = AttemptState.CREATED_INTENT) -> Attempt:
    intent = plan_intent(
        IntentRequest(tenant=ALICE, amount=usd("2.00"), payer=WALLET, provider=None, metadata=None),
        destination=USDC,
        rules=DEFAULT_RULES,
        at=NOON,
        attempt_id=UUID(int=1),
    )
    return Attempt(intent=intent, state=state, changed_at=NOON)


@pytest.mark.parametrize(("before", "after"), list(product(AttemptState, repeat=2)))
def test_an_attempt_moves_along_its_transitions_only(
    before: AttemptState, after: AttemptState
) -> None:
    reasons: dict[AttemptState, dict[str, Any]] = {
        AttemptState.PENDING_UNVERIFIED: {"evidence": "8453:0x1"},
        AttemptState.CREDITED: {"transaction_id": UUID(int=2)},
        AttemptState.REJECTED: {"failure": FailureCode.INVALID_TOKEN},
        AttemptState.FAILED: {"failure": FailureCode.TX_REVERTED},
    }
    move = AttemptEvent(state=after, at=NOON + timedelta(seconds=1), **reasons.get(after, {}))

    if after in TRANSITIONS[before]:
        assert attempt(before).moved(move).state is after
    else:
        with pytest.raises(AttemptClosed) as caught:
            attempt(before).moved(move)
        assert (caught.value.attempt_id, caught.value.state) == (UUID(int=1), before)


def test_terminal_states_are_credited_rejected_and_failed() -> None:
    assert {state for state in AttemptState if state.is_terminal} == {
        AttemptState.CREDITED,
        AttemptState.REJECTED,
        AttemptState.FAILED,
    }


def test_each_state_has_its_client_status() -> None:
    assert [attempt(state).status for state in AttemptState] == [
        AttemptStatus.PENDING_VERIFICATION,
        AttemptStatus.PENDING_VERIFICATION,
        AttemptStatus.CONFIRMED,
        AttemptStatus.FAILED,
        AttemptStatus.FAILED,
    ]


def section(title: str) -> str:
    return PAGE.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def test_the_documents_list_every_move() -> None:
    listed = MOVE.findall(section("States"))

    assert sorted(listed) == sorted(
        [
            ("created", "CREATED_INTENT"),
            *(
                (before.value, after.value)
                for before in TRANSITIONS
                for after in TRANSITIONS[before]
            ),
        ]
    )


def test_the_documents_list_every_failure() -> None:
    rows = re.findall(r"^\| (`[^|]+) \|", section("Failures"), re.MULTILINE)
    listed = [code for row in rows for code in re.findall(r"`([A-Z_]+)`", row)]

    assert sorted(listed) == sorted(FailureCode)


@pytest.mark.parametrize("code", [*FailureCode, "nonsense", None])
def test_payment_pending_takes_waiting_codes_only(code: Any) -> None:
    if code in NOT_THERE_YET | TRANSIENT:
        assert PaymentPending(code).reason is code
    else:
        with pytest.raises(InvalidInput, match="reason: expected INSUFFICIENT_CONFIRMATIONS or "):
            PaymentPending(code)


@pytest.mark.parametrize("code", [FailureCode.INTENT_EXPIRED, "nonsense", None, 7])
def test_payment_failed_refuses_codes_of_the_library(code: Any) -> None:
    with pytest.raises(
        InvalidInput, match="code: expected a FailureCode that a verifier can report"
    ):
        PaymentFailed(code)


@pytest.mark.parametrize(
    ("rules", "error", "field"),
    [
        ({"minimum": usd("0.00")}, InvalidAmount, "minimum"),
        ({"minimum": credits(5)}, UnitMismatch, "minimum"),
        ({"maximum": credits(5)}, UnitMismatch, "maximum"),
        ({"maximum": 5}, InvalidAmount, "maximum"),
        ({"minimum": usd("5.00"), "maximum": usd("4.99")}, InvalidInput, "maximum"),
        ({"expires_after": timedelta(seconds=-1)}, InvalidInput, "expires_after"),
        ({"gives_up_after": 24}, InvalidInput, "gives_up_after"),
        ({"checks_every": None}, InvalidInput, "checks_every"),
        ({"checks_every": timedelta.max}, InvalidInput, "checks_every"),
        ({"gives_up_after": timedelta(days=3651)}, InvalidInput, "gives_up_after"),
        ({"minimum": usd("1000000000.01")}, InvalidAmount, "minimum"),
        ({"maximum": usd("1000000000.01")}, InvalidAmount, "maximum"),
    ],
)
def test_invalid_rules_name_the_field_that_was_passed(
    rules: dict[str, Any], error: type[InvalidInput], field: str
) -> None:
    with pytest.raises(error) as caught:
        AttemptRules(**rules)

    assert type(caught.value) is error
    assert caught.value.field == field


def test_rules_at_their_bounds_are_accepted() -> None:
    AttemptRules(maximum=usd("1000000000.00"), expires_after=timedelta(days=3650))


@pytest.mark.parametrize(
    ("state", "reasons"),
    [
        (AttemptState.PENDING_UNVERIFIED, {}),
        (AttemptState.PENDING_UNVERIFIED, {"evidence": "a:b", "failure": FailureCode.RPC_ERROR}),
        (AttemptState.FAILED, {}),
        (AttemptState.FAILED, {"evidence": "a:b"}),
    ],
)
def test_a_move_without_its_reason_is_refused(state: AttemptState, reasons: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput, match=f"its evidence, purchase or failure, got '{state}'"):
        attempt().moved(AttemptEvent(state=state, at=NOON, **reasons))


def test_rules_of_another_type_are_refused() -> None:
    with pytest.raises(InvalidInput, match="rules: expected AttemptRules, got None"):
        checked_rules(None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"provider": "a:b"}, "provider"),
        ({"provider": ""}, "provider"),
        ({"provider": 8453}, "provider"),
        ({"token": "usdc"}, "token"),
        ({"recipient": None}, "recipient"),
        ({"recipient": "0x70"}, "recipient"),
        ({"decimals": 1}, "decimals"),
        ({"decimals": 19}, "decimals"),
        ({"decimals": True}, "decimals"),
        ({"confirmations": -1}, "confirmations"),
        ({"confirmations": 10_001}, "confirmations"),
        ({"confirmations": 1.0}, "confirmations"),
    ],
)
def test_an_invalid_destination_is_refused(change: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        evolve(USDC, **change)

    assert caught.value.field == field


@pytest.mark.parametrize("chain", [0, -1, "8453", None, True, 10**18])
def test_an_invalid_chain_id_is_refused(chain: Any) -> None:
    with pytest.raises(InvalidInput, match="chain_id"):
        Destination.usdc(chain_id=chain, token=TOKEN, recipient=PLATFORM)


def test_raw_amounts_follow_the_decimals_of_the_token() -> None:
    assert USDC.raw_amount(usd("0.01")) == 10_000
    assert evolve(USDC, decimals=18).raw_amount(usd("0.01")) == 10**16
    assert evolve(USDC, decimals=2).raw_amount(usd("10000.00")) == 1_000_000
    with pytest.raises(UnitMismatch):
        USDC.raw_amount(credits(5))


def test_addresses_of_a_chain_are_kept_in_lower_case() -> None:
    upper = Destination.usdc(
        chain_id=1,
        token="0x" + TOKEN[2:].upper(),
        recipient="0x" + PLATFORM[2:].upper(),
        confirmations=0,
    )

    assert (upper.token, upper.recipient) == (TOKEN, PLATFORM)
    account = Destination.card("Stripe", recipient="acct_A")
    assert (account.recipient, account.token) == ("acct_A", "usd")


@pytest.mark.parametrize("given", [None, "stripe", b"", [], [CARD, None], [CARD, CARD], 7])
def test_invalid_destinations_are_refused(given: Any) -> None:
    with pytest.raises(InvalidInput, match="destinations"):
        checked_destinations(given)


def test_one_destination_or_an_iterable_is_accepted() -> None:
    assert checked_destinations(CARD) == (CARD,)
    assert checked_destinations(iter([CARD, USDC])) == (CARD, USDC)


def test_a_card_payer_is_none_or_a_name() -> None:
    assert CARD.payer(None) is None
    assert CARD.payer("cus_A") == "cus_A"


def test_is_chain_recognises_chain_ids_only() -> None:
    assert not evolve(CARD, provider="0").is_chain
    assert not evolve(CARD, provider="007").is_chain
    assert USDC.is_chain
    found = attempt().intent
    assert found.chain_id == 8453


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


def test_values_at_their_bounds_are_accepted() -> None:
    most = found(raw_amount=BIGGEST, confirmations=2**63 - 1, sender=None)
    assert isinstance(most, PaymentVerified)
    assert evolve(USDC, decimals=2, confirmations=0).decimals == 2
    assert evolve(USDC, decimals=18, confirmations=10_000).decimals == 18
    assert Destination.usdc(chain_id=1, token=TOKEN, recipient=PLATFORM).confirmations == 5
    assert Destination.usdc(chain_id=10**18 - 1, token=TOKEN, recipient=PLATFORM).is_chain
    assert Destination.card("stripe", recipient="acct_1").confirmations == 0
    assert checked_evidence("stripe:pi:1") == "stripe:pi:1"
    require_provider("stripe:pi:1", "stripe")
    one = AttemptRules(minimum=usd("5.00"), maximum=usd("5.00"))
    assert one.amount(usd("5.00")) == usd("5.00")
    now = AttemptRules(expires_after=timedelta(0), gives_up_after=timedelta(0))
    assert now.expires_after == timedelta(0)
