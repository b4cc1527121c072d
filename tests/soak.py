"""A bank under load and faults, for any length of time: `nox -s soak -- --minutes 30`.

Processes make every kind of call on the ledger of a few tenants, with keys from a small pool, on a
server with its data on disk. Meanwhile, at random, backends are terminated, clients are killed with
SIGKILL, and the server itself is killed and restarted on its data. After every kill of the server
the books are compared with the acknowledged calls, and the other calls are retried.

A fault without damage in n independent tries does damage in less than 3/n of them, with a
confidence of 95 % (the rule of three). The report has this bound for each kind of fault.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import platform
import random
import secrets
import sys
import tempfile
import time
from collections import Counter
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Final

from attrs import define, field
from rich.console import Console
from rich.table import Table
from sqlalchemy import text

from cogni_billing import Billing
from stack.support.bank import Tally, work
from stack.support.killable import Killable, killable
from stack.support.processes import FORKS

PROCESSES: Final = 6
ROUND_S: Final = (2.0, 6.0)
FAULT_S: Final = 0.1
LAST_WORDS_S: Final = 0.1
ROLES: Final = ("app_user", "app_service")
TERMINATE: Final = text("""
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE usename IN ('app_user', 'app_service') AND state <> 'idle' ORDER BY random() LIMIT 1
""")


@define
class Soak:
    """A server, its clients, and the faults so far."""

    server: Killable
    folder: Path
    chance: random.Random
    tally: Tally = field(factory=Tally)
    faults: Counter[str] = field(factory=Counter)
    _clients: dict[Path, BaseProcess] = field(factory=dict)

    def start_client(self) -> None:
        log = self.folder / f"{secrets.token_hex(8)}.log"
        log.touch()
        seed = self.chance.randrange(2**32)
        client = FORKS.Process(
            target=work, args=(self.address, log, seed, self.folder / "stop", sys.maxsize)
        )
        client.start()
        self._clients[log] = client

    @property
    def address(self) -> Path:
        return self.folder / "address"

    def round(self) -> None:
        """Run load and faults for some seconds, kill the server, and audit."""
        sandbox = self.server.database.sandbox
        self.address.write_text(json.dumps([sandbox.url(role) for role in ROLES]))
        for _ in range(PROCESSES):
            self.start_client()
        end = time.monotonic() + self.chance.uniform(*ROUND_S)
        autocommit = self.server.database.admin.execution_options(isolation_level="AUTOCOMMIT")
        with autocommit.connect() as admin:
            while time.monotonic() < end:
                time.sleep(self.chance.uniform(0, 2 * FAULT_S))
                if self.chance.random() < 0.8:
                    self.faults["backends terminated"] += bool(admin.scalar(TERMINATE))
                else:
                    self.kill_client(self.chance.choice([*self._clients]))
                    self.start_client()
        self.server.kill()
        self.faults["servers killed"] += 1
        for log, client in [*self._clients.items()]:
            client.join(LAST_WORDS_S)
            self.end_client(log)
        self.server.start()
        self.audit(Billing(self.server.unit_of_work()))

    def kill_client(self, log: Path) -> None:
        self.faults["clients killed"] += self._clients[log].is_alive()
        self.end_client(log)

    def end_client(self, log: Path) -> None:
        client = self._clients.pop(log)
        assert client.exitcode in {None, 0}, "a client failed without a fault"
        client.kill()
        client.join()
        self.tally.read(log)
        log.unlink()

    def audit(self, billing: Billing) -> None:
        """Check that the books have each acknowledged call once, and retry the others."""
        self.faults["calls without an answer"] += len(self.tally.unanswered)
        self.tally.settle(billing)
        verification = billing.verify()
        assert verification.ok, verification
        assert verification.transactions == self.tally.transactions
        totals = self.server.totals()
        assert sum(totals.values()) == 0
        assert {each: totals.get(each, 0) for each in self.tally.totals()} == self.tally.totals()


def report(soak: Soak, minutes: float, seed: int) -> Table:
    table = Table("fault", "times", "lost", "doubled", "95 % bound", title=f"seed {seed}")
    for fault, times in sorted(soak.faults.items()):
        table.add_row(fault, f"{times:,}", "0", "0", f"{3 / times:.1e}" if times else "none")
    outcomes = ", ".join(f"{count:,} {name}" for name, count in soak.tally.outcomes.most_common())
    table.caption = (
        f"{minutes:.1f} minutes on {platform.machine()}, {multiprocessing.cpu_count()} cores: "
        f"{soak.tally.transactions:,} transactions; {outcomes}"
    )
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(2**32))
    given = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="cogni-soak-") as folder, killable() as server:
        soak = Soak(server, Path(folder), random.Random(given.seed))
        while time.monotonic() < began + given.minutes * 60:
            soak.round()
        Console().print(report(soak, (time.monotonic() - began) / 60, given.seed))


if __name__ == "__main__":
    main()
