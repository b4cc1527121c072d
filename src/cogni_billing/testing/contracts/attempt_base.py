"""Shared by the contracts of payment attempts: destinations, tenants and fixtures."""

from __future__ import annotations

from datetime import timedelta

import pytest

from cogni_billing import (
    AttemptState,
    Destination,
    FailureCode,
    Intent,
    PaymentAttempts,
    usd,
)
from cogni_billing.testing.base import (
    ALICE,
    Contract,
    CountingIds,
    MovableClock,
    NewAttempts,
)
from cogni_billing.testing.verifiers import FakeVerifier

TOKEN = "0x833589fcd6edb6e08f4c7c32d4f71b54bda02913"
PLATFORM = "0x" + "70" * 20
WALLET, STRANGER = "0x" + "a1" * 20, "0x" + "ee" * 20
USDC = Destination.usdc(chain_id=8453, token=TOKEN, recipient=PLATFORM, confirmations=5)
CARD = Destination.card("stripe", recipient="acct_1")
PROOF = "8453:0x" + "ab" * 32
POLL = timedelta(seconds=10)
DAY = timedelta(hours=24)
CALLERS = 20

State, Code = AttemptState, FailureCode


class Attempting(Contract):
    """Fixtures for payment attempts."""

    @pytest.fixture
    def moving(self) -> MovableClock:
        return MovableClock()

    @pytest.fixture
    def verifier(self) -> FakeVerifier:
        return FakeVerifier()

    @pytest.fixture
    def attempts(
        self, new_attempts: NewAttempts, moving: MovableClock, verifier: FakeVerifier
    ) -> PaymentAttempts:
        return new_attempts(
            verifier=verifier, destinations=[USDC, CARD], clock=moving, ids=CountingIds()
        )

    @pytest.fixture
    def intent(self, attempts: PaymentAttempts) -> Intent:
        """Alice intends to pay two dollars."""
        return attempts.create_intent(ALICE, usd("2.00"), payer=WALLET)
