"""Which changes to the code no test would notice: `nox -s mutants`, of `domain/` or what is named.

mutmut changes the code in one place after another, what errors say included, and runs the tests of
that place. A change that survives is a failure, unless a rule in `mutants.toml` says why it may: at
most one in twenty. One with which the tests do not end counts as noticed.

    python tools/mutants.py                           # all of domain/
    python tools/mutants.py domain/wallets.py
    python tools/mutants.py "adapters/memory/*" --required 90
    python tools/mutants.py "adapters/postgres/*.py" --required 90
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
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from attrs import frozen

ROOT: Final = Path(__file__).parents[1]
KEPT: Final = ("src", "tests", "docs", "examples", "README.md", "pyproject.toml")
TESTS: Final = {
    "domain": ("tests/unit",),
    "adapters/memory": ("tests/unit",),
    "adapters/postgres": ("tests/stack",),
}
CONFIGURATION: Final = r"""

[tool.mutmut]
source_paths = ["src"]
only_mutate = ["src/cogni_billing/{mutated}"]
timeout_constant = 5.0
timeout_multiplier = 2.0
also_copy = ["tests", "docs", "examples", "README.md"]
pytest_add_cli_args = ["-n0", "-x", "-q", "-p", "no:cacheprovider", "-m", "not exhaustive",
    "-k", "not TestModel and not saboteurs and not public_names"]
pytest_add_cli_args_test_selection = {tests}
"""
ACCEPTED_MOST: Final = 0.05


@frozen
class Rule:
    """Changes that may survive: those whose line matches, for a reason."""

    line: re.Pattern[str]
    reason: str


def accepted_rules() -> tuple[Rule, ...]:
    table = tomllib.loads((ROOT / "tools" / "mutants.toml").read_text("utf-8"))
    return tuple(Rule(re.compile(rule["line"]), rule["reason"]) for rule in table["accepted"])


@frozen
class Workshop:
    """A copy of the project, where mutmut works."""

    folder: Path

    def prepare(self, mutated: str) -> None:
        for name in KEPT:
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, self.folder / name)
            else:
                shutil.copy(source, self.folder / name)
        tests = next(tests for room, tests in TESTS.items() if mutated.startswith(room))
        with (self.folder / "pyproject.toml").open("a", encoding="utf-8") as file:
            file.write(CONFIGURATION.format(mutated=mutated, tests=list(tests)))

    def mutmut(self, *arguments: str) -> str:
        ran = subprocess.run(
            [str(Path(sys.executable).with_name("mutmut")), *arguments],
            cwd=self.folder,
            env=os.environ | {"HYPOTHESIS_PROFILE": "mutants"},
            capture_output=True,
            text=True,
            check=False,
        )
        if ran.returncode:
            raise SystemExit(ran.stdout[-2000:] + ran.stderr[-2000:])
        return ran.stdout

    def outcomes(self) -> Iterator[tuple[str, str]]:
        """Each mutant and what became of it."""
        for line in self.mutmut("results", "--all", "true").splitlines():
            name, found, outcome = line.strip().partition(": ")
            if found:
                yield name, outcome

    def change(self, mutant: str) -> list[str]:
        """The lines that the mutant takes out and puts in."""
        lines = self.mutmut("show", mutant).splitlines()
        return [line for line in lines if re.match(r"[-+](?![-+])", line)]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("mutated", nargs="?", default="domain/*", help="files, as a pattern")
    parser.add_argument("--required", type=float, default=100.0, help="percent to be killed")
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    given = parser.parse_args(arguments)
    rules, counts, alive = accepted_rules(), Counter[str](), list[str]()
    with tempfile.TemporaryDirectory(prefix="cogni-mutants-") as folder:
        workshop = Workshop(Path(folder))
        workshop.prepare(given.mutated)
        workshop.mutmut("run", "--max-children", str(given.processes))
        for mutant, outcome in workshop.outcomes():
            if outcome not in {"survived", "no tests"}:
                counts[outcome] += 1
                continue
            change = workshop.change(mutant)
            rule = next((rule for rule in rules if any(map(rule.line.search, change))), None)
            counts[outcome if rule is None else rule.reason] += 1
            if rule is None:
                alive.append("\n".join([f"{mutant}: {outcome}", *change]))
    return reported(counts, alive, {rule.reason for rule in rules}, given.required)


def reported(counts: Counter[str], alive: Sequence[str], reasons: set[str], required: float) -> int:
    """Print what became of all; the exit code."""
    print("\n\n".join(alive))
    for outcome, count in counts.most_common():
        print(f"{count:6} {outcome}")
    accepted = sum(counts[reason] for reason in reasons)
    judged = counts.total() - accepted
    killed = 100 * (judged - len(alive)) / judged
    print(f"{killed:.1f} % of {judged} killed; {accepted} accepted of {counts.total()}")
    return int(killed < required or accepted > ACCEPTED_MOST * counts.total())


if __name__ == "__main__":
    sys.exit(main())
