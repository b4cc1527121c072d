"""Subject of an examination, and its defects."""

from __future__ import annotations

from collections.abc import Iterator

from attrs import frozen

from cogni_billing.adapters.postgres.contexts import Context
from cogni_billing.adapters.postgres.operations.provisioning import Provision
from cogni_billing.adapters.postgres.operations.roles import Roles


@frozen
class Defect:
    """A problem of the database, and its fix: a statement, or a command to run."""

    problem: str
    remedy: str


Defects = Iterator[Defect]


@frozen
class Subject:
    """The record of `provision`, the context of calls, and true if rows were restored."""

    record: Provision
    context: Context
    after_restore: bool

    @property
    def roles(self) -> Roles:
        return self.record.roles
