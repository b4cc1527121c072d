"""Contract: refunds."""

from __future__ import annotations

from contextlib import suppress
from datetime import timedelta
from functools import partial
from typing import Any
from uuid import UUID

import pytest
from attrs import evolve

from cogni_billing import (
    SYSTEM_ACCOUNT_ID,
    SYSTEM_TENANT_ID,
    AccountId,
    Amount,
    Billing,
    BillingError,
    Difference,
    IdempotencyConflict,
    InsufficientCredits,
    InvalidAmount,
    InvalidInput,
    InvalidMetadata,
    InvalidReference,
    InvalidTenant,
    RefundExceedsPayment,
    RefundReceipt,
    RevenueSharePolicy,
    Share,
    ShareMode,
    ShareRule,
    Shortfall,
    TenantId,
    UnitMismatch,
    UnknownAccount,
    UnknownPayment,
    credits,
    usd,
)
from cogni_billing.domain.amounts import USDC
from cogni_billing.domain.identity import ISSUANCE, SHORTFALL
from cogni_billing.testing.base import (
    ALICE,
    BOB,
    NOON,
    Contract,
    CountingIds,
    NewBilling,
    SteppingClock,
    Totals,
)
from cogni_billing.testing.racing import at_once

HOUR = timedelta(hours=1)
PAYMENT = "stripe:pi_1"

EVERYONE = (ALICE, SYSTEM_TENANT_ID, BOB)


def policy(clawback: Shortfall = Shortfall.DEBT, beneficiary: TenantId = BOB) -> RevenueSharePolicy:
    rules = (ShareRule(SYSTEM_ACCOUNT_ID, "0.25"), ShareRule(AccountId(beneficiary), "0.1"))
    return RevenueSharePolicy("v1", NOON - HOUR, ShareMode.BONUS, rules, clawback)


def refuse(billing: Billing, amount: Amount | None = None) -> RefundReceipt:
    """Refund a part of Alice's payment unless that would leave her in debt."""
    return billing.refund(
        ALICE, payment=PAYMENT, amount=amount, reference="re_1", shortfall=Shortfall.REFUSE
    )


class PaymentContract(Contract):
    """Alice has paid a dollar: 10 000 000 credits, 2 500 000 and 1 000 000 shared on top."""

    @pytest.fixture
    def billing(self, new_billing: NewBilling, clock: SteppingClock) -> Billing:
        billing = new_billing(policy=policy(), clock=clock, ids=CountingIds())
        billing.open_account(BOB)
        billing.confirm_purchase(ALICE, usd("1.00"), payment=PAYMENT)
        return billing

    def posted(self, billing: Billing) -> list[int]:
        return [int(billing.balance(tenant).posted.value) for tenant in EVERYONE]

    def held(self, billing: Billing) -> list[int]:
        return [int(billing.balance(tenant).held.value) for tenant in EVERYONE]


class RefundContract(PaymentContract):
    """A refund takes back every leg in proportion, once, and never more than the payment."""

    def balances(self, billing: Billing) -> list[int]:
        """The balances of Alice, the system tenant and the beneficiary."""
        return [int(billing.balance(tenant).available.value) for tenant in EVERYONE]

    def test_a_full_refund_leaves_every_leg_at_zero(self, billing: Billing, totals: Totals) -> None:
        receipt = billing.refund(ALICE, payment=PAYMENT, reference="re_1")

        assert (receipt.refunded, receipt.total_refunded) == (usd("1.00"), usd("1.00"))
        assert (receipt.taken, receipt.shortfall) == (credits(10_000_000), credits(0))
        assert receipt.shares == (
            Share(SYSTEM_ACCOUNT_ID, credits(2_500_000)),
            Share(AccountId(BOB), credits(1_000_000)),
        )
        assert receipt.balance == credits(0)
        assert not receipt.replayed
        assert set(totals().values()) == {0}
        assert billing.verify().violations == ()

    def test_parts_add_up_to_the_whole(self, billing: Billing, totals: Totals) -> None:
        for number, cents in enumerate((33, 1, 17, 29, 20)):
            part = usd(f"0.{cents:02}")
            billing.refund(ALICE, payment=PAYMENT, amount=part, reference=f"re_{number}")

        assert set(totals().values()) == {0}
        assert billing.verify().violations == ()

    def test_a_part_takes_back_its_part_of_every_leg(self, billing: Billing) -> None:
        receipt = billing.refund(ALICE, payment=PAYMENT, amount=usd("0.40"), reference="re_1")

        assert self.balances(billing) == [6_000_000, 1_500_000, 600_000]
        assert receipt.total_refunded == usd("0.40")

    def test_a_refund_of_less_than_a_credit_on_each_account_is_recorded(
        self, new_billing: NewBilling, totals: Totals
    ) -> None:
        partners = [AccountId(UUID(int=number)) for number in range(1, 12)]
        rules = tuple(ShareRule(partner, "0.09") for partner in partners)
        split = RevenueSharePolicy("v1", NOON - HOUR, ShareMode.SPLIT, rules)
        billing = new_billing(policy=split, clock=SteppingClock(), ids=CountingIds())
        billing.confirm_purchase(ALICE, Amount("0.01", USDC), payment="evm:1")
        little = Amount("0.000001", USDC)

        refund = billing.refund(ALICE, payment="evm:1", amount=little, reference="r1")
        again = billing.refund(ALICE, payment="evm:1", amount=little, reference="r1")
        billing.open_dispute(ALICE, payment="evm:1", amount=little, reference="d1")
        loss = billing.lose_dispute(ALICE, payment="evm:1", reference="d1")
        seen = billing.transaction(ALICE, refund.transaction_id)
        checked = billing.verify()
        billing.refund(ALICE, payment="evm:1", reference="r2")

        assert (refund.refunded, refund.taken, refund.shortfall) == (little, *[credits(0)] * 2)
        assert (again.transaction_id, again.replayed) == (refund.transaction_id, True)
        assert (loss.refunded, loss.taken) == (little, credits(0))
        assert seen is not None
        assert [line.amount for line in seen.postings] == [credits(0)]
        assert checked.ok
        assert set(totals().values()) <= {0}
        assert billing.verify().violations == ()

    def test_a_refund_of_more_than_the_payment_is_refused(self, billing: Billing) -> None:
        billing.refund(ALICE, payment=PAYMENT, amount=usd("0.40"), reference="re_1")
        before = self.balances(billing)

        with pytest.raises(RefundExceedsPayment) as caught:
            billing.refund(ALICE, payment=PAYMENT, amount=usd("0.61"), reference="re_2")

        assert (caught.value.requested, caught.value.remaining) == (usd("0.61"), usd("0.60"))
        assert self.balances(billing) == before
        # The refused call leaves its key free.
        assert billing.refund(ALICE, payment=PAYMENT, reference="re_2").refunded == usd("0.60")

    def test_a_refund_after_a_full_refund_is_refused(self, billing: Billing) -> None:
        billing.refund(ALICE, payment=PAYMENT, reference="re_1")

        with pytest.raises(RefundExceedsPayment) as caught:
            billing.refund(ALICE, payment=PAYMENT, reference="re_2")

        assert caught.value.remaining == usd("0.00")

    def test_a_replay_returns_the_first_outcome(self, billing: Billing) -> None:
        def refund() -> Any:
            return billing.refund(ALICE, payment=PAYMENT, amount=usd("0.40"), reference="re_1")

        first = refund()
        billing.charge(ALICE, credits(5), reference="run-1")
        again = refund()

        assert again == evolve(first, replayed=True)
        assert first.balance == credits(6_000_000)
        assert self.balances(billing) == [5_999_995, 1_500_000, 600_000]

    @pytest.mark.parametrize(
        ("changed", "difference"),
        [
            ({"amount": usd("0.41")}, Difference("amount", "0.40 USD", "0.41 USD")),
            ({"amount": None}, Difference("amount", "0.40 USD", "what remains")),
            ({"shortfall": Shortfall.CLAMP}, Difference("shortfall", "debt", "clamp")),
            ({"payment": "stripe:pi_2"}, Difference("payment", PAYMENT, "stripe:pi_2")),
        ],
    )
    def test_another_refund_under_the_same_reference_conflicts(
        self, billing: Billing, changed: dict[str, Any], difference: Difference
    ) -> None:
        billing.confirm_purchase(ALICE, usd("1.00"), payment="stripe:pi_2")
        asked: dict[str, Any] = {"payment": PAYMENT, "amount": usd("0.40"), "reference": "re_1"}
        billing.refund(ALICE, **asked)
        before = self.balances(billing)

        with pytest.raises(IdempotencyConflict) as caught:
            billing.refund(ALICE, **asked | changed)

        assert caught.value.differences == (difference,)
        assert self.balances(billing) == before

    def test_a_refund_of_spent_credits_makes_a_debt_that_purchases_repay(
        self, billing: Billing
    ) -> None:
        billing.charge(ALICE, credits(9_000_000), reference="run-1")
        billing.charge(SYSTEM_TENANT_ID, credits(2_500_000), reference="run-1")

        receipt = billing.refund(ALICE, payment=PAYMENT, reference="re_1")

        assert (receipt.taken, receipt.shortfall) == (credits(10_000_000), credits(0))
        assert receipt.balance == credits(-9_000_000)
        assert self.balances(billing) == [-9_000_000, -2_500_000, 0]
        with pytest.raises(InsufficientCredits):
            billing.charge(ALICE, credits(1), reference="run-2")
        billing.confirm_purchase(ALICE, usd("1.00"), payment="stripe:pi_2")
        assert self.balances(billing) == [1_000_000, 0, 1_000_000]
        assert billing.verify().violations == ()

    def test_a_clamped_refund_takes_available_credits_and_the_platform_absorbs_the_rest(
        self, billing: Billing, totals: Totals
    ) -> None:
        billing.charge(ALICE, credits(9_000_000), reference="run-1")

        receipt = billing.refund(
            ALICE, payment=PAYMENT, reference="re_1", shortfall=Shortfall.CLAMP
        )

        assert (receipt.taken, receipt.shortfall) == (credits(1_000_000), credits(9_000_000))
        assert self.balances(billing) == [0, 0, 0]
        assert totals()[SHORTFALL] == -9_000_000
        assert totals()[ISSUANCE] == 0
        assert billing.verify().violations == ()

    def test_a_refund_that_refuses_a_debt_takes_all_of_its_part_or_is_not_recorded(
        self, billing: Billing, totals: Totals
    ) -> None:
        billing.charge(ALICE, credits(6_000_001), reference="run-1")
        before = totals()

        with pytest.raises(InsufficientCredits) as caught:
            refuse(billing, usd("0.40"))

        assert (caught.value.required, caught.value.available) == (
            credits(4_000_000),
            credits(3_999_999),
        )
        assert totals() == before
        billing.grant(ALICE, credits(1), source="promo:a", reference="g")
        receipt = refuse(billing, usd("0.40"))
        assert (receipt.taken, receipt.shortfall) == (credits(4_000_000), credits(0))
        assert receipt.balance == credits(0)
        assert refuse(billing, usd("0.40")) == evolve(receipt, replayed=True)
        assert billing.verify().violations == ()

    def test_a_refund_that_refuses_a_debt_takes_no_held_credits(self, billing: Billing) -> None:
        billing.hold(ALICE, credits(1), reference="h")

        with pytest.raises(InsufficientCredits) as caught:
            refuse(billing)

        assert caught.value.available == credits(9_999_999)

    def test_a_refund_that_refuses_a_debt_conflicts_with_one_that_allows_it(
        self, billing: Billing
    ) -> None:
        refuse(billing)

        with pytest.raises(IdempotencyConflict) as caught:
            billing.refund(ALICE, payment=PAYMENT, reference="re_1")

        assert caught.value.differences == (Difference("shortfall", "refuse", "debt"),)

    def test_a_refund_that_refuses_a_debt_lets_beneficiaries_fall_below_zero(
        self, billing: Billing
    ) -> None:
        billing.charge(SYSTEM_TENANT_ID, credits(1), reference="run-1")

        receipt = refuse(billing)

        assert receipt.taken == credits(10_000_000)
        assert billing.balance(SYSTEM_TENANT_ID).posted < credits(0)
        assert billing.verify().violations == ()

    def test_a_refund_that_refuses_a_debt_counts_due_expirations(
        self, billing: Billing, clock: SteppingClock
    ) -> None:
        billing.charge(ALICE, credits(1), reference="run-1")
        billing.grant(ALICE, credits(5), source="a", reference="g", expires_in=HOUR)
        clock.moment += 2 * HOUR

        with pytest.raises(InsufficientCredits) as caught:
            refuse(billing)

        assert caught.value.available == credits(9_999_999)

    def test_a_very_small_refund_of_a_debtor_takes_no_credits_and_is_recorded(
        self, new_billing: NewBilling
    ) -> None:
        rules = (ShareRule(SYSTEM_ACCOUNT_ID, "0.99"),)
        split = RevenueSharePolicy("v1", NOON - HOUR, ShareMode.SPLIT, rules)
        billing = new_billing(policy=split, clock=SteppingClock(), ids=CountingIds())
        billing.confirm_purchase(ALICE, Amount("0.01", USDC), payment=PAYMENT)
        billing.charge(ALICE, credits(10**6), reference="run-1", allow_overdraft=True)

        receipt = refuse(billing, Amount("0.000001", USDC))

        assert (receipt.taken, receipt.balance) == (credits(0), credits(1_000 - 10**6))
        assert billing.verify().violations == ()

    def test_a_clamped_refund_takes_nothing_from_a_debtor(self, billing: Billing) -> None:
        billing.charge(ALICE, credits(12_000_000), reference="run-1", allow_overdraft=True)

        receipt = billing.refund(
            ALICE, payment=PAYMENT, reference="re_1", shortfall=Shortfall.CLAMP
        )

        assert (receipt.taken, receipt.shortfall) == (credits(0), credits(10_000_000))
        assert receipt.balance == credits(-2_000_000)
        assert billing.statement(ALICE).lines[0].amount == credits(0)
        assert billing.verify().violations == ()

    def test_the_recorded_policy_decides_the_clawback_of_shares(
        self, new_billing: NewBilling, totals: Totals
    ) -> None:
        lenient = new_billing(policy=policy(Shortfall.CLAMP))
        lenient.open_account(BOB)
        lenient.confirm_purchase(ALICE, usd("1.00"), payment=PAYMENT)
        lenient.charge(BOB, credits(700_000), reference="run-1")
        lenient.hold(SYSTEM_TENANT_ID, credits(2_000_000), reference="run-1")
        strict = new_billing(policy=policy())

        receipt = strict.refund(ALICE, payment=PAYMENT, reference="re_1")

        assert [int(share.amount.value) for share in receipt.shares] == [500_000, 300_000]
        assert receipt.shortfall == credits(2_700_000)
        assert self.balances(strict) == [0, 0, 0]
        assert totals()[SHORTFALL] == -2_700_000
        assert strict.verify().violations == ()

    def test_a_refund_takes_purchased_credits_before_granted_ones(self, billing: Billing) -> None:
        billing.grant(ALICE, credits(500), source="promo:a", reference="a")
        billing.charge(ALICE, credits(200), reference="run-1")

        billing.refund(ALICE, payment=PAYMENT, amount=usd("0.99"), reference="re_1")
        assert [grant.remaining for grant in billing.grants(ALICE)] == [credits(300)]
        billing.charge(ALICE, credits(100_200), reference="run-2")  # 100 000 purchased
        assert [grant.remaining for grant in billing.grants(ALICE)] == []
        assert billing.verify().violations == ()

    def test_a_refund_takes_granted_credits_if_no_purchased_ones_are_left(
        self, billing: Billing, clock: SteppingClock
    ) -> None:
        billing.charge(ALICE, credits(9_999_900), reference="run-1")
        billing.grant(ALICE, credits(500), source="promo:a", reference="a", expires_at=NOON + HOUR)

        receipt = billing.refund(
            ALICE,
            payment=PAYMENT,
            amount=usd("0.01"),
            reference="re_1",
            shortfall=Shortfall.CLAMP,
        )

        assert receipt.taken == credits(600)
        assert billing.grants(ALICE) == ()
        clock.moment = NOON + 2 * HOUR
        assert billing.balance(ALICE).posted == credits(0)  # so no credits are left to expire
        assert billing.verify().violations == ()

    def test_due_expirations_come_first(self, billing: Billing, clock: SteppingClock) -> None:
        billing.grant(ALICE, credits(500), source="a", reference="a", expires_at=NOON + HOUR)
        clock.moment = NOON + HOUR

        receipt = billing.refund(ALICE, payment=PAYMENT, amount=usd("0.50"), reference="re_1")

        assert receipt.balance == credits(5_000_000)
        kinds = [line.kind for line in billing.statement(ALICE).lines]
        assert kinds == ["refund", "expiry", "grant", "purchase"]
        assert billing.verify().violations == ()

    def test_a_refund_does_not_take_the_granted_credits_of_a_beneficiary(
        self, new_billing: NewBilling
    ) -> None:
        billing = new_billing(policy=policy(Shortfall.CLAMP))
        billing.open_account(BOB)
        billing.confirm_purchase(ALICE, usd("1.00"), payment=PAYMENT)
        billing.charge(BOB, credits(1_000_000), reference="run-1")
        billing.grant(BOB, credits(50), source="promo:b", reference="b")

        receipt = billing.refund(ALICE, payment=PAYMENT, reference="re_1")

        assert receipt.shares[1].amount == credits(0)
        assert billing.balance(BOB).available == credits(50)
        assert billing.verify().violations == ()

    def test_a_refund_counts_due_expirations_of_a_beneficiary(
        self, new_billing: NewBilling, clock: SteppingClock
    ) -> None:
        billing = new_billing(policy=policy(Shortfall.CLAMP), clock=clock)
        billing.open_account(BOB)
        billing.grant(BOB, credits(70), source="promo:b", reference="b", expires_at=NOON + HOUR)
        billing.confirm_purchase(ALICE, usd("1.00"), payment=PAYMENT)
        billing.hold(BOB, credits(1_000_000), reference="run-1", expires_at=NOON + HOUR)
        clock.moment = NOON + 2 * HOUR

        receipt = billing.refund(ALICE, payment=PAYMENT, reference="re_1")

        assert receipt.shares[1].amount == credits(1_000_000)
        assert billing.balance(BOB).posted == credits(0)
        billing.sweep()
        assert billing.balance(BOB).posted == credits(0)
        assert billing.verify().violations == ()

    def test_a_refund_does_not_take_granted_credits_of_a_beneficiarys_expired_hold(
        self, new_billing: NewBilling, clock: SteppingClock
    ) -> None:
        billing = new_billing(policy=policy(Shortfall.CLAMP), clock=clock)
        billing.open_account(BOB)
        billing.grant(BOB, credits(70), source="promo:b", reference="b")
        billing.confirm_purchase(ALICE, usd("1.00"), payment=PAYMENT)
        billing.hold(BOB, credits(50), reference="run-1", expires_at=NOON + HOUR)
        billing.charge(BOB, credits(1_000_000), reference="run-2")
        clock.moment = NOON + 2 * HOUR

        receipt = billing.refund(ALICE, payment=PAYMENT, reference="re_1")

        assert receipt.shares[1].amount == credits(20)
        assert billing.balance(BOB).posted == credits(50)
        assert billing.verify().violations == ()

    @pytest.mark.parametrize("payment", ["stripe:pi_9", "stripe:re_1", "stripe:bobs"])
    def test_a_payment_that_is_not_the_tenants_is_unknown(
        self, billing: Billing, payment: str
    ) -> None:
        """An unused payment, a refund's reference and another tenant's payment look the same."""
        billing.confirm_purchase(BOB, usd("1.00"), payment="stripe:bobs")
        billing.refund(ALICE, payment=PAYMENT, amount=usd("0.10"), reference="stripe:re_1")
        before = self.balances(billing)

        with pytest.raises(UnknownPayment) as caught:
            billing.refund(ALICE, payment=payment, reference="re_2")

        assert caught.value.args == (payment,)
        assert self.balances(billing) == before

    def test_a_refund_for_a_tenant_without_an_account_is_refused(self, new_billing: Any) -> None:
        with pytest.raises(UnknownAccount):
            new_billing().refund(ALICE, payment=PAYMENT, reference="re_1")

    @pytest.mark.parametrize(
        ("given", "error"),
        [
            ({"tenant": str(ALICE)}, InvalidTenant),
            ({"amount": usd("0.00")}, InvalidAmount),
            ({"amount": usd("-0.10")}, InvalidAmount),
            ({"amount": 1}, InvalidAmount),
            ({"amount": credits(5)}, UnitMismatch),
            ({"payment": "two words"}, InvalidReference),
            ({"reference": ""}, InvalidReference),
            ({"shortfall": "debt"}, InvalidInput),
            ({"shortfall": None}, InvalidInput),
            ({"metadata": {"a": float("nan")}}, InvalidMetadata),
        ],
    )
    def test_bad_arguments_are_refused_and_take_nothing(
        self, billing: Billing, given: dict[str, Any], error: type[BillingError]
    ) -> None:
        asked: dict[str, Any] = {"tenant": ALICE, "payment": PAYMENT, "reference": "re_1"} | given

        with pytest.raises(error):
            billing.refund(**asked)

        assert self.balances(billing) == [10_000_000, 2_500_000, 1_000_000]

    def test_a_refund_is_found_and_is_on_every_statement(self, billing: Billing) -> None:
        receipt = billing.refund(
            ALICE, payment=PAYMENT, amount=usd("0.40"), reference="re_1", metadata={"by": "anna"}
        )

        found = billing.find(ALICE, kind="refund", reference="re_1")
        assert found == billing.transaction(ALICE, receipt.transaction_id)
        assert found is not None
        assert found.metadata == {"by": "anna"}
        assert [int(share.amount.value) for share in found.shares] == [-1_000_000, -400_000]
        lines = [billing.statement(t).lines[0] for t in (ALICE, SYSTEM_TENANT_ID, BOB)]
        assert [line.kind for line in lines] == ["refund"] * 3
        assert [line.reference for line in lines] == ["re_1", None, None]
        assert [int(line.amount.value) for line in lines] == [-4_000_000, -1_000_000, -400_000]

    def test_a_purchase_by_the_system_tenant_can_be_refunded(self, billing: Billing) -> None:
        billing.confirm_purchase(SYSTEM_TENANT_ID, usd("0.50"), payment="stripe:own")

        receipt = billing.refund(SYSTEM_TENANT_ID, payment="stripe:own", reference="re_1")

        assert [int(share.amount.value) for share in receipt.shares] == [500_000]
        assert self.balances(billing) == [10_000_000, 2_500_000, 1_000_000]
        assert billing.verify().violations == ()

    def test_a_past_balance_does_not_count_later_refunds(
        self, billing: Billing, clock: SteppingClock
    ) -> None:
        before = clock.moment
        billing.refund(ALICE, payment=PAYMENT, reference="re_1")
        billing.fold()

        assert billing.balance(SYSTEM_TENANT_ID, at=before).posted == credits(2_500_000)
        assert billing.balance(SYSTEM_TENANT_ID).posted == credits(0)


class RefundRaces(Contract):
    """Concurrent refunds return a payment once."""

    def test_concurrent_refunds_never_exceed_the_payment(
        self, new_billing: NewBilling, totals: Totals
    ) -> None:
        billing = new_billing(policy=policy())
        billing.confirm_purchase(ALICE, usd("1.00"), payment=PAYMENT)

        def refund(number: int) -> bool:
            try:
                billing.refund(ALICE, payment=PAYMENT, amount=usd("0.30"), reference=f"r{number}")
            except RefundExceedsPayment:
                return False
            return True

        done = at_once([partial(refund, number) for number in range(8)])

        assert done.count(True) == 3
        assert totals()[AccountId(ALICE)] == 1_000_000
        assert totals()[SYSTEM_ACCOUNT_ID] == 250_000
        assert billing.verify().violations == ()

    def test_concurrent_calls_of_one_refund_record_it_once(self, new_billing: NewBilling) -> None:
        billing = new_billing(policy=policy())
        billing.confirm_purchase(ALICE, usd("1.00"), payment=PAYMENT)

        receipts = at_once([lambda: billing.refund(ALICE, payment=PAYMENT, reference="re_1")] * 8)

        assert [receipt.replayed for receipt in receipts].count(False) == 1
        assert len({receipt.transaction_id for receipt in receipts}) == 1
        assert billing.verify().violations == ()

    def test_a_clamped_refund_and_charges_at_once_never_overdraw(
        self, new_billing: NewBilling, totals: Totals
    ) -> None:
        billing = new_billing(policy=policy(Shortfall.CLAMP))
        billing.open_account(BOB)
        billing.confirm_purchase(ALICE, usd("1.00"), payment=PAYMENT)

        def charge(number: int) -> None:
            for tenant, amount in ((ALICE, 3_000_000), (BOB, 300_000)):
                with suppress(InsufficientCredits):
                    billing.charge(tenant, credits(amount), reference=f"run-{number}")

        def refund(_: int) -> None:
            billing.refund(ALICE, payment=PAYMENT, reference="re", shortfall=Shortfall.CLAMP)

        calls = [charge, charge, refund, charge, charge]
        at_once([partial(call, number) for number, call in enumerate(calls)])

        assert all(billing.balance(each).posted >= credits(0) for each in EVERYONE)
        assert sum(totals().values()) == 0
        assert billing.verify().violations == ()
