"""Random sequences of all calls, on both adapters and the model at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import ClassVar

from hypothesis import settings

from cogni_billing import Billing
from cogni_billing.adapters.memory import InMemoryUnitOfWork
from cogni_billing.adapters.postgres import PostgresUnitOfWork, reset
from contract.machine import Ledgers, run
from stack.conftest import Database


class BothLedgers(Ledgers):
    database: ClassVar[Database]

    def ledgers(self) -> Sequence[Callable[..., Billing]]:
        reset(self.database.migrator)
        postgres = PostgresUnitOfWork(self.database.user, service=self.database.service)
        return [partial(Billing, InMemoryUnitOfWork()), partial(Billing, postgres)]


def test_both_ledgers_do_what_the_model_says(database: Database) -> None:
    BothLedgers.database = database

    run(BothLedgers, settings().max_examples // 4)

    assert BothLedgers.steps >= 2_000
