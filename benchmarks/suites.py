"""What is measured side by side: for each suite its contenders, and what they are compared to."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Final

from attrs import frozen

from benchmarks import arithmetic, databases, growth, handwritten, library, limit, peers
from benchmarks.harness import Contender, Database
from cogni_billing import TransactionKind

Contenders = Sequence[Contender]


@frozen
class Suite:
    """Contenders for one job. Ratios are to the first, or to the one that a contender names."""

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
    "platforms": Suite(
        "One platform that has a share of all purchases, and many",
        _these(
            library.called("all for the system tenant", library.purchase),
            library.called_for_many_platforms(f"spread over {library.PLATFORMS} partners"),
        ),
        clients=(16, 64),
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
            library.called("a file of 10,000", partial(library.imported, 10_000), at_once=10_000),
        ),
        clients=(1,),
    ),
    "devices": Suite(
        "What each safety device costs",
        databases.without_each_device,
        clients=(1,),
    ),
    "signing": Suite(
        "What signed contexts cost",
        databases.signed_and_unsigned,
        clients=(1,),
    ),
    "growth": Suite(
        "On a new ledger, and on grown ones",
        partial(growth.grown, sizes=(1_000_000, 10_000_000)),
        clients=(4,),
    ),
    "arithmetic": Suite(
        "The domain by itself",
        _these(*arithmetic.contenders()),
        clients=(1,),
    ),
}
