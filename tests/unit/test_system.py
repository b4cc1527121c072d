"""The system clock is in UTC, and ids strictly increase even if the clock is set back."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable
from datetime import UTC, timedelta
from itertools import pairwise
from uuid import RFC_4122, UUID

import pytest

from cogni_billing.adapters.system import SystemClock, Uuid7Source

MILLISECOND = 1_000_000
ALL_ONES = 2**74 - 1

Still = Callable[[int, int], None]


@pytest.fixture
def still(monkeypatch: pytest.MonkeyPatch) -> Still:
    """Fix the system clock at a nanosecond, and its random bits at a number."""

    def stop(nanoseconds: int, random: int) -> None:
        monkeypatch.setattr(time, "time_ns", lambda: nanoseconds)
        monkeypatch.setattr(secrets, "randbits", lambda bits: random)

    return stop


def increasing(ids: list[UUID]) -> bool:
    return all(earlier.int < later.int for earlier, later in pairwise(ids))


def test_the_clock_tells_aware_utc() -> None:
    now = SystemClock().now()

    assert now.tzinfo is UTC
    assert now.utcoffset() == timedelta(0)


def test_every_id_has_version_7_and_the_variant_of_the_rfc() -> None:
    source = Uuid7Source()

    made = [source.new() for _ in range(500)]

    assert {(one.version, one.variant) for one in made} == {(7, RFC_4122)}


def test_ids_of_one_source_strictly_increase() -> None:
    source = Uuid7Source()

    made = [source.new() for _ in range(2000)]

    assert increasing(made)


@pytest.mark.parametrize(
    ("nanoseconds", "random", "written"),
    [
        (0, 1, "00000000-0000-7000-8000-000000000001"),
        (MILLISECOND, 0, "00000000-0001-7000-8000-000000000000"),
        (MILLISECOND - 1, 1, "00000000-0000-7000-8000-000000000001"),
        (0, ALL_ONES, "00000000-0000-7fff-bfff-ffffffffffff"),
        (0, 2**62, "00000000-0000-7001-8000-000000000000"),
        (0xFFFF_FFFF_FFFF * MILLISECOND, 5, "ffffffff-ffff-7000-8000-000000000005"),
    ],
)
def test_an_id_has_the_layout_of_the_rfc(
    still: Still, nanoseconds: int, random: int, written: str
) -> None:
    still(nanoseconds, random)

    assert str(Uuid7Source().new()) == written


def test_ids_within_a_millisecond_count_up_by_one(still: Still) -> None:
    source = Uuid7Source()
    still(0, 7)

    made = [source.new() for _ in range(3)]

    assert [one.int & 0xFF for one in made] == [7, 8, 9]


def test_an_overflow_of_random_bits_moves_to_the_next_millisecond(still: Still) -> None:
    source = Uuid7Source()
    still(0, ALL_ONES)

    made = [source.new(), source.new()]

    assert str(made[1]) == "00000000-0001-7000-8000-000000000000"
    assert increasing(made)


def test_ids_increase_when_the_clock_is_set_back(still: Still) -> None:
    source = Uuid7Source()
    still(9 * MILLISECOND, 5)
    before = source.new()
    still(MILLISECOND, ALL_ONES)

    made = [before, source.new(), source.new()]

    assert increasing(made)
    assert [one.int >> 80 for one in made] == [9, 9, 9]


def test_ids_follow_the_clock_again_once_it_has_caught_up(still: Still) -> None:
    source = Uuid7Source()
    still(9 * MILLISECOND, 5)
    source.new()
    still(10 * MILLISECOND, 0)

    assert str(source.new()) == "00000000-000a-7000-8000-000000000000"


def test_ids_strictly_increase_in_each_of_many_threads_and_are_all_different() -> None:
    source = Uuid7Source()
    start = threading.Barrier(8)
    made: list[list[UUID]] = [[] for _ in range(8)]

    def work(mine: list[UUID]) -> None:
        start.wait()
        mine.extend(source.new() for _ in range(1000))

    threads = [threading.Thread(target=work, args=(mine,)) for mine in made]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert all(increasing(mine) for mine in made)
    assert len({one for mine in made for one in mine}) == 8000


def test_two_sources_give_different_ids() -> None:
    first, second = Uuid7Source(), Uuid7Source()

    made = {source.new() for source in (first, second) for _ in range(500)}

    assert len(made) == 1000
