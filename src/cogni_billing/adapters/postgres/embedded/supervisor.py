"""Run a PostgreSQL server for as long as the process that asked for it lives. Stdlib only.

Started as a program and session of its own. Its standard input is a pipe that only the asking
process holds open. When that process ends in any way, the pipe closes, and this program stops the
server and deletes its temporary files. It writes one line of JSON to standard output: that the
server is ready, or why it failed.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

_POLL_S = 0.01
_START_MAX_S = 60.0
_STOP_MAX_S = 15.0
_LOG_TAIL_BYTES = 2000
_PR_SET_PDEATHSIG = 1


class Gone(Exception):
    """The asking process has ended, or asked for the end."""


class Failed(Exception):
    """A program ended too early."""


def main() -> None:
    """Run the plan in the first argument, until standard input ends."""
    # Ctrl-C reaches the asking process. This program notices its end through the pipe.
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    plan = json.loads(sys.argv[1])
    # Without a name: root writes it for an account that could replace a file by a link.
    plan["log"] = tempfile.TemporaryFile()  # noqa: SIM115 (open until the end)
    server: subprocess.Popen[bytes] | None = None
    try:
        if plan["initdb"]:
            _wait(_spawn(plan, plan["initdb"]), plan)
        server = _spawn(plan, plan["postgres"])
        _wait_until_ready(server, plan)
        _say({"ready": True})
        _wait(server, plan)
    except Gone:
        pass
    except (Failed, OSError) as error:
        _say({"ready": False, "reason": str(error)})
    finally:
        if server is not None:
            _stop(server, fast=plan["keep"])
        for directory in {plan["base"], plan["scratch"]}:
            shutil.rmtree(directory)


def _spawn(plan: dict[str, Any], command: list[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(  # noqa: S603 (the commands are the library's own)
        command,
        stdin=subprocess.DEVNULL,
        stdout=plan["log"],
        stderr=plan["log"],
        cwd=plan["base"],
        user=plan["uid"],
        group=plan["gid"],
        extra_groups=None if plan["uid"] is None else [],
        preexec_fn=_end_with_parent,  # noqa: PLW1509 (this program has one thread)
    )


def _end_with_parent() -> None:
    """Make Linux stop the server if this program is killed."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGQUIT)


def _wait(process: subprocess.Popen[bytes], plan: dict[str, Any]) -> None:
    while process.poll() is None:
        _pause()
    if process.returncode != 0:
        raise Failed(_log_tail(plan))


def _wait_until_ready(server: subprocess.Popen[bytes], plan: dict[str, Any]) -> None:
    status = Path(plan["data"], "postmaster.pid")
    for _ in range(int(_START_MAX_S / _POLL_S)):
        if server.poll() is not None:
            raise Failed(_log_tail(plan))
        if _is_ready(status, server.pid):
            return
        _pause()
    raise Failed(f"not ready after {_START_MAX_S:.0f} s: {_log_tail(plan)}")


def _is_ready(status: Path, pid: int) -> bool:
    try:
        lines = status.read_text().split()
    except FileNotFoundError:  # a killed server's file, deleted in the meantime
        return False
    return lines[:1] == [str(pid)] and lines[-1:] == ["ready"]


def _pause() -> None:
    """Wait a moment, or less if the asking process has ended."""
    if select.select([sys.stdin], [], [], _POLL_S)[0] and not os.read(sys.stdin.fileno(), 1):
        raise Gone


def _stop(server: subprocess.Popen[bytes], *, fast: bool) -> None:
    # Temporary data needs no checkpoint.
    for number in (signal.SIGINT if fast else signal.SIGQUIT, signal.SIGQUIT, signal.SIGKILL):
        if server.poll() is not None:
            return
        server.send_signal(number)
        try:
            server.wait(_STOP_MAX_S)
        except subprocess.TimeoutExpired:
            continue


def _log_tail(plan: dict[str, Any]) -> str:
    log = plan["log"].fileno()
    start = max(0, os.fstat(log).st_size - _LOG_TAIL_BYTES)
    return os.pread(log, _LOG_TAIL_BYTES, start).decode(errors="replace").strip()


def _say(message: dict[str, object]) -> None:
    try:
        os.write(sys.stdout.fileno(), json.dumps(message).encode() + b"\n")
    except BrokenPipeError:
        return  # the asking process has ended


if __name__ == "__main__":
    main()
