"""What each call means, once for `Billing` and `AsyncBilling`: arguments are judged, what will be
done is planned (pure), and what to do in a scope is returned for a unit of work to run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Final, Generic, Self, TypeVar
from uuid import UUID

from attrs import field, frozen

from cogni_billing.batches import Batch, Planned, Prepare
from cogni_billing.domain.accounts import Account
from cogni_billing.domain.amounts import Amount
from cogni_billing.domain.batches import Charge, Purchase, Request, batch_of, checked_request
from cogni_billing.domain.charges import plan_charge
from cogni_billing.domain.disputes import Dispute, request_dispute
from cogni_billing.domain.errors import BillingError, InvalidInput, InvalidPolicy, shown
from cogni_billing.domain.folding import Folding
from cogni_billing.domain.grants import Grant, plan_grant
from cogni_billing.domain.holds import Hold, checked_hold_id, plan_capture, plan_hold
from cogni_billing.domain.idempotency import same_or_conflict
from cogni_billing.domain.identity import SYSTEM_TENANT_ID, TenantId, tenant_id
from cogni_billing.domain.identity import reference as checked_reference
from cogni_billing.domain.moments import utc
from cogni_billing.domain.policies import Policies, RevenueSharePolicy, checked_policies
from cogni_billing.domain.purchases import PurchaseRequest, plan_purchase, request_purchase
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
from cogni_billing.domain.transactions import Recorded, Transaction, TransactionKind
from cogni_billing.domain.verification import Verification
from cogni_billing.ports.environment import Clock, IdSource
from cogni_billing.ports.scope import Environment, Scope, ServiceScope
from cogni_billing.returns import Returns

Result = TypeVar("Result")
VIOLATIONS_MAX: Final = 100_000


@frozen
class UseCase(Generic[Result]):
    """What to do, and in whose scope."""

    tenant: TenantId
    work: Callable[[Scope], Result]


@frozen
class ServiceCase(Generic[Result]):
    """What to do as the service role, and for whom."""

    tenant: TenantId
    work: Callable[[ServiceScope], Result]


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

    def open_account(self, tenant: object) -> UseCase[Account]:
        owner = tenant_id(tenant)
        opened_at = self.now()
        return UseCase(owner, lambda scope: scope.tenants.open_account(opened_at))

    def confirm_purchase(
        self,
        tenant: object,
        amount: Amount,
        *,
        payment: object,
        metadata: Mapping[str, object] | None,
    ) -> UseCase[PurchaseReceipt]:
        request = request_purchase(tenant, amount, payment=payment, metadata=metadata)
        prepare = self._preparing(request, self.now())

        def record(scope: Scope) -> PurchaseReceipt:
            prepared = prepare(scope)
            if isinstance(prepared, Transaction):
                prepared = scope.ledger.post(prepared)
            return purchase_receipt(prepared)

        return UseCase(request.buyer, record)

    def _preparing(self, request: PurchaseRequest, at: datetime) -> Prepare:
        transaction_id = self.ids.new()

        def prepare(scope: Scope) -> Transaction | Recorded:
            try:
                return plan_purchase(request, self.policy, at, transaction_id)
            except InvalidPolicy:
                # A replay needs no policy: its shares were computed the first time.
                stored = scope.ledger.find(TransactionKind.PURCHASE, request.payment)
                if stored is None:
                    raise
                same_or_conflict(stored.transaction, request.asked)
                return stored

        return prepare

    def confirm_purchases(
        self, purchases: object, *, all_or_nothing: object
    ) -> Batch[PurchaseReceipt]:
        at = self.now()

        def plan(purchase: Purchase) -> Prepare:
            request = request_purchase(
                purchase.tenant,
                purchase.amount,
                payment=purchase.payment,
                metadata=purchase.metadata,
            )
            return self._preparing(request, at)

        planned = self._planned(batch_of(purchases, Purchase, "purchases"), Purchase, plan)
        return Batch(planned, purchase_receipt, all_or_nothing=_flag(all_or_nothing))

    def charge_many(self, charges: object, *, all_or_nothing: object) -> Batch[ChargeReceipt]:
        at = self.now()

        def plan(charge: Charge) -> Prepare:
            transaction = plan_charge(
                charge.tenant,
                charge.amount,
                reference=charge.reference,
                allow_overdraft=charge.allow_overdraft,
                metadata=charge.metadata,
                at=at,
                transaction_id=self.ids.new(),
            )
            return lambda _: transaction

        planned = self._planned(batch_of(charges, Charge, "charges"), Charge, plan)
        return Batch(planned, charge_receipt, all_or_nothing=_flag(all_or_nothing))

    def _planned(
        self,
        requests: Iterable[object],
        kind: type[Request],
        plan: Callable[[Request], Prepare],
    ) -> list[Planned | BillingError]:
        return [self._planned_one(request, kind, plan) for request in requests]

    def _planned_one(
        self, given: object, kind: type[Request], plan: Callable[[Request], Prepare]
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

    def charge(
        self,
        tenant: object,
        amount: Amount,
        *,
        reference: object,
        allow_overdraft: object,
        metadata: Mapping[str, object] | None,
    ) -> UseCase[ChargeReceipt]:
        charge = plan_charge(
            tenant,
            amount,
            reference=reference,
            allow_overdraft=allow_overdraft,
            metadata=metadata,
            at=self.now(),
            transaction_id=self.ids.new(),
        )
        return UseCase(charge.tenant, lambda scope: charge_receipt(scope.ledger.post(charge)))

    def hold(
        self,
        tenant: object,
        amount: Amount,
        *,
        reference: object,
        expires_at: object,
        metadata: Mapping[str, object] | None,
    ) -> UseCase[Hold]:
        hold = plan_hold(
            tenant,
            amount,
            reference=reference,
            expires_at=expires_at,
            metadata=metadata,
            at=self.now(),
            hold_id=self.ids.new(),
        )
        return UseCase(hold.tenant, lambda scope: scope.ledger.hold(hold))

    def capture(
        self,
        tenant: object,
        hold_id: object,
        amount: Amount,
        *,
        reference: object,
        metadata: Mapping[str, object] | None,
    ) -> UseCase[CaptureReceipt]:
        capture = plan_capture(
            tenant,
            hold_id,
            amount,
            reference=reference,
            metadata=metadata,
            at=self.now(),
            transaction_id=self.ids.new(),
        )
        return UseCase(capture.tenant, lambda scope: capture_receipt(scope.ledger.post(capture)))

    def release(self, tenant: object, hold_id: object) -> UseCase[Hold]:
        owner, hold = tenant_id(tenant), checked_hold_id(hold_id)
        moment = self.now()

        def give_back(scope: Scope) -> Hold:
            scope.tenants.account()
            return scope.ledger.release(hold, moment)

        return UseCase(owner, give_back)

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
    ) -> UseCase[GrantReceipt]:
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
        return UseCase(grant.tenant, lambda scope: grant_receipt(scope.ledger.post(grant)))

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

    def grants(self, tenant: object) -> UseCase[tuple[Grant, ...]]:
        owner, now = tenant_id(tenant), self.now()

        def read(scope: Scope) -> tuple[Grant, ...]:
            scope.tenants.account()
            return scope.ledger.grants(now)

        return UseCase(owner, read)

    def now(self) -> datetime:
        return utc(self.clock.now(), "clock")

    def verify(self, most: object) -> ServiceCase[Verification]:
        if type(most) is not int or not 1 <= most <= VIOLATIONS_MAX:
            expected = f"a whole number from 1 to {VIOLATIONS_MAX}"
            raise InvalidInput("most", shown(most), expected)
        return ServiceCase(SYSTEM_TENANT_ID, lambda scope: scope.books.verify(most))

    def due(self, now: datetime) -> ServiceCase[tuple[TenantId, ...]]:
        return ServiceCase(SYSTEM_TENANT_ID, lambda scope: scope.books.due(now))

    def settle(self, tenant: TenantId, now: datetime) -> UseCase[bool]:
        return UseCase(tenant, lambda scope: scope.ledger.settle(now))

    def balance(self, tenant: object, *, at: object) -> UseCase[Balance]:
        owner = tenant_id(tenant)
        moment = None if at is None else utc(at, "at")
        now = self.now()

        def read(scope: Scope) -> Balance:
            scope.tenants.account()
            return scope.ledger.balance(now) if moment is None else scope.ledger.balance_at(moment)

        return UseCase(owner, read)

    def statement(
        self,
        tenant: object,
        *,
        limit: object,
        after: object,
        kind: object,
        since: object,
        until: object,
    ) -> UseCase[Page]:
        owner = tenant_id(tenant)
        page = page_request(limit, after, kind=kind, since=since, until=until)

        def read(scope: Scope) -> Page:
            scope.tenants.account()
            return page_of(scope.ledger.lines(page), page.limit)

        return UseCase(owner, read)

    def find(
        self, tenant: object, *, reference: object, kind: object
    ) -> UseCase[TransactionView | None]:
        owner, key, sought = tenant_id(tenant), checked_reference(reference), kind_of(kind)

        def read(scope: Scope) -> TransactionView | None:
            scope.tenants.account()
            found = scope.ledger.find(sought, key)
            return None if found is None else view_of(found)

        return UseCase(owner, read)

    def transaction(
        self, tenant: object, transaction_id: object
    ) -> UseCase[TransactionView | None]:
        owner = tenant_id(tenant)
        if not isinstance(transaction_id, UUID):
            raise InvalidInput("transaction_id", shown(transaction_id), "a uuid.UUID")

        def read(scope: Scope) -> TransactionView | None:
            scope.tenants.account()
            found = scope.ledger.transaction(transaction_id)
            return None if found is None else view_of(found)

        return UseCase(owner, read)

    def settled_position(self) -> ServiceCase[int]:
        return ServiceCase(SYSTEM_TENANT_ID, lambda scope: scope.books.settled_position())

    def fold(self, position: int) -> ServiceCase[Folding]:
        return ServiceCase(SYSTEM_TENANT_ID, lambda scope: scope.books.fold(position))


def _flag(given: object) -> bool:
    if not isinstance(given, bool):
        raise InvalidInput("all_or_nothing", shown(given), "True or False")
    return given
