-- Holds: credits set aside before their cost is known.
--
-- A client opens a hold by inserting it. Everything else about it is written by functions of the
-- keeper, under the lock of the wallet that the hold is on: so its capture, its release and its
-- expiry come one after another, and the first of them is the only one.

CREATE TABLE cogni_billing.holds (
    tenant_id  uuid             NOT NULL,
    id         uuid             NOT NULL,
    account_id uuid             NOT NULL,
    -- Of the tenant's own work, or of a dispute, which the tenant cannot end.
    kind       text             NOT NULL DEFAULT 'work',
    dispute_id uuid,
    reference  text COLLATE "C" NOT NULL,
    unit       text             NOT NULL,
    amount     numeric          NOT NULL,
    captured   numeric          NOT NULL DEFAULT 0,
    state      text             NOT NULL DEFAULT 'open',
    opened_at  timestamptz      NOT NULL,
    expires_at timestamptz,
    -- When it ended; of an open one, when it will if nobody ends it before.
    ends_at    timestamptz      NOT NULL,
    request    json             NOT NULL,
    metadata   json             NOT NULL,
    -- What it has set aside of which grants, while it is open; the rest is of purchased credits.
    pinned_grants  uuid[],
    pinned_amounts numeric[],
    CONSTRAINT holds_pkey PRIMARY KEY (tenant_id, id),
    CONSTRAINT holds_key_used_once UNIQUE (reference, tenant_id, kind),
    CONSTRAINT holds_kind_known
        CHECK (kind IN ('work', 'dispute') AND (kind = 'dispute') = (dispute_id IS NOT NULL)),
    CONSTRAINT holds_are_on_the_own_account
        CHECK (tenant_id <> '00000000-0000-4000-a000-000000000001' AND account_id = tenant_id
               OR tenant_id = '00000000-0000-4000-a000-000000000001'
                  AND account_id = '00000000-0000-4000-b000-000000000000'),
    CONSTRAINT holds_reference_visible_ascii
        CHECK (reference <> '' AND octet_length(reference) <= 255 AND reference !~ '[^\x21-\x7e]'),
    CONSTRAINT holds_unit_known CHECK (unit IN ('CREDIT')),
    CONSTRAINT holds_amount_whole_and_bounded
        CHECK (amount >= 0 AND (amount > 0 OR kind = 'dispute')
               AND scale(amount) = 0 AND amount < 1e40),
    CONSTRAINT holds_capture_no_more_than_they_are
        CHECK (captured >= 0 AND captured <= amount AND scale(captured) = 0
               AND (captured > 0) = (state = 'captured')),
    CONSTRAINT holds_state_known CHECK (state IN ('open', 'captured', 'released', 'expired')),
    CONSTRAINT holds_opened_at_in_range
        CHECK (opened_at >= 'epoch' AND opened_at < '9999-01-01 00:00:00+00'),
    CONSTRAINT holds_expires_at_in_range
        CHECK (expires_at > opened_at AND expires_at < '9999-01-01 00:00:00+00'),
    CONSTRAINT holds_ends_at_in_range
        CHECK (ends_at >= opened_at AND ends_at < '9999-01-01 00:00:00+00'
               AND ends_at <= coalesce(expires_at, ends_at)),
    CONSTRAINT holds_metadata_small_object
        CHECK (json_typeof(metadata) = 'object' AND octet_length(metadata::text) <= 16384),
    CONSTRAINT holds_request_small_object
        CHECK (json_typeof(request) = 'object' AND octet_length(request::text) <= 65536)
);

-- What was held at a moment: the holds that ended later and were open by then.
CREATE INDEX holds_ends ON cogni_billing.holds (account_id, tenant_id, unit, ends_at)
    INCLUDE (amount, opened_at);
CREATE INDEX holds_open ON cogni_billing.holds (account_id, tenant_id, unit, ends_at)
    INCLUDE (amount)
    WHERE state = 'open';

ALTER TABLE cogni_billing.holds ENABLE ROW LEVEL SECURITY;
ALTER TABLE cogni_billing.holds FORCE ROW LEVEL SECURITY;
CREATE POLICY holds_floor ON cogni_billing.holds AS RESTRICTIVE
    USING (tenant_id = (SELECT cogni_billing.tenant()))
    WITH CHECK (tenant_id = (SELECT cogni_billing.tenant()));
CREATE POLICY holds_select ON cogni_billing.holds FOR SELECT
    USING (tenant_id = (SELECT cogni_billing.tenant()));
CREATE POLICY holds_insert ON cogni_billing.holds FOR INSERT
    WITH CHECK (tenant_id = (SELECT cogni_billing.tenant()));
CREATE POLICY holds_update ON cogni_billing.holds FOR UPDATE
    USING (tenant_id = (SELECT cogni_billing.tenant()))
    WITH CHECK (tenant_id = (SELECT cogni_billing.tenant()));

-- Sets the credits of a new hold aside. After the row, so that one that is skipped sets nothing.
CREATE FUNCTION cogni_billing.keep_hold() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    kept      record;
    pinned    record;
    available numeric;
BEGIN
    INSERT INTO cogni_billing.wallets AS wallet
        (tenant_id, account_id, unit, posted, held, as_of, due_at)
    VALUES (NEW.tenant_id, NEW.account_id, NEW.unit, 0, NEW.amount, NEW.opened_at, NEW.ends_at)
    ON CONFLICT (tenant_id, account_id, unit) DO UPDATE SET
        held = wallet.held + excluded.held,
        as_of = greatest(wallet.as_of, excluded.as_of),
        due_at = least(wallet.due_at, excluded.due_at)
    RETURNING posted, held, granted, as_of, due_at INTO kept;
    IF kept.due_at <= kept.as_of THEN
        PERFORM cogni_billing.refuse_unsettled();
    END IF;
    -- The statement that opened it may have ended it, too, before it was counted here.
    IF NOT EXISTS (
        SELECT FROM cogni_billing.holds
        WHERE tenant_id = NEW.tenant_id AND id = NEW.id AND state = 'open'
    ) THEN
        RAISE check_violation USING
            CONSTRAINT = 'holds_are_counted_before_they_end',
            MESSAGE = format('hold %s ended in the statement that opened it', NEW.id);
    END IF;
    available := kept.posted - kept.held + NEW.amount + cogni_billing.arrived(
        NEW.tenant_id, NEW.account_id, NEW.unit, 9223372036854775807);
    IF NEW.amount > available THEN
        PERFORM cogni_billing.refuse_overdraft(NEW.unit, NEW.amount, available);
    END IF;
    IF kept.granted > 0 THEN
        SELECT * INTO pinned FROM cogni_billing.draw_grants(NEW.unit, NEW.amount);
        UPDATE cogni_billing.holds
        SET pinned_grants = pinned.grants, pinned_amounts = pinned.amounts
        WHERE tenant_id = NEW.tenant_id AND id = NEW.id;
    END IF;
    RETURN NULL;
END
$$;

CREATE TRIGGER keep_hold AFTER INSERT ON cogni_billing.holds
FOR EACH ROW WHEN (NEW.kind = 'work')
EXECUTE FUNCTION cogni_billing.keep_hold();

-- Ends one hold, under its wallet's lock. What it used of grants comes back as two lists; what it
-- did not use is theirs again. Both lists are NULL when it was not open. For the keeper's own
-- functions.
CREATE FUNCTION cogni_billing.end_hold(
    hold uuid, ending text, used numeric, moment timestamptz,
    OUT grants uuid[], OUT amounts numeric[]
)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    me    CONSTANT uuid := cogni_billing.tenant();
    ended record;
    pin   record;
    part  numeric;
    freed numeric := 0;
    due   timestamptz := 'infinity';
BEGIN
    UPDATE cogni_billing.holds
    SET state = ending,
        captured = used,
        ends_at = CASE ending WHEN 'expired' THEN ends_at ELSE greatest(opened_at, moment) END
    WHERE tenant_id = me
      AND id = hold
      AND kind = 'work'
      AND state = 'open'
      AND (ends_at <= moment) = (ending = 'expired')
    RETURNING account_id, unit, amount, pinned_grants, pinned_amounts INTO ended;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    grants := '{}';
    amounts := '{}';
    FOR pin IN
        SELECT grant_id, amount FROM unnest(ended.pinned_grants, ended.pinned_amounts)
            WITH ORDINALITY AS pinned (grant_id, amount, n)
        ORDER BY n
    LOOP
        part := least(pin.amount, used);
        IF part > 0 THEN
            used := used - part;
            grants := grants || pin.grant_id;
            amounts := amounts || part;
        END IF;
        IF part < pin.amount THEN
            UPDATE cogni_billing.grants
            SET taken = taken - (pin.amount - part)
            WHERE tenant_id = me AND id = pin.grant_id
            RETURNING least(due, expires_at) INTO due;
            freed := freed + pin.amount - part;
        END IF;
    END LOOP;
    UPDATE cogni_billing.wallets
    SET held = held - ended.amount,
        granted = granted + freed,
        due_at = least(due_at, due)
    WHERE tenant_id = me AND account_id = ended.account_id AND unit = ended.unit;
END
$$;

-- Locks the wallet of the scope's tenant, and lets its time go on. For the keeper's own functions.
CREATE FUNCTION cogni_billing.lock_wallet(of_unit text, moment timestamptz) RETURNS timestamptz
LANGUAGE sql SET search_path = pg_catalog, pg_temp
AS $$
    UPDATE cogni_billing.wallets
    SET as_of = greatest(as_of, moment)
    WHERE tenant_id = (SELECT cogni_billing.tenant())
      AND account_id = cogni_billing.account_of((SELECT cogni_billing.tenant()))
      AND unit = of_unit
    RETURNING as_of
$$;

-- Gives an open hold's credits back to its tenant; whether it was open.
CREATE FUNCTION cogni_billing.release_hold(hold uuid, of_unit text, moment timestamptz)
RETURNS boolean
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
    SELECT amounts IS NOT NULL
    FROM cogni_billing.end_hold(hold, 'released', 0, cogni_billing.lock_wallet(of_unit, moment))
$$;

-- Lets the time of the scope's tenant's wallet go on to a moment by which something is due, and ends
-- the holds that have expired by then; the wallet's time, and how many they were. What is left of
-- grants that have is for the caller to post.
CREATE FUNCTION cogni_billing.settle_wallet(
    of_unit text, moment timestamptz, OUT present timestamptz, OUT ended bigint
)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    me      CONSTANT uuid := cogni_billing.tenant();
    account CONSTANT uuid := cogni_billing.account_of(me);
    expired record;
BEGIN
    present := cogni_billing.lock_wallet(of_unit, '-infinity');
    ended := 0;
    -- What was due may have been captured, released or spent meanwhile: then no time has passed.
    IF cogni_billing.next_due(of_unit) <= moment THEN
        present := cogni_billing.lock_wallet(of_unit, moment);
    END IF;
    FOR expired IN
        SELECT id
        FROM cogni_billing.holds
        WHERE tenant_id = me AND account_id = account AND unit = of_unit
          AND kind = 'work' AND state = 'open' AND ends_at <= present
    LOOP
        PERFORM cogni_billing.end_hold(expired.id, 'expired', 0, present);
        ended := ended + 1;
    END LOOP;
    UPDATE cogni_billing.wallets
    SET due_at = cogni_billing.next_due(of_unit)
    WHERE tenant_id = me AND account_id = account AND unit = of_unit;
END
$$;

CREATE TRIGGER append_only BEFORE DELETE OR TRUNCATE ON cogni_billing.holds
FOR EACH STATEMENT EXECUTE FUNCTION cogni_billing.refuse_change();
