"""Shares are floor(rate x credits), in exact arithmetic."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from math import floor
from typing import Any
from uuid import UUID

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cogni_billing import (
    CREDIT,
    SYSTEM_ACCOUNT_ID,
    SYSTEM_TENANT_ID,
    AccountId,
    Amount,
    InvalidAmount,
    InvalidPolicy,
    InvalidTime,
    RevenueSharePolicy,
    Share,
    ShareMode,
    ShareRule,
    UnitMismatch,
    credits,
    usd,
)
from cogni_billing.domain.identity import BREAKAGE, ISSUANCE, SHORTFALL, USAGE
from cogni_billing.domain.timestamps import EARLIEST
from cogni_billing.testing.base import ALICE, NOON

RATES = st.decimals(0, 10, places=12, allow_nan=False, allow_infinity=False)


def share(purchased: int, rate: Decimal) -> int:
    amount = Amount.computed(Decimal(purchased), CREDIT)
    policy = RevenueSharePolicy("v1", NOON, ShareMode.BONUS, (ShareRule(SYSTEM_ACCOUNT_ID, rate),))
    [made] = policy.shares_of(amount, NOON)
    return int(made.amount.value)


@given(purchased=st.integers(0, 10**34), rate=RATES)
@example(9_000_000_000_000_000_001, Decimal("0.9999999999"))
@example(10**28 - 1, Decimal("0.3"))
@example(2**63 - 1, Decimal("0.670103597057"))
@example(1, Decimal("0.999999999999"))
def test_a_share_matches_integer_arithmetic(purchased: int, rate: Decimal) -> None:
    numerator, denominator = rate.as_integer_ratio()

    assert share(purchased, rate) == purchased * numerator // denominator


@given(purchased=st.integers(0, 10**34), basis_points=st.integers(0, 100_000))
def test_a_share_of_whole_basis_points_matches_upstream(purchased: int, basis_points: int) -> None:
    rate = Decimal(basis_points).scaleb(-4)

    assert share(purchased, rate) == purchased * basis_points // 10_000


@pytest.mark.parametrize(
    ("purchased", "rate", "expected"),
    [
        (100_000_000, "0.25", 25_000_000),
        (3, "0.25", 0),
        (4, "0.25", 1),
        (7, "0.25", 1),
        (1, "10", 10),
        (10**34, "10", 10**35),
        (9_000_000_000_000_000_001, "0.9999999999", 8_999_999_999_100_000_000),
    ],
)
@pytest.mark.usefixtures("hostile_context")
def test_a_share_is_exact_in_any_context(purchased: int, rate: str, expected: int) -> None:
    assert share(purchased, Decimal(rate)) == expected


def test_the_default_is_a_quarter_for_the_system_tenant() -> None:
    policy = RevenueSharePolicy.default()

    assert policy.rules == (ShareRule(SYSTEM_ACCOUNT_ID, Decimal("0.25")),)
    assert policy.mode is ShareMode.BONUS
    assert policy.shares_of(credits(10), NOON) == (Share(SYSTEM_ACCOUNT_ID, credits(2)),)
    assert policy.shares_of(credits(0), NOON) == (Share(SYSTEM_ACCOUNT_ID, credits(0)),)


def test_the_policy_without_shares_is_always_in_force_and_shares_nothing() -> None:
    policy = RevenueSharePolicy.none()

    assert policy.shares_of(credits(10), EARLIEST) == ()
    assert policy.credited_of(credits(10), ()) == credits(10)
    assert RevenueSharePolicy.from_dict(policy.to_dict()) == policy


@pytest.mark.parametrize(
    "rate",
    [
        "0.9999999999999",
        "0.999999999999999",
        "1/3",
        "-0.25",
        "10.000000000001",
        "NaN",
        "1e-3",
        0.25,
        True,
        None,
        Decimal("NaN"),
        Decimal("Infinity"),
        Decimal("-0"),
        Decimal(11),
        Decimal("1E-13"),
        Decimal("1E+1000000"),
        Decimal("0.2500000000000"),
    ],
)
def test_a_rate_out_of_bounds_or_too_fine_is_refused_and_never_rounded(rate: Decimal) -> None:
    with pytest.raises(InvalidPolicy) as caught:
        ShareRule(SYSTEM_ACCOUNT_ID, rate)

    assert caught.value.field == "rate"
    assert "12 decimals" in caught.value.expected


@pytest.mark.parametrize("rate", [0, 10, "0.000000000001", Decimal("1E-12"), Decimal("1E+1")])
def test_a_rate_at_the_bounds_is_accepted(rate: Decimal) -> None:
    assert ShareRule(SYSTEM_ACCOUNT_ID, rate).rate == Decimal(rate)


@pytest.mark.parametrize(
    "beneficiary",
    [UUID(int=0), SYSTEM_TENANT_ID, ISSUANCE, USAGE, BREAKAGE, SHORTFALL, str(ALICE), None],
)
def test_a_beneficiary_is_a_tenants_account_or_the_systems(beneficiary: AccountId) -> None:
    with pytest.raises(InvalidPolicy) as caught:
        ShareRule(beneficiary, Decimal("0.25"))

    assert caught.value.field == "beneficiary"


RULE = ShareRule(SYSTEM_ACCOUNT_ID, Decimal("0.25"))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("version", ""),
        ("version", "v 1"),
        ("version", "v" * 256),
        ("version", 1),
        ("effective_from", datetime(2026, 1, 1)),
        ("effective_from", "2026-01-01"),
        ("effective_from", None),
        ("mode", "bonus"),
        ("mode", None),
        ("rules", None),
        ("rules", RULE),
        ("rules", [Decimal("0.25")]),
        ("rules", (RULE, RULE)),
    ],
)
def test_a_refused_policy_names_the_field(field: str, value: object) -> None:
    fields: dict[str, Any] = {
        "version": "v1",
        "effective_from": NOON,
        "mode": ShareMode.BONUS,
        "rules": (RULE,),
    }
    with pytest.raises(InvalidPolicy) as caught:
        RevenueSharePolicy(**fields | {field: value})

    assert caught.value.field == field


def policy_since(moment: datetime) -> RevenueSharePolicy:
    return RevenueSharePolicy(
        version="v1",
        effective_from=moment,
        mode=ShareMode.BONUS,
        rules=[RULE],
    )


def test_a_policy_is_in_force_from_its_moment_on() -> None:
    policy = policy_since(NOON)

    assert len(policy.shares_of(credits(4), NOON)) == 1
    with pytest.raises(InvalidPolicy, match="in force from"):
        policy.shares_of(credits(4), NOON - timedelta(microseconds=1))


def test_a_policy_keeps_its_moment_in_utc() -> None:
    policy = policy_since(datetime(2026, 1, 1, 9, tzinfo=timezone(timedelta(hours=9))))

    assert policy.effective_from == datetime(2026, 1, 1, tzinfo=UTC)
    assert policy.to_dict() == {
        "version": "v1",
        "effective_from": "2026-01-01T00:00:00+00:00",
        "mode": "bonus",
        "rules": ({"beneficiary": str(SYSTEM_ACCOUNT_ID), "rate": "0.25"},),
    }


def test_a_buyer_earns_no_share_of_its_own_purchase() -> None:
    policy = RevenueSharePolicy.default()

    assert policy.for_buyer(SYSTEM_ACCOUNT_ID).rules == ()
    assert policy.for_buyer(AccountId(UUID(int=1))) == policy


def test_shares_of_invalid_arguments_are_refused() -> None:
    policy = RevenueSharePolicy.default()

    with pytest.raises(UnitMismatch):
        policy.shares_of(usd(1), NOON)
    with pytest.raises(InvalidAmount):
        policy.shares_of(credits(-1), NOON)
    with pytest.raises(InvalidAmount):
        policy.shares_of(5, NOON)  # type: ignore[arg-type]
    with pytest.raises(InvalidTime):
        policy.shares_of(credits(1), datetime(2026, 1, 1))


@given(purchased=st.integers(0, 10**30), rate=RATES)
def test_a_share_never_exceeds_its_fraction_nor_falls_a_credit_short(
    purchased: int, rate: Decimal
) -> None:
    exact = Fraction(rate) * purchased

    assert share(purchased, rate) == floor(exact)


def test_a_policy_is_read_back_from_its_dict_and_json() -> None:
    rules = (ShareRule(SYSTEM_ACCOUNT_ID, "0.1250"),)
    policy = RevenueSharePolicy("v1", NOON, ShareMode.BONUS, rules)
    local = NOON.astimezone(timezone(timedelta(hours=2)))
    nobody = RevenueSharePolicy("v2", local, ShareMode.BONUS, ())

    for each in (policy, nobody, RevenueSharePolicy.default()):
        written = json.loads(json.dumps(each.to_dict()))
        assert RevenueSharePolicy.from_dict(written) == each
        assert RevenueSharePolicy.from_dict(written).to_dict() == each.to_dict()


@pytest.mark.parametrize(
    ("changed", "field", "given"),
    [
        ({"version": None}, "version", "None"),
        ({"version": ""}, "version", "''"),
        (
            {"extra": 1},
            *("policy", "\"['effective_from', 'extra', 'mode', 'rules', 'version']\""),
        ),
        ({"effective_from": "noon"}, "effective_from", "'noon'"),
        ({"effective_from": "2026-01-01"}, "effective_from", "'2026-01-01 00:00:00'"),
        ({"effective_from": 5}, "effective_from", "5"),
        ({"mode": "gift"}, "mode", "'gift'"),
        ({"rules": "all"}, "rules", "'all'"),
        ({"rules": [5]}, "rules", "'5'"),
        ({"rules": [{"beneficiary": "me", "rate": "1"}]}, "beneficiary", "'me'"),
        ({"rules": [{"beneficiary": str(SYSTEM_ACCOUNT_ID), "rate": 0.5}]}, "rate", "0.5"),
    ],
    ids=str,
)
def test_an_invalid_mapping_is_no_policy_and_names_the_field(
    changed: Any, field: str, given: str
) -> None:
    with pytest.raises(InvalidPolicy) as caught:
        RevenueSharePolicy.from_dict(RevenueSharePolicy.default().to_dict() | changed)

    assert (caught.value.field, caught.value.given) == (field, given)


def test_a_value_that_is_no_mapping_is_no_policy() -> None:
    with pytest.raises(InvalidPolicy) as caught:
        RevenueSharePolicy.from_dict([])
    assert caught.value.field == "policy"
