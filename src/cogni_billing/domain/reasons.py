"""Reasons: texts for people, which the caller of a correction gives."""

from __future__ import annotations

from typing import Final

from cogni_billing.domain.errors import InvalidInput, shown

REASON_MAX: Final = 255


def checked_reason(given: object) -> str:
    """*given* as a reason for people to read.

    Raises:
        InvalidInput: *given* is not 1 to 255 printable characters, or is blank.
    """
    fits = type(given) is str and len(given) <= REASON_MAX and given.isprintable()
    if not (fits and str(given).strip()):
        expected = f"1 to {REASON_MAX} printable characters, not all of them spaces"
        raise InvalidInput("reason", shown(given), expected)
    return str(given)
