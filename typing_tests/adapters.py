"""Checked by mypy, never run: each adapter keeps the signatures of the ports."""

from __future__ import annotations

from uuid import UUID

from sqlalchemy import Engine

from cogni_billing import Amount, Billing, Page, PurchaseReceipt, TenantId, usd
from cogni_billing.adapters.memory import InMemoryUnitOfWork
from cogni_billing.adapters.postgres import PostgresUnitOfWork
from cogni_billing.adapters.system import SystemClock, Uuid7Source
from cogni_billing.ports.environment import Clock, IdSource
from cogni_billing.ports.scope import UnitOfWork


def adapters_fit_their_ports(engine: Engine) -> tuple[UnitOfWork, UnitOfWork, Clock, IdSource]:
    return InMemoryUnitOfWork(), PostgresUnitOfWork(engine), SystemClock(), Uuid7Source()


def the_public_api_infers(billing: Billing, tenant: TenantId, plain: UUID) -> None:
    receipt: PurchaseReceipt = billing.confirm_purchase(
        tenant, usd("1"), payment="p", metadata={"a": 1}
    )
    amount: Amount = receipt.shares[0].amount
    page: Page = billing.statement(plain, limit=1, after=None)
    billing.confirm_purchase("nobody", amount, payment="p")  # type: ignore[arg-type]
    billing.confirm_purchase(tenant, 10.0, payment="p")  # type: ignore[arg-type]
    billing.confirm_purchase(tenant, amount, "p")  # type: ignore[call-arg]
    billing.statement(tenant, after=page)  # type: ignore[arg-type]
