-- The tenant of a call. Every function that takes a tenant begins with `act`.

-- The revision of this schema's objects, independent of the place of the version table.
CREATE FUNCTION cogni_billing.revision() RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$ SELECT 'cogni_billing_0001'::pg_catalog.text $$;

-- The tenant of the open transaction. NULL, which matches no row, if no tenant is set.
CREATE FUNCTION cogni_billing.tenant() RETURNS uuid
LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT CAST(nullif(pg_catalog.current_setting('app.current_user_id', true), '')
        AS pg_catalog.uuid)
$$;

-- The account of a tenant has the tenant's own id. The system tenant's is fixed.
CREATE FUNCTION cogni_billing.account_of(tenant uuid) RETURNS uuid
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE tenant
        WHEN '00000000-0000-4000-a000-000000000001'::pg_catalog.uuid
        THEN '00000000-0000-4000-b000-000000000000'::pg_catalog.uuid
        ELSE tenant
    END
$$;

-- The tenant of an account: the inverse, also for the system tenant's other accounts.
CREATE FUNCTION cogni_billing.owner_of(account uuid) RETURNS uuid
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE
        WHEN account BETWEEN '00000000-0000-4000-b000-000000000000'::pg_catalog.uuid
            AND '00000000-0000-4000-b000-000000000005'::pg_catalog.uuid
        THEN '00000000-0000-4000-a000-000000000001'::pg_catalog.uuid
        ELSE account
    END
$$;

-- A field of the record that provision keeps in the comment of the schema. Only the migrator can
-- change it.
CREATE FUNCTION cogni_billing.provisioned(field text) RETURNS text
LANGUAGE plpgsql STABLE
AS $$
BEGIN
    RETURN obj_description(to_regnamespace('cogni_billing'), 'pg_namespace')::json ->> field;
END
$$;

-- True for the ids that cannot be a tenant's: nil, and those of the system tenant's accounts.
CREATE FUNCTION cogni_billing.is_reserved(tenant uuid) RETURNS boolean
LANGUAGE sql IMMUTABLE AS $$
    SELECT tenant IN (
        '00000000-0000-0000-0000-000000000000',
        '00000000-0000-4000-b000-000000000000',
        '00000000-0000-4000-b000-000000000001',
        '00000000-0000-4000-b000-000000000002',
        '00000000-0000-4000-b000-000000000003',
        '00000000-0000-4000-b000-000000000004',
        '00000000-0000-4000-b000-000000000005')
$$;

-- True for a moment near the server's clock: at most the clock skew from it. A test database
-- accepts any moment, so that tests can set their own clock.
CREATE FUNCTION cogni_billing.is_within_skew(moment timestamptz) RETURNS boolean
LANGUAGE plpgsql VOLATILE
AS $$
DECLARE
    skew CONSTANT interval := make_interval(
        secs => cogni_billing.provisioned('clock_skew')::double precision);
BEGIN
    RETURN coalesce(CASE cogni_billing.provisioned('test_database') WHEN 'true'
        THEN moment >= 'epoch' AND moment < '9999-01-01 00:00:00+00'
        ELSE moment BETWEEN clock_timestamp() - skew AND clock_timestamp() + skew
    END, false);
END
$$;

-- Like `is_within_skew`, but most calls read no setting: a minute is the smallest skew that can be
-- set. The time of the statement would be wrong: a caller can make a statement wait before it
-- calls. PostgreSQL inlines the body, because it is one SQL expression.
CREATE FUNCTION cogni_billing.is_near(moment timestamptz) RETURNS boolean
LANGUAGE sql VOLATILE AS $$
    SELECT coalesce(
        moment BETWEEN clock_timestamp() - interval '1 minute'
            AND clock_timestamp() + interval '1 minute',
        false
    ) OR cogni_billing.is_within_skew(moment)
$$;

CREATE FUNCTION cogni_billing.mac(message text, inner_key bytea, outer_key bytea) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT pg_catalog.encode(
        pg_catalog.sha256(outer_key OPERATOR(pg_catalog.||) pg_catalog.sha256(
            inner_key OPERATOR(pg_catalog.||) pg_catalog.convert_to(message, 'UTF8'))),
        'hex')
$$;

-- Refuses arguments that violate the rule of this name.
CREATE FUNCTION cogni_billing.refuse(rule text) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    RAISE check_violation USING CONSTRAINT = rule, MESSAGE = format('rule %s is broken', rule);
END
$$;

-- Refuses a moment that is not near the server's clock.
CREATE FUNCTION cogni_billing.refuse_moment(moment timestamptz) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    spelling CONSTANT text := 'YYYY-MM-DD"T"HH24:MI:SS"Z"';
BEGIN
    RAISE check_violation USING
        CONSTRAINT = 'moments_are_near_the_servers',
        MESSAGE = format(
            '%s, where the server has %s and allows a skew of %s s',
            to_char(moment AT TIME ZONE 'UTC', spelling),
            to_char(clock_timestamp() AT TIME ZONE 'UTC', spelling),
            cogni_billing.provisioned('clock_skew')::double precision);
END
$$;

-- True if an expiry has the lifetime in microseconds that it was given as, if any, from a moment.
CREATE FUNCTION cogni_billing.is_lifetime(
    expires_at timestamptz, expires_in bigint, moment timestamptz
) RETURNS boolean
LANGUAGE sql IMMUTABLE AS $$
    SELECT coalesce(
        expires_in > 0 AND extract(epoch FROM expires_at - moment) * 1000000 = expires_in,
        expires_in IS NULL)
$$;

-- Validates arguments that every record has: its moment, its metadata and its reference, if any.
CREATE FUNCTION cogni_billing.check_call(moment timestamptz, metadata text, reference text)
RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    IF cogni_billing.is_near(moment) AND cogni_billing.is_object(metadata, 16384)
        AND cogni_billing.is_visible(reference)
    THEN
        RETURN;
    ELSIF NOT cogni_billing.is_near(moment) THEN
        PERFORM cogni_billing.refuse_moment(moment);
    ELSIF NOT cogni_billing.is_object(metadata, 16384) THEN
        PERFORM cogni_billing.refuse('metadata_is_a_small_object');
    END IF;
    PERFORM cogni_billing.refuse('references_are_visible_ascii');
END
$$;

-- True for 1 to 255 visible ASCII characters.
CREATE FUNCTION cogni_billing.is_visible(given text) RETURNS boolean
LANGUAGE sql IMMUTABLE AS $$
    SELECT coalesce(octet_length(given) BETWEEN 1 AND 255 AND given !~ '[^\x21-\x7e]', false)
$$;

-- True for 1 to 255 characters without control characters or marks that reorder text, not all of
-- them spaces.
CREATE FUNCTION cogni_billing.is_reason(given text) RETURNS boolean
LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    RETURN coalesce(
        char_length(given) BETWEEN 1 AND 255 AND given ~ '[^ ]'
        AND given !~ '[\x01-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]', false);
END
$$;

-- Refuses an id that is used already.
CREATE FUNCTION cogni_billing.refuse_id(given uuid) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    RAISE unique_violation USING
        CONSTRAINT = 'ids_are_given_once', MESSAGE = format('id %s is taken', given);
END
$$;

-- Validates a proof: the id of a key, the second of signing, and the code. It must be signed within
-- five minutes of the transaction's start.
CREATE FUNCTION cogni_billing.check_proof(tenant uuid, proof text) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    signed CONSTANT text[] := string_to_array(proof, '.');
    proved boolean;
BEGIN
    SELECT signed[3] = cogni_billing.mac(tenant || '.' || signed[2], inner_key, outer_key)
    INTO proved
    FROM cogni_billing.context_keys WHERE id = signed[1];
    IF proved THEN  -- only now, because only a signed second is known to be a number
        proved := to_timestamp(signed[2]::bigint)
            BETWEEN now() - interval '5 minutes' AND statement_timestamp() + interval '5 minutes';
    END IF;
    IF proved IS NOT TRUE THEN
        RAISE insufficient_privilege USING MESSAGE = 'the tenant was set without a valid proof';
    END IF;
END
$$;

-- Lets the transaction act for a tenant. If there are keys, it requires a proof. The proof is
-- validated first, so that every call without a valid proof gets the same answer.
CREATE FUNCTION cogni_billing.act(tenant uuid, proof text) RETURNS uuid
LANGUAGE plpgsql AS $$
DECLARE
    said text;
BEGIN
    PERFORM FROM cogni_billing.context_keys;
    IF FOUND THEN
        PERFORM cogni_billing.check_proof(tenant, proof);
    END IF;
    IF tenant IS NULL OR tenant IN (
        '00000000-0000-0000-0000-000000000000',
        '00000000-0000-4000-b000-000000000000',
        '00000000-0000-4000-b000-000000000001',
        '00000000-0000-4000-b000-000000000002',
        '00000000-0000-4000-b000-000000000003',
        '00000000-0000-4000-b000-000000000004',
        '00000000-0000-4000-b000-000000000005')
    THEN
        RAISE check_violation USING
            CONSTRAINT = 'tenants_are_not_reserved', MESSAGE = 'this id cannot be a tenant''s';
    END IF;
    said := set_config('app.current_user_id', tenant::text, true);
    -- A commit is durable, even if the connection's settings turned that off.
    IF current_setting('synchronous_commit') = 'off' THEN
        said := set_config('synchronous_commit', 'on', true);
    END IF;
    RETURN tenant;
END
$$;

-- Acts for a tenant without a proof, for functions that go from one tenant's wallet to another's.
CREATE FUNCTION cogni_billing.act_next(tenant uuid) RETURNS uuid
LANGUAGE plpgsql AS $$
DECLARE
    said CONSTANT text := set_config('app.current_user_id', tenant::text, true);
BEGIN
    RETURN tenant;
END
$$;

-- True for a JSON object that Python reads back unchanged: at most `bytes_max` bytes, no NUL, no
-- lone surrogate, at most 8 levels, and no number beyond a double or longer than 640 digits.
CREATE FUNCTION cogni_billing.is_full_object(given text, bytes_max integer) RETURNS boolean
LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
    parsed   jsonb;
    numbers  text;
    brackets text;
BEGIN
    IF given IS NULL OR octet_length(given) > bytes_max THEN
        RETURN false;
    END IF;
    BEGIN
        parsed := given::jsonb;
    EXCEPTION WHEN OTHERS THEN
        RETURN false;
    END;
    numbers := regexp_replace(given, '"(?:[^"\\]|\\.)*"', '""', 'g');
    -- Of the text, because `parsed` keeps only the last of two values under one key.
    brackets := regexp_replace(numbers, '[^][{}]', '', 'g');
    FOR level IN 1 .. 8 LOOP
        brackets := regexp_replace(brackets, '\[\]|\{\}', '', 'g');
    END LOOP;
    RETURN jsonb_typeof(parsed) = 'object' AND brackets = ''
        AND (numbers !~ '[0-9][eE]|[0-9]{200}' OR (
            SELECT bool_and(CASE WHEN number[1] ~ '[.eE]'
                THEN abs(number[1]::numeric) < 1.7e308 ELSE length(number[1]) <= 641 END)
            FROM regexp_matches(numbers, '-?[0-9][0-9.eE+-]*', 'g') AS number
        ));
END
$$;

CREATE FUNCTION cogni_billing.is_object(given text, bytes_max integer) RETURNS boolean
LANGUAGE sql IMMUTABLE AS $$
    SELECT coalesce(given = '{}', false) OR cogni_billing.is_full_object(given, bytes_max)
$$;

-- Opens the system tenant's account if it is missing. Run by the migrator.
CREATE FUNCTION cogni_billing.seed_system_tenant() RETURNS void
LANGUAGE plpgsql SECURITY DEFINER
/* settings */
AS $$
DECLARE
    before CONSTANT text := current_setting('app.current_user_id', true);
    me     CONSTANT uuid := cogni_billing.act_next('00000000-0000-4000-a000-000000000001');
BEGIN
    INSERT INTO cogni_billing.wallets (tenant_id, opened_at) VALUES (me, 'epoch')
    ON CONFLICT DO NOTHING;
    PERFORM set_config('app.current_user_id', coalesce(before, ''), true);
END
$$;
