"""A dispute sets credits aside on each owner's wallet, under separate ids."""

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


def test_each_part_is_on_its_owners_wallet_under_an_id_of_its_own() -> None:
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

    own, *others = dispute.parts()

    assert (own.id, own.tenant, own.amount) == (dispute.id, ALICE, credits(5))
    assert [(part.tenant, part.amount) for part in others] == [
        (SYSTEM_TENANT_ID, credits(3)),
        (PARTNER, credits(2)),
    ]
    assert len({part.id for part in (own, *others)}) == 3
    assert list(dispute.parts()) == [own, *others]
    for part in (own, *others):
        assert (part.reference, part.opened_at) == (str(part.id), NOON)
