"""What a safe installation looks like in the catalogue: policies, triggers, grants, on one page.

Written apart from the migrations on purpose: the two vouch for each other, and `doctor` holds the
running database to this one. Expressions are spelled as PostgreSQL prints them.
"""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files
from typing import Final

from attrs import frozen

from cogni_billing.adapters.postgres.schema import SCHEMA

TABLES: Final = ("accounts", "checkpoints", "payments", "postings", "transactions", "wallets")

_SYSTEM_TENANT: Final = "'00000000-0000-4000-a000-000000000001'::uuid"
_SYSTEM_ACCOUNT: Final = "'00000000-0000-4000-b000-000000000000'::uuid"
_ISSUANCE: Final = "'00000000-0000-4000-b000-000000000001'::uuid"
_USAGE: Final = "'00000000-0000-4000-b000-000000000002'::uuid"

_OWN: Final = "(tenant_id = ( SELECT cogni_billing.tenant() AS tenant))"
_BY_US: Final = "(origin_tenant_id = ( SELECT cogni_billing.tenant() AS tenant))"


@frozen
class Policy:
    """One row-level security policy; all of them hold for every role."""

    table: str
    name: str
    command: str
    restrictive: bool = False
    using: str | None = None
    check: str | None = None
    roles: tuple[str, ...] = ("public",)

    def create(self) -> str:
        """The statement that makes it."""
        parts = [f"CREATE POLICY {self.name} ON {SCHEMA}.{self.table}"]
        parts += ["AS RESTRICTIVE"] if self.restrictive else []
        parts += [f"FOR {self.command}"]
        parts += [f"USING {self.using}"] if self.using else []
        parts += [f"WITH CHECK {self.check}"] if self.check else []
        return " ".join(parts)


def _own_rows(table: str) -> tuple[Policy, ...]:
    return (
        Policy(table, f"{table}_floor", "ALL", restrictive=True, using=_OWN, check=_OWN),
        Policy(table, f"{table}_select", "SELECT", using=_OWN),
        Policy(table, f"{table}_insert", "INSERT", check=_OWN),
    )


POLICIES: Final = frozenset(
    (
        *_own_rows("accounts"),
        *_own_rows("payments"),
        *_own_rows("transactions"),
        *_own_rows("wallets"),
        Policy("wallets", "wallets_update", "UPDATE", using=_OWN, check=_OWN),
        Policy("checkpoints", "checkpoints_floor", "ALL", restrictive=True, using=_OWN, check=_OWN),
        Policy("checkpoints", "checkpoints_select", "SELECT", using=_OWN),
        Policy("postings", "postings_read_floor", "SELECT", restrictive=True, using=_OWN),
        Policy("postings", "postings_write_floor", "INSERT", restrictive=True, check=_BY_US),
        Policy("postings", "postings_select", "SELECT", using=_OWN),
        Policy("postings", "postings_insert_own", "INSERT", check=_OWN),
        Policy(
            "postings",
            "postings_insert_share",
            "INSERT",
            check=f"((tenant_id = {_SYSTEM_TENANT}) AND (account_id = {_SYSTEM_ACCOUNT})"
            " AND (amount > (0)::numeric))",
        ),
        Policy(
            "postings",
            "postings_insert_issuance",
            "INSERT",
            check=f"((tenant_id = {_SYSTEM_TENANT}) AND (account_id = {_ISSUANCE})"
            " AND (amount < (0)::numeric))",
        ),
        Policy(
            "postings",
            "postings_insert_usage",
            "INSERT",
            check=f"((tenant_id = {_SYSTEM_TENANT}) AND (account_id = {_USAGE})"
            " AND (amount > (0)::numeric))",
        ),
    )
)


@frozen(order=True)
class Trigger:
    """One trigger; `definition` is the statement that makes it."""

    table: str
    name: str
    definition: str


def _append_only(table: str, operations: str = "DELETE OR UPDATE OR TRUNCATE") -> Trigger:
    return Trigger(
        table,
        "append_only",
        f"CREATE TRIGGER append_only BEFORE {operations} ON {SCHEMA}.{table}"
        f" FOR EACH STATEMENT EXECUTE FUNCTION {SCHEMA}.refuse_change()",
    )


def _checked(table: str) -> Trigger:
    return Trigger(
        table,
        f"check_{table}",
        f"CREATE TRIGGER check_{table} AFTER INSERT ON {SCHEMA}.{table}"
        " REFERENCING NEW TABLE AS added"
        f" FOR EACH STATEMENT EXECUTE FUNCTION {SCHEMA}.check_{table}()",
    )


TRIGGERS: Final = frozenset(
    (
        _append_only("accounts"),
        _append_only("checkpoints"),
        _append_only("payments"),
        _append_only("postings"),
        _append_only("transactions"),
        _append_only("wallets", "DELETE OR TRUNCATE"),
        _checked("postings"),
        _checked("transactions"),
        Trigger(
            "postings",
            "keep_wallet",
            f"CREATE TRIGGER keep_wallet BEFORE INSERT ON {SCHEMA}.postings FOR EACH ROW"
            " WHEN (((new.tenant_id = new.origin_tenant_id)"
            " AND (new.account_id = cogni_billing.account_of(new.tenant_id))))"
            f" EXECUTE FUNCTION {SCHEMA}.keep_wallet()",
        ),
    )
)


@frozen(order=True)
class Constraint:
    """One constraint of a table; NOT NULL aside."""

    table: str
    name: str
    definition: str


def _in_range(table: str, column: str) -> Constraint:
    return Constraint(
        table,
        f"{table}_{column}_in_range",
        f"CHECK ((({column} >= '1970-01-01 00:00:00+00'::timestamp with time zone)"
        f" AND ({column} < '9999-01-01 00:00:00+00'::timestamp with time zone)))",
    )


CONSTRAINTS: Final = frozenset(
    (
        Constraint(
            "accounts",
            "accounts_one_for_each_tenant",
            "CHECK (((id = cogni_billing.account_of(tenant_id)) OR ((type <> "
            f"'billing'::text) AND (tenant_id = {_SYSTEM_TENANT}))))",
        ),
        _in_range("accounts", "opened_at"),
        Constraint(
            "accounts",
            "accounts_pkey",
            "PRIMARY KEY (tenant_id, id)",
        ),
        Constraint(
            "accounts",
            "accounts_tenant_not_reserved",
            "CHECK ((tenant_id <> ALL "
            f"(ARRAY['00000000-0000-0000-0000-000000000000'::uuid, {_SYSTEM_ACCOUNT}, "
            f"{_ISSUANCE}, {_USAGE}, "
            "'00000000-0000-4000-b000-000000000003'::uuid, "
            "'00000000-0000-4000-b000-000000000004'::uuid])))",
        ),
        Constraint(
            "accounts",
            "accounts_type_known",
            "CHECK ((type = ANY (ARRAY['billing'::text, 'issuance'::text, 'usage'::text, "
            "'breakage'::text, 'shortfall'::text])))",
        ),
        Constraint(
            "checkpoints",
            "checkpoints_follow_one_another",
            "UNIQUE (tenant_id, account_id, unit, after_position)",
        ),
        Constraint(
            "checkpoints",
            "checkpoints_go_on",
            'CHECK (((0 <= after_position) AND (after_position < "position")))',
        ),
        Constraint(
            "checkpoints",
            "checkpoints_pkey",
            'PRIMARY KEY (tenant_id, account_id, unit, "position")',
        ),
        Constraint(
            "payments",
            "payments_are_for_purchases",
            "CHECK ((kind = 'purchase'::text))",
        ),
        Constraint(
            "payments",
            "payments_have_their_purchase",
            "FOREIGN KEY (tenant_id, kind, payment) REFERENCES "
            "cogni_billing.transactions(tenant_id, kind, reference)",
        ),
        Constraint(
            "payments",
            "payments_pkey",
            "PRIMARY KEY (payment)",
        ),
        Constraint(
            "postings",
            "postings_amount_whole_and_bounded",
            "CHECK (((amount <> (0)::numeric) AND (scale(amount) = 0) AND (abs(amount) < "
            "'10000000000000000000000000000000000000000'::numeric)))",
        ),
        Constraint(
            "postings",
            "postings_made_once",
            "UNIQUE (origin_tenant_id, transaction_id, sequence)",
        ),
        _in_range("postings", "occurred_at"),
        Constraint(
            "postings",
            "postings_pkey",
            'PRIMARY KEY (tenant_id, account_id, "position")',
        ),
        Constraint(
            "postings",
            "postings_running_balances_together",
            "CHECK (((posted_after IS NULL) = (balance_after IS NULL)))",
        ),
        Constraint(
            "postings",
            "postings_unit_known",
            "CHECK ((unit = 'CREDIT'::text))",
        ),
        Constraint(
            "transactions",
            "transactions_beneficiary_is_the_system",
            f"CHECK (((beneficiaries = '{{}}'::uuid[]) OR ((beneficiaries = "
            f"ARRAY[{_SYSTEM_ACCOUNT}]) AND (tenant_id <> {_SYSTEM_TENANT}))))",
        ),
        Constraint(
            "transactions",
            "transactions_inputs_small_objects",
            "CHECK (((json_typeof(request) = 'object'::text) AND "
            "(octet_length((request)::text) <= 65536) AND (json_typeof(policy) = "
            "'object'::text) AND (octet_length((policy)::text) <= 65536)))",
        ),
        Constraint(
            "transactions",
            "transactions_key_used_once",
            "UNIQUE (tenant_id, kind, reference)",
        ),
        Constraint(
            "transactions",
            "transactions_kind_known",
            "CHECK ((kind = ANY (ARRAY['purchase'::text, 'charge'::text])))",
        ),
        Constraint(
            "transactions",
            "transactions_metadata_small_object",
            "CHECK (((json_typeof(metadata) = 'object'::text) AND "
            "(octet_length((metadata)::text) <= 16384)))",
        ),
        _in_range("transactions", "occurred_at"),
        Constraint(
            "transactions",
            "transactions_pkey",
            "PRIMARY KEY (tenant_id, id)",
        ),
        Constraint(
            "transactions",
            "transactions_only_purchases_share",
            "CHECK (((kind = 'purchase'::text) OR (beneficiaries = '{}'::uuid[])))",
        ),
        Constraint(
            "transactions",
            "transactions_raise_or_lower",
            "CHECK (((kind = 'purchase'::text) = (amount > (0)::numeric)))",
        ),
        Constraint(
            "transactions",
            "transactions_reference_visible_ascii",
            "CHECK ((reference ~ '^[\\x21-\\x7e]{1,255}$'::text))",
        ),
        Constraint(
            "transactions",
            "transactions_shares_complete",
            "CHECK (((cardinality(shares) = cardinality(beneficiaries)) AND "
            "(array_position(beneficiaries, NULL::uuid) IS NULL) AND "
            "(array_position(shares, NULL::numeric) IS NULL) AND ((0)::numeric <= ALL "
            "(shares))))",
        ),
        Constraint(
            "transactions",
            "transactions_unit_known",
            "CHECK ((unit = 'CREDIT'::text))",
        ),
        Constraint(
            "wallets",
            "wallets_account_exists",
            "FOREIGN KEY (tenant_id, account_id) REFERENCES "
            "cogni_billing.accounts(tenant_id, id) DEFERRABLE INITIALLY DEFERRED",
        ),
        Constraint(
            "wallets",
            "wallets_pkey",
            "PRIMARY KEY (tenant_id, account_id, unit)",
        ),
        Constraint(
            "wallets",
            "wallets_posted_in_bounds",
            "CHECK (((posted > '-100000000000000000000000000000000000000000000000000'::numeric) "
            "AND (posted < "
            "'100000000000000000000000000000000000000000000000000'::numeric)))",
        ),
    )
)


@frozen
class Grant:
    """One privilege of one role, given by its purpose, on a table or one of its columns."""

    grantee: str
    privilege: str
    table: str
    column: str | None = None

    def on(self) -> str:
        """The privilege as GRANT and REVOKE name it."""
        column = f" ({self.column})" if self.column else ""
        return f"{self.privilege}{column} ON {SCHEMA}.{self.table}"


def _columns(grantee: str, privilege: str, table: str, columns: str) -> frozenset[Grant]:
    return frozenset(Grant(grantee, privilege, table, column) for column in columns.split())


GRANTS: Final = frozenset().union(
    (Grant(role, "SELECT", table) for role in ("user", "service") for table in TABLES),
    _columns("user", "INSERT", "accounts", "tenant_id id opened_at"),
    _columns("user", "INSERT", "payments", "payment tenant_id"),
    _columns(
        "user",
        "INSERT",
        "transactions",
        "tenant_id id kind reference unit amount beneficiaries shares request policy metadata"
        " occurred_at",
    ),
    _columns(
        "user",
        "INSERT",
        "postings",
        "tenant_id account_id origin_tenant_id transaction_id sequence kind unit amount"
        " overdraft occurred_at",
    ),
    _columns(
        "service",
        "INSERT",
        "checkpoints",
        "tenant_id account_id unit position after_position arrived balance added earliest_at"
        " latest_at",
    ),
    {Grant("keeper", "SELECT", "wallets"), Grant("keeper", "INSERT", "wallets")},
    _columns("keeper", "UPDATE", "wallets", "posted as_of"),
    _columns(
        "keeper",
        "SELECT",
        "postings",
        "tenant_id account_id origin_tenant_id transaction_id sequence unit position amount"
        " posted_after",
    ),
    _columns("keeper", "SELECT", "checkpoints", "tenant_id account_id unit position arrived"),
)


@frozen
class Function:
    """One function: its owner's purpose, whether it runs as that owner, and its source."""

    name: str
    owner: str
    definer: bool
    path: str | None
    source: str


_PINNED: Final = "search_path=pg_catalog, pg_temp"
# Plain SQL with qualified names, which the planner can inline.
_UNPINNED: Final = frozenset({"account_of", "contra_of", "revision", "tenant"})
_DEFINITION = re.compile(
    rf"CREATE (?:OR REPLACE )?FUNCTION {SCHEMA}\.(\w+)\(.*?AS \$\$(.*?)\$\$;", re.DOTALL
)


@cache
def functions() -> frozenset[Function]:
    """The functions, as the newest migration that defines each of them wrote it."""
    folder = files("cogni_billing.adapters.postgres.migrations").joinpath("sql")
    scripts = sorted(folder.iterdir(), key=lambda script: script.name)
    sources = dict(
        match for script in scripts for match in _DEFINITION.findall(script.read_text("utf-8"))
    )
    return frozenset(
        Function(
            name=name,
            owner="keeper" if name == "keep_wallet" else "migrator",
            definer=name == "keep_wallet",
            path=None if name in _UNPINNED else _PINNED,
            source=source,
        )
        for name, source in sources.items()
    )


EXECUTABLE: Final = frozenset(
    (role, name)
    for role in ("user", "service", "keeper")
    for name in (
        "account_of",
        "arrived",
        "arrived_by",
        "balance_up_to",
        "contra_of",
        "revision",
        "tenant",
    )
) | {("service", "settled_position")}
"""Who may call which function, the owners aside."""
