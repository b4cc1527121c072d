"""Each provider has its verifier."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from cogni_billing import Intent, InvalidInput, PaymentAttempts, PaymentFailed, usd
from cogni_billing.adapters.memory import InMemoryUnitOfWork
from cogni_billing.adapters.verifiers import ByProvider
from cogni_billing.domain.attempts import FailureCode
from cogni_billing.testing import ALICE, FakeVerifier
from cogni_billing.testing.contracts.attempts import CARD, USDC, WALLET

NO = PaymentFailed(FailureCode.TX_REVERTED)


@pytest.fixture
def intent() -> Intent:
    attempts = PaymentAttempts(InMemoryUnitOfWork(), verifier=FakeVerifier(), destinations=USDC)
    return attempts.create_intent(ALICE, usd("2.00"), payer=WALLET)


def test_the_intent_s_provider_is_asked(intent: Intent) -> None:
    cards, chain = FakeVerifier(), FakeVerifier()
    chain.tell("8453:0x1", NO)
    verifier = ByProvider({"stripe": cards, "8453": chain})

    assert verifier.verify("8453:0x1", intent) == NO
    assert asyncio.run(verifier.verify_async("8453:0x1", intent)) == NO
    assert (cards.asked, chain.asked) == ([], ["8453:0x1"] * 2)


def test_one_that_has_none_is_told_to_the_host(intent: Intent) -> None:
    verifier = ByProvider({CARD.provider: FakeVerifier()})

    with pytest.raises(InvalidInput, match="provider: expected stripe, got '8453'"):
        verifier.verify("8453:0x1", intent)


@pytest.mark.parametrize("verifiers", [None, [], {8453: FakeVerifier()}])
def test_providers_have_names(verifiers: Any) -> None:
    with pytest.raises(InvalidInput, match="verifiers"):
        ByProvider(verifiers)
