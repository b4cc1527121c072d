-- Tables. Every amount is in CREDIT unless its column names another unit.
--
-- Only functions of the keeper write here, after they have validated. So a table has keys and no
-- CHECKs: PostgreSQL parses a CHECK again for every statement that inserts. The key of a row that a
-- tenant's call writes starts with that tenant. A key that is unique in the whole system (a
-- payment, a piece of evidence) has a table of its own.

-- A transaction as a caller requests it. `shares` belong to `beneficiaries`. The other fields are
-- named as in the tables of transactions and of grants.
CREATE TYPE cogni_billing.movement AS (
    kind           text,
    id             uuid,
    at             timestamptz,
    reference      text,
    amount         numeric,
    metadata       text,
    overdraft      boolean,
    at_most        numeric,
    used_at        timestamptz,
    subject        uuid,
    paid           numeric,
    paid_unit      text,
    policy         text,
    beneficiaries  uuid[],
    shares         numeric[],
    source         text,
    priority       integer,
    expires_at     timestamptz,
    expires_in     bigint,
    effective_from timestamptz,
    reverses       uuid,
    returned       numeric,
    returned_total numeric,
    part           numeric,
    shortfall      text,
    absorbed       numeric,
    lapsed         numeric,
    reason         text,
    actor          text,
    final          boolean,
    overrun        text,
    charge         text
);

-- A tenant's account and its running state. `posted` is the sum of the tenant's own transactions.
-- `received` is the sum of arrivals up to the position `received_up_to`, as of the last `fold`.
-- `lines` counts the tenant's transactions. `due_at` is when the next hold or grant expires,
-- or the next period of a schedule begins. `granted` is the remainder of the rows in `grants`.
-- `has_lots` is true if one of these is of a purchase, `has_schedules` if the tenant has a schedule.
CREATE TABLE cogni_billing.wallets (
    tenant_id      uuid        NOT NULL,
    opened_at      timestamptz NOT NULL,
    posted         numeric     NOT NULL DEFAULT 0,
    received       numeric     NOT NULL DEFAULT 0,
    received_up_to bigint      NOT NULL DEFAULT 0,
    held           numeric     NOT NULL DEFAULT 0,
    granted        numeric     NOT NULL DEFAULT 0,
    has_lots       boolean     NOT NULL DEFAULT false,
    has_schedules  boolean     NOT NULL DEFAULT false,
    lines          bigint      NOT NULL DEFAULT 0,
    as_of          timestamptz NOT NULL DEFAULT 'epoch',
    due_at         timestamptz NOT NULL DEFAULT 'infinity',
    -- A freeze: its beginning, the number of lines by then, and the operator's reason.
    frozen_at      timestamptz,
    frozen_after   bigint,
    frozen_reason  text,
    -- The limit of overdrafts, and the number of lines when it was set. NULL for no limit.
    overdraft_limit numeric,
    limited_after  bigint,
    CONSTRAINT wallets_pkey PRIMARY KEY (tenant_id)
) WITH (fillfactor = 70);

-- Most wallets are never due, so their rows are not in this index.
CREATE INDEX wallets_due ON cogni_billing.wallets (due_at) WHERE due_at < 'infinity';

-- A transaction is also the line on its tenant's account: `amount` is its posting there, `position`
-- the wallet's counter, `posted_after` the sum of the lines up to it. `arrived` is the sum of
-- arrivals by then, up to position `seen`.
CREATE TABLE cogni_billing.transactions (
    tenant_id      uuid             NOT NULL,
    id             uuid             NOT NULL,
    position       bigint           NOT NULL,
    seen           bigint           NOT NULL,
    occurred_at    timestamptz      NOT NULL,
    -- The same, or the wallet's own time if that is later: lines never run backwards.
    line_at        timestamptz      NOT NULL,
    kind           text             NOT NULL,
    reference      text COLLATE "C" NOT NULL,
    amount         numeric          NOT NULL,
    posted_after   numeric          NOT NULL,
    arrived        numeric          NOT NULL,
    overdraft      boolean          NOT NULL,
    -- The requested amount of a charge that may take less, or the total of a refund up to one.
    at_most        numeric,
    -- The moment of the usage, if the charge reports it late.
    used_at        timestamptz,
    -- The hold of a capture, the grant of an expiry or a void, the dispute of a chargeback, the
    -- refund or the dispute of a reinstatement.
    subject_id     uuid,
    -- A purchase: the payment, the shares, and the digest of their policy.
    paid           numeric,
    paid_unit      text,
    beneficiaries  uuid[],
    shares         numeric[],
    policy         bytea,
    -- The parts that it took of grants. The remaining part was of purchased credits.
    drawn_grants   uuid[],
    drawn_amounts  numeric[],
    -- A refund or a chargeback: its purchase, the payment returned now and in total, the part that
    -- the processor returned (NULL for the same), the rule for spent credits, and the part that
    -- `shortfall` absorbed. A reinstatement gives that back. A reversal: its charge or capture, the
    -- credits given back now and in total, the requested part, and the credits that had expired.
    reverses       uuid,
    returned       numeric,
    returned_total numeric,
    part           numeric,
    shortfall      text,
    absorbed       numeric,
    -- The expired credits of its purchase that a refund or a chargeback takes from `breakage`, and a
    -- reinstatement gives back to it.
    lapsed         numeric,
    -- A reason for people to read, of an adjustment, a void or a reversal.
    reason         text,
    -- The person or the program that made the call, if the caller named it.
    actor          text COLLATE "C",
    -- A capture: false if it left its hold open, and the rule for a cost above the held credits.
    -- NULL otherwise.
    final          boolean,
    overrun        text,
    metadata       json             NOT NULL,
    CONSTRAINT transactions_pkey PRIMARY KEY (id, tenant_id),
    CONSTRAINT transactions_key_used_once UNIQUE (reference, tenant_id, kind)
);

-- Each query has one index that fits, so statistics cannot mislead the planner: keys do not begin
-- with the tenant, and an index that does is partial, for statements that repeat its condition.
CREATE UNIQUE INDEX transactions_lines ON cogni_billing.transactions (tenant_id, position)
    WHERE position > 0;

CREATE INDEX transactions_grants ON cogni_billing.transactions (tenant_id, position)
    WHERE kind = 'grant';

CREATE INDEX transactions_reversals ON cogni_billing.transactions (reverses, tenant_id)
    WHERE reverses IS NOT NULL;

-- The terms of a tenant's purchases, each stored once, by the SHA-256 digest of their text: the
-- share policy, and the price if it is not the protocol's. `price` is a copy of that field.
CREATE TABLE cogni_billing.policies (
    tenant_id uuid  NOT NULL,
    digest    bytea NOT NULL,
    policy    json  NOT NULL,
    price     json,
    CONSTRAINT policies_pkey PRIMARY KEY (digest, tenant_id)
);

-- Postings of a transaction on other accounts than its tenant's: shares, the contra account's side,
-- the part that `shortfall` absorbs. Stored under the transaction's tenant.
CREATE TABLE cogni_billing.arrivals (
    origin_id      uuid        NOT NULL,
    transaction_id uuid        NOT NULL,
    sequence       smallint    NOT NULL,
    account_id     uuid        NOT NULL,
    position       bigint      GENERATED BY DEFAULT AS IDENTITY,
    kind           text        NOT NULL,
    amount         numeric     NOT NULL,
    occurred_at    timestamptz NOT NULL,
    CONSTRAINT arrivals_pkey PRIMARY KEY (origin_id, transaction_id, sequence)
);

CREATE INDEX arrivals_of_accounts
    ON cogni_billing.arrivals (account_id, position) INCLUDE (amount, occurred_at);

-- Sums of an account's arrivals: those after one position, up to another.
-- `arrived` is the sum since the beginning.
CREATE TABLE cogni_billing.checkpoints (
    account_id  uuid        NOT NULL,
    up_to       bigint      NOT NULL,
    after       bigint      NOT NULL,
    added       numeric     NOT NULL,
    arrived     numeric     NOT NULL,
    earliest_at timestamptz NOT NULL,
    latest_at   timestamptz NOT NULL,
    CONSTRAINT checkpoints_pkey PRIMARY KEY (account_id, up_to),
    CONSTRAINT checkpoints_follow_one_another UNIQUE (account_id, after)
);

-- A payment is claimed once in the whole system.
CREATE TABLE cogni_billing.claims (
    payment        text COLLATE "C" NOT NULL,
    tenant_id      uuid             NOT NULL,
    transaction_id uuid             NOT NULL,
    CONSTRAINT claims_pkey PRIMARY KEY (payment)
);

-- Credits set aside for the tenant's own work, or for a dispute, which no tenant can end.
CREATE TABLE cogni_billing.holds (
    tenant_id      uuid             NOT NULL,
    id             uuid             NOT NULL,
    kind           text             NOT NULL,
    dispute_id     uuid,
    reference      text COLLATE "C" NOT NULL,
    -- As requested: the amount, and the expiry as a moment or as a lifetime in microseconds.
    requested      numeric          NOT NULL,
    requested_until timestamptz,
    expires_in     bigint,
    -- The parts of grants that it drew when it opened. The remaining part was purchased credits.
    drawn_grants   uuid[],
    drawn_amounts  numeric[],
    opened_at      timestamptz      NOT NULL,
    metadata       json             NOT NULL,
    -- All credits that were ever set aside. Those that are not captured or held were released.
    amount         numeric          NOT NULL,
    captured       numeric          NOT NULL DEFAULT 0,
    held           numeric          NOT NULL,
    -- True if the hold has rows in `hold_changes`.
    changed        boolean          NOT NULL DEFAULT false,
    state          text             NOT NULL DEFAULT 'open',
    expires_at     timestamptz,
    -- When it ended. For an open hold, the latest moment when it will end.
    ends_at        timestamptz      NOT NULL,
    -- The parts of grants among the held credits, in the order in which they were drawn. An ended
    -- hold keeps those that it pinned right before its end.
    pinned_grants  uuid[],
    pinned_amounts numeric[],
    CONSTRAINT holds_pkey PRIMARY KEY (id, tenant_id),
    CONSTRAINT holds_key_used_once UNIQUE (reference, tenant_id, kind)
);

CREATE INDEX holds_ends ON cogni_billing.holds (tenant_id, ends_at)
    INCLUDE (requested, opened_at, changed, id) WHERE ends_at > 'epoch';
CREATE INDEX holds_open ON cogni_billing.holds (tenant_id, ends_at) WHERE state = 'open';
CREATE INDEX holds_newest ON cogni_billing.holds (tenant_id, opened_at, id)
    WHERE state = 'open' AND kind = 'work';

-- Changes of open holds: extensions, overruns, captures that left their hold open, and releases.
-- A row never changes.
CREATE TABLE cogni_billing.hold_changes (
    tenant_id   uuid        NOT NULL,
    hold_id     uuid        NOT NULL,
    number      integer     NOT NULL,
    kind        text        NOT NULL,
    -- The id and the key of an extension or of a release.
    id          uuid,
    reference   text COLLATE "C",
    at          timestamptz NOT NULL,
    -- The change of the held credits, with its sign, and the parts of it that come from grants.
    amount      numeric     NOT NULL,
    grants      uuid[],
    amounts     numeric[],
    -- As requested. NULL for an amount or an expiry that the caller did not give.
    requested       numeric,
    requested_until timestamptz,
    expires_in  bigint,
    CONSTRAINT hold_changes_pkey PRIMARY KEY (hold_id, tenant_id, number),
    CONSTRAINT hold_changes_key_used_once UNIQUE (reference, tenant_id, kind)
);

-- Credits with a spend order, which may expire: of grants, and of purchases with an expiry. `taken`
-- is spent, set aside by an open hold, taken back, or expired.
CREATE TABLE cogni_billing.grants (
    tenant_id        uuid             NOT NULL,
    -- The transaction's.
    id               uuid             NOT NULL,
    amount           numeric          NOT NULL,
    taken            numeric          NOT NULL DEFAULT 0,
    -- NULL for a purchase. Its priority is 1000001, after every grant's.
    source           text COLLATE "C",
    priority         integer          NOT NULL,
    granted_at       timestamptz      NOT NULL,
    expires_at       timestamptz,
    -- The first expiry, and the lifetime in microseconds if the caller gave one. A dispute ends the
    -- expiry of a purchase, and so does a refund that takes other credits than the purchase's.
    first_expires_at timestamptz,
    expires_in       bigint,
    -- The beginning that the caller gave, if any.
    effective_from   timestamptz,
    CONSTRAINT grants_pkey PRIMARY KEY (id, tenant_id)
);

CREATE INDEX grants_spendable
    ON cogni_billing.grants (tenant_id, priority, expires_at, granted_at, id)
    WHERE taken < amount;

-- Grants that begin by time: one that begins later (`once`), with the id and the key of its
-- transaction, or one each period.
CREATE TABLE cogni_billing.schedules (
    tenant_id    uuid             NOT NULL,
    id           uuid             NOT NULL,
    once         boolean          NOT NULL,
    reference    text COLLATE "C" NOT NULL,
    made_at      timestamptz      NOT NULL,
    amount       numeric          NOT NULL,
    source       text COLLATE "C" NOT NULL,
    priority     integer          NOT NULL,
    -- Periods: their unit, the beginning of period 0, the zone whose calendar counts, and the moment
    -- from which none begins. `given_anchor` is as requested.
    every        text,
    anchor       timestamptz      NOT NULL,
    given_anchor timestamptz,
    zone         text COLLATE "C" NOT NULL,
    until        timestamptz,
    -- The most credits of a period that live longer, and for how many periods.
    cap          numeric,
    carries      integer,
    -- Of a single grant: its expiry, and the lifetime in microseconds if the caller gave one.
    expires_at   timestamptz,
    expires_in   bigint,
    replaces     uuid,
    actor        text COLLATE "C",
    -- The tenant's balance when it was recorded.
    balance      numeric          NOT NULL,
    metadata     json             NOT NULL,
    -- Periods from `first_number` to `number - 1` have begun. `next_at` is 'infinity' if no other
    -- begins.
    first_number bigint           NOT NULL,
    number       bigint           NOT NULL,
    next_at      timestamptz      NOT NULL,
    ended_at     timestamptz,
    CONSTRAINT schedules_pkey PRIMARY KEY (id, tenant_id),
    CONSTRAINT schedules_key_used_once UNIQUE (reference, tenant_id, once)
);

CREATE INDEX schedules_newest ON cogni_billing.schedules (tenant_id, made_at, id);
CREATE INDEX schedules_due ON cogni_billing.schedules (tenant_id, next_at)
    WHERE next_at < 'infinity';

-- Later expiries of grants. A row never changes.
CREATE TABLE cogni_billing.grant_extensions (
    tenant_id   uuid             NOT NULL,
    reference   text COLLATE "C" NOT NULL,
    grant_id    uuid             NOT NULL,
    extended_at timestamptz      NOT NULL,
    expires_at  timestamptz      NOT NULL,
    -- The lifetime in microseconds if the caller gave one.
    expires_in  bigint,
    CONSTRAINT grant_extensions_pkey PRIMARY KEY (reference, tenant_id)
);

-- A dispute of a payment. The row never changes: its last change is the present state.
CREATE TABLE cogni_billing.disputes (
    tenant_id     uuid             NOT NULL,
    id            uuid             NOT NULL,
    reference     text COLLATE "C" NOT NULL,
    purchase_id   uuid             NOT NULL,
    payment       text COLLATE "C" NOT NULL,
    disputed_unit text             NOT NULL,
    -- The disputed part as requested, NULL for all that remained.
    part          numeric,
    beneficiaries uuid[]           NOT NULL,
    opened_at     timestamptz      NOT NULL,
    metadata      json             NOT NULL,
    CONSTRAINT disputes_pkey PRIMARY KEY (id, tenant_id),
    CONSTRAINT disputes_key_used_once UNIQUE (reference, tenant_id)
);

CREATE INDEX disputes_of_purchases ON cogni_billing.disputes (purchase_id, tenant_id);

-- The states of a dispute, numbered from 1. A row never changes.
CREATE TABLE cogni_billing.dispute_changes (
    tenant_id     uuid        NOT NULL,
    dispute_id    uuid        NOT NULL,
    number        integer     NOT NULL,
    at            timestamptz NOT NULL,
    state         text        NOT NULL,
    -- The disputed part of the payment, in its unit, and the lost part. The lost part is NULL for
    -- all of it, or if the dispute is not lost.
    disputed      numeric     NOT NULL,
    lost          numeric,
    -- The transaction of a lost dispute.
    chargeback_id uuid,
    -- The credits set aside on the wallets of the customer and of each beneficiary.
    amount        numeric     NOT NULL,
    -- The credits of the part that had expired.
    lapsed        numeric     NOT NULL,
    shares        numeric[]   NOT NULL,
    CONSTRAINT dispute_changes_pkey PRIMARY KEY (dispute_id, tenant_id, number)
);

-- A customer's intent to pay, which never changes. The columns after `expires_at` are the present
-- state, which follows from the events.
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
    state          text             NOT NULL DEFAULT 'CREATED_INTENT',
    changed_at     timestamptz      NOT NULL,
    evidence       text COLLATE "C",
    submitted_at   timestamptz,
    failure        text,
    transaction_id uuid,
    -- The time of the last verification.
    checked_at     timestamptz,
    CONSTRAINT payment_attempts_pkey PRIMARY KEY (tenant_id, id)
);

CREATE INDEX payment_attempts_pending
    ON cogni_billing.payment_attempts (checked_at, tenant_id, id)
    WHERE state = 'PENDING_UNVERIFIED';
CREATE INDEX payment_attempts_expiring
    ON cogni_billing.payment_attempts (expires_at, tenant_id, id)
    WHERE state = 'CREATED_INTENT';
-- On a chain, an address that any sender may pay is of one intent.
CREATE UNIQUE INDEX payment_attempts_recipients
    ON cogni_billing.payment_attempts (recipient, provider)
    WHERE payer IS NULL AND provider ~ '^[1-9][0-9]*$';

-- The history of attempts. A row never changes.
CREATE TABLE cogni_billing.payment_attempt_events (
    tenant_id      uuid        NOT NULL,
    attempt_id     uuid        NOT NULL,
    number         integer     NOT NULL,
    from_state     text        NOT NULL,
    state          text        NOT NULL,
    at             timestamptz NOT NULL,
    evidence       text COLLATE "C",
    failure        text,
    transaction_id uuid,
    -- The verifier's answer.
    found          json        NOT NULL,
    CONSTRAINT payment_attempt_events_pkey PRIMARY KEY (tenant_id, attempt_id, number)
);

-- Evidence belongs to one attempt in the whole system while the attempt is pending or credited.
CREATE TABLE cogni_billing.evidence (
    evidence   text COLLATE "C" NOT NULL,
    tenant_id  uuid             NOT NULL,
    attempt_id uuid             NOT NULL,
    CONSTRAINT evidence_pkey PRIMARY KEY (evidence)
);

-- The inbox: each payment event that arrived, under the processor's id of it, and how far it is
-- applied. An event whose tenant is not known yet belongs to no tenant. Only the service role keeps
-- and reads events.
CREATE TABLE cogni_billing.payment_events (
    id          text COLLATE "C" NOT NULL,
    kind        text             NOT NULL,
    -- The payment's key in the event, and its other ids.
    payment     text COLLATE "C" NOT NULL,
    aliases     text[] COLLATE "C" NOT NULL,
    facts       json             NOT NULL,
    received_at timestamptz      NOT NULL,
    state       text             NOT NULL,
    -- The tenant of the payment, and the id under which that tenant has claimed it.
    tenant_id   uuid,
    claim       text COLLATE "C",
    note        text,
    CONSTRAINT payment_events_pkey PRIMARY KEY (id)
);

CREATE INDEX payment_events_of_payments ON cogni_billing.payment_events (payment);
CREATE INDEX payment_events_open ON cogni_billing.payment_events (state, received_at, id)
    WHERE state IN ('waiting', 'unmatched');

-- Keys of signed contexts, prepared for HMAC-SHA256 (RFC 2104): the key, padded to a block, with
-- each of the two pads.
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
