"""The benchmarks page matches the stored runs."""

from __future__ import annotations

from benchmarks.rendering import KEPT, PAGE, PLOT, TABLE, rendered
from benchmarks.report import Report
from benchmarks.suites import SUITES


def test_the_tables_match_the_latest_runs() -> None:
    page = PAGE.read_text("utf-8")

    assert rendered(page) == page


def test_each_suite_has_its_run_and_its_table() -> None:
    shown = {found["suite"] for found in TABLE.finditer(PAGE.read_text("utf-8"))}

    assert {path.stem for path in KEPT.glob("*.json")} == shown == set(SUITES)


def test_the_plots_match_the_latest_runs() -> None:
    shown = [found["suite"] for found in PLOT.finditer(PAGE.read_text("utf-8"))]

    assert shown
    for suite in shown:
        report = Report.read(KEPT / f"{suite}.json")
        assert f"{report.suite}, {report.day}" in (KEPT / f"{suite}.svg").read_text("utf-8")
