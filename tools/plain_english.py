"""Count words that make sentences hard, and fail if there are too many.

python tools/plain_english.py

Counts docstrings, comments and Markdown prose, per 10 000 words, and prints each file's share.
"""

from __future__ import annotations

import ast
import io
import re
import subprocess
import sys
import tokenize
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]
LIMITS: Final = {"what": 25, "who": 7, "nobody, nothing, none": 30, "semicolons": 60}
"""The highest count per 10 000 words."""
PATTERNS: Final = {
    "what": re.compile(r"\bwhat(?:ever)?\b", re.IGNORECASE),
    "who": re.compile(r"\bwho(?:m|se|ever|mever)?\b", re.IGNORECASE),
    "nobody, nothing, none": re.compile(r"\b(?:nobody|nothing|none)\b", re.IGNORECASE),
    "semicolons": re.compile(";"),
}
WORD: Final = re.compile(r"[A-Za-z][A-Za-z'-]*")
CODE: Final = re.compile(r"```.*?```|`[^`\n]*`|<[^>\n]+>", re.DOTALL)


def main() -> int:
    """Print the counts. Returns 1 if a limit is passed."""
    words, found, by_file = 0, Counter[str](), Counter[str]()
    for path in _tracked():
        prose = CODE.sub(" ", "\n".join(_prose(path)))
        words += len(WORD.findall(prose))
        for name, pattern in PATTERNS.items():
            number = len(pattern.findall(prose))
            found[name] += number
            by_file[f"{name:22} {path.relative_to(ROOT)}"] += number
    for line, number in by_file.most_common(int(sys.argv[1]) if sys.argv[1:] else 0):
        print(f"{number:5} {line}")
    rates = {name: 10_000 * number / words for name, number in found.items()}
    for name, rate in rates.items():
        print(f"{name:22} {rate:6.1f} (at most {LIMITS[name]})")
    print(f"{words} words")
    return int(any(rates[name] > LIMITS[name] for name in rates))


def _tracked() -> Iterator[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "*.py", "*.md", "*.sql"],  # noqa: S607
        cwd=ROOT,
        capture_output=True,
        check=True,
        encoding="utf-8",
    )
    for name in listed.stdout.splitlines():
        yield ROOT / name


def _prose(path: Path) -> Iterator[str]:
    text = path.read_text("utf-8")
    if path.suffix == ".md":
        yield text
    elif path.suffix == ".sql":
        yield from re.findall(r"--(.*)", text)
    else:
        yield from _docstrings(text)
        yield from _comments(text)


def _docstrings(text: str) -> Iterator[str]:
    """String statements: docstrings, also of attributes."""
    for node in ast.walk(ast.parse(text)):
        match node:
            case ast.Expr(value=ast.Constant(value=str(docstring))):
                yield docstring


def _comments(text: str) -> Iterator[str]:
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            yield token.string


if __name__ == "__main__":
    sys.exit(main())
