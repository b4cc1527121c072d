"""Verification finds and locates each corruption by a superuser."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from decimal import localcontext  # noqa: TID251 (the caller's, who may do as they please)
from functools import partial
from uuid import UUID

import pytest
from attrs import evolve
from sqlalchemy import Connection, text

from cogni_billing import (
    SYSTEM_ACCOUNT_ID,
    SYSTEM_TENANT_ID,
    Billing,
    FailureCode,
    GrantSchedule,
    Invariant,
    PaymentAttempts,
    PaymentFailed,
    PaymentPending,
    PriceBook,
    PrivilegeRequired,
    Rollover,
    Seal,
    Share,
    TenantId,
    credits,
    money,
    usd,
)
from cogni_billing.adapters.postgres import PostgresUnitOfWork
from cogni_billing.adapters.postgres.audit import require_full_sight, verification
from cogni_billing.adapters.postgres.operations.blueprint import LEDGER
from cogni_billing.domain.identity import USAGE
from cogni_billing.domain.transactions import Transaction
from cogni_billing.ports.scope import UnitOfWork
from cogni_billing.testing.base import ALICE, BOB, CountingIds, SteppingClock
from cogni_billing.testing.contracts.attempt_base import CARD
from cogni_billing.testing.contracts.inbox import success
from cogni_billing.testing.contracts.purchases import planned
from cogni_billing.testing.contracts.verifying import DAVE, HOUR, changed, expiring, live, undone
from cogni_billing.testing.verifiers import FakeVerifier, paid
from stack.conftest import Database

LEG = "UPDATE cogni_billing.arrivals SET {} WHERE transaction_id = {} AND sequence = {}"
PURCHASE = "(SELECT id FROM cogni_billing.transactions WHERE reference = 'stripe:pi_1')"
CHARGE = (
    "(SELECT id FROM cogni_billing.transactions"
    f" WHERE reference = 'run-1' AND kind = 'charge' AND tenant_id = '{ALICE}')"
)
TRANSACTION = "UPDATE cogni_billing.transactions SET {} WHERE reference = '{}'"
BOUGHT = f"UPDATE cogni_billing.transactions SET {{}} WHERE id = {PURCHASE}"
CHARGED = f"UPDATE cogni_billing.transactions SET {{}} WHERE id = {CHARGE}"
REVERSED = "UPDATE cogni_billing.transactions SET {} WHERE reference = 'back-1'"
POLICY = "UPDATE cogni_billing.policies SET policy = {} WHERE policy::text LIKE '%0.25%'"
CLAIM = "UPDATE cogni_billing.claims SET {} WHERE payment = 'stripe:pi_1'"
WALLET = "UPDATE cogni_billing.wallets SET {} WHERE tenant_id = '{}'"
HOLD = "UPDATE cogni_billing.holds SET {} WHERE reference = '{}'"
CHANGE = "UPDATE cogni_billing.hold_changes SET {} WHERE kind = '{}' AND reference = 'run-7'"
SCHEDULE = "UPDATE cogni_billing.schedules SET {} WHERE reference = '{}'"
GRANT = "UPDATE cogni_billing.grants SET {} WHERE source = 'promo:b'"
LOT = (
    "UPDATE cogni_billing.grants SET {} WHERE id ="
    " (SELECT id FROM cogni_billing.transactions WHERE reference = 'stripe:x_3')"
)
DISPUTE = "UPDATE cogni_billing.disputes SET {} WHERE reference = '{}'"
CHANGED = (
    "UPDATE cogni_billing.dispute_changes SET {} WHERE dispute_id ="
    " (SELECT id FROM cogni_billing.disputes WHERE reference = '{}')"
)
DISPUTED = "UPDATE cogni_billing.holds SET {} WHERE kind = 'dispute' AND state = 'open'"
ATTEMPT = "UPDATE cogni_billing.payment_attempts SET {} WHERE state = '{}'"
EVENT = "UPDATE cogni_billing.payment_events SET {} WHERE state = 'applied'"
RELEASED = "state = 'released'"

CORRUPTIONS: dict[str, tuple[str, set[Invariant]]] = {
    "a share is raised": (
        LEG.format("amount = amount + 1", PURCHASE, 1),
        {Invariant.TRANSACTIONS_SUM_TO_ZERO, Invariant.POSTINGS_MATCH, Invariant.CHECKPOINTS_MATCH},
    ),
    "a part of a share is moved to issuance": (
        "UPDATE cogni_billing.arrivals"
        " SET amount = amount + CASE sequence WHEN 1 THEN 5 ELSE -5 END"
        f" WHERE transaction_id = {PURCHASE}",
        {Invariant.POSTINGS_MATCH, Invariant.CHECKPOINTS_MATCH},
    ),
    "a share is moved to another account": (
        LEG.format(f"account_id = '{BOB}'", PURCHASE, 1),
        {Invariant.POSTINGS_MATCH, Invariant.CHECKPOINTS_MATCH},
    ),
    "a share is deleted": (
        f"DELETE FROM cogni_billing.arrivals WHERE transaction_id = {PURCHASE} AND sequence = 1",
        {Invariant.TRANSACTIONS_SUM_TO_ZERO, Invariant.POSTINGS_MATCH, Invariant.CHECKPOINTS_MATCH},
    ),
    "a share is declared smaller": (
        BOUGHT.format("shares = '{5}'"),
        {Invariant.POSTINGS_MATCH, Invariant.SHARES_FOLLOW_THE_POLICY},
    ),
    "a leg is of another kind": (
        LEG.format("kind = 'grant'", PURCHASE, 1),
        {Invariant.POSTINGS_MATCH},
    ),
    "a leg has another time": (
        "UPDATE cogni_billing.arrivals SET occurred_at = 'epoch' WHERE transaction_id ="
        " (SELECT id FROM cogni_billing.transactions WHERE reference = 'run-6')",
        {Invariant.POSTINGS_MATCH},
    ),
    "a leg has another number": (
        LEG.format("sequence = 7", PURCHASE, 2),
        {Invariant.POSTINGS_MATCH},
    ),
    "the legs of a refund have another order": (
        "UPDATE cogni_billing.arrivals SET sequence = - sequence"
        " WHERE transaction_id = (SELECT id FROM cogni_billing.transactions"
        " WHERE reference = 're_1')",
        {Invariant.POSTINGS_MATCH},
    ),
    "legs are deleted": (
        f"DELETE FROM cogni_billing.arrivals WHERE transaction_id = {CHARGE}",
        {Invariant.TRANSACTIONS_SUM_TO_ZERO, Invariant.POSTINGS_MATCH, Invariant.CHECKPOINTS_MATCH},
    ),
    "a transaction is deleted": (
        f"DELETE FROM cogni_billing.transactions WHERE id = {CHARGE}",
        {
            Invariant.TRANSACTIONS_SUM_TO_ZERO,
            Invariant.POSTINGS_MATCH,
            Invariant.WALLETS_MATCH,
            Invariant.LINES_RUN_ON,
            Invariant.LINES_ARE_GAPLESS,
            Invariant.GRANTS_ADD_UP,
            Invariant.REVERSALS_GIVE_BACK_A_CHARGE,
            Invariant.REVERSALS_RETURN_TO_THEIR_LOTS,
        },
    ),
    "a charge is declared a capture": (
        CHARGED.format("kind = 'capture'"),
        {
            Invariant.TRANSACTIONS_FIT_THEIR_KIND,
            Invariant.POSTINGS_MATCH,
            Invariant.CAPTURES_MATCH_THEIR_HOLD,
        },
    ),
    "a charge is of an unknown kind": (
        CHARGED.format("kind = 'gift'"),
        {
            Invariant.TRANSACTIONS_FIT_THEIR_KIND,
            Invariant.POSTINGS_MATCH,
            Invariant.REVERSALS_GIVE_BACK_A_CHARGE,
            Invariant.REVERSALS_RETURN_TO_THEIR_LOTS,
        },
    ),
    "a charge has a subject": (
        CHARGED.format("subject_id = id"),
        {Invariant.TRANSACTIONS_FIT_THEIR_KIND},
    ),
    "a charge reverses a part": (
        CHARGED.format("part = 1"),
        {Invariant.TRANSACTIONS_FIT_THEIR_KIND},
    ),
    "a charge has empty shares": (
        CHARGED.format("beneficiaries = '{}', shares = '{}'"),
        {Invariant.TRANSACTIONS_FIT_THEIR_KIND},
    ),
    "a charge draws more than its amount": (
        CHARGED.format("drawn_amounts = ARRAY[drawn_amounts[1] + 1] || drawn_amounts[2:]"),
        {
            Invariant.TRANSACTIONS_FIT_THEIR_KIND,
            Invariant.GRANTS_ADD_UP,
            Invariant.REVERSALS_RETURN_TO_THEIR_LOTS,
        },
    ),
    "a grant repays a debt with another grant": (
        TRANSACTION.format(f"drawn_grants = ARRAY[{PURCHASE}], drawn_amounts = ARRAY[1]", "b"),
        {Invariant.TRANSACTIONS_FIT_THEIR_KIND, Invariant.GRANTS_ADD_UP},
    ),
    "a share is not a number": (
        BOUGHT.format("shares = '{NaN}'"),
        {Invariant.TRANSACTIONS_FIT_THEIR_KIND, Invariant.POSTINGS_MATCH},
    ),
    "a refund absorbs an amount that is not a number": (
        TRANSACTION.format("absorbed = 'NaN'", "re_1"),
        {Invariant.TRANSACTIONS_FIT_THEIR_KIND, Invariant.POSTINGS_MATCH},
    ),
    "a refund has an unknown shortfall": (
        TRANSACTION.format("shortfall = 'forgive'", "re_1"),
        {Invariant.TRANSACTIONS_FIT_THEIR_KIND},
    ),
    "a chargeback refuses a debt": (
        TRANSACTION.format("shortfall = 'refuse'", "dp_1"),
        {Invariant.TRANSACTIONS_FIT_THEIR_KIND},
    ),
    "a refund refused a debt and made one": (
        TRANSACTION.format("shortfall = 'refuse', arrived = arrived - 1e9", "re_2"),
        {Invariant.TRANSACTIONS_DO_WHAT_WAS_ASKED, Invariant.LINES_SEE_ARRIVALS},
    ),
    "an adjustment has no reason": (
        TRANSACTION.format("reason = NULL", "ticket-1"),
        {Invariant.TRANSACTIONS_FIT_THEIR_KIND},
    ),
    "a charge has a reason": (
        CHARGED.format("reason = 'billed twice'"),
        {Invariant.TRANSACTIONS_FIT_THEIR_KIND},
    ),
    "an expiry has an actor": (
        "UPDATE cogni_billing.transactions SET actor = 'user:42' WHERE kind = 'expiry'",
        {Invariant.TRANSACTIONS_FIT_THEIR_KIND},
    ),
    "a charge has an empty actor": (
        CHARGED.format("actor = ''"),
        {Invariant.TRANSACTIONS_FIT_THEIR_KIND},
    ),
    "a frozen wallet has a later charge": (
        "UPDATE cogni_billing.wallets SET frozen_at = now(), frozen_after = 0, frozen_reason = 'r'"
        " WHERE tenant_id IN ("
        "SELECT tenant_id FROM cogni_billing.transactions WHERE kind = 'charge')",
        {Invariant.FROZEN_WALLETS_SPEND_NOTHING},
    ),
    "a frozen wallet has no reason": (
        "UPDATE cogni_billing.wallets SET frozen_at = now(), frozen_after = lines",
        {Invariant.FROZEN_WALLETS_SPEND_NOTHING},
    ),
    "an opening is under another key": (
        "UPDATE cogni_billing.transactions SET reference = 'o' WHERE kind = 'opening'",
        {Invariant.OPENINGS_COME_FIRST},
    ),
    "an opening is before its account": (
        "UPDATE cogni_billing.wallets SET opened_at = as_of + interval '1 s' WHERE tenant_id IN ("
        "SELECT tenant_id FROM cogni_billing.transactions WHERE kind = 'opening')",
        {Invariant.OPENINGS_COME_FIRST},
    ),
    "a grant of an opening is another": (
        "UPDATE cogni_billing.transactions SET reference = 'o' WHERE reference = 'opening/1'",
        {Invariant.OPENINGS_COME_FIRST},
    ),
    "an opening has a reason": (
        "UPDATE cogni_billing.transactions SET reason = 'r' WHERE kind = 'opening'",
        {Invariant.TRANSACTIONS_FIT_THEIR_KIND},
    ),
    "a charge is of usage long ago": (
        CHARGED.format("used_at = occurred_at - interval '36 days'"),
        {Invariant.CHARGES_ARE_REPORTED_IN_TIME},
    ),
    "a charge is of usage in the future": (
        CHARGED.format("used_at = occurred_at + interval '1 second'"),
        {Invariant.CHARGES_ARE_REPORTED_IN_TIME},
    ),
    "a charge is of usage before its account": (
        CHARGED.format("used_at = occurred_at - interval '34 days'"),
        {Invariant.CHARGES_ARE_REPORTED_IN_TIME},
    ),
    "a purchase is of usage": (
        BOUGHT.format("used_at = occurred_at"),
        {Invariant.TRANSACTIONS_FIT_THEIR_KIND},
    ),
    "a charge is below a limit of overdrafts": (
        "UPDATE cogni_billing.wallets SET overdraft_limit = 0, limited_after = 0"
        f" WHERE tenant_id = '{BOB}'",
        {Invariant.OVERDRAFTS_STAY_WITHIN_THEIR_LIMIT},
    ),
    "a limit of overdrafts is not whole": (
        "UPDATE cogni_billing.wallets SET overdraft_limit = 0.5, limited_after = lines",
        {Invariant.OVERDRAFTS_STAY_WITHIN_THEIR_LIMIT},
    ),
    "a limit of overdrafts has no beginning": (
        "UPDATE cogni_billing.wallets SET overdraft_limit = 5",
        {Invariant.OVERDRAFTS_STAY_WITHIN_THEIR_LIMIT},
    ),
    "an adjustment is declared a charge": (
        TRANSACTION.format("kind = 'charge', reason = NULL", "ticket-1"),
        {Invariant.POSTINGS_MATCH},
    ),
    "a policy is rewritten": (
        POLICY.format("replace(policy::text, '0.25', '0.26')::json"),
        {Invariant.POLICIES_MATCH_THEIR_DIGEST, Invariant.SHARES_FOLLOW_THE_POLICY},
    ),
    "a policy has a number that Python does not read": (
        POLICY.format("""('{"version": ' || repeat('9', 5000) || '}')::json"""),
        {Invariant.POLICIES_MATCH_THEIR_DIGEST, Invariant.SHARES_FOLLOW_THE_POLICY},
    ),
    "a policy is too deep": (
        POLICY.format("(repeat('[', 3000) || repeat(']', 3000))::json"),
        {Invariant.POLICIES_MATCH_THEIR_DIGEST, Invariant.SHARES_FOLLOW_THE_POLICY},
    ),
    "a policy lacks fields": (
        POLICY.format("""'{"version": "1"}'"""),
        {Invariant.POLICIES_MATCH_THEIR_DIGEST, Invariant.SHARES_FOLLOW_THE_POLICY},
    ),
    "a policy is deleted": (
        "DELETE FROM cogni_billing.policies WHERE policy::text LIKE '%0.25%'",
        {Invariant.SHARES_FOLLOW_THE_POLICY},
    ),
    "a policy without a purchase is rewritten": (
        "INSERT INTO cogni_billing.policies"
        " SELECT tenant_id, 'x', '{}' FROM cogni_billing.wallets LIMIT 1",
        {Invariant.POLICIES_MATCH_THEIR_DIGEST},
    ),
    "a purchase has another policy": (
        BOUGHT.format(
            "policy = (SELECT digest FROM cogni_billing.policies"
            " WHERE policy::text NOT LIKE '%0.25%')"
        ),
        {Invariant.SHARES_FOLLOW_THE_POLICY},
    ),
    "a purchase is older than its policy": (
        BOUGHT.format("occurred_at = '1969-12-31'"),
        {Invariant.SHARES_FOLLOW_THE_POLICY, Invariant.POSTINGS_MATCH},
    ),
    "a purchase has no policy": (
        BOUGHT.format("policy = NULL"),
        {Invariant.SHARES_FOLLOW_THE_POLICY, Invariant.TRANSACTIONS_FIT_THEIR_KIND},
    ),
    "a purchase of another amount has no policy": (
        BOUGHT.format("policy = NULL, paid = 9.99"),
        {
            Invariant.PURCHASES_CREDIT_WHAT_WAS_PAID,
            Invariant.SHARES_FOLLOW_THE_POLICY,
            Invariant.TRANSACTIONS_FIT_THEIR_KIND,
        },
    ),
    "the payment of a purchase is rewritten": (
        BOUGHT.format("paid = 9.99"),
        {Invariant.PURCHASES_CREDIT_WHAT_WAS_PAID, Invariant.SHARES_FOLLOW_THE_POLICY},
    ),
    "the payment of a purchase has an unknown unit": (
        BOUGHT.format("paid_unit = 'euro'"),
        {Invariant.PURCHASES_CREDIT_WHAT_WAS_PAID, Invariant.TRANSACTIONS_FIT_THEIR_KIND},
    ),
    "the payment of a purchase is not a number": (
        BOUGHT.format("paid = 'NaN'"),
        {Invariant.PURCHASES_CREDIT_WHAT_WAS_PAID, Invariant.TRANSACTIONS_FIT_THEIR_KIND},
    ),
    "a claim is deleted": (
        "DELETE FROM cogni_billing.claims WHERE payment = 'stripe:pi_1'",
        {Invariant.PURCHASES_CLAIM_THEIR_PAYMENT},
    ),
    "a claim is moved to another tenant": (
        CLAIM.format(f"tenant_id = '{BOB}'"),
        {Invariant.PURCHASES_CLAIM_THEIR_PAYMENT, Invariant.PAYMENTS_HAVE_THEIR_PURCHASE},
    ),
    "a claim names another transaction": (
        CLAIM.format(f"transaction_id = {CHARGE}"),
        {Invariant.PURCHASES_CLAIM_THEIR_PAYMENT, Invariant.PAYMENTS_HAVE_THEIR_PURCHASE},
    ),
    "a claim has no purchase": (
        f"INSERT INTO cogni_billing.claims VALUES ('stripe:x', '{BOB}', '{BOB}')",
        {Invariant.PAYMENTS_HAVE_THEIR_PURCHASE},
    ),
    "a wallet is raised": (WALLET.format("posted = posted + 1", ALICE), {Invariant.WALLETS_MATCH}),
    "a wallet is deleted": (
        f"DELETE FROM cogni_billing.wallets WHERE tenant_id = '{ALICE}'",
        {
            Invariant.WALLETS_MATCH,
            Invariant.HOLDS_ARE_COUNTED,
            Invariant.GRANTS_ARE_COUNTED,
            Invariant.LINES_ARE_GAPLESS,
        },
    ),
    "a wallet's time is turned back": (
        WALLET.format("as_of = 'epoch'", ALICE),
        {Invariant.WALLETS_MATCH},
    ),
    "a contra account has a wallet": (
        f"INSERT INTO cogni_billing.wallets (tenant_id, opened_at) VALUES ('{USAGE}', 'epoch')",
        {Invariant.WALLETS_HAVE_ACCOUNTS},
    ),
    "a wallet is due too late": (
        WALLET.format("due_at = 'infinity'", ALICE),
        {Invariant.WALLETS_KNOW_WHAT_IS_DUE},
    ),
    "a wallet holds more": (WALLET.format("held = held + 1", ALICE), {Invariant.HOLDS_ARE_COUNTED}),
    "a wallet counts more of its grants": (
        WALLET.format("granted = granted + 1", ALICE),
        {Invariant.GRANTS_ARE_COUNTED},
    ),
    "a wallet counts more lines": (
        WALLET.format("lines = lines + 1", ALICE),
        {Invariant.LINES_ARE_GAPLESS},
    ),
    "a wallet has received more": (
        WALLET.format("received = received + 1", SYSTEM_TENANT_ID),
        {Invariant.WALLETS_FOLLOW_A_CHECKPOINT},
    ),
    "a wallet has received as far as no checkpoint": (
        WALLET.format("received_up_to = received_up_to + 1", SYSTEM_TENANT_ID),
        {Invariant.WALLETS_FOLLOW_A_CHECKPOINT},
    ),
    "a wallet without arrivals has received": (
        WALLET.format("received = 1", ALICE),
        {Invariant.WALLETS_FOLLOW_A_CHECKPOINT},
    ),
    "a running balance is rewritten": (BOUGHT.format("posted_after = 5"), {Invariant.LINES_RUN_ON}),
    "a line is dated back": (CHARGED.format("line_at = 'epoch'"), {Invariant.LINES_RUN_ON}),
    "a line has another number": (
        TRANSACTION.format("position = position + 1000", "stripe:a_4"),
        {Invariant.LINES_ARE_GAPLESS},
    ),
    "a line has arrivals of an account without any": (
        BOUGHT.format("arrived = 5"),
        {Invariant.LINES_SEE_ARRIVALS},
    ),
    "a line has seen another account's arrival": (
        TRANSACTION.format("seen = 1", "run-6"),
        {Invariant.LINES_SEE_ARRIVALS},
    ),
    "a line has seen fewer arrivals than the line before it": (
        f"{TRANSACTION.format('seen = 0, arrived = 0', 'run-1')}"
        f" AND tenant_id = '{SYSTEM_TENANT_ID}'",
        {Invariant.LINES_SEE_ARRIVALS},
    ),
    "a hold is opened again": (
        HOLD.format("state = 'open', captured = 0", "run-2"),
        {
            Invariant.HOLDS_ADD_UP,
            Invariant.CAPTURES_MATCH_THEIR_HOLD,
            Invariant.GRANTS_ADD_UP,
            Invariant.WALLETS_KNOW_WHAT_IS_DUE,
        },
    ),
    "a hold is of more": (
        HOLD.format("amount = amount + 1", "run-4"),
        {Invariant.HOLDS_ADD_UP},
    ),
    "a hold holds more": (
        HOLD.format("held = held + 1", "run-4"),
        {Invariant.HOLDS_ADD_UP, Invariant.HOLDS_ARE_COUNTED},
    ),
    "a change of a hold is of more": (
        CHANGE.format("amount = amount + 1", "extension"),
        {Invariant.HOLDS_ADD_UP},
    ),
    "a change of a hold is of more of a grant": (
        CHANGE.format("amounts = ARRAY[amounts[1] + 1]", "extension"),
        {Invariant.HOLDS_ADD_UP},
    ),
    "a change of a hold is deleted": (
        "DELETE FROM cogni_billing.hold_changes WHERE kind = 'release'",
        {Invariant.HOLDS_ADD_UP},
    ),
    "a change of a hold that is a capture is deleted": (
        "DELETE FROM cogni_billing.hold_changes WHERE kind = 'capture'",
        {Invariant.HOLDS_ADD_UP, Invariant.CAPTURES_MATCH_THEIR_HOLD},
    ),
    "a changed hold pins more of a grant": (
        HOLD.format("drawn_amounts = ARRAY[drawn_amounts[1] + 1]", "run-7"),
        {Invariant.HOLDS_ADD_UP},
    ),
    "a capture of a part is declared final": (
        TRANSACTION.format("final = NULL", "run-7"),
        {Invariant.CAPTURES_MATCH_THEIR_HOLD},
    ),
    "a charge leaves a hold open": (
        CHARGED.format("final = false"),
        {Invariant.TRANSACTIONS_FIT_THEIR_KIND},
    ),
    "a capture has an unknown rule for an overrun": (
        TRANSACTION.format("overrun = 'gift'", "run-8"),
        {Invariant.TRANSACTIONS_FIT_THEIR_KIND},
    ),
    "a hold has an unknown state": (
        HOLD.format("state = 'paused'", "run-3"),
        {Invariant.HOLDS_FIT_THEIR_KIND},
    ),
    "a hold ends before it is opened": (
        HOLD.format("ends_at = opened_at - interval '1 second'", "run-3"),
        {Invariant.HOLDS_FIT_THEIR_KIND},
    ),
    "a hold pins more than its amount": (
        HOLD.format("pinned_grants = ARRAY[id], pinned_amounts = ARRAY[amount + 1]", "run-3"),
        {Invariant.HOLDS_FIT_THEIR_KIND, Invariant.HOLDS_ADD_UP},
    ),
    "an unspent grant is deleted": (
        "DELETE FROM cogni_billing.grants WHERE source = 'promo:c'",
        {Invariant.GRANTS_MATCH_THEIR_TRANSACTION, Invariant.GRANTS_ARE_COUNTED},
    ),
    "a hold is deleted": (
        "DELETE FROM cogni_billing.holds WHERE reference = 'run-2'",
        {Invariant.CAPTURES_MATCH_THEIR_HOLD},
    ),
    "more of a hold is captured": (
        HOLD.format("captured = captured + 1", "run-2"),
        {Invariant.CAPTURES_MATCH_THEIR_HOLD},
    ),
    "a grant is given back": (
        GRANT.format("taken = 0"),
        {Invariant.GRANTS_ADD_UP, Invariant.GRANTS_ARE_COUNTED},
    ),
    "a grant is of more": (
        GRANT.format("amount = amount + 1"),
        {Invariant.GRANTS_MATCH_THEIR_TRANSACTION, Invariant.GRANTS_ARE_COUNTED},
    ),
    "a grant is deleted": (
        "DELETE FROM cogni_billing.grants WHERE source = 'promo:b'",
        {Invariant.GRANTS_MATCH_THEIR_TRANSACTION, Invariant.GRANTS_ADD_UP},
    ),
    "a grant expired too early": (
        "UPDATE cogni_billing.grants SET expires_at = '9000-01-01' WHERE source = 'promo:a'",
        {Invariant.GRANTS_EXPIRE_ON_TIME, Invariant.GRANTS_END_AS_SET},
    ),
    "a grant expires later than was set": (
        GRANT.format("expires_at = '9000-01-01'"),
        {Invariant.GRANTS_END_AS_SET},
    ),
    "a purchase that expires is called a grant": (
        LOT.format("source = 'promo:x'"),
        {Invariant.GRANTS_MATCH_THEIR_TRANSACTION},
    ),
    "a purchase that expires is spent before grants": (
        LOT.format("priority = 100"),
        {Invariant.GRANTS_MATCH_THEIR_TRANSACTION},
    ),
    "a purchase expires later than was set": (
        LOT.format("expires_at = '9000-01-01'"),
        {Invariant.GRANTS_END_AS_SET},
    ),
    "a disputed purchase expires": (
        "UPDATE cogni_billing.grants SET expires_at = first_expires_at"
        " WHERE id = (SELECT purchase_id FROM cogni_billing.disputes WHERE reference = 'dp_x')",
        {Invariant.GRANTS_END_AS_SET, Invariant.WALLETS_KNOW_WHAT_IS_DUE},
    ),
    "a wallet does not know of its purchases that expire": (
        WALLET.format("has_lots = false", DAVE),
        {Invariant.GRANTS_ARE_COUNTED},
    ),
    "a refund took fewer expired credits, and others": (
        TRANSACTION.format("lapsed = lapsed - 1, amount = amount - 1", "re_x2"),
        {
            Invariant.REVERSALS_TAKE_BACK_EXPIRED_CREDITS,
            Invariant.TRANSACTIONS_SUM_TO_ZERO,
            Invariant.POSTINGS_MATCH,
            Invariant.GRANTS_END_AS_SET,
            Invariant.LINES_RUN_ON,
            Invariant.WALLETS_MATCH,
        },
    ),
    "a refund took more than had expired": (
        TRANSACTION.format("lapsed = 600000", "re_x2"),
        {
            Invariant.REVERSALS_TAKE_BACK_EXPIRED_CREDITS,
            Invariant.REVERSALS_TAKE_BACK_THEIR_PART,
            Invariant.POSTINGS_MATCH,
        },
    ),
    "a refund of a purchase that never expires took expired credits": (
        TRANSACTION.format("lapsed = 1", "re_1"),
        {
            Invariant.REVERSALS_TAKE_BACK_EXPIRED_CREDITS,
            Invariant.REVERSALS_TAKE_BACK_THEIR_PART,
            Invariant.POSTINGS_MATCH,
        },
    ),
    "a charge took expired credits": (
        CHARGED.format("lapsed = 1"),
        {
            Invariant.TRANSACTIONS_FIT_THEIR_KIND,
            Invariant.POSTINGS_MATCH,
            Invariant.REVERSALS_TAKE_BACK_EXPIRED_CREDITS,
        },
    ),
    "a dispute is of expired credits that there were not": (
        CHANGED.format("lapsed = 1, amount = amount - 1", "dp_2"),
        {Invariant.DISPUTES_ARE_OF_THEIR_PAYMENT, Invariant.DISPUTES_ARE_SET_ASIDE},
    ),
    "an extension is of another grant": (
        "INSERT INTO cogni_billing.grant_extensions"
        f" VALUES ('{ALICE}', 'e-1', '{BOB}', now(), '9000-01-01')",
        {Invariant.GRANTS_END_AS_SET},
    ),
    "a period is of more": (
        SCHEDULE.format("amount = amount + 1", "plan"),
        {Invariant.SCHEDULES_ARE_KEPT},
    ),
    "a period carries more": (
        SCHEDULE.format("cap = cap + 1", "plan"),
        {Invariant.SCHEDULES_ARE_KEPT},
    ),
    "periods begin later": (
        SCHEDULE.format("anchor = anchor + interval '1 hour'", "plan"),
        {Invariant.SCHEDULES_ARE_KEPT},
    ),
    "a period is missing": (
        SCHEDULE.format("number = number + 1, next_at = next_at + interval '1 day'", "plan"),
        {Invariant.SCHEDULES_ARE_KEPT},
    ),
    "a grant is of no schedule": (
        "DELETE FROM cogni_billing.schedules WHERE reference = 'plan'",
        {Invariant.SCHEDULES_ARE_KEPT},
    ),
    "a grant began too early": (
        SCHEDULE.format("anchor = anchor + interval '1 hour'", "begun"),
        {Invariant.SCHEDULES_ARE_KEPT},
    ),
    "a schedule goes on too late": (
        SCHEDULE.format("next_at = next_at + interval '1 day'", "plan"),
        {Invariant.SCHEDULES_ARE_KEPT},
    ),
    "a wallet does not know of its schedules": (
        WALLET.format("has_schedules = false", BOB),
        {Invariant.WALLETS_KNOW_WHAT_IS_DUE},
    ),
    "a wallet does not know that a grant begins": (
        WALLET.format("due_at = 'infinity'", BOB),
        {Invariant.WALLETS_KNOW_WHAT_IS_DUE},
    ),
    "a refund is of more": (
        TRANSACTION.format("returned = returned + 1", "re_1"),
        {
            Invariant.REVERSALS_FOLLOW_ONE_ANOTHER,
            Invariant.REVERSALS_TAKE_BACK_THEIR_PART,
            Invariant.TRANSACTIONS_DO_WHAT_WAS_ASKED,
        },
    ),
    "a charge took more than it was asked for": (
        CHARGED.format("at_most = 1"),
        {Invariant.TRANSACTIONS_DO_WHAT_WAS_ASKED},
    ),
    "a charge of at most an amount has an overdraft": (
        CHARGED.format("at_most = 1000, overdraft = true"),
        {Invariant.TRANSACTIONS_FIT_THEIR_KIND},
    ),
    "a reversal gives more back": (
        REVERSED.format("returned = returned + 1, amount = amount + 1"),
        {
            Invariant.REVERSALS_GIVE_BACK_A_CHARGE,
            Invariant.TRANSACTIONS_DO_WHAT_WAS_ASKED,
            Invariant.TRANSACTIONS_SUM_TO_ZERO,
            Invariant.LINES_RUN_ON,
            Invariant.WALLETS_MATCH,
        },
    ),
    "a reversal is of another tenant's charge": (
        REVERSED.format(f"reverses = '{BOB}'"),
        {Invariant.REVERSALS_GIVE_BACK_A_CHARGE},
    ),
    "a reversal gives credits back to another lot": (
        TRANSACTION.format("drawn_grants = ARRAY[id]", "back-2"),
        {Invariant.REVERSALS_RETURN_TO_THEIR_LOTS, Invariant.GRANTS_ADD_UP},
    ),
    "a refund was asked for another amount": (
        TRANSACTION.format("part = 0.01", "re_1"),
        {
            Invariant.TRANSACTIONS_DO_WHAT_WAS_ASKED,
            Invariant.PAYMENTS_ARE_RETURNED_AS_FAR_AS_DUE,
        },
    ),
    "a refund is finer than the payment's unit": (
        TRANSACTION.format(
            "returned = returned + 0.001, part = part + 0.001,"
            " returned_total = returned_total + 0.001",
            "re_1",
        ),
        {
            Invariant.REVERSALS_FOLLOW_ONE_ANOTHER,
            Invariant.PAYMENTS_ARE_RETURNED_AS_FAR_AS_DUE,
        },
    ),
    "a refund absorbs more": (
        TRANSACTION.format("absorbed = absorbed + 1", "re_2"),
        {Invariant.POSTINGS_MATCH, Invariant.REVERSALS_TAKE_BACK_THEIR_PART},
    ),
    "a refund has no purchase": (
        TRANSACTION.format(f"reverses = '{BOB}'", "re_2"),
        {Invariant.REVERSALS_FOLLOW_ONE_ANOTHER},
    ),
    "a refund is deleted": (
        "DELETE FROM cogni_billing.transactions WHERE reference = 're_1'",
        {
            Invariant.TRANSACTIONS_SUM_TO_ZERO,
            Invariant.POSTINGS_MATCH,
            Invariant.REVERSALS_FOLLOW_ONE_ANOTHER,
            Invariant.PAYMENTS_ARE_RETURNED_AS_FAR_AS_DUE,
            Invariant.WALLETS_MATCH,
            Invariant.LINES_RUN_ON,
            Invariant.LINES_ARE_GAPLESS,
        },
    ),
    "more was returned than was paid": (
        TRANSACTION.format("paid = 0.50", "stripe:pi_5"),
        {
            Invariant.DISPUTES_ARE_OF_THEIR_PAYMENT,
            Invariant.REVERSALS_FOLLOW_ONE_ANOTHER,
            Invariant.PAYMENTS_ARE_RETURNED_AS_FAR_AS_DUE,
            Invariant.REVERSALS_TAKE_BACK_THEIR_PART,
            Invariant.PURCHASES_CREDIT_WHAT_WAS_PAID,
            Invariant.SHARES_FOLLOW_THE_POLICY,
        },
    ),
    "a returned payment has an unknown unit": (
        TRANSACTION.format("paid_unit = 'euro'", "stripe:pi_5"),
        {
            Invariant.DISPUTES_ARE_OF_THEIR_PAYMENT,
            Invariant.REVERSALS_FOLLOW_ONE_ANOTHER,
            Invariant.PURCHASES_CREDIT_WHAT_WAS_PAID,
            Invariant.TRANSACTIONS_FIT_THEIR_KIND,
        },
    ),
    "a returned payment has a currency without a price": (
        TRANSACTION.format("paid_unit = 'EUR'", "stripe:pi_5"),
        {Invariant.DISPUTES_ARE_OF_THEIR_PAYMENT, Invariant.PURCHASES_CREDIT_WHAT_WAS_PAID},
    ),
    "a dispute is deleted": (
        "DELETE FROM cogni_billing.disputes WHERE reference = 'dp_2'",
        {Invariant.DISPUTES_ARE_SET_ASIDE},
    ),
    "less is set aside than is disputed": (
        f"{DISPUTED.format('amount = amount - 1')} AND tenant_id = '{BOB}'",
        {Invariant.DISPUTES_ARE_SET_ASIDE, Invariant.HOLDS_ADD_UP},
    ),
    "a part of a dispute is given back": (
        f"{DISPUTED.format(RELEASED)} AND tenant_id = '{SYSTEM_TENANT_ID}'",
        {Invariant.DISPUTES_ARE_SET_ASIDE, Invariant.HOLDS_ADD_UP, Invariant.HOLDS_ARE_COUNTED},
    ),
    "an open dispute is of less than it sets aside": (
        f"{CHANGED.format('disputed = disputed - 0.05', 'dp_2')};"
        f" {DISPUTE.format('part = part - 0.05', 'dp_2')}",
        {Invariant.DISPUTES_ARE_OF_THEIR_PAYMENT},
    ),
    "a dispute is of another payment": (
        DISPUTE.format("payment = 'stripe:pi_1'", "dp_2"),
        {Invariant.DISPUTES_ARE_OF_THEIR_PAYMENT},
    ),
    "a dispute was asked for another amount": (
        DISPUTE.format("part = 0.01", "dp_2"),
        {Invariant.DISPUTES_ARE_OF_THEIR_PAYMENT},
    ),
    "a chargeback has no dispute": (
        f"UPDATE cogni_billing.transactions SET subject_id = '{BOB}' WHERE kind = 'chargeback'",
        {Invariant.CHARGEBACKS_ARE_OF_A_DISPUTE},
    ),
    "a lost dispute was of more": (
        CHANGED.format("lost = disputed - 0.01", "dp_1"),
        {Invariant.PAYMENTS_ARE_RETURNED_AS_FAR_AS_DUE},
    ),
    "a lost dispute has no chargeback": (
        CHANGED.format(f"chargeback_id = '{BOB}'", "dp_1"),
        {Invariant.CHARGEBACKS_ARE_OF_A_DISPUTE},
    ),
    "a change of a dispute is missing": (
        CHANGED.format("number = number + 10", "dp_2"),
        {Invariant.DISPUTES_ARE_OF_THEIR_PAYMENT},
    ),
    "a failed refund gave other parts back": (
        TRANSACTION.format("absorbed = absorbed + 1, amount = amount - 1", "failed-1"),
        {
            Invariant.REINSTATEMENTS_UNDO_A_REVERSAL,
            Invariant.POSTINGS_MATCH,
            Invariant.TRANSACTIONS_SUM_TO_ZERO,
            Invariant.LINES_RUN_ON,
            Invariant.WALLETS_MATCH,
        },
    ),
    "a refund that failed stands": (
        TRANSACTION.format(f"subject_id = '{BOB}'", "failed-1"),
        {Invariant.PAYMENTS_ARE_RETURNED_AS_FAR_AS_DUE},
    ),
    "a reinstatement goes beyond its payment": (
        TRANSACTION.format("returned = returned + 1", "failed-1"),
        {Invariant.REVERSALS_FOLLOW_ONE_ANOTHER, Invariant.REINSTATEMENTS_UNDO_A_REVERSAL},
    ),
    "an attempt was credited by another purchase": (
        ATTEMPT.format(f"transaction_id = {PURCHASE}", "CREDITED"),
        {Invariant.ATTEMPTS_HAVE_THEIR_PURCHASE, Invariant.ATTEMPTS_FOLLOW_THEIR_EVENTS},
    ),
    "an attempt was of another amount": (
        ATTEMPT.format("amount = amount + 1", "CREDITED"),
        {Invariant.ATTEMPTS_HAVE_THEIR_PURCHASE},
    ),
    "an attempt was credited without an event": (
        ATTEMPT.format("state = 'CREDITED'", "REJECTED"),
        {
            Invariant.ATTEMPTS_HAVE_THEIR_PURCHASE,
            Invariant.ATTEMPTS_FOLLOW_THEIR_EVENTS,
            Invariant.EVIDENCE_IS_OF_ITS_ATTEMPT,
        },
    ),
    "an attempt's rejection is deleted": (
        "DELETE FROM cogni_billing.payment_attempt_events WHERE state = 'REJECTED'",
        {Invariant.ATTEMPTS_FOLLOW_THEIR_EVENTS},
    ),
    "an attempt's first event is deleted": (
        "DELETE FROM cogni_billing.payment_attempt_events"
        " WHERE number = 1 AND attempt_id = (SELECT id FROM cogni_billing.payment_attempts"
        " WHERE state = 'CREDITED')",
        {Invariant.ATTEMPTS_FOLLOW_THEIR_EVENTS},
    ),
    "an attempt's events are in another order": (
        "UPDATE cogni_billing.payment_attempt_events SET number = - number",
        {Invariant.ATTEMPTS_FOLLOW_THEIR_EVENTS},
    ),
    "an attempt left a state that it cannot leave": (
        "UPDATE cogni_billing.payment_attempt_events SET from_state = 'CREDITED'"
        " WHERE state = 'CREDITED'",
        {Invariant.ATTEMPTS_FOLLOW_THEIR_EVENTS},
    ),
    "an attempt is pending without an event": (
        ATTEMPT.format("state = 'PENDING_UNVERIFIED'", "CREATED_INTENT"),
        {Invariant.ATTEMPTS_FOLLOW_THEIR_EVENTS, Invariant.EVIDENCE_IS_OF_ITS_ATTEMPT},
    ),
    "an attempt had other evidence": (
        ATTEMPT.format("evidence = '8453:0x1'", "REJECTED"),
        {Invariant.ATTEMPTS_FOLLOW_THEIR_EVENTS},
    ),
    "an attempt failed for another reason": (
        ATTEMPT.format("failure = 'TX_REVERTED'", "REJECTED"),
        {Invariant.ATTEMPTS_FOLLOW_THEIR_EVENTS},
    ),
    "two intents have one recipient": (
        "DROP INDEX cogni_billing.payment_attempts_recipients;"
        "UPDATE cogni_billing.payment_attempts SET provider = '1', recipient = '0x1'"
        " WHERE state <> 'CREDITED'",
        {Invariant.RECIPIENTS_ARE_OF_ONE_INTENT},
    ),
    "evidence of a pending attempt is free": (
        "DELETE FROM cogni_billing.evidence WHERE evidence = 'stripe:a_3'",
        {Invariant.EVIDENCE_IS_OF_ITS_ATTEMPT},
    ),
    "evidence of a rejected attempt is claimed": (
        "INSERT INTO cogni_billing.evidence SELECT evidence, tenant_id, id"
        " FROM cogni_billing.payment_attempts WHERE state = 'REJECTED'",
        {Invariant.EVIDENCE_IS_OF_ITS_ATTEMPT},
    ),
    "an applied event is of no claim": (
        EVENT.format("claim = 'stripe:pi_0'"),
        {Invariant.EVENTS_ARE_OF_A_CLAIM},
    ),
    "an applied event is of another tenant": (
        EVENT.format(f"tenant_id = '{BOB}'"),
        {Invariant.EVENTS_ARE_OF_A_CLAIM},
    ),
    "an event is applied by no tenant": (
        EVENT.format("tenant_id = NULL, claim = NULL"),
        {Invariant.EVENTS_ARE_OF_A_CLAIM},
    ),
    "a checkpoint is rewritten": (
        "UPDATE cogni_billing.checkpoints SET arrived = arrived + 1"
        f" WHERE account_id = '{SYSTEM_ACCOUNT_ID}'",
        {Invariant.CHECKPOINTS_MATCH, Invariant.WALLETS_FOLLOW_A_CHECKPOINT},
    ),
    "a checkpoint's times are rewritten": (
        "UPDATE cogni_billing.checkpoints SET latest_at = 'epoch'",
        {Invariant.CHECKPOINTS_MATCH},
    ),
}


@pytest.fixture
def billing(database: Database) -> Billing:
    clock, ids = SteppingClock(), CountingIds()
    unit_of_work = PostgresUnitOfWork(database.user, service=database.service)
    billing = Billing(unit_of_work, clock=clock, ids=ids)
    live(billing, clock)
    changed(billing)
    expiring(billing, clock)
    undone(billing)
    attempted(unit_of_work, ids)
    billing.grant(BOB, credits(9), source="promo:c", reference="c")
    scheduled(billing, clock)
    return billing


def scheduled(billing: Billing, clock: SteppingClock) -> None:
    """Record a schedule of which two periods have begun, and two grants that begin later."""
    plan = GrantSchedule("plan", credits(9), every="day", rollover=Rollover(credits(2)))
    billing.schedule_grants(BOB, plan, reference="plan")
    later = partial(billing.grant, BOB, credits(3), source="plan:gift")
    later(reference="begun", effective_from=clock.moment + HOUR)
    clock.moment += timedelta(days=1, hours=1)
    later(reference="waiting", effective_from=clock.moment + HOUR)
    billing.sweep()


def attempted(unit_of_work: UnitOfWork, ids: CountingIds) -> None:
    """Record an intent, and an attempt in each state that needs evidence."""
    verifier = FakeVerifier()
    attempts = PaymentAttempts(unit_of_work, verifier=verifier, destinations=CARD, ids=ids)
    for evidence, answer in (
        ("stripe:a_1", paid),
        ("stripe:a_2", PaymentFailed(FailureCode.TOKEN_TRANSFER_NOT_FOUND)),
        ("stripe:a_3", PaymentPending()),
    ):
        verifier.tell(evidence, answer)
        intent = attempts.create_intent(ALICE, usd("2.00"))
        attempts.submit(ALICE, intent.attempt_id, evidence)
    attempts.create_intent(BOB, usd("2.00"))
    paid_directly = success(None, tenant=ALICE, payment="stripe:a_4")
    attempts.process(paid_directly, confirm_without_attempt=True)
    attempts.process(success(None, id="stripe:evt_unmatched", payment="stripe:a_5"))


@contextmanager
def corrupted(database: Database, statement: str) -> Iterator[Connection]:
    """Open a superuser's connection that has run *statement* without triggers."""
    with database.admin.connect() as connection:
        connection.execute(text("SET LOCAL session_replication_role = replica"))
        *before, last = statement.split(";")
        for each in before:
            connection.execute(text(each))
        assert connection.execute(text(last)).rowcount > 0
        yield connection
        connection.rollback()


@pytest.mark.parametrize("corruption", CORRUPTIONS)
def test_verification_corrupted_ledger_names_each_broken_rule(
    database: Database, billing: Billing, corruption: str
) -> None:
    statement, broken = CORRUPTIONS[corruption]
    with corrupted(database, statement) as connection:
        found = verification(connection, 1000).violations

    assert {violation.invariant for violation in found} == broken
    assert all(violation.where and violation.detail for violation in found)
    assert billing.verify().ok


PRICED = "UPDATE cogni_billing.policies SET {} WHERE price IS NOT NULL"
PRICES = {
    "the price beside the terms is another": (
        PRICED.format("price = '{}'"),
        {Invariant.PURCHASES_CREDIT_WHAT_WAS_PAID},
    ),
    "the price in the terms is another": (
        PRICED.format("policy = replace(policy::text, '10800000.5', '10800000.6')::json"),
        {Invariant.POLICIES_MATCH_THEIR_DIGEST, Invariant.PURCHASES_CREDIT_WHAT_WAS_PAID},
    ),
    "the price is of another currency": (
        TRANSACTION.format("paid_unit = 'JPY'", "stripe:eur"),
        {Invariant.PURCHASES_CREDIT_WHAT_WAS_PAID},
    ),
    "the payment is finer than its currency": (
        TRANSACTION.format("paid = 2.000", "stripe:eur"),
        {Invariant.PURCHASES_CREDIT_WHAT_WAS_PAID, Invariant.REVERSALS_FOLLOW_ONE_ANOTHER},
    ),
    "the payment is of another amount": (
        TRANSACTION.format("paid = 2.01", "stripe:eur"),
        {
            Invariant.PURCHASES_CREDIT_WHAT_WAS_PAID,
            Invariant.REVERSALS_TAKE_BACK_THEIR_PART,
            Invariant.SHARES_FOLLOW_THE_POLICY,
        },
    ),
    "a part is finer than the currency": (
        TRANSACTION.format("returned = 0.500, returned_total = 0.500, part = 0.500", "re_1"),
        {Invariant.REVERSALS_FOLLOW_ONE_ANOTHER},
    ),
}


@pytest.mark.parametrize("corruption", PRICES)
def test_verification_corrupted_price_names_each_broken_rule(
    database: Database, corruption: str
) -> None:
    book = PriceBook("v1", SteppingClock().now(), {"EUR": "10800000.5"})
    unit_of_work = PostgresUnitOfWork(database.user, service=database.service)
    billing = Billing(unit_of_work, prices=book)
    billing.confirm_purchase(ALICE, money("2.00", "EUR"), payment="stripe:eur")
    billing.refund(ALICE, payment="stripe:eur", amount=money("0.50", "EUR"), reference="re_1")
    statement, broken = PRICES[corruption]

    with corrupted(database, statement) as connection:
        found = verification(connection, 1000).violations

    assert {violation.invariant for violation in found} == broken
    assert billing.verify().ok


def test_every_rule_is_broken_by_a_corruption() -> None:
    broken = set[Invariant]().union(*(rules for _, rules in CORRUPTIONS.values()))

    assert set(Invariant) - broken == {Invariant.TRANSACTIONS_MATCH_THEIR_SEAL}  # see test_edits.py


def test_violation_has_ids_of_its_place(database: Database, billing: Billing) -> None:
    statement, _ = CORRUPTIONS["a wallet is raised"]
    with corrupted(database, statement) as connection:
        (violation,) = verification(connection, 1000).violations

    assert violation.where == {"tenant": str(ALICE), "account": str(ALICE)}
    assert str(violation).startswith(f"wallets_match: tenant {ALICE}, account {ALICE}: ")


def test_verification_violations_of_one_tenant_do_not_hide_another_tenant(
    database: Database, billing: Billing
) -> None:
    with corrupted(
        database,
        "UPDATE cogni_billing.arrivals SET kind = 'gift'"
        f" WHERE origin_id = '{ALICE}' OR transaction_id ="
        " (SELECT id FROM cogni_billing.transactions WHERE reference = 're_1')",
    ) as connection:
        (first,) = verification(connection, 1).violations
        few = verification(connection, 2).violations
        several = verification(connection, 4).violations
        everything = verification(connection, 1000).violations

    of_alice = len(everything) - 1
    assert of_alice > 4
    assert [violation.where["tenant"] for violation in few] == [str(ALICE), str(BOB)]
    assert first.detail.endswith(f" (and {of_alice - 1} more of this tenant)")
    assert few[0].detail == first.detail
    assert not few[1].detail.endswith("of this tenant)")
    assert [violation.where["tenant"] for violation in several] == [
        str(tenant) for tenant in (ALICE, BOB, ALICE, ALICE)
    ]
    assert several[3].detail.endswith(f" (and {of_alice - 3} more of this tenant)")
    assert not any(violation.detail.endswith("of this tenant)") for violation in everything)


def test_verification_forged_purchases_of_one_tenant_do_not_hide_another_tenant(
    database: Database,
) -> None:
    """A role that may create credits can record shares that its policy does not have."""
    unit_of_work = PostgresUnitOfWork(database.user, service=database.service)
    with unit_of_work.scope(ALICE) as scope:
        for number in range(1, 31):
            scope.ledger.post(forged(ALICE, number))
    with unit_of_work.scope(BOB) as scope:
        scope.ledger.post(forged(BOB, 31))

    found = Billing(unit_of_work).verify(limit=2).violations

    assert [violation.invariant for violation in found] == [Invariant.SHARES_FOLLOW_THE_POLICY] * 2
    assert [violation.where["tenant"] for violation in found] == [str(ALICE), str(BOB)]
    assert found[0].detail.endswith("(and 29 more of this tenant)")


def forged(tenant: TenantId, number: int) -> Transaction:
    """Build a purchase with a share that no policy has."""
    return evolve(
        planned(tenant, payment=f"stripe:{number}"),
        id=UUID(int=number),
        shares=(Share(SYSTEM_ACCOUNT_ID, credits(number)),),
    )


def test_verification_equal_broken_terms_are_found_once_for_each_tenant(
    database: Database, billing: Billing
) -> None:
    for number in range(3):
        billing.confirm_purchase(BOB, usd("0.07"), payment=f"stripe:{number}")
    billing.confirm_purchase(ALICE, usd("0.07"), payment="stripe:4")
    with corrupted(
        database, "UPDATE cogni_billing.transactions SET policy = '' WHERE amount = 700000"
    ) as connection:
        found = verification(connection, 1000).violations

    assert [violation.where["tenant"] for violation in found] == [str(ALICE), str(BOB)]
    assert not found[0].detail.endswith("of this tenant)")
    assert found[1].detail.endswith("(and 3 more of this tenant)")


def test_verification_equal_terms_only_purchases_before_the_policy_are_found(
    database: Database, billing: Billing
) -> None:
    with corrupted(
        database, TRANSACTION.format("occurred_at = '1969-12-31'", "stripe:pi_2")
    ) as connection:
        found = verification(connection, 1000).violations
        early = connection.execute(
            text("SELECT id FROM cogni_billing.transactions WHERE reference = 'stripe:pi_2'")
        ).scalar_one()

    (violation,) = (each for each in found if each.invariant is Invariant.SHARES_FOLLOW_THE_POLICY)
    assert violation.where == {"tenant": str(BOB), "transaction": str(early)}
    assert not violation.detail.endswith("of this tenant)")


def test_verification_callers_decimal_context_has_no_effect(billing: Billing) -> None:
    with localcontext() as context:
        context.prec = 2
        assert billing.verify().violations == ()


def test_verify_without_service_engine_is_refused(database: Database) -> None:
    with pytest.raises(PrivilegeRequired):
        Billing(PostgresUnitOfWork(database.user)).verify()


@pytest.mark.parametrize("table", LEDGER)
def test_full_sight_missing_policy_is_refused(database: Database, table: str) -> None:
    with database.admin.connect() as connection:
        connection.execute(text(f"DROP POLICY {table}_all ON cogni_billing.{table}"))
        connection.execute(text("SET LOCAL ROLE app_service"))

        with pytest.raises(PrivilegeRequired, match=f"every row of {table}$"):
            require_full_sight(connection)


def test_full_sight_restrictive_policy_is_refused(database: Database) -> None:
    with database.admin.connect() as connection:
        connection.execute(
            text(
                "CREATE POLICY hidden ON cogni_billing.claims AS RESTRICTIVE FOR SELECT"
                " USING (payment <> 'stripe:pi_1')"
            )
        )
        connection.execute(text("SET LOCAL ROLE app_service"))

        with pytest.raises(PrivilegeRequired, match=r"every row of claims$"):
            require_full_sight(connection)


def test_verify_missing_policy_is_refused(own_database: Database) -> None:
    billing = Billing(PostgresUnitOfWork(own_database.user, service=own_database.service))
    assert billing.verify().ok
    with own_database.admin.begin() as connection:
        connection.execute(text("DROP POLICY claims_all ON cogni_billing.claims"))

    seal = Seal(ALICE, 1, "0" * 64, "58488270c829df2c")
    for call in (
        billing.verify,
        partial(billing.seal, key=b"k" * 32),
        partial(billing.verify_seals, [seal], key=b"k" * 32),
    ):
        with pytest.raises(PrivilegeRequired, match="claims"):
            call()


def test_verification_limit_bounds_the_violations_of_a_rule(
    database: Database, billing: Billing
) -> None:
    with corrupted(database, "UPDATE cogni_billing.wallets SET posted = posted + 1") as connection:
        few, all_of_them = (verification(connection, most).violations for most in (2, 1000))

    assert (len(few), len(all_of_them)) == (2, 5)
