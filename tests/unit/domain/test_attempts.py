"""Payment attempts are the state machine of the documents."""

from __future__ import annotations

import re
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
    InvalidReference,
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
    plan_intent,
)
from cogni_billing.domain.destinations import (
    address,
    checked_destinations,
    checked_evidence,
    require_provider,
)
from cogni_billing.domain.findings import NOT_THERE_YET, TRANSIENT, checked_finding
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
        with pytest.raises(InvalidInput) as caught:
            PaymentPending(code)
        assert caught.value.field == "reason"


@pytest.mark.parametrize("code", [FailureCode.INTENT_EXPIRED, "nonsense", None, 7])
def test_payment_failed_refuses_codes_of_the_library(code: Any) -> None:
    with pytest.raises(InvalidInput) as caught:
        PaymentFailed(code)

    assert caught.value.field == "code"


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
    with pytest.raises(InvalidInput) as caught:
        attempt().moved(AttemptEvent(state=state, at=NOON, **reasons))
    assert (caught.value.field, caught.value.given) == ("move", f"'{state}'")


def test_rules_of_another_type_are_refused() -> None:
    with pytest.raises(InvalidInput) as caught:
        checked_rules(None)  # type: ignore[arg-type]
    assert (caught.value.field, caught.value.given) == ("rules", "None")


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
    with pytest.raises(InvalidInput) as caught:
        Destination.usdc(chain_id=chain, token=TOKEN, recipient=PLATFORM)
    assert caught.value.field == "chain_id"


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


@pytest.mark.parametrize(
    "given",
    [
        "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed",
        "0xfB6916095ca1df60bB79Ce92cE3Ea74c37c5d359",
        "0xdbF03B407c01E7cD3CBea99509d93f8DDDC8C6FB",
        "0xD1220A0cf47c7B9Be7A2E6BA89F429762e7b9aDb",
    ],
)
def test_an_address_with_a_checksum_is_accepted_and_a_wrong_digit_is_refused(given: str) -> None:
    assert address(given, "payer") == given.lower()
    for wrong in (given[:-1] + "0", given[:2] + given[2:].swapcase()):
        with pytest.raises(InvalidReference) as caught:
            address(wrong, "payer")
        assert (caught.value.field, "checksum" in caught.value.expected) == ("payer", True)


def test_raw_amounts_tell_the_decimals() -> None:
    intent = attempt().intent
    assert [n for n in range(256) if intent.is_counted_in(n)] == [6]
    assert evolve(intent, raw_amount=200).is_counted_in(2)


@pytest.mark.parametrize("given", [None, "stripe", b"", [], [CARD, None], [CARD, CARD], 7])
def test_invalid_destinations_are_refused(given: Any) -> None:
    with pytest.raises(InvalidInput) as caught:
        checked_destinations(given)
    assert caught.value.field == "destinations"


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


def test_values_at_their_bounds_are_accepted() -> None:
    most = checked_finding(
        paid_but(raw_amount=2**256 - 1, confirmations=2**63 - 1, sender=None)(attempt().intent)
    )
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
