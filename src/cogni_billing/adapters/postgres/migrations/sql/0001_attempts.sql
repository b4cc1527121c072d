-- Payment attempts: what somebody means to pay, over evidence that it was paid, to credits.
--
-- The intent never changes. What becomes of it are events, which are only ever added, and a trigger
-- of the keeper's keeps the attempt's present state from them: so nobody sets a state, and history
-- cannot tell another story.

CREATE TABLE cogni_billing.payment_attempts (
    tenant_id      uuid             NOT NULL,
    id             uuid             NOT NULL,
    amount         numeric          NOT NULL,
    unit           text             NOT NULL,
    payer          text COLLATE "C",
    provider       text COLLATE "C" NOT NULL,
    token          text COLLATE "C" NOT NULL,
    recipient      text COLLATE "C" NOT NULL,
    -- The same amount in the smallest units of the token.
    raw_amount     numeric          NOT NULL,
    confirmations  integer          NOT NULL,
    metadata       json             NOT NULL,
    created_at     timestamptz      NOT NULL,
    expires_at     timestamptz      NOT NULL,
    -- Kept from the events.
    state          text             NOT NULL DEFAULT 'CREATED_INTENT',
    changed_at     timestamptz,
    evidence       text COLLATE "C",
    submitted_at   timestamptz,
    failure        text,
    transaction_id uuid,
    -- When a verifier was last asked, or was about to be.
    checked_at     timestamptz,
    CONSTRAINT payment_attempts_pkey PRIMARY KEY (tenant_id, id),
    CONSTRAINT payment_attempts_of_money
        CHECK (unit IN ('USD') AND amount > 0 AND scale(amount) <= 2 AND amount < 1e27
               AND raw_amount > 0 AND scale(raw_amount) = 0 AND raw_amount < 1e47
               AND confirmations >= 0),
    CONSTRAINT payment_attempts_names_visible_ascii
        CHECK (concat(payer, provider, token, recipient) !~ '[^\x21-\x7e]'
               AND provider <> '' AND token <> '' AND recipient <> ''
               AND greatest(octet_length(payer), octet_length(provider), octet_length(token),
                            octet_length(recipient)) <= 255),
    CONSTRAINT payment_attempts_metadata_small_object
        CHECK (json_typeof(metadata) = 'object' AND octet_length(metadata::text) <= 16384),
    CONSTRAINT payment_attempts_moments_in_range
        CHECK (created_at >= 'epoch' AND created_at <= expires_at
               AND expires_at < '9999-01-01 00:00:00+00'
               AND (checked_at IS NULL
                    OR checked_at >= 'epoch' AND checked_at < '9999-01-01 00:00:00+00'))
);

-- Evidence belongs to one attempt in the whole system, while it may be credited for it. What was
-- rejected frees it: else whoever sees a payment could keep its payer from claiming it.
CREATE UNIQUE INDEX payment_attempts_evidence_used_once
    ON cogni_billing.payment_attempts (evidence)
    WHERE state IN ('PENDING_UNVERIFIED', 'CREDITED');

-- What a sweep looks for.
CREATE INDEX payment_attempts_pending
    ON cogni_billing.payment_attempts (checked_at, tenant_id, id)
    WHERE state = 'PENDING_UNVERIFIED';
CREATE INDEX payment_attempts_expiring
    ON cogni_billing.payment_attempts (expires_at, tenant_id, id)
    WHERE state = 'CREATED_INTENT';

-- Each state is left once; that is the key.
CREATE TABLE cogni_billing.payment_attempt_events (
    tenant_id      uuid        NOT NULL,
    attempt_id     uuid        NOT NULL,
    from_state     text        NOT NULL,
    state          text        NOT NULL,
    at             timestamptz NOT NULL,
    evidence       text COLLATE "C",
    failure        text,
    transaction_id uuid,
    -- What the verifier said.
    found          json        NOT NULL,
    CONSTRAINT payment_attempt_events_pkey PRIMARY KEY (tenant_id, attempt_id, from_state),
    CONSTRAINT payment_attempt_events_of_attempts
        FOREIGN KEY (tenant_id, attempt_id) REFERENCES cogni_billing.payment_attempts (tenant_id, id),
    CONSTRAINT payment_attempt_events_of_purchases
        FOREIGN KEY (tenant_id, transaction_id) REFERENCES cogni_billing.transactions (tenant_id, id),
    CONSTRAINT payment_attempt_events_lead_on
        CHECK (from_state || ' ' || state IN (
            'CREATED_INTENT PENDING_UNVERIFIED',
            'CREATED_INTENT FAILED',
            'PENDING_UNVERIFIED CREDITED',
            'PENDING_UNVERIFIED REJECTED',
            'PENDING_UNVERIFIED FAILED'
        )),
    CONSTRAINT payment_attempt_events_say_why
        CHECK ((state = 'PENDING_UNVERIFIED') = (evidence IS NOT NULL)
               AND (state = 'CREDITED') = (transaction_id IS NOT NULL)
               AND (state IN ('REJECTED', 'FAILED')) = (failure IS NOT NULL)),
    CONSTRAINT payment_attempt_events_failure_known
        CHECK (failure IN (
            'SENDER_MISMATCH', 'INVALID_TOKEN', 'INVALID_RECIPIENT', 'INVALID_CHAIN',
            'INSUFFICIENT_AMOUNT', 'INSUFFICIENT_CONFIRMATIONS', 'TX_NOT_FOUND', 'TX_REVERTED',
            'TOKEN_TRANSFER_NOT_FOUND', 'RECIPIENT_MISMATCH', 'RECEIPT_NOT_FOUND',
            'INTENT_EXPIRED', 'RPC_ERROR'
        )),
    CONSTRAINT payment_attempt_events_evidence_visible_ascii
        CHECK (evidence <> '' AND octet_length(evidence) <= 255 AND evidence !~ '[^\x21-\x7e]'),
    CONSTRAINT payment_attempt_events_found_small_object
        CHECK (json_typeof(found) = 'object' AND octet_length(found::text) <= 16384),
    CONSTRAINT payment_attempt_events_at_in_range
        CHECK (at >= 'epoch' AND at < '9999-01-01 00:00:00+00')
);

ALTER TABLE cogni_billing.payment_attempts ENABLE ROW LEVEL SECURITY;
ALTER TABLE cogni_billing.payment_attempts FORCE ROW LEVEL SECURITY;
CREATE POLICY payment_attempts_floor ON cogni_billing.payment_attempts AS RESTRICTIVE
    USING (tenant_id = (SELECT cogni_billing.tenant()))
    WITH CHECK (tenant_id = (SELECT cogni_billing.tenant()));
CREATE POLICY payment_attempts_select ON cogni_billing.payment_attempts FOR SELECT
    USING (tenant_id = (SELECT cogni_billing.tenant()));
CREATE POLICY payment_attempts_insert ON cogni_billing.payment_attempts FOR INSERT
    WITH CHECK (tenant_id = (SELECT cogni_billing.tenant()));
CREATE POLICY payment_attempts_update ON cogni_billing.payment_attempts FOR UPDATE
    USING (tenant_id = (SELECT cogni_billing.tenant()))
    WITH CHECK (tenant_id = (SELECT cogni_billing.tenant()));

ALTER TABLE cogni_billing.payment_attempt_events ENABLE ROW LEVEL SECURITY;
ALTER TABLE cogni_billing.payment_attempt_events FORCE ROW LEVEL SECURITY;
CREATE POLICY payment_attempt_events_floor ON cogni_billing.payment_attempt_events AS RESTRICTIVE
    USING (tenant_id = (SELECT cogni_billing.tenant()))
    WITH CHECK (tenant_id = (SELECT cogni_billing.tenant()));
CREATE POLICY payment_attempt_events_select ON cogni_billing.payment_attempt_events FOR SELECT
    USING (tenant_id = (SELECT cogni_billing.tenant()));
CREATE POLICY payment_attempt_events_insert ON cogni_billing.payment_attempt_events FOR INSERT
    WITH CHECK (tenant_id = (SELECT cogni_billing.tenant()));

-- Keeps the attempt's state. It comes before the policies judge the row, so it looks at the tenant
-- first. Moments never run backwards, whatever clocks say.
CREATE FUNCTION cogni_billing.keep_attempt() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    kept record;
BEGIN
    IF NEW.tenant_id IS DISTINCT FROM cogni_billing.tenant() THEN
        RAISE insufficient_privilege USING MESSAGE =
            'new row violates row-level security policy for table "payment_attempt_events"';
    END IF;
    UPDATE cogni_billing.payment_attempts
    SET state = NEW.state,
        changed_at = greatest(created_at, changed_at, NEW.at),
        evidence = coalesce(NEW.evidence, evidence),
        submitted_at = CASE WHEN NEW.evidence IS NULL
            THEN submitted_at ELSE greatest(created_at, changed_at, NEW.at) END,
        checked_at = CASE WHEN NEW.evidence IS NULL
            THEN checked_at ELSE greatest(created_at, changed_at, NEW.at) END,
        failure = NEW.failure,
        transaction_id = NEW.transaction_id
    WHERE tenant_id = NEW.tenant_id AND id = NEW.attempt_id AND state = NEW.from_state
    RETURNING changed_at, evidence, amount, unit INTO kept;
    IF NOT FOUND THEN
        RAISE serialization_failure USING
            CONSTRAINT = 'payment_attempts_move_on',
            MESSAGE = 'the attempt has moved on since it was read';
    END IF;
    IF NEW.state = 'CREDITED' AND NOT EXISTS (
        SELECT FROM cogni_billing.transactions
        WHERE tenant_id = NEW.tenant_id
          AND id = NEW.transaction_id
          AND kind = 'purchase'
          AND reference = kept.evidence
          AND request ->> 'amount' = kept.amount || ' ' || kept.unit
    ) THEN
        RAISE check_violation USING
            CONSTRAINT = 'payment_attempts_have_their_purchase',
            MESSAGE = format('attempt %s is not credited by its purchase', NEW.attempt_id);
    END IF;
    NEW.at := kept.changed_at;
    RETURN NEW;
END
$$;

CREATE TRIGGER keep_attempt BEFORE INSERT ON cogni_billing.payment_attempt_events
FOR EACH ROW EXECUTE FUNCTION cogni_billing.keep_attempt();

-- Whether a verifier is to be asked about a pending attempt of the tenant's: one turn in each span.
CREATE FUNCTION cogni_billing.begin_check(attempt uuid, moment timestamptz, every interval)
RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    -- A day is 24 hours, whatever the session's time zone makes of it.
    span CONSTANT interval := make_interval(secs => extract(epoch FROM every));
BEGIN
    UPDATE cogni_billing.payment_attempts
    SET checked_at = moment
    WHERE tenant_id = cogni_billing.tenant()
      AND id = attempt
      AND state = 'PENDING_UNVERIFIED'
      -- Far in the future is where no clock has been.
      AND (checked_at <= moment - span OR checked_at > moment + span);
    RETURN FOUND;
END
$$;

CREATE TRIGGER append_only BEFORE DELETE OR TRUNCATE ON cogni_billing.payment_attempts
FOR EACH STATEMENT EXECUTE FUNCTION cogni_billing.refuse_change();
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE
ON cogni_billing.payment_attempt_events
FOR EACH STATEMENT EXECUTE FUNCTION cogni_billing.refuse_change();
