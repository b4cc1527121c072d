"""The words of an error message are in one test. Other tests match its code, field and facts."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[2]
PINNED: Final = {
    "test_attempt_messages.py",
    "test_error_messages.py",
    "test_errors.py",
    "test_failures.py",
    "test_refusals.py",
}
"""The files that compare whole messages."""

FILES: Final = sorted(
    path.relative_to(ROOT)
    for folder in ("tests", "src/cogni_billing/testing")
    for path in (ROOT / folder).rglob("*.py")
    if path.name not in PINNED
)
WORDS_MAX: Final = 5
WHOLE_MESSAGE: Final = re.compile(r"str\((?:caught|refused|raised)\.value\) ==")


@pytest.mark.parametrize("path", FILES, ids=str)
def test_match_of_an_error_is_a_fact_and_no_sentence(path: Path) -> None:
    code = (ROOT / path).read_text("utf-8")

    assert [match for match in matches(code) if len(match.split()) > WORDS_MAX] == []
    assert WHOLE_MESSAGE.findall(code) == []


def matches(code: str) -> list[str]:
    """The texts of the `match` arguments, without the values in them."""
    calls = (node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Call))
    given = (key.value for call in calls for key in call.keywords if key.arg == "match")
    return [" ".join(texts(value)) for value in given]


def texts(value: ast.expr) -> Iterator[str]:
    for node in ast.walk(value):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
