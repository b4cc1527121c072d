-- Changes of one wallet under its lock: grants are drawn, holds end, holds and grants expire. For
-- functions of the keeper. The caller has locked the wallet and writes it back.

-- The sum of an account's arrivals after a position, and the position of the last one.
CREATE FUNCTION cogni_billing.newer_arrivals(
    account uuid, after bigint, OUT amount numeric, OUT up_to bigint
)
LANGUAGE sql STABLE AS $$
    SELECT coalesce(sum(arrivals.amount), 0), coalesce(max(position), after)
    FROM cogni_billing.arrivals
    WHERE account_id = account AND position > after
$$;

-- Takes up to `wanted` credits of a tenant's grants, in spend order. Returns two lists.
CREATE FUNCTION cogni_billing.draw_grants(
    owner uuid, wanted numeric, OUT grants uuid[], OUT amounts numeric[], OUT total numeric
)
LANGUAGE plpgsql AS $$
DECLARE
    lot  record;
    part numeric;
BEGIN
    grants := '{}';
    amounts := '{}';
    total := 0;
    FOR lot IN
        SELECT id, amount - taken AS remaining
        FROM cogni_billing.grants
        WHERE tenant_id = owner AND taken < amount
        ORDER BY priority, expires_at, granted_at, id
    LOOP
        EXIT WHEN total >= wanted;
        part := least(lot.remaining, wanted - total);
        UPDATE cogni_billing.grants SET taken = taken + part
        WHERE tenant_id = owner AND id = lot.id;
        grants := grants || lot.id;
        amounts := amounts || part;
        total := total + part;
    END LOOP;
END
$$;

-- Takes credits back: of the purchase `own` first, then purchased credits that never expire, of
-- which `earned` are available, then of other purchases, the last to expire first, and then of
-- grants, in spend order. Returns two lists.
CREATE FUNCTION cogni_billing.take_back(
    owner uuid, own uuid, wanted numeric, earned numeric,
    OUT grants uuid[], OUT amounts numeric[], OUT total numeric
)
LANGUAGE plpgsql AS $$
DECLARE
    rest  numeric;
    lot   record;
    part  numeric;
    drawn record;
BEGIN
    total := coalesce((
        SELECT least(amount - taken, wanted) FROM cogni_billing.grants
        WHERE tenant_id = owner AND id = own), 0);
    IF total > 0 THEN
        grants := ARRAY[own];
        amounts := ARRAY[total];
    END IF;
    -- A refund of spent credits takes others in their place. Spent ones that come back later, from
    -- a hold or a reversal, must not expire.
    UPDATE cogni_billing.grants
    SET taken = taken + total, expires_at = CASE WHEN total = wanted THEN expires_at END
    WHERE tenant_id = owner AND id = own;
    rest := greatest(0, wanted - total - greatest(0, earned));
    FOR lot IN
        SELECT id, amount - taken AS remaining
        FROM cogni_billing.grants
        WHERE tenant_id = owner AND taken < amount AND priority = 1000001 AND rest > 0
        ORDER BY expires_at DESC, granted_at DESC, id DESC
    LOOP
        EXIT WHEN rest = 0;
        part := least(lot.remaining, rest);
        UPDATE cogni_billing.grants SET taken = taken + part
        WHERE tenant_id = owner AND id = lot.id;
        grants := grants || lot.id;
        amounts := amounts || part;
        total := total + part;
        rest := rest - part;
    END LOOP;
    IF rest > 0 THEN
        SELECT * INTO drawn FROM cogni_billing.draw_grants(owner, rest);
        grants := grants || drawn.grants;
        amounts := amounts || drawn.amounts;
        total := total + drawn.total;
    END IF;
END
$$;

-- Keeps the credits of a purchase that expires. They repay the debt first, like those of a grant.
-- Returns the repaid part as two lists.
CREATE FUNCTION cogni_billing.keep_lot(
    INOUT w cogni_billing.wallets, m cogni_billing.movement, available numeric,
    OUT grants uuid[], OUT amounts numeric[]
)
LANGUAGE plpgsql AS $$
DECLARE
    repaid numeric := 0;
BEGIN
    IF w.granted > available THEN
        repaid := least(m.amount, cogni_billing.debt_of(w.tenant_id, w.granted - available));
    END IF;
    IF repaid > 0 THEN
        grants := ARRAY[m.id];
        amounts := ARRAY[repaid];
    END IF;
    INSERT INTO cogni_billing.grants (
        tenant_id, id, amount, taken, priority, granted_at, expires_at, first_expires_at, expires_in
    ) VALUES (
        w.tenant_id, m.id, m.amount, repaid, 1000001, m.at, m.expires_at, m.expires_at,
        m.expires_in
    )
    ON CONFLICT DO NOTHING;  -- the caller refuses the id
    UPDATE cogni_billing.wallets SET has_lots = true WHERE tenant_id = w.tenant_id AND NOT has_lots;
    w.has_lots := true;
    w.granted := w.granted + m.amount - repaid;
    w.due_at := least(w.due_at, m.expires_at);
END
$$;

-- The credits of a purchase that are left at a moment, and those that have expired and were not
-- taken back since. Both are zero if the purchase never expires.
CREATE FUNCTION cogni_billing.lot_of(
    owner uuid, bought uuid, moment timestamptz, OUT remaining numeric, OUT expired numeric
)
LANGUAGE plpgsql STABLE AS $$
DECLARE
    lot     cogni_billing.grants;
    w       cogni_billing.wallets;
    present timestamptz;
BEGIN
    remaining := 0;
    expired := 0;
    SELECT * INTO lot FROM cogni_billing.grants WHERE tenant_id = owner AND id = bought;
    IF FOUND THEN
        SELECT * INTO w FROM cogni_billing.wallets WHERE tenant_id = owner;
        present := greatest(w.as_of, moment);
        remaining := cogni_billing.left_of(lot, present);
        expired := (
            SELECT coalesce(- sum(amount), 0) FROM cogni_billing.transactions
            WHERE tenant_id = owner AND kind = 'expiry'
              -- A range of the index: "A" comes after "@".
              AND reference > bought || '@' AND reference < bought || 'A'
        ) + (
            SELECT coalesce(- sum(amount), 0) FROM cogni_billing.due_changes(w, present) AS due
            WHERE w.due_at <= present AND kind = 'expiry' AND (due.lot).id = bought
        ) - (
            SELECT coalesce(sum(CASE kind WHEN 'reinstatement' THEN - lapsed ELSE lapsed END), 0)
            FROM cogni_billing.transactions
            WHERE tenant_id = owner AND reverses = bought
        );
    END IF;
END
$$;

-- The purchases among the grants that a transaction drew. NULL if there are none.
CREATE FUNCTION cogni_billing.purchases_among(owner uuid, drawn uuid[]) RETURNS uuid[]
LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN (
        SELECT array_agg(id) FROM cogni_billing.grants
        WHERE tenant_id = owner AND id = ANY (drawn) AND priority = 1000001);
END
$$;

-- The sum of amounts that are of purchases.
CREATE FUNCTION cogni_billing.of_purchases(owner uuid, drawn uuid[], amounts numeric[])
RETURNS numeric
LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN (
        SELECT coalesce(sum(part), 0)
        FROM unnest(drawn, amounts) AS draw (lot, part)
        WHERE lot = ANY (cogni_billing.purchases_among(owner, drawn)));
END
$$;

-- The debt of a tenant, if its credits without granted ones are short of zero by so much. Credits
-- that open disputes set aside for a time are no debt.
CREATE FUNCTION cogni_billing.debt_of(owner uuid, short numeric) RETURNS numeric
LANGUAGE sql STABLE AS $$
    SELECT greatest(0, short - coalesce(sum(amount), 0))
    FROM cogni_billing.holds
    WHERE tenant_id = owner AND kind = 'dispute' AND state = 'open'
$$;

-- Gives a part back to a grant.
CREATE FUNCTION cogni_billing.give_back(
    INOUT w cogni_billing.wallets, lot uuid, part numeric
)
LANGUAGE plpgsql AS $$
DECLARE
    due timestamptz;
BEGIN
    UPDATE cogni_billing.grants SET taken = taken - part
    WHERE tenant_id = w.tenant_id AND id = lot
    RETURNING expires_at INTO due;
    w.granted := w.granted + part;
    w.due_at := least(w.due_at, due);
END
$$;

-- Ends an open hold, of which `used` credits are captured. Returns the used parts of its grants as
-- two lists. Unused parts go back to the grants.
CREATE FUNCTION cogni_billing.end_hold(
    INOUT w cogni_billing.wallets, hold cogni_billing.holds, ending text, used numeric,
    moment timestamptz, OUT grants uuid[], OUT amounts numeric[]
)
LANGUAGE plpgsql AS $$
DECLARE
    pinned numeric;
    part   numeric;
BEGIN
    UPDATE cogni_billing.holds
    SET state = ending, captured = captured + used, held = 0,
        ends_at = greatest(opened_at, moment)
    WHERE tenant_id = hold.tenant_id AND id = hold.id;
    w.held := w.held - hold.held;
    FOR i IN 1 .. coalesce(cardinality(hold.pinned_grants), 0) LOOP
        pinned := hold.pinned_amounts[i];
        part := least(pinned, used);
        IF part > 0 THEN
            used := used - part;
            grants := grants || hold.pinned_grants[i];
            amounts := amounts || part;
        END IF;
        IF part < pinned THEN
            w := cogni_billing.give_back(w, hold.pinned_grants[i], pinned - part);
        END IF;
    END LOOP;
END
$$;

-- Gives a part of a charge or a capture back, newest draw first: purchased credits, then grants.
-- Fills in the movement. Returns the parts that go back to grants as two lists, or a refusal.
CREATE FUNCTION cogni_billing.give_back_charge(
    INOUT w cogni_billing.wallets, INOUT m cogni_billing.movement, moment timestamptz,
    OUT grants uuid[], OUT amounts numeric[], OUT refusal text
)
LANGUAGE plpgsql AS $$
DECLARE
    charged cogni_billing.transactions;
    before  numeric;
    place   numeric;
    part    numeric;
    ends    timestamptz;
BEGIN
    IF (m.amount = 0 AND num_nonnulls(
            m.returned, m.returned_total, m.shortfall, m.absorbed, m.lapsed) = 0
        AND coalesce(m.part > 0 AND m.part < 1e40 AND scale(m.part) = 0, m.part IS NULL)
        AND (m.reason IS NULL OR cogni_billing.is_reason(m.reason))) IS NOT TRUE
    THEN
        PERFORM cogni_billing.refuse('reversals_give_back_a_part');
    END IF;
    SELECT * INTO charged FROM cogni_billing.transactions
    WHERE tenant_id = w.tenant_id AND id = m.reverses AND kind IN (/* is_usage */);
    IF NOT FOUND THEN
        refusal := '{"outcome":"unknown_charge"}';
        RETURN;
    END IF;
    SELECT coalesce(max(returned_total), 0) INTO before FROM cogni_billing.transactions
    WHERE tenant_id = w.tenant_id AND reverses = m.reverses;
    m.returned := coalesce(m.part, - charged.amount - before);
    m.returned_total := before + m.returned;
    IF m.returned = 0 OR m.returned_total > - charged.amount THEN
        refusal := format('{"outcome":"exceeds_charge","charged":%s,"remaining":%s}',
            - charged.amount, - charged.amount - before);
        RETURN;
    END IF;
    m.absorbed := 0;
    grants := '{}';
    amounts := '{}';
    place := - charged.amount - (
        SELECT coalesce(sum(drawn), 0) FROM unnest(charged.drawn_amounts) AS drawn);
    FOR i IN REVERSE coalesce(cardinality(charged.drawn_grants), 0) .. 1 LOOP
        part := least(m.returned_total, place + charged.drawn_amounts[i]) - greatest(before, place);
        place := place + charged.drawn_amounts[i];
        CONTINUE WHEN part <= 0;
        -- Credits that go back to a purchase expire once more, in a line of their own.
        SELECT CASE WHEN priority <= 1000000 THEN expires_at END INTO ends
        FROM cogni_billing.grants
        WHERE tenant_id = w.tenant_id AND id = charged.drawn_grants[i];
        IF ends <= moment THEN
            m.absorbed := m.absorbed + part;
        ELSE
            w := cogni_billing.give_back(w, charged.drawn_grants[i], part);
            grants := grants || charged.drawn_grants[i];
            amounts := amounts || part;
        END IF;
    END LOOP;
    m.amount := m.returned - m.absorbed;
END
$$;

-- The times at which the tenant's holds and grants expire, and schedules begin a period, up to a
-- moment.
CREATE FUNCTION cogni_billing.due(owner uuid, moment timestamptz) RETURNS SETOF timestamptz
LANGUAGE sql STABLE ROWS 10 AS $$
    SELECT ends_at FROM cogni_billing.holds
    WHERE tenant_id = owner AND kind = 'work' AND state = 'open' AND ends_at <= moment
    UNION ALL
    SELECT expires_at FROM cogni_billing.grants
    WHERE tenant_id = owner AND taken < amount AND expires_at <= moment
    UNION ALL
    SELECT next_at FROM cogni_billing.schedules
    WHERE tenant_id = owner AND next_at < 'infinity' AND next_at <= moment
$$;

-- The next of these times. 'infinity' if there is none.
CREATE FUNCTION cogni_billing.next_due(owner uuid) RETURNS timestamptz
LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN coalesce((
        SELECT min(instant) FROM cogni_billing.due(owner, 'infinity') AS instant), 'infinity');
END
$$;

-- Grants that begin or expire by a moment, each at its own instant but never in the wallet's past.
-- The remaining credits of a grant expire, and pins that expiring holds give back to an expired one.
CREATE FUNCTION cogni_billing.due_changes(
    w cogni_billing.wallets, moment timestamptz,
    OUT at timestamptz, OUT kind text, OUT amount numeric, OUT plan uuid, OUT reference text,
    OUT actor text, OUT metadata json, OUT lot cogni_billing.grants
) RETURNS SETOF record
LANGUAGE sql STABLE ROWS 10 AS $$
    WITH start AS MATERIALIZED (
        SELECT * FROM cogni_billing.starts(w, moment)
    )
    SELECT at, 'grant', (lot).amount, plan, reference, actor, metadata, lot FROM start
    UNION ALL
    SELECT greatest(instant, w.as_of), 'expiry', - sum(part), NULL, NULL, NULL, '{}', lot
    FROM (
        SELECT lot.expires_at AS instant, lot.amount - lot.taken AS part, lot
        FROM cogni_billing.grants AS lot
        WHERE tenant_id = w.tenant_id AND taken < lot.amount AND expires_at <= moment
        UNION ALL
        SELECT greatest(hold.ends_at, lot.expires_at), pin.amount, lot
        FROM cogni_billing.holds AS hold
        CROSS JOIN unnest(hold.pinned_grants, hold.pinned_amounts) AS pin (grant_id, amount)
        JOIN cogni_billing.grants AS lot
            ON lot.tenant_id = w.tenant_id AND lot.id = pin.grant_id
        WHERE hold.tenant_id = w.tenant_id AND hold.kind = 'work' AND hold.state = 'open'
          AND hold.ends_at <= moment AND lot.expires_at <= moment
        UNION ALL
        SELECT (lot).expires_at, (lot).amount - (lot).taken, lot
        FROM start
        WHERE (lot).expires_at <= moment AND (lot).taken < (lot).amount
    ) AS parts
    GROUP BY greatest(instant, w.as_of), lot
$$;

-- The id of a transaction that the ledger makes, from its key.
CREATE FUNCTION cogni_billing.id_of(key text) RETURNS uuid
LANGUAGE sql IMMUTABLE AS $$
    SELECT encode(substr(sha256(convert_to(key, 'UTF8')), 1, 16), 'hex')::uuid
$$;

-- The lines that post due changes by a moment, in order. At one instant grants expire before
-- others begin: 'expiry' sorts before 'grant'. `so_far` is the running sum. A grant expires once
-- more if a hold returns credits to it later, so its times are counted.
CREATE FUNCTION cogni_billing.due_lines(
    w cogni_billing.wallets, moment timestamptz,
    OUT n bigint, OUT at timestamptz, OUT kind text, OUT amount numeric, OUT so_far numeric,
    OUT reference text, OUT id uuid, OUT actor text, OUT metadata json, OUT lot cogni_billing.grants
) RETURNS SETOF record
LANGUAGE sql ROWS 10 AS $$
    SELECT n, at, kind, amount, so_far, key, CASE kind WHEN 'grant' THEN (lot).id
        ELSE cogni_billing.free_id(w.tenant_id, cogni_billing.id_of(key)) END, actor, metadata, lot
    FROM (
        SELECT due.*, coalesce(due.reference, (lot).id || '@' || (
                row_number() OVER (PARTITION BY due.kind, (lot).id ORDER BY due.at) + (
                    SELECT count(*)
                    FROM cogni_billing.transactions
                    WHERE tenant_id = w.tenant_id AND transactions.kind = 'expiry'
                      -- A range of the index: "A" comes after "@".
                      AND transactions.reference > (lot).id || '@'
                      AND transactions.reference < (lot).id || 'A'
                ))) AS key,
            row_number() OVER sequence AS n,
            sum(due.amount) OVER sequence AS so_far
        FROM cogni_billing.due_changes(w, moment) AS due
        WINDOW sequence AS (
            ORDER BY due.at, due.kind, plan, due.reference COLLATE "C", (lot).priority,
                (lot).expires_at, (lot).granted_at, (lot).id
            ROWS UNBOUNDED PRECEDING)
    ) AS line
    ORDER BY n
$$;

-- Posts what is due by a moment: holds expire, grants begin, and the remaining credits of each
-- expired grant are taken, each in a balanced transaction at its own instant.
CREATE FUNCTION cogni_billing.post_due(w cogni_billing.wallets, moment timestamptz)
RETURNS cogni_billing.wallets
LANGUAGE plpgsql AS $$
DECLARE
    owner    CONSTANT uuid := w.tenant_id;
    newer    record;
    posted   record;
    freed    numeric;
    unheld   numeric;
    last_due timestamptz;
BEGIN
    SELECT max(instant) INTO last_due FROM cogni_billing.due(owner, moment) AS instant;
    IF last_due IS NOT NULL THEN
        SELECT * INTO newer FROM cogni_billing.newer_arrivals(
            cogni_billing.account_of(owner), w.received_up_to);
        WITH change AS MATERIALIZED (
            SELECT * FROM cogni_billing.due_lines(w, moment)
        ), line AS (
            INSERT INTO cogni_billing.transactions (
                tenant_id, id, position, seen, occurred_at, line_at, kind, reference, amount,
                posted_after, arrived, overdraft, subject_id, drawn_grants, drawn_amounts, actor,
                metadata
            )
            SELECT
                owner, id, w.lines + n, newer.up_to, at, at, kind, reference, amount,
                w.posted + so_far, w.received + newer.amount, false,
                CASE kind WHEN 'expiry' THEN (lot).id END,
                CASE WHEN kind = 'grant' AND (lot).taken > 0 THEN ARRAY[id] END,
                CASE WHEN kind = 'grant' AND (lot).taken > 0 THEN ARRAY[(lot).taken] END,
                actor, metadata
            FROM change
            ORDER BY n
        ), leg AS (
            INSERT INTO cogni_billing.arrivals (
                origin_id, transaction_id, sequence, account_id, kind, amount, occurred_at
            )
            SELECT owner, id, 1, cogni_billing.contra_of(kind), kind, - amount, at
            FROM change
            ORDER BY n
        ), begun AS (
            INSERT INTO cogni_billing.grants SELECT (lot).* FROM change WHERE kind = 'grant'
        )
        SELECT count(*) AS lines, coalesce(sum(amount), 0) AS total, max(at) AS last_at,
            coalesce(sum((lot).taken) FILTER (WHERE kind = 'grant'), 0) AS repaid
        INTO posted
        FROM change;
        WITH pin AS (
            SELECT grant_id, sum(pinned.amount) AS amount
            FROM cogni_billing.holds
            CROSS JOIN unnest(pinned_grants, pinned_amounts) AS pinned (grant_id, amount)
            WHERE tenant_id = owner AND kind = 'work' AND state = 'open' AND ends_at <= moment
            GROUP BY grant_id
        ), returned AS (
            UPDATE cogni_billing.grants
            SET taken = CASE WHEN expires_at <= moment THEN amount
                ELSE taken - (SELECT pin.amount FROM pin WHERE grant_id = id) END
            WHERE tenant_id = owner
              AND (taken < amount AND expires_at <= moment OR id IN (SELECT grant_id FROM pin))
        )
        SELECT coalesce(sum(amount), 0) INTO freed FROM pin;
        WITH expired AS (
            UPDATE cogni_billing.holds SET state = 'expired', held = 0
            WHERE tenant_id = owner AND kind = 'work' AND state = 'open' AND ends_at <= moment
        )
        -- As it was before the update.
        SELECT coalesce(sum(held), 0) INTO unheld FROM cogni_billing.holds
        WHERE tenant_id = owner AND kind = 'work' AND state = 'open' AND ends_at <= moment;
        PERFORM cogni_billing.move_schedules(owner, moment);
        w.posted := w.posted + posted.total;
        w.lines := w.lines + posted.lines;
        w.held := w.held - unheld;
        w.granted := w.granted + freed + posted.total - posted.repaid;
        w.as_of := greatest(w.as_of, last_due, posted.last_at);
    END IF;
    w.due_at := cogni_billing.next_due(owner);
    RETURN w;
END
$$;

-- Writes a wallet back.
CREATE FUNCTION cogni_billing.keep_wallet(w cogni_billing.wallets) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    UPDATE cogni_billing.wallets
    SET posted = w.posted, held = w.held, granted = w.granted, lines = w.lines, as_of = w.as_of,
        due_at = w.due_at
    WHERE tenant_id = w.tenant_id;
END
$$;

-- Posts what is due on a locked wallet and writes it. `more` if others are due. One call posts a
-- thousand holds, grants and periods of a schedule, and those of the same instant as the last.
CREATE FUNCTION cogni_billing.catch_up(
    INOUT w cogni_billing.wallets, moment timestamptz, OUT more boolean
)
LANGUAGE plpgsql AS $$
DECLARE
    horizon timestamptz := moment;
BEGIN
    IF w.due_at <= moment THEN
        SELECT least(min(instant), moment) INTO horizon FROM (
            (
                SELECT instant FROM cogni_billing.due(w.tenant_id, moment) AS instant
                ORDER BY instant OFFSET 999 LIMIT 1
            )
            UNION ALL
            SELECT cogni_billing.begin_of(plan, plan.number + 999)
            FROM cogni_billing.schedules AS plan
            WHERE tenant_id = w.tenant_id AND next_at < 'infinity' AND next_at <= moment
        ) AS last_one;
        w := cogni_billing.post_due(w, horizon);
        PERFORM cogni_billing.keep_wallet(w);
    END IF;
    more := horizon < moment;
END
$$;

-- Locks a tenant's wallet. NULL if there is none. Here and in other functions, a whole row is one
-- value: PostgreSQL would prepare each column of a list anew in each transaction.
CREATE FUNCTION cogni_billing.lock_wallet(owner uuid) RETURNS cogni_billing.wallets
LANGUAGE plpgsql AS $$
BEGIN
    RETURN (
        SELECT wallet FROM cogni_billing.wallets AS wallet
        WHERE tenant_id = owner FOR NO KEY UPDATE);
END
$$;

-- A tenant's own hold. NULL if there is none.
CREATE FUNCTION cogni_billing.hold_of(owner uuid, hold_id uuid) RETURNS cogni_billing.holds
LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN (
        SELECT hold FROM cogni_billing.holds AS hold
        WHERE tenant_id = owner AND id = hold_id AND kind = 'work');
END
$$;

-- Opens and locks a tenant's wallet, starting from the last checkpoint of its arrivals.
CREATE FUNCTION cogni_billing.open_wallet(owner uuid, moment timestamptz)
RETURNS cogni_billing.wallets
LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO cogni_billing.wallets (tenant_id, opened_at, received, received_up_to)
    SELECT owner, moment, coalesce(folded.arrived, 0), coalesce(folded.up_to, 0)
    FROM (SELECT) AS always LEFT JOIN (
        SELECT arrived, up_to FROM cogni_billing.checkpoints
        WHERE account_id = cogni_billing.account_of(owner)
        ORDER BY up_to DESC LIMIT 1
    ) AS folded ON true
    ON CONFLICT DO NOTHING;
    RETURN cogni_billing.lock_wallet(owner);
END
$$;
