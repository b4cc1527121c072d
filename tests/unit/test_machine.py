"""Random sequences of all calls, on the in-memory ledger and the model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from hypothesis import settings

from cogni_billing import Billing
from cogni_billing.adapters.memory import InMemoryUnitOfWork
from contract.machine import Ledgers, run


class MemoryLedgers(Ledgers):
    def ledgers(self) -> Sequence[Callable[..., Billing]]:
        return [partial(Billing, InMemoryUnitOfWork())]


def test_the_ledger_does_what_the_model_says() -> None:
    run(MemoryLedgers, settings().max_examples * 5 // 4)

    assert MemoryLedgers.steps >= 10_000
