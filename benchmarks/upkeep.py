"""Folding, verifying and the size of purchases."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from attrs import define

from benchmarks import library
from benchmarks.filling import POSTINGS_OF_A_PURCHASE, bytes_of, fill, vacuumed
from benchmarks.harness import Contender, Database, Work
from cogni_billing import Billing

FIRST: Final = 30_000
"""Purchases on a ledger before the first measurement."""
MORE: Final = 10_000
"""Purchases before each measurement."""


@define
class AfterPurchases(Contender):
    """Does a job once after more purchases, which are not measured. Its unit is a posting."""

    name: str
    job: Callable[[Billing], object]
    reads_all: bool
    against: str = ""
    at_once: int = 0

    def work(self, database: Database, clients: int, seconds: float) -> Work:  # noqa: ARG002
        fill(database, MORE)
        every = int(database.ask("SELECT count(*) FROM cogni_billing.transactions"))
        self.at_once = (every if self.reads_all else MORE) * POSTINGS_OF_A_PURCHASE
        with library.opened(database, clients=1) as billing:
            before, began, cpu = database.taken(), time.perf_counter(), time.process_time()
            self.job(billing)
            took, cpu = time.perf_counter() - began, time.process_time() - cpu
        return Work([took], took, cpu, before)


def bytes_a_purchase(database: Database) -> float:
    """Write purchases, fold and vacuum. Returns the bytes on disk for each purchase."""
    vacuumed(database)
    empty = bytes_of(database)
    fill(database, FIRST)
    with library.opened(database, clients=1) as billing:
        billing.fold()
    vacuumed(database)
    return (bytes_of(database) - empty) / FIRST


def fold(billing: Billing) -> object:
    return billing.fold()


def verify(billing: Billing) -> object:
    found = billing.verify()
    assert found.ok, found
    return found


@contextmanager
def folding_and_verifying(database: Database) -> Iterator[Sequence[Contender]]:
    size = bytes_a_purchase(database)
    database.notes.append(f"Bytes on disk of a purchase, with indexes: {size:,.0f}.")
    yield (
        AfterPurchases("fold", fold, reads_all=False),
        AfterPurchases("verify", verify, reads_all=True),
    )
