-- Openings: the balance that a tenant brings from another system. Only the service role records one,
-- because its lines are dated in the past.

-- Validates an opening as of `m.at`, and its grants, each of which was granted at its `at`.
CREATE FUNCTION cogni_billing.check_opening(
    m cogni_billing.movement, moment timestamptz, grants json
) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM cogni_billing.check_call(moment, '{}', '-');
    IF m.id IS NULL THEN
        PERFORM cogni_billing.refuse('transactions_have_an_id');
    ELSIF (abs(m.amount) < 1e40 AND scale(m.amount) = 0) IS NOT TRUE THEN
        PERFORM cogni_billing.refuse('amounts_are_whole_and_bounded');
    ELSIF m.actor IS NOT NULL AND NOT cogni_billing.is_visible(m.actor) THEN
        PERFORM cogni_billing.refuse('actors_are_visible_ascii');
    ELSIF (m.at BETWEEN 'epoch' AND moment
        AND CASE json_typeof(grants) WHEN 'array' THEN json_array_length(grants) <= 1000 END
    ) IS NOT TRUE THEN
        PERFORM cogni_billing.refuse('openings_are_of_the_past');
    ELSIF EXISTS (
        SELECT FROM json_populate_recordset(NULL::cogni_billing.movement, grants) AS lot
        WHERE (lot.id IS NOT NULL AND lot.amount > 0 AND lot.amount < 1e40
            AND scale(lot.amount) = 0 AND cogni_billing.is_visible(lot.source)
            AND lot.priority BETWEEN 0 AND 1000000 AND lot.at BETWEEN 'epoch' AND m.at
            AND coalesce(lot.expires_at > m.at AND lot.expires_at < '9999-01-01 00:00:00+00', true)
        ) IS NOT TRUE)
    THEN
        PERFORM cogni_billing.refuse('grants_have_their_terms');
    END IF;
END
$$;

-- Records a transaction of an opening, and its posting on the contra account. Returns the wallet.
CREATE FUNCTION cogni_billing.record_opened(
    w cogni_billing.wallets, m cogni_billing.movement, seen bigint, arrived numeric,
    grants uuid[], amounts numeric[]
) RETURNS cogni_billing.wallets
LANGUAGE plpgsql AS $$
BEGIN
    w.posted := w.posted + m.amount;
    w.lines := w.lines + 1;
    INSERT INTO cogni_billing.transactions (
        tenant_id, id, position, seen, occurred_at, line_at, kind, reference, amount, posted_after,
        arrived, overdraft, drawn_grants, drawn_amounts, actor, metadata
    ) VALUES (
        w.tenant_id, m.id, w.lines, seen, m.at, w.as_of, m.kind, m.reference, m.amount, w.posted,
        arrived, false, grants, amounts, m.actor, '{}'
    )
    ON CONFLICT ON CONSTRAINT transactions_pkey DO NOTHING;
    IF NOT FOUND THEN
        PERFORM cogni_billing.refuse_id(m.id);
    END IF;
    INSERT INTO cogni_billing.arrivals (
        origin_id, transaction_id, sequence, account_id, kind, amount, occurred_at
    ) VALUES (
        w.tenant_id, m.id, 1, cogni_billing.contra_of(m.kind), m.kind, - m.amount, m.at);
    RETURN w;
END
$$;

-- Records a grant of an opening. It repays a debt first. Returns the wallet.
CREATE FUNCTION cogni_billing.open_grant(
    w cogni_billing.wallets, m cogni_billing.movement, seen bigint, arrived numeric
) RETURNS cogni_billing.wallets
LANGUAGE plpgsql AS $$
DECLARE
    short  CONSTANT numeric := w.granted + w.held - w.posted - arrived;
    repaid CONSTANT numeric := CASE WHEN short > 0
        THEN least(m.amount, cogni_billing.debt_of(w.tenant_id, short)) ELSE 0 END;
BEGIN
    INSERT INTO cogni_billing.grants (
        tenant_id, id, amount, taken, source, priority, granted_at, expires_at, first_expires_at
    ) VALUES (
        w.tenant_id, m.id, m.amount, repaid, m.source, m.priority, m.at, m.expires_at, m.expires_at
    )
    ON CONFLICT DO NOTHING;  -- refused below
    w := cogni_billing.record_opened(
        w, m, seen, arrived, CASE WHEN repaid > 0 THEN ARRAY[m.id] END,
        CASE WHEN repaid > 0 THEN ARRAY[repaid] END);
    w.granted := w.granted + m.amount - repaid;
    w.due_at := least(w.due_at, m.expires_at);
    RETURN w;
END
$$;

-- The tenant's opening. The lines before it are those of its grants. NULL if there is none.
CREATE FUNCTION cogni_billing.opened(owner uuid, outcome text) RETURNS json
LANGUAGE sql STABLE AS $$
    SELECT json_build_object(
        'outcome', outcome,
        'stored', cogni_billing.record_of(opening),
        'grants', coalesce((
            SELECT json_agg(cogni_billing.record_of(lot) ORDER BY lot.position)
            FROM cogni_billing.transactions AS lot
            WHERE lot.tenant_id = owner AND lot.position > 0 AND lot.position < opening.position
        ), '[]'))
    FROM cogni_billing.transactions AS opening
    WHERE opening.tenant_id = owner AND opening.kind = 'opening' AND opening.reference = 'opening'
$$;

CREATE FUNCTION cogni_billing._opening(me uuid, asked json) RETURNS json
LANGUAGE plpgsql AS $$
DECLARE
    moment  CONSTANT timestamptz := asked ->> 'now';
    m       cogni_billing.movement := json_populate_record(NULL::cogni_billing.movement, asked);
    lot     cogni_billing.movement;
    w       cogni_billing.wallets;
    due     record;
    newer   record;
    drawn   record;
    answer  json;
    n       integer := 0;
    arrived numeric;
    taking  numeric;
BEGIN
    PERFORM cogni_billing.check_opening(m, moment, asked -> 'grants');
    w := cogni_billing.lock_wallet(me);
    IF w.tenant_id IS NULL THEN
        w := cogni_billing.open_wallet(me, m.at);
    END IF;
    answer := cogni_billing.opened(me, 'replayed');
    IF answer IS NOT NULL THEN
        RETURN answer;
    ELSIF w.lines > 0 OR EXISTS (
        SELECT FROM cogni_billing.schedules WHERE tenant_id = me)
    THEN
        RETURN '{"outcome":"in_use"}';
    END IF;
    SELECT * INTO due FROM cogni_billing.catch_up(w, greatest(w.as_of, m.at));
    IF due.more THEN
        RETURN '{"outcome":"more_due"}';
    END IF;
    w := due.w;
    w.as_of := greatest(w.as_of, m.at);
    IF EXISTS (
        SELECT FROM json_populate_recordset(NULL::cogni_billing.movement, asked -> 'grants') AS each
        WHERE each.expires_at <= w.as_of)
    THEN
        RETURN json_build_object('outcome', 'expired', 'present', w.as_of);
    END IF;
    SELECT * INTO newer
    FROM cogni_billing.newer_arrivals(cogni_billing.account_of(me), w.received_up_to);
    arrived := w.received + newer.amount;
    FOR lot IN
        SELECT * FROM json_populate_recordset(NULL::cogni_billing.movement, asked -> 'grants')
    LOOP
        n := n + 1;
        lot.kind := 'grant';
        lot.reference := 'opening/' || n;
        lot.actor := m.actor;
        w := cogni_billing.open_grant(w, lot, newer.up_to, arrived);
    END LOOP;
    -- A debt takes purchased credits before granted ones.
    taking := greatest(0, - m.amount - greatest(0, w.posted + arrived - w.held - w.granted));
    SELECT * INTO drawn FROM cogni_billing.draw_grants(me, taking);
    w.granted := w.granted - drawn.total;
    m.kind := 'opening';
    m.reference := 'opening';
    w := cogni_billing.record_opened(w, m, newer.up_to, arrived, drawn.grants, drawn.amounts);
    PERFORM cogni_billing.keep_wallet(w);
    UPDATE cogni_billing.wallets SET opened_at = least(opened_at, m.at) WHERE tenant_id = me;
    RETURN cogni_billing.opened(me, 'done');
END
$$;
