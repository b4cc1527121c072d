"""Broken schemas, each caught by a test of the kit."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from cogni_billing.adapters.postgres import PostgresUnitOfWork, reset
from cogni_billing.adapters.postgres.operations.blueprint import LEDGER
from cogni_billing.ports.scope import UnitOfWork
from cogni_billing.testing import Fixtures, NewUnitOfWork, Restart, RestartContract, Totals
from cogni_billing.testing.contracts import (
    acting,
    adjusting,
    attempt_recipients,
    attempt_reports,
    batches,
    changing_disputes,
    charges,
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
    late_usage,
    openings,
    overdrafts,
    prices,
    purchases,
    reading,
    refunds,
    schedules,
    sharing,
    single_calls,
    statements,
    verifying,
    waiting_grants,
)
from sabotage import must_fail, only
from stack.conftest import Database
from stack.support.killable import Killable, killable

REPLACED = """
    DO $$
    DECLARE
        definition text := pg_get_functiondef('cogni_billing.{function}'::regproc);
    BEGIN
        ASSERT position('{right}' IN definition) > 0;
        EXECUTE replace(definition, '{right}', '{wrong}');
    END $$
"""


def replaced(function: str, right: str, wrong: str) -> str:
    """Replace an expression of a function."""
    return REPLACED.format(function=function, right=right, wrong=wrong)


def of_all_tables(*statements: str) -> str:
    return ";".join(each.format(table=table) for table in LEDGER for each in statements)


FORGETFUL = replaced(
    "_lines",
    "WHERE tenant_id = me AND position < own_before AND position > 0",
    "WHERE position > 0",
)

ANSWERS_ALONE = """
    BEGIN
        answers := cogni_billing.record(owner, asked, kinds);
        RAISE SQLSTATE ''CB001'';
    EXCEPTION WHEN SQLSTATE ''CB001'' THEN
        RETURN answers;
    END;
"""
FROM_CHANGE = "\n            FROM change"
ORDERED = "\n            ORDER BY n"

SABOTEURS: dict[str, tuple[type, str, str]] = {
    "a_function_forgets_the_tenant_and_row_security_is_off": (
        statements.StatementContract,
        "test_shares_on_a_statement_do_not_name_the_buyer",
        of_all_tables("ALTER TABLE cogni_billing.{table} DISABLE ROW LEVEL SECURITY")
        + ";"
        + FORGETFUL,
    ),
    "a_function_forgets_the_tenant_and_the_floor_is_gone": (
        statements.StatementContract,
        "test_shares_on_a_statement_do_not_name_the_buyer",
        "CREATE POLICY leak ON cogni_billing.transactions USING (true) WITH CHECK (true);"
        + FORGETFUL,
    ),
    "a_wallet_is_read_without_a_lock": (
        purchases.PurchaseRaces,
        "test_purchases_of_one_tenant_at_once_leave_no_gap_between_balances",
        replaced("record", "FOR NO KEY UPDATE", ""),
    ),
    "a_wallet_is_not_written_back": (
        purchases.PurchaseContract,
        "test_the_balance_on_the_receipt_is_the_one_right_after",
        replaced("record", "IF changed THEN", "IF false THEN"),
    ),
    "a_charge_is_not_compared_with_the_balance": (
        charges.ChargeRaces,
        "test_concurrent_charges_never_take_more_than_is_available",
        replaced("record", "OR to_draw > available", ""),
    ),
    "held_credits_may_be_spent": (
        holds.HoldContract,
        "test_held_credits_cannot_be_spent_otherwise",
        replaced(
            "record",
            "available := w.posted + arrived - w.held",
            "available := w.posted + arrived",
        ),
    ),
    "a_hold_sets_nothing_aside": (
        holds.HoldRaces,
        "test_concurrent_holds_never_hold_more_than_is_available",
        replaced("_hold", "w.held := w.held + m.amount", "w.held := w.held"),
    ),
    "a_charge_of_at_most_an_amount_takes_credits_that_are_not_there": (
        charges.AtMostContract,
        "test_a_charge_of_at_most_an_amount_takes_no_credits_of_a_balance_in_debt",
        replaced("record", "to_draw := greatest(0, available)", "to_draw := abs(available)"),
    ),
    "a_charge_of_at_most_an_amount_forgets_the_request": (
        charges.AtMostContract,
        "test_a_charge_of_at_most_more_than_is_there_takes_what_is_there",
        replaced("record", "m.at_most, m.used_at,", "NULL::numeric, m.used_at,"),
    ),
    "every_capture_ends_its_hold": (
        hold_changes.HoldChangeContract,
        "test_captures_in_parts_leave_the_hold_open_until_the_final_one",
        replaced("capture_hold", "IF m.final IS NULL THEN", "IF true THEN"),
    ),
    "an_overrun_is_not_compared_with_the_balance": (
        hold_changes.HoldChangeContract,
        "test_an_overrun_takes_available_credits_and_not_one_more",
        replaced("capture_hold", "excess > available", "false"),
    ),
    "an_extension_is_not_compared_with_the_balance": (
        hold_changes.HoldChangeContract,
        "test_an_extension_sets_more_credits_aside",
        replaced("_extend", "IF added > available THEN", "IF false THEN"),
    ),
    "released_credits_of_a_grant_are_lost": (
        hold_changes.HoldChangeContract,
        "test_a_release_of_a_part_frees_purchased_credits_first",
        replaced(
            "_release_part",
            "w := cogni_billing.give_back(w, taken.grants[i], taken.amounts[i]);",
            "",
        ),
    ),
    "changes_of_a_hold_count_before_they_were_made": (
        hold_changes.HoldChangeContract,
        "test_a_past_balance_includes_the_changes_of_a_hold_until_then",
        replaced("_balance", "change.at <= moment", "true"),
    ),
    "ended_holds_are_on_pages": (
        holds.HoldContract,
        "test_pages_of_open_holds_have_each_once_newest_first",
        replaced("_holds", "AND state = ''open'' AND ends_at > present", ""),
    ),
    "an_expired_grant_gets_its_credits_back": (
        giving_back.ReverseContract,
        "test_credits_of_a_grant_that_has_expired_since_go_on_to_breakage",
        replaced("give_back_charge", "IF ends <= moment THEN", "IF false THEN"),
    ),
    "the_first_draw_is_given_back_first": (
        giving_back.ReverseContract,
        "test_parts_come_back_in_the_reverse_order_and_add_up",
        replaced(
            "give_back_charge",
            "IN REVERSE coalesce(cardinality(charged.drawn_grants), 0) .. 1 LOOP",
            "IN 1 .. coalesce(cardinality(charged.drawn_grants), 0) LOOP",
        ),
    ),
    "a_charge_is_given_back_twice": (
        giving_back.ReverseContract,
        "test_no_more_than_the_charge_is_given_back",
        replaced("give_back_charge", "coalesce(max(returned_total), 0)", "coalesce(max(0), 0)"),
    ),
    "a_grant_is_never_drawn_of": (
        grants.GrantContract,
        "test_a_spent_grant_does_not_expire",
        replaced("record", "w.granted > 0 AND to_draw > 0", "false"),
    ),
    "a_grant_repays_no_debt": (
        grants.GrantContract,
        "test_grants_end_a_debt_in_parts",
        replaced("record", "IF w.granted > available THEN", "IF false THEN"),
    ),
    "credits_set_aside_by_a_dispute_are_a_debt": (
        grants.GrantContract,
        "test_a_grant_repays_no_credits_that_a_hold_or_a_dispute_has_set_aside",
        replaced("debt_of", "short - coalesce(sum(amount), 0)", "short"),
    ),
    "a_lifetime_is_not_stored": (
        grants.GrantContract,
        "test_a_grant_with_the_same_lifetime_is_replayed_at_a_later_moment",
        replaced(
            "record",
            "m.expires_at, m.expires_in, m.effective_from",
            "m.expires_at, NULL, m.effective_from",
        ),
    ),
    "a_charge_is_answered_without_its_draws": (
        drawing.DrawContract,
        "test_a_charge_tells_the_grants_and_the_purchased_credits_that_paid",
        replaced("record", "IF from_grants IS NULL", "IF true"),
    ),
    "a_line_forgets_the_granted_credits": (
        drawing.DrawContract,
        "test_a_capture_tells_the_grants_that_its_hold_had_pinned",
        replaced("_lines", "sum(part) FROM unnest(drawn_amounts)", "0 FROM unnest(drawn_amounts)"),
    ),
    "a_page_of_grants_begins_again": (
        drawing.GrantPageContract,
        "test_pages_of_grants_follow_one_another",
        replaced("_grants", "kind = ''grant'' AND position < before", "kind = ''grant''"),
    ),
    "a_voided_grant_can_be_spent": (
        grant_ends.GrantEndContract,
        "test_held_credits_of_a_voided_grant_are_captured_or_expire",
        replaced("void_lot", "SET taken = amount,", "SET taken = taken,"),
    ),
    "a_voided_grant_stays_open_for_held_credits": (
        grant_ends.GrantEndContract,
        "test_held_credits_of_a_voided_grant_are_captured_or_expire",
        replaced("void_lot", "expires_at = least(expires_at, w.as_of)", "source = source"),
    ),
    "an_extension_shortens_a_grant": (
        grant_ends.GrantEndContract,
        "test_an_extension_to_no_later_moment_is_refused",
        replaced("_extend_grant", "m.expires_at > lot.expires_at", "m.expires_at <> present"),
    ),
    "a_settled_wallet_is_not_written_back": (
        single_calls.RefusedCallContract,
        "test_a_refused_post_keeps_due_expirations",
        replaced("catch_up", "PERFORM cogni_billing.keep_wallet(w);", ""),
    ),
    "an_adjustment_takes_grants_first": (
        adjusting.AdjustmentContract,
        "test_credits_are_taken_of_purchased_ones_before_grants",
        replaced("record", "m.kind IN (''adjustment'')", "m.kind IN (''refund'')"),
    ),
    "an_adjustment_is_refused_below_zero": (
        adjusting.AdjustmentContract,
        "test_a_correction_is_never_refused_for_lack_of_credits",
        replaced(
            "record",
            "m.reverses IS NOT NULL OR m.kind IN (''adjustment'')",
            "m.reverses IS NOT NULL",
        ),
    ),
    "the_opening_balance_is_that_of_its_own_moment": (
        intervals.IntervalContract,
        "test_an_expiry_at_the_border_is_in_one_interval",
        replaced("_lines", "m.since - just_before", "m.since"),
    ),
    "due_expirations_are_on_no_statement": (
        intervals.IntervalContract,
        "test_a_due_expiration_is_a_line_before_it_is_posted",
        replaced("_lines", "IF w.due_at <= present", "IF false"),
    ),
    "the_closing_balance_expires_nothing": (
        intervals.IntervalContract,
        "test_a_closing_balance_counts_a_due_expiration",
        replaced("posted_by", "IF w.due_at <= least(present, moment)", "IF false"),
    ),
    "the_actor_is_not_kept": (
        acting.ActorContract,
        "test_an_inner_block_names_another_actor",
        replaced("record", "m.actor, m.metadata::json", "NULL, m.metadata::json"),
    ),
    "a_frozen_account_charges": (
        freezing.FreezeContract,
        "test_a_charge_of_a_batch_is_refused_alone",
        replaced("record", "ELSIF w.frozen_at IS NOT NULL OR", "ELSIF"),
    ),
    "a_frozen_account_holds": (
        freezing.FreezeContract,
        "test_a_hold_is_refused",
        replaced("_hold", "IF w.frozen_at IS NOT NULL", "IF false"),
    ),
    "an_opening_repeats": (
        openings.OpeningContract,
        "test_a_second_opening_is_a_replay",
        replaced("_opening", "IF answer IS NOT NULL", "IF false"),
    ),
    "an_opening_comes_late": (
        openings.OpeningContract,
        "test_an_account_with_transactions_gets_no_opening",
        replaced("_opening", "ELSIF w.lines > 0 OR EXISTS", "ELSIF false AND EXISTS"),
    ),
    "an_opening_is_dated_now": (
        openings.OpeningContract,
        "test_the_lines_are_dated_at_the_moment_of_the_opening",
        replaced(
            "_opening", "w.as_of := greatest(w.as_of, m.at)", "w.as_of := greatest(w.as_of, moment)"
        ),
    ),
    "a_debt_is_brought_without_its_grants": (
        openings.OpeningContract,
        "test_a_debt_is_repaid_by_the_grants_in_spend_order",
        replaced("_opening", "draw_grants(me, taking)", "draw_grants(me, 0)"),
    ),
    "usage_is_told_however_late": (
        late_usage.LateUsageContract,
        "test_usage_is_told_within_35_days",
        replaced("charge_refusal", "m.at - interval ''35 days''", "''-infinity''"),
    ),
    "usage_is_of_the_future": (
        late_usage.LateUsageContract,
        "test_usage_is_not_in_the_future",
        replaced("charge_refusal", "AND m.at THEN", "AND ''infinity'' THEN"),
    ),
    "the_moment_of_usage_is_not_kept": (
        late_usage.LateUsageContract,
        "test_late_usage_is_shown_and_its_line_is_dated_at_the_call",
        replaced("record", "m.at_most, m.used_at, m.subject", "m.at_most, NULL, m.subject"),
    ),
    "a_tenant_that_only_earned_shares_is_unknown": (
        sharing.SharingContract,
        "test_a_tenant_that_only_earned_shares_is_read_without_an_account",
        replaced("unopened_wallet", "IF cogni_billing.has_arrivals(owner) THEN", "IF false THEN"),
    ),
    "shares_are_counted_twice_without_an_account": (
        sharing.SharingContract,
        "test_a_tenant_that_only_earned_shares_is_read_without_an_account",
        replaced("unopened_wallet", "coalesce(folded.up_to, 0)", "0"),
    ),
    "every_tenant_is_known": (
        sharing.SharingContract,
        "test_a_tenant_without_an_account_and_without_a_share_is_unknown",
        replaced("has_arrivals", "RETURN EXISTS", "RETURN true OR EXISTS"),
    ),
    "a_refund_that_refuses_a_debt_makes_one": (
        refunds.RefundContract,
        "test_a_refund_that_refuses_a_debt_takes_no_held_credits",
        replaced("record", "to_draw > greatest(0, available) THEN", "false THEN"),
    ),
    "an_overdraft_is_not_compared_with_its_limit": (
        overdrafts.OverdraftLimitContract,
        "test_an_overdraft_goes_to_the_limit_and_not_one_credit_further",
        replaced("charge_refusal", "ELSIF short > w.overdraft_limit", "ELSIF false"),
    ),
    "an_overrun_is_not_compared_with_the_limit": (
        overdrafts.OverdraftLimitContract,
        "test_a_capture_overdraws_to_the_limit",
        replaced("capture_hold", "excess > available + w.overdraft_limit", "false"),
    ),
    "a_limit_of_overdrafts_stays": (
        overdrafts.OverdraftLimitContract,
        "test_a_removed_limit_limits_no_overdraft",
        replaced("_limit_overdraft", "overdraft_limit IS DISTINCT FROM credits", "true")
        + ";"
        + replaced(
            "_limit_overdraft",
            "SET overdraft_limit = credits",
            "SET overdraft_limit = coalesce(credits, overdraft_limit)",
        ),
    ),
    "a_price_is_kept_apart_from_its_terms": (
        prices.PriceContract,
        "test_a_split_divides_the_credits_of_a_price",
        replaced("keep_terms", "m.policy::json, priced)", "m.policy::json, ''{}'')"),
    ),
    "a_part_of_a_payment_has_the_decimals_of_a_dollar": (
        prices.PriceContract,
        "test_refunds_of_a_currency_need_no_book_and_add_up",
        replaced("is_part", "scale(part) = scale(paid)", "scale(part) = 2"),
    ),
    "a_purchase_that_expires_is_spent_before_grants": (
        expiring.ExpiringPurchaseContract,
        "test_the_first_lot_to_expire_is_spent_after_all_grants_and_before_other_credits",
        replaced("keep_lot", "repaid, 1000001", "repaid, 1"),
    ),
    "a_purchase_that_expires_repays_no_debt": (
        expiring.ExpiringPurchaseContract,
        "test_the_credits_repay_a_debt_first",
        replaced("keep_lot", "IF w.granted > available THEN", "IF false THEN"),
    ),
    "purchased_credits_that_expired_are_told_as_granted": (
        expiring.ExpiringPurchaseContract,
        "test_the_rest_expires_at_the_end_and_goes_to_breakage",
        replaced("_lines", "w.has_lots AND kind = ''expiry''", "false"),
    ),
    "purchased_credits_are_told_as_granted": (
        expiring.ExpiringPurchaseContract,
        "test_a_capture_tells_the_purchases_and_the_grants_that_its_hold_had_pinned",
        replaced("purchases_among", "priority = 1000001", "false"),
    ),
    "a_purchase_can_be_voided": (
        expiring.ExpiringPurchaseContract,
        "test_a_purchase_is_no_grant_to_void_or_to_extend",
        replaced("_void_grant", "AND priority <= 1000000", ""),
    ),
    "a_refund_takes_other_credits_first": (
        expiring.ExpiringRefundContract,
        "test_a_refund_takes_its_own_credits_first",
        replaced("take_back", "least(amount - taken, wanted)", "least(0, wanted)"),
    ),
    "the_first_lot_to_expire_is_taken_back_first": (
        expiring.ExpiringRefundContract,
        "test_a_refund_of_spent_credits_takes_those_that_never_expire_then_lots_then_grants",
        replaced("take_back", "ORDER BY expires_at DESC", "ORDER BY expires_at"),
    ),
    "expired_credits_are_owed": (
        expiring.ExpiringRefundContract,
        "test_a_full_refund_after_the_expiry_leaves_every_leg_at_zero",
        replaced("lot_of", "coalesce(- sum(amount), 0)", "coalesce(0 * sum(amount), 0)"),
    ),
    "due_expirations_are_owed": (
        expiring.ExpiringRefundContract,
        "test_expired_credits_are_taken_before_spent_ones",
        replaced(
            "lot_of",
            "WHERE w.due_at <= present AND kind",
            "WHERE false AND kind",
        ),
    ),
    "credits_that_were_replaced_expire": (
        expiring.ExpiringRefundContract,
        "test_held_credits_of_a_refunded_purchase_never_expire",
        replaced("take_back", "CASE WHEN total = wanted THEN expires_at END", "expires_at"),
    ),
    "disputed_credits_expire": (
        expiring.ExpiringRefundContract,
        "test_a_dispute_ends_the_expiry",
        replaced("_settle_dispute", "AND expires_at > m.at", "AND false"),
    ),
    "a_refund_leaves_disputes_as_they_are": (
        failed_refunds.DisputedRefundContract,
        "test_a_refund_takes_the_undisputed_rest_before_the_newest_dispute",
        replaced("free_aside", "IF NOT EXISTS (", "IF true OR NOT EXISTS ("),
    ),
    "a_refused_refund_frees_disputed_credits": (
        failed_refunds.DisputedRefundContract,
        "test_a_refund_that_refuses_a_debt_may_take_the_credits_that_it_frees",
        replaced("record", "available := available + drawn;", ""),
    ),
    "refunds_that_failed_count": (
        failed_refunds.RefundTotalContract,
        "test_a_total_counts_no_refund_that_failed",
        replaced("refunded_of", "undone.subject_id = refund.id", "false"),
    ),
    "the_customer_is_given_back_first": (
        failed_refunds.FailedRefundContract,
        "test_the_absorbed_part_of_the_failed_refund_goes_back_first",
        replaced(
            "reinstate", "FILTER (WHERE is_own), 0)) AS own_absorbed", ", 0) * 0) AS own_absorbed"
        ),
    ),
    "a_failed_refund_gives_no_grants_back": (
        failed_refunds.FailedRefundContract,
        "test_a_failed_refund_leaves_every_account_as_before_it",
        replaced("reinstate", "CONTINUE WHEN leg.part <= 0;", "CONTINUE;"),
    ),
    "a_lost_dispute_returns_no_part": (
        changing_disputes.ChangingDisputeContract,
        "test_a_won_dispute_that_is_lost_takes_everything_again",
        replaced("lost_of", "coalesce(lost, disputed)", "0 * disputed"),
    ),
    "a_dispute_sets_aside_what_was_returned": (
        changing_disputes.ChangingDisputeContract,
        "test_of_a_dispute_beyond_the_payment_what_remains_is_set_aside",
        replaced("set_aside", "bought.paid - place", "bought.paid"),
    ),
    "a_dispute_keeps_its_first_amount": (
        changing_disputes.ChangingDisputeContract,
        "test_the_disputed_amount_of_an_open_dispute_changes",
        replaced(
            "set_aside",
            "becomes := changed;",
            "becomes := changed; becomes.disputed := coalesce(was.disputed, changed.disputed);",
        ),
    ),
    "a_reinstatement_is_rounded_alone": (
        changing_disputes.EventOrderContract,
        "test_parts_end_at_the_same_credits_in_any_order",
        replaced(
            "reinstate",
            "part_of(whole, bought.paid, m.returned_total, m.returned) AS part,",
            "part_of(whole, bought.paid, 0, m.returned) AS part,",
        ),
    ),
    "a_second_freeze_replaces_the_first": (
        freezing.FreezeContract,
        "test_a_second_freeze_keeps_the_first",
        replaced("_freeze", "AND frozen_at IS NULL", ""),
    ),
    "a_fold_waits_for_no_writer": (
        reading.FoldingRaces,
        "test_a_fold_misses_no_concurrent_arrival",
        replaced("safe_position", "IF writers IS NULL THEN", "IF true THEN"),
    ),
    "a_call_is_answered_and_not_recorded": (
        purchases.PurchaseContract,
        "test_ten_dollars_credit_the_customer_in_full_and_a_quarter_more_to_the_system",
        replaced("post", "RETURN cogni_billing.record(owner, asked, kinds);", ANSWERS_ALONE),
    ),
    "a_conflict_leaves_the_others_of_all_or_nothing": (
        batches.ChargeBatchContract,
        "test_all_or_nothing_with_a_conflict_records_nothing",
        replaced("post", "IN (''done'', ''more_due'')", "IN (''done'', ''replayed'')"),
    ),
    "an_expiry_has_no_line": (
        single_calls.RefusedCallContract,
        "test_a_refused_post_keeps_due_expirations",
        replaced("post_due", f"FROM change{ORDERED}", f"FROM change WHERE false{ORDERED}"),
    ),
    "an_expiry_has_a_line_and_no_posting": (
        verifying.VerifyingContract,
        "test_a_ledger_with_every_kind_of_record_has_no_violations",
        replaced(
            "post_due",
            f"kind, - amount, at{FROM_CHANGE}",
            f"kind, - amount, at{FROM_CHANGE} WHERE false",
        ),
    ),
    "a_positioned_line_is_skipped": (
        statements.StatementContract,
        "test_the_highest_cursor_shows_all_lines_and_the_lowest_none",
        replaced("_lines", "position < own_before", "position < own_before AND position <> 2"),
    ),
    "the_texts_of_open_holds_are_kept": (
        erasure.ErasureContract,
        "test_forget_erases_each_text_of_the_tenant_once",
        replaced(
            "_forget",
            "WHERE tenant_id = me AND ends_at > ''epoch'' AND cogni",
            "WHERE false AND cogni",
        ),
    ),
    "an_erased_text_has_another_digest": (
        erasure.ErasureContract,
        "test_replays_of_an_erased_request_are_the_same",
        replaced("erased", "concat(record, given)", "concat(given, record)"),
    ),
    "a_period_repays_no_debt": (
        schedules.ScheduleContract,
        "test_a_period_repays_the_debt_of_its_beginning",
        replaced("debt_at", "RETURN greatest(0, w.granted", "RETURN 0 * greatest(0, w.granted"),
    ),
    "a_period_is_granted_again": (
        schedules.ScheduleContract,
        "test_each_period_grants_and_expires_in_its_time_without_a_job",
        replaced("move_schedules", "SET number = plan.number", "SET number = number"),
    ),
    "a_period_begins_a_day_late": (
        schedules.ScheduleContract,
        "test_each_period_grants_and_expires_in_its_time_without_a_job",
        replaced("begin_of", "interval ''1 month''", "interval ''1 month 1 day''"),
    ),
    "reads_overlook_a_period_that_has_begun": (
        schedules.ScheduleContract,
        "test_reads_take_periods_into_account_before_they_are_posted",
        replaced("_grants", "IF w.due_at <= present", "IF false"),
    ),
    "a_period_begins_after_the_end": (
        schedules.ScheduleContract,
        "test_an_ended_schedule_keeps_its_credits_and_begins_no_period",
        replaced("end_schedule_at", ", next_at = ''infinity''", ""),
    ),
    "a_replacement_leaves_the_credits": (
        schedules.ScheduleContract,
        "test_a_replacement_ends_the_schedule_and_voids_its_period",
        replaced("_schedule", "old.number - 1", "old.number"),
    ),
    "all_unused_credits_are_carried": (
        schedules.ScheduleContract,
        "test_a_rollover_carries_unused_credits_up_to_its_cap",
        replaced("starts", "least(made.cap, made.amount)", "made.amount"),
    ),
    "a_grant_does_not_wait": (
        waiting_grants.WaitingGrantContract,
        "test_a_waiting_grant_adds_no_credits_and_no_line",
        replaced("record", "m.effective_from > present", "false"),
    ),
    "a_voided_grant_begins": (
        waiting_grants.WaitingGrantContract,
        "test_a_voided_waiting_grant_never_begins",
        replaced("_void_grant", "PERFORM cogni_billing.end_schedule_at(me, lot.id, present);", ""),
    ),
    "a_failed_attempt_is_final": (
        attempt_reports.AttemptReportContract,
        "test_a_report_after_a_failure_is_credited",
        replaced("_record_attempt", "''FAILED PENDING_UNVERIFIED''", "''-''"),
    ),
    "an_address_is_given_to_two_intents": (
        attempt_recipients.RecipientContract,
        "test_an_address_of_another_intent_is_refused",
        "DROP INDEX cogni_billing.payment_attempts_recipients",
    ),
    "replaced_evidence_stays_claimed": (
        attempt_reports.EvidenceReplacementContract,
        "test_replaced_evidence_is_free_for_another_attempt",
        replaced("_record_attempt", "IF m.state <> ''CREDITED'' THEN", "IF false THEN"),
    ),
    "the_history_of_an_attempt_has_no_order": (
        attempt_reports.AttemptReportContract,
        "test_a_report_after_a_failure_is_credited",
        replaced("_attempt_events", "ORDER BY number", "ORDER BY number DESC"),
    ),
    "an_event_keeps_its_first_state": (
        inbox.InboxContract,
        "test_waiting_events_are_applied_with_the_success",
        replaced("_keep_event", "WHERE kept.state IN (''waiting'', ''unmatched'')", "WHERE false"),
    ),
    "an_applied_event_can_change": (
        inbox.InboxRaces,
        "test_events_that_come_at_once_leave_none_waiting",
        replaced("_keep_event", "SET state = excluded.state", "SET state = ''waiting''"),
    ),
    "an_event_is_received_anew": (
        inbox.InboxContract,
        "test_the_first_delivery_keeps_its_time",
        replaced(
            "_keep_event",
            "SET state = excluded.state",
            "SET received_at = excluded.received_at, state = excluded.state",
        ),
    ),
    "a_claim_is_lost": (
        finding_payments.FindPaymentContract,
        "test_a_payment_is_found_with_its_tenant",
        "CREATE POLICY hidden ON cogni_billing.claims AS RESTRICTIVE FOR SELECT"
        " TO app_service USING (false)",
    ),
    "positions_have_gaps": (
        verifying.VerifyingContract,
        "test_a_ledger_with_every_kind_of_record_has_no_violations",
        replaced("record", "owner, m.id, w.lines, seen", "owner, m.id, w.lines * 2, seen"),
    ),
}


class Broken(Fixtures):
    sql = ""

    @pytest.fixture
    def new_unit_of_work(self, own_database: Database) -> NewUnitOfWork:
        def new() -> PostgresUnitOfWork:
            reset(own_database.migrator)
            with own_database.admin.begin() as administrator:
                administrator.exec_driver_sql(self.sql)
            return PostgresUnitOfWork(own_database.user, service=own_database.service)

        return new

    @pytest.fixture
    def totals(self, own_database: Database) -> Totals:
        return own_database.totals


for saboteur, (contract, name, sql) in SABOTEURS.items():
    title = "Test" + saboteur.title().replace("_", "")
    globals()[title] = type(title, (Broken, contract), {"sql": sql} | only(contract, name))


class TestWhatIsAcknowledgedIsNotYetWritten(RestartContract):
    """Commits are acknowledged before they are on disk."""

    CYCLES = 10

    @pytest.fixture
    def server(self) -> Iterator[Killable]:
        with killable("-c synchronous_commit=off") as server:
            with server.database.admin.begin() as administrator:
                administrator.exec_driver_sql(
                    replaced("act", "current_setting(''synchronous_commit'') = ''off''", "false")
                )
            yield server

    @pytest.fixture
    def unit_of_work(self, server: Killable) -> UnitOfWork:
        return server.unit_of_work()

    @pytest.fixture
    def restart(self, server: Killable) -> Restart:
        return server.restart

    @pytest.fixture
    def totals(self, server: Killable) -> Totals:
        return server.totals

    test_acknowledged_purchases_are_recorded_once_with_their_share = must_fail(
        RestartContract.test_acknowledged_purchases_are_recorded_once_with_their_share
    )
