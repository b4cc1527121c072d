"""Files of seals, in JSON lines, and of the key."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path

from cogni_billing.domain.errors import InvalidInput, shown
from cogni_billing.domain.seals import Seal


def read_key(file: Path) -> bytes:
    """Read the hexadecimal key in *file*.

    Raises:
        InvalidInput: *file* contains no key. The error does not show its content.
    """
    try:
        return bytes.fromhex(file.read_text("ascii"))
    except ValueError:
        raise InvalidInput("key", "other text", f"hexadecimal digits in {file}") from None


def read_seals(file: Path) -> list[Seal]:
    """Read the seals in *file* into memory.

    Raises:
        InvalidInput: a line is no seal, or is incomplete.
    """
    seals = list[Seal]()
    with file.open(encoding="utf-8", errors="replace", newline="\n") as lines:
        for number, line in enumerate(lines, 1):
            try:
                if not line.endswith("\n"):
                    raise InvalidInput("seal", shown(line), "a whole line")
                seals.append(Seal.from_dict(json.loads(line)))
            except (ValueError, RecursionError):
                raise InvalidInput(f"{file} line {number}", shown(line), "a seal") from None
            except InvalidInput as error:
                where = f"{file} line {number}: {error.field}"
                raise InvalidInput(where, error.given, error.expected) from error
    return seals


def append_seals(file: Path, seals: Iterable[Seal]) -> None:
    """Append *seals* to *file*, and wait until they are on disk."""
    with file.open("a", encoding="utf-8", newline="\n") as lines:
        lines.writelines(f"{json.dumps(seal.to_dict())}\n" for seal in seals)
        lines.flush()
        os.fsync(lines.fileno())
