"""What is measured side by side: for each suite its contenders, and what they are compared to."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Final

from attrs import frozen

from benchmarks import databases, handwritten, library, limit, peers
from benchmarks.harness import Contender, Database
from cogni_billing import TransactionKind

Contenders = Sequence[Contender]


@frozen
class Suite:
    """Contenders for one job. Ratios are to the first."""

    title: str
    contenders: Callable[[Database], AbstractContextManager[Contenders]]
    """Makes them, with all that they need in the database."""
    clients: tuple[int, ...]


def _these(
    *contenders: Contender, install: Callable[[Database], None] | None = None
) -> Callable[[Database], AbstractContextManager[Contenders]]:
    @contextmanager
    def made(database: Database) -> Iterator[Contenders]:
        if install is not None:
            install(database)
        yield contenders

    return made


SUITES: Final = {
    "purchases": Suite(
        "Purchases, each with a share for the one platform",
        _these(
            library.called("the library", library.purchase),
            library.awaited("the library, awaited", library.purchase_awaited),
            limit.pgbench(TransactionKind.PURCHASE),
            limit.by_the_driver(TransactionKind.PURCHASE),
            handwritten.ONE_TRANSACTION,
            handwritten.TWO_TRANSACTIONS,
            handwritten.OBJECTS,
            install=handwritten.install,
        ),
        clients=(1, 4, 16, 64),
    ),
    "peers": Suite(
        "The same purchases by libraries from PyPI",
        _these(
            library.called("the library", library.purchase),
            *peers.CONTENDERS,
            install=peers.install,
        ),
        clients=(1, 16),
    ),
    "charges": Suite(
        "Charges",
        _these(
            library.called("the library", library.charge),
            library.awaited("the library, awaited", library.charge_awaited),
            limit.pgbench(TransactionKind.CHARGE),
            limit.by_the_driver(TransactionKind.CHARGE),
        ),
        clients=(1, 16),
    ),
    "mixed": Suite(
        "A mixed load, and holds",
        _these(
            library.called("charges alone", library.charge),
            library.called("90 % charges, 9 % reads, 1 % purchases", library.mixed),
            library.called("a hold and its capture", library.hold_and_capture),
        ),
        clients=(1, 16),
    ),
    "batches": Suite(
        "Purchases in batches",
        _these(
            library.called("one by one", library.purchase),
            *(
                library.called(f"{size:,} at once", partial(library.purchases, size), at_once=size)
                for size in (10, 100, 1_000, 10_000)
            ),
        ),
        clients=(1,),
    ),
    "devices": Suite(
        "What each safety device costs",
        databases.without_each_device,
        clients=(1,),
    ),
    "growth": Suite(
        "On an empty ledger, and on one with a million postings",
        partial(databases.grown, postings=1_000_000),
        clients=(4,),
    ),
}
