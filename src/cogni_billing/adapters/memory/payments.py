"""Payments in memory: their reversals, and the credits that their disputes set aside."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator
from datetime import datetime
from functools import partial
from uuid import UUID, uuid5

from attrs import evolve

from cogni_billing.adapters.memory.store import Store
from cogni_billing.adapters.memory.tenants import open_account
from cogni_billing.domain.amounts import CREDIT, ZERO, Amount, total
from cogni_billing.domain.disputes import Dispute
from cogni_billing.domain.grants import Expiration
from cogni_billing.domain.holds import Hold, HoldState
from cogni_billing.domain.identity import TenantId, account_of
from cogni_billing.domain.kinds import TransactionKind
from cogni_billing.domain.payments import Payment, in_order
from cogni_billing.domain.transactions import Recorded, Transaction
from cogni_billing.domain.wallets import Wallet


def reversals_of(store: Store, purchase: Transaction) -> Iterator[Recorded]:
    """The refunds, chargebacks and reinstatements of *purchase*, in order."""
    for recorded in store.recorded.values():
        part = recorded.transaction.reversal
        if part is not None and part.purchase == purchase.id:
            yield recorded


def payment_of(store: Store, purchase: Transaction, now: datetime) -> Payment:
    """The payment of *purchase*. Expirations that are due count."""
    assert purchase.paid is not None  # a purchase has it
    made = [each.transaction for each in reversals_of(store, purchase)]
    failed = {
        each.subject: each.id
        for each in made
        if each.kind.reinstates and each.reversal and each.reversal.refund and each.subject
    }
    nothing = purchase.paid - purchase.paid
    wallet = store.wallets.get(purchase.tenant, Wallet())
    arrived_by = partial(store.arrived_by, account_of(purchase.tenant))
    present, due = wallet.expired_by(now, arrived_by)
    lot = present.grants.get(purchase.id)
    lapses = (each for each in due if isinstance(each, Expiration))
    expired = [each.amount for each in lapses if each.grant_id == purchase.id]
    return Payment(
        purchase=purchase,
        returned=made[-1].reversal.total if made and made[-1].reversal else nothing,
        refunded=total(_refunds(made, failed), purchase.paid.unit),
        failed=failed,
        disputes=disputes_of(store, purchase),
        left=ZERO if lot is None else lot.remaining,
        expired=total([*_expired(store, purchase, made), *expired], CREDIT),
    )


def _refunds(made: Iterable[Transaction], failed: Container[UUID]) -> Iterator[Amount]:
    """The parts of the payment that the processor refunded, of the refunds that stand."""
    for each in made:
        if each.kind is TransactionKind.REFUND and each.reversal and each.id not in failed:
            yield each.reversal.asked or each.reversal.amount


def _expired(store: Store, purchase: Transaction, made: Iterable[Transaction]) -> Iterator[Amount]:
    """The credits of the purchase that have expired, and what reversals took of them."""
    for recorded in store.recorded.values():
        expiry = recorded.transaction
        if expiry.kind is TransactionKind.EXPIRY and expiry.subject == purchase.id:
            yield -expiry.amount
    yield from (each.lapsed if each.kind.reinstates else -each.lapsed for each in made)


def disputes_of(store: Store, purchase: Transaction) -> tuple[Dispute, ...]:
    """The disputes of *purchase*, in the order of their opening."""
    return in_order(each for each in store.disputes.values() if each.purchase == purchase.id)


def set_aside(store: Store, disputes: Iterable[Dispute], moment: datetime) -> None:
    """Store the disputes that have changed, and set aside their credits."""
    for dispute in disputes:
        before = store.disputes.get((dispute.tenant, dispute.reference))
        if before == dispute:
            continue
        store.put(
            store.disputes,
            (dispute.tenant, dispute.reference),
            evolve(dispute, number=dispute.number + 1),
        )
        was = dict(before.parts()) if before is not None else {}
        wanted = dict(dispute.parts())
        for tenant in {*was, *wanted}:
            if was.get(tenant) != wanted.get(tenant):
                _release(store, dispute, tenant, moment)
                _hold(store, dispute, tenant, wanted.get(tenant, ZERO), moment)


def _release(store: Store, dispute: Dispute, tenant: TenantId, moment: datetime) -> None:
    """End the open part of *dispute* on the tenant's wallet."""
    wallet = store.wallets.get(tenant, Wallet())
    for part in wallet.disputed.values():
        if part.is_open and part.reference == str(dispute.id):
            wallet = wallet.with_disputed(part.ended(HoldState.RELEASED, moment))
    store.put(store.wallets, tenant, wallet)


def _hold(
    store: Store, dispute: Dispute, tenant: TenantId, amount: Amount, moment: datetime
) -> None:
    """Set a part of *dispute* aside, even beyond the available credits."""
    if amount.is_zero:
        return
    open_account(store, tenant, moment)
    part = Hold(
        id=uuid5(dispute.id, f"{tenant} {dispute.number}"),
        tenant=tenant,
        reference=str(dispute.id),
        amount=amount,
        opened_at=moment,
    )
    wallet = store.wallets.get(tenant, Wallet())
    store.put(store.wallets, tenant, wallet.with_disputed(part))
