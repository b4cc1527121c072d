"""The tables of docs/benchmarks.md, from the runs that are kept beside it.

python -m benchmarks.rendering
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from benchmarks.report import Report

PAGE: Final = Path(__file__).parents[1] / "docs" / "benchmarks.md"
KEPT: Final = PAGE.with_suffix("")
TABLE: Final = re.compile(r"(<!-- table of (?P<suite>\w+) -->\n).*?(?=<!-- end -->)", re.DOTALL)


def rendered(page: str) -> str:
    """*page* with the tables of the latest runs."""
    return TABLE.sub(lambda found: found[1] + _table(found["suite"]), page)


def _table(suite: str) -> str:
    report = Report.read(KEPT / f"{suite}.json")
    heading, *lines = report.lines()
    ran = (
        f"{report.day}, {report.server}, Python {report.python}, {report.processors} processors;"
        f" {report.rounds} rounds of {report.seconds:g} s"
    )
    rows = [heading, ["---"] * len(heading), *lines]
    return "\n".join(("", *(f"| {' | '.join(row)} |" for row in rows), "", f"{ran}.", "", ""))


if __name__ == "__main__":
    PAGE.write_text(rendered(PAGE.read_text("utf-8")), "utf-8")
