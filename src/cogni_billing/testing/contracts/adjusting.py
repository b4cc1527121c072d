"""Contract: the corrections of operators."""

from __future__ import annotations

from datetime import timedelta

import pytest

from cogni_billing import (
    SYSTEM_TENANT_ID,
    AdjustmentReceipt,
    Amount,
    Billing,
    Difference,
    IdempotencyConflict,
    InsufficientCredits,
    PrivilegeRequired,
    TransactionKind,
    UnknownAccount,
    credits,
    usd,
)
from cogni_billing.domain.adjustments import AdjustmentRequest, plan_adjustment
from cogni_billing.domain.identity import ADJUSTMENTS, USAGE, tenant_id
from cogni_billing.ports.scope import UnitOfWork
from cogni_billing.testing.base import (
    ALICE,
    BOB,
    NOON,
    Contract,
    CountingIds,
    SteppingClock,
    Totals,
)

HOUR = timedelta(hours=1)
REASON = "Ticket 4711: the run was billed twice (sorry, Zoë)"


def adjust(billing: Billing, amount: int, reference: str = "ticket-1") -> AdjustmentReceipt:
    return billing.adjust(ALICE, credits(amount), reason=REASON, reference=reference)


class AdjustmentContract(Contract):
    """An operator can correct the credits of a tenant in both directions, for a reason."""

    @pytest.fixture
    def bought(self, billing: Billing) -> Billing:
        """Alice has bought 100 000 credits."""
        billing.confirm_purchase(ALICE, usd("0.01"), payment="stripe:pi_1")
        return billing

    @pytest.mark.parametrize("amount", [500, -500])
    def test_an_adjustment_changes_the_balance_and_the_contra_account(
        self, bought: Billing, totals: Totals, amount: int
    ) -> None:
        receipt = adjust(bought, amount)

        assert (receipt.adjusted, receipt.reason) == (credits(amount), REASON)
        assert (receipt.balance, receipt.replayed) == (credits(100_000 + amount), False)
        assert bought.balance(ALICE).available == receipt.balance
        assert totals()[ADJUSTMENTS] == -amount
        assert USAGE not in totals()
        assert bought.verify().violations == ()

    def test_the_reason_is_kept_and_found(self, bought: Billing) -> None:
        receipt = adjust(bought, -5)

        found = bought.find(ALICE, reference="ticket-1", kind=TransactionKind.ADJUSTMENT)

        assert found is not None
        assert (found.id, found.reason) == (receipt.transaction_id, REASON)
        assert bought.transaction(ALICE, receipt.transaction_id) == found
        (line,) = bought.statement(ALICE, kind="adjustment").lines
        assert (line.amount, line.reference) == (credits(-5), "ticket-1")

    def test_a_second_call_with_the_same_reference_is_a_replay(
        self, bought: Billing, totals: Totals
    ) -> None:
        first = adjust(bought, -500)
        before = totals()
        bought.charge(ALICE, credits(1), reference="run-1")

        again = adjust(bought, -500)

        assert again.replayed
        assert (again.transaction_id, again.balance) == (first.transaction_id, first.balance)
        assert totals()[ADJUSTMENTS] == before[ADJUSTMENTS]

    def test_another_amount_or_reason_conflicts(self, bought: Billing, totals: Totals) -> None:
        adjust(bought, -500)
        before = totals()

        with pytest.raises(IdempotencyConflict) as caught:
            bought.adjust(ALICE, credits(500), reason="other", reference="ticket-1")

        assert caught.value.differences == (
            Difference("amount", "-500 CREDIT", "500 CREDIT"),
            Difference("reason", REASON, "other"),
        )
        assert totals() == before

    def test_the_reference_of_another_kind_is_no_replay(self, bought: Billing) -> None:
        bought.charge(ALICE, credits(5), reference="ticket-1")

        assert not adjust(bought, 5).replayed

    def test_a_correction_is_never_refused_for_lack_of_credits(self, bought: Billing) -> None:
        bought.hold(ALICE, credits(60_000), reference="h")

        receipt = adjust(bought, -150_000)

        assert receipt.balance == credits(-50_000)
        assert bought.balance(ALICE).available == credits(-110_000)
        with pytest.raises(InsufficientCredits):
            bought.charge(ALICE, credits(1), reference="r")

    def test_credits_are_taken_of_purchased_ones_before_grants(self, bought: Billing) -> None:
        bought.grant(ALICE, credits(300), source="promo", reference="g")

        adjust(bought, -100_000, "t-1")
        untouched = [grant.remaining for grant in bought.grants(ALICE)]
        adjust(bought, -100, "t-2")
        touched = [grant.remaining for grant in bought.grants(ALICE)]

        assert (untouched, touched) == ([credits(300)], [credits(200)])
        assert bought.verify().violations == ()

    def test_added_credits_do_not_expire(self, bought: Billing, clock: SteppingClock) -> None:
        bought.grant(
            ALICE, credits(300), source="promo", reference="g", expires_at=clock.moment + HOUR
        )
        adjust(bought, 50)
        clock.moment += 2 * HOUR

        assert bought.balance(ALICE).available == credits(100_050)

    def test_an_adjustment_posts_due_expirations_first(
        self, bought: Billing, clock: SteppingClock
    ) -> None:
        bought.grant(
            ALICE, credits(300), source="promo", reference="g", expires_at=clock.moment + HOUR
        )
        clock.moment += 2 * HOUR

        assert adjust(bought, -10).balance == credits(99_990)
        kinds = [line.kind for line in bought.statement(ALICE, limit=2).lines]
        assert kinds == [TransactionKind.ADJUSTMENT, TransactionKind.EXPIRY]

    @pytest.mark.parametrize("amount", [1, -1])
    def test_a_tenant_without_an_account_is_unknown(
        self, billing: Billing, totals: Totals, amount: int
    ) -> None:
        with pytest.raises(UnknownAccount):
            adjust(billing, amount)

        assert totals() == {}

    def test_the_system_tenant_can_be_adjusted(self, bought: Billing, totals: Totals) -> None:
        receipt = bought.adjust(SYSTEM_TENANT_ID, credits(-7), reason="r", reference="t")

        assert receipt.balance == credits(24_993)
        assert totals()[ADJUSTMENTS] == 7
        assert bought.verify().violations == ()

    def test_the_largest_adjustment_is_exact(self, bought: Billing) -> None:
        largest = Amount("1" + "0" * 27, credits(1).unit)

        bought.adjust(ALICE, largest, reason=REASON, reference="t-1")
        back = bought.adjust(ALICE, -largest, reason=REASON, reference="t-2")

        assert back.balance == credits(100_000)

    def test_a_scope_of_a_tenant_may_not_adjust(
        self, bought: Billing, unit_of_work: UnitOfWork, totals: Totals
    ) -> None:
        before = totals()
        request = AdjustmentRequest(
            tenant=ALICE, amount=credits(5), reason="r", reference="t", actor=None, metadata=None
        )
        planned = plan_adjustment(request, at=NOON, transaction_id=CountingIds(count=900).new())

        with pytest.raises(PrivilegeRequired):
            unit_of_work.post(planned)
        with (
            pytest.raises(PrivilegeRequired),
            unit_of_work.scope(tenant_id(ALICE)) as scope,
        ):
            scope.ledger.post(planned)

        assert totals() == before

    def test_another_tenants_adjustment_is_not_found(self, bought: Billing) -> None:
        receipt = adjust(bought, 5)
        bought.open_account(BOB)

        assert bought.transaction(BOB, receipt.transaction_id) is None
