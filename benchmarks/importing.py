"""Measure the imports: modules loaded, and time against a bare interpreter and the drivers.

python -m benchmarks.importing
"""

from __future__ import annotations

import subprocess
import sys
import time
from statistics import median
from typing import Final

from rich.console import Console
from rich.table import Table

ROUNDS: Final = 15
DRIVERS: Final = "sqlalchemy, psycopg"
IMPORTS: Final = (
    "sys",
    DRIVERS,
    "cogni_billing",
    "cogni_billing.adapters.memory",
    "cogni_billing.adapters.postgres",
    "cogni_billing.cli",
)
COUNT: Final = "import sys; before = len(sys.modules); import {}; print(len(sys.modules) - before)"


def main() -> None:
    """Print a table. Rounds interleave the imports, so that noise falls on all alike."""
    modules = {name: int(_run(COUNT.format(name))[1]) for name in IMPORTS}
    rounds = [{name: _run(f"import {name}")[0] for name in IMPORTS} for _ in range(ROUNDS)]
    seconds = {name: median(each[name] for each in rounds) for name in IMPORTS}
    table = Table("import", "modules", f"time, of {DRIVERS}")
    for name in IMPORTS:
        ratio = (seconds[name] - seconds["sys"]) / (seconds[DRIVERS] - seconds["sys"])
        table.add_row(name, str(modules[name]), f"{ratio:.2f}")
    Console().print(table)


def _run(code: str) -> tuple[float, str]:
    began = time.perf_counter()
    command = [sys.executable, "-c", code]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603 (ours)
    return time.perf_counter() - began, ran.stdout


if __name__ == "__main__":
    main()
