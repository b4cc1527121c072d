"""A purchase is planned as one balanced transaction, and its receipt has the recorded values."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from attrs import evolve

from cogni_billing import (
    SYSTEM_ACCOUNT_ID,
    SYSTEM_TENANT_ID,
    USDC,
    AccountId,
    Amount,
    Difference,
    IdempotencyConflict,
    InvalidAmount,
    InvalidMetadata,
    InvalidPolicy,
    InvalidReference,
    InvalidTenant,
    InvalidTime,
    PurchaseReceipt,
    RevenueSharePolicy,
    Share,
    TenantId,
    UnitMismatch,
    credits,
    usd,
)
from cogni_billing.domain.identity import ISSUANCE
from cogni_billing.domain.kinds import TransactionKind
from cogni_billing.domain.purchases import (
    Purchase,
    ReplayOnly,
    plan_or_replay,
    plan_purchase,
    request_purchase,
)
from cogni_billing.domain.receipts import purchase_receipt
from cogni_billing.domain.transactions import Posting, Recorded, Transaction
from cogni_billing.testing.base import ALICE, BOB, NOON
from cogni_billing.testing.contracts.purchases import planned, policy


def plan(**changed: Any) -> Transaction:
    """A default plan with *changed* arguments."""
    given: dict[str, Any] = {
        "tenant": ALICE,
        "amount": usd("10.00"),
        "payment": "stripe:pi_1",
        "expires_in": None,
        "metadata": None,
        "policy": RevenueSharePolicy.default(),
        "at": NOON,
        "transaction_id": UUID(int=1),
    }
    given |= changed
    named = ("tenant", "amount", "payment", "expires_in", "metadata")
    asked = {name: given[name] for name in named}
    request = request_purchase(Purchase(**asked))
    return plan_purchase(request, given["policy"], given["at"], given["transaction_id"])


def test_the_customer_is_credited_in_full_and_issuance_debited_for_all_of_it() -> None:
    assert plan().postings == (
        Posting(AccountId(ALICE), credits(100_000_000)),
        Posting(SYSTEM_ACCOUNT_ID, credits(25_000_000)),
        Posting(ISSUANCE, credits(-125_000_000)),
    )


def test_a_plan_carries_its_arguments() -> None:
    planned = plan(metadata={"order": [1, 2]}, transaction_id=UUID(int=9))

    assert (planned.id, planned.tenant, planned.kind, planned.reference, planned.metadata) == (
        UUID(int=9),
        ALICE,
        TransactionKind.PURCHASE,
        "stripe:pi_1",
        {"order": (1, 2)},
    )


@pytest.mark.parametrize(
    ("amount", "requested"),
    [
        (usd("10"), "10.00 USD"),
        (usd("10.00"), "10.00 USD"),
        (Amount("0.5", USDC), "0.500000 USDC"),
    ],
)
def test_equal_amounts_make_equal_requests(amount: Amount, requested: str) -> None:
    assert plan(amount=amount).request == {"amount": requested}


def test_a_lifetime_is_a_part_of_the_request_and_gives_the_expiry() -> None:
    planned = plan(expires_in=timedelta(days=1, microseconds=500_000))

    assert planned.request == {"amount": "10.00 USD", "expires_in": "86400.5 s"}
    assert planned.expires_at == NOON + timedelta(days=1, microseconds=500_000)


def test_a_lifetime_that_ends_after_the_last_year_is_refused() -> None:
    with pytest.raises(InvalidTime) as refused:
        plan(expires_in=timedelta(days=3_000_000))

    assert refused.value.field == "expires_in"


def test_the_request_is_not_changed_by_metadata_policy_or_moment() -> None:
    other = plan(metadata={"a": 1}, policy=policy("0.5"), at=NOON + timedelta(days=1))

    assert other.request == plan().request


def test_a_share_that_floors_to_zero_is_recorded_without_a_posting() -> None:
    planned = plan(amount=Amount("0.000001", USDC), policy=policy("0.099999999999"))

    assert planned.shares == (Share(SYSTEM_ACCOUNT_ID, credits(0)),)
    assert planned.postings == (
        Posting(AccountId(ALICE), credits(10)),
        Posting(ISSUANCE, credits(-10)),
    )


def test_a_share_of_one_credit_is_posted() -> None:
    planned = plan(amount=Amount("0.000001", USDC), policy=policy("0.1"))

    assert planned.postings[1] == Posting(SYSTEM_ACCOUNT_ID, credits(1))


@pytest.mark.parametrize("changes", [{"policy": policy("0")}, {"tenant": SYSTEM_TENANT_ID}])
def test_a_rate_of_zero_or_a_purchase_by_the_system_mints_no_share(
    changes: dict[str, Any],
) -> None:
    planned = plan(**changes)

    assert [posting.amount for posting in planned.postings] == [
        credits(100_000_000),
        credits(-100_000_000),
    ]


def test_the_system_tenants_own_purchase_records_a_policy_without_its_rule() -> None:
    planned = plan(tenant=SYSTEM_TENANT_ID)

    assert planned.shares == ()
    assert planned.policy == RevenueSharePolicy.default().to_dict() | {"rules": ()}


def test_a_policy_in_force_from_the_present_moment_is_applied() -> None:
    assert plan(policy=policy("0.5", since=NOON)).shares[0].amount == credits(50_000_000)


@pytest.mark.parametrize(
    ("wrong", "error", "field"),
    [
        ({"tenant": str(ALICE)}, InvalidTenant, "tenant"),
        ({"amount": usd(0)}, InvalidAmount, "amount"),
        ({"amount": 10}, InvalidAmount, "amount"),
        ({"payment": "a b"}, InvalidReference, "payment"),
        ({"metadata": []}, InvalidMetadata, "metadata"),
        (
            {"policy": policy("0.5", since=NOON + timedelta(microseconds=1))},
            InvalidPolicy,
            "policy",
        ),
    ],
)
def test_an_argument_that_breaks_its_rule_is_named(
    wrong: dict[str, Any], error: type[InvalidAmount], field: str
) -> None:
    with pytest.raises(error) as caught:
        plan(**wrong)

    assert type(caught.value) is error
    assert caught.value.field == field


def test_a_purchase_paid_in_credits_is_refused() -> None:
    with pytest.raises(UnitMismatch) as caught:
        plan(amount=credits(5))

    assert caught.value.given == "CREDIT"
    assert caught.value.expected == "USD, USDC or a currency with a price"


@pytest.mark.parametrize("replayed", [False, True])
def test_a_receipt_has_the_recorded_values(replayed: bool) -> None:
    recorded = Recorded(plan(), balance=credits(123), replayed=replayed)

    assert purchase_receipt(recorded) == PurchaseReceipt(
        transaction_id=UUID(int=1),
        credited=credits(100_000_000),
        shares=(Share(SYSTEM_ACCOUNT_ID, credits(25_000_000)),),
        balance=credits(123),
        replayed=replayed,
    )


@pytest.mark.parametrize("tenant", [ALICE, BOB])
def test_plans_of_two_tenants_differ_in_the_tenant_only(tenant: TenantId) -> None:
    alices = planned(ALICE)

    assert planned(tenant) == evolve(alices, tenant=tenant)
    assert planned(tenant).postings == (
        Posting(AccountId(tenant), alices.amount),
        *alices.postings[1:],
    )


HASH = "ab" * 32


@pytest.mark.parametrize(
    "written",
    [
        "8453:0x" + "aB" * 32,
        f"8453:0X{HASH}",
        f"8453:{HASH}",
        f"08453:0x{HASH}",
        f"0008453:{HASH.upper()}",
        f"8453:0x{HASH}:0xAB",
    ],
)
def test_a_transaction_on_a_chain_has_one_spelling(written: str) -> None:
    with pytest.raises(InvalidReference) as caught:
        plan(payment=written)

    assert caught.value.field == "payment"
    assert "lower case" in caught.value.expected


@pytest.mark.parametrize(
    "payment",
    [
        f"8453:0x{HASH}",
        f"0:0x{HASH}",
        "stripe:PI_1",
        "08453:1",
        f"8453:{HASH}0",
        f"8453:0x{HASH}:0xab",
        f"a:{HASH}",
    ],
)
def test_a_hash_in_lower_case_or_another_reference_is_accepted(payment: str) -> None:
    assert plan(payment=payment).reference == payment


@pytest.mark.parametrize("given", ["pi_9", ":pi_9", "stripe:", HASH])
def test_a_payment_without_a_provider_or_an_id_is_refused(given: str) -> None:
    with pytest.raises(InvalidReference) as caught:
        plan(payment=given)

    assert (caught.value.field, caught.value.expected) == (
        "payment",
        "provider:id, such as stripe:pi_1",
    )


def purchase(amount: str) -> Purchase:
    return Purchase(tenant=ALICE, amount=usd(amount), payment="stripe:pi_1")


class TestReplayOnly:
    """A purchase while no policy is in force."""

    LATER = policy("0.5", since=NOON + timedelta(days=1))

    def only(self, amount: str = "10.00") -> ReplayOnly:
        request = request_purchase(purchase(amount))
        plan = plan_or_replay(request, self.LATER, NOON, UUID(int=1))
        assert isinstance(plan, ReplayOnly)
        return plan

    def test_a_policy_in_force_gives_a_transaction(self) -> None:
        request = request_purchase(purchase("10.00"))
        at = NOON + timedelta(days=1)

        planned = plan_or_replay(request, self.LATER, at, UUID(int=1))

        assert planned == plan_purchase(request, self.LATER, at, UUID(int=1))

    def test_a_stored_purchase_is_the_answer(self) -> None:
        stored = Recorded(planned(), balance=credits(5), replayed=True)

        assert self.only().answer(stored) is stored

    def test_without_a_stored_purchase_raises_invalid_policy(self) -> None:
        with pytest.raises(InvalidPolicy) as caught:
            self.only().answer(None)

        assert caught.value.field == "policy"

    def test_another_amount_conflicts(self) -> None:
        with pytest.raises(IdempotencyConflict) as caught:
            self.only("11.00").answer(Recorded(planned(), balance=credits(5), replayed=True))

        assert caught.value.differences == (Difference("amount", "10.00 USD", "11.00 USD"),)
