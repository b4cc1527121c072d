"""Tenants, references, moments and metadata are validated on entry."""

from __future__ import annotations

import enum
import json
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta, timezone
from types import MappingProxyType
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cogni_billing import (
    SYSTEM_ACCOUNT_ID,
    SYSTEM_TENANT_ID,
    AccountId,
    InvalidMetadata,
    InvalidReference,
    InvalidTenant,
    InvalidTime,
    TenantId,
)
from cogni_billing.domain.identity import (
    ISSUANCE,
    SYSTEM_ACCOUNTS,
    account_of,
    owner_of,
    reference,
    tenant_id,
)
from cogni_billing.domain.metadata import (
    DEPTH_MAX,
    ENCODED_MAX,
    encoded,
    frozen_metadata,
    read_only,
)
from cogni_billing.domain.timestamps import EARLIEST, LATEST, utc

SOMEBODY = UUID("0a11ce00-0000-4000-8000-000000000001")


class DriverUuid(UUID):
    """A subclass like that of some drivers."""


class Kind(enum.StrEnum):
    RUN = "run-1"


class TestTenants:
    @pytest.mark.parametrize(
        "given",
        [
            None,
            str(SOMEBODY),
            SOMEBODY.bytes,
            SOMEBODY.int,
            True,
            UUID(int=0),
            SYSTEM_ACCOUNT_ID,
            ISSUANCE,
            object(),
        ],
    )
    def test_an_invalid_or_reserved_tenant_is_refused(self, given: object) -> None:
        with pytest.raises(InvalidTenant) as caught:
            tenant_id(given)

        assert caught.value.field == "tenant"

    def test_a_subclass_of_uuid_becomes_a_plain_uuid(self) -> None:
        assert type(tenant_id(DriverUuid(int=SOMEBODY.int))) is UUID
        assert tenant_id(DriverUuid(int=SOMEBODY.int)) == SOMEBODY

    def test_the_system_tenant_is_a_tenant(self) -> None:
        assert tenant_id(SYSTEM_TENANT_ID) == SYSTEM_TENANT_ID

    @given(st.uuids().filter(lambda given: given not in SYSTEM_ACCOUNTS))
    def test_the_owner_of_an_account_is_the_tenant_it_was_opened_for(self, given: UUID) -> None:
        assert owner_of(account_of(TenantId(given))) == given

    def test_the_system_tenant_owns_its_account_and_the_contra_accounts(self) -> None:
        assert account_of(SYSTEM_TENANT_ID) == SYSTEM_ACCOUNT_ID
        assert {owner_of(account) for account in SYSTEM_ACCOUNTS} == {SYSTEM_TENANT_ID}
        assert owner_of(AccountId(SOMEBODY)) == SOMEBODY


class TestReferences:
    @pytest.mark.parametrize(
        "given",
        [
            None,
            7,
            b"run-1",
            True,
            Kind.RUN,
            "",
            " ",
            "a b",
            " a",
            "a ",
            "a\n",
            "a\t",
            "a\0",
            "\x7f",
            "\x1b[31m",
            "caf\u00e9",
            "cafe\u0301",
            "p\u0430yment",  # a Cyrillic letter
            "a\u00a0b",
            "a\u200bb",
            "\u202eabc",
            "\ud800",
            "x" * 256,
            "x" * 1_000_000,
        ],
        ids=lambda given: ascii(given)[:20],
    )
    def test_anything_but_visible_ascii_is_refused(self, given: object) -> None:
        with pytest.raises(InvalidReference) as caught:
            reference(given, "payment")

        assert caught.value.field == "payment"
        assert len(caught.value.given) <= 64

    @given(st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=255))
    def test_visible_ascii_is_kept_unchanged(self, given: str) -> None:
        assert reference(given) == given


class TestMoments:
    @pytest.mark.parametrize(
        "given",
        [
            None,
            "2026-11-23T12:00:00Z",
            1_700_000_000,
            date(2026, 11, 23),
            datetime(2026, 11, 23),
            datetime(1969, 12, 31, 23, 59, 59, tzinfo=UTC),
            datetime(9999, 1, 1, tzinfo=UTC),
            datetime.max.replace(tzinfo=timezone(timedelta(hours=-12))),
            datetime.min.replace(tzinfo=timezone(timedelta(hours=12))),
        ],
    )
    def test_a_naive_or_unstorable_moment_is_refused(self, given: object) -> None:
        with pytest.raises(InvalidTime):
            utc(given, "clock")

    def test_a_moment_is_kept_in_utc_to_the_microsecond(self) -> None:
        tokyo = datetime(2026, 11, 23, 21, 0, 0, 1, tzinfo=timezone(timedelta(hours=9)))

        assert utc(tokyo, "clock") == tokyo
        assert utc(tokyo, "clock").isoformat() == "2026-11-23T12:00:00.000001+00:00"
        assert (utc(EARLIEST, "clock"), utc(LATEST, "clock")) == (EARLIEST, LATEST)


def nested(levels: int) -> Any:
    value: Any = {}
    for _ in range(levels - 1):
        value = {"a": value}
    return value


def cyclic() -> dict[str, object]:
    value: dict[str, object] = {}
    value["itself"] = value
    return value


def levels(value: object) -> int:
    if isinstance(value, dict):
        return 1 + max(map(levels, value.values()), default=0)
    return 1 + max(map(levels, value), default=0) if isinstance(value, list) else 0


TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=50)
KEYS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=5)


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=2),
    max_leaves=4,
).filter(lambda value: levels(value) < DEPTH_MAX)


class TestMetadata:
    @pytest.mark.parametrize(
        "given",
        [
            [],
            "{}",
            7,
            {1: "a"},
            {None: "a"},
            {("a",): 1},
            {Kind.RUN: 1},
            {"a": float("nan")},
            {"a": float("inf")},
            {"a": -float("inf")},
            {"a": {1, 2}},
            {"a": b"bytes"},
            {"a": datetime(2026, 1, 1, tzinfo=UTC)},
            {"a": object()},
            {"a": 1j},
            {"a": Kind.RUN},
            {"a": "\0"},
            {"a\0": 1},
            {"a": "\ud800"},
            {"\udfff": 1},
            {"a": 10**5000},
            {"a": [[[[[[[[1]]]]]]]]},
            nested(DEPTH_MAX + 1),
            cyclic(),
            {"a": "x" * ENCODED_MAX},
            {"a": "\u00e9" * (ENCODED_MAX // 2)},
            {"a": [0] * 1_000_000},
            {str(key): key for key in range(100_000)},
            {"x" * 100_000: 1},
        ],
    )
    def test_metadata_that_is_no_small_shallow_json_object_is_refused(self, given: object) -> None:
        with pytest.raises(InvalidMetadata) as caught:
            frozen_metadata(given)

        assert caught.value.field.startswith("metadata")
        assert len(str(caught.value)) < 250

    def test_a_refusal_names_the_path_in_the_metadata(self) -> None:
        with pytest.raises(InvalidMetadata) as caught:
            frozen_metadata({"order": {"lines": [1, {"sku": object()}]}})

        assert caught.value.field == "metadata.order.lines.sku"

    def test_metadata_at_its_bounds_is_accepted(self) -> None:
        largest = {"a": "x" * (ENCODED_MAX - len('{"a":""}'))}

        assert len(encoded(frozen_metadata(largest))) == ENCODED_MAX
        assert frozen_metadata(nested(DEPTH_MAX)) == nested(DEPTH_MAX)
        assert frozen_metadata(None) == {}

    def test_frozen_metadata_is_a_read_only_copy(self) -> None:
        given: dict[str, Any] = {"list": [1, {"a": 2}], "object": {"b": 3}}
        frozen: Any = frozen_metadata(given)
        given["list"][1]["a"] = 0
        given["object"].clear()
        given["more"] = True

        assert frozen == {"list": (1, {"a": 2}), "object": {"b": 3}}
        changes: list[Callable[[], object]] = [
            lambda: frozen.update(x=1),
            lambda: frozen.__setitem__("x", 1),
            lambda: frozen["object"].__setitem__("x", 1),
            lambda: frozen["list"].append(1),
        ]
        for change in changes:
            with pytest.raises((AttributeError, TypeError)):
                change()

    @given(st.dictionaries(KEYS, VALUES, max_size=3))
    def test_encoded_metadata_can_be_read_back(self, given: dict[str, Any]) -> None:
        frozen = frozen_metadata(given)

        assert read_only(json.loads(encoded(frozen))) == frozen
        assert isinstance(frozen, MappingProxyType)
