-- Grants: credits with a source, which are spent in an order of their own and may expire.
--
-- A client makes one together with the transaction that mints its credits. How much of it is taken
-- is written by functions of the keeper, under the lock of the wallet that it is part of.

CREATE TABLE cogni_billing.grants (
    tenant_id  uuid             NOT NULL,
    -- The transaction's.
    id         uuid             NOT NULL,
    account_id uuid             NOT NULL,
    unit       text             NOT NULL,
    amount     numeric          NOT NULL,
    -- Spent, set aside by an open hold, or lapsed.
    taken      numeric          NOT NULL DEFAULT 0,
    source     text COLLATE "C" NOT NULL,
    priority   integer          NOT NULL,
    granted_at timestamptz      NOT NULL,
    expires_at timestamptz,
    CONSTRAINT grants_pkey PRIMARY KEY (tenant_id, id),
    CONSTRAINT grants_are_on_the_own_account
        CHECK (tenant_id <> '00000000-0000-4000-a000-000000000001' AND account_id = tenant_id
               OR tenant_id = '00000000-0000-4000-a000-000000000001'
                  AND account_id = '00000000-0000-4000-b000-000000000000'),
    CONSTRAINT grants_unit_known CHECK (unit IN ('CREDIT')),
    CONSTRAINT grants_taken_within_their_amount CHECK (taken >= 0 AND taken <= amount),
    CONSTRAINT grants_source_visible_ascii
        CHECK (source <> '' AND octet_length(source) <= 255 AND source !~ '[^\x21-\x7e]'),
    CONSTRAINT grants_priority_in_bounds CHECK (priority >= 0 AND priority <= 1000000),
    CONSTRAINT grants_expires_at_in_range
        CHECK (expires_at > granted_at AND expires_at < '9999-01-01 00:00:00+00')
);

-- What is left, in the order in which it is spent.
CREATE INDEX grants_spendable
    ON cogni_billing.grants (account_id, tenant_id, unit, priority, expires_at, granted_at, id)
    WHERE taken < amount;

ALTER TABLE cogni_billing.grants ENABLE ROW LEVEL SECURITY;
ALTER TABLE cogni_billing.grants FORCE ROW LEVEL SECURITY;
CREATE POLICY grants_floor ON cogni_billing.grants AS RESTRICTIVE
    USING (tenant_id = (SELECT cogni_billing.tenant()))
    WITH CHECK (tenant_id = (SELECT cogni_billing.tenant()));
CREATE POLICY grants_select ON cogni_billing.grants FOR SELECT
    USING (tenant_id = (SELECT cogni_billing.tenant()));
CREATE POLICY grants_insert ON cogni_billing.grants FOR INSERT
    WITH CHECK (tenant_id = (SELECT cogni_billing.tenant()));
CREATE POLICY grants_update ON cogni_billing.grants FOR UPDATE
    USING (tenant_id = (SELECT cogni_billing.tenant()))
    WITH CHECK (tenant_id = (SELECT cogni_billing.tenant()));

-- Counts a new grant in its wallet. After the row, so that one that is skipped counts for nothing;
-- and after the whole statement, so that the transaction that it belongs to is there.
CREATE FUNCTION cogni_billing.keep_grant() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    kept record;
BEGIN
    IF NOT EXISTS (
        SELECT FROM cogni_billing.transactions
        WHERE tenant_id = NEW.tenant_id AND id = NEW.id
          AND kind = 'grant' AND unit = NEW.unit AND amount = NEW.amount
          AND occurred_at = NEW.granted_at
    ) THEN
        RAISE check_violation USING
            CONSTRAINT = 'grants_match_their_transaction',
            MESSAGE = format('grant %s is not what its transaction declares', NEW.id);
    END IF;
    UPDATE cogni_billing.wallets
    SET granted = granted + NEW.amount,
        due_at = least(due_at, NEW.expires_at)
    WHERE tenant_id = NEW.tenant_id AND account_id = NEW.account_id AND unit = NEW.unit
    RETURNING as_of, due_at INTO kept;
    IF kept.due_at <= kept.as_of THEN
        PERFORM cogni_billing.refuse_unsettled();
    END IF;
    RETURN NULL;
END
$$;

CREATE TRIGGER keep_grant AFTER INSERT ON cogni_billing.grants
FOR EACH ROW EXECUTE FUNCTION cogni_billing.keep_grant();

-- Takes up to so much of the grants of the scope's tenant, in their order; and how much of which it
-- was, as two lists. Under the wallet's lock. For the keeper's own functions.
CREATE FUNCTION cogni_billing.draw_grants(
    of_unit text, wanted numeric, OUT grants uuid[], OUT amounts numeric[]
)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    me      CONSTANT uuid := cogni_billing.tenant();
    account CONSTANT uuid := cogni_billing.account_of(me);
    lot     record;
    part    numeric;
BEGIN
    grants := '{}';
    amounts := '{}';
    FOR lot IN
        SELECT id, amount - taken AS remaining
        FROM cogni_billing.grants
        WHERE tenant_id = me AND account_id = account AND unit = of_unit AND taken < amount
        ORDER BY priority, expires_at, granted_at, id
    LOOP
        EXIT WHEN wanted = 0;
        part := least(lot.remaining, wanted);
        UPDATE cogni_billing.grants SET taken = taken + part WHERE tenant_id = me AND id = lot.id;
        wanted := wanted - part;
        grants := grants || lot.id;
        amounts := amounts || part;
    END LOOP;
    UPDATE cogni_billing.wallets
    SET granted = granted - (SELECT coalesce(sum(amount), 0) FROM unnest(amounts) AS amount)
    WHERE tenant_id = me AND account_id = account AND unit = of_unit;
END
$$;

-- When the next hold or grant expires. For the keeper's own functions.
CREATE FUNCTION cogni_billing.next_due(of_unit text) RETURNS timestamptz
LANGUAGE sql SET search_path = pg_catalog, pg_temp
AS $$
    SELECT least(
        'infinity',
        (
            SELECT min(ends_at)
            FROM cogni_billing.holds
            WHERE tenant_id = (SELECT cogni_billing.tenant())
              AND account_id = cogni_billing.account_of((SELECT cogni_billing.tenant()))
              AND unit = of_unit
              AND kind = 'work' AND state = 'open'
        ),
        (
            SELECT min(expires_at)
            FROM cogni_billing.grants
            WHERE tenant_id = (SELECT cogni_billing.tenant())
              AND account_id = cogni_billing.account_of((SELECT cogni_billing.tenant()))
              AND unit = of_unit
              AND taken < amount
        )
    )
$$;

-- Takes what is left of one grant that has expired: so much, all of it. Under the wallet's lock. For
-- the keeper's own functions.
CREATE FUNCTION cogni_billing.lapse_grant(
    expired uuid, of_unit text, remaining numeric, moment timestamptz
) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    me CONSTANT uuid := cogni_billing.tenant();
BEGIN
    UPDATE cogni_billing.grants
    SET taken = amount
    WHERE tenant_id = me AND id = expired AND unit = of_unit
      AND expires_at <= moment AND amount - taken = remaining;
    IF NOT FOUND THEN
        RAISE check_violation USING
            CONSTRAINT = 'grants_lapse_when_they_expire',
            MESSAGE = format('grant %s has not expired with %s left', expired, remaining);
    END IF;
    UPDATE cogni_billing.wallets
    SET granted = granted - remaining,
        due_at = cogni_billing.next_due(of_unit)
    WHERE tenant_id = me AND account_id = cogni_billing.account_of(me) AND unit = of_unit;
END
$$;

-- What lapses by a moment and is not posted yet: what is left of grants that expire until then, and
-- what holds that expire until then give back to them.
CREATE FUNCTION cogni_billing.lapsing(tenant uuid, account uuid, of_unit text, moment timestamptz)
RETURNS numeric
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT coalesce((
        SELECT sum(amount - taken)
        FROM cogni_billing.grants
        WHERE tenant_id = tenant AND account_id = account AND unit = of_unit
          AND taken < amount AND expires_at <= moment
    ), 0) + coalesce((
        SELECT sum(pin.amount)
        FROM cogni_billing.holds AS hold
        CROSS JOIN unnest(hold.pinned_grants, hold.pinned_amounts) AS pin (grant_id, amount)
        JOIN cogni_billing.grants AS pinned
            ON pinned.tenant_id = tenant AND pinned.id = pin.grant_id
        WHERE hold.tenant_id = tenant AND hold.account_id = account AND hold.unit = of_unit
          AND hold.state = 'open' AND hold.ends_at <= moment AND pinned.expires_at <= moment
    ), 0)
$$;

CREATE TRIGGER append_only BEFORE DELETE OR TRUNCATE ON cogni_billing.grants
FOR EACH STATEMENT EXECUTE FUNCTION cogni_billing.refuse_change();
