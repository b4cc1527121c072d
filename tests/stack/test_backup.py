"""Commands of the page on backups, run by an administrator without SUPERUSER on two servers."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Iterator
from contextlib import chdir, contextmanager
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve, frozen
from sqlalchemy import create_engine, text

from cogni_billing import Billing, InstallationNotReady
from cogni_billing.adapters.postgres import (
    PostgresUnitOfWork,
    doctor,
    ensure_ready,
    sign_contexts,
)
from cogni_billing.adapters.postgres.embedded.server import Server
from stack.conftest import opened
from stack.support.command import Ran, Run
from stack.support.documents import ROOT, blocks
from stack.test_administrators import BINARIES, WITH_SPENDER, Managed, installed
from stack.test_dump import assert_carried_over, lived

PAGE = "docs/how-to/backup.md"
KEY = b"k" * 32
SHOWN_URL = re.compile(r"postgresql://(?P<role>\w+)@(?P<host>db|new)\.internal/(?P<database>\w+)")
ASKED_MAX = 1000


class Replicating(Server):
    """A server that writes a log for logical replication."""

    def _plan(self, *given: Any) -> dict[str, Any]:
        plan = super()._plan(*given)
        return plan | {"postgres": [*plan["postgres"], "-c", "wal_level=logical"]}


@frozen
class Move:
    """A ledger that runs on an old server, and an empty database on a new server."""

    old: Managed
    new: Managed
    directory: Path
    command: Run
    administrator: str = "boss"

    def run(self, section: str) -> None:
        """Run the commands of a section of the page."""
        for command in commands(section):
            done = self.shell(command)
            assert done.returncode == 0, (command, done.stdout, done.stderr)

    def shell(self, command: str) -> Ran:
        """Run one command of the page."""
        line = re.sub(r"(?<= )(postgresql://\S+)", r"'\1'", SHOWN_URL.sub(self._url, command))
        name, *arguments = shlex.split(line)
        if name == "cogni-billing":
            with chdir(self.directory):
                return self.command(*arguments)
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", line],
            capture_output=True,
            text=True,
            check=False,
            cwd=self.directory,
            env={"PATH": f"{self.old.binaries}:/usr/bin:/bin"},
        )
        return Ran(done.returncode, done.stdout, done.stderr)

    def _url(self, shown: re.Match[str]) -> str:
        server = self.old if shown["host"] == "db" else self.new
        role = self.administrator if shown["role"] == "postgres" else shown["role"]
        url = evolve(server, database=shown["database"]).role(role)
        return url.set(drivername="postgresql").render_as_string(hide_password=False)


def commands(section: str) -> list[str]:
    page = (ROOT / PAGE).read_text("utf-8")
    (text_,) = re.findall(
        rf"^## {re.escape(section)}\n(.*?)(?=^## |\Z)", page, re.MULTILINE | re.DOTALL
    )
    return re.findall(r"^\$ (.+)$", text_, re.MULTILINE)


@contextmanager
def servers(binaries: Path, kind: type[Server] = Server) -> Iterator[tuple[Managed, Managed]]:
    """Start two servers, each with an administrator that has a database."""
    both = [kind(bin_dir=binaries, in_memory=True) for _ in range(2)]
    try:
        for server in both:
            server.start()
            postgres = Managed(server, binaries, "postgres")
            postgres.run("postgres", "CREATE ROLE boss LOGIN CREATEROLE CREATEDB")
            postgres.another("shop")
        old, new = (Managed(server, binaries, "shop") for server in both)
        yield old, new
    finally:
        for server in both:
            server.stop()


@pytest.fixture(params=BINARIES, ids=lambda path: "-".join(path.parts[-2:]))
def move(request: pytest.FixtureRequest, tmp_path: Path, run: Run) -> Iterator[Move]:
    with servers(request.param) as (old, new):
        fill(old)
        yield Move(old, new, tmp_path, run)


def fill(old: Managed) -> None:
    installed(old, WITH_SPENDER)
    old.run("boss", "CREATE TABLE notes AS SELECT 'the host''s own' AS note")
    with opened(old) as shop:
        lived(Billing(PostgresUnitOfWork(shop.user, service=shop.service)))


def assert_moved(old: Managed, new: Managed) -> None:
    with opened(old) as before, opened(new) as after:
        assert_carried_over(before, after)


def notes(database: Managed) -> list[str]:
    engine = create_engine(database.administrator)
    with engine.connect() as connection:
        found = list(connection.scalars(text("SELECT note FROM notes")))
    engine.dispose()
    return found


def test_every_command_of_the_page_is_run_here() -> None:
    tried = (
        "After a restore",
        "A dump of the rows",
        "A dump of the whole database",
        "When pg_restore restored the ledger",
        "Logical replication",
    )
    shown = [line for code in blocks(PAGE, "console") for line in code.splitlines()]

    assert [f"$ {command}" for section in tried for command in commands(section)] == shown


def test_rows_are_dumped_and_restored(move: Move) -> None:
    move.run("A dump of the rows")
    move.run("After a restore")

    assert_moved(move.old, move.new)


def test_a_whole_database_is_dumped_and_restored(move: Move) -> None:
    move.run("A dump of the whole database")

    assert notes(move.new) == ["the host's own"]
    assert_moved(move.old, move.new)
    with opened(move.old) as shop:  # the administrator is no longer a member of any role
        assert doctor(shop.user).ok


def test_a_whole_dump_by_an_ordinary_administrator_fails_loudly(move: Move) -> None:
    """The roles are missing. The administrator may read every table, but has no policies."""
    _, dump, _, *_ = commands("A dump of the whole database")
    plain = dump.replace(" --enable-row-security", "")

    refused = [move.shell(dump)]
    for grantor, role in (("postgres", "pg_read_all_data"), ("boss", "app_migrator, app_service")):
        move.old.run(grantor, f"GRANT {role} TO boss")
        refused.append(move.shell(plain))

    assert [each.returncode for each in refused] == [1, 1, 1]
    assert "permission denied" in refused[0].stderr
    for each in refused[1:]:
        assert "query would be affected by row-level security policy" in each.stderr
    move.old.run("postgres", "ALTER ROLE boss BYPASSRLS")
    assert move.shell(plain).returncode == 0


@pytest.mark.parametrize(
    ("grantor", "role"), [("postgres", "pg_read_all_data"), ("boss", "app_migrator")]
)
def test_a_dump_by_a_role_that_sees_no_rows_is_found(move: Move, grantor: str, role: str) -> None:
    _, dump, _, provisioned, migrated, _, _, extract, restored, examined = commands(
        "A dump of the whole database"
    )
    move.old.run(grantor, f"GRANT {role} TO boss")
    for command in (dump, provisioned, migrated, extract):
        assert move.shell(command).returncode == 0, command

    refused = move.shell(restored)
    found = move.shell(examined)

    assert refused.returncode == 1
    assert "expected a dump by a role that sees every row" in refused.stderr
    assert found.returncode == 1
    assert "the ledger has no transactions" in found.stdout


@pytest.mark.parametrize("options", [" --no-owner", ""], ids=["no owner", "plain"])
def test_pg_restore_by_an_ordinary_administrator_leaves_owners_that_provision_corrects(
    move: Move, options: str
) -> None:
    for command in commands("A dump of the whole database")[:3]:
        move.shell(command)
    created, restored, provisioned, examined = commands("When pg_restore restored the ledger")
    copy = evolve(move.old, database="copy")
    move.shell(created)
    if not options:
        restored = restored.replace(" --exit-on-error --no-owner", "")

    assert move.shell(restored).returncode == (0 if options else 1)
    with opened(copy) as database:
        defects = doctor(database.user).defects
        problems = {found.problem for found in defects}
        assert problems >= {
            "SCHEMA cogni_billing is owned by boss",
            "SCHEMA cogni_billing_migrations is owned by boss",
            "TABLE cogni_billing.wallets is owned by boss",
            "TABLE cogni_billing_migrations.alembic_version is owned by boss",
            "TYPE cogni_billing.movement is owned by boss",
            'FUNCTION cogni_billing."mint"'
            " (owner uuid, proof text, asked json[], all_or_none boolean) is owned by boss",
        }
        with pytest.raises(InstallationNotReady) as caught:
            ensure_ready(database.user)
        assert caught.value.check == "each object has the expected owner"
    for command in (provisioned, examined):
        done = move.shell(command)
        assert done.returncode == 0, (done.stdout, done.stderr)
    assert notes(copy) == ["the host's own"]
    assert_moved(move.old, copy)


def test_restored_ledger_without_its_keys_is_found(move: Move) -> None:
    """An administrator's dump contains the table of keys, but not the keys."""
    with opened(move.old) as shop:
        sign_contexts(shop.migrator, [KEY])
    for command in commands("A dump of the whole database")[:3]:
        move.shell(command)
    for command in commands("When pg_restore restored the ledger")[:3]:
        assert move.shell(command).returncode == 0

    with opened(evolve(move.old, database="copy")) as copy:
        (defect,) = doctor(copy.user, signing_key=KEY).defects
        assert defect.problem == "calls without a proof are accepted, but signing_key was given"
        sign_contexts(copy.migrator, [KEY])
        assert doctor(copy.user, signing_key=KEY).ok


@pytest.mark.parametrize(
    "binaries",
    [path for path in BINARIES if path.parts[-2] != "14"],
    ids=lambda path: "-".join(path.parts[-2:]),
)
def test_logical_replication_leaves_the_sequence_behind_until_repair(
    tmp_path: Path, run: Run, binaries: Path
) -> None:
    with servers(binaries, Replicating) as (old, new):
        fill(old)
        move = Move(old, new, tmp_path, run, administrator="postgres")
        *prepare, copied, replayed, drop, repaired, examined = commands("Logical replication")
        for command in prepare:
            known = command
            if binaries.parts[-2] == "15":
                known = command.replace(" WITH (run_as_owner = true)", "")
            done = move.shell(known)
            assert done.returncode == 0, (command, done.stderr)
        for asked in (copied, replayed):
            until_zero(move, asked)
        assert move.shell(drop).returncode == 0

        found = move.shell(examined)
        assert found.returncode == 1
        assert "repeats positions that are in use" in found.stdout
        for command in (repaired, examined):
            done = move.shell(command)
            assert done.returncode == 0, (done.stdout, done.stderr)
        assert_moved(old, new)


def until_zero(move: Move, command: str) -> None:
    """Repeat the command until the answer is 0."""
    for _ in range(ASKED_MAX):
        if move.shell(command).stdout == "0\n":
            return
    raise AssertionError(command)
