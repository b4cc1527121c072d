"""A dispute sets credits aside on each owner's wallet."""

from __future__ import annotations

from uuid import UUID

from cogni_billing import (
    SYSTEM_ACCOUNT_ID,
    SYSTEM_TENANT_ID,
    AccountId,
    Dispute,
    Share,
    TenantId,
    credits,
    usd,
)
from cogni_billing.testing.base import ALICE, BOB, NOON

PARTNER = TenantId(UUID(int=3))


def test_parts_of_a_dispute_are_on_their_owners_wallets() -> None:
    dispute = Dispute(
        id=UUID(int=7),
        tenant=ALICE,
        payment="a:p",
        reference="d",
        amount=usd(1),
        set_aside=credits(5),
        shares=(
            Share(SYSTEM_ACCOUNT_ID, credits(3)),
            Share(AccountId(BOB), credits(0)),
            Share(AccountId(PARTNER), credits(2)),
        ),
        opened_at=NOON,
        purchase=UUID(int=8),
    )

    assert list(dispute.parts()) == [
        (ALICE, credits(5)),
        (SYSTEM_TENANT_ID, credits(3)),
        (PARTNER, credits(2)),
    ]
