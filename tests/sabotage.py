"""Shows that a broken ledger fails a named test of the kit."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import wraps
from typing import Any

import pytest

from cogni_billing import BillingError
from cogni_billing.testing import Fixtures

Breaks = Callable[[pytest.MonkeyPatch], None]
must_say_so = pytest.mark.xfail(
    strict=True,
    raises=(AssertionError, BillingError, pytest.fail.Exception),
    reason="the ledger is broken, and this test says so",
)


def must_fail(test: Callable[..., None]) -> Callable[..., None]:
    """*test*, expected to fail. A mark on *test* itself would apply to every class that has it."""

    @wraps(test)
    def broken(*arguments: object, **fixtures: object) -> None:
        test(*arguments, **fixtures)

    marked: Callable[..., None] = must_say_so(broken)
    return marked


def caught(ledger: type[Fixtures], contract: type, name: str) -> Callable[[Breaks], Breaks]:
    """Register a test class in which *ledger* is broken, and one test of *contract* must fail.

    If that test passes, or fails without an assertion, the suite fails.
    """

    def register(breaks: Breaks) -> Breaks:
        @pytest.fixture(autouse=True)
        def sabotaged(_self: object, monkeypatch: pytest.MonkeyPatch) -> None:
            breaks(monkeypatch)

        module = sys.modules[breaks.__module__]
        title = "Test" + breaks.__name__.title().replace("_", "")
        body = only(contract, name) | {"sabotaged": sabotaged, "__doc__": breaks.__doc__}
        setattr(module, title, type(title, (ledger, contract), body))
        return breaks

    return register


def only(contract: type, name: str) -> dict[str, Any]:
    """The body of a class with one test of *contract*, which must fail."""
    others = dict.fromkeys(each for each in dir(contract) if each.startswith("test_"))
    return others | {name: must_fail(getattr(contract, name))}
