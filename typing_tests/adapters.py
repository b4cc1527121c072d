"""Checked by mypy, never run. Each adapter has the signatures of its ports."""

from __future__ import annotations

from uuid import UUID

from sqlalchemy import Connection, Engine
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from cogni_billing import (
    Amount,
    AsyncBilling,
    Attempt,
    Billing,
    ChargebackReceipt,
    ChargeReceipt,
    Dispute,
    Hold,
    Intent,
    Outcome,
    Page,
    PaymentAttempts,
    PurchaseReceipt,
    RefundReceipt,
    Seal,
    TenantId,
    Verification,
    credits,
    usd,
)
from cogni_billing.adapters.memory import InMemoryUnitOfWork
from cogni_billing.adapters.postgres import AsyncPostgresUnitOfWork, PostgresUnitOfWork
from cogni_billing.adapters.system import SystemClock, Uuid7Source
from cogni_billing.adapters.verifiers import ByProvider
from cogni_billing.adapters.verifiers.evm import EvmVerifier
from cogni_billing.adapters.verifiers.webhooks import SignedWebhooks
from cogni_billing.ports.environment import Clock, IdSource
from cogni_billing.ports.payments import AsyncPaymentVerifier, PaymentVerifier
from cogni_billing.ports.scope import AsyncUnitOfWork, UnitOfWork
from cogni_billing.testing import FakeVerifier


def adapters_fit_their_ports(
    engine: Engine, connection: Connection
) -> tuple[UnitOfWork, UnitOfWork, UnitOfWork, Clock, IdSource]:
    postgres = PostgresUnitOfWork(engine, service=engine)
    joined = PostgresUnitOfWork.joining(connection)
    return InMemoryUnitOfWork(), postgres, joined, SystemClock(), Uuid7Source()


def async_adapters_fit_their_port(
    engine: AsyncEngine, connection: AsyncConnection
) -> tuple[AsyncUnitOfWork, AsyncUnitOfWork, AsyncUnitOfWork]:
    postgres = AsyncPostgresUnitOfWork(engine, service=engine)
    return InMemoryUnitOfWork(), postgres, AsyncPostgresUnitOfWork.joining(connection)


def verifiers_fit_their_ports(
    webhooks: SignedWebhooks,
) -> tuple[list[PaymentVerifier], list[AsyncPaymentVerifier]]:
    chain, fake = EvmVerifier({1: "http://localhost"}), FakeVerifier()
    either = ByProvider({"1": chain, "stripe": webhooks})
    return [chain, webhooks, fake, either], [chain, webhooks, fake, either]


def attempts_infer(attempts: PaymentAttempts, tenant: TenantId) -> None:
    intent: Intent = attempts.create_intent(tenant, usd("2.00"), payer=None)
    attempt: Attempt = attempts.submit(tenant, intent.attempt_id, "stripe:pi_1")
    attempts.status(tenant, attempt)  # type: ignore[arg-type]
    attempts.create_intent(tenant, "2.00")  # type: ignore[arg-type]
    attempts.submit(tenant, intent.attempt_id)  # type: ignore[call-arg]


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
    outcomes: tuple[Outcome[ChargeReceipt], ...] = billing.charge_many([{"tenant": tenant}])
    charge: ChargeReceipt | None = outcomes[0].receipt
    hold: Hold = billing.hold(tenant, credits(1), reference="r")
    billing.capture(tenant, hold, amount, reference="r")  # type: ignore[arg-type]
    billing.charge(tenant, charge, reference="r")  # type: ignore[arg-type]
    refund: RefundReceipt = billing.refund(tenant, payment="p", reference="r")
    lost: ChargebackReceipt = billing.lose_dispute(tenant, payment="p", reference="d")
    dispute: Dispute = billing.open_dispute(
        tenant, payment="p", reference="d", amount=lost.refunded
    )
    billing.refund(tenant, payment="p", reference="r", shortfall="debt")  # type: ignore[arg-type]
    billing.win_dispute(tenant, payment=dispute, reference=refund)  # type: ignore[arg-type]


async def what_is_awaited_infers(billing: AsyncBilling, tenant: TenantId) -> None:
    receipt: ChargeReceipt = await billing.charge(tenant, credits(1), reference="r")
    found: Verification = await billing.verify()
    seals: tuple[Seal, ...] = await billing.seal(key=b"k" * 32)
    await billing.verify_seals(seals, key="k" * 32)  # type: ignore[arg-type]
    page: Page = billing.statement(tenant)  # type: ignore[assignment]
    assert receipt.overdrawn is not found.ok, page
