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
        (b"[" * 100_000, "too many nested values"),
        (b'{"amount": ' + b"9" * 5000 + b"}", "'Exceeds the limit (4300"),
    ],
)
def test_a_malformed_line_of_json_stops_no_other(line: bytes, got: str) -> None:
    [malformed, last] = read(line + b'\n{"tenant": "b"}\n', Format.JSONL)

    assert type(malformed.error) is InvalidInput
    assert malformed.error.field == "line"
    assert malformed.error.given.startswith(got)
    assert len(str(malformed.error)) < 128
    assert (last.line, last.columns) == (2, {"tenant": "b"})


def test_json_in_another_encoding_is_refused() -> None:
    [malformed] = read(b'{"tenant": "M\xfcller"}', Format.JSONL)

    assert type(malformed.error) is InvalidInput
    assert (malformed.error.field, malformed.error.given) == ("encoding", "other bytes")


@pytest.mark.parametrize(
    ("content", "field", "given"),
    [
        (b"", "line 1", "nothing"),
        (b"\n\n", "line 1", "nothing"),
        (b"\xef\xbb\xbf", "line 1", "nothing"),
        (b"a,1\nb,2\n", "line 1", "'a'"),
        (b"tenant,amout\n", "line 1", "'amout'"),
        (b"tenant,amount,amount\n", "line 1", "amount twice"),
        (b"\nmetadata,tenant\n", "line 2", "no amount"),
        (b"tenant;amount\n", "line 1", "'tenant;amount'"),
        (b"tenant,amo\xfcnt\n", "line 1", "other bytes"),
        ("tenant,amount\n".encode("utf-16"), "line 1", "UTF-16"),
    ],
)
def test_a_file_with_an_invalid_header_is_refused(content: bytes, field: str, given: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        read(content)

    assert (refused.value.field, refused.value.given) == (field, given)
    assert (KNOWN in refused.value.expected) == (given not in {"other bytes", "UTF-16"})


def test_an_empty_file_of_json_lines_is_refused() -> None:
    with pytest.raises(InvalidInput) as caught:
        read(b"", Format.JSONL)
    assert (caught.value.field, caught.value.given) == ("line 1", "nothing")
    assert "JSON" in caught.value.expected


def test_a_file_without_records_is_empty() -> None:
    assert read(HEADER) == []
    assert read(b"\n", Format.JSONL) == []


@pytest.mark.parametrize(
    ("rest", "expected", "given"),
    [
        (b'"b,2\nc,3\n', "CSV", "unexpected end of data"),
        (b'"b"b,2\nc,3\n', "CSV", "',' expected after"),
        (b'"' + b"x\n" * 70_000 + b'"\n', "CSV", "field larger"),
        (b"b,2\rc,3\n", "CSV", "new-line character"),
        (b"x" * LINE_MAX + b"\n", f"{LINE_MAX} bytes", "a longer one"),
    ],
)
def test_an_unreadable_rest_of_the_file_ends_the_records(
    rest: bytes, expected: str, given: str
) -> None:
    found = records(Lines(BytesIO(HEADER + b"a,1\n" + rest)), Format.CSV, COLUMNS)

    assert next(found).columns == {"tenant": "a", "amount": "1"}
    with pytest.raises(InvalidInput) as refused:
        next(found)
    assert refused.value.field == "line 3"
    assert expected in refused.value.expected
    assert refused.value.given.startswith(given)
    assert list(found) == []


def test_a_file_is_read_no_further_than_the_record() -> None:
    file = BytesIO(HEADER + b"a,1\nb,2\nc,3\n")
    lines = Lines(file)

    next(records(lines, Format.CSV, COLUMNS))

    assert lines.read == file.tell() == len(HEADER) + len(b"a,1\n")
