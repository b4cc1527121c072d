"""Edits by an owner of the tables with the guards disabled: found by verify, by seals, or not."""

from __future__ import annotations

import re
from typing import Final
from uuid import UUID

import pytest
from attrs import frozen
from sqlalchemy import text

from cogni_billing import Billing, Invariant, Seal, TenantId, credits, usd
from cogni_billing.adapters.postgres import PostgresUnitOfWork
from cogni_billing.adapters.postgres.history import ARRIVAL, CLAIM, GRANT, TRANSACTION
from cogni_billing.domain.identity import USAGE
from cogni_billing.testing.base import ALICE, BOB, NOON, SteppingClock
from cogni_billing.testing.contracts.verifying import HOUR
from stack.conftest import Database, opened
from stack.support.documents import ROOT

KEY: Final = b"k" * 32
CAROL: Final = TenantId(UUID("0ca401d0-0000-4000-8000-000000000003"))

T = "cogni_billing.transactions"
A = "cogni_billing.arrivals"
BOBS = f"tenant_id = '{BOB}'"


def run(number: int) -> str:
    """Return the condition that selects a charge of Bob's."""
    return f"{BOBS} AND reference = 'run-{number}'"


def of_run(number: int) -> str:
    """Return the condition that selects the arrivals of a charge of Bob's."""
    return f"transaction_id = (SELECT id FROM {T} WHERE {run(number)})"


def wallet(changes: str) -> str:
    return f"UPDATE cogni_billing.wallets SET {changes} WHERE {BOBS}"


def checkpoint(changes: str) -> str:
    return f"UPDATE cogni_billing.checkpoints SET {changes} WHERE account_id = '{USAGE}'"


def moved(by: int, after: int) -> tuple[str, str]:
    """Return statements that move Bob's lines after a position, without a collision."""
    return (
        f"UPDATE {T} SET position = position + 1000 WHERE {BOBS} AND position > {after}",
        f"UPDATE {T} SET position = position - {1000 - by} WHERE {BOBS} AND position > 1000",
    )


@frozen
class Edit:
    statements: tuple[str, ...]
    verify: bool
    """True if `verify` alone finds the edit."""
    seals: tuple[TenantId, str] | None
    """The tenant and the positions that the seals report."""


SWAPPED = f"""
    UPDATE {T} AS line
    SET position = 1000 + other.position
    FROM {T} AS other
    WHERE line.{BOBS} AND other.{BOBS}
      AND (line.reference, other.reference) IN (('run-2', 'run-3'), ('run-3', 'run-2'))
"""
UNSHIFTED = f"UPDATE {T} SET position = position - 1000 WHERE {BOBS} AND position > 1000"

EDITS: Final = {
    "the amount of a transaction alone": Edit(
        (f"UPDATE {T} SET amount = amount + 10 WHERE {run(2)}",),
        verify=True,
        seals=(BOB, "1-4"),
    ),
    "an amount in every record of it": Edit(
        (
            f"UPDATE {A} SET amount = amount - 10 WHERE {of_run(2)}",
            f"UPDATE {T} SET posted_after = posted_after + 10 WHERE {BOBS} AND position > 2",
            f"UPDATE {T} SET amount = amount + 10 WHERE {run(2)}",
            wallet("posted = posted + 10"),
            checkpoint("added = added - 10, arrived = arrived - 10"),
        ),
        verify=False,
        seals=(BOB, "1-4"),
    ),
    "a transaction deleted with its arrivals": Edit(
        (f"DELETE FROM {A} WHERE {of_run(2)}", f"DELETE FROM {T} WHERE {run(2)}"),
        verify=True,
        seals=(BOB, "1-4"),
    ),
    "a transaction deleted, and every sum and position adjusted": Edit(
        (
            f"DELETE FROM {A} WHERE {of_run(2)}",
            f"DELETE FROM {T} WHERE {run(2)}",
            f"UPDATE {T} SET posted_after = posted_after + 200 WHERE {BOBS} AND position > 2",
            *moved(by=-1, after=3),
            wallet("posted = posted + 200, lines = lines - 1"),
            checkpoint("added = added - 200, arrived = arrived - 200"),
        ),
        verify=False,
        seals=(BOB, "1-4"),
    ),
    "the last transactions deleted, and the wallet set back": Edit(
        (
            f"DELETE FROM {A} WHERE {of_run(4)} OR {of_run(5)}",
            f"DELETE FROM {T} WHERE {BOBS} AND reference IN ('run-4', 'run-5')",
            wallet("posted = posted + 900, lines = lines - 2"),
        ),
        verify=False,
        seals=(BOB, "5-5"),
    ),
    "a tenant deleted with every row": Edit(
        (
            f"DELETE FROM {A} WHERE origin_id = '{CAROL}'",
            *(
                f"DELETE FROM cogni_billing.{table} WHERE tenant_id = '{CAROL}'"
                for table in ("transactions", "claims", "policies", "wallets")
            ),
        ),
        verify=False,
        seals=(CAROL, "1-1"),
    ),
    "the positions of two transactions swapped": Edit(
        (SWAPPED, UNSHIFTED), verify=True, seals=(BOB, "1-4")
    ),
    "two transactions swapped, and their sums and times adjusted": Edit(
        (
            f"UPDATE {T} SET posted_after = posted_after - 300 WHERE {run(2)}",
            f"UPDATE {T} SET posted_after = posted_after + 200 WHERE {run(3)}",
            f"UPDATE {T} SET line_at = (SELECT line_at FROM {T} WHERE {run(3)}) WHERE {run(2)}",
            SWAPPED,
            UNSHIFTED,
        ),
        verify=False,
        seals=(BOB, "1-4"),
    ),
    "a transaction inserted in the past, and every sum and position adjusted": Edit(
        (
            *moved(by=1, after=2),
            f"""
                INSERT INTO {T}
                SELECT (jsonb_populate_record(first, jsonb_build_object(
                    'id', gen_random_uuid(), 'reference', 'run-x', 'position', 3
                ))).*
                FROM {T} AS first WHERE {run(1)}
            """,
            f"UPDATE {T} SET posted_after = posted_after - 100 WHERE {BOBS} AND position > 2",
            f"""
                INSERT INTO {A}
                    (origin_id, transaction_id, sequence, account_id, kind, amount, occurred_at)
                SELECT tenant_id, id, 1, '{USAGE}', kind, 100, occurred_at
                FROM {T} WHERE reference = 'run-x'
            """,
            wallet("posted = posted - 100, lines = lines + 1"),
        ),
        verify=False,
        seals=(BOB, "1-4"),
    ),
    "the metadata of a transaction": Edit(
        (f"""UPDATE {T} SET metadata = '{{"for": "else"}}' WHERE {run(2)}""",),
        verify=False,
        seals=(BOB, "1-4"),
    ),
    "the metadata of a transaction, to its digest": Edit(
        (
            f"UPDATE {T} SET metadata = to_json(cogni_billing.erased(id, metadata::text))"
            f" WHERE {run(2)}",
        ),
        verify=False,
        seals=None,
    ),
    "the actor of a transaction": Edit(
        (f"UPDATE {T} SET actor = 'user:42' WHERE {run(2)}",), verify=False, seals=(BOB, "1-4")
    ),
    "the reference of a transaction": Edit(
        (f"UPDATE {T} SET reference = 'run-9' WHERE {run(2)}",), verify=False, seals=(BOB, "1-4")
    ),
    "the time of a transaction and its arrivals": Edit(
        (
            f"UPDATE {A} SET occurred_at = occurred_at - interval '1 ms' WHERE {of_run(2)}",
            f"UPDATE {T} SET occurred_at = occurred_at - interval '1 ms' WHERE {run(2)}",
        ),
        verify=False,
        seals=(BOB, "1-4"),
    ),
    "the payment of a purchase and of its claim": Edit(
        (
            "UPDATE cogni_billing.claims SET payment = 'stripe:x' WHERE payment = 'stripe:pi_2'",
            f"UPDATE {T} SET reference = 'stripe:x' WHERE reference = 'stripe:pi_2'",
        ),
        verify=False,
        seals=(BOB, "1-4"),
    ),
    "a claim moved to another tenant": Edit(
        (f"UPDATE cogni_billing.claims SET tenant_id = '{ALICE}' WHERE payment = 'stripe:pi_2'",),
        verify=True,
        seals=(BOB, "1-4"),
    ),
    "the terms of a grant": Edit(
        (
            "UPDATE cogni_billing.grants SET source = 'promo:x', priority = 1,"
            " expires_at = expires_at + interval '1 year',"
            " first_expires_at = first_expires_at + interval '1 year'",
        ),
        verify=False,
        seals=(ALICE, "1-2"),
    ),
    "a checkpoint alone": Edit((checkpoint("added = added - 10"),), verify=True, seals=None),
    "a checkpoint with the amount of an arrival": Edit(
        (
            f"UPDATE {A} SET amount = amount - 10 WHERE {of_run(2)}",
            checkpoint("added = added - 10, arrived = arrived - 10"),
        ),
        verify=True,
        seals=(BOB, "1-4"),
    ),
    "a checkpoint with the position of an arrival": Edit(
        (
            checkpoint(
                "added = added - 300, arrived = arrived - 300, (up_to, latest_at) ="
                f" (SELECT position, occurred_at FROM {A} WHERE {of_run(2)})"
            ),
            f"UPDATE {A} SET position = nextval('cogni_billing.arrivals_position_seq')"
            f" WHERE {of_run(3)}",
        ),
        verify=False,
        seals=(BOB, "1-4"),
    ),
    "a transaction after the last seal, in every record of it": Edit(
        (
            f"UPDATE {A} SET amount = amount - 10 WHERE {of_run(5)}",
            f"UPDATE {T} SET amount = amount + 10, posted_after = posted_after + 10 WHERE {run(5)}",
            wallet("posted = posted + 10"),
        ),
        verify=False,
        seals=None,
    ),
    "an open hold and its wallet": Edit(
        (
            "UPDATE cogni_billing.holds SET amount = amount + 10, requested = requested + 10,"
            " held = held + 10",
            f"UPDATE cogni_billing.wallets SET held = held + 10 WHERE tenant_id = '{ALICE}'",
        ),
        verify=False,
        seals=None,
    ),
}


@pytest.fixture
def billing(database: Database) -> Billing:
    unit_of_work = PostgresUnitOfWork(database.user, service=database.service)
    return Billing(unit_of_work, clock=SteppingClock())


@pytest.fixture
def seals(billing: Billing) -> tuple[Seal, ...]:
    """Seal Bob's first four transactions, then the fifth, and all of Alice's and Carol's."""
    billing.confirm_purchase(ALICE, usd("1.00"), payment="stripe:pi_1")
    billing.grant(ALICE, credits(500), source="promo:a", reference="a", expires_at=NOON + 24 * HOUR)
    billing.confirm_purchase(BOB, usd("1.00"), payment="stripe:pi_2")
    for number in (1, 2, 3):
        billing.charge(BOB, credits(number * 100), reference=f"run-{number}")
    billing.fold()
    sealed = billing.seal(key=KEY)
    billing.charge(BOB, credits(400), reference="run-4")
    billing.confirm_purchase(CAROL, usd("1.00"), payment="stripe:pi_3")
    sealed += billing.seal(sealed, key=KEY)
    billing.charge(BOB, credits(500), reference="run-5")
    billing.hold(ALICE, credits(50), reference="run-6")
    return sealed


@pytest.mark.parametrize("edit", EDITS)
def test_edit_is_found_by_verify_or_by_seals_as_the_table_says(
    database: Database, billing: Billing, seals: tuple[Seal, ...], edit: str
) -> None:
    assert billing.verify().violations == ()
    assert billing.verify_seals(seals, key=KEY) == ()
    with database.admin.begin() as connection:
        connection.execute(text("SET LOCAL session_replication_role = replica"))
        for statement in EDITS[edit].statements:
            assert connection.execute(text(statement)).rowcount > 0, statement

    found = billing.verify()
    unsealed = billing.verify_seals(seals, key=KEY)

    assert found.ok is not EDITS[edit].verify, found.violations
    assert [
        (violation.invariant, violation.where["tenant"], violation.where["positions"])
        for violation in unsealed
    ] == [
        (Invariant.TRANSACTIONS_MATCH_THEIR_SEAL, str(tenant), positions)
        for tenant, positions in filter(None, [EDITS[edit].seals])
    ]


def test_cut_tail_names_the_first_position_that_is_gone(
    database: Database, billing: Billing, seals: tuple[Seal, ...]
) -> None:
    with database.admin.begin() as connection:
        connection.execute(text("SET LOCAL session_replication_role = replica"))
        for statement in EDITS["the last transactions deleted, and the wallet set back"].statements:
            connection.execute(text(statement))
    billing.charge(BOB, credits(1), reference="run-7")
    regrown = billing.verify_seals(seals, key=KEY)
    with database.admin.begin() as connection:
        connection.execute(text("SET LOCAL session_replication_role = replica"))
        connection.execute(text(f"DELETE FROM {T} WHERE {BOBS} AND position > 2"))
    cut = billing.verify_seals(seals, key=KEY)

    assert [violation.detail for violation in regrown] == ["changed since"]
    assert [violation.detail for violation in cut] == ["none at position 3"]


def test_page_names_the_check_that_finds_each_edit() -> None:
    page = (ROOT / "docs/how-to/seals.md").read_text("utf-8")
    rows = re.findall(r"^\| (.+?) \| (yes|no) \| (yes|no) \|$", page, re.MULTILINE)

    assert {edit: (verify == "yes", seals == "yes") for edit, verify, seals in rows} == {
        name: (edit.verify, edit.seals is not None) for name, edit in EDITS.items()
    }


def test_seals_cover_every_column_that_never_changes(database: Database) -> None:
    with database.admin.connect() as connection:
        rows = connection.execute(
            text(
                "SELECT table_name, column_name FROM information_schema.columns"
                " WHERE table_schema = 'cogni_billing'"
                " AND table_name IN ('transactions', 'arrivals', 'claims', 'grants')"
            )
        )
        columns = {f"{table}.{column}" for table, column in rows}

    sealed = {
        f"{table}.{column}"
        for table, names in (
            # The tenant selects the chain, and the position the place in it.
            ("transactions", ("tenant_id", "position", *TRANSACTION)),
            # A row is read by its key, so a change of the key loses the row.
            ("arrivals", ("origin_id", "transaction_id", *ARRIVAL)),
            ("claims", ("payment", *CLAIM)),
            ("grants", ("tenant_id", "id", *GRANT)),
        )
        for column in names
    }
    assert columns - sealed == {"grants.taken", "grants.expires_at"}
    assert sealed <= columns


def test_seals_do_not_depend_on_the_settings_of_a_session(
    database: Database, billing: Billing, seals: tuple[Seal, ...]
) -> None:
    odd = "-c timezone=Asia/Tokyo -c datestyle=German -c bytea_output=escape"
    with opened(database.sandbox, f"{odd} -c intervalstyle=sql_standard") as other:
        elsewhere = Billing(PostgresUnitOfWork(other.user, service=other.service))

        assert elsewhere.verify_seals(seals, key=KEY) == ()
        assert elsewhere.seal(key=KEY) == billing.seal(key=KEY)
