"""The conformance levels of an adapter.

Each level is a class of test classes, and contains the level below. To test an adapter, inherit the
level that it claims, define the fixtures, and let pytest collect the class:

    class TestOurLedger(IsolatedConformance):
        @pytest.fixture
        def new_unit_of_work(self) -> NewUnitOfWork: ...

        @pytest.fixture
        def totals(self) -> Totals: ...

If an adapter cannot keep a promise, override the class of that subject. Then the exception is
visible.
"""

from __future__ import annotations

import pytest

from cogni_billing.testing import machine
from cogni_billing.testing.base import Fixtures, not_given
from cogni_billing.testing.contracts import (
    acting,
    adjusting,
    attempt_claims,
    attempt_intents,
    attempt_races,
    attempt_recipients,
    attempt_records,
    attempt_reports,
    attempt_turns,
    attempts,
    bad_input,
    batches,
    breaking_off,
    changing_disputes,
    charges,
    disputes,
    drawing,
    erasure,
    expiring,
    failed_refunds,
    finding_payments,
    freezing,
    giving_back,
    grant_ends,
    grants,
    hold_changes,
    holds,
    inbox,
    intervals,
    keys,
    kinds,
    known_faults,
    late_usage,
    metering,
    openings,
    overdrafts,
    periods,
    prices,
    purchases,
    reading,
    refunds,
    restarting,
    schedules,
    scopes,
    sealing,
    sharing,
    single_calls,
    statements,
    verifying,
    waiting_grants,
)


class MemoryConformance(Fixtures):
    """Every call has the right outcome, with one caller and no failures. Enough for a fake.

    Needs the fixtures of `Fixtures`.
    """

    class TestActors(acting.ActorContract):
        pass

    class TestAdjustments(adjusting.AdjustmentContract):
        pass

    class TestAttemptClaims(attempt_claims.AttemptClaimContract):
        pass

    class TestAttemptIntents(attempt_intents.AttemptIntentContract):
        pass

    class TestAttemptRecords(attempt_records.AttemptRecordContract):
        pass

    class TestAttemptReports(attempt_reports.AttemptReportContract):
        pass

    class TestEvidenceReplacements(attempt_reports.EvidenceReplacementContract):
        pass

    class TestRecipients(attempt_recipients.RecipientContract):
        pass

    class TestAttemptTurns(attempt_turns.AttemptTurnContract):
        pass

    class TestAttempts(attempts.AttemptContract):
        pass

    class TestBadInput(bad_input.BadInputContract):
        pass

    class TestBalanceAt(reading.BalanceAtContract):
        pass

    class TestChargeBatches(batches.ChargeBatchContract):
        pass

    class TestAtMost(charges.AtMostContract):
        pass

    class TestCharges(charges.ChargeContract):
        pass

    class TestChangingDisputes(changing_disputes.ChangingDisputeContract):
        pass

    class TestDisputes(disputes.DisputeContract):
        pass

    class TestDisputedRefunds(failed_refunds.DisputedRefundContract):
        pass

    class TestDraws(drawing.DrawContract):
        pass

    class TestFilters(reading.FilterContract):
        pass

    class TestFind(reading.FindContract):
        pass

    class TestFindPayment(finding_payments.FindPaymentContract):
        pass

    class TestFolding(reading.FoldingContract):
        pass

    class TestGrantPages(drawing.GrantPageContract):
        pass

    class TestExpiringPurchases(expiring.ExpiringPurchaseContract):
        pass

    class TestExpiringRefunds(expiring.ExpiringRefundContract):
        pass

    class TestFreezes(freezing.FreezeContract):
        pass

    class TestReverse(giving_back.ReverseContract):
        pass

    class TestGrants(grants.GrantContract):
        pass

    class TestGrantEnds(grant_ends.GrantEndContract):
        pass

    class TestHoldChanges(hold_changes.HoldChangeContract):
        pass

    class TestMetering(metering.MeteringContract):
        pass

    class TestHolds(holds.HoldContract):
        pass

    class TestIds(keys.IdContract):
        pass

    class TestInbox(inbox.InboxContract):
        pass

    class TestIntervals(intervals.IntervalContract):
        pass

    class TestKeys(keys.KeyContract):
        pass

    class TestKinds(kinds.KindContract):
        pass

    class TestLateUsage(late_usage.LateUsageContract):
        pass

    class TestModel(machine.ModelContract):
        pass

    class TestOpenings(openings.OpeningContract):
        pass

    class TestOverdraftLimits(overdrafts.OverdraftLimitContract):
        pass

    class TestPeriods(periods.PeriodContract):
        pass

    class TestPurchaseBatches(batches.PurchaseBatchContract):
        pass

    class TestPrices(prices.PriceContract):
        pass

    class TestPurchases(purchases.PurchaseContract):
        pass

    class TestFailedRefunds(failed_refunds.FailedRefundContract):
        pass

    class TestPaymentEvents(changing_disputes.EventOrderContract):
        pass

    class TestRefundTotals(failed_refunds.RefundTotalContract):
        pass

    class TestRefunds(refunds.RefundContract):
        pass

    class TestSchedules(schedules.ScheduleContract):
        pass

    class TestSealing(sealing.SealingContract):
        pass

    class TestSharing(sharing.SharingContract):
        pass

    class TestStatements(statements.StatementContract):
        pass

    class TestSystemTenantSpends(charges.SystemTenantSpendsContract):
        pass

    class TestErasure(erasure.ErasureContract):
        pass

    class TestAttemptErasure(erasure.AttemptErasureContract):
        pass

    class TestVerifying(verifying.VerifyingContract):
        pass

    class TestWaitingGrants(waiting_grants.WaitingGrantContract):
        pass


class TransactionalConformance(MemoryConformance):
    """Scopes are also atomic, with many concurrent callers."""

    class TestAttemptRaces(attempt_races.AttemptRaces):
        pass

    class TestBatchRaces(batches.BatchRaces):
        pass

    class TestChargeRaces(charges.ChargeRaces):
        pass

    class TestDisputeRaces(disputes.DisputeRaces):
        pass

    class TestFailedRefundRaces(failed_refunds.FailedRefundRaces):
        pass

    class TestFoldingRaces(reading.FoldingRaces):
        pass

    class TestReverseRaces(giving_back.ReverseRaces):
        pass

    class TestGrantRaces(grants.GrantRaces):
        pass

    class TestGrantEndRaces(grant_ends.GrantEndRaces):
        pass

    class TestHoldChangeRaces(hold_changes.HoldChangeRaces):
        pass

    class TestHoldRaces(holds.HoldRaces):
        pass

    class TestInboxRaces(inbox.InboxRaces):
        pass

    class TestKnownFaults(known_faults.KnownFaultContract):
        pass

    class TestOpeningRaces(openings.OpeningRaces):
        pass

    class TestOverdraftLimitRaces(overdrafts.OverdraftLimitRaces):
        pass

    class TestPurchaseRaces(purchases.PurchaseRaces):
        pass

    class TestRefundRaces(refunds.RefundRaces):
        pass

    class TestRefusedCalls(single_calls.RefusedCallContract):
        pass

    class TestScheduleRaces(schedules.ScheduleRaces):
        pass

    class TestScopes(scopes.ScopeContract):
        pass

    class TestSealingRaces(sealing.SealingRaces):
        pass

    class TestSharingRaces(sharing.SharingRaces):
        pass

    class TestSingleCalls(single_calls.SingleCallContract):
        pass

    class TestWaitingGrantRaces(waiting_grants.WaitingGrantRaces):
        pass


class IsolatedConformance(TransactionalConformance):
    """A scope also reaches its own tenant only."""

    class TestTenants(scopes.TenantContract):
        pass


class DurableConformance(IsolatedConformance):
    """Acknowledged work also survives crashes.

    Needs two more fixtures: `break_off` (`BreakOff`) and `restart` (`Restart`).
    """

    @pytest.fixture
    def break_off(self) -> breaking_off.BreakOff:
        """Interrupts a call at a place. False if the call has no such place."""
        not_given("break_off")

    @pytest.fixture
    def restart(self) -> restarting.Restart:
        """Kills the store, starts it again, and opens a unit of work over its data."""
        not_given("restart")

    class TestBreakingOff(breaking_off.BreakingOffContract):
        pass

    class TestRestart(restarting.RestartContract):
        pass
