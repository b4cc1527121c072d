"""The request and the outcome of each line of a file, and the end of an import."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from io import BytesIO
from typing import Any
from uuid import UUID

import pytest

from cogni_billing import (
    CREDIT,
    USD,
    USDC,
    Amount,
    Billing,
    BillingError,
    Charge,
    InvalidInput,
    LedgerCorruption,
    LedgerUnavailable,
    OutcomeUnknown,
    PrivilegeRequired,
    Purchase,
    credits,
    usd,
)
from cogni_billing.adapters.memory import InMemoryUnitOfWork
from cogni_billing.cli.importing import CHARGES, PURCHASES, Answered, Kind, Tally, answered
from cogni_billing.cli.records import Format, Lines, Record, records
from cogni_billing.domain.batches import Outcome, OutcomeState
from cogni_billing.testing import ALICE, BOB

TO_ALICE: dict[str, Any] = {"tenant": str(ALICE), "amount": "1", "payment": "stripe:1"}
NIL = UUID(int=0)
BY_ALICE: dict[str, Any] = {"tenant": str(ALICE), "amount": "1", "reference": "run-1"}


def numbered(*columns: dict[str, Any]) -> Iterator[Record]:
    return (Record(line, each) for line, each in enumerate(columns, start=1))


def sent(kind: Kind[Any], *columns: dict[str, Any]) -> list[Any]:
    """The requests to the ledger for these lines."""
    asked: list[Any] = []

    def send(_: Billing, requests: Iterable[Any]) -> list[Outcome[Any]]:
        asked.extend(requests)
        return [Outcome(error=LedgerUnavailable("nobody"))] * len(asked)

    nobody = Billing(InMemoryUnitOfWork())
    with pytest.raises(LedgerUnavailable):
        list(answered(nobody, Kind(kind.columns, kind.request, send), numbered(*columns), 10))
    return asked


def test_a_line_is_a_purchase() -> None:
    more = {"unit": "USDC", "amount": "0.000001", "metadata": {"run": 7}}

    assert sent(PURCHASES, TO_ALICE, TO_ALICE | more | {"tenant": str(BOB).upper()}) == [
        Purchase(tenant=ALICE, amount=Amount("1", USD), payment="stripe:1"),
        Purchase(
            tenant=BOB, amount=Amount("0.000001", USDC), payment="stripe:1", metadata={"run": 7}
        ),
    ]


def test_a_line_is_a_charge() -> None:
    more = {
        "amount": 5,
        "allow_overdraft": True,
        "occurred_at": "2026-11-23T13:00:00+01:00",
        "metadata": {"run": 7},
    }

    assert sent(CHARGES, BY_ALICE, BY_ALICE | more) == [
        Charge(tenant=ALICE, amount=Amount(1, CREDIT), reference="run-1"),
        Charge(
            tenant=ALICE,
            amount=Amount(5, CREDIT),
            reference="run-1",
            allow_overdraft=True,
            occurred_at=datetime(2026, 11, 23, 12, tzinfo=UTC),
            metadata={"run": 7},
        ),
    ]


@pytest.mark.parametrize(
    ("kind", "columns", "code", "field", "given"),
    [
        (PURCHASES, {"tenant": "alice"}, "invalid_tenant", "tenant", "'alice'"),
        (PURCHASES, {"tenant": ALICE.hex}, "invalid_tenant", "tenant", f"'{ALICE.hex}'"),
        (PURCHASES, {"tenant": f"{{{ALICE}}}"}, "invalid_tenant", "tenant", f"'{{{ALICE}}}'"),
        (PURCHASES, {"tenant": 7}, "invalid_tenant", "tenant", "7"),
        (PURCHASES, {"tenant": str(NIL)}, "invalid_tenant", "tenant", repr(NIL)),
        (PURCHASES, {"amount": "1.001"}, "invalid_amount", "amount", "Decimal('1.001')"),
        (PURCHASES, {"amount": 1.5}, "invalid_amount", "amount", "1.5"),
        (PURCHASES, {"amount": "0"}, "invalid_amount", "amount", "0.00 USD"),
        (PURCHASES, {"amount": " 1"}, "invalid_amount", "amount", "' 1'"),
        (PURCHASES, {"unit": "EUR"}, "unit_mismatch", "unit", "'EUR'"),
        (PURCHASES, {"unit": 1}, "unit_mismatch", "unit", "1"),
        (PURCHASES, {"unit": "CREDIT"}, "unit_mismatch", "unit", "'CREDIT'"),
        (PURCHASES, {"payment": "a b"}, "invalid_reference", "payment", "'a b'"),
        (PURCHASES, {"payment": 7}, "invalid_reference", "payment", "7"),
        (PURCHASES, {"metadata": "{}"}, "invalid_metadata", "metadata", "'{}'"),
        (PURCHASES, {"reference": "run-1"}, "invalid_input", "columns", "'reference'"),
        (CHARGES, {"amount": "1.5"}, "invalid_amount", "amount", "Decimal('1.5')"),
        (CHARGES, {"allow_overdraft": "yes"}, "invalid_input", "allow_overdraft", "'yes'"),
        (CHARGES, {"occurred_at": "noon"}, "invalid_time", "occurred_at", "'noon'"),
        (CHARGES, {"occurred_at": 7}, "invalid_time", "occurred_at", "7"),
        (
            CHARGES,
            {"occurred_at": "2026-11-23T12:00:00"},
            "invalid_time",
            "occurred_at",
            "'2026-11-23 12:00:00'",
        ),
    ],
)
def test_an_invalid_line_names_its_field(
    kind: Kind[Any], columns: dict[str, Any], code: str, field: str, given: str
) -> None:
    answer = refused(kind, columns)

    assert isinstance(answer.error, InvalidInput)
    assert (answer.error.code, answer.error.field, answer.error.given) == (code, field, given)


@pytest.mark.parametrize(
    ("columns", "code", "facts"),
    [
        ({"amount": "11"}, "insufficient_credits", (credits(11), credits(10), None, None)),
        ({"tenant": str(BOB)}, "unknown_account", (BOB,)),
    ],
)
def test_a_refused_line_has_its_error(
    columns: dict[str, Any], code: str, facts: tuple[object, ...]
) -> None:
    answer = refused(CHARGES, columns)

    assert answer.error is not None
    assert (answer.error.code, answer.error.args) == (code, facts)


def refused(kind: Kind[Any], columns: dict[str, Any]) -> Answered:
    """Import one line that is refused and changes no balance."""
    ledger = InMemoryUnitOfWork()
    billing = Billing(ledger)
    billing.grant(ALICE, credits(10), source="promo", reference="g")
    before = ledger.totals()
    line = (TO_ALICE if kind is PURCHASES else BY_ALICE) | columns

    [[answer]] = answered(billing, kind, numbered(line), 10)

    assert answer.error is not None
    assert str(answer) == f"line 1: {answer.error.code}: {answer.error}"
    assert "\n" not in str(answer)
    assert ledger.totals() == before
    return answer


def test_a_line_without_a_column_names_it() -> None:
    without = {"tenant": str(ALICE), "amount": "1"}

    [[answer]] = answered(Billing(InMemoryUnitOfWork()), PURCHASES, numbered(without), 10)

    assert isinstance(answer.error, InvalidInput)
    assert (answer.error.field, answer.error.given) == ("columns", "no payment")


def test_a_refused_line_is_written_as_an_importable_record() -> None:
    billing = Billing(InMemoryUnitOfWork())
    metadata = {"run": [7, {"deep": "ü"}]}
    wrong = TO_ALICE | {"amount": "1.001", "metadata": metadata}
    [[answer]] = answered(billing, PURCHASES, numbered(wrong), 10)

    written = json.dumps(answer.to_dict())
    mended = Lines(BytesIO(written.replace("1.001", "1.01").encode()))
    [[again]] = answered(billing, PURCHASES, records(mended, Format.JSONL, PURCHASES.columns), 10)

    assert json.loads(written) == wrong | {
        "refused": {"line": 1, "code": "invalid_amount", "error": str(answer.error)}
    }
    assert again.outcome.state is OutcomeState.DONE
    assert billing.balance(ALICE).posted == credits(10_100_000)


def test_lines_are_sent_in_batches_and_counted() -> None:
    billing, tally = Billing(InMemoryUnitOfWork()), Tally()
    lines = [TO_ALICE | {"payment": f"stripe:{n}"} for n in (1, 2, 3, 1, 4)]
    malformed = Record(6, {}, InvalidInput("line", "x", "y"))

    sizes = []
    for answers in answered(billing, PURCHASES, iter([*numbered(*lines), malformed]), 4):
        sizes.append(len(answers))
        tally.count(answers)

    assert sizes == [4, 2]
    assert tally == Tally(done=4, replayed=1, refused=1)
    assert tally.lines == 6
    assert billing.balance(ALICE).posted == credits(40_000_000)


def test_an_import_reads_no_further_than_the_batch() -> None:
    billing = Billing(InMemoryUnitOfWork())
    lines = numbered(*(TO_ALICE | {"payment": f"stripe:{n}"} for n in range(5)))

    next(answered(billing, PURCHASES, lines, 2))

    assert next(lines).line == 3
    assert billing.balance(ALICE).posted == credits(20_000_000)


CORRUPT = LedgerCorruption("the books")
UNKNOWN = OutcomeUnknown("the answer to COMMIT was lost")
UNAVAILABLE = LedgerUnavailable("a lock was not free in time")


@pytest.mark.parametrize(
    ("errors", "raised"),
    [
        ([UNAVAILABLE], UNAVAILABLE),
        ([PrivilegeRequired("minting")], PrivilegeRequired("minting")),
        ([UNAVAILABLE, UNKNOWN], UNKNOWN),
        ([UNKNOWN, UNAVAILABLE], UNKNOWN),
        ([UNKNOWN, CORRUPT, UNAVAILABLE], CORRUPT),
    ],
)
def test_a_batch_without_answers_stops_the_import(
    errors: list[BillingError], raised: BillingError
) -> None:
    """The answered lines are yielded before the error."""
    billing = Billing(InMemoryUnitOfWork())
    receipt = billing.confirm_purchase(ALICE, usd("1"), payment="stripe:1")
    calls = []

    def send(_: Billing, requests: Iterable[Any]) -> list[Outcome[Any]]:
        calls.append(list(requests))
        return [Outcome(receipt), *(Outcome(error=error) for error in errors)]

    kind = Kind(PURCHASES.columns, PURCHASES.request, send)
    size = len(errors) + 1
    batches = answered(billing, kind, numbered(*[TO_ALICE] * size * 2), size)

    answers: list[Answered] = next(batches)
    assert [(answer.record.line, answer.error) for answer in answers] == [(1, None)]
    with pytest.raises(type(raised)) as caught:
        next(batches)
    assert caught.value.args == raised.args
    assert len(calls) == 1
