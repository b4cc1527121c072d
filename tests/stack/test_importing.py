"""Imports of files by the command: killed at any moment, cut, refused, and started again."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import pytest
from attrs import frozen
from sqlalchemy import URL, text

from cogni_billing import Billing, TenantId, credits, usd
from cogni_billing.adapters.postgres import PostgresUnitOfWork
from cogni_billing.testing.base import ALICE, BOB
from stack.conftest import Database
from stack.support.command import URL_VARIABLE, Run
from stack.support.proxy import Cut, proxied

COMMAND: Final = (sys.executable, "-c", "from cogni_billing.cli import main; main()")
TENANTS: Final = [TenantId(UUID(int=number)) for number in range(1, 8)]
LAST: Final = TenantId(UUID(int=99))
LINES: Final = 3000
HEADER: Final = "tenant,amount,payment\n"


@frozen
class Importer:
    """Imports files, and returns the exit code and the lines of both outputs."""

    run: Run
    folder: Path
    url: URL

    def write(self, name: str, content: str) -> Path:
        path = self.folder / name
        path.write_text(content, "utf-8")
        return path

    def __call__(
        self, *arguments: str | Path, url: URL | None = None
    ) -> tuple[int, list[str], list[str]]:
        ran = self.run("import", *map(str, arguments), url=_shown(url or self.url))
        return ran.returncode, ran.stdout.splitlines(), ran.stderr.splitlines()

    def start(
        self, *arguments: str | Path, stdout: int | None = None, stderr: int | None = None
    ) -> subprocess.Popen[bytes]:
        """Start the command in a process of its own."""
        return subprocess.Popen(
            [*COMMAND, "import", *arguments],
            stdout=stdout,
            stderr=stderr,
            env={**os.environ, "TERM": "xterm", URL_VARIABLE: _shown(self.url)},
        )


def _shown(url: URL) -> str:
    return url.render_as_string(hide_password=False)


@pytest.fixture
def importer(run: Run, tmp_path: Path, database: Database) -> Importer:
    return Importer(run, tmp_path, database.sandbox.role("app_user"))


@pytest.fixture
def billing(database: Database) -> Billing:
    return Billing(PostgresUnitOfWork(database.user, service=database.service))


def counted(done: int, replayed: int, refused: int) -> list[str]:
    return [f"done     {done}", f"replayed {replayed}", f"refused  {refused}"]


@contextmanager
def wallet_locked(database: Database, tenant: TenantId) -> Iterator[None]:
    """Lock the tenant's wallet inside the block, so that its writers wait."""
    with database.admin.connect() as connection:
        lock = text("SELECT FROM cogni_billing.wallets WHERE tenant_id = :t FOR UPDATE")
        assert connection.execute(lock, {"t": tenant}).rowcount == 1
        yield


def recorded(database: Database, kind: str) -> int:
    count = "SELECT count(*) FROM cogni_billing.transactions WHERE kind = :kind"
    with database.admin.connect() as connection:
        found: int = connection.scalar(text(count), {"kind": kind})
        return found


def requests(key: str) -> list[dict[str, Any]]:
    """Write the lines of a long file. Tenants alternate, and the last line is another tenant's."""
    lines = [
        {"tenant": str(TENANTS[n % len(TENANTS)]), "amount": str(n + 1), key: f"import:{n}"}
        for n in range(LINES - 1)
    ]
    return [*lines, {"tenant": str(LAST), "amount": "1", key: "import:last"}]


def as_csv(lines: list[dict[str, Any]]) -> str:
    rows = [",".join(lines[0]), *(",".join(line.values()) for line in lines)]
    return "\n".join(rows) + "\n"


def as_json_lines(lines: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(line) + "\n" for line in lines)


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    ("kind", "key", "name", "credits_each"),
    [
        ("purchase", "payment", "many.csv", 10_000_000),
        ("charge", "reference", "many.jsonl", -1),
    ],
)
def test_an_import_that_is_killed_again_and_again_does_each_line_once(
    importer: Importer,
    billing: Billing,
    database: Database,
    *,
    kind: str,
    key: str,
    name: str,
    credits_each: int,
) -> None:
    lines = requests(key)
    path = importer.write(name, (as_csv if name.endswith("csv") else as_json_lines)(lines))
    funds = credits(10**9)
    for tenant in (*TENANTS, LAST):
        billing.grant(tenant, funds, source="test", reference="funds")

    # The last line cannot be recorded, so a late kill still interrupts the import.
    with wallet_locked(database, LAST):
        for enough in (1, 1200, LINES - 1):
            running = importer.start(f"{kind}s", path, "--batch-size", "250")
            while (present := recorded(database, kind)) < enough:
                assert running.poll() is None
            running.kill()

            assert running.wait() == -signal.SIGKILL
            assert billing.verify().ok
            assert present < LINES
    code, shown, errors = importer(f"{kind}s", path)

    assert (code, errors) == (0, [])
    # The server may have finished the last statement of a killed client.
    assert shown in (counted(1, LINES - 1, 0), counted(0, LINES, 0))
    assert recorded(database, kind) == LINES
    assert billing.verify().ok
    for tenant in (*TENANTS, LAST):
        asked = sum(int(line["amount"]) for line in lines if line["tenant"] == str(tenant))
        assert billing.balance(tenant).posted == funds + credits(asked * credits_each)


def test_import_on_a_terminal_shows_a_progress_bar(importer: Importer, billing: Billing) -> None:
    rows = "".join(f"{ALICE},1,stripe:{n}\n" for n in range(3))
    path = importer.write("some.csv", f"{HEADER}{rows}")
    terminal, stderr = pty.openpty()

    running = importer.start("purchases", path, stdout=subprocess.PIPE, stderr=stderr)
    os.close(stderr)
    drawn = b"".join(iter(lambda: read(terminal), b"")).decode()
    shown, _ = running.communicate()
    os.close(terminal)

    assert (running.returncode, shown.decode().splitlines()) == (0, counted(3, 0, 0))
    size = path.stat().st_size
    assert f"{size}/{size} bytes" in drawn
    assert "3 lines" in drawn


def read(terminal: int) -> bytes:
    """Read the next output. Returns no bytes if the other end is closed."""
    try:
        return os.read(terminal, 65536)
    except OSError:
        return b""


def test_refused_line_is_reported_and_others_are_imported(
    importer: Importer, billing: Billing
) -> None:
    billing.confirm_purchase(BOB, usd("1"), payment="stripe:warning:1")
    path = importer.write(
        "some.csv",
        f"payment,amount,tenant,unit\n"
        f"stripe:1,10.00,{ALICE},\n"
        f"stripe:2,ten,{ALICE},\n"
        f"stripe:3,1.5,{ALICE},USDC\n"
        f"stripe:warning:1,1,{ALICE},USD\n"
        f"stripe:4,1,alice,USD\n"
        f"stripe:5,1\n"
        f"stripe:1,10.00,{ALICE},USD\n"
        f"stripe:1,11.00,{ALICE},USD\n",
    )
    code, shown, errors = importer("purchases", path, "--batch-size", "3")

    assert code == 1
    assert shown == counted(2, 1, 5)
    assert errors[1].endswith(": payment 'stripe:warning:1' is already claimed")
    assert [line.split(": ")[:2] for line in errors] == [
        ["line 3", "invalid_amount"],
        ["line 5", "payment_already_claimed"],
        ["line 6", "invalid_tenant"],
        ["line 7", "invalid_input"],
        ["line 9", "idempotency_conflict"],
    ]
    assert billing.balance(ALICE).posted == credits(115_000_000)
    assert billing.verify().ok


def test_refused_lines_are_mended_in_a_file_of_their_own(
    importer: Importer, billing: Billing
) -> None:
    billing.grant(ALICE, credits(10), source="test", reference="funds")
    path = importer.write(
        "some.csv",
        "tenant,amount,reference,allow_overdraft,metadata\n"
        f"{ALICE},6,run-1,false,\n"
        f'{ALICE},7,run-2,False,"{{""run"": 2}}"\n',
    )
    refused = importer.folder / "refused.jsonl"
    importer.write("refused.jsonl", "what another import left\n")

    first = importer("charges", path, "--refused", refused)
    written = refused.read_text()
    mended = importer.write("mended", written.replace("false", "true"))
    second = importer("charges", mended, "--format", "jsonl", "--refused", refused)

    assert first == (1, counted(1, 0, 1), [])
    assert json.loads(written) == {
        "tenant": str(ALICE),
        "amount": "7",
        "reference": "run-2",
        "allow_overdraft": False,
        "metadata": {"run": 2},
        "refused": {
            "line": 3,
            "code": "insufficient_credits",
            "error": "7 CREDIT required, 4 CREDIT available",
        },
    }
    assert second == (0, counted(1, 0, 0), [])
    assert refused.read_text() == ""
    assert billing.balance(ALICE).posted == credits(-3)
    found = billing.find(ALICE, kind="charge", reference="run-2")
    assert found is not None
    assert found.metadata == {"run": 2}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (
            "",
            "invalid_input: line 1: expected a header: tenant, amount, payment, and perhaps unit,",
        ),
        (f"{ALICE},1.00,p\n", "invalid_input: line 1: expected tenant, amount, payment, and perha"),
    ],
)
def test_a_file_of_something_else_is_refused_in_one_line(
    importer: Importer, database: Database, content: str, said: str
) -> None:
    code, shown, errors = importer("purchases", importer.write("other.csv", content))

    assert (code, shown, len(errors)) == (1, counted(0, 0, 0), 1)
    assert errors[0].startswith(said)
    assert recorded(database, "purchase") == 0


def test_a_quote_that_is_not_closed_stops_the_import_where_it_is(
    importer: Importer, billing: Billing
) -> None:
    good, bad = f"{ALICE},1,stripe:", f'{ALICE},1,"stripe:'
    path = importer.write("some.csv", f"{HEADER}{good}1\n{good}2\n{bad}3\n{good}4\n")

    code, shown, errors = importer("purchases", path, "--batch-size", "2")
    mended = importer.write("some.csv", path.read_text().replace('"', ""))
    again = importer("purchases", mended)

    assert (code, shown) == (1, counted(2, 0, 0))
    assert errors == [
        "stopped; import the same file again to continue",
        "invalid_input: line 4: expected CSV, its quotes closed, got unexpected end of data",
    ]
    assert again == (0, counted(2, 2, 0), [])
    assert billing.balance(ALICE).posted == credits(40_000_000)


def test_import_stops_at_an_unavailable_ledger_and_continues_when_run_again(
    importer: Importer, billing: Billing, database: Database
) -> None:
    billing.grant(BOB, credits(1), source="test", reference="wallet")
    rows = "".join(f"{t},1,stripe:{n}\n" for n, t in enumerate([ALICE, ALICE, BOB, ALICE]))
    path = importer.write("some.csv", HEADER + rows)
    url = database.sandbox.role("app_user")
    impatient = f"{url.query.get('options', '')} -clock_timeout=20ms".strip()

    with wallet_locked(database, BOB):
        hasty = url.update_query_dict({"options": impatient})
        code, shown, errors = importer("purchases", path, "--batch-size", "2", url=hasty)
    stopped = billing.balance(ALICE).posted
    again = importer("purchases", path)

    assert (code, shown) == (69, counted(3, 0, 0))
    assert errors[0] == "stopped; import the same file again to continue"
    assert errors[1].startswith("ledger_unavailable: ")
    assert len(errors) == 2
    assert stopped == credits(30_000_000)
    assert again == (0, counted(1, 3, 0), [])
    assert billing.balance(BOB).posted == credits(10_000_001)


@pytest.mark.parametrize(
    ("cut", "then"), [(Cut.BEFORE_COMMIT, counted(1, 0, 0)), (Cut.AFTER_COMMIT, counted(0, 1, 0))]
)
def test_import_on_a_cut_connection_says_that_it_can_be_run_again(
    importer: Importer, billing: Billing, database: Database, cut: Cut, then: list[str]
) -> None:
    path = importer.write("one.csv", f"{HEADER}{ALICE},1,stripe:1\n")

    with proxied(database.sandbox.role("app_user")) as (proxy, url):
        proxy.cut = cut
        code, shown, errors = importer("purchases", path, url=url)
    again = importer("purchases", path)

    assert (code, shown) == (69, counted(0, 0, 0))
    assert errors == [
        "stopped; import the same file again to continue",
        "outcome_unknown: the answer to COMMIT was lost",
    ]
    assert again == (0, then, [])
    assert billing.balance(ALICE).posted == credits(10_000_000)


def test_a_role_that_cannot_mint_imports_no_purchase(
    importer: Importer, database: Database
) -> None:
    path = importer.write("one.csv", f"{HEADER}{ALICE},1,stripe:1\n{BOB},1,stripe:2\n")

    spender = database.sandbox.role("app_spender")
    code, shown, errors = importer("purchases", path, url=spender)

    assert (code, shown) == (1, counted(0, 0, 0))
    assert errors[1].startswith("privilege_required: ")
    assert database.totals() == {}


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("none.csv", [], "does not exist"),
        ("here.txt", [], "give its --format"),
        ("here.txt", ["--format", "xml"], "--format"),
        ("here.csv", ["--batch-size", "0"], "--batch-size"),
        ("here.csv", ["--refused", "here.csv"], "would overwrite"),
        ("here.csv", ["--refused", "none/x.jsonl"], "No such file"),
    ],
)
def test_a_wrong_call_is_explained_and_leaves_the_file_alone(
    importer: Importer, name: str, options: list[str], said: str
) -> None:
    for suffix in ("txt", "csv"):
        importer.write(f"here.{suffix}", f"{HEADER}{ALICE},1,stripe:1\n")
    there = [str(importer.folder / o) if o.startswith(("here", "none")) else o for o in options]

    code, shown, errors = importer("purchases", importer.folder / name, *there)

    assert (code, shown) == (2, [])
    assert said in " ".join(" ".join(errors).replace("│", " ").split())
    assert (importer.folder / "here.csv").read_text() == f"{HEADER}{ALICE},1,stripe:1\n"
