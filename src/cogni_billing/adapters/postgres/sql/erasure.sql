-- Erasure: texts that may be personal data are replaced by digests.

-- The digest that replaces a text of a record. A digest stays as it is, also as a JSON string.
CREATE FUNCTION cogni_billing.erased(record uuid, given text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE WHEN given OPERATOR(pg_catalog.~) '^"?sha256:[0-9a-f]{64}"?$'
        THEN pg_catalog.btrim(given, '"')
        ELSE pg_catalog.concat('sha256:', pg_catalog.encode(pg_catalog.sha256(
            pg_catalog.convert_to(pg_catalog.concat(record, given), 'UTF8')), 'hex'))
    END
$$;

CREATE FUNCTION cogni_billing.has_text(metadata json) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT json_typeof(metadata) = 'object' AND metadata::text <> '{}'
$$;

-- Erases the tenant's texts, unless it has a record after a moment. Returns their number.
CREATE FUNCTION cogni_billing._forget(me uuid, asked json) RETURNS json
LANGUAGE plpgsql AS $$
DECLARE
    w     CONSTANT cogni_billing.wallets := cogni_billing.lock_wallet(me);
    more  bigint;
    total bigint := 0;
BEGIN
    IF w.tenant_id IS NULL THEN
        RETURN '{"outcome":"unknown_account"}';
    ELSIF w.as_of > (asked ->> 'kept_from')::timestamptz THEN
        RETURN json_build_object('outcome', 'retained', 'newest', w.as_of);
    END IF;
    UPDATE cogni_billing.transactions SET metadata = to_json(cogni_billing.erased(id, metadata::text))
    WHERE tenant_id = me AND position > 0 AND cogni_billing.has_text(metadata);
    GET DIAGNOSTICS more = ROW_COUNT;
    total := total + more;
    UPDATE cogni_billing.transactions SET reason = cogni_billing.erased(id, reason)
    WHERE tenant_id = me AND position > 0 AND reason <> cogni_billing.erased(id, reason);
    GET DIAGNOSTICS more = ROW_COUNT;
    total := total + more;
    UPDATE cogni_billing.wallets SET frozen_reason = cogni_billing.erased(me, frozen_reason)
    WHERE tenant_id = me AND frozen_reason <> cogni_billing.erased(me, frozen_reason);
    GET DIAGNOSTICS more = ROW_COUNT;
    total := total + more;
    UPDATE cogni_billing.grants SET source = cogni_billing.erased(id, source)
    WHERE tenant_id = me AND source <> cogni_billing.erased(id, source) AND id IN (
        SELECT id FROM cogni_billing.transactions
        WHERE tenant_id = me AND position > 0 AND kind = 'grant');
    GET DIAGNOSTICS more = ROW_COUNT;
    total := total + more;
    UPDATE cogni_billing.schedules SET source = cogni_billing.erased(id, source)
    WHERE tenant_id = me AND source <> cogni_billing.erased(id, source);
    GET DIAGNOSTICS more = ROW_COUNT;
    total := total + more;
    UPDATE cogni_billing.schedules SET metadata = to_json(cogni_billing.erased(id, metadata::text))
    WHERE tenant_id = me AND cogni_billing.has_text(metadata);
    GET DIAGNOSTICS more = ROW_COUNT;
    total := total + more;
    UPDATE cogni_billing.disputes SET metadata = to_json(cogni_billing.erased(id, metadata::text))
    WHERE tenant_id = me AND cogni_billing.has_text(metadata) AND purchase_id IN (
        SELECT id FROM cogni_billing.transactions
        WHERE tenant_id = me AND position > 0 AND kind = 'purchase');
    GET DIAGNOSTICS more = ROW_COUNT;
    total := total + more;
    UPDATE cogni_billing.holds SET metadata = to_json(cogni_billing.erased(id, metadata::text))
    WHERE tenant_id = me AND ends_at > 'epoch' AND cogni_billing.has_text(metadata);
    GET DIAGNOSTICS more = ROW_COUNT;
    total := total + more;
    UPDATE cogni_billing.payment_attempts SET metadata = to_json(cogni_billing.erased(id, metadata::text))
    WHERE tenant_id = me AND cogni_billing.has_text(metadata);
    GET DIAGNOSTICS more = ROW_COUNT;
    RETURN json_build_object('outcome', 'done', 'texts', total + more);
END
$$;

-- The only change of a recorded row: its texts are replaced by their digests.
CREATE FUNCTION cogni_billing.check_erasure() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    texts  CONSTANT text[] := '{metadata,reason}';
    before CONSTANT jsonb := to_jsonb(OLD);
    after  CONSTANT jsonb := to_jsonb(NEW);
BEGIN
    IF before - texts IS DISTINCT FROM after - texts
        OR NEW.metadata::text IS DISTINCT FROM OLD.metadata::text
        AND NEW.metadata #>> '{}' IS DISTINCT FROM cogni_billing.erased(OLD.id, OLD.metadata::text)
        OR before ->> 'reason' IS DISTINCT FROM after ->> 'reason'
        AND after ->> 'reason'
            IS DISTINCT FROM cogni_billing.erased(OLD.id, before ->> 'reason')
    THEN
        RAISE restrict_violation USING
            CONSTRAINT = 'history_is_append_only',
            MESSAGE = format('%s of %I is refused: history is append-only', TG_OP, TG_TABLE_NAME);
    END IF;
    RETURN NEW;
END
$$;
