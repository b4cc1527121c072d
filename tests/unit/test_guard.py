"""A guard lets calls through until one fails or the scope ends, and then none."""

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


def test_calls_that_succeed_keep_it_open() -> None:
    guard = ScopeGuard()
    done = []

    for number in range(3):
        with guard.call():
            done.append(number)
    guard.require_open()

    assert done == [0, 1, 2]


@pytest.mark.parametrize("error", [ValueError(), KeyboardInterrupt(), SystemExit()], ids=repr)
def test_any_error_in_a_call_closes_it_and_passes(error: BaseException) -> None:
    assert reason(broken_by(error)) == FAILED


def test_no_work_is_begun_once_it_is_closed() -> None:
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


def test_a_guard_with_a_limit_lets_that_many_calls_through() -> None:
    guard = ScopeGuard(calls=1)
    done = []

    with guard.call():
        done.append("first")
    guard.require_open()
    with pytest.raises(ScopeClosed) as caught, guard.call():
        done.append("second")

    assert done == ["first"]
    assert caught.value.reason == "it takes 1 call; use a scope for several"


@pytest.mark.parametrize(("calls", "single"), [(None, False), (1, True), (2, False)])
def test_a_guard_tells_whether_it_takes_one_call(calls: int | None, single: bool) -> None:
    assert ScopeGuard(calls=calls).is_single is single


def test_closing_twice_is_closing_once() -> None:
    guard = ScopeGuard()

    guard.close()
    guard.close()

    assert reason(guard) == ENDED


def test_a_guard_knows_whether_a_call_was_made() -> None:
    guard = ScopeGuard()
    assert not guard.is_used

    with guard.call():
        pass

    assert guard.is_used
