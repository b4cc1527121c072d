"""Two calls, stepped statement by statement in every order with at most two preemptions."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from enum import Enum, auto
from typing import Any, Final

import psycopg
from attrs import define, field
from sqlalchemy import Connection, Engine, create_engine, event, text

from cogni_billing import Billing, BillingError, TenantId
from cogni_billing.adapters.postgres import PostgresUnitOfWork
from cogni_billing.adapters.postgres.unit_of_work import Result, SingleWork
from cogni_billing.domain.transactions import Recorded, Transaction
from stack.conftest import Database

PATIENCE_S: Final = 30.0
TURN_S: Final = 0.002
TO_THE_END: Final = 10_000
# Waits for a lock, or sleeps until other transactions end.
WAITING: Final = text("""
    SELECT cardinality(pg_blocking_pids(:pid)) > 0
        OR (SELECT wait_event = 'PgSleep' FROM pg_stat_activity WHERE pid = :pid)
""")

Call = Callable[[Billing], object]
Told = tuple[str, object]


class Place(Enum):
    """The place of a session in its call."""

    AT_A_STATEMENT = auto()
    IN_A_STATEMENT = auto()
    AT_THE_END = auto()


class Stepwise(PostgresUnitOfWork):
    """Sends COMMIT for a call of one statement, so that another session can come between."""

    def post(self, transaction: Transaction, /) -> Recorded:
        return self.run(transaction.tenant, lambda scope: scope.ledger.post(transaction))

    def single(self, tenant: TenantId, work: SingleWork[Result], /) -> Result:
        return self.run(tenant, work)


@define(eq=False)
class Session:
    """A thread that makes one call on connections of its own, and waits before each statement."""

    user: Engine
    service: Engine
    place: Place = Place.AT_THE_END
    statements: int = 0
    _go: threading.Semaphore = field(factory=lambda: threading.Semaphore(0))
    _arrivals: queue.SimpleQueue[Told | None] = field(factory=queue.SimpleQueue)
    _backend: int = 0
    _outcome: Told | None = None

    def __attrs_post_init__(self) -> None:
        for engine in (self.user, self.service):
            event.listen(engine, "before_cursor_execute", self._arrive_at)
            event.listen(engine, "commit", self._arrive)

    def _arrive_at(self, connection: Connection, *_: object) -> None:
        self._arrive(connection)

    def _arrive(self, connection: Connection) -> None:
        driver = connection.connection.driver_connection
        assert isinstance(driver, psycopg.Connection)
        self._backend = driver.info.backend_pid
        self._arrivals.put(None)
        assert self._go.acquire(timeout=PATIENCE_S)

    def start(self, call: Call, **options: Any) -> None:
        unit_of_work = Stepwise(self.user, service=self.service)
        billing = Billing(unit_of_work, **options)

        def run() -> None:
            try:
                outcome: Told = ("ok", call(billing))
            except BillingError as error:
                outcome = (error.code, None)
            except BaseException as error:  # noqa: BLE001 (told by `outcome`, in the test's thread)
                outcome = ("crash", error)
            self._arrivals.put(outcome)

        self.place, self.statements = Place.IN_A_STATEMENT, 0
        threading.Thread(target=run, daemon=True).start()

    def go(self) -> None:
        """Run the statement that the session waits before."""
        assert self.place is Place.AT_A_STATEMENT
        self.place = Place.IN_A_STATEMENT
        self.statements += 1
        self._go.release()

    def has_arrived(self, within_s: float) -> bool:
        """True if it reaches its next statement or its end within so many seconds."""
        if self.place is not Place.IN_A_STATEMENT:
            return True
        try:
            self._outcome = self._arrivals.get(timeout=within_s)
        except queue.Empty:
            return False
        self.place = Place.AT_A_STATEMENT if self._outcome is None else Place.AT_THE_END
        return True

    def is_waiting(self, observer: Connection) -> bool:
        return bool(observer.scalar(WAITING, {"pid": self._backend}))

    def outcome(self) -> Told:
        assert self._outcome is not None
        if isinstance(self._outcome[1], BaseException):
            raise self._outcome[1]
        return self._outcome


@define
class Stage:
    """Two sessions, and a connection that observes them."""

    sessions: tuple[Session, Session]
    observer: Connection
    waits: int = 0

    def play(
        self, calls: tuple[Call, Call], turns: Sequence[tuple[int, int]], **options: Any
    ) -> list[Told]:
        """Play *calls* with each of *turns*, a session and a number of statements, in order.

        A session that waits for a lock of the other lets the other continue.
        """
        for session, call in zip(self.sessions, calls, strict=True):
            session.start(call, **options)
            assert session.has_arrived(PATIENCE_S)
        for number, statements in turns:
            for _ in range(statements):
                if not self._step(self.sessions[number], self.sessions[1 - number]):
                    break
        return [session.outcome() for session in self.sessions]

    def _step(self, one: Session, other: Session) -> bool:
        """Run one statement of *one*. True if there was one."""
        if one.place is Place.AT_THE_END:
            return False
        if one.place is Place.AT_A_STATEMENT:
            one.go()
        while not self._arrives(one):
            if other.place is Place.AT_A_STATEMENT:
                other.go()
            if not self._arrives(other):  # a deadlock, which the server ends
                assert other.has_arrived(PATIENCE_S) or one.has_arrived(0)
        return True

    def _arrives(self, session: Session) -> bool:
        """True if the session reaches its next statement without waiting for the other."""
        while not session.has_arrived(TURN_S):
            if session.is_waiting(self.observer):
                self.waits += 1
                return session.has_arrived(TURN_S)
        return True


@contextmanager
def staged(database: Database) -> Iterator[Stage]:
    """Open two sessions with connections of their own, on a server that detects deadlocks soon."""
    urls = [database.sandbox.role(role) for role in ("app_user", "app_service")]
    engines = [create_engine(url, pool_size=1, max_overflow=0) for url in urls * 2]
    autocommit = database.admin.execution_options(isolation_level="AUTOCOMMIT")
    with autocommit.connect() as observer:
        yield Stage((Session(engines[0], engines[1]), Session(engines[2], engines[3])), observer)
    for engine in engines:
        engine.dispose()


def schedules(statements: tuple[int, int]) -> Iterator[list[tuple[int, int]]]:
    """Yield every order with one or two preemptions, of calls of so many statements."""
    for first in (0, 1):
        other = 1 - first
        for before in range(1, statements[first]):
            for between in range(1, statements[other] + 1):
                yield [
                    (first, before),
                    (other, between),
                    (first, TO_THE_END),
                    (other, TO_THE_END),
                ]
