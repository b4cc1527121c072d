"""What a host calls. Each use case is plan (pure), post (port), receipt (pure)."""

from __future__ import annotations

from collections.abc import Mapping
from uuid import UUID

from cogni_billing.domain.accounts import Account
from cogni_billing.domain.amounts import Amount
from cogni_billing.domain.errors import InvalidPolicy, shown
from cogni_billing.domain.idempotency import same_or_conflict
from cogni_billing.domain.identity import TenantId, tenant_id
from cogni_billing.domain.moments import utc
from cogni_billing.domain.policies import RevenueSharePolicy
from cogni_billing.domain.purchases import Receipt, plan_purchase, receipt_of, request_purchase
from cogni_billing.domain.statements import Balance, Page, page_of, page_request
from cogni_billing.domain.transactions import Recorded, TransactionKind
from cogni_billing.ports.environment import Clock, IdSource
from cogni_billing.ports.scope import Scope, UnitOfWork


class Billing:
    """Prepaid credits for many tenants, over one unit of work.

    Safe to share between threads when its unit of work is; both that come with the library are.

    Args:
        unit_of_work: Where the ledger lives.
        policy: Who gets what of a purchase; by default 25 % on top for the system tenant.
        clock: Tells the time; by default the unit of work's own, the system's.
        ids: Makes transaction ids; by default the unit of work's own, UUIDv7.

    Every method may raise `LedgerUnavailable` (nothing was written) and, when it writes,
    `OutcomeUnknown` (call again with the same key).
    """

    def __init__(
        self,
        unit_of_work: UnitOfWork,
        *,
        policy: RevenueSharePolicy | None = None,
        clock: Clock | None = None,
        ids: IdSource | None = None,
    ) -> None:
        self._unit_of_work = unit_of_work
        self._policy = RevenueSharePolicy.default() if policy is None else policy
        self._clock = unit_of_work.clock if clock is None else clock
        self._ids = unit_of_work.ids if ids is None else ids
        if not isinstance(self._policy, RevenueSharePolicy):
            raise InvalidPolicy("policy", shown(policy), "a RevenueSharePolicy")

    def open_account(self, tenant: TenantId | UUID) -> Account:
        """The tenant's account, opened now if there is none; concurrent calls agree.

        Raises:
            InvalidTenant: *tenant* is no `uuid.UUID`, or is nil or reserved.
        """
        owner = tenant_id(tenant)
        opened_at = utc(self._clock.now(), "clock")
        return self._unit_of_work.run(owner, lambda scope: scope.tenants.open_account(opened_at))

    def confirm_purchase(
        self,
        tenant: TenantId | UUID,
        amount: Amount,
        *,
        payment: str,
        metadata: Mapping[str, object] | None = None,
    ) -> Receipt:
        """Credit a confirmed payment: the customer in full, and each beneficiary its share.

        One atomic, balanced transaction. The account is opened if there is none. Calling again
        with the same payment and amount returns the first outcome with `replayed`, whatever the
        policy is by then, and keeps the first metadata.

        Args:
            tenant: Who paid.
            amount: What was paid, in USD or USDC, greater than zero. It becomes credits at
                10 000 000 for a dollar, rounded up; shares of them are rounded down.
            payment: The evidence, `provider:id`, 1 to 255 visible ASCII characters. It can be
                claimed once in the whole system.
            metadata: A JSON object kept with the transaction.

        Raises:
            InvalidTenant, InvalidAmount, UnitMismatch, InvalidReference, InvalidMetadata: an
                argument breaks its rule.
            InvalidPolicy: the policy is not yet in force.
            IdempotencyConflict: the tenant confirmed this payment with another amount.
            PaymentAlreadyClaimed: another tenant confirmed this payment.
        """
        request = request_purchase(tenant, amount, payment=payment, metadata=metadata)
        at, transaction_id = self._clock.now(), self._ids.new()

        def record(scope: Scope) -> Recorded:
            try:
                purchase = plan_purchase(request, self._policy, at, transaction_id)
            except InvalidPolicy:
                # A replay needs no policy: its shares were computed the first time.
                stored = scope.ledger.find(TransactionKind.PURCHASE, request.payment)
                if stored is None:
                    raise
                same_or_conflict(stored.transaction, request.asked)
                return stored
            return scope.ledger.post(purchase)

        return receipt_of(self._unit_of_work.run(request.buyer, record))

    def balance(self, tenant: TenantId | UUID) -> Balance:
        """The tenant's credits: posted, held and available.

        Raises:
            InvalidTenant: *tenant* is no `uuid.UUID`, or is nil or reserved.
            UnknownAccount: the tenant has no account.
        """

        def read(scope: Scope) -> Balance:
            scope.tenants.account()
            return scope.ledger.balance()

        return self._unit_of_work.run(tenant_id(tenant), read)

    def statement(
        self, tenant: TenantId | UUID, *, limit: int = 50, after: str | None = None
    ) -> Page:
        """The tenant's postings, newest first, *limit* at a time (1 to 1000).

        Args:
            tenant: Whose.
            limit: How many lines at most.
            after: The `next` of the page before, or `None` for the first.

        Raises:
            InvalidTenant: *tenant* is no `uuid.UUID`, or is nil or reserved.
            InvalidPage: *limit* or *after* breaks its rule.
            UnknownAccount: the tenant has no account.
        """
        owner = tenant_id(tenant)
        page = page_request(limit, after)

        def read(scope: Scope) -> Page:
            scope.tenants.account()
            return page_of(scope.ledger.lines(page), page.limit)

        return self._unit_of_work.run(owner, read)
