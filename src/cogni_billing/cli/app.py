"""The commands. Each function parses, calls, prints, and converts errors into exit codes."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import IO, Annotated, Any
from urllib.parse import urlsplit
from uuid import UUID

import psycopg
import typer
from attrs import evolve
from psycopg.conninfo import conninfo_to_dict
from rich.console import Console
from sqlalchemy import URL, Engine, create_engine

from cogni_billing.adapters import postgres
from cogni_billing.adapters.postgres import PostgresUnitOfWork, Roles
from cogni_billing.adapters.postgres.connections import URL_SHAPE, checked_url
from cogni_billing.billing import Billing
from cogni_billing.cli.demo import run_demo
from cogni_billing.cli.endings import INTERRUPTED, Commands, EndedEarly, Output
from cogni_billing.cli.importing import CHARGES, MONEY, PURCHASES, Import, Kind, Request, run_import
from cogni_billing.cli.records import Format
from cogni_billing.cli.sealing import append_seals, read_key, read_seals
from cogni_billing.cli.tables import quantity, report_table, statement_table, verification_table
from cogni_billing.domain.amounts import USD, Amount
from cogni_billing.domain.errors import BillingError, InvalidInput, LedgerUnavailable, escaped
from cogni_billing.domain.identity import TenantId
from cogni_billing.domain.verification import Violation

app = typer.Typer(
    cls=Commands,
    help="Prepaid credits for multi-tenant applications on PostgreSQL.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
imports = typer.Typer(
    help="Import many from a file. After an interruption, import the same file again.",
    no_args_is_help=True,
)
app.add_typer(imports, name="import")
# A pipe would get 80 columns, and the tables need more. A closed output is None.
_IS_TERMINAL = sys.stdout is not None and sys.stdout.isatty()
_WIDTH = None if _IS_TERMINAL or "COLUMNS" in os.environ else 140
console = Output(width=_WIDTH, emoji=False)

# From sysexits.h. The `os` module of Windows lacks these names.
_UNAVAILABLE, _IO_ERROR = 69, 74
_STDOUT = 1
_URL_VARIABLE = "COGNI_BILLING_DATABASE_URL"
_SERVICE_URL_VARIABLE = "COGNI_BILLING_SERVICE_URL"
DatabaseUrl = Annotated[str, typer.Option("--database-url", envvar=_URL_VARIABLE, help=URL_SHAPE)]
ServiceUrl = Annotated[
    str,
    typer.Option("--service-url", envvar=_SERVICE_URL_VARIABLE, help="The URL of app_service."),
]
_KEY_VARIABLE = "COGNI_BILLING_SIGNING_KEY"
Tenant = Annotated[UUID, typer.Argument(help="The tenant's UUID.")]

ImportedFile = Annotated[
    Path, typer.Argument(exists=True, dir_okay=False, readable=True, help="Read line by line.")
]
Written = Annotated[
    Format | None, typer.Option("--format", help="By default the ending of the file's name.")
]
BatchSize = Annotated[
    int, typer.Option(min=1, max=100_000, help="The number of lines to send at once.")
]
RefusedFile = Annotated[
    Path | None,
    typer.Option(
        "--refused",
        dir_okay=False,
        help="Write refused lines to this file, as JSON lines, to fix and import again.",
    ),
]

KeyFile = Annotated[
    Path,
    typer.Option(
        "--key-file", exists=True, dir_okay=False, readable=True, help="32 to 64 bytes, in hex."
    ),
]


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(version("cogni-billing"))
        raise typer.Exit


@app.callback()
def _options(
    *,
    _version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    pass


@app.command()
def demo(
    database_url: Annotated[
        str | None,
        typer.Option(
            "--database-url",
            envvar=_URL_VARIABLE,
            help="The URL of an administrator. By default an embedded server is started.",
        ),
    ] = None,
    *,
    everything: Annotated[
        bool, typer.Option("--all", help="Show each message, and each tenant's view.")
    ] = False,
) -> None:
    """Confirm a few payments in a temporary database, and show the results."""
    url = None if database_url is None else _checked_url(database_url)
    run_demo(console, url, everything=everything)


@app.command()
def provision(
    database_url: DatabaseUrl,
    spender: Annotated[
        str | None,
        typer.Option(
            help="Create a role of this name that may spend credits but not create them. The other"
            " roles keep their default names."
        ),
    ] = None,
    *,
    test_database: bool = False,
    clock_skew: Annotated[
        int | None,
        typer.Option(help="Seconds that a host's clock may be from the server's; 300 at first."),
    ] = None,
    own_database: Annotated[
        bool,
        typer.Option(
            "--own-database",
            help="Nothing else is in the database: no role may block or end others' sessions.",
        ),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the SQL instead of running it.")
    ] = False,
) -> None:
    """Create the roles and the schema, as an administrator. Idempotent."""
    roles = None if spender is None else Roles(spender=spender)
    skew = None if clock_skew is None else timedelta(seconds=clock_skew)
    run = partial(
        postgres.provision_sql if dry_run else postgres.provision,
        roles=roles,
        test_database=test_database,
        clock_skew=skew,
        own_database=own_database,
    )
    with _engine(database_url) as engine:
        sql = run(engine)
    if sql is not None:
        typer.echo(sql, nl=False)
        return
    console.print("provisioned; new roles have no password, set it yourself")


@app.command()
def migrate(database_url: DatabaseUrl) -> None:
    """Upgrade the schema to this version, as app_migrator."""
    with _engine(database_url) as engine:
        postgres.migrate(engine)
    console.print("migrated to head")


@app.command()
def repair(database_url: DatabaseUrl) -> None:
    """Replace the functions, and move the sequence ahead of the rows, as app_migrator."""
    with _engine(database_url) as engine:
        postgres.repair(engine)
    console.print("repaired")


@app.command()
def restore(
    file: Annotated[
        Path,
        typer.Argument(exists=True, dir_okay=False, readable=True, help="The dump, as text."),
    ],
    database_url: DatabaseUrl,
) -> None:
    """Fill an empty ledger with the rows of a dump, as app_migrator."""
    with _engine(database_url) as engine, file.open(encoding="utf-8", newline="\n") as dump:
        rows = postgres.restore(engine, dump)
    console.print("rows restored:", rows)


@app.command()
def doctor(
    database_url: DatabaseUrl,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    after_restore: Annotated[
        bool, typer.Option("--after-restore", help="Read every row too, as app_service.")
    ] = False,
) -> None:
    """Examine the database and the connected role. Exit with 1 if a check fails."""
    with _engine(database_url) as engine:
        report = postgres.doctor(engine, signing_key=_signing_key(), after_restore=after_restore)
    if as_json:
        typer.echo(json.dumps(report.to_dict(), indent=2))
    else:
        console.print(report_table(report))
    if not report.ok:
        raise typer.Exit(1)


@app.command("open-account")
def open_account(tenant: Tenant, database_url: DatabaseUrl) -> None:
    """Open an account for the tenant, unless it has one."""
    with _billing(database_url) as billing:
        account = billing.open_account(TenantId(tenant))
    console.print(f"account {account.id}, open since {account.opened_at.isoformat()}")


@app.command()
def purchase(
    tenant: Tenant,
    amount: Annotated[str, typer.Argument(help="The paid amount, such as 10.00.")],
    payment: Annotated[str, typer.Option(help="The evidence, provider:id.")],
    database_url: DatabaseUrl,
    unit: Annotated[str, typer.Option(help="USD or USDC.")] = USD.code,
) -> None:
    """Confirm a payment: credit the tenant in full, and the system tenant its share."""
    if unit not in MONEY:
        raise typer.BadParameter(f"expected {' or '.join(MONEY)}, got {escaped(unit)}")
    with _billing(database_url) as billing:
        receipt = billing.confirm_purchase(
            TenantId(tenant), Amount(amount, MONEY[unit]), payment=payment
        )
    console.print("replayed" if receipt.replayed else "confirmed", str(receipt.transaction_id))
    console.print("credited", quantity(receipt.credited))
    for share in receipt.shares:
        console.print("share   ", quantity(share.amount), "to", str(share.beneficiary))
    console.print("balance ", quantity(receipt.balance))


@imports.command("purchases")
def import_purchases(
    file: ImportedFile,
    database_url: DatabaseUrl,
    written: Written = None,
    batch_size: BatchSize = 1000,
    refused: RefusedFile = None,
) -> None:
    """Confirm the payments of a file: tenant, amount, payment, and optionally unit, metadata."""
    _import(database_url, PURCHASES, file, written=written, batch_size=batch_size, refused=refused)


@imports.command("charges")
def import_charges(
    file: ImportedFile,
    database_url: DatabaseUrl,
    written: Written = None,
    batch_size: BatchSize = 1000,
    refused: RefusedFile = None,
) -> None:
    """Take the charges of a file: tenant, amount, reference, and optionally allow_overdraft,
    occurred_at, metadata.
    """
    _import(database_url, CHARGES, file, written=written, batch_size=batch_size, refused=refused)


@app.command()
def balance(tenant: Tenant, database_url: DatabaseUrl) -> None:
    """Show the tenant's balance."""
    with _billing(database_url) as billing:
        found = billing.balance(TenantId(tenant))
    console.print("posted   ", quantity(found.posted))
    console.print("held     ", quantity(found.held))
    console.print("available", quantity(found.available))


@app.command()
def statement(
    tenant: Tenant, database_url: DatabaseUrl, limit: int = 50, after: str | None = None
) -> None:
    """Show the tenant's postings, newest first."""
    with _billing(database_url) as billing:
        page = billing.statement(TenantId(tenant), limit=limit, after=after)
        found = billing.balance(TenantId(tenant))
    console.print(statement_table(str(tenant), page.lines, found))
    if page.next is not None:
        console.print(f"more with --after {page.next}")


@app.command()
def sweep(database_url: DatabaseUrl, service_url: ServiceUrl) -> None:
    """Post expirations and starts of grants that are due on idle wallets."""
    with _back_office(database_url, service_url) as billing:
        console.print("wallets updated:", billing.sweep())


@app.command()
def fold(database_url: DatabaseUrl, service_url: ServiceUrl) -> None:
    """Write balance checkpoints for accounts that receive shares."""
    with _back_office(database_url, service_url) as billing:
        folding = billing.fold()
    console.print("accounts folded:", folding.accounts, "lines:", folding.lines)


@app.command()
def seal(
    file: Annotated[
        Path, typer.Argument(dir_okay=False, help="The seals so far; made if missing.")
    ],
    key_file: KeyFile,
    database_url: DatabaseUrl,
    service_url: ServiceUrl,
) -> None:
    """Add seals of the transactions since the last seals to a file, in JSON lines."""
    key, seals = read_key(key_file), read_seals(file) if file.exists() else []
    with _back_office(database_url, service_url) as billing:
        added = billing.seal(seals, key=key)
    append_seals(file, added)
    console.print("seals added:", len(added))


@app.command()
def verify(
    database_url: DatabaseUrl,
    service_url: ServiceUrl,
    seals: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, readable=True, help="Compare these, too."),
    ] = None,
    key_file: KeyFile | None = None,
) -> None:
    """Check every invariant over the whole ledger. Exit with 1 if one is broken.

    With seals, compare every sealed transaction with its seal.
    """
    if (seals is None) is not (key_file is None):
        raise typer.BadParameter("--seals and --key-file go together")
    broken: tuple[Violation, ...] = ()
    with _back_office(database_url, service_url) as billing:
        if seals is not None and key_file is not None:
            broken = billing.verify_seals(read_seals(seals), key=read_key(key_file))
        found = billing.verify()
    found = evolve(found, violations=found.violations + broken)
    console.print(verification_table(found, with_seals=seals is not None))
    if not found.ok:
        raise typer.Exit(1)


def main() -> None:
    """Run the command. A typed error is one line on standard error, with an exit code.

    The code is 1, or of sysexits.h EX_UNAVAILABLE if the database is unavailable, and EX_IOERR if
    an input or output failed. After Ctrl-C it is 130, and after a closed pipe 141.
    """
    try:
        app()
    except KeyboardInterrupt:  # before there was a command
        sys.exit(INTERRUPTED)
    except EndedEarly as end:
        if message := str(end):
            _print_error(message)
        _discard_output()
        sys.exit(end.code)
    except BillingError as error:
        _print_error(f"{error.code}: {error}")
        sys.exit(_UNAVAILABLE if isinstance(error, LedgerUnavailable) else 1)
    except OSError as error:
        _print_error(f"input or output failed: {error.strerror or error}")
        _discard_output()
        sys.exit(_IO_ERROR)


def _discard_output() -> None:
    """Discard the rest of the buffer: Python would write it at exit, and fail again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), _STDOUT)


def _print_error(message: str) -> None:
    Console(stderr=True, markup=False, emoji=False).print(
        escaped(message), style="red", soft_wrap=True
    )


@contextmanager
def _billing(database_url: str) -> Iterator[Billing]:
    with _engine(database_url) as engine:
        yield Billing(PostgresUnitOfWork(engine, signing_key=_signing_key()))


@contextmanager
def _back_office(database_url: str, service_url: str) -> Iterator[Billing]:
    with _engine(database_url) as engine, _engine(service_url) as service:
        yield Billing(PostgresUnitOfWork(engine, service=service, signing_key=_signing_key()))


def _import(
    database_url: str,
    kind: Kind[Request],
    file: Path,
    *,
    written: Format | None,
    batch_size: int,
    refused: Path | None,
) -> None:
    with ExitStack() as stack:
        what = Import(
            kind,
            stack.enter_context(file.open("rb")),
            _format_of(file) if written is None else written,
            batch_size,
            None if refused is None else stack.enter_context(_rewritten(refused, file)),
        )
        billing = stack.enter_context(_billing(database_url))
        if run_import(console, billing, what).refused:
            raise typer.Exit(1)


def _format_of(file: Path) -> Format:
    try:
        return Format(file.suffix.removeprefix(".").lower())
    except ValueError as error:
        raise typer.BadParameter(
            f"{escaped(str(file))} does not end in .csv or .jsonl; give its --format"
        ) from error


def _rewritten(refused: Path, file: Path) -> IO[str]:
    if refused.exists() and refused.samefile(file):
        raise typer.BadParameter(
            f"--refused would overwrite {escaped(str(file))}; give another file"
        )
    try:
        return refused.open("w", encoding="utf-8")
    except OSError as error:
        name = escaped(str(refused))
        raise typer.BadParameter(f"--refused {name}: {error.strerror}") from error


def _signing_key() -> bytes | None:
    """The key of signed contexts, from the environment, because other processes see arguments."""
    given = os.environ.get(_KEY_VARIABLE)
    try:
        return None if given is None else bytes.fromhex(given)
    except ValueError as error:
        raise typer.BadParameter(
            f"{_KEY_VARIABLE} is no hexadecimal key; fix or unset it"
        ) from error


@contextmanager
def _engine(database_url: str) -> Iterator[Engine]:
    url, options = _parsed(database_url)
    # Behind a pooler the next transaction may run where its statements were not prepared.
    options["prepare_threshold"] = None
    engine = create_engine(url, connect_args=options, client_encoding="utf8")
    try:
        yield engine
    finally:
        engine.dispose()


def _parsed(database_url: str) -> tuple[URL, dict[str, Any]]:
    """The URL, and the driver's options. SQLAlchemy cannot read a list of hosts, but libpq can."""
    try:
        parts = urlsplit(database_url)
        if "," in parts.netloc.rpartition("@")[2]:
            libpq = parts._replace(scheme=parts.scheme.removesuffix("+psycopg")).geturl()
            return _checked_url("postgresql://"), conninfo_to_dict(libpq)
    except (ValueError, psycopg.ProgrammingError):
        # Without what was given, which may hold a password.
        raise typer.BadParameter(f"database-url: expected {URL_SHAPE}") from None
    return _checked_url(database_url), {}


def _checked_url(database_url: str) -> URL:
    try:
        return checked_url("database-url", database_url)
    except InvalidInput as error:
        raise typer.BadParameter(str(error)) from None
