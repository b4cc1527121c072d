"""One key, one effect: whether what is stored answers a request, or contradicts it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from cogni_billing.domain.errors import Difference, IdempotencyConflict

_ABSENT = "absent"


class Keyed(Protocol):
    """What is recorded under a key: a transaction, or a hold."""

    @property
    def reference(self) -> str: ...

    @property
    def request(self) -> Mapping[str, str]: ...


def same_or_conflict(stored: Keyed, asked: Mapping[str, str]) -> None:
    """Return when *stored* is the answer to a request for *asked* under the same key.

    Only what the caller asked for counts: not the metadata, not the policy in force today.

    Raises:
        IdempotencyConflict: they differ; each field that does is named.
    """
    if differences := _differences(stored.request, asked):
        raise IdempotencyConflict(stored.reference, differences)


def _differences(stored: Mapping[str, str], requested: Mapping[str, str]) -> tuple[Difference, ...]:
    return tuple(
        Difference(name, stored.get(name, _ABSENT), requested.get(name, _ABSENT))
        for name in sorted({*stored, *requested})
        if stored.get(name) != requested.get(name)
    )
