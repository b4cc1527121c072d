"""The checks. `nox` runs the first five in the environment that it is installed in."""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from zipfile import ZipFile

import nox

nox.needs_version = ">=2025.2"
nox.options.sessions = ["lint", "types", "imports", "tests", "exhaustive"]
nox.options.default_venv_backend = "none"
# The summary names the versions of `pythons` that were not found.
nox.options.error_on_missing_interpreters = False

# The lower bounds in pyproject.toml, repeated here for the tests.
LOWEST = (
    "alembic==1.16.1",
    "attrs==24.2.0",
    "click==8.1.8",  # the newest without a warning from the lowest typer
    "iso4217==1.14.20250512",
    "psycopg[binary]==3.3.5",
    "rich==13.9.1",
    "sqlalchemy==2.0.36",
    "typer==0.15.1",
    "web3==8.0.0",
)

BINARIES = "COGNI_BILLING_TEST_POSTGRES_BIN"

# Pinned, because new versions of these tools can change their findings.
MUTMUT = "mutmut==3.8.1"
PEERS = (
    "credit-ledger==0.3.0",
    "django==5.2.19",
    "django-hordak==2.0.0",
    "hf-nostro[postgres]==0.2.0",
    "python-dateutil==2.9.0.post0",  # for python-accounting, like SQLAlchemy
    "sqlalchemy==2.1.9",
)
PLOTS = "matplotlib==3.10.7"
# Installed without its dependencies: unneeded drivers that must be compiled.
PEERS_ALONE = ("python-accounting==2.0.0",)
BUILDERS = ("build==1.6.1", "twine==7.0.0")
JUDGES = ("pgrls==0.57.1", "rlsautotest==0.7.1", "squawk-cli==2.70.0")


def python(session: nox.Session, *arguments: str, env: dict[str, str] | None = None) -> None:
    """Run a module in the environment of nox itself."""
    session.run(sys.executable, "-m", *arguments, external=True, env=env)


def servers() -> list[Path]:
    """The binaries of each installed PostgreSQL of Debian, the lowest version first."""
    found = Path("/usr/lib/postgresql").glob("*/bin/initdb")
    return sorted((initdb.parent for initdb in found), key=lambda path: int(path.parent.name))


@nox.session
def lint(session: nox.Session) -> None:
    """Style and suspicious code."""
    python(session, "ruff", "check")
    python(session, "ruff", "format", "--check")
    python(session, "codespell_lib")
    session.run(sys.executable, "tools/plain_english.py", external=True)


@nox.session
def types(session: nox.Session) -> None:
    """Strict types, including the public API."""
    python(session, "mypy")


@nox.session
def imports(session: nox.Session) -> None:
    """The allowed imports between packages."""
    session.run(str(Path(sys.executable).with_name("lint-imports")), external=True)


@nox.session
def tests(session: nox.Session) -> None:
    """The tests, also on a real PostgreSQL, with the promised coverage."""
    python(session, "pytest", "-m", "not exhaustive", "--cov", "--cov-report=", *session.posargs)
    python(session, "coverage", "report", "--fail-under=95")
    python(session, "coverage", "report", "--include=*/cogni_billing/domain/*", "--fail-under=100")


@nox.session
def exhaustive(session: nox.Session) -> None:
    """The slow tests: every interruption, every order, and many clients."""
    # More workers than the usual two processors, because these tests often wait.
    python(session, "pytest", "-m", "exhaustive", "--numprocesses=3")


@nox.session(venv_backend="virtualenv")
def lowest(session: nox.Session) -> None:
    """The tests on the lowest allowed versions, and on the lowest installed PostgreSQL of Debian.

    One async run of the kit is enough, also of grouped calls. The documents run on the newest
    versions only.
    """
    session.install("-e", ".[dev]", *LOWEST)
    installed = servers()
    served_by = {BINARIES: str(installed[0])} if installed else {}
    tried = ("tests/stack", "tests/unit/domain", "tests/unit/verifiers")
    left = (
        "--deselect=tests/stack/test_conformance.py::TestPostgres",
        "--deselect=tests/stack/test_grouping.py::TestGroupedPostgres",
        "--ignore=tests/stack/test_documents.py",
        "--ignore=tests/stack/test_testing_kit.py",
    )
    session.run("pytest", *tried, "-m", "not exhaustive", *left, env=served_by)


@nox.session(python=["3.12", "3.13", "3.14"], venv_backend="virtualenv")
def pythons(session: nox.Session) -> None:
    """The unit tests, a test of the stack and the demo, on each further Python found here."""
    wanted = ("psutil>=6.1", "pytest-xdist>=3.6", "ruff>=0.15")
    session.install("-e", ".[cli,embedded,evm,testing]", *wanted)
    tried = ("tests/unit", "tests/stack/test_unit_of_work.py")
    session.run("pytest", *tried, "-m", "not exhaustive")
    session.run("cogni-billing", "demo", silent=True)


@nox.session(venv_backend="virtualenv")
def judges(session: nox.Session) -> None:
    """Linters and a prover of row security, and a linter of migrations, on the schema."""
    session.install("-e", ".[cli,embedded]", *JUDGES)
    session.run("python", "judges/run.py")


@nox.session(venv_backend="virtualenv")
def package(session: nox.Session) -> None:
    """Builds that are the same twice, and a wheel that works alone: `nox -s package -- FOLDER`."""
    session.install(*BUILDERS)
    temporary = Path(session.create_tmp())
    kept = Path(session.posargs[0]) if session.posargs else temporary / "dist"
    for folder in (kept, temporary / "again"):
        session.run("python", "-m", "build", "--outdir", str(folder))
    built = sorted(kept.iterdir())
    for file in built:
        if file.read_bytes() != (temporary / "again" / file.name).read_bytes():
            session.error(f"{file.name} is another one when built again")
    session.run("twine", "check", "--strict", *map(str, built))
    [wheel] = kept.glob("*.whl")
    with ZipFile(wheel) as archive:
        archive.getinfo("cogni_billing/py.typed")
    alone = temporary / "alone"
    session.run("python", "-m", "venv", "--clear", str(alone))
    pip, command = str(alone / "bin" / "pip"), str(alone / "bin" / "cogni-billing")
    session.run(pip, "install", "--quiet", f"{wheel}[cli,embedded]", external=True)
    session.run(command, "demo", external=True)


@nox.session(venv_backend="virtualenv")
def docs(session: nox.Session) -> None:
    """Build the documentation site, in a temporary folder or in yours: `nox -s docs -- site`."""
    session.install("-e", ".[binary,docs]")
    with TemporaryDirectory() as temporary:
        site = session.posargs[0] if session.posargs else temporary
        session.run("mkdocs", "build", "--strict", "--site-dir", site)
        session.run("python", "tools/check_site.py", site)


@nox.session
def majors(session: nox.Session) -> None:
    """The stack tests on each installed PostgreSQL of Debian."""
    for binaries in servers():
        session.log(f"PostgreSQL {binaries.parent.name}")
        served_by = {BINARIES: str(binaries)}
        python(session, "pytest", "tests/stack", "-m", "not exhaustive", env=served_by)


@nox.session(venv_backend="virtualenv")
def mutants(session: nox.Session) -> None:
    """Mutation testing: `nox -s mutants -- memory postgres`."""
    session.install("-e", ".[dev]", MUTMUT)
    session.run("python", "tools/mutants.py", *session.posargs)


@nox.session(venv_backend="virtualenv")
def benchmarks(session: nox.Session) -> None:
    """The library, its limit and its peers: `nox -s benchmarks -- purchases peers`."""
    session.install("-e", ".[dev]", *PEERS, PLOTS)
    session.install("--no-deps", *PEERS_ALONE)
    session.run("python", "-m", "benchmarks", *session.posargs)


@nox.session
def soak(session: nox.Session) -> None:
    """Kills, interrupted calls and contention together: `nox -s soak -- --minutes 30`."""
    session.run(sys.executable, "tests/soak.py", *session.posargs, external=True)
