"""Contract: purchases."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial
from uuid import UUID

import pytest
from attrs import evolve

from cogni_billing import (
    CREDIT,
    SYSTEM_ACCOUNT_ID,
    SYSTEM_TENANT_ID,
    USD,
    USDC,
    Account,
    AccountId,
    Amount,
    Billing,
    BillingError,
    Difference,
    IdempotencyConflict,
    InvalidAmount,
    InvalidPolicy,
    InvalidReference,
    LedgerCorruption,
    PaymentAlreadyClaimed,
    PrivilegeRequired,
    PurchaseReceipt,
    RevenueSharePolicy,
    Share,
    ShareMode,
    ShareRule,
    TenantId,
    UnitMismatch,
    credits,
    usd,
)
from cogni_billing.domain.identity import ISSUANCE
from cogni_billing.domain.purchases import Purchase, plan_purchase, request_purchase
from cogni_billing.domain.transactions import Recorded, Transaction
from cogni_billing.ports.scope import UnitOfWork
from cogni_billing.testing.base import (
    ALICE,
    BOB,
    NOON,
    Contract,
    CountingIds,
    NewBilling,
    SteppingClock,
    Totals,
    purchase_totals,
)
from cogni_billing.testing.racing import at_once


def policy(rate: str, version: str = "v2", since: datetime = NOON) -> RevenueSharePolicy:
    return RevenueSharePolicy(
        version=version,
        effective_from=since,
        mode=ShareMode.BONUS,
        rules=(ShareRule(SYSTEM_ACCOUNT_ID, Decimal(rate)),),
    )


def planned(
    tenant: TenantId = ALICE,
    *,
    payment: str = "stripe:pi_1",
    amount: str = "10.00",
    metadata: Mapping[str, object] | None = None,
    number: int = 77,
) -> Transaction:
    purchase = Purchase(tenant=tenant, amount=usd(amount), payment=payment, metadata=metadata)
    return plan_purchase(
        request_purchase(purchase), RevenueSharePolicy.default(), NOON, UUID(int=number)
    )


def post(unit_of_work: UnitOfWork, transaction: Transaction) -> Recorded:
    return unit_of_work.run(transaction.tenant, lambda scope: scope.ledger.post(transaction))


class PurchaseContract(Contract):
    """A payment is one balanced transaction."""

    def test_ten_dollars_credit_the_customer_in_full_and_a_quarter_more_to_the_system(
        self, billing: Billing, totals: Totals
    ) -> None:
        receipt = billing.confirm_purchase(ALICE, usd("10.00"), payment="stripe:pi_1")

        assert receipt == PurchaseReceipt(
            transaction_id=UUID(int=1),
            credited=credits(100_000_000),
            shares=(Share(SYSTEM_ACCOUNT_ID, credits(25_000_000)),),
            balance=credits(100_000_000),
            replayed=False,
        )
        assert totals() == purchase_totals(ALICE, 100_000_000, 25_000_000)

    def test_a_purchase_opens_the_account_at_its_own_moment(self, billing: Billing) -> None:
        billing.confirm_purchase(ALICE, usd("10.00"), payment="stripe:pi_1")

        assert billing.open_account(ALICE).opened_at == NOON + timedelta(seconds=1)

    def test_the_balance_on_the_receipt_is_the_one_right_after(self, billing: Billing) -> None:
        billing.confirm_purchase(ALICE, usd("10.00"), payment="stripe:pi_1")

        second = billing.confirm_purchase(ALICE, usd("0.01"), payment="stripe:pi_2")

        assert second.balance == credits(100_100_000)
        assert billing.balance(ALICE).posted == credits(100_100_000)

    def test_a_replay_reports_the_first_outcome_and_writes_nothing(
        self, billing: Billing, totals: Totals
    ) -> None:
        first = billing.confirm_purchase(ALICE, usd("10.00"), payment="stripe:pi_1")
        billing.confirm_purchase(ALICE, usd("5.00"), payment="stripe:pi_2")
        before = totals()

        again = billing.confirm_purchase(ALICE, usd("10"), payment="stripe:pi_1")

        assert again == evolve(first, replayed=True)
        assert totals() == before

    def test_a_replay_keeps_the_shares_of_the_policy_then_in_force(
        self, billing: Billing, new_billing: NewBilling, totals: Totals
    ) -> None:
        first = billing.confirm_purchase(ALICE, usd("10.00"), payment="stripe:pi_1")
        before = totals()
        stricter = new_billing(policy=policy("0.5"), clock=SteppingClock(), ids=CountingIds(9))

        again = stricter.confirm_purchase(ALICE, usd("10.00"), payment="stripe:pi_1")

        assert again == evolve(first, replayed=True)
        assert totals() == before

    def test_a_replay_needs_no_policy_in_force(
        self, billing: Billing, new_billing: NewBilling, totals: Totals
    ) -> None:
        first = billing.confirm_purchase(ALICE, usd("10.00"), payment="stripe:pi_1")
        before = totals()
        future = policy("0.5", since=datetime(2030, 1, 1, tzinfo=UTC))
        early = new_billing(policy=future, clock=SteppingClock())

        again = early.confirm_purchase(ALICE, usd("10.00"), payment="stripe:pi_1")

        assert again == evolve(first, replayed=True)
        with pytest.raises(IdempotencyConflict):
            early.confirm_purchase(ALICE, usd("10.01"), payment="stripe:pi_1")
        assert totals() == before

    def test_a_recorded_purchase_is_read_back_unchanged(self, unit_of_work: UnitOfWork) -> None:
        metadata = {
            "order": 17,
            "note": "caf\u00e9 \U0001f600 \u202e",
            "ratio": 0.1,
            "big": 10**40,
            "tiny": 5e-324,
            "minus zero": -0.0,
            "flags": [True, False, None, [], {}],
            "deep": {"a": {"b": {"c": {"d": {"e": {"f": "g"}}}}}},
            "": "an empty key",
        }
        transaction = planned(metadata=metadata)
        first = post(unit_of_work, transaction)

        again = post(unit_of_work, evolve(transaction, id=UUID(int=78), metadata={}))

        assert first == Recorded(transaction, credits(100_000_000), replayed=False)
        assert again == Recorded(transaction, credits(100_000_000), replayed=True)
        assert list(again.transaction.metadata) == list(metadata)
        assert str(again.transaction.metadata["minus zero"]) == "-0.0"

    def test_another_amount_under_the_same_payment_conflicts_and_writes_nothing(
        self, billing: Billing, totals: Totals
    ) -> None:
        billing.confirm_purchase(ALICE, usd("10.00"), payment="stripe:pi_1")
        before = totals()

        with pytest.raises(IdempotencyConflict) as caught:
            billing.confirm_purchase(ALICE, usd("10.01"), payment="stripe:pi_1")

        assert caught.value.differences == (Difference("amount", "10.00 USD", "10.01 USD"),)
        assert totals() == before

    def test_the_same_number_in_another_unit_conflicts(self, billing: Billing) -> None:
        billing.confirm_purchase(ALICE, usd("10.00"), payment="stripe:pi_1")

        with pytest.raises(IdempotencyConflict) as caught:
            billing.confirm_purchase(ALICE, Amount("10", USDC), payment="stripe:pi_1")

        assert caught.value.differences == (Difference("amount", "10.00 USD", "10.000000 USDC"),)

    @pytest.mark.parametrize("amount", ["10.00", "99.00"])
    def test_a_payment_of_another_tenant_is_refused_without_naming_it(
        self, billing: Billing, totals: Totals, amount: str
    ) -> None:
        billing.confirm_purchase(ALICE, usd("10.00"), payment="stripe:pi_1")
        before = totals()

        with pytest.raises(PaymentAlreadyClaimed) as caught:
            billing.confirm_purchase(BOB, usd(amount), payment="stripe:pi_1")

        assert caught.value.payment == "stripe:pi_1"
        assert str(ALICE) not in f"{caught.value} {caught.value.args}"
        assert totals() == before

    @pytest.mark.parametrize("payment", ["stripe:PI_1", "stripe:pi_1.", "strip:epi_1"])
    def test_payments_are_compared_exactly(self, billing: Billing, payment: str) -> None:
        billing.confirm_purchase(ALICE, usd("10.00"), payment="stripe:pi_1")

        assert not billing.confirm_purchase(BOB, usd("10.00"), payment=payment).replayed

    def test_every_visible_ascii_character_may_stand_in_a_payment(self, billing: Billing) -> None:
        payment = "".join(map(chr, range(0x21, 0x7F)))
        billing.confirm_purchase(ALICE, usd("10.00"), payment=payment)

        assert billing.confirm_purchase(ALICE, usd("10.00"), payment=payment).replayed
        assert billing.statement(ALICE).lines[0].reference == payment

    def test_a_refused_call_does_not_burn_its_payment(
        self, billing: Billing, new_billing: NewBilling
    ) -> None:
        future = policy("0.5", since=datetime(2030, 1, 1, tzinfo=UTC))
        early = new_billing(policy=future, clock=SteppingClock())
        with pytest.raises(InvalidPolicy):
            early.confirm_purchase(ALICE, usd("10.00"), payment="stripe:pi_1")

        assert not billing.confirm_purchase(BOB, usd("10.00"), payment="stripe:pi_1").replayed

    def test_arguments_are_validated_before_the_key(self, billing: Billing) -> None:
        billing.confirm_purchase(ALICE, usd("10.00"), payment="stripe:pi_1")

        with pytest.raises(InvalidReference):
            billing.confirm_purchase(BOB, usd("99.00"), payment=" stripe:pi_1")

    def test_a_purchase_by_the_system_tenant_mints_no_share_for_itself(
        self, billing: Billing, totals: Totals
    ) -> None:
        billing.confirm_purchase(ALICE, usd("10.00"), payment="stripe:pi_1")

        receipt = billing.confirm_purchase(SYSTEM_TENANT_ID, usd("1.00"), payment="stripe:pi_2")
        billing.confirm_purchase(ALICE, usd("10.00"), payment="stripe:pi_3")
        again = billing.confirm_purchase(SYSTEM_TENANT_ID, usd("1.00"), payment="stripe:pi_2")

        assert receipt.credited == credits(10_000_000)
        assert receipt.shares == ()
        assert receipt.balance == credits(35_000_000)
        assert again == evolve(receipt, replayed=True)
        assert billing.balance(SYSTEM_TENANT_ID).available == credits(60_000_000)
        assert totals() == {
            AccountId(ALICE): Decimal(200_000_000),
            SYSTEM_ACCOUNT_ID: Decimal(60_000_000),
            ISSUANCE: Decimal(-260_000_000),
        }

    @pytest.mark.parametrize("rate", ["0", "0.000000000001"])
    def test_a_share_of_zero_is_on_the_receipt_and_makes_no_posting(
        self, new_billing: NewBilling, totals: Totals, rate: str
    ) -> None:
        billing = new_billing(policy=policy(rate), clock=SteppingClock())
        first = billing.confirm_purchase(ALICE, usd("0.01"), payment="stripe:pi_1")

        again = billing.confirm_purchase(ALICE, usd("0.01"), payment="stripe:pi_1")

        assert first.shares == (Share(SYSTEM_ACCOUNT_ID, credits(0)),)
        assert again == evolve(first, replayed=True)
        assert totals() == {AccountId(ALICE): Decimal(100_000), ISSUANCE: Decimal(-100_000)}

    def test_the_policy_without_shares_credits_the_customer_alone(
        self, new_billing: NewBilling, totals: Totals
    ) -> None:
        billing = new_billing(policy=RevenueSharePolicy.none())

        receipt = billing.confirm_purchase(ALICE, usd("1.00"), payment="stripe:pi_1")

        assert (receipt.credited, receipt.shares) == (credits(10_000_000), ())
        assert totals() == {AccountId(ALICE): 10_000_000, ISSUANCE: -10_000_000}
        assert billing.verify().violations == ()

    def test_the_largest_amount_is_exact_to_the_last_credit(
        self, new_billing: NewBilling, totals: Totals
    ) -> None:
        billing = new_billing(policy=policy("9.999999999999"), clock=SteppingClock())

        receipt = billing.confirm_purchase(ALICE, Amount(10**27, USD), payment="stripe:pi_1")
        billing.confirm_purchase(ALICE, Amount("0.000001", USDC), payment="stripe:pi_2")

        assert receipt.credited.value == 10**34
        assert receipt.shares[0].amount.value == 99_999_999_999_990_000_000_000_000_000_000_000
        assert billing.balance(ALICE).posted.value == 10**34 + 10
        assert sum(map(int, totals().values())) == 0

    def test_a_sum_beyond_the_largest_amount_is_no_purchase(
        self, billing: Billing, totals: Totals
    ) -> None:
        largest = Amount(10**27, USD)

        with pytest.raises(InvalidAmount) as caught:
            billing.confirm_purchase(ALICE, largest + largest, payment="stripe:pi_1")
        assert caught.value.field == "amount"
        assert "10^27" in caught.value.expected

        assert totals() == {}

    def test_an_amount_of_credits_is_refused_with_the_name_of_its_argument(
        self, billing: Billing
    ) -> None:
        with pytest.raises(UnitMismatch) as caught:
            billing.confirm_purchase(ALICE, credits(5), payment="stripe:pi_1")

        assert caught.value.field == "amount"

    def test_a_scope_posts_for_its_own_tenant_only(
        self, unit_of_work: UnitOfWork, totals: Totals
    ) -> None:
        transaction = planned()

        with pytest.raises(PrivilegeRequired):
            unit_of_work.run(BOB, lambda scope: scope.ledger.post(transaction))

        assert totals() == {}

    def test_an_id_that_was_given_before_is_refused(
        self, unit_of_work: UnitOfWork, totals: Totals
    ) -> None:
        post(unit_of_work, planned())
        before = totals()

        with pytest.raises(LedgerCorruption):
            post(unit_of_work, planned(payment="stripe:pi_2"))

        assert totals() == before

    def test_every_error_leaves_the_ledger_usable(self, billing: Billing) -> None:
        billing.confirm_purchase(ALICE, usd("10.00"), payment="stripe:pi_1")
        for tenant, amount in ((ALICE, "11.00"), (BOB, "10.00")):
            with pytest.raises(BillingError):
                billing.confirm_purchase(tenant, usd(amount), payment="stripe:pi_1")

        receipt = billing.confirm_purchase(ALICE, usd("1.00"), payment="stripe:pi_2")

        assert receipt.balance == Amount(110_000_000, CREDIT)


CALLERS = 50


class PurchaseRaces(Contract):
    """Concurrent purchases add up."""

    def test_fifty_confirmations_of_one_payment_credit_once(
        self, new_billing: NewBilling, totals: Totals
    ) -> None:
        billing = new_billing()

        def confirm() -> PurchaseReceipt:
            return billing.confirm_purchase(ALICE, usd("10.00"), payment="stripe:pi_1")

        receipts = at_once([confirm] * CALLERS)

        assert Counter(receipt.replayed for receipt in receipts) == {False: 1, True: CALLERS - 1}
        assert len({receipt.transaction_id for receipt in receipts}) == 1
        assert {receipt.balance for receipt in receipts} == {credits(100_000_000)}
        assert totals() == purchase_totals(ALICE, 100_000_000, 25_000_000)

    def test_concurrent_confirmations_by_twenty_tenants_credit_one(
        self, new_billing: NewBilling, totals: Totals
    ) -> None:
        billing = new_billing()
        tenants = [TenantId(UUID(int=number)) for number in range(1, 21)]

        def claim(tenant: TenantId) -> TenantId | None:
            try:
                billing.confirm_purchase(tenant, usd("10.00"), payment="stripe:pi_1")
            except PaymentAlreadyClaimed:
                return None
            return tenant

        winners = [
            winner for winner in at_once([partial(claim, tenant) for tenant in tenants]) if winner
        ]

        assert len(winners) == 1
        assert totals() == purchase_totals(winners[0], 100_000_000, 25_000_000)

    def test_purchases_of_one_tenant_at_once_leave_no_gap_between_balances(
        self, new_billing: NewBilling
    ) -> None:
        billing = new_billing()

        receipts = at_once(
            [
                partial(billing.confirm_purchase, ALICE, usd("1.00"), payment=f"stripe:{number}")
                for number in range(CALLERS)
            ]
        )

        balances = sorted(int(receipt.balance.value) for receipt in receipts)
        assert balances == [10_000_000 * n for n in range(1, CALLERS + 1)]
        lines = billing.statement(ALICE, limit=CALLERS).lines
        after = [line.balance_after for line in reversed(lines)]
        assert [int(balance.value) for balance in after] == balances

    def test_purchases_of_many_tenants_at_once_add_up_on_the_system_account(
        self, new_billing: NewBilling, totals: Totals
    ) -> None:
        billing = new_billing()
        tenants = [TenantId(UUID(int=number)) for number in range(1, CALLERS + 1)]

        at_once(
            [
                partial(billing.confirm_purchase, tenant, usd("0.03"), payment=f"stripe:{tenant}")
                for tenant in tenants
            ]
        )

        found = totals()
        assert found[SYSTEM_ACCOUNT_ID] == 75_000 * CALLERS
        assert sum(found.values(), Decimal(0)) == 0

    def test_concurrent_openings_agree_on_one_account(self, unit_of_work: UnitOfWork) -> None:
        def opened(second: int) -> Account:
            moment = NOON.replace(second=second)
            return unit_of_work.run(ALICE, lambda scope: scope.tenants.open_account(moment))

        accounts = at_once([partial(opened, second) for second in range(20)])

        assert len(set(accounts)) == 1
