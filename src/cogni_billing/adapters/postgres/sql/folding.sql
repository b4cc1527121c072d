-- Folding: sums arrivals into checkpoints, and updates wallets from them.

-- The highest position below which no new arrival can commit (the safe horizon). An insert locks the
-- table before it takes a position and until its transaction ends, so it is enough to wait for the
-- holders seen after the highest position was read. NULL if one of them outlasts the patience.
CREATE FUNCTION cogni_billing.safe_position(patience interval) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER
/* settings */
AS $$
DECLARE
    highest  bigint;
    writers  text[];
    deadline timestamptz := clock_timestamp() + patience;
BEGIN
    SELECT last_value INTO highest FROM cogni_billing.arrivals_position_seq;
    LOOP
        SELECT array_agg(virtualtransaction) INTO writers
        FROM pg_locks
        WHERE locktype = 'relation'
          AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
          AND relation = 'cogni_billing.arrivals'::regclass
          AND mode = 'RowExclusiveLock'
          AND pid IS DISTINCT FROM pg_backend_pid()
          AND (writers IS NULL OR virtualtransaction = ANY (writers));
        IF writers IS NULL THEN
            RETURN highest;
        ELSIF clock_timestamp() > deadline THEN
            RETURN NULL;
        END IF;
        PERFORM pg_sleep(0.005);
    END LOOP;
END
$$;

-- The highest position of an arrival if the sequence would repeat it. NULL if the sequence is
-- ahead. `fold` skips an arrival below its account's last checkpoint. The last posting of each
-- transaction is on one of these accounts, so none has a higher position.
CREATE FUNCTION cogni_billing.reused_position() RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER
/* settings */
AS $$
DECLARE
    before  CONSTANT text := current_setting('app.current_user_id', true);
    account uuid;
    highest bigint := 0;
BEGIN
    FOREACH account IN ARRAY ARRAY[
        '00000000-0000-4000-b000-000000000001',
        '00000000-0000-4000-b000-000000000002',
        '00000000-0000-4000-b000-000000000003',
        '00000000-0000-4000-b000-000000000004',
        '00000000-0000-4000-b000-000000000005']::uuid[]
    LOOP
        account := cogni_billing.act_next(account);
        highest := greatest(highest, (
            SELECT max(position) FROM cogni_billing.arrivals WHERE account_id = account));
    END LOOP;
    PERFORM set_config('app.current_user_id', coalesce(before, ''), true);
    -- Read last: a concurrent arrival has taken its position from the sequence before it commits.
    RETURN (
        SELECT highest FROM cogni_billing.arrivals_position_seq
        WHERE highest >= last_value + is_called::integer);
END
$$;

-- Writes checkpoints of an account's arrivals up to a safe position, each of `size` arrivals.
-- Returns the number of arrivals.
CREATE FUNCTION cogni_billing.fold_account(account uuid, safe bigint, size integer) RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE
    after_all bigint;
    before    numeric;
    covered   bigint;
BEGIN
    SELECT up_to, arrived INTO after_all, before FROM cogni_billing.checkpoints
    WHERE account_id = account ORDER BY up_to DESC LIMIT 1;
    after_all := coalesce(after_all, 0);
    before := coalesce(before, 0);
    WITH piece AS (
        SELECT
            max(position) AS up_to, sum(amount) AS added, count(*) AS lines,
            min(occurred_at) AS earliest_at, max(occurred_at) AS latest_at
        FROM (
            SELECT
                position, amount, occurred_at,
                (row_number() OVER (ORDER BY position) - 1) / size AS piece
            FROM cogni_billing.arrivals
            WHERE account_id = account
              AND position > after_all AND position <= safe
        ) AS line
        GROUP BY piece
    ), made AS (
        INSERT INTO cogni_billing.checkpoints (
            account_id, up_to, after, added, arrived, earliest_at, latest_at
        )
        SELECT
            account, up_to, lag(up_to, 1, after_all) OVER sequence, added,
            before + sum(added) OVER sequence, earliest_at, latest_at
        FROM piece
        WINDOW sequence AS (ORDER BY up_to ROWS UNBOUNDED PRECEDING)
    )
    SELECT coalesce(sum(lines), 0) INTO covered FROM piece;
    RETURN covered;
END
$$;

-- Folds accounts with arrivals, up to a safe position. One call at a time. Wallets are locked last
-- and in one order, to keep their tenants' waits short.
CREATE FUNCTION cogni_billing.fold(accounts json, safe bigint, size integer) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER
/* settings */
AS $$
DECLARE
    each    uuid;
    owner   uuid;
    lines   bigint;
    total   bigint := 0;
    changed uuid[] := '{}';
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended('cogni_billing.fold', 0));
    FOR each IN SELECT account::uuid FROM json_array_elements_text(accounts) AS account ORDER BY 1
    LOOP
        -- A contra account has no wallet. It acts as its own tenant here.
        owner := cogni_billing.act_next(CASE each
            WHEN '00000000-0000-4000-b000-000000000000' THEN cogni_billing.owner_of(each)
            ELSE each END);
        lines := cogni_billing.fold_account(each, safe, size);
        IF lines > 0 THEN
            total := total + lines;
            changed := changed || owner;
        END IF;
    END LOOP;
    FOREACH owner IN ARRAY changed LOOP
        owner := cogni_billing.act_next(owner);
        UPDATE cogni_billing.wallets SET received = folded.arrived, received_up_to = folded.up_to
        FROM (
            SELECT arrived, up_to FROM cogni_billing.checkpoints
            WHERE account_id = cogni_billing.account_of(owner) ORDER BY up_to DESC LIMIT 1
        ) AS folded
        WHERE tenant_id = owner;
    END LOOP;
    PERFORM set_config('app.current_user_id', '', true);
    RETURN json_build_object('accounts', cardinality(changed), 'lines', total);
END
$$;
