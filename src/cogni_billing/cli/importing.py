"""Files of purchases and of charges, sent batch by batch, and what became of each line.

No state of its own: a payment or reference that is there already is replayed, so whoever was broken
off begins again at the first line.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import IO, Any, BinaryIO, Final, Generic, TypeVar
from uuid import UUID

from attrs import define, frozen
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from cogni_billing.billing import Billing
from cogni_billing.cli.records import REFUSED, Columns, Format, Lines, Record, records
from cogni_billing.domain.amounts import CREDIT, USD, Amount, Unit
from cogni_billing.domain.batches import ENDS_ALL, Outcome, OutcomeState
from cogni_billing.domain.charges import Charge
from cogni_billing.domain.errors import (
    BillingError,
    InvalidTenant,
    LedgerCorruption,
    OutcomeUnknown,
    UnitMismatch,
    shown,
)
from cogni_billing.domain.purchases import Purchase

Request = TypeVar("Request", Purchase, Charge)


@frozen
class Kind(Generic[Request]):
    """What a file holds, and which call it is for."""

    columns: Columns
    request: Callable[[Mapping[str, Any]], Request]
    send: Callable[[Billing, Iterable[Request]], Sequence[Outcome[Any]]]


def _purchase(columns: Mapping[str, Any]) -> Purchase:
    return Purchase(
        tenant=_tenant(columns["tenant"]),
        amount=Amount(columns["amount"], _unit(columns.get("unit", USD.code))),
        payment=columns["payment"],
        metadata=columns.get("metadata"),
    )


def _charge(columns: Mapping[str, Any]) -> Charge:
    return Charge(
        tenant=_tenant(columns["tenant"]),
        amount=Amount(columns["amount"], CREDIT),
        reference=columns["reference"],
        allow_overdraft=columns.get("allow_overdraft", False),
        metadata=columns.get("metadata"),
    )


PURCHASES: Final = Kind(
    Columns(("tenant", "amount", "payment"), ("unit", "metadata")),
    _purchase,
    Billing.confirm_purchases,
)
CHARGES: Final = Kind(
    Columns(("tenant", "amount", "reference"), ("allow_overdraft", "metadata")),
    _charge,
    Billing.charge_many,
)


def _tenant(given: object) -> UUID:
    """The UUID that *given* is, written in full; `UUID` would take braces and underscores, too."""
    try:
        found = UUID(given) if isinstance(given, str) else None
    except ValueError:
        found = None
    if found is None or str(found) != str(given).lower():
        raise InvalidTenant(
            "tenant", shown(given), "a UUID such as 0a11ce00-0000-4000-8000-000000000001"
        )
    return found


def _unit(given: object) -> Unit:
    if not isinstance(given, str) or given not in Unit.__members__:
        raise UnitMismatch("unit", shown(given), "USD or USDC")
    return Unit.of(given)


@frozen
class Answered:
    """A line, and what became of it."""

    record: Record
    outcome: Outcome[Any]

    @property
    def error(self) -> BillingError | None:
        return self.outcome.error

    def __str__(self) -> str:
        assert self.error is not None
        return f"line {self.record.line}: {self.error.code}: {self.error}"

    def to_dict(self) -> dict[str, Any]:
        """The refused record, as one to be mended and imported again."""
        assert self.error is not None
        why = {"line": self.record.line, "code": self.error.code, "error": str(self.error)}
        return {**self.record.columns, REFUSED: why}


@define
class Tally:
    """How many lines came to what."""

    done: int = 0
    replayed: int = 0
    refused: int = 0

    @property
    def lines(self) -> int:
        return self.done + self.replayed + self.refused

    def count(self, answers: Iterable[Answered]) -> None:
        for answer in answers:
            match answer.outcome.state:
                case OutcomeState.DONE:
                    self.done += 1
                case OutcomeState.REPLAYED:
                    self.replayed += 1
                case OutcomeState.REFUSED:
                    self.refused += 1


def answered(
    billing: Billing, kind: Kind[Request], records: Iterator[Record], batch_size: int
) -> Iterator[list[Answered]]:
    """What became of *records*, a batch at a time, which is sent when it is asked for.

    Raises:
        LedgerUnavailable, OutcomeUnknown, LedgerCorruption, PrivilegeRequired: the ledger did not
            answer for some lines of a batch. Those it answered for came before.
    """
    while batch := list(islice(records, batch_size)):
        answers = _sent(billing, kind, batch)
        yield [answer for answer in answers if not isinstance(answer.error, ENDS_ALL)]
        if ends := [answer.error for answer in answers if isinstance(answer.error, ENDS_ALL)]:
            raise max(ends, key=_how_bad)


def _how_bad(error: BillingError) -> int:
    if isinstance(error, LedgerCorruption):
        return 2
    return 1 if isinstance(error, OutcomeUnknown) else 0


def _sent(billing: Billing, kind: Kind[Request], batch: Sequence[Record]) -> list[Answered]:
    requests = [_request(kind, record) for record in batch]
    sent = [request for request in requests if not isinstance(request, BillingError)]
    outcomes = iter(kind.send(billing, sent))
    return [
        Answered(
            record, Outcome(error=request) if isinstance(request, BillingError) else next(outcomes)
        )
        for record, request in zip(batch, requests, strict=True)
    ]


def _request(kind: Kind[Request], record: Record) -> Request | BillingError:
    try:
        if record.error is not None:
            return record.error
        kind.columns.check(record.columns, "columns")
        return kind.request(record.columns)
    except BillingError as error:
        return error


@frozen
class Import(Generic[Request]):
    """A file to import, and how."""

    kind: Kind[Request]
    file: BinaryIO
    written: Format
    batch_size: int
    refused: IO[str] | None = None
    """Where refused records go; they are shown when it is nowhere."""


def run_import(console: Console, billing: Billing, what: Import[Request]) -> Tally:
    """Send the file, with a bar on a terminal, and print what came of it."""
    errors = Console(stderr=True, markup=False, emoji=False, highlight=False)
    tally, lines = Tally(), Lines(what.file)
    found = records(lines, what.written, what.kind.columns)
    try:
        with _bar(errors, what.file) as tell:
            for answers in answered(billing, what.kind, found, what.batch_size):
                tally.count(answers)
                _report(errors, what.refused, (a for a in answers if a.error is not None))
                tell(lines.read, tally.lines)
    except BillingError as error:
        if tally.lines or isinstance(error, ENDS_ALL):
            errors.print("stopped; import the file again to go on: what is done is replayed")
        raise
    finally:
        console.print("done    ", tally.done)
        console.print("replayed", tally.replayed)
        console.print("refused ", tally.refused)
    return tally


@contextmanager
def _bar(console: Console, file: BinaryIO) -> Iterator[Callable[[int, int], None]]:
    """Takes how many bytes were read, and how many lines were answered; shows it on a terminal."""
    # Without a terminal rich would print an empty line. A closed stderr is None.
    if sys.stderr is None or not sys.stderr.isatty():
        yield lambda _read, _lines: None
        return
    columns = (BarColumn(), DownloadColumn(), TextColumn("{task.fields[lines]} lines"))
    with Progress(*columns, TimeRemainingColumn(), console=console) as bar:
        task = bar.add_task("", total=_size(file), lines=0)
        yield lambda read, lines: bar.update(task, completed=read, lines=lines)


def _size(file: BinaryIO) -> int | None:
    """How many bytes there are to read; a pipe does not tell."""
    return os.fstat(file.fileno()).st_size or None


def _report(console: Console, file: IO[str] | None, refused: Iterable[Answered]) -> None:
    for answer in refused:
        if file is None:
            console.print(str(answer), style="red", soft_wrap=True)
        else:
            file.write(json.dumps(answer.to_dict()) + "\n")
    if file is not None:
        file.flush()  # a kill leaves what was reported until then
