"""The doors of the package show what they list, and open without a driver."""

from __future__ import annotations

import subprocess
import sys

import pytest

import cogni_billing
from cogni_billing import testing
from cogni_billing.adapters import memory, postgres


def printed(code: str) -> str:
    """What *code* prints in an interpreter of its own."""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return ran.stdout.strip()


def test_everything_is_imported_by_a_star_and_nothing_more() -> None:
    code = "from cogni_billing import *\nprint(*sorted(n for n in dir() if n[:2] != '__'))"

    assert printed(code).split() == sorted(cogni_billing.__all__)


@pytest.mark.parametrize(
    "name",
    [
        *("Billing", "RevenueSharePolicy", "ShareRule", "ShareMode", "Amount", "BillingError"),
        *("CREDIT", "USD", "USDC", "credits", "usd", "usd_cents", "credits_for", "allocate"),
        *("TenantId", "AccountId", "SYSTEM_TENANT_ID", "SYSTEM_ACCOUNT_ID"),
        *("Receipt", "Share", "Balance", "Page", "Line", "Account"),
    ],
)
def test_what_hosts_need_is_listed(name: str) -> None:
    assert name in cogni_billing.__all__
    assert hasattr(cogni_billing, name)


def test_the_door_of_the_twin_is_one_name() -> None:
    assert memory.__all__ == ["InMemoryUnitOfWork"]


@pytest.mark.parametrize("door", [memory, postgres, testing])
def test_what_a_door_shows_is_what_it_lists(door: object) -> None:
    shown = {
        name
        for name, item in vars(door).items()
        if not name.startswith("_") and not isinstance(item, type(sys))
    }

    assert shown == set(door.__all__)  # type: ignore[attr-defined]


@pytest.mark.parametrize("module", ["cogni_billing", "cogni_billing.adapters.memory"])
def test_a_fresh_import_loads_neither_driver_nor_framework(module: str) -> None:
    heavy = ("sqlalchemy", "psycopg", "alembic", "typer", "rich", "hypothesis", "pytest")
    code = f"import sys, {module}\nprint(*{{*{heavy!r}}} & {{*sys.modules}})"

    assert printed(code) == ""


def test_a_purchase_in_memory_loads_no_driver() -> None:
    code = (
        "import sys, uuid\n"
        "from cogni_billing import Billing, usd\n"
        "from cogni_billing.adapters.memory import InMemoryUnitOfWork\n"
        "tenant = uuid.UUID(int=5)\n"
        "receipt = Billing(InMemoryUnitOfWork()).confirm_purchase(tenant, usd(1), payment='p')\n"
        "print(receipt.balance, *{'sqlalchemy', 'psycopg', 'alembic'} & {*sys.modules})"
    )

    assert printed(code) == "10000000 CREDIT"
