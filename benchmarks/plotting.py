"""Plots of runs: over the number of clients if it varies, else the ratio of each contender."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Final

import matplotlib as mpl
from matplotlib.figure import Figure

from benchmarks.report import Report, Row

PANELS: Final = {"jobs_per_s": "a second", "p99_ms": "p99, ms"}
WIDE, LINE, MARGIN = 9.0, 0.3, 1.0
"""Inches."""

mpl.use("svg")
# Text stays text, and a run always has the same file.
mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "benchmarks", "font.size": 9})


def plot(report: Report, path: Path) -> None:
    varies = len({row.clients for row in report.rows}) > 1
    figure = _over_clients(report) if varies else _ratios(report)
    figure.suptitle(f"{report.suite}, {report.day}")
    figure.savefig(path, format="svg", metadata={"Date": None})


def _over_clients(report: Report) -> Figure:
    """Throughput and the 99th percentile, on logarithmic scales."""
    lines: dict[str, list[Row]] = defaultdict(list)
    for row in report.rows:
        lines[row.contender].append(row)
    numbers = sorted({row.clients for row in report.rows})
    figure = Figure(figsize=(WIDE, 4.5), layout="constrained")
    for axes, (column, label) in zip(figure.subplots(1, len(PANELS)), PANELS.items(), strict=True):
        for contender, rows in lines.items():
            points = [(row.clients, row.median(column)) for row in rows]
            axes.plot(*zip(*points, strict=True), marker="o", label=contender)
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xticks(numbers, [str(number) for number in numbers])
        axes.set_xlabel("clients")
        axes.set_ylabel(label)
        axes.grid(visible=True, which="both", alpha=0.3)
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    return figure


def _ratios(report: Report) -> Figure:
    """The median and the range of the rounds' ratios."""
    rows = {(row.contender, row.clients): row for row in report.rows}
    figure = Figure(figsize=(WIDE, LINE * len(rows) + MARGIN), layout="constrained")
    axes = figure.subplots()
    for row in report.rows:
        ratios = row.ratios(rows[row.against, row.clients])
        axes.barh(row.contender, row.ratio(rows[row.against, row.clients]), color="C0")
        axes.plot([min(ratios), max(ratios)], [row.contender] * 2, color="black", marker="|")
    axes.invert_yaxis()
    axes.set_xlabel("jobs a second, to what it is compared to")
    axes.axvline(1, color="black", linewidth=0.5)
    return figure
