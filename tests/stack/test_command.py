"""The `cogni-billing` command, called in this process. The tests of documents run it in a shell."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from uuid import UUID

import pytest
from sqlalchemy import create_engine, text

from cogni_billing import SYSTEM_TENANT_ID, Amount, Billing, TenantId, credits, usd
from cogni_billing.adapters.postgres import PostgresUnitOfWork, sign_contexts
from cogni_billing.cli.demo import bundled_payments
from cogni_billing.testing.base import ALICE, BOB
from stack.conftest import Clone, Database
from stack.support.command import Run

ACME = TenantId(UUID("0637e301-e05d-505b-8267-486f5677de9b"))
SEAL = f'{{"tenant": "{ALICE}", "position": 1, "mac": "{"0" * 64}", "key": "{"0" * 16}"}}\n'
NOWHERE = ("--database-url", "postgresql:///nowhere", "--service-url", "postgresql:///nowhere")


@pytest.fixture
def url(database: Database) -> str:
    return database.sandbox.url("app_user")


@pytest.mark.parametrize("given", [True, False], ids=["an embedded server", "a given server"])
def test_demo_fits_one_screen_of_80_columns(run: Run, database: Database, *, given: bool) -> None:
    shown = run("demo", url=None if given else database.sandbox.admin_url, width=80)

    assert (shown.returncode, shown.stderr) == (0, "")
    lines = [re.sub(" +", " ", line.strip()) for line in shown.stdout.splitlines()]
    assert len(lines) <= 50
    for expected in (
        "acme 10.00 USD confirmed 100 000 000 25 000 000",
        "acme 10.00 USD replayed 100 000 000 25 000 000",
        "globex 94.99 USD idempotency_conflict",
        "initech 10.00 USD payment_already_claimed",
        "charge 10^12 insufficient_credits 105 067 800 0",
        "confirm_purchase 9.00 USD privilege_required 105 067 800 0",
        "refund 40.00 USD refund_exceeds_payment 299 900 000 0",
        "open_dispute the rest done 299 900 000 299 900 000",
        "The whole ledger sums to 0:",
        "cogni_system 212 500 002",
        "Every invariant, checked over 9 transactions and 23 postings: 0 violations.",
        "Next: `cogni-billing demo --all` shows each tenant's view of this.",
    ):
        assert expected in lines
    [duration] = [line for line in lines if " s on PostgreSQL " in line]
    assert duration.endswith("It is removed again.")


def test_demo_all_shows_messages_and_the_view_of_each_tenant(run: Run, database: Database) -> None:
    shown = run("demo", "--all", url=database.sandbox.admin_url)

    assert (shown.returncode, shown.stderr) == (0, "")
    for expected in (
        "│ globex       │ stripe:pi_3Mq2 │      94.99 USD │ idempotency_conflict: ",
        f"acme ({ACME})",
        f"cogni_system ({SYSTEM_TENANT_ID})",
        "│ cogni_system │  212 500 002 │",
        "│ confirm_purchase │  9.00 USD │ privilege_required: ",
        "│ sum          │            0 │",
    ):
        assert expected in shown.stdout


def test_the_bundled_payments_are_real_amounts() -> None:
    payments = bundled_payments()

    assert len(payments) == 8
    assert all(isinstance(payment.amount, Amount) for payment in payments)


def test_a_purchase_step_by_step(run: Run, url: str) -> None:
    purchase = ("purchase", str(ALICE), "10.00", "--payment", "stripe:pi_1")

    opened = run("open-account", str(ALICE), url=url)
    first = run(*purchase, url=url)
    again = run(*purchase, url=url)
    balance = run("balance", str(ALICE), url=url)
    statement = run("statement", str(ALICE), url=url)

    assert opened.stdout.startswith(f"account {ALICE}, open since ")
    assert first.stdout.startswith("confirmed ")
    assert "credited 100 000 000" in first.stdout
    assert "share    25 000 000 to 00000000-0000-4000-b000-000000000000" in first.stdout
    assert again.stdout.replace("replayed", "confirmed", 1) == first.stdout
    assert balance.stdout.splitlines() == [
        "posted    100 000 000",
        "held      0",
        "available 100 000 000",
    ]
    assert "│ purchase │ stripe:pi_1 │ 100 000 000 │   100 000 000 │" in statement.stdout


def test_a_long_statement_comes_in_pages(run: Run, url: str) -> None:
    for number in range(3):
        run("purchase", str(ALICE), "1", "--payment", f"stripe:{number}", url=url)

    first = run("statement", str(ALICE), "--limit", "2", url=url)
    cursor = first.stdout.split()[-1]
    second = run("statement", str(ALICE), "--after", cursor, url=url)

    assert "stripe:2" in first.stdout
    assert "stripe:0" not in first.stdout
    assert "stripe:0" in second.stdout
    assert "more with" not in second.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("balance", str(BOB)), f"unknown_account: tenant {BOB} has no account"),
        (("purchase", str(BOB), "0", "--payment", "a:p"), "invalid_amount: amount: expected"),
        (("purchase", str(BOB), "1", "--payment", "a b"), "invalid_reference: payment: expected"),
        (("statement", str(BOB), "--limit", "0"), "invalid_page: limit: expected"),
    ],
)
def test_an_error_is_one_line_and_an_exit_code(
    run: Run, url: str, arguments: tuple[str, ...], message: str
) -> None:
    failed = run(*arguments, url=url)

    assert failed.returncode == 1
    assert failed.stdout == ""
    assert failed.stderr.startswith(message)


@pytest.mark.parametrize(
    ("arguments", "url"),
    [
        (("balance", "nobody"), "postgresql://x"),
        (("balance", str(BOB)), None),
        (("balance", str(BOB)), "not a url"),
        (("purchase", str(BOB), "1", "--payment", "a:p", "--unit", "EUR"), "postgresql://x"),
        (("balance", str(BOB)), "mysql://u:secret@h/db"),
        (("balance", str(BOB)), "sqlite://"),
        (("balance", str(BOB)), "postgresql://u:secret@h:port/db"),
        (("balance", str(BOB)), "mysql://u:secret@h,i/db"),
        (("balance", str(BOB)), "postgresql://u:secret@h,i/db?nonsense=1"),
    ],
)
def test_a_wrong_call_is_explained(run: Run, arguments: tuple[str, ...], url: str | None) -> None:
    failed = run(*arguments, url=url)

    assert failed.returncode == 2
    assert "Error" in failed.stderr
    assert "secret" not in failed.stderr


def test_version_is_the_packages(run: Run) -> None:
    assert run("--version").stdout == f"{version('cogni-billing')}\n"


@pytest.mark.parametrize("arguments", [("--version",), ("--help",), ("balance", str(BOB))])
def test_output_that_cannot_be_written_ends_the_command_without_a_traceback(
    database: Database, url: str, arguments: tuple[str, ...]
) -> None:
    Billing(PostgresUnitOfWork(database.user)).open_account(BOB)
    with Path("/dev/full").open("w") as full:
        ran = subprocess.run(
            [sys.executable, "-c", "from cogni_billing.cli import main; main()", *arguments],
            env=os.environ | {"COGNI_BILLING_DATABASE_URL": url},
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )

    assert ran.returncode == 74
    assert ran.stderr == "input or output failed: No space left on device\n"


def test_command_runs_with_its_output_closed(database: Database, url: str) -> None:
    Billing(PostgresUnitOfWork(database.user)).open_account(BOB)
    command = f"{sys.executable} -c 'from cogni_billing.cli import main; main()' balance {BOB} >&-"
    environment = os.environ | {"COGNI_BILLING_DATABASE_URL": url}

    ran = subprocess.run(
        command, shell=True, env=environment, stderr=subprocess.PIPE, text=True, check=False
    )

    assert (ran.returncode, ran.stderr) == (0, "")


def test_schema_that_is_not_migrated_is_named(run: Run, empty_database: Clone) -> None:
    run("provision", url=empty_database.admin_url)

    failed = run("balance", str(BOB), url=empty_database.url("app_user"))

    assert failed.returncode == 69
    assert "run migrate" in failed.stderr


def test_an_operator_installs_and_examines_a_database(run: Run, empty_database: Clone) -> None:
    provisioned = run("provision", "--test-database", url=empty_database.admin_url)
    before = run("doctor", url=empty_database.url("app_user"))
    migrated = run("migrate", url=empty_database.url("app_migrator"))
    after = run("doctor", url=empty_database.url("app_user"))

    assert provisioned.returncode == 0
    assert before.returncode == 1
    assert "run migrate as the migrator" in before.stdout
    assert migrated.stdout == "migrated to head\n"
    assert after.returncode == 0
    assert after.stdout.count("│ ok ") == 18


def test_dry_run_of_provision_prints_its_sql_and_runs_none(run: Run, empty_database: Clone) -> None:
    printed = run("provision", "--dry-run", url=empty_database.admin_url)
    again = run("provision", "--dry-run", url=empty_database.admin_url)

    assert printed.stdout.startswith("BEGIN;\n")
    assert "CREATE SCHEMA cogni_billing AUTHORIZATION" in printed.stdout
    assert printed.stdout.endswith("COMMIT;\n")
    assert again == printed


def test_doctor_prints_its_defects_as_json(run: Run, own_database: Database) -> None:
    url = own_database.sandbox.url("app_spender")
    sound = run("doctor", "--json", url=url)
    with own_database.admin.begin() as connection:
        connection.execute(text("GRANT DELETE ON cogni_billing.arrivals TO app_user"))
    broken = run("doctor", "--json", url=url)
    nowhere = run("doctor", "--json", url="postgresql://app_user@127.0.0.1:1/none")

    assert (sound.returncode, broken.returncode, nowhere.returncode) == (0, 1, 69)
    assert json.loads(sound.stdout)["ok"]
    (failed,) = [check for check in json.loads(broken.stdout)["checks"] if not check["ok"]]
    assert failed == {
        "name": "each role has exactly its privileges",
        "ok": False,
        "defects": [
            {
                "problem": '"app_user" has DELETE ON cogni_billing.arrivals',
                "remedy": 'REVOKE DELETE ON cogni_billing.arrivals FROM "app_user"',
            }
        ],
    }
    assert nowhere.stdout == ""


def test_a_signed_context_takes_its_key_from_the_environment(
    run: Run, own_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = b"k" * 32
    sign_contexts(own_database.migrator, [key])
    url = own_database.sandbox.url("app_user")
    without = run("open-account", str(ALICE), url=url)
    monkeypatch.setenv("COGNI_BILLING_SIGNING_KEY", key.hex())
    signed = [
        run(*call, url=url).returncode for call in (("open-account", str(ALICE)), ("doctor",))
    ]
    monkeypatch.setenv("COGNI_BILLING_SIGNING_KEY", "no hexadecimal")
    nonsense = run("doctor", url=url)

    assert without.returncode == 1
    assert without.stderr.startswith("privilege_required: ")
    assert signed == [0, 0]
    assert nonsense.returncode == 2
    assert "COGNI_BILLING_SIGNING_KEY is no hexadecimal key" in nonsense.stderr


def test_an_operator_keeps_a_ledger(run: Run, database: Database) -> None:
    urls = [
        *("--database-url", database.sandbox.url("app_user")),
        *("--service-url", database.sandbox.url("app_service")),
    ]
    billing = Billing(PostgresUnitOfWork(database.user))
    billing.confirm_purchase(ALICE, usd("1.00"), payment="stripe:pi_1")

    swept, folded = run("sweep", *urls), run("fold", *urls)
    sound = run("verify", *urls)
    with database.admin.begin() as connection:
        connection.execute(text("UPDATE cogni_billing.wallets SET posted = posted + 1"))
    broken = run("verify", *urls)

    assert swept.stdout == "wallets updated: 0\n"
    assert folded.stdout == "accounts folded: 2 lines: 2\n"
    assert sound.returncode == 0
    assert "1 transactions, 3 postings" in sound.stdout
    assert broken.returncode == 1
    assert "wallets_match: " in broken.stdout


def test_seal_then_verify_finds_an_edit_that_verify_does_not(
    run: Run, database: Database, tmp_path: Path
) -> None:
    urls = [
        *("--database-url", database.sandbox.url("app_user")),
        *("--service-url", database.sandbox.url("app_service")),
    ]
    key, file = tmp_path / "key", tmp_path / "seals.jsonl"
    key.write_text(f"{'6f' * 32}\n")
    seal = ("seal", str(file), "--key-file", str(key), *urls)
    verify = ("verify", "--seals", str(file), "--key-file", str(key), *urls)
    billing = Billing(PostgresUnitOfWork(database.user))
    billing.confirm_purchase(ALICE, usd("1.00"), payment="stripe:pi_1")

    first = run(*seal)
    billing.charge(ALICE, credits(5), reference="run-1")
    second, third = run(*seal), run(*seal)
    sound = run(*verify)
    with database.admin.begin() as connection:
        connection.execute(text("SET LOCAL session_replication_role = replica"))
        connection.execute(
            text("UPDATE cogni_billing.transactions SET reference = 'x' WHERE kind = 'charge'")
        )
    unsealed, broken = run("verify", *urls), run(*verify)

    added = [ran.stdout for ran in (first, second, third)]
    assert added == ["seals added: 1\n", "seals added: 1\n", "seals added: 0\n"]
    assert [json.loads(line)["position"] for line in file.read_text().splitlines()] == [1, 2]
    assert (sound.returncode, unsealed.returncode, broken.returncode) == (0, 0, 1)
    assert "has not changed since" in sound.stdout
    assert "has not changed since" not in unsealed.stdout
    assert f"transactions_match_their_seal: tenant {ALICE}, positions 2-2" in " ".join(
        broken.stdout.replace("│", " ").split()
    )


@pytest.mark.parametrize(
    ("secret", "seals", "message"),
    [
        ("secret", "", "key: expected hexadecimal digits"),
        ("6f" * 31, "", "key: expected 32 to 64 bytes, got 31 bytes"),
        ("6f" * 32, SEAL, f"key: expected the key {'0' * 16} of these seals, got the key "),
        ("6f" * 32, SEAL + SEAL[:-1], "line 2: seal: expected a whole line"),
        ("6f" * 32, f"{SEAL}{SEAL[:20]}\n", "line 2: expected a seal"),
        ("6f" * 32, "[]\n", "line 1: seal: expected the fields tenant, position, mac, key"),
        ("6f" * 32, SEAL.replace("0a1", "0x1"), "line 1: tenant: expected a UUID"),
        ("6f" * 32, SEAL.replace(": 1", ": 0"), "line 1: position: expected a whole number"),
        ("6f" * 32, SEAL.replace('mac": "0', 'mac": "O'), "line 1: mac: expected hexadecimal"),
        ("6f" * 32, SEAL.replace('key": "0', 'key": "'), "line 1: key: expected hexadecimal"),
    ],
)
def test_verify_unusable_seals_or_key_are_refused_by_line(
    run: Run, tmp_path: Path, secret: str, seals: str, message: str
) -> None:
    key, file = tmp_path / "key", tmp_path / "seals.jsonl"
    key.write_text(secret)
    file.write_text(seals)

    ran = run("verify", "--seals", str(file), "--key-file", str(key), *NOWHERE)
    # The command would append to a file that it cannot read.
    sealing = run("seal", str(file), "--key-file", str(key), *NOWHERE)

    assert (ran.returncode, sealing.returncode) == (1, 1)
    assert message in ran.stderr
    assert sealing.stderr == ran.stderr
    assert "secret" not in ran.stderr
    assert file.read_text() == seals


def test_verify_seals_without_their_key_is_a_usage_error(run: Run, tmp_path: Path) -> None:
    (tmp_path / "seals.jsonl").write_text(SEAL)

    ran = run("verify", "--seals", str(tmp_path / "seals.jsonl"), *NOWHERE)

    assert ran.returncode == 2
    assert "--seals and --key-file go together" in ran.stderr


def test_a_url_without_a_driver_will_do(run: Run, empty_database: Clone) -> None:
    engine = create_engine(empty_database.administrator)
    plain = engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
    engine.dispose()

    assert run("provision", url=plain).returncode == 0
