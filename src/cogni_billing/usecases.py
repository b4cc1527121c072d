"""The calls of `Billing` and `AsyncBilling`, up to the point where a unit of work is needed.

Each call validates its arguments, builds a plan (pure), and returns a case: a value that says how
a unit of work is to run the plan.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Final, Generic, Protocol, Self, TypeVar
from uuid import UUID

from attrs import field, frozen

from cogni_billing.batches import Answers, Batch, Group, Plan, Planned
from cogni_billing.domain.accounts import Account
from cogni_billing.domain.amounts import Amount
from cogni_billing.domain.batches import Charge, Purchase, Request, batch_of, checked_request
from cogni_billing.domain.charges import plan_charge
from cogni_billing.domain.disputes import Dispute, request_dispute
from cogni_billing.domain.errors import BillingError, InvalidInput, shown
from cogni_billing.domain.folding import Folding
from cogni_billing.domain.grants import Grant, plan_grant
from cogni_billing.domain.holds import Hold, checked_hold_id, plan_capture, plan_hold
from cogni_billing.domain.identity import SYSTEM_TENANT_ID, TenantId, tenant_id
from cogni_billing.domain.identity import reference as checked_reference
from cogni_billing.domain.kinds import TransactionKind
from cogni_billing.domain.moments import utc
from cogni_billing.domain.policies import Policies, RevenueSharePolicy, checked_policies
from cogni_billing.domain.purchases import (
    PurchaseRequest,
    ReplayOnly,
    plan_or_replay,
    request_purchase,
)
from cogni_billing.domain.receipts import (
    CaptureReceipt,
    ChargebackReceipt,
    ChargeReceipt,
    GrantReceipt,
    PurchaseReceipt,
    RefundReceipt,
    capture_receipt,
    charge_receipt,
    chargeback_receipt,
    grant_receipt,
    purchase_receipt,
    refund_receipt,
)
from cogni_billing.domain.refunds import request_refund
from cogni_billing.domain.statements import (
    Balance,
    Page,
    TransactionView,
    kind_of,
    page_of,
    page_request,
    view_of,
)
from cogni_billing.domain.transactions import Recorded, Transaction
from cogni_billing.domain.verification import Verification
from cogni_billing.ports.environment import Clock, IdSource
from cogni_billing.ports.scope import (
    AsyncUnitOfWork,
    Environment,
    Scope,
    ServiceScope,
    UnitOfWork,
)
from cogni_billing.returns import Returns

Result = TypeVar("Result")
Result_co = TypeVar("Result_co", covariant=True)
VIOLATIONS_MAX: Final = 100_000


class Case(Protocol[Result_co]):
    """A call that is ready to run on a unit of work."""

    def on(self, unit_of_work: UnitOfWork, /) -> Result_co:
        """Run it, and return the outcome of the call."""
        ...

    async def on_async(self, unit_of_work: AsyncUnitOfWork, /) -> Result_co:
        """Run it without blocking the event loop."""
        ...


@frozen
class PostCase(Generic[Result]):
    """One transaction to record, and the receipt to make of it."""

    transaction: Transaction
    receipt: Callable[[Recorded], Result]

    def within(self, scope: Scope) -> Result:
        """Record it in a scope that is already open."""
        return self.receipt(scope.ledger.post(self.transaction))

    def on(self, unit_of_work: UnitOfWork) -> Result:
        return self.receipt(unit_of_work.post(self.transaction))

    async def on_async(self, unit_of_work: AsyncUnitOfWork) -> Result:
        return self.receipt(await unit_of_work.post_async(self.transaction))


@frozen
class SingleCase(Generic[Result]):
    """Work that makes one call on a repository, in the tenant's scope."""

    tenant: TenantId
    work: Callable[[Scope], Result]

    def within(self, scope: Scope) -> Result:
        """Do it in a scope that is already open."""
        return self.work(scope)

    def on(self, unit_of_work: UnitOfWork) -> Result:
        return unit_of_work.single(self.tenant, self.work)

    async def on_async(self, unit_of_work: AsyncUnitOfWork) -> Result:
        return await unit_of_work.single_async(self.tenant, self.work)


@frozen
class UseCase(Generic[Result]):
    """Work that makes several calls on repositories, in the tenant's scope."""

    tenant: TenantId
    work: Callable[[Scope], Result]

    def on(self, unit_of_work: UnitOfWork) -> Result:
        return unit_of_work.run(self.tenant, self.work)

    async def on_async(self, unit_of_work: AsyncUnitOfWork) -> Result:
        return await unit_of_work.run_async(self.tenant, self.work)


@frozen
class ServiceCase(Generic[Result]):
    """Work for the service role, acting for a tenant."""

    tenant: TenantId
    work: Callable[[ServiceScope], Result]

    def on(self, unit_of_work: UnitOfWork) -> Result:
        return unit_of_work.run_service(self.tenant, self.work)

    async def on_async(self, unit_of_work: AsyncUnitOfWork) -> Result:
        return await unit_of_work.run_service_async(self.tenant, self.work)


def called(unit_of_work: UnitOfWork) -> UnitOfWork:
    """*unit_of_work*, if its calls are not awaited.

    Raises:
        InvalidInput: its calls are awaited, or it is something else.
    """
    if not hasattr(unit_of_work, "run"):
        expected = "one that is not awaited, or AsyncBilling in place of Billing"
        raise InvalidInput("unit_of_work", shown(unit_of_work), expected)
    return unit_of_work


def awaited(unit_of_work: AsyncUnitOfWork) -> AsyncUnitOfWork:
    """*unit_of_work*, if its calls are awaited.

    Raises:
        InvalidInput: its calls are not awaited, or it is something else.
    """
    if not hasattr(unit_of_work, "run_async"):
        expected = "one that is awaited, or Billing in place of AsyncBilling"
        raise InvalidInput("unit_of_work", shown(unit_of_work), expected)
    return unit_of_work


@frozen
class UseCases:
    """The calls of `Billing`, up to the point where the ledger is needed."""

    policy: Policies = field(converter=checked_policies)
    clock: Clock
    ids: IdSource

    @classmethod
    def over(
        cls,
        environment: Environment,
        policy: Policies | None,
        clock: Clock | None,
        ids: IdSource | None,
    ) -> Self:
        """With what *environment* brings along, and the default policy, where no other is given."""
        return cls(
            RevenueSharePolicy.default() if policy is None else policy,
            environment.clock if clock is None else clock,
            environment.ids if ids is None else ids,
        )

    def open_account(self, tenant: object) -> SingleCase[Account]:
        owner = tenant_id(tenant)
        opened_at = self.now()
        return SingleCase(owner, lambda scope: scope.tenants.open_account(opened_at))

    def confirm_purchase(
        self,
        tenant: object,
        amount: Amount,
        *,
        payment: object,
        metadata: Mapping[str, object] | None,
    ) -> PostCase[PurchaseReceipt] | SingleCase[PurchaseReceipt]:
        request = request_purchase(tenant, amount, payment=payment, metadata=metadata)
        plan = self._plan_purchase(request, self.now())
        if isinstance(plan, Transaction):
            return PostCase(plan, purchase_receipt)

        def find(scope: Scope) -> PurchaseReceipt:
            stored = scope.ledger.replay(TransactionKind.PURCHASE, request.payment)
            return purchase_receipt(plan.answer(stored))

        return SingleCase(request.buyer, find)

    def _plan_purchase(self, request: PurchaseRequest, at: datetime) -> Transaction | ReplayOnly:
        return plan_or_replay(request, self.policy, at, self.ids.new())

    def confirm_purchases(
        self, purchases: object, *, all_or_nothing: object
    ) -> Batch[PurchaseReceipt]:
        at = self.now()

        def plan(purchase: Purchase) -> Plan:
            request = request_purchase(
                purchase.tenant,
                purchase.amount,
                payment=purchase.payment,
                metadata=purchase.metadata,
            )
            return self._plan_purchase(request, at)

        planned = self._planned(batch_of(purchases, Purchase, "purchases"), Purchase, plan)
        return Batch(planned, purchase_receipt, all_or_nothing=_flag(all_or_nothing))

    def charge_many(self, charges: object, *, all_or_nothing: object) -> Batch[ChargeReceipt]:
        at = self.now()

        def plan(charge: Charge) -> Plan:
            return plan_charge(
                charge.tenant,
                charge.amount,
                reference=charge.reference,
                allow_overdraft=charge.allow_overdraft,
                metadata=charge.metadata,
                at=at,
                transaction_id=self.ids.new(),
            )

        planned = self._planned(batch_of(charges, Charge, "charges"), Charge, plan)
        return Batch(planned, charge_receipt, all_or_nothing=_flag(all_or_nothing))

    def _planned(
        self,
        requests: Iterable[object],
        kind: type[Request],
        plan: Callable[[Request], Plan],
    ) -> list[Planned | BillingError]:
        return [self._planned_one(request, kind, plan) for request in requests]

    def _planned_one(
        self, given: object, kind: type[Request], plan: Callable[[Request], Plan]
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

    def group(self, group: Group) -> SingleCase[Answers] | UseCase[Answers]:
        """The work of one tenant's part of a batch."""
        if group.is_single:
            return SingleCase(group.tenant, group.work)
        return UseCase(group.tenant, group.work)

    def charge(
        self,
        tenant: object,
        amount: Amount,
        *,
        reference: object,
        allow_overdraft: object,
        metadata: Mapping[str, object] | None,
    ) -> PostCase[ChargeReceipt]:
        charge = plan_charge(
            tenant,
            amount,
            reference=reference,
            allow_overdraft=allow_overdraft,
            metadata=metadata,
            at=self.now(),
            transaction_id=self.ids.new(),
        )
        return PostCase(charge, charge_receipt)

    def hold(
        self,
        tenant: object,
        amount: Amount,
        *,
        reference: object,
        expires_at: object,
        metadata: Mapping[str, object] | None,
    ) -> SingleCase[Hold]:
        hold = plan_hold(
            tenant,
            amount,
            reference=reference,
            expires_at=expires_at,
            metadata=metadata,
            at=self.now(),
            hold_id=self.ids.new(),
        )
        return SingleCase(hold.tenant, lambda scope: scope.ledger.hold(hold))

    def capture(
        self,
        tenant: object,
        hold_id: object,
        amount: Amount,
        *,
        reference: object,
        metadata: Mapping[str, object] | None,
    ) -> PostCase[CaptureReceipt]:
        capture = plan_capture(
            tenant,
            hold_id,
            amount,
            reference=reference,
            metadata=metadata,
            at=self.now(),
            transaction_id=self.ids.new(),
        )
        return PostCase(capture, capture_receipt)

    def release(self, tenant: object, hold_id: object) -> SingleCase[Hold]:
        owner, hold = tenant_id(tenant), checked_hold_id(hold_id)
        moment = self.now()
        return SingleCase(owner, lambda scope: scope.ledger.release(hold, moment))

    def grant(
        self,
        tenant: object,
        amount: Amount,
        *,
        source: object,
        reference: object,
        expires_at: object,
        priority: object,
        metadata: Mapping[str, object] | None,
    ) -> PostCase[GrantReceipt]:
        grant = plan_grant(
            tenant,
            amount,
            source=source,
            reference=reference,
            expires_at=expires_at,
            priority=priority,
            metadata=metadata,
            at=self.now(),
            transaction_id=self.ids.new(),
        )
        return PostCase(grant, grant_receipt)

    def refund(
        self,
        tenant: object,
        *,
        payment: object,
        amount: object,
        reference: object,
        shortfall: object,
        metadata: object,
    ) -> ServiceCase[RefundReceipt]:
        request = request_refund(
            tenant,
            payment=payment,
            amount=amount,
            reference=reference,
            shortfall=shortfall,
            metadata=metadata,
        )
        returning = self._returning(request.tenant)
        return ServiceCase(
            request.tenant, lambda scope: refund_receipt(returning(scope).refund(request))
        )

    def open_dispute(
        self,
        tenant: object,
        *,
        payment: object,
        reference: object,
        amount: object,
        metadata: object,
    ) -> ServiceCase[Dispute]:
        request = request_dispute(
            tenant, payment=payment, amount=amount, reference=reference, metadata=metadata
        )
        returning = self._returning(request.tenant)
        return ServiceCase(request.tenant, lambda scope: returning(scope).open_dispute(request))

    def win_dispute(
        self, tenant: object, *, payment: object, reference: object
    ) -> ServiceCase[Dispute]:
        owner = tenant_id(tenant)
        paid_by, key = checked_reference(payment, "payment"), checked_reference(reference)
        returning = self._returning(owner)
        return ServiceCase(owner, lambda scope: returning(scope).win_dispute(paid_by, key))

    def lose_dispute(
        self,
        tenant: object,
        *,
        payment: object,
        reference: object,
        shortfall: object,
        metadata: object,
    ) -> ServiceCase[ChargebackReceipt]:
        request = request_refund(
            tenant,
            payment=payment,
            amount=None,
            reference=reference,
            shortfall=shortfall,
            metadata=metadata,
        )
        returning = self._returning(request.tenant)
        return ServiceCase(
            request.tenant, lambda scope: chargeback_receipt(returning(scope).lose_dispute(request))
        )

    def _returning(self, tenant: TenantId) -> Callable[[ServiceScope], Returns]:
        now, new_id = self.now(), self.ids.new()
        return lambda scope: Returns(scope, tenant, now, new_id)

    def grants(self, tenant: object) -> SingleCase[tuple[Grant, ...]]:
        owner, now = tenant_id(tenant), self.now()
        return SingleCase(owner, lambda scope: scope.ledger.grants(now))

    def now(self) -> datetime:
        return utc(self.clock.now(), "clock")

    def verify(self, most: object) -> ServiceCase[Verification]:
        if type(most) is not int or not 1 <= most <= VIOLATIONS_MAX:
            expected = f"a whole number from 1 to {VIOLATIONS_MAX}"
            raise InvalidInput("most", shown(most), expected)
        return ServiceCase(SYSTEM_TENANT_ID, lambda scope: scope.books.verify(most))

    def due(self, now: datetime) -> ServiceCase[tuple[TenantId, ...]]:
        return ServiceCase(SYSTEM_TENANT_ID, lambda scope: scope.books.due(now))

    def settle(self, tenant: TenantId, now: datetime) -> SingleCase[bool]:
        return SingleCase(tenant, lambda scope: scope.ledger.settle(now))

    def balance(self, tenant: object, *, at: object) -> SingleCase[Balance]:
        owner = tenant_id(tenant)
        moment = None if at is None else utc(at, "at")
        now = self.now()
        if moment is None:
            return SingleCase(owner, lambda scope: scope.ledger.balance(now))
        return SingleCase(owner, lambda scope: scope.ledger.balance_at(moment))

    def statement(
        self,
        tenant: object,
        *,
        limit: object,
        after: object,
        kind: object,
        since: object,
        until: object,
    ) -> SingleCase[Page]:
        owner = tenant_id(tenant)
        page = page_request(limit, after, kind=kind, since=since, until=until)
        return SingleCase(owner, lambda scope: page_of(scope.ledger.lines(page), page.limit))

    def find(
        self, tenant: object, *, reference: object, kind: object
    ) -> SingleCase[TransactionView | None]:
        owner, key, sought = tenant_id(tenant), checked_reference(reference), kind_of(kind)
        return SingleCase(owner, lambda scope: _seen(scope.ledger.find(sought, key)))

    def transaction(
        self, tenant: object, transaction_id: object
    ) -> SingleCase[TransactionView | None]:
        owner = tenant_id(tenant)
        if not isinstance(transaction_id, UUID):
            raise InvalidInput("transaction_id", shown(transaction_id), "a uuid.UUID")
        return SingleCase(owner, lambda scope: _seen(scope.ledger.transaction(transaction_id)))

    def settled_position(self) -> ServiceCase[int]:
        return ServiceCase(SYSTEM_TENANT_ID, lambda scope: scope.books.settled_position())

    def fold(self, position: int) -> ServiceCase[Folding]:
        return ServiceCase(SYSTEM_TENANT_ID, lambda scope: scope.books.fold(position))


def _seen(found: Recorded | None) -> TransactionView | None:
    return None if found is None else view_of(found)


def _flag(given: object) -> bool:
    if not isinstance(given, bool):
        raise InvalidInput("all_or_nothing", shown(given), "True or False")
    return given
