"""A verifier that delegates by provider."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Generic, TypeVar

from attrs import field, frozen

from cogni_billing.domain.attempts import Intent
from cogni_billing.domain.errors import InvalidInput, shown
from cogni_billing.domain.findings import Finding
from cogni_billing.ports.payments import AsyncPaymentVerifier, PaymentVerifier

Verifier_co = TypeVar("Verifier_co", covariant=True)


def _by_name(given: Mapping[str, Verifier_co]) -> Mapping[str, Verifier_co]:
    if not isinstance(given, Mapping) or not all(isinstance(name, str) for name in given):
        raise InvalidInput("verifiers", shown(given), "a verifier for each provider's name")
    return dict(given)


@frozen
class ByProvider(Generic[Verifier_co]):
    """Delegates to the verifier of the intent's provider.

    An example is `ByProvider({"8453": evm, "stripe": cards})`.
    """

    verifiers: Mapping[str, Verifier_co] = field(converter=_by_name)

    def verify(self: ByProvider[PaymentVerifier], evidence: str, intent: Intent, /) -> Finding:
        """The finding of that verifier.

        Raises:
            InvalidInput: the provider has no verifier.
        """
        return self._of(intent).verify(evidence, intent)

    async def verify_async(
        self: ByProvider[AsyncPaymentVerifier], evidence: str, intent: Intent, /
    ) -> Finding:
        """The finding of that verifier.

        Raises:
            InvalidInput: the provider has no verifier.
        """
        return await self._of(intent).verify_async(evidence, intent)

    def _of(self, intent: Intent) -> Verifier_co:
        if intent.provider not in self.verifiers:
            known = " or ".join(self.verifiers)
            raise InvalidInput("provider", shown(intent.provider), known)
        return self.verifiers[intent.provider]
