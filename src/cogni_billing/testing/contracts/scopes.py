"""Contract: units of work are atomic and see one tenant."""

from __future__ import annotations

from uuid import UUID

import pytest

from cogni_billing import (
    SYSTEM_ACCOUNT_ID,
    SYSTEM_TENANT_ID,
    Account,
    AccountId,
    IdempotencyConflict,
    InvalidTenant,
    PaymentAlreadyClaimed,
    ScopeClosed,
    TenantId,
    UnknownAccount,
    credits,
)
from cogni_billing.domain.statements import PageRequest
from cogni_billing.ports.scope import Scope, UnitOfWork
from cogni_billing.testing.base import ALICE, BOB, NOON, Contract, Totals, purchase_totals
from cogni_billing.testing.contracts.purchases import planned

FIRST_PAGE = PageRequest(limit=50)


class HostError(Exception):
    """An error of the host's own code inside a scope."""


class ScopeContract(Contract):
    """Each scope is one transaction."""

    def test_a_scope_without_errors_is_committed(
        self, unit_of_work: UnitOfWork, totals: Totals
    ) -> None:
        with unit_of_work.scope(ALICE) as scope:
            scope.ledger.post(planned())

        assert totals() == purchase_totals(ALICE, 100_000_000, 25_000_000)

    def test_an_exception_in_a_scope_rolls_back_share_and_account_too(
        self, unit_of_work: UnitOfWork, totals: Totals
    ) -> None:
        def interrupted() -> None:
            with unit_of_work.scope(ALICE) as scope:
                scope.ledger.post(planned())
                raise HostError

        with pytest.raises(HostError):
            interrupted()

        assert totals() == {}
        with pytest.raises(UnknownAccount):
            unit_of_work.run(ALICE, lambda scope: scope.tenants.account())
        assert not unit_of_work.run(ALICE, lambda scope: scope.ledger.post(planned())).replayed

    def test_work_that_raises_is_rolled_back_and_its_error_is_raised(
        self, unit_of_work: UnitOfWork, totals: Totals
    ) -> None:
        def work(scope: Scope) -> None:
            scope.ledger.post(planned())
            raise HostError

        with pytest.raises(HostError):
            unit_of_work.run(ALICE, work)

        assert totals() == {}

    def test_run_returns_the_result_of_the_work(self, unit_of_work: UnitOfWork) -> None:
        unit_of_work.run(ALICE, lambda scope: scope.tenants.open_account(NOON))

        balance = unit_of_work.run(ALICE, lambda scope: scope.ledger.balance(NOON))

        assert balance.posted == credits(0)

    def test_a_scope_sees_its_own_work_before_it_ends(self, unit_of_work: UnitOfWork) -> None:
        with unit_of_work.scope(ALICE) as scope:
            scope.ledger.post(planned())

            assert scope.ledger.balance(NOON).posted == credits(100_000_000)
            assert scope.ledger.post(planned()).replayed

    def test_a_scope_with_a_swallowed_error_raises(
        self, unit_of_work: UnitOfWork, totals: Totals
    ) -> None:
        unit_of_work.run(ALICE, lambda scope: scope.ledger.post(planned()))
        before = totals()

        def swallowing() -> None:
            with unit_of_work.scope(ALICE) as scope:
                scope.ledger.post(planned(payment="stripe:pi_2", number=78))
                with pytest.raises(IdempotencyConflict):
                    scope.ledger.post(planned(amount="11.00"))

        with pytest.raises(ScopeClosed):
            swallowing()

        assert totals() == before

    def test_calls_after_a_failure_are_refused(self, unit_of_work: UnitOfWork) -> None:
        unit_of_work.run(ALICE, lambda scope: scope.ledger.post(planned()))

        def going_on() -> None:
            with unit_of_work.scope(BOB) as scope:
                with pytest.raises(PaymentAlreadyClaimed):
                    scope.ledger.post(planned(BOB))
                scope.ledger.balance(NOON)

        with pytest.raises(ScopeClosed):
            going_on()

    def test_calls_after_the_end_of_the_scope_are_refused(self, unit_of_work: UnitOfWork) -> None:
        with unit_of_work.scope(ALICE) as scope:
            scope.tenants.open_account(NOON)

        for call in (
            lambda: scope.tenants.open_account(NOON),
            scope.tenants.account,
            lambda: scope.ledger.post(planned()),
            lambda: scope.ledger.balance(NOON),
            lambda: scope.ledger.lines(FIRST_PAGE),
        ):
            with pytest.raises(ScopeClosed):
                call()

    @pytest.mark.parametrize("tenant", ["0a11ce00-0000-4000-8000-000000000001", None, UUID(int=0)])
    def test_a_scope_for_an_invalid_tenant_is_refused(
        self, unit_of_work: UnitOfWork, tenant: TenantId
    ) -> None:
        with pytest.raises(InvalidTenant), unit_of_work.scope(tenant):
            pass


class TenantContract(Contract):
    """Each tenant has one account, and sees no other."""

    def test_opening_an_account_twice_gives_the_first(self, unit_of_work: UnitOfWork) -> None:
        first = unit_of_work.run(ALICE, lambda scope: scope.tenants.open_account(NOON))
        later = NOON.replace(year=2027)

        again = unit_of_work.run(ALICE, lambda scope: scope.tenants.open_account(later))

        assert first == Account(AccountId(ALICE), ALICE, NOON)
        assert again == first

    def test_the_system_tenant_is_there_from_the_start(self, unit_of_work: UnitOfWork) -> None:
        account = unit_of_work.run(SYSTEM_TENANT_ID, lambda scope: scope.tenants.account())

        assert account.id == SYSTEM_ACCOUNT_ID
        assert account.tenant_id == SYSTEM_TENANT_ID
        assert account.slug == "cogni_system"
        assert account.is_system_tenant

    def test_a_tenant_without_an_account_is_unknown(self, unit_of_work: UnitOfWork) -> None:
        unit_of_work.run(BOB, lambda scope: scope.tenants.open_account(NOON))

        with pytest.raises(UnknownAccount) as caught:
            unit_of_work.run(ALICE, lambda scope: scope.tenants.account())

        assert caught.value.tenant == ALICE

    def test_a_tenant_sees_its_own_lines_and_balance_only(self, unit_of_work: UnitOfWork) -> None:
        unit_of_work.run(ALICE, lambda scope: scope.ledger.post(planned()))

        with unit_of_work.scope(BOB) as scope:
            scope.tenants.open_account(NOON)
            assert scope.ledger.balance(NOON).posted == credits(0)
            assert scope.ledger.lines(FIRST_PAGE).lines == ()
