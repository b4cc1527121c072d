"""The clock and ids of the machine, the guard of scopes, and the doors of the package."""

from __future__ import annotations

import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, timedelta

import pytest

import cogni_billing
from cogni_billing import LedgerUnavailable, ScopeClosed
from cogni_billing.adapters import memory, postgres
from cogni_billing.adapters.guard import ScopeGuard
from cogni_billing.adapters.memory import InMemoryUnitOfWork
from cogni_billing.adapters.system import SystemClock, Uuid7Source
from contract.base import ALICE, BOB
from contract.purchases import planned


class TestSystem:
    def test_the_clock_is_in_utc_and_runs(self) -> None:
        first, second = SystemClock().now(), SystemClock().now()

        assert first.tzinfo is UTC
        assert timedelta(0) <= second - first < timedelta(minutes=1)

    def test_ids_are_of_version_7_and_tell_their_millisecond(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(time, "time_ns", lambda: 1_645_557_742_000 * 1_000_000)

        made = Uuid7Source().new()

        assert (made.version, made.variant) == (7, "specified in RFC 4122")
        assert str(made).startswith("017f22e2-79b0-7")  # the example of RFC 9562, A.6

    def test_ids_increase_though_the_clock_goes_back(self, monkeypatch: pytest.MonkeyPatch) -> None:
        source = Uuid7Source()
        moments = iter([5_000_000_000, 1_000_000_000, 1_000_000_000, 6_000_000_000])
        monkeypatch.setattr(time, "time_ns", lambda: next(moments))

        made = [source.new() for _ in range(4)]

        assert made == sorted(made)
        assert len(set(made)) == 4

    def test_ids_of_many_threads_are_all_different(self) -> None:
        source = Uuid7Source()

        with ThreadPoolExecutor(8) as threads:
            made = list(threads.map(lambda _: source.new(), range(4000)))

        assert len(set(made)) == 4000
        assert {one.version for one in made} == {7}


class TestGuard:
    def test_calls_pass_until_one_fails(self) -> None:
        guard = ScopeGuard()
        with guard.call():
            pass
        with pytest.raises(ZeroDivisionError), guard.call():
            raise ZeroDivisionError

        with pytest.raises(ScopeClosed, match="a call in it failed"), guard.call():
            pass

    def test_no_call_passes_after_the_end(self) -> None:
        guard = ScopeGuard()
        guard.require_open()
        guard.close()

        with pytest.raises(ScopeClosed, match="it has ended"), guard.call():
            pass


class TestMemory:
    def test_a_second_scope_in_one_thread_is_refused_not_left_waiting_for_itself(self) -> None:
        unit_of_work = InMemoryUnitOfWork()

        with unit_of_work.scope(ALICE) as scope:
            with pytest.raises(LedgerUnavailable), unit_of_work.scope(BOB):
                pass
            scope.ledger.post(planned())

        assert unit_of_work.run(ALICE, lambda scope: scope.ledger.post(planned())).replayed

    def test_a_scope_after_a_refused_one_works(self) -> None:
        unit_of_work = InMemoryUnitOfWork()
        with unit_of_work.scope(ALICE), pytest.raises(LedgerUnavailable), unit_of_work.scope(BOB):
            pass

        assert not unit_of_work.run(BOB, lambda scope: scope.ledger.post(planned(BOB))).replayed


class TestDoors:
    @pytest.mark.parametrize("door", [cogni_billing, memory, postgres])
    def test_what_a_door_shows_is_what_it_lists(self, door: object) -> None:
        listed = door.__all__  # type: ignore[attr-defined]

        public = {
            name
            for name, item in vars(door).items()
            if not name.startswith("_")
            and not isinstance(item, type(sys))
            and name != "annotations"
        }
        assert public == set(listed)
        assert len(set(listed)) == len(listed)

    def test_importing_the_package_loads_no_driver(self) -> None:
        code = (
            "import sys, cogni_billing\n"
            "print({'sqlalchemy', 'psycopg', 'alembic', 'typer', 'logging'} & set(sys.modules))"
        )

        ran = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        )

        assert ran.stdout.strip() == "set()"
