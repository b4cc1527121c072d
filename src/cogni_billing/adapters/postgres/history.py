"""History of transactions for seals: every column that never changes, as text.

The text depends on no setting of the session, and is the same after a dump and a restore.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from sqlalchemy import Connection, text

from cogni_billing.domain.seals import Entry, Piece

# The tenant and the position are left out: a chain starts from the tenant, and each `Entry` has its
# position.
TRANSACTION: Final = (
    *("id", "seen", "occurred_at", "line_at", "kind", "reference", "amount", "posted_after"),
    *(
        "arrived",
        "overdraft",
        "at_most",
        "used_at",
        "subject_id",
        "paid",
        "paid_unit",
        "beneficiaries",
        "shares",
    ),
    *("policy", "drawn_grants", "drawn_amounts", "reverses", "returned", "returned_total", "part"),
    *("shortfall", "absorbed", "lapsed", "reason", "actor", "final", "overrun", "metadata"),
)
ARRIVAL: Final = ("sequence", "account_id", "position", "kind", "amount", "occurred_at")
CLAIM: Final = ("tenant_id", "transaction_id")
GRANT: Final = (
    *("amount", "source", "priority", "granted_at", "first_expires_at", "expires_in"),
    "effective_from",
)


def history(connection: Connection, pieces: Sequence[Piece]) -> list[list[Entry]]:
    """Read the transactions of each piece, in the order of positions."""
    found: list[list[Entry]] = [[] for _ in pieces]
    rows = connection.execute(
        _HISTORY,
        {
            "tenants": [piece.tenant for piece in pieces],
            "firsts": [piece.positions[0] for piece in pieces],
            "lasts": [piece.positions[-1] for piece in pieces],
        },
    )
    for n, position, arrivals, claim, grant, *values in rows:
        record = dict(zip(TRANSACTION, values, strict=True))
        record |= {"arrivals": arrivals, "claim": claim, "grant": grant}
        found[n - 1].append(Entry(position, record))
    return found


def _texts(table: str, columns: Sequence[str]) -> str:
    return ", ".join(_text(f"{table}.{column}", column) for column in columns)


def _text(value: str, column: str) -> str:
    if column.endswith(("_at", "_from")):
        value = f"extract(epoch FROM {value})"
    elif column in {"metadata", "source", "reason"}:  # the same after an erasure
        digest = f"cogni_billing.erased({value.partition('.')[0]}.id, CAST({value} AS text))"
        value = f"CASE WHEN {value} IS NOT NULL THEN {digest} END"
    elif column == "policy":  # stored in `policies` under its digest
        value = f"encode({value}, 'hex')"
    return f"CAST({value} AS text)"


_HISTORY: Final = text(f"""
    SELECT
        asked.n,
        made.position,
        (
            SELECT array_agg(ARRAY[{_texts("leg", ARRIVAL)}] ORDER BY leg.sequence, leg.position)
            FROM cogni_billing.arrivals AS leg
            WHERE leg.origin_id = made.tenant_id AND leg.transaction_id = made.id
        ) AS arrivals,
        (
            SELECT ARRAY[{_texts("claim", CLAIM)}]
            FROM cogni_billing.claims AS claim
            WHERE claim.payment = made.reference AND made.kind = 'purchase'
        ) AS claim,
        (
            SELECT ARRAY[{_texts("lot", GRANT)}]
            FROM cogni_billing.grants AS lot
            WHERE lot.tenant_id = made.tenant_id AND lot.id = made.id
        ) AS lot,
        {_texts("made", TRANSACTION)}
    FROM unnest(
        CAST(:tenants AS uuid[]), CAST(:firsts AS bigint[]), CAST(:lasts AS bigint[])
    ) WITH ORDINALITY AS asked (tenant_id, first, last, n)
    JOIN cogni_billing.transactions AS made
        ON made.tenant_id = asked.tenant_id
        AND made.position BETWEEN asked.first AND asked.last AND made.position > 0
    ORDER BY asked.n, made.position, made.id
""")
