-- Reads of one tenant's side of the ledger. Each is one function on one snapshot.

-- The sum of an account's arrivals up to a position: the last checkpoint and newer arrivals.
CREATE FUNCTION cogni_billing.arrived_up_to(account uuid, last_position bigint) RETURNS numeric
LANGUAGE plpgsql STABLE AS $$
DECLARE
    folded_to bigint;
    folded    numeric;
BEGIN
    SELECT up_to, arrived INTO folded_to, folded FROM cogni_billing.checkpoints
    WHERE account_id = account AND up_to <= last_position
    ORDER BY up_to DESC LIMIT 1;
    folded_to := coalesce(folded_to, 0);  -- row security keeps COALESCE from an index
    RETURN coalesce(folded, 0) + (
        SELECT coalesce(sum(amount), 0) FROM cogni_billing.arrivals
        WHERE account_id = account AND position > folded_to AND position <= last_position
    );
END
$$;

-- The sum of an account's arrivals by a moment. Checkpoints that end before it count as they are.
-- Arrivals are read for checkpoints that straddle it, and after the last one.
CREATE FUNCTION cogni_billing.arrived_by(account uuid, moment timestamptz) RETURNS numeric
LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN (
        SELECT coalesce(sum(added), 0) FROM cogni_billing.checkpoints
        WHERE account_id = account AND latest_at <= moment
    ) + (
        SELECT coalesce(sum(line.amount), 0)
        FROM cogni_billing.checkpoints AS part
        JOIN cogni_billing.arrivals AS line ON line.account_id = account
            AND line.position > part.after AND line.position <= part.up_to
        WHERE part.account_id = account
          AND part.earliest_at <= moment AND part.latest_at > moment
          AND line.occurred_at <= moment
    ) + (
        SELECT coalesce(sum(amount), 0)
        FROM cogni_billing.arrivals
        WHERE account_id = account AND occurred_at <= moment
          AND position > (
              SELECT coalesce(max(up_to), 0) FROM cogni_billing.checkpoints
              WHERE account_id = account)
    );
END
$$;

-- True for a tenant whose account has arrivals, such as shares.
CREATE FUNCTION cogni_billing.has_arrivals(owner uuid) RETURNS boolean
LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN EXISTS (
        SELECT FROM cogni_billing.arrivals WHERE account_id = cogni_billing.account_of(owner));
END
$$;

-- The wallet to read for a tenant that only earned shares, and has none yet. It starts from the last
-- checkpoint. NULL for a tenant without arrivals.
CREATE FUNCTION cogni_billing.unopened_wallet(owner uuid) RETURNS cogni_billing.wallets
LANGUAGE plpgsql STABLE AS $$
DECLARE
    w cogni_billing.wallets;
BEGIN
    IF cogni_billing.has_arrivals(owner) THEN
        SELECT
            owner AS tenant_id, 0 AS posted, coalesce(folded.arrived, 0) AS received,
            coalesce(folded.up_to, 0) AS received_up_to, 0 AS held, 0 AS granted, 0 AS lines,
            'epoch' AS as_of, 'infinity' AS due_at
        INTO w.tenant_id, w.posted, w.received, w.received_up_to, w.held, w.granted, w.lines,
            w.as_of, w.due_at
        FROM (SELECT) AS always LEFT JOIN (
            SELECT arrived, up_to FROM cogni_billing.checkpoints
            WHERE account_id = cogni_billing.account_of(owner)
            ORDER BY up_to DESC LIMIT 1
        ) AS folded ON true;
    END IF;
    RETURN w;
END
$$;

-- A tenant's last line by a moment and by an arrival, and the sum posted by then, or zero.
-- Positions have no gaps, and neither column decreases along them. So a binary search needs no
-- index on either.
CREATE FUNCTION cogni_billing.last_line(
    owner uuid, lines bigint, moment timestamptz, last_seen bigint,
    OUT place bigint, OUT posted numeric
)
LANGUAGE plpgsql STABLE AS $$
DECLARE
    high   bigint := lines;
    middle bigint;
    line   record;
BEGIN
    place := 0;
    posted := 0;
    WHILE place < high LOOP
        middle := (place + high + 1) / 2;
        SELECT line_at, seen, posted_after INTO line FROM cogni_billing.transactions
        WHERE tenant_id = owner AND position = middle AND position > 0;
        IF line.line_at <= moment AND line.seen <= last_seen THEN
            place := middle;
            posted := line.posted_after;
        ELSE
            high := middle - 1;
        END IF;
    END LOOP;
END
$$;

-- A wallet's posted credits as of a moment, or all of them for 'infinity'. Changes that are due by
-- `present` count at their own moments.
CREATE FUNCTION cogni_billing.posted_by(
    w cogni_billing.wallets, present timestamptz, moment timestamptz
) RETURNS numeric
LANGUAGE plpgsql STABLE AS $$
DECLARE
    account CONSTANT uuid := cogni_billing.account_of(w.tenant_id);
    total   numeric;
BEGIN
    IF moment = 'infinity' THEN
        total := w.posted + w.received + (
            SELECT amount FROM cogni_billing.newer_arrivals(account, w.received_up_to));
    ELSE
        total := cogni_billing.arrived_by(account, moment) + (
            SELECT posted FROM cogni_billing.last_line(
                w.tenant_id, w.lines, moment, 9223372036854775807));
    END IF;
    IF w.due_at <= least(present, moment) AND w.as_of <= moment THEN
        total := total + (
            SELECT coalesce(sum(amount), 0)
            FROM cogni_billing.due_changes(w, least(present, moment)));
    END IF;
    RETURN total;
END
$$;

CREATE FUNCTION cogni_billing._account(me uuid, asked json) RETURNS json
LANGUAGE plpgsql AS $$
BEGIN
    RETURN coalesce((
        SELECT json_build_object(
            'outcome', 'done', 'opened_at', opened_at,
            'frozen_at', frozen_at, 'frozen_reason', frozen_reason,
            'overdraft_limit', overdraft_limit)
        FROM cogni_billing.wallets WHERE tenant_id = me
    ), '{"outcome":"unknown_account"}');
END
$$;

CREATE FUNCTION cogni_billing._open_account(me uuid, asked json) RETURNS json
LANGUAGE plpgsql AS $$
DECLARE
    moment CONSTANT timestamptz := asked ->> 'at';
BEGIN
    IF NOT EXISTS (SELECT FROM cogni_billing.wallets WHERE tenant_id = me) THEN
        PERFORM cogni_billing.check_call(moment, '{}', '-');
        PERFORM cogni_billing.open_wallet(me, moment);
    END IF;
    RETURN cogni_billing._account(me, asked);
END
$$;

-- The balance now, with due expirations taken off, or as of a moment.
CREATE FUNCTION cogni_billing._balance(me uuid, asked json) RETURNS json
LANGUAGE plpgsql AS $$
DECLARE
    account CONSTANT uuid := cogni_billing.account_of(me);
    moment  CONSTANT timestamptz := asked ->> 'moment';
    present timestamptz := asked ->> 'now';
    w       cogni_billing.wallets;
BEGIN
    w := (SELECT wallet FROM cogni_billing.wallets AS wallet WHERE tenant_id = me);
    IF w.tenant_id IS NULL THEN
        w := cogni_billing.unopened_wallet(me);
        IF w.tenant_id IS NULL THEN
            RETURN '{"outcome":"unknown_account"}';
        END IF;
    END IF;
    IF moment IS NULL THEN
        present := greatest(w.as_of, present);
        IF w.due_at <= present THEN
            w.held := w.held - (
                SELECT coalesce(sum(held), 0) FROM cogni_billing.holds
                WHERE tenant_id = me AND state = 'open' AND ends_at <= present);
            w.posted := w.posted + (
                SELECT coalesce(sum(amount), 0) FROM cogni_billing.due_changes(w, present));
        END IF;
        w.posted := w.posted + w.received + (
            SELECT coalesce(sum(amount), 0) FROM cogni_billing.arrivals
            WHERE account_id = account AND position > w.received_up_to);
    ELSE
        w.posted := cogni_billing.posted_by(w, moment, moment);
        w.held := (
            SELECT coalesce(sum(requested + CASE WHEN changed THEN (
                SELECT coalesce(sum(amount), 0) FROM cogni_billing.hold_changes AS change
                WHERE tenant_id = me AND hold_id = hold.id AND change.at <= moment
            ) ELSE 0 END), 0)
            FROM cogni_billing.holds AS hold
            WHERE tenant_id = me AND ends_at > moment AND ends_at > 'epoch' AND opened_at <= moment
        );
    END IF;
    RETURN '{"outcome":"done","posted":' || w.posted || ',"held":' || w.held || '}';
END
$$;

-- The balance after a line. An own line stores its posted sum. An arrival comes after the own lines
-- that have not seen it.
CREATE FUNCTION cogni_billing.balance_after(
    owner uuid, lines bigint, line_seen bigint, posted numeric
) RETURNS numeric
LANGUAGE plpgsql STABLE AS $$
BEGIN
    IF posted IS NULL THEN
        posted := (
            SELECT last.posted
            FROM cogni_billing.last_line(owner, lines, 'infinity', line_seen - 1) AS last);
    END IF;
    RETURN posted + CASE WHEN line_seen = 0 THEN 0
        ELSE cogni_billing.arrived_up_to(cogni_billing.account_of(owner), line_seen) END;
END
$$;

-- Lines of the tenant's account, newest first, and the balances before and after the interval. An
-- own line comes after the arrivals that it has seen. So a place is an arrival's position and the
-- number of an own line after it, or zero for the arrival itself. Due changes are the newest
-- lines, in a list of their own.
CREATE FUNCTION cogni_billing._lines(me uuid, asked json) RETURNS json
LANGUAGE plpgsql AS $$
DECLARE
    just_before CONSTANT interval := interval '1 microsecond';
    w           cogni_billing.wallets;
    m           record;
    present     timestamptz;
    own_before  bigint;
    opening     numeric := 0;
    closing     numeric;  -- NULL for the balance of the newest line
    due         json;
BEGIN
    w := (SELECT wallet FROM cogni_billing.wallets AS wallet WHERE tenant_id = me);
    IF w.tenant_id IS NULL THEN
        w := cogni_billing.unopened_wallet(me);
        IF w.tenant_id IS NULL THEN
            RETURN '{"outcome":"unknown_account"}';
        END IF;
    END IF;
    SELECT * INTO m FROM json_to_record(asked) AS page (
        seen bigint, own bigint, kind text, since timestamptz, until timestamptz,
        now timestamptz, size integer);
    IF w.due_at <= greatest(w.as_of, m.now) OR num_nonnulls(m.seen, m.kind, m.since, m.until) > 0
    THEN
        present := greatest(w.as_of, m.now);
        IF m.since IS NOT NULL THEN
            opening := cogni_billing.posted_by(w, present, m.since - just_before);
        END IF;
        closing := cogni_billing.posted_by(
            w, present, coalesce(m.until - just_before, 'infinity'));
        IF w.due_at <= present THEN
            SELECT json_agg(json_build_array(
                seen, own, id, kind, reference, amount, balance, at, drawn, metadata,
                NULL
            )), m.size - count(*) INTO due, m.size FROM (
                SELECT
                    newer.up_to AS seen, w.lines + n AS own, id, kind, reference, change.amount, at,
                    w.posted + so_far + w.received + newer.amount AS balance,
                    CASE WHEN kind = 'grant' THEN nullif((lot).taken, 0)
                        WHEN (lot).priority > 1000000 THEN change.amount END AS drawn, metadata
                FROM cogni_billing.due_lines(w, present) AS change
                CROSS JOIN cogni_billing.newer_arrivals(
                    cogni_billing.account_of(me), w.received_up_to) AS newer
                WHERE (m.seen IS NULL OR w.lines + n < m.own)
                  AND (m.kind IS NULL OR m.kind = kind)
                  AND (m.since IS NULL OR at >= m.since)
                  AND (m.until IS NULL OR at < m.until)
                ORDER BY n DESC
                LIMIT m.size
            ) AS line;
        END IF;
    END IF;
    own_before := CASE
        WHEN m.seen IS NULL THEN w.lines + 1
        WHEN m.own > 0 THEN m.own
        ELSE 1 + (SELECT place FROM cogni_billing.last_line(me, w.lines, 'infinity', m.seen - 1))
    END;
    RETURN (
        WITH line AS MATERIALIZED (
            (
                SELECT
                    seen, position AS own, id, kind, reference, amount, line_at AS at, posted_after,
                    CASE WHEN drawn_amounts IS NOT NULL
                        THEN (SELECT sum(part) FROM unnest(drawn_amounts) AS part)
                            - CASE WHEN w.has_lots THEN cogni_billing.of_purchases(
                                me, drawn_grants, drawn_amounts) ELSE 0 END
                        WHEN w.has_lots AND kind = 'expiry'
                        THEN cogni_billing.of_purchases(me, ARRAY[subject_id], ARRAY[amount])
                        END AS drawn,
                    metadata, used_at
                FROM cogni_billing.transactions
                WHERE tenant_id = me AND position < own_before AND position > 0
                  AND (m.kind IS NULL OR kind = m.kind)
                  AND (m.since IS NULL OR line_at >= m.since)
                  AND (m.until IS NULL OR line_at < m.until)
                ORDER BY position DESC
                LIMIT m.size
            )
            UNION ALL
            (
                SELECT position, 0, transaction_id, kind, NULL, amount, occurred_at, NULL, NULL,
                    NULL, NULL
                FROM cogni_billing.arrivals
                WHERE account_id = cogni_billing.account_of(me)
                  AND position <= CASE
                      WHEN m.seen IS NULL THEN 9223372036854775807
                      WHEN m.own > 0 THEN m.seen
                      ELSE m.seen - 1 END
                  AND (m.kind IS NULL OR kind = m.kind)
                  AND (m.since IS NULL OR occurred_at >= m.since)
                  AND (m.until IS NULL OR occurred_at < m.until)
                ORDER BY position DESC
                LIMIT m.size
            )
            ORDER BY seen DESC, own DESC
            LIMIT m.size
        ), first AS MATERIALIZED (
            SELECT cogni_billing.balance_after(me, w.lines, seen, posted_after) AS balance
            FROM line ORDER BY seen DESC, own DESC LIMIT 1
        ), balanced AS (
            -- Without a filter lines are adjacent: each balance follows from the first one.
            SELECT line.*, CASE WHEN m.kind IS NULL AND m.since IS NULL AND m.until IS NULL
                THEN first.balance - coalesce(sum(amount) OVER (
                    ORDER BY seen DESC, own DESC ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
                ), 0)
                ELSE cogni_billing.balance_after(me, w.lines, seen, posted_after) END AS balance
            FROM line CROSS JOIN first
        )
        SELECT json_build_object(
            'outcome', 'done',
            'opening', opening,
            'closing', coalesce(closing, (SELECT balance FROM first), 0),
            'due', due,
            'lines', coalesce(json_agg(json_build_array(
            seen, own, id, kind, reference, amount, balance, at, drawn, metadata, used_at
        ) ORDER BY seen DESC, own DESC), '[]'))
        FROM balanced
    );
END
$$;

-- The credits of a grant that are left at a moment, with due expirations of holds taken off.
CREATE FUNCTION cogni_billing.left_of(lot cogni_billing.grants, moment timestamptz)
RETURNS numeric
LANGUAGE sql STABLE AS $$
    SELECT CASE WHEN lot.expires_at <= moment THEN 0 ELSE lot.amount - lot.taken + coalesce((
        SELECT sum(pin.amount)
        FROM cogni_billing.holds AS hold
        CROSS JOIN unnest(hold.pinned_grants, hold.pinned_amounts) AS pin (grant_id, amount)
        WHERE hold.tenant_id = lot.tenant_id AND hold.state = 'open' AND hold.ends_at <= moment
          AND pin.grant_id = lot.id
    ), 0) END
$$;

-- Grants with credits left in spend order, or a page of all grants, newest first. What is due is
-- taken into account: expirations, and periods that have begun.
CREATE FUNCTION cogni_billing._grants(me uuid, asked json) RETURNS json
LANGUAGE plpgsql AS $$
DECLARE
    size    CONSTANT bigint := asked ->> 'size';
    last_id CONSTANT uuid := asked ->> 'after';
    before  bigint := 9223372036854775807;
    w       cogni_billing.wallets;
    begun   cogni_billing.grants[] := '{}';
    present timestamptz;
BEGIN
    SELECT * INTO w FROM cogni_billing.wallets WHERE tenant_id = me;
    IF NOT FOUND AND NOT cogni_billing.has_arrivals(me) THEN
        RETURN '{"outcome":"unknown_account"}';
    END IF;
    present := greatest(w.as_of, (asked ->> 'now')::timestamptz);
    IF w.due_at <= present THEN
        begun := ARRAY(
            SELECT lot FROM cogni_billing.due_lines(w, present) WHERE kind = 'grant' ORDER BY n);
    END IF;
    IF size IS NOT NULL THEN
        IF last_id IS NOT NULL THEN
            before := coalesce((
                SELECT position FROM cogni_billing.transactions
                WHERE tenant_id = me AND id = last_id AND kind = 'grant'
            ), (
                SELECT w.lines + n FROM generate_subscripts(begun, 1) AS n
                WHERE begun[n].id = last_id
            ), 0);
        END IF;
        RETURN json_build_object('outcome', 'done', 'grants', coalesce((
            SELECT json_agg(to_json(told) ORDER BY place DESC)
            FROM (
                SELECT (made.lot).*, cogni_billing.left_of(lot, present) AS remaining, made.place
                FROM (
                    SELECT begun[n] AS lot, w.lines + n AS place
                    FROM generate_subscripts(begun, 1) AS n
                    WHERE w.lines + n < before
                    UNION ALL
                    SELECT lot, place
                    FROM (
                        SELECT id, position AS place
                        FROM cogni_billing.transactions
                        WHERE tenant_id = me AND kind = 'grant' AND position < before
                        ORDER BY position DESC
                        LIMIT least(greatest(size, 0), 1000)
                    ) AS line
                    JOIN cogni_billing.grants AS lot ON lot.tenant_id = me AND lot.id = line.id
                    ORDER BY place DESC
                    LIMIT least(greatest(size, 0), 1000)
                ) AS made
            ) AS told
        ), '[]'));
    END IF;
    RETURN json_build_object('outcome', 'done', 'grants', coalesce((
        SELECT json_agg(to_json(told) ORDER BY priority, expires_at, granted_at, id)
        FROM (
            SELECT (each.lot).*, cogni_billing.left_of(lot, present) AS remaining
            FROM (
                SELECT lot FROM cogni_billing.grants AS lot
                WHERE tenant_id = me AND priority <= 1000000
                  AND (expires_at IS NULL OR expires_at > present)
                UNION ALL
                SELECT begun[n] FROM generate_subscripts(begun, 1) AS n
            ) AS each
        ) AS told
        WHERE remaining > 0
    ), '[]'));
END
$$;

-- Purchases that expire and have credits left, in spend order. Due expirations are taken off.
CREATE FUNCTION cogni_billing._lots(me uuid, asked json) RETURNS json
LANGUAGE plpgsql AS $$
DECLARE
    present timestamptz;
BEGIN
    SELECT greatest(as_of, (asked ->> 'now')::timestamptz) INTO present
    FROM cogni_billing.wallets WHERE tenant_id = me;
    IF NOT FOUND AND NOT cogni_billing.has_arrivals(me) THEN
        RETURN '{"outcome":"unknown_account"}';
    END IF;
    RETURN json_build_object('outcome', 'done', 'lots', coalesce((
        SELECT json_agg(to_json(lot) ORDER BY expires_at, granted_at, id)
        FROM (
            SELECT lot.*, bought.reference AS payment,
                cogni_billing.left_of(lot, present) AS remaining
            FROM (
                SELECT id FROM cogni_billing.grants
                WHERE tenant_id = me AND taken < amount AND priority = 1000001
                UNION
                SELECT unnest(pinned_grants) FROM cogni_billing.holds
                WHERE tenant_id = me AND state = 'open' AND ends_at <= present
            ) AS kept
            JOIN cogni_billing.grants AS lot ON lot.tenant_id = me AND lot.id = kept.id
            JOIN cogni_billing.transactions AS bought
                ON bought.tenant_id = me AND bought.id = lot.id
            WHERE lot.priority = 1000001 AND (lot.expires_at IS NULL OR lot.expires_at > present)
        ) AS lot
        WHERE remaining > 0
    ), '[]'));
END
$$;

-- A transaction of the tenant's, by its id or by its kind and reference.
CREATE FUNCTION cogni_billing._find(me uuid, asked json) RETURNS json
LANGUAGE plpgsql AS $$
DECLARE
    by_id CONSTANT uuid := asked ->> 'id';
    made  cogni_billing.transactions;
BEGIN
    IF by_id IS NULL THEN
        SELECT * INTO made FROM cogni_billing.transactions
        WHERE tenant_id = me AND kind = asked ->> 'kind' AND reference = asked ->> 'reference';
    ELSE
        SELECT * INTO made FROM cogni_billing.transactions WHERE tenant_id = me AND id = by_id;
    END IF;
    IF FOUND THEN
        RETURN json_build_object('outcome', 'done', 'stored', cogni_billing.record_of(made));
    ELSIF EXISTS (SELECT FROM cogni_billing.wallets WHERE tenant_id = me)
        OR cogni_billing.has_arrivals(me)
    THEN
        RETURN '{"outcome":"done","stored":null}';
    END IF;
    RETURN '{"outcome":"unknown_account"}';
END
$$;

-- A dispute in its present state.
CREATE FUNCTION cogni_billing.told(made cogni_billing.disputes) RETURNS json
LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN (
        SELECT to_json(told)
        FROM (
            SELECT (made).*, number, state, disputed, lost, chargeback_id, amount, lapsed, shares
            FROM cogni_billing.dispute_changes
            WHERE tenant_id = made.tenant_id AND dispute_id = made.id
            ORDER BY number DESC LIMIT 1
        ) AS told
    );
END
$$;

-- A purchase by its payment, with its returned and disputed parts.
CREATE FUNCTION cogni_billing._payment(me uuid, asked json) RETURNS json
LANGUAGE plpgsql AS $$
DECLARE
    made cogni_billing.transactions;
    lot  record;
BEGIN
    SELECT * INTO made FROM cogni_billing.transactions
    WHERE tenant_id = me AND kind = 'purchase' AND reference = asked ->> 'payment';
    IF NOT FOUND THEN
        RETURN '{"stored":null}';
    END IF;
    SELECT * INTO lot FROM cogni_billing.lot_of(me, made.id, (asked ->> 'now')::timestamptz);
    RETURN json_build_object(
        'stored', cogni_billing.record_of(made),
        'left', lot.remaining,
        'expired', lot.expired,
        'returned', cogni_billing.returned_of(me, made.id),
        'refunded', cogni_billing.refunded_of(me, made.id),
        'failed', (
            SELECT coalesce(json_object_agg(subject_id, id), '{}')
            FROM cogni_billing.transactions AS undone
            WHERE tenant_id = me AND reverses = made.id AND kind = 'reinstatement'
              AND cogni_billing.key_of_refund(me, subject_id) IS NOT NULL),
        'disputes', (
            SELECT coalesce(json_agg(cogni_billing.told(each) ORDER BY opened_at, id), '[]')
            FROM cogni_billing.disputes AS each
            WHERE tenant_id = me AND purchase_id = made.id)
    );
END
$$;

CREATE FUNCTION cogni_billing._dispute(me uuid, asked json) RETURNS json
LANGUAGE plpgsql AS $$
BEGIN
    RETURN coalesce((
        SELECT cogni_billing.told(made) FROM cogni_billing.disputes AS made
        WHERE tenant_id = me AND reference = asked ->> 'reference'), 'null');
END
$$;
