"""A primary and its standby: writes continue after a switchover and after the primary has died."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Final
from urllib.parse import quote

import pytest
from sqlalchemy import URL, create_engine

from cogni_billing import Billing, credits, usd
from cogni_billing.adapters.postgres import PostgresUnitOfWork
from cogni_billing.testing.base import ALICE
from stack.support.clients import MAKES, POOL, Make, client
from stack.support.cluster import FENCE, PROMOTE, Cluster, Node, cluster, installed
from stack.support.command import Run
from stack.support.proxy import proxied, socket_of

LONG: Final = timedelta(seconds=120)
BOUGHT: Final = 10_000_000
CALLERS: Final = 4
CALLS: Final = 60
SESSIONS: Final = """
    SELECT count(*) FROM pg_stat_activity WHERE usename IN ('app_user', 'app_service')
"""


@pytest.fixture(scope="module")
def installation() -> Iterator[Path]:
    with installed() as data_dir:
        yield data_dir


@pytest.fixture
def nodes(installation: Path) -> Iterator[Cluster]:
    """Start a primary where Alice has bought credits, and its standby, for this test alone."""
    with cluster(installation) as nodes:
        with steady(nodes.primary) as billing:
            billing.confirm_purchase(ALICE, usd("1.00"), payment="stripe:0")
        yield nodes


@pytest.fixture(scope="module")
def kept_nodes(installation: Path) -> Iterator[Cluster]:
    """Start the same two for tests that change neither."""
    with cluster(installation) as nodes:
        with steady(nodes.primary) as billing:
            billing.confirm_purchase(ALICE, usd("1.00"), payment="stripe:0")
        yield nodes


@pytest.fixture(params=MAKES)
def make(request: pytest.FixtureRequest) -> Make:
    return MAKES[request.param]


@contextmanager
def steady(node: Node) -> Iterator[Billing]:
    """Build a host of this server alone, without retries."""
    user, service = (create_engine(node.url(role)) for role in ("app_user", "app_service"))
    yield Billing(PostgresUnitOfWork(user, service=service, retry_for=timedelta(0)))
    for engine in (user, service):
        engine.dispose()


def promote(nodes: Cluster) -> None:
    assert nodes.standby.ask(PROMOTE) == [True]


def test_callers_under_load_continue_after_a_failover(
    nodes: Cluster, make: Make, loop: asyncio.AbstractEventLoop
) -> None:
    answered: list[str] = []

    def charge(billing: Billing, caller: int) -> list[bool]:
        replayed = []
        for number in range(CALLS):
            reference = f"r{caller}-{number}"
            replayed.append(billing.charge(ALICE, credits(1), reference=reference).replayed)
            answered.append(reference)
        return replayed

    urls = nodes.url("app_user"), nodes.url("app_service")
    with client(make, *urls, loop, retry_for=LONG) as host, ThreadPoolExecutor(CALLERS) as threads:
        working = [threads.submit(charge, host.billing, caller) for caller in range(CALLERS)]
        wait_for(answered, CALLERS * CALLS // 4, working)
        nodes.primary.kill()
        promote(nodes)
        replayed = [each for caller in working for each in caller.result()]
        refund = host.billing.refund(ALICE, payment="stripe:0", amount=usd("0.01"), reference="re")

    assert replayed == [False] * (CALLERS * CALLS)
    assert not refund.replayed
    spent = CALLERS * CALLS + BOUGHT // 100
    with steady(nodes.standby) as writer:
        assert writer.balance(ALICE).posted == credits(BOUGHT - spent)
        assert writer.verify().violations == ()


def wait_for(answered: Sequence[str], number: int, working: Sequence[Future[list[bool]]]) -> None:
    """Wait until *number* calls were answered."""
    while len(answered) < number:
        for caller in working:
            if caller.done():
                caller.result()


def test_sessions_on_a_demoted_primary_leave_the_pool_at_the_first_refusal(
    nodes: Cluster, make: Make, loop: asyncio.AbstractEventLoop
) -> None:
    urls = nodes.url("app_user"), nodes.url("app_service")
    with client(make, *urls, loop, retry_for=LONG) as host:
        host.fill_pools()
        nodes.primary.ask(*FENCE)
        promote(nodes)
        given = calls(host.billing)
        [left] = nodes.primary.ask(SESSIONS)

    assert sorted(host.lost) == ["app_service", "app_user"]
    assert left == 0
    assert not any(given)
    with steady(nodes.standby) as writer:
        assert all(calls(writer))


def test_sessions_on_a_standby_leave_the_pool_at_the_first_refusal(
    kept_nodes: Cluster,
    make: Make,
    loop: asyncio.AbstractEventLoop,
    request: pytest.FixtureRequest,
) -> None:
    """The URL led to the standby when the pool was filled, and leads to the primary now."""
    key = request.node.callspec.id.replace(" ", "")
    with proxied(kept_nodes.standby.url("app_user")) as (proxy, url):
        service = url.set(username="app_service")
        with client(make, url, service, loop, retry_for=LONG) as host:
            host.fill_pools()
            proxy.server = socket_of(kept_nodes.primary.url("app_user"))
            given = calls(host.billing, key)
            [left] = kept_nodes.standby.ask(SESSIONS)

    assert sorted(host.lost) == ["app_service", "app_user"]
    assert left == 0
    assert not any(given)
    with steady(kept_nodes.primary) as writer:
        assert all(calls(writer, key))


def calls(billing: Billing, key: str = "r") -> list[bool]:
    """Make enough calls of both roles to use each connection. True for each replay."""
    made = []
    for number in range(POOL):
        reference = f"{key}-{number}"
        made.append(billing.charge(ALICE, credits(1), reference=reference).replayed)
        refunded = billing.refund(
            ALICE, payment="stripe:0", amount=usd("0.01"), reference=reference
        )
        made.append(refunded.replayed)
    return made


def of_libpq(url: URL) -> str:
    """Convert the URL to the form of libpq and psql."""
    hosts = zip(str(url.query["host"]).split(","), str(url.query["port"]).split(","), strict=True)
    listed = ",".join(f"{quote(host, safe='')}:{port}" for host, port in hosts)
    wanted = url.query["target_session_attrs"]
    return f"postgresql://{url.username}@{listed}/{url.database}?target_session_attrs={wanted}"


def test_command_with_several_hosts_reaches_the_promoted_standby(nodes: Cluster, run: Run) -> None:
    url = nodes.url("app_user")
    for number, shown in enumerate((url.render_as_string(), of_libpq(url))):
        charged = run("purchase", str(ALICE), "1.00", "--payment", f"stripe:a{number}", url=shown)
        assert (charged.returncode, charged.stderr) == (0, "")
    nodes.primary.kill()
    promote(nodes)

    for number, shown in enumerate((url.render_as_string(), of_libpq(url))):
        again = run("purchase", str(ALICE), "1.00", "--payment", f"stripe:a{number}", url=shown)
        first = run("purchase", str(ALICE), "1.00", "--payment", f"stripe:b{number}", url=shown)
        assert again.stdout.startswith("replayed")
        assert first.stdout.startswith("confirmed")
    assert run("doctor", url=of_libpq(url)).returncode == 0
