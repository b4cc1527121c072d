"""What somebody who holds app_user's connection may try, and how the database answers."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from cogni_billing import TenantId
from cogni_billing.adapters.postgres.posting import POST
from cogni_billing.adapters.postgres.rows import transaction_parameters
from cogni_billing.domain.transactions import Transaction, TransactionKind
from cogni_billing.testing.base import ALICE
from cogni_billing.testing.contracts.purchases import planned

TABLES = (
    "accounts",
    "checkpoints",
    "disputes",
    "grants",
    "holds",
    "payments",
    "postings",
    "transactions",
    "wallets",
)
PRIVILEGE = "42501"
CHECK = "23514"


def refusal(connection: Connection, statement: str, **parameters: Any) -> psycopg.Error:
    """The error that the database answers *statement* with."""
    with pytest.raises(DBAPIError) as caught:
        connection.execute(text(statement), parameters)
    assert isinstance(caught.value.orig, psycopg.Error)
    return caught.value.orig


def post_altered(connection: Connection, tenant: TenantId = ALICE, **altered: Any) -> None:
    """The library's own statement, with some of its parameters altered."""
    statement = POST[TransactionKind.PURCHASE]
    connection.execute(statement, transaction_parameters(planned(tenant)) | altered)


def refusal_of_altered(
    connection: Connection, transaction: Transaction, **altered: Any
) -> tuple[str | None, str | None]:
    """The code and the rule with which an altered transaction is refused."""
    with pytest.raises(DBAPIError) as caught:
        connection.execute(POST[transaction.kind], transaction_parameters(transaction) | altered)
    assert isinstance(caught.value.orig, psycopg.Error)
    return caught.value.orig.sqlstate, caught.value.orig.diag.constraint_name
