"""Real PostgreSQL in one line, for development and tests: `EmbeddedPostgres`."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Final, Self

from sqlalchemy import URL, create_engine, text

from cogni_billing.adapters.postgres.embedded.server import Server
from cogni_billing.adapters.postgres.failures import connecting
from cogni_billing.adapters.postgres.operations.sandbox import Sandbox

__all__ = ["EmbeddedPostgres"]

DATABASE: Final = "cogni_billing"


class EmbeddedPostgres(Sandbox):
    """A PostgreSQL server of this process, provisioned and migrated. Ends with the process.

    It comes with the extra `embedded`. It listens on a private Unix socket only, and trusts every
    user that can open the socket, so it is for development and tests. It works as root (the server
    itself runs as an unprivileged account) and as an ordinary user. It leaves no files or processes
    behind, even if the process is killed.

        with EmbeddedPostgres() as server:
            billing = Billing(PostgresUnitOfWork(create_engine(server.url("app_user"))))

    Args:
        data_dir: Keeps the data here, over restarts. Without it the data is deleted at the end,
            and the database is marked as one that `reset` may empty.
        bin_dir: Serves with the PostgreSQL binaries in this directory, not with the bundled ones.
        in_memory: Keeps temporary data in memory, if `/dev/shm` has 1 GiB free. `reset` is several
            times faster there, and so is a suite of tests.
    """

    def __init__(
        self,
        data_dir: Path | str | None = None,
        *,
        bin_dir: Path | str | None = None,
        in_memory: bool = False,
    ) -> None:
        self._server = Server(data_dir, bin_dir=bin_dir, in_memory=in_memory)
        self._throw_away = data_dir is None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start the server, and migrate its database to head.

        Raises:
            InvalidInput: the account that the server runs as cannot reach `data_dir`.
            LedgerUnavailable: the server did not start, or cannot start on this machine.
        """
        self._server.start()
        try:
            self._ensure_database()
            self.install(test_database=self._throw_away)
        except BaseException:
            self._server.stop()
            raise

    def stop(self) -> None:
        """Stop the server, and delete its data unless it has a `data_dir`. Idempotent."""
        self._server.stop()

    @property
    def administrator(self) -> URL:
        return self._url("postgres", DATABASE)

    def role(self, name: str) -> URL:
        return self._url(name, DATABASE)

    def _url(self, role: str, database: str) -> URL:
        return URL.create(
            "postgresql+psycopg",
            username=role,
            database=database,
            query={
                "host": str(self._server.socket_dir),
                "port": str(self._server.port),
                # Without these, libpq takes them from the environment.
                "client_encoding": "utf8",
                "target_session_attrs": "any",
            },
        )

    def _ensure_database(self) -> None:
        engine = create_engine(self._url("postgres", "postgres"), isolation_level="AUTOCOMMIT")
        try:
            with connecting(), engine.connect() as connection:
                found = text("SELECT FROM pg_database WHERE datname = :name")
                if connection.execute(found, {"name": DATABASE}).one_or_none() is None:
                    connection.execute(text(f"CREATE DATABASE {DATABASE}"))
        finally:
            engine.dispose()
