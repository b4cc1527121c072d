"""Contract: the receipt, the transaction and the statement line tell which credits paid."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

import pytest
from attrs import evolve

from cogni_billing import (
    SYSTEM_TENANT_ID,
    Billing,
    Draw,
    InvalidInput,
    InvalidPage,
    Line,
    Shortfall,
    UnknownAccount,
    credits,
    usd,
)
from cogni_billing.testing.base import ALICE, NOON, Contract, CountingIds, MovableClock, NewBilling

HOUR = timedelta(hours=1)


class DrawContract(Contract):
    """Draws are told by the receipt, its replay, the transaction and the line."""

    @pytest.fixture
    def moving(self) -> MovableClock:
        return MovableClock()

    @pytest.fixture
    def granted(self, new_billing: NewBilling, moving: MovableClock) -> Billing:
        """Alice has grants of 30 and of 50, which expires in an hour, and 100 000 credits."""
        billing = new_billing(clock=moving, ids=CountingIds())
        self.first = billing.grant(
            ALICE, credits(30), source="promo:a", reference="a", priority=1
        ).transaction_id
        self.second = billing.grant(
            ALICE, credits(50), source="promo:b", reference="b", expires_at=NOON + HOUR
        ).transaction_id
        billing.confirm_purchase(ALICE, usd("0.01"), payment="stripe:pi_1", metadata={"n": 1})
        return billing

    def line(self, billing: Billing) -> Line:
        return billing.statement(ALICE, limit=1).lines[0]

    def test_a_charge_tells_the_grants_and_the_purchased_credits_that_paid(
        self, granted: Billing
    ) -> None:
        receipt = granted.charge(ALICE, credits(100), reference="run-1", metadata={"a": [1]})
        view = granted.find(ALICE, reference="run-1", kind="charge")
        again = granted.charge(ALICE, credits(100), reference="run-1")

        assert receipt.draws == (Draw(self.first, credits(30)), Draw(self.second, credits(50)))
        assert receipt.purchased == credits(20)
        assert again == evolve(receipt, replayed=True)
        assert view is not None
        assert view.draws == receipt.draws
        line = self.line(granted)
        assert (line.granted, line.purchased) == (credits(-80), credits(-20))
        assert line.metadata == {"a": (1,)}

    def test_a_charge_of_purchased_credits_alone_has_no_draws(self, granted: Billing) -> None:
        granted.charge(ALICE, credits(80), reference="run-1")

        receipt = granted.charge(ALICE, credits(7), reference="run-2")

        assert (receipt.draws, receipt.purchased) == ((), credits(7))
        assert (self.line(granted).granted, self.line(granted).purchased) == (
            credits(0),
            credits(-7),
        )

    def test_each_charge_of_a_batch_has_its_own_draws(self, granted: Billing) -> None:
        outcomes = granted.charge_many(
            [{"tenant": ALICE, "amount": credits(60), "reference": str(n)} for n in range(3)]
        )

        assert [outcome.receipt and outcome.receipt.draws for outcome in outcomes] == [
            (Draw(self.first, credits(30)), Draw(self.second, credits(30))),
            (Draw(self.second, credits(20)),),
            (),
        ]

    def test_a_capture_tells_the_grants_that_its_hold_had_pinned(self, granted: Billing) -> None:
        hold = granted.hold(ALICE, credits(90), reference="job-1")
        receipt = granted.capture(ALICE, hold.id, credits(40), reference="job-1")
        again = granted.capture(ALICE, hold.id, credits(40), reference="job-1")

        assert receipt.draws == (Draw(self.first, credits(30)), Draw(self.second, credits(10)))
        assert receipt.purchased == credits(0)
        assert again == evolve(receipt, replayed=True)
        assert (self.line(granted).granted, self.line(granted).purchased) == (
            credits(-40),
            credits(0),
        )

    def test_a_refund_of_spent_credits_tells_what_it_took_of_grants_and_of_which_payment(
        self, granted: Billing
    ) -> None:
        granted.hold(ALICE, credits(80), reference="grants")
        granted.charge(ALICE, credits(99_990), reference="run-1")
        granted.grant(ALICE, credits(40), source="promo:c", reference="c")

        receipt = granted.refund(
            ALICE, payment="stripe:pi_1", reference="re_1", shortfall=Shortfall.CLAMP
        )
        view = granted.transaction(ALICE, receipt.transaction_id)

        assert receipt.payment == "stripe:pi_1"
        assert (receipt.taken, receipt.purchased) == (credits(50), credits(10))
        assert [draw.amount for draw in receipt.draws] == [credits(40)]
        assert view is not None
        assert (view.payment, view.draws) == ("stripe:pi_1", receipt.draws)
        assert (self.line(granted).granted, self.line(granted).purchased) == (
            credits(-40),
            credits(-10),
        )
        assert granted.refund(
            ALICE, payment="stripe:pi_1", reference="re_1", shortfall=Shortfall.CLAMP
        ) == evolve(receipt, replayed=True)

    def test_a_lost_dispute_tells_its_payment(self, granted: Billing) -> None:
        granted.open_dispute(ALICE, payment="stripe:pi_1", reference="dp_1")
        receipt = granted.lose_dispute(ALICE, payment="stripe:pi_1", reference="dp_1")
        view = granted.find(ALICE, reference="dp_1", kind="chargeback")

        assert receipt.payment == "stripe:pi_1"
        assert view is not None
        assert view.payment == "stripe:pi_1"
        assert (receipt.draws, receipt.purchased) == ((), credits(100_000))

    def test_only_purchases_and_their_reversals_have_a_payment(self, granted: Billing) -> None:
        granted.charge(ALICE, credits(1), reference="run-1")
        charge = granted.find(ALICE, reference="run-1", kind="charge")
        purchase = granted.find(ALICE, reference="stripe:pi_1", kind="purchase")

        assert charge is not None
        assert purchase is not None
        assert (charge.payment, purchase.payment) == (None, "stripe:pi_1")

    def test_lines_of_grants_and_expiries_are_granted_and_of_purchases_purchased(
        self, granted: Billing, moving: MovableClock
    ) -> None:
        moving.moment += HOUR
        granted.sweep()

        lines = granted.statement(ALICE).lines

        assert [(line.kind, line.granted, line.purchased) for line in lines] == [
            ("expiry", credits(-50), credits(0)),
            ("purchase", credits(0), credits(100_000)),
            ("grant", credits(50), credits(0)),
            ("grant", credits(30), credits(0)),
        ]
        assert [line.metadata for line in lines] == [{}, {"n": 1}, {}, {}]

    def test_the_part_of_a_grant_that_repays_a_debt_is_purchased(self, granted: Billing) -> None:
        granted.charge(ALICE, credits(100_100), reference="run-1", allow_overdraft=True)

        receipt = granted.grant(ALICE, credits(50), source="promo:c", reference="c")
        view = granted.transaction(ALICE, receipt.transaction_id)

        assert view is not None
        assert view.draws == (Draw(receipt.transaction_id, credits(20)),)
        assert (self.line(granted).granted, self.line(granted).purchased) == (
            credits(30),
            credits(20),
        )

    def test_a_share_is_purchased_and_shows_no_metadata(self, granted: Billing) -> None:
        [line] = granted.statement(SYSTEM_TENANT_ID).lines

        assert (line.granted, line.purchased) == (credits(0), credits(25_000))
        assert line.metadata == {}


class GrantPageContract(Contract):
    """All grants of a tenant, with those that are spent."""

    @pytest.fixture
    def spending(self, billing: Billing) -> Billing:
        """Alice has a spent grant, a grant that expired, and two others."""
        for n in range(4):
            billing.grant(
                ALICE,
                credits(10),
                source=f"promo:{n}",
                reference=str(n),
                priority=n,
                expires_at=NOON + timedelta(seconds=7) if n == 1 else None,
            )
        billing.charge(ALICE, credits(10), reference="run-1")
        return billing

    def test_spent_and_expired_grants_are_listed_on_request_newest_first(
        self, spending: Billing
    ) -> None:
        spending.charge(ALICE, credits(1), reference="run-2")

        listed = spending.grants(ALICE, spent=True)

        assert [(grant.source, grant.remaining) for grant in listed] == [
            ("promo:3", credits(10)),
            ("promo:2", credits(10)),
            ("promo:1", credits(0)),
            ("promo:0", credits(0)),
        ]
        assert [grant.source for grant in spending.grants(ALICE)] == ["promo:2", "promo:3"]

    def test_pages_of_grants_follow_one_another(self, spending: Billing) -> None:
        first = spending.grants(ALICE, spent=True, limit=3)
        second = spending.grants(ALICE, spent=True, limit=3, after=first[-1].id)
        last = spending.grants(ALICE, spent=True, limit=3, after=second[-1].id)

        assert [grant.source for grant in first + second] == [f"promo:{n}" for n in (3, 2, 1, 0)]
        assert last == ()

    def test_a_page_after_an_unknown_grant_is_empty(self, spending: Billing) -> None:
        assert spending.grants(ALICE, spent=True, after=UUID(int=2**64)) == ()

    @pytest.mark.parametrize("given", [{"limit": 5}, {"after": UUID(int=1)}])
    def test_grants_with_credits_left_have_no_pages(
        self, spending: Billing, given: dict[str, object]
    ) -> None:
        with pytest.raises(InvalidPage):
            spending.grants(ALICE, **given)  # type: ignore[arg-type]

    def test_spent_must_be_a_bool(self, spending: Billing) -> None:
        with pytest.raises(InvalidInput):
            spending.grants(ALICE, spent=1)  # type: ignore[arg-type]

    def test_a_tenant_without_an_account_has_no_page_of_grants(self, billing: Billing) -> None:
        with pytest.raises(UnknownAccount):
            billing.grants(ALICE, spent=True)
