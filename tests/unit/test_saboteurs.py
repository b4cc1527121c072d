"""Ledgers with faults that others have had. A test of the kit catches each."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from decimal import Decimal
from functools import partial
from typing import Any
from uuid import UUID

import pytest
from attrs import evolve

from cogni_billing import (
    SYSTEM_ACCOUNT_ID,
    Amount,
    BillingError,
    Hold,
    InsufficientCredits,
    Overrun,
    PaymentAlreadyClaimed,
    PriceBook,
    RevenueSharePolicy,
    TenantId,
)
from cogni_billing.adapters import guard
from cogni_billing.adapters.batches import one_by_one
from cogni_billing.adapters.memory import InMemoryUnitOfWork
from cogni_billing.adapters.memory import books as memory_books
from cogni_billing.adapters.memory import erasure as memory_erasure
from cogni_billing.adapters.memory import ledger as memory_ledger
from cogni_billing.adapters.memory import payments as memory_payments
from cogni_billing.adapters.memory.attempts import MemoryAttempts
from cogni_billing.adapters.memory.books import MemoryBooks
from cogni_billing.adapters.memory.ledger import MemoryLedger
from cogni_billing.adapters.memory.store import Store
from cogni_billing.adapters.memory.tenants import require_account
from cogni_billing.application import acting as actors
from cogni_billing.application import attempts, finding, spending
from cogni_billing.domain import (
    event_effects,
    idempotency,
    metadata,
    payments,
    periods,
    receipts,
    reinstatements,
    requests,
    transactions,
    wallets,
)
from cogni_billing.domain import prices as price_books
from cogni_billing.domain import purchases as domain_purchases
from cogni_billing.domain.amounts import CREDIT, USD, ZERO, parsed, rounded_down
from cogni_billing.domain.attempts import submission
from cogni_billing.domain.event_effects import Effects
from cogni_billing.domain.found_payments import found_payment
from cogni_billing.domain.grants import Grant, GrantExtension
from cogni_billing.domain.hold_changes import Extension
from cogni_billing.domain.holds import HoldPageRequest, place_of
from cogni_billing.domain.idempotency import same_or_conflict
from cogni_billing.domain.identity import SHORTFALL, account_of
from cogni_billing.domain.inbox import InboxEntry
from cogni_billing.domain.kinds import TransactionKind
from cogni_billing.domain.metering import Meter
from cogni_billing.domain.openings import Opened
from cogni_billing.domain.payments import Payment
from cogni_billing.domain.periods import Periods
from cogni_billing.domain.reinstatements import Leg
from cogni_billing.domain.schedules import GrantSchedule, Schedule
from cogni_billing.domain.statements import Balance, Extract, Line, PageRequest
from cogni_billing.domain.timestamps import EARLIEST, LATEST, Expiry
from cogni_billing.domain.transactions import GrantTerms, Posting, Recorded, Transaction
from cogni_billing.domain.wallets import Wallet
from cogni_billing.testing import Fixtures, NewUnitOfWork, Totals
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
    keys,
    kinds,
    known_faults,
    late_usage,
    metering,
    openings,
    overdrafts,
    prices,
    purchases,
    reading,
    schedules,
    scopes,
    sharing,
    single_calls,
    statements,
    waiting_grants,
)
from cogni_billing.testing.contracts import periods as calendar
from cogni_billing.testing.contracts import refunds as refunding
from sabotage import caught

Patch = pytest.MonkeyPatch


class Memory(Fixtures):
    @pytest.fixture
    def new_unit_of_work(self) -> NewUnitOfWork:
        return InMemoryUnitOfWork

    @pytest.fixture
    def totals(self, unit_of_work: InMemoryUnitOfWork) -> Totals:
        return unit_of_work.totals


in_memory = partial(caught, Memory)
offset = periods._offset
post, found, add = MemoryLedger._post, MemoryLedger._found, MemoryLedger._add
schedule = MemoryLedger.schedule


@contextmanager
def unlocked(_: Store) -> Iterator[None]:
    yield


def meeting() -> Callable[[], None]:
    """A function that makes its first caller wait for the second one."""
    callers, second_came = itertools.count(1), threading.Event()

    def meet() -> None:
        if next(callers) == 1:
            second_came.wait()
        second_came.set()

    return meet


# Idempotency keys ---------------------------------------------------------------------------------


@in_memory(purchases.PurchaseRaces, "test_fifty_confirmations_of_one_payment_credit_once")
def the_key_is_looked_for_and_written_without_a_lock(patch: Patch) -> None:
    """Check, then act: two concurrent calls find no record, and both write."""

    meet = meeting()

    def found_by_two(ledger: MemoryLedger, kind: TransactionKind, reference: str) -> Any:
        answer = found(ledger, kind, reference)
        meet()
        return answer

    patch.setattr(Store, "transaction", unlocked)
    patch.setattr(MemoryLedger, "_found", found_by_two)
    patch.setattr(MemoryLedger, "_require_unclaimed", lambda *_: None)


@in_memory(charges.ChargeContract, "test_tenants_and_kinds_have_references_of_their_own")
def keys_are_shared_by_all_tenants(patch: Patch) -> None:
    """Unique in the whole ledger, not for each tenant."""

    def anyones(ledger: MemoryLedger, kind: TransactionKind, reference: str) -> Recorded | None:
        for (_, of_kind, key), recorded in ledger._store.recorded.items():
            if (of_kind, key) == (kind, reference):
                return evolve(recorded, replayed=True)
        return None

    patch.setattr(MemoryLedger, "_found", anyones)


@in_memory(charges.ChargeContract, "test_tenants_and_kinds_have_references_of_their_own")
def a_key_is_of_every_kind(patch: Patch) -> None:
    def of_any_kind(ledger: MemoryLedger, _kind: TransactionKind, reference: str) -> Any:
        kinds = (found(ledger, kind, reference) for kind in TransactionKind)
        return next(filter(None, kinds), None)

    patch.setattr(MemoryLedger, "_found", of_any_kind)


@in_memory(
    scopes.ScopeContract,
    "test_an_exception_in_a_scope_rolls_back_share_and_account_too",
)
def the_key_is_claimed_in_a_transaction_of_its_own(patch: Patch) -> None:
    """The claim stays if the purchase fails."""

    def claimed_for_good(ledger: MemoryLedger, purchase: Transaction) -> None:
        ledger._store.payments[purchase.reference] = ledger._tenant

    patch.setattr(MemoryLedger, "_claim", claimed_for_good)


@in_memory(charges.ChargeContract, "test_a_refused_charge_does_not_burn_its_reference")
def a_refused_call_burns_its_key(patch: Patch) -> None:
    burnt: set[tuple[TenantId, str]] = set()

    def burning(ledger: MemoryLedger, transaction: Transaction) -> Recorded:
        key = (ledger._tenant, transaction.reference)
        if key in burnt:
            raise PaymentAlreadyClaimed(transaction.reference)
        try:
            return post(ledger, transaction)
        except BillingError:
            burnt.add(key)
            raise

    patch.setattr(MemoryLedger, "_post", burning)


@in_memory(
    known_faults.KnownFaultContract, "test_a_payment_confirmed_with_another_amount_conflicts"
)
def a_replay_is_not_compared(patch: Patch) -> None:
    patch.setattr(memory_ledger, "same_or_conflict", lambda *_: None)


@in_memory(purchases.PurchaseContract, "test_the_same_number_in_another_unit_conflicts")
def a_replay_is_compared_without_its_unit(patch: Patch) -> None:
    def by_number(stored: Any, asked: Any) -> None:
        if parsed(stored.request["amount"]).value != parsed(asked["amount"]).value:
            same_or_conflict(stored, asked)

    patch.setattr(memory_ledger, "same_or_conflict", by_number)


@in_memory(purchases.PurchaseContract, "test_a_replay_keeps_the_shares_of_the_policy_then_in_force")
def a_replay_is_computed_again(patch: Patch) -> None:
    """With the present policy."""

    def anew(ledger: MemoryLedger, transaction: Transaction) -> Recorded:
        return evolve(post(ledger, transaction), transaction=transaction)

    patch.setattr(MemoryLedger, "_post", anew)


@in_memory(purchases.PurchaseContract, "test_a_replay_reports_the_first_outcome_and_writes_nothing")
def a_replay_writes_again(patch: Patch) -> None:
    def again(ledger: MemoryLedger, transaction: Transaction) -> Recorded:
        recorded = post(ledger, transaction)
        if recorded.replayed:
            for posting in transaction.postings:
                add(ledger, transaction, posting, transaction.at)
        return recorded

    patch.setattr(MemoryLedger, "_post", again)


@in_memory(
    purchases.PurchaseContract,
    "test_a_payment_of_another_tenant_is_refused_without_naming_it",
)
def a_payment_is_claimed_for_each_tenant(patch: Patch) -> None:
    patch.setattr(MemoryLedger, "_require_unclaimed", lambda *_: None)


# Money that balances ------------------------------------------------------------------------------


@in_memory(
    purchases.PurchaseRaces,
    "test_purchases_of_one_tenant_at_once_leave_no_gap_between_balances",
)
def a_balance_is_read_before_the_lock(patch: Patch) -> None:
    """A lost update: two concurrent calls read one balance and both write it."""
    meet = meeting()

    def read_by_two(ledger: MemoryLedger, transaction: Any, posting: Posting, at: datetime) -> None:
        before = ledger._store.balance(posting.account)
        meet()
        ledger._store.balances[posting.account] = before
        add(ledger, transaction, posting, at)

    patch.setattr(Store, "transaction", unlocked)
    patch.setattr(MemoryLedger, "_add", read_by_two)


@in_memory(statements.StatementContract, "test_lines_come_newest_first_with_the_balance_after_each")
def the_balance_is_written_and_the_entry_forgotten(patch: Patch) -> None:
    patch.setattr(Store, "append", lambda *_: None)


@in_memory(
    purchases.PurchaseContract,
    "test_ten_dollars_credit_the_customer_in_full_and_a_quarter_more_to_the_system",
)
def the_entry_is_written_and_the_balance_forgotten(patch: Patch) -> None:
    def entered(ledger: MemoryLedger, transaction: Any, posting: Posting, at: datetime) -> None:
        before = ledger._store.balance(posting.account)
        add(ledger, transaction, posting, at)
        ledger._store.balances[posting.account] = before

    patch.setattr(MemoryLedger, "_add", entered)


@in_memory(known_faults.KnownFaultContract, "test_no_share_is_lost_between_two_writes")
def the_share_is_written_in_a_transaction_of_its_own(patch: Patch) -> None:
    def apart(ledger: MemoryLedger, transaction: Any, posting: Posting, at: datetime) -> None:
        add(ledger, transaction, posting, at)
        if posting.account != account_of(ledger._tenant):
            ledger._store._undo.clear()  # commits, even if the rest fails

    patch.setattr(MemoryLedger, "_add", apart)


@in_memory(sharing.SharingContract, "test_each_beneficiary_is_credited_with_the_purchase")
def a_partners_share_is_kept_by_the_platform(patch: Patch) -> None:
    def kept(ledger: MemoryLedger, transaction: Any, posting: Posting, at: datetime) -> None:
        if posting.tenant not in {None, ledger._tenant}:
            posting = evolve(posting, account=SYSTEM_ACCOUNT_ID)
        add(ledger, transaction, posting, at)

    patch.setattr(MemoryLedger, "_add", kept)


@in_memory(known_faults.KnownFaultContract, "test_no_share_stays_after_a_refund")
def a_refund_leaves_the_share(patch: Patch) -> None:
    patch.setattr(Payment, "shares_to", lambda *_: ())


@in_memory(
    known_faults.KnownFaultContract,
    "test_a_share_that_does_not_divide_is_taken_back_to_the_credit",
)
def each_part_of_a_refund_is_rounded_alone(patch: Patch) -> None:
    def alone(leg: Amount, before: Amount, after: Amount, paid: Amount) -> Amount:
        return step(leg, before - before, after - before, paid)

    step = payments.step
    patch.setattr(payments, "step", alone)


@in_memory(known_faults.KnownFaultContract, "test_a_refund_reported_twice_is_recorded_once")
def a_refund_has_no_key(patch: Patch) -> None:
    def keyless(ledger: MemoryLedger, kind: TransactionKind, reference: str) -> Any:
        return None if kind is TransactionKind.REFUND else found(ledger, kind, reference)

    patch.setattr(MemoryLedger, "_found", keyless)


@in_memory(refunding.RefundContract, "test_a_refund_of_more_than_the_payment_is_refused")
def earlier_refunds_are_forgotten(patch: Patch) -> None:
    def forgetful(*arguments: Any) -> Payment:
        found = payment_of(*arguments)
        return evolve(found, returned=found.paid - found.paid)

    payment_of = memory_payments.payment_of
    patch.setattr(memory_ledger, "payment_of", forgetful)


@in_memory(purchases.PurchaseContract, "test_the_largest_amount_is_exact_to_the_last_credit")
def a_share_goes_through_a_float(patch: Patch) -> None:
    def floated(policy: RevenueSharePolicy, *given: Any) -> Any:
        return tuple(
            evolve(each, amount=Amount.computed(Decimal(int(float(each.amount.value))), CREDIT))
            for each in shares_of(policy, *given)
        )

    shares_of = RevenueSharePolicy.shares_of
    patch.setattr(RevenueSharePolicy, "shares_of", floated)


# Purchased credits that expire --------------------------------------------------------------------


@in_memory(
    expiring.ExpiringPurchaseContract,
    "test_the_first_lot_to_expire_is_spent_after_all_grants_and_before_other_credits",
)
def a_purchase_that_expires_is_spent_before_grants(patch: Patch) -> None:
    patch.setattr(wallets, "PRIORITY_PURCHASED", 0)


@in_memory(expiring.ExpiringPurchaseContract, "test_the_credits_repay_a_debt_first")
def a_purchase_that_expires_repays_no_debt(patch: Patch) -> None:
    def kept(wallet: Wallet, lot: Grant, _: Amount) -> Any:
        return wallet.with_grant(lot), ()

    patch.setattr(Wallet, "keeping", kept)


@in_memory(
    expiring.ExpiringPurchaseContract,
    "test_a_capture_tells_the_purchases_and_the_grants_that_its_hold_had_pinned",
)
def purchased_credits_are_told_as_granted(patch: Patch) -> None:
    patch.setattr(receipts, "granted_in", transactions.drawn)


@in_memory(expiring.ExpiringPurchaseContract, "test_a_payment_with_another_lifetime_conflicts")
def the_lifetime_of_a_purchase_is_not_compared(patch: Patch) -> None:
    patch.setattr(requests, "purchase", lambda paid, _expires_in=None: {"amount": str(paid)})


@in_memory(expiring.ExpiringRefundContract, "test_a_refund_takes_its_own_credits_first")
def a_refund_takes_credits_in_spend_order(patch: Patch) -> None:
    def in_order(wallet: Wallet, made: Transaction, _: Amount) -> Any:
        return wallet.drawing(-made.amount)

    patch.setattr(Wallet, "taking", in_order)


@in_memory(
    expiring.ExpiringRefundContract,
    "test_a_full_refund_after_the_expiry_leaves_every_leg_at_zero",
)
def expired_credits_are_owed(patch: Patch) -> None:
    patch.setattr(Payment, "lapsed_to", lambda *_: ZERO)


@in_memory(expiring.ExpiringRefundContract, "test_held_credits_of_a_refunded_purchase_never_expire")
def credits_that_were_replaced_expire(patch: Patch) -> None:
    def still_expiring(wallet: Wallet, made: Transaction, arrived: Amount) -> Any:
        after, draws = taking(wallet, made, arrived)
        for lot in filter(lambda grant: grant.is_purchased, wallet.grants.values()):
            now = evolve(after.grants[lot.id], expires_at=lot.expires_at)
            after = after.with_grant(now)
        return after, draws

    taking = Wallet.taking
    patch.setattr(Wallet, "taking", still_expiring)


@in_memory(expiring.ExpiringRefundContract, "test_a_dispute_ends_the_expiry")
def disputed_credits_expire(patch: Patch) -> None:
    patch.setattr(Wallet, "disputing", lambda wallet, _dispute: wallet)


# Available credits --------------------------------------------------------------------------------


@in_memory(charges.ChargeContract, "test_a_charge_may_take_all_credits_and_not_one_more")
def the_balance_is_not_checked(patch: Patch) -> None:
    patch.setattr(Wallet, "require_available", lambda *_: None)


@in_memory(holds.HoldContract, "test_held_credits_cannot_be_spent_otherwise")
def held_credits_may_be_spent(patch: Patch) -> None:
    patch.setattr(Wallet, "aside", ZERO)


@in_memory(holds.HoldContract, "test_a_capture_takes_its_amount_and_frees_the_rest")
def a_captured_hold_stays_open(patch: Patch) -> None:
    patch.setattr(Wallet, "ended", lambda wallet, _hold: wallet)


@in_memory(holds.HoldContract, "test_a_replay_of_an_ended_hold_is_refused_with_its_state")
def a_hold_that_ended_is_answered_like_an_open_one(patch: Patch) -> None:
    """The work of the retry would run unpaid."""
    patch.setattr(Hold, "require_open", lambda _: None)


@in_memory(holds.HoldContract, "test_a_lifetime_starts_at_the_call_and_is_compared_as_given")
def a_lifetime_is_compared_as_a_moment(patch: Patch) -> None:
    def at_its_moment(hold: Hold) -> requests.Request:
        return requests.hold(hold.asked, Expiry(hold.expires_at))

    patch.setattr(Hold, "request", property(at_its_moment))


@in_memory(holds.HoldContract, "test_pages_of_open_holds_have_each_once_newest_first")
def ended_holds_are_on_pages(patch: Patch) -> None:
    def of_any_state(ledger: MemoryLedger, page: HoldPageRequest, _: datetime) -> tuple[Hold, ...]:
        newest = sorted(ledger._wallet().holds.values(), key=place_of, reverse=True)
        older = [hold for hold in newest if page.before is None or place_of(hold) < page.before]
        return tuple(older[: page.limit + 1])

    patch.setattr(MemoryLedger, "holds", of_any_state)


@in_memory(
    hold_changes.HoldChangeContract,
    "test_captures_in_parts_leave_the_hold_open_until_the_final_one",
)
def every_capture_ends_its_hold(patch: Patch) -> None:
    def final(wallet: Wallet, capture: Transaction, arrived: Amount) -> Any:
        return capturing(wallet, evolve(capture, final=True), arrived)

    capturing = Wallet.capturing
    patch.setattr(Wallet, "capturing", final)


@in_memory(
    hold_changes.HoldChangeContract,
    "test_an_overrun_takes_available_credits_and_not_one_more",
)
def an_overrun_overdraws(patch: Patch) -> None:
    def unlimited(wallet: Wallet, capture: Transaction, arrived: Amount) -> Any:
        return capturing(wallet, evolve(capture, overrun=Overrun.OVERDRAFT), arrived)

    capturing = Wallet.capturing
    patch.setattr(Wallet, "capturing", unlimited)


@in_memory(
    hold_changes.HoldChangeContract,
    "test_a_release_of_a_part_frees_purchased_credits_first",
)
def released_credits_of_a_grant_are_lost(patch: Patch) -> None:
    patch.setattr(Wallet, "returning", lambda wallet, _: wallet)


@in_memory(
    hold_changes.HoldChangeContract,
    "test_a_past_balance_includes_the_changes_of_a_hold_until_then",
)
def a_past_hold_was_as_large_as_the_present_one(patch: Patch) -> None:
    patch.setattr(Wallet, "_level", lambda _wallet, hold, _moment: hold.amount)


@in_memory(hold_changes.HoldChangeContract, "test_an_extension_is_replayed_as_it_was_given")
def an_extension_has_no_key(patch: Patch) -> None:
    def keyless(ledger: MemoryLedger, extension: Extension) -> Hold:
        ledger._store.hold_extensions.clear()
        return extend(ledger, extension)

    extend = MemoryLedger.extend
    patch.setattr(MemoryLedger, "extend", keyless)


@in_memory(metering.MeteringContract, "test_add_renews_the_hold_for_the_whole_time")
def a_run_does_not_renew_its_hold(patch: Patch) -> None:
    patch.setattr(Meter, "renewal_is_due", lambda _meter, _now: False)


@in_memory(
    metering.MeteringContract,
    "test_a_second_run_of_a_reference_is_refused_and_leaves_the_first_alone",
)
def two_runs_share_a_hold(patch: Patch) -> None:
    def begin(meter: Meter, hold: Hold) -> None:
        started(meter, evolve(hold, replayed=False))

    started = Meter.begin
    patch.setattr(Meter, "begin", begin)


@in_memory(grants.GrantContract, "test_the_remainder_of_a_grant_expires_at_its_expiry")
def a_grant_never_lapses(patch: Patch) -> None:
    patch.setattr(Wallet, "expired_by", lambda wallet, _moment, _arrived: (wallet, ()))


@in_memory(grants.GrantContract, "test_grants_end_a_debt_in_parts")
def a_grant_repays_no_debt(patch: Patch) -> None:
    patch.setattr(Wallet, "debt", lambda *_: ZERO)


@in_memory(
    grants.GrantContract,
    "test_a_grant_repays_no_credits_that_a_hold_or_a_dispute_has_set_aside",
)
def credits_set_aside_by_a_dispute_are_a_debt(patch: Patch) -> None:
    patch.setattr(Wallet, "debt", lambda wallet, arrived: max(-wallet.earned(arrived), ZERO))


@in_memory(
    grants.GrantContract, "test_a_grant_with_the_same_lifetime_is_replayed_at_a_later_moment"
)
def a_lifetime_is_compared_by_its_moment(patch: Patch) -> None:
    patch.setattr(GrantTerms, "expiry", property(lambda terms: Expiry(terms.expires_at)))


@in_memory(
    grant_ends.GrantEndContract, "test_held_credits_of_a_voided_grant_are_captured_or_expire"
)
def a_voided_grant_stays_open_for_held_credits(patch: Patch) -> None:
    def emptied(wallet: Wallet, grant_id: UUID) -> tuple[Wallet, Amount]:
        grant = wallet.grant(grant_id)
        return wallet.expired(grant), grant.remaining

    patch.setattr(Wallet, "voided", emptied)


@in_memory(grant_ends.GrantEndContract, "test_an_extension_to_no_later_moment_is_refused")
def an_extension_shortens_a_grant(patch: Patch) -> None:
    patch.setattr(GrantExtension, "require_later", lambda *_: None)


# Schedules ----------------------------------------------------------------------------------------


@in_memory(calendar.PeriodContract, "test_a_short_month_does_not_move_later_periods")
def a_month_has_28_days(patch: Patch) -> None:
    patch.setattr(periods, "monthrange", lambda *_: (0, 28))


@in_memory(calendar.PeriodContract, "test_a_local_time_that_does_not_exist_moves_forward")
def a_skipped_local_time_moves_back(patch: Patch) -> None:
    patch.setattr(periods, "_offset", lambda local, zone, _: offset(local, zone, 1))


@in_memory(calendar.PeriodContract, "test_a_local_time_that_occurs_twice_is_the_second_one")
def a_repeated_local_time_is_the_first_one(patch: Patch) -> None:
    patch.setattr(periods, "_offset", lambda local, zone, _: offset(local, zone, 0))


@in_memory(
    schedules.ScheduleContract, "test_each_period_grants_and_expires_in_its_time_without_a_job"
)
def only_the_first_period_begins(patch: Patch) -> None:
    patch.setattr(Schedule, "moved_on", lambda schedule: evolve(schedule, next_at=None))


@in_memory(
    schedules.ScheduleContract, "test_reads_take_periods_into_account_before_they_are_posted"
)
def reads_do_not_know_of_periods(patch: Patch) -> None:
    patch.setattr(MemoryLedger, "_present", lambda ledger, moment: ledger._wallet().at(moment))


@in_memory(schedules.ScheduleContract, "test_no_period_begins_at_or_after_until")
def a_schedule_goes_on_after_its_end(patch: Patch) -> None:
    patch.setattr(Schedule, "begin", lambda schedule, number: schedule.periods.begin(number))


@in_memory(
    schedules.ScheduleContract,
    "test_a_schedule_with_an_earlier_anchor_grants_the_present_period_in_full",
)
def every_period_since_the_anchor_is_granted(patch: Patch) -> None:
    patch.setattr(Periods, "number_at", lambda *_: 0)


@in_memory(
    schedules.ScheduleContract, "test_a_rollover_of_everything_makes_one_grant_that_lives_longer"
)
def a_rollover_carries_nothing(patch: Patch) -> None:
    patch.setattr(GrantSchedule, "parts", property(lambda terms: (("", terms.amount, 1),)))


@in_memory(
    schedules.ScheduleContract, "test_a_replacement_keeps_credits_that_earlier_periods_carried"
)
def a_replacement_leaves_the_carried_part(patch: Patch) -> None:
    voids = Schedule.voids
    patch.setattr(Schedule, "voids", lambda *given: voids(*given)[:1])


@in_memory(schedules.ScheduleContract, "test_a_replacement_ends_the_schedule_and_voids_its_period")
def a_replacement_voids_nothing(patch: Patch) -> None:
    patch.setattr(Schedule, "voids", lambda *_: ())


@in_memory(
    schedules.ScheduleContract, "test_an_ended_schedule_keeps_its_credits_and_begins_no_period"
)
def an_ended_schedule_goes_on(patch: Patch) -> None:
    patch.setattr(Schedule, "ended", lambda schedule, at: evolve(schedule, ended_at=at))


@in_memory(
    schedules.ScheduleContract, "test_starts_of_one_moment_come_in_the_order_of_their_schedules"
)
def schedules_begin_in_the_wrong_order(patch: Patch) -> None:
    starting = Wallet.starting
    patch.setattr(Wallet, "starting", lambda wallet: starting(wallet)[::-1])


@in_memory(
    schedules.ScheduleContract,
    "test_a_period_repays_a_debt_that_later_arrivals_would_have_repaid",
)
def a_debt_counts_later_arrivals(patch: Patch) -> None:
    arrived_by = Store.arrived_by
    patch.setattr(Store, "arrived_by", lambda store, account, _: arrived_by(store, account, LATEST))


@in_memory(schedules.ScheduleContract, "test_a_schedule_is_replayed_by_its_reference_as_it_is_now")
def a_replayed_schedule_is_as_it_was(patch: Patch) -> None:
    def first(ledger: MemoryLedger, plan: Schedule) -> Schedule:
        answer = asked(ledger, plan)
        return evolve(plan.opened(plan.created_at), id=answer.id, replayed=answer.replayed)

    asked = MemoryLedger.schedule
    patch.setattr(MemoryLedger, "schedule", first)


@in_memory(
    schedules.ScheduleContract,
    "test_forget_erases_the_texts_of_schedules_and_changes_no_answer",
)
def forget_leaves_schedules_alone(patch: Patch) -> None:
    patch.setattr(memory_erasure, "_without_texts", lambda schedule: schedule)


@in_memory(waiting_grants.WaitingGrantContract, "test_a_waiting_grant_adds_no_credits_and_no_line")
def a_later_grant_does_not_wait(patch: Patch) -> None:
    patch.setattr(GrantTerms, "waits", lambda *_: False)


@in_memory(
    waiting_grants.WaitingGrantContract,
    "test_a_waiting_grant_is_replayed_before_and_after_its_beginning",
)
def a_waiting_grant_is_granted_again(patch: Patch) -> None:
    patch.setattr(MemoryLedger, "_stored", found)


@in_memory(waiting_grants.WaitingGrantContract, "test_a_voided_waiting_grant_never_begins")
def a_voided_grant_begins(patch: Patch) -> None:
    patch.setattr(Schedule, "ended", lambda schedule, at: evolve(schedule, ended_at=at))


@in_memory(waiting_grants.WaitingGrantContract, "test_expirations_of_a_moment_come_before_starts")
def grants_begin_before_others_expire(patch: Patch) -> None:
    def begun(wallet: Wallet, instant: datetime) -> Wallet:
        wallet = at(wallet, instant)
        for schedule in wallet.starting():
            wallet, _ = wallet.started(schedule, ZERO)
        return wallet

    at = Wallet.at
    patch.setattr(Wallet, "at", begun)


# Other calls --------------------------------------------------------------------------------------


@in_memory(known_faults.KnownFaultContract, "test_a_won_dispute_releases_everything")
def a_dispute_that_is_won_changes_nothing(patch: Patch) -> None:
    patch.setattr(memory_payments, "_release", lambda *_: None)


@in_memory(
    failed_refunds.RefundTotalContract,
    "test_a_total_that_is_reached_already_records_a_refund_of_zero",
)
def a_total_is_an_amount(patch: Patch) -> None:
    def added(payment: Payment, asked: Amount | None, up_to: Amount | None) -> Amount:
        return part(payment, asked or up_to, None)

    part = Payment.part
    patch.setattr(Payment, "part", added)


@in_memory(
    failed_refunds.DisputedRefundContract,
    "test_a_refund_takes_the_undisputed_rest_before_the_newest_dispute",
)
def a_refund_leaves_disputes_as_they_are(patch: Patch) -> None:
    patch.setattr(memory_ledger, "set_aside", lambda *_: None)


@in_memory(
    failed_refunds.DisputedRefundContract,
    "test_a_clamped_refund_may_take_the_credits_that_it_frees",
)
def a_refund_does_not_count_what_it_frees(patch: Patch) -> None:
    patch.setattr(Payment, "freed", lambda *_: ZERO)


@in_memory(
    failed_refunds.FailedRefundContract,
    "test_the_absorbed_part_of_the_failed_refund_goes_back_first",
)
def the_customer_is_given_back_first(patch: Patch) -> None:
    def taken_first(leg: Leg, amount: Amount, own: Leg) -> Leg:
        taken = min(amount, leg.taken)
        return Leg(taken, amount - taken)

    patch.setattr(Leg, "given_back", taken_first)


@in_memory(
    failed_refunds.FailedRefundContract,
    "test_a_failed_refund_leaves_every_account_as_before_it",
)
def a_failed_refund_gives_no_grants_back(patch: Patch) -> None:
    patch.setattr(reinstatements, "_lots", lambda *_: ())


@in_memory(failed_refunds.FailedRefundContract, "test_a_refund_fails_once")
def a_refund_can_fail_again(patch: Patch) -> None:
    def unaware(*arguments: Any) -> Payment:
        return evolve(payment_of(*arguments), failed={})

    payment_of = memory_payments.payment_of
    patch.setattr(memory_ledger, "payment_of", unaware)


@in_memory(
    changing_disputes.ChangingDisputeContract,
    "test_a_lost_dispute_that_is_won_gives_everything_back",
)
def a_lost_dispute_stays_lost(patch: Patch) -> None:
    patch.setattr(Payment, "due", property(lambda payment: payment.returned))


@in_memory(
    changing_disputes.ChangingDisputeContract,
    "test_of_a_dispute_beyond_the_payment_what_remains_is_set_aside",
)
def a_dispute_sets_aside_what_was_returned(patch: Patch) -> None:
    def from_the_start(payment: Payment, _after: Amount) -> Any:
        nothing = payment.paid - payment.paid
        return disputes_at(evolve(payment, returned=nothing), nothing)

    disputes_at = Payment.disputes_at
    patch.setattr(Payment, "disputes_at", from_the_start)


@in_memory(
    changing_disputes.ChangingDisputeContract,
    "test_the_disputed_amount_of_an_open_dispute_changes",
)
def a_dispute_keeps_its_first_amount(patch: Patch) -> None:
    def unchanged(books: MemoryBooks, dispute: Any, *others: Any) -> Any:
        before = books._store.disputes.get((dispute.tenant, dispute.reference), dispute)
        return settle(books, evolve(dispute, amount=before.amount), *others)

    settle = MemoryBooks.settle_dispute
    patch.setattr(MemoryBooks, "settle_dispute", unchanged)


@in_memory(
    changing_disputes.EventOrderContract,
    "test_parts_end_at_the_same_credits_in_any_order",
)
def a_reinstatement_gives_back_what_its_refund_took(patch: Patch) -> None:
    """The parts of the other refunds were rounded with it."""
    patch.setattr(Leg, "given_back", lambda _leg, _amount, own: own)


@in_memory(batches.ChargeBatchContract, "test_all_or_nothing_is_for_each_tenant")
def all_or_nothing_keeps_the_successful_requests(patch: Patch) -> None:
    patch.setattr(memory_ledger, "all_or_none", lambda post_all, _savepoint: post_all())


@in_memory(
    batches.ChargeBatchContract,
    "test_a_charge_that_would_overdraw_is_refused_and_a_later_smaller_one_is_done",
)
def one_refusal_ends_the_batch(patch: Patch) -> None:
    def until_refused(asked: Any, post_one: Any, savepoint: Any) -> Any:
        answers: list[Any] = []
        for transaction in asked:
            if any(isinstance(answer, BillingError) for answer in answers):
                answers.append(answers[-1])
            else:
                answers += one_by_one([transaction], post_one, savepoint)
        return answers

    patch.setattr(memory_ledger, "one_by_one", until_refused)


@in_memory(adjusting.AdjustmentContract, "test_credits_are_taken_of_purchased_ones_before_grants")
def an_adjustment_takes_grants_first(patch: Patch) -> None:
    patch.setattr(Wallet, "earned", lambda *_: ZERO)


@in_memory(adjusting.AdjustmentContract, "test_a_scope_of_a_tenant_may_not_adjust")
def a_tenant_may_adjust_its_own_credits(patch: Patch) -> None:
    def as_operator(ledger: MemoryLedger, transaction: Transaction) -> Recorded:
        return post(evolve(ledger, is_service=True), transaction)

    patch.setattr(MemoryLedger, "_post", as_operator)


@in_memory(acting.ActorContract, "test_an_inner_block_names_another_actor")
def charges_forget_their_actor(patch: Patch) -> None:
    patch.setattr(spending, "acted", lambda planned: planned)


@in_memory(acting.ActorContract, "test_a_block_that_raises_ends")
def an_actor_stays_after_the_block(patch: Patch) -> None:
    class Kept:
        actor: str | None = None

        def set(self, actor: str) -> None:
            self.actor = actor

        def get(self) -> str | None:
            return self.actor

        def reset(self, _: object) -> None:
            pass

    patch.setattr(actors, "_ACTOR", Kept())


@in_memory(openings.OpeningContract, "test_a_second_opening_is_a_replay")
def an_opening_repeats(patch: Patch) -> None:
    patch.setattr(MemoryLedger, "_opened", lambda _: None)


@in_memory(openings.OpeningContract, "test_another_opening_conflicts")
def an_opening_is_not_compared(patch: Patch) -> None:
    patch.setattr(Opened, "require_same", lambda *_: None)


@in_memory(
    openings.OpeningContract,
    "test_an_open_account_without_transactions_counts_as_open_since_the_opening",
)
def an_account_stays_open_since_later(patch: Patch) -> None:
    patch.setattr(MemoryLedger, "_open_as_of", lambda *_: None)


@in_memory(late_usage.LateUsageContract, "test_usage_is_not_before_the_account_was_opened")
def usage_is_told_of_any_time(patch: Patch) -> None:
    patch.setattr(memory_ledger, "require_recent", lambda *_: None)


@in_memory(late_usage.LateUsageContract, "test_the_moment_is_part_of_the_request")
def the_moment_of_usage_is_no_part_of_the_request(patch: Patch) -> None:
    def timeless(amount: Amount, *, occurred_at: object, **options: bool) -> requests.Request:
        return charge_request(amount, occurred_at=None, **options)

    charge_request = requests.charge
    patch.setattr(requests, "charge", timeless)


@in_memory(
    sharing.SharingContract, "test_a_tenant_that_only_earned_shares_is_read_without_an_account"
)
def a_tenant_that_only_earned_shares_is_unknown(patch: Patch) -> None:
    patch.setattr(memory_ledger, "require_known", require_account)


@in_memory(
    refunding.RefundContract,
    "test_a_refund_that_refuses_a_debt_takes_all_of_its_part_or_is_not_recorded",
)
def a_refund_that_refuses_a_debt_makes_one(patch: Patch) -> None:
    patch.setattr(Transaction, "refuses_debt", False)


@in_memory(
    overdrafts.OverdraftLimitContract,
    "test_an_overdraft_goes_to_the_limit_and_not_one_credit_further",
)
def an_overdraft_is_not_compared_with_its_limit(patch: Patch) -> None:
    patch.setattr(Wallet, "require_within_limit", lambda *_: None)


@in_memory(overdrafts.OverdraftLimitContract, "test_free_work_is_recorded_beyond_the_limit")
def free_work_is_compared_with_the_limit_of_overdrafts(patch: Patch) -> None:
    def always(wallet: Wallet, required: Amount, arrived: Amount, held: Any = None) -> None:
        limit = wallet.overdraft_limit
        if limit is not None and required > wallet.available(arrived) + limit + (held or ZERO):
            raise InsufficientCredits(required, wallet.available(arrived), held, limit)

    patch.setattr(Wallet, "require_within_limit", always)


@in_memory(freezing.FreezeContract, "test_a_charge_of_a_batch_is_refused_alone")
def a_frozen_account_spends(patch: Patch) -> None:
    patch.setattr(Wallet, "require_unfrozen", lambda _: None)


# One transaction, one tenant ----------------------------------------------------------------------


@in_memory(scopes.ScopeContract, "test_a_scope_with_a_swallowed_error_raises")
def a_swallowed_failure_is_committed(patch: Patch) -> None:
    patch.setattr(guard.ScopeGuard, "require_open", lambda _: None)


@in_memory(scopes.ScopeContract, "test_work_that_raises_is_rolled_back_and_its_error_is_raised")
def changes_are_never_rolled_back(patch: Patch) -> None:
    @contextmanager
    def kept(store: Store) -> Iterator[None]:
        error: Exception | None = None
        with transaction(store):
            try:
                yield
            except Exception as raised:  # noqa: BLE001 (raised below, too late)
                error = raised
        if error is not None:
            raise error

    transaction = Store.transaction
    patch.setattr(Store, "transaction", kept)


@in_memory(scopes.TenantContract, "test_a_tenant_sees_its_own_lines_and_balance_only")
def lines_are_shared_by_all_tenants(patch: Patch) -> None:
    def everybodys(ledger: MemoryLedger) -> list[Line]:
        return [line for lines in ledger._store.lines.values() for line in lines]

    patch.setattr(MemoryLedger, "_lines", everybodys)


@in_memory(sharing.SharingContract, "test_a_beneficiary_sees_its_share_without_the_buyer")
def a_share_names_its_buyer(patch: Patch) -> None:
    def telling(ledger: MemoryLedger, transaction: Any, posting: Posting, at: datetime) -> None:
        add(ledger, transaction, posting, at)
        lines = ledger._store.lines[posting.account]
        lines[-1] = evolve(lines[-1], reference=transaction.reference)

    patch.setattr(MemoryLedger, "_add", telling)


@in_memory(purchases.PurchaseContract, "test_a_scope_posts_for_its_own_tenant_only")
def a_scope_posts_for_any_tenant(patch: Patch) -> None:
    def for_anybody(ledger: MemoryLedger, transaction: Transaction) -> Recorded:
        return post(evolve(ledger, tenant=transaction.tenant), transaction)

    patch.setattr(MemoryLedger, "_post", for_anybody)


# One call alone -----------------------------------------------------------------------------------


@in_memory(
    single_calls.RefusedCallContract, "test_a_call_that_the_wallet_refuses_keeps_due_expirations"
)
def a_refused_call_rolls_back_due_expirations(patch: Patch) -> None:
    patch.setattr(Store, "keep", lambda _: None)


@in_memory(
    single_calls.RefusedCallContract,
    "test_a_refused_call_does_not_move_the_time_of_the_wallet_past_the_expiry",
)
def a_refused_call_moves_the_time_of_the_wallet(patch: Patch) -> None:
    def moved(ledger: MemoryLedger, moment: datetime) -> Wallet:
        wallet = current(ledger, moment)
        ledger._keep(wallet)
        ledger._store.keep()
        return wallet

    current = MemoryLedger._current
    patch.setattr(MemoryLedger, "_current", moved)


@in_memory(
    single_calls.RefusedCallContract,
    "test_a_replay_or_conflict_records_no_expiration",
)
def expirations_are_posted_before_the_key_is_looked_up(patch: Patch) -> None:
    def early(ledger: MemoryLedger, transaction: Transaction) -> Recorded:
        ledger._catch_up(transaction.at)
        return post(ledger, transaction)

    def scheduled_early(ledger: MemoryLedger, plan: Schedule) -> Schedule:
        ledger._catch_up(plan.created_at)
        return schedule(ledger, plan)

    patch.setattr(MemoryLedger, "_post", early)
    patch.setattr(MemoryLedger, "schedule", scheduled_early)


@in_memory(
    single_calls.RefusedCallContract, "test_a_refused_scope_of_several_calls_records_nothing"
)
def a_scope_of_several_calls_keeps_due_expirations(patch: Patch) -> None:
    patch.setattr(guard.ScopeGuard, "is_single", True)


@in_memory(single_calls.SingleCallContract, "test_a_second_call_is_refused")
def a_single_scope_takes_any_number_of_calls(patch: Patch) -> None:
    def unlimited(_: guard.ScopeGuard, *, calls: int | None = None) -> None:
        made(_, calls=None)

    made = guard.ScopeGuard.__init__
    patch.setattr(guard.ScopeGuard, "__init__", unlimited)


@in_memory(single_calls.SingleCallContract, "test_a_tenant_without_an_account_is_unknown")
def a_tenant_without_an_account_has_a_balance_of_zero(patch: Patch) -> None:
    patch.setattr(memory_ledger, "require_account", lambda *_: None)
    patch.setattr(memory_ledger, "require_known", lambda *_: None)


@in_memory(kinds.KindContract, "test_a_transaction_of_each_kind_is_recorded_by_its_rules")
def a_kind_takes_the_other_side_from_another_account(patch: Patch) -> None:
    def elsewhere(*given: Any, **named: Any) -> tuple[Posting, ...]:
        *others, contra = balanced(*given, **named)
        return (*others, evolve(contra, account=SHORTFALL))

    balanced = transactions.balanced
    patch.setattr(transactions, "balanced", elsewhere)


@in_memory(erasure.ErasureContract, "test_replays_of_an_erased_request_are_the_same")
def an_erased_text_is_another_text(patch: Patch) -> None:
    patch.setattr(idempotency, "same_text", lambda stored, given, _: stored == given)


@in_memory(erasure.ErasureContract, "test_forget_leaves_the_ledger_verified_and_its_seals_valid")
def an_erased_text_leaves_no_digest(patch: Patch) -> None:
    patch.setattr(memory_books, "sealed_metadata", lambda _, made: metadata.encoded(made.metadata))


@in_memory(
    drawing.DrawContract, "test_a_charge_tells_the_grants_and_the_purchased_credits_that_paid"
)
def a_charge_forgets_its_draws(patch: Patch) -> None:
    def forgotten(ledger: MemoryLedger, made: Transaction, at: datetime, *_: object) -> Recorded:
        return enter(ledger, made, at)

    enter = MemoryLedger._enter
    patch.setattr(MemoryLedger, "_enter", forgotten)


@in_memory(
    charges.AtMostContract,
    "test_a_charge_of_at_most_more_than_is_there_takes_what_is_there",
)
def a_charge_of_at_most_an_amount_takes_held_credits(patch: Patch) -> None:
    def greedy(wallet: Wallet, charge: Transaction, arrived: Amount) -> Transaction:
        return affordable(evolve(wallet, holds={}), charge, arrived)

    affordable = Wallet.affordable
    patch.setattr(Wallet, "affordable", greedy)
    patch.setattr(Wallet, "require_available", lambda *_: None)


@in_memory(
    giving_back.ReverseContract,
    "test_credits_of_a_grant_that_has_expired_since_go_on_to_breakage",
)
def an_expired_grant_gets_its_credits_back(patch: Patch) -> None:
    patch.setattr(Wallet, "is_expired", lambda *_: False)


@in_memory(giving_back.ReverseContract, "test_parts_come_back_in_the_reverse_order_and_add_up")
def a_second_reversal_begins_again(patch: Patch) -> None:
    patch.setattr(MemoryLedger, "_given_back", lambda *_: ZERO)


# Payment attempts ---------------------------------------------------------------------------------


@in_memory(attempt_reports.AttemptReportContract, "test_a_report_after_the_expiry_is_credited")
def a_report_can_be_too_late(patch: Patch) -> None:
    patch.setattr(
        attempts, "told", lambda attempt, evidence, *_: submission(attempt, evidence, _[-1])
    )


@in_memory(
    attempt_reports.EvidenceReplacementContract,
    "test_a_finding_on_replaced_evidence_is_ignored",
)
def a_finding_is_applied_to_other_evidence(patch: Patch) -> None:
    concluded = attempts._concluded

    def anyhow(context: Any, scope: Any, attempt_id: UUID, _: str, *given: Any, **at: Any) -> Any:
        evidence = scope.attempts.attempt(attempt_id).evidence
        return concluded(context, scope, attempt_id, evidence, *given, **at)

    patch.setattr(attempts, "_concluded", anyhow)


@in_memory(
    attempt_reports.EvidenceReplacementContract, "test_evidence_that_is_not_found_is_replaced"
)
def evidence_is_never_replaced(patch: Patch) -> None:
    patch.setattr(attempts, "replacement", lambda *_: None)


@in_memory(attempt_recipients.RecipientContract, "test_an_address_of_another_intent_is_refused")
def an_address_is_given_to_two_intents(patch: Patch) -> None:
    patch.setattr(MemoryAttempts, "_is_taken", lambda *_: False)


# Reads --------------------------------------------------------------------------------------------


@in_memory(
    statements.StatementContract,
    "test_lines_that_arrive_between_pages_neither_repeat_nor_hide_any",
)
def a_page_leaves_a_line_to_the_next(patch: Patch) -> None:
    """The line at the border is on no page."""

    def but_one(page: PageRequest, line: Line) -> bool:
        return page.before is None or line.position < page.before - 1

    patch.setattr(PageRequest, "admits", but_one)


@in_memory(intervals.IntervalContract, "test_an_expiry_at_the_border_is_in_one_interval")
def the_opening_balance_is_that_of_its_own_moment(patch: Patch) -> None:
    """An expiry at the first moment of the interval counts before it and in it."""
    asked = MemoryLedger.lines

    def at_once(ledger: MemoryLedger, page: PageRequest) -> Extract:
        found = asked(ledger, page)
        at = page.since
        return evolve(found, opening=ledger.balance_at(at).posted) if at else found

    patch.setattr(MemoryLedger, "lines", at_once)


@in_memory(intervals.IntervalContract, "test_a_due_expiration_is_a_line_before_it_is_posted")
def due_expirations_are_on_no_statement(patch: Patch) -> None:
    asked = MemoryLedger.lines
    patch.setattr(
        MemoryLedger, "lines", lambda ledger, page: asked(ledger, evolve(page, now=EARLIEST))
    )


@in_memory(reading.BalanceAtContract, "test_a_clock_that_goes_back_does_not_change_the_past")
def the_past_is_the_present(patch: Patch) -> None:
    def present(ledger: MemoryLedger, moment: datetime) -> Balance:
        return ledger.balance(moment)

    patch.setattr(MemoryLedger, "balance_at", present)


@in_memory(statements.StatementContract, "test_pages_hold_lines_of_one_moment_once")
def a_page_goes_on_at_an_earlier_moment(patch: Patch) -> None:
    """Of several lines at the moment of the border, the rest are on no page."""

    asked = MemoryLedger.lines

    def earlier(ledger: MemoryLedger, page: PageRequest) -> Extract:
        border = [line.at for line in ledger._lines() if line.position == page.before]
        found = asked(ledger, evolve(page, limit=1000))
        lines = [line for line in found.lines if not border or line.at < border[0]]
        return evolve(found, lines=tuple(lines[: page.limit + 1]))

    patch.setattr(MemoryLedger, "lines", earlier)


@in_memory(statements.StatementContract, "test_a_page_can_have_a_thousand_lines")
def a_page_is_shorter_than_was_asked(patch: Patch) -> None:
    asked = MemoryLedger.lines
    patch.setattr(
        MemoryLedger, "lines", lambda ledger, page: asked(ledger, evolve(page, limit=100))
    )


@in_memory(keys.KeyContract, "test_a_replay_with_other_metadata_keeps_the_first")
def metadata_stays_the_callers(patch: Patch) -> None:
    patch.setattr(metadata._Copier, "freeze", lambda _, value, *__: value)


@in_memory(inbox.InboxContract, "test_refunds_in_any_order_come_to_the_same_total")
def each_event_of_a_refund_is_applied_by_itself(patch: Patch) -> None:
    def together(effects: Effects) -> Amount:
        return effects._scaled(effects._reported() + effects._itemised())

    patch.setattr(Effects, "refunded", together)


@in_memory(inbox.InboxContract, "test_a_dispute_that_was_won_is_not_opened_late")
def the_event_that_arrives_last_decides_a_dispute(patch: Patch) -> None:
    patch.setattr(event_effects, "_age", lambda _: (EARLIEST, True))


@in_memory(inbox.InboxContract, "test_waiting_events_are_applied_with_the_success")
def events_wait_for_the_sweep(patch: Patch) -> None:
    patch.setattr(InboxEntry, "can_be_tried", property(lambda entry: False))


@in_memory(inbox.InboxContract, "test_amounts_with_tax_are_scaled_to_the_purchase")
def tax_is_taken_back_as_credits(patch: Patch) -> None:
    patch.setattr(Effects, "_gross", lambda _: [])


@in_memory(inbox.InboxContract, "test_another_event_under_the_same_id_is_a_conflict")
def an_event_is_compared_by_its_id_alone(patch: Patch) -> None:
    patch.setattr(InboxEntry, "require_same", lambda *_: None)


@in_memory(finding_payments.FindPaymentContract, "test_refunds_and_disputes_are_told_apart")
def lost_disputes_count_as_refunds(patch: Patch) -> None:
    patch.setattr(
        finding,
        "found_payment",
        lambda payment: evolve(found_payment(payment), refunded=payment.returned),
    )


# Prices -------------------------------------------------------------------------------------------


@in_memory(prices.PriceContract, "test_each_book_is_in_force_until_the_next_one_starts")
def credits_of_a_price_are_rounded_down(patch: Patch) -> None:
    patch.setattr(price_books, "rounded_up", rounded_down)


@in_memory(prices.PriceContract, "test_a_payment_buys_at_the_price_of_its_currency_rounded_up")
def a_price_is_not_recorded(patch: Patch) -> None:
    patch.setattr(domain_purchases, "recorded_terms", lambda policy, _: policy.record)


@in_memory(prices.PriceContract, "test_a_book_that_is_not_in_force_yet_has_no_price")
def a_book_is_always_in_force(patch: Patch) -> None:
    ask = PriceBook.price_of
    patch.setattr(PriceBook, "price_of", lambda book, unit, _: ask(book, unit, LATEST))


@in_memory(
    prices.PriceContract, "test_a_dollar_has_the_price_of_the_protocol_unless_the_book_names_it"
)
def a_dollar_has_one_price(patch: Patch) -> None:
    ask = PriceBook.price_of
    patch.setattr(
        PriceBook,
        "price_of",
        lambda book, unit, at: None if unit is USD else ask(book, unit, at),
    )
