"""No message and no table carries a character that a terminal would obey, or that hides others."""

from __future__ import annotations

import io
import re
from typing import Any
from uuid import UUID

import attrs
import pytest
from rich.console import Console
from rich.table import Table

import cogni_billing
from cogni_billing import Billing, BillingError, InstallationNotReady, credits
from cogni_billing.adapters.memory import InMemoryUnitOfWork
from cogni_billing.adapters.postgres import Report, TrialBalance
from cogni_billing.adapters.postgres.operations.checks.defects import Defect
from cogni_billing.adapters.postgres.operations.diagnosis import Check
from cogni_billing.cli.importing import PURCHASES, answered
from cogni_billing.cli.records import Format, Lines, records
from cogni_billing.cli.tables import (
    report_table,
    statement_table,
    trial_balance_table,
    verification_table,
)
from cogni_billing.domain.errors import Difference, escaped
from cogni_billing.domain.verification import Invariant, Verification, Violation
from cogni_billing.testing import ALICE

HOSTILE = "".join(
    map(chr, [*range(0x20), *range(0x7F, 0xA0), 0x200B, *range(0x202A, 0x202F), 0x2028, 0xFEFF])
) + "".join(map(chr, range(0x2066, 0x206A)))
ERRORS = sorted(
    (
        item
        for item in vars(cogni_billing).values()
        if isinstance(item, type) and issubclass(item, BillingError) and attrs.has(item)
    ),
    key=lambda error: error.__name__,
)


def with_hostile_text(error: type[BillingError]) -> BillingError:
    """An error whose every field of text is hostile."""
    values = {
        "UUID": UUID(int=1),
        "Amount": credits(1),
        "tuple[Amount, ...]": (credits(1),),
        "tuple[Difference, ...]": (Difference(HOSTILE, HOSTILE, HOSTILE),),
    }
    made_by_attrs: Any = error
    fields = attrs.fields(made_by_attrs)
    return error(**{one.name: values.get(str(one.type), HOSTILE) for one in fields})


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: error.__name__)
def test_message_of_an_error_has_printable_characters_alone(error: type[BillingError]) -> None:
    assert str(with_hostile_text(error)).isprintable()


def test_escaped_text_shows_each_character_and_leaves_letters_alone() -> None:
    assert escaped("\x1b[31m\r\n\x9b\u202eü é\\") == "\\x1b[31m\\r\\n\\x9b\\u202eü é\\"
    assert escaped(escaped(HOSTILE)) == escaped(HOSTILE)


def drawn(table: Table) -> str:
    output = io.StringIO()
    Console(file=output, width=4000, color_system=None).print(table)
    return output.getvalue()


def tables() -> dict[str, Table]:
    billing = Billing(InMemoryUnitOfWork())
    billing.grant(ALICE, credits(1), source="promo", reference="r")
    [line] = billing.statement(ALICE).lines
    broken = Violation(invariant=next(iter(Invariant)), where={HOSTILE: HOSTILE}, detail=HOSTILE)
    defect = Defect(problem=HOSTILE, remedy=HOSTILE)
    return {
        "statement": statement_table(
            "t", [attrs.evolve(line, reference=HOSTILE)], billing.balance(ALICE)
        ),
        "trial balance": trial_balance_table(TrialBalance({HOSTILE: credits(0)})),
        "verify": verification_table(
            Verification(violations=(broken,), transactions=1, postings=1), with_seals=False
        ),
        "doctor": report_table(Report((Check("c", (defect,), InstallationNotReady),))),
    }


def test_message_of_a_host_error_is_escaped() -> None:
    class Ours(BillingError):
        pass

    assert str(Ours(HOSTILE)).isprintable()


@pytest.mark.parametrize("name", ["statement", "trial balance", "verify", "doctor"])
def test_table_of_stored_text_has_printable_characters_alone(name: str) -> None:
    assert all(line.isprintable() for line in drawn(tables()[name]).split("\n"))


@pytest.mark.parametrize("column", ["tenant", "amount", "payment", "unit", "metadata", HOSTILE])
def test_refused_line_of_a_file_has_printable_characters_alone(column: str) -> None:
    text = re.sub(r'[\r\n"\0]', "", HOSTILE)
    cells = {"tenant": str(ALICE), "amount": "1", "payment": "stripe:1"} | {column: text}
    row = f"{','.join(cells)}\n{','.join(cells.values())}\n" if column != HOSTILE else ""
    lines = Lines(io.BytesIO((row or f"{text}\n1\n").encode()))
    billing = Billing(InMemoryUnitOfWork())

    if column == HOSTILE:
        with pytest.raises(BillingError) as refused:
            list(records(lines, Format.CSV, PURCHASES.columns))
        assert str(refused.value).isprintable()
        return
    found = records(lines, Format.CSV, PURCHASES.columns)
    [[answer]] = answered(billing, PURCHASES, found, 10)
    assert answer.error is not None
    assert str(answer).isprintable()
