"""Decimal contexts that a caller may have."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import (
    ROUND_UP,
    Clamped,
    Context,
    FloatOperation,
    Inexact,
    Rounded,
    Subnormal,
    getcontext,  # noqa: TID251 (these tests set the caller's context)
    setcontext,
)

import pytest

HOSTILE = {
    "coarse": Context(prec=5, rounding=ROUND_UP),
    "one digit": Context(prec=1),
    "every trap": Context(traps=[Clamped, FloatOperation, Inexact, Rounded, Subnormal]),
    "one digit and every trap": Context(prec=1, traps=[FloatOperation, Inexact, Rounded]),
}


@pytest.fixture(params=HOSTILE)
def hostile_context(request: pytest.FixtureRequest) -> Iterator[None]:
    """A decimal context of the caller that is unsuited to money."""
    before = getcontext()
    setcontext(HOSTILE[request.param].copy())
    yield
    setcontext(before)
