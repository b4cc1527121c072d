"""A value at a bound is accepted, and the next one beyond it is refused."""

from __future__ import annotations

import copy
import itertools
import pickle
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from types import MappingProxyType
from typing import Any

import attrs
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cogni_billing import (
    CREDIT,
    SYSTEM_ACCOUNT_ID,
    USDC,
    Amount,
    InvalidAmount,
    InvalidInput,
    InvalidMetadata,
    InvalidPolicy,
    InvalidTime,
    RevenueSharePolicy,
    ShareMode,
    ShareRule,
    credits,
    credits_for,
    usd,
)
from cogni_billing.domain.amounts import rounded_down, rounded_up
from cogni_billing.domain.identity import reference
from cogni_billing.domain.metadata import DEPTH_MAX, ENCODED_MAX, encoded, frozen_metadata
from cogni_billing.domain.timestamps import EARLIEST, LATEST, utc
from cogni_billing.testing.base import NOON

TICK = timedelta(microseconds=1)
HUGE = 10**27


class TestMoments:
    def test_the_years_are_1970_to_9998(self) -> None:
        assert EARLIEST.isoformat() == "1970-01-01T00:00:00+00:00"
        assert LATEST.isoformat() == "9998-12-31T23:59:59.999999+00:00"

    @pytest.mark.parametrize("moment", [EARLIEST - TICK, LATEST + TICK], ids=str)
    def test_a_microsecond_beyond_is_refused(self, moment: datetime) -> None:
        with pytest.raises(InvalidTime) as caught:
            utc(moment, "clock")

        assert caught.value.field == "clock"
        assert "1970 to 9998" in caught.value.expected

    @given(
        moment=st.datetimes(datetime(1970, 1, 2), datetime(9998, 12, 30)),
        minutes=st.integers(-1439, 1439),
    )
    def test_a_moment_in_another_zone_is_the_same_moment(
        self, moment: datetime, minutes: int
    ) -> None:
        given = moment.replace(tzinfo=timezone(timedelta(minutes=minutes)))

        kept = utc(given, "clock")

        assert kept == given
        assert kept.tzinfo is UTC

    def test_a_naive_moment_is_named_in_the_refusal(self) -> None:
        with pytest.raises(InvalidTime) as caught:
            utc(datetime(2026, 1, 1), "at")

        assert (caught.value.field, caught.value.given) == ("at", "'2026-01-01 00:00:00'")
        assert "timezone-aware" in caught.value.expected


class TestMetadata:
    @pytest.mark.parametrize("number", [2**2_100 - 1, 1 - 2**2_100], ids=["above", "below"])
    def test_the_largest_integer_is_kept(self, number: int) -> None:
        assert frozen_metadata({"a": number}) == {"a": number}

    @pytest.mark.parametrize("number", [2**2_100, -(2**2_100)], ids=["above", "below"])
    def test_an_integer_beyond_the_bound_is_refused(self, number: int) -> None:
        with pytest.raises(InvalidMetadata) as caught:
            frozen_metadata({"a": number})

        assert caught.value.given == "an int of 2101 bits"

    def test_the_largest_integer_is_one_that_any_interpreter_writes_out(self) -> None:
        assert 10**sys.int_info.str_digits_check_threshold > 2**2_100 - 1

    def test_metadata_too_large_is_refused_before_it_is_copied(self) -> None:
        class Endless(dict[str, object]):
            def items(self) -> Any:
                return ((str(number), ["x" * 1_000, 2**2_000]) for number in itertools.count())

        with pytest.raises(InvalidMetadata, match="16384 bytes"):
            frozen_metadata(Endless())

    def test_a_message_shows_at_most_64_characters_of_metadata(self) -> None:
        with pytest.raises(InvalidMetadata) as caught:
            frozen_metadata({"k" * 100: "v" * 100 + "\0"})

        assert len(caught.value.field + caught.value.given) <= 64

    def test_one_byte_more_than_16_kib_is_refused(self) -> None:
        over = {"a": "x" * (ENCODED_MAX - len('{"a":""}') + 1)}

        with pytest.raises(InvalidMetadata) as caught:
            frozen_metadata(over)

        assert (caught.value.field, caught.value.given) == ("metadata", "16385 bytes")
        assert "16384" in caught.value.expected

    def test_bytes_are_counted_and_not_characters(self) -> None:
        room = ENCODED_MAX - len('{"a":""}')

        assert len(encoded(frozen_metadata({"a": "\u20ac" * (room // 3)})).encode()) > room - 3
        with pytest.raises(InvalidMetadata):
            frozen_metadata({"a": "\u20ac" * (room // 3 + 1)})

    def test_the_most_values_in_16_kib_are_kept(self) -> None:
        zeros = [0] * ((ENCODED_MAX - len('{"a":[]}') + 1) // 2)

        assert frozen_metadata({"a": zeros}) == {"a": tuple(zeros)}

    def test_one_value_beyond_16_kib_is_refused(self) -> None:
        zeros = [0] * ((ENCODED_MAX - len('{"a":[]}') + 1) // 2 + 1)

        with pytest.raises(InvalidMetadata):
            frozen_metadata({"a": zeros})

    @pytest.mark.parametrize("wrap", [lambda x: [x], lambda x: (x,), lambda x: {"a": x}])
    def test_eight_levels_are_kept_and_nine_refused(self, wrap: Callable[[object], object]) -> None:
        value: object = 1
        for _ in range(DEPTH_MAX - 1):
            value = wrap(value)

        assert str(frozen_metadata({"a": value})).count("1") == 1
        with pytest.raises(InvalidMetadata) as caught:
            frozen_metadata({"a": wrap(value)})
        assert (caught.value.given, caught.value.expected) == ("one more level", "at most 8 levels")

    def test_a_read_only_mapping_is_an_object_too(self) -> None:
        assert frozen_metadata(MappingProxyType({"a": MappingProxyType({})})) == {"a": {}}

    def test_scalars_keep_their_type(self) -> None:
        given = {"t": True, "i": 1, "f": 1.0, "n": None, "s": "1"}

        kept = frozen_metadata(given)

        assert [type(kept[name]) for name in given] == [bool, int, float, type(None), str]

    @pytest.mark.parametrize("edge", ["\ud7ff", "\ue000", "\x01", "\x7f", "\U0010ffff"], ids=ascii)
    def test_text_next_to_the_surrogates_is_kept(self, edge: str) -> None:
        assert frozen_metadata({edge: edge}) == {edge: edge}

    @pytest.mark.parametrize("code", [0xD800, 0xDBFF, 0xDC00, 0xDFFF], ids=hex)
    def test_every_surrogate_is_refused_as_key_and_as_value(self, code: int) -> None:
        for wrong in ({chr(code): 1}, {"a": f"x{chr(code)}"}):
            with pytest.raises(InvalidMetadata) as caught:
                frozen_metadata(wrong)
            assert "surrogates" in caught.value.expected

    def test_the_text_is_compact_and_not_escaped(self) -> None:
        kept = frozen_metadata({"a": [1, {"\u00e9": None}]})

        assert encoded(kept) == '{"a":[1,{"\u00e9":null}]}'


class TestReferences:
    @pytest.mark.parametrize("given", ["!", "~", "x" * 255])
    def test_the_first_and_last_character_and_the_longest_are_kept(self, given: str) -> None:
        assert reference(given) == given

    def test_the_default_field_of_a_reference_is_reference(self) -> None:
        with pytest.raises(InvalidInput) as caught:
            reference("")

        assert caught.value.field == "reference"


class TestRates:
    @given(
        credited=st.integers(0, 10**34),
        numerator=st.integers(0, 10**13),
        places=st.integers(0, 12),
    )
    @example(credited=9_000_000_000_000_000_001, numerator=9_999_999_999, places=10)
    @example(credited=10**28 - 1, numerator=3, places=1)
    @example(credited=10**34, numerator=9_999_999_999_999, places=12)
    def test_a_share_is_a_quotient_of_integers(
        self, credited: int, numerator: int, places: int
    ) -> None:
        numerator = min(numerator, 10 * 10**places)
        digits = f"{numerator:0{places + 1}}"
        rate = f"{digits[:-places]}.{digits[-places:]}" if places else digits
        rule = ShareRule(SYSTEM_ACCOUNT_ID, Decimal(rate))

        policy = RevenueSharePolicy("v1", NOON, ShareMode.BONUS, (rule,))
        [share] = policy.shares_of(Amount.computed(Decimal(credited), CREDIT), NOON)

        assert int(share.amount.value) == credited * numerator // 10**places

    def test_a_rate_with_fifteen_decimals_is_refused(
        self,
    ) -> None:
        with pytest.raises(InvalidPolicy) as caught:
            ShareRule(SYSTEM_ACCOUNT_ID, Decimal("0.999999999999999"))

        assert caught.value.given == "Decimal('0.999999999999999')"

    def test_a_default_policy_is_in_force_from_the_earliest_moment(self) -> None:
        policy = RevenueSharePolicy.default()

        assert (policy.version, policy.effective_from) == ("default", EARLIEST)
        assert policy.shares_of(credits(4), EARLIEST)[0].amount == credits(1)

    def test_a_policy_cannot_be_changed(self) -> None:
        policy = RevenueSharePolicy.default()

        with pytest.raises(attrs.exceptions.FrozenInstanceError):
            policy.rules = ()  # type: ignore[misc]
        with pytest.raises(attrs.exceptions.FrozenInstanceError):
            policy.rules[0].rate = Decimal(1)  # type: ignore[misc]
        assert policy == RevenueSharePolicy.default()

    def test_the_dict_of_a_policy_is_new_each_time(self) -> None:
        policy = RevenueSharePolicy.default()

        policy.to_dict().clear()

        assert policy.to_dict()["version"] == "default"

    def test_shares_at_a_naive_moment_are_refused_with_field_at(self) -> None:
        with pytest.raises(InvalidTime) as caught:
            RevenueSharePolicy.default().shares_of(credits(1), NOON.replace(tzinfo=None))

        assert caught.value.field == "at"


class TestAmounts:
    def test_the_text_of_a_number_may_have_64_characters(self) -> None:
        assert credits("0" * 63 + "7") == credits(7)
        with pytest.raises(InvalidAmount):
            credits("0" * 64 + "7")

    @pytest.mark.parametrize("amount", [credits(HUGE) + credits(HUGE), usd("-0.01")], ids=str)
    def test_an_amount_survives_pickling_and_copying_however_large(self, amount: Amount) -> None:
        for made in (pickle.loads(pickle.dumps(amount)), copy.deepcopy(amount)):
            assert made == amount
            assert (str(made), hash(made)) == (str(amount), hash(amount))

    def test_an_amount_cannot_be_changed(self) -> None:
        amount = usd(1)

        with pytest.raises(attrs.exceptions.FrozenInstanceError):
            amount.value = Decimal(2)  # type: ignore[misc]
        assert amount == usd("1.00")

    def test_an_amount_is_no_number_and_not_equal_to_one(self) -> None:
        numbers: list[object] = [1, Decimal(1), "1.00", credits(1), Amount(1, USDC)]

        assert usd(1) not in numbers

    @given(cents=st.integers(-(10**29), 10**29), places=st.integers(0, 2))
    def test_each_way_to_write_an_amount_makes_the_same(self, cents: int, places: int) -> None:
        whole = cents * 10**places
        text = f"{'-' if whole < 0 else ''}{abs(whole) // 100}.{abs(whole) % 100:02}"

        if abs(whole) > HUGE * 100:
            with pytest.raises(InvalidAmount):
                usd(text)
        else:
            assert str(usd(text)) == f"{text} USD"
            assert usd(Decimal(text)) == usd(text)

    @given(scaled=st.integers(-(10**40), 10**40), places=st.integers(0, 20))
    def test_floor_and_ceiling_are_those_of_integers(self, scaled: int, places: int) -> None:
        sign, digits = int(scaled < 0), tuple(map(int, str(abs(scaled))))
        value = Decimal((sign, digits, -places))

        assert int(rounded_down(value, CREDIT).value) == scaled // 10**places
        assert int(rounded_up(value, CREDIT).value) == -(-scaled // 10**places)

    def test_the_smallest_money_buys_whole_credits(self) -> None:
        assert credits_for(Amount("0.000001", USDC)) == credits(10)
        assert credits_for(usd("0.01")) == credits(100_000)
