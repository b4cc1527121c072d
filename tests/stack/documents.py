"""The documents, and the code that they show."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCUMENTS = ("README.md", *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md"))))
BLOCK = re.compile(
    r"^```(?P<language>python|console|toml)\n(?P<code>.*?)^```", re.DOTALL | re.MULTILINE
)


def blocks(document: str, language: str) -> list[str]:
    text = (ROOT / document).read_text("utf-8")
    return [match["code"] for match in BLOCK.finditer(text) if match["language"] == language]
