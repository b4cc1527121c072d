"""Write down the public names and their signatures, which a test compares with the code.

python tools/write_public_names.py
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from enum import EnumType
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import cogni_billing
from cogni_billing import testing
from cogni_billing.adapters import memory, postgres

TARGET: Final = Path(__file__).parents[1] / "tests" / "unit" / "public_names.txt"
DOORS: Final = (cogni_billing, memory, postgres, testing)


def listed() -> str:
    """A line for each public name of the package, and for each call of a public class."""
    return "".join(f"{line}\n" for door in DOORS for line in _names(door))


def _names(door: ModuleType) -> Iterator[str]:
    for name in sorted(door.__all__):
        item: Any = getattr(door, name)
        path = f"{door.__name__}.{name}"
        if isinstance(item, EnumType):
            yield f"{path} {' '.join(item.__members__)}"
            continue
        yield path + _signature(item)
        if inspect.isclass(item):
            for member, value in sorted(vars(item).items()):
                if not member.startswith("_") and not inspect.ismemberdescriptor(value):
                    yield f"{path}.{member}{_signature(value)}"


def _signature(item: Any) -> str:
    called = getattr(item, "__func__", item)
    try:
        return str(inspect.signature(called)) if _has_signature(called) else ""
    except ValueError:  # a type of the standard library
        return ""


def _has_signature(item: object) -> bool:
    """True for classes and functions. Aliases have signatures in some versions of Python only."""
    return inspect.isclass(item) or inspect.isroutine(item)


if __name__ == "__main__":
    TARGET.write_text(listed(), "utf-8")
