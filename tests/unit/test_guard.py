"""A guard accepts calls until one fails or the scope ends."""

from __future__ import annotations

import pytest

from cogni_billing import ScopeClosed
from cogni_billing.adapters.guard import ScopeGuard

FAILED = "a call in it failed; open a new scope"
ENDED = "it has ended; open a new scope"


def broken_by(error: BaseException) -> ScopeGuard:
    guard = ScopeGuard()
    with pytest.raises(type(error)), guard.call():
        raise error
    return guard


def reason(guard: ScopeGuard) -> str:
    with pytest.raises(ScopeClosed) as caught:
        guard.require_open()
    return caught.value.reason


def test_successful_calls_keep_the_guard_open() -> None:
    guard = ScopeGuard()
    done = []

    for number in range(3):
        with guard.call():
            done.append(number)
    guard.require_open()

    assert done == [0, 1, 2]


@pytest.mark.parametrize("error", [ValueError(), KeyboardInterrupt(), SystemExit()], ids=repr)
def test_an_error_in_a_call_closes_the_guard_and_is_raised(error: BaseException) -> None:
    assert reason(broken_by(error)) == FAILED


def test_a_closed_guard_runs_no_work() -> None:
    guard = broken_by(ValueError())
    done = []

    with pytest.raises(ScopeClosed), guard.call():
        done.append("work")

    assert done == []


def test_a_refused_call_does_not_change_the_reason() -> None:
    guard = ScopeGuard()
    guard.close()

    with pytest.raises(ScopeClosed), guard.call():
        pass

    assert reason(guard) == ENDED


def test_a_scope_that_failed_and_then_ended_has_ended() -> None:
    guard = broken_by(ValueError())

    guard.close()

    assert reason(guard) == ENDED


def test_a_guard_with_a_limit_accepts_that_many_calls() -> None:
    guard = ScopeGuard(calls=1)
    done = []

    with guard.call():
        done.append("first")
    guard.require_open()
    with pytest.raises(ScopeClosed) as caught, guard.call():
        done.append("second")

    assert done == ["first"]
    assert "1 call" in caught.value.reason


@pytest.mark.parametrize(("calls", "single"), [(None, False), (1, True), (2, False)])
def test_is_single_is_true_for_a_limit_of_one(calls: int | None, single: bool) -> None:
    assert ScopeGuard(calls=calls).is_single is single


def test_closing_twice_has_no_effect() -> None:
    guard = ScopeGuard()

    guard.close()
    guard.close()

    assert reason(guard) == ENDED


def test_is_used_is_true_after_a_call() -> None:
    guard = ScopeGuard()
    assert not guard.is_used

    with guard.call():
        pass

    assert guard.is_used
