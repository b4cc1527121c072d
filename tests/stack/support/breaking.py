"""Interruptions of a call at its n-th statement, including COMMIT."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import timedelta
from itertools import count
from typing import Any

import psycopg
import pytest
from sqlalchemy import URL, text

from cogni_billing import Billing, LedgerUnavailable, OutcomeUnknown
from cogni_billing.adapters.postgres import GroupCommit, PostgresUnitOfWork
from cogni_billing.testing import Call
from stack.conftest import Database
from stack.support.processes import FORKS
from stack.support.proxy import Cut, proxied
from stack.support.watching import BeforeEach, watched_engine


@contextmanager
def watched(
    urls: tuple[URL, URL], before_each: BeforeEach, group_commit: GroupCommit | None
) -> Iterator[Billing]:
    """Build a `Billing` that retries no lost connection, and reports each statement and COMMIT."""
    with ExitStack() as engines:
        user, service = (
            engines.enter_context(watched_engine(url, before_each, pool_size=1, max_overflow=0))
            for url in urls
        )
        options: dict[str, Any] = {"retry_for": timedelta(0), "group_commit": group_commit}
        yield Billing(PostgresUnitOfWork(user, service=service, **options))


def asked(database: Database) -> tuple[URL, URL]:
    return database.sandbox.role("app_user"), database.sandbox.role("app_service")


def terminate_backend(
    database: Database, place: int, call: Call, group_commit: GroupCommit | None = None
) -> bool:
    """Terminate the backend. A grouped call continues by itself, and is terminated there too."""
    sent = count()
    places = {place, place + 1} if group_commit else {place}
    hit = []

    def terminate(driver: psycopg.Connection[Any], _: str) -> None:
        if next(sent) in places:
            with database.admin.connect() as admin:
                pid = {"pid": driver.info.backend_pid}
                hit.append(admin.scalar(text("SELECT pg_terminate_backend(:pid, 10000)"), pid))

    with watched(asked(database), terminate, group_commit) as billing:
        try:
            call(billing)
        except (LedgerUnavailable, OutcomeUnknown):
            assert hit
            assert all(hit)
    assert hit or place > 0
    return bool(hit)


def die_at(urls: tuple[URL, URL], place: int, call: Call, group_commit: GroupCommit | None) -> None:
    """Make the call in this process, and kill the process before it sends that statement."""
    sent = count()

    def die(*_: object) -> None:
        if next(sent) == place:
            os.kill(os.getpid(), signal.SIGKILL)

    with watched(urls, die, group_commit) as billing:
        call(billing)


def kill_client(
    database: Database, place: int, call: Call, group_commit: GroupCommit | None = None
) -> bool:
    client = FORKS.Process(target=die_at, args=(asked(database), place, call, group_commit))
    client.start()
    client.join()
    assert client.exitcode in {0, -signal.SIGKILL}
    killed = client.exitcode == -signal.SIGKILL
    assert killed or place > 0
    return killed


def cut_line(
    database: Database, place: int, call: Call, group_commit: GroupCommit | None = None
) -> bool:
    """Cut the connection before the server gets COMMIT, and then after its answer.

    The client cannot distinguish the two. A grouped call continues by itself on another connection,
    and may get its answer.
    """
    if place > 1:
        return False
    user, service = asked(database)
    with (
        proxied(user) as (one, user_through),
        proxied(service) as (other, service_through),
        watched((user_through, service_through), lambda *_: None, group_commit) as billing,
    ):
        one.cut = other.cut = [Cut.BEFORE_COMMIT, Cut.AFTER_COMMIT][place]
        with suppress(OutcomeUnknown) if group_commit else pytest.raises(OutcomeUnknown):
            call(billing)
    return True


WAYS: dict[str, Callable[..., bool]] = {
    "a backend is terminated": terminate_backend,
    "a client is killed": kill_client,
    "the line is cut around COMMIT": cut_line,
}
