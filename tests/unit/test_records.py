"""The records in a file, and the messages of malformed ones."""

from __future__ import annotations

from io import BytesIO

import pytest

from cogni_billing import InvalidInput
from cogni_billing.cli.records import LINE_MAX, Columns, Format, Lines, Record, records

COLUMNS = Columns(("tenant", "amount"), ("allow_overdraft", "metadata"))
KNOWN = "tenant, amount, and perhaps allow_overdraft, metadata"
HEADER = b"tenant,amount\n"


def read(content: bytes, written: Format = Format.CSV) -> list[Record]:
    return list(records(Lines(BytesIO(content)), written, COLUMNS))


def found(record: Record) -> object:
    """The columns of a record, or its error."""
    return record.columns if record.error is None else f"{record.error.code}: {record.error}"


@pytest.mark.parametrize(
    ("written", "content"),
    [
        (
            Format.CSV,
            b"amount,metadata,allow_overdraft,tenant\n"
            b'5,"{""run"": [7, ""\xc3\xbc""]}",TRUE,a\n\n6,,,b\n7,,false,c',
        ),
        (
            Format.JSONL,
            b'{"tenant": "a", "amount": "5", "allow_overdraft": true,'
            b' "metadata": {"run": [7, "\xc3\xbc"]}}\n \n'
            b'{"amount": "6", "tenant": "b", "metadata": null, "refused": {"line": 9}}\n'
            b'{"tenant": "c", "amount": "7", "allow_overdraft": false}',
        ),
    ],
)
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["plain", "marked"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n"], ids=["LF", "CRLF"])
def test_both_formats_read_the_same_records(
    written: Format, content: bytes, mark: bytes, end: bytes
) -> None:
    metadata = {"run": [7, "ü"]}
    [first, *others] = read(mark + content.replace(b"\n", end), written)

    assert first.columns == {
        "tenant": "a",
        "amount": "5",
        "allow_overdraft": True,
        "metadata": metadata,
    }
    assert [record.columns for record in others] == [
        {"tenant": "b", "amount": "6"},
        {"tenant": "c", "amount": "7", "allow_overdraft": False},
    ]
    assert all(record.error is None for record in (first, *others))


def test_a_field_over_several_lines_keeps_the_line_numbers() -> None:
    """Otherwise the text of a field could be read as a purchase."""
    content = b'tenant,amount,metadata\na,1,"{""note"":\n""x""}"\n\nb,2,"x\nc,3,\n"\nd,4,\n'

    assert [(record.line, found(record)) for record in read(content)] == [
        (2, {"tenant": "a", "amount": "1", "metadata": {"note": "x"}}),
        (
            5,
            "invalid_metadata: metadata: expected a JSON object, got 'Expecting value at column 1'",
        ),
        (8, {"tenant": "d", "amount": "4"}),
    ]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b"a", "invalid_input: line: expected 2, as in the header, got 1 fields"),
        (b"a,1,2", "invalid_input: line: expected 2, as in the header, got 3 fields"),
        (b"a,M\xfcller", "invalid_input: encoding: expected text in UTF-8, got other bytes"),
    ],
)
def test_a_malformed_line_of_csv_stops_no_other(line: bytes, said: str) -> None:
    [first, malformed, last] = read(HEADER + b"a,1\n" + line + b"\nb,2\n")

    assert (first.columns, last.columns) == (
        {"tenant": "a", "amount": "1"},
        {"tenant": "b", "amount": "2"},
    )
    assert (malformed.line, malformed.columns, found(malformed)) == (3, {}, said)


@pytest.mark.parametrize(
    ("line", "got"),
    [
        (b"{", "'Expecting property name enclosed in double quotes at column 2'"),
        (b"[]", "'[]'"),
        (b'"tenant"', "'\"tenant\"'"),
        (b'{"tenant": 1} {}', "'Extra data at column 15'"),
        (b'{"amount": "1", "amount": "2"}', "'a name twice in one object'"),
        (b'{"metadata": {"a": 1, "a": 2}}', "'a name twice in one object'"),
        (b"[" * 100_000, "'maximum recursion depth exceeded"),
        (b'{"amount": ' + b"9" * 5000 + b"}", "'Exceeds the limit (4300"),
    ],
)
def test_a_malformed_line_of_json_stops_no_other(line: bytes, got: str) -> None:
    [malformed, last] = read(line + b'\n{"tenant": "b"}\n', Format.JSONL)

    assert str(found(malformed)).startswith(
        f"invalid_input: line: expected a JSON object, got {got}"
    )
    assert len(str(malformed.error)) < 128
    assert (last.line, last.columns) == (2, {"tenant": "b"})


def test_json_in_another_encoding_is_refused() -> None:
    [malformed] = read(b'{"tenant": "M\xfcller"}', Format.JSONL)

    assert found(malformed) == "invalid_input: encoding: expected text in UTF-8, got other bytes"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", f"line 1: expected a header: {KNOWN}, got nothing"),
        (b"\n\n", f"line 1: expected a header: {KNOWN}, got nothing"),
        (b"\xef\xbb\xbf", f"line 1: expected a header: {KNOWN}, got nothing"),
        (b"a,1\nb,2\n", f"line 1: expected {KNOWN}, got 'a'"),
        (b"tenant,amout\n", f"line 1: expected {KNOWN}, got 'amout'"),
        (b"tenant,amount,amount\n", f"line 1: expected {KNOWN}, got amount twice"),
        (b"\nmetadata,tenant\n", f"line 2: expected {KNOWN}, got no amount"),
        (b"tenant;amount\n", f"line 1: expected {KNOWN}, got 'tenant;amount'"),
        (b"tenant,amo\xfcnt\n", "line 1: expected text in UTF-8, got other bytes"),
        ("tenant,amount\n".encode("utf-16"), "line 1: expected text in UTF-8, got UTF-16"),
    ],
)
def test_a_file_with_an_invalid_header_is_refused(content: bytes, said: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        read(content)

    assert str(refused.value) == said


def test_an_empty_file_of_json_lines_is_refused() -> None:
    with pytest.raises(InvalidInput, match="line 1: expected a JSON object, got nothing"):
        read(b"", Format.JSONL)


def test_a_file_without_records_is_empty() -> None:
    assert read(HEADER) == []
    assert read(b"\n", Format.JSONL) == []


@pytest.mark.parametrize(
    ("rest", "said"),
    [
        (b'"b,2\nc,3\n', "line 3: expected CSV, its quotes closed, got unexpected end of data"),
        (b'"b"b,2\nc,3\n', "line 3: expected CSV, its quotes closed, got ',' expected after"),
        (
            b'"' + b"x\n" * 70_000 + b'"\n',
            "line 3: expected CSV, its quotes closed, got field larger",
        ),
        (b"b,2\rc,3\n", "line 3: expected CSV, its quotes closed, got new-line character"),
        (b"x" * LINE_MAX + b"\n", f"line 3: expected a line of at most {LINE_MAX} bytes, got a"),
    ],
)
def test_an_unreadable_rest_of_the_file_ends_the_records(rest: bytes, said: str) -> None:
    found = records(Lines(BytesIO(HEADER + b"a,1\n" + rest)), Format.CSV, COLUMNS)

    assert next(found).columns == {"tenant": "a", "amount": "1"}
    with pytest.raises(InvalidInput) as refused:
        next(found)
    assert str(refused.value).startswith(said)
    assert list(found) == []


def test_a_file_is_read_no_further_than_the_record() -> None:
    file = BytesIO(HEADER + b"a,1\nb,2\nc,3\n")
    lines = Lines(file)

    next(records(lines, Format.CSV, COLUMNS))

    assert lines.read == file.tell() == len(HEADER) + len(b"a,1\n")
