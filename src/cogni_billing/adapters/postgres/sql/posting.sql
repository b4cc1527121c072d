-- Posting: `record` posts transactions. Its doors decide which kinds a role may post.
--
-- Every door takes the tenant, the proof of a signed context or NULL, and JSON. It returns JSON.
-- Refusals are values and not errors, so that a refused request rolls back no other request.

-- The contra account of a kind. NULL for an unknown kind.
CREATE FUNCTION cogni_billing.contra_of(kind text) RETURNS uuid
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE kind
        /* contra */
    END
$$;

-- The account that absorbs a part of a kind. NULL for a kind without one.
CREATE FUNCTION cogni_billing.absorbs(kind text) RETURNS uuid
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE kind
        /* absorbs */
    END
$$;

-- The key of a refund. NULL for another transaction.
CREATE FUNCTION cogni_billing.key_of_refund(owner uuid, refund uuid) RETURNS text
LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN (
        SELECT reference FROM cogni_billing.transactions
        WHERE tenant_id = owner AND id = refund AND kind = 'refund');
END
$$;

-- A transaction as its tenant may read it.
CREATE FUNCTION cogni_billing.record_of(made cogni_billing.transactions) RETURNS json
LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN (
        SELECT to_json(told)
        FROM (
            SELECT (made).*, kept.policy AS rules, terms.source, terms.priority,
                terms.first_expires_at, terms.expires_in, terms.effective_from,
                bought.reference AS payment, bought.paid_unit AS payment_unit,
                bought.kind AS reversed_kind,
                CASE made.kind WHEN 'reinstatement'
                    THEN cogni_billing.key_of_refund(made.tenant_id, made.subject_id) END AS refund,
                CASE WHEN made.drawn_grants IS NOT NULL THEN cogni_billing.purchases_among(
                    made.tenant_id, made.drawn_grants) END AS lots
            FROM (SELECT) AS always
            LEFT JOIN cogni_billing.policies AS kept
                ON kept.tenant_id = made.tenant_id AND kept.digest = made.policy
            LEFT JOIN cogni_billing.grants AS terms
                ON terms.tenant_id = made.tenant_id AND terms.id = made.id
            LEFT JOIN cogni_billing.transactions AS bought
                ON bought.tenant_id = made.tenant_id AND bought.id = made.reverses
        ) AS told
    );
END
$$;

-- True if a part of a payment is no finer than the payment's unit. Parts in other units than these
-- two are written with all decimals of the payment, which are those of the unit.
CREATE FUNCTION cogni_billing.is_part(part numeric, unit text, paid numeric) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE unit
        WHEN 'USD' THEN scale(part) <= 2
        WHEN 'USDC' THEN scale(part) <= 6
        ELSE unit ~ '^[A-Z]{3}$' AND scale(part) = scale(paid)
    END
$$;

-- Keeps the terms of a purchase, which are its policy and perhaps its price, unless they are kept.
-- Refuses a purchase that does not credit what was paid at the price. Without a price a dollar buys
-- 10 000 000 credits.
CREATE FUNCTION cogni_billing.keep_terms(
    owner uuid, m cogni_billing.movement, shared numeric, terms bytea, kept boolean, priced json
) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    decimals integer := CASE m.paid_unit WHEN 'USD' THEN 2 WHEN 'USDC' THEN 6 END;
    rate     numeric := CASE WHEN decimals IS NOT NULL THEN 10000000 END;
BEGIN
    IF NOT kept THEN
        IF NOT cogni_billing.is_object(m.policy, 65536) THEN
            PERFORM cogni_billing.refuse('policies_are_small_objects');
        END IF;
        priced := m.policy::json -> 'price';
        INSERT INTO cogni_billing.policies (tenant_id, digest, policy, price)
        VALUES (owner, terms, m.policy::json, priced)
        ON CONFLICT DO NOTHING;
    END IF;
    IF priced IS NOT NULL THEN
        IF (json_typeof(priced) = 'object'
            AND priced ->> 'currency' = m.paid_unit
            AND coalesce(decimals::text = priced ->> 'scale',
                m.paid_unit ~ '^[A-Z]{3}$' AND priced ->> 'scale' = scale(m.paid)::text)
            AND json_typeof(priced -> 'scale') = 'number' AND priced ->> 'scale' ~ '^[0-6]$'
            AND json_typeof(priced -> 'credits') = 'string'
            AND priced ->> 'credits' ~ '^[0-9]{1,11}([.][0-9]{1,12})?$'
            AND priced ->> 'credits' ~ '[1-9]'
            AND json_typeof(priced -> 'version') = 'string'
            AND cogni_billing.is_visible(priced ->> 'version')
        ) IS NOT TRUE THEN
            PERFORM cogni_billing.refuse('prices_are_of_their_currency');
        END IF;
        decimals := priced ->> 'scale';
        rate := priced ->> 'credits';
    END IF;
    IF (m.paid > 0 AND m.paid < 1e40 AND scale(m.paid) <= decimals
        AND ceil(m.paid * rate) IN (m.amount, m.amount + shared)
        AND m.reference ~ '^[^:]+:.'
    ) IS NOT TRUE THEN
        PERFORM cogni_billing.refuse('purchases_credit_what_was_paid');
    END IF;
END
$$;

-- Refuses a movement that does not take back a part of its purchase that follows earlier ones.
-- Open disputes set aside what follows this part. Returns the credits that they free on the wallet.
-- If the movement refuses a debt that would be left, they stay.
CREATE FUNCTION cogni_billing.begin_reversal(
    owner uuid, m cogni_billing.movement, available numeric
) RETURNS numeric
LANGUAGE plpgsql AS $$
DECLARE
    freed     numeric;
    bought    cogni_billing.transactions;
    lot       record;
    before    CONSTANT numeric := cogni_billing.returned_of(owner, m.reverses);
    refunded  CONSTANT numeric := cogni_billing.refunded_of(owner, m.reverses);
    lost      CONSTANT numeric := cogni_billing.lost_of(owner, m.reverses);
BEGIN
    SELECT * INTO lot FROM cogni_billing.lot_of(owner, m.reverses, m.at);
    SELECT * INTO bought FROM cogni_billing.transactions
    WHERE tenant_id = owner AND id = m.reverses AND kind = 'purchase';
    IF (bought.beneficiaries IS NOT DISTINCT FROM m.beneficiaries
        AND m.returned >= 0 AND m.returned_total = before + m.returned
        AND cogni_billing.is_part(m.returned, bought.paid_unit, bought.paid)
        AND CASE m.kind
            WHEN 'refund' THEN coalesce(m.part, m.returned) >= 0
                AND m.returned_total = least(
                    bought.paid, refunded + lost + coalesce(m.part, m.returned))
                -- What is missing to a total, or a part that is left.
                AND CASE WHEN m.at_most IS NULL
                    THEN m.returned > 0 AND coalesce(m.part = m.returned, true)
                    ELSE m.at_most > 0 AND m.at_most <= bought.paid
                        AND m.part = greatest(0, m.at_most - refunded) END
            ELSE m.at_most IS NULL AND m.returned_total = least(bought.paid, refunded + lost)
                AND coalesce(m.part >= m.returned, true)
            END
        AND (m.shortfall IN ('debt', 'clamp')
            -- A refund that refuses a debt takes all of the customer's part.
            OR m.shortfall = 'refuse' AND m.kind = 'refund'
            AND coalesce(m.lapsed, 0) - m.amount = cogni_billing.part_of(
                bought.amount, bought.paid, before, m.returned))
        -- The expired credits of the customer's part come from `breakage`, after those left.
        AND m.lapsed IS DISTINCT FROM 0
        AND coalesce(m.lapsed, 0) = least(lot.expired, greatest(0, cogni_billing.part_of(
            bought.amount, bought.paid, before, m.returned) - lot.remaining))
        -- Of each leg at most its part. The platform absorbs the rest of the parts.
        AND (
            SELECT bool_and(taken BETWEEN 0 AND part)
                AND m.absorbed = sum(part) - sum(taken)
            FROM (
                SELECT - given AS taken, cogni_billing.part_of(
                    leg, bought.paid, before, m.returned)
                    - CASE n WHEN 1 THEN coalesce(m.lapsed, 0) ELSE 0 END AS part
                FROM unnest(bought.amount || bought.shares, m.amount || m.shares)
                    WITH ORDINALITY AS both_legs (leg, given, n)
            ) AS legs)
        AND (m.subject IS NULL OR EXISTS (
            SELECT FROM cogni_billing.disputes_of(owner, m.reverses)
            WHERE dispute_id = m.subject AND state = 'lost'))
    ) IS NOT TRUE THEN
        PERFORM cogni_billing.refuse('reversals_follow_one_another');
    END IF;
    BEGIN
        freed := cogni_billing.free_aside(
            owner, bought, before, m.returned_total, lot.remaining, lot.expired, m.at);
        IF m.shortfall = 'refuse' AND - m.amount > greatest(0, available + freed) THEN
            RAISE SQLSTATE 'CB002';
        END IF;
    EXCEPTION WHEN SQLSTATE 'CB002' THEN NULL;  -- the caller refuses the movement
    END;
    RETURN freed;
END
$$;

-- Sets aside the credits of open disputes, once `after` of the payment is returned. Returns the
-- credits that this frees on the customer's wallet.
CREATE FUNCTION cogni_billing.free_aside(
    owner uuid, bought cogni_billing.transactions, before numeric, after numeric, remaining numeric,
    expired numeric, moment timestamptz
) RETURNS numeric
LANGUAGE plpgsql AS $$
DECLARE
    held_before numeric;
BEGIN
    IF NOT EXISTS (
        SELECT FROM cogni_billing.disputes_of(owner, bought.id) WHERE state = 'open')
    THEN
        RETURN 0;
    END IF;
    held_before := (SELECT held FROM cogni_billing.wallets WHERE tenant_id = owner);
    PERFORM cogni_billing.set_aside(
        owner, bought, before, after, remaining, expired, moment, NULL);
    RETURN held_before - (SELECT held FROM cogni_billing.wallets WHERE tenant_id = owner);
END
$$;

-- The parts of grants that a refund, or the chargebacks of a dispute, took and did not give back,
-- newest draw first.
CREATE FUNCTION cogni_billing.draws_of(owner uuid, bought uuid, undone uuid)
RETURNS TABLE (lot uuid, part numeric)
LANGUAGE sql STABLE ROWS 10 AS $$
    SELECT drawn, sum(CASE kind WHEN 'reinstatement' THEN - size ELSE size END)
    FROM cogni_billing.transactions
    CROSS JOIN LATERAL unnest(drawn_grants, drawn_amounts) WITH ORDINALITY AS draw (drawn, size, n)
    WHERE tenant_id = owner AND reverses = bought AND undone IN (id, subject_id)
    GROUP BY drawn
    ORDER BY min(ARRAY[position, n]) DESC
$$;

-- Undoes a refund or the chargebacks of a dispute, so that only `returned_total` of the payment is
-- returned. Fills in the movement. Of the undone one, the absorbed part of each leg goes back first,
-- then the expired part, and then the rest, newest draw first. Returns the parts that go back to
-- grants as two lists.
CREATE FUNCTION cogni_billing.reinstate(
    INOUT w cogni_billing.wallets, INOUT m cogni_billing.movement,
    OUT grants uuid[], OUT amounts numeric[], OUT refusal text
)
LANGUAGE plpgsql AS $$
DECLARE
    owner    CONSTANT uuid := w.tenant_id;
    before   CONSTANT numeric := cogni_billing.returned_of(owner, m.reverses);
    bought   cogni_billing.transactions;
    standing numeric := cogni_billing.refunded_of(owner, m.reverses)
        + cogni_billing.lost_of(owner, m.reverses);
    undone   cogni_billing.transactions;
    leg      record;
    lot      record;
    more     numeric;
    plain    numeric;
BEGIN
    SELECT * INTO bought FROM cogni_billing.transactions
    WHERE tenant_id = owner AND id = m.reverses AND kind = 'purchase';
    SELECT * INTO undone FROM cogni_billing.transactions
    WHERE tenant_id = owner AND id = m.subject AND kind = 'refund' AND reverses = m.reverses;
    IF FOUND THEN
        standing := standing - coalesce(undone.part, undone.returned);
    END IF;
    IF (m.amount = 0 AND num_nonnulls(
            m.beneficiaries, m.part, m.at_most, m.shortfall, m.absorbed, m.lapsed) = 0
        AND m.returned >= 0 AND m.returned = before - m.returned_total
        AND m.returned_total = least(bought.paid, standing)
        AND CASE WHEN undone.id IS NULL
            THEN m.returned > 0 AND EXISTS (
                SELECT FROM cogni_billing.disputes
                WHERE tenant_id = owner AND id = m.subject AND purchase_id = m.reverses)
            ELSE NOT EXISTS (
                SELECT FROM cogni_billing.transactions
                WHERE tenant_id = owner AND reverses = m.reverses AND kind = 'reinstatement'
                  AND subject_id = m.subject)
            END
    ) IS NOT TRUE THEN
        PERFORM cogni_billing.refuse('reversals_follow_one_another');
    END IF;
    m.absorbed := 0;
    m.lapsed := 0;
    m.beneficiaries := bought.beneficiaries;
    m.shares := CASE WHEN bought.shares IS NOT NULL THEN '{}'::numeric[] END;
    FOR leg IN
        SELECT n, cogni_billing.part_of(whole, bought.paid, m.returned_total, m.returned) AS part,
            sum(sign * taken) AS taken,
            sum(sign * (made.part - taken - expired)) AS absorbed,
            sum(sign * expired) AS expired,
            greatest(0, coalesce(sum(sign * (made.part - taken - expired))
                FILTER (WHERE is_own), 0)) AS own_absorbed,
            greatest(0, coalesce(sum(sign * expired) FILTER (WHERE is_own), 0)) AS own_expired
        FROM unnest(bought.amount || bought.shares) WITH ORDINALITY AS legs (whole, n)
        CROSS JOIN LATERAL (
            SELECT sign, is_own, abs((each.amount || each.shares)[n]) AS taken,
                CASE n WHEN 1 THEN coalesce(each.lapsed, 0) ELSE 0 END AS expired,
                cogni_billing.part_of(whole, bought.paid, CASE sign
                    WHEN 1 THEN returned_total - returned ELSE returned_total END, returned) AS part
            FROM cogni_billing.transactions AS each
            CROSS JOIN LATERAL (
                SELECT CASE kind WHEN 'reinstatement' THEN -1 ELSE 1 END AS sign,
                    m.subject IN (id, subject_id) IS TRUE AS is_own
            ) AS about
            WHERE tenant_id = owner AND reverses = m.reverses
        ) AS made
        GROUP BY n, whole
        ORDER BY n
    LOOP
        more := leg.part;
        leg.own_absorbed := least(more, leg.own_absorbed, leg.absorbed);
        more := more - leg.own_absorbed;
        leg.own_expired := least(more, leg.own_expired, leg.expired);
        more := more - leg.own_expired;
        leg.taken := least(more, leg.taken);
        more := more - leg.taken;
        leg.absorbed := least(more, leg.absorbed - leg.own_absorbed);
        m.absorbed := m.absorbed + leg.own_absorbed + leg.absorbed;
        IF leg.n = 1 THEN
            m.lapsed := leg.own_expired + more - leg.absorbed;
            m.amount := leg.taken;
        ELSE
            m.shares := m.shares || leg.taken;
        END IF;
    END LOOP;
    grants := '{}';
    amounts := '{}';
    SELECT coalesce(- sum(amount), 0) INTO plain FROM cogni_billing.transactions
    WHERE tenant_id = owner AND reverses = m.reverses AND m.subject IN (id, subject_id);
    SELECT plain - coalesce(sum(part), 0) INTO plain
    FROM cogni_billing.draws_of(owner, m.reverses, m.subject);
    more := m.amount - greatest(0, plain);
    FOR leg IN SELECT * FROM cogni_billing.draws_of(owner, m.reverses, m.subject) LOOP
        leg.part := least(leg.part, more);
        CONTINUE WHEN leg.part <= 0;
        w := cogni_billing.give_back(w, leg.lot, leg.part);
        grants := grants || leg.lot;
        amounts := amounts || leg.part;
        more := more - leg.part;
    END LOOP;
    lot := cogni_billing.lot_of(owner, m.reverses, m.at);
    w.held := w.held - cogni_billing.free_aside(owner, bought, m.returned_total, m.returned_total,
        lot.remaining, lot.expired + m.lapsed, m.at);
    m.lapsed := nullif(m.lapsed, 0);
END
$$;

-- True if a movement is a purchase with the lifetime of its credits.
CREATE FUNCTION cogni_billing.expires_as_purchase(m cogni_billing.movement) RETURNS boolean
LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    RETURN m.kind = 'purchase' AND m.expires_in > 0 AND m.expires_at < '9999-01-01 00:00:00+00'
        AND cogni_billing.is_lifetime(m.expires_at, m.expires_in, m.at);
END
$$;

-- Records transactions of a tenant in order, and answers each. Posts due expirations of the wallet
-- first. If more are due than one call posts, the last answer is `more_due`, and the caller makes
-- the same call again.
CREATE FUNCTION cogni_billing.record(owner uuid, asked json[], kinds text[]) RETURNS text
LANGUAGE plpgsql AS $$
DECLARE
    account      CONSTANT uuid := cogni_billing.account_of(owner);
    -- If the first of several is a replay, the others still need the due expirations posted.
    several      CONSTANT boolean := cardinality(asked) > 1;
    answers      text[] := '{}';
    locked       boolean;  -- NULL if not
    changed      boolean;  -- NULL if not
    w            cogni_billing.wallets;
    was          uuid;
    stored       cogni_billing.transactions;
    hold         cogni_billing.holds;
    each         json;
    m            cogni_billing.movement;
    due          record;
    ended        record;
    given        record;
    rule         text;
    refusal      text;
    present      timestamptz;
    arrived      numeric;
    seen         bigint;
    available    numeric;
    to_draw      numeric;
    drawn        numeric;
    from_grants  uuid[];
    from_amounts numeric[];
    policy_key   bytea;
    kept_key     bytea;
    priced       json;
    waiting      json;
    shared       numeric;  -- the sum of `m.shares`, if there are any
    share        numeric;
    beneficiary  uuid;
    n            integer;
    other_side   numeric;
    legs         cogni_billing.arrivals[] := '{}';
BEGIN
    FOREACH each IN ARRAY coalesce(asked, '{}') LOOP
        m := json_populate_record(NULL::cogni_billing.movement, each);
        rule := CASE
            WHEN m.kind = ANY (kinds) IS NOT TRUE
            THEN 'transactions_kind_known'
            WHEN m.id IS NULL
            THEN 'transactions_have_an_id'
            WHEN NOT cogni_billing.is_visible(m.reference)
            THEN 'references_are_visible_ascii'
            WHEN (abs(m.amount) < 1e40 AND scale(m.amount) = 0
                AND (m.amount <> 0 OR m.kind IN (/* may_be_zero */))) IS NOT TRUE
            THEN 'amounts_are_whole_and_bounded'
            WHEN CASE WHEN m.kind IN (/* is_credit */) THEN m.amount < 0
                ELSE m.amount > 0 AND m.kind NOT IN (/* corrects */) END
            THEN 'transactions_raise_or_lower'
            WHEN NOT cogni_billing.is_near(m.at)
            THEN 'moments_are_near_the_servers'
            WHEN NOT cogni_billing.is_object(m.metadata, 16384)
            THEN 'metadata_is_a_small_object'
            WHEN (m.subject IS NOT NULL) <> (m.kind IN (/* subject */))
            THEN 'transactions_have_their_subject'
            WHEN (m.reverses IS NULL AND m.charge IS NULL) = (m.kind IN (/* names_another */))
            THEN 'reversals_name_a_purchase'
        END;
        IF rule IS NOT NULL THEN
            IF rule = 'moments_are_near_the_servers' THEN
                PERFORM cogni_billing.refuse_moment(m.at);
            END IF;
            PERFORM cogni_billing.refuse(rule);
        END IF;
        -- PL/pgSQL prepares each expression in each transaction, even in branches that are not
        -- taken. So fields of rare kinds are validated in a branch of their own.
        IF num_nonnulls(m.paid, m.paid_unit, m.policy, m.beneficiaries, m.shares, m.source,
            m.priority, m.expires_at, m.expires_in, m.effective_from, m.returned, m.returned_total,
            m.part, m.shortfall, m.absorbed, m.lapsed, m.reason, m.actor, m.at_most, m.used_at, m.final,
            m.overrun, m.charge) > 0
        THEN
            IF m.kind <> 'purchase' AND (
                m.paid IS NOT NULL OR m.paid_unit IS NOT NULL OR m.policy IS NOT NULL)
            THEN
                PERFORM cogni_billing.refuse('transactions_fit_their_kind');
            ELSIF m.kind <> 'grant' AND (m.source IS NOT NULL OR m.priority IS NOT NULL)
                OR num_nonnulls(m.expires_at, m.expires_in, m.effective_from, m.returned,
                    m.returned_total, m.part, m.shortfall, m.absorbed, m.lapsed, m.reason, m.actor,
                    m.at_most, m.used_at, m.final, m.overrun, m.charge) > 0
            THEN
                IF m.charge IS NOT NULL THEN
                    IF m.reverses IS NOT NULL THEN
                        PERFORM cogni_billing.refuse('reversals_name_a_purchase');
                    ELSIF m.kind <> 'reversal' OR NOT cogni_billing.is_visible(m.charge) THEN
                        PERFORM cogni_billing.refuse('transactions_fit_their_kind');
                    END IF;
                    -- The nil id stands for an unknown charge.
                    m.reverses := coalesce((
                        SELECT id FROM cogni_billing.transactions
                        WHERE tenant_id = owner AND kind = 'charge' AND reference = m.charge
                    ), '00000000-0000-0000-0000-000000000000');
                END IF;
                IF m.kind <> 'grant' AND num_nonnulls(m.source, m.priority, m.effective_from) > 0
                    OR m.kind <> 'grant' AND num_nonnulls(m.expires_at, m.expires_in) > 0
                    AND cogni_billing.expires_as_purchase(m) IS NOT TRUE
                    OR m.kind <> 'capture' AND num_nonnulls(m.final, m.overrun) > 0
                    OR m.reverses IS NULL AND num_nonnulls(
                        m.returned, m.returned_total, m.part, m.shortfall, m.absorbed, m.lapsed) > 0
                    OR m.reason IS NOT NULL AND m.kind NOT IN (/* has_reason */)
                    OR m.used_at IS NOT NULL AND m.kind NOT IN (/* plain_debit */)
                    OR m.at_most IS NOT NULL AND m.kind <> 'refund'
                    AND (m.kind IN (/* plain_debit */) AND m.at_most = - m.amount
                        AND m.overdraft IS NOT TRUE) IS NOT TRUE
                THEN
                    PERFORM cogni_billing.refuse('transactions_fit_their_kind');
                ELSIF m.actor IS NOT NULL AND NOT cogni_billing.is_visible(m.actor) THEN
                    PERFORM cogni_billing.refuse('actors_are_visible_ascii');
                END IF;
            END IF;
            IF m.beneficiaries IS NOT NULL OR m.shares IS NOT NULL THEN
                IF (m.kind IN (/* has_shares */) AND cardinality(m.shares) BETWEEN 1 AND 32
                    AND cardinality(m.shares) = cardinality(m.beneficiaries)) IS NOT TRUE
                THEN
                    PERFORM cogni_billing.refuse('shares_are_complete');
                END IF;
                shared := 0;
                FOR i IN 1 .. cardinality(m.shares) LOOP
                    -- NULL if the list is nested, and also if its first subscript is not 1.
                    share := m.shares[i];
                    beneficiary := m.beneficiaries[i];
                    IF share IS NULL OR beneficiary IS NULL OR NOT (
                        abs(share) < 1e40 AND scale(share) = 0
                        AND CASE WHEN m.reverses IS NULL THEN share >= 0 ELSE share <= 0 END
                        AND array_position(m.beneficiaries, beneficiary) = i
                        -- Any account can earn a share, but not of its own purchase.
                        AND beneficiary <> account
                        AND beneficiary NOT IN (
                            '00000000-0000-0000-0000-000000000000',
                            '00000000-0000-4000-a000-000000000001',
                            '00000000-0000-4000-b000-000000000001',
                            '00000000-0000-4000-b000-000000000002',
                            '00000000-0000-4000-b000-000000000003',
                            '00000000-0000-4000-b000-000000000004',
                            '00000000-0000-4000-b000-000000000005')
                    ) THEN
                        PERFORM cogni_billing.refuse('shares_are_complete');
                    END IF;
                    shared := shared + share;
                END LOOP;
            END IF;
        END IF;

        -- A replay needs no lock.
        SELECT id INTO was FROM cogni_billing.transactions
        WHERE tenant_id = owner AND kind = m.kind AND reference = m.reference;
        IF locked IS NULL AND (several OR was IS NULL) THEN
            -- A whole row is one value here, since PostgreSQL prepares each column of a list anew.
            w := (
                SELECT wallet FROM cogni_billing.wallets AS wallet
                WHERE tenant_id = owner FOR NO KEY UPDATE);
            IF w.tenant_id IS NULL AND m.kind IN (/* opens_account */) THEN
                -- A missing wallet has no row to lock. Claims in opposite orders would deadlock.
                PERFORM pg_advisory_xact_lock(1, hashtext(owner::text));
                w := cogni_billing.lock_wallet(owner);
            END IF;
            locked := true;
            IF was IS NULL THEN
                -- Another call may have recorded the key while this one waited for the lock.
                SELECT id INTO was FROM cogni_billing.transactions
                WHERE tenant_id = owner AND kind = m.kind AND reference = m.reference;
            END IF;
        END IF;
        present := greatest(w.as_of, m.at);
        IF w.due_at <= present AND (several OR was IS NULL) THEN
            IF w.has_schedules AND m.kind = 'grant' THEN
                -- The replay of a grant that begins later posts nothing.
                waiting := cogni_billing.waiting_record(owner, m.reference);
                IF waiting IS NOT NULL THEN
                    answers := answers || format('{"outcome":"replayed","stored":%s}', waiting);
                    CONTINUE;
                END IF;
            END IF;
            SELECT * INTO due FROM cogni_billing.catch_up(w, present);
            w := due.w;
            arrived := NULL;  -- an expiry may have read newer arrivals
            IF due.more THEN
                answers := answers || '{"outcome":"more_due"}'::text;
                EXIT;
            END IF;
        END IF;
        IF was IS NOT NULL OR m.kind = 'purchase' THEN
            IF was IS NULL THEN
                INSERT INTO cogni_billing.claims (payment, tenant_id, transaction_id)
                VALUES (m.reference, owner, m.id)
                ON CONFLICT DO NOTHING;
                IF NOT FOUND THEN
                    -- This tenant may have claimed it in a concurrent call that opened the wallet.
                    SELECT id INTO was FROM cogni_billing.transactions
                    WHERE tenant_id = owner AND kind = m.kind AND reference = m.reference;
                    IF NOT FOUND THEN
                        answers := answers || '{"outcome":"claimed"}'::text;
                        CONTINUE;
                    END IF;
                END IF;
            END IF;
            IF was IS NOT NULL THEN
                stored := (
                    SELECT line FROM cogni_billing.transactions AS line
                    WHERE tenant_id = owner AND id = was);
                waiting := CASE m.kind
                    WHEN 'grant' THEN cogni_billing.waiting_record(owner, m.reference) END;
                answers := answers || format('{"outcome":"replayed","stored":%s}', coalesce(
                    waiting, cogni_billing.record_of(stored)));
                CONTINUE;
            END IF;
        END IF;

        -- A first purchase or grant opens the account.
        IF w.tenant_id IS NULL THEN
            IF m.expires_at <= present THEN
                answers := answers || format('{"outcome":"expired","present":%s}', to_json(present));
                CONTINUE;
            END IF;
            IF m.kind NOT IN (/* opens_account */) THEN
                answers := answers || '{"outcome":"unknown_account"}'::text;
                CONTINUE;
            END IF;
            w := cogni_billing.open_wallet(owner, m.at);
            present := greatest(w.as_of, m.at);
        END IF;
        IF arrived IS NULL THEN
            SELECT w.received + coalesce(sum(amount), 0), coalesce(max(position), w.received_up_to)
            INTO arrived, seen
            FROM cogni_billing.arrivals
            WHERE account_id = account AND position > w.received_up_to;
        END IF;
        available := w.posted + arrived - w.held;

        -- The effect of the kind on the wallet. A debit of a kind without its own rule is usage.
        IF several OR m.expires_at IS NOT NULL THEN
            from_grants := NULL;
            from_amounts := NULL;
            policy_key := NULL;
            to_draw := NULL;
            IF m.kind = 'purchase' AND m.expires_at IS NOT NULL THEN
                SELECT * INTO given FROM cogni_billing.keep_lot(w, m, available);
                w := given.w;
                from_grants := given.grants;
                from_amounts := given.amounts;
            END IF;
        END IF;
        IF m.kind = 'purchase' THEN
            policy_key := sha256(convert_to(m.policy, 'UTF8'));
            SELECT digest, price INTO kept_key, priced
            FROM cogni_billing.policies WHERE tenant_id = owner AND digest = policy_key;
            IF (kept_key IS NOT NULL AND priced IS NULL
                AND m.paid > 0 AND m.paid < 1e40
                AND m.paid_unit IN ('USD', 'USDC')
                AND scale(m.paid) <= CASE m.paid_unit WHEN 'USD' THEN 2 ELSE 6 END
                -- In full, or without the shares that a split takes from it.
                AND ceil(m.paid * 10000000) IN (
                    m.amount, m.amount + CASE WHEN m.shares IS NOT NULL THEN shared END)
                -- A payment is provider:id.
                AND m.reference ~ '^[^:]+:.'
            ) IS NOT TRUE THEN
                PERFORM cogni_billing.keep_terms(
                    owner, m, CASE WHEN m.shares IS NOT NULL THEN shared END, policy_key,
                    kept_key IS NOT NULL, priced);
            END IF;
        ELSIF m.kind = 'grant' THEN
            IF (cogni_billing.is_visible(m.source) AND m.priority BETWEEN 0 AND 1000000) IS NOT TRUE
            THEN
                PERFORM cogni_billing.refuse('grants_have_their_terms');
            ELSIF w.has_schedules OR w.granted > available
                OR m.expires_at IS NOT NULL OR m.expires_in IS NOT NULL
                OR m.effective_from IS NOT NULL
            THEN
                IF (coalesce(m.expires_at < '9999-01-01 00:00:00+00', true)
                    AND coalesce(m.effective_from >= 'epoch'
                        AND m.effective_from < '9999-01-01 00:00:00+00', true)
                    AND coalesce(m.expires_at > m.effective_from, true)
                    AND cogni_billing.is_lifetime(
                        m.expires_at, m.expires_in, greatest(m.at, m.effective_from))) IS NOT TRUE
                THEN
                    PERFORM cogni_billing.refuse('grants_have_their_terms');
                ELSIF w.has_schedules THEN
                    waiting := cogni_billing.waiting_record(owner, m.reference);
                    IF waiting IS NOT NULL THEN
                        answers := answers || format('{"outcome":"replayed","stored":%s}', waiting);
                        CONTINUE;
                    END IF;
                    PERFORM FROM cogni_billing.schedules WHERE tenant_id = owner AND id = m.id;
                    IF FOUND THEN
                        PERFORM cogni_billing.refuse_id(m.id);
                    END IF;
                END IF;
                IF m.expires_at <= present THEN
                    answers := answers
                        || format('{"outcome":"expired","present":%s}', to_json(present));
                    CONTINUE;
                ELSIF m.effective_from > present THEN
                    PERFORM cogni_billing.keep_waiting(owner, m, w.posted + arrived);
                    w.has_schedules := true;
                    w.due_at := least(w.due_at, m.effective_from);
                    w.as_of := present;
                    changed := true;
                    answers := answers || format(
                        '{"outcome":"done","balance":%s}', w.posted + arrived);
                    CONTINUE;
                ELSIF w.granted > available THEN
                    -- It repays the debt first. Credits set aside by disputes are no debt.
                    to_draw := least(m.amount, cogni_billing.debt_of(owner, w.granted - available));
                    IF to_draw > 0 THEN
                        from_grants := ARRAY[m.id];
                        from_amounts := ARRAY[to_draw];
                        w.granted := w.granted - to_draw;
                    END IF;
                END IF;
                w.due_at := least(w.due_at, m.expires_at);
            END IF;
            INSERT INTO cogni_billing.grants (
                tenant_id, id, amount, taken, source, priority, granted_at, expires_at,
                first_expires_at, expires_in, effective_from
            ) VALUES (
                owner, m.id, m.amount, coalesce(to_draw, 0), m.source, m.priority, m.at,
                m.expires_at, m.expires_at, m.expires_in, m.effective_from
            )
            ON CONFLICT DO NOTHING;  -- refused below
            w.granted := w.granted + m.amount;
        ELSIF m.kind = 'capture' THEN
            hold := (
                SELECT own FROM cogni_billing.holds AS own
                WHERE tenant_id = owner AND id = m.subject AND kind = 'work');
            IF hold.id IS NULL THEN
                answers := answers || '{"outcome":"unknown_hold"}'::text;
                CONTINUE;
            ELSIF hold.state <> 'open' THEN
                answers := answers || format('{"outcome":"hold_closed","state":"%s"}', hold.state);
                CONTINUE;
            ELSIF - m.amount <= hold.held AND m.final IS NULL AND m.overrun IS NULL THEN
                SELECT * INTO ended
                FROM cogni_billing.end_hold(w, hold, 'captured', - m.amount, present);
            ELSE
                SELECT * INTO ended
                FROM cogni_billing.capture_hold(w, hold, m, available, present);
                IF ended.refusal IS NOT NULL THEN
                    answers := answers || ended.refusal;
                    CONTINUE;
                END IF;
            END IF;
            w := ended.w;
            from_grants := ended.grants;
            from_amounts := ended.amounts;
        ELSE
            to_draw := - m.amount;
            IF m.reverses IS NOT NULL OR m.kind IN (/* corrects */) THEN
                IF m.kind IN (/* gives_back */) THEN
                    IF m.kind = 'reversal' THEN
                        SELECT * INTO given FROM cogni_billing.give_back_charge(w, m, present);
                    ELSE
                        SELECT * INTO given FROM cogni_billing.reinstate(w, m);
                    END IF;
                    IF given.refusal IS NOT NULL THEN
                        answers := answers || given.refusal;
                        CONTINUE;
                    END IF;
                    w := given.w;
                    m := given.m;
                    from_grants := given.grants;
                    from_amounts := given.amounts;
                    shared := (SELECT coalesce(sum(part), 0) FROM unnest(m.shares) AS part);
                ELSE
                    IF m.reverses IS NOT NULL THEN
                        -- Open disputes set less aside.
                        drawn := cogni_billing.begin_reversal(owner, m, available);
                        available := available + drawn;
                        IF m.shortfall = 'refuse' AND to_draw > greatest(0, available) THEN
                            answers := answers
                                || format('{"outcome":"insufficient","available":%s}', available);
                            CONTINUE;
                        END IF;
                        w.held := w.held - drawn;
                    ELSIF NOT cogni_billing.is_reason(m.reason) THEN
                        PERFORM cogni_billing.refuse('reasons_are_printable');
                    END IF;
                    IF w.granted > 0 OR w.has_lots THEN
                        SELECT * INTO from_grants, from_amounts, drawn FROM cogni_billing.take_back(
                            owner, m.reverses, to_draw, available - w.granted);
                        w.granted := w.granted - drawn;
                    END IF;
                END IF;
                to_draw := 0;
            ELSIF w.frozen_at IS NOT NULL OR to_draw > available OR m.used_at IS NOT NULL THEN
                refusal := cogni_billing.charge_refusal(w, m, available);
                IF refusal IS NOT NULL THEN
                    answers := answers || refusal;
                    CONTINUE;
                ELSIF m.overdraft IS NOT TRUE AND to_draw > available THEN
                    -- It takes the available credits, and the answer says how many.
                    to_draw := greatest(0, available);
                    m.amount := - to_draw;
                    from_grants := '{}';
                    from_amounts := '{}';
                END IF;
            END IF;
            IF w.granted > 0 AND to_draw > 0 THEN
                SELECT * INTO from_grants, from_amounts, drawn
                FROM cogni_billing.draw_grants(owner, to_draw);
                w.granted := w.granted - drawn;
            END IF;
        END IF;

        w.posted := w.posted + m.amount;
        w.lines := w.lines + 1;
        w.as_of := present;
        changed := true;
        INSERT INTO cogni_billing.transactions (
            tenant_id, id, position, seen, occurred_at, line_at, kind, reference, amount,
            posted_after, arrived, overdraft, at_most, used_at, subject_id, paid, paid_unit,
            beneficiaries, shares, policy, drawn_grants, drawn_amounts, reverses, returned,
            returned_total, part, shortfall, absorbed, lapsed, reason, final, overrun, actor,
            metadata
        ) VALUES (
            owner, m.id, w.lines, seen, m.at, present, m.kind, m.reference, m.amount,
            w.posted, arrived, coalesce(m.overdraft, false), m.at_most, m.used_at, m.subject,
            m.paid, m.paid_unit, m.beneficiaries, m.shares, policy_key, from_grants, from_amounts,
            m.reverses, m.returned, m.returned_total, m.part, m.shortfall, m.absorbed, m.lapsed,
            m.reason, m.final, m.overrun, m.actor, m.metadata::json
        )
        ON CONFLICT ON CONSTRAINT transactions_pkey DO NOTHING;
        IF NOT FOUND THEN
            PERFORM cogni_billing.refuse_id(m.id);
        END IF;
        -- The other legs: shares, the absorbed part, expired credits, and the contra account's
        -- side, which is zero for a very small reversal.
        n := 0;
        other_side := - m.amount;
        IF m.shares IS NOT NULL THEN
            other_side := other_side - shared;
            FOR i IN 1 .. cardinality(m.shares) LOOP
                IF m.shares[i] <> 0 THEN
                    n := n + 1;
                    legs := legs || ROW(owner, m.id, n, m.beneficiaries[i], 0, m.kind,
                        m.shares[i], m.at)::cogni_billing.arrivals;
                END IF;
            END LOOP;
        END IF;
        IF m.absorbed IS NOT NULL THEN
            IF m.absorbed > 0 THEN
                n := n + 1;
                share := CASE WHEN m.kind IN (/* gives_back */) THEN m.absorbed
                    ELSE - m.absorbed END;
                other_side := other_side - share;
                legs := legs || ROW(owner, m.id, n, cogni_billing.absorbs(m.kind), 0, m.kind,
                    share, m.at)::cogni_billing.arrivals;
            END IF;
            IF m.lapsed > 0 THEN
                n := n + 1;
                other_side := other_side
                    + CASE m.kind WHEN 'reinstatement' THEN - m.lapsed ELSE m.lapsed END;
                legs := legs || ROW(owner, m.id, n, cogni_billing.contra_of('expiry'), 0, m.kind,
                    CASE m.kind WHEN 'reinstatement' THEN m.lapsed ELSE - m.lapsed END,
                    m.at)::cogni_billing.arrivals;
            END IF;
        END IF;
        IF other_side <> 0 OR m.reverses IS NULL THEN
            legs := legs || ROW(owner, m.id, n + 1, cogni_billing.contra_of(m.kind), 0, m.kind,
                other_side, m.at)::cogni_billing.arrivals;
        END IF;
        IF from_grants IS NULL THEN
            answers := answers || format('{"outcome":"done","balance":%s}', w.posted + arrived);
        ELSIF m.reverses IS NULL AND NOT w.has_lots THEN
            answers := answers || format(
                '{"outcome":"done","balance":%s,"grants":%s,"amounts":%s,"amount":%s}',
                w.posted + arrived, to_json(from_grants), to_json(from_amounts), m.amount);
        ELSE
            answers := answers || format(
                '{"outcome":"done","balance":%s,"grants":%s,"amounts":%s,"lots":%s,"amount":%s,'
                '"other":%s}',
                w.posted + arrived, to_json(from_grants), to_json(from_amounts),
                coalesce(to_json(cogni_billing.purchases_among(owner, from_grants)), 'null'),
                m.amount, to_json(ROW(m.reverses, m.returned, m.returned_total, m.absorbed,
                    m.beneficiaries, m.shares, m.lapsed)));
        END IF;
    END LOOP;
    IF changed THEN
        UPDATE cogni_billing.wallets
        SET posted = w.posted, held = w.held, granted = w.granted, lines = w.lines,
            as_of = w.as_of, due_at = w.due_at
        WHERE tenant_id = owner;
    END IF;
    INSERT INTO cogni_billing.arrivals (
        origin_id, transaction_id, sequence, account_id, kind, amount, occurred_at
    )
    SELECT owner, transaction_id, sequence, account_id, kind, amount, occurred_at
    FROM unnest(legs);
    RETURN '[' || array_to_string(answers, ',') || ']';
END
$$;

-- Posts like `record`. With `all_or_none`, a refused transaction rolls back all others.
CREATE FUNCTION cogni_billing.post(owner uuid, asked json[], kinds text[], all_or_none boolean)
RETURNS text
LANGUAGE plpgsql AS $$
DECLARE
    answers text;
BEGIN
    IF NOT all_or_none OR cardinality(asked) = 1 THEN
        RETURN cogni_billing.record(owner, asked, kinds);
    ELSIF (cogni_billing._expire_due(owner, asked[1]) ->> 'more')::boolean THEN
        RETURN '[{"outcome":"more_due"}]';
    END IF;
    BEGIN
        answers := cogni_billing.record(owner, asked, kinds);
        IF EXISTS (
            SELECT FROM json_array_elements(answers::json) WITH ORDINALITY AS told (answer, n)
            WHERE answer ->> 'outcome' NOT IN ('done', 'more_due')
              -- The caller has found these to be replays and no conflicts.
              AND (answer ->> 'outcome' = 'replayed'
                  AND (asked[n] ->> 'replays')::boolean) IS NOT TRUE
        ) THEN
            RAISE SQLSTATE 'CB001';
        END IF;
    EXCEPTION WHEN SQLSTATE 'CB001' THEN NULL;  -- the answers state the reason
    END;
    RETURN answers;
END
$$;

-- Posts for several tenants in one transaction, each under its own context and proof. Returns a
-- list of answers for each tenant.
CREATE FUNCTION cogni_billing.post_groups(groups json, kinds text[]) RETURNS text
LANGUAGE plpgsql AS $$
DECLARE
    tenant  record;
    answers text := '';
BEGIN
    FOR tenant IN
        SELECT * FROM json_to_recordset(groups) AS tenant (owner uuid, proof text, movements json[])
    LOOP
        answers := answers || ',' || cogni_billing.record(
            cogni_billing.act(tenant.owner, tenant.proof), tenant.movements, kinds);
    END LOOP;
    RETURN '[' || substr(answers, 2) || ']';
END
$$;

-- Posts expirations due on the wallet by a moment, at most a thousand. `more` if others are due.
CREATE FUNCTION cogni_billing._expire_due(me uuid, asked json) RETURNS json
LANGUAGE plpgsql AS $$
DECLARE
    w       CONSTANT cogni_billing.wallets := cogni_billing.lock_wallet(me);
    moment  CONSTANT timestamptz := asked ->> 'at';
    present CONSTANT timestamptz := greatest(w.as_of, moment);
    expired CONSTANT boolean := EXISTS (SELECT FROM cogni_billing.due(me, present));
    due     record;
BEGIN
    PERFORM cogni_billing.check_call(moment, '{}', '-');
    SELECT * INTO due FROM cogni_billing.catch_up(w, present);
    RETURN json_build_object('expired', expired, 'more', due.more);
END
$$;

-- Safeguards against every writer ------------------------------------------------------------

-- Postings of a transaction sum to zero, including its own line. The first posting is among the
-- inserted rows and unique, so a later statement can add none.
CREATE FUNCTION cogni_billing.check_arrivals() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    wrong record;
BEGIN
    SELECT made.transaction_id, made.total + own.amount AS excess INTO wrong
    FROM (
        SELECT origin_id, transaction_id, sum(amount) AS total, min(sequence) AS first
        FROM added
        GROUP BY origin_id, transaction_id
    ) AS made
    LEFT JOIN LATERAL (
        SELECT amount FROM cogni_billing.transactions
        WHERE tenant_id = made.origin_id AND id = made.transaction_id
        OFFSET 0
    ) AS own ON true
    WHERE (made.total + own.amount = 0 AND made.first = 1) IS NOT TRUE
    LIMIT 1;
    IF FOUND THEN
        RAISE check_violation USING
            CONSTRAINT = 'postings_sum_to_zero',
            MESSAGE = format(
                'postings of transaction %s sum to %s', wrong.transaction_id, wrong.excess);
    END IF;
    RETURN NULL;
END
$$;

-- History is append-only, also for the owner of the tables.
CREATE FUNCTION cogni_billing.refuse_change() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RAISE restrict_violation USING
        CONSTRAINT = 'history_is_append_only',
        MESSAGE = format('%s of %I is refused: history is append-only', TG_OP, TG_TABLE_NAME);
END
$$;
