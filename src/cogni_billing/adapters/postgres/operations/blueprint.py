"""Policies, triggers and privileges of a valid installation.

The migration creates the objects listed here, and `doctor` compares the database with them.
Expressions are spelled as PostgreSQL prints them.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Final

from attrs import evolve, frozen

from cogni_billing.adapters.postgres.operations.roles import Roles, quoted
from cogni_billing.adapters.postgres.schema import (
    DEFINER_SETTINGS,
    SCHEMA,
    function_sources,
    functions_sql,
)

OWN_TABLES: Final = (
    "claims",
    "dispute_changes",
    "disputes",
    "evidence",
    "grant_extensions",
    "grants",
    "hold_changes",
    "holds",
    "payment_attempt_events",
    "payment_attempts",
    "policies",
    "schedules",
    "transactions",
    "wallets",
)
"""Tables whose rows start with the key of their tenant."""
LEDGER: Final = (*OWN_TABLES, "arrivals", "checkpoints", "payment_events")
TABLES: Final = tuple(sorted((*LEDGER, "context_keys")))

CHANGEABLE: Final = frozenset(
    {"grants", "holds", "payment_attempts", "payment_events", "schedules", "wallets"}
)
"""Tables whose rows may be updated."""
ERASABLE: Final = frozenset({"disputes", "transactions"})
"""Tables in which only texts may be updated, to their digests."""


@frozen
class Policy:
    """A row-level security policy for the role of a purpose."""

    table: str
    name: str
    command: str
    using: str | None
    check: str | None
    role: str

    def for_roles(self, roles: Roles) -> Policy:
        """Return the policy with the name of the role."""
        return evolve(self, role=roles.to_dict().get(self.role, self.role))

    def create(self) -> str:
        """Return the statement that creates the policy."""
        parts = [f"CREATE POLICY {self.name} ON {SCHEMA}.{self.table} FOR {self.command}"]
        parts += [f"TO {quoted(self.role)}"]
        parts += [f"USING {_in_parentheses(self.using)}"] if self.using else []
        parts += [f"WITH CHECK {_in_parentheses(self.check)}"] if self.check else []
        return " ".join(parts)


def _in_parentheses(expression: str) -> str:
    return expression if expression.startswith("(") else f"({expression})"


def _tenants(column: str) -> str:
    """Match rows of the tenant that the keeper acts for. A call finds few rows, by their key."""
    return f"({column} = cogni_billing.tenant())"


def _accounts(column: str) -> str:
    """Match rows of the tenant's account, which may have many. The account is computed once."""
    account = "SELECT cogni_billing.account_of(cogni_billing.tenant()) AS account_of"
    return f"({column} = ( {account}))"


def _floor(table: str, own: str) -> Policy:
    """Let the keeper read and write rows of the tenant that it acts for."""
    return Policy(table, f"{table}_floor", "ALL", own, own, "keeper")


POLICIES: Final = frozenset(
    (
        *(_floor(table, _tenants("tenant_id")) for table in OWN_TABLES),
        _floor("checkpoints", _accounts("account_id")),
        Policy("arrivals", "arrivals_read", "SELECT", _accounts("account_id"), None, "keeper"),
        Policy("arrivals", "arrivals_add", "INSERT", None, _tenants("origin_id"), "keeper"),
        # An event may belong to no tenant yet. Only functions of the service role read the table.
        Policy("payment_events", "payment_events_kept", "ALL", "true", "true", "keeper"),
        Policy("context_keys", "context_keys_read", "SELECT", "true", None, "keeper"),
        Policy("context_keys", "context_keys_kept", "ALL", "true", "true", "migrator"),
        *(Policy(table, f"{table}_all", "SELECT", "true", None, "service") for table in LEDGER),
    )
)


@frozen(order=True)
class Trigger:
    """A trigger. `definition` is the statement that creates it."""

    table: str
    name: str
    definition: str


def _append_only(table: str) -> Trigger:
    changes = ["DELETE", "UPDATE", "TRUNCATE"]
    if table in CHANGEABLE | ERASABLE:
        changes.remove("UPDATE")
    if table == "evidence":  # rejected evidence is deleted
        changes.remove("DELETE")
    return Trigger(
        table,
        "append_only",
        f"CREATE TRIGGER append_only BEFORE {' OR '.join(changes)} ON {SCHEMA}.{table}"
        f" FOR EACH STATEMENT EXECUTE FUNCTION {SCHEMA}.refuse_change()",
    )


def _erase_only(table: str) -> Trigger:
    return Trigger(
        table,
        "erase_only",
        f"CREATE TRIGGER erase_only BEFORE UPDATE ON {SCHEMA}.{table}"
        f" FOR EACH ROW EXECUTE FUNCTION {SCHEMA}.check_erasure()",
    )


TRIGGERS: Final = frozenset(
    (
        *map(_append_only, LEDGER),
        *map(_erase_only, ERASABLE),
        Trigger(
            "arrivals",
            "check_arrivals",
            f"CREATE TRIGGER check_arrivals AFTER INSERT ON {SCHEMA}.arrivals"
            " REFERENCING NEW TABLE AS added"
            f" FOR EACH STATEMENT EXECUTE FUNCTION {SCHEMA}.check_arrivals()",
        ),
    )
)


@frozen(order=True)
class Privilege:
    """A privilege of the role of a purpose. `object` is spelled as in GRANT."""

    grantee: str
    privilege: str
    object: str

    def on(self) -> str:
        """Return the privilege and its object as GRANT and REVOKE spell them."""
        return f"{self.privilege} ON {self.object}"

    def grant(self, roles: Roles) -> str:
        """Return the statement that grants the privilege."""
        return f"GRANT {self.on()} TO {quoted(roles.to_dict()[self.grantee])}"


SEQUENCE: Final = "arrivals_position_seq"


def table_privileges(roles: Roles) -> list[Privilege]:
    """Return every privilege on the schema, its tables and its sequence, except the owner's.

    Roles that serve requests have no privilege on a table or the sequence.
    """
    return [each for each in _table_privileges() if each.grantee in roles.to_dict()]


def _table_privileges() -> Iterator[Privilege]:
    for purpose in ("user", "spender", "service", "keeper"):
        yield Privilege(purpose, "USAGE", f"SCHEMA {SCHEMA}")
    for purpose, privilege, objects in (
        ("keeper", "SELECT", (*LEDGER, "context_keys", SEQUENCE)),
        ("keeper", "INSERT", LEDGER),
        ("keeper", "UPDATE", sorted(CHANGEABLE)),
        ("keeper", "UPDATE (metadata)", sorted(ERASABLE)),
        ("keeper", "UPDATE (reason)", ("transactions",)),
        ("keeper", "DELETE", ("evidence",)),
        ("service", "SELECT", (*LEDGER, SEQUENCE)),
    ):
        for name in objects:
            yield Privilege(purpose, privilege, f"{SCHEMA}.{name}")


_DOORS: Final = (
    (
        "user spender service",
        "account balance find find_hold grants holds lines lots schedules attempt attempt_events",
    ),
    ("user spender service", "reused_position revision tenant"),
    ("user spender", "open_account spend spend_groups hold extend release release_part expire_due"),
    ("user service", "mint record_attempt"),
    ("user", "mint_groups void_grant extend_grant schedule end_schedule"),
    ("user", "create_attempt begin_check"),
    (
        "service",
        "reverse adjust payment dispute lock settle_dispute forget fold",
    ),
    ("service", "freeze limit_overdraft opening keep_event"),
    ("service", "safe_position account_of owner_of contra_of erased is_part"),
    (
        "migrator",
        "seed_system_tenant check_arrivals check_erasure refuse_change reused_position revision",
    ),
)


def function_privileges(roles: Roles) -> list[Privilege]:
    """Return the privileges on every function that a role may call, except the owner's."""
    return [
        Privilege(purpose, "EXECUTE", f"FUNCTION {SCHEMA}.{name}")
        for purposes, names in _DOORS
        for purpose in purposes.split()
        for name in names.split()
        if purpose in roles.to_dict()
    ]


@frozen
class Function:
    """A function: its settings, its source, and true for `definer` if it runs as its owner."""

    name: str
    definer: bool
    settings: str | None
    source: str


_PATH: Final = f"search_path={DEFINER_SETTINGS['search_path']}"
_DEFINER_SETTINGS: Final = "; ".join(f"{name}={value}" for name, value in DEFINER_SETTINGS.items())
# The other functions run under the path of their doors, or are inlined in policies.
_DEFINERS: Final = frozenset(
    {name for _, names in _DOORS for name in names.split()}
    - {"account_of", "contra_of", "owner_of", "erased", "is_part", "revision", "tenant"}
    - {"check_arrivals", "check_erasure", "refuse_change"}
)


def _settings(name: str) -> str | None:
    if name in _DEFINERS:
        return _DEFINER_SETTINGS
    return _PATH if name in {"check_arrivals", "check_erasure", "refuse_change"} else None


@cache
def functions() -> frozenset[Function]:
    """Return the functions. The keeper owns all of them."""
    return frozenset(
        Function(
            name=name,
            definer=name in _DEFINERS,
            settings=_settings(name),
            source=source,
        )
        for name, source in function_sources().items()
    )


def installed_functions(roles: Roles) -> Iterator[str]:
    """Return the migrator's statements that create or replace the functions.

    The keeper creates them itself, and can create no other object afterwards.
    """
    migrator, keeper = roles.quoted("migrator", "keeper")
    yield f"GRANT CREATE ON SCHEMA {SCHEMA} TO {keeper}"
    yield f"SET LOCAL ROLE {keeper}"
    yield functions_sql().replace("CREATE FUNCTION", "CREATE OR REPLACE FUNCTION")
    yield f"REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA {SCHEMA} FROM PUBLIC"
    for privilege in function_privileges(roles):
        yield privilege.grant(roles)
    yield f"SET LOCAL ROLE {migrator}"
    yield f"REVOKE CREATE ON SCHEMA {SCHEMA} FROM {keeper}"


def guards(roles: Roles) -> Iterator[str]:
    """Return the statements that enable row security and create policies and triggers."""
    for table in TABLES:
        yield f"ALTER TABLE {SCHEMA}.{table} ENABLE ROW LEVEL SECURITY"
        yield f"ALTER TABLE {SCHEMA}.{table} FORCE ROW LEVEL SECURITY"
    for policy in sorted(POLICIES, key=repr):
        yield policy.for_roles(roles).create()
    for trigger in sorted(TRIGGERS):
        yield trigger.definition
