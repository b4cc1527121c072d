"""Erasure of one tenant's texts, in memory."""

from __future__ import annotations

from collections.abc import Iterator
from uuid import UUID

from attrs import evolve

from cogni_billing.adapters.memory.store import Store
from cogni_billing.domain.erasure import erased
from cogni_billing.domain.identity import TenantId
from cogni_billing.domain.metadata import EMPTY, encoded
from cogni_billing.domain.schedules import Schedule
from cogni_billing.domain.transactions import Transaction
from cogni_billing.domain.wallets import Wallet


def forget(store: Store, tenant: TenantId) -> int:
    """Replace the tenant's texts by digests, and return the number of texts."""
    before = sum(1 for _ in _texts(store, tenant))
    for (owner, record), key in list(store.ids.items()):
        if owner == tenant:
            recorded = store.recorded[key]
            digest = sealed_metadata(store, recorded.transaction)
            store.put(store.erased, (tenant, record), digest)
            made = without_texts(recorded.transaction)
            store.put(store.recorded, key, evolve(recorded, transaction=made))
    if wallet := store.wallets.get(tenant):
        holds = {key: evolve(hold, metadata=EMPTY) for key, hold in wallet.holds.items()}
        grants = {
            key: grant if grant.is_purchased else evolve(grant, source=erased(key, grant.source))
            for key, grant in wallet.grants.items()
        }
        freeze = wallet.freeze and evolve(
            wallet.freeze, reason=erased(tenant, wallet.freeze.reason)
        )
        schedules = {key: _without_texts(each) for key, each in wallet.schedules.items()}
        wallet = evolve(wallet, holds=holds, grants=grants, schedules=schedules, freeze=freeze)
        store.put(store.wallets, tenant, wallet)
    for name, dispute in list(store.disputes.items()):
        if dispute.tenant == tenant:
            store.put(store.disputes, name, evolve(dispute, metadata=EMPTY))
    for place, attempt in list(store.attempts.items()):
        if attempt.intent.tenant == tenant:
            intent = evolve(attempt.intent, metadata=EMPTY)
            store.put(store.attempts, place, evolve(attempt, intent=intent))
    return before


def sealed_metadata(store: Store, made: Transaction) -> str:
    """The digest of a transaction's metadata, also after an erasure."""
    return store.erased.get((made.tenant, made.id)) or erased(made.id, encoded(made.metadata))


def without_texts(made: Transaction) -> Transaction:
    """The transaction with its texts erased."""
    terms = made.terms and evolve(made.terms, source=erased(made.id, made.terms.source))
    reason = made.reason and erased(made.id, made.reason)
    return evolve(made, metadata=EMPTY, terms=terms, reason=reason)


def _without_texts(schedule: Schedule) -> Schedule:
    terms = evolve(schedule.terms, source=erased(schedule.id, schedule.terms.source))
    return evolve(schedule, metadata=EMPTY, terms=terms)


def _texts_of_wallet(tenant: TenantId, wallet: Wallet) -> Iterator[UUID]:
    yield from (hold.id for hold in wallet.holds.values() if hold.metadata)
    for schedule in wallet.schedules.values():
        if schedule.metadata:
            yield schedule.id
        if _without_texts(schedule).terms != schedule.terms:
            yield schedule.id
    if wallet.freeze and wallet.freeze.reason != erased(tenant, wallet.freeze.reason):
        yield tenant


def _texts(store: Store, tenant: TenantId) -> Iterator[UUID]:
    """The id of each record with a text that is not erased, once for each text."""
    for recorded in store.recorded.values():
        made = recorded.transaction
        if made.tenant == tenant and made.metadata:
            yield made.id
        if made.tenant == tenant and without_texts(made).terms != made.terms:
            yield made.id
        if made.tenant == tenant and without_texts(made).reason != made.reason:
            yield made.id
    if wallet := store.wallets.get(tenant):
        yield from _texts_of_wallet(tenant, wallet)
    for dispute in store.disputes.values():
        if dispute.tenant == tenant and dispute.metadata:
            yield dispute.id
    for attempt in store.attempts.values():
        if attempt.intent.tenant == tenant and attempt.intent.metadata:
            yield attempt.id
