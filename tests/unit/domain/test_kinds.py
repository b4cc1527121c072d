"""The table of kinds is complete, and any other kind is refused by name."""

from __future__ import annotations

from collections.abc import Callable
from types import MappingProxyType
from typing import Any
from uuid import UUID

import pytest

from cogni_billing import (
    Billing,
    LedgerCorruption,
    TransactionKind,
    UnbalancedTransaction,
    credits,
    usd,
)
from cogni_billing.adapters.memory import InMemoryUnitOfWork
from cogni_billing.domain import kinds, receipts
from cogni_billing.domain.errors import unknown_kind
from cogni_billing.domain.grants import Expiration, plan_expiry
from cogni_billing.domain.identity import ADJUSTMENTS, BREAKAGE, ISSUANCE, USAGE
from cogni_billing.domain.kinds import KINDS, KindRules
from cogni_billing.domain.transactions import Recorded, Transaction
from cogni_billing.testing.base import ALICE, NOON
from cogni_billing.testing.contracts.purchases import planned


def fake(name: str) -> TransactionKind:
    """A kind outside the enumeration."""
    kind = str.__new__(TransactionKind, name)
    kind._name_, kind._value_ = name.upper(), name
    return kind


GIFT = fake("gift")
UNKNOWN = unknown_kind("gift").problem


def gift(**fields: Any) -> Transaction:
    return Transaction(
        id=UUID(int=9),
        tenant=ALICE,
        kind=GIFT,
        reference="g",
        at=NOON,
        amount=credits(5),
        **fields,
    )


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """The table has rules for gifts, but no branch handles them."""
    rules = KindRules(contra=ISSUANCE, is_credit=True, opens_account=True)
    monkeypatch.setattr(kinds, "KINDS", MappingProxyType({**KINDS, GIFT: rules}))


def test_the_table_has_rules_for_exactly_the_kinds() -> None:
    assert list(KINDS) == list(TransactionKind)


def test_every_kind_is_its_name_and_has_an_account_for_the_other_side() -> None:
    assert {kind: kind.contra for kind in TransactionKind if not kind.is_plain_debit} == {
        "purchase": ISSUANCE,
        "capture": USAGE,
        "grant": ISSUANCE,
        "expiry": BREAKAGE,
        "void": ISSUANCE,
        "refund": ISSUANCE,
        "chargeback": ISSUANCE,
        "reinstatement": ISSUANCE,
        "adjustment": ADJUSTMENTS,
        "reversal": USAGE,
        "opening": ADJUSTMENTS,
    }
    assert TransactionKind.CHARGE.contra == USAGE


@pytest.mark.parametrize(
    ("rule", "true_of"),
    [
        ("is_credit", ["purchase", "grant", "reinstatement", "reversal"]),
        ("corrects", ["adjustment"]),
        ("opens_balance", ["opening"]),
        (
            "may_be_zero",
            [
                *("purchase", "charge", "capture", "void", "refund", "chargeback"),
                *("reinstatement", "reversal", "opening"),
            ],
        ),
        ("absorbs", ["refund", "chargeback", "reinstatement", "reversal"]),
        ("is_usage", ["charge", "capture"]),
        ("opens_account", ["purchase", "grant", "opening"]),
        ("reverses", ["refund", "chargeback", "reinstatement"]),
        ("reinstates", ["reinstatement"]),
        ("has_shares", ["purchase", "refund", "chargeback", "reinstatement"]),
        ("subject", ["capture", "expiry", "void", "chargeback", "reinstatement"]),
    ],
)
def test_a_rule_is_true_of_some_kinds(rule: str, true_of: list[str]) -> None:
    assert [kind for kind in TransactionKind if getattr(kind, rule)] == true_of


@pytest.mark.parametrize(
    "rule",
    [
        *("contra", "is_credit", "corrects", "may_be_zero", "opens_account", "reverses"),
        *("subject", "has_shares", "is_plain_debit", "absorbs", "is_usage", "opens_balance"),
    ],
)
def test_a_kind_without_rules_is_refused_by_name(rule: str) -> None:
    with pytest.raises(UnbalancedTransaction) as caught:
        getattr(GIFT, rule)

    assert caught.value.problem == UNKNOWN


def test_a_transaction_of_a_kind_without_rules_is_refused_by_name() -> None:
    with pytest.raises(UnbalancedTransaction) as caught:
        gift()

    assert caught.value.problem == UNKNOWN


@pytest.mark.usefixtures("registered")
class TestKindThatNothingHandles:
    def test_a_kind_without_a_branch_has_no_request(self) -> None:
        with pytest.raises(UnbalancedTransaction) as caught:
            _ = gift().request

        assert caught.value.problem == UNKNOWN

    @pytest.mark.parametrize("opened", [False, True])
    def test_the_in_memory_ledger_refuses_a_kind_without_a_branch(self, opened: bool) -> None:
        unit_of_work = InMemoryUnitOfWork()
        if opened:
            Billing(unit_of_work).open_account(ALICE)
        given = gift()

        recording: list[Callable[[], Recorded]] = [
            lambda: unit_of_work.post(given),
            lambda: unit_of_work.single(ALICE, lambda scope: scope.ledger.post(given)),
            lambda: unit_of_work.run(ALICE, lambda scope: scope.ledger.post(given)),
        ]
        for record in recording:
            with pytest.raises(UnbalancedTransaction) as caught:
                record()
            assert caught.value.problem == UNKNOWN
        (answer,) = unit_of_work.single(
            ALICE, lambda scope: scope.ledger.post_many([given], all_or_nothing=False)
        )

        assert isinstance(answer, UnbalancedTransaction)
        assert answer.problem == UNKNOWN
        assert unit_of_work.totals() == {}
        assert (ALICE in unit_of_work._store.accounts) is opened
        assert unit_of_work._store.wallets == {}


def test_an_expiry_posted_by_a_caller_is_refused() -> None:
    unit_of_work = InMemoryUnitOfWork()
    Billing(unit_of_work).confirm_purchase(ALICE, usd(1), payment="a:p")
    expiry = plan_expiry(ALICE, Expiration(UUID(int=3), credits(5), NOON), 1)

    with pytest.raises(UnbalancedTransaction, match="each expiry"):
        unit_of_work.post(expiry)


@pytest.mark.parametrize(
    "receipt",
    [
        *("charge_receipt", "capture_receipt", "grant_receipt", "void_receipt"),
        *("refund_receipt", "chargeback_receipt", "adjustment_receipt"),
    ],
)
def test_a_receipt_of_another_kind_is_refused(receipt: str) -> None:
    recorded = Recorded(planned(), credits(5), replayed=False)

    with pytest.raises(LedgerCorruption) as caught:
        getattr(receipts, receipt)(recorded)
    assert str(recorded.transaction.id) in caught.value.finding
    assert caught.value.finding.endswith(receipt.removesuffix("_receipt"))
