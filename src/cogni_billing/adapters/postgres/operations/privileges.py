"""Who may do what in a sound installation: every grant, by the purpose of its role, on one page.

Written apart from the migrations on purpose, as the blueprint is.
"""

from __future__ import annotations

from typing import Final

from attrs import frozen

from cogni_billing.adapters.postgres.operations.blueprint import LEDGER
from cogni_billing.adapters.postgres.operations.roles import Roles
from cogni_billing.adapters.postgres.schema import SCHEMA


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


def _spending(role: str) -> frozenset[Grant]:
    """What reads and spends."""
    return frozenset().union(
        (Grant(role, "SELECT", table) for table in LEDGER),
        _columns(role, "INSERT", "accounts", "tenant_id id opened_at"),
        _columns(
            role,
            "INSERT",
            "transactions",
            "tenant_id id kind reference unit amount beneficiaries shares subject_id request policy"
            " metadata occurred_at",
        ),
        _columns(
            role,
            "INSERT",
            "postings",
            "tenant_id account_id origin_tenant_id transaction_id sequence kind unit amount"
            " overdraft subject_id occurred_at",
        ),
        _columns(
            role,
            "INSERT",
            "holds",
            "tenant_id id account_id reference unit amount opened_at expires_at ends_at request"
            " metadata",
        ),
    )


_GRANTS: Final = frozenset().union(
    _spending("spender"),
    _spending("user"),
    # And what mints: a purchase needs its claim, and a grant its terms.
    _columns("user", "INSERT", "payments", "payment tenant_id"),
    _columns(
        "user",
        "INSERT",
        "grants",
        "tenant_id id account_id unit amount source priority granted_at expires_at",
    ),
    _columns(
        "user",
        "INSERT",
        "payment_attempts",
        "tenant_id id amount unit payer provider token recipient raw_amount confirmations metadata"
        " created_at expires_at",
    ),
    _columns(
        "user",
        "INSERT",
        "payment_attempt_events",
        "tenant_id attempt_id from_state state at evidence failure transaction_id found",
    ),
    (Grant("service", "SELECT", table) for table in LEDGER),
    _columns(
        "service",
        "INSERT",
        "transactions",
        "tenant_id id kind reference unit amount beneficiaries shares subject_id absorbed reverses"
        " returned returned_total returned_unit request policy metadata occurred_at",
    ),
    _columns(
        "service",
        "INSERT",
        "postings",
        "tenant_id account_id origin_tenant_id transaction_id sequence kind unit amount"
        " overdraft subject_id occurred_at",
    ),
    _columns(
        "service",
        "INSERT",
        "disputes",
        "tenant_id id reference purchase_id payment disputed disputed_unit unit amount"
        " beneficiaries shares request metadata opened_at",
    ),
    _columns(
        "service",
        "INSERT",
        "checkpoints",
        "tenant_id account_id unit position after_position arrived balance added earliest_at"
        " latest_at",
    ),
    {Grant("keeper", "SELECT", "wallets"), Grant("keeper", "INSERT", "wallets")},
    {Grant("keeper", "SELECT", "context_keys")},
    _columns("keeper", "INSERT", "accounts", "tenant_id id opened_at"),
    _columns("keeper", "UPDATE", "wallets", "posted held granted as_of due_at"),
    _columns(
        "keeper",
        "SELECT",
        "holds",
        "tenant_id id account_id kind unit amount state opened_at ends_at pinned_grants"
        " pinned_amounts",
    ),
    _columns(
        "keeper",
        "INSERT",
        "holds",
        "tenant_id id account_id kind dispute_id reference unit amount opened_at ends_at"
        " request metadata",
    ),
    _columns("keeper", "UPDATE", "holds", "state captured ends_at pinned_grants pinned_amounts"),
    _columns(
        "keeper",
        "SELECT",
        "grants",
        "tenant_id id account_id unit amount taken priority granted_at expires_at",
    ),
    _columns("keeper", "UPDATE", "grants", "taken"),
    _columns(
        "keeper",
        "SELECT",
        "transactions",
        "tenant_id id kind reference unit amount request occurred_at",
    ),
    _columns(
        "keeper",
        "SELECT",
        "payment_attempts",
        "tenant_id id amount unit created_at state changed_at evidence submitted_at checked_at",
    ),
    _columns(
        "keeper",
        "UPDATE",
        "payment_attempts",
        "state changed_at evidence submitted_at checked_at failure transaction_id",
    ),
    _columns(
        "keeper",
        "SELECT",
        "postings",
        "tenant_id account_id origin_tenant_id transaction_id sequence unit position amount"
        " posted_after",
    ),
    {Grant("service", "SELECT", "postings_position_seq")},
    {Grant("keeper", "USAGE", "postings_position_seq")},
    _columns("keeper", "SELECT", "checkpoints", "tenant_id account_id unit position arrived"),
)


def grants(roles: Roles) -> frozenset[Grant]:
    """Every privilege that a role has, the owners' own aside."""
    return frozenset(grant for grant in _GRANTS if grant.grantee in roles.to_dict())


_CALLERS: Final = frozenset(
    (role, name)
    for roles, names in (
        (
            "user spender service keeper",
            "account_of arrived arrived_by balance_up_to contra_of lapsing owner_of tenant",
        ),
        ("user spender service keeper", "revision"),
        ("user spender service migrator", "signed_tenant"),
        ("user spender", "release_hold settle_wallet"),
        ("user", "begin_check"),
        ("service", "give_back lock_earned set_aside settle_wallet settled_position"),
        ("keeper", "draw_grants end_hold lapse_grant lock_wallet next_due"),
        ("keeper", "act_again acting mac refuse_overdraft refuse_unsettled"),
        ("migrator", "act_for"),
    )
    for role in roles.split()
    for name in names.split()
)


def callers(roles: Roles) -> frozenset[tuple[str, str]]:
    """Who may call which function, the owners aside."""
    return frozenset((role, name) for role, name in _CALLERS if role in roles.to_dict())
