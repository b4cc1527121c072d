"""Erasure: texts that may be personal data are replaced by digests."""

from __future__ import annotations

import hashlib
import re
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from cogni_billing.domain.errors import InvalidInput, RecordsRetained, shown

_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}", re.ASCII)


def erased(record: UUID, text: str) -> str:
    """The digest that replaces *text* in a record. A digest stays as it is.

    It includes the record's id, so equal texts of two records have different digests.
    """
    if is_erased(text):
        return text
    return "sha256:" + hashlib.sha256(f"{record}{text}".encode()).hexdigest()


def is_erased(text: str) -> bool:
    """True if *text* is a digest that replaced a text."""
    return _DIGEST.fullmatch(text) is not None


def same_text(stored: str | None, given: str | None, record: UUID) -> bool:
    """True if *given* is the text that *record* stores, or that was erased from it."""
    if stored == given or stored is None or given is None:
        return stored == given
    return is_erased(stored) and stored == erased(record, given)


def checked_retention(given: object) -> timedelta | None:
    """*given* as the time for which records must be kept. `None` for no rule.

    Raises:
        InvalidInput: *given* is no positive `timedelta`.
    """
    if given is None or (isinstance(given, timedelta) and given > timedelta(0)):
        return given
    raise InvalidInput("retention", shown(given), "a timedelta greater than zero, or None")


def require_unretained(newest: datetime, retention: timedelta | None, now: datetime) -> None:
    """Return if *retention* has passed since the tenant's newest record.

    Raises:
        RecordsRetained: it has not.
    """
    if retention is not None and newest + retention > now:
        raise RecordsRetained(newest + retention)
