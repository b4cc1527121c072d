-- Holds: credits set aside before their cost is known.

-- Sets credits aside, granted ones first, in spend order.
CREATE FUNCTION cogni_billing._hold(me uuid, asked json) RETURNS json
LANGUAGE plpgsql AS $$
DECLARE
    account   CONSTANT uuid := cogni_billing.account_of(me);
    w         cogni_billing.wallets;
    was       uuid;
    stored    cogni_billing.holds;
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
        ends_at timestamptz, metadata text);
    PERFORM cogni_billing.check_call(m.at, m.metadata, m.reference);
    IF (m.id IS NOT NULL AND m.amount > 0 AND m.amount < 1e40 AND scale(m.amount) = 0) IS NOT TRUE
    THEN
        PERFORM cogni_billing.refuse('amounts_are_whole_and_bounded');
    ELSIF (m.ends_at = coalesce(m.expires_at, '9998-12-31 23:59:59.999999+00')
        AND m.ends_at < '9999-01-01 00:00:00+00') IS NOT TRUE
    THEN
        PERFORM cogni_billing.refuse('holds_end');
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
        SELECT * INTO stored FROM cogni_billing.holds WHERE tenant_id = me AND id = was;
        RETURN json_build_object(
            'outcome', 'replayed', 'stored', to_json(stored), 'present', greatest(
                m.at, (SELECT as_of FROM cogni_billing.wallets WHERE tenant_id = me)));
    ELSIF w.tenant_id IS NULL THEN
        RETURN '{"outcome":"unknown_account"}';
    END IF;
    present := greatest(w.as_of, m.at);
    IF w.due_at <= present THEN
        SELECT * INTO due FROM cogni_billing.expire_wallet(w, present);
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
    IF m.amount > available THEN
        RETURN json_build_object('outcome', 'insufficient', 'available', available);
    END IF;
    IF w.granted > 0 THEN
        SELECT * INTO from_grants, from_amounts, drawn
        FROM cogni_billing.draw_grants(me, m.amount);
        w.granted := w.granted - drawn;
    END IF;
    INSERT INTO cogni_billing.holds (
        tenant_id, id, kind, reference, amount, opened_at, expires_at, ends_at, pinned_grants,
        pinned_amounts, metadata
    ) VALUES (
        me, m.id, 'work', m.reference, m.amount, m.at, m.expires_at, m.ends_at, from_grants,
        from_amounts, m.metadata::json
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
    SELECT * INTO due FROM cogni_billing.expire_wallet(w, present);
    IF due.more THEN
        RETURN '{"outcome":"more_due"}';
    END IF;
    w := due.w;
    SELECT * INTO hold FROM cogni_billing.holds
    WHERE tenant_id = me AND id = (asked ->> 'id')::uuid AND kind = 'work';
    IF NOT FOUND THEN
        RETURN '{"outcome":"unknown_hold"}';
    ELSIF hold.state = 'open' THEN
        SELECT * INTO ended FROM cogni_billing.end_hold(w, hold, 'released', 0, present);
        w := ended.w;
        w.as_of := present;
        PERFORM cogni_billing.keep_wallet(w);
        SELECT * INTO hold FROM cogni_billing.holds WHERE tenant_id = me AND id = hold.id;
        outcome := 'done';
    ELSIF hold.state <> 'released' THEN
        RETURN json_build_object('outcome', 'hold_closed', 'state', hold.state);
    END IF;
    RETURN json_build_object('outcome', outcome, 'stored', to_json(hold));
END
$$;
