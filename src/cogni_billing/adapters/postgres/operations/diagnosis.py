"""Examine the running database. `doctor` reports its problems, `ensure_ready` raises them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any, Final

from attrs import asdict, field, frozen
from sqlalchemy import Connection, Engine
from sqlalchemy.ext.asyncio import AsyncEngine

from cogni_billing.adapters.postgres.connections import checked_engine
from cogni_billing.adapters.postgres.contexts import Context
from cogni_billing.adapters.postgres.failures import connecting
from cogni_billing.adapters.postgres.operations.administration import neutral_transaction
from cogni_billing.adapters.postgres.operations.checks import (
    access,
    restored,
    running,
    structure,
)
from cogni_billing.adapters.postgres.operations.checks.defects import Defect, Defects, Subject
from cogni_billing.adapters.postgres.operations.provisioning import (
    Provision,
    require_server,
)
from cogni_billing.domain.errors import (
    BillingError,
    InstallationNotReady,
    LedgerCorruption,
    LedgerUnavailable,
    PrivilegeRequired,
    SystemTenantMissing,
)

_Question = Callable[[Connection, Subject], Defects]


@frozen
class Check:
    """A check and its defects. It passed if there are no defects."""

    name: str
    defects: tuple[Defect, ...]
    error: Callable[[str, str], BillingError] = field(repr=False)

    @property
    def ok(self) -> bool:
        return not self.defects


@frozen
class Report:
    """All checks, in the order in which they were made."""

    checks: tuple[Check, ...]

    @property
    def ok(self) -> bool:
        return all(check.ok for check in self.checks)

    @property
    def defects(self) -> tuple[Defect, ...]:
        """The defects of all checks."""
        return tuple(defect for check in self.checks for defect in check.defects)

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON."""
        return {
            "ok": self.ok,
            "checks": [
                {
                    "name": check.name,
                    "ok": check.ok,
                    "defects": [asdict(defect) for defect in check.defects],
                }
                for check in self.checks
            ],
        }


def doctor(
    engine: Engine, *, signing_key: bytes | None = None, after_restore: bool = False
) -> Report:
    """Examine the database and the role that *engine* connects as, which should be `app_user`.

    Reads only, and needs no more privileges than that role has. A database that is not migrated to
    this version gets one defect that says so, and no further checks.

    Args:
        engine: Connects as a role that serves requests. With *after_restore*, as the service role.
        signing_key: The key of signed contexts, if the database requires them.
        after_restore: Also read every row: the ledger must have transactions, and every invariant
            must hold.

    Raises:
        InvalidInput: *signing_key* is no key, or *engine* is no engine on psycopg 3.
        LedgerUnavailable: the database cannot be reached, or was never provisioned.
    """
    context = Context.of(signing_key)
    checked: Engine = checked_engine("engine", engine, Engine)
    with connecting():
        connection = checked.connect()
    with connection:
        return _examined(connection, context, after_restore=after_restore)


async def doctor_async(
    engine: AsyncEngine, *, signing_key: bytes | None = None, after_restore: bool = False
) -> Report:
    """Await `doctor`."""
    context = Context.of(signing_key)
    checked: AsyncEngine = checked_engine("engine", engine, AsyncEngine)
    async with AsyncExitStack() as stack:
        with connecting():
            connection = await stack.enter_async_context(checked.connect())
        return await connection.run_sync(_examined, context, after_restore=after_restore)


def _examined(connection: Connection, context: Context, *, after_restore: bool) -> Report:
    with neutral_transaction(connection):
        require_server(connection)
        subject = Subject(Provision.read(connection), context, after_restore)
    answers: list[Check] = []
    for name, question, error in (*_QUESTIONS, *(_AFTER_RESTORE if after_restore else ())):
        answers.append(Check(name, _answered(question, connection, subject), error))
        if question is running.revision and not answers[-1].ok:
            break
    return Report(tuple(answers))


def ensure_ready(engine: Engine, *, signing_key: bytes | None = None) -> None:
    """Raise an error unless every check of `doctor` passes. For a start-up or readiness probe.

    Raises:
        SystemTenantMissing: the system tenant or one of its accounts is missing.
        LedgerUnavailable: the schema is not at this version's head, or cannot be reached.
        InstallationNotReady: a safeguard is missing or changed, the role is not one that serves
            requests, or a pooler is in the way. `check` is the failed check.
    """
    _require_ok(doctor(engine, signing_key=signing_key))


async def ensure_ready_async(engine: AsyncEngine, *, signing_key: bytes | None = None) -> None:
    """Await `ensure_ready`."""
    _require_ok(await doctor_async(engine, signing_key=signing_key))


def _require_ok(report: Report) -> None:
    for check in report.checks:
        if not check.ok:
            problem = "; ".join(f"{found.problem} (fix: {found.remedy})" for found in check.defects)
            raise check.error(check.name, problem)


def _answered(question: _Question, connection: Connection, subject: Subject) -> tuple[Defect, ...]:
    try:
        with neutral_transaction(connection):
            return tuple(question(connection, subject))
    except (PrivilegeRequired, LedgerCorruption, LedgerUnavailable) as error:
        if isinstance(error, LedgerUnavailable) and error.sqlstate not in _GONE:
            raise
        return (Defect(f"the check failed: {error}", "fix the other defects first"),)


# A missing table, function or privilege. Another check reports it.
_GONE: Final = frozenset({"42P01", "42883", "42501"})


def _unavailable(check: str, problem: str) -> LedgerUnavailable:
    return LedgerUnavailable(f"{check}: {problem}")


def _incomplete(check: str, problem: str) -> SystemTenantMissing:
    return SystemTenantMissing(f"{check}: {problem}")


def _corrupt(check: str, problem: str) -> LedgerCorruption:
    return LedgerCorruption(f"{check}: {problem}")


_not_ready = InstallationNotReady
_Error = Callable[[str, str], BillingError]
_QUESTIONS: Final[tuple[tuple[str, _Question, _Error], ...]] = (
    ("the schema is at head", running.revision, _unavailable),
    ("the connected role serves requests", access.connected_role, _not_ready),
    ("no role has a dangerous attribute", access.attributes, _not_ready),
    ("only the migrator is a member of another role", access.memberships, _not_ready),
    ("each object has the expected owner", structure.owners, _not_ready),
    ("row security is enabled and forced on every table", structure.row_security, _not_ready),
    ("the functions are unchanged", structure.functions, _not_ready),
    ("the policies are unchanged", structure.policies, _not_ready),
    ("the triggers are unchanged", structure.triggers, _not_ready),
    ("the tables are unchanged", structure.tables, _not_ready),
    ("the indexes are unchanged and valid", structure.indexes, _not_ready),
    ("no object bypasses row security", structure.ways_around, _not_ready),
    ("each role has exactly its privileges", access.privileges, _not_ready),
    ("no default privilege applies to new objects", access.default_privileges, _not_ready),
    ("no setting and no tenant is preset", running.contexts, _not_ready),
    ("the system tenant and its accounts exist", running.system_tenant, _incomplete),
    ("the sequence of positions is ahead of the rows", running.positions, _not_ready),
    ("prepared statements are not shared in a pooler", running.pooling, _not_ready),
)
_AFTER_RESTORE: Final[tuple[tuple[str, _Question, _Error], ...]] = (
    ("the ledger has transactions and every invariant holds", restored.rows, _corrupt),
)
