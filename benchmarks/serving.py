"""The server of the contenders: durable, with customers that have credits to spend."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import create_engine

from benchmarks import jobs
from benchmarks.harness import Database
from cogni_billing import Billing
from cogni_billing.adapters.postgres import PostgresUnitOfWork
from cogni_billing.adapters.postgres.embedded import EmbeddedPostgres

ROLES = ("app_user", "app_service", "app_migrator")
OTHERS_MAY_ENTER = 0o755


@contextmanager
def served() -> Iterator[Database]:
    """A server that syncs its commits, with temporary data."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(OTHERS_MAY_ENTER)  # as root, the server runs under another account
        with EmbeddedPostgres(Path(folder, "data")) as server:
            urls = {role: server.role(role) for role in ROLES}
            database = Database(urls | {"postgres": server.administrator})
            endow(database)
            yield database


def endow(database: Database) -> None:
    """Confirm a purchase of every customer, so that all have credits to spend."""
    engine = create_engine(database.url("app_user"))
    billing = Billing(PostgresUnitOfWork(engine))
    for customer in jobs.customers():
        billing.confirm_purchase(customer, jobs.PRICE, payment=jobs.reference())
    engine.dispose()
