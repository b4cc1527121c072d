"""The currencies of ISO 4217, from the `iso4217` package, which follows the published list."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache


@cache
def decimals_by_currency() -> Mapping[str, int]:
    """The decimal places of each currency that has a minor unit, by its code."""
    from iso4217 import Currency  # noqa: PLC0415 (it parses the list when it is imported)

    return {
        currency.code: currency.exponent for currency in Currency if currency.exponent is not None
    }
