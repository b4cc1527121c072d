"""Run suites of benchmarks, and show the results.

python -m benchmarks purchases charges --rounds 3 --seconds 10 --clients 1 16
"""

from __future__ import annotations

import argparse

from rich.console import Console

from benchmarks import rendering
from benchmarks.harness import Cell, measured
from benchmarks.report import Report
from benchmarks.serving import served
from benchmarks.suites import SUITES


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("suites", nargs="+", choices=SUITES)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--clients", type=int, nargs="+")
    parser.add_argument(
        "--keep", action="store_true", help="and render docs/explanation/benchmarks.md again"
    )
    options = parser.parse_args()
    for name in options.suites:
        suite = SUITES[name]
        with served() as database, suite.contenders(database) as contenders:
            numbers = options.clients or suite.clients
            cells = [Cell(each, clients) for clients in numbers for each in contenders]
            samples = measured(database, cells, rounds=options.rounds, seconds=options.seconds)
            report = Report.of(suite.title, database, options.seconds, cells, samples)
        Console().print(report.table(), *report.notes, sep="\n")
        if options.keep:
            report.write(rendering.KEPT / f"{name}.json")
            rendering.main()


if __name__ == "__main__":
    main()
