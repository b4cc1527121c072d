"""A server that is killed, and started again on its data."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from decimal import Decimal
from pathlib import Path

import psutil
from attrs import define, field

from cogni_billing import AccountId
from cogni_billing.adapters.postgres import PostgresUnitOfWork
from cogni_billing.adapters.postgres.embedded import EmbeddedPostgres
from stack.conftest import Database, opened


@define
class Killable:
    """Serves the ledger in a folder that any account may enter. Pytest's own folders are
    private.
    """

    data_dir: Path
    options: str = ""
    _running: ExitStack = field(factory=ExitStack)
    _engines: ExitStack = field(factory=ExitStack)
    _database: Database | None = None

    @property
    def database(self) -> Database:
        assert self._database is not None
        return self._database

    def start(self) -> None:
        server = self._running.enter_context(EmbeddedPostgres(self.data_dir))
        # Kept until the end, because clients may still have its connections.
        self._database = self._engines.enter_context(opened(server, self.options))

    def kill(self) -> None:
        pid = (self.data_dir / "postmaster.pid").read_text().split()[0]
        psutil.Process(int(pid)).kill()
        self._running.close()

    def restart(self) -> PostgresUnitOfWork:
        self.kill()
        self.start()
        return self.unit_of_work()

    def unit_of_work(self) -> PostgresUnitOfWork:
        """Build a unit of work that does not retry a lost connection."""
        return PostgresUnitOfWork(
            self.database.user, service=self.database.service, retry_for=timedelta(0)
        )

    def totals(self) -> dict[AccountId, Decimal]:
        return self.database.totals()

    def stop(self) -> None:
        self._engines.close()
        self._running.close()


@contextmanager
def killable(options: str = "") -> Iterator[Killable]:
    """Create a server. *options* are of the connections."""
    with tempfile.TemporaryDirectory(prefix="cogni-kills-") as name:
        Path(name).chmod(0o755)
        server = Killable(Path(name, "data"), options)
        server.start()
        try:
            yield server
        finally:
            server.stop()
