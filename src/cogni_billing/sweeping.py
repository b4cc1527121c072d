"""How a sweep goes on where one wallet cannot be settled."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from attrs import define, field

from cogni_billing.domain.errors import BillingError, LedgerCorruption, OutcomeUnknown
from cogni_billing.domain.identity import TenantId


@define
class Sweep:
    """How many wallets were settled, and which could not be."""

    settled: int = 0
    _failed: dict[TenantId, BillingError] = field(factory=dict)

    def still(self, due: tuple[TenantId, ...]) -> list[TenantId]:
        """Those of *due* that were not tried in vain."""
        return [tenant for tenant in due if tenant not in self._failed]

    @contextmanager
    def settling(self, tenant: TenantId) -> Iterator[None]:
        """Remembers that *tenant*'s wallet could not be settled, and why."""
        try:
            yield
        except BillingError as error:
            self._failed[tenant] = error

    def outcome(self) -> int:
        """How many wallets were settled.

        Raises:
            BillingError: the worst of those that kept a wallet from being settled: what asks for a
                look, then what may have happened, then what has not.
        """
        if self._failed:
            raise min(self._failed.values(), key=_how_bad)
        return self.settled


def _how_bad(error: BillingError) -> int:
    if isinstance(error, LedgerCorruption):
        return 0
    return 1 if isinstance(error, OutcomeUnknown) else 2
