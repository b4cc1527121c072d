"""Tiers, bounds and splits match arithmetic in whole numbers."""

from __future__ import annotations

import tomllib
from datetime import timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cogni_billing import (
    SYSTEM_ACCOUNT_ID,
    AccountId,
    Amount,
    InvalidPolicy,
    RevenueSharePolicies,
    RevenueSharePolicy,
    ShareMode,
    ShareRule,
    ShareTier,
    Shortfall,
    credits,
    usd,
)
from cogni_billing.testing.base import ALICE, BOB, NOON

DAY = timedelta(days=1)


def policy(
    *rules: ShareRule, mode: ShareMode = ShareMode.BONUS, version: str = "v1", days: int = 0
) -> RevenueSharePolicy:
    return RevenueSharePolicy(version, NOON + days * DAY, mode, rules)


def shares(made: RevenueSharePolicy, purchased: int) -> list[int]:
    found = made.shares_of(Amount.computed(Decimal(purchased), credits(0).unit), NOON)
    return [int(share.amount.value) for share in found]


def accounts(count: int) -> list[AccountId]:
    return [AccountId(UUID(int=2**100 + number)) for number in range(count)]


@pytest.mark.parametrize(
    ("purchased", "expected"),
    [(0, 0), (9, 0), (99, 9), (100, 20), (999, 199), (1000, 0), (10**27, 0)],
)
def test_a_tier_is_for_the_whole_of_a_purchase_of_its_size(purchased: int, expected: int) -> None:
    tiers = (ShareTier(credits(100), Decimal("0.2")), (credits(1000), Decimal(0)))
    rule = ShareRule(SYSTEM_ACCOUNT_ID, "0.1", tiers=tiers)

    assert shares(policy(rule), purchased) == [expected]


def test_sixteen_tiers_are_accepted() -> None:
    rule = ShareRule(SYSTEM_ACCOUNT_ID, 0, tiers=[(credits(n), "0.1") for n in range(1, 17)])

    assert len(rule.tiers) == 16


@pytest.mark.parametrize(
    ("cap", "minimum", "expected"),
    [
        (None, None, [0, 25, 250]),
        (100, None, [0, 25, 100]),
        (None, 30, [30, 30, 250]),
        (100, 30, [30, 30, 100]),
        (0, 0, [0, 0, 0]),
        (40, 40, [40, 40, 40]),
    ],
)
def test_a_cap_and_a_minimum_bound_the_share_of_one_purchase(
    cap: int | None, minimum: int | None, expected: list[int]
) -> None:
    rule = ShareRule(
        SYSTEM_ACCOUNT_ID,
        "0.25",
        cap=None if cap is None else credits(cap),
        minimum=None if minimum is None else credits(minimum),
    )

    assert [shares(policy(rule), purchased)[0] for purchased in (3, 100, 1000)] == expected


weights = st.lists(st.integers(0, 10**12), min_size=1, max_size=8).filter(
    lambda parts: sum(parts) <= 10**12
)


@given(purchased=st.integers(0, 10**34), parts=weights)
def test_a_split_gives_each_its_quota_and_sums_exactly(purchased: int, parts: list[int]) -> None:
    rules = [
        ShareRule(account, Decimal(part).scaleb(-12))
        for account, part in zip(accounts(len(parts)), parts, strict=True)
    ]
    split = policy(*rules, mode=ShareMode.SPLIT)

    given_away = shares(split, purchased)

    customer = purchased - sum(given_away)
    quotas = [Fraction(purchased * part, 10**12) for part in [10**12 - sum(parts), *parts]]
    assert all(
        abs(got - quota) < 1 for got, quota in zip([customer, *given_away], quotas, strict=True)
    )
    made = split.shares_of(Amount.computed(Decimal(purchased), credits(0).unit), NOON)
    credited = split.credited_of(Amount.computed(Decimal(purchased), credits(0).unit), made)
    assert int(credited.value) == customer


def test_ties_in_a_split_go_to_the_customer_and_then_in_the_order_of_the_rules() -> None:
    one, two = accounts(2)
    third = policy(ShareRule(one, "0.25"), ShareRule(two, "0.25"), mode=ShareMode.SPLIT)

    assert [shares(third, purchased) for purchased in (1, 2, 3)] == [[0, 0], [1, 0], [1, 1]]


def test_bounds_in_a_split_move_credits_to_and_from_the_customer() -> None:
    one, two, three = accounts(3)
    bounded = policy(
        ShareRule(one, "0.5", cap=credits(10)),
        ShareRule(two, "0.1", minimum=credits(60)),
        ShareRule(three, "0.1", minimum=credits(60)),
        mode=ShareMode.SPLIT,
    )

    assert shares(bounded, 1000) == [10, 100, 100]
    assert shares(bounded, 200) == [10, 60, 60]
    assert shares(bounded, 100) == [10, 60, 30]  # no more than is left


@pytest.mark.parametrize(
    ("rates", "tiers", "given"),
    [
        (("0.6", "0.5"), (), "rates that sum to 1.1 from 0 CREDIT"),
        (("0.6", "0.4"), ((credits(7), "0.5"),), "rates that sum to 1.1 from 7 CREDIT"),
        (("1.000000000001",), (), "rates that sum to 1.000000000001"),
    ],
)
def test_the_rates_of_a_split_sum_to_at_most_one_in_every_slab(
    rates: tuple[str, ...], tiers: Any, given: str
) -> None:
    rules = [ShareRule(account, rate) for account, rate in zip(accounts(9), rates, strict=False)]
    rules[-1] = ShareRule(rules[-1].beneficiary, rates[-1], tiers=tiers)

    with pytest.raises(InvalidPolicy) as caught:
        policy(*rules, mode=ShareMode.SPLIT)

    assert caught.value.field == "rules"
    assert caught.value.given.startswith(given)
    policy(*rules)  # a bonus has no such bound


@pytest.mark.parametrize(
    ("field", "given"),
    [
        ("cap", 5),
        ("cap", usd(5)),
        ("cap", credits(-1)),
        ("minimum", "5"),
        ("minimum", credits(6)),  # above the cap
        ("tiers", None),
        ("tiers", 5),
        ("tiers", [5]),
        ("tiers", [(credits(5),)]),
        ("tiers", [(credits(0), "0.1")]),
        ("tiers", [(credits(5), "0.1"), (credits(5), "0.2")]),
        ("tiers", [(credits(9), "0.1"), (credits(5), "0.2")]),
        ("tiers", [(credits(n), "0.1") for n in range(1, 18)]),
        ("at_least", [(usd(5), "0.1")]),
        ("rate", [(credits(5), "0.1234567890123")]),
        ("rate", [(credits(5), 0.1)]),
    ],
    ids=str,
)
def test_a_refused_rule_names_the_field(field: str, given: Any) -> None:
    arguments: dict[str, Any] = {"cap": credits(5)}
    arguments["tiers" if field in {"at_least", "rate"} else field] = given

    with pytest.raises(InvalidPolicy) as caught:
        ShareRule(SYSTEM_ACCOUNT_ID, "0.1", **arguments)

    assert caught.value.field == field


def test_thirty_three_rules_are_refused() -> None:
    rules = [ShareRule(account, "0.01") for account in accounts(33)]

    assert len(policy(*rules[:32]).rules) == 32
    with pytest.raises(InvalidPolicy) as caught:
        policy(*rules)
    assert (caught.value.field, caught.value.given) == ("rules", "33 rules")


def test_a_clawback_that_is_no_shortfall_is_refused() -> None:
    with pytest.raises(InvalidPolicy) as caught:
        RevenueSharePolicy("v1", NOON, ShareMode.BONUS, (), "clamp")  # type: ignore[arg-type]
    assert (caught.value.field, caught.value.given) == ("clawback", "'clamp'")


def test_a_policy_is_read_back_from_its_dict() -> None:
    rules = (
        ShareRule(SYSTEM_ACCOUNT_ID, "0.1250", cap=credits(10**27), minimum=credits(0)),
        ShareRule(AccountId(BOB), 0, tiers=((credits(100), "0.2"), (credits(200), "0.3"))),
    )
    rich = RevenueSharePolicy("v1", NOON, ShareMode.SPLIT, rules, Shortfall.CLAMP)

    written = rich.to_dict()

    assert RevenueSharePolicy.from_dict(written) == rich
    assert written["clawback"] == "clamp"
    assert written["rules"] == (
        {
            "beneficiary": str(SYSTEM_ACCOUNT_ID),
            "rate": "0.1250",
            "cap": "1000000000000000000000000000",
            "minimum": "0",
        },
        {
            "beneficiary": str(BOB),
            "rate": "0",
            "tiers": ({"at_least": "100", "rate": "0.2"}, {"at_least": "200", "rate": "0.3"}),
        },
    )


@pytest.mark.parametrize(
    ("changed", "field", "given"),
    [
        ({"cap": 5}, "cap", "5"),
        ({"cap": "0.5"}, "cap", "Decimal('0.5')"),
        ({"minimum": "five"}, "minimum", "'five'"),
        ({"tiers": "all"}, "tiers", "'all'"),
        ({"tiers": [{"rate": "1"}]}, "tiers", "\"['rate']\""),
        ({"tiers": [{"at_least": "x", "rate": "1"}]}, "at_least", "'x'"),
        ({"gift": "1"}, "rules", "\"['beneficiary', 'gift', 'rate']\""),
    ],
    ids=str,
)
def test_an_invalid_mapping_is_no_rule_and_names_the_field(
    changed: Any, field: str, given: str
) -> None:
    written = ShareRule(SYSTEM_ACCOUNT_ID, "0.1").to_dict() | changed

    with pytest.raises(InvalidPolicy) as caught:
        ShareRule.from_dict(written)

    assert (caught.value.field, caught.value.given) == (field, given)


class TestPolicies:
    FIRST = policy(ShareRule(SYSTEM_ACCOUNT_ID, "0.1"))
    SECOND = policy(ShareRule(AccountId(ALICE), "0.2"), version="v2", days=1)
    BOTH = RevenueSharePolicies([FIRST, SECOND])

    def test_each_is_in_force_until_the_next_one_is(self) -> None:
        instant = timedelta(microseconds=1)

        assert self.BOTH.at(NOON) is self.FIRST
        assert self.BOTH.at(NOON + DAY - instant) is self.FIRST
        assert self.BOTH.at(NOON + DAY) is self.SECOND
        assert self.BOTH.at(NOON + 1000 * DAY) is self.SECOND
        with pytest.raises(InvalidPolicy, match="in force from"):
            self.BOTH.at(NOON - instant)

    @pytest.mark.parametrize(
        ("given", "field"),
        [
            ([], "policies"),
            (None, "policies"),
            ([FIRST, 5], "policies"),
            (FIRST, "policies"),
            ([SECOND, FIRST], "effective_from"),
            ([FIRST, policy(version="v2")], "effective_from"),
            ([FIRST, policy(version="v1", days=1)], "version"),
        ],
        ids=repr,
    )
    def test_policies_out_of_order_are_refused(self, given: Any, field: str) -> None:
        with pytest.raises(InvalidPolicy) as caught:
            RevenueSharePolicies(given)

        assert caught.value.field == field

    def test_policies_are_read_back_from_their_dict(self) -> None:
        assert RevenueSharePolicies.from_dict(self.BOTH.to_dict()) == self.BOTH

    def test_moments_of_a_configuration_file_are_accepted(self) -> None:
        [first, second] = tomllib.loads(
            """
            [[policies]]
            version = "v1"
            effective_from = 2026-11-23T12:00:00.123456Z
            mode = "bonus"
            rules = [{ beneficiary = "00000000-0000-4000-b000-000000000000", rate = "0.1" }]

            [[policies]]
            version = "v2"
            effective_from = "2026-11-24T12:00:00.123456+00:00"
            mode = "bonus"
            rules = [{ beneficiary = "0a11ce00-0000-4000-8000-000000000001", rate = "0.2" }]
            """
        )["policies"]

        assert RevenueSharePolicies.from_dict({"policies": [first, second]}) == self.BOTH

    @pytest.mark.parametrize("given", [None, [], {"policies": None}, {"policies": [1]}], ids=repr)
    def test_invalid_policies_are_refused(self, given: Any) -> None:
        with pytest.raises(InvalidPolicy):
            RevenueSharePolicies.from_dict(given)


@given(
    credited=st.integers(0, 10**40),
    basis_points=st.integers(0, 100_000),
    minimum=st.integers(0, 10**27),
)
def test_a_bonus_of_whole_basis_points_within_its_bounds_matches_upstream(
    credited: int, basis_points: int, minimum: int
) -> None:
    expected = credited * basis_points // 10_000
    rule = ShareRule(SYSTEM_ACCOUNT_ID, Decimal(basis_points).scaleb(-4), minimum=credits(minimum))

    assert shares(policy(rule), credited) == [max(expected, minimum)]
