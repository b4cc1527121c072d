-- Signed contexts, which a host can ask for: then nobody acts for a tenant without a proof, made
-- with a key that the roles who serve cannot read. `tenant()` is swapped for one that asks here;
-- everything else stays as it is.

-- Prepared for HMAC-SHA256 (RFC 2104): the key, padded to a block, with each of the two pads.
CREATE TABLE cogni_billing.context_keys (
    id        text        NOT NULL,
    inner_key bytea       NOT NULL,
    outer_key bytea       NOT NULL,
    added_at  timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT context_keys_pkey PRIMARY KEY (id),
    CONSTRAINT context_keys_id_known CHECK (id ~ '^[0-9a-f]{16}$'),
    CONSTRAINT context_keys_blocks
        CHECK (octet_length(inner_key) = 64 AND octet_length(outer_key) = 64)
);

ALTER TABLE cogni_billing.context_keys ENABLE ROW LEVEL SECURITY;
ALTER TABLE cogni_billing.context_keys FORCE ROW LEVEL SECURITY;

-- Inlined where it is used, which takes a function without a path of its own.
CREATE FUNCTION cogni_billing.mac(message text, inner_key bytea, outer_key bytea) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$
    SELECT pg_catalog.encode(
        pg_catalog.sha256(outer_key OPERATOR(pg_catalog.||) pg_catalog.sha256(
            inner_key OPERATOR(pg_catalog.||) pg_catalog.convert_to(message, 'UTF8'))),
        'hex')
$$;

-- Who the open transaction acts for, where that was signed within five minutes of its start or
-- later. A tenant that is set without a proof is an attack, or a host that lacks the key.
CREATE FUNCTION cogni_billing.signed_tenant() RETURNS uuid
LANGUAGE plpgsql STABLE PARALLEL SAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    given CONSTANT text := current_setting('app.current_user_id', true);
    -- The id of the key, the second it was signed in, and the code.
    proof CONSTANT text[] := string_to_array(current_setting('app.current_user_proof', true), '.');
BEGIN
    IF given IS NULL OR given = '' THEN
        RETURN NULL;
    END IF;
    IF EXISTS (
        SELECT FROM cogni_billing.context_keys
        WHERE id = proof[1]
          AND proof[3] = cogni_billing.mac(given || '.' || proof[2], inner_key, outer_key)
    ) THEN  -- and not before: only what was signed is known to be a number
        IF to_timestamp(proof[2]::bigint)
            BETWEEN now() - interval '5 minutes' AND statement_timestamp() + interval '5 minutes'
        THEN
            RETURN given::uuid;
        END IF;
    END IF;
    RAISE insufficient_privilege USING MESSAGE = 'the tenant was set without a valid proof';
END
$$;

-- Whom the open transaction acts for, to act for it again.
CREATE FUNCTION cogni_billing.acting() RETURNS text[]
LANGUAGE sql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT ARRAY[coalesce(current_setting('app.current_user_id', true), ''),
                 coalesce(current_setting('app.current_user_proof', true), '')]
$$;

CREATE FUNCTION cogni_billing.act_again(before text[]) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM set_config('app.current_user_id', before[1], true),
            set_config('app.current_user_proof', before[2], true);
END
$$;

-- Acts for a tenant, until who asks for that acts again for whom it did. For the keeper's own
-- functions, and for the migrator's, which seeds the system tenant.
CREATE FUNCTION cogni_billing.act_for(tenant uuid) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    signed text;
BEGIN
    SELECT concat_ws('.', id, second, cogni_billing.mac(tenant || '.' || second, inner_key, outer_key))
    INTO signed
    FROM cogni_billing.context_keys, CAST(extract(epoch FROM now()) AS bigint) AS second
    ORDER BY added_at DESC, id
    LIMIT 1;
    PERFORM set_config('app.current_user_id', tenant::text, true),
            set_config('app.current_user_proof', coalesce(signed, ''), true);
END
$$;
