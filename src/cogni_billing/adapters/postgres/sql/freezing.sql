-- Freezes: a frozen wallet spends nothing. Only the service role freezes and unfreezes.

-- Freezes the tenant's wallet, or unfreezes it for a reason of NULL. A first freeze stays.
CREATE FUNCTION cogni_billing._freeze(me uuid, asked json) RETURNS json
LANGUAGE plpgsql AS $$
DECLARE
    moment CONSTANT timestamptz := asked ->> 'at';
    reason CONSTANT text := asked ->> 'reason';
BEGIN
    IF reason IS NULL THEN
        UPDATE cogni_billing.wallets
        SET frozen_at = NULL, frozen_after = NULL, frozen_reason = NULL
        WHERE tenant_id = me AND frozen_at IS NOT NULL;
    ELSE
        PERFORM cogni_billing.check_call(moment, '{}', '-');
        IF NOT cogni_billing.is_reason(reason) THEN
            PERFORM cogni_billing.refuse('reasons_are_printable');
        END IF;
        UPDATE cogni_billing.wallets
        SET frozen_at = moment, frozen_after = lines, frozen_reason = reason
        WHERE tenant_id = me AND frozen_at IS NULL;
    END IF;
    RETURN cogni_billing._account(me, asked);
END
$$;
