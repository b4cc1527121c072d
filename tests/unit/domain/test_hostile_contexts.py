"""Every result is the same in any decimal context and thread of the caller."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from decimal import Decimal, getcontext  # noqa: TID251 (the caller's context is the attacker)
from typing import Any

import pytest

from cogni_billing import (
    CREDIT,
    SYSTEM_ACCOUNT_ID,
    USD,
    USDC,
    Amount,
    Balance,
    Billing,
    InvalidAmount,
    InvalidPolicy,
    RevenueSharePolicy,
    ShareRule,
    allocate,
    credits,
    credits_for,
    usd,
    usd_cents,
)
from cogni_billing.adapters.memory import InMemoryUnitOfWork
from cogni_billing.domain.amounts import (
    exact_decimal,
    from_quanta,
    in_quanta,
    product,
    rounded_down,
    rounded_up,
    total,
)
from cogni_billing.domain.errors import shown
from cogni_billing.testing.base import ALICE, NOON, CountingIds, SteppingClock
from cogni_billing.testing.contracts.purchases import planned, policy

LARGE = "123456789012345678901234567"
FRACTION = Decimal("1234567.000000000001")


def purchased() -> list[str]:
    """The results of two purchases, from receipt, balance and statement."""
    billing = Billing(
        InMemoryUnitOfWork(),
        policy=policy("9.999999999999"),
        clock=SteppingClock(),
        ids=CountingIds(),
    )
    billing.confirm_purchase(ALICE, usd("123456.78"), payment="a:p")
    receipt = billing.confirm_purchase(ALICE, usd("0.01"), payment="a:q")
    newest = billing.statement(ALICE, limit=1).lines[0]
    return [
        str(receipt.shares[0].amount.value),
        str(receipt.balance.value),
        str(billing.balance(ALICE).available.value),
        str(newest.balance_after),
    ]


# Each computing entry point and its result. The numbers exceed the precision of each context.
ENTRY_POINTS: dict[str, tuple[Callable[[], object], str]] = {
    "credits": (lambda: credits(int(LARGE)), f"{LARGE} CREDIT"),
    "credits from text": (lambda: credits(LARGE), f"{LARGE} CREDIT"),
    "usd": (lambda: usd(Decimal(f"{LARGE}.89")), f"{LARGE}.89 USD"),
    "usd pads": (lambda: usd(f"-{LARGE}.8"), f"-{LARGE}.80 USD"),
    "usd_cents": (lambda: usd_cents(int(LARGE) * 100 + 89), f"{LARGE}.89 USD"),
    "usdc": (lambda: Amount(f"{LARGE}.123456", USDC), f"{LARGE}.123456 USDC"),
    "the bound": (lambda: credits(10**27), f"1{'0' * 27} CREDIT"),
    "the lower bound": (lambda: credits(-(10**27)), f"-1{'0' * 27} CREDIT"),
    "add": (lambda: credits(LARGE) + credits(1), "123456789012345678901234568 CREDIT"),
    "subtract": (lambda: credits(LARGE) - credits(8), "123456789012345678901234559 CREDIT"),
    "negate": (lambda: -credits(LARGE), f"-{LARGE} CREDIT"),
    "less": (lambda: credits(LARGE) < credits(LARGE) + credits(1), "True"),
    "greater or equal": (lambda: credits(LARGE) >= credits(LARGE) + credits(1), "False"),
    "equal": (lambda: credits(LARGE) == credits(LARGE) + credits(1), "False"),
    "hash": (lambda: len({usd(1), usd("1.00"), usd(Decimal("1.0"))}), "1"),
    "is_zero": (lambda: (credits(1) - credits(LARGE)).is_zero, "False"),
    "repr": (lambda: repr(credits(LARGE)), f"Amount('{LARGE}', CREDIT)"),
    "total": (lambda: total([credits(LARGE), credits(-1)], CREDIT), f"{LARGE[:-1]}6 CREDIT"),
    "product": (lambda: product(FRACTION, FRACTION), "1524155677489.000002469134000000000001"),
    "rounded_down": (lambda: rounded_down(FRACTION, USD), "1234567.00 USD"),
    "rounded_up": (lambda: rounded_up(FRACTION, USD), "1234567.01 USD"),
    "in_quanta": (lambda: in_quanta(FRACTION, 12), "1234567000000000001"),
    "from_quanta": (lambda: from_quanta(1234567, USDC), "1.234567 USDC"),
    "credits_for USD": (lambda: credits_for(usd("123456.78")), "1234567800000 CREDIT"),
    "credits_for USDC": (lambda: credits_for(Amount("0.123456", USDC)), "1234560 CREDIT"),
    "allocate": (
        lambda: [int(part.value) for part in allocate(credits(LARGE), [FRACTION, 7, 0])],
        "[123456089015809961787678305, 699996535717113556262, 0]",
    ),
    "shares_of": (
        lambda: policy("0.999999999999").shares_of(credits(LARGE), NOON)[0].amount,
        "123456789012222222112222221 CREDIT",
    ),
    "default shares": (
        lambda: RevenueSharePolicy.default().shares_of(credits(1234567), NOON)[0].amount,
        "308641 CREDIT",
    ),
    "to_dict": (
        lambda: policy("0.123456789012").to_dict()["rules"],
        f"({{'beneficiary': '{SYSTEM_ACCOUNT_ID}', 'rate': '0.123456789012'}},)",
    ),
    "a plan": (
        lambda: [str(leg.amount.value) for leg in planned(amount="123456.78").postings],
        "['1234567800000', '308641950000', '-1543209750000']",
    ),
    "a balance": (
        lambda: Balance(credits(LARGE), credits(1)).available,
        f"{LARGE[:-1]}6 CREDIT",
    ),
    "purchases": (
        purchased,
        "['999999', '1234567900000', '1234567900000', '1234567900000 CREDIT']",
    ),
}

REFUSED: dict[str, tuple[Callable[[], object], type[InvalidAmount | InvalidPolicy]]] = {
    "over the bound": (lambda: credits(10**27 + 1), InvalidAmount),
    "under the lower bound": (lambda: credits(-(10**27) - 1), InvalidAmount),
    "a float": (lambda: usd(0.5), InvalidAmount),  # type: ignore[arg-type]
    "a float of cents": (lambda: usd_cents(0.5), InvalidAmount),  # type: ignore[arg-type]
    "a float weight": (lambda: allocate(usd(1), [0.5]), InvalidAmount),  # type: ignore[list-item]
    "a quiet NaN": (lambda: usd(Decimal("NaN")), InvalidAmount),
    "a signalling NaN": (lambda: usd(Decimal("sNaN")), InvalidAmount),
    "a NaN weight": (lambda: allocate(usd(1), [Decimal("sNaN")]), InvalidAmount),
    "a NaN rate": (lambda: ShareRule(SYSTEM_ACCOUNT_ID, Decimal("sNaN")), InvalidPolicy),
    "too fine by one digit": (lambda: usd("123456.789"), InvalidAmount),
    "a rate too fine by one digit": (
        lambda: ShareRule(SYSTEM_ACCOUNT_ID, Decimal("0.1234567890123")),
        InvalidPolicy,
    ),
    "a rate just above ten": (
        lambda: ShareRule(SYSTEM_ACCOUNT_ID, Decimal("10.000000000001")),
        InvalidPolicy,
    ),
    "nothing": (lambda: credits_for(usd(0)), InvalidAmount),
}


def in_another_thread(call: Callable[[], Any]) -> Any:
    """The result of *call* in a thread with this thread's decimal context."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(copy_context().run, call).result()


@pytest.mark.usefixtures("hostile_context")
class TestHostileContexts:
    @pytest.mark.parametrize("name", ENTRY_POINTS)
    def test_a_result_is_the_same_in_a_hostile_context(self, name: str) -> None:
        call, expected = ENTRY_POINTS[name]

        assert str(call()) == expected

    @pytest.mark.parametrize("name", ENTRY_POINTS)
    def test_a_result_is_the_same_in_another_thread(self, name: str) -> None:
        call, expected = ENTRY_POINTS[name]

        assert in_another_thread(lambda: str(call())) == expected

    @pytest.mark.parametrize("name", REFUSED)
    def test_a_refusal_is_the_same_in_a_hostile_context(self, name: str) -> None:
        call, error = REFUSED[name]

        with pytest.raises(error) as caught:
            call()

        assert type(caught.value) is error

    def test_the_caller_keeps_its_context_and_finds_no_flag_raised(self) -> None:
        context = getcontext()
        before = (context.prec, context.rounding, context.traps.copy(), context.flags.copy())

        for call, _ in ENTRY_POINTS.values():
            call()

        assert getcontext() is context
        assert (context.prec, context.rounding, context.traps, context.flags) == before

    def test_the_other_thread_is_as_hostile_as_this_one(self) -> None:
        assert in_another_thread(lambda: getcontext().prec) == getcontext().prec


@pytest.mark.parametrize("name", ENTRY_POINTS)
def test_a_result_is_the_same_in_the_default_context(name: str) -> None:
    call, expected = ENTRY_POINTS[name]

    assert str(call()) == expected


def test_shown_has_all_digits_of_a_decimal() -> None:
    assert shown(exact_decimal("12345678901234567890")) == "Decimal('12345678901234567890')"
