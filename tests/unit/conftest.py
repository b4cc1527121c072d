"""How long Hypothesis searches, and the decimal contexts that callers may have."""

from __future__ import annotations

import os
from collections.abc import Iterator
from decimal import (
    ROUND_UP,
    Clamped,
    Context,
    FloatOperation,
    Inexact,
    Rounded,
    Subnormal,
    getcontext,  # noqa: TID251 (the caller's context is what these tests are hostile with)
    setcontext,
)

import pytest
from hypothesis import settings

settings.register_profile("ci", max_examples=200, derandomize=True, database=None, deadline=None)
settings.register_profile("nightly", max_examples=20_000, deadline=None, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))

HOSTILE = {
    "coarse": Context(prec=5, rounding=ROUND_UP),
    "one digit": Context(prec=1),
    "every trap": Context(traps=[Clamped, FloatOperation, Inexact, Rounded, Subnormal]),
    "one digit and every trap": Context(prec=1, traps=[FloatOperation, Inexact, Rounded]),
}


@pytest.fixture(params=HOSTILE)
def hostile_context(request: pytest.FixtureRequest) -> Iterator[None]:
    """The caller's decimal context, as unsuited to money as it can be."""
    before = getcontext()
    setcontext(HOSTILE[request.param].copy())
    yield
    setcontext(before)
