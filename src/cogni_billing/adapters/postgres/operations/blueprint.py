"""What a sound installation looks like in the catalogue: policies, triggers, functions, on a page.

Written apart from the migrations on purpose: the two vouch for each other, and `doctor` holds the
running database to this one. Expressions are spelled as PostgreSQL prints them.
"""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files
from typing import Final

from attrs import evolve, frozen

from cogni_billing.adapters.postgres.operations.roles import Roles, quoted
from cogni_billing.adapters.postgres.schema import SCHEMA

TABLES: Final = (
    "accounts",
    "checkpoints",
    "context_keys",
    "disputes",
    "grants",
    "holds",
    "payment_attempt_events",
    "payment_attempts",
    "payments",
    "postings",
    "transactions",
    "wallets",
)

LEDGER: Final = tuple(table for table in TABLES if table != "context_keys")
"""The tables whose rows have a tenant."""

_SYSTEM_TENANT: Final = "'00000000-0000-4000-a000-000000000001'::uuid"
_ISSUANCE: Final = "'00000000-0000-4000-b000-000000000001'::uuid"
_USAGE: Final = "'00000000-0000-4000-b000-000000000002'::uuid"
_BREAKAGE: Final = "'00000000-0000-4000-b000-000000000003'::uuid"
_SHORTFALL: Final = "'00000000-0000-4000-b000-000000000004'::uuid"

_OWN: Final = "(tenant_id = ( SELECT cogni_billing.tenant() AS tenant))"
_BY_US: Final = "(origin_tenant_id = ( SELECT cogni_billing.tenant() AS tenant))"


PUBLIC: Final = ("public",)


@frozen
class Policy:
    """One row-level security policy, for every role or for those of a purpose."""

    table: str
    name: str
    command: str
    restrictive: bool = False
    using: str | None = None
    check: str | None = None
    roles: tuple[str, ...] = PUBLIC

    def for_roles(self, roles: Roles) -> Policy:
        """The same, with the names of the roles, in the catalogue's order."""
        names = roles.to_dict()
        return evolve(self, roles=tuple(sorted(names.get(each, each) for each in self.roles)))

    def create(self) -> str:
        """The statement that makes it."""
        parts = [f"CREATE POLICY {self.name} ON {SCHEMA}.{self.table}"]
        parts += ["AS RESTRICTIVE"] if self.restrictive else []
        parts += [f"FOR {self.command}"]
        parts += [f"TO {', '.join(map(quoted, self.roles))}"] if self.roles != PUBLIC else []
        parts += [f"USING {self.using}"] if self.using else []
        parts += [f"WITH CHECK {self.check}"] if self.check else []
        return " ".join(parts)


def _own_rows(table: str) -> tuple[Policy, ...]:
    return (
        Policy(table, f"{table}_floor", "ALL", restrictive=True, using=_OWN, check=_OWN),
        Policy(table, f"{table}_select", "SELECT", using=_OWN),
        Policy(table, f"{table}_insert", "INSERT", check=_OWN),
    )


def _taking_back(name: str, account: str, sign: str) -> Policy:
    return Policy(
        "postings",
        f"postings_insert_{name}",
        "INSERT",
        check=f"((tenant_id = cogni_billing.owner_of(account_id)) AND (account_id = {account})"
        f" AND (amount {sign} (0)::numeric)"
        " AND (kind = ANY (ARRAY['refund'::text, 'chargeback'::text])))",
        roles=("service",),
    )


POLICIES: Final = frozenset(
    (
        *_own_rows("accounts"),
        *_own_rows("disputes"),
        *_own_rows("grants"),
        *_own_rows("holds"),
        *_own_rows("payment_attempt_events"),
        *_own_rows("payment_attempts"),
        *_own_rows("payments"),
        *_own_rows("transactions"),
        *_own_rows("wallets"),
        Policy("grants", "grants_update", "UPDATE", using=_OWN, check=_OWN),
        Policy("holds", "holds_update", "UPDATE", using=_OWN, check=_OWN),
        Policy("payment_attempts", "payment_attempts_update", "UPDATE", using=_OWN, check=_OWN),
        Policy("wallets", "wallets_update", "UPDATE", using=_OWN, check=_OWN),
        Policy("checkpoints", "checkpoints_floor", "ALL", restrictive=True, using=_OWN, check=_OWN),
        Policy("checkpoints", "checkpoints_select", "SELECT", using=_OWN),
        Policy(
            "context_keys",
            "context_keys_kept",
            "ALL",
            using="true",
            check="true",
            roles=("keeper", "migrator"),
        ),
        Policy("postings", "postings_read_floor", "SELECT", restrictive=True, using=_OWN),
        Policy("postings", "postings_write_floor", "INSERT", restrictive=True, check=_BY_US),
        Policy("postings", "postings_select", "SELECT", using=_OWN),
        Policy("postings", "postings_insert_own", "INSERT", check=_OWN),
        Policy(
            "postings",
            "postings_insert_share",
            "INSERT",
            check="((account_id = cogni_billing.account_of(tenant_id))"
            " AND (kind = 'purchase'::text) AND (amount > (0)::numeric))",
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
        Policy(
            "postings",
            "postings_insert_breakage",
            "INSERT",
            check=f"((tenant_id = {_SYSTEM_TENANT}) AND (account_id = {_BREAKAGE})"
            " AND (amount > (0)::numeric))",
        ),
        _taking_back("clawback", "cogni_billing.account_of(tenant_id)", "<"),
        _taking_back("shortfall", _SHORTFALL, "<"),
        _taking_back("unissued", _ISSUANCE, ">"),
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
        _append_only("disputes"),
        _append_only("payment_attempt_events"),
        _append_only("payments"),
        _append_only("postings"),
        _append_only("transactions"),
        _append_only("grants", "DELETE OR TRUNCATE"),
        _append_only("holds", "DELETE OR TRUNCATE"),
        _append_only("payment_attempts", "DELETE OR TRUNCATE"),
        _append_only("wallets", "DELETE OR TRUNCATE"),
        _checked("postings"),
        _checked("transactions"),
        Trigger(
            "payment_attempt_events",
            "keep_attempt",
            f"CREATE TRIGGER keep_attempt BEFORE INSERT ON {SCHEMA}.payment_attempt_events"
            f" FOR EACH ROW EXECUTE FUNCTION {SCHEMA}.keep_attempt()",
        ),
        Trigger(
            "grants",
            "keep_grant",
            f"CREATE TRIGGER keep_grant AFTER INSERT ON {SCHEMA}.grants FOR EACH ROW"
            f" EXECUTE FUNCTION {SCHEMA}.keep_grant()",
        ),
        Trigger(
            "holds",
            "keep_hold",
            f"CREATE TRIGGER keep_hold AFTER INSERT ON {SCHEMA}.holds FOR EACH ROW"
            " WHEN ((new.kind = 'work'::text))"
            f" EXECUTE FUNCTION {SCHEMA}.keep_hold()",
        ),
        Trigger(
            "postings",
            "keep_wallet",
            f"CREATE TRIGGER keep_wallet BEFORE INSERT ON {SCHEMA}.postings FOR EACH ROW"
            " WHEN (((new.tenant_id = new.origin_tenant_id)"
            " AND ((new.account_id = new.tenant_id)"
            " OR (new.account_id = '00000000-0000-4000-b000-000000000000'::uuid))))"
            f" EXECUTE FUNCTION {SCHEMA}.keep_wallet()",
        ),
    )
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
_UNPINNED: Final = frozenset({"account_of", "contra_of", "mac", "owner_of", "revision", "tenant"})
# The keeper's, who alone writes wallets.
_DEFINERS: Final = frozenset(
    {
        "act_for",
        "begin_check",
        "give_back",
        "keep_attempt",
        "keep_grant",
        "keep_hold",
        "keep_wallet",
        "lock_earned",
        "release_hold",
        "set_aside",
        "settle_wallet",
        "signed_tenant",
    }
)
_SIGNED_TENANT: Final = "\n    SELECT cogni_billing.signed_tenant()\n"
_DEFINITION = re.compile(
    rf"CREATE (?:OR REPLACE )?FUNCTION {SCHEMA}\.(\w+)\(.*?AS \$\$(.*?)\$\$;", re.DOTALL
)


@cache
def _sources() -> dict[str, str]:
    """The body of each function, as the newest migration that defines it wrote it."""
    folder = files("cogni_billing.adapters.postgres.migrations").joinpath("sql")
    scripts = sorted(folder.iterdir(), key=lambda script: script.name)
    return dict(
        match for script in scripts for match in _DEFINITION.findall(script.read_text("utf-8"))
    )


def tenant_source(*, signed: bool) -> str:
    """The body of `tenant()`, where contexts are signed and where they are not."""
    return _SIGNED_TENANT if signed else _sources()["tenant"]


def functions(*, signed: bool) -> frozenset[Function]:
    """The functions, where contexts are signed and where they are not."""
    sources = _sources() | {"tenant": tenant_source(signed=signed)}
    return frozenset(
        Function(
            name=name,
            owner="keeper" if name in _DEFINERS else "migrator",
            definer=name in _DEFINERS,
            path=None if name in _UNPINNED else _PINNED,
            source=source,
        )
        for name, source in sources.items()
    )
