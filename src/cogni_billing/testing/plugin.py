"""Fixtures for a host's own tests.

In its `conftest.py`: `pytest_plugins = ["cogni_billing.testing.plugin"]`.

`billing` is a `Billing` over an empty ledger: in memory, or in PostgreSQL with
`pytest --billing-on=postgres`. `memory_billing` and `postgres_billing` are always in one of them.
Their clock is `billing_clock`, which stands still until a test moves it. Their ids are
`billing_ids`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine, create_engine

from cogni_billing import Billing
from cogni_billing.adapters.memory import InMemoryUnitOfWork
from cogni_billing.adapters.postgres import PostgresUnitOfWork, reset
from cogni_billing.adapters.postgres.operations.sandbox import Sandbox, temporary_database
from cogni_billing.testing.base import CountingIds, MovableClock


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option for the store of the fixture `billing`."""
    parser.getgroup("cogni-billing").addoption(
        "--billing-on",
        choices=["memory", "postgres"],
        default="memory",
        help="the store of the fixture `billing` (default: memory)",
    )


@pytest.fixture
def billing_clock() -> MovableClock:
    """A clock that stands at noon. `billing_clock.move(timedelta(days=1))` adds a day."""
    return MovableClock()


@pytest.fixture
def billing_ids() -> CountingIds:
    """An id source that returns 1, 2, 3 and so on."""
    return CountingIds()


@pytest.fixture
def memory_billing(billing_clock: MovableClock, billing_ids: CountingIds) -> Billing:
    """A `Billing` over an empty ledger in memory."""
    return Billing(InMemoryUnitOfWork(), clock=billing_clock, ids=billing_ids)


@pytest.fixture(scope="session")
def billing_database() -> Iterator[Sandbox]:
    """A database with the ledger in it, for this session (for each worker of pytest-xdist).

    It is on an embedded server, in memory. `COGNI_BILLING_TEST_POSTGRES_BIN` names other binaries
    than the bundled ones. With `COGNI_BILLING_DATABASE_URL`, the URL of an administrator, it is on
    that server instead, and is dropped at the end. `billing_database.url("app_user")` is the URL of
    a role.
    """
    url = os.environ.get("COGNI_BILLING_DATABASE_URL")
    if url is not None:
        with temporary_database(url) as database:
            yield database
        return
    # Imported here, because the binaries are an extra.
    from cogni_billing.adapters.postgres.embedded import EmbeddedPostgres  # noqa: PLC0415

    binaries = os.environ.get("COGNI_BILLING_TEST_POSTGRES_BIN")
    with EmbeddedPostgres(bin_dir=Path(binaries) if binaries else None, in_memory=True) as server:
        yield server


@pytest.fixture(scope="session")
def _billing_engines(billing_database: Sandbox) -> Iterator[dict[str, Engine]]:
    roles = ("app_user", "app_service", "app_migrator")
    engines = {role: create_engine(billing_database.role(role)) for role in roles}
    yield engines
    for engine in engines.values():
        engine.dispose()


@pytest.fixture
def postgres_billing(
    _billing_engines: dict[str, Engine], billing_clock: MovableClock, billing_ids: CountingIds
) -> Billing:
    """A `Billing` over an empty ledger in PostgreSQL."""
    reset(_billing_engines["app_migrator"])
    unit_of_work = PostgresUnitOfWork(
        _billing_engines["app_user"], service=_billing_engines["app_service"]
    )
    return Billing(unit_of_work, clock=billing_clock, ids=billing_ids)


@pytest.fixture
def billing(request: pytest.FixtureRequest) -> Billing:
    """A `Billing` over an empty ledger in the store of `--billing-on`."""
    on = request.config.getoption("billing_on")
    made: Billing = request.getfixturevalue(f"{on}_billing")
    return made
