"""The public names, their signatures, and the modules that they load."""

from __future__ import annotations

import subprocess
import sys
from types import ModuleType

import pytest
from tools.write_public_names import TARGET, listed

import cogni_billing
from cogni_billing import testing
from cogni_billing.adapters import memory, postgres
from cogni_billing.adapters.postgres.operations.revisions import newest
from cogni_billing.adapters.postgres.schema import HEAD


def printed(code: str) -> str:
    """The output of *code* in an interpreter of its own."""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return ran.stdout.strip()


def test_public_names_and_signatures_are_those_written_down() -> None:
    """A difference is a change of the public API, which belongs in the changelog."""
    assert listed() == TARGET.read_text("utf-8"), "run: python tools/write_public_names.py"


def test_star_import_gives_the_listed_names_only() -> None:
    code = "from cogni_billing import *\nprint(*sorted(n for n in dir() if n[:2] != '__'))"

    assert printed(code).split() == sorted(cogni_billing.__all__)


@pytest.mark.parametrize("door", [memory, postgres, testing])
def test_module_has_no_name_that_it_does_not_list(door: ModuleType) -> None:
    shown = {
        name
        for name, item in vars(door).items()
        if not name.startswith("_") and not isinstance(item, ModuleType)
    }

    assert shown == set(door.__all__)


@pytest.mark.parametrize("module", ["cogni_billing", "cogni_billing.adapters.memory"])
def test_import_loads_no_driver_and_no_framework(module: str) -> None:
    heavy = ("sqlalchemy", "psycopg", "alembic", "typer", "rich", "hypothesis", "pytest")
    code = f"import sys, {module}\nprint(*{{*{heavy!r}}} & {{*sys.modules}})"

    assert printed(code) == ""


def test_import_of_the_postgres_adapter_loads_no_migration_tool() -> None:
    heavy = ("alembic", "mako", "typer", "rich", "hypothesis", "pytest")
    code = f"import sys, cogni_billing.adapters.postgres\nprint(*{{*{heavy!r}}} & {{*sys.modules}})"

    assert printed(code) == ""


def test_head_is_the_newest_revision_of_the_package() -> None:
    assert newest() == HEAD


def test_purchase_in_memory_loads_no_driver() -> None:
    code = (
        "import sys, uuid\n"
        "from cogni_billing import Billing, usd\n"
        "from cogni_billing.adapters.memory import InMemoryUnitOfWork\n"
        "tenant = uuid.UUID(int=5)\n"
        "receipt = Billing(InMemoryUnitOfWork()).confirm_purchase(tenant, usd(1), payment='a:p')\n"
        "print(receipt.balance, *{'sqlalchemy', 'psycopg', 'alembic'} & {*sys.modules})"
    )

    assert printed(code) == "10000000 CREDIT"
