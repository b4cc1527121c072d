"""How a sweep goes on where one of what it settles cannot be: a wallet, or a payment attempt."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

from attrs import define, field

from cogni_billing.domain.errors import BillingError, LedgerCorruption, OutcomeUnknown

Subject = TypeVar("Subject")


@define
class Sweep(Generic[Subject]):
    """How many were settled, and what kept others from it."""

    settled: int = 0
    tried: set[Subject] = field(factory=set)
    _failures: list[BillingError] = field(factory=list)

    def still(self, due: tuple[Subject, ...]) -> list[Subject]:
        """Those of *due* that were not tried yet."""
        return [subject for subject in due if subject not in self.tried]

    @contextmanager
    def settling(self, subject: Subject) -> Iterator[None]:
        """Remembers that *subject* was tried, and why it could not be settled."""
        self.tried.add(subject)
        try:
            yield
        except BillingError as error:
            self._failures.append(error)

    def outcome(self) -> int:
        """How many were settled.

        Raises:
            BillingError: the worst of what kept one from being settled: what asks for a look, then
                what may have happened, then what has not.
        """
        if self._failures:
            raise min(self._failures, key=_how_bad)
        return self.settled


def _how_bad(error: BillingError) -> int:
    if isinstance(error, LedgerCorruption):
        return 0
    return 1 if isinstance(error, OutcomeUnknown) else 2
