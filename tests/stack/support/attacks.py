"""Direct calls of the database's functions, valid arguments for each, and the expected refusals."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypeAlias
from uuid import UUID

import psycopg
import pytest
from attrs import frozen
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from cogni_billing import (
    SYSTEM_ACCOUNT_ID,
    SYSTEM_TENANT_ID,
    Billing,
    GrantSchedule,
    PaymentAttempts,
    RevenueSharePolicy,
    Rollover,
    ShareMode,
    ShareRule,
    Shortfall,
    TenantId,
    credits,
    usd,
)
from cogni_billing.adapters.postgres import PostgresUnitOfWork
from cogni_billing.adapters.postgres.calls import encoded, written
from cogni_billing.adapters.postgres.operations import blueprint
from cogni_billing.adapters.postgres.operations.roles import Roles
from cogni_billing.adapters.system import SystemClock, Uuid7Source
from cogni_billing.domain.identity import account_of
from cogni_billing.testing import FakeVerifier
from cogni_billing.testing.base import ALICE, BOB
from cogni_billing.testing.contracts.attempt_base import CARD
from stack.conftest import Database

PRIVILEGE: Final = "42501"
CHECK: Final = "23514"
SYSTEM: Final = SYSTEM_TENANT_ID
TENANTS: Final = (ALICE, BOB, SYSTEM)
ROLES: Final = Roles(spender="app_spender")
NAMES: Final = ROLES.to_dict()
EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

Asked: TypeAlias = Any
new_id: Final = Uuid7Source().new
now: Final = SystemClock().now
Refusal: TypeAlias = tuple[str | None, str | None]


@frozen
class Ids:
    """A tenant's records: a purchase, a hold, a grant, a dispute and two attempts."""

    now: datetime
    tenant: TenantId
    purchase: UUID
    beneficiary: UUID
    charge: UUID
    hold: UUID
    grant: UUID
    plan: UUID
    dispute: UUID
    created: UUID
    pending: UUID
    expired: UUID
    """A purchase whose credits have expired."""
    refunded: UUID
    """A purchase with a refund."""
    refund: UUID


def payment_of(tenant: UUID) -> str:
    return f"stripe:{tenant}"


def movement(ids: Ids, kind: str, amount: int, **fields: object) -> Asked:
    """Build a movement, the argument of `spend`, `mint` and `reverse`."""
    common = {"kind": kind, "id": new_id(), "at": ids.now, "reference": "new-1", "amount": amount}
    return {**common, "metadata": '{"a":[1]}', **fields}


def charge(ids: Ids, **altered: object) -> Asked:
    return movement(ids, "charge", -5) | altered


def capture(ids: Ids, **altered: object) -> Asked:
    return movement(ids, "capture", -5, subject=ids.hold) | altered


def purchase(ids: Ids, **altered: object) -> Asked:
    terms = {"beneficiaries": [SYSTEM_ACCOUNT_ID], "shares": [25], "policy": "{}"}
    made = movement(ids, "purchase", 100_000, paid="0.01", paid_unit="USD", **terms) | {
        "reference": "stripe:new-1"
    }
    return (
        made | ({} if ids.tenant != SYSTEM else {"beneficiaries": None, "shares": None}) | altered
    )


def expiring(ids: Ids, **altered: object) -> Asked:
    ends = {"expires_at": ids.now + timedelta(seconds=1), "expires_in": 1_000_000}
    return purchase(ids) | ends | altered


def grant(ids: Ids, **altered: object) -> Asked:
    soon = ids.now + timedelta(days=1)
    return movement(ids, "grant", 50, source="promo", priority=1, expires_at=soon) | altered


def void(ids: Ids, **altered: object) -> Asked:
    fields = {"id": new_id(), "at": ids.now, "reference": "new-1", "metadata": "{}"}
    return fields | {"grant_id": ids.grant, "reason": "a mistake", "actor": "user:1"} | altered


def extension(ids: Ids, **altered: object) -> Asked:
    later = ids.now + timedelta(days=30)
    fields = {"at": ids.now, "reference": "new-1", "grant_id": ids.grant}
    return fields | {"expires_at": later, "expires_in": None} | altered


def planned(ids: Ids, **altered: object) -> Asked:
    fields = {"id": new_id(), "made_at": ids.now, "reference": "new-1", "metadata": "{}"}
    terms = {"amount": 50, "source": "plan", "priority": 1, "every": "month", "zone": "UTC"}
    return fields | terms | {"cap": 5, "carries": 2, "replaces": ids.plan} | altered


def ending(ids: Ids, **altered: object) -> Asked:
    return {"id": ids.plan, "at": ids.now} | altered


def refund(ids: Ids, **altered: object) -> Asked:
    part = {"returned": "0.10", "returned_total": "0.10", "part": "0.10", "shortfall": "debt"}
    shared = {"beneficiaries": [ids.beneficiary], "shares": [-500_000], "absorbed": 0}
    return movement(ids, "refund", -1_000_000, reverses=ids.purchase, **part, **shared) | altered


def refund_of_expired(ids: Ids, **altered: object) -> Asked:
    return refund(ids, reverses=ids.expired, amount=0, lapsed=1_000_000) | altered


def reversal(ids: Ids, **altered: object) -> Asked:
    return movement(ids, "reversal", 0, reverses=ids.charge, part=1) | altered


def chargeback(ids: Ids, **altered: object) -> Asked:
    part = {"returned": "0.50", "returned_total": "0.50", "subject": ids.dispute}
    part |= {"amount": -5_000_000, "shares": [-2_500_000]}
    return refund(ids, kind="chargeback") | {"part": None} | part | altered


def adjustment(ids: Ids, **altered: object) -> Asked:
    return movement(ids, "adjustment", -5, reason="billed twice") | altered


def opening(ids: Ids, **altered: object) -> Asked:
    """An opening of a tenant without transactions. It conflicts with nothing of the others."""
    past = ids.now - timedelta(days=90)
    terms = {"source": "promo", "priority": 1, "at": past - timedelta(days=1)}
    lot = {"id": new_id(), "amount": 5, "expires_at": ids.now + timedelta(days=1)} | terms
    made = {"now": ids.now, "id": new_id(), "at": past, "amount": -7, "actor": "user:1"}
    return made | {"grants": [lot]} | altered


def hold(ids: Ids, **altered: object) -> Asked:
    soon = ids.now + timedelta(days=1)
    ends = {"expires_at": soon, "ends_at": soon}
    return {"id": new_id(), "at": ids.now, "reference": "new-1", "amount": 5, "metadata": "{}"} | (
        ends | altered
    )


def release(ids: Ids, **altered: object) -> Asked:
    return {"id": ids.hold, "at": ids.now} | altered


def extending(ids: Ids, **altered: object) -> Asked:
    soon = ids.now + timedelta(days=1)
    return part(ids, amount=5, expires_at=soon) | altered


def part(ids: Ids, **altered: object) -> Asked:
    named = {"id": new_id(), "hold": ids.hold}
    return {"at": ids.now, "reference": "new-1", "amount": 3} | named | altered


def intent(ids: Ids, **altered: object) -> Asked:
    names = {"payer": "me", "provider": "stripe", "token": "usd", "recipient": "acct_1"}
    sizes = {"amount": "2.00", "unit": "USD", "raw_amount": 200, "confirmations": 1}
    times = {"created_at": ids.now, "expires_at": ids.now + timedelta(hours=1)}
    return {"id": new_id(), "metadata": "{}"} | names | sizes | times | altered


def step(ids: Ids, **altered: object) -> Asked:
    states = {"from_state": "CREATED_INTENT", "state": "PENDING_UNVERIFIED"}
    return (
        {"id": ids.created, "at": ids.now, "evidence": "stripe:e-1", "found": "{}"}
        | states
        | altered
    )


def told(ids: Ids, **altered: object) -> Asked:
    """A payment event that is applied to the tenant's purchase."""
    payment = payment_of(ids.tenant)
    names = {"id": "stripe:evt_1", "payment": payment, "aliases": ["stripe:cs_1"]}
    states = {"kind": "payment_succeeded", "state": "applied", "claim": payment, "note": None}
    return {"now": ids.now, "facts": "{}", "tenant": ids.tenant} | names | states | altered


def dispute(ids: Ids, **altered: object) -> Asked:
    part = {"disputed": "0.10", "part": "0.10", "lost": None, "chargeback": None}
    named = {"id": new_id(), "reference": "new-1", "payment": payment_of(ids.tenant)}
    return (
        named
        | part
        | {"opens": True, "state": "open", "at": ids.now, "metadata": "{}", "movement": None}
        | altered
    )


def winning(ids: Ids, **altered: object) -> Asked:
    ended = {"opens": False, "state": "won", "disputed": "0.50", "part": "0.50"}
    return dispute(ids, id=ids.dispute, reference="dp_1", **ended) | altered


def losing(ids: Ids, **altered: object) -> Asked:
    lost = chargeback(ids)
    return winning(ids, state="lost", chargeback=lost["id"], movement=lost) | altered


def losing_by(ids: Ids, **altered: object) -> Asked:
    """Build a lost dispute with an altered chargeback."""
    lost = losing(ids)
    return lost | {"movement": lost["movement"] | altered}


def reinstatement(ids: Ids, **altered: object) -> Asked:
    part = {"returned": "0.10", "returned_total": 0, "subject": ids.refund}
    return movement(ids, "reinstatement", 0, reverses=ids.refunded, **part) | altered


VALID: dict[str, Callable[[Ids], Asked]] = {
    "account": lambda _: {},
    "attempt": lambda ids: {"id": ids.pending},
    "attempt_events": lambda ids: {"id": ids.pending},
    "balance": lambda ids: {"now": ids.now},
    "begin_check": lambda ids: {"id": ids.pending, "now": ids.now, "seconds": 0},
    "create_attempt": intent,
    "dispute": lambda _: {"reference": "dp_1"},
    "end_schedule": ending,
    "extend": extending,
    "find": lambda ids: {"id": ids.purchase},
    "extend_grant": extension,
    "find_hold": lambda ids: {"reference": "run-1", "now": ids.now},
    "grants": lambda ids: {"now": ids.now},
    "hold": hold,
    "holds": lambda ids: {"now": ids.now, "size": 10},
    "lines": lambda _: {"size": 10},
    "lots": lambda ids: {"now": ids.now},
    "lock": lambda ids: {"tenants": [ids.tenant], "at": ids.now},
    "mint": lambda ids: [purchase(ids), grant(ids), reversal(ids)],
    "mint_groups": lambda ids: [purchase(ids), charge(ids)],
    "open_account": lambda ids: {"at": ids.now},
    "payment": lambda ids: {"payment": payment_of(ids.tenant)},
    "record_attempt": step,
    "release": release,
    "release_part": part,
    "reverse": lambda ids: [refund(ids), reinstatement(ids, reference="new-2")],
    "schedule": planned,
    "settle_dispute": losing,
    "schedules": lambda ids: {"now": ids.now, "size": 10},
    "freeze": lambda ids: {"reason": "billed twice", "at": ids.now},
    "opening": opening,
    "limit_overdraft": lambda _: {"limit": 5},
    "keep_event": told,
    "adjust": lambda ids: [adjustment(ids), adjustment(ids, amount=5, reference="new-2")],
    "expire_due": lambda ids: {"at": ids.now},
    "spend": lambda ids: [charge(ids), capture(ids)],
    "void_grant": void,
    "spend_groups": lambda ids: [charge(ids), capture(ids)],
}
"""Valid arguments of each function that acts for a tenant. The call has an effect."""
CALLERS: Final = frozenset(
    (each.grantee, each.object.rpartition(".")[2]) for each in blueprint.function_privileges(ROLES)
)
"""Each role's purpose and the functions that it may call, except the owner."""


def arguments(
    function: str, tenant: object, asked: Asked, proof: str | None = None
) -> tuple[object, ...]:
    """Return the arguments of *function* for a tenant."""
    if function.endswith("_groups"):
        return (encoded([{"owner": tenant, "proof": proof, "movements": asked}]),)
    return tenant, proof, asked


def call(connection: Connection, function: str, *given: object) -> Any:
    """Call *function*. Objects are passed as JSON, lists as arrays of JSON, and text unchanged."""
    statement, values = statement_of(function, *given)
    return connection.exec_driver_sql(f"SELECT {statement}::text::json", values).scalar_one()


def statement_of(function: str, *given: object) -> tuple[str, tuple[object, ...]]:
    """Return the expression that calls *function*, and its parameters."""
    values = tuple(written(each) if isinstance(each, (dict, list)) else each for each in given)
    return f"cogni_billing.{function}({', '.join(['%s'] * len(values))})", values


def run_on(
    connection: Connection, command: str, function: str, tenant: object, asked: Asked
) -> list[Any]:
    """Return the rows of a command, such as EXPLAIN, on a call of *function*."""
    statement, values = statement_of(function, *arguments(function, tenant, asked))
    return list(connection.exec_driver_sql(f"{command} {statement}", values))


def ask(connection: Connection, function: str, tenant: object, asked: Asked) -> Any:
    """Call *function* for a tenant, without a proof."""
    return call(connection, function, *arguments(function, tenant, asked))


def refusal_of(attempt: Callable[..., object], *arguments: object) -> psycopg.Error:
    """Return the database's error for an attempt."""
    with pytest.raises((DBAPIError, psycopg.Error)) as caught:
        attempt(*arguments)
    return driver_error(caught.value)


def driver_error(error: Exception) -> psycopg.Error:
    """Return the driver's error that SQLAlchemy wraps."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    assert isinstance(cause, psycopg.Error)
    return cause


def refusal(connection: Connection, statement: str, **parameters: Any) -> psycopg.Error:
    """Return the database's error for *statement*."""
    return refusal_of(lambda: connection.execute(text(statement), parameters))


def rule_of(error: Exception) -> Refusal:
    """Return the code of the refusal and the name of its rule."""
    cause = driver_error(error)
    return cause.sqlstate, cause.diag.constraint_name


_DUMP: Final = " UNION ALL ".join(
    f"SELECT '{table}', to_json(it)::text FROM cogni_billing.{table} AS it"
    for table in blueprint.TABLES
)
Rows: TypeAlias = frozenset[tuple[str, str]]


def dump(connection: Connection) -> Rows:
    """Read every row of every table as the administrator."""
    connection.execute(text("RESET SESSION AUTHORIZATION"))
    return frozenset((table, row) for table, row in connection.execute(text(_DUMP)))


@contextmanager
def undone(database: Database, role: str) -> Iterator[Connection]:
    """Open a connection as *role*. Its transaction is rolled back at the end."""
    with database.admin.connect() as connection:
        become(connection, role)
        yield connection
        connection.rollback()


def become(connection: Connection, role: str) -> None:
    """Make *role* the session's own role."""
    connection.execute(text(f"SET LOCAL SESSION AUTHORIZATION {role}"))


def prepared(database: Database) -> dict[TenantId, Ids]:
    """Create every kind of record for each tenant.

    Bob earns a share of the others' purchases, and Alice earns a share of Bob's.
    """
    unit_of_work = PostgresUnitOfWork(database.user, service=database.service)
    attempts = PaymentAttempts(unit_of_work, verifier=FakeVerifier(), destinations=CARD)
    for tenant in TENANTS:
        shares = (ShareRule(account_of(earner_of(tenant)), "0.5"),)
        rules = RevenueSharePolicy("v1", EPOCH, ShareMode.BONUS, shares, Shortfall.DEBT)
        billing = Billing(unit_of_work, policy=rules)
        billing.confirm_purchase(tenant, usd("1.00"), payment=payment_of(tenant))
        billing.confirm_purchase(
            tenant,
            usd("0.10"),
            payment=f"{payment_of(tenant)}-expired",
            expires_in=timedelta(microseconds=1),
        )
        refunded = f"{payment_of(tenant)}-refunded"
        billing.confirm_purchase(tenant, usd("0.10"), payment=refunded)
        billing.refund(tenant, payment=refunded, reference="re_1")
        hold = billing.hold(tenant, credits(6), reference="run-1")
        billing.extend(tenant, hold.id, credits(1), reference="run-1")
        billing.charge(tenant, credits(3), reference="run-1")
        granted = billing.grant(
            tenant, credits(5), source="promo:a", reference="a", expires_in=timedelta(days=20)
        )
        billing.extend_grant(
            tenant, granted.transaction_id, reference="a", expires_in=timedelta(days=25)
        )
        mistake = billing.grant(tenant, credits(4), source="promo:a", reference="b")
        billing.void_grant(tenant, mistake.transaction_id, reference="b", reason="a mistake")
        plan = GrantSchedule("plan:a", credits(4), every="month", rollover=Rollover(credits(1)))
        billing.schedule_grants(tenant, plan, reference="a")
        billing.open_dispute(
            tenant, payment=payment_of(tenant), amount=usd("0.50"), reference="dp_1"
        )
        attempts.create_intent(tenant, usd("2.00"))
        pending = attempts.create_intent(tenant, usd("2.00"))
        attempts.submit(tenant, pending.attempt_id, f"stripe:pending-{tenant}")
    Billing(unit_of_work).fold()
    with database.admin.connect() as connection:
        return {tenant: _ids_of(connection, tenant) for tenant in TENANTS}


def earner_of(tenant: TenantId) -> TenantId:
    return ALICE if tenant == BOB else BOB


def _ids_of(connection: Connection, tenant: TenantId) -> Ids:
    def one(column: str, source: str) -> Any:
        statement = f"SELECT {column} FROM cogni_billing.{source} AND tenant_id = '{tenant}'"
        return connection.execute(text(statement)).scalar_one()

    return Ids(
        now=connection.execute(text("SELECT now()")).scalar_one(),
        tenant=tenant,
        purchase=one("id", f"transactions WHERE reference = '{payment_of(tenant)}'"),
        expired=one("id", f"transactions WHERE reference = '{payment_of(tenant)}-expired'"),
        refunded=one("id", f"transactions WHERE reference = '{payment_of(tenant)}-refunded'"),
        refund=one("id", "transactions WHERE kind = 'refund'"),
        beneficiary=earner_of(tenant),
        charge=one("id", "transactions WHERE kind = 'charge'"),
        hold=one("id", "holds WHERE kind = 'work'"),
        grant=one("id", "grants WHERE taken < amount AND source = 'promo:a'"),
        plan=one("id", "schedules WHERE true"),
        dispute=one("id", "disputes WHERE true"),
        created=one("id", "payment_attempts WHERE state = 'CREATED_INTENT'"),
        pending=one("id", "payment_attempts WHERE state = 'PENDING_UNVERIFIED'"),
    )
