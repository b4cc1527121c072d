"""`AsyncBilling` is `Billing`, awaited: nothing more, nothing less."""

from __future__ import annotations

import inspect

import pytest

from cogni_billing import AsyncBilling, Billing


def public(cls: type) -> dict[str, inspect.Signature]:
    return {
        name: inspect.signature(member)
        for name, member in vars(cls).items()
        if inspect.isfunction(member) and not name.startswith("_")
    }


def test_both_have_the_same_calls_with_the_same_parameters_and_outcomes() -> None:
    assert public(AsyncBilling) == public(Billing)
    assert len(public(Billing)) >= 8


def test_both_are_made_alike() -> None:
    given, awaited = constructor(Billing), constructor(AsyncBilling)

    assert given.pop("unit_of_work").annotation == "UnitOfWork"
    assert awaited.pop("unit_of_work").annotation == "AsyncUnitOfWork"
    assert given == awaited


def constructor(cls: type) -> dict[str, inspect.Parameter]:
    return dict(inspect.signature(cls).parameters)


@pytest.mark.parametrize("name", public(AsyncBilling))
def test_every_call_is_a_coroutine_and_says_where_it_is_described(name: str) -> None:
    call = getattr(AsyncBilling, name)

    assert inspect.iscoroutinefunction(call)
    assert call.__doc__ == f"See `Billing.{name}`."
    assert getattr(Billing, name).__doc__
