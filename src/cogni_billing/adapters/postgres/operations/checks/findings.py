"""The subject of an examination, and its findings."""

from __future__ import annotations

from collections.abc import Iterator

from attrs import frozen

from cogni_billing.adapters.postgres.contexts import Context
from cogni_billing.adapters.postgres.operations.provisioning import Provision
from cogni_billing.adapters.postgres.operations.roles import Roles


@frozen
class Finding:
    """One problem of the database, and how to fix it: a statement, or a command to run."""

    problem: str
    remedy: str


Findings = Iterator[Finding]


@frozen
class Subject:
    """The record of `provision`, how to act for a tenant there, and the occasion."""

    record: Provision
    context: Context
    after_restore: bool

    @property
    def roles(self) -> Roles:
        return self.record.roles
