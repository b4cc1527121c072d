"""What README, docs and examples show is run, with a real server where they name one."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from sqlalchemy import Engine

import cogni_billing
from cogni_billing import BillingError, RevenueSharePolicies
from cogni_billing.adapters.postgres import sign_contexts
from stack.conftest import Clone
from stack.documents import DOCUMENTS, ROOT, blocks

SHOWN_URL = re.compile(r"postgresql(?:\+psycopg)?://(?P<role>\w+)@db\.internal/shop")
SETUP = "python3 -m venv .venv && .venv/bin/pip install"


def served(code: str, database: Clone) -> str:
    """*code* with the URLs it shows leading to *database*."""

    def url(match: re.Match[str]) -> str:
        role = match["role"]
        return database.admin_url if role == "postgres" else database.url(role)

    return SHOWN_URL.sub(url, code)


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Engine]]:
    """The engines that documents create, which a host keeps; disposed of at the end."""
    created: list[Engine] = []

    def create_engine(url: str, **options: Any) -> Engine:
        created.append(create(url, **options))
        return created[-1]

    create = sqlalchemy.create_engine
    monkeypatch.setattr(sqlalchemy, "create_engine", create_engine)
    yield created
    for engine in created:
        engine.dispose()


def test_python_in_the_docs_does_what_it_says(empty_database: Clone, engines: list[Engine]) -> None:
    """The pages on installing come first, as a reader follows them."""
    for name in dict.fromkeys(("docs/postgres.md", *DOCUMENTS)):
        names: dict[str, object] = {}  # a page is read from its beginning
        for code in blocks(name, "python"):
            exec(compile(served(code, empty_database), name, "exec"), names)
        if "sign_contexts" in names:  # the other pages are of hosts without
            sign_contexts(sqlalchemy.create_engine(empty_database.url("app_migrator")), [])

    assert len(engines) >= 5


def test_the_policies_in_the_docs_are_policies() -> None:
    [shown] = blocks("docs/guide.md", "toml")

    policies = RevenueSharePolicies.from_dict(tomllib.loads(shown))

    assert [policy.version for policy in policies.policies] == ["2026-01", "2026-07"]
    assert RevenueSharePolicies.from_dict(policies.to_dict()) == policies


def test_commands_in_the_docs_work_one_after_another(empty_database: Clone, tmp_path: Path) -> None:
    lines = [
        line.removeprefix("$ ")
        for page in ("docs/postgres.md", "docs/seals.md")
        for code in blocks(page, "console")
        for line in code.splitlines()
    ]
    command = f'{sys.executable} -c "from cogni_billing.cli import main; main()"'
    script = served("\n".join(lines), empty_database).replace("postgresql+psycopg", "postgresql")
    quoted = re.sub(r"(postgresql://\S+)", r"'\1'", script)
    ran = subprocess.run(
        ["bash", "-euc", quoted.replace("cogni-billing ", f"{command} ")],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,  # where the files are that they write
        env={"COLUMNS": "160", "PATH": "/usr/bin:/bin"},
    )

    assert ran.stderr == ""
    assert "credited 100 000 000" in ran.stdout
    assert "│ purchase │ stripe:pi_1 │ 100 000 000 │   100 000 000 │" in ran.stdout
    counts = re.findall(r"^(?:done|replayed|refused) +(\d+)$", ran.stdout, re.MULTILINE)
    assert counts == ["2", "0", "0", "1", "0", "0", "0", "2", "0"]
    assert "seals added: 1" in ran.stdout
    assert ran.stdout.count("it was sealed") == 1


def test_readme_and_contributing_name_the_same_command() -> None:
    shown = {
        line
        for name in ("README.md", "CONTRIBUTING.md")
        for code in blocks(name, "console")
        for line in code.splitlines()
    }

    assert shown == {
        f"$ {SETUP} '.[cli,embedded]' && .venv/bin/cogni-billing demo",
        f"$ {SETUP} -e '.[dev]' && .venv/bin/nox",
    }


def test_the_example_runs() -> None:
    ran = subprocess.run(
        [sys.executable, ROOT / "examples" / "webhook.py"],
        capture_output=True,
        text=True,
        check=False,
    )

    assert ran.stderr == ""
    assert ran.stdout.splitlines() == [
        "CREDITED",
        "200",
        "CREDITED",
        "200",
        "refused: invalid_signature",
        "400",
        "refused: invalid_signature",
        "400",
        "for a human to look at: payment 'stripe:pi_1' is already claimed",
        "200",
    ]


def errors() -> dict[str, str]:
    found = [getattr(cogni_billing, name) for name in cogni_billing.__all__]
    return {
        item.code: item.__name__
        for item in found
        if isinstance(item, type) and issubclass(item, BillingError) and item is not BillingError
    }


def test_every_error_is_explained() -> None:
    rows = re.findall(
        r"^\| `(\w+)` \| `(\w+)` \|", (ROOT / "docs/errors.md").read_text(), re.MULTILINE
    )

    assert dict(rows) == errors()


@pytest.mark.parametrize("document", [*DOCUMENTS, "CONTRIBUTING.md", "CHANGELOG.md"])
def test_links_between_documents_lead_somewhere(document: str) -> None:
    text = (ROOT / document).read_text("utf-8")
    targets = re.findall(r"\]\((?!https?://)([^)#]+)", text)

    assert [
        target for target in targets if not (ROOT / document).parent.joinpath(target).exists()
    ] == []
