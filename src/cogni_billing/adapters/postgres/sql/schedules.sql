-- Schedules: grants that begin by time. Period n begins n calendar units after the anchor.

-- The moment at which a period begins, or 'infinity'. A skipped local time moves forward. A repeated
-- one is the second.
CREATE FUNCTION cogni_billing.begin_of(plan cogni_billing.schedules, number bigint)
RETURNS timestamptz
LANGUAGE sql STABLE AS $$
    SELECT CASE WHEN begins < '9999-01-01 00:00:00+00' THEN begins ELSE 'infinity' END
    FROM (
        SELECT CASE WHEN number = 0 THEN plan.anchor WHEN plan.once THEN 'infinity'
            ELSE (plan.anchor AT TIME ZONE plan.zone + number * CASE plan.every
                WHEN 'day' THEN interval '1 day'
                WHEN 'week' THEN interval '7 days'
                WHEN 'month' THEN interval '1 month'
                WHEN 'year' THEN interval '1 year'
            END) AT TIME ZONE plan.zone END AS begins
    ) AS calendar
$$;

-- When the next period begins. 'infinity' if the schedule has ended.
CREATE FUNCTION cogni_billing.next_of(plan cogni_billing.schedules) RETURNS timestamptz
LANGUAGE sql STABLE AS $$
    SELECT CASE WHEN plan.ended_at IS NULL AND (plan.until IS NULL OR begins < plan.until)
        THEN begins ELSE 'infinity' END
    FROM cogni_billing.begin_of(plan, plan.number) AS begins
$$;

-- The number of the last period that begins by a moment. Negative if there is none.
CREATE FUNCTION cogni_billing.period_by(plan cogni_billing.schedules, moment timestamptz)
RETURNS bigint
LANGUAGE plpgsql STABLE AS $$
DECLARE
    first  CONSTANT timestamp := plan.anchor AT TIME ZONE plan.zone;
    last   CONSTANT timestamp := moment AT TIME ZONE plan.zone;
    months CONSTANT bigint := 12 * (extract(year FROM last) - extract(year FROM first))
        + extract(month FROM last) - extract(month FROM first);
    number bigint;
BEGIN
    number := CASE plan.every
        WHEN 'day' THEN last::date - first::date
        WHEN 'week' THEN (last::date - first::date) / 7
        WHEN 'month' THEN months
        WHEN 'year' THEN months / 12 + 1
        ELSE 0
    END;
    WHILE number >= 0 AND cogni_billing.begin_of(plan, number) > moment LOOP
        number := number - 1;
    END LOOP;
    RETURN number;
END
$$;

-- A schedule after the periods that begin by a moment.
CREATE FUNCTION cogni_billing.moved_to(plan cogni_billing.schedules, moment timestamptz)
RETURNS cogni_billing.schedules
LANGUAGE plpgsql STABLE AS $$
BEGIN
    IF plan.next_at <= moment THEN
        plan.number := 1 + cogni_billing.period_by(
            plan, least(moment, plan.until - interval '1 microsecond'));
        plan.next_at := cogni_billing.next_of(plan);
    END IF;
    RETURN plan;
END
$$;

-- The debt of a wallet as recorded, at a later moment. Holds that end by then give back their
-- purchased part. Credits set aside by disputes are no debt.
CREATE FUNCTION cogni_billing.debt_at(w cogni_billing.wallets, moment timestamptz) RETURNS numeric
LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN greatest(0, w.granted - w.posted
        - cogni_billing.arrived_by(cogni_billing.account_of(w.tenant_id), moment)
        + (
            SELECT coalesce(sum(CASE WHEN ends_at > moment THEN held ELSE (
                SELECT coalesce(sum(pinned), 0) FROM unnest(pinned_amounts) AS pinned
            ) END), 0)
            FROM cogni_billing.holds
            WHERE tenant_id = w.tenant_id AND kind = 'work' AND state = 'open'
        ));
END
$$;

-- An id, or a random one if it is taken: a caller chooses the ids of its transactions.
CREATE FUNCTION cogni_billing.free_id(owner uuid, wanted uuid) RETURNS uuid
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM FROM cogni_billing.transactions WHERE tenant_id = owner AND id = wanted;
    RETURN CASE WHEN FOUND THEN gen_random_uuid() ELSE wanted END;
END
$$;

-- The grants of periods that begin by a moment, in order. `taken` is the part that repays a debt.
CREATE FUNCTION cogni_billing.starts(
    w cogni_billing.wallets, moment timestamptz,
    OUT at timestamptz, OUT plan uuid, OUT reference text, OUT actor text, OUT metadata json,
    OUT lot cogni_billing.grants
) RETURNS SETOF record
LANGUAGE plpgsql STABLE ROWS 10 AS $$
DECLARE
    part record;
BEGIN
    FOR part IN
        SELECT made AS terms, half.amount, begins,
            CASE WHEN made.once THEN made.expires_at
                ELSE nullif(cogni_billing.begin_of(made, n + 1 + longer), 'infinity')
            END AS ends,
            CASE WHEN made.once THEN made.reference
                ELSE made.id || ' ' || n || suffix END AS key
        FROM cogni_billing.schedules AS made
        CROSS JOIN LATERAL cogni_billing.moved_to(made, moment) AS moved
        CROSS JOIN LATERAL generate_series(made.number, moved.number - 1) AS n
        CROSS JOIN LATERAL cogni_billing.begin_of(made, n) AS begins
        CROSS JOIN LATERAL (
            VALUES
                ('', made.amount - coalesce(made.cap, 0), 0),
                (CASE WHEN made.cap < made.amount THEN ' carried' ELSE '' END,
                    least(made.cap, made.amount), made.carries)
        ) AS half (suffix, amount, longer)
        WHERE made.tenant_id = w.tenant_id AND made.next_at < 'infinity' AND made.next_at <= moment
          AND begins <= moment AND half.amount > 0 AND longer >= 0
        ORDER BY begins, made.id, suffix
    LOOP
        at := greatest(part.begins, w.as_of);
        plan := (part.terms).id;
        reference := part.key;
        actor := (part.terms).actor;
        metadata := (part.terms).metadata;
        lot := NULL;
        lot.id := cogni_billing.free_id(
            w.tenant_id,
            CASE WHEN (part.terms).once THEN plan ELSE cogni_billing.id_of(reference) END);
        lot.tenant_id := w.tenant_id;
        lot.amount := part.amount;
        lot.taken := least(part.amount, cogni_billing.debt_at(w, at));
        lot.source := (part.terms).source;
        lot.priority := (part.terms).priority;
        lot.granted_at := at;
        lot.expires_at := part.ends;
        lot.first_expires_at := part.ends;
        lot.expires_in := (part.terms).expires_in;
        lot.effective_from := CASE WHEN (part.terms).once THEN (part.terms).anchor END;
        w.posted := w.posted + lot.taken;
        RETURN NEXT;
    END LOOP;
END
$$;

-- Moves a tenant's schedules past the periods that have begun by a moment.
CREATE FUNCTION cogni_billing.move_schedules(owner uuid, moment timestamptz) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    plan cogni_billing.schedules;
BEGIN
    FOR plan IN
        SELECT * FROM cogni_billing.schedules
        WHERE tenant_id = owner AND next_at < 'infinity' AND next_at <= moment
    LOOP
        plan := cogni_billing.moved_to(plan, moment);
        UPDATE cogni_billing.schedules SET number = plan.number, next_at = plan.next_at
        WHERE tenant_id = owner AND id = plan.id;
    END LOOP;
END
$$;

-- Keeps a grant that begins later.
CREATE FUNCTION cogni_billing.keep_waiting(
    owner uuid, m cogni_billing.movement, balance numeric
) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (
        SELECT FROM cogni_billing.transactions WHERE tenant_id = owner AND id = m.id
    ) THEN
        PERFORM cogni_billing.refuse_id(m.id);
    END IF;
    IF m.amount > 1e27 THEN
        PERFORM cogni_billing.refuse('amounts_are_whole_and_bounded');
    END IF;
    INSERT INTO cogni_billing.schedules (
        tenant_id, id, once, reference, made_at, amount, source, priority, anchor, given_anchor,
        zone, expires_at, expires_in, actor, balance, metadata, first_number, number, next_at
    ) VALUES (
        owner, m.id, true, m.reference, m.at, m.amount, m.source, m.priority, m.effective_from,
        m.effective_from, 'UTC', m.expires_at, m.expires_in, m.actor, balance, m.metadata::json,
        0, 0, m.effective_from
    );
    UPDATE cogni_billing.wallets SET has_schedules = true
    WHERE tenant_id = owner AND NOT has_schedules;
END
$$;

-- A grant that was to begin later, like `record_of`. NULL if there is none with this key.
CREATE FUNCTION cogni_billing.waiting_record(owner uuid, key text) RETURNS json
LANGUAGE plpgsql STABLE AS $$
DECLARE
    plan cogni_billing.schedules;
    made cogni_billing.transactions;
BEGIN
    SELECT * INTO plan FROM cogni_billing.schedules
    WHERE tenant_id = owner AND reference = key AND once;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    made.id := plan.id;
    made.kind := 'grant';
    made.reference := plan.reference;
    made.occurred_at := plan.made_at;
    made.amount := plan.amount;
    made.posted_after := plan.balance;
    made.arrived := 0;
    made.overdraft := false;
    made.actor := plan.actor;
    made.metadata := plan.metadata;
    RETURN (
        SELECT to_json(told) FROM (
            SELECT (made).*, NULL AS rules, plan.source, plan.priority,
                plan.expires_at AS first_expires_at, plan.expires_in,
                plan.anchor AS effective_from, NULL AS payment, NULL AS payment_unit,
                NULL AS reversed_kind, NULL AS lots
        ) AS told
    );
END
$$;

-- A schedule as its tenant may read it, with its periods that have begun by a moment.
CREATE FUNCTION cogni_billing.schedule_json(plan cogni_billing.schedules, moment timestamptz)
RETURNS json
LANGUAGE plpgsql STABLE AS $$
BEGIN
    plan := cogni_billing.moved_to(plan, moment);
    plan.next_at := nullif(plan.next_at, 'infinity');
    RETURN to_json(plan);
END
$$;

-- Records a schedule, and posts the grants of the period that is in course. It may replace another
-- schedule: that ends, and so do the grants of its last period, spent ones too, because a hold or a
-- reversal may give them credits back.
CREATE FUNCTION cogni_billing._schedule(me uuid, asked json) RETURNS json
LANGUAGE plpgsql AS $$
DECLARE
    plan    cogni_billing.schedules := json_populate_record(NULL::cogni_billing.schedules, asked);
    stored  cogni_billing.schedules;
    old     cogni_billing.schedules;
    lot     record;
    due     record;
    w       cogni_billing.wallets;
    present timestamptz;
BEGIN
    PERFORM cogni_billing.check_call(plan.made_at, asked ->> 'metadata', plan.reference);
    plan.metadata := (asked ->> 'metadata')::json;
    IF (plan.id IS NOT NULL
        AND plan.amount > 0 AND plan.amount <= 1e27 AND scale(plan.amount) = 0
        AND cogni_billing.is_visible(plan.source) AND plan.priority BETWEEN 0 AND 1000000
        AND plan.every IN ('day', 'week', 'month', 'year') AND cogni_billing.is_visible(plan.zone)
        AND coalesce(
            plan.given_anchor >= 'epoch' AND plan.given_anchor < '9999-01-01 00:00:00+00', true)
        AND coalesce(plan.until >= 'epoch' AND plan.until < '9999-01-01 00:00:00+00', true)
        AND CASE WHEN plan.cap IS NULL THEN plan.carries IS NULL
            ELSE plan.cap > 0 AND plan.cap <= 1e27 AND scale(plan.cap) = 0
                AND plan.carries BETWEEN 1 AND 1000 END
        AND (plan.actor IS NULL OR cogni_billing.is_visible(plan.actor))
    ) IS NOT TRUE THEN
        PERFORM cogni_billing.refuse('schedules_have_their_terms');
    END IF;
    w := cogni_billing.lock_wallet(me);
    IF w.tenant_id IS NULL THEN
        -- A missing wallet has no row to lock, as in `record`.
        PERFORM pg_advisory_xact_lock(1, hashtext(me::text));
        w := cogni_billing.lock_wallet(me);
    END IF;
    SELECT * INTO stored FROM cogni_billing.schedules
    WHERE tenant_id = me AND reference = plan.reference AND NOT once;
    IF FOUND THEN
        RETURN json_build_object('outcome', 'replayed', 'stored', cogni_billing.schedule_json(
            stored, greatest(w.as_of, plan.made_at)));
    END IF;
    present := greatest(w.as_of, plan.made_at);
    plan.anchor := coalesce(plan.given_anchor, plan.made_at);
    plan.once := false;
    -- AT TIME ZONE takes other names too, of zones whose clocks may run backwards.
    PERFORM FROM pg_timezone_names
    WHERE name = plan.zone AND name NOT LIKE 'posix%' AND name NOT LIKE 'right/%';
    IF NOT FOUND THEN
        RETURN '{"outcome":"unknown_zone"}';
    END IF;
    plan.number := greatest(cogni_billing.period_by(plan, present), 0);
    plan.first_number := plan.number;
    IF w.tenant_id IS NULL THEN
        IF plan.replaces IS NOT NULL THEN
            RETURN '{"outcome":"unknown_schedule"}';
        END IF;
        w := cogni_billing.open_wallet(me, plan.made_at);
    END IF;
    SELECT * INTO due FROM cogni_billing.catch_up(w, present);
    IF due.more THEN
        RETURN '{"outcome":"more_due"}';
    END IF;
    w := due.w;
    w.as_of := present;
    IF plan.replaces IS NOT NULL THEN
        SELECT * INTO old FROM cogni_billing.schedules
        WHERE tenant_id = me AND id = plan.replaces AND NOT once;
        IF NOT FOUND THEN
            RETURN '{"outcome":"unknown_schedule"}';
        END IF;
        PERFORM cogni_billing.end_schedule_at(me, old.id, present);
        FOR lot IN
            SELECT given AS terms, substr(made.reference, 37) AS tail
            FROM cogni_billing.transactions AS made
            JOIN cogni_billing.grants AS given ON given.tenant_id = me AND given.id = made.id
            WHERE made.tenant_id = me AND made.kind = 'grant' AND made.reference IN (
                    old.id || ' ' || (old.number - 1),
                    old.id || ' ' || (old.number - 1) || ' carried')
              AND (given.expires_at IS NULL OR given.expires_at > present)
            ORDER BY made.position
        LOOP
            w := cogni_billing.void_lot(
                w, lot.terms, cogni_billing.id_of('void ' || plan.id || lot.tail),
                plan.id || lot.tail, present, NULL, plan.actor, '{}');
        END LOOP;
    END IF;
    plan.tenant_id := me;
    plan.balance := w.posted + w.received + (
        SELECT amount FROM cogni_billing.newer_arrivals(
            cogni_billing.account_of(me), w.received_up_to));
    plan.expires_at := NULL;
    plan.expires_in := NULL;
    plan.ended_at := NULL;
    plan.next_at := cogni_billing.next_of(plan);
    INSERT INTO cogni_billing.schedules VALUES (plan.*)
    ON CONFLICT ON CONSTRAINT schedules_pkey DO NOTHING;
    IF NOT FOUND THEN
        PERFORM cogni_billing.refuse_id(plan.id);
    END IF;
    UPDATE cogni_billing.wallets SET has_schedules = true
    WHERE tenant_id = me AND NOT has_schedules;
    w.due_at := cogni_billing.next_due(me);
    PERFORM cogni_billing.keep_wallet(w);
    PERFORM cogni_billing.catch_up(w, present);
    SELECT * INTO plan FROM cogni_billing.schedules WHERE tenant_id = me AND id = plan.id;
    RETURN json_build_object(
        'outcome', 'done', 'stored', cogni_billing.schedule_json(plan, present));
END
$$;

-- Ends a schedule. Returns false if it has ended before.
CREATE FUNCTION cogni_billing.end_schedule_at(owner uuid, plan uuid, moment timestamptz)
RETURNS boolean
LANGUAGE plpgsql AS $$
BEGIN
    UPDATE cogni_billing.schedules SET ended_at = moment, next_at = 'infinity'
    WHERE tenant_id = owner AND id = plan AND ended_at IS NULL;
    RETURN FOUND;
END
$$;

-- Ends a schedule: no other period begins. Credits that were granted stay.
CREATE FUNCTION cogni_billing._end_schedule(me uuid, asked json) RETURNS json
LANGUAGE plpgsql AS $$
DECLARE
    w       cogni_billing.wallets := cogni_billing.lock_wallet(me);
    moment  CONSTANT timestamptz := asked ->> 'at';
    present CONSTANT timestamptz := greatest(w.as_of, moment);
    plan    cogni_billing.schedules;
    due     record;
    outcome text := 'replayed';
BEGIN
    PERFORM cogni_billing.check_call(moment, '{}', '-');
    IF w.tenant_id IS NULL THEN
        RETURN '{"outcome":"unknown_account"}';
    END IF;
    SELECT * INTO due FROM cogni_billing.catch_up(w, present);
    IF due.more THEN
        RETURN '{"outcome":"more_due"}';
    END IF;
    SELECT * INTO plan FROM cogni_billing.schedules
    WHERE tenant_id = me AND id = (asked ->> 'id')::uuid AND NOT once;
    IF NOT FOUND THEN
        RETURN '{"outcome":"unknown_schedule"}';
    END IF;
    IF plan.ended_at IS NULL THEN
        w := due.w;
        w.as_of := present;
        PERFORM cogni_billing.end_schedule_at(me, plan.id, present);
        w.due_at := cogni_billing.next_due(me);
        PERFORM cogni_billing.keep_wallet(w);
        SELECT * INTO plan FROM cogni_billing.schedules WHERE tenant_id = me AND id = plan.id;
        outcome := 'done';
    END IF;
    RETURN json_build_object(
        'outcome', outcome, 'stored', cogni_billing.schedule_json(plan, present));
END
$$;

-- A page of the tenant's schedules and of grants that begin later, newest first.
CREATE FUNCTION cogni_billing._schedules(me uuid, asked json) RETURNS json
LANGUAGE plpgsql AS $$
DECLARE
    after   CONSTANT uuid := asked ->> 'after';
    w       cogni_billing.wallets;
    present timestamptz;
    last    record;
BEGIN
    SELECT * INTO w FROM cogni_billing.wallets WHERE tenant_id = me;
    IF NOT FOUND AND NOT cogni_billing.has_arrivals(me) THEN
        RETURN '{"outcome":"unknown_account"}';
    END IF;
    present := greatest(w.as_of, (asked ->> 'now')::timestamptz);
    SELECT made_at, id INTO last FROM cogni_billing.schedules WHERE tenant_id = me AND id = after;
    RETURN json_build_object('outcome', 'done', 'schedules', coalesce((
        SELECT json_agg(cogni_billing.schedule_json(plan, present) ORDER BY made_at DESC, id DESC)
        FROM (
            SELECT * FROM cogni_billing.schedules
            WHERE tenant_id = me AND (after IS NULL OR (made_at, id) < (last.made_at, last.id))
            ORDER BY made_at DESC, id DESC
            LIMIT least(greatest((asked ->> 'size')::bigint, 0), 1000)
        ) AS page
        CROSS JOIN LATERAL (SELECT page::cogni_billing.schedules AS plan) AS whole
    ), '[]'));
END
$$;
