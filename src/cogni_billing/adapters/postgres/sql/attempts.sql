-- Payment attempts: from an intent to pay, over evidence of the payment, to credits.

CREATE FUNCTION cogni_billing._create_attempt(me uuid, asked json) RETURNS json
LANGUAGE plpgsql AS $$
DECLARE
    m  record;
BEGIN
    SELECT * INTO m FROM json_to_record(asked) AS intent (
        id uuid, amount numeric, unit text, payer text, provider text, token text, recipient text,
        raw_amount numeric, confirmations integer, metadata text, created_at timestamptz,
        expires_at timestamptz);
    PERFORM cogni_billing.check_call(m.created_at, m.metadata, '-');
    IF (m.id IS NOT NULL AND m.unit = 'USD' AND m.amount > 0 AND scale(m.amount) <= 2
        AND m.amount < 1e27 AND m.raw_amount > 0 AND scale(m.raw_amount) = 0
        AND m.raw_amount < 1e47 AND m.confirmations >= 0) IS NOT TRUE
    THEN
        PERFORM cogni_billing.refuse('attempts_are_of_money');
    ELSIF NOT (cogni_billing.is_visible(coalesce(m.payer, '-')) AND cogni_billing.is_visible(m.token)
        AND cogni_billing.is_visible(m.provider) AND cogni_billing.is_visible(m.recipient))
    THEN
        PERFORM cogni_billing.refuse('references_are_visible_ascii');
    ELSIF m.provider ~ '^[1-9][0-9]{0,17}$'
        AND (m.recipient || coalesce(m.payer, m.recipient) ~ '^(0x[0-9a-f]{40}){2}$') IS NOT TRUE
    THEN
        PERFORM cogni_billing.refuse('addresses_are_in_lower_case');
    ELSIF (m.created_at <= m.expires_at AND m.expires_at < '9999-01-01 00:00:00+00') IS NOT TRUE
    THEN
        PERFORM cogni_billing.refuse('attempts_expire');
    END IF;
    INSERT INTO cogni_billing.payment_attempts (
        tenant_id, id, amount, unit, payer, provider, token, recipient, raw_amount, confirmations,
        metadata, created_at, expires_at, changed_at
    ) VALUES (
        me, m.id, m.amount, m.unit, m.payer, m.provider, m.token, m.recipient, m.raw_amount,
        m.confirmations, m.metadata::json, m.created_at, m.expires_at, m.created_at
    )
    ON CONFLICT DO NOTHING;
    IF NOT FOUND THEN
        IF NOT EXISTS (
            SELECT FROM cogni_billing.payment_attempts WHERE tenant_id = me AND id = m.id)
        THEN
            RETURN '{"outcome":"taken"}';
        END IF;
        PERFORM cogni_billing.refuse_id(m.id);
    END IF;
    RETURN '{"outcome":"done"}';
END
$$;

CREATE FUNCTION cogni_billing._attempt(me uuid, asked json) RETURNS json
LANGUAGE plpgsql AS $$
BEGIN
    RETURN coalesce((
        SELECT to_json(attempt) FROM cogni_billing.payment_attempts AS attempt
        WHERE tenant_id = me AND id = (asked ->> 'id')::uuid
    ), 'null');
END
$$;

-- Records one step of an attempt. Its moments never run backwards, even if clocks do.
CREATE FUNCTION cogni_billing._record_attempt(me uuid, asked json) RETURNS json
LANGUAGE plpgsql AS $$
DECLARE
    m    record;
    kept cogni_billing.payment_attempts;
BEGIN
    SELECT * INTO m FROM json_to_record(asked) AS step (
        id uuid, from_state text, from_evidence text, state text, at timestamptz, evidence text,
        failure text, transaction uuid, found text);
    PERFORM cogni_billing.check_call(m.at, m.found, coalesce(m.evidence, '-'));
    IF (m.from_state || ' ' || m.state IN (
            'CREATED_INTENT PENDING_UNVERIFIED',
            'CREATED_INTENT FAILED',
            'PENDING_UNVERIFIED PENDING_UNVERIFIED',
            'PENDING_UNVERIFIED CREDITED',
            'PENDING_UNVERIFIED REJECTED',
            'PENDING_UNVERIFIED FAILED',
            'FAILED PENDING_UNVERIFIED')
        AND (m.state <> 'PENDING_UNVERIFIED' OR m.evidence ~ '^[^:]+:.')
        AND (m.state = 'PENDING_UNVERIFIED') = (m.evidence IS NOT NULL)
        AND (m.state = 'CREDITED') = (m.transaction IS NOT NULL)
        AND (m.state IN ('REJECTED', 'FAILED')) = (m.failure IS NOT NULL)
        AND coalesce(m.failure IN (
            'SENDER_MISMATCH', 'INVALID_TOKEN', 'INVALID_RECIPIENT', 'INVALID_CHAIN',
            'INSUFFICIENT_AMOUNT', 'INSUFFICIENT_CONFIRMATIONS', 'TX_NOT_FOUND', 'TX_REVERTED',
            'TOKEN_TRANSFER_NOT_FOUND', 'RECIPIENT_MISMATCH', 'RECEIPT_NOT_FOUND',
            'INTENT_EXPIRED', 'RPC_ERROR'), true)
) IS NOT TRUE
    THEN
        PERFORM cogni_billing.refuse('attempts_lead_on');
    END IF;
    SELECT * INTO kept FROM cogni_billing.payment_attempts
    WHERE tenant_id = me AND id = m.id FOR NO KEY UPDATE;
    IF (kept.state, kept.evidence) IS DISTINCT FROM (m.from_state, m.from_evidence) THEN
        RETURN '{"outcome":"moved_on"}';
    ELSIF m.state = 'CREDITED' AND NOT EXISTS (
        SELECT FROM cogni_billing.transactions
        WHERE tenant_id = me AND transactions.id = m.transaction AND kind = 'purchase'
          AND reference = kept.evidence AND paid = kept.amount AND paid_unit = kept.unit
    ) THEN
        RETURN '{"outcome":"not_credited"}';
    END IF;
    IF m.evidence IS NOT NULL THEN
        INSERT INTO cogni_billing.evidence (evidence, tenant_id, attempt_id)
        VALUES (m.evidence, me, m.id)
        ON CONFLICT DO NOTHING;
        IF NOT FOUND THEN
            RETURN '{"outcome":"claimed"}';
        END IF;
    END IF;
    IF m.state <> 'CREDITED' THEN
        -- Rejected and replaced evidence is freed. Otherwise anyone who sees a payment could block
        -- its payer's claim.
        DELETE FROM cogni_billing.evidence
        WHERE tenant_id = me AND attempt_id = m.id AND evidence = kept.evidence;
    END IF;
    kept.evidence := coalesce(m.evidence, kept.evidence);
    kept.changed_at := greatest(kept.changed_at, m.at);
    UPDATE cogni_billing.payment_attempts
    SET state = m.state, changed_at = kept.changed_at, evidence = kept.evidence,
        submitted_at = CASE WHEN m.evidence IS NULL THEN submitted_at ELSE kept.changed_at END,
        checked_at = CASE WHEN m.evidence IS NULL THEN checked_at ELSE kept.changed_at END,
        failure = m.failure, transaction_id = m.transaction
    WHERE tenant_id = me AND id = m.id;
    INSERT INTO cogni_billing.payment_attempt_events (
        tenant_id, attempt_id, number, from_state, state, at, evidence, failure, transaction_id,
        found
    ) VALUES (
        me, m.id,
        (SELECT count(*) + 1 FROM cogni_billing.payment_attempt_events
         WHERE tenant_id = me AND attempt_id = m.id),
        m.from_state, m.state, kept.changed_at, m.evidence, m.failure, m.transaction,
        m.found::json
    );
    RETURN json_build_object('outcome', 'done', 'stored', (
        SELECT to_json(attempt) FROM cogni_billing.payment_attempts AS attempt
        WHERE tenant_id = me AND id = m.id));
END
$$;

-- Claims the next verification slot of a pending attempt: true for one caller per interval.
CREATE FUNCTION cogni_billing._begin_check(me uuid, asked json) RETURNS json
LANGUAGE plpgsql AS $$
DECLARE
    moment CONSTANT timestamptz := (asked ->> 'now')::timestamptz;
    -- In seconds: a day is 24 hours in every time zone of the session.
    span   CONSTANT interval := make_interval(secs => (asked ->> 'seconds')::double precision);
BEGIN
    PERFORM cogni_billing.check_call(moment, '{}', '-');
    UPDATE cogni_billing.payment_attempts
    SET checked_at = moment
    WHERE tenant_id = me
      AND id = (asked ->> 'id')::uuid
      AND state = 'PENDING_UNVERIFIED'
      -- A check in the far future comes from a wrong clock, and does not block the next one.
      AND (checked_at <= moment - span OR checked_at > moment + span);
    RETURN to_json(FOUND);
END
$$;

CREATE FUNCTION cogni_billing._attempt_events(me uuid, asked json) RETURNS json
LANGUAGE plpgsql AS $$
BEGIN
    RETURN coalesce((
        SELECT json_agg(to_json(event) ORDER BY number)
        FROM cogni_billing.payment_attempt_events AS event
        WHERE tenant_id = me AND attempt_id = (asked ->> 'id')::uuid
    ), '[]');
END
$$;
