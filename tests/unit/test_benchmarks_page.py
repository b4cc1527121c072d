"""The page of benchmarks shows the runs that are kept beside it."""

from __future__ import annotations

from benchmarks.rendering import KEPT, PAGE, TABLE, rendered


def test_its_tables_are_those_of_the_latest_runs() -> None:
    page = PAGE.read_text("utf-8")

    assert rendered(page) == page


def test_each_run_has_its_table() -> None:
    shown = {found["suite"] for found in TABLE.finditer(PAGE.read_text("utf-8"))}

    assert {path.stem for path in KEPT.glob("*.json")} == shown
