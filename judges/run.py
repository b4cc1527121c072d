"""Runs other tools on the schema: linters and a prover of row security, and a linter of migrations.

They examine a migrated database of an embedded server, and the SQL that migrated it. Every finding
must be explained in `accepted.toml`, and every explanation must be needed. Sabotaged databases show
first that the tools find faults.

    python judges/run.py
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from attrs import field, frozen
from rich.console import Console
from rich.table import Table
from sqlalchemy import create_engine, event, text

from cogni_billing.adapters.postgres import migrate, unmigrate
from cogni_billing.adapters.postgres.embedded import EmbeddedPostgres
from cogni_billing.adapters.postgres.operations import blueprint

HERE = Path(__file__).parent
TOOLS = Path(sys.executable).parent
MODES = ("anon", "cross-tenant", "write")
SABOTAGES = (
    "ALTER TABLE cogni_billing.arrivals NO FORCE ROW LEVEL SECURITY",
    "ALTER TABLE cogni_billing.wallets DISABLE ROW LEVEL SECURITY",
    "CREATE POLICY open ON cogni_billing.wallets FOR SELECT TO cogni_billing_keeper USING (true)",
    "ALTER FUNCTION cogni_billing.spend(uuid, text, json[], boolean) RESET search_path",
)


@frozen
class Finding:
    judge: str
    rule: str
    object: str


@frozen
class Accepted:
    judge: str
    rule: str
    objects: str
    reason: str = field(repr=False)

    def explains(self, finding: Finding) -> bool:
        return (
            self.judge == finding.judge
            and re.match(self.rule, finding.rule) is not None
            and re.fullmatch(self.objects, finding.object) is not None
        )


def ran(*command: str | Path) -> str:
    """The output of a judge, which may exit with an error if it has findings."""
    result = subprocess.run(
        [TOOLS / command[0], *command[1:]], capture_output=True, text=True, check=False
    )
    if result.returncode not in {0, 1}:
        raise RuntimeError(f"{command[0]} failed: {result.stderr}")
    return result.stdout


CONFIG = ("--config", HERE / "pgrls.toml")


def lint(url: str) -> Iterator[Finding]:
    for found in json.loads(ran("pgrls", "lint", *CONFIG, *asked(url)))["violations"]:
        yield Finding("pgrls lint", found["rule_id"], found["location"])


def prove(url: str) -> Iterator[Finding]:
    """Prove the isolation of the keeper's policies. Those of the service role read every tenant."""
    admin = create_engine(url.replace("postgresql", "postgresql+psycopg"))
    with admin.begin() as connection:
        for policy in blueprint.POLICIES:
            if policy.role == "service":
                drop = f"DROP POLICY {policy.name} ON cogni_billing.{policy.table}"
                connection.execute(text(drop))
    admin.dispose()
    for mode in MODES:
        options = ("--mode", mode, "--strict", "--auth-function", "cogni_billing.tenant")
        for found in json.loads(ran("pgrls", "verify", *CONFIG, *asked(url), *options))["tables"]:
            if found["verdict"] != "isolated":
                yield Finding("pgrls verify", found["verdict"], found["table"])


def asked(url: str) -> tuple[str, ...]:
    return ("--database-url", url, "--format", "json")


def rlsautotest(url: str, folder: Path) -> Iterator[Finding]:
    answer = folder / "rlsautotest.json"
    ran("rlsautotest", "lint", "--schema", "cogni_billing", "--db-url", url, "--json", answer)
    for found in json.loads(answer.read_text("utf-8")):
        yield Finding("rlsautotest", found["message"], found["table"])


def squawk(script: Path) -> Iterator[Finding]:
    options = ("--assume-in-transaction", "--pg-version", "14.0", "--reporter", "json")
    for found in json.loads(ran("squawk", *options, script)):
        yield Finding("squawk", found["rule_name"], f"line {found['line']}")


def migration_sql(server: EmbeddedPostgres) -> str:
    """Every statement that brings an empty schema to head."""
    engine = create_engine(server.url("app_migrator"))
    unmigrate(engine)
    statements: list[str] = []

    def collect(*given: Any) -> None:
        _connection, _cursor, statement, parameters, *_ = given
        if not parameters and "cogni_billing_migrations" not in statement:  # Alembic's own
            statements.append(statement.strip(" ;\n").replace("%%", "%"))

    event.listen(engine, "before_cursor_execute", collect)
    migrate(engine)
    engine.dispose()
    return "".join(f"{each};\n" for each in statements)


def findings(server: EmbeddedPostgres, folder: Path) -> Iterator[Finding]:
    url = server.admin_url.replace("postgresql+psycopg", "postgresql")
    yield from lint(url)
    yield from rlsautotest(url, folder)
    yield from prove(url)
    script = folder / "migrations.sql"
    script.write_text(migration_sql(server), "utf-8")
    yield from squawk(script)


def unexplained(found: list[Finding], accepted: list[Accepted]) -> list[Finding]:
    return [each for each in found if not any(one.explains(each) for one in accepted)]


def gate_shuts(accepted: list[Accepted]) -> bool:
    """True if every sabotage is found and not explained."""
    for sabotage in SABOTAGES:
        with EmbeddedPostgres(in_memory=True) as server:
            admin = create_engine(server.admin_url)
            with admin.begin() as connection:
                connection.execute(text(sabotage))
            admin.dispose()
            url = server.admin_url.replace("postgresql+psycopg", "postgresql")
            found = [*lint(url), *prove(url)]
        if not unexplained(found, accepted):
            Console().print(f"[red]sabotage not found by any judge: {sabotage}")
            return False
    return True


def main() -> int:
    lines = tomllib.loads((HERE / "accepted.toml").read_text("utf-8"))["accepted"]
    accepted = [Accepted(**line) for line in lines]
    if not gate_shuts(accepted):
        return 1
    with EmbeddedPostgres(in_memory=True) as server, tempfile.TemporaryDirectory() as folder:
        found = list(findings(server, Path(folder)))
    table = Table("judge", "rule", "findings", "accepted because")
    for one in accepted:
        explained = sum(one.explains(each) for each in found)
        table.add_row(one.judge, one.rule, str(explained), one.reason)
    console = Console()
    console.print(table)
    stale = [one for one in accepted if not any(one.explains(each) for each in found)]
    open_ = unexplained(found, accepted)
    for each in open_:
        console.print(f"[red]unexplained; fix it, or add it to accepted.toml: {each}")
    for one in stale:
        console.print(f"[red]explanation without a finding; remove it: {one}")
    console.print(f"{len(found)} findings, {len(open_)} unexplained")
    return 1 if open_ or stale else 0


if __name__ == "__main__":
    sys.exit(main())
