"""The domain's own work, without a database. A call repeats it, so that it can be timed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from decimal import Decimal
from functools import partial
from typing import Final
from uuid import UUID

from benchmarks import jobs
from benchmarks.harness import Call, Database, Threads
from cogni_billing import (
    AccountId,
    RevenueSharePolicy,
    ShareMode,
    ShareRule,
    allocate,
    credits,
    credits_for,
    usd,
)
from cogni_billing.domain.amounts import parsed

AT_ONCE: Final = 1_000
NOW: Final = datetime(2026, 1, 1, tzinfo=UTC)
BOUGHT: Final = credits(100_000_000)
DEFAULT: Final = RevenueSharePolicy.default()
SPLIT: Final = RevenueSharePolicy(
    version="split",
    effective_from=NOW,
    mode=ShareMode.SPLIT,
    rules=tuple(ShareRule(AccountId(UUID(int=number + 1)), "0.03") for number in range(7)),
)
VALUE: Final = Decimal("12345.67")

WORK: Final[dict[str, Callable[[], object]]] = {
    "two decimals added": lambda: VALUE + VALUE,
    "an amount made": lambda: usd(VALUE),
    "an amount read": lambda: parsed("12345.67 USD"),
    "two amounts added": lambda: BOUGHT + BOUGHT,
    "dollars to credits": lambda: credits_for(jobs.PRICE),
    "the default policy's share": lambda: DEFAULT.shares_of(BOUGHT, NOW),
    "a split between seven": lambda: SPLIT.shares_of(BOUGHT, NOW),
    "an allocation to seven": partial(allocate, BOUGHT, (1, 2, 3, 4, 5, 6, 7)),
}


def contenders() -> list[Threads]:
    return [Threads(name, partial(_many, name), AT_ONCE) for name in WORK]


@contextmanager
def _many(name: str, _database: Database, clients: int) -> Iterator[Sequence[Call]]:
    work = WORK[name]

    def call() -> None:
        for _ in range(AT_ONCE):
            work()

    yield [call] * clients
