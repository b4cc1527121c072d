"""Mutation testing: `nox -s mutants -- memory postgres verifiers`.

mutmut changes the code of a room in one place after another, messages of errors included, and runs
the tests of that place. A surviving mutant is a failure, unless a rule in `mutants.toml` gives a
reason. Rules may accept at most one in twenty. A mutant that never ends counts as killed.

    python tools/mutants.py                 # domain: every mutant must be killed
    python tools/mutants.py memory postgres verifiers  # the adapters: nine in ten
    python tools/mutants.py domain --only "*/wallets.py"
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import Final

from attrs import frozen

from cogni_billing.adapters.postgres.embedded import EmbeddedPostgres

ROOT: Final = Path(__file__).parents[1]
PACKAGE: Final = ROOT / "src" / "cogni_billing"
KEPT: Final = ("src", "tests", "benchmarks", "docs", "examples", "README.md", "pyproject.toml")


@frozen
class Room:
    """Some files of the package, their tests, and the share of mutants that must be killed."""

    files: tuple[str, ...]
    tests: tuple[str, ...]
    percent: float

    def paths(self, only: str) -> list[str]:
        """The paths of its files that match, relative to the root."""
        found = [path for pattern in self.files for path in sorted(PACKAGE.glob(pattern))]
        named = [str(path.relative_to(ROOT)) for path in found]
        return [name for name in named if fnmatch(name, only)]


# The other files there build SQL during their import.
POSTGRES: Final = (
    "adapters/postgres/attempts.py",
    "adapters/postgres/audit.py",
    "adapters/postgres/books.py",
    "adapters/postgres/contexts.py",
    "adapters/postgres/failures.py",
    "adapters/postgres/ledger.py",
    "adapters/postgres/rows.py",
    "adapters/postgres/scopes.py",
    "adapters/postgres/tenants.py",
    "adapters/postgres/unit_of_work.py",
)
# One run of the kit is enough: the others reach the same code.
STACK: Final = (
    "tests/stack/test_conformance.py::TestPostgres",
    "tests/stack/test_conformance.py::TestAwaitedPostgres::TestRefunds",
    "tests/stack/test_async.py",
    "tests/stack/test_attempts.py",
    "tests/stack/test_failures.py",
    "tests/stack/test_folding.py",
    "tests/stack/test_hostile_calls.py",
    "tests/stack/test_joining.py",
    "tests/stack/test_overtaking.py",
    "tests/stack/test_signed_contexts.py",
    "tests/stack/test_leaks.py",
    "tests/stack/test_unit_of_work.py",
    "tests/stack/test_verifying.py",
)
ROOMS: Final[Mapping[str, Room]] = {
    "domain": Room(("domain/*.py",), ("tests/unit",), 100),
    "memory": Room(("adapters/*.py", "adapters/memory/*.py"), ("tests/unit",), 90),
    "postgres": Room(POSTGRES, STACK, 90),
    "verifiers": Room(("adapters/verifiers/*.py",), ("tests/unit/verifiers",), 90),
}
CONFIGURATION: Final = r"""

[tool.mutmut]
source_paths = ["src"]
only_mutate = {mutated}
timeout_constant = 5.0
timeout_multiplier = 2.0
also_copy = ["tests", "benchmarks", "docs", "examples", "README.md"]
pytest_add_cli_args = ["-n0", "-x", "-q", "-p", "no:cacheprovider", "-m", "not exhaustive",
    "-k", "not TestModel and not saboteurs and not public_names"]
pytest_add_cli_args_test_selection = {tests}
"""
NOTICED: Final = frozenset({"killed", "timeout", "segfault"})
ACCEPTED_MOST: Final = 0.05


@frozen
class Invariant:
    """Mutants that may survive: their line matches, and a reason is given."""

    line: re.Pattern[str]
    reason: str


def accepted_rules() -> tuple[Invariant, ...]:
    table = tomllib.loads((ROOT / "tools" / "mutants.toml").read_text("utf-8"))
    return tuple(Invariant(re.compile(rule["line"]), rule["reason"]) for rule in table["accepted"])


@frozen
class Workshop:
    """A copy of the project, where mutmut works."""

    folder: Path
    environment: Mapping[str, str]

    def prepare(self, mutated: Sequence[str], tests: Sequence[str]) -> None:
        for name in KEPT:
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, self.folder / name)
            else:
                shutil.copy(source, self.folder / name)
        with (self.folder / "pyproject.toml").open("a", encoding="utf-8") as file:
            file.write(CONFIGURATION.format(mutated=list(mutated), tests=list(tests)))

    def run(self, processes: int) -> None:
        """Test every mutant. mutmut shows the progress."""
        self._mutmut("run", "--max-children", str(processes), show=True)

    def _mutmut(self, *arguments: str, show: bool = False) -> str:
        ran = subprocess.run(
            [str(Path(sys.executable).with_name("mutmut")), *arguments],
            cwd=self.folder,
            env=os.environ | self.environment,
            stdout=None if show else subprocess.PIPE,
            text=True,
            check=True,
        )
        return ran.stdout or ""

    def outcomes(self) -> Iterator[tuple[str, str]]:
        """Each mutant and its outcome."""
        for line in self._mutmut("results", "--all", "true").splitlines():
            name, found, outcome = line.strip().partition(": ")
            if found:
                yield name, outcome

    def change(self, mutant: str) -> list[str]:
        """The lines that the mutant removes and adds."""
        lines = self._mutmut("show", mutant).splitlines()
        return [line for line in lines if re.match(r"[-+](?![-+])", line)]


@contextmanager
def workshop() -> Iterator[Workshop]:
    """A workshop with one server. Each test run has its own database on it."""
    with (
        tempfile.TemporaryDirectory(prefix="cogni-mutants-") as folder,
        EmbeddedPostgres(in_memory=True) as server,
    ):
        environment = {
            "HYPOTHESIS_PROFILE": "mutants",
            "COGNI_BILLING_DATABASE_URL": server.admin_url,
        }
        yield Workshop(Path(folder), environment)


def judge(name: str, only: str, processes: int) -> bool:
    """Test every mutant of a room, and print the outcomes. True if enough were killed."""
    room, rules = ROOMS[name], accepted_rules()
    paths = room.paths(only)
    if not paths:
        raise SystemExit(f"no file of {name} matches {only}")
    counts, alive = Counter[str](), list[str]()
    with workshop() as place:
        place.prepare(paths, room.tests)
        place.run(processes)
        for mutant, outcome in place.outcomes():
            if outcome in NOTICED:
                counts[outcome] += 1
                continue
            change = place.change(mutant)
            rule = next((rule for rule in rules if any(map(rule.line.search, change))), None)
            counts[outcome if rule is None else rule.reason] += 1
            if rule is None:
                alive.append("\n".join([f"{mutant}: {outcome}", *change]))
    print("\n\n".join(alive))
    for outcome, count in counts.most_common():
        print(f"{count:6} {outcome}")
    accepted = sum(counts[rule.reason] for rule in rules)
    judged = counts.total() - accepted
    noticed = 100 * (judged - len(alive)) / judged
    print(f"{name}: {noticed:.1f} % of {judged} noticed; {accepted} accepted of {counts.total()}")
    return noticed >= room.percent and accepted <= ACCEPTED_MOST * counts.total()


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rooms", nargs="*", help=f"of {', '.join(ROOMS)}; by default domain")
    parser.add_argument("--only", default="*", help="files, as a pattern")
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    given = parser.parse_args(arguments)
    rooms = given.rooms or ["domain"]
    if not ROOMS.keys() >= set(rooms):
        parser.error(f"the rooms are {', '.join(ROOMS)}")
    enough = [judge(name, given.only, given.processes) for name in rooms]
    return int(not all(enough))


if __name__ == "__main__":
    sys.exit(main())
