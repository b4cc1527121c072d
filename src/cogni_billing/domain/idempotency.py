"""Idempotency: compares a request with the one that is stored under its key."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol
from uuid import UUID

from cogni_billing.domain.erasure import same_text
from cogni_billing.domain.errors import Difference, IdempotencyConflict

_ABSENT = "absent"


class Keyed(Protocol):
    """A record with an idempotency key: a transaction or a hold."""

    @property
    def id(self) -> UUID: ...

    @property
    def reference(self) -> str: ...

    @property
    def request(self) -> Mapping[str, str]: ...


def same_or_conflict(stored: Keyed, asked: Mapping[str, str]) -> None:
    """Return if *stored* answers the request *asked* under the same key.

    Compares the fields of the request only. The metadata and the present policy do not count. An
    erased text is compared by its digest.

    Raises:
        IdempotencyConflict: the requests differ. Names each field that differs.
    """
    if found := differences(stored, asked):
        raise IdempotencyConflict(stored.reference, found)


def differences(stored: Keyed, asked: Mapping[str, str]) -> tuple[Difference, ...]:
    """The fields in which the request *asked* differs from the one of *stored*."""
    was = stored.request
    return tuple(
        Difference(name, was.get(name, _ABSENT), asked.get(name, _ABSENT))
        for name in sorted({*was, *asked})
        if not same_text(was.get(name), asked.get(name), stored.id)
    )
