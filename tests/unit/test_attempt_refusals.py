"""Bad input to every argument of payment attempts is refused by name, before any call on the
ledger.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

import pytest

from cogni_billing import (
    AttemptRules,
    InvalidInput,
    InvalidTime,
    PaymentAttempts,
    PaymentFailed,
    PaymentPending,
    usd,
)
from cogni_billing.adapters.memory import InMemoryUnitOfWork
from cogni_billing.domain.attempt_limits import SPAN_MAX
from cogni_billing.testing import ALICE, FakeVerifier, MovableClock, reaching
from cogni_billing.testing.contracts.attempt_base import CARD, PROOF, USDC, WALLET
from cogni_billing.testing.contracts.bad_input import BAD, KEYS

ATTEMPT: Final[dict[str, tuple[object, str]]] = {
    "tenant": (ALICE, "tenant"),
    "attempt_id": (UUID(int=1), "id"),
}
CALLS: Final[dict[str, dict[str, tuple[object, str]]]] = {
    "create_intent": {
        "tenant": (ALICE, "tenant"),
        "amount": (usd("2.00"), "money"),
        "payer": (WALLET, "key"),
        "provider": (None, "provider"),
        "metadata": (None, "metadata"),
        "recipient": (None, "recipient"),
    },
    "submit": ATTEMPT | {"evidence": (PROOF, "key")},
    "report": ATTEMPT
    | {"evidence": (PROOF, "key"), "finding": (PaymentPending(), "finding")}
    | {"aliases": ((), "aliases")},
    "status": ATTEMPT,
    "history": ATTEMPT,
}
"""A good argument for each name, and the type of its bad ones."""


HUGE = pytest.param(10**5000, id="more digits than Python tells")
OTHERS: Final[dict[str, tuple[object, ...]]] = {
    "provider": tuple(key for key in KEYS if key is not None),
    "recipient": (*(key for key in KEYS if key is not None), "0x" + "aB" * 20),
    "aliases": (None, 7, "stripe:cs_1", b"a", [None], ["cs_1"], ["8453:0x1"], [("a", "b")]),
    "finding": (None, True, "verified", {"state": "verified"}, PaymentPending),
}


def cases() -> Iterator[tuple[str, str, object]]:
    for call, arguments in CALLS.items():
        for name, (_, kind) in arguments.items():
            bad = BAD.get(kind) or OTHERS[kind]
            yield from ((call, name, given) for given in bad)


def test_every_argument_is_tried() -> None:
    for call, arguments in CALLS.items():
        signature = inspect.signature(getattr(PaymentAttempts, call))
        assert list(signature.parameters)[1:] == list(arguments)


@pytest.mark.parametrize(("call", "name", "bad"), list(cases()))
def test_a_bad_argument_is_refused_by_name(
    monkeypatch: pytest.MonkeyPatch, call: str, name: str, bad: Any
) -> None:
    reached = reaching(InMemoryUnitOfWork, monkeypatch)
    attempts = PaymentAttempts(
        InMemoryUnitOfWork(), verifier=FakeVerifier(), destinations=[USDC, CARD]
    )
    given = {each: good for each, (good, _) in CALLS[call].items()} | {name: bad}

    with pytest.raises(InvalidInput) as caught:
        getattr(attempts, call)(**given)

    assert re.split(r"\W", caught.value.field)[0] == name  # the field of metadata includes a path
    assert len(str(caught.value)) < 400
    assert reached() == 0


@pytest.mark.parametrize("within", [None, 5, "5", 0, HUGE, timedelta(0), timedelta.max])
def test_an_invalid_answers_within_is_refused(within: Any) -> None:
    with pytest.raises(InvalidInput) as caught:
        PaymentAttempts(
            InMemoryUnitOfWork(),
            verifier=FakeVerifier(),
            destinations=CARD,
            answers_within=within,
        )
    assert caught.value.field == "answers_within"


def test_the_longest_answers_within_is_accepted() -> None:
    attempts = PaymentAttempts(
        InMemoryUnitOfWork(), verifier=FakeVerifier(), destinations=CARD, answers_within=SPAN_MAX
    )

    assert attempts.create_intent(ALICE, usd("2.00")).amount == usd("2.00")


@pytest.mark.parametrize("span", [None, HUGE, {"a": {}}, timedelta(-1), timedelta.max])
@pytest.mark.parametrize("name", ["expires_after", "gives_up_after", "checks_every"])
def test_rules_with_invalid_spans_are_refused(name: str, span: Any) -> None:
    with pytest.raises(InvalidInput) as caught:
        AttemptRules(**{name: span})

    assert caught.value.field == name


@pytest.mark.parametrize("odd", [[], {}, None, Decimal("sNaN"), "NONSENSE"])
def test_findings_with_invalid_codes_are_refused(odd: Any) -> None:
    with pytest.raises(InvalidInput) as caught:
        PaymentPending(odd)
    assert caught.value.field == "reason"
    with pytest.raises(InvalidInput) as caught:
        PaymentFailed(odd)
    assert caught.value.field == "code"


def test_an_intent_that_would_expire_after_the_last_year_is_refused() -> None:
    attempts = PaymentAttempts(
        InMemoryUnitOfWork(),
        verifier=FakeVerifier(),
        destinations=CARD,
        clock=MovableClock(datetime(9998, 12, 31, tzinfo=UTC)),
        rules=AttemptRules(expires_after=timedelta(days=3650)),
    )

    with pytest.raises(InvalidTime) as caught:
        attempts.create_intent(ALICE, usd("2.00"))

    given = "3650 days, 0:00:00 after 9998-12-31 00:00:00+00:00"
    assert (caught.value.field, caught.value.given) == ("expires_at", given)
