"""Engines and URLs that lead to no ledger. The error states the cause."""

from __future__ import annotations

import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.ext.asyncio import create_async_engine

from cogni_billing import Billing, InvalidInput, LedgerUnavailable
from cogni_billing.adapters.postgres import (
    AsyncPostgresUnitOfWork,
    PostgresUnitOfWork,
    doctor,
    doctor_async,
    ensure_ready,
    migrate,
    provision,
    provision_sql,
    repair,
    reset,
    restore,
    sign_contexts,
    trial_balance,
    unmigrate,
)
from cogni_billing.adapters.postgres.embedded import EmbeddedPostgres
from cogni_billing.adapters.postgres.operations.sandbox import temporary_database
from cogni_billing.testing.base import ALICE
from stack.conftest import Database
from stack.support.command import Run


def joining(engine: Engine) -> None:
    with engine.begin() as connection:
        PostgresUnitOfWork.joining(connection)


def migrating(engine: Engine) -> None:
    with engine.begin() as connection:
        migrate(connection)


ENTRIES: dict[str, Callable[[Any], object]] = {
    "PostgresUnitOfWork": PostgresUnitOfWork,
    "joining on a connection": joining,
    "doctor": doctor,
    "ensure_ready": ensure_ready,
    "migrate": migrate,
    "migrate on a connection": migrating,
    "provision": provision,
    "provision_sql": provision_sql,
    "repair": repair,
    "reset": reset,
    "restore": lambda engine: restore(engine, []),
    "sign_contexts": lambda engine: sign_contexts(engine, []),
    "trial_balance": trial_balance,
    "unmigrate": unmigrate,
}


# Only sqlite's driver is installed. The others are never imported.
DRIVERS = {
    "pysqlite": "sqlite://",
    "pg8000": "postgresql+pg8000://u@h/d",
    "asyncpg": "postgresql+asyncpg://u@h/d",
    "pymysql": "mysql+pymysql://u@h/d",
}


@pytest.mark.parametrize("driver", DRIVERS)
def test_engine_on_another_driver_is_refused(driver: str) -> None:
    module = {} if driver == "pysqlite" else {"module": psycopg}
    engine = create_engine(DRIVERS[driver], **module)
    for name, entry in ENTRIES.items():
        if "on" in name.split() and driver != "pysqlite":
            continue  # not installed, so it cannot connect
        with pytest.raises(InvalidInput) as caught:
            entry(engine)
        assert "on postgresql+psycopg" in str(caught.value), name
        assert driver in str(caught.value) or "a Connection" in str(caught.value), name
    engine.dispose()


@pytest.mark.parametrize("entry", [name for name in ENTRIES if "on" not in name.split()])
def test_other_types_of_engine_are_refused(entry: str) -> None:
    with pytest.raises(InvalidInput, match="got a object"):
        ENTRIES[entry](object())


def test_sync_engine_is_refused_where_an_async_one_is_expected(database: Database) -> None:
    awaited: Any = database.user
    with pytest.raises(InvalidInput, match="an AsyncEngine"):
        AsyncPostgresUnitOfWork(awaited)
    with pytest.raises(InvalidInput, match="an AsyncEngine"):
        doctor_async(awaited).send(None)
    engine: Any = create_async_engine(database.sandbox.role("app_user"))
    for entry in (PostgresUnitOfWork, doctor, provision):
        with pytest.raises(InvalidInput, match="an Engine on"):
            entry(engine)


@pytest.fixture(scope="module")
def guarded() -> Iterator[EmbeddedPostgres]:
    """Start a server that requires a password from app_user."""
    with tempfile.TemporaryDirectory(prefix="cogni-guarded-") as name:
        Path(name).chmod(0o755)
        with EmbeddedPostgres(str(Path(name, "data"))) as server:
            rules = Path(name, "data", "pg_hba.conf")
            rules.write_text("local all app_user scram-sha-256\n" + rules.read_text())
            admin = create_engine(server.administrator)
            with admin.begin() as connection:
                connection.execute(text("ALTER ROLE app_user PASSWORD 'right'"))
                connection.execute(text("SELECT pg_reload_conf()"))
            admin.dispose()
            yield server


STOP = b"enough!!"


@pytest.fixture
def without_tls() -> Iterator[int]:
    """Return the port of a server that refuses TLS."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def refuse() -> None:
            while True:
                client, _ = listener.accept()
                with client:
                    if client.recv(8) == STOP:
                        return
                    client.sendall(b"N")

        thread = threading.Thread(target=refuse)
        thread.start()
        address = listener.getsockname()
        yield address[1]
        with socket.create_connection(address) as client:
            client.sendall(STOP)
        thread.join()


URLS = {
    "an unknown option": (
        "postgresql+psycopg://app_user:secret@127.0.0.1:1/x?foo=bar",
        'invalid connection option "foo"',
    ),
    "a host that is not there": ("postgresql+psycopg://u:secret@127.0.0.1:1/x", "refused"),
    "an @ in the password": (
        "postgresql+psycopg://u:sec@ret@nowhere.invalid/x",
        "write an @ in the password as %40",
    ),
    "a wrong password": (
        "postgresql+psycopg://app_user:secret@/cogni_billing?host={host}",
        "password authentication failed",
    ),
    "no password": (
        "postgresql+psycopg://app_user@/cogni_billing?host={host}",
        "no password supplied",
    ),
    "no such database": (
        "postgresql+psycopg://app_service:secret@/none?host={host}",
        'database "none" does not exist',
    ),
    "no such role": ("postgresql+psycopg://none:secret@/none?host={host}", 'role "none" does not'),
    "no TLS": (
        "postgresql+psycopg://u:secret@127.0.0.1:{port}/x?sslmode=require",
        "server does not support SSL",
    ),
}


@pytest.mark.parametrize("case", URLS)
def test_url_that_leads_nowhere_is_explained_without_its_password(
    guarded: EmbeddedPostgres, without_tls: int, run: Run, case: str
) -> None:
    shown, expected = URLS[case]
    host = guarded.administrator.query["host"]
    url = shown.format(host=host, port=without_tls)
    engine = create_engine(url)
    unit_of_work = PostgresUnitOfWork(engine, retry_for=timedelta(0))
    said = []
    for call in (
        lambda: Billing(unit_of_work).balance(ALICE),
        lambda: provision(engine),
        lambda: migrate(engine),
        lambda: doctor(engine),
    ):
        with pytest.raises(LedgerUnavailable) as caught:
            call()
        said.append(str(caught.value))
    failed = run("doctor", url=url)
    engine.dispose()

    assert failed.returncode == 69
    for message in (*said, failed.stderr):
        assert expected in message
        assert "secret" not in message
        assert "ret@" not in message


@pytest.mark.parametrize(
    "url",
    [
        "no url",
        "postgresql://u:secret@h:port/db",
        "mysql://u:secret@h/db",
        "sqlite://",
        "postgresql+asyncpg2//u:secret@h",
    ],
)
@pytest.mark.parametrize("command", ["demo", "provision", "migrate", "doctor"])
def test_url_of_something_else_is_explained(run: Run, command: str, url: str) -> None:
    with (
        pytest.raises(InvalidInput, match="admin_url: expected postgresql://") as caught,
        temporary_database(url),
    ):
        pass
    failed = run(command, url=url)

    assert failed.returncode == 2
    assert "postgresql://role@host/database" in failed.stderr
    assert "secret" not in str(caught.value) + failed.stderr


WITHOUT_POSIX = """
import sys
for name in ("fcntl", "grp", "pwd", "resource", "termios"):
    sys.modules[name] = None
import os
for name in ("chown", "fork", "geteuid", "getuid", "register_at_fork"):
    delattr(os, name)
import importlib, pkgutil
import cogni_billing
for each in pkgutil.walk_packages(cogni_billing.__path__, "cogni_billing."):
    if not each.name.startswith("cogni_billing.testing.contracts"):
        importlib.import_module(each.name)
from cogni_billing.adapters.postgres.embedded import EmbeddedPostgres
try:
    EmbeddedPostgres(bin_dir=".").start()
except cogni_billing.LedgerUnavailable as error:
    print(error)
"""


def test_every_module_imports_on_a_system_without_posix() -> None:
    ran = subprocess.run(
        [sys.executable, "-c", WITHOUT_POSIX], capture_output=True, text=True, check=False
    )

    assert ran.stderr == ""
    assert ran.stdout.startswith("the embedded server does not run on ")
