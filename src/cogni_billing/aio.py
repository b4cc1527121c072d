"""`Billing`, awaited. What each call means is in `usecases`; the words are in `billing`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

from cogni_billing.batches import Batch
from cogni_billing.domain.accounts import Account
from cogni_billing.domain.amounts import Amount
from cogni_billing.domain.batches import Charge, Made, Outcome, Purchase
from cogni_billing.domain.disputes import Dispute
from cogni_billing.domain.folding import Folding
from cogni_billing.domain.grants import PRIORITY_DEFAULT, Grant
from cogni_billing.domain.holds import Hold
from cogni_billing.domain.identity import TenantId
from cogni_billing.domain.kinds import TransactionKind
from cogni_billing.domain.policies import Policies, Shortfall
from cogni_billing.domain.receipts import (
    CaptureReceipt,
    ChargebackReceipt,
    ChargeReceipt,
    GrantReceipt,
    PurchaseReceipt,
    RefundReceipt,
)
from cogni_billing.domain.statements import Balance, Page, TransactionView
from cogni_billing.domain.verification import Verification
from cogni_billing.ports.environment import Clock, IdSource
from cogni_billing.ports.scope import AsyncUnitOfWork
from cogni_billing.sweeping import Sweep
from cogni_billing.usecases import Case, Result, UseCases, awaited


class AsyncBilling:
    """`Billing` for asyncio: the same names, parameters, outcomes and errors, each call awaited.

    Safe to share between tasks. A task that is cancelled at any await leaves all of its call or
    nothing; calling again with the same key tells which.
    """

    def __init__(
        self,
        unit_of_work: AsyncUnitOfWork,
        *,
        policy: Policies | None = None,
        clock: Clock | None = None,
        ids: IdSource | None = None,
    ) -> None:
        self._unit_of_work = awaited(unit_of_work)
        self._cases = UseCases.over(unit_of_work, policy, clock, ids)

    async def _run(self, case: Case[Result]) -> Result:
        return await case.on_async(self._unit_of_work)

    async def _run_batch(self, batch: Batch[Made]) -> tuple[Outcome[Made], ...]:
        for group in batch.groups:
            with group.answering():
                group.answers = await self._run(self._cases.group(group))
        return batch.outcomes()

    async def open_account(self, tenant: TenantId | UUID) -> Account:
        """See `Billing.open_account`."""
        return await self._run(self._cases.open_account(tenant))

    async def confirm_purchase(
        self,
        tenant: TenantId | UUID,
        amount: Amount,
        *,
        payment: str,
        metadata: Mapping[str, object] | None = None,
    ) -> PurchaseReceipt:
        """See `Billing.confirm_purchase`."""
        return await self._run(
            self._cases.confirm_purchase(tenant, amount, payment=payment, metadata=metadata)
        )

    async def confirm_purchases(
        self,
        purchases: Iterable[Purchase | Mapping[str, Any]],
        *,
        all_or_nothing: bool = False,
    ) -> tuple[Outcome[PurchaseReceipt], ...]:
        """See `Billing.confirm_purchases`."""
        return await self._run_batch(
            self._cases.confirm_purchases(purchases, all_or_nothing=all_or_nothing)
        )

    async def charge(
        self,
        tenant: TenantId | UUID,
        amount: Amount,
        *,
        reference: str,
        allow_overdraft: bool = False,
        metadata: Mapping[str, object] | None = None,
    ) -> ChargeReceipt:
        """See `Billing.charge`."""
        return await self._run(
            self._cases.charge(
                tenant,
                amount,
                reference=reference,
                allow_overdraft=allow_overdraft,
                metadata=metadata,
            )
        )

    async def charge_many(
        self,
        charges: Iterable[Charge | Mapping[str, Any]],
        *,
        all_or_nothing: bool = False,
    ) -> tuple[Outcome[ChargeReceipt], ...]:
        """See `Billing.charge_many`."""
        return await self._run_batch(
            self._cases.charge_many(charges, all_or_nothing=all_or_nothing)
        )

    async def hold(
        self,
        tenant: TenantId | UUID,
        amount: Amount,
        *,
        reference: str,
        expires_at: datetime | None = None,
        metadata: Mapping[str, object] | None = None,
    ) -> Hold:
        """See `Billing.hold`."""
        return await self._run(
            self._cases.hold(
                tenant, amount, reference=reference, expires_at=expires_at, metadata=metadata
            )
        )

    async def capture(
        self,
        tenant: TenantId | UUID,
        hold_id: UUID,
        amount: Amount,
        *,
        reference: str,
        metadata: Mapping[str, object] | None = None,
    ) -> CaptureReceipt:
        """See `Billing.capture`."""
        return await self._run(
            self._cases.capture(tenant, hold_id, amount, reference=reference, metadata=metadata)
        )

    async def release(self, tenant: TenantId | UUID, hold_id: UUID) -> Hold:
        """See `Billing.release`."""
        return await self._run(self._cases.release(tenant, hold_id))

    async def grant(
        self,
        tenant: TenantId | UUID,
        amount: Amount,
        *,
        source: str,
        reference: str,
        expires_at: datetime | None = None,
        priority: int = PRIORITY_DEFAULT,
        metadata: Mapping[str, object] | None = None,
    ) -> GrantReceipt:
        """See `Billing.grant`."""
        return await self._run(
            self._cases.grant(
                tenant,
                amount,
                source=source,
                reference=reference,
                expires_at=expires_at,
                priority=priority,
                metadata=metadata,
            )
        )

    async def grants(self, tenant: TenantId | UUID) -> tuple[Grant, ...]:
        """See `Billing.grants`."""
        return await self._run(self._cases.grants(tenant))

    async def refund(
        self,
        tenant: TenantId | UUID,
        *,
        payment: str,
        amount: Amount | None = None,
        reference: str,
        shortfall: Shortfall = Shortfall.DEBT,
        metadata: Mapping[str, object] | None = None,
    ) -> RefundReceipt:
        """See `Billing.refund`."""
        return await self._run(
            self._cases.refund(
                tenant,
                payment=payment,
                amount=amount,
                reference=reference,
                shortfall=shortfall,
                metadata=metadata,
            )
        )

    async def open_dispute(
        self,
        tenant: TenantId | UUID,
        *,
        payment: str,
        reference: str,
        amount: Amount | None = None,
        metadata: Mapping[str, object] | None = None,
    ) -> Dispute:
        """See `Billing.open_dispute`."""
        return await self._run(
            self._cases.open_dispute(
                tenant, payment=payment, reference=reference, amount=amount, metadata=metadata
            )
        )

    async def win_dispute(
        self,
        tenant: TenantId | UUID,
        *,
        payment: str,
        reference: str,
    ) -> Dispute:
        """See `Billing.win_dispute`."""
        return await self._run(
            self._cases.win_dispute(tenant, payment=payment, reference=reference)
        )

    async def lose_dispute(
        self,
        tenant: TenantId | UUID,
        *,
        payment: str,
        reference: str,
        shortfall: Shortfall = Shortfall.DEBT,
        metadata: Mapping[str, object] | None = None,
    ) -> ChargebackReceipt:
        """See `Billing.lose_dispute`."""
        return await self._run(
            self._cases.lose_dispute(
                tenant, payment=payment, reference=reference, shortfall=shortfall, metadata=metadata
            )
        )

    async def balance(self, tenant: TenantId | UUID, *, at: datetime | None = None) -> Balance:
        """See `Billing.balance`."""
        return await self._run(self._cases.balance(tenant, at=at))

    async def statement(
        self,
        tenant: TenantId | UUID,
        *,
        limit: int = 50,
        after: str | None = None,
        kind: TransactionKind | str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
    ) -> Page:
        """See `Billing.statement`."""
        return await self._run(
            self._cases.statement(
                tenant, limit=limit, after=after, kind=kind, since=since, until=until
            )
        )

    async def find(
        self, tenant: TenantId | UUID, *, reference: str, kind: TransactionKind | str
    ) -> TransactionView | None:
        """See `Billing.find`."""
        return await self._run(self._cases.find(tenant, reference=reference, kind=kind))

    async def transaction(
        self, tenant: TenantId | UUID, transaction_id: UUID
    ) -> TransactionView | None:
        """See `Billing.transaction`."""
        return await self._run(self._cases.transaction(tenant, transaction_id))

    async def fold(self) -> Folding:
        """See `Billing.fold`."""
        position = await self._run(self._cases.settled_position())
        return await self._run(self._cases.fold(position))

    async def sweep(self) -> int:
        """See `Billing.sweep`."""
        now, sweep = self._cases.now(), Sweep[TenantId]()
        while due := sweep.still(await self._run(self._cases.due(now))):
            for tenant in due:
                with sweep.settling(tenant):
                    sweep.settled += await self._run(self._cases.settle(tenant, now))
        return sweep.outcome()

    async def verify(self, *, most: int = 1000) -> Verification:
        """See `Billing.verify`."""
        return await self._run(self._cases.verify(most))
