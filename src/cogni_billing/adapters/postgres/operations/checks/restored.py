"""Examine the rows of a restored ledger, across tenants, as the service role."""

from __future__ import annotations

from typing import Final

from sqlalchemy import Connection

from cogni_billing.adapters.postgres.audit import require_full_sight, verification
from cogni_billing.adapters.postgres.operations.checks.defects import Defect, Defects, Subject

_LIMIT: Final = 100


def rows(connection: Connection, subject: Subject) -> Defects:
    require_full_sight(connection)
    found = verification(connection, _LIMIT)
    if not found.transactions:
        # A dump without any rows breaks no invariant.
        yield Defect(
            "the ledger has no transactions",
            f"restore a backup of every row, such as a dump by {subject.roles.service}",
        )
    for violation in found.violations:
        yield Defect(str(violation), "restore a backup without violations")
