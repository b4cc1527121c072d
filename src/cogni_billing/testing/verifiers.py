"""A fake payment verifier."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeAlias

from attrs import Factory, define, evolve

from cogni_billing import Intent, PaymentPending, PaymentVerified
from cogni_billing.domain.findings import Finding

Answer: TypeAlias = Finding | Callable[[Intent], Finding]
"""A finding, or a function that makes one from the intent."""


def paid(intent: Intent) -> PaymentVerified:
    """The finding that the payment is exactly as intended."""
    return PaymentVerified(
        provider=intent.provider,
        token=intent.token,
        sender=intent.payer,
        recipient=intent.recipient,
        raw_amount=intent.raw_amount,
        confirmations=intent.confirmations,
    )


def paid_but(**changes: Any) -> Callable[[Intent], PaymentVerified]:
    """The finding that the payment is as intended, except for *changes*."""
    return lambda intent: evolve(paid(intent), **changes)


@define
class FakeVerifier:
    """Answers as the test told it, for `PaymentAttempts` and `AsyncPaymentAttempts`.

    Each piece of evidence has a list of answers. The last one repeats. Other evidence is pending.
    """

    asked: list[str] = Factory(list)
    """The evidence of each call so far."""
    _answers: dict[str, list[Answer]] = Factory(dict)

    def tell(self, evidence: str, *answers: Answer) -> None:
        """Set the answers about *evidence*, in order."""
        self._answers[evidence] = list(answers)

    def verify(self, evidence: str, intent: Intent, /) -> Finding:
        """The next answer."""
        self.asked.append(evidence)
        answers = self._answers.get(evidence) or [PaymentPending()]
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        return answer(intent) if callable(answer) else answer

    async def verify_async(self, evidence: str, intent: Intent, /) -> Finding:
        """The next answer, from a thread, because a callable answer may block."""
        return await asyncio.to_thread(self.verify, evidence, intent)
