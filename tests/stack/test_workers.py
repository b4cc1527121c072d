"""Workers of each kind on docs/how-to/workers.md, run from its modules and commands."""

from __future__ import annotations

import http.client
import json
import os
import select
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import pytest

from cogni_billing import Billing, Purchase, TenantId, credits, usd
from cogni_billing.adapters.postgres import PostgresUnitOfWork
from cogni_billing.testing import ALICE, BOB
from stack.conftest import Database
from stack.support import spending
from stack.support.documents import blocks, served

PAGE: Final = "docs/how-to/workers.md"
STARTS: Final = int(os.environ.get("COGNI_BILLING_TEST_STARTS", "5"))
WORKERS: Final = 4
REQUESTS_MAX: Final = 2_000
"""Each worker has to answer one of so many requests."""
PATIENCE_S: Final = 60.0

# The broker is a folder, and each answer a line in a named pipe. Short lines are written whole.
OF_TESTS: Final = """
import os
from uuid import UUID

from shop import billing
from tasks import app, charge

app.conf.update(
    broker_url="filesystem://",
    broker_transport_options={
        "data_folder_in": "broker",
        "data_folder_out": os.environ.get("SENT_TO", "broker"),
        "control_folder": "control",
        "polling_interval": 0.01,
    },
)


@app.task
def answer(tenant, reference):
    try:
        charge(tenant, 1, reference)
        told = f"{os.getpid()} {tenant} {billing.balance(UUID(tenant)).posted.value}\\n"
    except BaseException as error:
        told = f"{os.getpid()} {tenant} {error!r:.500}\\n"
    with open("answers", "w") as answers:
        answers.write(told)
"""
CLIENT: Final = """
import json
import sys
from of_tests import answer

for line in sys.stdin:
    for asked in json.loads(line):
        answer.delay(*asked)
    print(flush=True)
"""


@pytest.fixture
def folder(database: Database, tmp_path: Path) -> Path:
    """Create a folder with the modules of the page."""
    for code in blocks(PAGE, "python"):
        name = code.splitlines()[0].removeprefix("# ")
        (tmp_path / name).write_text(served(code, database.sandbox))
    return tmp_path


def shown(name: str) -> list[str]:
    """Return the page's command that begins with *name*, run by this interpreter."""
    [line] = [
        line.removeprefix("$ ")
        for code in blocks(PAGE, "console")
        for line in code.splitlines()
        if line.startswith(f"$ {name} ")
    ]
    return [sys.executable, "-m", *shlex.split(line)]


@contextmanager
def running(
    command: list[str], folder: Path, pass_fds: tuple[int, ...] = ()
) -> Iterator[subprocess.Popen[bytes]]:
    """Start a server, and check that SIGTERM ends it."""
    with subprocess.Popen(
        command, cwd=folder, stdout=subprocess.DEVNULL, pass_fds=pass_fds
    ) as process:
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(PATIENCE_S) in {0, -signal.SIGTERM}


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=PATIENCE_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(PATIENCE_S)
        self.sock.connect(str(self._path))


def get(path: Path, tenant: TenantId) -> tuple[int, str]:
    """Return the worker that answered, and its balance."""
    connection = UnixConnection(path)
    connection.request("GET", f"/{tenant}")
    response = connection.getresponse()
    assert response.status == 200
    worker, balance = int(response.headers["X-Worker"]), response.read().decode()
    connection.close()
    return worker, balance


@contextmanager
def serving(folder: Path, name: str) -> Iterator[Path]:
    """Return the socket of a running server. It is bound before, so clients need not wait."""
    path = folder / "socket"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()
        number = listening.fileno()
        bound = {"gunicorn": [f"--bind=fd://{number}"], "uvicorn": [f"--fd={number}"]}[name]
        command = [*shown(name), *bound, "--log-level=critical"]
        with running(command, folder, (number,)):
            yield path
    path.unlink(missing_ok=True)


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", ["gunicorn", "uvicorn"])
def test_every_web_worker_returns_the_right_balance(
    database: Database, folder: Path, name: str
) -> None:
    billing = Billing(PostgresUnitOfWork(database.user))
    billing.confirm_purchase(ALICE, usd("1.00"), payment="stripe:pi_1")
    billing.confirm_purchase(BOB, usd("2.00"), payment="stripe:pi_2")
    for _ in range(STARTS):
        with serving(folder, name) as path:
            workers: set[int] = set()
            for request in range(REQUESTS_MAX):
                tenant, right = [(ALICE, "10000000 CREDIT"), (BOB, "20000000 CREDIT")][request % 2]
                worker, balance = get(path, tenant)
                assert balance == right
                workers.add(worker)
                if len(workers) == WORKERS:
                    break
            assert len(workers) == WORKERS


class Pipe:
    """Reads lines from a named pipe that several processes write to."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self._end = os.open(path, os.O_RDWR)
        self._rest = b""

    def line(self) -> str:
        while b"\n" not in self._rest:
            assert select.select([self._end], [], [], PATIENCE_S)[0], "no worker has answered"
            self._rest += os.read(self._end, 65536)
        line, _, self._rest = self._rest.partition(b"\n")
        return line.decode()

    def close(self) -> None:
        os.close(self._end)


class Client:
    """Sends tasks. Files are moved when complete, because a worker would read a partial message."""

    def __init__(self, folder: Path) -> None:
        self._staged, self._broker = folder / "staged", folder / "broker"
        for path in (self._staged, self._broker):
            path.mkdir()
        self._process = subprocess.Popen(
            [sys.executable, "client.py"],
            cwd=folder,
            env=os.environ | {"SENT_TO": "staged"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def send(self, asked: list[tuple[str, str]]) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{json.dumps(asked)}\n")
        self._process.stdin.flush()
        assert self._process.stdout.readline() == "\n"
        for message in self._staged.iterdir():
            message.rename(self._broker / message.name)

    def close(self) -> None:
        assert self._process.communicate(timeout=PATIENCE_S)[0] == ""


@pytest.mark.exhaustive
def test_every_celery_worker_charges_its_tenants_once(database: Database, folder: Path) -> None:
    tenants = [TenantId(UUID(int=number)) for number in range(1, 9)]
    billing = Billing(PostgresUnitOfWork(database.user))
    for tenant in tenants:
        billing.grant(tenant, credits(tenant.int * 10**6), source="test", reference="funds")
    (folder / "of_tests.py").write_text(OF_TESTS)
    (folder / "client.py").write_text(CLIENT)
    command = [part.replace("tasks", "of_tests.app") for part in shown("celery")]
    command.append("--loglevel=CRITICAL")
    charged = 0
    with closing(Pipe(folder / "answers")) as pipe, closing(Client(folder)) as client:
        for _ in range(-(-STARTS // 5)):  # each takes several times as long as a start of gunicorn
            with running(command, folder):
                workers: set[str] = set()
                while len(workers) < WORKERS:
                    charged += 1
                    assert charged < REQUESTS_MAX
                    # Each is sent twice. The second one replays the first.
                    asked = [(str(tenant), f"run-{charged}") for tenant in tenants] * 2
                    client.send(asked)
                    for _ in asked:
                        worker, tenant_id, balance = pipe.line().split(" ", 2)
                        assert balance == str(UUID(tenant_id).int * 10**6 - charged)
                        workers.add(worker)

    for tenant in tenants:
        assert billing.balance(tenant).posted == credits(tenant.int * 10**6 - charged)


@pytest.mark.parametrize(
    ("method", "way", "grouped"),
    [
        *(("fork", way, grouped) for way in sorted(spending.WAYS) for grouped in (False, True)),
        pytest.param("forkserver", "executor", True, marks=pytest.mark.exhaustive),
        pytest.param("forkserver", "processes", False, marks=pytest.mark.exhaustive),
        pytest.param("spawn", "executor", False, marks=pytest.mark.exhaustive),
        pytest.param("spawn", "processes", True, marks=pytest.mark.exhaustive),
    ],
)
def test_worker_processes_and_their_parent_use_one_ledger_at_once(
    database: Database, method: str, way: str, *, grouped: bool
) -> None:
    """Workers start during their parent's calls, and also use the async ledger."""
    billing = Billing(PostgresUnitOfWork(database.user))
    numbers = range(spending.WORKERS + 1)
    tenants = [
        spending.tenant_of(number, thread)
        for number in numbers
        for thread in range(spending.THREADS)
    ]
    billing.confirm_purchases(
        Purchase(tenant=tenant, amount=usd("1.00"), payment=f"stripe:{tenant}")
        for tenant in tenants
    )

    ran = subprocess.run(
        [sys.executable, spending.__file__, method, way],
        env=os.environ
        | {spending.URL: database.sandbox.url("app_user")}
        | ({spending.GROUPED: "yes"} if grouped else {}),
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
    )

    assert (ran.returncode, ran.stderr) == (0, "")
    told: list[dict[str, Any]] = json.loads(ran.stdout)
    assert {one["number"]: one["balances"] for one in told} == {
        number: [spending.expected(number)] * spending.THREADS for number in numbers
    }
    assert len({one["process"] for one in told}) == len(numbers)
    backends = [backend for one in told for backend in one["backends"]]
    assert len(set(backends)) == len(backends)


def test_pool_of_the_page_returns_each_balance(database: Database, folder: Path) -> None:
    billing = Billing(PostgresUnitOfWork(database.user))
    billing.confirm_purchase(ALICE, usd("1.00"), payment="stripe:pi_1")
    billing.open_account(BOB)

    ran = subprocess.run(
        [sys.executable, "jobs.py", str(ALICE), str(BOB)],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
    )

    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout == f"{ALICE} 10000000 CREDIT\n{BOB} 0 CREDIT\n"
