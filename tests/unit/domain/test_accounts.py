"""Each tenant has one account. The system tenant also has contra accounts."""

from __future__ import annotations

from uuid import UUID

import attrs
import pytest

from cogni_billing import SYSTEM_ACCOUNT_ID, SYSTEM_TENANT_ID, Account, AccountId
from cogni_billing.domain.accounts import (
    CONTRA_ACCOUNTS,
    AccountType,
    new_account,
)
from cogni_billing.domain.identity import (
    ADJUSTMENTS,
    BREAKAGE,
    ISSUANCE,
    SHORTFALL,
    SYSTEM_ACCOUNTS,
    USAGE,
)
from cogni_billing.testing.base import ALICE, NOON


def test_a_tenant_gets_an_account_with_its_own_uuid_and_no_slug() -> None:
    account = new_account(ALICE, NOON)

    assert account == Account(
        id=AccountId(ALICE), tenant_id=ALICE, opened_at=NOON, slug=None, is_system_tenant=False
    )


def test_the_system_tenant_gets_the_account_that_the_protocol_fixes() -> None:
    account = new_account(SYSTEM_TENANT_ID, NOON)

    assert account == Account(
        id=SYSTEM_ACCOUNT_ID,
        tenant_id=SYSTEM_TENANT_ID,
        opened_at=NOON,
        slug="cogni_system",
        is_system_tenant=True,
    )


def test_an_account_cannot_be_changed() -> None:
    account = new_account(ALICE, NOON)

    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        account.is_system_tenant = True  # type: ignore[misc]
    assert account.is_system_tenant is False


@pytest.mark.parametrize(
    ("given", "written"),
    [
        (SYSTEM_TENANT_ID, "00000000-0000-4000-a000-000000000001"),
        (SYSTEM_ACCOUNT_ID, "00000000-0000-4000-b000-000000000000"),
        (ISSUANCE, "00000000-0000-4000-b000-000000000001"),
        (USAGE, "00000000-0000-4000-b000-000000000002"),
        (BREAKAGE, "00000000-0000-4000-b000-000000000003"),
        (SHORTFALL, "00000000-0000-4000-b000-000000000004"),
        (ADJUSTMENTS, "00000000-0000-4000-b000-000000000005"),
    ],
)
def test_the_ids_of_the_protocol_never_change(given: UUID, written: str) -> None:
    assert str(given) == written


def test_each_contra_account_has_its_type() -> None:
    assert {
        AccountType.ISSUANCE: ISSUANCE,
        AccountType.USAGE: USAGE,
        AccountType.BREAKAGE: BREAKAGE,
        AccountType.SHORTFALL: SHORTFALL,
        AccountType.ADJUSTMENTS: ADJUSTMENTS,
    } == CONTRA_ACCOUNTS
    assert {*CONTRA_ACCOUNTS.values(), SYSTEM_ACCOUNT_ID} == SYSTEM_ACCOUNTS


def test_types_have_the_codes_that_are_stored() -> None:
    assert [kind.value for kind in AccountType] == [
        "billing",
        "issuance",
        "usage",
        "breakage",
        "shortfall",
        "adjustments",
    ]
