"""How a batch comes apart into one scope for each tenant, and its outcomes together again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Generic, TypeAlias

from attrs import define, field, frozen

from cogni_billing.domain.batches import ENDS_ALL, Made, Outcome
from cogni_billing.domain.errors import BillingError, OthersRefused
from cogni_billing.domain.identity import TenantId
from cogni_billing.domain.transactions import Recorded, Transaction
from cogni_billing.ports.scope import Scope

Prepare: TypeAlias = Callable[[Scope], Transaction | Recorded]
"""Says what is to be posted, or what is recorded already; in its tenant's scope, because that may
depend on what is there."""


@frozen
class Planned:
    """One request of a batch whose tenant is known: what to do, or why not to."""

    tenant: TenantId
    prepare: Prepare | BillingError


@define
class Group:
    """What a batch asks of one tenant, and the answers in the same order."""

    tenant: TenantId
    _all_or_nothing: bool
    _planned: list[Planned] = field(factory=list)
    places: list[int] = field(factory=list)
    answers: Sequence[Recorded | BillingError] = ()

    def add(self, place: int, planned: Planned) -> None:
        self.places.append(place)
        self._planned.append(planned)

    def work(self, scope: Scope) -> Sequence[Recorded | BillingError]:
        """What to do in the tenant's scope; it returns the answers."""
        prepared = [self._prepared(planned, scope) for planned in self._planned]
        if self._all_or_nothing and any(isinstance(p, BillingError) for p in prepared):
            return [p if isinstance(p, BillingError) else OthersRefused() for p in prepared]
        transactions = [p for p in prepared if isinstance(p, Transaction)]
        posted = scope.ledger.post_many(transactions, all_or_nothing=self._all_or_nothing)
        answers = iter(posted)
        return [next(answers) if isinstance(p, Transaction) else p for p in prepared]

    def _prepared(self, planned: Planned, scope: Scope) -> Transaction | Recorded | BillingError:
        if isinstance(planned.prepare, BillingError):
            return planned.prepare
        try:
            return planned.prepare(scope)
        except ENDS_ALL:
            raise
        except BillingError as error:
            return error

    @contextmanager
    def answering(self) -> Iterator[None]:
        """Refuses all of the group with the error that its scope ended with."""
        try:
            yield
        except BillingError as error:
            self.answers = [error] * len(self.places)


class Batch(Generic[Made]):
    """The requests of one call, tenant by tenant, and what became of each.

    Tenants come in the order of their ids, so that batches that meet wait for each other in one
    direction.
    """

    def __init__(
        self,
        requests: Sequence[Planned | BillingError],
        receipt: Callable[[Recorded], Made],
        *,
        all_or_nothing: bool,
    ) -> None:
        self._requests, self._receipt = requests, receipt
        groups: dict[TenantId, Group] = {}
        for place, request in enumerate(requests):
            if isinstance(request, Planned):
                group = groups.setdefault(request.tenant, Group(request.tenant, all_or_nothing))
                group.add(place, request)
        self.groups = tuple(groups[tenant] for tenant in sorted(groups))

    def outcomes(self) -> tuple[Outcome[Made], ...]:
        """The outcome of each request, in the order in which they were given."""
        answers = {
            place: answer
            for group in self.groups
            for place, answer in zip(group.places, group.answers, strict=True)
        }
        return tuple(
            self._outcome(answers[place] if isinstance(request, Planned) else request)
            for place, request in enumerate(self._requests)
        )

    def _outcome(self, answer: Recorded | BillingError) -> Outcome[Made]:
        if isinstance(answer, BillingError):
            return Outcome(error=answer)
        return Outcome(self._receipt(answer))
