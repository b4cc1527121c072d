-- Disputes: what a disputed payment gave is set aside, on the customer's wallet and on every
-- beneficiary's, until the dispute is won or lost.
--
-- The row says what was disputed, and never changes. What it set aside are holds, one for each
-- wallet, which no tenant can end; whether the customer's is open says whether the dispute is.
-- Other tenants' wallets are reached through functions of the keeper, which act for one tenant at a
-- time, under its policies. So nothing here rests on a role that row security does not bind.

CREATE TABLE cogni_billing.disputes (
    tenant_id     uuid             NOT NULL,
    id            uuid             NOT NULL,
    reference     text COLLATE "C" NOT NULL,
    purchase_id   uuid             NOT NULL,
    payment       text COLLATE "C" NOT NULL,
    -- How much of the payment, in its unit.
    disputed      numeric          NOT NULL,
    disputed_unit text             NOT NULL,
    -- What is set aside: of the customer's credits, and of each beneficiary's.
    unit          text             NOT NULL,
    amount        numeric          NOT NULL,
    beneficiaries uuid[]           NOT NULL,
    shares        numeric[]        NOT NULL,
    request       json             NOT NULL,
    metadata      json             NOT NULL,
    opened_at     timestamptz      NOT NULL,
    CONSTRAINT disputes_pkey PRIMARY KEY (tenant_id, id),
    CONSTRAINT disputes_key_used_once UNIQUE (reference, tenant_id),
    CONSTRAINT disputes_are_of_purchases
        FOREIGN KEY (tenant_id, purchase_id) REFERENCES cogni_billing.transactions (tenant_id, id),
    CONSTRAINT disputes_reference_visible_ascii
        CHECK (reference <> '' AND octet_length(reference) <= 255 AND reference !~ '[^\x21-\x7e]'),
    CONSTRAINT disputes_unit_known CHECK (unit IN ('CREDIT')),
    CONSTRAINT disputes_disputed_bounded CHECK (disputed > 0 AND disputed < 1e40),
    CONSTRAINT disputes_amount_whole_and_bounded
        CHECK (amount >= 0 AND scale(amount) = 0 AND amount < 1e40),
    CONSTRAINT disputes_shares_complete
        CHECK (cardinality(shares) = cardinality(beneficiaries)
               AND array_position(beneficiaries, NULL) IS NULL
               AND array_position(shares, NULL) IS NULL
               AND 0 <= ALL (shares)),
    CONSTRAINT disputes_opened_at_in_range
        CHECK (opened_at >= 'epoch' AND opened_at < '9999-01-01 00:00:00+00'),
    CONSTRAINT disputes_metadata_small_object
        CHECK (json_typeof(metadata) = 'object' AND octet_length(metadata::text) <= 16384),
    CONSTRAINT disputes_request_small_object
        CHECK (json_typeof(request) = 'object' AND octet_length(request::text) <= 65536)
);

-- What of a purchase is disputed.
CREATE INDEX disputes_of_purchases ON cogni_billing.disputes (purchase_id, tenant_id);

ALTER TABLE cogni_billing.disputes ENABLE ROW LEVEL SECURITY;
ALTER TABLE cogni_billing.disputes FORCE ROW LEVEL SECURITY;
CREATE POLICY disputes_floor ON cogni_billing.disputes AS RESTRICTIVE
    USING (tenant_id = (SELECT cogni_billing.tenant()))
    WITH CHECK (tenant_id = (SELECT cogni_billing.tenant()));
CREATE POLICY disputes_select ON cogni_billing.disputes FOR SELECT
    USING (tenant_id = (SELECT cogni_billing.tenant()));
CREATE POLICY disputes_insert ON cogni_billing.disputes FOR INSERT
    WITH CHECK (tenant_id = (SELECT cogni_billing.tenant()));

-- Locks a tenant's wallet; what it has that is available by a moment and was not granted.
CREATE FUNCTION cogni_billing.lock_earned(owner uuid, of_unit text, moment timestamptz)
RETURNS numeric
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    before CONSTANT text[] := cogni_billing.acting();
    account CONSTANT uuid := cogni_billing.account_of(owner);
    kept    record;
    earned  numeric;
BEGIN
    PERFORM cogni_billing.act_for(owner);
    INSERT INTO cogni_billing.accounts (tenant_id, id, opened_at)
    VALUES (owner, account, moment)
    ON CONFLICT DO NOTHING;
    INSERT INTO cogni_billing.wallets AS wallet
        (tenant_id, account_id, unit, posted, held, as_of, due_at)
    VALUES (owner, account, of_unit, 0, 0, 'epoch', 'infinity')
    ON CONFLICT (tenant_id, account_id, unit) DO UPDATE SET as_of = wallet.as_of
    RETURNING posted, held, granted, greatest(as_of, moment) AS present INTO kept;
    earned := kept.posted - kept.held - kept.granted
        + cogni_billing.arrived(owner, account, of_unit, 9223372036854775807)
        -- Holds that have expired set nothing aside any more; what they pinned was granted.
        + (
            SELECT coalesce(sum(amount - (
                SELECT coalesce(sum(pinned), 0) FROM unnest(pinned_amounts) AS pinned
            )), 0)
            FROM cogni_billing.holds
            WHERE tenant_id = owner AND account_id = account AND unit = of_unit
              AND state = 'open' AND ends_at <= kept.present
        );
    PERFORM cogni_billing.act_again(before);
    RETURN earned;
END
$$;

-- Sets credits of a tenant's aside for a dispute, no matter how much is available.
CREATE FUNCTION cogni_billing.set_aside(
    owner uuid, part uuid, dispute uuid, of_unit text, of_amount numeric, moment timestamptz
) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    before CONSTANT text[] := cogni_billing.acting();
BEGIN
    PERFORM cogni_billing.lock_earned(owner, of_unit, moment);
    PERFORM cogni_billing.act_for(owner);
    INSERT INTO cogni_billing.holds (
        tenant_id, id, account_id, kind, dispute_id, reference, unit, amount, opened_at, ends_at,
        request, metadata
    ) VALUES (
        owner, part, cogni_billing.account_of(owner), 'dispute', dispute, part::text, of_unit,
        of_amount, moment, '9998-12-31 23:59:59.999999+00', '{}', '{}'
    );
    UPDATE cogni_billing.wallets
    SET held = held + of_amount
    WHERE tenant_id = owner AND account_id = cogni_billing.account_of(owner) AND unit = of_unit;
    PERFORM cogni_billing.act_again(before);
END
$$;

-- Gives back what was set aside for a dispute.
CREATE FUNCTION cogni_billing.give_back(owner uuid, part uuid, of_unit text, moment timestamptz)
RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    before CONSTANT text[] := cogni_billing.acting();
    freed  numeric;
BEGIN
    PERFORM cogni_billing.lock_earned(owner, of_unit, moment);
    PERFORM cogni_billing.act_for(owner);
    UPDATE cogni_billing.holds
    SET state = 'released', ends_at = greatest(opened_at, moment)
    WHERE tenant_id = owner AND id = part AND kind = 'dispute' AND state = 'open'
    RETURNING amount INTO freed;
    UPDATE cogni_billing.wallets
    SET held = held - coalesce(freed, 0)
    WHERE tenant_id = owner AND account_id = cogni_billing.account_of(owner) AND unit = of_unit;
    PERFORM cogni_billing.act_again(before);
END
$$;

CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON cogni_billing.disputes
FOR EACH STATEMENT EXECUTE FUNCTION cogni_billing.refuse_change();
