"""The least that a transaction's rows take: the library's own statements without the library."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
import time
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Final
from uuid import uuid4

import psutil
from attrs import frozen
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg

from benchmarks import handwritten, jobs
from benchmarks.harness import Contender, Database, Threads, Work
from cogni_billing import RevenueSharePolicy
from cogni_billing.adapters.postgres.embedded.server import bundled_binaries
from cogni_billing.adapters.postgres.posting import POST
from cogni_billing.adapters.postgres.rows import transaction_parameters
from cogni_billing.adapters.postgres.statements import sent
from cogni_billing.domain.charges import plan_charge
from cogni_billing.domain.purchases import plan_purchase, request_purchase
from cogni_billing.domain.transactions import Transaction, TransactionKind

MICROSECONDS: Final = 1e6
CONTEXT: Final = "SELECT set_config('app.current_user_id', %s, true)"
CUSTOMER: Final = (
    "CAST('0c057000-0000-4000-8000-' || lpad(to_hex(CAST(:customer AS int)), 12, '0') AS uuid)"
)
_DIALECT: Final = PGDialect_psycopg()  # type: ignore[no-untyped-call]


def a_purchase() -> Transaction:
    request = request_purchase(jobs.customer(), jobs.PRICE, payment=jobs.reference(), metadata=None)
    policy = RevenueSharePolicy.default()
    return plan_purchase(request, policy, datetime.now(UTC), uuid4())


def a_charge() -> Transaction:
    return plan_charge(
        jobs.customer(),
        jobs.COST,
        reference=jobs.reference(),
        allow_overdraft=False,
        metadata=None,
        at=datetime.now(UTC),
        transaction_id=uuid4(),
    )


MADE: Final = {made.kind: made for made in (a_purchase(), a_charge())}
_GIVEN: Final = {kind: transaction_parameters(made) for kind, made in MADE.items()}
_STATEMENTS: Final = {kind: sent(POST[kind]) for kind in MADE}


def pgbench(kind: TransactionKind) -> Pgbench:
    """As fast as it can be: prepared, in one round trip, by a client written in C."""
    return Pgbench("the limit", script(MADE[kind]))


def by_the_driver(kind: TransactionKind) -> Threads:
    """By psycopg alone, statement by statement."""
    job = partial(_sent, kind)
    return Threads("psycopg, the same statements", partial(handwritten.on_connections, job))


def _sent(kind: TransactionKind, connection: handwritten.Connection) -> None:
    tenant = jobs.customer()
    own = {"tenant": tenant, "account": tenant, "id": uuid4(), "reference": jobs.reference()}
    with connection.transaction():
        connection.execute(CONTEXT, (str(tenant),))
        told = connection.execute(_STATEMENTS[kind], _GIVEN[kind] | own).fetchone()
        assert told is not None


@frozen
class Pgbench(Contender):
    """A script's transactions, by PostgreSQL's own benchmark."""

    name: str
    script: str

    def work(self, database: Database, clients: int, seconds: float) -> Work:
        url = database.url("app_user")
        with tempfile.TemporaryDirectory() as folder:
            script, log = Path(folder, "script.sql"), Path(folder, "log")
            script.write_text(self.script, "utf-8")
            command = [
                *(str(bundled_binaries() / "pgbench"), "--no-vacuum", "--protocol=prepared"),
                *(f"--client={clients}", f"--jobs={min(clients, 2)}", f"--time={seconds:.0f}"),
                *(f"--file={script}", "--log", f"--log-prefix={log}"),
                *(f"--host={url.query['host']}", f"--port={url.query['port']}"),
                *(f"--username={url.username}", str(url.database)),
            ]
            taken = database.taken()
            before, began = psutil.Process().cpu_times(), time.perf_counter()
            # A database of a benchmark's own is entered as a superuser who takes on the role.
            environment = os.environ | {"PGOPTIONS": str(url.query.get("options", ""))}
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)  # noqa: S603
            elapsed, after = time.perf_counter() - began, psutil.Process().cpu_times()
            calls = [
                int(line.split()[2]) / MICROSECONDS
                for part in Path(folder).glob("log*")
                for line in part.read_text().splitlines()
            ]
        cpu = sum(
            getattr(after, kind) - getattr(before, kind)
            for kind in ("children_user", "children_system")
        )
        return Work(calls, elapsed, cpu, taken)


def script(made: Transaction) -> str:
    """What the library sends to post a transaction like *made*, as a script of pgbench.

    The statement is the library's own, with the values that a server can make by itself.
    """
    statement = POST[made.kind]
    named = set(re.findall(r"(?<!:):(\w+)", statement.text))
    given = transaction_parameters(made)
    literal = statement.bindparams(**{name: given[name] for name in named}).compile(
        dialect=_DIALECT, compile_kwargs={"literal_binds": True}
    )
    written = re.sub(r"(ARRAY\['[^]]*\])", r"\1::uuid[]", " ".join(str(literal).split()))
    for value, expression in (
        (made.tenant, CUSTOMER),
        (made.id, "gen_random_uuid()"),
        (made.reference, "'bench:' || :reference"),
        (made.at, "now()"),
    ):
        written = written.replace(f"'{value}'", f"({expression})")
    return "\n".join(
        (
            rf"\set customer random(0, {jobs.CUSTOMERS - 1})",
            r"\set reference random(1, 9223372036854775807)",
            r"\startpipeline",
            "BEGIN;",
            f"SELECT set_config('app.current_user_id', ({CUSTOMER})::text, true);",
            f"{written};",
            "COMMIT;",
            r"\endpipeline",
        )
    )
