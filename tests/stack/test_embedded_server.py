"""The embedded server starts anywhere, and leaves no files or processes behind."""

from __future__ import annotations

import json
import os
import pwd
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest
from sqlalchemy import create_engine, text

from cogni_billing import InvalidInput, LedgerUnavailable, usd
from cogni_billing.adapters.postgres import PostgresUnitOfWork, reset
from cogni_billing.adapters.postgres.embedded import EmbeddedPostgres, server, supervisor
from cogni_billing.adapters.postgres.embedded.server import (
    Server,
    bundled_binaries,
    copied_binaries,
    unprivileged_account,
)
from cogni_billing.billing import Billing
from cogni_billing.testing.base import ALICE

PATIENCE_S = 30.0
CHILD = """
import json, multiprocessing, signal, sys
from cogni_billing.adapters.postgres.embedded.server import Server
signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs of a shell ignore it
server = Server()
server.start()
print(json.dumps({"base": str(server.socket_dir)}), flush=True)
{then}
"""


def connected(server: Server) -> psycopg.Connection[tuple[Any, ...]]:
    return psycopg.connect(host=str(server.socket_dir), user="postgres", dbname="postgres")


def postmaster(base: Path) -> psutil.Process:
    return psutil.Process(int((base / "data" / "postmaster.pid").read_text().split()[0]))


def gone(path: Path) -> bool:
    """True if *path* disappears in time."""
    waiting = threading.Event()
    for _ in range(int(PATIENCE_S / 0.05)):
        if not path.exists():
            return True
        waiting.wait(0.05)
    return False


@pytest.fixture
def folder() -> Iterator[Path]:
    """Create a folder that any account may enter. Pytest's own folders are private."""
    with tempfile.TemporaryDirectory(prefix="cogni-kept-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture
def running() -> Iterator[Server]:
    server = Server()
    server.start()
    yield server
    server.stop()


class TestRunning:
    def test_it_serves_on_a_private_socket_and_on_no_network(self, running: Server) -> None:
        with connected(running) as connection:
            listening = connection.execute("SHOW listen_addresses").fetchone()
            version = connection.info.server_version

        assert listening == ("",)
        assert version >= 140_000
        assert running.socket_dir.stat().st_mode & 0o077 == 0

    def test_it_stops_without_a_trace_and_twice(self) -> None:
        server = Server()
        server.start()
        process = postmaster(server.socket_dir)

        server.stop()
        server.stop()

        assert not process.is_running()
        assert not server.socket_dir.exists()

    def test_starting_it_twice_starts_one(self, running: Server) -> None:
        first = running.socket_dir

        running.start()

        assert running.socket_dir == first

    def test_two_at_once_are_strangers(self, running: Server) -> None:
        other = Server()
        other.start()
        with connected(running) as connection:
            connection.execute("CREATE TABLE mine ()")
        with connected(other) as connection:
            found = connection.execute("SELECT to_regclass('mine')").fetchone()
        other.stop()

        assert found == (None,)

    def test_a_server_that_dies_by_itself_is_cleaned_up_after(self) -> None:
        server = Server()
        server.start()

        postmaster(server.socket_dir).kill()

        assert gone(server.socket_dir)
        server.stop()


class TestInMemory:
    @pytest.fixture
    def memory(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """Create a directory that the servers of this test use as the system's memory."""
        monkeypatch.setattr(server, "_MEMORY", folder)
        return folder

    def test_the_data_is_there_and_goes_with_the_server(
        self, memory: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(server, "_MEMORY_FREE_MIN", 0)
        running = Server(in_memory=True)
        running.start()
        (scratch,) = memory.iterdir()
        process = postmaster(scratch)
        running.stop()

        assert not process.is_running()
        assert list(memory.iterdir()) == []
        assert not running.socket_dir.exists()

    def test_data_is_on_disk_without_free_memory(
        self, memory: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(server, "_MEMORY_FREE_MIN", 2**80)
        running = Server(in_memory=True)
        running.start()
        try:
            assert (running.socket_dir / "data").exists()
            assert list(memory.iterdir()) == []
        finally:
            running.stop()


class TestEnding:
    """Each child process starts a server and ends. No file or process may remain."""

    def child(self, then: str) -> tuple[subprocess.Popen[str], Path]:
        process = subprocess.Popen(
            [sys.executable, "-c", CHILD.replace("{then}", then)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )
        assert process.stdout is not None
        return process, Path(json.loads(process.stdout.readline())["base"])

    def test_an_exit_without_a_stop(self) -> None:
        process, base = self.child("")
        with process:
            process.wait(PATIENCE_S)

        assert gone(base)

    @pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
    def test_a_signal(self, number: signal.Signals) -> None:
        process, base = self.child("sys.stdin.read() or multiprocessing.Event().wait()")
        server = postmaster(base)
        with process:
            os.killpg(process.pid, number)
            process.wait(PATIENCE_S)

        assert gone(base)
        assert not server.is_running()

    def test_a_forked_child_neither_stops_the_server_nor_keeps_it_up(self) -> None:
        fork = (
            "import os\n"
            "pid = os.fork()\n"
            "if pid == 0:\n"
            "    sys.exit()\n"
            "os.waitpid(pid, 0)\n"
            "lingering = os.fork()\n"
            "if lingering == 0:\n"
            "    print('{}', flush=True)\n"
            "    multiprocessing.Event().wait()\n"
            "multiprocessing.Event().wait()\n"
        )
        process, base = self.child(fork)
        server = postmaster(base)
        with process:
            assert process.stdout is not None
            process.stdout.readline()
            assert server.is_running()
            process.kill()
            process.wait(PATIENCE_S)

            assert gone(base)
            os.killpg(process.pid, signal.SIGKILL)

    def test_a_killed_supervisor_takes_the_server_with_it(self) -> None:
        server = Server()
        server.start()
        process = postmaster(server.socket_dir)
        parent = process.parent()
        assert parent is not None

        parent.kill()

        process.wait(PATIENCE_S)
        server.stop()
        assert not server.socket_dir.exists()


class TestEnvironment:
    def test_variables_of_libpq_and_of_the_server_lead_nowhere_else(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (folder / "services").write_text("[other]\nhost=nowhere.invalid\nport=1\nuser=nobody\n")
        for name, value in {
            "PGHOST": "nowhere.invalid",
            "PGPORT": "1",
            "PGSERVICE": "other",
            "PGSERVICEFILE": str(folder / "services"),
            "PGTARGETSESSIONATTRS": "standby",
            "PGCLIENTENCODING": "SQL_ASCII",
            "PGDATESTYLE": "German",
            "PGSSLMODE": "verify-full",
            "LC_ALL": "nowhere",
            "HOME": "/nowhere",
        }.items():
            monkeypatch.setenv(name, value)

        with EmbeddedPostgres(str(folder / "data")) as database:
            engine = create_engine(database.url("app_user"))
            Billing(PostgresUnitOfWork(engine)).open_account(ALICE)
            engine.dispose()

        assert (folder / "data" / "PG_VERSION").exists()

    def test_server_does_not_have_the_secrets_of_the_host(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("COGNI_BILLING_SIGNING_KEY", "6f" * 32)
        with EmbeddedPostgres() as database:
            engine = create_engine(database.admin_url)
            with engine.connect() as connection:
                connection.execute(text("CREATE TEMPORARY TABLE environment (line text)"))
                connection.execute(text("COPY environment FROM PROGRAM 'env'"))
                lines = connection.scalars(text("SELECT line FROM environment")).all()
            engine.dispose()

        assert any(line.startswith("PATH=") for line in lines)
        assert not any("6f6f" in line for line in lines)

    @pytest.mark.parametrize(
        ("variable", "value", "expected"),
        [
            ("PGHOSTADDR", "127.0.0.1", "PGHOSTADDR"),
            ("PGSERVICE", "none", 'service "none" not found'),
            ("PGOPTIONS", "-c default_transaction_read_only=on", "default_transaction_read_only"),
        ],
    )
    def test_variable_that_cannot_be_overridden_is_named(
        self, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, expected: str
    ) -> None:
        monkeypatch.setenv(variable, value)

        with pytest.raises(LedgerUnavailable, match=expected):
            EmbeddedPostgres().start()

    def test_directory_that_cannot_be_made_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(tempfile, "tempdir", "/nowhere")

        with pytest.raises(LedgerUnavailable, match="set TMPDIR"):
            Server().start()

    def test_user_id_without_an_account_gets_a_remedy(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(os, "geteuid", lambda: 2**31 - 5)

        with pytest.raises(LedgerUnavailable, match="has no account"):
            Server().start()


class TestKeptData:
    def test_kept_data_survives_a_restart(self, folder: Path) -> None:
        for expected in (False, True):
            with EmbeddedPostgres(folder / "data") as database:
                engine = create_engine(database.url("app_user"))
                billing = Billing(PostgresUnitOfWork(engine))
                receipt = billing.confirm_purchase(ALICE, usd("1.00"), payment="stripe:1")
                engine.dispose()
            assert receipt.replayed == expected

    def test_status_file_may_vanish_while_the_next_server_starts(self, folder: Path) -> None:
        """PostgreSQL deletes its status file before it writes the next one."""
        status = folder / "postmaster.pid"
        status.write_text("1\n/data\n1700000000\n5432\n/tmp\n\n  1 1\nready\n")
        assert supervisor._is_ready(status, 1)
        assert not supervisor._is_ready(status, 2)

        status.unlink()

        assert not supervisor._is_ready(status, 2)

    def test_kept_data_is_not_marked_as_test_data(self, folder: Path) -> None:
        with EmbeddedPostgres(folder / "data") as database:
            engine = create_engine(database.url("app_migrator"))
            with pytest.raises(Exception, match="a test database"):
                reset(engine)
            with engine.connect() as connection:
                synced = connection.scalar(text("SHOW fsync"))
            engine.dispose()

        assert synced == "on"

    def test_a_folder_of_something_else_is_refused_and_untouched(self, folder: Path) -> None:
        (folder / "data").mkdir()
        (folder / "data" / "thesis.txt").write_text("years of work")

        with pytest.raises(LedgerUnavailable, match=r"not empty|could not access"):
            Server(folder / "data").start()

        assert [path.name for path in (folder / "data").iterdir()] == ["thesis.txt"]

    def test_a_cluster_that_is_served_already_is_left_alone(self, folder: Path) -> None:
        first = Server(folder / "data")
        first.start()
        second = Server(folder / "data")

        with pytest.raises(LedgerUnavailable, match=r"postmaster\.pid"):
            second.start()

        with connected(first) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)
        assert not second.socket_dir.exists()
        first.stop()

    def test_a_cluster_of_another_major_is_refused(self, folder: Path) -> None:
        first = Server(folder / "data")
        first.start()
        first.stop()
        (folder / "data" / "PG_VERSION").write_text("9.6\n")

        with pytest.raises(LedgerUnavailable, match="incompatible"):
            Server(folder / "data").start()

    def test_root_gets_an_error_for_a_folder_closed_to_its_account(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (folder / "private").mkdir(mode=0o700)
        monkeypatch.setattr(os, "geteuid", lambda: 0)
        monkeypatch.setattr(os, "chown", lambda *_: None)

        with pytest.raises(InvalidInput, match="private"):
            Server(folder / "private" / "data").start()


class TestBinaries:
    def test_a_copy_of_the_wheel_runs(self, tmp_path: Path) -> None:
        copy = copied_binaries(bundled_binaries(), tmp_path)

        ran = subprocess.run([copy / "postgres", "--version"], capture_output=True, check=True)

        assert ran.stdout.startswith(b"postgres (PostgreSQL)")

    @pytest.mark.parametrize("reachable", [True, False])
    def test_a_wheel_is_copied_where_the_account_cannot_reach_it(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, reachable: bool
    ) -> None:
        monkeypatch.setattr(server, "_can_run", lambda *_: reachable)
        account = pwd.getpwuid(os.getuid())

        binaries = Server()._binaries_for(account, tmp_path)

        assert binaries.is_relative_to(tmp_path) != reachable
        assert (binaries / "postgres").is_file()

    def test_account_that_serves_cannot_have_a_file_of_others_written(self, folder: Path) -> None:
        """An attacker replaces each name in its directory by a link after the first program has
        run.
        """
        binaries = copied_binaries(bundled_binaries(), folder)
        victim = folder / "victim"
        victim.write_text("untouched")
        (binaries / "initdb").rename(binaries / "initdb.real")
        (binaries / "initdb").write_text(
            f'#!/bin/sh\n"{binaries}/initdb.real" "$@" || exit\nln -sf {victim} "$PWD/log"\n'
        )
        (binaries / "initdb").chmod(0o755)

        server = Server(bin_dir=binaries)
        server.start()
        assert (server.socket_dir / "log").is_symlink()
        server.stop()

        assert victim.read_text() == "untouched"

    def test_without_the_wheel_the_extra_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(server, "find_spec", lambda _: None)

        with pytest.raises(LedgerUnavailable, match=r"cogni-billing\[embedded\]"):
            Server()

    def test_there_is_an_account_that_may_serve_for_root(self) -> None:
        assert unprivileged_account().pw_uid != 0

    def test_machine_without_an_unprivileged_account_is_reported(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(pwd, "getpwall", list)

        with pytest.raises(LedgerUnavailable, match="create the account"):
            unprivileged_account()
