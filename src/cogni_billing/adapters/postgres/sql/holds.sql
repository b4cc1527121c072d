-- Holds: credits set aside before their cost is known.

-- Sets credits aside, granted ones first, in spend order.
CREATE FUNCTION cogni_billing._hold(me uuid, asked json) RETURNS json
LANGUAGE plpgsql AS $$
DECLARE
    account   CONSTANT uuid := cogni_billing.account_of(me);
    w         cogni_billing.wallets;
    was       uuid;
    m         record;
    present   timestamptz;
    due       record;
    available numeric;
    drawn     numeric;
    from_grants  uuid[];
    from_amounts numeric[];
BEGIN
    SELECT * INTO m FROM json_to_record(asked) AS hold (
        id uuid, at timestamptz, reference text, amount numeric, expires_at timestamptz,
        expires_in bigint, ends_at timestamptz, metadata text);
    PERFORM cogni_billing.check_call(m.at, m.metadata, m.reference);
    IF (m.id IS NOT NULL AND m.amount > 0 AND m.amount < 1e40 AND scale(m.amount) = 0) IS NOT TRUE
    THEN
        PERFORM cogni_billing.refuse('amounts_are_whole_and_bounded');
    ELSIF (m.ends_at = coalesce(m.expires_at, '9998-12-31 23:59:59.999999+00')
        AND m.ends_at < '9999-01-01 00:00:00+00') IS NOT TRUE
    THEN
        PERFORM cogni_billing.refuse('holds_end');
    ELSIF m.expires_in IS NOT NULL THEN
        IF NOT cogni_billing.is_lifetime(m.expires_at, m.expires_in, m.at) THEN
            PERFORM cogni_billing.refuse('holds_end');
        END IF;
    END IF;
    SELECT id INTO was FROM cogni_billing.holds
    WHERE tenant_id = me AND kind = 'work' AND reference = m.reference;
    IF NOT FOUND THEN
        w := cogni_billing.lock_wallet(me);
        -- Another call may have recorded the key while this one waited for the lock.
        SELECT id INTO was FROM cogni_billing.holds
        WHERE tenant_id = me AND kind = 'work' AND reference = m.reference;
    END IF;
    IF was IS NOT NULL THEN
        RETURN json_build_object(
            'outcome', 'replayed', 'stored', to_json(cogni_billing.hold_of(me, was)),
            'present', greatest(
                m.at, (SELECT as_of FROM cogni_billing.wallets WHERE tenant_id = me)));
    ELSIF w.tenant_id IS NULL THEN
        RETURN '{"outcome":"unknown_account"}';
    END IF;
    present := greatest(w.as_of, m.at);
    IF w.due_at <= present THEN
        SELECT * INTO due FROM cogni_billing.catch_up(w, present);
        IF due.more THEN
            RETURN '{"outcome":"more_due"}';
        END IF;
        w := due.w;
    END IF;
    IF m.ends_at <= present THEN
        RETURN json_build_object('outcome', 'expired', 'present', present);
    END IF;
    SELECT w.posted + w.received - w.held + coalesce(sum(amount), 0) INTO available
    FROM cogni_billing.arrivals
    WHERE account_id = account AND position > w.received_up_to;
    IF w.frozen_at IS NOT NULL OR m.amount > available THEN
        IF w.frozen_at IS NOT NULL THEN
            RETURN json_build_object('outcome', 'frozen', 'since', w.frozen_at);
        END IF;
        RETURN json_build_object('outcome', 'insufficient', 'available', available);
    END IF;
    IF w.granted > 0 THEN
        SELECT * INTO from_grants, from_amounts, drawn
        FROM cogni_billing.draw_grants(me, m.amount);
        w.granted := w.granted - drawn;
    END IF;
    INSERT INTO cogni_billing.holds (
        tenant_id, id, kind, reference, requested, requested_until, expires_in, drawn_grants,
        drawn_amounts, opened_at, metadata, amount, held, expires_at, ends_at, pinned_grants,
        pinned_amounts
    ) VALUES (
        me, m.id, 'work', m.reference, m.amount,
        CASE WHEN m.expires_in IS NULL THEN m.expires_at END, m.expires_in, from_grants,
        from_amounts, m.at, m.metadata::json, m.amount, m.amount, m.expires_at, m.ends_at,
        from_grants, from_amounts
    )
    ON CONFLICT ON CONSTRAINT holds_pkey DO NOTHING;
    IF NOT FOUND THEN
        PERFORM cogni_billing.refuse_id(m.id);
    END IF;
    w.held := w.held + m.amount;
    w.as_of := present;
    w.due_at := least(w.due_at, m.ends_at);
    PERFORM cogni_billing.keep_wallet(w);
    RETURN '{"outcome":"done"}';
END
$$;

-- Releases an open hold.
CREATE FUNCTION cogni_billing._release(me uuid, asked json) RETURNS json
LANGUAGE plpgsql AS $$
DECLARE
    w       cogni_billing.wallets := cogni_billing.lock_wallet(me);
    moment  CONSTANT timestamptz := (asked ->> 'at')::timestamptz;
    present CONSTANT timestamptz := greatest(w.as_of, moment);
    hold    cogni_billing.holds;
    due     record;
    ended   record;
    outcome text := 'replayed';
BEGIN
    PERFORM cogni_billing.check_call(moment, '{}', '-');
    IF w.tenant_id IS NULL THEN
        RETURN '{"outcome":"unknown_account"}';
    END IF;
    IF w.due_at <= present THEN
        SELECT * INTO due FROM cogni_billing.catch_up(w, present);
        IF due.more THEN
            RETURN '{"outcome":"more_due"}';
        END IF;
        w := due.w;
    END IF;
    hold := cogni_billing.hold_of(me, (asked ->> 'id')::uuid);
    IF hold.id IS NULL THEN
        RETURN '{"outcome":"unknown_hold"}';
    ELSIF hold.state = 'open' THEN
        SELECT * INTO ended FROM cogni_billing.end_hold(w, hold, 'released', 0, present);
        w := ended.w;
        w.as_of := present;
        PERFORM cogni_billing.keep_wallet(w);
        hold := cogni_billing.hold_of(me, hold.id);
        outcome := 'done';
    ELSIF hold.state <> 'released' THEN
        RETURN json_build_object('outcome', 'hold_closed', 'state', hold.state);
    END IF;
    RETURN json_build_object('outcome', outcome, 'stored', to_json(hold));
END
$$;

-- Changes of open holds --------------------------------------------------------------------------
--
-- Each function changes the hold and the wallet in memory. `keep_change` writes the hold.

-- Sets more credits aside for a hold, granted ones first, in spend order. Returns the parts of
-- grants as two lists.
CREATE FUNCTION cogni_billing.add_to_hold(
    INOUT w cogni_billing.wallets, INOUT hold cogni_billing.holds, added numeric,
    OUT grants uuid[], OUT amounts numeric[]
)
LANGUAGE plpgsql AS $$
DECLARE
    drawn numeric;
    place integer;
BEGIN
    hold.amount := hold.amount + added;
    hold.held := hold.held + added;
    w.held := w.held + added;
    IF w.granted > 0 AND added > 0 THEN
        SELECT * INTO grants, amounts, drawn FROM cogni_billing.draw_grants(w.tenant_id, added);
        w.granted := w.granted - drawn;
        FOR i IN 1 .. cardinality(grants) LOOP
            place := array_position(hold.pinned_grants, grants[i]);
            IF place IS NULL THEN
                hold.pinned_grants := hold.pinned_grants || grants[i];
                hold.pinned_amounts := hold.pinned_amounts || amounts[i];
            ELSE
                hold.pinned_amounts[place] := hold.pinned_amounts[place] + amounts[i];
            END IF;
        END LOOP;
    END IF;
END
$$;

-- Takes a part of the held credits. A capture takes granted ones first. A release takes purchased
-- ones first, which a capture would take last. Returns the parts of grants as two lists.
CREATE FUNCTION cogni_billing.take_from_hold(
    INOUT w cogni_billing.wallets, INOUT hold cogni_billing.holds, part numeric, releases boolean,
    OUT grants uuid[], OUT amounts numeric[]
)
LANGUAGE plpgsql AS $$
DECLARE
    pins   CONSTANT integer := coalesce(cardinality(hold.pinned_grants), 0);
    wanted numeric := part;
    taken  numeric;
    place  integer;
BEGIN
    IF releases THEN
        wanted := part - hold.held + (
            SELECT coalesce(sum(pinned), 0) FROM unnest(hold.pinned_amounts) AS pinned);
    END IF;
    FOR n IN 1 .. pins LOOP
        place := CASE WHEN releases THEN pins + 1 - n ELSE n END;
        taken := least(hold.pinned_amounts[place], wanted);
        EXIT WHEN taken <= 0;
        wanted := wanted - taken;
        grants := grants || hold.pinned_grants[place];
        amounts := amounts || taken;
        hold.pinned_amounts[place] := hold.pinned_amounts[place] - taken;
    END LOOP;
    IF 0 = ANY (hold.pinned_amounts) THEN
        SELECT array_agg(lot ORDER BY n), array_agg(pinned ORDER BY n)
        INTO hold.pinned_grants, hold.pinned_amounts
        FROM unnest(hold.pinned_grants, hold.pinned_amounts) WITH ORDINALITY AS pin (lot, pinned, n)
        WHERE pinned > 0;
    END IF;
    hold.held := hold.held - part;
    w.held := w.held - part;
END
$$;

-- Writes a hold and its change. `asked` are the key and the fields that the caller gave, if any.
CREATE FUNCTION cogni_billing.keep_change(
    hold cogni_billing.holds, change text, amount numeric, grants uuid[], amounts numeric[],
    moment timestamptz, asked json
) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    lifetime CONSTANT bigint := asked ->> 'expires_in';
BEGIN
    INSERT INTO cogni_billing.hold_changes (
        tenant_id, hold_id, number, kind, id, reference, at, amount, grants, amounts, requested,
        requested_until, expires_in
    )
    SELECT
        hold.tenant_id, hold.id, coalesce(max(number), 0) + 1, change,
        (asked ->> 'id')::uuid, asked ->> 'reference',
        moment, keep_change.amount, keep_change.grants, keep_change.amounts,
        (asked ->> 'amount')::numeric,
        CASE WHEN lifetime IS NULL THEN (asked ->> 'expires_at')::timestamptz END, lifetime
    FROM cogni_billing.hold_changes
    WHERE tenant_id = hold.tenant_id AND hold_id = hold.id;
    UPDATE cogni_billing.holds
    SET amount = hold.amount, captured = hold.captured, held = hold.held, changed = true,
        state = hold.state, expires_at = hold.expires_at, ends_at = hold.ends_at,
        pinned_grants = hold.pinned_grants, pinned_amounts = hold.pinned_amounts
    WHERE tenant_id = hold.tenant_id AND id = hold.id;
END
$$;

-- Captures credits of an open hold in part, or beyond the held ones. Returns a refusal, or the used
-- parts of grants as two lists.
CREATE FUNCTION cogni_billing.capture_hold(
    INOUT w cogni_billing.wallets, hold cogni_billing.holds, m cogni_billing.movement,
    available numeric, present timestamptz, OUT refusal text, OUT grants uuid[],
    OUT amounts numeric[]
)
LANGUAGE plpgsql AS $$
DECLARE
    cost   CONSTANT numeric := - m.amount;
    excess CONSTANT numeric := cost - hold.held;
    more   record;
    taken  record;
BEGIN
    IF m.overrun NOT IN ('available', 'overdraft') OR m.final THEN
        PERFORM cogni_billing.refuse('captures_have_their_rules');
    END IF;
    IF excess > 0 THEN
        IF m.overrun IS NOT NULL AND w.frozen_at IS NOT NULL THEN
            refusal := format('{"outcome":"frozen","since":%s}', to_json(w.frozen_at));
            RETURN;
        ELSIF m.overrun IS NULL OR m.overrun = 'available' AND excess > available THEN
            refusal := format(
                '{"outcome":"insufficient","available":%s,"held":%s}', available, hold.held);
            RETURN;
        ELSIF m.overrun = 'overdraft' AND excess > available + w.overdraft_limit THEN
            refusal := format(
                '{"outcome":"insufficient","available":%s,"held":%s,"overdraft_limit":%s}',
                available, hold.held, w.overdraft_limit);
            RETURN;
        END IF;
        SELECT * INTO more FROM cogni_billing.add_to_hold(w, hold, excess);
        w := more.w;
        hold := more.hold;
        PERFORM cogni_billing.keep_change(
            hold, 'overrun', excess, more.grants, more.amounts, present, NULL);
    END IF;
    IF m.final IS NULL THEN
        SELECT * INTO taken FROM cogni_billing.end_hold(w, hold, 'captured', cost, present);
        w := taken.w;
        grants := taken.grants;
        amounts := taken.amounts;
        RETURN;
    END IF;
    SELECT * INTO taken FROM cogni_billing.take_from_hold(w, hold, cost, false);
    w := taken.w;
    hold := taken.hold;
    grants := taken.grants;
    amounts := taken.amounts;
    hold.captured := hold.captured + cost;
    PERFORM cogni_billing.keep_change(hold, 'capture', - cost, grants, amounts, present, NULL);
END
$$;

-- The available credits of a locked wallet.
CREATE FUNCTION cogni_billing.available_in(w cogni_billing.wallets) RETURNS numeric
LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN w.posted + w.received - w.held + (
        SELECT amount FROM cogni_billing.newer_arrivals(
            cogni_billing.account_of(w.tenant_id), w.received_up_to));
END
$$;

-- The recorded extension or release of a key with its hold, or NULL.
CREATE FUNCTION cogni_billing.changed_before(
    owner uuid, change text, key text, moment timestamptz
) RETURNS json
LANGUAGE plpgsql AS $$
BEGIN
    RETURN (
        SELECT json_build_object(
            'outcome', 'replayed', 'change', to_json(made), 'stored', to_json(hold), 'present',
            (SELECT greatest(as_of, moment) FROM cogni_billing.wallets WHERE tenant_id = owner))
        FROM cogni_billing.hold_changes AS made
        JOIN cogni_billing.holds AS hold ON hold.tenant_id = owner AND hold.id = made.hold_id
        WHERE made.tenant_id = owner AND made.kind = change AND made.reference = key
    );
END
$$;

-- Finds the open hold of a call that changes it, after the due expirations of its wallet. Returns
-- the answer if the call is a replay or is refused.
CREATE FUNCTION cogni_billing.begin_change(
    owner uuid, change text, asked json,
    OUT answer json, OUT w cogni_billing.wallets, OUT hold cogni_billing.holds
)
LANGUAGE plpgsql AS $$
DECLARE
    moment CONSTANT timestamptz := asked ->> 'at';
    key    CONSTANT text := asked ->> 'reference';
    part   CONSTANT numeric := asked ->> 'amount';
    due    record;
BEGIN
    PERFORM cogni_billing.check_call(moment, '{}', key);
    IF asked ->> 'id' IS NULL OR part IS NOT NULL AND (part > 0 AND part < 1e40 AND scale(part) = 0) IS NOT TRUE THEN
        PERFORM cogni_billing.refuse('amounts_are_whole_and_bounded');
    END IF;
    answer := cogni_billing.changed_before(owner, change, key, moment);
    IF answer IS NOT NULL THEN
        RETURN;
    END IF;
    w := cogni_billing.lock_wallet(owner);
    -- Another call may have recorded the key while this one waited for the lock.
    answer := cogni_billing.changed_before(owner, change, key, moment);
    IF answer IS NOT NULL THEN
        RETURN;
    ELSIF w.tenant_id IS NULL THEN
        answer := '{"outcome":"unknown_account"}';
        RETURN;
    END IF;
    SELECT * INTO due FROM cogni_billing.catch_up(w, greatest(w.as_of, moment));
    w := due.w;
    w.as_of := greatest(w.as_of, moment);
    hold := cogni_billing.hold_of(owner, (asked ->> 'hold')::uuid);
    answer := CASE
        WHEN due.more THEN '{"outcome":"more_due"}'
        WHEN hold.id IS NULL THEN '{"outcome":"unknown_hold"}'
        WHEN hold.state <> 'open'
        THEN json_build_object('outcome', 'hold_closed', 'state', hold.state)
    END;
END
$$;

-- Sets more credits aside for an open hold, moves its expiry, or both.
CREATE FUNCTION cogni_billing._extend(me uuid, asked json) RETURNS json
LANGUAGE plpgsql AS $$
DECLARE
    added     CONSTANT numeric := asked ->> 'amount';
    until     CONSTANT timestamptz := asked ->> 'expires_at';
    lifetime  CONSTANT bigint := asked ->> 'expires_in';
    begun     record;
    more      record;
    w         cogni_billing.wallets;
    hold      cogni_billing.holds;
    available numeric;
BEGIN
    IF (coalesce(until < '9999-01-01 00:00:00+00', added IS NOT NULL)
        AND (lifetime IS NULL
            OR cogni_billing.is_lifetime(until, lifetime, (asked ->> 'at')::timestamptz))
    ) IS NOT TRUE THEN
        PERFORM cogni_billing.refuse('holds_end');
    END IF;
    SELECT * INTO begun FROM cogni_billing.begin_change(me, 'extension', asked);
    IF begun.answer IS NOT NULL THEN
        RETURN begun.answer;
    END IF;
    w := begun.w;
    hold := begun.hold;
    IF until <= w.as_of THEN
        RETURN json_build_object('outcome', 'expired', 'present', w.as_of);
    END IF;
    IF w.frozen_at IS NOT NULL THEN
        RETURN json_build_object('outcome', 'frozen', 'since', w.frozen_at);
    END IF;
    available := cogni_billing.available_in(w);
    IF added > available THEN
        RETURN json_build_object('outcome', 'insufficient', 'available', available);
    END IF;
    SELECT * INTO more FROM cogni_billing.add_to_hold(w, hold, coalesce(added, 0));
    w := more.w;
    hold := more.hold;
    hold.expires_at := coalesce(until, hold.expires_at);
    hold.ends_at := coalesce(until, hold.ends_at);
    w.due_at := least(w.due_at, hold.ends_at);
    PERFORM cogni_billing.keep_change(
        hold, 'extension', coalesce(added, 0), more.grants, more.amounts, w.as_of, asked);
    PERFORM cogni_billing.keep_wallet(w);
    RETURN json_build_object('outcome', 'done', 'stored', to_json(hold));
END
$$;

-- Releases a part of an open hold by its key. A release of all that is held ends the hold.
CREATE FUNCTION cogni_billing._release_part(me uuid, asked json) RETURNS json
LANGUAGE plpgsql AS $$
DECLARE
    begun record;
    taken record;
    w     cogni_billing.wallets;
    hold  cogni_billing.holds;
    part  numeric;
BEGIN
    SELECT * INTO begun FROM cogni_billing.begin_change(me, 'release', asked);
    IF begun.answer IS NOT NULL THEN
        RETURN begun.answer;
    END IF;
    w := begun.w;
    hold := begun.hold;
    part := coalesce((asked ->> 'amount')::numeric, hold.held);
    IF part > hold.held THEN
        RETURN json_build_object(
            'outcome', 'insufficient', 'held', hold.held, 'available',
            cogni_billing.available_in(w));
    END IF;
    SELECT * INTO taken FROM cogni_billing.take_from_hold(w, hold, part, true);
    w := taken.w;
    hold := taken.hold;
    FOR i IN 1 .. coalesce(cardinality(taken.grants), 0) LOOP
        w := cogni_billing.give_back(w, taken.grants[i], taken.amounts[i]);
    END LOOP;
    IF hold.held = 0 THEN
        hold.state := 'released';
        hold.ends_at := greatest(hold.opened_at, w.as_of);
    END IF;
    PERFORM cogni_billing.keep_change(
        hold, 'release', - part, taken.grants, taken.amounts, w.as_of, asked);
    PERFORM cogni_billing.keep_wallet(w);
    RETURN json_build_object('outcome', 'done', 'stored', to_json(hold));
END
$$;

-- Reads -------------------------------------------------------------------------------------------

-- The hold of a reference, in any state.
CREATE FUNCTION cogni_billing._find_hold(me uuid, asked json) RETURNS json
LANGUAGE plpgsql AS $$
DECLARE
    present timestamptz;
BEGIN
    SELECT greatest(as_of, (asked ->> 'now')::timestamptz) INTO present
    FROM cogni_billing.wallets WHERE tenant_id = me;
    IF NOT FOUND AND NOT cogni_billing.has_arrivals(me) THEN
        RETURN '{"outcome":"unknown_account"}';
    END IF;
    RETURN json_build_object('outcome', 'done', 'present', present, 'stored', (
        SELECT to_json(hold) FROM cogni_billing.holds AS hold
        WHERE tenant_id = me AND kind = 'work' AND reference = asked ->> 'reference'
    ));
END
$$;

-- Open holds, newest first.
CREATE FUNCTION cogni_billing._holds(me uuid, asked json) RETURNS json
LANGUAGE plpgsql AS $$
DECLARE
    size      CONSTANT integer := asked ->> 'size';
    before_at CONSTANT timestamptz := coalesce(asked ->> 'before_at', 'infinity');
    before_id CONSTANT uuid := asked ->> 'before_id';
    present   timestamptz;
BEGIN
    SELECT greatest(as_of, (asked ->> 'now')::timestamptz) INTO present
    FROM cogni_billing.wallets WHERE tenant_id = me;
    IF NOT FOUND AND NOT cogni_billing.has_arrivals(me) THEN
        RETURN '{"outcome":"unknown_account"}';
    END IF;
    RETURN json_build_object('outcome', 'done', 'holds', coalesce((
        SELECT json_agg(to_json(hold) ORDER BY opened_at DESC, id DESC)
        FROM (
            SELECT * FROM cogni_billing.holds
            WHERE tenant_id = me AND kind = 'work' AND state = 'open' AND ends_at > present
              AND (opened_at, id) < (before_at, before_id)
            ORDER BY opened_at DESC, id DESC
            LIMIT size
        ) AS hold
    ), '[]'));
END
$$;
