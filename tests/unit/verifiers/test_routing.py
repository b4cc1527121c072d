"""Each provider has its own verifier."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from cogni_billing import Intent, InvalidInput, PaymentAttempts, usd
from cogni_billing.adapters.memory import InMemoryUnitOfWork
from cogni_billing.adapters.verifiers import ByProvider
from cogni_billing.testing import ALICE, FakeVerifier, paid
from cogni_billing.testing.contracts.attempt_base import CARD, USDC, WALLET


@pytest.fixture
def intent() -> Intent:
    attempts = PaymentAttempts(InMemoryUnitOfWork(), verifier=FakeVerifier(), destinations=USDC)
    return attempts.create_intent(ALICE, usd("2.00"), payer=WALLET)


def test_the_intent_s_provider_is_asked(intent: Intent) -> None:
    cards, chain = FakeVerifier(), FakeVerifier()
    chain.tell("8453:0x1", paid)
    verifier = ByProvider({"stripe": cards, "8453": chain})

    assert verifier.verify("8453:0x1", intent) == paid(intent)
    assert asyncio.run(verifier.verify_async("8453:0x1", intent)) == paid(intent)
    assert (cards.asked, chain.asked) == ([], ["8453:0x1"] * 2)


def test_a_provider_without_a_verifier_raises_invalid_input(intent: Intent) -> None:
    verifier = ByProvider({CARD.provider: FakeVerifier(), "1": FakeVerifier()})

    with pytest.raises(InvalidInput) as caught:
        verifier.verify("8453:0x1", intent)
    assert (caught.value.field, caught.value.given) == ("provider", "'8453'")
    assert caught.value.expected == "stripe or 1"


@pytest.mark.parametrize(
    ("verifiers", "shown"), [(None, "None"), ([], "a list"), ({7: None}, "a dict")]
)
def test_verifiers_without_provider_names_are_refused(verifiers: Any, shown: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        ByProvider(verifiers)

    assert (caught.value.field, caught.value.given) == ("verifiers", shown)
