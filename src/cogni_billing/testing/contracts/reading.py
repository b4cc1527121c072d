"""Contract: reads, by moment, key and id, before and after a fold."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor, wait
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any
from uuid import UUID

import pytest

from cogni_billing import (
    SYSTEM_ACCOUNT_ID,
    SYSTEM_TENANT_ID,
    Billing,
    InvalidInput,
    InvalidReference,
    InvalidTime,
    Share,
    TransactionKind,
    TransactionView,
    UnknownAccount,
    credits,
    usd,
)
from cogni_billing.domain.folding import Folding
from cogni_billing.domain.identity import USAGE
from cogni_billing.domain.transactions import Posting
from cogni_billing.ports.scope import UnitOfWork
from cogni_billing.testing.base import ALICE, BOB, NOON, Contract, NewBilling, SteppingClock
from cogni_billing.testing.contracts.purchases import planned

SECOND = timedelta(seconds=1)

WHILE_S = 0.3


class BalanceAtContract(Contract):
    """The balance as of a moment is the sum of the postings until then."""

    @pytest.fixture
    def history(self, billing: Billing) -> Billing:
        """A purchase at second 1 after noon, charges at 2 and 3, a purchase at 4."""
        billing.confirm_purchase(ALICE, usd("0.10"), payment="stripe:pi_1")
        billing.charge(ALICE, credits(100), reference="run-1")
        billing.charge(ALICE, credits(200), reference="run-2")
        billing.confirm_purchase(ALICE, usd("0.01"), payment="stripe:pi_2")
        return billing

    @pytest.mark.parametrize("folded", [False, True])
    @pytest.mark.parametrize(
        ("seconds", "customers", "systems"),
        [
            (0, 0, 0),
            (1, 1_000_000, 250_000),
            (1.5, 1_000_000, 250_000),
            (2, 999_900, 250_000),
            (3, 999_700, 250_000),
            (4, 1_099_700, 275_000),
            (10**6, 1_099_700, 275_000),
        ],
    )
    def test_a_past_balance_counts_postings_until_then(
        self, history: Billing, folded: bool, seconds: float, customers: int, systems: int
    ) -> None:
        if folded:
            history.fold()
        moment = NOON + seconds * SECOND

        assert history.balance(ALICE, at=moment).posted == credits(customers)
        assert history.balance(SYSTEM_TENANT_ID, at=moment).posted == credits(systems)

    def test_a_clock_that_goes_back_does_not_change_the_past(
        self, history: Billing, clock: SteppingClock
    ) -> None:
        clock.moment = NOON - timedelta(days=1)

        history.charge(ALICE, credits(700), reference="run-3")

        assert history.balance(ALICE, at=NOON).posted == credits(0)
        assert history.balance(ALICE, at=NOON + 3 * SECOND).posted == credits(999_700)
        assert history.balance(ALICE, at=NOON + 4 * SECOND).posted == credits(1_099_000)
        times = [line.at for line in history.statement(ALICE).lines]
        assert times == sorted(times, reverse=True)

    def test_a_naive_moment_is_refused(self, history: Billing) -> None:
        with pytest.raises(InvalidTime):
            history.balance(ALICE, at=datetime(2026, 11, 23))

    def test_a_tenant_without_an_account_has_no_past(self, billing: Billing) -> None:
        with pytest.raises(UnknownAccount):
            billing.balance(ALICE, at=NOON)


class FilterContract(Contract):
    """A statement can be limited to a kind or a period."""

    @pytest.fixture
    def history(self, billing: Billing) -> Billing:
        """Ten transactions: purchases at odd seconds after noon, charges at even ones."""
        for number in range(1, 6):
            billing.confirm_purchase(ALICE, usd("0.01"), payment=f"stripe:{number}")
            billing.charge(ALICE, credits(number), reference=f"run-{number}")
        return billing

    @pytest.mark.parametrize("kind", [TransactionKind.CHARGE, "charge"])
    def test_one_kind_keeps_the_balance_of_every_line(
        self, history: Billing, kind: TransactionKind
    ) -> None:
        every = history.statement(ALICE).lines

        charges = history.statement(ALICE, kind=kind).lines

        assert [line.reference for line in charges] == [f"run-{n}" for n in (5, 4, 3, 2, 1)]
        assert charges == tuple(line for line in every if line.kind == "charge")

    def test_a_time_has_a_first_moment_and_one_after_its_last(self, history: Billing) -> None:
        lines = history.statement(ALICE, since=NOON + 3 * SECOND, until=NOON + 6 * SECOND).lines

        assert [line.reference for line in lines] == ["stripe:3", "run-2", "stripe:2"]

    def test_filters_go_with_pages(self, history: Billing) -> None:
        first = history.statement(ALICE, kind="charge", since=NOON + 4 * SECOND, limit=3)
        rest = history.statement(ALICE, kind="charge", since=NOON + 4 * SECOND, after=first.next)

        assert [line.reference for line in first.lines] == ["run-5", "run-4", "run-3"]
        assert [line.reference for line in rest.lines] == ["run-2"]
        assert rest.next is None

    @pytest.mark.parametrize("folded", [False, True])
    def test_the_system_tenants_lines_add_up_too(self, history: Billing, folded: bool) -> None:
        if folded:
            history.fold()
        history.charge(SYSTEM_TENANT_ID, credits(1_000), reference="run-1")
        history.confirm_purchase(BOB, usd("0.01"), payment="stripe:bob")

        every = history.statement(SYSTEM_TENANT_ID).lines

        assert [int(line.amount.value) for line in every] == [25_000, -1_000, *[25_000] * 5]
        assert every[-1].balance_after == every[-1].amount
        for newer, older in pairwise(every):
            assert newer.balance_after - newer.amount == older.balance_after
        assert history.statement(SYSTEM_TENANT_ID, kind="purchase").lines == (
            every[0],
            *every[2:],
        )

    @pytest.mark.parametrize("kind", ["gift", "", 5, "CHARGE"])
    def test_an_unknown_kind_is_refused(self, history: Billing, kind: str) -> None:
        with pytest.raises(InvalidInput) as caught:
            history.statement(ALICE, kind=kind)

        assert caught.value.field == "kind"

    @pytest.mark.parametrize("bound", ["since", "until"])
    def test_a_naive_bound_is_refused(self, history: Billing, bound: str) -> None:
        with pytest.raises(InvalidTime) as caught:
            history.statement(ALICE, **{bound: datetime(2026, 11, 23)})  # type: ignore[arg-type]

        assert caught.value.field == bound


class FindContract(Contract):
    """A tenant finds its own transactions only."""

    @pytest.fixture
    def recorded(self, billing: Billing) -> Billing:
        billing.confirm_purchase(
            ALICE, usd("0.10"), payment="stripe:pi_1", metadata={"order": [1, {"a": None}]}
        )
        billing.charge(ALICE, credits(100), reference="run-1")
        billing.confirm_purchase(BOB, usd("0.10"), payment="stripe:pi_2")
        return billing

    def test_a_purchase_is_found_by_its_payment_and_by_its_id(self, recorded: Billing) -> None:
        purchase = TransactionView(
            id=UUID(int=1),
            kind=TransactionKind.PURCHASE,
            reference="stripe:pi_1",
            at=NOON + SECOND,
            postings=(Posting(recorded.open_account(ALICE).id, credits(1_000_000)),),
            shares=(Share(SYSTEM_ACCOUNT_ID, credits(250_000)),),
            balance=credits(1_000_000),
            metadata={"order": (1, {"a": None})},
            payment="stripe:pi_1",
        )

        assert recorded.find(ALICE, reference="stripe:pi_1", kind="purchase") == purchase
        assert recorded.transaction(ALICE, UUID(int=1)) == purchase

    def test_metadata_is_kept_with_everything_that_it_was_given_to(self, billing: Billing) -> None:
        given, kept = {"order": [1, {"a": None}]}, {"order": (1, {"a": None})}
        on: Any = {"reference": "r", "metadata": given}
        for payment in ("a:paid", "a:disputed"):
            billing.confirm_purchase(ALICE, usd("1.00"), payment=payment, metadata=given)
        billing.grant(ALICE, credits(5), source="s", **on)
        hold = billing.hold(ALICE, credits(5), **on)
        billing.capture(ALICE, hold.id, credits(5), **on)
        billing.charge(ALICE, credits(5), **on)
        billing.refund(ALICE, payment="a:paid", **on)
        dispute = billing.open_dispute(ALICE, payment="a:disputed", **on)
        held_again = billing.find_hold(ALICE, "r")
        assert held_again is not None
        disputed_again = billing.open_dispute(ALICE, payment="a:disputed", reference="r")
        billing.lose_dispute(ALICE, payment="a:disputed", **on)

        for aside in (hold, held_again, dispute, disputed_again):
            assert aside.metadata == kept
        for line in billing.statement(ALICE).lines:
            found = billing.transaction(ALICE, line.transaction_id)
            assert found is not None
            assert found.metadata == kept, line.kind

    def test_the_system_tenant_sees_both_sides_of_its_own_charge(self, recorded: Billing) -> None:
        recorded.charge(SYSTEM_TENANT_ID, credits(7), reference="run-1")

        found = recorded.find(SYSTEM_TENANT_ID, reference="run-1", kind=TransactionKind.CHARGE)

        assert found is not None
        assert found.postings == (
            Posting(SYSTEM_ACCOUNT_ID, credits(-7)),
            Posting(USAGE, credits(7)),
        )

    def test_an_unknown_transaction_is_none(self, recorded: Billing) -> None:
        assert recorded.find(ALICE, reference="run-1", kind="purchase") is None
        assert recorded.find(ALICE, reference="RUN-1", kind="charge") is None
        assert recorded.transaction(ALICE, UUID(int=99)) is None

    def test_a_transaction_of_another_tenant_is_none_also_for_the_system_tenant(
        self, recorded: Billing
    ) -> None:
        assert recorded.find(BOB, reference="stripe:pi_1", kind="purchase") is None
        assert recorded.transaction(BOB, UUID(int=1)) is None
        assert recorded.transaction(SYSTEM_TENANT_ID, UUID(int=1)) is None

    def test_a_tenant_without_an_account_is_unknown(self, billing: Billing) -> None:
        with pytest.raises(UnknownAccount):
            billing.find(ALICE, reference="run-1", kind="charge")
        with pytest.raises(UnknownAccount):
            billing.transaction(ALICE, UUID(int=1))

    def test_bad_arguments_are_refused(self, recorded: Billing) -> None:
        with pytest.raises(InvalidReference):
            recorded.find(ALICE, reference="", kind="charge")
        with pytest.raises(InvalidInput):
            recorded.find(ALICE, reference="run-1", kind="gift")
        with pytest.raises(InvalidInput):
            recorded.transaction(ALICE, str(UUID(int=1)))  # type: ignore[arg-type]


class FoldingContract(Contract):
    """A fold changes the speed of reading a balance, and no result."""

    def test_a_fold_counts_arrivals_since_the_last_fold(self, billing: Billing) -> None:
        assert billing.fold() == Folding(accounts=0, lines=0)
        billing.confirm_purchase(ALICE, usd("0.10"), payment="stripe:pi_1")
        billing.charge(ALICE, credits(5), reference="run-1")
        billing.charge(SYSTEM_TENANT_ID, credits(5), reference="run-1")

        # Shares, issuance, and usage twice. A tenant's own lines need no folding.
        assert billing.fold() == Folding(accounts=3, lines=4)
        assert billing.fold() == Folding(accounts=0, lines=0)
        billing.charge(ALICE, credits(5), reference="run-2")
        assert billing.fold() == Folding(accounts=1, lines=1)

    def test_every_reading_is_the_same_before_and_after(
        self, billing: Billing, new_billing: NewBilling
    ) -> None:
        for number in range(1, 8):
            billing.confirm_purchase(ALICE, usd("0.01"), payment=f"stripe:{number}")
            if number % 3 == 0:
                billing.charge(SYSTEM_TENANT_ID, credits(number), reference=f"run-{number}")
            if number == 5:
                billing.fold()
        moments = [NOON + seconds * SECOND for seconds in range(12)]

        def readings() -> object:
            reader = new_billing()
            return (
                reader.balance(SYSTEM_TENANT_ID),
                [reader.balance(SYSTEM_TENANT_ID, at=moment) for moment in moments],
                reader.statement(SYSTEM_TENANT_ID),
            )

        before = readings()
        assert billing.fold().lines > 0

        assert readings() == before

    def test_arrivals_with_a_slow_clock_count_at_their_own_moment(
        self, billing: Billing, clock: SteppingClock
    ) -> None:
        billing.confirm_purchase(ALICE, usd("0.01"), payment="stripe:1")
        clock.moment = datetime(2026, 1, 1, tzinfo=UTC)
        billing.confirm_purchase(BOB, usd("0.02"), payment="stripe:2")
        before = [
            billing.balance(SYSTEM_TENANT_ID, at=moment).posted
            for moment in (datetime(2026, 6, 1, tzinfo=UTC), NOON + SECOND)
        ]
        billing.fold()
        after = [
            billing.balance(SYSTEM_TENANT_ID, at=moment).posted
            for moment in (datetime(2026, 6, 1, tzinfo=UTC), NOON + SECOND)
        ]

        assert before == after == [credits(50_000), credits(75_000)]


class FoldingRaces(Contract):
    """Folds with concurrent writes."""

    def test_a_fold_misses_no_concurrent_arrival(
        self, unit_of_work: UnitOfWork, new_billing: NewBilling
    ) -> None:
        """The first scope to write commits last, unless the store runs scopes one by one."""
        billing = new_billing()
        billing.confirm_purchase(BOB, usd("10.00"), payment="stripe:pi_0")
        with ThreadPoolExecutor(2) as threads:
            with unit_of_work.scope(ALICE) as scope:
                scope.ledger.post(planned())
                later = threads.submit(
                    billing.confirm_purchase, BOB, usd("10.00"), payment="stripe:pi_2"
                )
                wait([later], WHILE_S)
                fold = threads.submit(billing.fold)
                wait([fold], WHILE_S)
            later.result()
            fold.result()

        assert billing.balance(SYSTEM_TENANT_ID).posted == credits(75_000_000)
        billing.fold()
        assert billing.balance(SYSTEM_TENANT_ID).posted == credits(75_000_000)
