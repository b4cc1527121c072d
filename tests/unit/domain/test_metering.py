"""The meter of a run keeps a capture until its outcome is known."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

import pytest

from cogni_billing import Hold, InvalidReference, InvalidTime, credits
from cogni_billing.domain.metering import Meter
from cogni_billing.testing import ALICE
from cogni_billing.testing.base import NOON


def meter(reference: str = "run-1", ttl: timedelta = timedelta(hours=1)) -> Meter:
    return Meter(tenant=ALICE, limit=credits(100), reference=reference, ttl=ttl, every=credits(10))


@pytest.fixture
def begun() -> Meter:
    begun = meter()
    begun.begin(
        Hold(
            id=UUID(int=1),
            tenant=ALICE,
            reference="run-1",
            amount=credits(100),
            opened_at=NOON,
        )
    )
    return begun


def test_capture_whose_outcome_is_unknown_is_called_again_with_its_key_and_amount(
    begun: Meter,
) -> None:
    begun.add(credits(10))
    first = begun.capture_request()
    begun.add(credits(5))

    again = begun.capture_request()
    assert again == first
    assert begun.capture_is_unknown

    begun.captured(again.amount, NOON)
    following = begun.capture_request(final=True)
    assert (following.amount, following.reference) == (credits(5), "run-1/2")


@pytest.mark.parametrize(
    ("days", "accepted"), [(30, True), (31, False)], ids=["longest", "too long"]
)
def test_ttl_is_bounded(days: int, *, accepted: bool) -> None:
    if accepted:
        assert meter(ttl=timedelta(days=days)).ttl == timedelta(days=days)
        return
    with pytest.raises(InvalidTime) as caught:
        meter(ttl=timedelta(days=days))
    assert caught.value.field == "ttl"


def test_reference_leaves_room_for_the_number_of_a_capture() -> None:
    assert meter("x" * 240).reference == "x" * 240
    with pytest.raises(InvalidReference) as caught:
        meter("x" * 241)
    assert caught.value.field == "reference"
