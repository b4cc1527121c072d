"""Imports files of purchases and charges, batch by batch, and reports the outcome of each line.

It keeps no state. Payments and references that are recorded already are replayed, so an interrupted
import begins again at the first line.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from itertools import islice
from typing import IO, Any, BinaryIO, Final, Generic, TypeVar
from uuid import UUID

from attrs import define, frozen
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from cogni_billing.billing import Billing
from cogni_billing.cli.endings import Output
from cogni_billing.cli.records import REFUSED, Columns, Format, Lines, Record, records
from cogni_billing.domain.amounts import CREDIT, USD, USDC, Amount, Unit
from cogni_billing.domain.batches import ENDS_ALL, Outcome, OutcomeState
from cogni_billing.domain.charges import Charge
from cogni_billing.domain.errors import (
    BillingError,
    InvalidTenant,
    InvalidTime,
    UnitMismatch,
    most_severe,
    shown,
)
from cogni_billing.domain.purchases import Purchase

Request = TypeVar("Request", Purchase, Charge)


MONEY: Final = {unit.code: unit for unit in (USD, USDC)}
"""The units of payments. The commands have no price book for others."""


@frozen
class Kind(Generic[Request]):
    """The columns of a file, and the call for its records."""

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
        occurred_at=_moment(columns.get("occurred_at")),
        metadata=columns.get("metadata"),
    )


PURCHASES: Final = Kind(
    Columns(("tenant", "amount", "payment"), ("unit", "metadata")),
    _purchase,
    Billing.confirm_purchases,
)
CHARGES: Final = Kind(
    Columns(("tenant", "amount", "reference"), ("allow_overdraft", "occurred_at", "metadata")),
    _charge,
    Billing.charge_many,
)


def _tenant(given: object) -> UUID:
    """*given* as a UUID in its usual form. `UUID` would also accept braces and underscores."""
    try:
        found = UUID(given) if isinstance(given, str) else None
    except ValueError:
        found = None
    if found is None or str(found) != str(given).lower():
        raise InvalidTenant(
            "tenant", shown(given), "a UUID such as 0a11ce00-0000-4000-8000-000000000001"
        )
    return found


def _moment(given: object) -> datetime | None:
    """*given* as a moment, as text of ISO 8601. A charge validates its range."""
    if given is None:
        return None
    try:
        return datetime.fromisoformat(str(given))
    except ValueError as error:
        expected = "a moment with its offset, such as 2026-11-23T12:00:00Z"
        raise InvalidTime("occurred_at", shown(given), expected) from error


def _unit(given: str) -> Unit:
    if given not in MONEY:
        raise UnitMismatch("unit", shown(given), " or ".join(MONEY))
    return MONEY[given]


@frozen
class Answered:
    """A line and its outcome."""

    record: Record
    outcome: Outcome[Any]

    @property
    def error(self) -> BillingError | None:
        return self.outcome.error

    def __str__(self) -> str:
        assert self.error is not None
        return f"line {self.record.line}: {self.error.code}: {self.error}"

    def to_dict(self) -> dict[str, Any]:
        """The refused record, to fix and import again."""
        assert self.error is not None
        why = {"line": self.record.line, "code": self.error.code, "error": str(self.error)}
        return {**self.record.columns, REFUSED: why}


@define
class Tally:
    """The number of lines by outcome."""

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
    """Send *records* and yield their outcomes, batch by batch.

    Raises:
        LedgerUnavailable, OutcomeUnknown, LedgerCorruption, PrivilegeRequired: some lines of a
            batch have no answer. The answered lines of the batch were yielded before.
    """
    while batch := list(islice(records, batch_size)):
        answers = _sent(billing, kind, batch)
        yield [answer for answer in answers if not isinstance(answer.error, ENDS_ALL)]
        if ends := [answer.error for answer in answers if isinstance(answer.error, ENDS_ALL)]:
            raise most_severe(ends)


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
    """A file to import, and its options."""

    kind: Kind[Request]
    file: BinaryIO
    written: Format
    batch_size: int
    refused: IO[str] | None = None
    """The file for refused records. `None` prints them."""


def run_import(console: Console, billing: Billing, what: Import[Request]) -> Tally:
    """Import the file, with a progress bar on a terminal, and print the numbers."""
    errors = Output(stderr=True, markup=False, emoji=False, highlight=False)
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
            errors.print("stopped; import the same file again to continue")
        raise
    finally:
        console.print("done    ", tally.done)
        console.print("replayed", tally.replayed)
        console.print("refused ", tally.refused)
    return tally


@contextmanager
def _bar(console: Console, file: BinaryIO) -> Iterator[Callable[[int, int], None]]:
    """A progress bar. Yields a function that takes the bytes read and the lines answered."""
    # Without a terminal rich would print an empty line. A closed stderr is None.
    if sys.stderr is None or not sys.stderr.isatty():
        yield lambda _read, _lines: None
        return
    columns = (BarColumn(), DownloadColumn(), TextColumn("{task.fields[lines]} lines"))
    with Progress(*columns, TimeRemainingColumn(), console=console) as bar:
        task = bar.add_task("", total=_size(file), lines=0)
        yield lambda read, lines: bar.update(task, completed=read, lines=lines)


def _size(file: BinaryIO) -> int | None:
    """The number of bytes in the file, or `None` for a pipe."""
    return os.fstat(file.fileno()).st_size or None


def _report(console: Console, file: IO[str] | None, refused: Iterable[Answered]) -> None:
    for answer in refused:
        if file is None:
            console.print(str(answer), style="red", soft_wrap=True)
        else:
            file.write(json.dumps(answer.to_dict()) + "\n")
    if file is not None:
        file.flush()  # keeps the report if the process is killed
