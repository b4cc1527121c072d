"""A chain tells every change of what was sealed, and where; and stays the same across versions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final
from uuid import UUID

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from cogni_billing import InvalidInput, InvalidTenant, Seal, TenantId
from cogni_billing.domain.metadata import Json
from cogni_billing.domain.seals import SEAL_EVERY, Entry, Piece, Seals
from cogni_billing.testing.base import ALICE, BOB

KEY: Final = b"k" * 32
Recorded = Mapping[TenantId, Sequence[Entry]]


def entries(*records: str) -> list[Entry]:
    return [Entry(position, {"id": record}) for position, record in enumerate(records, 1)]


class Ledger:
    """Answers from lists, and keeps how many positions each question was about."""

    def __init__(self, recorded: Recorded) -> None:
        self.recorded = recorded
        self.asked: list[list[int]] = []

    def history(self, pieces: Sequence[Piece]) -> list[list[Entry]]:
        self.asked.append([len(piece.positions) for piece in pieces])
        return [
            [
                each
                for each in self.recorded.get(piece.tenant, ())
                if each.position in piece.positions
            ]
            for piece in pieces
        ]

    def sealed(self, *seals: Seal) -> tuple[Seal, ...]:
        counts = {tenant: len(recorded) for tenant, recorded in self.recorded.items()}
        return tuple(Seals.of(seals, KEY).added(counts, self.history))

    def broken(self, *seals: Seal) -> list[tuple[str, str, str]]:
        return [
            (found.where["tenant"], found.where["positions"], found.detail)
            for found in Seals.of(seals, KEY).violations(self.history)
        ]


def test_chain_of_this_version_is_that_of_the_first() -> None:
    """Seals are kept for years: a change of this MAC makes each of them a false alarm."""
    record: dict[str, Json] = {
        "id": "a",
        "amount": "-5",
        "paid": None,
        "legs": (("1", "é"), (None,)),
    }

    (seal,) = Ledger({ALICE: [Entry(1, record)]}).sealed()

    assert seal.to_dict() == {
        "tenant": str(ALICE),
        "position": 1,
        "mac": "b5be69e10b8004e777364c762050f6566b8793c704fef203f011bde3e697c790",
        "key": "58488270c829df2c",
    }


@pytest.mark.parametrize(
    ("other", "same"),
    [
        (Entry(1, {"b": "2", "a": "1"}), True),
        (Entry(1, {"a": "1", "b": "2", "c": None}), True),
        (Entry(2, {"a": "1", "b": "2"}), False),
        (Entry(1, {"a": "2", "b": "1"}), False),
        (Entry(1, {"a": "1", "c": "2"}), False),
        (Entry(1, {"a": "1", "b": ""}), False),
    ],
)
def test_entry_has_one_spelling(other: Entry, same: bool) -> None:
    assert (Entry(1, {"a": "1", "b": "2"}).encoded() == other.encoded()) is same


def test_equal_transactions_of_two_tenants_have_different_seals() -> None:
    alices, bobs = Ledger({ALICE: entries("a"), BOB: entries("a")}).sealed()

    assert alices.mac != bobs.mac


@given(
    before=st.lists(st.sampled_from("abc"), min_size=1, max_size=6),
    after=st.lists(st.sampled_from("abc"), max_size=6),
    cut=st.integers(min_value=0, max_value=6),
)
def test_seals_fit_a_history_exactly_if_it_starts_with_the_sealed_one(
    before: list[str], after: list[str], cut: int
) -> None:
    sealed = Ledger({ALICE: entries(*before[:cut]), BOB: entries("b")}).sealed()
    sealed += Ledger({ALICE: entries(*before), BOB: entries("b")}).sealed(*sealed)

    broken = Ledger({ALICE: entries(*after), BOB: entries("b", "c")}).broken(*sealed)

    assert (broken == []) is (after[: len(before)] == before)
    assert {tenant for tenant, _, _ in broken} <= {str(ALICE)}


def test_inserted_duplicate_of_the_last_position_is_found() -> None:
    sealed = Ledger({ALICE: entries("a", "b")}).sealed()

    broken = Ledger({ALICE: [*entries("a", "b"), Entry(2, {"id": "c"})]}).broken(*sealed)

    assert broken == [(str(ALICE), "1-2", "changed since")]


def test_violation_begins_after_the_last_seal_that_fits() -> None:
    first = Ledger({ALICE: entries("a", "b")}).sealed()
    second = Ledger({ALICE: entries("a", "b", "c", "d")}).sealed(*first)
    edited = Ledger({ALICE: entries("a", "b", "c", "x")})

    assert edited.broken(*first, *second) == [(str(ALICE), "3-4", "changed since")]
    assert edited.broken(*second) == [(str(ALICE), "1-4", "changed since")]
    assert edited.broken(*first) == []


def test_violation_of_a_long_part_begins_at_its_seal_not_at_a_piece() -> None:
    sealed = Ledger({ALICE: entries(*"a" * 2001)}).sealed()
    edited = Ledger({ALICE: entries(*"a" * 1500, "b", *"a" * 500)})

    assert edited.broken(*sealed) == [(str(ALICE), "1001-2000", "changed since")]
    assert edited.broken(sealed[-1]) == [(str(ALICE), "1-2001", "changed since")]


def test_seal_stops_at_a_gap_and_goes_on_once_it_is_closed() -> None:
    """Whatever the wallet counts."""
    ledger = Ledger({ALICE: entries("a", "b"), BOB: entries("a")})
    counts = {ALICE: 2**62, BOB: 1}

    sealed = list(Seals.of((), KEY).added(counts, ledger.history))

    assert [(seal.tenant, seal.position) for seal in sealed] == [(BOB, 1)]
    assert [seal.position for seal in ledger.sealed(*sealed)] == [2]


def test_seal_far_beyond_the_ledger_is_refuted_at_once() -> None:
    ledger = Ledger({ALICE: entries("a", "b")})
    (seal,) = ledger.sealed()

    broken = ledger.broken(seal, evolve(seal, position=2**62))

    assert broken == [(str(ALICE), f"3-{2**62}", "none at position 3")]
    assert len(ledger.asked) < 5


def test_small_tenants_are_read_together_and_large_ones_in_pieces() -> None:
    tenants = [TenantId(UUID(int=n)) for n in range(1, 6)]
    sizes = [400, 400, 400, 2 * SEAL_EVERY + 1, 1]
    ledger = Ledger(
        {tenant: entries(*"a" * size) for tenant, size in zip(tenants, sizes, strict=True)}
    )

    seals = ledger.sealed()
    sealing, ledger.asked = ledger.asked, []

    assert ledger.broken(*seals) == []
    assert sealing == ledger.asked == [[400, 400], [400], [1000], [1000], [1, 1]]
    assert [seal.position for seal in seals] == [400, 400, 400, 1000, 2000, 2001, 1]


def test_seal_survives_json() -> None:
    (seal,) = Ledger({ALICE: entries("a")}).sealed()

    assert Seal.from_dict(seal.to_dict()) == seal


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("tenant", None),
        ("tenant", str(ALICE).upper()),
        ("tenant", f"{{{ALICE}}}"),
        ("position", 0),
        ("position", True),
        ("position", 1.0),
        ("position", 2**63),
        ("mac", b"0" * 64),
        ("mac", "0" * 63),
        ("mac", "F" * 64),
        ("key", None),
        ("key", "0" * 17),
    ],
)
def test_seal_invalid_field_is_refused_by_name(field: str, value: object) -> None:
    (seal,) = Ledger({ALICE: entries("a")}).sealed()

    with pytest.raises(InvalidInput) as caught:
        Seal.from_dict(seal.to_dict() | {field: value})

    assert caught.value.field == field


def test_seal_of_a_reserved_tenant_is_refused() -> None:
    with pytest.raises(InvalidTenant):
        Seal(TenantId(UUID(int=0)), 1, "0" * 64, "0" * 16)
