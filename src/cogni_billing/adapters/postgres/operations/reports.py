"""What only the whole ledger shows, read across tenants by the service role."""

from __future__ import annotations

from decimal import Decimal
from typing import Final

from attrs import frozen
from sqlalchemy import Engine, text

from cogni_billing.adapters.postgres.operations.administration import administrative_transaction
from cogni_billing.domain.amounts import Amount, Unit, total
from cogni_billing.domain.identity import SYSTEM_TENANT_ID


@frozen
class TrialBalance:
    """The balance of each kind of account in one unit; together they are zero."""

    unit: Unit
    balances: dict[str, Amount]
    """By kind: `tenants`, `cogni_system`, and each contra account that was ever posted to."""

    @property
    def total(self) -> Amount:
        """What all balances sum to; anything but zero means that the ledger is corrupt."""
        return total(self.balances.values(), self.unit)


def trial_balance(service_engine: Engine) -> tuple[TrialBalance, ...]:
    """A trial balance of the whole ledger, summed from its postings, for each unit.

    Reads every posting: a report for operators, not for requests.

    Args:
        service_engine: Connects as the service role.

    Raises:
        PrivilegeRequired: the role cannot see every tenant's postings. Row security would hide
            them silently, and an empty ledger balances too.
        LedgerUnavailable: the database cannot be reached.
    """
    with administrative_transaction(service_engine) as connection:
        connection.execute(text("SET LOCAL row_security = off"))
        rows = connection.execute(_BALANCES, {"system": SYSTEM_TENANT_ID}).all()
    units: dict[Unit, dict[str, Amount]] = {Unit.of(row.unit): {} for row in rows}
    for row in rows:
        unit = Unit.of(row.unit)
        units[unit][row.name] = Amount.computed(Decimal(row.balance), unit)
    return tuple(TrialBalance(unit, balances) for unit, balances in units.items())


_BALANCES: Final = text("""
    SELECT
        postings.unit,
        CASE
            WHEN postings.tenant_id <> :system THEN 'tenants'
            ELSE coalesce(accounts.slug, accounts.type)
        END AS name,
        sum(postings.amount) AS balance
    FROM cogni_billing.postings
    LEFT JOIN cogni_billing.accounts
        ON accounts.tenant_id = postings.tenant_id AND accounts.id = postings.account_id
    GROUP BY 1, 2
    ORDER BY 1, bool_or(postings.tenant_id = :system), bool_and(accounts.slug IS NULL), 2
""")
