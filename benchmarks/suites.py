"""The suites: the contenders of each, and the comparisons between them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Final

from attrs import frozen

from benchmarks import (
    arithmetic,
    databases,
    growth,
    handwritten,
    library,
    limit,
    peers,
    upkeep,
)
from benchmarks.harness import Contender, Database
from benchmarks.latency import Delayed
from cogni_billing import TransactionKind

Contenders = Sequence[Contender]


@frozen
class Suite:
    """Contenders for one job. Ratios are to the first, or to the one that a contender names."""

    title: str
    contenders: Callable[[Database], AbstractContextManager[Contenders]]
    """Makes the contenders, and prepares the database for them."""
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


PURCHASE: Final = library.called("the library", library.purchase)
CHARGE: Final = library.called("the library", library.charge)
CHARGE_ONE: Final = library.called("the library", library.charge_one)


def _installed_twice(database: Database) -> None:
    handwritten.install(database)
    limit.install(database)


def _peers_installed(database: Database) -> None:
    handwritten.install(database)
    peers.install(database)


BATCHES: Final = {
    size: library.called(f"{size:,} at once", partial(library.purchases, size), at_once=size)
    for size in (10, 100, 1_000, 10_000)
}
SUITES: Final = {
    "purchases": Suite(
        "Purchases, each with a share for the one platform",
        _these(
            PURCHASE,
            library.awaited("the library, awaited", library.purchase_awaited),
            limit.bare(TransactionKind.PURCHASE),
            limit.by_the_driver(TransactionKind.PURCHASE),
            handwritten.ONE_TRANSACTION,
            handwritten.TWO_TRANSACTIONS,
            install=_installed_twice,
        ),
        clients=(1, 16, 64),
    ),
    "groups": Suite(
        "Purchases that share commits",
        _these(
            PURCHASE,
            library.called_in_groups("the library, grouped", library.purchase),
            library.awaited_in_groups("the library, grouped, awaited", library.purchase_awaited),
            limit.bare(TransactionKind.PURCHASE),
            handwritten.ONE_TRANSACTION,
            handwritten.TWO_TRANSACTIONS,
            install=_installed_twice,
        ),
        clients=(64,),
    ),
    "hot": Suite(
        "Charges of one tenant",
        _these(
            CHARGE_ONE,
            library.called_in_groups("the library, grouped", library.charge_one),
            library.awaited_in_groups("the library, grouped, awaited", library.charge_one_awaited),
        ),
        clients=(64,),
    ),
    "latency": Suite(
        "Purchases, each message to the server a millisecond late",
        _these(
            *map(
                Delayed,
                (
                    PURCHASE,
                    library.called_in_groups("the library, grouped", library.purchase),
                    handwritten.ONE_TRANSACTION,
                    handwritten.TWO_TRANSACTIONS,
                ),
            ),
            install=handwritten.install,
        ),
        clients=(1, 16),
    ),
    "peers": Suite(
        "The same purchases by libraries from PyPI",
        _these(
            PURCHASE,
            handwritten.OBJECTS,
            *peers.CONTENDERS,
            install=_peers_installed,
        ),
        clients=(1, 16),
    ),
    "charges": Suite(
        "Charges",
        _these(
            CHARGE,
            library.awaited("the library, awaited", library.charge_awaited),
            limit.bare(TransactionKind.CHARGE),
            limit.by_the_driver(TransactionKind.CHARGE),
            install=limit.install,
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
        "Grants, holds and a mixed load",
        _these(
            library.called("a grant", library.grant),
            library.called("a hold and its capture", library.hold_and_capture),
            library.called("mixed", library.mixed),
        ),
        clients=(1, 16),
    ),
    "metered": Suite(
        "A stream of a thousand costs",
        _these(
            library.called(
                "a charge for each cost", partial(library.charges_one_by_one, 1_000), at_once=1_000
            ),
            library.called("a metered run", partial(library.metered, 1_000), at_once=1_000),
        ),
        clients=(1,),
    ),
    "batches": Suite(
        "Purchases in batches",
        _these(
            library.called("one by one", library.purchase),
            *BATCHES.values(),
            library.called("a file of 10,000", partial(library.imported, 10_000), at_once=10_000),
        ),
        clients=(1,),
    ),
    "upkeep": Suite(
        "Folding and verifying",
        upkeep.folding_and_verifying,
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
        partial(growth.grown, sizes=(10_000_000,)),
        clients=(4,),
    ),
    "arithmetic": Suite(
        "The domain by itself",
        _these(*arithmetic.contenders()),
        clients=(1,),
    ),
}
