"""Payment events: their fields, and their currency."""

from __future__ import annotations

from typing import Any

import pytest

from cogni_billing import DisputeChanged, DisputeState, InvalidInput, UnitMismatch, money
from cogni_billing.domain.event_effects import Effects
from cogni_billing.testing.base import NOON


def changed(**given: Any) -> DisputeChanged:
    fields: dict[str, Any] = {
        "id": "stripe:evt_1",
        "payment": "stripe:pi_1",
        "at": NOON,
        "raw_amount": 400,
        "currency": "usd",
        "reference": "du_1",
        "state": DisputeState.OPEN,
    }
    return DisputeChanged(**fields | given)


@pytest.mark.parametrize(
    ("field", "given"),
    [("state", "open"), ("raw_amount", -1), ("raw_amount", 4.0), ("raw_amount", True)],
)
def test_event_with_an_invalid_field_is_refused(field: str, given: object) -> None:
    with pytest.raises(InvalidInput) as refused:
        changed(**{field: given})

    assert refused.value.field == field


def test_events_in_dollars_of_a_purchase_in_euros_are_refused() -> None:
    with pytest.raises(UnitMismatch) as refused:
        Effects(money("10.00", "EUR"), [changed()]).require_currency()

    assert (refused.value.given, refused.value.expected) == ("usd", "EUR")
