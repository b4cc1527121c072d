"""A transaction that does not balance or fit its kind cannot be constructed."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cogni_billing import (
    SYSTEM_ACCOUNT_ID,
    SYSTEM_TENANT_ID,
    AccountId,
    Difference,
    IdempotencyConflict,
    Overrun,
    RevenueSharePolicy,
    Share,
    ShareMode,
    ShareRule,
    Shortfall,
    TenantId,
    TransactionKind,
    UnbalancedTransaction,
    credits,
    usd,
    usd_cents,
)
from cogni_billing.domain import transactions
from cogni_billing.domain.idempotency import same_or_conflict
from cogni_billing.domain.identity import BREAKAGE, ISSUANCE, SHORTFALL
from cogni_billing.domain.purchases import Purchase, plan_purchase, request_purchase
from cogni_billing.domain.transactions import (
    GivingBack,
    GrantTerms,
    LotTerms,
    Posting,
    Reversal,
    Transaction,
    balanced,
    imbalance,
)
from cogni_billing.testing.base import ALICE, NOON
from cogni_billing.testing.contracts.purchases import planned

ALICES = AccountId(ALICE)


REVERSAL = Reversal(
    purchase=UUID(int=5),
    payment="stripe:pi_1",
    amount=usd(1),
    total=usd(3),
    asked=usd(1),
    shortfall=Shortfall.CLAMP,
)
GIVEN_BACK = GivingBack(charge=UUID(int=7), reference="run-1", asked=credits(5))
TERMS = GrantTerms(source="promo:a", priority=7)
LOT = LotTerms(expires_at=NOON, expires_in=timedelta(hours=1))
SHARE = (Share(SYSTEM_ACCOUNT_ID, credits(1)),)
HOLD = UUID(int=6)

FIELDS: dict[TransactionKind, dict[str, Any]] = {
    **{kind: {"amount": credits(-5)} for kind in TransactionKind if kind.is_plain_debit},
    TransactionKind.PURCHASE: {"amount": credits(5), "paid": usd("10.00")},
    TransactionKind.CAPTURE: {"amount": credits(-5), "subject": HOLD},
    TransactionKind.GRANT: {"amount": credits(5), "terms": TERMS},
    TransactionKind.EXPIRY: {"amount": credits(-5), "subject": HOLD},
    TransactionKind.VOID: {"amount": credits(-5), "subject": HOLD},
    TransactionKind.REFUND: {"amount": credits(-5), "reversal": REVERSAL},
    TransactionKind.REVERSAL: {"amount": credits(5), "giving_back": GIVEN_BACK},
    TransactionKind.CHARGEBACK: {
        "amount": credits(-5),
        "reversal": REVERSAL,
        "subject": HOLD,
    },
    TransactionKind.REINSTATEMENT: {
        "amount": credits(5),
        "reversal": REVERSAL,
        "subject": HOLD,
    },
    TransactionKind.ADJUSTMENT: {"amount": credits(-5), "reason": "billed twice"},
    TransactionKind.OPENING: {"amount": credits(-5)},
}
"""The fields that a transaction of each kind must have."""


def transaction(kind: TransactionKind = TransactionKind.PURCHASE, **fields: Any) -> Transaction:
    given = FIELDS.get(kind, {}) | fields
    return Transaction(id=UUID(int=1), tenant=ALICE, kind=kind, reference="r", at=NOON, **given)


def leg(account: AccountId, amount: int) -> Posting:
    return Posting(account, credits(amount))


@pytest.mark.parametrize("kind", TransactionKind)
def test_the_postings_follow_from_the_amount(kind: TransactionKind) -> None:
    made = transaction(kind)

    assert made.postings == (
        Posting(ALICES, made.amount),
        Posting(kind.contra, -made.amount),
    )


def test_shares_and_an_absorbed_shortfall_have_their_own_postings() -> None:
    purchase = transaction(shares=SHARE)
    refund = transaction(TransactionKind.REFUND, absorbed=credits(2))
    expired = transaction(TransactionKind.REFUND, absorbed=credits(2), lapsed=credits(3))

    assert purchase.postings == (leg(ALICES, 5), leg(SYSTEM_ACCOUNT_ID, 1), leg(ISSUANCE, -6))
    assert refund.postings == (leg(ALICES, -5), leg(SHORTFALL, -2), leg(ISSUANCE, 7))
    assert expired.postings == (
        leg(ALICES, -5),
        leg(SHORTFALL, -2),
        leg(BREAKAGE, -3),
        leg(ISSUANCE, 10),
    )


@pytest.mark.parametrize(
    ("kind", "fields", "problem"),
    [
        *(
            (kind, {"amount": -FIELDS[kind]["amount"]}, "of -?5 CREDIT")
            for kind in TransactionKind
            if not (kind.corrects or kind.opens_balance or kind == "void")
        ),
        *(
            (kind, {"amount": credits(0)}, "of 0 CREDIT")
            for kind in ("grant", "expiry", "adjustment")
        ),
        *(
            (kind, {"at_most": credits(9)}, "of at most 9 CREDIT")
            for kind in TransactionKind
            if not kind.is_plain_debit
        ),
        ("charge", {"at_most": credits(4)}, "of at most 4 CREDIT"),
        ("charge", {"at_most": credits(5), "overdraft": True}, "of at most 5 CREDIT"),
        *(
            (kind, {"shares": SHARE}, "with 1 shares")
            for kind in ("charge", "capture", "grant", "expiry", "adjustment")
        ),
        *(
            (kind, {"absorbed": credits(1)}, "with 1 CREDIT absorbed")
            for kind in ("purchase", "charge", "capture", "grant", "expiry", "adjustment")
        ),
        *(
            (kind, {"subject": HOLD}, f"with subject {HOLD}, .* none")
            for kind in ("purchase", "charge", "grant", "refund", "adjustment")
        ),
        *(
            (kind, rules, "with the rules of a capture")
            for kind in ("charge", "grant")
            for rules in ({"final": False}, {"overrun": Overrun.AVAILABLE})
        ),
        ("capture", {"subject": None}, "with subject None, .* hold"),
        ("expiry", {"subject": None}, "with subject None, .* grant"),
        ("chargeback", {"subject": None}, "with subject None, .* dispute"),
        ("purchase", {"paid": None}, "with paid None"),
        *(
            (kind, {"paid": usd(1)}, "with paid 1.00 USD")
            for kind in TransactionKind
            if kind != "purchase"
        ),
        ("grant", {"terms": None}, "with terms None"),
        *(
            (kind, {"terms": TERMS}, "with terms GrantTerms")
            for kind in TransactionKind
            if kind != "grant"
        ),
        *((kind, {"reversal": None}, "with reversal None") for kind in ("refund", "chargeback")),
        *(
            (kind, {"reversal": REVERSAL}, "with reversal Reversal")
            for kind in ("purchase", "charge", "capture", "grant", "expiry", "adjustment")
        ),
        ("adjustment", {"reason": None}, "with reason None"),
        ("reversal", {"giving_back": None}, "with None given back"),
        *(
            (kind, {"giving_back": GIVEN_BACK}, "with GivingBack.* given back")
            for kind in TransactionKind
            if kind != "reversal"
        ),
        *(
            (kind, {"reason": "billed twice"}, "with reason billed twice")
            for kind in TransactionKind
            if not (kind.corrects or kind in ("void", "reversal"))
        ),
        *(
            (kind, {"occurred_at": NOON}, "that occurred at 2026-11-23")
            for kind in TransactionKind
            if not kind.is_plain_debit
        ),
        *(
            (kind, {"lot": LOT}, "with expiry 2026-11-23")
            for kind in TransactionKind
            if kind != "purchase"
        ),
        *(
            (kind, {"lapsed": credits(1)}, "with 1 CREDIT lapsed")
            for kind in TransactionKind
            if not kind.reverses
        ),
        ("refund", {"lapsed": credits(-1)}, "with -1 CREDIT lapsed"),
        ("refund", {"lapsed": usd(1)}, "in more than one unit"),
        ("purchase", {"shares": (Share(SYSTEM_ACCOUNT_ID, usd(1)),)}, "in more than one unit"),
        ("refund", {"absorbed": usd(1)}, "in more than one unit"),
    ],
)
def test_a_field_that_does_not_fit_the_kind_is_refused(
    kind: str, fields: dict[str, Any], problem: str
) -> None:
    with pytest.raises(UnbalancedTransaction, match=f"^an? {kind} {problem}"):
        transaction(TransactionKind(kind), **fields)


@pytest.mark.parametrize("kind", ["purchase", "refund", "chargeback"])
def test_a_purchase_and_a_reversal_may_leave_the_account_unchanged(kind: str) -> None:
    assert transaction(TransactionKind(kind), amount=credits(0)).amount == credits(0)


def test_postings_that_do_not_sum_to_zero_are_refused_with_the_excess(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        transactions, "balanced", lambda *_, **__: (leg(ALICES, 5), leg(ISSUANCE, -4))
    )

    with pytest.raises(UnbalancedTransaction) as caught:
        transaction()

    assert caught.value.excess == (credits(1),)
    assert "sum to zero" in caught.value.problem


def test_each_unit_must_sum_to_zero_by_itself() -> None:
    mixed = (leg(ALICES, 5), Posting(ISSUANCE, usd(-5)))

    assert imbalance(mixed) == (credits(5), usd(-5))


@pytest.mark.parametrize(
    ("kind", "fields", "request_"),
    [
        ("purchase", {}, {"amount": "10.00 USD"}),
        (
            "charge",
            {},
            {"amount": "5 CREDIT", "allow_overdraft": "False", "at_most": "False"},
        ),
        (
            "charge",
            {"overdraft": True},
            {"amount": "5 CREDIT", "allow_overdraft": "True", "at_most": "False"},
        ),
        (
            "charge",
            {"at_most": credits(9)},
            {"amount": "9 CREDIT", "allow_overdraft": "False", "at_most": "True"},
        ),
        (
            "capture",
            {},
            {"hold": str(HOLD), "amount": "5 CREDIT", "final": "True", "overrun": "refuse"},
        ),
        (
            "capture",
            {"final": False, "overrun": Overrun.AVAILABLE},
            {"hold": str(HOLD), "amount": "5 CREDIT", "final": "False", "overrun": "available"},
        ),
        (
            "grant",
            {},
            {"amount": "5 CREDIT", "source": "promo:a", "priority": "7", "expires_at": "never"},
        ),
        (
            "grant",
            {"terms": attrs.evolve(TERMS, expires_at=NOON)},
            {
                "amount": "5 CREDIT",
                "source": "promo:a",
                "priority": "7",
                "expires_at": "2026-11-23T12:00:00.123456+00:00",
            },
        ),
        ("expiry", {}, {}),
        (
            "refund",
            {},
            {"payment": "stripe:pi_1", "amount": "1.00 USD", "shortfall": "clamp"},
        ),
        (
            "chargeback",
            {"reversal": attrs.evolve(REVERSAL, asked=None, shortfall=Shortfall.DEBT)},
            {"payment": "stripe:pi_1", "amount": "what remains", "shortfall": "debt"},
        ),
        ("adjustment", {}, {"amount": "-5 CREDIT", "reason": "billed twice"}),
        ("void", {}, {"grant": str(HOLD), "reason": "none"}),
        ("void", {"reason": "granted twice"}, {"grant": str(HOLD), "reason": "granted twice"}),
        (
            "adjustment",
            {"amount": credits(5)},
            {"amount": "5 CREDIT", "reason": "billed twice"},
        ),
    ],
)
def test_the_request_follows_from_the_fields(
    kind: str, fields: dict[str, Any], request_: dict[str, str]
) -> None:
    assert transaction(TransactionKind(kind), **fields).request == request_


def test_a_share_of_zero_makes_no_posting() -> None:
    shares = (Share(SYSTEM_ACCOUNT_ID, credits(0)),)

    assert balanced(TransactionKind.PURCHASE, ALICE, credits(3), shares) == (
        leg(ALICES, 3),
        leg(ISSUANCE, -3),
    )


def test_a_transaction_cannot_be_changed() -> None:
    made = planned(metadata={"a": 1})

    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        made.reference = "other"  # type: ignore[misc]
    for mapping in (made.request, made.metadata):
        with pytest.raises(TypeError):
            mapping["a"] = 2  # type: ignore[index]


def test_the_shortfall_account_pays_the_absorbed_part() -> None:
    kind = TransactionKind.REFUND
    shares = (Share(SYSTEM_ACCOUNT_ID, credits(-2)),)

    assert balanced(kind, ALICE, credits(-3), shares, credits(5)) == (
        leg(ALICES, -3),
        leg(SYSTEM_ACCOUNT_ID, -2),
        leg(SHORTFALL, -5),
        leg(ISSUANCE, 10),
    )


def test_a_posting_belongs_to_the_owner_of_its_account() -> None:
    assert leg(ALICES, 1).tenant == ALICE
    assert leg(ISSUANCE, 1).tenant == SYSTEM_TENANT_ID


@given(
    cents=st.integers(1, 10**29),
    rate=st.decimals(0, 10, places=12),
    tenant=st.sampled_from([ALICE, SYSTEM_TENANT_ID]),
)
def test_every_planned_purchase_conserves_credits(
    cents: int, rate: Decimal, tenant: TenantId
) -> None:
    policy = RevenueSharePolicy(
        version="v1",
        effective_from=NOON,
        mode=ShareMode.BONUS,
        rules=(ShareRule(SYSTEM_ACCOUNT_ID, rate),),
    )
    asked = Purchase(tenant=tenant, amount=usd_cents(cents), payment="stripe:pi_1")
    purchase = plan_purchase(request_purchase(asked), policy, NOON, UUID(int=1))

    amounts = [int(posting.amount.value) for posting in purchase.postings]
    assert sum(amounts) == 0
    assert amounts[0] == cents * 100_000
    assert purchase.postings[-1].account == ISSUANCE
    assert len(purchase.shares) == (tenant == ALICE)


def test_a_plan_records_every_input_of_its_shares() -> None:
    purchase = planned()

    assert purchase.policy == RevenueSharePolicy.default().to_dict()
    assert purchase.request == {"amount": "10.00 USD"}
    assert planned(SYSTEM_TENANT_ID).policy["rules"] == ()


@attrs.frozen
class Stored:
    """A record with a key."""

    reference: str
    request: dict[str, str]
    id: UUID


class TestIdempotency:
    def test_the_same_request_is_answered(self) -> None:
        same_or_conflict(planned(metadata={"a": 1}), planned(number=2).request)

    def test_each_difference_is_named_with_both_sides(self) -> None:
        stored = Stored("stripe:pi_1", {"amount": "1 CREDIT", "overdraft": "no"}, UUID(int=1))
        asked = {"amount": "2 CREDIT", "target": "x"}

        with pytest.raises(IdempotencyConflict) as caught:
            same_or_conflict(stored, asked)

        assert caught.value.reference == "stripe:pi_1"
        assert caught.value.differences == (
            Difference("amount", "1 CREDIT", "2 CREDIT"),
            Difference("overdraft", "no", "absent"),
            Difference("target", "absent", "x"),
        )
