"""`AsyncBilling` and `AsyncPaymentAttempts` are derived from the sync classes."""

from __future__ import annotations

import inspect

import pytest
from tools.write_aio import TARGET, derived

from cogni_billing import AsyncBilling, AsyncPaymentAttempts, Billing, PaymentAttempts

PAIRS = [(Billing, AsyncBilling), (PaymentAttempts, AsyncPaymentAttempts)]


def public(cls: type) -> dict[str, inspect.Signature]:
    return {
        name: inspect.signature(member)
        for name, member in vars(cls).items()
        if inspect.isfunction(member) and not name.startswith("_")
    }


def opens_a_run(name: str) -> bool:
    """True for `metered`: it is no coroutine, because its run is entered with `async with`."""
    return name == "metered"


def test_aio_matches_the_output_of_the_tool() -> None:
    assert TARGET.read_text("utf-8") == derived(), "run: python tools/write_aio.py"


@pytest.mark.parametrize(("called", "awaited"), PAIRS)
def test_both_have_the_same_calls_with_the_same_parameters_and_outcomes(
    called: type, awaited: type
) -> None:
    calls, awaited_calls = public(called), public(awaited)
    for run in filter(opens_a_run, calls):
        assert calls[run].return_annotation == "Metered"
        assert awaited_calls[run].return_annotation == "AsyncMetered"
        awaited_calls[run] = awaited_calls[run].replace(return_annotation="Metered")

    assert awaited_calls == calls
    assert len(calls) >= 6


@pytest.mark.parametrize(("called", "awaited"), PAIRS)
def test_both_are_made_with_the_same_settings(called: type, awaited: type) -> None:
    given, async_given = (dict(inspect.signature(cls).parameters) for cls in (called, awaited))

    assert given.pop("unit_of_work").annotation == "UnitOfWork"
    assert async_given.pop("unit_of_work").annotation == "AsyncUnitOfWork"
    given.pop("verifier", None)
    async_given.pop("verifier", None)
    assert given == async_given


@pytest.mark.parametrize(("called", "awaited"), PAIRS)
def test_every_awaited_call_is_a_coroutine_with_the_full_docstring(
    called: type, awaited: type
) -> None:
    for name in public(called):
        call = getattr(awaited, name)
        assert inspect.iscoroutinefunction(call) != opens_a_run(name)
        assert (call.__doc__ or "").splitlines()[0] == getattr(called, name).__doc__.splitlines()[0]
