"""Renders the tables and plots of docs/explanation/benchmarks.md from the runs beside it.

python -m benchmarks.rendering
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from benchmarks.report import Report

PAGE: Final = Path(__file__).parents[1] / "docs/explanation/benchmarks.md"
KEPT: Final = PAGE.with_suffix("")
TABLE: Final = re.compile(r"(<!-- table of (?P<suite>\w+) -->\n).*?(?=<!-- end -->)", re.DOTALL)
PLOT: Final = re.compile(r"\]\(benchmarks/(?P<suite>\w+)\.svg\)")


def rendered(page: str) -> str:
    """*page* with the tables of the latest runs. A suite without a run has no table."""
    return TABLE.sub(lambda found: found[1] + _table(found["suite"]), page)


def kept(suite: str) -> Report | None:
    """The latest run of *suite*."""
    path = KEPT / f"{suite}.json"
    return Report.read(path) if path.exists() else None


def _table(suite: str) -> str:
    report = kept(suite)
    if report is None:
        return ""
    heading, *lines = report.lines()
    ran = (
        f"{report.day}, {report.server}, Python {report.python}, {report.processors} processors;"
        f" {report.rounds} rounds of {report.seconds:g} s"
    )
    rows = [heading, ["---"] * len(heading), *lines]
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return "\n\n".join(("", table, *report.notes, f"{ran}.", ""))


def main() -> None:
    from benchmarks import plotting  # noqa: PLC0415 - the page can be read without this library

    page = rendered(PAGE.read_text("utf-8"))
    PAGE.write_text(page, "utf-8")
    for found in PLOT.finditer(page):
        if report := kept(found["suite"]):
            plotting.plot(report, KEPT / f"{found['suite']}.svg")


if __name__ == "__main__":
    main()
