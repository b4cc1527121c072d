"""Contract: purchases in any currency, at the price of a book."""

from __future__ import annotations

from datetime import timedelta

import pytest
from attrs import evolve

from cogni_billing import (
    SYSTEM_ACCOUNT_ID,
    AccountId,
    Amount,
    Billing,
    IdempotencyConflict,
    InvalidPrices,
    PriceBook,
    PriceBooks,
    Purchase,
    RefundExceedsPayment,
    RevenueSharePolicy,
    ShareMode,
    ShareRule,
    UnitMismatch,
    UnknownAccount,
    credits,
    money,
    usd,
)
from cogni_billing.domain.identity import ISSUANCE
from cogni_billing.testing.base import (
    ALICE,
    BOB,
    NOON,
    Contract,
    NewBilling,
    SteppingClock,
    Totals,
)

HOUR = timedelta(hours=1)
PAYMENT = "stripe:pi_1"
RATES: dict[str, int | str] = {"EUR": "10800000.5", "JPY": 65_000, "KWD": 32_500_000}
BOOK = PriceBook("2026-11", NOON - HOUR, RATES)


class PriceContract(Contract):
    """A payment buys credits at the price of its currency, which the purchase records."""

    @pytest.fixture
    def billing(self, new_billing: NewBilling) -> Billing:
        return new_billing(prices=BOOK, clock=SteppingClock())

    @pytest.mark.parametrize(
        ("paid", "credited", "share"),
        [
            (money("0.01", "EUR"), 108_001, 27_000),
            (money("12.34", "EUR"), 133_272_007, 33_318_001),
            (money("1", "JPY"), 65_000, 16_250),
            (money("0.001", "KWD"), 32_500, 8_125),
            (money(10**27, "EUR"), 108_000_005 * 10**26, 27_000_001_25 * 10**24),
        ],
        ids=str,
    )
    def test_a_payment_buys_at_the_price_of_its_currency_rounded_up(
        self, billing: Billing, totals: Totals, paid: Amount, credited: int, share: int
    ) -> None:
        receipt = billing.confirm_purchase(ALICE, paid, payment=PAYMENT)

        assert int(receipt.credited.value) == credited
        assert totals() == {
            AccountId(ALICE): credited,
            SYSTEM_ACCOUNT_ID: share,
            ISSUANCE: -credited - share,
        }
        assert billing.verify().violations == ()

    def test_a_currency_without_a_price_is_refused(self, billing: Billing, totals: Totals) -> None:
        with pytest.raises(UnitMismatch) as caught:
            billing.confirm_purchase(ALICE, money("1.00", "GBP"), payment=PAYMENT)

        assert (caught.value.field, caught.value.given) == ("amount", "GBP")
        assert totals() == {}
        with pytest.raises(UnknownAccount):
            billing.balance(ALICE)

    def test_a_dollar_has_the_price_of_the_protocol_unless_the_book_names_it(
        self, billing: Billing, new_billing: NewBilling
    ) -> None:
        cheaper = new_billing(prices=evolve(BOOK, rates={"USD": 8_000_000}), clock=SteppingClock())

        named = cheaper.confirm_purchase(ALICE, usd("1.00"), payment="stripe:pi_2")
        coin = cheaper.confirm_purchase(ALICE, money("1", "USDC"), payment="stripe:pi_3")

        protocol = billing.confirm_purchase(ALICE, usd("1.00"), payment=PAYMENT)
        assert (protocol.credited, named.credited, coin.credited) == (
            credits(10_000_000),
            credits(8_000_000),
            credits(10_000_000),
        )
        assert billing.verify().violations == ()

    def test_each_book_is_in_force_until_the_next_one_starts(self, new_billing: NewBilling) -> None:
        later = PriceBook("2026-12", NOON + HOUR, {"EUR": 9_000_000, "USD": 9_000_000})
        clock = SteppingClock()
        billing = new_billing(prices=PriceBooks((BOOK, later)), clock=clock)
        before = billing.confirm_purchase(ALICE, money("1.00", "EUR"), payment=PAYMENT)
        clock.moment = later.effective_from

        after = billing.confirm_purchase(ALICE, money("1.00", "EUR"), payment="stripe:pi_2")

        assert (before.credited, after.credited) == (credits(10_800_001), credits(9_000_000))
        with pytest.raises(UnitMismatch):
            billing.confirm_purchase(ALICE, money("1", "JPY"), payment="stripe:pi_3")
        assert billing.verify().violations == ()

    def test_a_book_that_is_not_in_force_yet_has_no_price(self, new_billing: NewBilling) -> None:
        later = PriceBook("2026-12", NOON + HOUR, {"EUR": 9_000_000, "USD": 9_000_000})
        billing = new_billing(prices=later, clock=SteppingClock())

        receipt = billing.confirm_purchase(ALICE, usd("1.00"), payment=PAYMENT)

        assert receipt.credited == credits(10_000_000)
        with pytest.raises(UnitMismatch):
            billing.confirm_purchase(ALICE, money("1.00", "EUR"), payment="stripe:pi_2")

    def test_a_replay_keeps_the_price_that_was_in_force_at_first(
        self, billing: Billing, new_billing: NewBilling
    ) -> None:
        first = billing.confirm_purchase(ALICE, money("1.00", "EUR"), payment=PAYMENT)
        dearer = new_billing(prices=evolve(BOOK, rates={"EUR": 5}), clock=SteppingClock())

        for other in (dearer, new_billing()):
            again = other.confirm_purchase(ALICE, money("1.00", "EUR"), payment=PAYMENT)
            assert again == evolve(first, replayed=True)

        with pytest.raises(IdempotencyConflict):
            new_billing().confirm_purchase(ALICE, money("2.00", "EUR"), payment=PAYMENT)

    def test_the_same_number_in_another_currency_conflicts(self, billing: Billing) -> None:
        billing.confirm_purchase(ALICE, money("10.00", "EUR"), payment=PAYMENT)

        with pytest.raises(IdempotencyConflict) as caught:
            billing.confirm_purchase(ALICE, usd("10.00"), payment=PAYMENT)

        [difference] = caught.value.differences
        assert (difference.stored, difference.requested) == ("10.00 EUR", "10.00 USD")

    def test_refunds_of_a_currency_need_no_book_and_add_up(
        self, billing: Billing, new_billing: NewBilling, totals: Totals
    ) -> None:
        billing.confirm_purchase(ALICE, money("1.001", "KWD"), payment=PAYMENT)
        plain = new_billing()

        first = plain.refund(ALICE, payment=PAYMENT, amount=money("0.3", "KWD"), reference="re_1")
        again = plain.refund(ALICE, payment=PAYMENT, amount=money("0.3", "KWD"), reference="re_1")
        rest = plain.refund(ALICE, payment=PAYMENT, reference="re_2")

        assert (again.refunded, again.replayed) == (money("0.300", "KWD"), True)
        assert (first.taken, rest.refunded) == (credits(9_750_000), money("0.701", "KWD"))
        assert rest.total_refunded == money("1.001", "KWD")
        assert set(totals().values()) == {0}
        assert plain.verify().violations == ()

    def test_a_refund_in_another_unit_or_beyond_the_payment_is_refused(
        self, billing: Billing
    ) -> None:
        billing.confirm_purchase(ALICE, money("1.00", "EUR"), payment=PAYMENT)

        with pytest.raises(UnitMismatch):
            billing.refund(ALICE, payment=PAYMENT, amount=usd("1.00"), reference="re_1")
        with pytest.raises(RefundExceedsPayment):
            billing.refund(ALICE, payment=PAYMENT, amount=money("1.01", "EUR"), reference="re_1")

        assert billing.balance(ALICE).posted == credits(10_800_001)

    def test_a_dispute_of_a_currency_takes_back_its_part(
        self, billing: Billing, new_billing: NewBilling
    ) -> None:
        billing.confirm_purchase(ALICE, money("1000", "JPY"), payment=PAYMENT)
        plain = new_billing()

        opened = plain.open_dispute(
            ALICE, payment=PAYMENT, amount=money("400", "JPY"), reference="dp_1"
        )
        lost = plain.lose_dispute(ALICE, payment=PAYMENT, reference="dp_1")

        assert opened.amount == lost.refunded == money("400", "JPY")
        assert lost.taken == credits(26_000_000)
        assert plain.balance(ALICE).posted == credits(39_000_000)
        assert plain.verify().violations == ()

    def test_a_split_divides_the_credits_of_a_price(self, new_billing: NewBilling) -> None:
        rules = (ShareRule(SYSTEM_ACCOUNT_ID, "0.25"),)
        split = RevenueSharePolicy("split", NOON - HOUR, ShareMode.SPLIT, rules)
        billing = new_billing(prices=BOOK, policy=split)

        receipt = billing.confirm_purchase(ALICE, money("1", "JPY"), payment=PAYMENT)

        assert (receipt.credited, receipt.shares[0].amount) == (credits(48_750), credits(16_250))
        assert billing.verify().violations == ()

    def test_a_batch_may_mix_currencies_and_expiries(self, billing: Billing) -> None:
        amounts = [money("1.00", "EUR"), usd("1.00"), money("1", "JPY"), money("1.00", "EUR")]
        batch = [
            Purchase(tenant=ALICE, amount=amount, payment=f"stripe:{n}", expires_in=expires_in)
            for n, (amount, expires_in) in enumerate(zip(amounts, [None, HOUR] * 2, strict=True))
        ]

        outcomes = billing.confirm_purchases(
            [*batch, evolve(batch[0], tenant=BOB, payment="stripe:b")]
        )

        bought = [int(outcome.receipt.credited.value) for outcome in outcomes if outcome.receipt]
        assert bought == [10_800_001, 10_000_000, 65_000, 10_800_001, 10_800_001]
        assert billing.verify().violations == ()

    def test_prices_of_another_type_are_refused(self, new_billing: NewBilling) -> None:
        with pytest.raises(InvalidPrices):
            new_billing(prices={"EUR": 1})
