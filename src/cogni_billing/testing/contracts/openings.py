"""Contract: the balance that a tenant brings from another system."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial

import pytest
from attrs import evolve

from cogni_billing import (
    SYSTEM_TENANT_ID,
    AccountInUse,
    Billing,
    Difference,
    IdempotencyConflict,
    InvalidAmount,
    InvalidInput,
    InvalidTime,
    OpeningGrant,
    OpeningReceipt,
    RevenueSharePolicy,
    ShareMode,
    ShareRule,
    TransactionKind,
    acting,
    credits,
    usd,
)
from cogni_billing.domain.identity import ADJUSTMENTS, ISSUANCE, account_of
from cogni_billing.testing.base import (
    ALICE,
    BOB,
    NOON,
    Contract,
    NewBilling,
    SteppingClock,
    Totals,
)
from cogni_billing.testing.racing import at_once

DAY = timedelta(days=1)
TICK = timedelta(microseconds=1)
AS_OF = NOON - 3 * DAY
PROMO = OpeningGrant(
    amount=credits(30), source="promo:a", granted_at=AS_OF - 90 * DAY, expires_at=NOON + DAY
)
WELCOME = OpeningGrant(amount=credits(20), source="welcome", granted_at=AS_OF, priority=1)


def opened(billing: Billing, purchased: int = 100, as_of: datetime = AS_OF) -> OpeningReceipt:
    return billing.opening(
        ALICE, purchased=credits(purchased), grants=(PROMO, WELCOME), as_of=as_of
    )


class OpeningContract(Contract):
    """An opening is the first balance of an account, dated in the past, once."""

    def test_an_opening_brings_purchased_credits_and_grants(
        self, billing: Billing, totals: Totals
    ) -> None:
        receipt = opened(billing)

        assert (receipt.purchased, receipt.as_of, receipt.draws) == (credits(100), AS_OF, ())
        assert [grant.granted for grant in receipt.grants] == [credits(30), credits(20)]
        assert (receipt.balance, receipt.replayed) == (credits(150), False)
        assert billing.balance(ALICE).available == credits(150)
        assert totals() == {account_of(ALICE): 150, ISSUANCE: -50, ADJUSTMENTS: -100}
        assert billing.verify().violations == ()

    def test_the_lines_are_dated_at_the_moment_of_the_opening(self, billing: Billing) -> None:
        receipt = opened(billing)

        lines = billing.statement(ALICE).lines
        assert [line.at for line in lines] == [AS_OF] * 3
        assert [(line.kind, line.reference) for line in lines] == [
            (TransactionKind.OPENING, "opening"),
            (TransactionKind.GRANT, "opening/2"),
            (TransactionKind.GRANT, "opening/1"),
        ]
        assert billing.balance(ALICE, at=AS_OF - TICK).posted == credits(0)
        assert billing.balance(ALICE, at=AS_OF).posted == credits(150)
        assert billing.open_account(ALICE).opened_at == AS_OF
        view = billing.transaction(ALICE, receipt.transaction_id)
        assert view is not None
        assert view.at == AS_OF

    def test_the_grants_keep_their_terms_and_are_spent_in_order(self, billing: Billing) -> None:
        receipt = opened(billing)

        welcome, promo = billing.grants(ALICE)
        charge = billing.charge(ALICE, credits(45), reference="run-1")

        ids = [grant.transaction_id for grant in receipt.grants]
        assert [promo.id, welcome.id] == ids
        assert (promo.source, promo.priority) == (PROMO.source, PROMO.priority)
        assert (promo.granted_at, promo.expires_at) == (PROMO.granted_at, PROMO.expires_at)
        assert (welcome.priority, welcome.expires_at) == (1, None)
        assert [draw.amount for draw in charge.draws] == [credits(20), credits(25)]

    def test_a_grant_of_an_opening_expires_and_can_be_voided(
        self, billing: Billing, clock: SteppingClock
    ) -> None:
        receipt = opened(billing)
        clock.moment = NOON + 2 * DAY

        assert billing.balance(ALICE).available == credits(120)
        billing.void_grant(ALICE, receipt.grants[1].transaction_id, reference="v")

        assert billing.balance(ALICE).available == credits(100)
        assert billing.verify().violations == ()

    def test_a_grant_that_expired_since_the_opening_is_due_at_its_own_moment(
        self, billing: Billing
    ) -> None:
        lapsed = evolve(PROMO, expires_at=AS_OF + DAY)

        billing.opening(ALICE, grants=[lapsed], as_of=AS_OF)

        assert billing.balance(ALICE).available == credits(0)
        assert billing.balance(ALICE, at=AS_OF + DAY - TICK).available == credits(30)
        assert billing.sweep() == 1
        assert billing.statement(ALICE).lines[0].at == AS_OF + DAY
        assert billing.verify().violations == ()

    def test_a_debt_is_repaid_by_the_grants_in_spend_order(self, billing: Billing) -> None:
        receipt = opened(billing, purchased=-25)

        assert [draw.amount for draw in receipt.draws] == [credits(20), credits(5)]
        assert [grant.remaining for grant in billing.grants(ALICE)] == [credits(25)]
        assert receipt.balance == credits(25)
        assert billing.verify().violations == ()

    def test_a_debt_beyond_the_grants_is_owed(self, billing: Billing) -> None:
        receipt = opened(billing, purchased=-80)

        assert receipt.balance == billing.balance(ALICE).available == credits(-30)
        assert billing.grants(ALICE) == ()
        assert billing.verify().violations == ()

    def test_an_opening_of_zero_is_recorded(self, billing: Billing) -> None:
        receipt = billing.opening(ALICE, as_of=AS_OF)

        assert (receipt.balance, receipt.grants) == (credits(0), ())
        assert [line.amount for line in billing.statement(ALICE).lines] == [credits(0)]
        assert billing.verify().violations == ()

    def test_a_second_opening_is_a_replay(
        self, billing: Billing, clock: SteppingClock, totals: Totals
    ) -> None:
        first = opened(billing)
        billing.charge(ALICE, credits(45), reference="run-1")
        billing.grant(ALICE, credits(5), source="a", reference="opening/3")
        before = totals()

        again = opened(billing)

        marked = [evolve(grant, replayed=True) for grant in first.grants]
        assert again == evolve(first, replayed=True, grants=tuple(marked))
        assert totals() == before

    @pytest.mark.parametrize(
        ("change", "differences"),
        [
            (
                {"purchased": credits(101)},
                [Difference("purchased", "100 CREDIT", "101 CREDIT")],
            ),
            (
                {"as_of": AS_OF + TICK},
                [Difference("as_of", AS_OF.isoformat(), (AS_OF + TICK).isoformat())],
            ),
            ({"grants": (PROMO,)}, [Difference("grants", "2", "1")]),
            (
                {"grants": (PROMO, evolve(WELCOME, amount=credits(21), priority=2))},
                [
                    Difference("grants[1].amount", "20 CREDIT", "21 CREDIT"),
                    Difference("grants[1].priority", "1", "2"),
                ],
            ),
            (
                {"grants": (evolve(PROMO, granted_at=AS_OF), WELCOME)},
                [
                    Difference(
                        "grants[0].granted_at", PROMO.granted_at.isoformat(), AS_OF.isoformat()
                    )
                ],
            ),
        ],
    )
    def test_another_opening_conflicts(
        self,
        billing: Billing,
        totals: Totals,
        change: dict[str, object],
        differences: list[Difference],
    ) -> None:
        opened(billing)
        before = totals()
        asked = {"purchased": credits(100), "grants": (PROMO, WELCOME), "as_of": AS_OF}

        with pytest.raises(IdempotencyConflict) as caught:
            billing.opening(ALICE, **asked | change)  # type: ignore[arg-type]

        assert list(caught.value.differences) == differences
        assert totals() == before

    def test_an_erased_source_is_compared_by_its_digest(self, billing: Billing) -> None:
        opened(billing)
        billing.forget(ALICE)

        assert opened(billing).replayed

    @pytest.mark.parametrize(
        "use",
        [
            lambda billing: billing.confirm_purchase(ALICE, usd("0.01"), payment="stripe:pi_1"),
            lambda billing: billing.grant(ALICE, credits(5), source="a", reference="opening/1"),
            lambda billing: billing.charge(ALICE, credits(0), reference="run-1"),
            lambda billing: billing.grant(
                ALICE,
                credits(5),
                source="a",
                reference="opening/1",
                effective_from=NOON + DAY,
            ),
        ],
    )
    def test_an_account_with_transactions_gets_no_opening(
        self, billing: Billing, totals: Totals, use: Callable[[Billing], object]
    ) -> None:
        billing.open_account(ALICE)
        use(billing)
        before = totals()

        with pytest.raises(AccountInUse) as caught:
            opened(billing)

        assert caught.value.tenant == ALICE
        assert totals() == before

    def test_an_open_account_without_transactions_counts_as_open_since_the_opening(
        self, billing: Billing
    ) -> None:
        billing.open_account(ALICE)

        opened(billing)

        assert billing.open_account(ALICE).opened_at == AS_OF
        late = billing.charge(ALICE, credits(1), reference="run-1", occurred_at=AS_OF)
        assert late.occurred_at == AS_OF
        with pytest.raises(InvalidTime):
            billing.charge(ALICE, credits(1), reference="run-2", occurred_at=AS_OF - TICK)
        assert billing.verify().violations == ()

    def test_shares_that_were_earned_before_are_no_obstacle(
        self, new_billing: NewBilling, clock: SteppingClock
    ) -> None:
        rules = (ShareRule(account_of(ALICE), "0.1"),)
        policy = RevenueSharePolicy("v1", NOON - DAY, ShareMode.BONUS, rules)
        billing = new_billing(policy=policy, clock=clock)
        billing.confirm_purchase(BOB, usd("0.01"), payment="stripe:pi_1")

        receipt = opened(billing, purchased=-10_020)

        assert receipt.balance == credits(10_000 + 50 - 10_020)
        assert [draw.amount for draw in receipt.draws] == [credits(20)]
        assert billing.verify().violations == ()

    def test_a_hold_of_shares_expires_before_the_opening(
        self, new_billing: NewBilling, clock: SteppingClock
    ) -> None:
        rules = (ShareRule(account_of(ALICE), "0.1"),)
        policy = RevenueSharePolicy("v1", NOON - DAY, ShareMode.BONUS, rules)
        billing = new_billing(policy=policy, clock=clock)
        billing.confirm_purchase(BOB, usd("0.01"), payment="stripe:pi_1")
        billing.open_account(ALICE)
        billing.hold(ALICE, credits(10_000), reference="h", expires_in=DAY)
        clock.moment += 2 * DAY

        receipt = billing.opening(
            ALICE, purchased=credits(100), grants=[WELCOME], as_of=clock.moment
        )

        assert receipt.balance == billing.balance(ALICE).available == credits(10_120)
        assert billing.verify().violations == ()

    def test_a_grant_that_expires_by_the_time_of_the_wallet_is_refused(
        self, new_billing: NewBilling, clock: SteppingClock, totals: Totals
    ) -> None:
        rules = (ShareRule(account_of(ALICE), "0.1"),)
        policy = RevenueSharePolicy("v1", NOON - DAY, ShareMode.BONUS, rules)
        billing = new_billing(policy=policy, clock=clock)
        billing.confirm_purchase(BOB, usd("0.01"), payment="stripe:pi_1")
        billing.open_account(ALICE)
        billing.hold(ALICE, credits(1), reference="h")
        before = totals()

        with pytest.raises(InvalidTime) as caught:
            billing.opening(
                ALICE, grants=[WELCOME, evolve(PROMO, expires_at=AS_OF + DAY)], as_of=AS_OF
            )

        assert caught.value.field == "expires_at"
        assert totals() == before

    @pytest.mark.parametrize(
        ("change", "field"),
        [
            ({"granted_at": AS_OF + TICK}, "grants[0].granted_at"),
            ({"expires_at": AS_OF}, "grants[0].expires_at"),
        ],
    )
    def test_a_grant_must_be_there_as_of_the_opening(
        self, billing: Billing, totals: Totals, change: dict[str, datetime], field: str
    ) -> None:
        grant = evolve(PROMO, **change)

        with pytest.raises(InvalidTime) as caught:
            billing.opening(ALICE, grants=[grant], as_of=AS_OF)

        assert caught.value.field == field
        assert totals() == {}

    def test_an_opening_is_not_of_the_future(
        self, billing: Billing, clock: SteppingClock, totals: Totals
    ) -> None:
        called = clock.moment + timedelta(seconds=1)

        with pytest.raises(InvalidTime) as caught:
            billing.opening(ALICE, as_of=called + TICK)

        assert caught.value.field == "as_of"
        assert totals() == {}
        clock.moment = called - timedelta(seconds=1)
        assert billing.opening(ALICE, as_of=called).as_of == called

    def test_an_invalid_grant_cannot_be_made(self) -> None:
        with pytest.raises(InvalidAmount):
            evolve(PROMO, amount=credits(0))
        with pytest.raises(InvalidInput):
            evolve(PROMO, priority=-1)
        with pytest.raises(InvalidTime):
            evolve(PROMO, granted_at=AS_OF.replace(tzinfo=None))

    def test_too_many_grants_are_refused(self, billing: Billing, totals: Totals) -> None:
        with pytest.raises(InvalidInput) as caught:
            billing.opening(ALICE, grants=[WELCOME] * 1001, as_of=AS_OF)

        assert (caught.value.field, caught.value.given) == ("grants", "1001")
        assert totals() == {}

    def test_a_thousand_grants_are_recorded(self, billing: Billing) -> None:
        receipt = billing.opening(ALICE, grants=[WELCOME] * 1000, as_of=AS_OF)

        assert receipt.balance == credits(20_000)
        assert len(receipt.grants) == 1000

    def test_the_actor_is_kept(self, billing: Billing) -> None:
        with acting(by="user:1"):
            receipt = opened(billing)

        ids = [receipt.transaction_id, *(grant.transaction_id for grant in receipt.grants)]
        views = [billing.transaction(ALICE, each) for each in ids]
        assert [view and view.actor for view in views] == ["user:1"] * 3

    def test_the_system_tenant_can_have_an_opening(self, billing: Billing) -> None:
        receipt = billing.opening(SYSTEM_TENANT_ID, purchased=credits(7), as_of=AS_OF)

        assert receipt.balance == billing.balance(SYSTEM_TENANT_ID).posted == credits(7)
        assert billing.verify().violations == ()


class OpeningRaces(Contract):
    def test_one_opening_at_once_is_recorded_once(
        self, new_billing: NewBilling, totals: Totals
    ) -> None:
        billing = new_billing()

        receipts = at_once([partial(opened, billing)] * 10)

        assert sum(not receipt.replayed for receipt in receipts) == 1
        assert len({receipt.transaction_id for receipt in receipts}) == 1
        assert totals()[account_of(ALICE)] == 150
        assert billing.verify().violations == ()
