-- The inbox of payment events. Only the service role keeps and reads them.

-- Records an event, or the new state of a recorded one, unless its state is final.
CREATE FUNCTION cogni_billing._keep_event(me uuid, asked json) RETURNS json
LANGUAGE plpgsql AS $$
DECLARE
    m record;
BEGIN
    SELECT * INTO m FROM json_to_record(asked) AS event (
        id text, kind text, payment text, aliases text[], facts text, now timestamptz, state text,
        tenant uuid, claim text, note text);
    PERFORM cogni_billing.check_call(m.now, m.facts, m.id);
    IF (m.kind IN ('payment_succeeded', 'payment_canceled', 'payment_declined', 'payment_refunded',
            'refund_made', 'refund_failed', 'dispute_changed', 'fraud_warned')
        AND m.state IN ('waiting', 'applied', 'ignored', 'unmatched')
        AND cogni_billing.is_visible(m.payment)
        AND coalesce(array_ndims(m.aliases), 1) = 1 AND cardinality(m.aliases) <= 10
        AND (SELECT coalesce(bool_and(cogni_billing.is_visible(each)), true)
             FROM unnest(m.aliases) AS each)
        AND (m.note IS NULL OR cogni_billing.is_reason(m.note))
        AND NOT coalesce(cogni_billing.is_reserved(m.tenant), false)
    ) IS NOT TRUE THEN
        PERFORM cogni_billing.refuse('events_are_of_a_payment');
    ELSIF NOT (CASE WHEN m.state <> 'applied' THEN m.claim IS NULL
        WHEN m.kind = 'payment_canceled' THEN m.claim IS NULL AND m.tenant IS NOT DISTINCT FROM me
        ELSE m.tenant IS NOT DISTINCT FROM me AND EXISTS (
            SELECT FROM cogni_billing.claims WHERE tenant_id = me AND payment = m.claim)
        END)
    THEN
        PERFORM cogni_billing.refuse('events_are_applied_to_a_claim');
    END IF;
    INSERT INTO cogni_billing.payment_events AS kept (
        id, kind, payment, aliases, facts, received_at, state, tenant_id, claim, note
    ) VALUES (
        m.id, m.kind, m.payment, m.aliases, m.facts::json, m.now, m.state, m.tenant, m.claim, m.note
    )
    ON CONFLICT (id) DO UPDATE
    SET state = excluded.state, tenant_id = excluded.tenant_id, claim = excluded.claim,
        note = excluded.note
    WHERE kept.state IN ('waiting', 'unmatched');
    RETURN '{}';
END
$$;
