"""Contract: shares by policy."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from functools import partial
from uuid import UUID

import pytest

from cogni_billing import (
    SYSTEM_ACCOUNT_ID,
    SYSTEM_TENANT_ID,
    AccountId,
    Billing,
    InsufficientCredits,
    InvalidPolicy,
    RevenueSharePolicies,
    RevenueSharePolicy,
    ShareMode,
    ShareRule,
    TenantId,
    UnknownAccount,
    credits,
    usd,
)
from cogni_billing.domain.identity import ISSUANCE
from cogni_billing.domain.timestamps import EARLIEST
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
PARTNER = TenantId(BOB)
STRANGER = TenantId(UUID(int=2**70))
SHARES = (ShareRule(SYSTEM_ACCOUNT_ID, "0.25"), ShareRule(AccountId(PARTNER), "0.1"))


def policy(
    *rules: ShareRule,
    mode: ShareMode = ShareMode.BONUS,
    version: str = "v1",
    since: timedelta = -HOUR,
) -> RevenueSharePolicy:
    return RevenueSharePolicy(version, NOON + since, mode, rules or SHARES)


class SharingContract(Contract):
    """Each beneficiary gets its share in the transaction of the purchase."""

    @pytest.fixture
    def billing(self, new_billing: NewBilling, clock: SteppingClock) -> Billing:
        """A quarter for the system tenant and a tenth for a beneficiary, both on top."""
        return new_billing(policy=policy(), clock=clock, ids=CountingIds())

    def test_each_beneficiary_is_credited_with_the_purchase(
        self, billing: Billing, totals: Totals
    ) -> None:
        billing.open_account(PARTNER)

        receipt = billing.confirm_purchase(ALICE, usd("0.01"), payment="stripe:pi_1")

        assert [int(share.amount.value) for share in receipt.shares] == [25_000, 10_000]
        assert billing.balance(PARTNER).available == credits(10_000)
        assert totals() == {
            AccountId(ALICE): 100_000,
            SYSTEM_ACCOUNT_ID: 25_000,
            AccountId(PARTNER): 10_000,
            ISSUANCE: -135_000,
        }

    def test_a_split_divides_the_purchase_and_mints_nothing_on_top(
        self, new_billing: NewBilling, totals: Totals
    ) -> None:
        billing = new_billing(policy=policy(mode=ShareMode.SPLIT))

        receipt = billing.confirm_purchase(ALICE, usd("0.01"), payment="stripe:pi_1")

        assert receipt.credited == receipt.balance == credits(65_000)
        assert totals()[ISSUANCE] == -100_000
        assert totals()[SYSTEM_ACCOUNT_ID] == 25_000
        assert billing.verify().violations == ()

    def test_a_split_may_leave_the_customer_nothing(
        self, new_billing: NewBilling, totals: Totals
    ) -> None:
        whole = policy(ShareRule(SYSTEM_ACCOUNT_ID, 1), mode=ShareMode.SPLIT)
        billing = new_billing(policy=whole)

        receipt = billing.confirm_purchase(ALICE, usd("0.01"), payment="stripe:pi_1")

        assert receipt.credited == credits(0)
        [line] = billing.statement(ALICE).lines
        assert (line.reference, line.amount) == ("stripe:pi_1", credits(0))
        assert billing.confirm_purchase(ALICE, usd("0.01"), payment="stripe:pi_1").replayed
        assert totals()[SYSTEM_ACCOUNT_ID] == 100_000
        assert billing.verify().violations == ()

    def test_a_beneficiary_sees_its_share_without_the_buyer(self, billing: Billing) -> None:
        billing.open_account(PARTNER)
        billing.confirm_purchase(ALICE, usd("0.01"), payment="stripe:pi_1")

        [line] = billing.statement(PARTNER).lines

        assert (line.kind, line.reference) == ("purchase", None)
        assert line.balance_after == credits(10_000)
        assert billing.transaction(PARTNER, line.transaction_id) is None
        assert billing.find(PARTNER, kind="purchase", reference="stripe:pi_1") is None

    def test_a_partner_spends_its_share_like_any_credits(self, billing: Billing) -> None:
        billing.open_account(PARTNER)
        billing.confirm_purchase(ALICE, usd("0.01"), payment="stripe:pi_1")

        assert billing.charge(PARTNER, credits(9_999), reference="r").balance == credits(1)
        with pytest.raises(InsufficientCredits):
            billing.charge(PARTNER, credits(2), reference="r2")

    def test_a_share_waits_for_the_account_to_be_opened(self, billing: Billing) -> None:
        billing.confirm_purchase(ALICE, usd("0.01"), payment="stripe:pi_1")
        for spend in (billing.charge, billing.hold):
            with pytest.raises(UnknownAccount):
                spend(PARTNER, credits(1), reference="r")

        billing.open_account(PARTNER)

        assert billing.charge(PARTNER, credits(1), reference="r").balance == credits(9_999)
        assert billing.verify().violations == ()

    def test_a_tenant_that_only_earned_shares_is_read_without_an_account(
        self, billing: Billing, clock: SteppingClock
    ) -> None:
        for number in (1, 2, 3):
            billing.confirm_purchase(ALICE, usd("0.01"), payment=f"stripe:pi_{number}")
            if number == 1:
                billing.fold()
            clock.moment += HOUR
        since, until = clock.moment - 2.5 * HOUR, clock.moment - 1.5 * HOUR

        found = billing.statement(PARTNER, limit=2)
        older = billing.statement(PARTNER, limit=2, after=found.next)
        within = billing.statement(PARTNER, since=since, until=until)

        assert billing.balance(PARTNER).available == credits(30_000)
        assert billing.balance(PARTNER, at=until).posted == credits(20_000)
        assert billing.balance(PARTNER, at=EARLIEST).posted == credits(0)
        balances = [line.balance_after for line in (*found.lines, *older.lines)]
        assert balances == [credits(30_000), credits(20_000), credits(10_000)]
        assert (found.opening, found.closing, older.next) == (credits(0), credits(30_000), None)
        assert (within.opening, within.closing) == (credits(10_000), credits(20_000))
        assert [line.amount for line in within.lines] == [credits(10_000)]

    def test_a_tenant_that_only_earned_shares_has_no_grant_hold_or_transaction(
        self, billing: Billing
    ) -> None:
        billing.confirm_purchase(ALICE, usd("0.01"), payment="stripe:pi_1")

        assert billing.grants(PARTNER) == billing.grants(PARTNER, spent=True) == ()
        assert billing.lots(PARTNER) == ()
        assert billing.holds(PARTNER).holds == ()
        assert billing.find_hold(PARTNER, "r") is None
        assert billing.find(PARTNER, reference="stripe:pi_1", kind="purchase") is None
        assert billing.transaction(PARTNER, UUID(int=1)) is None

    def test_reading_opens_no_account(self, billing: Billing) -> None:
        billing.confirm_purchase(ALICE, usd("0.01"), payment="stripe:pi_1")
        billing.balance(PARTNER)
        billing.statement(PARTNER)

        with pytest.raises(UnknownAccount):
            billing.freeze(PARTNER, "a reason")
        assert billing.verify().violations == ()

    def test_a_tenant_without_an_account_and_without_a_share_is_unknown(
        self, billing: Billing
    ) -> None:
        billing.confirm_purchase(ALICE, usd("0.01"), payment="stripe:pi_1")

        for read in (billing.balance, billing.statement, billing.grants, billing.holds):
            with pytest.raises(UnknownAccount):
                read(STRANGER)
        with pytest.raises(UnknownAccount):
            billing.balance(STRANGER, at=NOON)

    def test_a_buyer_earns_no_share_of_its_own_purchase(
        self, billing: Billing, new_billing: NewBilling
    ) -> None:
        assert len(billing.confirm_purchase(PARTNER, usd("1"), payment="a:1").shares) == 1
        split = new_billing(policy=policy(mode=ShareMode.SPLIT))

        receipt = split.confirm_purchase(PARTNER, usd("0.01"), payment="a:2")

        assert receipt.credited == credits(75_000)
        assert billing.verify().violations == ()

    def test_folds_and_past_balances_count_the_shares_of_a_beneficiary(
        self, billing: Billing, clock: SteppingClock
    ) -> None:
        billing.open_account(PARTNER)
        billing.confirm_purchase(ALICE, usd("0.01"), payment="stripe:pi_1")
        early = clock.moment
        billing.charge(PARTNER, credits(1_000), reference="r")
        billing.confirm_purchase(ALICE, usd("0.01"), payment="stripe:pi_2")
        before = billing.balance(PARTNER), billing.statement(PARTNER)

        billing.fold()

        assert (billing.balance(PARTNER), billing.statement(PARTNER)) == before
        assert billing.balance(PARTNER, at=early).posted == credits(10_000)
        assert billing.balance(PARTNER).posted == credits(19_000)
        assert billing.verify().violations == ()

    def test_the_policy_in_force_at_the_purchase_counts(
        self, new_billing: NewBilling, clock: SteppingClock
    ) -> None:
        policies = RevenueSharePolicies(
            [
                policy(ShareRule(SYSTEM_ACCOUNT_ID, "0.25")),
                policy(ShareRule(SYSTEM_ACCOUNT_ID, "0.5"), version="v2", since=HOUR),
            ]
        )
        billing = new_billing(policy=policies, clock=clock)
        before = billing.confirm_purchase(ALICE, usd("0.01"), payment="stripe:pi_1")
        clock.moment = NOON + HOUR
        after = billing.confirm_purchase(ALICE, usd("0.01"), payment="stripe:pi_2")
        again = billing.confirm_purchase(ALICE, usd("0.01"), payment="stripe:pi_1")

        shares = [int(receipt.shares[0].amount.value) for receipt in (before, after, again)]
        assert shares == [25_000, 50_000, 25_000]
        assert billing.verify().violations == ()

    def test_a_purchase_before_the_first_policy_is_refused(
        self, new_billing: NewBilling, clock: SteppingClock, totals: Totals
    ) -> None:
        later = new_billing(policy=RevenueSharePolicies([policy(since=HOUR)]), clock=clock)

        with pytest.raises(InvalidPolicy):
            later.confirm_purchase(ALICE, usd("0.01"), payment="stripe:pi_1")

        assert totals() == {}

    def test_tiers_caps_and_minimums_are_recorded_and_recomputed(
        self, new_billing: NewBilling
    ) -> None:
        rules = (
            ShareRule(SYSTEM_ACCOUNT_ID, "0.1", tiers=((credits(200_000), Decimal("0.3")),)),
            ShareRule(AccountId(PARTNER), "0.5", cap=credits(60_000), minimum=credits(55_000)),
        )
        billing = new_billing(policy=policy(*rules))

        small = billing.confirm_purchase(ALICE, usd("0.01"), payment="a:1")
        large = billing.confirm_purchase(ALICE, usd("0.02"), payment="a:2")

        assert [int(share.amount.value) for share in small.shares] == [10_000, 55_000]
        assert [int(share.amount.value) for share in large.shares] == [60_000, 60_000]
        assert billing.verify().violations == ()

    def test_batches_share_as_single_purchases_do(self, billing: Billing) -> None:
        billing.open_account(PARTNER)
        purchases = [
            {"tenant": ALICE, "amount": usd("0.01"), "payment": f"stripe:{n}"} for n in range(3)
        ]

        outcomes = billing.confirm_purchases(purchases)

        assert [outcome.state for outcome in outcomes] == ["done"] * 3
        assert billing.balance(PARTNER).posted == credits(30_000)
        assert billing.balance(SYSTEM_TENANT_ID).posted == credits(75_000)
        assert billing.verify().violations == ()


class SharingRaces(Contract):
    """Concurrent purchases, and charges of their beneficiaries."""

    def test_concurrent_purchases_and_charges_of_a_beneficiary_add_up(
        self, new_billing: NewBilling
    ) -> None:
        billing = new_billing(policy=policy())
        billing.open_account(PARTNER)
        billing.confirm_purchase(ALICE, usd("0.01"), payment="a:first")

        def buy(number: int) -> None:
            billing.confirm_purchase(ALICE, usd("0.01"), payment=f"stripe:{number}")

        def spend(number: int) -> None:
            billing.charge(PARTNER, credits(100), reference=f"run-{number}")

        at_once([partial(call, number) for number in range(12) for call in (buy, spend)])

        assert billing.balance(PARTNER).posted == credits(13 * 10_000 - 12 * 100)
        assert billing.verify().violations == ()
