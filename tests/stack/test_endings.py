"""Commands with an interrupt or a closed output. They end as a shell expects."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest
from sqlalchemy import text

from cogni_billing import Billing, credits
from cogni_billing.adapters.postgres import PostgresUnitOfWork
from cogni_billing.testing import ALICE, BOB
from stack.conftest import Database
from stack.support.command import URL_VARIABLE

SCRIPT: Final = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs of a shell ignore it
from cogni_billing.cli import main
main()
"""
COMMAND: Final = (sys.executable, "-c", SCRIPT)
PATIENCE_S: Final = 60.0
WAITING: Final = text("""
    SELECT count(*) FROM pg_stat_activity
    WHERE wait_event_type = 'Lock' AND datname = current_database()
""")


def start(
    database: Database, *arguments: str | Path, url: str | None = None
) -> subprocess.Popen[str]:
    urls = {"COGNI_BILLING_SERVICE_URL": database.sandbox.url("app_service")}
    if "demo" not in arguments:
        urls[URL_VARIABLE] = url or database.sandbox.url("app_user")
    return subprocess.Popen(
        [*COMMAND, *arguments],
        env=os.environ | urls,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@contextmanager
def locked(database: Database, statement: str) -> Iterator[None]:
    with database.admin.connect() as connection:
        connection.execute(text(statement))
        yield


def interrupted(database: Database, running: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Interrupt a command while it waits for a lock. Returns its exit code and output."""
    with database.admin.connect() as connection:
        while not connection.scalar(WAITING):
            assert running.poll() is None
            connection.rollback()
        running.send_signal(signal.SIGINT)
        stdout, stderr = running.communicate(timeout=PATIENCE_S)
        connection.rollback()
        assert connection.scalar(WAITING) == 0  # the server has cancelled the statement, too
    return running.returncode, stdout, stderr


@pytest.mark.parametrize(
    ("arguments", "role", "said"),
    [
        (["sweep"], "app_user", "wallets that were updated stay so; run it again to continue"),
        (["fold"], "app_user", "accounts stay as they were or are folded; it is safe to run again"),
        (["verify"], "app_user", "nothing was changed"),
        (["statement", str(ALICE)], "app_user", "nothing was changed"),
        (
            ["purchase", str(ALICE), "1", "--payment", "stripe:1"],
            "app_user",
            "run it again with the same payment: a recorded purchase is replayed",
        ),
        (["migrate"], "app_migrator", "all of it or nothing was done; it is safe to run again"),
        (["repair"], "app_migrator", "all of it or nothing was done; it is safe to run again"),
        (["restore"], "app_migrator", "all of it or nothing was done; it is safe to run again"),
    ],
)
def test_interrupted_command_reports_its_progress(
    database: Database, tmp_path: Path, arguments: list[str], role: str, said: str
) -> None:
    Billing(PostgresUnitOfWork(database.user)).open_account(ALICE)
    (tmp_path / "dump").write_text("")
    if arguments == ["restore"]:
        arguments = ["restore", str(tmp_path / "dump")]
    tables = (
        "LOCK TABLE cogni_billing.wallets, cogni_billing.arrivals, cogni_billing.transactions,"
        " cogni_billing_migrations.alembic_version IN ACCESS EXCLUSIVE MODE"
    )

    with locked(database, tables):
        running = start(database, *arguments, url=database.sandbox.url(role))
        code, stdout, stderr = interrupted(database, running)

    assert (code, stdout, stderr) == (130, "", f"interrupted; {said}\n")


def test_interrupted_import_counts_its_lines_and_continues_when_run_again(
    database: Database, tmp_path: Path
) -> None:
    billing = Billing(PostgresUnitOfWork(database.user))
    billing.open_account(BOB)
    path = tmp_path / "some.csv"
    rows = [f"{ALICE},1,stripe:1", f"{ALICE},1,stripe:2", f"{BOB},1,stripe:3"]
    path.write_text("\n".join(["tenant,amount,payment", *rows]) + "\n")
    lock = f"SELECT FROM cogni_billing.wallets WHERE tenant_id = '{BOB}' FOR UPDATE"

    with locked(database, lock):
        running = start(database, "import", "purchases", path, "--batch-size", "1")
        code, stdout, stderr = interrupted(database, running)
    again = start(database, "import", "purchases", path)

    assert (code, stdout) == (130, "done     2\nreplayed 0\nrefused  0\n")
    assert stderr == "interrupted; import the file again to continue: recorded lines are replayed\n"
    assert again.communicate() == ("done     1\nreplayed 2\nrefused  0\n", "")
    assert billing.balance(BOB).posted == credits(10_000_000)


def databases(database: Database) -> set[str]:
    with database.admin.connect() as connection:
        return set(connection.scalars(text("SELECT datname FROM pg_database")))


@pytest.mark.parametrize("given", [False, True], ids=["a server of its own", "a given server"])
def test_interrupted_demo_throws_its_database_away(database: Database, *, given: bool) -> None:
    before = databases(database)
    running = start(database, "demo", *(["--database-url", database.sandbox.admin_url] * given))
    assert running.stdout is not None
    # The pipe holds a page, so the command cannot end before its reader reads.
    fcntl.fcntl(running.stdout, fcntl.F_SETPIPE_SZ, 4096)
    assert os.read(running.stdout.fileno(), 1)
    running.send_signal(signal.SIGINT)
    _, stderr = running.communicate(timeout=PATIENCE_S)

    assert running.returncode == 130
    assert stderr == "interrupted; its database is thrown away; it is safe to run again\n"
    assert databases(database) == before


@pytest.mark.parametrize(
    "arguments",
    [["demo"], ["statement", str(ALICE), "--limit", "500"], ["--version"], ["doctor", "--json"]],
    ids=lambda arguments: arguments[0],
)
def test_command_with_a_closed_pipe_ends_without_output(
    database: Database, arguments: list[str]
) -> None:
    Billing(PostgresUnitOfWork(database.user)).open_account(ALICE)
    given = ["--database-url", database.sandbox.admin_url] if arguments == ["demo"] else []
    before = databases(database)

    with start(database, *arguments, *given) as running:
        assert running.stdout is not None
        running.stdout.close()
        assert running.stderr is not None
        stderr = running.stderr.read()

    assert (running.returncode, stderr) == (141, "")
    assert databases(database) == before


@pytest.mark.parametrize("option", [[], ["--refused", "/dev/full"]], ids=["output", "refused"])
def test_import_on_a_full_disk_ends_in_one_line(
    database: Database, tmp_path: Path, option: list[str]
) -> None:
    path = tmp_path / "some.csv"
    path.write_text(f"tenant,amount,payment\n{ALICE},ten,stripe:1\n{ALICE},1,stripe:2\n")
    with Path("/dev/full").open("w") as full:
        ran = subprocess.run(
            [*COMMAND, "import", "purchases", path, *option],
            env=os.environ | {URL_VARIABLE: database.sandbox.url("app_user")},
            stdout=subprocess.PIPE if option else full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )

    assert ran.returncode == 74
    assert ran.stderr.splitlines()[-1] == "input or output failed: No space left on device"
    assert "Traceback" not in ran.stderr
