"""Measures the time to refuse bad input: each bad value of the conformance kit in each argument.

Each must be refused within 10 ms, at any length. Otherwise the exit code is 1. The fastest of five
tries counts, because other load can interrupt a try.

    python benchmarks/refusals.py
"""

from __future__ import annotations

import sys
import time
from contextlib import suppress

from rich.console import Console
from rich.table import Table

from cogni_billing import Billing, BillingError
from cogni_billing.adapters.memory import InMemoryUnitOfWork
from cogni_billing.testing.contracts.bad_input import ARGUMENTS, BAD, PLACES, arguments

TRIES = 5
MS_MAX = 10.0
SHOWN = 8


def milliseconds(billing: Billing, call: str, given: dict[str, object]) -> float:
    began = time.perf_counter()
    with suppress(BillingError):
        getattr(billing, call)(**given)
    return (time.perf_counter() - began) * 1000


def main() -> int:
    billing = Billing(InMemoryUnitOfWork())
    figures = []
    for call, name in PLACES:
        kind = ARGUMENTS[call][name][1]
        for place, bad in enumerate(BAD[kind]):
            given = arguments(call) | {name: bad}
            took = min(milliseconds(billing, call, given) for _ in range(TRIES))
            figures.append((took, call, name, f"{type(bad).__name__}, {kind}[{place}]"))
    figures.sort(reverse=True)
    table = Table("ms", "call", "argument", "given", title=f"{len(figures)} refusals, the slowest")
    for took, call, name, what in figures[:SHOWN]:
        table.add_row(f"{took:.3f}", call, name, what)
    Console().print(table)
    return int(figures[0][0] > MS_MAX)


if __name__ == "__main__":
    sys.exit(main())
