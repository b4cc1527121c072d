"""Reports on the whole ledger, read across tenants by the service role."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from attrs import frozen
from sqlalchemy import Engine, text

from cogni_billing.adapters.postgres.audit import require_full_sight
from cogni_billing.adapters.postgres.operations.administration import administrative_transaction
from cogni_billing.domain.amounts import CREDIT, Amount, total


@frozen
class TrialBalance:
    """The credits of each kind of account. All balances together are zero."""

    balances: Mapping[str, Amount]
    """By kind: `tenants`, `cogni_system`, and each contra account that has postings."""

    @property
    def total(self) -> Amount:
        """The sum of all balances. A ledger with a sum other than zero is corrupt."""
        return total(self.balances.values(), CREDIT)


def trial_balance(service_engine: Engine) -> TrialBalance:
    """Sum the postings of the whole ledger by kind of account.

    Reads every posting: a report for operators, not for requests.

    Args:
        service_engine: Connects as the service role.

    Raises:
        PrivilegeRequired: the role cannot see every tenant's postings. Row security would hide
            them silently, and an empty ledger balances too.
        LedgerUnavailable: the database cannot be reached.
    """
    with administrative_transaction(service_engine) as connection:
        require_full_sight(connection)
        rows = connection.execute(_BALANCES).all()
    return TrialBalance({row.name: Amount.computed(row.balance, CREDIT) for row in rows})


_BALANCES: Final = text("""
    SELECT
        CASE account
            WHEN '00000000-0000-4000-b000-000000000000' THEN 'cogni_system'
            WHEN '00000000-0000-4000-b000-000000000001' THEN 'issuance'
            WHEN '00000000-0000-4000-b000-000000000002' THEN 'usage'
            WHEN '00000000-0000-4000-b000-000000000003' THEN 'breakage'
            WHEN '00000000-0000-4000-b000-000000000004' THEN 'shortfall'
            WHEN '00000000-0000-4000-b000-000000000005' THEN 'adjustments'
            ELSE 'tenants'
        END AS name,
        sum(amount) AS balance
    FROM (
        SELECT cogni_billing.account_of(tenant_id) AS account, sum(amount) AS amount
        FROM cogni_billing.transactions GROUP BY 1
        UNION ALL
        SELECT account_id, sum(amount) FROM cogni_billing.arrivals GROUP BY 1
    ) AS posting
    GROUP BY 1
    ORDER BY bool_or(cogni_billing.owner_of(account) <> account), min(account::text)
""")
