"""Workers that gunicorn forks from an application that used the ledger before (`--preload`)."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from cogni_billing import Billing, usd
from cogni_billing.adapters.postgres import PostgresUnitOfWork
from cogni_billing.testing import ALICE
from stack.conftest import Database

STARTS: Final = int(os.environ.get("COGNI_BILLING_TEST_STARTS", "5"))
WORKERS: Final = 4
REQUESTS_MAX: Final = 2_000
"""Within so many requests each worker has to answer one."""
PATIENCE_S: Final = 60.0
APPLICATION: Final = """
import os
from uuid import UUID

from sqlalchemy import create_engine

from cogni_billing import Billing
from cogni_billing.adapters.postgres import PostgresUnitOfWork, ensure_ready

engine = create_engine(os.environ["URL"], pool_size=2)
ensure_ready(engine)
billing = Billing(PostgresUnitOfWork(engine))
tenant = UUID(os.environ["TENANT"])
billing.balance(tenant)


def application(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [f"{os.getpid()} {billing.balance(tenant).posted.value}".encode()]
"""


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=PATIENCE_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(PATIENCE_S)
        self.sock.connect(str(self._path))


def answer(path: Path) -> tuple[int, str]:
    """The worker that answered, and the balance that it told."""
    connection = UnixConnection(path)
    connection.request("GET", "/")
    response = connection.getresponse()
    assert response.status == 200
    worker, balance = response.read().decode().split()
    connection.close()
    return int(worker), balance


@contextmanager
def serving(folder: Path, url: str) -> Iterator[Path]:
    """The socket of a running gunicorn, which is bound before: clients need not wait for it."""
    path = folder / "socket"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()
        command = [sys.executable, "-m", "gunicorn", "--preload", f"--workers={WORKERS}"]
        command += [f"--bind=fd://{listening.fileno()}", "--log-level=critical", "application"]
        environment = os.environ | {"URL": url, "TENANT": str(ALICE)}
        with subprocess.Popen(
            command, cwd=folder, env=environment, pass_fds=[listening.fileno()]
        ) as process:
            try:
                yield path
            finally:
                process.send_signal(signal.SIGTERM)
                assert process.wait(PATIENCE_S) == 0


@pytest.mark.exhaustive
def test_every_preloaded_worker_tells_the_right_balance(database: Database, tmp_path: Path) -> None:
    billing = Billing(PostgresUnitOfWork(database.user))
    billing.confirm_purchase(ALICE, usd("1.00"), payment="stripe:pi_1")
    (tmp_path / "application.py").write_text(APPLICATION)
    for _ in range(STARTS):
        with serving(tmp_path, database.sandbox.url("app_user")) as path:
            workers: set[int] = set()
            for _ in range(REQUESTS_MAX):
                worker, balance = answer(path)
                assert balance == "10000000"
                workers.add(worker)
                if len(workers) == WORKERS:
                    break
            assert len(workers) == WORKERS
