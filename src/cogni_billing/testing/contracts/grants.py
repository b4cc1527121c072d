"""Contract: grants."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial
from uuid import UUID

import pytest
from attrs import evolve

from cogni_billing import (
    SYSTEM_TENANT_ID,
    AccountId,
    Amount,
    Billing,
    BillingError,
    Difference,
    Grant,
    GrantReceipt,
    IdempotencyConflict,
    InsufficientCredits,
    InvalidAmount,
    InvalidInput,
    InvalidMetadata,
    InvalidReference,
    InvalidTime,
    TenantId,
    UnitMismatch,
    UnknownAccount,
    credits,
    usd,
)
from cogni_billing.domain.identity import BREAKAGE, ISSUANCE
from cogni_billing.domain.wallets import DueWallet
from cogni_billing.ports.scope import UnitOfWork
from cogni_billing.testing.base import ALICE, BOB, NOON, Contract, NewBilling, SteppingClock, Totals
from cogni_billing.testing.racing import at_once

HOUR = timedelta(hours=1)
SECOND = timedelta(seconds=1)


def left(billing: Billing) -> dict[str, int]:
    """The remainders of Alice's grants, by source, in spend order."""
    return {grant.source: int(grant.remaining.value) for grant in billing.grants(ALICE)}


class GrantContract(Contract):
    """Granted credits are spent in order, and their remainder expires."""

    @pytest.fixture
    def rich(self, billing: Billing) -> Billing:
        """Alice has bought 1 000 000 credits, and has a grant of 500 until an hour past noon."""
        billing.confirm_purchase(ALICE, usd("0.10"), payment="stripe:pi_1")
        billing.grant(ALICE, credits(500), source="promo:a", reference="a", expires_at=NOON + HOUR)
        return billing

    def posted(self, billing: Billing, at: datetime | None = None) -> Amount:
        return billing.balance(ALICE, at=at).posted

    def test_a_grant_opens_the_account_and_mints_its_credits(
        self, billing: Billing, totals: Totals
    ) -> None:
        receipt = billing.grant(
            ALICE,
            credits(50_000),
            source="promo:launch",
            reference="launch-7",
            expires_at=NOON + HOUR,
            priority=7,
            metadata={"a": [1]},
        )

        assert receipt == GrantReceipt(
            transaction_id=UUID(int=1),
            granted=credits(50_000),
            source="promo:launch",
            priority=7,
            expires_at=NOON + HOUR,
            repaid=credits(0),
            balance=credits(50_000),
            replayed=False,
        )
        assert totals() == {AccountId(ALICE): Decimal(50_000), ISSUANCE: Decimal(-50_000)}
        assert billing.grants(ALICE) == (
            Grant(
                id=UUID(int=1),
                amount=credits(50_000),
                source="promo:launch",
                priority=7,
                expires_at=NOON + HOUR,
                granted_at=NOON + SECOND,
                remaining=credits(50_000),
            ),
        )
        (line,) = billing.statement(ALICE).lines
        assert (line.kind, line.reference) == ("grant", "launch-7")

    def test_a_grant_is_replayed_by_its_reference_also_when_it_has_expired(
        self, rich: Billing, clock: SteppingClock
    ) -> None:
        asked = partial(
            rich.grant,
            ALICE,
            credits(500),
            source="promo:a",
            reference="a",
            expires_at=NOON + HOUR,
        )
        first = asked()
        clock.moment = NOON + 2 * HOUR

        again = asked()

        assert again == first
        assert again.replayed
        assert (again.granted, again.balance) == (credits(500), credits(1_000_500))

    @pytest.mark.parametrize(
        ("changed", "difference"),
        [
            ({"amount": credits(5)}, Difference("amount", "500 CREDIT", "5 CREDIT")),
            ({"source": "promo:b"}, Difference("source", "promo:a", "promo:b")),
            ({"priority": 3}, Difference("priority", "100", "3")),
            (
                {"expires_at": None},
                Difference("expires_at", "2026-11-23T13:00:00.123456+00:00", "never"),
            ),
        ],
    )
    def test_another_grant_under_the_same_reference_conflicts(
        self, rich: Billing, changed: dict[str, object], difference: Difference
    ) -> None:
        asked = {
            "amount": credits(500),
            "source": "promo:a",
            "expires_at": NOON + HOUR,
        } | changed

        with pytest.raises(IdempotencyConflict) as caught:
            rich.grant(ALICE, reference="a", **asked)  # type: ignore[arg-type]

        assert caught.value.differences == (difference,)

    def test_grants_are_spent_by_priority_expiry_and_age_before_purchased_credits(
        self, billing: Billing
    ) -> None:
        billing.confirm_purchase(ALICE, usd("0.01"), payment="stripe:pi_1")
        for source, priority, expires_at in (
            ("older", 100, None),
            ("newer", 100, None),
            ("soon", 100, NOON + HOUR),
            ("first", 0, None),
            ("later", 100, NOON + 2 * HOUR),
            ("last", 101, NOON + HOUR),
        ):
            billing.grant(
                ALICE,
                credits(10),
                source=source,
                reference=source,
                priority=priority,
                expires_at=expires_at,
            )
        order = ["first", "soon", "later", "older", "newer", "last"]
        assert left(billing) == dict.fromkeys(order, 10)

        for number, source in enumerate(order):
            billing.charge(ALICE, credits(4), reference=f"run-{number}-a")
            assert left(billing)[source] == 6
            billing.charge(ALICE, credits(6), reference=f"run-{number}-b")
            assert list(left(billing)) == order[number + 1 :]

        billing.charge(ALICE, credits(7), reference="run-9")
        assert self.posted(billing) == credits(99_993)

    def test_a_charge_spends_several_grants_and_then_purchased_credits(self, rich: Billing) -> None:
        rich.grant(ALICE, credits(30), source="promo:b", reference="b")

        rich.charge(ALICE, credits(510), reference="run-1")
        assert left(rich) == {"promo:b": 20}

        rich.charge(ALICE, credits(21), reference="run-2")
        assert left(rich) == {}
        assert self.posted(rich) == credits(999_999)

    def test_the_remainder_of_a_grant_expires_at_its_expiry(
        self, rich: Billing, clock: SteppingClock, totals: Totals
    ) -> None:
        rich.charge(ALICE, credits(200), reference="run-1")
        clock.moment = NOON + HOUR - 2 * SECOND
        assert self.posted(rich) == credits(1_000_300)

        assert self.posted(rich) == credits(1_000_000)
        assert left(rich) == {}
        assert BREAKAGE not in totals()

        rich.charge(ALICE, credits(1), reference="run-2")
        assert totals()[BREAKAGE] == 300
        before, after = (NOON + HOUR - timedelta(microseconds=1), NOON + HOUR)
        assert self.posted(rich, before) == credits(1_000_300)
        assert self.posted(rich, after) == credits(1_000_000)
        charge, expiry, *_ = rich.statement(ALICE).lines
        assert (expiry.kind, expiry.at, expiry.amount) == ("expiry", NOON + HOUR, credits(-300))
        assert (expiry.balance_after, charge.balance_after) == (
            credits(1_000_000),
            credits(999_999),
        )

    def test_past_and_future_balances_count_expirations_before_they_are_recorded(
        self, rich: Billing, clock: SteppingClock
    ) -> None:
        rich.grant(ALICE, credits(30), source="b", reference="b", expires_at=NOON + 2 * HOUR)
        moments = [NOON + HOUR - SECOND, NOON + HOUR, NOON + 2 * HOUR]
        expected = [credits(1_000_530), credits(1_000_030), credits(1_000_000)]

        assert [self.posted(rich, moment) for moment in moments] == expected
        clock.moment = NOON + 3 * HOUR
        assert [self.posted(rich, moment) for moment in moments] == expected
        assert rich.sweep() == 1
        assert [self.posted(rich, moment) for moment in moments] == expected

    def test_a_spent_grant_does_not_expire(
        self, rich: Billing, clock: SteppingClock, totals: Totals
    ) -> None:
        rich.charge(ALICE, credits(500), reference="run-1")
        clock.moment = NOON + 2 * HOUR

        assert self.posted(rich) == credits(1_000_000)
        rich.sweep()
        assert BREAKAGE not in totals()

    def test_expired_credits_cannot_be_spent(self, billing: Billing, clock: SteppingClock) -> None:
        billing.grant(ALICE, credits(500), source="a", reference="a", expires_at=NOON + HOUR)
        clock.moment = NOON + HOUR

        with pytest.raises(InsufficientCredits) as charged:
            billing.charge(ALICE, credits(1), reference="run-1")
        with pytest.raises(InsufficientCredits) as held:
            billing.hold(ALICE, credits(1), reference="run-1")

        assert charged.value.available == held.value.available == credits(0)

    def test_a_hold_keeps_its_granted_credits_past_their_expiry(
        self, rich: Billing, clock: SteppingClock, totals: Totals
    ) -> None:
        hold = rich.hold(ALICE, credits(300), reference="run-1")
        assert left(rich) == {"promo:a": 200}
        clock.moment = NOON + 2 * HOUR
        assert self.posted(rich) == credits(1_000_300)

        rich.capture(ALICE, hold.id, credits(250), reference="run-1")

        assert self.posted(rich) == credits(1_000_000)
        rich.sweep()
        assert totals()[BREAKAGE] == 200 + 50
        assert self.posted(rich) == rich.balance(ALICE).available == credits(1_000_000)

    def test_granted_credits_released_after_their_expiry_expire_when_the_hold_ends(
        self, rich: Billing, clock: SteppingClock
    ) -> None:
        rich.hold(ALICE, credits(300), reference="run-1", expires_at=NOON + 2 * HOUR)
        other = rich.hold(ALICE, credits(100), reference="run-2")
        clock.moment = NOON + 3 * HOUR - SECOND
        rich.release(ALICE, other.id)

        expected = {
            NOON + HOUR - SECOND: credits(1_000_500),
            NOON + HOUR: credits(1_000_400),
            NOON + 2 * HOUR: credits(1_000_100),
            NOON + 3 * HOUR - SECOND: credits(1_000_100),
            NOON + 3 * HOUR: credits(1_000_000),
        }
        assert {moment: self.posted(rich, moment) for moment in expected} == expected
        rich.charge(ALICE, credits(1), reference="run-3")
        assert {moment: self.posted(rich, moment) for moment in expected} == expected
        expiries = rich.statement(ALICE, kind="expiry").lines
        assert [int(line.amount.value) for line in expiries] == [-100, -300, -100]

    def test_granted_credits_of_an_expired_hold_count_before_they_are_recorded(
        self, rich: Billing, clock: SteppingClock
    ) -> None:
        rich.grant(ALICE, credits(70), source="b", reference="b", priority=900)  # never expires
        rich.hold(ALICE, credits(520), reference="run-1", expires_at=NOON + 2 * HOUR)
        moments = [NOON + 2 * HOUR - SECOND, NOON + 2 * HOUR]
        expected = [credits(1_000_570), credits(1_000_070)]

        assert [self.posted(rich, moment) for moment in moments] == expected
        clock.moment = NOON + 3 * HOUR
        assert [self.posted(rich, moment) for moment in moments] == expected
        assert self.posted(rich) == credits(1_000_070)
        assert left(rich) == {"b": 70}
        rich.sweep()
        assert [self.posted(rich, moment) for moment in moments] == expected

    def test_granted_credits_released_before_their_expiry_can_be_spent(self, rich: Billing) -> None:
        hold = rich.hold(ALICE, credits(300), reference="run-1")
        rich.capture(ALICE, hold.id, credits(100), reference="run-1")
        assert left(rich) == {"promo:a": 400}
        other = rich.hold(ALICE, credits(600), reference="run-2")
        assert left(rich) == {}

        rich.release(ALICE, other.id)

        assert left(rich) == {"promo:a": 400}
        assert rich.balance(ALICE).available == credits(1_000_400)

    def test_holds_and_captures_use_grants_in_spend_order(self, rich: Billing) -> None:
        rich.grant(ALICE, credits(30), source="promo:b", reference="b", priority=1)
        hold = rich.hold(ALICE, credits(100), reference="run-1")
        assert left(rich) == {"promo:a": 430}

        rich.capture(ALICE, hold.id, credits(50), reference="run-1")

        assert left(rich) == {"promo:a": 480}

    def test_a_grant_with_a_lifetime_expires_that_long_after_the_call(
        self, billing: Billing, clock: SteppingClock
    ) -> None:
        receipt = billing.grant(ALICE, credits(5), source="a", reference="a", expires_in=HOUR)
        assert receipt.expires_at == clock.moment + HOUR
        clock.moment = receipt.expires_at - SECOND

        assert billing.balance(ALICE).posted == credits(0)

    def test_a_grant_with_the_same_lifetime_is_replayed_at_a_later_moment(
        self, billing: Billing
    ) -> None:
        asked = partial(billing.grant, ALICE, credits(5), source="a", reference="a")
        lifetime = timedelta(days=400, microseconds=1_500_000)
        first = asked(expires_in=lifetime)

        again = asked(expires_in=lifetime)

        assert again.replayed
        assert again == evolve(first, replayed=True)
        with pytest.raises(IdempotencyConflict) as another:
            asked(expires_in=HOUR)
        with pytest.raises(IdempotencyConflict) as absolute:
            asked(expires_at=first.expires_at)
        stored = "34560001.5 s"
        assert another.value.differences == (Difference("expires_in", stored, "3600 s"),)
        assert [each.field for each in absolute.value.differences] == ["expires_at", "expires_in"]

    def test_a_grant_repays_the_debt_first_and_only_its_rest_can_be_spent_and_expire(
        self, billing: Billing, clock: SteppingClock, totals: Totals
    ) -> None:
        billing.open_account(ALICE)
        billing.charge(ALICE, credits(70), reference="run-1", allow_overdraft=True)
        asked = partial(
            billing.grant, ALICE, credits(100), source="a", reference="a", expires_at=NOON + HOUR
        )

        receipt = asked()

        assert (receipt.granted, receipt.repaid) == (credits(100), credits(70))
        assert asked() == evolve(receipt, replayed=True)
        assert left(billing) == {"a": 30}
        assert billing.balance(ALICE).available == credits(30)
        with pytest.raises(InsufficientCredits):
            billing.charge(ALICE, credits(31), reference="run-2")
        billing.charge(ALICE, credits(10), reference="run-2")
        clock.moment = NOON + HOUR
        assert self.posted(billing) == credits(0)
        billing.sweep()
        assert totals()[BREAKAGE] == 20
        assert billing.verify().violations == ()

    def test_grants_end_a_debt_in_parts(self, billing: Billing, clock: SteppingClock) -> None:
        """An overdraft does not lock out a tenant with a monthly grant for good."""
        billing.open_account(ALICE)
        billing.charge(ALICE, credits(100), reference="run-1", allow_overdraft=True)

        repaid = []
        for month in range(1, 4):
            receipt = billing.grant(
                ALICE, credits(80), source="plan", reference=str(month), expires_in=HOUR
            )
            repaid.append(int(receipt.repaid.value))
            clock.moment += 2 * HOUR

        assert repaid == [80, 20, 0]
        assert self.posted(billing) == credits(0)

    def test_a_grant_repays_no_credits_that_a_hold_or_a_dispute_has_set_aside(
        self, billing: Billing
    ) -> None:
        billing.confirm_purchase(ALICE, usd("0.10"), payment="stripe:pi_1")
        billing.charge(ALICE, credits(999_900), reference="run-1")
        billing.open_dispute(ALICE, payment="stripe:pi_1", reference="dp_1")
        assert billing.balance(ALICE).available == credits(-999_900)

        receipt = billing.grant(ALICE, credits(50), source="a", reference="a")

        assert receipt.repaid == credits(0)
        billing.win_dispute(ALICE, payment="stripe:pi_1", reference="dp_1")
        billing.hold(ALICE, credits(150), reference="run-2")
        assert billing.grant(ALICE, credits(9), source="b", reference="b").repaid == credits(0)

    def test_a_lost_dispute_is_a_debt_that_a_grant_repays(self, billing: Billing) -> None:
        billing.confirm_purchase(ALICE, usd("0.10"), payment="stripe:pi_1")
        billing.charge(ALICE, credits(999_990), reference="run-1")
        billing.open_dispute(ALICE, payment="stripe:pi_1", reference="dp_1")
        billing.lose_dispute(ALICE, payment="stripe:pi_1", reference="dp_1")

        receipt = billing.grant(ALICE, credits(1_000_000), source="a", reference="a")

        assert receipt.repaid == credits(999_990)
        assert left(billing) == {"a": 10}

    def test_an_overdraft_uses_up_grants_first(
        self, billing: Billing, clock: SteppingClock
    ) -> None:
        billing.grant(ALICE, credits(100), source="a", reference="a", expires_at=NOON + HOUR)
        billing.charge(ALICE, credits(170), reference="run-1", allow_overdraft=True)
        clock.moment = NOON + HOUR

        assert left(billing) == {}
        assert self.posted(billing) == credits(-70)

    def test_the_system_tenant_can_be_granted_credits(
        self, rich: Billing, clock: SteppingClock
    ) -> None:
        rich.grant(SYSTEM_TENANT_ID, credits(9), source="a", reference="a", expires_at=NOON + HOUR)
        rich.charge(SYSTEM_TENANT_ID, credits(4), reference="run-1")
        clock.moment = NOON + HOUR

        assert rich.balance(SYSTEM_TENANT_ID).posted == credits(250_000)

    def test_a_grant_expires_again_for_each_hold_released_after_its_expiry(
        self, rich: Billing, clock: SteppingClock
    ) -> None:
        """Also at the same moment of the wallet, if a host's clock is behind."""
        holds = [rich.hold(ALICE, credits(100), reference=f"run-{n}") for n in range(3)]
        clock.moment = NOON + 2 * HOUR
        rich.charge(ALICE, credits(1), reference="run-9")
        clock.moment = NOON + HOUR
        for hold in holds:
            rich.release(ALICE, hold.id)
            rich.charge(ALICE, credits(1), reference=f"run-{hold.id}")

        lapses = rich.statement(ALICE, kind="expiry").lines
        assert [int(line.amount.value) for line in lapses] == [-100, -100, -100, -200]
        assert len({line.transaction_id for line in lapses}) == 4
        for line in lapses:
            found = rich.transaction(ALICE, line.transaction_id)
            assert found is not None
            assert (found.postings[0].amount, found.at) == (line.amount, line.at)
        assert self.posted(rich) == credits(1_000_000 - 4)
        assert rich.verify().violations == ()

    def test_priorities_go_from_zero_to_a_million(self, billing: Billing) -> None:
        for priority in (1_000_000, 0):
            name = str(priority)
            billing.grant(ALICE, credits(5), source=name, reference=name, priority=priority)

        assert [grant.priority for grant in billing.grants(ALICE)] == [0, 1_000_000]

    def test_a_grant_without_expiry_is_spent_after_one_with_expiry(self, billing: Billing) -> None:
        late = datetime(9998, 12, 31, 23, 59, 59, 999999, tzinfo=UTC)
        billing.grant(ALICE, credits(1), source="never", reference="a")
        billing.grant(ALICE, credits(1), source="late", reference="b", expires_at=late)

        assert list(left(billing)) == ["late", "never"]

    def test_a_sweep_moves_the_wallet_time_to_the_last_expiration_only(
        self, rich: Billing, clock: SteppingClock
    ) -> None:
        clock.moment = NOON + 5 * HOUR
        assert rich.sweep() == 1
        clock.moment = NOON + 2 * HOUR
        rich.charge(ALICE, credits(1), reference="run-1")
        charged_at = clock.moment

        assert rich.statement(ALICE).lines[0].at == charged_at

    def test_a_sweep_at_the_moment_of_an_expiry_posts_it(
        self, billing: Billing, clock: SteppingClock
    ) -> None:
        billing.grant(ALICE, credits(50), source="a", reference="a", expires_at=NOON + HOUR)
        clock.moment = NOON + HOUR - timedelta(seconds=1)

        assert billing.sweep() == 1
        assert clock.moment == NOON + HOUR

    def test_a_sweep_does_not_count_wallets_without_expirations(
        self, rich: Billing, clock: SteppingClock
    ) -> None:
        rich.confirm_purchase(BOB, usd("0.01"), payment="stripe:pi_2")
        rich.release(BOB, rich.hold(BOB, credits(1), reference="h", expires_at=NOON + HOUR).id)
        rich.grant(BOB, credits(5), source="b", reference="b", expires_at=NOON + HOUR)
        rich.charge(BOB, credits(5), reference="run-1")
        clock.moment = NOON + 4 * HOUR

        assert rich.sweep() == 1  # the grant of the fixture
        assert rich.sweep() == 0

    def test_a_sweep_updates_each_wallet_once(
        self, rich: Billing, clock: SteppingClock, totals: Totals
    ) -> None:
        rich.grant(BOB, credits(30), source="b", reference="b", expires_at=NOON + 2 * HOUR)
        rich.hold(BOB, credits(10), reference="run-1", expires_at=NOON + 3 * HOUR)
        assert rich.sweep() == 0
        clock.moment = NOON + HOUR
        assert rich.sweep() == 1
        clock.moment = NOON + 4 * HOUR

        assert rich.sweep() == 1
        assert rich.sweep() == 0

        assert totals()[BREAKAGE] == 530
        expiries = rich.statement(BOB, kind="expiry").lines
        assert [(line.at - NOON, int(line.amount.value)) for line in expiries] == [
            (3 * HOUR, -10),
            (2 * HOUR, -20),
        ]

    def test_due_wallets_come_in_order_after_the_given_one(
        self, unit_of_work: UnitOfWork, billing: Billing
    ) -> None:
        carol = TenantId(UUID(int=3))
        for tenant, hours in ((BOB, 2), (carol, 1), (ALICE, 2)):
            ends = NOON + hours * HOUR
            billing.grant(tenant, credits(5), source="a", reference="a", expires_at=ends)

        def due(after: DueWallet | None) -> tuple[DueWallet, ...]:
            return unit_of_work.run_service(
                SYSTEM_TENANT_ID, lambda scope: scope.books.due(NOON + 2 * HOUR, after)
            )

        first, *rest = due(None)
        assert first == DueWallet(at=NOON + HOUR, tenant=carol)
        assert rest == [
            DueWallet(at=NOON + 2 * HOUR, tenant=tenant) for tenant in sorted((ALICE, BOB))
        ]
        assert [due(each) for each in (first, *rest)] == [tuple(rest), tuple(rest[1:]), ()]

    def test_the_grants_of_a_tenant_without_an_account_are_refused(self, billing: Billing) -> None:
        with pytest.raises(UnknownAccount):
            billing.grants(ALICE)

    @pytest.mark.parametrize(
        ("given", "error"),
        [
            ({"amount": credits(0)}, InvalidAmount),
            ({"amount": 5}, InvalidAmount),
            ({"amount": usd("1.00")}, UnitMismatch),
            ({"source": ""}, InvalidReference),
            ({"source": "two words"}, InvalidReference),
            ({"reference": "\n"}, InvalidReference),
            ({"priority": -1}, InvalidInput),
            ({"priority": 1_000_001}, InvalidInput),
            ({"priority": True}, InvalidInput),
            ({"priority": "1"}, InvalidInput),
            ({"expires_at": datetime(2027, 1, 1)}, InvalidTime),
            ({"expires_at": NOON}, InvalidTime),
            ({"expires_at": NOON + SECOND}, InvalidTime),  # the moment of the call
            ({"expires_at": "2027"}, InvalidTime),
            ({"expires_in": timedelta(0)}, InvalidTime),
            ({"expires_in": HOUR, "expires_at": NOON + HOUR}, InvalidTime),
            ({"expires_in": timedelta(days=4_000_000)}, InvalidTime),
            ({"metadata": {"a": float("nan")}}, InvalidMetadata),
        ],
    )
    def test_bad_arguments_are_refused_and_grant_nothing(
        self, billing: Billing, given: dict[str, object], error: type[BillingError]
    ) -> None:
        arguments = {"amount": credits(5), "source": "promo:a", "reference": "a"} | given

        with pytest.raises(error):
            billing.grant(ALICE, **arguments)  # type: ignore[arg-type]

        with pytest.raises(UnknownAccount):
            billing.balance(ALICE)

    def test_a_grant_may_not_have_expired_by_the_wallets_time(
        self, rich: Billing, clock: SteppingClock
    ) -> None:
        clock.moment = NOON + 2 * HOUR
        rich.charge(ALICE, credits(1), reference="run-1")
        clock.moment = NOON

        with pytest.raises(InvalidTime):
            rich.grant(ALICE, credits(5), source="b", reference="b", expires_at=NOON + HOUR)

        assert left(rich) == {}


class GrantRaces(Contract):
    """Concurrent calls spend or expire each granted credit once."""

    def test_concurrent_charges_take_each_granted_credit_once(
        self, new_billing: NewBilling, totals: Totals
    ) -> None:
        billing = new_billing()
        for number in range(5):
            billing.grant(ALICE, credits(30), source=f"promo:{number}", reference=str(number))

        def spend(number: int) -> bool:
            try:
                billing.charge(ALICE, credits(7), reference=f"run-{number}")
            except InsufficientCredits:
                return False
            return True

        outcomes = at_once([partial(spend, number) for number in range(25)])

        assert sum(outcomes) == 21
        assert left(billing) == {"promo:4": 3}
        assert totals()[AccountId(ALICE)] == 3

    def test_concurrent_calls_after_an_expiry_expire_the_grant_once(
        self, new_billing: NewBilling, clock: SteppingClock, totals: Totals
    ) -> None:
        clock.moment = NOON
        billing = new_billing(clock=clock)
        billing.confirm_purchase(ALICE, usd("0.01"), payment="stripe:pi_1")
        billing.grant(ALICE, credits(30), source="a", reference="a", expires_at=NOON + HOUR)
        clock.moment = NOON + 2 * HOUR

        receipts = at_once(
            [
                partial(billing.charge, ALICE, credits(1), reference=f"run-{number}")
                for number in range(20)
            ]
        )

        assert len({receipt.balance for receipt in receipts}) == 20
        assert totals()[BREAKAGE] == 30
        assert billing.balance(ALICE).posted == credits(100_000 - 20)
