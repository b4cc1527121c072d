"""The in-memory ledger runs one atomic scope at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import nullcontext
from copy import copy
from typing import Any
from uuid import UUID

import pytest

from cogni_billing import (
    SYSTEM_TENANT_ID,
    Account,
    AccountId,
    Billing,
    IdempotencyConflict,
    LedgerCorruption,
    LedgerUnavailable,
    ScopeClosed,
    TenantId,
    UnknownAccount,
    credits,
    usd,
)
from cogni_billing.adapters.memory import InMemoryUnitOfWork
from cogni_billing.adapters.memory.store import Store
from cogni_billing.domain.errors import given_twice
from cogni_billing.domain.statements import PageRequest
from cogni_billing.ports.scope import Scope
from cogni_billing.testing.base import ALICE, BOB, NOON
from cogni_billing.testing.contracts.purchases import planned

TABLES = ("accounts", "payments", "ids", "recorded", "wallets", "balances", "folded")


class HostError(Exception):
    """An error of the host's own code inside a scope."""


def state(unit_of_work: InMemoryUnitOfWork) -> dict[str, Any]:
    """A copy of all tables."""
    store = unit_of_work._store
    kept: dict[str, Any] = {name: copy(getattr(store, name)) for name in TABLES}
    kept["lines"] = {account: tuple(lines) for account, lines in store.lines.items()}
    return kept


@pytest.fixture
def unit_of_work() -> InMemoryUnitOfWork:
    """A ledger with one purchase of Alice."""
    unit_of_work = InMemoryUnitOfWork()
    unit_of_work.run(ALICE, lambda scope: scope.ledger.post(planned(number=1)))
    return unit_of_work


def breaking_with(error: BaseException) -> Callable[[Scope], None]:
    """Work for Bob that makes many changes and then raises *error*."""

    def work(scope: Scope) -> None:
        scope.tenants.open_account(NOON)
        scope.ledger.post(planned(BOB, payment="stripe:pi_2", number=2))
        scope.ledger.post(planned(BOB, payment="stripe:pi_3", number=3))
        raise error

    return work


class TestAtomicity:
    @pytest.mark.parametrize(
        "error", [HostError(), KeyboardInterrupt(), SystemExit(), GeneratorExit()], ids=repr
    )
    def test_any_exception_rolls_the_scope_back(
        self, unit_of_work: InMemoryUnitOfWork, error: BaseException
    ) -> None:
        before = state(unit_of_work)

        with pytest.raises(type(error)) as caught:
            unit_of_work.run(BOB, breaking_with(error))

        assert caught.value is error
        assert state(unit_of_work) == before

    def test_a_rollback_restores_changed_values_and_removes_new_ones(
        self, unit_of_work: InMemoryUnitOfWork
    ) -> None:
        before = state(unit_of_work)

        def work(scope: Scope) -> None:
            scope.ledger.post(planned(payment="stripe:pi_2", number=2))
            scope.ledger.post(planned(payment="stripe:pi_3", number=3))
            raise HostError

        with pytest.raises(HostError):
            unit_of_work.run(ALICE, work)

        assert state(unit_of_work) == before
        assert unit_of_work._store.balances[AccountId(ALICE)] == credits(100_000_000)

    def test_a_rolled_back_scope_is_not_rolled_back_again(
        self, unit_of_work: InMemoryUnitOfWork
    ) -> None:
        for _ in range(2):
            with pytest.raises(HostError):
                unit_of_work.run(BOB, breaking_with(HostError()))
        unit_of_work.run(
            BOB, lambda scope: scope.ledger.post(planned(BOB, payment="a:q", number=4))
        )
        before = state(unit_of_work)

        with pytest.raises(HostError):
            unit_of_work.run(BOB, breaking_with(HostError()))

        assert state(unit_of_work) == before

    def test_a_swallowed_failure_closes_and_rolls_back_the_scope(
        self, unit_of_work: InMemoryUnitOfWork
    ) -> None:
        before = state(unit_of_work)

        def work(scope: Scope) -> str:
            scope.ledger.post(planned(payment="stripe:pi_2", number=2))
            with pytest.raises(IdempotencyConflict):
                scope.ledger.post(planned(amount="11.00", number=3))
            return "as if all were well"

        with pytest.raises(ScopeClosed) as caught:
            unit_of_work.run(ALICE, work)

        assert "failed" in caught.value.reason
        assert state(unit_of_work) == before

    def test_an_id_given_twice_records_nothing(self, unit_of_work: InMemoryUnitOfWork) -> None:
        before = state(unit_of_work)

        with pytest.raises(LedgerCorruption) as caught:
            unit_of_work.run(ALICE, lambda s: s.ledger.post(planned(payment="a:q", number=1)))

        assert caught.value.finding == given_twice(UUID(int=1)).finding
        assert state(unit_of_work) == before

    def test_a_read_that_fails_fails_the_scope(self, unit_of_work: InMemoryUnitOfWork) -> None:
        def work(scope: Scope) -> None:
            with pytest.raises(UnknownAccount):
                scope.tenants.account()

        with pytest.raises(ScopeClosed):
            unit_of_work.run(BOB, work)


class TestScopes:
    def test_a_second_scope_of_one_thread_is_refused_and_the_first_goes_on(
        self, unit_of_work: InMemoryUnitOfWork
    ) -> None:
        with unit_of_work.scope(BOB) as scope:
            with pytest.raises(LedgerUnavailable) as caught, unit_of_work.scope(ALICE):
                pass
            scope.tenants.open_account(NOON)

        assert "thread" in caught.value.reason
        assert BOB in state(unit_of_work)["accounts"]

    def test_a_call_inside_a_scope_of_its_thread_is_refused(
        self, unit_of_work: InMemoryUnitOfWork
    ) -> None:
        billing = Billing(unit_of_work)
        before = state(unit_of_work)

        with unit_of_work.scope(BOB), pytest.raises(LedgerUnavailable):
            billing.confirm_purchase(BOB, usd(1), payment="a:q")

        assert state(unit_of_work) == before

    def test_two_ledgers_are_independent(self, unit_of_work: InMemoryUnitOfWork) -> None:
        other = InMemoryUnitOfWork()

        with unit_of_work.scope(ALICE), other.scope(ALICE) as scope:
            recorded = scope.ledger.post(planned())

        assert not recorded.replayed

    def test_a_scope_waits_for_the_one_of_another_thread(
        self, unit_of_work: InMemoryUnitOfWork
    ) -> None:
        seen: list[str] = []

        def other() -> None:
            with unit_of_work.scope(BOB):
                seen.append("second")

        thread = threading.Thread(target=other)
        with unit_of_work.scope(ALICE) as scope:
            thread.start()
            scope.ledger.balance(NOON)
            seen.append("first")
        thread.join()

        assert seen == ["first", "second"]

    def test_a_call_after_the_end_of_the_scope_is_refused(
        self, unit_of_work: InMemoryUnitOfWork
    ) -> None:
        with unit_of_work.scope(ALICE) as scope:
            pass

        with pytest.raises(ScopeClosed) as caught:
            scope.ledger.balance(NOON)

        assert "ended" in caught.value.reason

    def test_a_call_after_a_rollback_is_refused(self, unit_of_work: InMemoryUnitOfWork) -> None:
        scopes: list[Scope] = []

        def work(scope: Scope) -> None:
            scopes.append(scope)
            raise HostError

        with pytest.raises(HostError):
            unit_of_work.run(ALICE, work)
        with pytest.raises(ScopeClosed) as caught:
            scopes[0].ledger.lines(PageRequest(limit=1))

        assert "ended" in caught.value.reason

    def test_a_new_ledger_has_the_system_tenant_only(self) -> None:
        empty = state(InMemoryUnitOfWork())

        accounts: dict[TenantId, Account] = empty.pop("accounts")
        assert list(accounts) == [SYSTEM_TENANT_ID]
        assert accounts[SYSTEM_TENANT_ID].opened_at.year == 1970
        assert not any(empty.values())


class TestKeep:
    """`Store.keep` makes changes permanent."""

    def break_off(self, store: Store, *, inside: bool) -> None:
        with store.transaction():
            store.put(store.folded, AccountId(ALICE), 1)
            with store.savepoint() if inside else nullcontext():
                store.put(store.folded, AccountId(BOB), 2)
                store.keep()
            store.put(store.folded, AccountId(SYSTEM_TENANT_ID), 3)
            raise HostError

    def test_kept_changes_survive_a_rollback(self) -> None:
        store = Store()

        with pytest.raises(HostError):
            self.break_off(store, inside=False)

        assert store.folded == {ALICE: 1, BOB: 2}

    def test_keep_inside_a_savepoint_has_no_effect(self) -> None:
        store = Store()

        with pytest.raises(HostError):
            self.break_off(store, inside=True)

        assert store.folded == {}


def test_metadata_that_the_caller_changes_later_is_recorded_as_it_was() -> None:
    unit_of_work = InMemoryUnitOfWork()
    metadata: dict[str, Any] = {"order": {"lines": [1, 2]}, "note": "first"}
    Billing(unit_of_work).confirm_purchase(ALICE, usd(1), payment="a:p", metadata=metadata)

    metadata["order"]["lines"].append(3)
    metadata["order"]["more"] = True
    metadata.clear()

    (recorded,) = unit_of_work._store.recorded.values()
    assert recorded.transaction.metadata == {"order": {"lines": (1, 2)}, "note": "first"}
