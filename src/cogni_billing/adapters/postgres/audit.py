"""What is wrong with the data. `rules.py` asks the database; what takes arithmetic is judged here.

No share is computed in SQL, so the terms of purchases and returns stream by.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC
from itertools import islice
from typing import Final

from sqlalchemy import Connection, text

from cogni_billing.adapters.postgres.rows import document
from cogni_billing.adapters.postgres.rules import VIOLATIONS
from cogni_billing.domain.amounts import CREDIT, Amount, Unit
from cogni_billing.domain.errors import LedgerCorruption
from cogni_billing.domain.identity import AccountId
from cogni_billing.domain.metadata import Json
from cogni_billing.domain.shares import Share
from cogni_billing.domain.transactions import Reversal
from cogni_billing.domain.verification import (
    Rule,
    Verification,
    Violation,
    purchase_problems,
    return_problems,
)


def verification(connection: Connection, most: int) -> Verification:
    """Check every rule; the violations of each, *most* of them at most."""
    found = list[Violation]()
    for rule, statement in VIOLATIONS.items():
        rows = connection.execute(text(f"{statement} LIMIT :most"), {"most": most})
        found += [Violation(rule, _ids(row.located), row.detail) for row in rows]
    terms = [*_of_terms(connection), *_of_returns(connection)]
    for rule in {violation.rule for violation in terms}:
        found += islice((violation for violation in terms if violation.rule is rule), most)
    counted = connection.execute(text(_COUNTED)).one()
    return Verification(
        violations=tuple(sorted(found, key=lambda violation: _ORDER[violation.rule])),
        transactions=counted.transactions,
        postings=counted.postings,
    )


def _ids(located: dict[str, object]) -> dict[str, str]:
    return {name: str(id_) for name, id_ in located.items()}


def _of_terms(connection: Connection) -> Iterator[Violation]:
    """What is wrong with the terms of purchases; those that are alike are judged once."""
    rows = connection.execution_options(yield_per=1000).execute(text(_TERMS))
    for row in rows:
        shares = [
            Share(AccountId(beneficiary), Amount.computed(share, CREDIT))
            for beneficiary, share in zip(row.beneficiaries, row.shares, strict=False)
        ]
        for rule, detail in purchase_problems(
            paid=str(_readable(row.request).get("amount")),
            credited=Amount.computed(row.amount, CREDIT),
            shares=shares,
            policy=_readable(row.policy),
            at=row.occurred_at.astimezone(UTC),
        ):
            alike = f" (and of {row.alike - 1} like it)" if row.alike > 1 else ""
            yield Violation(rule, _ids(row.located), detail + alike)


def _readable(recorded: str) -> dict[str, Json]:
    """What is recorded; nothing, if it cannot be read."""
    try:
        return document(recorded)
    except LedgerCorruption:
        return {}


def _of_returns(connection: Connection) -> Iterator[Violation]:
    """What is wrong with what refunds and chargebacks took back."""
    rows = connection.execution_options(yield_per=1000).execute(text(_RETURNS))
    for row in rows:
        legs = [row.credited, *row.given]
        taken = [row.amount, *row.shares]
        unit = Unit.of(row.returned_unit)
        for rule, detail in return_problems(
            legs=[Amount.computed(leg, CREDIT) for leg in legs],
            taken=[-Amount.computed(amount, CREDIT) for amount in taken],
            absorbed=Amount.computed(row.absorbed, CREDIT),
            paid=str(row.paid),
            so_far=Reversal(
                purchase=row.reverses,
                amount=Amount.computed(row.returned, unit),
                total=Amount.computed(row.returned_total, unit),
            ),
        ):
            yield Violation(rule, _ids(row.located), detail)


_ORDER: Final = {rule: place for place, rule in enumerate(Rule)}

_COUNTED: Final = """
    SELECT
        (SELECT count(*) FROM cogni_billing.transactions) AS transactions,
        (SELECT count(*) FROM cogni_billing.postings) AS postings
"""

_TERMS: Final = """
    SELECT
        json_build_object(
            'tenant', (min(ARRAY[tenant_id::text, id::text]))[1],
            'transaction', (min(ARRAY[tenant_id::text, id::text]))[2]
        ) AS located,
        count(*) AS alike,
        min(occurred_at) AS occurred_at,
        amount, beneficiaries, shares, request::text AS request, policy::text AS policy
    FROM cogni_billing.transactions
    WHERE kind = 'purchase'
    GROUP BY amount, beneficiaries, shares, request::text, policy::text
"""

# One without its purchase, or with other shares than it, follows nothing; another rule says so.
_RETURNS: Final = """
    SELECT
        json_build_object('tenant', made.tenant_id, 'transaction', made.id) AS located,
        purchase.amount AS credited,
        purchase.shares AS given,
        purchase.request ->> 'amount' AS paid,
        made.amount, made.shares, made.absorbed, made.reverses,
        made.returned, made.returned_total, made.returned_unit
    FROM cogni_billing.transactions AS made
    JOIN cogni_billing.transactions AS purchase
        ON purchase.tenant_id = made.tenant_id AND purchase.id = made.reverses
    WHERE cardinality(purchase.shares) = cardinality(made.shares)
"""
