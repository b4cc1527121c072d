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

-- The present states of the disputes of a purchase, in the order of their opening. One that is being
-- opened has the number 0.
CREATE FUNCTION cogni_billing.disputes_of(me uuid, bought uuid)
RETURNS SETOF cogni_billing.dispute_changes
LANGUAGE sql STABLE ROWS 10 AS $$
    SELECT
        me, made.id, coalesce(number, 0), at, state, disputed, lost, chargeback_id,
        coalesce(amount, 0), coalesce(lapsed, 0), coalesce(shares, '{}')
    FROM cogni_billing.disputes AS made
    LEFT JOIN LATERAL (
        SELECT * FROM cogni_billing.dispute_changes
        WHERE tenant_id = me AND dispute_id = made.id
        ORDER BY number DESC LIMIT 1
    ) AS present ON true
    WHERE made.tenant_id = me AND made.purchase_id = bought
    ORDER BY made.opened_at, made.id
$$;

-- The parts of a payment that the processor refunded, of the refunds that stand.
CREATE FUNCTION cogni_billing.refunded_of(me uuid, bought uuid) RETURNS numeric
LANGUAGE sql STABLE AS $$
    SELECT coalesce(sum(coalesce(part, returned)), 0)
    FROM cogni_billing.transactions AS refund
    WHERE tenant_id = me AND reverses = bought AND kind = 'refund' AND NOT EXISTS (
        SELECT FROM cogni_billing.transactions AS undone
        WHERE undone.tenant_id = me AND undone.reverses = bought
          AND undone.kind = 'reinstatement' AND undone.subject_id = refund.id)
$$;

-- The parts of a payment that lost disputes returned.
CREATE FUNCTION cogni_billing.lost_of(me uuid, bought uuid) RETURNS numeric
LANGUAGE sql STABLE AS $$
    SELECT coalesce(sum(coalesce(lost, disputed)), 0)
    FROM cogni_billing.disputes_of(me, bought)
    WHERE state = 'lost'
$$;

-- The returned part of a payment, as its last reversal or reinstatement left it.
CREATE FUNCTION cogni_billing.returned_of(me uuid, bought uuid) RETURNS numeric
LANGUAGE sql STABLE AS $$
    SELECT coalesce((
        SELECT returned_total FROM cogni_billing.transactions
        WHERE tenant_id = me AND reverses = bought
        ORDER BY position DESC LIMIT 1
    ), 0)
$$;

-- Replaces the credits that a dispute sets aside on a wallet, even beyond the available credits.
CREATE FUNCTION cogni_billing.replace_part(
    owner uuid, dispute uuid, wanted numeric, moment timestamptz
) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    earned CONSTANT numeric := cogni_billing.lock_earned(owner, moment);
    part_id CONSTANT uuid := gen_random_uuid();
    freed  numeric;
BEGIN
    UPDATE cogni_billing.holds
    SET state = 'released', held = 0, ends_at = greatest(opened_at, moment)
    WHERE tenant_id = owner AND kind = 'dispute' AND dispute_id = dispute AND state = 'open'
      AND ends_at > 'epoch'
    RETURNING amount INTO freed;
    IF wanted > 0 THEN
        -- Not the dispute's reference: a beneficiary must not learn about another tenant's dispute.
        INSERT INTO cogni_billing.holds (
            tenant_id, id, kind, dispute_id, reference, requested, amount, held, opened_at, ends_at,
            metadata
        ) VALUES (
            owner, part_id, 'dispute', dispute, part_id::text, wanted, wanted, wanted, moment,
            '9998-12-31 23:59:59.999999+00', '{}'
        );
    END IF;
    UPDATE cogni_billing.wallets SET held = held + wanted - coalesce(freed, 0)
    WHERE tenant_id = owner;
END
$$;

-- Sets aside the credits of a purchase's open disputes, once `after` of the payment is returned.
-- The parts of the disputes follow one another from there, in the order of their opening. `before`
-- is returned so far, when `remaining` credits are left and others have `expired`. The dispute of
-- `changed` enters that state.
CREATE FUNCTION cogni_billing.set_aside(
    me uuid, bought cogni_billing.transactions, before numeric, after numeric, remaining numeric,
    expired numeric, moment timestamptz, changed cogni_billing.dispute_changes
) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    was     cogni_billing.dispute_changes;
    becomes cogni_billing.dispute_changes;
    owners  CONSTANT uuid[] := ARRAY(
        SELECT cogni_billing.owner_of(account)
        FROM unnest(bought.beneficiaries) WITH ORDINALITY AS leg (account, n) ORDER BY n);
    place   numeric := after;
    more    numeric;
    taken   numeric := cogni_billing.part_of(bought.amount, bought.paid, before, after - before);
    part    numeric;
BEGIN
    FOR was IN SELECT * FROM cogni_billing.disputes_of(me, bought.id) LOOP
        becomes := was;
        IF was.dispute_id = changed.dispute_id THEN
            becomes := changed;
        END IF;
        more := CASE WHEN becomes.state = 'open'
            THEN least(becomes.disputed, bought.paid - place) ELSE 0 END;
        part := cogni_billing.part_of(bought.amount, bought.paid, place, more);
        becomes.lapsed := least(expired, greatest(0, taken + part - remaining))
            - least(expired, greatest(0, taken - remaining));
        becomes.amount := part - becomes.lapsed;
        becomes.shares := ARRAY(
            SELECT cogni_billing.part_of(share, bought.paid, place, more)
            FROM unnest(bought.shares) WITH ORDINALITY AS leg (share, n) ORDER BY n);
        becomes.at := was.at;
        place := place + more;
        taken := taken + part;
        becomes.number := was.number;
        CONTINUE WHEN becomes = was AND was.number > 0;
        becomes.number := was.number + 1;
        becomes.at := moment;
        INSERT INTO cogni_billing.dispute_changes SELECT (becomes).*;
        IF becomes.amount <> was.amount THEN
            PERFORM cogni_billing.replace_part(me, was.dispute_id, becomes.amount, moment);
        END IF;
        FOR i IN 1 .. cardinality(owners) LOOP
            IF becomes.shares[i] <> coalesce(was.shares[i], 0) THEN
                PERFORM cogni_billing.replace_part(
                    owners[i], was.dispute_id, becomes.shares[i], moment);
                me := cogni_billing.act_next(me);
            END IF;
        END LOOP;
    END LOOP;
END
$$;

-- Records a dispute in a new state, and the transaction that takes or gives back its credits. Sets
-- aside the credits of all open disputes of the payment.
CREATE FUNCTION cogni_billing._settle_dispute(me uuid, asked json) RETURNS json
LANGUAGE plpgsql AS $$
DECLARE
    m       record;
    made    cogni_billing.disputes;
    bought  cogni_billing.transactions;
    changed cogni_billing.dispute_changes;
    lot     record;
    gone    numeric;
    answers json;
BEGIN
    SELECT * INTO m FROM json_to_record(asked) AS dispute (
        id uuid, reference text, payment text, disputed numeric, part numeric, lost numeric,
        chargeback uuid, state text, opens boolean, at timestamptz, metadata text, movement json);
    PERFORM cogni_billing.check_call(m.at, m.metadata, m.reference);
    IF m.movement IS NOT NULL
        AND (cogni_billing._expire_due(me, json_build_object('at', m.at)) ->> 'more')::boolean
    THEN
        RETURN '{"outcome":"more_due"}';
    END IF;
    SELECT * INTO bought FROM cogni_billing.transactions
    WHERE tenant_id = me AND kind = 'purchase' AND reference = m.payment;
    gone := cogni_billing.returned_of(me, bought.id);
    IF m.opens THEN
        -- All that is neither returned nor disputed, unless the caller asked for a part.
        IF num_nulls(m.id, bought.id) > 0 OR m.state <> 'open'
            OR m.disputed IS DISTINCT FROM coalesce(m.part, greatest(0,
            bought.paid - gone - (
                SELECT coalesce(sum(disputed), 0) FROM cogni_billing.disputes_of(me, bought.id)
                WHERE state = 'open'))) OR m.part <= 0
        THEN
            PERFORM cogni_billing.refuse('disputes_are_of_a_purchase');
        END IF;
        INSERT INTO cogni_billing.disputes (
            tenant_id, id, reference, purchase_id, payment, disputed_unit, part, beneficiaries,
            opened_at, metadata
        ) VALUES (
            me, m.id, m.reference, bought.id, m.payment, bought.paid_unit, m.part,
            coalesce(bought.beneficiaries, '{}'), m.at, m.metadata::json
        );
    END IF;
    SELECT * INTO made FROM cogni_billing.disputes WHERE tenant_id = me AND id = m.id;
    IF (made.purchase_id = bought.id AND made.reference = m.reference
        AND m.disputed >= 0 AND m.disputed < 1e40
        AND coalesce(m.lost > 0 AND m.lost < 1e40, true)
        AND cogni_billing.is_part(m.disputed, bought.paid_unit, bought.paid)
        AND coalesce(cogni_billing.is_part(m.lost, bought.paid_unit, bought.paid), true)
        AND coalesce(cogni_billing.is_part(m.part, bought.paid_unit, bought.paid), true)
        AND CASE m.state WHEN 'lost' THEN m.chargeback IS NOT NULL
            ELSE m.state IN ('open', 'won') AND num_nonnulls(m.lost, m.chargeback) = 0 END
    ) IS NOT TRUE THEN
        PERFORM cogni_billing.refuse('disputes_are_of_a_purchase');
    END IF;
    changed := ROW(me, m.id, 0, m.at, m.state, m.disputed, m.lost, m.chargeback, 0, 0, '{}');
    SELECT * INTO lot FROM cogni_billing.lot_of(me, bought.id, m.at);
    IF m.opens THEN
        -- The customer cannot spend the credits in time.
        UPDATE cogni_billing.grants SET expires_at = NULL
        WHERE tenant_id = me AND id = bought.id AND expires_at > m.at;
    END IF;
    PERFORM cogni_billing.set_aside(
        me, bought, gone, gone, lot.remaining, lot.expired, m.at, changed);
    IF m.movement IS NOT NULL THEN
        answers := cogni_billing.record(
            me, ARRAY[m.movement], ARRAY['chargeback', 'reinstatement']);
    END IF;
    IF cogni_billing.returned_of(me, bought.id) <> least(bought.paid,
            cogni_billing.refunded_of(me, bought.id) + cogni_billing.lost_of(me, bought.id))
        OR m.state = 'lost' AND NOT EXISTS (
            SELECT FROM cogni_billing.transactions
            WHERE tenant_id = me AND id = m.chargeback AND kind = 'chargeback'
              AND subject_id = m.id)
    THEN
        PERFORM cogni_billing.refuse('disputes_are_of_a_purchase');
    END IF;
    RETURN json_build_object('outcome', 'done', 'answers', answers);
END
$$;
