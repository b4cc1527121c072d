"""Contract: frozen accounts spend nothing."""

from __future__ import annotations

from datetime import timedelta

import pytest

from cogni_billing import (
    SYSTEM_TENANT_ID,
    AccountFrozen,
    Billing,
    Freeze,
    Hold,
    Overrun,
    TenantId,
    UnknownAccount,
    credits,
    usd,
)
from cogni_billing.testing.base import ALICE, BOB, Contract, SteppingClock, Totals

HOUR = timedelta(hours=1)
REASON = "Fraud case 12: stolen card (Zoë)"


class FreezeContract(Contract):
    """A frozen account spends nothing. Everything else still happens."""

    @pytest.fixture
    def held(self, billing: Billing) -> Hold:
        """Alice has 99 900 credits available, and an open hold of 100."""
        billing.confirm_purchase(ALICE, usd("0.01"), payment="stripe:pi_1")
        billing.charge(ALICE, credits(5), reference="before")
        return billing.hold(ALICE, credits(100), reference="h")

    def test_a_freeze_is_shown_by_the_account_until_it_ends(
        self, billing: Billing, clock: SteppingClock, held: Hold
    ) -> None:
        frozen = billing.freeze(ALICE, REASON)
        freeze = Freeze(REASON, clock.moment)

        assert frozen.freeze == billing.open_account(ALICE).freeze == freeze
        assert billing.unfreeze(ALICE) == billing.open_account(ALICE)
        assert billing.open_account(ALICE).freeze is None

    @pytest.mark.parametrize("overdraft", [False, True])
    def test_a_charge_is_refused(
        self, billing: Billing, held: Hold, totals: Totals, overdraft: bool
    ) -> None:
        since = billing.freeze(ALICE, REASON).freeze
        before = totals()

        with pytest.raises(AccountFrozen) as caught:
            billing.charge(ALICE, credits(1), reference="r", allow_overdraft=overdraft)

        assert since is not None
        assert caught.value.since == since.since
        assert REASON not in str(caught.value)
        assert totals() == before
        billing.unfreeze(ALICE)
        assert not billing.charge(ALICE, credits(1), reference="r").replayed

    def test_a_frozen_account_is_refused_before_its_credits_are_counted(
        self, billing: Billing, held: Hold
    ) -> None:
        billing.freeze(ALICE, REASON)

        with pytest.raises(AccountFrozen):
            billing.charge(ALICE, credits(10**9), reference="r")
        with pytest.raises(AccountFrozen):
            billing.hold(ALICE, credits(10**9), reference="r")

    def test_a_hold_is_refused(self, billing: Billing, held: Hold) -> None:
        billing.freeze(ALICE, REASON)

        with pytest.raises(AccountFrozen):
            billing.hold(ALICE, credits(1), reference="other")

        assert billing.balance(ALICE).held == credits(100)

    def test_a_hold_cannot_be_extended(self, billing: Billing, held: Hold) -> None:
        billing.freeze(ALICE, REASON)

        with pytest.raises(AccountFrozen):
            billing.extend(ALICE, held.id, credits(1), reference="x")

        assert billing.balance(ALICE).held == credits(100)

    @pytest.mark.parametrize("overrun", [Overrun.AVAILABLE, Overrun.OVERDRAFT])
    def test_a_capture_takes_no_more_than_the_hold(
        self, billing: Billing, held: Hold, overrun: Overrun
    ) -> None:
        billing.freeze(ALICE, REASON)

        with pytest.raises(AccountFrozen):
            billing.capture(ALICE, held.id, credits(101), reference="c", overrun=overrun)

        captured = billing.capture(ALICE, held.id, credits(100), reference="c", overrun=overrun)
        assert captured.balance == credits(99_895)

    def test_a_charge_of_at_most_an_amount_is_refused(self, billing: Billing, held: Hold) -> None:
        billing.freeze(ALICE, REASON)

        with pytest.raises(AccountFrozen):
            billing.charge(ALICE, credits(1), reference="r", at_most=True)
        with pytest.raises(AccountFrozen):
            billing.charge(ALICE, credits(0), reference="r")

    def test_a_charge_of_a_batch_is_refused_alone(self, billing: Billing, held: Hold) -> None:
        billing.confirm_purchase(BOB, usd("0.01"), payment="stripe:pi_bob")
        billing.freeze(ALICE, REASON)

        outcomes = billing.charge_many(
            {"tenant": tenant, "amount": credits(1), "reference": "r"} for tenant in (ALICE, BOB)
        )

        assert [type(outcome.error) for outcome in outcomes] == [AccountFrozen, type(None)]

    def test_replays_are_answered(self, billing: Billing, held: Hold) -> None:
        billing.freeze(ALICE, REASON)

        assert billing.charge(ALICE, credits(5), reference="before").replayed
        assert billing.hold(ALICE, credits(100), reference="h").replayed

    def test_everything_but_spending_still_happens(
        self, billing: Billing, clock: SteppingClock, held: Hold
    ) -> None:
        other = billing.hold(ALICE, credits(50), reference="other")
        billing.grant(
            ALICE, credits(7), source="a", reference="lapse", expires_at=clock.moment + HOUR
        )
        billing.freeze(ALICE, REASON)
        clock.moment += 2 * HOUR

        billing.confirm_purchase(ALICE, usd("0.02"), payment="stripe:pi_2")
        billing.grant(ALICE, credits(10), source="a", reference="g")
        billing.capture(ALICE, held.id, credits(60), reference="c")
        billing.release(ALICE, other.id)
        billing.adjust(ALICE, credits(-3), reason="r", reference="t")
        billing.refund(ALICE, payment="stripe:pi_1", reference="re")
        billing.open_dispute(ALICE, payment="stripe:pi_2", reference="dp")
        billing.lose_dispute(ALICE, payment="stripe:pi_2", reference="dp")

        kinds = [line.kind.value for line in billing.statement(ALICE, limit=7).lines]
        assert kinds == [
            *("chargeback", "refund", "adjustment", "capture", "grant", "purchase", "expiry")
        ]
        assert billing.balance(ALICE).available == credits(10 - 5 - 60 - 3)
        assert billing.verify().violations == ()

    def test_shares_still_arrive_at_a_frozen_beneficiary(self, billing: Billing) -> None:
        billing.freeze(SYSTEM_TENANT_ID, REASON)

        billing.confirm_purchase(ALICE, usd("0.01"), payment="stripe:pi_1")

        assert billing.balance(SYSTEM_TENANT_ID).posted == credits(25_000)
        with pytest.raises(AccountFrozen):
            billing.charge(SYSTEM_TENANT_ID, credits(1), reference="r")

    def test_a_refused_call_keeps_due_expirations(
        self, billing: Billing, clock: SteppingClock, held: Hold
    ) -> None:
        billing.grant(ALICE, credits(7), source="a", reference="g", expires_at=clock.moment + HOUR)
        billing.freeze(ALICE, REASON)
        clock.moment += 2 * HOUR

        with pytest.raises(AccountFrozen):
            billing.charge(ALICE, credits(1), reference="r")

        assert billing.sweep() == 0

    def test_a_second_freeze_keeps_the_first(self, billing: Billing, held: Hold) -> None:
        first = billing.freeze(ALICE, REASON)

        assert billing.freeze(ALICE, "other") == first
        billing.unfreeze(ALICE)
        assert billing.unfreeze(ALICE).freeze is None
        again = billing.freeze(ALICE, "other").freeze
        assert again is not None
        assert again.reason == "other"
        assert billing.verify().violations == ()

    def test_other_tenants_spend(self, billing: Billing, held: Hold) -> None:
        billing.confirm_purchase(BOB, usd("0.01"), payment="stripe:pi_bob")
        billing.freeze(ALICE, REASON)

        billing.charge(BOB, credits(1), reference="r")

        assert billing.open_account(BOB).freeze is None

    def test_the_reason_is_erased(self, billing: Billing, held: Hold) -> None:
        billing.freeze(ALICE, REASON)

        assert billing.forget(ALICE) == 1
        assert billing.forget(ALICE) == 0

        freeze = billing.open_account(ALICE).freeze
        assert freeze is not None
        assert "Fraud" not in freeze.reason

    @pytest.mark.parametrize("tenant", [ALICE, BOB])
    def test_a_tenant_without_an_account_is_unknown(
        self, billing: Billing, totals: Totals, tenant: TenantId
    ) -> None:
        with pytest.raises(UnknownAccount):
            billing.freeze(tenant, REASON)
        with pytest.raises(UnknownAccount):
            billing.unfreeze(tenant)

        assert totals() == {}
