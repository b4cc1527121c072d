"""Idempotency: compares a request with the one that is stored under its key."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from cogni_billing.domain.errors import Difference, IdempotencyConflict

_ABSENT = "absent"


class Keyed(Protocol):
    """A record with an idempotency key: a transaction or a hold."""

    @property
    def reference(self) -> str: ...

    @property
    def request(self) -> Mapping[str, str]: ...


def same_or_conflict(stored: Keyed, asked: Mapping[str, str]) -> None:
    """Return if *stored* answers the request *asked* under the same key.

    Compares the fields of the request only. The metadata and the present policy do not count.

    Raises:
        IdempotencyConflict: the requests differ. Names each field that differs.
    """
    if differences := _differences(stored.request, asked):
        raise IdempotencyConflict(stored.reference, differences)


def _differences(stored: Mapping[str, str], requested: Mapping[str, str]) -> tuple[Difference, ...]:
    return tuple(
        Difference(name, stored.get(name, _ABSENT), requested.get(name, _ABSENT))
        for name in sorted({*stored, *requested})
        if stored.get(name) != requested.get(name)
    )
