"""Expiries as callers give them: a moment or a lifetime."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from cogni_billing import InvalidTime
from cogni_billing.domain.timestamps import LATEST, Expiry

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)


def test_expiry_with_a_lifetime_starts_at_the_given_moment() -> None:
    expiry = Expiry.given(None, timedelta(hours=1))

    assert expiry.starting(NOON) == NOON + timedelta(hours=1)
    assert expiry.is_given


def test_expiry_without_arguments_is_never() -> None:
    expiry = Expiry.given(None, None)

    assert expiry.starting(NOON) is None
    assert not expiry.is_given
    assert expiry.request == {"expires_at": "never"}


@pytest.mark.parametrize(
    ("lasts", "text"),
    [
        (timedelta(hours=1), "3600 s"),
        (timedelta(seconds=1, milliseconds=500), "1.5 s"),
        (timedelta(microseconds=1), "0.000001 s"),
        (timedelta(days=1000), "86400000 s"),
    ],
)
def test_lifetime_as_a_request_is_text_in_seconds(lasts: timedelta, text: str) -> None:
    assert Expiry.given(None, lasts).request == {"expires_in": text}


def test_expiry_given_twice_is_refused() -> None:
    with pytest.raises(InvalidTime) as caught:
        Expiry.given(NOON, timedelta(hours=1))

    assert caught.value.field == "expires_in"


@pytest.mark.parametrize("lasts", [timedelta(0), timedelta(seconds=-1), 60, "1:00:00", 1.5])
def test_lifetime_that_is_not_above_zero_is_refused(lasts: object) -> None:
    with pytest.raises(InvalidTime) as caught:
        Expiry.given(None, lasts)

    assert caught.value.field == "expires_in"


def test_lifetime_beyond_the_last_year_is_refused() -> None:
    longest = LATEST - NOON

    assert Expiry.given(None, longest).starting(NOON) == LATEST
    for lasts in (longest + timedelta(microseconds=1), timedelta.max):
        with pytest.raises(InvalidTime):
            Expiry.given(None, lasts).starting(NOON)
