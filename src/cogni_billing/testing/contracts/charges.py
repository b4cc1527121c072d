"""Contract: charges."""

from __future__ import annotations

from decimal import Decimal
from functools import partial
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
    ChargeReceipt,
    Difference,
    IdempotencyConflict,
    InsufficientCredits,
    InvalidAmount,
    InvalidInput,
    InvalidReference,
    UnitMismatch,
    UnknownAccount,
    credits,
    usd,
)
from cogni_billing.domain.identity import ISSUANCE, USAGE
from cogni_billing.testing.base import ALICE, BOB, Contract, NewBilling, Totals
from cogni_billing.testing.racing import at_once


class ChargeContract(Contract):
    """Credits are taken once, and only available ones."""

    @pytest.fixture
    def rich(self, billing: Billing) -> Billing:
        """Alice has 1 000 000 credits, the system tenant 250 000."""
        billing.confirm_purchase(ALICE, usd("0.10"), payment="stripe:pi_1")
        return billing

    def test_a_charge_takes_credits_and_books_them_as_usage(
        self, rich: Billing, totals: Totals
    ) -> None:
        receipt = rich.charge(ALICE, credits(1200), reference="run-7/0/call-3")

        assert receipt == ChargeReceipt(
            transaction_id=UUID(int=2),
            charged=credits(1200),
            balance=credits(998_800),
            replayed=False,
        )
        assert not receipt.overdrawn
        assert rich.balance(ALICE).available == credits(998_800)
        assert totals() == {
            ALICE: 998_800,
            SYSTEM_ACCOUNT_ID: 250_000,
            ISSUANCE: -1_250_000,
            USAGE: 1200,
        }

    def test_a_charge_may_take_all_credits_and_not_one_more(
        self, rich: Billing, totals: Totals
    ) -> None:
        before = totals()
        with pytest.raises(InsufficientCredits) as caught:
            rich.charge(ALICE, credits(1_000_001), reference="run-1")

        assert caught.value.required == credits(1_000_001)
        assert caught.value.available == credits(1_000_000)
        assert totals() == before
        assert rich.charge(ALICE, credits(1_000_000), reference="run-1").balance == credits(0)

    def test_a_refused_charge_does_not_burn_its_reference(self, rich: Billing) -> None:
        with pytest.raises(InsufficientCredits):
            rich.charge(ALICE, credits(2_000_000), reference="run-1")

        assert not rich.charge(ALICE, credits(5), reference="run-1").replayed

    def test_an_allowed_overdraft_takes_the_balance_below_zero(
        self, rich: Billing, totals: Totals
    ) -> None:
        receipt = rich.charge(ALICE, credits(1_500_000), reference="run-1", allow_overdraft=True)

        assert receipt.overdrawn
        assert receipt.balance == credits(-500_000)
        assert rich.balance(ALICE).available == credits(-500_000)
        assert sum(totals().values(), Decimal(0)) == 0

    def test_an_overdraft_is_repaid_by_the_next_purchase(self, rich: Billing) -> None:
        rich.charge(ALICE, credits(1_500_000), reference="run-1", allow_overdraft=True)
        with pytest.raises(InsufficientCredits) as caught:
            rich.charge(ALICE, credits(1), reference="run-2")

        repaid = rich.confirm_purchase(ALICE, usd("0.10"), payment="stripe:pi_2")

        assert caught.value.available == credits(-500_000)
        assert repaid.balance == credits(500_000)

    def test_an_allowed_overdraft_that_is_not_needed_has_no_effect(self, rich: Billing) -> None:
        receipt = rich.charge(ALICE, credits(5), reference="run-1", allow_overdraft=True)

        assert receipt.balance == credits(999_995)
        assert not receipt.overdrawn

    def test_a_replay_without_credits_left_returns_the_first_outcome(
        self, rich: Billing, totals: Totals
    ) -> None:
        first = rich.charge(ALICE, credits(600_000), reference="run-1")
        rich.charge(ALICE, credits(400_000), reference="run-2")
        before = totals()

        again = rich.charge(ALICE, credits(600_000), reference="run-1", metadata={"late": True})

        assert again == evolve(first, replayed=True)
        assert totals() == before

    @pytest.mark.parametrize(
        ("amount", "overdraft", "difference"),
        [
            (6, False, Difference("amount", "5 CREDIT", "6 CREDIT")),
            (5, True, Difference("allow_overdraft", "False", "True")),
        ],
    )
    def test_another_request_under_the_same_reference_conflicts(
        self, rich: Billing, totals: Totals, amount: int, overdraft: bool, difference: Difference
    ) -> None:
        rich.charge(ALICE, credits(5), reference="run-1")
        before = totals()

        with pytest.raises(IdempotencyConflict) as caught:
            rich.charge(ALICE, credits(amount), reference="run-1", allow_overdraft=overdraft)

        assert caught.value.differences == (difference,)
        assert totals() == before

    def test_a_conflict_comes_before_the_state_of_the_ledger(self, rich: Billing) -> None:
        rich.charge(ALICE, credits(5), reference="run-1")

        with pytest.raises(IdempotencyConflict):
            rich.charge(ALICE, credits(10**9), reference="run-1")

    def test_tenants_and_kinds_have_references_of_their_own(self, rich: Billing) -> None:
        rich.confirm_purchase(BOB, usd("0.10"), payment="stripe:pi_2")
        rich.charge(ALICE, credits(5), reference="run-1")

        assert not rich.charge(BOB, credits(7), reference="run-1").replayed
        assert not rich.charge(ALICE, credits(7), reference="stripe:pi_1").replayed

    def test_a_tenant_without_an_account_cannot_be_charged(
        self, billing: Billing, totals: Totals
    ) -> None:
        for overdraft in (False, True):
            with pytest.raises(UnknownAccount) as caught:
                billing.charge(ALICE, credits(1), reference="run-1", allow_overdraft=overdraft)
            assert caught.value.tenant == ALICE

        assert totals() == {}

    def test_a_charge_on_a_new_account_is_refused(self, billing: Billing) -> None:
        billing.open_account(ALICE)

        with pytest.raises(InsufficientCredits) as caught:
            billing.charge(ALICE, credits(1), reference="run-1")
        incurred = billing.charge(ALICE, credits(1), reference="run-1", allow_overdraft=True)

        assert caught.value.available == credits(0)
        assert incurred.balance == credits(-1)

    @pytest.mark.parametrize(
        ("given", "error"),
        [
            ({"amount": credits(-1)}, InvalidAmount),
            ({"amount": 5}, InvalidAmount),
            ({"amount": Amount.computed(Decimal(10**28), credits(1).unit)}, InvalidAmount),
            ({"amount": usd("1.00")}, UnitMismatch),
            ({"reference": "run 1"}, InvalidReference),
            ({"allow_overdraft": 1}, InvalidInput),
            ({"allow_overdraft": None}, InvalidInput),
            ({"at_most": 1}, InvalidInput),
        ],
    )
    def test_bad_arguments_are_refused_and_leave_nothing(
        self,
        rich: Billing,
        totals: Totals,
        given: dict[str, object],
        error: type[BillingError],
    ) -> None:
        before = totals()
        arguments = {"amount": credits(5), "reference": "run-1"} | given

        with pytest.raises(error):
            rich.charge(ALICE, **arguments)  # type: ignore[arg-type]

        assert totals() == before


class SystemTenantSpendsContract(Contract):
    """The system tenant pays for its own work with its shares."""

    @pytest.fixture
    def earned(self, billing: Billing) -> Billing:
        """The system tenant has 500 000 credits from two purchases."""
        for tenant in (ALICE, BOB):
            billing.confirm_purchase(tenant, usd("0.10"), payment=f"stripe:{tenant}")
        return billing

    def test_the_system_tenant_is_charged_like_any_tenant(
        self, earned: Billing, totals: Totals
    ) -> None:
        receipt = earned.charge(SYSTEM_TENANT_ID, credits(200_000), reference="run-1")

        assert receipt.balance == credits(300_000)
        assert earned.balance(SYSTEM_TENANT_ID).available == credits(300_000)
        assert totals()[SYSTEM_ACCOUNT_ID] == 300_000
        assert totals()[USAGE] == 200_000

    @pytest.mark.parametrize("folded", [False, True])
    def test_the_system_tenant_cannot_be_charged_below_zero(
        self, earned: Billing, folded: bool
    ) -> None:
        if folded:
            earned.fold()
        earned.charge(SYSTEM_TENANT_ID, credits(500_000), reference="run-1")

        with pytest.raises(InsufficientCredits) as caught:
            earned.charge(SYSTEM_TENANT_ID, credits(1), reference="run-2")

        assert caught.value.available == credits(0)

    def test_the_system_tenant_can_spend_later_arrivals(self, earned: Billing) -> None:
        earned.charge(SYSTEM_TENANT_ID, credits(500_000), reference="run-1")
        earned.confirm_purchase(ALICE, usd("0.10"), payment="stripe:pi_9")

        receipt = earned.charge(SYSTEM_TENANT_ID, credits(250_000), reference="run-2")

        assert receipt.balance == credits(0)


class AtMostContract(Contract):
    """A charge of zero is recorded, and a charge of at most an amount takes no more."""

    @pytest.fixture
    def few(self, billing: Billing) -> Billing:
        """Alice has seven granted credits."""
        billing.grant(ALICE, credits(7), source="promo:a", reference="a")
        return billing

    def test_a_charge_of_zero_records_a_line(self, few: Billing, totals: Totals) -> None:
        before = totals()

        receipt = few.charge(ALICE, credits(0), reference="free", metadata={"tier": "free"})

        assert (receipt.charged, receipt.balance, receipt.draws) == (credits(0), credits(7), ())
        assert few.charge(ALICE, credits(0), reference="free") == evolve(receipt, replayed=True)
        [line, _] = few.statement(ALICE).lines
        assert (line.reference, line.amount, line.balance_after) == ("free", credits(0), credits(7))
        assert line.metadata == {"tier": "free"}
        assert {**totals(), USAGE: 0} == {**before, USAGE: 0}
        assert few.verify().violations == ()

    def test_a_charge_of_zero_conflicts_with_another_amount(self, few: Billing) -> None:
        few.charge(ALICE, credits(0), reference="free")

        with pytest.raises(IdempotencyConflict) as caught:
            few.charge(ALICE, credits(1), reference="free")

        assert caught.value.differences == (Difference("amount", "0 CREDIT", "1 CREDIT"),)

    def test_a_charge_of_zero_is_recorded_without_credits_and_in_debt(self, few: Billing) -> None:
        few.charge(ALICE, credits(9), reference="run-1", allow_overdraft=True)

        assert few.charge(ALICE, credits(0), reference="free").balance == credits(-2)
        assert few.verify().violations == ()

    def test_charges_of_zero_in_a_batch_are_recorded(self, few: Billing) -> None:
        outcomes = few.charge_many(
            [{"tenant": ALICE, "amount": credits(n), "reference": f"{n}"} for n in (0, 7, 0)]
        )

        assert [outcome.state for outcome in outcomes] == ["done", "done", "replayed"]

    def test_a_charge_of_at_most_more_than_is_there_takes_what_is_there(
        self, few: Billing, totals: Totals
    ) -> None:
        few.hold(ALICE, credits(2), reference="job-1")

        receipt = few.charge(ALICE, credits(9), reference="run-1", at_most=True)

        assert (receipt.charged, receipt.balance) == (credits(5), credits(2))
        assert [draw.amount for draw in receipt.draws] == [credits(5)]
        few.grant(ALICE, credits(50), source="promo:b", reference="b")
        again = few.charge(ALICE, credits(9), reference="run-1", at_most=True)
        assert again == evolve(receipt, replayed=True)
        assert totals()[USAGE] == 5
        assert few.verify().violations == ()

    def test_a_charge_of_at_most_what_is_there_takes_it_all(self, few: Billing) -> None:
        receipt = few.charge(ALICE, credits(7), reference="run-1", at_most=True)

        assert (receipt.charged, receipt.balance) == (credits(7), credits(0))

    def test_a_charge_of_at_most_an_amount_takes_no_credits_of_a_balance_in_debt(
        self, few: Billing
    ) -> None:
        few.charge(ALICE, credits(9), reference="run-1", allow_overdraft=True)

        receipt = few.charge(ALICE, credits(9), reference="run-2", at_most=True)

        assert (receipt.charged, receipt.balance) == (credits(0), credits(-2))

    def test_charges_of_at_most_an_amount_in_a_batch_share_what_is_there(
        self, few: Billing
    ) -> None:
        outcomes = few.charge_many(
            [
                {"tenant": ALICE, "amount": credits(4), "reference": f"{n}", "at_most": True}
                for n in range(3)
            ]
        )

        charged = [outcome.receipt and outcome.receipt.charged for outcome in outcomes]
        assert charged == [credits(4), credits(3), credits(0)]

    def test_a_charge_of_at_most_an_amount_differs_from_a_charge_of_it(self, few: Billing) -> None:
        few.charge(ALICE, credits(9), reference="run-1", at_most=True)

        with pytest.raises(IdempotencyConflict) as caught:
            few.charge(ALICE, credits(8), reference="run-1")

        assert caught.value.differences == (
            Difference("amount", "9 CREDIT", "8 CREDIT"),
            Difference("at_most", "True", "False"),
        )

    def test_a_charge_of_at_most_an_amount_allows_no_overdraft(
        self, few: Billing, totals: Totals
    ) -> None:
        before = totals()

        with pytest.raises(InvalidInput) as caught:
            few.charge(ALICE, credits(9), reference="run-1", at_most=True, allow_overdraft=True)

        assert caught.value.field == "at_most"
        assert totals() == before


class ChargeRaces(Contract):
    """Concurrent charges take available credits only."""

    def test_concurrent_charges_never_take_more_than_is_available(
        self, new_billing: NewBilling, totals: Totals
    ) -> None:
        billing = new_billing()
        billing.confirm_purchase(ALICE, usd("0.01"), payment="stripe:pi_1")

        def spend(number: int) -> ChargeReceipt | None:
            try:
                return billing.charge(ALICE, credits(7_000), reference=f"run-{number}")
            except InsufficientCredits:
                return None

        outcomes = at_once([partial(spend, number) for number in range(25)])

        assert sum(outcome is not None for outcome in outcomes) == 14
        assert totals()[AccountId(ALICE)] == 2_000
        assert {outcome.balance for outcome in outcomes if outcome} == {
            credits(100_000 - 7_000 * count) for count in range(1, 15)
        }

    def test_one_reference_at_once_is_charged_once(
        self, new_billing: NewBilling, totals: Totals
    ) -> None:
        billing = new_billing()
        billing.confirm_purchase(ALICE, usd("0.01"), payment="stripe:pi_1")

        receipts = at_once([partial(billing.charge, ALICE, credits(9), reference="run-1")] * 20)

        assert sum(not receipt.replayed for receipt in receipts) == 1
        assert totals()[AccountId(ALICE)] == 99_991

    def test_concurrent_charges_and_purchases_of_the_system_tenant_add_up(
        self, new_billing: NewBilling, totals: Totals
    ) -> None:
        billing = new_billing()
        billing.confirm_purchase(ALICE, usd("0.10"), payment="stripe:first")

        def spend(number: int) -> int:
            try:
                billing.charge(SYSTEM_TENANT_ID, credits(60_000), reference=f"run-{number}")
            except InsufficientCredits:
                return 0
            return 60_000

        def buy(number: int) -> int:
            billing.confirm_purchase(ALICE, usd("0.01"), payment=f"stripe:{number}")
            return 0

        calls = [partial(call, number) for number in range(12) for call in (spend, buy)]
        spent = sum(at_once(calls))

        left = 250_000 + 12 * 25_000 - spent
        assert left >= 0
        assert totals()[SYSTEM_ACCOUNT_ID] == left
        assert billing.balance(SYSTEM_TENANT_ID).posted == credits(left)
        lines = billing.statement(SYSTEM_TENANT_ID).lines
        assert lines[0].balance_after == credits(left)
