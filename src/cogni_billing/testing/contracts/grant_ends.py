"""Contract: grants are voided and extended."""

from __future__ import annotations

from datetime import datetime, timedelta
from functools import partial
from uuid import UUID

import pytest
from attrs import evolve

from cogni_billing import (
    AccountId,
    Billing,
    BillingError,
    Difference,
    GrantClosed,
    GrantExtension,
    GrantReceipt,
    IdempotencyConflict,
    InsufficientCredits,
    InvalidTime,
    UnknownAccount,
    UnknownGrant,
    VoidReceipt,
    credits,
    usd,
)
from cogni_billing.domain.identity import BREAKAGE, ISSUANCE
from cogni_billing.testing.base import ALICE, BOB, NOON, Contract, NewBilling, SteppingClock, Totals
from cogni_billing.testing.contracts.grants import left
from cogni_billing.testing.racing import at_once

HOUR = timedelta(hours=1)
SECOND = timedelta(seconds=1)


class GrantEndContract(Contract):
    """A grant can be voided, and its expiry can move to a later moment."""

    @pytest.fixture
    def granted(self, billing: Billing) -> GrantReceipt:
        """Alice has a grant of 500 until an hour past noon, and has spent 100 of it."""
        receipt = billing.grant(
            ALICE, credits(500), source="promo:a", reference="a", expires_at=NOON + HOUR
        )
        billing.charge(ALICE, credits(100), reference="run-1")
        return receipt

    def test_a_void_takes_the_remaining_credits_back_from_issuance(
        self, billing: Billing, granted: GrantReceipt, totals: Totals
    ) -> None:
        receipt = billing.void_grant(
            ALICE, granted.transaction_id, reference="v-1", reason="Granted twice, by mistake."
        )

        assert receipt == VoidReceipt(
            transaction_id=receipt.transaction_id,
            grant_id=granted.transaction_id,
            voided=credits(400),
            reason="Granted twice, by mistake.",
            balance=credits(0),
            replayed=False,
        )
        assert left(billing) == {}
        assert totals()[ISSUANCE] == -100
        assert totals()[AccountId(ALICE)] == 0
        assert BREAKAGE not in totals()
        (line, *_) = billing.statement(ALICE).lines
        assert (line.kind, line.reference, line.amount) == ("void", "v-1", credits(-400))
        found = billing.transaction(ALICE, receipt.transaction_id)
        assert found is not None
        assert found.reason == "Granted twice, by mistake."
        with pytest.raises(InsufficientCredits):
            billing.charge(ALICE, credits(1), reference="run-2")

    def test_a_void_is_replayed_by_its_reference_and_compared(
        self, billing: Billing, granted: GrantReceipt, totals: Totals
    ) -> None:
        other = billing.grant(ALICE, credits(7), source="promo:b", reference="b")
        first = billing.void_grant(ALICE, granted.transaction_id, reference="v-1")
        before = totals()

        again = billing.void_grant(ALICE, granted.transaction_id, reference="v-1")

        assert again == evolve(first, replayed=True)
        with pytest.raises(IdempotencyConflict) as another:
            billing.void_grant(ALICE, other.transaction_id, reference="v-1", reason="b")
        assert [each.field for each in another.value.differences] == ["grant", "reason"]
        assert totals() == before

    def test_a_void_of_a_grant_without_remaining_credits_records_zero(
        self, billing: Billing, granted: GrantReceipt, clock: SteppingClock
    ) -> None:
        billing.charge(ALICE, credits(400), reference="run-2")
        spent = billing.void_grant(ALICE, granted.transaction_id, reference="v-1")
        second = billing.void_grant(ALICE, granted.transaction_id, reference="v-2")
        late = billing.grant(ALICE, credits(5), source="b", reference="b", expires_in=HOUR)
        clock.moment += 2 * HOUR
        expired = billing.void_grant(ALICE, late.transaction_id, reference="v-3")

        assert [each.voided for each in (spent, second, expired)] == [credits(0)] * 3
        assert [line.kind for line in billing.statement(ALICE, limit=2).lines] == ["void", "expiry"]
        assert billing.verify().violations == ()

    def test_held_credits_of_a_voided_grant_are_captured_or_expire(
        self, billing: Billing, granted: GrantReceipt, totals: Totals
    ) -> None:
        hold = billing.hold(ALICE, credits(150), reference="run-2")
        receipt = billing.void_grant(ALICE, granted.transaction_id, reference="v-1")
        assert receipt.voided == credits(250)

        billing.capture(ALICE, hold.id, credits(90), reference="run-2")

        assert billing.balance(ALICE).available == credits(0)
        billing.sweep()
        assert totals()[BREAKAGE] == 60
        assert totals()[ISSUANCE] == -250
        assert billing.verify().violations == ()

    def test_a_void_makes_no_debt(self, billing: Billing) -> None:
        billing.open_account(ALICE)
        billing.charge(ALICE, credits(70), reference="run-1", allow_overdraft=True)
        granted = billing.grant(ALICE, credits(100), source="a", reference="a")

        receipt = billing.void_grant(ALICE, granted.transaction_id, reference="v-1")

        assert (receipt.voided, receipt.balance) == (credits(30), credits(0))

    def test_past_balances_still_have_the_credits_of_a_voided_grant(
        self, billing: Billing, granted: GrantReceipt, clock: SteppingClock
    ) -> None:
        clock.moment = NOON + HOUR / 2
        billing.void_grant(ALICE, granted.transaction_id, reference="v-1")

        at = partial(billing.balance, ALICE)
        assert at(at=NOON + HOUR / 2).posted == credits(400)
        assert at(at=clock.moment).posted == credits(0)
        assert at(at=NOON + 2 * HOUR).posted == credits(0)

    def test_an_extension_moves_the_expiry_to_a_later_moment(
        self, billing: Billing, granted: GrantReceipt, clock: SteppingClock, totals: Totals
    ) -> None:
        extension = billing.extend_grant(
            ALICE, granted.transaction_id, reference="e-1", expires_at=NOON + 2 * HOUR
        )

        assert extension == GrantExtension(
            grant_id=granted.transaction_id,
            reference="e-1",
            expires_at=NOON + 2 * HOUR,
            extended_at=extension.extended_at,
        )
        (grant,) = billing.grants(ALICE)
        assert grant.expires_at == NOON + 2 * HOUR
        clock.moment = NOON + 2 * HOUR - 2 * SECOND
        assert billing.balance(ALICE).posted == credits(400)
        assert billing.sweep() == 1
        assert totals()[BREAKAGE] == 400
        assert billing.verify().violations == ()

    def test_a_grant_and_its_extension_are_replayed_as_they_were_asked_for(
        self, billing: Billing, granted: GrantReceipt
    ) -> None:
        extend = partial(billing.extend_grant, ALICE, granted.transaction_id)
        first = extend(reference="e-1", expires_in=2 * HOUR)
        latest = extend(reference="e-2", expires_in=3 * HOUR)

        assert extend(reference="e-1", expires_in=2 * HOUR) == evolve(first, replayed=True)
        again = billing.grant(
            ALICE, credits(500), source="promo:a", reference="a", expires_at=NOON + HOUR
        )
        assert again == evolve(granted, replayed=True)
        with pytest.raises(IdempotencyConflict) as another:
            extend(reference="e-1", expires_in=HOUR)
        assert another.value.differences == (Difference("expires_in", "7200 s", "3600 s"),)
        assert billing.grants(ALICE)[0].expires_at == latest.expires_at

    def test_an_extended_grant_is_spent_by_its_new_expiry(
        self, billing: Billing, granted: GrantReceipt
    ) -> None:
        billing.grant(ALICE, credits(9), source="b", reference="b", expires_at=NOON + 2 * HOUR)
        assert list(left(billing)) == ["promo:a", "b"]

        billing.extend_grant(
            ALICE, granted.transaction_id, reference="e-1", expires_at=NOON + 3 * HOUR
        )

        assert list(left(billing)) == ["b", "promo:a"]

    @pytest.mark.parametrize("expires_at", [NOON + HOUR, NOON + HOUR - SECOND, NOON, NOON - HOUR])
    def test_an_extension_to_no_later_moment_is_refused(
        self, billing: Billing, granted: GrantReceipt, expires_at: datetime
    ) -> None:
        with pytest.raises(InvalidTime):
            billing.extend_grant(
                ALICE, granted.transaction_id, reference="e-1", expires_at=expires_at
            )

        assert billing.grants(ALICE)[0].expires_at == NOON + HOUR
        billing.extend_grant(
            ALICE, granted.transaction_id, reference="e-1", expires_at=NOON + 2 * HOUR
        )

    def test_an_extension_without_an_expiry_is_refused(
        self, billing: Billing, granted: GrantReceipt
    ) -> None:
        with pytest.raises(InvalidTime) as caught:
            billing.extend_grant(ALICE, granted.transaction_id, reference="e-1")

        assert caught.value.field == "expires_at"

    def test_a_grant_that_never_expires_cannot_be_extended(self, billing: Billing) -> None:
        granted = billing.grant(ALICE, credits(5), source="a", reference="a")

        with pytest.raises(InvalidTime, match="a grant with an expiry"):
            billing.extend_grant(ALICE, granted.transaction_id, reference="e-1", expires_in=HOUR)

    def test_an_ended_grant_cannot_be_extended(
        self, billing: Billing, granted: GrantReceipt, clock: SteppingClock
    ) -> None:
        voided = billing.grant(ALICE, credits(5), source="b", reference="b")
        billing.void_grant(ALICE, voided.transaction_id, reference="v-1")
        voided_at = clock.moment
        with pytest.raises(GrantClosed) as by_void:
            billing.extend_grant(ALICE, voided.transaction_id, reference="e-1", expires_in=HOUR)
        clock.moment = NOON + HOUR - SECOND
        with pytest.raises(GrantClosed) as by_time:
            billing.extend_grant(ALICE, granted.transaction_id, reference="e-1", expires_in=HOUR)

        assert (by_void.value.grant_id, by_void.value.expired_at) == (
            voided.transaction_id,
            voided_at,
        )
        assert by_time.value.expired_at == NOON + HOUR
        assert billing.balance(ALICE).posted == credits(0)

    @pytest.mark.parametrize("call", ["void_grant", "extend_grant"])
    def test_an_unknown_grant_is_refused(
        self, billing: Billing, granted: GrantReceipt, call: str
    ) -> None:
        options = {"expires_in": HOUR} if call == "extend_grant" else {}
        end = partial(getattr(billing, call), reference="r", **options)
        billing.confirm_purchase(BOB, usd("0.01"), payment="stripe:pi_1")
        charge = billing.charge(ALICE, credits(1), reference="run-2")

        for tenant, grant_id in (
            (ALICE, UUID(int=2**64)),
            (ALICE, charge.transaction_id),
            (BOB, granted.transaction_id),
        ):
            with pytest.raises(UnknownGrant) as caught:
                end(tenant, grant_id)
            assert caught.value.grant_id == grant_id
        assert left(billing) == {"promo:a": 399}

    @pytest.mark.parametrize("call", ["void_grant", "extend_grant"])
    def test_an_end_of_a_grant_needs_an_account(self, billing: Billing, call: str) -> None:
        options = {"expires_in": HOUR} if call == "extend_grant" else {}
        with pytest.raises(UnknownAccount):
            getattr(billing, call)(ALICE, UUID(int=5), reference="r", **options)


class GrantEndRaces(Contract):
    """A grant is spent or voided, once."""

    def test_concurrent_voids_and_charges_take_each_credit_once(
        self, new_billing: NewBilling, totals: Totals
    ) -> None:
        billing = new_billing()
        granted = billing.grant(ALICE, credits(100), source="a", reference="a")

        def attempt(number: int) -> int:
            try:
                if number % 2:
                    return int(
                        billing.void_grant(
                            ALICE, granted.transaction_id, reference=f"v-{number}"
                        ).voided.value
                    )
                billing.charge(ALICE, credits(7), reference=f"run-{number}")
            except BillingError:
                return 0
            return 7

        taken = at_once([partial(attempt, number) for number in range(12)])

        assert sum(taken) == 100
        assert totals()[AccountId(ALICE)] == 0
        assert billing.verify().violations == ()
