"""Programs of the server to dump and restore."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from sqlalchemy import URL

from cogni_billing.adapters.postgres.embedded.server import bundled_binaries

ROWS_ALONE = (
    *("--data-only", "--enable-row-security"),
    *("-n", "cogni_billing", "-T", "cogni_billing.context_keys"),
)


def binaries() -> Path:
    """Return the directory of the programs of the server under test."""
    given = os.environ.get("COGNI_BILLING_TEST_POSTGRES_BIN")
    return Path(given) if given else bundled_binaries()


def ran(program: Path, url: URL, *arguments: str, given: str | None = None) -> str:
    libpq = url.set(drivername="postgresql").render_as_string(hide_password=False)
    return subprocess.run(
        [program, "-d", libpq, *arguments],
        input=given,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
