"""Runs contenders on an earlier version of the library, from git, beside the present one.

The earlier library is installed into its own directory. A process that imports it from there runs
these benchmarks on its own server, so both libraries do the same jobs.
"""

from __future__ import annotations

import atexit
import io
import os
import pickle
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Final, TypeVar

from attrs import frozen

from benchmarks.harness import Contender, Database, Sample, Work
from benchmarks.serving import served

COMMIT: Final = "bdc1208"
"""The last commit before every movement became one function call."""
ROOT: Final = Path(__file__).parents[1]
PARTS: Final = ("src", "pyproject.toml", "README.md", "LICENSE")

Result = TypeVar("Result")
_lines: list[Connection[bytes, bytes]] = []


@frozen
class Before(Contender):
    """A contender on the earlier library."""

    name: str
    contender: Contender
    against: str = ""

    def work(self, database: Database, clients: int, seconds: float) -> Work:
        raise NotImplementedError  # it has a database of its own

    def sample(self, _database: Database, clients: int, seconds: float) -> Sample:
        """Measure it in the other process, which reads the processor time of its own server."""
        return asked(partial(_sampled, self.contender, clients, seconds))


def _sampled(contender: Contender, clients: int, seconds: float, database: Database) -> Sample:
    return contender.sample(database, clients, seconds)


def asked(work: Callable[[Database], Result]) -> Result:
    """The result of *work* in the process of the earlier library. Starts the process if needed."""
    if not _lines:
        _lines.append(_started())
    [line] = _lines
    line.send(pickle.dumps(work))
    result: Result = pickle.loads(line.recv())  # noqa: S301 (our own process)
    return result


@contextmanager
def ended() -> Iterator[None]:
    """End the other process, and with it its server, at the end of the block."""
    yield
    while _lines:
        _lines.pop().close()


def _started() -> Connection[bytes, bytes]:
    ours, theirs = Pipe()
    subprocess.Popen(  # noqa: S603 (it ends when the pipe closes)
        [sys.executable, "-m", "benchmarks.before", str(theirs.fileno())],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": _installed()},
        pass_fds=[theirs.fileno()],
    )
    theirs.close()
    return ours


@cache
def _installed() -> str:
    """The directory that the earlier library is installed in. It is removed at exit."""
    folder = Path(tempfile.mkdtemp(prefix="cogni-before-"))
    atexit.register(shutil.rmtree, folder)
    git = ["git", "archive", COMMIT, *PARTS]
    archive = subprocess.run(git, cwd=ROOT, check=True, capture_output=True).stdout  # noqa: S603
    with tarfile.open(fileobj=io.BytesIO(archive)) as files:
        files.extractall(folder / "source", filter="data")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
    target = folder / "installed"
    subprocess.run([*pip, "--target", str(target), str(folder / "source")], check=True)  # noqa: S603
    return str(target)


def main() -> None:
    line: Connection[bytes, bytes] = Connection(int(sys.argv[1]))
    with served() as database:
        while True:
            try:
                work = pickle.loads(line.recv())  # noqa: S301 (our own process)
            except EOFError:
                return
            line.send(pickle.dumps(work(database)))


if __name__ == "__main__":
    main()
