"""Run the statements of `invariants.py`, and the checks that need the domain's rules.

SQL computes no shares. The terms of purchases and reversals are streamed and computed again in
Python.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from decimal import Decimal
from itertools import groupby
from typing import Any, Final
from uuid import UUID

from attrs import evolve, field, frozen
from sqlalchemy import Connection, Row, text

from cogni_billing.adapters.postgres.invariants import STATEMENTS
from cogni_billing.domain.amounts import CREDIT, Amount, Unit, decimal_places
from cogni_billing.domain.errors import BillingError, PrivilegeRequired
from cogni_billing.domain.identity import AccountId, TenantId
from cogni_billing.domain.kinds import TransactionKind
from cogni_billing.domain.metadata import Json
from cogni_billing.domain.policies import Shortfall
from cogni_billing.domain.prices import policy_in
from cogni_billing.domain.reinstatements import Returns
from cogni_billing.domain.shares import Share
from cogni_billing.domain.transactions import Draw, Recorded, Reversal, Transaction
from cogni_billing.domain.verification import (
    Invariant,
    Verification,
    Violation,
    purchase_problems,
    reinstatement_problems,
    reversal_problems,
)


def verification(connection: Connection, limit: int) -> Verification:
    """Check every invariant. The result has at most *limit* violations of each."""
    found = Findings(limit)
    for statement in STATEMENTS:
        for row in connection.execute(text(_RANKED.format(statement)), {"limit": limit}):
            found.add(Invariant[row.rule], json.loads(row.located), row.detail, row.hidden)
    _check_purchases(connection, found)
    _check_reversals(connection, found)
    _check_reinstatements(connection, found)
    counted = connection.execute(text(_COUNTED)).one()
    return Verification(
        violations=tuple(found.violations()),
        transactions=counted.transactions,
        postings=counted.transactions + counted.arrivals,
    )


@frozen
class Findings:
    """Violations by invariant, at most *limit* of each, spread over as many tenants as possible.

    Each tenant's first violation comes before any tenant's second. So a tenant with many violations
    does not hide the violations of other tenants.
    """

    _limit: int
    _found: Counter[tuple[Invariant, str]] = field(init=False, factory=Counter)
    _kept: defaultdict[Invariant, list[tuple[int, str, Violation]]] = field(
        init=False, factory=lambda: defaultdict(list)
    )

    def add(
        self, invariant: Invariant, located: Mapping[str, object], detail: str, hidden: int = 0
    ) -> None:
        """Add a violation, and count *hidden* more of the same invariant and tenant."""
        where = {name: str(id_) for name, id_ in located.items()}
        tenant = where.get("tenant", str(where))
        place = self._found[invariant, tenant] + 1
        self._found[invariant, tenant] = place + hidden
        self._kept[invariant].append((place, tenant, Violation(invariant, where, detail)))
        if len(self._kept[invariant]) > 2 * self._limit:
            self._kept[invariant] = self._first(invariant)

    def violations(self) -> Iterator[Violation]:
        """Return the kept violations. Each tenant's last one states how many more there are."""
        for invariant in Invariant:
            first = self._first(invariant)
            left = self._found - Counter((invariant, tenant) for _, tenant, _ in first)
            last = {tenant: violation for _, tenant, violation in first}
            for _, tenant, violation in first:
                more = left[invariant, tenant]
                if more and violation is last[tenant]:
                    detail = f"{violation.detail} (and {more} more of this tenant)"
                    yield evolve(violation, detail=detail)
                else:
                    yield violation

    def _first(self, invariant: Invariant) -> list[tuple[int, str, Violation]]:
        return sorted(self._kept[invariant], key=lambda kept: kept[:2])[: self._limit]


def _check_purchases(connection: Connection, found: Findings) -> None:
    """Check the terms of purchases. Equal terms are computed once."""
    several = list[_Terms]()
    for row in _streamed(connection, _TERMS):
        for terms in _broken_terms(row):
            if row.alike == 1:
                found.add(terms.invariant, terms.located, terms.detail)
            else:
                several.append(terms)
        if len(several) > _BATCH:
            _add_by_tenant(connection, several, found)
            several.clear()
    _add_by_tenant(connection, several, found)


@frozen
class _Terms:
    """Invalid terms of purchases: an example, and the last moment at which they are invalid."""

    invariant: Invariant
    detail: str
    tenant: object
    id: object
    until: datetime | None

    @property
    def located(self) -> dict[str, object]:
        return {"tenant": self.tenant, "transaction": self.id}


def _broken_terms(row: Row[Any]) -> Iterator[_Terms]:
    policy = _readable(row.policy)
    early = _problems(row, policy, row.first_at)
    if not early:
        return
    # A policy is in force from a moment on. Later purchases on the same terms may be valid.
    late = _problems(row, policy, row.last_at)
    tenant, transaction = row.example
    for invariant, detail in (early | late).items():
        until = None if invariant in late else policy_in(policy).effective_from
        yield _Terms(invariant, detail, tenant, transaction, until)


def _problems(row: Row[Any], policy: Mapping[str, Json], at: datetime) -> dict[Invariant, str]:
    return dict(
        purchase_problems(
            paid=f"{row.paid:f} {row.paid_unit}",
            credited=Amount.computed(row.amount, CREDIT),
            shares=[
                Share(AccountId(beneficiary), Amount.computed(share, CREDIT))
                for beneficiary, share in zip(
                    row.beneficiaries or (), row.shares or (), strict=True
                )
            ],
            policy=policy,
            at=at.astimezone(UTC),
        )
    )


def _add_by_tenant(connection: Connection, several: list[_Terms], found: Findings) -> None:
    """Add a violation for each tenant that has purchases on these terms."""
    if not several:
        return
    rows = _streamed(
        connection,
        _TENANTS,
        tenants=[terms.tenant for terms in several],
        ids=[terms.id for terms in several],
        until=[terms.until for terms in several],
    )
    for row in rows:
        terms = several[row.n - 1]
        located = {"tenant": row.tenant_id, "transaction": row.id}
        found.add(terms.invariant, located, terms.detail, row.alike - 1)


def _readable(recorded: str | None) -> dict[str, Json]:
    """Parse the recorded policy. Returns an empty object if Python cannot read it."""
    try:
        policy = json.loads(recorded or "{}")
    except (ValueError, RecursionError):
        return {}
    return policy if isinstance(policy, dict) else {}


def _check_reversals(connection: Connection, found: Findings) -> None:
    """Check the credits that refunds and chargebacks returned."""
    for row in _streamed(connection, _REVERSALS):
        unit = Unit.recorded(row.paid_unit, decimal_places(row.paid))
        for invariant, detail in reversal_problems(
            legs=[Amount.computed(leg, CREDIT) for leg in row.legs],
            taken=[-Amount.computed(amount, CREDIT) for amount in row.taken],
            absorbed=Amount.computed(row.absorbed, CREDIT),
            lapsed=Amount.computed(row.lapsed, CREDIT),
            paid=f"{row.paid:f} {unit}",
            so_far=Reversal(
                purchase=row.reverses,
                payment=row.payment,
                amount=Amount.computed(row.returned, unit),
                total=Amount.computed(row.returned_total, unit),
                asked=None,
                shortfall=Shortfall.DEBT,
            ),
        ):
            found.add(invariant, {"tenant": row.tenant_id, "transaction": row.id}, detail)


def _check_reinstatements(connection: Connection, found: Findings) -> None:
    """Check the credits that reinstatements gave back, of payments that have one."""
    rows = _streamed(connection, _REINSTATED)
    for _, made in groupby(rows, key=lambda row: (row.tenant_id, row.reverses)):
        purchase, history = None, list[Recorded]()
        for row in made:
            purchase = purchase or _purchase(row)
            recorded = _reversal(row)
            if purchase is None or recorded is None:
                break  # other invariants report it
            if recorded.transaction.kind.reinstates:
                located = {"tenant": row.tenant_id, "transaction": row.id}
                for invariant, detail in reinstatement_problems(
                    recorded, Returns(purchase, history)
                ):
                    found.add(invariant, located, detail)
            history.append(recorded)


def _purchase(row: Row[Any]) -> Transaction | None:
    with suppress(BillingError):
        return Transaction(
            id=row.reverses,
            tenant=TenantId(row.tenant_id),
            kind=TransactionKind.PURCHASE,
            reference=row.payment,
            at=row.occurred_at,
            amount=Amount.computed(row.legs[0], CREDIT),
            paid=Amount.computed(row.paid, Unit.recorded(row.paid_unit, decimal_places(row.paid))),
            shares=_shares(row.beneficiaries, row.legs[1:]),
        )
    return None


def _reversal(row: Row[Any]) -> Recorded | None:
    unit, draws = (
        Unit.recorded(row.paid_unit, decimal_places(row.paid)),
        zip(row.grants, row.drawn, strict=True),
    )
    with suppress(BillingError):
        made = Transaction(
            id=row.id,
            tenant=TenantId(row.tenant_id),
            kind=TransactionKind(row.kind),
            reference=row.reference,
            at=row.occurred_at,
            amount=Amount.computed(row.taken[0], CREDIT),
            shares=_shares(row.beneficiaries, row.taken[1:]),
            absorbed=Amount.computed(row.absorbed, CREDIT),
            lapsed=Amount.computed(row.lapsed, CREDIT),
            subject=row.subject_id,
            reversal=Reversal(
                purchase=row.reverses,
                payment=row.payment,
                amount=Amount.computed(row.returned, unit),
                total=Amount.computed(row.returned_total, unit),
            ),
        )
        return Recorded(
            made,
            made.amount,
            replayed=False,
            draws=tuple(Draw(grant, Amount.computed(part, CREDIT)) for grant, part in draws),
        )
    return None


def _shares(beneficiaries: Sequence[UUID] | None, shares: Sequence[Decimal]) -> tuple[Share, ...]:
    return tuple(
        Share(AccountId(beneficiary), Amount.computed(share, CREDIT))
        for beneficiary, share in zip(beneficiaries or (), shares, strict=True)
    )


def _streamed(connection: Connection, statement: str, **arguments: object) -> Iterator[Row[Any]]:
    """Fetch the rows of *statement*, a thousand at a time."""
    # Without this setting the server plans a cursor for its first rows only.
    connection.execute(text("SELECT set_config('cursor_tuple_fraction', '1', true)"))
    return iter(
        connection.execute(text(statement), arguments, execution_options={"yield_per": 1000})
    )


def require_full_sight(connection: Connection) -> None:
    """Validate that the role's policies show it the rows of every tenant.

    Row security hides other rows, and an empty ledger has no violations.

    Raises:
        PrivilegeRequired: a policy is missing, or a restrictive policy hides rows.
    """
    hidden = connection.execute(_HIDDEN).scalars().all()
    if hidden:
        raise PrivilegeRequired(f"the role does not see every row of {', '.join(hidden)}")


_HIDDEN: Final = text("""
    SELECT relname
    FROM pg_class
    WHERE relnamespace = 'cogni_billing'::regnamespace AND relkind = 'r'
      AND relname <> 'context_keys'
      AND (
        NOT EXISTS (
            SELECT FROM pg_policy
            WHERE polrelid = pg_class.oid AND polcmd = 'r' AND polpermissive
              AND pg_get_expr(polqual, polrelid) = 'true'
              AND (SELECT oid FROM pg_roles WHERE rolname = current_user) = ANY (polroles)
        )
        OR EXISTS (
            SELECT FROM pg_policy
            WHERE polrelid = pg_class.oid AND polcmd IN ('r', '*') AND NOT polpermissive
        )
      )
      AND NOT (SELECT rolsuper OR rolbypassrls FROM pg_roles WHERE rolname = current_user)
    ORDER BY 1
""")

_BATCH: Final = 10_000

# Ranks each tenant's first violation of an invariant before any tenant's second.
_RANKED: Final = """
    SELECT
        rule, located::text AS located, detail,
        CASE nth WHEN max(nth) OVER (PARTITION BY rule, tenant) THEN made - nth ELSE 0 END AS hidden
    FROM (
        SELECT *, row_number() OVER (PARTITION BY rule ORDER BY nth, tenant) AS place
        FROM (
            SELECT
                *,
                row_number() OVER (PARTITION BY rule, tenant ORDER BY located::text) AS nth,
                count(*) OVER (PARTITION BY rule, tenant) AS made
            FROM (
                SELECT *, coalesce(located ->> 'tenant', located::text) AS tenant
                FROM ({}) AS statement
            ) AS found
        ) AS numbered
    ) AS ranked
    WHERE place <= :limit
    ORDER BY rule, place
"""

_COUNTED: Final = """
    SELECT
        (SELECT count(*) FROM cogni_billing.transactions) AS transactions,
        (SELECT count(*) FROM cogni_billing.arrivals) AS arrivals
"""

# Another invariant reports numbers that are not whole and finite. They are skipped here.
_TERMS: Final = """
    SELECT terms.*, kept.policy::text AS policy
    FROM (
        SELECT
            min(ARRAY[made.tenant_id, id]) AS example,
            count(*) AS alike,
            min(occurred_at) AS first_at,
            max(occurred_at) AS last_at,
            amount, coalesce(paid, 0) AS paid, paid_unit, beneficiaries, shares, digest
        FROM cogni_billing.transactions AS made
        LEFT JOIN cogni_billing.policies AS kept
            ON kept.tenant_id = made.tenant_id AND digest = made.policy
        WHERE kind = 'purchase'
        GROUP BY amount, paid, paid_unit, beneficiaries, shares, digest
    ) AS terms
    LEFT JOIN (
        SELECT DISTINCT ON (digest) digest, policy FROM cogni_billing.policies ORDER BY digest
    ) AS kept USING (digest)
    WHERE abs(amount) < 1e40 AND scale(amount) = 0
      AND cardinality(beneficiaries) IS NOT DISTINCT FROM cardinality(shares)
      AND coalesce((
            SELECT bool_and(account IS NOT NULL AND abs(share) < 1e40 AND scale(share) = 0)
            FROM unnest(beneficiaries, shares) AS leg (account, share)
        ), true)
"""

_TENANTS: Final = """
    SELECT n, same.tenant_id, (min(ARRAY[same.id]))[1] AS id, count(*) AS alike
    FROM unnest(
        CAST(:tenants AS uuid[]), CAST(:ids AS uuid[]), CAST(:until AS timestamptz[])
    ) WITH ORDINALITY AS asked (tenant_id, id, until, n)
    JOIN cogni_billing.transactions AS example USING (tenant_id, id)
    JOIN cogni_billing.transactions AS same
        ON same.kind = 'purchase'
        AND same.amount = example.amount
        AND coalesce(same.paid, 0) = coalesce(example.paid, 0)
        AND coalesce(same.paid_unit, '') = coalesce(example.paid_unit, '')
        AND coalesce(same.beneficiaries, '{}') = coalesce(example.beneficiaries, '{}')
        AND coalesce(same.shares, '{}') = coalesce(example.shares, '{}')
        AND coalesce(same.policy, '') = coalesce(example.policy, '')
        AND (until IS NULL OR same.occurred_at < until)
    GROUP BY n, same.tenant_id
"""

# Other invariants report a reversal without a purchase, with other shares, or without an amount.
_REVERSED: Final = """
    SELECT
        made.tenant_id, made.id, made.absorbed, coalesce(made.lapsed, 0) AS lapsed, made.reverses,
        made.returned, made.returned_total, made.kind, made.reference, made.occurred_at,
        made.subject_id, made.beneficiaries, coalesce(made.drawn_grants, '{{}}') AS grants,
        coalesce(made.drawn_amounts, '{{}}') AS drawn,
        made.amount || made.shares AS taken,
        purchase.amount || purchase.shares AS legs,
        purchase.reference AS payment, purchase.paid, purchase.paid_unit
    FROM cogni_billing.transactions AS made
    JOIN cogni_billing.transactions AS purchase
        ON purchase.tenant_id = made.tenant_id AND purchase.id = made.reverses
    WHERE made.reverses IS NOT NULL AND {made}
      AND cardinality(purchase.shares) IS NOT DISTINCT FROM cardinality(made.shares)
      AND purchase.paid > 0 AND purchase.paid < 1e40
      AND cogni_billing.is_part(purchase.paid, purchase.paid_unit, purchase.paid)
      AND cogni_billing.is_part(made.returned, purchase.paid_unit, purchase.paid)
      AND cogni_billing.is_part(made.returned_total, purchase.paid_unit, purchase.paid)
      AND made.returned < 1e40 AND made.returned_total < 1e40
      AND (
        SELECT bool_and(abs(leg) < 1e40 AND scale(leg) = 0)
        FROM unnest(
            ARRAY[made.absorbed, coalesce(made.lapsed, 0), made.amount, purchase.amount]
                || made.shares || purchase.shares
        ) AS leg
      )
"""
_REVERSALS: Final = _REVERSED.format(made="made.kind <> 'reinstatement'")
_REINSTATED: Final = (
    _REVERSED.format(
        made="""EXISTS (
            SELECT FROM cogni_billing.transactions AS undone
            WHERE undone.tenant_id = made.tenant_id AND undone.reverses = made.reverses
              AND undone.kind = 'reinstatement')"""
    )
    + "ORDER BY made.tenant_id, made.reverses, made.position"
)
