"""Every rule of `verify` as one statement over all rows: a row for each violation.

Set by set: what does not fit the server's working memory goes to its disk, and nothing but
violations comes back.
"""

from __future__ import annotations

from typing import Final

from cogni_billing.domain.refunds import REMAINDER
from cogni_billing.domain.verification import Rule


def _is_amount(written: str) -> str:
    return f"{written} ~ '^[0-9]+([.][0-9]+)? [A-Z]+$'"


def _value_of(written: str) -> str:
    return f"split_part({written}, ' ', 1)::numeric"


def _unit_of(written: str) -> str:
    return f"split_part({written}, ' ', 2)"


def _asks(request: str, amount: str, unit: str) -> str:
    """Whether a return's request is for that much of its payment, or for what remained of it."""
    asked = f"({request} ->> 'amount')"
    return f"""CASE WHEN {_is_amount(asked)}
                THEN {_value_of(asked)} = {amount} AND {_unit_of(asked)} = {unit}
                ELSE {asked} = '{REMAINDER}' END"""


VIOLATIONS: Final = {
    Rule.TRANSACTIONS_SUM_TO_ZERO: """
        SELECT
            json_build_object(
                'tenant', origin_tenant_id, 'transaction', transaction_id
            ) AS located,
            format('%s %s too much', sum(amount), unit) AS detail
        FROM cogni_billing.postings
        GROUP BY origin_tenant_id, transaction_id, unit
        HAVING sum(amount) <> 0
    """,
    Rule.POSTINGS_MATCH: """
        SELECT
            json_build_object(
                'tenant', coalesce(declared.tenant_id, made.tenant_id),
                'transaction', coalesce(declared.id, made.id)
            ) AS located,
            CASE
                WHEN declared.id IS NULL THEN 'postings without their transaction'
                WHEN made.id IS NULL THEN 'a transaction without postings'
                ELSE format('%s on %s', made.amounts, made.accounts)
            END AS detail
        FROM cogni_billing.transactions AS declared
        FULL JOIN (
            SELECT
                origin_tenant_id AS tenant_id,
                transaction_id AS id,
                array_agg(account_id ORDER BY sequence) AS accounts,
                array_agg(amount ORDER BY sequence) AS amounts,
                array_agg(sequence::integer ORDER BY sequence) AS sequences,
                array_agg(DISTINCT kind || unit) AS kinds,
                bool_and(tenant_id = cogni_billing.owner_of(account_id)) AS owned,
                array_agg(tenant_id ORDER BY sequence) AS owners,
                (array_agg(subject_id ORDER BY sequence))[1] AS subject_id
            FROM cogni_billing.postings
            GROUP BY origin_tenant_id, transaction_id
        ) AS made ON made.tenant_id = declared.tenant_id AND made.id = declared.id
        WHERE declared.id IS NULL
           OR made.id IS NULL
           OR made.kinds <> ARRAY[declared.kind || declared.unit]
           OR made.subject_id IS DISTINCT FROM declared.subject_id
           OR made.owners[1] <> declared.tenant_id
           OR NOT made.owned
           OR made.sequences <> ARRAY(SELECT generate_series(1, cardinality(made.sequences)))
           OR made.accounts <> cogni_billing.account_of(declared.tenant_id) || ARRAY(
                SELECT share.account_id
                FROM unnest(declared.beneficiaries, declared.shares)
                    WITH ORDINALITY AS share (account_id, amount, n)
                WHERE share.amount <> 0
                ORDER BY share.n
              ) || CASE WHEN declared.absorbed <> 0
                THEN ARRAY['00000000-0000-4000-b000-000000000004'::uuid] END
                || CASE WHEN cardinality(made.accounts) > 1 OR declared.reverses IS NULL
                    THEN ARRAY[cogni_billing.contra_of(declared.kind)] END
           OR made.amounts[1:greatest(cardinality(made.amounts) - 1, 1)]
                <> declared.amount || array_remove(declared.shares, 0)
                || CASE WHEN declared.absorbed <> 0 THEN ARRAY[- declared.absorbed] END
    """,
    Rule.TRANSACTIONS_DO_WHAT_WAS_ASKED: f"""
        SELECT
            json_build_object('tenant', tenant_id, 'transaction', id) AS located,
            format('%s for a request of %s', amount, request ->> 'amount') AS detail
        FROM cogni_billing.transactions
        WHERE kind IN ('charge', 'capture', 'grant')
          AND request ->> 'amount' IS DISTINCT FROM abs(amount) || ' ' || unit
        UNION ALL
        SELECT
            json_build_object('tenant', made.tenant_id, 'transaction', made.id) AS located,
            format('%s %s for %s', made.returned, made.returned_unit, made.request) AS detail
        FROM cogni_billing.transactions AS made
        JOIN cogni_billing.transactions AS purchase
            ON purchase.tenant_id = made.tenant_id AND purchase.id = made.reverses
        WHERE (
            made.request ->> 'payment' = purchase.reference
            AND {_asks("made.request", "made.returned", "made.returned_unit")}
        ) IS NOT TRUE
    """,
    Rule.WALLETS_MATCH: """
        SELECT
            json_build_object('tenant', tenant_id, 'account', account_id) AS located,
            format('%s instead of %s %s', posted, coalesce(made, 0), unit) AS detail
        FROM cogni_billing.wallets
        FULL JOIN (
            SELECT
                tenant_id, account_id, unit,
                sum(amount) AS made,
                max(occurred_at) AS newest
            FROM cogni_billing.postings
            WHERE posted_after IS NOT NULL
            GROUP BY tenant_id, account_id, unit
        ) AS owned USING (tenant_id, account_id, unit)
        WHERE posted IS DISTINCT FROM coalesce(made, 0)
           OR as_of < owned.newest
    """,
    Rule.WALLETS_HAVE_ACCOUNTS: """
        SELECT
            json_build_object('tenant', tenant_id, 'account', account_id) AS located,
            'no account' AS detail
        FROM cogni_billing.wallets
        WHERE NOT EXISTS (
            SELECT FROM cogni_billing.accounts
            WHERE accounts.tenant_id = wallets.tenant_id AND accounts.id = wallets.account_id
        )
    """,
    Rule.WALLETS_KNOW_WHAT_IS_DUE: """
        SELECT
            json_build_object('tenant', tenant_id, 'account', account_id) AS located,
            format('%s instead of %s', wallets.due_at, next.due_at) AS detail
        FROM cogni_billing.wallets
        JOIN (
            SELECT tenant_id, account_id, unit, min(moment) AS due_at
            FROM (
                SELECT tenant_id, account_id, unit, ends_at AS moment
                FROM cogni_billing.holds
                WHERE kind = 'work' AND state = 'open'
                UNION ALL
                SELECT tenant_id, account_id, unit, expires_at
                FROM cogni_billing.grants
                WHERE taken < amount
            ) AS ending
            GROUP BY tenant_id, account_id, unit
        ) AS next USING (tenant_id, account_id, unit)
        WHERE wallets.due_at > next.due_at
    """,
    Rule.LINES_RUN_ON: """
        SELECT
            json_build_object(
                'tenant', tenant_id, 'account', account_id, 'transaction', transaction_id
            ) AS located,
            format('%s at %s after %s at %s', posted_after, occurred_at, before, earlier) AS detail
        FROM (
            SELECT
                tenant_id, account_id, transaction_id, amount, posted_after, occurred_at,
                lag(posted_after, 1, 0::numeric) OVER line AS before,
                lag(occurred_at) OVER line AS earlier
            FROM cogni_billing.postings
            WHERE posted_after IS NOT NULL
            WINDOW line AS (PARTITION BY tenant_id, account_id, unit ORDER BY position)
        ) AS running
        WHERE posted_after <> before + amount OR occurred_at < earlier
    """,
    Rule.LINES_KNOW_THEIR_OWNER: """
        SELECT
            json_build_object(
                'tenant', tenant_id, 'account', account_id, 'transaction', transaction_id
            ) AS located,
            format('running balances %s and %s', posted_after, balance_after) AS detail
        FROM cogni_billing.postings AS line
        WHERE (tenant_id = origin_tenant_id AND account_id = cogni_billing.account_of(tenant_id))
                <> (posted_after IS NOT NULL)
           OR (posted_after IS NULL) <> (balance_after IS NULL)
           OR balance_after <> posted_after AND NOT EXISTS (
                SELECT FROM cogni_billing.postings AS arrival
                WHERE arrival.tenant_id = line.tenant_id
                  AND arrival.account_id = line.account_id
                  AND arrival.posted_after IS NULL
              )
    """,
    Rule.HOLDS_ARE_COUNTED: """
        SELECT
            json_build_object('tenant', tenant_id, 'account', account_id) AS located,
            format('%s %s held instead of %s', held, unit, coalesce(open.amount, 0)) AS detail
        FROM cogni_billing.wallets
        FULL JOIN (
            SELECT tenant_id, account_id, unit, sum(amount) AS amount
            FROM cogni_billing.holds
            WHERE state = 'open'
            GROUP BY tenant_id, account_id, unit
        ) AS open USING (tenant_id, account_id, unit)
        WHERE held IS DISTINCT FROM coalesce(open.amount, 0)
    """,
    Rule.GRANTS_ARE_COUNTED: """
        SELECT
            json_build_object('tenant', tenant_id, 'account', account_id) AS located,
            format('%s %s granted instead of %s', granted, unit, coalesce(lots.amount, 0)) AS detail
        FROM cogni_billing.wallets
        FULL JOIN (
            SELECT tenant_id, account_id, unit, sum(amount - taken) AS amount
            FROM cogni_billing.grants
            GROUP BY tenant_id, account_id, unit
        ) AS lots USING (tenant_id, account_id, unit)
        WHERE granted IS DISTINCT FROM coalesce(lots.amount, 0)
    """,
    Rule.CHECKPOINTS_MATCH: """
        SELECT
            json_build_object(
                'tenant', tenant_id, 'account', account_id, 'position', position
            ) AS located,
            format('%s and %s of it arrived', balance, arrived) AS detail
        FROM (
            SELECT
                made.*,
                covered.*,
                lag(position, 1, 0::bigint) OVER sequence AS previous,
                lag(arrived, 1, 0::numeric) OVER sequence AS arrived_before,
                lag(balance, 1, 0::numeric) OVER sequence AS balance_before
            FROM cogni_billing.checkpoints AS made
            CROSS JOIN LATERAL (
                SELECT
                    coalesce(sum(amount), 0) AS covered_total,
                    coalesce(sum(amount) FILTER (WHERE posted_after IS NULL), 0) AS covered_added,
                    min(occurred_at) FILTER (WHERE posted_after IS NULL) AS covered_earliest,
                    max(occurred_at) FILTER (WHERE posted_after IS NULL) AS covered_latest
                FROM cogni_billing.postings AS line
                WHERE line.tenant_id = made.tenant_id
                  AND line.account_id = made.account_id
                  AND line.unit = made.unit
                  AND line.position > made.after_position
                  AND line.position <= made.position
            ) AS covered
            WINDOW sequence AS (PARTITION BY tenant_id, account_id, unit ORDER BY position)
        ) AS checkpoint
        WHERE after_position <> previous
           OR added <> covered_added
           OR arrived <> arrived_before + covered_added
           OR balance <> balance_before + covered_total
           OR earliest_at IS DISTINCT FROM covered_earliest
           OR latest_at IS DISTINCT FROM covered_latest
    """,
    Rule.PURCHASES_CLAIM_THEIR_PAYMENT: """
        SELECT
            json_build_object('tenant', tenant_id, 'transaction', id) AS located,
            format('no claim of %s', reference) AS detail
        FROM cogni_billing.transactions
        WHERE kind = 'purchase' AND NOT EXISTS (
            SELECT FROM cogni_billing.payments
            WHERE payment = reference AND payments.tenant_id = transactions.tenant_id
        )
    """,
    Rule.PAYMENTS_HAVE_THEIR_PURCHASE: """
        SELECT
            json_build_object('tenant', tenant_id, 'payment', payment) AS located,
            'no purchase' AS detail
        FROM cogni_billing.payments
        WHERE NOT EXISTS (
            SELECT FROM cogni_billing.transactions
            WHERE transactions.tenant_id = payments.tenant_id
              AND transactions.kind = 'purchase'
              AND transactions.reference = payment
        )
    """,
    Rule.ATTEMPTS_HAVE_THEIR_PURCHASE: """
        SELECT
            json_build_object('tenant', tenant_id, 'attempt', id) AS located,
            format('no purchase of %s %s by %s', amount, unit, evidence) AS detail
        FROM cogni_billing.payment_attempts AS attempt
        WHERE state = 'CREDITED'
          AND NOT EXISTS (
            SELECT FROM cogni_billing.transactions AS purchase
            WHERE purchase.tenant_id = attempt.tenant_id
              AND purchase.id = attempt.transaction_id
              AND purchase.kind = 'purchase'
              AND purchase.reference = attempt.evidence
              AND purchase.request ->> 'amount' = attempt.amount || ' ' || attempt.unit
          )
    """,
    Rule.ATTEMPTS_FOLLOW_THEIR_EVENTS: """
        SELECT
            json_build_object('tenant', tenant_id, 'attempt', attempt.id) AS located,
            format('%s after %s', attempt.state, coalesce(led.path, 'nothing')) AS detail
        FROM cogni_billing.payment_attempts AS attempt
        LEFT JOIN (
            SELECT
                tenant_id,
                attempt_id AS id,
                string_agg(from_state || ' ' || state, ', ' ORDER BY from_state) AS path,
                max(evidence) AS evidence,
                max(failure) AS failure,
                (array_agg(transaction_id ORDER BY transaction_id))[1] AS transaction_id
            FROM cogni_billing.payment_attempt_events
            GROUP BY tenant_id, attempt_id
        ) AS led USING (tenant_id, id)
        WHERE coalesce(led.path, '') IS DISTINCT FROM CASE
                WHEN state = 'CREATED_INTENT' THEN ''
                WHEN attempt.evidence IS NULL THEN 'CREATED_INTENT ' || state
                WHEN state = 'PENDING_UNVERIFIED' THEN 'CREATED_INTENT PENDING_UNVERIFIED'
                ELSE 'CREATED_INTENT PENDING_UNVERIFIED, PENDING_UNVERIFIED ' || state
              END
           OR attempt.evidence IS DISTINCT FROM led.evidence
           OR attempt.failure IS DISTINCT FROM led.failure
           OR attempt.transaction_id IS DISTINCT FROM led.transaction_id
    """,
    Rule.CAPTURES_MATCH_THEIR_HOLD: """
        SELECT
            json_build_object('tenant', tenant_id, 'hold', id) AS located,
            format('%s of it captured, by %s captures of %s in all',
                captured, coalesce(number, 0), coalesce(taken, 0)) AS detail
        FROM cogni_billing.holds
        FULL JOIN (
            SELECT tenant_id, subject_id AS id, count(*) AS number, - sum(amount) AS taken
            FROM cogni_billing.transactions
            WHERE kind = 'capture'
            GROUP BY tenant_id, subject_id
        ) AS capture USING (tenant_id, id)
        WHERE captured IS DISTINCT FROM coalesce(taken, 0)
           OR coalesce(number, 0) <> CASE state WHEN 'captured' THEN 1 ELSE 0 END
    """,
    Rule.GRANTS_MATCH_THEIR_TRANSACTION: """
        SELECT
            json_build_object(
                'tenant', coalesce(lot.tenant_id, declared.tenant_id),
                'grant', coalesce(lot.id, declared.id)
            ) AS located,
            format('%s by a transaction of %s', lot.amount, declared.amount) AS detail
        FROM cogni_billing.grants AS lot
        FULL JOIN (
            SELECT * FROM cogni_billing.transactions WHERE kind = 'grant'
        ) AS declared ON declared.tenant_id = lot.tenant_id AND declared.id = lot.id
        WHERE (lot.amount, lot.unit, lot.granted_at)
            IS DISTINCT FROM (declared.amount, declared.unit, declared.occurred_at)
    """,
    Rule.GRANTS_ADD_UP: """
        SELECT
            json_build_object('tenant', tenant_id, 'grant', id) AS located,
            format('%s taken instead of %s', taken, coalesce(used.amount, 0)) AS detail
        FROM cogni_billing.grants
        FULL JOIN (
            SELECT tenant_id, id, sum(part) AS amount
            FROM (
                SELECT tenant_id, drawn.id, drawn.amount AS part
                FROM cogni_billing.postings
                CROSS JOIN unnest(drawn_grants, drawn_amounts) AS drawn (id, amount)
                UNION ALL
                SELECT tenant_id, pinned.id, pinned.amount
                FROM cogni_billing.holds
                CROSS JOIN unnest(pinned_grants, pinned_amounts) AS pinned (id, amount)
                WHERE state = 'open'
                UNION ALL
                SELECT tenant_id, subject_id, - amount
                FROM cogni_billing.transactions
                WHERE kind = 'expiry'
            ) AS parts
            GROUP BY tenant_id, id
        ) AS used USING (tenant_id, id)
        WHERE taken IS DISTINCT FROM coalesce(used.amount, 0)
    """,
    Rule.GRANTS_LAPSE_ON_TIME: """
        SELECT
            json_build_object('tenant', tenant_id, 'transaction', expiry.id) AS located,
            format('at %s, and it expires at %s', occurred_at, expires_at) AS detail
        FROM cogni_billing.transactions AS expiry
        JOIN cogni_billing.grants AS lot USING (tenant_id)
        WHERE kind = 'expiry' AND lot.id = subject_id
          AND (expires_at IS NULL OR occurred_at < expires_at)
    """,
    Rule.RETURNS_FOLLOW_ONE_ANOTHER: f"""
        SELECT
            json_build_object('tenant', tenant_id, 'transaction', id) AS located,
            format('%s after %s make %s of %s', returned, before, returned_total, paid) AS detail
        FROM (
            SELECT
                made.tenant_id, made.id, made.returned, made.returned_total,
                purchase.request ->> 'amount' AS paid,
                purchase.beneficiaries IS DISTINCT FROM made.beneficiaries AS astray,
                made.returned_unit,
                coalesce(lag(made.returned_total) OVER sequence, 0) AS before
            FROM cogni_billing.transactions AS made
            LEFT JOIN cogni_billing.transactions AS purchase
                ON purchase.tenant_id = made.tenant_id
                AND purchase.id = made.reverses
                AND purchase.kind = 'purchase'
            WHERE made.reverses IS NOT NULL
            WINDOW sequence AS (
                PARTITION BY made.tenant_id, made.reverses ORDER BY made.returned_total, made.id
            )
        ) AS chained
        WHERE astray
           OR before + returned <> returned_total
           OR returned_unit <> {_unit_of("paid")}
           OR CASE WHEN {_is_amount("paid")}
                THEN returned_total > {_value_of("paid")} ELSE true END
    """,
    Rule.DISPUTES_ARE_SET_ASIDE: """
        SELECT
            json_build_object(
                'tenant', tenant_id, 'dispute', coalesce(disputed.id, aside.id)
            ) AS located,
            format('%s set aside', aside.parts) AS detail
        FROM cogni_billing.disputes AS disputed
        FULL JOIN (
            SELECT
                dispute_id AS id,
                array_agg(account_id || ' ' || amount ORDER BY account_id) AS parts,
                count(DISTINCT state) AS states
            FROM cogni_billing.holds
            WHERE kind = 'dispute'
            GROUP BY dispute_id
        ) AS aside ON aside.id = disputed.id
        WHERE states IS DISTINCT FROM 1
           OR aside.parts IS DISTINCT FROM ARRAY(
                SELECT part.account_id || ' ' || part.amount
                FROM unnest(
                    cogni_billing.account_of(tenant_id) || beneficiaries, amount || shares
                ) WITH ORDINALITY AS part (account_id, amount, n)
                WHERE part.n = 1 OR part.amount <> 0
                ORDER BY part.account_id
              )
    """,
    # Of each leg is set aside what its exact part rounds to, up or down: as it did at the time.
    Rule.DISPUTES_ARE_OF_THEIR_PAYMENT: f"""
        SELECT
            json_build_object('tenant', tenant_id, 'dispute', id) AS located,
            format('%s and %s for %s of %s', amount, shares, disputed, paid) AS detail
        FROM (
            SELECT
                made.*,
                purchase.reference AS claimed,
                purchase.amount || purchase.shares AS legs,
                purchase.request ->> 'amount' AS paid
            FROM cogni_billing.disputes AS made
            LEFT JOIN cogni_billing.transactions AS purchase
                ON purchase.tenant_id = made.tenant_id
                AND purchase.id = made.purchase_id
                AND purchase.kind = 'purchase'
        ) AS dispute
        WHERE (
            payment = claimed
            AND request ->> 'payment' = payment
            AND {_asks("request", "disputed", "disputed_unit")}
            AND CASE WHEN {_is_amount("paid")} THEN
                {_unit_of("paid")} = disputed_unit
                AND (
                    SELECT bool_and(
                        abs(aside * {_value_of("paid")} - leg * disputed) < {_value_of("paid")}
                    )
                    FROM unnest(legs, amount || shares) AS part (leg, aside)
                )
                AND coalesce((
                    SELECT max(returned_total)
                    FROM cogni_billing.transactions
                    WHERE tenant_id = dispute.tenant_id AND reverses = purchase_id
                ), 0) + coalesce((
                    SELECT sum(other.disputed)
                    FROM cogni_billing.disputes AS other
                    JOIN cogni_billing.holds USING (tenant_id, id)
                    WHERE tenant_id = dispute.tenant_id
                      AND other.purchase_id = dispute.purchase_id
                      AND state = 'open'
                ), 0) <= {_value_of("paid")}
            END
        ) IS NOT TRUE
    """,
    Rule.CHARGEBACKS_END_A_DISPUTE: """
        SELECT
            json_build_object('tenant', made.tenant_id, 'transaction', made.id) AS located,
            format('%s of a dispute of %s', returned, disputed) AS detail
        FROM cogni_billing.transactions AS made
        LEFT JOIN (
            SELECT
                tenant_id, id, purchase_id, disputes.reference AS named, disputed, disputed_unit,
                state
            FROM cogni_billing.disputes JOIN cogni_billing.holds USING (tenant_id, id)
        ) AS lost ON lost.tenant_id = made.tenant_id AND lost.id = made.subject_id
        WHERE made.kind = 'chargeback'
          AND (lost.purchase_id, lost.named, lost.disputed, lost.disputed_unit, lost.state)
            IS DISTINCT FROM
              (made.reverses, made.reference, made.returned, made.returned_unit, 'released')
    """,
}
