"""The kit's fixtures over PostgreSQL, in a host's own test run."""

from __future__ import annotations

from pathlib import Path

import pytest

from cogni_billing import Billing, usd
from cogni_billing.testing import ALICE
from stack.support.documents import pytest_printed, write_files

HOST = """
import pytest
from cogni_billing.adapters.postgres import PostgresUnitOfWork
from cogni_billing import UnknownAccount, usd
from cogni_billing.testing import ALICE

@pytest.mark.parametrize("turn", [1, 2])
def test_each_finds_an_empty_ledger(billing, turn):
    with pytest.raises(UnknownAccount):
        billing.balance(ALICE)
    assert not billing.confirm_purchase(ALICE, usd(1), payment="stripe:1").replayed

def test_it_is_in_postgresql(billing):
    assert isinstance(billing.unit_of_work, PostgresUnitOfWork)
"""


def test_a_ledger_in_postgresql_is_empty(postgres_billing: Billing) -> None:
    assert not postgres_billing.confirm_purchase(ALICE, usd("1.00"), payment="stripe:1").replayed
    assert postgres_billing.verify().transactions == 1


@pytest.mark.parametrize(
    ("option", "outcome"),
    [("--billing-on=postgres", "3 passed"), ("--billing-on=memory", "1 failed, 2 passed")],
)
def test_a_host_says_where_the_ledger_is(tmp_path: Path, option: str, outcome: str) -> None:
    (tmp_path / "conftest.py").write_text('pytest_plugins = ["cogni_billing.testing.plugin"]\n')
    (tmp_path / "test_host.py").write_text(HOST)

    printed = pytest_printed(tmp_path, option)

    assert outcome in printed, printed


@pytest.mark.parametrize("on", ["memory", "postgres"])
def test_examples_of_the_testing_page_run(tmp_path: Path, on: str) -> None:
    write_files("docs/how-to/testing.md", tmp_path)

    printed = pytest_printed(tmp_path, f"--billing-on={on}", "-k", "trial or paid or TestPurchases")

    assert "test_trial.py ." in printed, printed
    assert "test_prices.py ." in printed, printed
    assert "test_our_ledger.py ......" in printed, printed
    assert "failed" not in printed, printed
