"""Check a built documentation site: every public name is there, and no page loads another host's
asset.

python tools/check_site.py SITE
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Final

MODULES: Final = (
    "cogni_billing",
    "cogni_billing.adapters.memory",
    "cogni_billing.adapters.postgres",
    "cogni_billing.adapters.postgres.embedded",
    "cogni_billing.adapters.verifiers",
)
LOADED: Final = re.compile(
    r"<(?:script|link|img|iframe)\b[^>]*?\b(?:src|href)=[\"']?((?:https?:)?//[^\"' >]+)"
)


def main() -> int:
    """Print the faults. Returns 1 if there are any."""
    faults = [*_missing(Path(sys.argv[1])), *_foreign(Path(sys.argv[1]))]
    print(*faults, sep="\n", end="\n" if faults else "")
    return int(bool(faults))


def _missing(site: Path) -> Iterator[str]:
    page = (site / "reference" / "api.html").read_text("utf-8")
    for module in MODULES:
        for name in import_module(module).__all__:
            if f'id="{module}.{name}"' not in page:
                yield f"reference/api.html: {module}.{name} is missing"


def _foreign(site: Path) -> Iterator[str]:
    for page in site.rglob("*.html"):
        for url in LOADED.findall(page.read_text("utf-8")):
            yield f"{page.relative_to(site)}: loads {url}"


if __name__ == "__main__":
    sys.exit(main())
