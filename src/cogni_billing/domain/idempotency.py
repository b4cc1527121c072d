"""One key, one effect: whether a stored transaction answers a request, or contradicts it."""

from __future__ import annotations

from collections.abc import Mapping

from cogni_billing.domain.errors import Difference, IdempotencyConflict
from cogni_billing.domain.transactions import Transaction

_ABSENT = "absent"


def same_or_conflict(stored: Transaction, asked: Mapping[str, str]) -> None:
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
