-- Calls of the service role on the wallets of several tenants. Each function acts for the customer,
-- and then for one beneficiary after another, under the policies of each.

-- The part of a leg that goes when so much more of a payment is returned. Each leg goes back to
-- floor(leg * returned / paid), so parts add up.
CREATE FUNCTION cogni_billing.part_of(leg numeric, paid numeric, before numeric, more numeric)
RETURNS numeric
LANGUAGE sql IMMUTABLE AS $$
    SELECT div(leg * (before + more), paid) - div(leg * before, paid)
$$;

-- Locks a tenant's wallet, and opens a missing one. Returns its available credits without granted
-- ones. For functions of the keeper.
CREATE FUNCTION cogni_billing.lock_earned(owner uuid, moment timestamptz) RETURNS numeric
LANGUAGE plpgsql AS $$
DECLARE
    w       cogni_billing.wallets;
    present timestamptz;
    newer   record;
    acted   uuid := cogni_billing.act_next(owner);
BEGIN
    IF cogni_billing.is_reserved(owner) THEN
        PERFORM cogni_billing.refuse('tenants_are_not_reserved');
    END IF;
    w := cogni_billing.lock_wallet(owner);
    IF w.tenant_id IS NULL THEN
        w := cogni_billing.open_wallet(owner, moment);
    END IF;
    present := greatest(w.as_of, moment);
    SELECT * INTO newer
    FROM cogni_billing.newer_arrivals(cogni_billing.account_of(owner), w.received_up_to);
    RETURN w.posted + w.received + newer.amount - w.held - w.granted
        -- Expired holds set no credits aside. The credits they pinned were granted.
        + (
            SELECT coalesce(sum(held - (
                SELECT coalesce(sum(pinned), 0) FROM unnest(pinned_amounts) AS pinned
            )), 0)
            FROM cogni_billing.holds
            WHERE tenant_id = owner AND state = 'open' AND ends_at <= present
        )
        -- Grants that have begun repay a debt.
        + (
            SELECT coalesce(sum((lot).taken), 0)
            FROM cogni_billing.starts(w, present)
            WHERE w.due_at <= present
        );
END
$$;

-- Locks wallets until the transaction ends. Returns the available credits of each without granted
-- ones, in the order given.
CREATE FUNCTION cogni_billing._lock(me uuid, asked json) RETURNS json
LANGUAGE plpgsql AS $$
DECLARE
    moment CONSTANT timestamptz := asked ->> 'at';
    each   text;
    earned numeric[] := '{}';
BEGIN
    PERFORM cogni_billing.check_call(moment, '{}', '-');
    FOR each IN SELECT json_array_elements_text(asked -> 'tenants') LOOP
        earned := earned || cogni_billing.lock_earned(each::uuid, moment);
    END LOOP;
    me := cogni_billing.act_next(me);
    RETURN to_json(earned);
END
$$;

-- Records a dispute, and sets its parts aside on every wallet, even beyond the available credits.
CREATE FUNCTION cogni_billing._open_dispute(me uuid, asked json) RETURNS json
LANGUAGE plpgsql AS $$
DECLARE
    m      record;
    part   record;
    earned numeric;
BEGIN
    SELECT * INTO m FROM json_to_record(asked) AS dispute (
        id uuid, reference text, purchase uuid, payment text, disputed numeric, disputed_unit text,
        part numeric, amount numeric, lapsed numeric, beneficiaries uuid[], shares numeric[],
        at timestamptz, metadata text, parts json);
    PERFORM cogni_billing.check_call(m.at, m.metadata, m.reference);
    IF (m.id IS NOT NULL AND m.disputed > 0 AND m.amount >= 0 AND scale(m.amount) = 0
        AND m.amount < 1e40 AND coalesce(m.part = m.disputed, true)
        AND cardinality(m.beneficiaries) = cardinality(m.shares)
        AND coalesce(array_ndims(m.shares), 1) = 1
        AND NOT EXISTS (
            SELECT FROM unnest(m.shares) AS share
            WHERE (share >= 0 AND share < 1e40 AND scale(share) = 0) IS NOT TRUE
        )
        -- The parts are of the customer's wallet first, and then of each beneficiary's.
        AND m.parts -> 0 ->> 'id' = m.id::text
        AND ARRAY(
            SELECT tenant || ' ' || amount
            FROM json_to_recordset(m.parts) AS part (tenant uuid, amount numeric)
        ) = ARRAY[me || ' ' || m.amount] || ARRAY(
            SELECT cogni_billing.owner_of(account) || ' ' || share
            FROM unnest(m.beneficiaries, m.shares) AS leg (account, share)
            WHERE share <> 0
        )
        AND EXISTS (
            SELECT
            FROM cogni_billing.transactions AS bought
            CROSS JOIN LATERAL (
                SELECT coalesce(max(returned_total), 0) AS total
                FROM cogni_billing.transactions
                WHERE tenant_id = me AND reverses = bought.id
            ) AS gone
            CROSS JOIN LATERAL cogni_billing.lot_of(me, bought.id, m.at) AS lot
            WHERE bought.tenant_id = me AND bought.id = m.purchase AND bought.kind = 'purchase'
              AND bought.reference = m.payment AND bought.paid_unit = m.disputed_unit
              AND coalesce(bought.beneficiaries, '{}') = m.beneficiaries
              AND bought.paid >= gone.total + m.disputed + (
                  SELECT coalesce(sum(disputed), 0)
                  FROM cogni_billing.disputes
                  JOIN cogni_billing.holds USING (tenant_id, id)
                  WHERE tenant_id = me AND purchase_id = bought.id AND state = 'open')
              AND m.lapsed = least(lot.expired, greatest(0, m.amount + m.lapsed - lot.remaining))
              AND m.amount + m.lapsed || m.shares = ARRAY(
                  SELECT cogni_billing.part_of(leg, bought.paid, gone.total, m.disputed)
                  FROM unnest(bought.amount || bought.shares) WITH ORDINALITY AS each (leg, n)
                  ORDER BY n)
        )) IS NOT TRUE
    THEN
        PERFORM cogni_billing.refuse('disputes_are_of_a_purchase');
    END IF;
    INSERT INTO cogni_billing.disputes (
        tenant_id, id, reference, purchase_id, payment, disputed, disputed_unit, part, amount,
        lapsed, beneficiaries, shares, opened_at, metadata
    ) VALUES (
        me, m.id, m.reference, m.purchase, m.payment, m.disputed, m.disputed_unit, m.part,
        m.amount, m.lapsed, m.beneficiaries, m.shares, m.at, m.metadata::json
    );
    FOR part IN
        SELECT * FROM json_to_recordset(m.parts) AS part (tenant uuid, id uuid, amount numeric)
    LOOP
        earned := cogni_billing.lock_earned(part.tenant, m.at);
        INSERT INTO cogni_billing.holds (
            tenant_id, id, kind, dispute_id, reference, requested, amount, held, opened_at, ends_at,
            metadata
        ) VALUES (
            part.tenant, part.id, 'dispute', m.id, part.id::text, part.amount, part.amount,
            part.amount, m.at, '9998-12-31 23:59:59.999999+00', '{}'
        );
        UPDATE cogni_billing.wallets SET held = held + part.amount WHERE tenant_id = part.tenant;
    END LOOP;
    me := cogni_billing.act_next(me);
    -- The customer cannot spend the credits in time.
    UPDATE cogni_billing.grants SET expires_at = NULL
    WHERE tenant_id = me AND id = m.purchase AND expires_at > m.at;
    RETURN '{}';
END
$$;

-- Releases the parts of a dispute on every wallet.
CREATE FUNCTION cogni_billing._close_dispute(me uuid, asked json) RETURNS json
LANGUAGE plpgsql AS $$
DECLARE
    moment CONSTANT timestamptz := asked ->> 'at';
    closed CONSTANT uuid := asked #>> '{parts,0,id}';
    part   record;
    earned numeric;
    freed  numeric;
BEGIN
    PERFORM cogni_billing.check_call(moment, '{}', '-');
    IF NOT EXISTS (SELECT FROM cogni_billing.disputes WHERE tenant_id = me AND id = closed) THEN
        PERFORM cogni_billing.refuse('disputes_are_of_a_purchase');
    END IF;
    FOR part IN
        SELECT * FROM json_to_recordset(asked -> 'parts') AS part (tenant uuid, id uuid)
    LOOP
        earned := cogni_billing.lock_earned(part.tenant, moment);
        UPDATE cogni_billing.holds
        SET state = 'released', held = 0, ends_at = greatest(opened_at, moment)
        WHERE tenant_id = part.tenant AND id = part.id AND dispute_id = closed AND state = 'open'
        RETURNING amount INTO freed;
        UPDATE cogni_billing.wallets SET held = held - coalesce(freed, 0)
        WHERE tenant_id = part.tenant;
    END LOOP;
    me := cogni_billing.act_next(me);
    RETURN '{}';
END
$$;
