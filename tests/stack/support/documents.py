"""Documents, and the code in them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from cogni_billing.adapters.postgres.operations.sandbox import Sandbox

ROOT = Path(__file__).parents[3]
PAGES = tuple(str(path.relative_to(ROOT)) for path in sorted((ROOT / "docs").rglob("*.md")))
DOCUMENTS = ("README.md", *PAGES)
BLOCK = re.compile(
    r"^```(?P<language>python|console|toml)\n(?P<code>.*?)^```", re.DOTALL | re.MULTILINE
)
ANY_BLOCK = re.compile(r"^ *```.*?^ *```", re.DOTALL | re.MULTILINE)
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
SHOWN_URL = re.compile(r"postgresql(?:\+psycopg)?://(?P<role>\w+)@db\.internal/shop")


def blocks(document: str, language: str) -> list[str]:
    text = (ROOT / document).read_text("utf-8")
    return [match["code"] for match in BLOCK.finditer(text) if match["language"] == language]


def prose(document: str) -> str:
    """Return the text without its code."""
    return ANY_BLOCK.sub("", (ROOT / document).read_text("utf-8"))


def anchors(document: str) -> set[str]:
    """Return the names of the headings, as GitHub and MkDocs derive them."""
    titles = HEADING.findall(prose(document))
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def write_files(document: str, folder: Path) -> None:
    """Write each Python block to the file named in its first line."""
    for code in blocks(document, "python"):
        (folder / code.split()[1]).write_text(code, "utf-8")


def pytest_printed(folder: Path, *options: str) -> str:
    """Return the output of a host's own test run."""
    environment = {name: value for name, value in os.environ.items() if "PYTEST" not in name}
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *options],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    return ran.stdout + ran.stderr


def served(code: str, database: Sandbox) -> str:
    """Replace the URLs in *code* by those of *database*."""

    def url(match: re.Match[str]) -> str:
        role = match["role"]
        return database.admin_url if role == "postgres" else database.url(role)

    return SHOWN_URL.sub(url, code)
