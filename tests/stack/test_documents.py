"""Code in README, docs and examples, run on a real server if it names one."""

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
import typer
from sqlalchemy import Engine

import cogni_billing
from cogni_billing import BillingError, RevenueSharePolicies
from cogni_billing.adapters.postgres import sign_contexts
from cogni_billing.cli.app import app
from stack.conftest import Clone
from stack.support.documents import (
    DOCUMENTS,
    PAGES,
    ROOT,
    anchors,
    blocks,
    prose,
    pytest_printed,
    served,
    write_files,
)

TUTORIAL = "docs/tutorial.md"
WORKERS = "docs/how-to/workers.md"
"""Its blocks are modules. test_workers.py runs them."""
INSTALL = "docs/how-to/install.md"
COMMANDS = (INSTALL, "docs/how-to/import.md", "docs/how-to/seals.md")
TRIED_ELSEWHERE = ("docs/how-to/backup.md", WORKERS)
SETUP = "python3 -m venv .venv && .venv/bin/pip install"


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Engine]]:
    """Collect the engines that documents create, and dispose of them at the end."""
    created: list[Engine] = []

    def create_engine(url: str, **options: Any) -> Engine:
        created.append(create(url, **options))
        return created[-1]

    create = sqlalchemy.create_engine
    monkeypatch.setattr(sqlalchemy, "create_engine", create_engine)
    yield created
    for engine in created:
        engine.dispose()


def test_python_in_the_docs_runs(empty_database: Clone, engines: list[Engine]) -> None:
    """The page on installing comes first, as for a reader."""
    for name in dict.fromkeys((INSTALL, *DOCUMENTS)):
        if name in {TUTORIAL, WORKERS}:
            continue  # they show files, which have their own tests
        names: dict[str, object] = {}  # each page starts with no names
        for code in blocks(name, "python"):
            exec(compile(served(code, empty_database), name, "exec"), names)
        if "sign_contexts" in names:  # the other pages are for hosts without signing
            sign_contexts(sqlalchemy.create_engine(empty_database.url("app_migrator")), [])

    assert len(engines) >= 5


@pytest.mark.parametrize("on", ["memory", "postgres"])
def test_tutorial_tests_pass(tmp_path: Path, on: str) -> None:
    write_files(TUTORIAL, tmp_path)

    printed = pytest_printed(tmp_path, f"--billing-on={on}", "-W", "error")

    assert "2 passed" in printed, printed


def test_tutorial_service_starts_on_its_own_server(tmp_path: Path) -> None:
    write_files(TUTORIAL, tmp_path)
    tenant = "0a11ce00-0000-4000-8000-000000000001"
    asking = (
        "from fastapi.testclient import TestClient; from main import app;"
        f" answer = TestClient(app).get('/credits', headers={{'Tenant': '{tenant}'}});"
        " print(answer.status_code, answer.json()['error'])"
    )
    ran = subprocess.run(
        [sys.executable, "-c", asking], cwd=tmp_path, capture_output=True, text=True, check=False
    )

    assert (ran.stdout, ran.stderr) == ("404 unknown_account\n", "")


def test_the_policies_in_the_docs_are_policies() -> None:
    shown = {page: blocks(page, "toml") for page in DOCUMENTS}
    [policies_shown] = shown.pop("docs/how-to/policies.md")
    assert not any(shown.values())

    policies = RevenueSharePolicies.from_dict(tomllib.loads(policies_shown))

    assert [policy.version for policy in policies.policies] == ["2026-01", "2026-07"]
    assert RevenueSharePolicies.from_dict(policies.to_dict()) == policies


def test_commands_in_the_docs_work_one_after_another(empty_database: Clone, tmp_path: Path) -> None:
    lines = [
        line.removeprefix("$ ")
        for page in COMMANDS
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
        cwd=tmp_path,  # the folder with the files that the page writes
        env={"COLUMNS": "160", "PATH": "/usr/bin:/bin"},
    )

    assert ran.stderr == ""
    assert "credited 100 000 000" in ran.stdout
    assert "│ purchase │ stripe:pi_1 │ 100 000 000 │   100 000 000 │" in ran.stdout
    counts = re.findall(r"^(?:done|replayed|refused) +(\d+)$", ran.stdout, re.MULTILINE)
    assert counts == ["2", "0", "0", "1", "0", "0", "0", "2", "0"]
    assert "seals added: 1" in ran.stdout
    assert ran.stdout.count("has not changed since") == 1


def test_pages_without_a_test_of_their_commands_show_none() -> None:
    assert [page for page in PAGES if blocks(page, "console")] == sorted(
        (*COMMANDS, *TRIED_ELSEWHERE)
    )


def test_command_line_page_lists_every_command_and_option() -> None:
    rows = re.findall(r"^\| `(.+?)` \|(.*)\|$", prose("docs/reference/cli.md"), re.MULTILINE)
    listed = {name: set(re.findall(r"--[a-z-]+", row)) for name, row in rows if name[0] != "-"}
    common = {"--database-url"}

    assert {name: options | common for name, options in listed.items()} == dict(
        commands(typer.main.get_command(app))
    )


def commands(command: Any, path: str = "") -> Iterator[tuple[str, set[str]]]:
    """Yield each command with its arguments as the page shows them, and its options."""
    for name, each in getattr(command, "commands", {}).items():
        yield from commands(each, f"{path} {name}".strip())
    if not hasattr(command, "commands"):
        arguments = [each for each in command.params if each.param_type_name == "argument"]
        options = {each.opts[0] for each in command.params if each.param_type_name == "option"}
        yield " ".join([path, *(str(each.name).upper() for each in arguments)]), options


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
        "RefundMade is waiting",
        "PaymentSucceeded is unmatched",
        "PaymentSucceeded is applied",
        "DisputeChanged is applied",
        "PaymentSucceeded is unmatched",
        "PaymentSucceeded is applied",
        "DisputeChanged is applied",
        "PaymentRefunded is applied",
        "refused: invalid_signature",
        "400",
        "4.00 USD refunded, 6.00 USD disputed",
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
        r"^\| `(\w+)` \| `(\w+)` \|.*\| (\d+) \|$",
        (ROOT / "docs/reference/errors.md").read_text("utf-8"),
        re.MULTILINE,
    )

    assert {code: name for code, name, _ in rows} == errors()
    assert {int(status) // 100 for _, _, status in rows} == {4, 5}


@pytest.mark.parametrize("document", [*DOCUMENTS, "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md"])
def test_links_between_documents_lead_somewhere(document: str) -> None:
    """Links lead to existing files and headings."""
    targets = re.findall(r"\]\((?!https?://)([^)#]*)(?:#([^)]+))?\)", prose(document))
    broken = []
    for target, anchor in targets:
        path = (ROOT / document).parent.joinpath(target).resolve() if target else ROOT / document
        if not path.exists() or (anchor and anchor not in anchors(str(path.relative_to(ROOT)))):
            broken.append(f"{target}#{anchor}")

    assert broken == []
