"""A payment verifier that answers as it was told."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeAlias

from attrs import Factory, define, evolve

from cogni_billing import Intent, PaymentPending, PaymentVerified
from cogni_billing.domain.findings import Finding

Answer: TypeAlias = Finding | Callable[[Intent], Finding]
"""What to answer, or what makes the answer of what was meant."""


def paid(intent: Intent) -> PaymentVerified:
    """The payment exactly as it was meant."""
    return PaymentVerified(
        provider=intent.provider,
        token=intent.token,
        sender=intent.payer,
        recipient=intent.recipient,
        raw_amount=intent.raw_amount,
        confirmations=intent.confirmations,
    )


def paid_but(**changes: Any) -> Callable[[Intent], PaymentVerified]:
    """The payment as it was meant, but for *changes*."""
    return lambda intent: evolve(paid(intent), **changes)


@define
class FakeVerifier:
    """Looks nothing up: each piece of evidence has its answers, the last of which stands.

    What it was told nothing of is not there. Serves `PaymentAttempts` and `AsyncPaymentAttempts`.
    """

    asked: list[str] = Factory(list)
    """What it was asked about so far."""
    _answers: dict[str, list[Answer]] = Factory(dict)

    def tell(self, evidence: str, *answers: Answer) -> None:
        """Answer so, one after another, when asked about *evidence* from now on."""
        self._answers[evidence] = list(answers)

    def verify(self, evidence: str, intent: Intent, /) -> Finding:
        """The next answer."""
        self.asked.append(evidence)
        answers = self._answers.get(evidence) or [PaymentPending()]
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        return answer(intent) if callable(answer) else answer

    async def verify_async(self, evidence: str, intent: Intent, /) -> Finding:
        """The next answer; made in a thread, so that what makes it may wait."""
        return await asyncio.to_thread(self.verify, evidence, intent)
