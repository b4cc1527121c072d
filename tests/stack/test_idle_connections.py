"""Connections that were lost while idle cause no error, and at most one retry."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import partial
from typing import Any, Final

import pytest
from sqlalchemy import URL, text

from cogni_billing import Billing, credits, usd
from cogni_billing.adapters.postgres import PostgresUnitOfWork
from cogni_billing.testing.base import ALICE
from cogni_billing.testing.racing import at_once
from stack.conftest import Database
from stack.support.clients import MAKES, POOL, Client, Make, client
from stack.support.killable import killable
from stack.support.proxy import Proxy, proxied, socket_of

LONG: Final = timedelta(seconds=60)
BOUGHT: Final = 10_000_000
SESSIONS: Final = """
    FROM pg_stat_activity
    WHERE usename IN ('app_user', 'app_service') AND datname = current_database()
"""
COUNT: Final = text(f"SELECT count(*) {SESSIONS}")
TERMINATE: Final = text(f"SELECT count(pg_terminate_backend(pid, 10000)) {SESSIONS}")


def terminated(database: Database, _: Proxy, host: Client) -> None:
    host.fill_pools()
    with database.admin.connect() as admin:
        assert admin.scalar(TERMINATE) >= 2 * POOL


def timed_out(database: Database, _: Proxy, host: Client) -> None:
    host.fill_pools("SET idle_session_timeout = '1ms'")
    with database.admin.execution_options(isolation_level="AUTOCOMMIT").connect() as admin:
        while admin.scalar(COUNT):
            pass


def dropped(_: Database, proxy: Proxy, host: Client) -> None:
    host.fill_pools()
    proxy.drop()


CUTS: Final = (terminated, timed_out, dropped)
# One call is a statement, the other a scope of the service role.
CALLS: Final[dict[str, Callable[[Billing, str], Any]]] = {
    "charge": lambda billing, key: billing.charge(ALICE, credits(1), reference=key),
    "refund": lambda billing, key: billing.refund(
        ALICE, payment="stripe:0", amount=usd("0.01"), reference=key
    ),
}


@pytest.fixture(params=MAKES)
def make(request: pytest.FixtureRequest) -> Make:
    return MAKES[request.param]


@pytest.fixture
def line(database: Database) -> Iterator[tuple[Proxy, URL]]:
    with proxied(database.sandbox.role("app_user")) as line:
        yield line


def bought(database: Database) -> Billing:
    """Let Alice buy credits, and end all sessions of this host."""
    steady = Billing(PostgresUnitOfWork(database.user, service=database.service))
    steady.confirm_purchase(ALICE, usd("1.00"), payment="stripe:0")
    database.user.dispose()
    database.service.dispose()
    return steady


@pytest.mark.parametrize("cut", CUTS, ids=lambda cut: cut.__name__)
@pytest.mark.parametrize("name", CALLS)
def test_call_on_a_pool_of_lost_connections_meets_one_of_them_and_happens_once(
    database: Database,
    line: tuple[Proxy, URL],
    loop: asyncio.AbstractEventLoop,
    make: Make,
    cut: Callable[[Database, Proxy, Client], None],
    name: str,
) -> None:
    steady, (proxy, url), call = bought(database), line, CALLS[name]
    keys = [f"r{number}" for number in range(2 * POOL)]
    with client(make, url, url.set(username="app_service"), loop, retry_for=LONG) as host:
        cut(database, proxy, host)
        given = [call(host.billing, key) for key in keys]

    assert not any(receipt.replayed for receipt in given)
    assert len(host.lost) == len(set(host.lost)) >= 1
    assert all(call(steady, key).replayed for key in keys)
    assert steady.verify().violations == ()


def test_calls_at_once_on_a_pool_of_lost_connections_all_succeed(
    database: Database, line: tuple[Proxy, URL], loop: asyncio.AbstractEventLoop, make: Make
) -> None:
    steady, (proxy, url) = bought(database), line
    with client(make, url, url.set(username="app_service"), loop, retry_for=LONG) as host:
        host.fill_pools()
        proxy.drop()
        given = at_once(
            [
                partial(host.billing.charge, ALICE, credits(1), reference=f"r{number}")
                for number in range(2 * POOL)
            ]
        )

    assert not any(receipt.replayed for receipt in given)
    assert steady.balance(ALICE).posted == credits(BOUGHT - 2 * POOL)


def test_call_after_a_restart_of_the_server_happens_once(
    loop: asyncio.AbstractEventLoop, make: Make
) -> None:
    with killable() as server:
        bought(server.database)
        with proxied(server.database.sandbox.role("app_user")) as (proxy, url):
            service = url.set(username="app_service")
            with client(make, url, service, loop, retry_for=LONG) as host:
                host.fill_pools()
                server.kill()
                server.start()
                proxy.server = socket_of(server.database.sandbox.role("app_user"))
                given = [call(host.billing, name) for name, call in CALLS.items()]

        assert not any(receipt.replayed for receipt in given)
        assert sorted(host.lost) == sorted(set(host.lost))
        steady = Billing(server.unit_of_work())
        assert all(call(steady, name).replayed for name, call in CALLS.items())
        assert steady.verify().violations == ()
