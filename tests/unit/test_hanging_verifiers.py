"""Hanging verifiers use a limited number of threads."""

from __future__ import annotations

from datetime import timedelta
from threading import Event, Thread

import pytest

from cogni_billing import (
    AttemptRules,
    AttemptState,
    Intent,
    PaymentAttempts,
    PaymentPending,
    VerifierFailed,
    usd,
)
from cogni_billing.adapters.memory import InMemoryUnitOfWork
from cogni_billing.application import asking
from cogni_billing.domain.findings import Finding
from cogni_billing.testing import ALICE, FakeVerifier, paid
from cogni_billing.testing.contracts.attempt_base import CARD

ROOM = 2
EVERY_TIME = AttemptRules(checks_every=timedelta(0))


def test_hanging_verifiers_use_a_limited_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "THREADS_MAX", ROOM)
    released = Event()

    def hang(intent: Intent) -> Finding:
        released.wait()
        return paid(intent)

    verifier = FakeVerifier()
    verifier.tell("stripe:pi_1", hang)
    attempts = PaymentAttempts(
        InMemoryUnitOfWork(),
        verifier=verifier,
        destinations=CARD,
        rules=EVERY_TIME,
        answers_within=timedelta(milliseconds=50),
    )
    intent = attempts.create_intent(ALICE, usd("2.00"))
    attempt = attempts.submit(ALICE, intent.attempt_id, "stripe:pi_1")

    for _ in range(ROOM):
        attempt = attempts.status(ALICE, intent.attempt_id)

    assert attempt.state is AttemptState.PENDING_UNVERIFIED
    assert len(verifier.asked) == ROOM

    released.set()
    tries = (attempts.status(ALICE, intent.attempt_id).state for _ in range(100))
    assert AttemptState.CREDITED in tries


def test_a_thread_that_cannot_start_frees_its_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(asking, "THREADS_MAX", ROOM)
    verifier = FakeVerifier()
    verifier.tell("stripe:pi_1", paid)
    attempts = PaymentAttempts(
        InMemoryUnitOfWork(), verifier=verifier, destinations=CARD, rules=EVERY_TIME
    )
    intent = attempts.create_intent(ALICE, usd("2.00"))
    attempts.report(ALICE, intent.attempt_id, "stripe:pi_1", PaymentPending())

    with monkeypatch.context() as patch:
        patch.setattr(Thread, "start", refused)
        for _ in range(ROOM + 1):
            with pytest.raises(VerifierFailed) as caught:
                attempts.status(ALICE, intent.attempt_id)
            assert "can't start new thread" in caught.value.reason

    assert attempts.status(ALICE, intent.attempt_id).state is AttemptState.CREDITED


def refused(_: Thread) -> None:
    raise RuntimeError("can't start new thread")
