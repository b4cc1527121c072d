"""Reads the records of a file one by one, with values as in JSON."""

from __future__ import annotations

import codecs
import csv
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from enum import StrEnum
from functools import partial
from typing import Any, BinaryIO, Final

from attrs import define, frozen

from cogni_billing.domain.errors import BillingError, InvalidInput, InvalidMetadata, shown

LINE_MAX: Final = 256 * 1024  # enough for the largest metadata with every character escaped
REFUSED: Final = "refused"
"""The field for the error of a refused record. It is ignored when the record is read."""
_UTF_16: Final = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_TRUTH: Final = {"true": True, "false": False}  # in lower case, because spreadsheets write capitals


class Format(StrEnum):
    """The format of a file."""

    CSV = "csv"
    JSONL = "jsonl"


@frozen
class Columns:
    """The names of a record's fields."""

    required: tuple[str, ...]
    optional: tuple[str, ...]

    def __str__(self) -> str:
        return f"{', '.join(self.required)}, and perhaps {', '.join(self.optional)}"

    def check(self, names: Iterable[str], field: str) -> None:
        """Refuse *names* unless they are these columns, each once, in any order.

        Raises:
            InvalidInput: a column is missing, unknown, or given twice. The error names it.
        """
        missing = set(self.required)
        left = missing.union(self.optional)
        for name in names:
            if name not in left:
                known = name in self.required + self.optional
                raise self._wrong(field, f"{name} twice" if known else shown(name))
            left.remove(name)
            missing.discard(name)
        if missing:
            raise self._wrong(field, f"no {min(missing, key=self.required.index)}")

    def _wrong(self, field: str, given: str) -> InvalidInput:
        return InvalidInput(field, given, str(self))


@frozen
class Record:
    """A record and its line, or the error of a malformed one."""

    line: int
    columns: Mapping[str, Any]
    error: BillingError | None = None


@define
class Lines:
    """The lines of a file, as text, with the position in the file."""

    _file: BinaryIO
    number: int = 0
    """The number of the last line read, from 1."""
    read: int = 0
    """The number of bytes read."""
    _foreign: int = 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._file.readline(LINE_MAX + 1)
        if not line:
            raise StopIteration
        self.number += 1
        self.read += len(line)
        if len(line) > LINE_MAX:
            raise self._wrong("a longer one", f"a line of at most {LINE_MAX} bytes")
        if self.number == 1:
            if line.startswith(_UTF_16):
                raise self._wrong("UTF-16", "text in UTF-8")
            line = line.removeprefix(codecs.BOM_UTF8)  # written by spreadsheets
        try:
            return line.decode()
        except UnicodeDecodeError:
            self._foreign = self.number
            # Separators are ASCII, so that the following records can still be read.
            return line.decode(errors="replace")

    def require_utf_8(self, since: int, field: str = "encoding") -> None:
        """Refuse the text read since line *since*, unless it was UTF-8.

        Raises:
            InvalidInput: a line was not UTF-8.
        """
        if self._foreign >= since:
            raise InvalidInput(field, "other bytes", "text in UTF-8")

    def _wrong(self, given: str, expected: str) -> InvalidInput:
        return InvalidInput(f"line {self.number}", given, expected)


def records(lines: Lines, written: Format, columns: Columns) -> Iterator[Record]:
    """The records on *lines*. A malformed record has an error, and the next ones follow.

    Raises:
        InvalidInput: the rest of the file cannot be split into records: the file is empty, its
            header is wrong, a quote is not closed, or a line is too long. The error names the line.
    """
    return _csv(lines, columns) if written is Format.CSV else _json_lines(lines)


def _csv(lines: Lines, columns: Columns) -> Iterator[Record]:
    rows = _rows(lines)
    line, header = next(rows, (1, ()))
    if not header:
        raise InvalidInput("line 1", "nothing", f"a header: {columns}")
    lines.require_utf_8(1, f"line {line}")
    columns.check(header, f"line {line}")
    for line, row in rows:
        yield _record(lines, line, partial(_of_row, header, row))


def _json_lines(lines: Lines) -> Iterator[Record]:
    for text in lines:
        if not text.isspace():
            yield _record(lines, lines.number, partial(_of_text, text.rstrip()))
    if not lines.number:  # an empty file is more likely a failed export
        raise InvalidInput("line 1", "nothing", "a JSON object")


def _record(lines: Lines, line: int, columns: Callable[[], Mapping[str, Any]]) -> Record:
    try:
        lines.require_utf_8(line)
        return Record(line, columns())
    except InvalidInput as error:
        return Record(line, {}, error)


def _rows(lines: Lines) -> Iterator[tuple[int, Sequence[str]]]:
    """Each row that is not blank, and the line on which it begins."""
    rows = csv.reader(lines, strict=True)
    while True:
        line = lines.number + 1
        try:
            row = next(rows, None)
        except csv.Error as error:
            # After a stray quote, the text of a field could be read as a record.
            why, _, _ = str(error).partition(" - ")  # the rest is advice for programmers
            raise InvalidInput(f"line {line}", why, "CSV, its quotes closed") from error
        if row is None:
            return
        if row:
            yield line, row


def _of_row(header: Sequence[str], row: Sequence[str]) -> Mapping[str, Any]:
    if len(row) != len(header):
        raise InvalidInput("line", f"{len(row)} fields", f"{len(header)}, as in the header")
    return {
        column: _of_field(column, text) for column, text in zip(header, row, strict=True) if text
    }


def _of_field(column: str, text: str) -> object:
    if column == "metadata":
        return _object(text, InvalidMetadata, "metadata")
    if column == "allow_overdraft":
        return _TRUTH.get(text.lower(), text)
    return text


def _of_text(text: str) -> Mapping[str, Any]:
    columns = _object(text, InvalidInput, "line")
    columns.pop(REFUSED, None)
    return {column: value for column, value in columns.items() if value is not None}


def _object(text: str, wrong: type[InvalidInput], field: str) -> dict[str, Any]:
    """Parse a JSON object."""
    try:
        found = json.loads(text, object_pairs_hook=_each_once)
    except (ValueError, RecursionError) as error:
        raise wrong(field, _why(error), "a JSON object") from error
    if not isinstance(found, dict):
        raise wrong(field, shown(text), "a JSON object")
    return found


def _why(error: ValueError | RecursionError) -> str:
    if isinstance(error, RecursionError):
        return "too many nested values"
    if isinstance(error, json.JSONDecodeError):  # its own text would count lines from this one
        return shown(f"{error.msg} at column {error.colno}")
    return shown(str(error))


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object, unless a name is given twice, because one value would be lost."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name twice in one object")
    return found
