"""Hypothesis strategies: amounts near every bound, tenants, keys, policies, and hostile text."""

from __future__ import annotations

from datetime import datetime, timedelta
from decimal import Decimal
from typing import Final
from uuid import UUID

from hypothesis import strategies as st

from cogni_billing import (
    CREDIT,
    SYSTEM_ACCOUNT_ID,
    SYSTEM_TENANT_ID,
    AccountId,
    Amount,
    RevenueSharePolicy,
    ShareMode,
    ShareRule,
    ShareTier,
    Shortfall,
    TenantId,
    credits,
)
from cogni_billing.domain.amounts import MAGNITUDE_MAX, Unit, from_quanta
from cogni_billing.testing.base import NOON

RATE_PLACES: Final = 12
KEY_MAX: Final = 255
PARTNERS: Final = tuple(AccountId(UUID(int=2**100 + n)) for n in range(7))


def amounts(unit: Unit = CREDIT, *, least: int = 1) -> st.SearchStrategy[Amount]:
    """Amounts of *unit* up to 10^27, most of them small or next to a bound.

    *least* counts the unit's smallest parts, such as cents.
    """
    limit = int(MAGNITUDE_MAX) * 10**unit.scale
    bounds = [
        near
        for bound in (10**unit.scale, 2**31, 2**53, 2**63, 10**18, 10**28, limit)
        for near in (bound - 1, bound, bound + 1)
        if least <= near <= limit
    ]
    quanta = st.integers(least, least + 200) | st.sampled_from(bounds) | st.integers(least, limit)
    return quanta.map(lambda count: from_quanta(count, unit))


def tenants() -> st.SearchStrategy[TenantId]:
    """Tenants, without the system tenant and the nil UUID."""
    return (
        st.uuids(allow_nil=False)
        .filter(lambda given: given != SYSTEM_TENANT_ID)
        .map(lambda given: TenantId(UUID(int=given.int)))
    )


def keys() -> st.SearchStrategy[str]:
    """Valid references: visible ASCII, up to 255 characters."""
    visible = st.characters(min_codepoint=0x21, max_codepoint=0x7E)
    return st.text(visible, min_size=1, max_size=20) | st.text(
        visible, min_size=KEY_MAX, max_size=KEY_MAX
    )


HOSTILE: Final = (
    *("", " ", "a b", " a", "a ", "a\n", "a\t", "a\0", "\x07", "\x1b[31m", "\x7f"),
    *(
        "a\u00a0",
        "a\u200b",
        "\u202ea",
        "\ufeffa",
        "e\u0301",
        "\u00e9",
        "\u0430",
        "\uff41",
        "\u0661",
    ),
    *("\ud800", "\udfff", "\U0001f4a9", "a" * (KEY_MAX + 1), "\u00e9" * 200, "x" * 10_000),
)


def hostile_text() -> st.SearchStrategy[str]:
    """Invalid keys: blank, invisible, beyond ASCII, too long, or with a lone surrogate."""
    beyond = st.characters(exclude_categories=()).filter(lambda each: not "!" <= each <= "~")
    return st.sampled_from(HOSTILE) | st.builds(
        "{}{}{}".format, st.text(max_size=5), beyond, st.text(max_size=5)
    )


def rates(limit: str = "1") -> st.SearchStrategy[Decimal]:
    """Exact rates from 0 to *limit*, with up to twelve decimals."""
    units = int(Decimal(limit).scaleb(RATE_PLACES))
    return st.integers(0, units).map(lambda n: Decimal(n).scaleb(-RATE_PLACES))


@st.composite
def rules(
    draw: st.DrawFn, beneficiary: AccountId = SYSTEM_ACCOUNT_ID, limit: str = "1"
) -> ShareRule:
    """A rule with rates up to *limit*, with and without a cap, a minimum and tiers."""
    bounds = sorted(draw(st.lists(st.integers(0, 10**27), min_size=2, max_size=2)))
    minimum, cap = (draw(st.none() | st.just(credits(bound))) for bound in bounds)
    thresholds = draw(st.sets(st.integers(1, 10**27), max_size=3))
    tiers = tuple(ShareTier(credits(size), draw(rates(limit))) for size in sorted(thresholds))
    return ShareRule(beneficiary, draw(rates(limit)), cap=cap, minimum=minimum, tiers=tiers)


@st.composite
def policies(
    draw: st.DrawFn, version: str = "v1", effective_from: datetime = NOON - timedelta(days=1)
) -> RevenueSharePolicy:
    """A policy of any mode and clawback, with one to eight beneficiaries."""
    mode = draw(st.sampled_from(ShareMode))
    beneficiaries = draw(
        st.lists(st.sampled_from([SYSTEM_ACCOUNT_ID, *PARTNERS]), min_size=1, unique=True)
    )
    # An eighth each at most, so that eight rates of a split sum to at most 1.
    limit = "0.125" if mode is ShareMode.SPLIT else "1.25"
    return RevenueSharePolicy(
        version,
        effective_from,
        mode,
        tuple(draw(rules(beneficiary, limit)) for beneficiary in beneficiaries),
        draw(st.sampled_from([Shortfall.DEBT, Shortfall.CLAMP])),
    )
