"""A dump carries the ledger and everything that guards it to another database."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from sqlalchemy import URL, text

from cogni_billing import Billing, InsufficientCredits, credits, usd
from cogni_billing.adapters.postgres import PostgresUnitOfWork, doctor
from cogni_billing.adapters.postgres.embedded.server import bundled_binaries
from cogni_billing.testing.base import ALICE, BOB
from stack.conftest import Clone, Database, opened

DIGEST = text("""
    SELECT md5(string_agg(line, E'\\n' ORDER BY line))
    FROM (
        SELECT 't ' || transactions::text AS line FROM cogni_billing.transactions
        UNION ALL SELECT 'p ' || postings::text FROM cogni_billing.postings
        UNION ALL SELECT 'w ' || wallets::text FROM cogni_billing.wallets
        UNION ALL SELECT 'h ' || holds::text FROM cogni_billing.holds
        UNION ALL SELECT 'g ' || grants::text FROM cogni_billing.grants
        UNION ALL SELECT 'd ' || disputes::text FROM cogni_billing.disputes
        UNION ALL SELECT 'c ' || checkpoints::text FROM cogni_billing.checkpoints
        UNION ALL SELECT 'a ' || accounts::text FROM cogni_billing.accounts
        UNION ALL SELECT 'y ' || payments::text FROM cogni_billing.payments
    ) AS lines
""")


def binaries() -> Path:
    """The server's own programs, where it has others than the bundled ones."""
    given = os.environ.get("COGNI_BILLING_TEST_POSTGRES_BIN")
    return Path(given) if given else bundled_binaries()


def ran(program: str, url: URL, *arguments: str, given: str | None = None) -> str:
    libpq = url.set(drivername="postgresql").render_as_string(hide_password=False)
    return subprocess.run(
        [binaries() / program, "-d", libpq, *arguments],
        input=given,
        capture_output=True,
        text=True,
        check=True,
    ).stdout


def test_a_restored_ledger_is_the_same_and_as_well_guarded(
    database: Database, empty_database: Clone
) -> None:
    billing = Billing(PostgresUnitOfWork(database.user, service=database.service))
    for tenant in (ALICE, BOB):
        billing.confirm_purchase(tenant, usd("1.00"), payment=f"stripe:{tenant}")
        billing.grant(tenant, credits(7), source="promo:a", reference="g1")
        billing.hold(tenant, credits(3), reference="h1")
        billing.charge(tenant, credits(5), reference="c1")
    billing.refund(ALICE, payment=f"stripe:{ALICE}", amount=usd("0.10"), reference="r1")
    billing.open_dispute(BOB, payment=f"stripe:{BOB}", amount=usd("0.20"), reference="d1")
    billing.fold()

    dumped = ran("pg_dump", database.sandbox.administrator)
    # A newer pg_dump sets what an older server does not know.
    restorable = dumped.replace("SET transaction_timeout = 0;\n", "")
    ran("psql", empty_database.administrator, "-Xqv", "ON_ERROR_STOP=1", given=restorable)

    with opened(empty_database) as restored:
        again = Billing(PostgresUnitOfWork(restored.user, service=restored.service))
        with database.admin.connect() as before, restored.admin.connect() as after:
            assert after.scalar(DIGEST) == before.scalar(DIGEST)
        assert doctor(restored.user).findings == ()
        assert again.verify().ok
        assert again.statement(ALICE) == billing.statement(ALICE)
        with pytest.raises(InsufficientCredits):
            again.charge(ALICE, credits(10**9), reference="c2")
        again.charge(ALICE, credits(1), reference="c3")
        assert again.verify().ok
