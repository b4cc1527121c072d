"""What signed contexts cost: the same calls on two servers, one of which asks for proofs.

One client calls each in turn, many times in a round, and the rounds alternate between the servers.
What is printed is the median time of a call on each, and the ratio of the two.

    python benchmarks/signed_contexts.py --rounds 15 --calls 300
"""

from __future__ import annotations

import argparse
import secrets
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import ExitStack
from statistics import median
from uuid import UUID, uuid4

from rich.console import Console
from rich.progress import track
from rich.table import Table
from sqlalchemy import create_engine

from cogni_billing import Billing, TenantId, credits, usd
from cogni_billing.adapters.postgres import PostgresUnitOfWork, sign_contexts
from cogni_billing.adapters.postgres.embedded import EmbeddedPostgres

CUSTOMER = TenantId(UUID(int=2**100))
CALLS: dict[str, Callable[[Billing], object]] = {
    "confirm_purchase": lambda b: b.confirm_purchase(
        CUSTOMER, usd("1.00"), payment=f"bench:{uuid4()}"
    ),
    "charge": lambda b: b.charge(CUSTOMER, credits(1), reference=f"bench:{uuid4()}"),
    "balance": lambda b: b.balance(CUSTOMER),
    "statement": lambda b: b.statement(CUSTOMER),
}


def served(stack: ExitStack, *, signed: bool) -> Billing:
    """A ledger on a server of its own."""
    server = stack.enter_context(EmbeddedPostgres())
    key = secrets.token_bytes(32) if signed else None
    if key is not None:
        migrator = create_engine(server.url("app_migrator"))
        sign_contexts(migrator, [key])
        migrator.dispose()
    engine = create_engine(server.url("app_user"))
    stack.callback(engine.dispose)
    return Billing(PostgresUnitOfWork(engine, signing_key=key))


def measured(rounds: int, calls: int) -> dict[tuple[str, bool], list[float]]:
    """Milliseconds for one call, in each round."""
    figures: dict[tuple[str, bool], list[float]] = defaultdict(list)
    with ExitStack() as stack:
        ledgers = {signed: served(stack, signed=signed) for signed in (False, True)}
        for _ in track(range(rounds), "rounds"):
            for name, call in CALLS.items():
                for signed, billing in ledgers.items():
                    began = time.perf_counter()
                    for _ in range(calls):
                        call(billing)
                    elapsed = time.perf_counter() - began
                    figures[name, signed].append(elapsed / calls * 1000)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--calls", type=int, default=300)
    options = parser.parse_args()
    figures = measured(options.rounds, options.calls)
    table = Table("call", "unsigned, ms", "signed, ms", "ratio", "of rounds: lowest", "highest")
    for name in CALLS:
        plain, signed = figures[name, False], figures[name, True]
        ratios = [after / before for before, after in zip(plain, signed, strict=True)]
        figure = (median(plain), median(signed), median(ratios), min(ratios), max(ratios))
        table.add_row(name, *(f"{value:.2f}" for value in figure))
    Console().print(table)


if __name__ == "__main__":
    main()
