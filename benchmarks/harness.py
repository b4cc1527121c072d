"""Measures contenders side by side, with some clients for some seconds, in turn.

A contender does one job in its own way. A cell is a contender with a number of clients. Each round
goes through all cells, so that other load on the machine meets all of them.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, AbstractContextManager, suppress
from functools import partial
from multiprocessing.connection import Connection as Pipe
from multiprocessing.synchronize import Barrier
from typing import Any, Final

import psutil
from attrs import Factory, define, frozen
from rich.progress import track
from sqlalchemy import URL, create_engine, text

PROCESSES_MAX: Final = 4
"""The most processes for the clients. More would compete for two cores."""
WARM_UP_CALLS: Final = 10
WARM_UP_S: Final = 1.0
"""The limits of the warm-up, in calls and seconds."""
MS, US = 1e3, 1e6
_CONTEXT: Final = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["benchmarks.library", "benchmarks.handwritten"])

Call = Callable[[], object]
AsyncCall = Callable[[], Awaitable[object]]


@define
class Database:
    """A database for the contenders, with a URL for each role and the use of the server."""

    urls: Mapping[str, URL]
    signing_key: bytes | None = None
    notes: list[str] = Factory(list)
    """Observations from its preparation."""
    _postmaster: int = 0
    """The process id of the server's parent process."""

    def url(self, role: str) -> URL:
        return self.urls[role]

    def ask(self, question: str) -> Any:
        """The result of a query with one value, as a superuser."""
        engine = create_engine(self.url("postgres"), isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            answer = connection.execute(text(question)).scalar_one()
        engine.dispose()
        return answer

    def taken(self) -> Taken:
        """The processor time and the log of the server, up to now."""
        self._postmaster = self._postmaster or self._parent_of_a_backend()
        server = psutil.Process(self._postmaster)
        wal = int(self.ask("SELECT pg_current_wal_insert_lsn() - '0/0'"))
        # The time of a process that ends now moves to its parent.
        parts = [_cpu_s(child) for child in server.children()]
        return Taken(_cpu_s(server) + sum(parts), wal)

    def _parent_of_a_backend(self) -> int:
        engine = create_engine(self.url("postgres"))
        with engine.connect() as connection:
            pid: int = connection.execute(text("SELECT pg_backend_pid()")).scalar_one()
            parent = psutil.Process(pid).ppid()
        engine.dispose()
        return parent


def _cpu_s(process: psutil.Process) -> float:
    """The processor seconds of the process, and of its children that have ended."""
    with suppress(psutil.NoSuchProcess):
        return float(sum(process.cpu_times()[:4]))
    return 0.0


@frozen
class Taken:
    """The resources that a server has used up to a moment."""

    cpu_s: float
    wal_bytes: int


@frozen
class Done:
    """The calls of the clients of one process, with their seconds each and in all."""

    calls_s: Sequence[float]
    elapsed_s: float
    cpu_s: float


@frozen
class Work(Done):
    """The calls of all clients, and the server's use at their start."""

    before: Taken


@frozen
class Sample:
    """The figures of one cell in one round.

    If a call does many jobs at once, its cost is divided among the jobs. Percentiles are of calls.
    """

    jobs_per_s: float
    p50_ms: float
    p99_ms: float
    client_cpu_us: float
    server_cpu_us: float
    wal_bytes: float


class Contender(ABC):
    """A way to do a job."""

    name: str
    at_once: int = 1
    """The number of jobs in a call."""
    against: str = ""
    """The name of the contender to compare with. By default the first one."""

    @abstractmethod
    def work(self, database: Database, clients: int, seconds: float) -> Work:
        """Do the job with that many concurrent clients, for that many seconds."""

    def sample(self, database: Database, clients: int, seconds: float) -> Sample:
        done = self.work(database, clients, seconds)
        taken = database.taken()
        ordered = sorted(done.calls_s)
        calls = len(ordered)
        jobs = calls * self.at_once
        return Sample(
            jobs_per_s=jobs / done.elapsed_s,
            p50_ms=ordered[calls * 50 // 100] * MS,
            p99_ms=ordered[calls * 99 // 100] * MS,
            client_cpu_us=done.cpu_s / jobs * US,
            server_cpu_us=(taken.cpu_s - done.before.cpu_s) / jobs * US,
            wal_bytes=(taken.wal_bytes - done.before.wal_bytes) / jobs,
        )


@frozen
class Gate:
    """The barrier at which the connected and warm processes of a cell wait for their start."""

    barrier: Barrier
    seconds: float

    def deadline(self) -> float:
        self.barrier.wait()
        self.barrier.wait()
        return time.perf_counter() + self.seconds

    def opened(self, database: Database) -> Taken:
        """Start all processes when all are ready. Returns the server's use until then."""
        self.barrier.wait()
        before = database.taken()
        self.barrier.wait()
        return before


class InPython(Contender):
    """A contender with clients in a few Python processes, as in a host."""

    processes: int = PROCESSES_MAX

    @abstractmethod
    def drive(self, database: Database, clients: int, gate: Gate) -> Done:
        """Do the job in this process: prepare, wait at the gate, and repeat until the deadline."""

    def work(self, database: Database, clients: int, seconds: float) -> Work:
        processes = min(clients, self.processes)
        gate = Gate(_CONTEXT.Barrier(processes + 1), seconds)
        shares = [len(range(first, clients, processes)) for first in range(processes)]
        with ThreadPoolExecutor(processes) as pool:
            running = pool.map(partial(_in_process, self, database, gate), shares)
            before = gate.opened(database)
            done = list(running)
        return Work(
            [seconds for each in done for seconds in each.calls_s],
            max(each.elapsed_s for each in done),
            sum(each.cpu_s for each in done),
            before,
        )


def _in_process(contender: InPython, database: Database, gate: Gate, clients: int) -> Done:
    ours, theirs = _CONTEXT.Pipe(duplex=False)
    arguments = (contender, database, gate, clients, theirs)
    process = _CONTEXT.Process(target=_driven, args=arguments)
    try:
        process.start()
        theirs.close()
        done: Done = ours.recv()
        process.join()
    except BaseException:
        gate.barrier.abort()  # releases the others if one has failed
        raise
    return done


def _driven(
    contender: InPython, database: Database, gate: Gate, clients: int, answer: Pipe
) -> None:
    answer.send(contender.drive(database, clients, gate))


@frozen
class Threads(InPython):
    """A contender with threads as clients."""

    name: str
    open: Callable[[Database, int], AbstractContextManager[Sequence[Call]]]
    """Makes a call for each client."""
    at_once: int = 1
    against: str = ""
    processes: int = PROCESSES_MAX

    def drive(self, database: Database, clients: int, gate: Gate) -> Done:
        with self.open(database, clients) as calls, ThreadPoolExecutor(clients) as pool:
            list(pool.map(_warm_up, calls))
            deadline = gate.deadline()
            began, cpu = time.perf_counter(), time.process_time()
            done = [each for calls in pool.map(partial(_repeat, deadline), calls) for each in calls]
            return Done(done, time.perf_counter() - began, time.process_time() - cpu)


def _warm_up(call: Call) -> None:
    deadline = time.perf_counter() + WARM_UP_S
    for _ in range(WARM_UP_CALLS):
        if time.perf_counter() < deadline:
            call()


def _repeat(deadline: float, call: Call) -> list[float]:
    """The seconds of each call until the deadline."""
    taken = []
    began = time.perf_counter()
    while began < deadline:
        call()
        ended = time.perf_counter()
        taken.append(ended - began)
        began = ended
    return taken


@frozen
class Tasks(InPython):
    """A contender with tasks of an event loop as clients."""

    name: str
    open: Callable[[Database, int], AbstractAsyncContextManager[Sequence[AsyncCall]]]
    processes: int = PROCESSES_MAX

    def drive(self, database: Database, clients: int, gate: Gate) -> Done:
        return asyncio.run(self._drive(database, clients, gate))

    async def _drive(self, database: Database, clients: int, gate: Gate) -> Done:
        async with self.open(database, clients) as calls:
            await asyncio.gather(*(_warm_up_awaited(call) for call in calls))
            deadline = gate.deadline()
            began, cpu = time.perf_counter(), time.process_time()
            taken = await asyncio.gather(*(_repeat_awaited(deadline, call) for call in calls))
            done = [each for calls in taken for each in calls]
            return Done(done, time.perf_counter() - began, time.process_time() - cpu)


async def _warm_up_awaited(call: AsyncCall) -> None:
    deadline = time.perf_counter() + WARM_UP_S
    for _ in range(WARM_UP_CALLS):
        if time.perf_counter() < deadline:
            await call()


async def _repeat_awaited(deadline: float, call: AsyncCall) -> list[float]:
    taken = []
    began = time.perf_counter()
    while began < deadline:
        await call()
        ended = time.perf_counter()
        taken.append(ended - began)
        began = ended
    return taken


@frozen
class Cell:
    """A contender with a number of clients."""

    contender: Contender
    clients: int


def measured(
    database: Database, cells: Sequence[Cell], *, rounds: int, seconds: float
) -> list[list[Sample]]:
    """The samples of each cell in each round."""
    samples: list[list[Sample]] = [[] for _ in cells]
    for _ in track(range(rounds), "rounds"):
        for cell, found in zip(cells, samples, strict=True):
            found.append(cell.contender.sample(database, cell.clients, seconds))
    return samples
