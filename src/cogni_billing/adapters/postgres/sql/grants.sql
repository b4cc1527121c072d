-- Grants after they are made: they are voided and extended.

-- Takes the remaining credits of a grant, and ends it, at the wallet's moment.
CREATE FUNCTION cogni_billing.void_lot(
    w cogni_billing.wallets, lot cogni_billing.grants, void uuid, key text, moment timestamptz,
    reason text, actor text, metadata json
) RETURNS cogni_billing.wallets
LANGUAGE plpgsql AS $$
DECLARE
    taking CONSTANT numeric := coalesce(lot.amount - lot.taken, 0);
    newer  record;
BEGIN
    UPDATE cogni_billing.grants SET taken = amount, expires_at = least(expires_at, w.as_of)
    WHERE tenant_id = w.tenant_id AND id = lot.id;
    SELECT * INTO newer FROM cogni_billing.newer_arrivals(
        cogni_billing.account_of(w.tenant_id), w.received_up_to);
    w.posted := w.posted - taking;
    w.granted := w.granted - taking;
    w.lines := w.lines + 1;
    INSERT INTO cogni_billing.transactions (
        tenant_id, id, position, seen, occurred_at, line_at, kind, reference, amount, posted_after,
        arrived, overdraft, subject_id, reason, actor, metadata
    ) VALUES (
        w.tenant_id, void, w.lines, newer.up_to, moment, w.as_of, 'void', key, - taking, w.posted,
        w.received + newer.amount, false, lot.id, reason, actor, metadata
    )
    ON CONFLICT ON CONSTRAINT transactions_pkey DO NOTHING;
    IF NOT FOUND THEN
        PERFORM cogni_billing.refuse_id(void);
    END IF;
    INSERT INTO cogni_billing.arrivals (
        origin_id, transaction_id, sequence, account_id, kind, amount, occurred_at
    ) VALUES (
        w.tenant_id, void, 1, cogni_billing.contra_of('void'), 'void', taking, moment
    );
    RETURN w;
END
$$;

-- Voids a grant, or one that begins later. Credits that a hold has set aside expire
-- when the hold ends without using them.
CREATE FUNCTION cogni_billing._void_grant(me uuid, asked json) RETURNS json
LANGUAGE plpgsql AS $$
DECLARE
    w       cogni_billing.wallets := cogni_billing.lock_wallet(me);
    m       record;
    stored  cogni_billing.transactions;
    lot     cogni_billing.grants;
    due     record;
    present timestamptz;
BEGIN
    SELECT * INTO m FROM json_to_record(asked) AS void (
        id uuid, at timestamptz, reference text, grant_id uuid, reason text, actor text,
        metadata text);
    PERFORM cogni_billing.check_call(m.at, m.metadata, m.reference);
    IF m.id IS NULL THEN
        PERFORM cogni_billing.refuse('transactions_have_an_id');
    ELSIF m.reason IS NOT NULL AND NOT cogni_billing.is_reason(m.reason) THEN
        PERFORM cogni_billing.refuse('reasons_are_printable');
    ELSIF m.actor IS NOT NULL AND NOT cogni_billing.is_visible(m.actor) THEN
        PERFORM cogni_billing.refuse('actors_are_visible_ascii');
    END IF;
    SELECT * INTO stored FROM cogni_billing.transactions
    WHERE tenant_id = me AND kind = 'void' AND reference = m.reference;
    IF FOUND THEN
        RETURN json_build_object('outcome', 'replayed', 'stored', cogni_billing.record_of(stored));
    ELSIF w.tenant_id IS NULL THEN
        RETURN '{"outcome":"unknown_account"}';
    END IF;
    present := greatest(w.as_of, m.at);
    SELECT * INTO due FROM cogni_billing.catch_up(w, present);
    IF due.more THEN
        RETURN '{"outcome":"more_due"}';
    END IF;
    w := due.w;
    SELECT * INTO lot FROM cogni_billing.grants
    WHERE tenant_id = me AND id = m.grant_id AND priority <= 1000000;
    IF NOT FOUND THEN
        -- One that begins later has no credits yet.
        lot.id := (
            SELECT id FROM cogni_billing.schedules
            WHERE tenant_id = me AND id = m.grant_id AND once);
        IF lot.id IS NULL THEN
            RETURN '{"outcome":"unknown_grant"}';
        END IF;
        PERFORM cogni_billing.end_schedule_at(me, lot.id, present);
        w.due_at := cogni_billing.next_due(me);
    END IF;
    w.as_of := present;
    w := cogni_billing.void_lot(
        w, lot, m.id, m.reference, m.at, m.reason, m.actor, m.metadata::json);
    SELECT * INTO stored FROM cogni_billing.transactions WHERE tenant_id = me AND id = m.id;
    PERFORM cogni_billing.keep_wallet(w);
    RETURN json_build_object('outcome', 'done', 'stored', cogni_billing.record_of(stored));
END
$$;

-- Moves the expiry of a grant to a later moment.
CREATE FUNCTION cogni_billing._extend_grant(me uuid, asked json) RETURNS json
LANGUAGE plpgsql AS $$
DECLARE
    w       cogni_billing.wallets := cogni_billing.lock_wallet(me);
    m       record;
    stored  cogni_billing.grant_extensions;
    lot     cogni_billing.grants;
    due     record;
    present timestamptz;
BEGIN
    SELECT * INTO m FROM json_to_record(asked) AS extension (
        at timestamptz, reference text, grant_id uuid, expires_at timestamptz, expires_in bigint);
    PERFORM cogni_billing.check_call(m.at, '{}', m.reference);
    IF (m.expires_at < '9999-01-01 00:00:00+00'
        AND cogni_billing.is_lifetime(m.expires_at, m.expires_in, m.at)) IS NOT TRUE
    THEN
        PERFORM cogni_billing.refuse('grants_have_their_terms');
    END IF;
    SELECT * INTO stored FROM cogni_billing.grant_extensions
    WHERE tenant_id = me AND reference = m.reference;
    IF FOUND THEN
        RETURN json_build_object('outcome', 'replayed', 'stored', to_json(stored));
    ELSIF w.tenant_id IS NULL THEN
        RETURN '{"outcome":"unknown_account"}';
    END IF;
    present := greatest(w.as_of, m.at);
    SELECT * INTO due FROM cogni_billing.catch_up(w, present);
    IF due.more THEN
        RETURN '{"outcome":"more_due"}';
    END IF;
    w := due.w;
    SELECT * INTO lot FROM cogni_billing.grants
    WHERE tenant_id = me AND id = m.grant_id AND priority <= 1000000;
    IF NOT FOUND THEN
        RETURN '{"outcome":"unknown_grant"}';
    ELSIF (lot.expires_at > present AND m.expires_at > lot.expires_at) IS NOT TRUE THEN
        RETURN json_build_object(
            'outcome', 'not_later', 'before', lot.expires_at, 'present', present);
    END IF;
    INSERT INTO cogni_billing.grant_extensions (
        tenant_id, reference, grant_id, extended_at, expires_at, expires_in
    ) VALUES (me, m.reference, lot.id, m.at, m.expires_at, m.expires_in);
    UPDATE cogni_billing.grants SET expires_at = m.expires_at
    WHERE tenant_id = me AND id = lot.id;
    w.as_of := present;
    PERFORM cogni_billing.keep_wallet(w);
    RETURN '{"outcome":"done"}';
END
$$;
