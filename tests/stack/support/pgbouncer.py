"""PgBouncer, by default in transaction mode with one connection to the server for each role."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from sqlalchemy import URL

from cogni_billing.adapters.postgres.embedded.server import unprivileged_account

BINARY: Final = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
_PATIENCE_S: Final = 30.0
_PORT: Final = 6432
_ROLES: Final = ("app_user", "app_service", "app_spender", "app_migrator", "postgres")
_CONFIGURATION: Final = """
[databases]
* = host={host} port={port}

[pgbouncer]
listen_addr =
unix_socket_dir = {folder}
listen_port = {pooler_port}
auth_type = trust
auth_file = {folder}/users
pool_mode = {mode}
default_pool_size = {size}
max_client_conn = 200
logfile = {folder}/log
"""


@contextmanager
def pooled(server: URL, *, mode: str = "transaction", size: int = 1) -> Iterator[URL]:
    """Start a pooler before *server* on a Unix socket. Returns its URL, for any role."""
    assert BINARY is not None, "pgbouncer is not installed"
    with tempfile.TemporaryDirectory(prefix="cogni-pooler-") as name:
        folder = Path(name)
        port = server.query["port"]
        settings = {"host": server.query["host"], "port": port, "folder": folder, "mode": mode}
        (folder / "users").write_text("".join(f'"{role}" ""\n' for role in _ROLES))
        (folder / "ini").write_text(_CONFIGURATION.format(pooler_port=_PORT, size=size, **settings))
        account = unprivileged_account() if os.geteuid() == 0 else None
        if account is not None:
            for path in (folder, *folder.iterdir()):
                os.chown(path, account.pw_uid, account.pw_gid)
        process = subprocess.Popen(
            [BINARY, "-q", str(folder / "ini")],
            user=None if account is None else account.pw_uid,
            group=None if account is None else account.pw_gid,
            extra_groups=None if account is None else [],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            _wait_for(folder / f".s.PGSQL.{_PORT}", process)
            yield server.update_query_dict({"host": str(folder), "port": str(_PORT)})
        finally:
            process.terminate()
            process.wait(_PATIENCE_S)


def _wait_for(socket: Path, process: subprocess.Popen[bytes]) -> None:
    waiting = threading.Event()
    for _ in range(int(_PATIENCE_S / 0.02)):
        if socket.exists():
            return
        assert process.poll() is None, (socket.parent / "log").read_text()
        waiting.wait(0.02)
    raise TimeoutError(f"no {socket}")
