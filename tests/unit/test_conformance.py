"""The in-memory adapter passes the isolated conformance level, sync and async."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import ClassVar
from uuid import UUID

import pytest
from attrs import evolve
from hypothesis import settings

from cogni_billing import (
    AccountId,
    AsyncBilling,
    AsyncPaymentAttempts,
    Billing,
    PaymentAttempts,
    credits,
)
from cogni_billing.adapters.memory import InMemoryUnitOfWork
from cogni_billing.testing import (
    ALICE,
    Falsify,
    FindingContract,
    IsolatedConformance,
    NewAttempts,
    NewBilling,
    NewUnitOfWork,
    SpendingContract,
    Totals,
    blocking,
    blocking_attempts,
    running_loop,
)
from cogni_billing.testing.machine import ModelContract


class TestMemory(IsolatedConformance):
    @pytest.fixture
    def new_unit_of_work(self) -> NewUnitOfWork:
        return InMemoryUnitOfWork

    @pytest.fixture(params=["called", "awaited"])
    def new_billing(
        self, request: pytest.FixtureRequest, unit_of_work: InMemoryUnitOfWork
    ) -> Iterator[NewBilling]:
        if request.param == "called":
            yield partial(Billing, unit_of_work)
        else:
            with running_loop() as loop:
                yield lambda **options: blocking(AsyncBilling(unit_of_work, **options), loop)

    @pytest.fixture(params=["called", "awaited"])
    def new_attempts(
        self, request: pytest.FixtureRequest, unit_of_work: InMemoryUnitOfWork
    ) -> Iterator[NewAttempts]:
        if request.param == "called":
            yield partial(PaymentAttempts, unit_of_work)
        else:
            with running_loop() as loop:
                yield lambda **options: blocking_attempts(
                    AsyncPaymentAttempts(unit_of_work, **options), loop
                )

    @pytest.fixture
    def totals(self, unit_of_work: InMemoryUnitOfWork) -> Totals:
        return unit_of_work.totals

    class TestFinding(FindingContract):
        @pytest.fixture
        def falsify(self, unit_of_work: InMemoryUnitOfWork) -> Falsify:
            lines = unit_of_work._store.lines

            def change(transaction_id: UUID) -> None:
                own = lines[AccountId(ALICE)]
                for place, line in enumerate(own):
                    if line.transaction_id == transaction_id:
                        own[place] = evolve(line, amount=line.amount + credits(1))

            return change

    class TestModel(ModelContract):
        pass

    @pytest.mark.exhaustive
    class TestModelAtLength(ModelContract):
        SEQUENCES: ClassVar = 250
        ANEW: ClassVar = not settings().derandomize

    class TestSpending(SpendingContract):
        @pytest.fixture
        def new_spender(self, unit_of_work: InMemoryUnitOfWork) -> NewBilling:
            return partial(Billing, unit_of_work.limited())
