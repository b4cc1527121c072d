"""Keeps sweeping when one item fails, and raises the most severe error at the end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

from attrs import define, field

from cogni_billing.domain.errors import BillingError, most_severe

Subject = TypeVar("Subject")


@define
class Sweep(Generic[Subject]):
    """The number of items done, and the errors of others."""

    done: int = 0
    tried: set[Subject] = field(factory=set)
    _failures: list[BillingError] = field(factory=list)

    @contextmanager
    def trying(self, subject: Subject) -> Iterator[None]:
        """Remember that *subject* was tried, and the error if it fails."""
        self.tried.add(subject)
        try:
            yield
        except BillingError as error:
            self._failures.append(error)

    def outcome(self) -> int:
        """The number of items done.

        Raises:
            BillingError: the most severe error: first one that needs an operator, then one that
                may have had an effect, then one that had none.
        """
        if self._failures:
            raise most_severe(self._failures)
        return self.done
