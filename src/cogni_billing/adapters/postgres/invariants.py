"""Invariants of `verify` as SQL. Each statement reads whole tables and returns violations.

A violation is a row: its invariant, the ids that locate it, and a detail. A statement checks
several invariants if they need the same rows. The server sorts and hashes on disk when its working
memory is too small.
"""

from __future__ import annotations

from typing import Final
from uuid import UUID

from cogni_billing.domain.identity import BREAKAGE, SHORTFALL, SYSTEM_ACCOUNTS
from cogni_billing.domain.kinds import KINDS
from cogni_billing.domain.timestamps import REPORTED_WITHIN
from cogni_billing.domain.verification import Invariant


def _broken(source: str, located: str, *checks: tuple[Invariant, str, str]) -> str:
    """Build the statement that checks each row of *source*.

    Args:
        source: A query of rows to check.
        located: The arguments of `json_build_object`.
        checks: Each invariant with the condition of a violation, and the detail.
    """
    any_broken = " OR ".join(f"({condition})" for _, condition, _ in checks)
    values = ", ".join(
        f"('{rule.name}', {condition}, {detail})" for rule, condition, detail in checks
    )
    return f"""
        SELECT broken.rule, json_build_object({located}) AS located, broken.detail
        FROM (SELECT * FROM ({source}) AS source WHERE {any_broken}) AS checked
        CROSS JOIN LATERAL (VALUES {values}) AS broken (rule, is_broken, detail)
        WHERE broken.is_broken
    """


_TRANSACTION: Final = "'tenant', tenant_id, 'transaction', id"
_ACCOUNT: Final = "'tenant', tenant_id, 'account', cogni_billing.account_of(tenant_id)"

_KINDS: Final = ", ".join(
    f"('{kind}', {rules.is_credit}, {rules.corrects}, {rules.may_be_zero}, {rules.reverses},"
    f" {rules.has_shares}, {rules.subject is not None}, {rules.is_plain_debit},"
    f" {rules.gives_back}, {rules.corrects or rules.opens_balance}, {rules.reinstates})"
    for kind, rules in KINDS.items()
)
_SPENDING: Final = ", ".join(f"'{kind}'" for kind in KINDS if kind.is_plain_debit)
_RESERVED: Final = ", ".join(f"'{account}'" for account in sorted({UUID(int=0), *SYSTEM_ACCOUNTS}))

# The tables have no CHECKs: the functions that write them validate the same rules.
_FITTING: Final = _broken(
    f"""
    SELECT made.tenant_id, made.id, made.kind, made.amount
    FROM cogni_billing.transactions AS made
    LEFT JOIN (VALUES {_KINDS})
        AS kinds (
            kind, is_credit, corrects, may_be_zero, is_reversal, has_shares, has_subject, is_plain,
            gives_back, either_way, reinstates)
        ON kinds.kind = made.kind
    WHERE (
        abs(amount) < 1e40 AND scale(amount) = 0
        AND CASE WHEN amount = 0 THEN may_be_zero ELSE either_way OR (amount > 0) = is_credit END
        AND CASE WHEN reason IS NULL THEN NOT corrects
            ELSE corrects OR gives_back OR made.kind = 'void' END
        AND coalesce(char_length(reason) BETWEEN 1 AND 255, true)
        AND (actor IS NULL OR made.kind <> 'expiry' AND octet_length(actor) BETWEEN 1 AND 255)
        AND (subject_id IS NOT NULL) = has_subject
        AND coalesce(char_length(reason) BETWEEN 1 AND 255, true)
        AND CASE WHEN made.kind = 'purchase'
            THEN policy IS NOT NULL AND paid > 0 AND paid < 1e40
                AND cogni_billing.is_part(paid, paid_unit, paid)
            ELSE num_nonnulls(paid, paid_unit, policy) = 0 END
        AND CASE WHEN is_reversal
            THEN returned >= 0 AND returned_total < 1e40
                AND (returned > 0 OR at_most > 0 OR made.kind <> 'refund')
                AND CASE WHEN reinstates THEN num_nonnulls(shortfall, part) = 0
                    WHEN shortfall = 'refuse' THEN made.kind = 'refund'
                    ELSE shortfall IN ('debt', 'clamp') END
                AND absorbed >= 0 AND absorbed < 1e40 AND scale(absorbed) = 0
                AND coalesce(lapsed > 0 AND lapsed < 1e40 AND scale(lapsed) = 0, lapsed IS NULL)
                AND reverses IS NOT NULL
            WHEN gives_back
            THEN reverses IS NOT NULL AND num_nonnulls(shortfall, lapsed) = 0 AND absorbed >= 0
                AND amount + absorbed = returned AND returned_total < 1e40
            ELSE num_nonnulls(
                reverses, returned, returned_total, part, shortfall, absorbed, lapsed) = 0
            END
        AND (at_most IS NULL
            OR is_plain AND at_most < 1e40 AND scale(at_most) = 0 AND NOT overdraft
            OR made.kind = 'refund' AND at_most > 0 AND at_most < 1e40 AND part IS NOT NULL)
        AND (used_at IS NULL OR is_plain)
        AND CASE WHEN made.kind = 'capture'
            THEN final IS NOT TRUE AND coalesce(overrun IN ('available', 'overdraft'), true)
            ELSE num_nonnulls(final, overrun) = 0 END
        AND CASE WHEN num_nonnulls(beneficiaries, shares) > 0
            THEN has_shares AND cardinality(beneficiaries) = cardinality(shares) AND (
                SELECT bool_and(
                    account IS NOT NULL AND abs(share) < 1e40 AND scale(share) = 0
                    AND CASE WHEN is_reversal AND NOT reinstates THEN share <= 0
                        ELSE share >= 0 END)
                FROM unnest(beneficiaries, shares) AS leg (account, share)
            ) ELSE true END
        AND CASE WHEN num_nonnulls(drawn_grants, drawn_amounts) > 0
            THEN cardinality(drawn_grants) = cardinality(drawn_amounts)
                AND 0 < ALL (drawn_amounts) AND (
                    SELECT coalesce(sum(part), 0) <= abs(amount)
                    FROM unnest(drawn_amounts) AS part
                )
                -- A grant or a purchase repays a debt out of its own credits.
                AND (amount < 0 OR gives_back OR reinstates OR drawn_grants <@ ARRAY[id])
            ELSE true END
    ) IS NOT TRUE
    """,
    _TRANSACTION,
    (Invariant.TRANSACTIONS_FIT_THEIR_KIND, "true", "format('a %s of %s', kind, amount)"),
)

_AS_ASKED: Final = _broken(
    """
    SELECT tenant_id, id, amount, shortfall, posted_after + arrived AS balance,
        CASE WHEN reverses IS NULL THEN at_most END AS at_most
    FROM cogni_billing.transactions
    WHERE at_most < - amount OR shortfall = 'refuse'
    """,
    _TRANSACTION,
    (
        Invariant.TRANSACTIONS_DO_WHAT_WAS_ASKED,
        "at_most < - amount",
        "format('%s taken of at most %s', - amount, at_most)",
    ),
    (
        Invariant.TRANSACTIONS_DO_WHAT_WAS_ASKED,
        "shortfall = 'refuse' AND amount < 0 AND balance < 0",
        "format('a balance of %s after a refund that refuses a debt', balance)",
    ),
)

# Only the grants of an opening come before it.
_OPENINGS: Final = _broken(
    """
    SELECT
        made.tenant_id, made.id, made.position, made.reference, made.occurred_at, opened_at, (
            SELECT count(*) FROM cogni_billing.transactions AS lot
            WHERE lot.tenant_id = made.tenant_id AND lot.position < made.position
              AND lot.position > 0 AND lot.kind = 'grant' AND lot.line_at = made.line_at
              AND lot.reference = 'opening/' || lot.position
        ) AS grants
    FROM cogni_billing.transactions AS made
    LEFT JOIN cogni_billing.wallets USING (tenant_id)
    WHERE made.kind = 'opening'
    """,
    _TRANSACTION,
    (
        Invariant.OPENINGS_COME_FIRST,
        "reference <> 'opening' OR grants <> position - 1 OR opened_at > occurred_at",
        "format('an opening as of %s at position %s', occurred_at, position)",
    ),
)

_TOLD: Final = _broken(
    """
    SELECT tenant_id, id, used_at, occurred_at, opened_at
    FROM cogni_billing.transactions
    LEFT JOIN cogni_billing.wallets USING (tenant_id)
    WHERE used_at IS NOT NULL
    """,
    _TRANSACTION,
    (
        Invariant.CHARGES_ARE_REPORTED_IN_TIME,
        f"""used_at NOT BETWEEN occurred_at - interval '{REPORTED_WITHIN.days} days' AND occurred_at
            OR used_at < opened_at""",
        "format('usage of %s, told at %s', used_at, occurred_at)",
    ),
)

# Held credits are not below zero. So the balance keeps to a limit of the available credits.
_OVERDRAFTS: Final = _broken(
    f"""
    SELECT tenant_id, id, posted_after + arrived AS balance, overdraft_limit
    FROM cogni_billing.transactions
    JOIN cogni_billing.wallets USING (tenant_id)
    WHERE kind IN ({_SPENDING}) AND position > limited_after AND amount < 0
      AND posted_after + arrived < - overdraft_limit
    """,
    _TRANSACTION,
    (
        Invariant.OVERDRAFTS_STAY_WITHIN_THEIR_LIMIT,
        "true",
        "format('%s with a limit of %s', balance, overdraft_limit)",
    ),
)

# A reversal without credits on its other side has no contra leg.
_AS_DECLARED: Final = """CASE
    WHEN legs IS NULL THEN reverses IS NOT NULL AND declared = '{}'
    ELSE legs = last AND kind_min = kind AND kind_max = kind
        AND first_at = occurred_at AND last_at = occurred_at
        AND amounts[1:cardinality(declared)] = declared_amounts
        AND accounts = declared || CASE
            WHEN reverses IS NULL OR legs > cardinality(declared)
            THEN ARRAY[cogni_billing.contra_of(kind)] END
        AND (reverses IS NULL OR 0 <> ALL (amounts))
END"""
_EXCESS: Final = "coalesce(amount, 0) + coalesce(total, 0)"
_POSTINGS: Final = _broken(
    f"""
    SELECT *
    FROM (
        SELECT
            tenant_id, id, kind, occurred_at, amount, reverses,
            coalesce(CASE WHEN 0 = ANY (shares) THEN ARRAY(
                SELECT account
                FROM unnest(beneficiaries, shares) WITH ORDINALITY AS leg (account, share, n)
                WHERE share <> 0
                ORDER BY n
            ) ELSE beneficiaries END
                || CASE WHEN absorbed > 0 THEN ARRAY[
                    CASE WHEN kind = 'reversal' THEN '{BREAKAGE}'::uuid
                    ELSE '{SHORTFALL}'::uuid END] END
                || CASE WHEN lapsed > 0 THEN ARRAY['{BREAKAGE}'::uuid] END,
                '{{}}') AS declared,
            coalesce(
                array_remove(shares, 0) || CASE WHEN absorbed > 0 THEN ARRAY[
                    CASE WHEN kind IN ('reversal', 'reinstatement') THEN absorbed
                    ELSE - absorbed END] END
                || CASE WHEN lapsed > 0 THEN ARRAY[
                    CASE kind WHEN 'reinstatement' THEN lapsed ELSE - lapsed END] END,
                '{{}}') AS declared_amounts
        FROM cogni_billing.transactions
    ) AS own
    FULL JOIN (
        SELECT
            origin_id AS tenant_id,
            transaction_id AS id,
            count(*) AS legs,
            max(sequence) AS last,
            sum(amount) AS total,
            array_agg(account_id ORDER BY sequence) AS accounts,
            array_agg(amount ORDER BY sequence) AS amounts,
            min(kind) AS kind_min,
            max(kind) AS kind_max,
            min(occurred_at) AS first_at,
            max(occurred_at) AS last_at
        FROM cogni_billing.arrivals
        GROUP BY origin_id, transaction_id
    ) AS made USING (tenant_id, id)
    """,
    _TRANSACTION,
    (
        Invariant.TRANSACTIONS_SUM_TO_ZERO,
        f"{_EXCESS} <> 0",
        f"format('%s CREDIT too much', {_EXCESS})",
    ),
    (
        Invariant.POSTINGS_MATCH,
        f"{_AS_DECLARED} IS NOT TRUE",
        """CASE
            WHEN kind IS NULL THEN 'postings without their transaction'
            WHEN legs IS NULL THEN 'a transaction without its postings'
            ELSE format('%s on %s', amounts, accounts)
        END""",
    ),
)

_LINES: Final = _broken(
    """
    SELECT
        tenant_id, id, amount, posted_after, line_at, occurred_at, seen, arrived, position,
        lag(posted_after, 1, 0::numeric) OVER line AS posted_before,
        lag(line_at) OVER line AS earlier,
        lag(position, 1, 0::bigint) OVER line AS previous,
        lag(seen, 1, 0::bigint) OVER line AS seen_before
    FROM cogni_billing.transactions
    WINDOW line AS (PARTITION BY tenant_id ORDER BY position)
    """,
    f"{_ACCOUNT}, 'transaction', id",
    (
        Invariant.LINES_RUN_ON,
        "posted_after <> posted_before + amount OR line_at < earlier OR line_at < occurred_at",
        "format('%s at %s after %s at %s', posted_after, line_at, posted_before, earlier)",
    ),
    (
        Invariant.LINES_ARE_GAPLESS,
        "position <> previous + 1",
        "format('position %s after %s', position, previous)",
    ),
    (
        Invariant.LINES_SEE_ARRIVALS,
        """seen < seen_before OR seen = 0 AND arrived <> 0 OR seen <> 0 AND NOT EXISTS (
            SELECT FROM cogni_billing.arrivals
            WHERE account_id = cogni_billing.account_of(tenant_id) AND position = seen
        )""",
        "format('%s arrived up to position %s after %s', arrived, seen, seen_before)",
    ),
)

_WALLETS: Final = _broken(
    f"""
    SELECT *
    FROM cogni_billing.wallets
    FULL JOIN (
        SELECT
            tenant_id, sum(amount) AS made, count(*) AS counted, max(line_at) AS newest,
            max(position) FILTER (WHERE kind IN ({_SPENDING})) AS last_charge
        FROM cogni_billing.transactions
        GROUP BY tenant_id
    ) AS line USING (tenant_id)
    FULL JOIN (
        SELECT
            tenant_id, sum(held) AS set_aside,
            min(ends_at) FILTER (WHERE kind = 'work') AS hold_ends
        FROM cogni_billing.holds
        WHERE state = 'open'
        GROUP BY tenant_id
    ) AS open USING (tenant_id)
    FULL JOIN (
        SELECT
            tenant_id, sum(amount - taken) AS remaining, bool_or(priority > 1000000) AS bought,
            min(expires_at) FILTER (WHERE taken < amount) AS grant_expires
        FROM cogni_billing.grants
        GROUP BY tenant_id
    ) AS lot USING (tenant_id)
    FULL JOIN (
        SELECT tenant_id, min(next_at) AS period_begins
        FROM cogni_billing.schedules
        GROUP BY tenant_id
    ) AS planned USING (tenant_id)
    LEFT JOIN cogni_billing.checkpoints AS folded
        ON account_id = cogni_billing.account_of(wallets.tenant_id) AND up_to = received_up_to
    """,
    _ACCOUNT,
    (
        Invariant.WALLETS_MATCH,
        "posted IS DISTINCT FROM coalesce(made, 0) OR as_of < newest",
        "format('%s instead of %s CREDIT', posted, coalesce(made, 0))",
    ),
    (
        Invariant.WALLETS_HAVE_ACCOUNTS,
        f"tenant_id IN ({_RESERVED})",
        "'a reserved id has no account'",
    ),
    (
        Invariant.WALLETS_KNOW_WHAT_IS_DUE,
        """due_at > least(hold_ends, grant_expires, period_begins)
            OR has_schedules <> (period_begins IS NOT NULL)""",
        "format('%s instead of %s', due_at, least(hold_ends, grant_expires, period_begins))",
    ),
    (
        Invariant.WALLETS_FOLLOW_A_CHECKPOINT,
        "(received, received_up_to) <> (coalesce(arrived, 0), coalesce(up_to, 0))",
        "format('%s CREDIT received up to position %s', received, received_up_to)",
    ),
    (
        Invariant.LINES_ARE_GAPLESS,
        "lines IS DISTINCT FROM coalesce(counted, 0)",
        "format('%s lines instead of %s', lines, coalesce(counted, 0))",
    ),
    (
        Invariant.HOLDS_ARE_COUNTED,
        "held IS DISTINCT FROM coalesce(set_aside, 0)",
        "format('%s CREDIT held instead of %s', held, coalesce(set_aside, 0))",
    ),
    (
        Invariant.FROZEN_WALLETS_SPEND_NOTHING,
        """num_nonnulls(frozen_at, frozen_after, frozen_reason) NOT IN (0, 3)
            OR last_charge > frozen_after""",
        "format('frozen after line %s, last charge is line %s', frozen_after, last_charge)",
    ),
    (
        Invariant.OVERDRAFTS_STAY_WITHIN_THEIR_LIMIT,
        """num_nonnulls(overdraft_limit, limited_after) = 1 OR NOT (
            overdraft_limit >= 0 AND overdraft_limit < 1e40 AND scale(overdraft_limit) = 0)""",
        "format('a limit of %s since line %s', overdraft_limit, limited_after)",
    ),
    (
        Invariant.GRANTS_ARE_COUNTED,
        """granted IS DISTINCT FROM coalesce(remaining, 0)
            OR has_lots IS DISTINCT FROM coalesce(bought, false)""",
        "format('%s CREDIT granted instead of %s', granted, coalesce(remaining, 0))",
    ),
)

_CHECKPOINTS: Final = _broken(
    """
    SELECT cogni_billing.owner_of(account_id) AS tenant_id, checkpoint.*
    FROM (
        SELECT
            made.*,
            covered.*,
            lag(up_to, 1, 0::bigint) OVER sequence AS previous,
            lag(arrived, 1, 0::numeric) OVER sequence AS arrived_before
        FROM cogni_billing.checkpoints AS made
        CROSS JOIN LATERAL (
            SELECT
                coalesce(sum(amount), 0) AS covered_total,
                max(position) AS covered_last,
                min(occurred_at) AS covered_earliest,
                max(occurred_at) AS covered_latest
            FROM cogni_billing.arrivals
            WHERE arrivals.account_id = made.account_id
              AND position > made.after AND position <= made.up_to
        ) AS covered
        WINDOW sequence AS (PARTITION BY made.account_id ORDER BY up_to)
    ) AS checkpoint
    """,
    "'tenant', tenant_id, 'account', account_id, 'position', up_to",
    (
        Invariant.CHECKPOINTS_MATCH,
        """(after, added, arrived, up_to, earliest_at, latest_at) IS DISTINCT FROM (
            previous, covered_total, arrived_before + covered_total, covered_last,
            covered_earliest, covered_latest
        )""",
        "format('%s of it arrived, %s in all', added, arrived)",
    ),
)

_POLICIES: Final = _broken(
    """
    SELECT tenant_id, digest, policy, price FROM cogni_billing.policies
    """,
    "'tenant', tenant_id, 'policy', encode(digest, 'hex')",
    (
        Invariant.POLICIES_MATCH_THEIR_DIGEST,
        "digest <> sha256(convert_to(policy::text, 'UTF8'))",
        "'the digest of another text'",
    ),
    (
        Invariant.PURCHASES_CREDIT_WHAT_WAS_PAID,
        "price::text IS DISTINCT FROM (policy -> 'price')::text",
        "format('the price %s beside another one in the terms', price)",
    ),
)

_CLAIMS: Final = _broken(
    """
    SELECT tenant_id, id, payment, made, claimed
    FROM (
        SELECT tenant_id, id, reference AS payment, true AS made
        FROM cogni_billing.transactions
        WHERE kind = 'purchase'
    ) AS purchase
    FULL JOIN (
        SELECT tenant_id, transaction_id AS id, payment, true AS claimed FROM cogni_billing.claims
    ) AS claim USING (tenant_id, id, payment)
    """,
    f"{_TRANSACTION}, 'payment', payment",
    (
        Invariant.PURCHASES_CLAIM_THEIR_PAYMENT,
        "claimed IS NULL",
        "format('no claim of %s', payment)",
    ),
    (
        Invariant.PAYMENTS_HAVE_THEIR_PURCHASE,
        "made IS NULL",
        "format('no purchase of %s', payment)",
    ),
)

_ATTEMPTS: Final = _broken(
    """
    SELECT
        attempt.*,
        coalesce(led.path, 'no event') AS path,
        coalesce(led.state, 'CREATED_INTENT') = attempt.state AND coalesce(leads_on, true)
            AS is_its_state,
        (purchase.kind, purchase.reference, purchase.paid, purchase.paid_unit)
            IS NOT DISTINCT FROM ('purchase', attempt.evidence, attempt.amount, attempt.unit)
            AS has_purchase,
        (led.evidence, led.failure, led.transaction_id)
            IS NOT DISTINCT FROM (attempt.evidence, attempt.failure, attempt.transaction_id)
            AS is_led
    FROM cogni_billing.payment_attempts AS attempt
    LEFT JOIN (
        SELECT
            tenant_id,
            attempt_id AS id,
            string_agg(from_state || ' ' || state, ', ' ORDER BY number) AS path,
            bool_and(from_state = before AND number = place AND (from_state, state) IN (
                ('CREATED_INTENT', 'PENDING_UNVERIFIED'), ('CREATED_INTENT', 'FAILED'),
                ('PENDING_UNVERIFIED', 'PENDING_UNVERIFIED'), ('PENDING_UNVERIFIED', 'CREDITED'),
                ('PENDING_UNVERIFIED', 'REJECTED'), ('PENDING_UNVERIFIED', 'FAILED'),
                ('FAILED', 'PENDING_UNVERIFIED'))) AS leads_on,
            (array_agg(state ORDER BY number DESC))[1] AS state,
            (array_agg(evidence ORDER BY number DESC) FILTER (WHERE evidence IS NOT NULL))[1]
                AS evidence,
            (array_agg(failure ORDER BY number DESC))[1] AS failure,
            (array_agg(transaction_id ORDER BY number DESC))[1] AS transaction_id
        FROM (
            SELECT *, row_number() OVER of_attempt AS place,
                lag(state, 1, 'CREATED_INTENT') OVER of_attempt AS before
            FROM cogni_billing.payment_attempt_events
            WINDOW of_attempt AS (PARTITION BY tenant_id, attempt_id ORDER BY number)
        ) AS event
        GROUP BY tenant_id, attempt_id
    ) AS led USING (tenant_id, id)
    LEFT JOIN cogni_billing.transactions AS purchase
        ON purchase.tenant_id = attempt.tenant_id AND purchase.id = attempt.transaction_id
    """,
    "'tenant', tenant_id, 'attempt', id",
    (
        Invariant.ATTEMPTS_HAVE_THEIR_PURCHASE,
        "state = 'CREDITED' AND NOT has_purchase",
        "format('no purchase of %s %s by %s', amount, unit, evidence)",
    ),
    (
        Invariant.ATTEMPTS_FOLLOW_THEIR_EVENTS,
        "NOT is_led OR NOT is_its_state",
        "format('%s after %s', state, path)",
    ),
)

_RECIPIENTS: Final = _broken(
    """
    SELECT tenant_id, id, recipient,
        count(*) OVER (PARTITION BY provider, recipient) AS intents
    FROM cogni_billing.payment_attempts
    WHERE payer IS NULL AND provider ~ '^[1-9][0-9]*$'
    """,
    "'tenant', tenant_id, 'attempt', id",
    (
        Invariant.RECIPIENTS_ARE_OF_ONE_INTENT,
        "intents > 1",
        "format('%s intents have %s', intents, recipient)",
    ),
)

_EVIDENCE: Final = _broken(
    """
    SELECT *
    FROM (
        SELECT tenant_id, id AS attempt_id, evidence, state
        FROM cogni_billing.payment_attempts
        WHERE state IN ('PENDING_UNVERIFIED', 'CREDITED')
    ) AS attempt
    FULL JOIN (SELECT *, true AS is_claimed FROM cogni_billing.evidence) AS claimed
        USING (tenant_id, attempt_id, evidence)
    """,
    "'tenant', tenant_id, 'attempt', attempt_id",
    (
        Invariant.EVIDENCE_IS_OF_ITS_ATTEMPT,
        "state IS NULL OR is_claimed IS NULL",
        """CASE WHEN state IS NULL THEN format('%s is claimed without need', evidence)
            ELSE format('%s is not claimed', evidence) END""",
    ),
)

# A cancellation is applied to an attempt, and has no claim.
_EVENTS: Final = _broken(
    """
    SELECT event.id, event.kind, event.payment, event.tenant_id, claims.tenant_id AS owner
    FROM cogni_billing.payment_events AS event
    LEFT JOIN cogni_billing.claims ON claims.payment = event.claim
    WHERE event.state = 'applied' AND event.kind <> 'payment_canceled'
    """,
    "'event', id, 'payment', payment",
    (
        Invariant.EVENTS_ARE_OF_A_CLAIM,
        "owner IS NULL OR owner IS DISTINCT FROM tenant_id",
        "format('a %s applied to %s, but the payment is of %s', kind, tenant_id, owner)",
    ),
)

# Of each grant, the drawn credits and the changes make the pinned ones.
_PINS_ADD_UP: Final = """CASE WHEN changed
    THEN NOT EXISTS (
        SELECT FROM (
            SELECT * FROM unnest(drawn_grants, drawn_amounts) AS drawn (lot, part)
            UNION ALL
            SELECT lot, part * sign(change.amount)
            FROM cogni_billing.hold_changes AS change
            CROSS JOIN unnest(change.grants, change.amounts) AS moved (lot, part)
            WHERE change.tenant_id = hold.tenant_id AND change.hold_id = hold.id
            UNION ALL
            SELECT lot, - part FROM unnest(pinned_grants, pinned_amounts) AS pin (lot, part)
        ) AS parts
        GROUP BY lot
        HAVING sum(part) <> 0)
    ELSE (drawn_grants, drawn_amounts) IS NOT DISTINCT FROM (pinned_grants, pinned_amounts) END"""
_HOLDS: Final = _broken(
    f"""
    SELECT *
    FROM (SELECT *, {_PINS_ADD_UP} AS pins_add_up FROM cogni_billing.holds AS hold) AS hold
    FULL JOIN (
        SELECT
            tenant_id, subject_id AS id, - sum(amount) AS taken,
            count(*) FILTER (WHERE final IS NULL) AS finals,
            count(*) FILTER (WHERE NOT final) AS parts,
            - sum(amount) FILTER (WHERE NOT final) AS taken_in_parts
        FROM cogni_billing.transactions
        WHERE kind = 'capture'
        GROUP BY tenant_id, subject_id
    ) AS capture USING (tenant_id, id)
    FULL JOIN (
        SELECT
            tenant_id, hold_id AS id, count(*) AS changes, sum(amount) AS moved,
            sum(amount) FILTER (WHERE kind IN ('extension', 'overrun')) AS added,
            count(*) FILTER (WHERE kind = 'capture') AS captures,
            - sum(amount) FILTER (WHERE kind = 'capture') AS captured_in_parts
        FROM cogni_billing.hold_changes
        GROUP BY tenant_id, hold_id
    ) AS change USING (tenant_id, id)
    """,
    "'tenant', tenant_id, 'hold', id",
    (
        # A final capture ends its hold. The others are changes of it.
        Invariant.CAPTURES_MATCH_THEIR_HOLD,
        """captured IS DISTINCT FROM coalesce(taken, 0)
            OR coalesce(finals, 0) <> (state = 'captured')::integer
            OR coalesce(parts, 0) <> coalesce(captures, 0)
            OR taken_in_parts <> captured_in_parts""",
        """format('%s captured of it, and %s by %s captures',
            captured, coalesce(taken, 0), coalesce(finals + parts, 0))""",
    ),
    (
        Invariant.HOLDS_ADD_UP,
        """kind IS NOT NULL AND (
            amount = requested + coalesce(added, 0)
            AND held = CASE WHEN state = 'open' THEN requested + coalesce(moved, 0) ELSE 0 END
            AND held >= 0 AND captured >= 0 AND captured + held <= amount
            AND changed = (changes IS NOT NULL)
            AND pins_add_up
        ) IS NOT TRUE""",
        """format('%s captured and %s held of %s, with changes of %s',
            captured, held, amount, coalesce(moved, 0))""",
    ),
    (
        Invariant.HOLDS_FIT_THEIR_KIND,
        """kind IS NOT NULL AND (
            amount < 1e40 AND scale(amount) = 0
            AND CASE kind
                WHEN 'work' THEN requested > 0
                WHEN 'dispute' THEN requested >= 0 AND NOT changed END
            AND (kind = 'dispute') = (dispute_id IS NOT NULL)
            AND state IN ('open', 'captured', 'released', 'expired')
            AND ends_at >= opened_at
            AND (state <> 'open' OR coalesce(ends_at = expires_at, true))
            AND CASE WHEN num_nonnulls(pinned_grants, pinned_amounts) > 0
                THEN cardinality(pinned_grants) = cardinality(pinned_amounts)
                    AND 0 < ALL (pinned_amounts) AND (
                        SELECT coalesce(sum(part), 0) <= amount FROM unnest(pinned_amounts) AS part
                    ) ELSE true END
        ) IS NOT TRUE""",
        "format('a hold for %s of %s, %s', kind, amount, state)",
    ),
)

_GRANTS: Final = _broken(
    """
    SELECT
        tenant_id, id, lot.amount, taken, coalesce(used, 0) AS used, made.amount AS minted,
        (lot.amount, lot.granted_at)
            IS NOT DISTINCT FROM (made.amount, made.occurred_at)
            AND CASE made.kind WHEN 'grant' THEN source IS NOT NULL AND priority <= 1000000
                ELSE source IS NULL AND priority = 1000001 AND expires_in > 0 END AS is_minted
    FROM cogni_billing.grants AS lot
    FULL JOIN (
        SELECT tenant_id, id, kind, amount, occurred_at
        FROM cogni_billing.transactions AS minted
        WHERE kind = 'grant' OR kind = 'purchase' AND EXISTS (
            SELECT FROM cogni_billing.grants
            WHERE tenant_id = minted.tenant_id AND id = minted.id)
    ) AS made USING (tenant_id, id)
    FULL JOIN (
        SELECT tenant_id, id, sum(part) AS used
        FROM (
            SELECT tenant_id, drawn.id,
                CASE WHEN kind IN ('reversal', 'reinstatement') THEN - drawn.part
                    ELSE drawn.part END
            FROM cogni_billing.transactions
            CROSS JOIN unnest(drawn_grants, drawn_amounts) AS drawn (id, part)
            WHERE drawn_grants IS NOT NULL
            UNION ALL
            SELECT tenant_id, subject_id, - amount
            FROM cogni_billing.transactions
            WHERE kind IN ('expiry', 'void')
            UNION ALL
            SELECT tenant_id, pinned.id, pinned.part
            FROM cogni_billing.holds
            CROSS JOIN unnest(pinned_grants, pinned_amounts) AS pinned (id, part)
            WHERE state = 'open'
        ) AS parts
        GROUP BY tenant_id, id
    ) AS parts USING (tenant_id, id)
    """,
    "'tenant', tenant_id, 'grant', id",
    (
        Invariant.GRANTS_MATCH_THEIR_TRANSACTION,
        "NOT is_minted",
        "format('%s by a transaction of %s', amount, minted)",
    ),
    (
        Invariant.GRANTS_ADD_UP,
        "coalesce(taken, 0) <> used OR taken NOT BETWEEN 0 AND amount",
        "format('%s taken instead of %s, of %s', taken, used, amount)",
    ),
)

_EXPIRIES: Final = _broken(
    """
    SELECT expiry.tenant_id, expiry.id, occurred_at,
        -- A dispute or a refund can have ended the expiry of a purchase later.
        CASE WHEN priority > 1000000 THEN first_expires_at ELSE expires_at END AS expires_at
    FROM cogni_billing.transactions AS expiry
    JOIN cogni_billing.grants AS lot ON lot.tenant_id = expiry.tenant_id AND lot.id = subject_id
    WHERE kind = 'expiry'
    """,
    _TRANSACTION,
    (
        Invariant.GRANTS_EXPIRE_ON_TIME,
        "(occurred_at >= expires_at) IS NOT TRUE",
        "format('at %s, and it expires at %s', occurred_at, expires_at)",
    ),
)

_ENDS: Final = _broken(
    """
    SELECT
        tenant_id, id, expires_at,
        CASE WHEN is_over IS NOT TRUE
            THEN least(greatest(first_expires_at, extended.latest), voided.earliest)
            END AS wanted
    FROM cogni_billing.grants AS lot
    LEFT JOIN LATERAL (
        -- A dispute ends the expiry of a purchase, and so does a refund that took other credits.
        SELECT true AS is_over
        WHERE priority > 1000000 AND (
            EXISTS (
                SELECT FROM cogni_billing.disputes
                WHERE tenant_id = lot.tenant_id AND purchase_id = lot.id
                  AND opened_at < first_expires_at)
            OR EXISTS (
                SELECT FROM cogni_billing.transactions AS made
                WHERE tenant_id = lot.tenant_id AND reverses = lot.id AND - amount > (
                    SELECT coalesce(sum(part), 0)
                    FROM unnest(drawn_grants, drawn_amounts) AS drawn (drawn_lot, part)
                    WHERE drawn_lot = lot.id)))
    ) AS over ON true
    FULL JOIN (
        SELECT tenant_id, grant_id AS id, max(expires_at) AS latest
        FROM cogni_billing.grant_extensions
        GROUP BY tenant_id, grant_id
    ) AS extended USING (tenant_id, id)
    LEFT JOIN (
        SELECT tenant_id, subject_id AS id, min(line_at) AS earliest
        FROM cogni_billing.transactions
        WHERE kind = 'void'
        GROUP BY tenant_id, subject_id
    ) AS voided USING (tenant_id, id)
    """,
    "'tenant', tenant_id, 'grant', id",
    (
        Invariant.GRANTS_END_AS_SET,
        "expires_at IS DISTINCT FROM wanted",
        "format('at %s instead of %s', expires_at, wanted)",
    ),
)

# When a period begins. The rules of a zone change with the server's release, so a day is allowed.
_BEGINS: Final = """coalesce(
    CASE WHEN {n} = 0 THEN anchor
        WHEN NOT once
        THEN (anchor AT TIME ZONE zone + {n} * ('1 ' || every)::interval) AT TIME ZONE zone END,
    'infinity')"""
_END: Final = "9999-01-01 00:00:00+00"
_NEXT: Final = f"""CASE
    WHEN ended_at IS NULL AND {_BEGINS.format(n="number")} < coalesce(until, '{_END}')
    THEN {_BEGINS.format(n="number")}
    ELSE 'infinity' END"""

_SCHEDULES: Final = _broken(
    f"""
    SELECT
        tenant_id, key, wanted, begins, wanted_priority, wanted_end, leeway, granted, granted_at,
        lot.priority, first_expires_at, by_period
    FROM (
        SELECT
            tenant_id, key, part AS wanted, begins, priority AS wanted_priority,
            CASE WHEN once THEN expires_at
                WHEN ends < '{_END}' THEN ends END AS wanted_end,
            CASE WHEN once OR zone = 'UTC' THEN interval '0' ELSE interval '1 day' END AS leeway
        FROM cogni_billing.schedules
        CROSS JOIN LATERAL generate_series(first_number, number - 1) AS n
        CROSS JOIN LATERAL (
            VALUES
                ('', amount - coalesce(cap, 0), 0),
                (CASE WHEN cap < amount THEN ' carried' ELSE '' END, least(cap, amount), carries)
        ) AS half (suffix, part, longer)
        CROSS JOIN LATERAL (
            SELECT
                {_BEGINS.format(n="n")} AS begins,
                {_BEGINS.format(n="(n + 1 + longer)")} AS ends,
                CASE WHEN once THEN reference ELSE id || ' ' || n || suffix END AS key
        ) AS period
        WHERE part > 0 AND longer >= 0
    ) AS planned
    FULL JOIN (
        SELECT tenant_id, made.reference AS key, lot.amount AS granted, lot.granted_at,
            lot.priority, lot.first_expires_at, made.reference LIKE '% %' AS by_period
        FROM cogni_billing.transactions AS made
        JOIN cogni_billing.grants AS lot USING (tenant_id, id)
        WHERE made.kind = 'grant'
    ) AS lot USING (tenant_id, key)
    """,
    "'tenant', tenant_id, 'grant', key",
    (
        Invariant.SCHEDULES_ARE_KEPT,
        """CASE WHEN begins IS NULL THEN by_period
            ELSE (granted_at >= begins - leeway AND (granted, priority) = (wanted, wanted_priority)
                AND coalesce(
                    first_expires_at BETWEEN wanted_end - leeway AND wanted_end + leeway,
                    first_expires_at IS NULL AND wanted_end IS NULL)) IS NOT TRUE END""",
        """format('%s at %s until %s instead of %s at %s until %s',
            granted, granted_at, first_expires_at, wanted, begins, wanted_end)""",
    ),
)

_PLANS: Final = _broken(
    f"""
    SELECT tenant_id, id, next_at, {_NEXT} AS wanted,
        CASE WHEN once OR zone = 'UTC' THEN interval '0' ELSE interval '1 day' END AS leeway
    FROM cogni_billing.schedules
    """,
    "'tenant', tenant_id, 'schedule', id",
    (
        Invariant.SCHEDULES_ARE_KEPT,
        """CASE WHEN 'infinity' IN (next_at, wanted) THEN next_at <> wanted
            ELSE next_at NOT BETWEEN wanted - leeway AND wanted + leeway END""",
        "format('the next period begins at %s instead of %s', next_at, wanted)",
    ),
)

_REVERSALS: Final = _broken(
    """
    SELECT
        made.tenant_id, made.id, made.returned, made.returned_total, made.part, purchase.paid,
        made.kind, made.at_most,
        coalesce(lag(made.returned_total) OVER sequence, 0) AS before,
        purchase.id IS NOT NULL
            AND purchase.beneficiaries IS NOT DISTINCT FROM made.beneficiaries
            AND cogni_billing.is_part(made.returned, purchase.paid_unit, purchase.paid)
            AND cogni_billing.is_part(made.returned_total, purchase.paid_unit, purchase.paid)
            AS fits
    FROM cogni_billing.transactions AS made
    LEFT JOIN cogni_billing.transactions AS purchase
        ON purchase.tenant_id = made.tenant_id
        AND purchase.id = made.reverses
        AND purchase.kind = 'purchase'
    WHERE made.reverses IS NOT NULL AND made.kind <> 'reversal'
    WINDOW sequence AS (
        PARTITION BY made.tenant_id, made.reverses ORDER BY made.position
    )
    """,
    _TRANSACTION,
    (
        Invariant.REVERSALS_FOLLOW_ONE_ANOTHER,
        """(fits AND returned >= 0
            AND before + CASE kind WHEN 'reinstatement' THEN - returned ELSE returned END
                = returned_total
            AND returned_total BETWEEN 0 AND paid) IS NOT TRUE""",
        "format('%s after %s make %s of %s', returned, before, returned_total, paid)",
    ),
    (
        # Less is returned only if the rest of the payment is smaller.
        Invariant.TRANSACTIONS_DO_WHAT_WAS_ASKED,
        "part < returned OR part > returned AND returned_total < paid OR part > at_most",
        "format('%s for a request of %s', returned, part)",
    ),
)

# The expired credits of a purchase are taken before others than its own.
_EXPIRED: Final = _broken(
    """
    SELECT
        made.tenant_id, made.id, coalesce(made.lapsed, 0) AS lapsed,
        coalesce(expired.total, 0) AS expired, - made.amount - coalesce(own.total, 0) AS others
    FROM cogni_billing.transactions AS made
    JOIN cogni_billing.grants AS lot
        ON lot.tenant_id = made.tenant_id AND lot.id = made.reverses AND priority > 1000000
    CROSS JOIN LATERAL (
        SELECT sum(part) AS total
        FROM unnest(made.drawn_grants, made.drawn_amounts) AS drawn (drawn_lot, part)
        WHERE drawn_lot = lot.id
    ) AS own
    CROSS JOIN LATERAL (
        SELECT sum(CASE kind WHEN 'expiry' THEN - amount
            WHEN 'reinstatement' THEN coalesce(lapsed, 0)
            ELSE - coalesce(lapsed, 0) END) AS total
        FROM cogni_billing.transactions AS earlier
        WHERE tenant_id = made.tenant_id AND position < made.position
          AND (reverses = lot.id OR kind = 'expiry' AND subject_id = lot.id)
    ) AS expired
    WHERE made.kind NOT IN ('reversal', 'reinstatement')
    UNION ALL
    SELECT made.tenant_id, made.id, made.lapsed, 0, 0
    FROM cogni_billing.transactions AS made
    WHERE made.lapsed IS NOT NULL AND NOT EXISTS (
        SELECT FROM cogni_billing.grants
        WHERE tenant_id = made.tenant_id AND id = made.reverses)
    """,
    _TRANSACTION,
    (
        Invariant.REVERSALS_TAKE_BACK_EXPIRED_CREDITS,
        "lapsed NOT BETWEEN 0 AND expired OR lapsed < expired AND others > 0",
        "format('%s of %s expired, and %s of other credits', lapsed, expired, others)",
    ),
)

# Purchased credits come back first, and then the draws, from the last to the first.
_GIVEN_BACK: Final = _broken(
    """
    SELECT
        made.tenant_id, made.id, returned, returned_total, part, before, charged, given, absorbed,
        coalesce((
            SELECT jsonb_object_agg(lot, least(returned_total, until) - greatest(before, after))
            FROM (
                SELECT lot, charged - sum(amount) OVER draw AS after,
                    charged - sum(amount) OVER draw + amount AS until
                FROM unnest(paid_grants, paid_amounts) WITH ORDINALITY AS paid (lot, amount, n)
                WINDOW draw AS (ORDER BY n)
            ) AS lots
            WHERE least(returned_total, until) > greatest(before, after)
        ), '{}') AS expected
    FROM (
        SELECT
            made.tenant_id, made.id, made.returned, made.returned_total, made.part, made.absorbed,
            coalesce(lag(made.returned_total) OVER sequence, 0) AS before,
            - charge.amount AS charged, charge.drawn_grants AS paid_grants,
            charge.drawn_amounts AS paid_amounts,
            coalesce((
                SELECT jsonb_object_agg(lot, amount)
                FROM unnest(made.drawn_grants, made.drawn_amounts) AS given (lot, amount)
            ), '{}') AS given
        FROM cogni_billing.transactions AS made
        LEFT JOIN cogni_billing.transactions AS charge
            ON charge.tenant_id = made.tenant_id
            AND charge.id = made.reverses
            AND charge.kind IN ('charge', 'capture')
        WHERE made.kind = 'reversal'
        WINDOW sequence AS (
            PARTITION BY made.tenant_id, made.reverses ORDER BY made.returned_total, made.id
        )
    ) AS made
    """,
    _TRANSACTION,
    (
        Invariant.REVERSALS_GIVE_BACK_A_CHARGE,
        """(returned > 0 AND before + returned = returned_total
            AND returned_total <= charged) IS NOT TRUE""",
        "format('%s after %s make %s of %s', returned, before, returned_total, charged)",
    ),
    (
        Invariant.REVERSALS_RETURN_TO_THEIR_LOTS,
        """(expected @> given AND absorbed = (
            SELECT coalesce(sum(value::numeric), 0)
            FROM jsonb_each_text(expected) AS lot WHERE NOT given ? lot.key
        )) IS NOT TRUE""",
        "format('%s and %s expired instead of %s', given, absorbed, expected)",
    ),
    (
        Invariant.TRANSACTIONS_DO_WHAT_WAS_ASKED,
        "part <> returned",
        "format('%s for a request of %s', returned, part)",
    ),
)

# The present state of each dispute is its last change.
_PRESENT: Final = """
    SELECT
        made.tenant_id, made.id, made.purchase_id, made.payment, made.disputed_unit,
        made.beneficiaries, made.part, made.opened_at, present.*
    FROM cogni_billing.disputes AS made
    LEFT JOIN LATERAL (
        SELECT state, disputed, lost, chargeback_id, amount, lapsed, shares, number,
            first_value(disputed) OVER change AS opened_with,
            count(*) OVER (PARTITION BY dispute_id) AS changes
        FROM cogni_billing.dispute_changes
        WHERE tenant_id = made.tenant_id AND dispute_id = made.id
        WINDOW change AS (ORDER BY number)
        ORDER BY number DESC LIMIT 1
    ) AS present ON true
"""

_DISPUTES: Final = _broken(
    f"""
    SELECT
        coalesce(disputed.tenant_id, aside.holder) AS tenant_id,
        coalesce(disputed.id, aside.id) AS id,
        coalesce(aside.parts, '{{}}') AS parts,
        ARRAY(
            SELECT cogni_billing.owner_of(account) || ' ' || part
            FROM unnest(
                cogni_billing.account_of(disputed.tenant_id) || beneficiaries, amount || shares
            ) AS leg (account, part)
            WHERE part <> 0
            ORDER BY cogni_billing.owner_of(account)
        ) AS wanted,
        disputed.id IS NULL AS is_missing
    FROM ({_PRESENT}) AS disputed
    FULL JOIN (
        SELECT
            dispute_id AS id,
            min(tenant_id::text)::uuid AS holder,
            array_agg(tenant_id || ' ' || amount ORDER BY tenant_id)
                FILTER (WHERE state = 'open') AS parts
        FROM cogni_billing.holds
        WHERE kind = 'dispute'
        GROUP BY dispute_id
    ) AS aside ON aside.id = disputed.id
    """,
    "'tenant', tenant_id, 'dispute', id",
    (
        Invariant.DISPUTES_ARE_SET_ASIDE,
        "is_missing OR parts IS DISTINCT FROM wanted",
        "format('%s set aside instead of %s', parts, wanted)",
    ),
)

_DISPUTED: Final = _broken(
    f"""
    SELECT
        made.*, purchase.paid,
        made.payment = purchase.reference
            AND made.disputed_unit = purchase.paid_unit
            AND made.beneficiaries = coalesce(purchase.beneficiaries, '{{}}')
            AND coalesce(made.part = made.opened_with, true)
            AND made.changes = made.number
            AND made.disputed >= 0
            AND CASE made.state
                WHEN 'lost' THEN made.chargeback_id IS NOT NULL AND coalesce(made.lost > 0, true)
                ELSE made.state IN ('open', 'won')
                    AND num_nonnulls(made.lost, made.chargeback_id) = 0 END
            AND (made.state = 'open'
                OR made.amount = 0 AND made.lapsed = 0 AND 0 = ALL (made.shares))
            AND made.amount >= 0
            AND made.lapsed BETWEEN 0 AND coalesce(lot.amount, 0) AS fits
    FROM ({_PRESENT}) AS made
    LEFT JOIN cogni_billing.transactions AS purchase
        ON purchase.tenant_id = made.tenant_id
        AND purchase.id = made.purchase_id
        AND purchase.kind = 'purchase'
    LEFT JOIN cogni_billing.grants AS lot
        ON lot.tenant_id = made.tenant_id AND lot.id = made.purchase_id
    """,
    "'tenant', tenant_id, 'dispute', id",
    (
        Invariant.DISPUTES_ARE_OF_THEIR_PAYMENT,
        "fits IS NOT TRUE",
        "format('%s and %s for %s of %s', amount, shares, disputed, paid)",
    ),
)

# Of each leg, floor(leg * returned / paid) is taken back. Open disputes set aside the parts that
# follow.
_RETURNED: Final = _broken(
    f"""
    SELECT
        tenant_id, purchase.id, purchase.reference AS payment, purchase.paid,
        coalesce(gone.returned, 0) AS returned,
        least(purchase.paid, coalesce(gone.refunded, 0) + coalesce(claimed.lost, 0)) AS due,
        coalesce(claimed.aside, '{{}}') AS aside,
        CASE WHEN claimed.disputed IS NULL THEN '{{}}' ELSE ARRAY(
            SELECT div(leg * least(purchase.paid, gone_by + claimed.disputed), purchase.paid)
                - div(leg * gone_by, purchase.paid)
            FROM unnest(purchase.amount || purchase.shares) WITH ORDINALITY AS legs (leg, n)
            CROSS JOIN coalesce(gone.returned, 0) AS gone_by
            ORDER BY n
        ) END AS wanted
    FROM (
        SELECT
            made.tenant_id, made.reverses AS id,
            (array_agg(made.returned_total ORDER BY made.position DESC))[1] AS returned,
            sum(coalesce(made.part, made.returned))
                FILTER (WHERE made.kind = 'refund' AND undone.id IS NULL) AS refunded
        FROM cogni_billing.transactions AS made
        LEFT JOIN cogni_billing.transactions AS undone
            ON undone.tenant_id = made.tenant_id AND undone.reverses = made.reverses
            AND undone.kind = 'reinstatement' AND undone.subject_id = made.id
        WHERE made.reverses IS NOT NULL AND made.kind <> 'reversal'
        GROUP BY made.tenant_id, made.reverses
    ) AS gone
    FULL JOIN (
        SELECT
            tenant_id, purchase_id AS id,
            sum(coalesce(lost, disputed)) FILTER (WHERE state = 'lost') AS lost,
            coalesce(sum(disputed) FILTER (WHERE state = 'open'), 0) AS disputed,
            (
                SELECT array_agg(total ORDER BY n)
                FROM (
                    SELECT n, sum(leg.aside) AS total
                    FROM ({_PRESENT}) AS each
                    CROSS JOIN unnest(each.amount + each.lapsed || each.shares)
                        WITH ORDINALITY AS leg (aside, n)
                    WHERE each.tenant_id = present.tenant_id
                      AND each.purchase_id = present.purchase_id
                    GROUP BY n
                ) AS legs
            ) AS aside
        FROM ({_PRESENT}) AS present
        GROUP BY tenant_id, purchase_id
    ) AS claimed USING (tenant_id, id)
    JOIN cogni_billing.transactions AS purchase USING (tenant_id, id)
    WHERE purchase.kind = 'purchase' AND purchase.paid > 0
    """,
    "'tenant', tenant_id, 'payment', payment",
    (
        Invariant.PAYMENTS_ARE_RETURNED_AS_FAR_AS_DUE,
        "returned <> due",
        "format('%s returned of %s instead of %s', returned, paid, due)",
    ),
    (
        Invariant.DISPUTES_ARE_OF_THEIR_PAYMENT,
        "aside <> wanted",
        "format('%s disputed instead of %s', aside, wanted)",
    ),
)

_CHARGEBACKS: Final = _broken(
    f"""
    SELECT
        coalesce(made.tenant_id, lost.tenant_id) AS tenant_id, made.id, lost.id AS dispute_id,
        lost.purchase_id IS NOT DISTINCT FROM made.reverses
            AND made.subject_id IS NOT DISTINCT FROM lost.id AS is_of_it
    FROM (
        SELECT tenant_id, id, subject_id, reverses
        FROM cogni_billing.transactions
        WHERE kind = 'chargeback'
    ) AS made
    LEFT JOIN cogni_billing.disputes AS lost
        ON lost.tenant_id = made.tenant_id AND lost.id = made.subject_id
    UNION ALL
    SELECT lost.tenant_id, made.id, lost.id, made.id IS NOT NULL
    FROM ({_PRESENT}) AS lost
    LEFT JOIN cogni_billing.transactions AS made
        ON made.tenant_id = lost.tenant_id AND made.id = lost.chargeback_id
        AND made.kind = 'chargeback' AND made.subject_id = lost.id
    WHERE state = 'lost'
    """,
    "'tenant', tenant_id, 'transaction', id",
    (
        Invariant.CHARGEBACKS_ARE_OF_A_DISPUTE,
        "NOT is_of_it",
        "format('a chargeback of dispute %s', dispute_id)",
    ),
)

STATEMENTS: Final = (
    _FITTING,
    _AS_ASKED,
    _OPENINGS,
    _TOLD,
    _OVERDRAFTS,
    _POSTINGS,
    _LINES,
    _WALLETS,
    _CHECKPOINTS,
    _POLICIES,
    _CLAIMS,
    _ATTEMPTS,
    _RECIPIENTS,
    _EVIDENCE,
    _EVENTS,
    _HOLDS,
    _GRANTS,
    _EXPIRIES,
    _ENDS,
    _SCHEDULES,
    _PLANS,
    _REVERSALS,
    _EXPIRED,
    _GIVEN_BACK,
    _DISPUTES,
    _DISPUTED,
    _RETURNED,
    _CHARGEBACKS,
)
