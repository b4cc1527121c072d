"""Ledger in PostgreSQL: units of work for requests, and operations on the database."""

from cogni_billing.adapters.postgres.connections import reset_connections
from cogni_billing.adapters.postgres.grouping import GroupCommit
from cogni_billing.adapters.postgres.operations.checks.defects import Defect
from cogni_billing.adapters.postgres.operations.diagnosis import (
    Check,
    Report,
    doctor,
    doctor_async,
    ensure_ready,
    ensure_ready_async,
)
from cogni_billing.adapters.postgres.operations.migrating import (
    include_object,
    migrate,
    repair,
    unmigrate,
)
from cogni_billing.adapters.postgres.operations.provisioning import provision, provision_sql
from cogni_billing.adapters.postgres.operations.reports import TrialBalance, trial_balance
from cogni_billing.adapters.postgres.operations.resetting import reset, restore
from cogni_billing.adapters.postgres.operations.roles import Roles
from cogni_billing.adapters.postgres.operations.signing import sign_contexts
from cogni_billing.adapters.postgres.unit_of_work import (
    AsyncPostgresUnitOfWork,
    PostgresUnitOfWork,
)

__all__ = [
    "AsyncPostgresUnitOfWork",
    "Check",
    "Defect",
    "GroupCommit",
    "PostgresUnitOfWork",
    "Report",
    "Roles",
    "TrialBalance",
    "doctor",
    "doctor_async",
    "ensure_ready",
    "ensure_ready_async",
    "include_object",
    "migrate",
    "provision",
    "provision_sql",
    "repair",
    "reset",
    "reset_connections",
    "restore",
    "sign_contexts",
    "trial_balance",
    "unmigrate",
]
