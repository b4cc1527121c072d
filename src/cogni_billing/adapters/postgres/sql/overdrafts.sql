-- Overdrafts: their limit, and the charges that a wallet does not allow.

-- Sets the limit of the wallet's overdrafts, or removes it for NULL. The same limit changes no row.
CREATE FUNCTION cogni_billing._limit_overdraft(me uuid, asked json) RETURNS json
LANGUAGE plpgsql AS $$
DECLARE
    credits CONSTANT numeric := asked ->> 'limit';
BEGIN
    IF (credits >= 0 AND credits < 1e40 AND scale(credits) = 0) IS FALSE THEN
        PERFORM cogni_billing.refuse('amounts_are_whole_and_bounded');
    END IF;
    UPDATE cogni_billing.wallets
    SET overdraft_limit = credits, limited_after = CASE WHEN credits IS NOT NULL THEN lines END
    WHERE tenant_id = me AND overdraft_limit IS DISTINCT FROM credits;
    RETURN cogni_billing._account(me, asked);
END
$$;

-- The refusal of a charge that the wallet does not allow, or NULL. Usage is reported within 35
-- days, and after the account was opened. Free work is free in debt, too.
CREATE FUNCTION cogni_billing.charge_refusal(
    w cogni_billing.wallets, m cogni_billing.movement, available numeric
) RETURNS text
LANGUAGE plpgsql AS $$
DECLARE
    short CONSTANT numeric := - m.amount - available;
BEGIN
    IF m.used_at NOT BETWEEN greatest(w.opened_at, m.at - interval '35 days') AND m.at THEN
        RETURN format('{"outcome":"untimely","opened_at":%s}', to_json(w.opened_at));
    ELSIF w.frozen_at IS NOT NULL THEN
        RETURN format('{"outcome":"frozen","since":%s}', to_json(w.frozen_at));
    ELSIF short <= 0 OR m.amount = 0 OR m.at_most IS NOT NULL THEN
        RETURN NULL;
    ELSIF m.overdraft IS NOT TRUE THEN
        RETURN format('{"outcome":"insufficient","available":%s}', available);
    ELSIF short > w.overdraft_limit THEN
        RETURN format('{"outcome":"insufficient","available":%s,"overdraft_limit":%s}',
            available, w.overdraft_limit);
    END IF;
    RETURN NULL;
END
$$;
