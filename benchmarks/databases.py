"""Contenders in their own databases on one server, with safety devices on or off."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Final

from attrs import evolve, frozen
from sqlalchemy import Connection, create_engine, text

from benchmarks import library, limit
from benchmarks.harness import Contender, Database, Work
from benchmarks.serving import ROLES, endow
from cogni_billing import TransactionKind
from cogni_billing.adapters.postgres import sign_contexts
from cogni_billing.adapters.postgres.operations.blueprint import LEDGER
from cogni_billing.adapters.postgres.operations.sandbox import temporary_database


@frozen
class Elsewhere(Contender):
    """Works in its own database."""

    name: str
    contender: Contender
    database: Database
    against: str = ""

    @property
    def at_once(self) -> int:  # type: ignore[override]
        return self.contender.at_once

    def work(self, _database: Database, clients: int, seconds: float) -> Work:
        return self.contender.work(self.database, clients, seconds)


@contextmanager
def another(database: Database) -> Iterator[Database]:
    """Another database with the ledger, whose customers have credits to spend."""
    administrator = database.url("postgres")
    with temporary_database(administrator.render_as_string(hide_password=False)) as made:
        urls = {role: made.role(role) for role in ROLES}
        other = evolve(database, urls=urls | {"postgres": made.administrator})
        endow(other)
        yield other


# The safety devices of the ledger, and the statement that switches each off.
DEVICES: Final = {
    "row security": [f"ALTER TABLE {{}}.{table} NO FORCE ROW LEVEL SECURITY" for table in LEDGER],
    "the check of postings": ["ALTER TABLE {}.arrivals DISABLE TRIGGER USER"],
}


@contextmanager
def without_each_device(database: Database) -> Iterator[Sequence[Contender]]:
    """Calls with all safety devices, and without each one. Never switch one off elsewhere."""
    fastest = limit.called_in_c("", TransactionKind.PURCHASE)
    with ExitStack() as stack:
        found: list[Contender] = [
            Elsewhere("all of them", fastest, stack.enter_context(another(database)))
        ]
        for device, statements in DEVICES.items():
            other = stack.enter_context(another(database))
            with administering(other) as connection:
                for statement in statements:
                    connection.execute(text(statement.format("cogni_billing")))
            found.append(Elsewhere(f"without {device}", fastest, other))
        yield found


@contextmanager
def signed_and_unsigned(database: Database) -> Iterator[Sequence[Contender]]:
    """Calls with plain tenant contexts, and with signed ones."""
    key = secrets.token_bytes(32)
    with another(database) as plain, another(database) as other:
        migrator = create_engine(other.url("app_migrator"))
        sign_contexts(migrator, [key])
        migrator.dispose()
        signed = evolve(other, signing_key=key)
        yield [
            Elsewhere(f"{name}{how}", library.called(name, job), where, against=name)
            for name, job in library.CALLS.items()
            for how, where in (("", plain), (", signed", signed))
        ]


@contextmanager
def administering(database: Database, **options: Any) -> Iterator[Connection]:
    engine = create_engine(database.url("postgres"), **options)
    with engine.begin() as connection:
        yield connection
    engine.dispose()
