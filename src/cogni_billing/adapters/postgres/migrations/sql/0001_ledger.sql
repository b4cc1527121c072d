-- The ledger: tables, the rules they keep, and who may see and write which row.
--
-- Each rule has a name; the adapter turns the name of a broken rule into a typed error.
-- Role names are the host's, so no statement here names one: grants are given by the migration.

-- Who the open transaction acts for; NULL, so that no row matches, when nobody or nonsense is set.
-- Every policy asks through a sub-select, which PostgreSQL evaluates once for each statement.
-- Names and operators are qualified, so that nobody's search_path can lend them another meaning;
-- pinning the path by SET would do, too, but the planner could not inline the function any more.
-- One regular expression could tell what is an UUID, but its automaton is built anew each time.
CREATE FUNCTION cogni_billing.tenant() RETURNS uuid
LANGUAGE sql STABLE PARALLEL SAFE
AS $$
    SELECT CASE
        WHEN pg_catalog.current_setting('app.current_user_id', true)
            OPERATOR(pg_catalog.~~) '________-____-____-____-____________'
            AND pg_catalog.length(pg_catalog.replace(
                pg_catalog.current_setting('app.current_user_id', true), '-', ''
            )) OPERATOR(pg_catalog.=) 32
            AND pg_catalog.current_setting('app.current_user_id', true)
                OPERATOR(pg_catalog.!~) '[^0-9a-fA-F-]'
        THEN pg_catalog.current_setting('app.current_user_id', true)::pg_catalog.uuid
    END
$$;

-- Which migration the objects of this schema are at, wherever the version table is.
CREATE FUNCTION cogni_billing.revision() RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$ SELECT 'cogni_billing_0001'::pg_catalog.text $$;

-- The billing account of a tenant has the tenant's own id; the system tenant's is fixed.
CREATE FUNCTION cogni_billing.account_of(tenant uuid) RETURNS uuid
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
AS $$
    SELECT CASE
        WHEN tenant OPERATOR(pg_catalog.=)
            '00000000-0000-4000-a000-000000000001'::pg_catalog.uuid
        THEN '00000000-0000-4000-b000-000000000000'::pg_catalog.uuid
        ELSE tenant
    END
$$;

-- Whose an account is: the inverse, for the system tenant's other accounts too.
CREATE FUNCTION cogni_billing.owner_of(account uuid) RETURNS uuid
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
AS $$
    SELECT CASE
        WHEN account OPERATOR(pg_catalog.>=)
            '00000000-0000-4000-b000-000000000000'::pg_catalog.uuid
            AND account OPERATOR(pg_catalog.<=)
            '00000000-0000-4000-b000-000000000004'::pg_catalog.uuid
        THEN '00000000-0000-4000-a000-000000000001'::pg_catalog.uuid
        ELSE account
    END
$$;

-- Which of the system tenant's accounts takes the other side of a kind of transaction.
CREATE FUNCTION cogni_billing.contra_of(kind text) RETURNS uuid
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
AS $$
    SELECT CASE kind
        WHEN 'purchase'::pg_catalog.text
        THEN '00000000-0000-4000-b000-000000000001'::pg_catalog.uuid
        WHEN 'charge'::pg_catalog.text
        THEN '00000000-0000-4000-b000-000000000002'::pg_catalog.uuid
        WHEN 'capture'::pg_catalog.text
        THEN '00000000-0000-4000-b000-000000000002'::pg_catalog.uuid
        WHEN 'grant'::pg_catalog.text
        THEN '00000000-0000-4000-b000-000000000001'::pg_catalog.uuid
        WHEN 'expiry'::pg_catalog.text
        THEN '00000000-0000-4000-b000-000000000003'::pg_catalog.uuid
        WHEN 'refund'::pg_catalog.text
        THEN '00000000-0000-4000-b000-000000000001'::pg_catalog.uuid
        WHEN 'chargeback'::pg_catalog.text
        THEN '00000000-0000-4000-b000-000000000001'::pg_catalog.uuid
    END
$$;

-- Each statement reads and plans the CHECKs of its tables anew, and the conditions of its triggers,
-- and parses the SQL functions that they call: so they are few, and spell out `account_of`.

CREATE TABLE cogni_billing.accounts (
    tenant_id        uuid        NOT NULL,
    id               uuid        NOT NULL,
    type             text        NOT NULL DEFAULT 'billing',
    slug             text,
    is_system_tenant boolean     NOT NULL DEFAULT false,
    opened_at        timestamptz NOT NULL,
    CONSTRAINT accounts_pkey PRIMARY KEY (tenant_id, id),
    CONSTRAINT accounts_type_known
        CHECK (type IN ('billing', 'issuance', 'usage', 'breakage', 'shortfall')),
    CONSTRAINT accounts_one_for_each_tenant
        CHECK (tenant_id <> '00000000-0000-4000-a000-000000000001' AND id = tenant_id
               OR tenant_id = '00000000-0000-4000-a000-000000000001'
                  AND (type <> 'billing' OR id = '00000000-0000-4000-b000-000000000000')),
    CONSTRAINT accounts_tenant_not_reserved
        CHECK (tenant_id NOT IN ('00000000-0000-0000-0000-000000000000',
                                 '00000000-0000-4000-b000-000000000000',
                                 '00000000-0000-4000-b000-000000000001',
                                 '00000000-0000-4000-b000-000000000002',
                                 '00000000-0000-4000-b000-000000000003',
                                 '00000000-0000-4000-b000-000000000004')),
    CONSTRAINT accounts_opened_at_in_range
        CHECK (opened_at >= 'epoch' AND opened_at < '9999-01-01 00:00:00+00')
);

-- A running balance of what the owner's own transactions posted; what of it is held aside, and what
-- of it was granted and is free to spend; the moment of the newest change; and when something is due
-- at the earliest that time alone brings about: the expiry of a hold or a grant. Kept by functions
-- of the keeper alone.
CREATE TABLE cogni_billing.wallets (
    tenant_id  uuid        NOT NULL,
    account_id uuid        NOT NULL,
    unit       text        NOT NULL,
    posted     numeric     NOT NULL,
    held       numeric     NOT NULL,
    granted    numeric     NOT NULL DEFAULT 0,
    as_of      timestamptz NOT NULL,
    due_at     timestamptz NOT NULL,
    CONSTRAINT wallets_pkey PRIMARY KEY (tenant_id, account_id, unit),
    -- Deferred, because the statement that opens an account may post to it first.
    CONSTRAINT wallets_account_exists
        FOREIGN KEY (tenant_id, account_id) REFERENCES cogni_billing.accounts (tenant_id, id)
        DEFERRABLE INITIALLY DEFERRED,
    -- NaN and infinity sort above every number, so the bounds refuse them too.
    CONSTRAINT wallets_posted_in_bounds CHECK (posted > -1e50 AND posted < 1e50),
    CONSTRAINT wallets_held_in_bounds CHECK (held >= 0 AND held < 1e50),
    CONSTRAINT wallets_granted_in_bounds CHECK (granted >= 0 AND granted < 1e50),
    CONSTRAINT wallets_as_of_in_range CHECK (as_of >= 'epoch' AND as_of < '9999-01-01 00:00:00+00')
);

-- Whose wallets are due. Most never are: their rows do not come in.
CREATE INDEX wallets_due ON cogni_billing.wallets (due_at) WHERE due_at < 'infinity';

-- A transaction row is a manifest: its postings must be exactly what it declares.
CREATE TABLE cogni_billing.transactions (
    tenant_id     uuid             NOT NULL,
    id            uuid             NOT NULL,
    kind          text             NOT NULL,
    reference     text COLLATE "C" NOT NULL,
    unit          text             NOT NULL,
    amount        numeric          NOT NULL,
    beneficiaries uuid[]           NOT NULL,
    shares        numeric[]        NOT NULL,
    -- What it settles: the hold of a capture, the grant of an expiry, the dispute of a chargeback.
    subject_id    uuid,
    -- What the shortfall account gave, because it could not be taken back.
    absorbed       numeric         NOT NULL DEFAULT 0,
    -- Of which purchase a refund or a chargeback takes back how much, in the unit of its payment;
    -- and how much that makes so far. Nobody without the right to write these can take back a share.
    reverses       uuid,
    returned       numeric,
    returned_total numeric,
    returned_unit  text,
    -- json, not jsonb: what was given comes back as given, number for number.
    request       json             NOT NULL,
    policy        json             NOT NULL,
    metadata      json             NOT NULL,
    occurred_at   timestamptz      NOT NULL,
    CONSTRAINT transactions_pkey PRIMARY KEY (tenant_id, id),
    CONSTRAINT transactions_key_used_once UNIQUE (reference, tenant_id, kind),
    CONSTRAINT transactions_reference_visible_ascii
        CHECK (reference <> '' AND octet_length(reference) <= 255 AND reference !~ '[^\x21-\x7e]'),
    CONSTRAINT transactions_unit_known CHECK (unit IN ('CREDIT')),
    -- Of a known kind. What a split leaves the customer, and what is there to be taken back, may be
    -- nothing.
    CONSTRAINT transactions_raise_or_lower CHECK (
        kind = 'grant' AND amount > 0
        OR kind = 'purchase' AND amount >= 0
        OR kind IN ('refund', 'chargeback') AND amount <= 0
        OR kind IN ('charge', 'capture', 'expiry') AND amount < 0),
    CONSTRAINT transactions_only_purchases_share
        CHECK (kind IN ('purchase', 'refund', 'chargeback') OR beneficiaries = '{}'),
    CONSTRAINT transactions_settle_something
        CHECK ((kind IN ('capture', 'expiry', 'chargeback')) = (subject_id IS NOT NULL)),
    CONSTRAINT transactions_reverse_something
        CHECK ((kind IN ('refund', 'chargeback')) = (reverses IS NOT NULL)
               AND (reverses IS NULL) = (returned IS NULL)
               AND (reverses IS NULL) = (returned_total IS NULL)
               AND (reverses IS NULL) = (returned_unit IS NULL)
               AND 0 < returned AND returned <= returned_total AND returned_total < 1e40),
    CONSTRAINT transactions_absorb_what_is_taken_back
        CHECK (absorbed >= 0 AND absorbed < 1e40 AND scale(absorbed) = 0
               AND (absorbed = 0 OR reverses IS NOT NULL)),
    CONSTRAINT transactions_shares_complete
        CHECK (cardinality(shares) = cardinality(beneficiaries)
               AND array_position(beneficiaries, NULL) IS NULL
               AND array_position(shares, NULL) IS NULL
               AND (reverses IS NULL AND 0 <= ALL (shares)
                    OR reverses IS NOT NULL AND 0 >= ALL (shares))),
    -- Any tenant's account can earn a share, but nobody's of its own purchase.
    CONSTRAINT transactions_beneficiaries_are_other_tenants
        CHECK (tenant_id <> ALL (beneficiaries)
               AND (tenant_id <> '00000000-0000-4000-a000-000000000001'
                    OR '00000000-0000-4000-b000-000000000000' <> ALL (beneficiaries))
               AND NOT beneficiaries && ARRAY[
                   '00000000-0000-0000-0000-000000000000',
                   '00000000-0000-4000-a000-000000000001',
                   '00000000-0000-4000-b000-000000000001',
                   '00000000-0000-4000-b000-000000000002',
                   '00000000-0000-4000-b000-000000000003',
                   '00000000-0000-4000-b000-000000000004'
               ]::uuid[]),
    CONSTRAINT transactions_metadata_small_object
        CHECK (json_typeof(metadata) = 'object' AND octet_length(metadata::text) <= 16384),
    CONSTRAINT transactions_inputs_small_objects
        CHECK (json_typeof(request) = 'object' AND octet_length(request::text) <= 65536
               AND json_typeof(policy) = 'object' AND octet_length(policy::text) <= 65536),
    CONSTRAINT transactions_occurred_at_in_range
        CHECK (occurred_at >= 'epoch' AND occurred_at < '9999-01-01 00:00:00+00')
);

-- Each takes on where the one before it ended, so of two that would follow the same one is refused.
CREATE UNIQUE INDEX transactions_returned_one_after_another
    ON cogni_billing.transactions (reverses, tenant_id, (returned_total - returned))
    WHERE reverses IS NOT NULL;

-- The one key that is unique in the whole system: a payment is credited once, to one tenant.
CREATE TABLE cogni_billing.payments (
    payment   text COLLATE "C" NOT NULL,
    tenant_id uuid             NOT NULL,
    kind      text             NOT NULL DEFAULT 'purchase',
    CONSTRAINT payments_pkey PRIMARY KEY (payment),
    CONSTRAINT payments_are_for_purchases CHECK (kind = 'purchase'),
    CONSTRAINT payments_have_their_purchase
        FOREIGN KEY (tenant_id, kind, payment)
        REFERENCES cogni_billing.transactions (tenant_id, kind, reference)
);

-- tenant_id owns the account and may read the row; origin_tenant_id wrote it. Where they differ
-- the row is an arrival: somebody else's transaction added to the account, without touching its
-- wallet; so is every row of a contra account, which has no wallet. An arrival has neither of the
-- two running balances: nobody waited in line to compute one.
-- No foreign key leads to the transaction: the trigger below proves more, for less.
CREATE TABLE cogni_billing.postings (
    tenant_id        uuid        NOT NULL,
    account_id       uuid        NOT NULL,
    position         bigint      GENERATED ALWAYS AS IDENTITY,
    origin_tenant_id uuid        NOT NULL,
    transaction_id   uuid        NOT NULL,
    sequence         smallint    NOT NULL,
    kind             text        NOT NULL,
    unit             text        NOT NULL,
    amount           numeric     NOT NULL,
    overdraft        boolean     NOT NULL DEFAULT false,
    subject_id       uuid,
    -- The wallet after this row: exact in the order of positions.
    posted_after     numeric,
    -- The same and what had arrived by then: what the owner was told, and is told again.
    balance_after    numeric,
    -- What it took of which grants; the rest was of purchased credits.
    drawn_grants     uuid[],
    drawn_amounts    numeric[],
    occurred_at      timestamptz NOT NULL,
    CONSTRAINT postings_pkey PRIMARY KEY (tenant_id, account_id, position),
    CONSTRAINT postings_made_once UNIQUE (origin_tenant_id, transaction_id, sequence),
    CONSTRAINT postings_unit_known CHECK (unit IN ('CREDIT')),
    -- What one tenant adds to another's account the other must be able to read: so no fraction, no
    -- endless zeros, no NaN, no infinity, and no moment that a client cannot hold.
    CONSTRAINT postings_amount_whole_and_bounded
        CHECK ((amount <> 0 OR sequence = 1) AND scale(amount) = 0 AND abs(amount) < 1e40),
    CONSTRAINT postings_running_balances_together
        CHECK ((posted_after IS NULL) = (balance_after IS NULL)),
    CONSTRAINT postings_occurred_at_in_range
        CHECK (occurred_at >= 'epoch' AND occurred_at < '9999-01-01 00:00:00+00')
);

-- Makes "the wallet plus what arrived" a probe for accounts that nobody else adds to.
CREATE INDEX postings_arrivals
    ON cogni_billing.postings (tenant_id, account_id, unit, position) INCLUDE (amount, occurred_at)
    WHERE posted_after IS NULL;

-- The wallet as of a moment: the last row until then, for a wallet's time never runs backwards.
CREATE INDEX postings_moments
    ON cogni_billing.postings (tenant_id, account_id, unit, occurred_at, position)
    INCLUDE (posted_after)
    WHERE posted_after IS NOT NULL;

-- What an account that others add to came to, up to a position that nothing can still slip under.
-- Each covers the rows from the one before it; sums are of everything since the beginning.
CREATE TABLE cogni_billing.checkpoints (
    tenant_id      uuid        NOT NULL,
    account_id     uuid        NOT NULL,
    unit           text        NOT NULL,
    position       bigint      NOT NULL,
    after_position bigint      NOT NULL,
    -- Of the arrivals alone, and of all rows.
    arrived        numeric     NOT NULL,
    balance        numeric     NOT NULL,
    -- Of the arrivals that this one covers: their sum, and between which moments they lie.
    added          numeric     NOT NULL,
    earliest_at    timestamptz,
    latest_at      timestamptz,
    CONSTRAINT checkpoints_pkey PRIMARY KEY (tenant_id, account_id, unit, position),
    CONSTRAINT checkpoints_follow_one_another
        UNIQUE (tenant_id, account_id, unit, after_position),
    CONSTRAINT checkpoints_go_on CHECK (0 <= after_position AND after_position < position)
);

-- Row-level security ---------------------------------------------------------------------------
-- One permissive policy for each command and exception, never an OR, which would defeat the
-- index. They hold for every role; grants decide who gets as far as a policy. The restrictive
-- ones are a floor under any policy that is ever added.

ALTER TABLE cogni_billing.accounts ENABLE ROW LEVEL SECURITY;
ALTER TABLE cogni_billing.accounts FORCE ROW LEVEL SECURITY;
CREATE POLICY accounts_floor ON cogni_billing.accounts AS RESTRICTIVE
    USING (tenant_id = (SELECT cogni_billing.tenant()))
    WITH CHECK (tenant_id = (SELECT cogni_billing.tenant()));
CREATE POLICY accounts_select ON cogni_billing.accounts FOR SELECT
    USING (tenant_id = (SELECT cogni_billing.tenant()));
CREATE POLICY accounts_insert ON cogni_billing.accounts FOR INSERT
    WITH CHECK (tenant_id = (SELECT cogni_billing.tenant()));

ALTER TABLE cogni_billing.wallets ENABLE ROW LEVEL SECURITY;
ALTER TABLE cogni_billing.wallets FORCE ROW LEVEL SECURITY;
CREATE POLICY wallets_floor ON cogni_billing.wallets AS RESTRICTIVE
    USING (tenant_id = (SELECT cogni_billing.tenant()))
    WITH CHECK (tenant_id = (SELECT cogni_billing.tenant()));
CREATE POLICY wallets_select ON cogni_billing.wallets FOR SELECT
    USING (tenant_id = (SELECT cogni_billing.tenant()));
CREATE POLICY wallets_insert ON cogni_billing.wallets FOR INSERT
    WITH CHECK (tenant_id = (SELECT cogni_billing.tenant()));
CREATE POLICY wallets_update ON cogni_billing.wallets FOR UPDATE
    USING (tenant_id = (SELECT cogni_billing.tenant()))
    WITH CHECK (tenant_id = (SELECT cogni_billing.tenant()));

ALTER TABLE cogni_billing.transactions ENABLE ROW LEVEL SECURITY;
ALTER TABLE cogni_billing.transactions FORCE ROW LEVEL SECURITY;
CREATE POLICY transactions_floor ON cogni_billing.transactions AS RESTRICTIVE
    USING (tenant_id = (SELECT cogni_billing.tenant()))
    WITH CHECK (tenant_id = (SELECT cogni_billing.tenant()));
CREATE POLICY transactions_select ON cogni_billing.transactions FOR SELECT
    USING (tenant_id = (SELECT cogni_billing.tenant()));
CREATE POLICY transactions_insert ON cogni_billing.transactions FOR INSERT
    WITH CHECK (tenant_id = (SELECT cogni_billing.tenant()));

ALTER TABLE cogni_billing.payments ENABLE ROW LEVEL SECURITY;
ALTER TABLE cogni_billing.payments FORCE ROW LEVEL SECURITY;
CREATE POLICY payments_floor ON cogni_billing.payments AS RESTRICTIVE
    USING (tenant_id = (SELECT cogni_billing.tenant()))
    WITH CHECK (tenant_id = (SELECT cogni_billing.tenant()));
CREATE POLICY payments_select ON cogni_billing.payments FOR SELECT
    USING (tenant_id = (SELECT cogni_billing.tenant()));
CREATE POLICY payments_insert ON cogni_billing.payments FOR INSERT
    WITH CHECK (tenant_id = (SELECT cogni_billing.tenant()));

ALTER TABLE cogni_billing.checkpoints ENABLE ROW LEVEL SECURITY;
ALTER TABLE cogni_billing.checkpoints FORCE ROW LEVEL SECURITY;
CREATE POLICY checkpoints_floor ON cogni_billing.checkpoints AS RESTRICTIVE
    USING (tenant_id = (SELECT cogni_billing.tenant()))
    WITH CHECK (tenant_id = (SELECT cogni_billing.tenant()));
CREATE POLICY checkpoints_select ON cogni_billing.checkpoints FOR SELECT
    USING (tenant_id = (SELECT cogni_billing.tenant()));

ALTER TABLE cogni_billing.postings ENABLE ROW LEVEL SECURITY;
ALTER TABLE cogni_billing.postings FORCE ROW LEVEL SECURITY;
CREATE POLICY postings_read_floor ON cogni_billing.postings AS RESTRICTIVE FOR SELECT
    USING (tenant_id = (SELECT cogni_billing.tenant()));
CREATE POLICY postings_write_floor ON cogni_billing.postings AS RESTRICTIVE FOR INSERT
    WITH CHECK (origin_tenant_id = (SELECT cogni_billing.tenant()));
CREATE POLICY postings_select ON cogni_billing.postings FOR SELECT
    USING (tenant_id = (SELECT cogni_billing.tenant()));
CREATE POLICY postings_insert_own ON cogni_billing.postings FOR INSERT
    WITH CHECK (tenant_id = (SELECT cogni_billing.tenant()));
-- The one way to write on another tenant's account: raise it by a share, debit issuance, credit
-- usage or breakage. None can be read back, lowered or edited from the scope that did it.
CREATE POLICY postings_insert_share ON cogni_billing.postings FOR INSERT
    WITH CHECK (account_id = cogni_billing.account_of(tenant_id)
                AND kind = 'purchase'
                AND amount > 0);
CREATE POLICY postings_insert_issuance ON cogni_billing.postings FOR INSERT
    WITH CHECK (tenant_id = '00000000-0000-4000-a000-000000000001'
                AND account_id = '00000000-0000-4000-b000-000000000001'
                AND amount < 0);
CREATE POLICY postings_insert_usage ON cogni_billing.postings FOR INSERT
    WITH CHECK (tenant_id = '00000000-0000-4000-a000-000000000001'
                AND account_id = '00000000-0000-4000-b000-000000000002'
                AND amount > 0);
CREATE POLICY postings_insert_breakage ON cogni_billing.postings FOR INSERT
    WITH CHECK (tenant_id = '00000000-0000-4000-a000-000000000001'
                AND account_id = '00000000-0000-4000-b000-000000000003'
                AND amount > 0);

-- Balances -------------------------------------------------------------------------------------

-- What others have added to an account up to a position: the last checkpoint, and what is newer.
-- A condition that row security lets the index see holds no COALESCE: that might leak, as far as the
-- planner knows, and so be looked at only after the policies, row by row.
CREATE FUNCTION cogni_billing.arrived(tenant uuid, account uuid, of_unit text, up_to bigint)
RETURNS numeric
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    folded_to bigint;
    folded    numeric;
BEGIN
    SELECT position, arrived INTO folded_to, folded
    FROM cogni_billing.checkpoints
    WHERE tenant_id = tenant AND account_id = account AND unit = of_unit AND position <= up_to
    ORDER BY position DESC
    LIMIT 1;
    IF NOT FOUND THEN
        folded_to := 0;
        folded := 0;
    END IF;
    RETURN folded + (
        SELECT coalesce(sum(amount), 0)
        FROM cogni_billing.postings
        WHERE tenant_id = tenant
          AND account_id = account
          AND unit = of_unit
          AND posted_after IS NULL
          AND position > folded_to
          AND position <= up_to
    );
END
$$;

-- What others had added to an account by a moment. Checkpoints wholly before it count as they
-- are; of those that straddle it, and of what is newer than all, the rows are read.
CREATE FUNCTION cogni_billing.arrived_by(tenant uuid, account uuid, of_unit text, moment timestamptz)
RETURNS numeric
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT coalesce((
        SELECT sum(added)
        FROM cogni_billing.checkpoints
        WHERE tenant_id = tenant AND account_id = account AND unit = of_unit
          AND latest_at <= moment
    ), 0) + coalesce((
        SELECT sum(amount)
        FROM cogni_billing.checkpoints AS part
        JOIN cogni_billing.postings AS line USING (tenant_id, account_id, unit)
        WHERE tenant_id = tenant AND account_id = account AND unit = of_unit
          AND earliest_at <= moment AND latest_at > moment
          AND line.posted_after IS NULL
          AND line.position > part.after_position AND line.position <= part.position
          AND line.occurred_at <= moment
    ), 0) + coalesce((
        SELECT sum(amount)
        FROM cogni_billing.postings
        WHERE tenant_id = tenant AND account_id = account AND unit = of_unit
          AND posted_after IS NULL
          AND position > (
              SELECT coalesce(max(position), 0)
              FROM cogni_billing.checkpoints
              WHERE tenant_id = tenant AND account_id = account AND unit = of_unit
          )
          AND occurred_at <= moment
    ), 0)
$$;

-- What all rows of an account up to a position sum to.
CREATE FUNCTION cogni_billing.balance_up_to(tenant uuid, account uuid, of_unit text, up_to bigint)
RETURNS numeric
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    folded_to bigint;
    folded    numeric;
BEGIN
    SELECT position, balance INTO folded_to, folded
    FROM cogni_billing.checkpoints
    WHERE tenant_id = tenant AND account_id = account AND unit = of_unit AND position <= up_to
    ORDER BY position DESC
    LIMIT 1;
    IF NOT FOUND THEN
        folded_to := 0;
        folded := 0;
    END IF;
    RETURN folded + (
        SELECT coalesce(sum(amount), 0)
        FROM cogni_billing.postings
        WHERE tenant_id = tenant
          AND account_id = account
          AND unit = of_unit
          AND position > folded_to
          AND position <= up_to
    );
END
$$;

-- The highest position under which nothing can still slip: every transaction that may have taken
-- one at or under it has ended. Whoever inserts holds a lock on the table from before it takes a
-- position until its transaction ends, so the holders seen after the highest position was read
-- are all there is to wait for. NULL when one of them outlasts the patience.
CREATE FUNCTION cogni_billing.settled_position(patience interval) RETURNS bigint
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    highest  bigint;
    writers  text[];
    deadline timestamptz := clock_timestamp() + patience;
BEGIN
    SELECT last_value INTO highest FROM cogni_billing.postings_position_seq;
    LOOP
        SELECT array_agg(virtualtransaction) INTO writers
        FROM pg_locks
        WHERE locktype = 'relation'
          AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
          AND relation = 'cogni_billing.postings'::regclass
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

-- Triggers -------------------------------------------------------------------------------------

-- Something is due that time alone brought about, and comes first; the library sees to it.
CREATE FUNCTION cogni_billing.refuse_unsettled() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RAISE serialization_failure USING
        CONSTRAINT = 'wallets_are_settled_first',
        MESSAGE = 'something that is due on the wallet comes first';
END
$$;

CREATE FUNCTION cogni_billing.refuse_overdraft(unit text, required numeric, available numeric)
RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RAISE check_violation USING
        CONSTRAINT = 'wallets_cover_what_is_taken',
        MESSAGE = 'more would be taken than is available',
        DETAIL = json_build_object(
            'unit', unit, 'required', required::text, 'available', available::text);
END
$$;

-- Keeps the wallet and says what the balance is after the posting. It runs as a role that may do
-- nothing but that, so no client can set a balance; and before the policies judge the row, so it
-- looks at the tenant first and answers alike whatever another tenant's balance is.
CREATE FUNCTION cogni_billing.keep_wallet() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    kept    record;
    drawn   record;
    arrived numeric;
BEGIN
    IF NEW.tenant_id IS DISTINCT FROM cogni_billing.tenant() THEN
        RAISE insufficient_privilege
            USING MESSAGE = 'new row violates row-level security policy for table "postings"';
    END IF;
    UPDATE cogni_billing.wallets
    SET posted = posted + NEW.amount,
        as_of = greatest(as_of, NEW.occurred_at)
    WHERE tenant_id = NEW.tenant_id AND account_id = NEW.account_id AND unit = NEW.unit
    RETURNING posted, held, granted, as_of, due_at INTO kept;
    IF NOT FOUND THEN
        -- The first one of all; or somebody else's was, just now.
        INSERT INTO cogni_billing.wallets AS wallet
            (tenant_id, account_id, unit, posted, held, as_of, due_at)
        VALUES
            (NEW.tenant_id, NEW.account_id, NEW.unit, NEW.amount, 0, NEW.occurred_at, 'infinity')
        ON CONFLICT (tenant_id, account_id, unit) DO UPDATE SET
            posted = wallet.posted + excluded.posted,
            as_of = greatest(wallet.as_of, excluded.as_of)
        RETURNING posted, held, granted, as_of, due_at INTO kept;
    END IF;
    IF kept.due_at <= kept.as_of AND NEW.kind <> 'expiry' THEN
        PERFORM cogni_billing.refuse_unsettled();
    END IF;
    IF NEW.sequence <> 1 THEN
        RAISE check_violation USING
            CONSTRAINT = 'postings_match_their_transaction',
            MESSAGE = format('postings of transaction %s are not what it declares', NEW.transaction_id);
    END IF;
    -- A row that ON CONFLICT DO NOTHING would skip must not leave its mark on the wallet. All rows of
    -- a wallet took its lock, so this sees every one that there is.
    IF EXISTS (
        SELECT FROM cogni_billing.postings
        WHERE origin_tenant_id = NEW.origin_tenant_id
          AND transaction_id = NEW.transaction_id
          AND sequence = 1
    ) THEN
        RAISE unique_violation USING
            CONSTRAINT = 'postings_made_once',
            MESSAGE = format('postings of transaction %s were made before', NEW.transaction_id);
    END IF;
    arrived := cogni_billing.arrived(NEW.tenant_id, NEW.account_id, NEW.unit, 9223372036854775807);
    NEW.posted_after := kept.posted;
    NEW.balance_after := kept.posted + arrived;
    NEW.occurred_at := kept.as_of;
    IF NEW.kind = 'capture' THEN
        SELECT * INTO drawn
        FROM cogni_billing.end_hold(NEW.subject_id, 'captured', -NEW.amount, kept.as_of);
        IF drawn.amounts IS NULL THEN
            RAISE serialization_failure USING
                CONSTRAINT = 'holds_end_once',
                MESSAGE = 'the hold has just ended';
        END IF;
        NEW.drawn_grants := drawn.grants;
        NEW.drawn_amounts := drawn.amounts;
    ELSIF NEW.kind = 'expiry' THEN
        PERFORM cogni_billing.lapse_grant(NEW.subject_id, NEW.unit, -NEW.amount, kept.as_of);
    ELSIF NEW.kind IN ('refund', 'chargeback') THEN
        -- Purchased credits go before granted ones; below zero, there are neither.
        IF kept.granted > 0 THEN
            SELECT * INTO drawn FROM cogni_billing.draw_grants(
                NEW.unit,
                greatest(0, - NEW.amount - greatest(
                    0, NEW.balance_after - NEW.amount - kept.held - kept.granted)));
            NEW.drawn_grants := drawn.grants;
            NEW.drawn_amounts := drawn.amounts;
        END IF;
    ELSIF NEW.amount < 0 THEN
        IF NOT NEW.overdraft AND NEW.balance_after < kept.held THEN
            PERFORM cogni_billing.refuse_overdraft(
                NEW.unit, -NEW.amount, NEW.balance_after - NEW.amount - kept.held);
        END IF;
        IF kept.granted > 0 THEN
            SELECT * INTO drawn FROM cogni_billing.draw_grants(NEW.unit, -NEW.amount);
            NEW.drawn_grants := drawn.grants;
            NEW.drawn_amounts := drawn.amounts;
        END IF;
    END IF;
    -- Taken while the wallet's row is locked, so positions of one account are in commit order.
    NEW.position := nextval('cogni_billing.postings_position_seq');
    RETURN NEW;
END
$$;

-- A tenant that names the system's account as its own comes in, too; the check below refuses it.
CREATE TRIGGER keep_wallet BEFORE INSERT ON cogni_billing.postings
FOR EACH ROW
WHEN (NEW.tenant_id = NEW.origin_tenant_id
      AND (NEW.account_id = NEW.tenant_id
           OR NEW.account_id = '00000000-0000-4000-b000-000000000000'))
EXECUTE FUNCTION cogni_billing.keep_wallet();

-- Holds postings to their transaction. A transition table shows every row the statement added,
-- whoever may read it, so this needs no privilege beyond the writer's own.
-- OFFSET 0 asks for a look at the index for each transaction. A session keeps its plans, so one made
-- for a great batch would otherwise read the tenant's whole history for a single posting.
CREATE FUNCTION cogni_billing.check_postings() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    wrong record;
BEGIN
    SELECT made.transaction_id, made.excess INTO wrong
    FROM (
        SELECT
            origin_tenant_id,
            transaction_id,
            sum(amount) AS excess,
            min(sequence) AS lowest,
            array_agg(account_id ORDER BY sequence) AS accounts,
            array_agg(amount ORDER BY sequence) AS amounts,
            (array_agg(subject_id ORDER BY sequence))[1] AS subject_id,
            bool_and(CASE sequence
                WHEN 1 THEN tenant_id = origin_tenant_id
                ELSE tenant_id = cogni_billing.owner_of(account_id) AND subject_id IS NULL
            END) AS are_their_owners,
            min(kind) AS kind,
            max(kind) AS another_kind,
            min(unit) AS unit,
            max(unit) AS another_unit,
            -- The first one's moment is the wallet's, which is not earlier.
            min(occurred_at) FILTER (WHERE sequence <> 1) AS occurred_at,
            max(occurred_at) FILTER (WHERE sequence <> 1) AS another_moment
        FROM added
        GROUP BY origin_tenant_id, transaction_id
    ) AS made
    LEFT JOIN LATERAL (
        SELECT * FROM cogni_billing.transactions
        WHERE tenant_id = made.origin_tenant_id AND id = made.transaction_id
        OFFSET 0
    ) AS declared ON true
    WHERE made.excess <> 0
        OR declared.id IS NULL
        -- There is one first posting of a transaction, ever: so none can be extended later.
        OR made.lowest <> 1
        OR NOT made.are_their_owners
        OR made.subject_id IS DISTINCT FROM declared.subject_id
        OR declared.kind <> made.kind
        OR declared.kind <> made.another_kind
        OR declared.unit <> made.unit
        OR declared.unit <> made.another_unit
        OR declared.occurred_at <> made.occurred_at
        OR declared.occurred_at <> made.another_moment
        OR made.accounts
            <> cogni_billing.account_of(declared.tenant_id)
            || ARRAY(
                SELECT share.account_id
                FROM unnest(declared.beneficiaries, declared.shares)
                    WITH ORDINALITY AS share (account_id, amount, n)
                WHERE share.amount <> 0
                ORDER BY share.n
            )
            || CASE WHEN declared.absorbed <> 0
                THEN ARRAY['00000000-0000-4000-b000-000000000004'::uuid] END
            -- A return may be of so little that it takes nothing.
            || CASE WHEN cardinality(made.accounts) > 1 OR declared.reverses IS NULL
                THEN ARRAY[cogni_billing.contra_of(declared.kind)] END
        -- The last one, the contra account's, is right when the others are: they sum to zero.
        OR made.amounts[1:greatest(cardinality(made.amounts) - 1, 1)]
            <> declared.amount || array_remove(declared.shares, 0)
            || CASE WHEN declared.absorbed <> 0 THEN ARRAY[- declared.absorbed] END
    LIMIT 1;
    IF NOT FOUND THEN
        RETURN NULL;
    ELSIF wrong.excess <> 0 THEN
        RAISE check_violation USING
            CONSTRAINT = 'postings_sum_to_zero',
            MESSAGE = format('postings of transaction %s sum to %s', wrong.transaction_id, wrong.excess);
    END IF;
    RAISE check_violation USING
        CONSTRAINT = 'postings_match_their_transaction',
        MESSAGE = format('postings of transaction %s are not what it declares', wrong.transaction_id);
END
$$;

CREATE TRIGGER check_postings AFTER INSERT ON cogni_billing.postings
REFERENCING NEW TABLE AS added
FOR EACH STATEMENT EXECUTE FUNCTION cogni_billing.check_postings();

-- A transaction arrives with its postings; a purchase with its claim, a grant with its terms; and a
-- return takes on where the one before it ended. One query asks it all, for the sake of those that
-- are sound.
CREATE FUNCTION cogni_billing.check_transactions() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    wrong record;
BEGIN
    SELECT declared.id, broken.rule, broken.what INTO wrong
    FROM added AS declared
    CROSS JOIN LATERAL (
        SELECT 'transactions_have_postings' AS rule, 'transaction %s has no postings' AS what
        WHERE NOT EXISTS (
            SELECT FROM cogni_billing.postings
            WHERE origin_tenant_id = declared.tenant_id
              AND transaction_id = declared.id
              AND sequence = 1
            OFFSET 0
        )
        UNION ALL
        SELECT 'purchases_claim_their_payment', 'purchase %s does not claim its payment'
        WHERE declared.kind = 'purchase'
          AND NOT EXISTS (
            SELECT FROM cogni_billing.payments
            WHERE payment = declared.reference AND tenant_id = declared.tenant_id
            OFFSET 0
        )
        UNION ALL
        SELECT 'grants_have_their_terms', 'grant %s has no terms'
        WHERE declared.kind = 'grant'
          AND NOT EXISTS (
            SELECT FROM cogni_billing.grants
            WHERE tenant_id = declared.tenant_id AND id = declared.id
            OFFSET 0
        )
        UNION ALL
        SELECT 'returns_follow_one_another', '%s does not take on where the one before it ended'
        WHERE declared.reverses IS NOT NULL
          AND NOT EXISTS (
            SELECT FROM cogni_billing.transactions AS purchase
            WHERE purchase.tenant_id = declared.tenant_id
              AND purchase.id = declared.reverses
              AND purchase.kind = 'purchase'
              AND purchase.beneficiaries = declared.beneficiaries
              AND declared.returned_unit = split_part(purchase.request ->> 'amount', ' ', 2)
              AND declared.returned_total
                  <= split_part(purchase.request ->> 'amount', ' ', 1)::numeric
              AND declared.returned_total - declared.returned = coalesce((
                  SELECT max(before.returned_total)
                  FROM cogni_billing.transactions AS before
                  WHERE before.tenant_id = declared.tenant_id
                    AND before.reverses = declared.reverses
                    AND before.id <> declared.id
              ), 0)
            OFFSET 0
        )
    ) AS broken
    LIMIT 1;
    IF FOUND THEN
        RAISE check_violation USING CONSTRAINT = wrong.rule, MESSAGE = format(wrong.what, wrong.id);
    END IF;
    RETURN NULL;
END
$$;

CREATE TRIGGER check_transactions AFTER INSERT ON cogni_billing.transactions
REFERENCING NEW TABLE AS added
FOR EACH STATEMENT EXECUTE FUNCTION cogni_billing.check_transactions();

-- History is append-only, for the owner of the tables too.
CREATE FUNCTION cogni_billing.refuse_change() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RAISE restrict_violation USING
        CONSTRAINT = 'history_is_append_only',
        MESSAGE = format('%s of %I is refused: history is append-only', TG_OP, TG_TABLE_NAME);
END
$$;

CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON cogni_billing.accounts
FOR EACH STATEMENT EXECUTE FUNCTION cogni_billing.refuse_change();
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON cogni_billing.transactions
FOR EACH STATEMENT EXECUTE FUNCTION cogni_billing.refuse_change();
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON cogni_billing.payments
FOR EACH STATEMENT EXECUTE FUNCTION cogni_billing.refuse_change();
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON cogni_billing.postings
FOR EACH STATEMENT EXECUTE FUNCTION cogni_billing.refuse_change();
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON cogni_billing.checkpoints
FOR EACH STATEMENT EXECUTE FUNCTION cogni_billing.refuse_change();
CREATE TRIGGER append_only BEFORE DELETE OR TRUNCATE ON cogni_billing.wallets
FOR EACH STATEMENT EXECUTE FUNCTION cogni_billing.refuse_change();

-- The system tenant ----------------------------------------------------------------------------

-- Seeds the system tenant's accounts where they are missing. The tables' owner is under their
-- policies too, so it acts for the tenant here, and then again for whom it acted for before.
CREATE FUNCTION cogni_billing.seed_system_tenant() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    before        CONSTANT text[] := cogni_billing.acting();
    system_tenant CONSTANT uuid := '00000000-0000-4000-a000-000000000001';
BEGIN
    PERFORM cogni_billing.act_for(system_tenant);
    INSERT INTO cogni_billing.accounts (tenant_id, id, type, slug, is_system_tenant, opened_at)
    VALUES
        (system_tenant, '00000000-0000-4000-b000-000000000000', 'billing', 'cogni_system', true, 'epoch'),
        (system_tenant, '00000000-0000-4000-b000-000000000001', 'issuance', NULL, true, 'epoch'),
        (system_tenant, '00000000-0000-4000-b000-000000000002', 'usage', NULL, true, 'epoch'),
        (system_tenant, '00000000-0000-4000-b000-000000000003', 'breakage', NULL, true, 'epoch'),
        (system_tenant, '00000000-0000-4000-b000-000000000004', 'shortfall', NULL, true, 'epoch')
    ON CONFLICT DO NOTHING;
    PERFORM cogni_billing.act_again(before);
END
$$;
