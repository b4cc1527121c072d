"""Splits a batch into one scope for each tenant, and joins the outcomes again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Generic, TypeAlias

from attrs import define, field, frozen

from cogni_billing.application.cases import (
    Case,
    ScopeCase,
    SingleCase,
    Steps,
    StepsCase,
    in_steps,
)
from cogni_billing.domain.batches import (
    ENDS_ALL,
    Made,
    Outcome,
    Request,
    batch_of,
    checked_request,
)
from cogni_billing.domain.errors import BillingError, InvalidInput, OthersRefused, shown
from cogni_billing.domain.identity import TenantId, tenant_id
from cogni_billing.domain.kinds import TransactionKind
from cogni_billing.domain.purchases import ReplayOnly
from cogni_billing.domain.transactions import Recorded, Transaction
from cogni_billing.ports.scope import Scope

Plan: TypeAlias = Transaction | ReplayOnly | BillingError
"""The plan for one request, or the reason why it has none."""
Answers: TypeAlias = Sequence[Recorded | BillingError]


@frozen
class Planned:
    """One request of a batch whose tenant is valid."""

    tenant: TenantId
    plan: Plan


@define
class Group:
    """The plans for one tenant's requests, and the answers in the same order."""

    tenant: TenantId
    _all_or_nothing: bool
    _plans: list[Plan] = field(factory=list)
    places: list[int] = field(factory=list)
    answers: Answers = ()

    def add(self, place: int, plan: Plan) -> None:
        self.places.append(place)
        self._plans.append(plan)

    @property
    def is_single(self) -> bool:
        """Whether its work makes one call on a repository, and not several."""
        return not any(isinstance(plan, ReplayOnly) for plan in self._plans)

    @property
    def needs_scope(self) -> bool:
        """Whether its answers depend on the ledger."""
        refused = [isinstance(plan, BillingError) for plan in self._plans]
        if self._all_or_nothing and self.is_single:
            return not any(refused)
        return not all(refused)

    def refuse(self) -> None:
        """Answer without the ledger: with the errors of the plans."""
        self.answers = _refused(self._plans)

    @property
    def case(self) -> Case[Answers]:
        """The work of the group, in the tenant's scope."""
        kind = SingleCase if self.is_single else ScopeCase
        return kind(self.tenant, self._post)

    def _post(self, scope: Scope) -> Answers:
        found = [_looked_up(plan, scope) for plan in self._plans]
        if self._all_or_nothing and any(isinstance(each, BillingError) for each in found):
            return _refused(found)
        transactions = [each for each in found if isinstance(each, Transaction)]
        posted = scope.ledger.post_many(transactions, all_or_nothing=self._all_or_nothing)
        answers = iter(posted)
        return [next(answers) if isinstance(each, Transaction) else each for each in found]

    @contextmanager
    def answering(self) -> Iterator[None]:
        """Refuse the whole group with the error that its scope raises."""
        try:
            yield
        except BillingError as error:
            self.answers = [error] * len(self.places)


def _refused(found: Sequence[object]) -> list[BillingError]:
    return [each if isinstance(each, BillingError) else OthersRefused() for each in found]


def _looked_up(plan: Plan, scope: Scope) -> Transaction | Recorded | BillingError:
    if not isinstance(plan, ReplayOnly):
        return plan
    try:
        stored = scope.ledger.replay(TransactionKind.PURCHASE, plan.request.payment)
        return plan.answer(stored)
    except ENDS_ALL:
        raise
    except BillingError as error:
        return error


class Batch(Generic[Made]):
    """The requests of one call, grouped by tenant, and the outcome of each.

    Groups are in the order of their tenants' ids, so that concurrent batches lock wallets in one
    order.
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
                group.add(place, request.plan)
        self._groups = tuple(groups[tenant] for tenant in sorted(groups))
        for group in self._groups:
            if not group.needs_scope:
                group.refuse()

    @property
    def groups(self) -> tuple[Group, ...]:
        """The groups that need a scope."""
        return tuple(group for group in self._groups if group.needs_scope)

    def outcomes(self) -> tuple[Outcome[Made], ...]:
        """The outcome of each request, in the order in which they were given."""
        answers = {
            place: answer
            for group in self._groups
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


def batch(
    requests: object,
    kind: type[Request],
    plan: Callable[[Request], Plan],
    receipt: Callable[[Recorded], Made],
    *,
    all_or_nothing: object,
) -> StepsCase[tuple[Outcome[Made], ...]]:
    """The case that plans each of *requests*, and runs the plans of each tenant in one scope.

    Raises:
        InvalidInput: *requests* is no iterable, or *all_or_nothing* is no bool.
    """
    if not isinstance(all_or_nothing, bool):
        raise InvalidInput("all_or_nothing", shown(all_or_nothing), "True or False")
    given = batch_of(requests, kind, f"{kind.__name__.lower()}s")
    planned = [_planned(request, kind, plan) for request in given]
    return _run(Batch(planned, receipt, all_or_nothing=all_or_nothing))


def _planned(
    given: object, kind: type[Request], plan: Callable[[Request], Plan]
) -> Planned | BillingError:
    try:
        request = checked_request(given, kind)
        owner = tenant_id(request.tenant)
    except InvalidInput as error:
        return error
    try:
        return Planned(owner, plan(request))
    except BillingError as error:
        return Planned(owner, error)


@in_steps
def _run(batch: Batch[Made]) -> Steps[tuple[Outcome[Made], ...]]:
    for group in batch.groups:
        with group.answering():
            group.answers = yield group.case
    return batch.outcomes()
