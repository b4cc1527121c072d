"""Contract: `forget` erases texts, and changes no figure and no answer."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Final

import pytest
from attrs import evolve

from cogni_billing import (
    Billing,
    Hold,
    IdempotencyConflict,
    InvalidInput,
    PaymentAttempts,
    RecordsRetained,
    TransactionView,
    UnknownAccount,
    credits,
    usd,
)
from cogni_billing.testing.base import (
    ALICE,
    BOB,
    Contract,
    MovableClock,
    NewBilling,
    SteppingClock,
    Totals,
)
from cogni_billing.testing.contracts.attempt_base import WALLET, Attempting
from cogni_billing.testing.contracts.sealing import KEY
from cogni_billing.testing.contracts.verifying import live

NAMED: Final = {"name": "Ada", "address": ["Main Street 1", 1.5]}
YEAR: Final = timedelta(days=365)
RECORDED: Final = (
    *(("stripe:pi_1", "purchase"), ("g", "grant"), ("run-1", "charge")),
    ("t", "adjustment"),
)


class ErasureContract(Contract):
    @pytest.fixture
    def hold(self, billing: Billing) -> Hold:
        """Alice's only open hold. She has a text on each kind of record, and Bob has one."""
        billing.confirm_purchase(ALICE, usd("0.10"), payment="stripe:pi_1", metadata=NAMED)
        billing.grant(ALICE, credits(5), source="gift:ada", reference="g", metadata=NAMED)
        billing.charge(ALICE, credits(3), reference="run-1", metadata=NAMED)
        billing.open_dispute(ALICE, payment="stripe:pi_1", reference="dp", metadata=NAMED)
        billing.adjust(ALICE, credits(1), reason="Ada called", reference="t", metadata=NAMED)
        voided = billing.grant(ALICE, credits(2), source="gift:ada", reference="v", metadata=NAMED)
        billing.void_grant(
            ALICE, voided.transaction_id, reference="v", reason="Ada asked.", metadata=NAMED
        )
        billing.grant(BOB, credits(5), source="gift:bob", reference="g", metadata=NAMED)
        return billing.hold(ALICE, credits(1), reference="run-2", metadata=NAMED)

    def found(self, billing: Billing, reference: str, kind: str) -> TransactionView:
        view = billing.find(ALICE, reference=reference, kind=kind)
        assert view is not None
        return view

    def test_forget_erases_each_text_of_the_tenant_once(self, billing: Billing, hold: Hold) -> None:
        assert billing.forget(ALICE) == 12
        assert billing.forget(ALICE) == 0

        for reference, kind in RECORDED:
            assert self.found(billing, reference, kind).metadata == {}
        assert "Ada" not in str(self.found(billing, "t", "adjustment").reason)
        (grant,) = billing.grants(ALICE)
        assert "ada" not in grant.source
        reason = self.found(billing, "v", "void").reason
        assert reason is not None
        assert "Ada" not in reason
        assert billing.release(ALICE, hold.id).metadata == {}
        assert billing.win_dispute(ALICE, payment="stripe:pi_1", reference="dp").metadata == {}

    def test_forget_keeps_the_texts_of_other_tenants(self, billing: Billing, hold: Hold) -> None:
        billing.forget(ALICE)

        (grant,) = billing.grants(BOB)
        view = billing.find(BOB, reference="g", kind="grant")
        assert (grant.source, view and view.metadata["name"]) == ("gift:bob", "Ada")

    def test_forget_keeps_every_figure_and_key(
        self, billing: Billing, hold: Hold, totals: Totals
    ) -> None:
        before = totals(), billing.balance(ALICE)
        lines = billing.statement(ALICE).lines
        view = self.found(billing, "run-1", "charge")

        billing.forget(ALICE)

        assert (totals(), billing.balance(ALICE)) == before
        assert lines[0].metadata
        assert billing.statement(ALICE).lines == tuple(evolve(line, metadata={}) for line in lines)
        assert self.found(billing, "run-1", "charge") == evolve(view, metadata={})

    def test_forget_leaves_the_ledger_verified_and_its_seals_valid(
        self, billing: Billing, clock: SteppingClock
    ) -> None:
        live(billing, clock)
        billing.charge(ALICE, credits(1), reference="run-9", metadata=NAMED)
        seals = billing.seal(key=KEY)

        billing.forget(ALICE)

        assert billing.verify().violations == ()
        assert billing.verify_seals(seals, key=KEY) == ()
        assert set(billing.seal(key=KEY)) == set(seals)

    def test_replays_of_an_erased_request_are_the_same(self, billing: Billing, hold: Hold) -> None:
        billing.forget(ALICE)

        again = billing.grant(ALICE, credits(5), source="gift:ada", reference="g")
        assert (again.replayed, again.granted) == (True, credits(5))
        assert billing.hold(ALICE, credits(1), reference="run-2").replayed
        assert billing.adjust(ALICE, credits(1), reason="Ada called", reference="t").replayed
        with pytest.raises(IdempotencyConflict) as caught:
            billing.adjust(ALICE, credits(1), reason="Eve called", reference="t")
        assert [each.field for each in caught.value.differences] == ["reason"]
        voided = self.found(billing, "v", "grant").id
        assert billing.void_grant(ALICE, voided, reference="v", reason="Ada asked.").replayed
        with pytest.raises(IdempotencyConflict) as caught:
            billing.grant(ALICE, credits(5), source="gift:eve", reference="g")
        assert [each.field for each in caught.value.differences] == ["source"]

    def test_texts_recorded_after_forget_stay(self, billing: Billing, hold: Hold) -> None:
        billing.forget(ALICE)

        billing.charge(ALICE, credits(1), reference="run-3", metadata=NAMED)

        assert self.found(billing, "run-3", "charge").metadata["name"] == "Ada"
        assert billing.forget(ALICE) == 1

    def test_forget_for_a_tenant_without_an_account_is_refused(self, billing: Billing) -> None:
        with pytest.raises(UnknownAccount) as caught:
            billing.forget(ALICE)
        assert caught.value.tenant == ALICE

    def test_forget_is_refused_while_a_retention_rule_runs(self, new_billing: NewBilling) -> None:
        clock = MovableClock()
        billing = new_billing(clock=clock, retention=YEAR)
        billing.grant(ALICE, credits(5), source="gift:ada", reference="g", metadata=NAMED)
        first = clock.moment
        clock.move(YEAR - timedelta(microseconds=1))

        with pytest.raises(RecordsRetained) as caught:
            billing.forget(ALICE)
        assert caught.value.until == first + YEAR
        assert self.found(billing, "g", "grant").metadata["name"] == "Ada"

        clock.move(timedelta(microseconds=1))
        assert billing.forget(ALICE) == 2

    @pytest.mark.parametrize("retention", [timedelta(0), -YEAR, 365, "1 year"])
    def test_a_retention_that_is_no_time_is_refused(
        self, new_billing: NewBilling, retention: Any
    ) -> None:
        with pytest.raises(InvalidInput) as caught:
            new_billing(retention=retention)
        assert caught.value.field == "retention"


class AttemptErasureContract(Attempting):
    def test_forget_erases_the_metadata_of_attempts(
        self, billing: Billing, attempts: PaymentAttempts
    ) -> None:
        billing.open_account(ALICE)
        intent = attempts.create_intent(ALICE, usd("2.00"), payer=WALLET, metadata=NAMED)

        assert billing.forget(ALICE) == 1

        found = attempts.status(ALICE, intent.attempt_id).intent
        assert found == evolve(intent, metadata={})
