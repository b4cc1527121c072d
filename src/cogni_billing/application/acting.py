"""The actor of the calls in a block: the person or the program that made them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final, TypeVar

from attrs import evolve

from cogni_billing.domain.identity import reference
from cogni_billing.domain.schedules import Schedule
from cogni_billing.domain.transactions import Transaction

Planned = TypeVar("Planned", Transaction, Schedule)

_ACTOR: Final[ContextVar[str | None]] = ContextVar("cogni_billing_actor", default=None)


@contextmanager
def acting(*, by: str) -> Iterator[None]:
    """Name the actor of every transaction that calls in this block record.

    The block covers the calls of its own thread or task, and of the tasks started in it. An inner
    block names another actor for its own calls. The actor is kept with the transaction and shown by
    `find` and `transaction`. It is no part of the request: a retry by another actor is a replay,
    and the first actor stays. Grants that begin later have the actor who planned them. Expirations
    have none.

    Args:
        by: The actor's id, such as `user:42`: 1 to 255 visible ASCII characters. It is kept for
            ever, so use an id and no name.

    Raises:
        InvalidReference: *by* is invalid.
    """
    token = _ACTOR.set(reference(by, "by"))
    try:
        yield
    finally:
        _ACTOR.reset(token)


def acted(planned: Planned) -> Planned:
    """*planned* with the actor of the present block. An actor that it has already stays."""
    actor = _ACTOR.get()
    return planned if actor is None or planned.actor else evolve(planned, actor=actor)
