"""Reports of measurements: stored as JSON, shown as a table, rendered for the documents."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Final, Self

from attrs import asdict, frozen
from rich.table import Table

from benchmarks.harness import Cell, Database, Sample

COLUMNS: Final = {
    "jobs_per_s": "a second",
    "p50_ms": "p50 ms",
    "p99_ms": "p99 ms",
    "client_cpu_us": "client µs",
    "server_cpu_us": "server µs",
    "wal_bytes": "WAL bytes",
}


@frozen
class Row:
    """The samples of a cell, one for each round."""

    contender: str
    clients: int
    against: str
    """The contender to compare with."""
    samples: tuple[Sample, ...]

    def median(self, column: str) -> float:
        return float(median(getattr(each, column) for each in self.samples))

    def ratio(self, to: Row) -> float:
        """The median of the rounds' ratios of jobs per second."""
        return median(self.ratios(to))

    def ratios(self, to: Row) -> list[float]:
        """The ratio of each round, because both contenders met the same load in it."""
        pairs = zip(self.samples, to.samples, strict=True)
        return [each.jobs_per_s / other.jobs_per_s for each, other in pairs]


@frozen
class Report:
    """A run of a suite, with its environment."""

    suite: str
    day: str
    processors: int
    python: str
    server: str
    rounds: int
    seconds: float
    notes: tuple[str, ...]
    rows: tuple[Row, ...]

    @classmethod
    def of(
        cls,
        suite: str,
        database: Database,
        seconds: float,
        cells: Sequence[Cell],
        samples: Sequence[Sequence[Sample]],
    ) -> Self:
        first = cells[0].contender.name
        return cls(
            suite=suite,
            day=datetime.now(UTC).date().isoformat(),
            processors=os.cpu_count() or 0,
            python=platform.python_version(),
            server=f"PostgreSQL {database.ask('SHOW server_version')}",
            rounds=len(samples[0]),
            seconds=seconds,
            notes=tuple(database.notes),
            rows=tuple(
                Row(each.name, cell.clients, each.against or first, tuple(found))
                for cell, found in zip(cells, samples, strict=True)
                for each in (cell.contender,)
            ),
        )

    @classmethod
    def read(cls, path: Path) -> Self:
        written = json.loads(path.read_text("utf-8"))
        rows = [
            Row(**(row | {"samples": tuple(Sample(**each) for each in row["samples"])}))
            for row in written["rows"]
        ]
        return cls(**(written | {"notes": tuple(written["notes"]), "rows": tuple(rows)}))

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self), indent=1) + "\n", "utf-8")

    def lines(self) -> list[list[str]]:
        """The table: a heading, and a line for each row."""
        rows = {(row.contender, row.clients): row for row in self.rows}
        return [
            ["contender", "clients", "ratio", "lowest", "highest", *COLUMNS.values()],
            *(
                [
                    row.contender,
                    str(row.clients),
                    f"{row.ratio(rows[row.against, row.clients]):.2f}",
                    f"{min(each.jobs_per_s for each in row.samples):.0f}",
                    f"{max(each.jobs_per_s for each in row.samples):.0f}",
                    *(f"{row.median(column):.4g}" for column in COLUMNS),
                ]
                for row in self.rows
            ),
        ]

    def table(self) -> Table:
        heading, *lines = self.lines()
        shown = Table(*heading, title=f"{self.suite}, {self.day}")
        for line in lines:
            shown.add_row(*line)
        return shown
