"""What is examined, and what comes of it."""

from __future__ import annotations

from collections.abc import Iterator

from attrs import frozen

from cogni_billing.adapters.postgres.contexts import Context
from cogni_billing.adapters.postgres.operations.provisioning import Provision
from cogni_billing.adapters.postgres.operations.roles import Roles


@frozen
class Finding:
    """One thing that is not as it should be, and how to mend it."""

    problem: str
    remedy: str


Findings = Iterator[Finding]


@frozen
class Subject:
    """What is examined: as it was installed, and how to act for a tenant there."""

    record: Provision
    context: Context

    @property
    def roles(self) -> Roles:
        return self.record.roles
