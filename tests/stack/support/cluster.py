"""A primary and its streaming standby: two servers, each on its own socket."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
from attrs import define, field
from sqlalchemy import URL, create_engine, text

from cogni_billing.adapters.postgres.embedded import DATABASE, EmbeddedPostgres
from cogni_billing.adapters.postgres.embedded.server import Server

PROMOTE = "SELECT pg_promote()"
# Makes new transactions read-only, like a demoted primary with open sessions.
FENCE = ("ALTER SYSTEM SET default_transaction_read_only = on", "SELECT pg_reload_conf()")
# COMMIT waits until the standby has it on disk.
SYNCHRONOUS = ("ALTER SYSTEM SET synchronous_standby_names = '*'", "SELECT pg_reload_conf()")


@define
class Node:
    """One server of a cluster."""

    data_dir: Path
    _server: Server = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._server = Server(self.data_dir, bin_dir=binaries())

    def start(self) -> None:
        self._server.start()

    def stop(self) -> None:
        self._server.stop()

    def kill(self) -> None:
        pid = (self.data_dir / "postmaster.pid").read_text().split()[0]
        psutil.Process(int(pid)).kill()
        self._server.stop()

    def follow(self, primary: Node) -> None:
        """Stream from *primary* once it is started."""
        (self.data_dir / "standby.signal").touch()
        with (self.data_dir / "postgresql.auto.conf").open("a") as settings:
            settings.write(f"primary_conninfo = 'host={primary.host} user=postgres'\n")

    @property
    def host(self) -> str:
        return str(self._server.socket_dir)

    def url(self, role: str) -> URL:
        query = {"host": self.host, "port": str(self._server.port)}
        return URL.create("postgresql+psycopg", username=role, database=DATABASE, query=query)

    def ask(self, *statements: str) -> list[object]:
        """Run each statement in an administrator's session, and return the answers."""
        engine = create_engine(self.url("postgres"), isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            answers = [
                result.scalar() if result.returns_rows else None
                for result in (connection.execute(text(each)) for each in statements)
            ]
        engine.dispose()
        return answers


@define
class Cluster:
    """A primary with the ledger, and a standby with every acknowledged transaction."""

    primary: Node
    standby: Node

    def url(self, role: str) -> URL:
        """Return a URL that leads to the server that accepts writes."""
        nodes = (self.primary, self.standby)
        return self.primary.url(role).update_query_dict(
            {
                "host": ",".join(node.host for node in nodes),
                "port": ",".join(str(node.url(role).query["port"]) for node in nodes),
                "target_session_attrs": "read-write",
            }
        )


def binaries() -> Path | None:
    """Return the binaries that the kit's `billing_database` runs on."""
    given = os.environ.get("COGNI_BILLING_TEST_POSTGRES_BIN")
    return Path(given) if given else None


@contextmanager
def installed() -> Iterator[Path]:
    """Create the data directory of a stopped server with the ledger."""
    with tempfile.TemporaryDirectory(prefix="cogni-cluster-") as name:
        Path(name).chmod(0o755)
        data_dir = Path(name, "data")
        with EmbeddedPostgres(data_dir, bin_dir=binaries()):
            pass
        yield data_dir


@contextmanager
def cluster(installation: Path) -> Iterator[Cluster]:
    """Start two servers on copies of *installation*."""
    with tempfile.TemporaryDirectory(prefix="cogni-cluster-") as name:
        Path(name).chmod(0o755)
        primary, standby = Node(Path(name, "primary")), Node(Path(name, "standby"))
        try:
            for node in (primary, standby):
                _copy(installation, node.data_dir)
            primary.start()
            standby.follow(primary)
            standby.start()
            primary.ask(*SYNCHRONOUS)
            yield Cluster(primary, standby)
        finally:
            standby.stop()
            primary.stop()


def _copy(installation: Path, data_dir: Path) -> None:
    """Copy a data directory, including its owner."""
    shutil.copytree(installation, data_dir)
    owner = installation.stat()
    for path in (data_dir, *data_dir.rglob("*")):
        os.chown(path, owner.st_uid, owner.st_gid)
