"""The ledger in PostgreSQL: units of work for requests, and what operates the database."""

from cogni_billing.adapters.postgres.operations.checks.findings import Finding
from cogni_billing.adapters.postgres.operations.diagnosis import Check, Report, doctor, ensure_ready
from cogni_billing.adapters.postgres.operations.migrating import migrate, unmigrate
from cogni_billing.adapters.postgres.operations.provisioning import provision
from cogni_billing.adapters.postgres.operations.reports import TrialBalance, trial_balance
from cogni_billing.adapters.postgres.operations.resetting import reset
from cogni_billing.adapters.postgres.operations.roles import Roles
from cogni_billing.adapters.postgres.operations.signing import sign_contexts
from cogni_billing.adapters.postgres.unit_of_work import (
    AsyncPostgresUnitOfWork,
    PostgresUnitOfWork,
)

__all__ = [
    "AsyncPostgresUnitOfWork",
    "Check",
    "Finding",
    "PostgresUnitOfWork",
    "Report",
    "Roles",
    "TrialBalance",
    "doctor",
    "ensure_ready",
    "migrate",
    "provision",
    "reset",
    "sign_contexts",
    "trial_balance",
    "unmigrate",
]
