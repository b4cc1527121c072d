"""Derive `aio.py`, the awaited calls, from `billing.py` and `attempts.py`.

python tools/write_aio.py
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

PACKAGE: Final = Path(__file__).parents[1] / "src" / "cogni_billing"
TARGET: Final = PACKAGE / "aio.py"
SOURCES: Final = ("billing.py", "attempts.py")

HEAD: Final = '''"""`Billing` and `PaymentAttempts` for asyncio: the same calls, each awaited.

A task that is cancelled at any await leaves its whole call or nothing; call again with the same
key to learn which. Derived by `tools/write_aio.py`: change `billing.py` and `attempts.py` instead.
"""

from __future__ import annotations
'''

AWAITED: Final = (
    (r"\b(Billing|Metered|PaymentAttempts|UnitOfWork|PaymentVerifier)\b", r"Async\1"),
    (r"\bchecked_unit_of_work\b", "checked_async_unit_of_work"),
    (r"\bbetween threads\b", "between tasks"),
    (r"(?m)(?<!@property\n)^    def (?!__|metered)", "    async def "),
    (r"`with` statement", "`async with` statement"),
    (r"\bself\._run\(", "await self._run("),
    (r"\bcase\.on\(", "await case.on_async("),
)


def derived() -> str:
    """The text of `aio.py`."""
    modules = [(PACKAGE / name).read_text("utf-8") for name in SOURCES]
    text = "\n".join([HEAD, *_imports(modules), *map(_class, modules)])
    for pattern, replacement in AWAITED:
        text = re.sub(pattern, replacement, text)
    return _formatted(text)


def _class(module: str) -> str:
    [found] = [node for node in ast.parse(module).body if isinstance(node, ast.ClassDef)]
    return ast.get_source_segment(module, found) or ""


def _imports(modules: list[str]) -> Iterator[str]:
    for module in modules:
        for node in ast.parse(module).body:
            if isinstance(node, ast.ImportFrom) and node.module != "__future__":
                yield ast.unparse(node)


def _formatted(text: str) -> str:
    ruff = [sys.executable, "-m", "ruff"]
    for step in (["check", "--select=I,F811", "--fix-only"], ["format"]):
        done = subprocess.run(
            [*ruff, *step, f"--stdin-filename={TARGET}", "-"],
            input=text,
            capture_output=True,
            check=True,
            encoding="utf-8",
        )
        text = done.stdout
    return text


if __name__ == "__main__":
    TARGET.write_text(derived(), "utf-8")
